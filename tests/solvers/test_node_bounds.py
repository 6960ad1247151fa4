"""Bounds of nodes against every action that agrees with them."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from milp_rl.formulations.bounds import BoundPropagator
from milp_rl.formulations.networks.action_value import NetworkValue
from milp_rl.formulations.networks.network import INPUT, Layer, Network
from milp_rl.formulations.spaces import BudgetTopK, Capacity, Pins
from milp_rl.solvers.branch_and_bound.compiled_bounds import CompiledNodeBounds, bounds_of_nodes
from milp_rl.solvers.branch_and_bound.nodes import Maximum, Nodes

SPACES = [BudgetTopK(9, 3), Capacity([2, 3, 4, 2, 5, 6, 3, 2, 4], [5, 4])]


class Case:
    """Nodes with random fixings and splits, and the actions and values in each."""

    def __init__(self, seed, space, network_maker, hidden=(8, 7), n=60, loops=False):
        rng = np.random.default_rng(seed)
        self.space = space
        self.network = network_maker(rng, 12, hidden)
        self.states = states = rng.normal(size=(4, 3))
        networks = NetworkValue(self.network, 9).at_states(states)
        bounds = BoundPropagator(9, space.linear_max).at(networks)
        oracle = space.compiled_oracle if loops else None
        self.bounds = bounds_of_nodes(networks, space, bounds, loops=oracle)
        assert isinstance(self.bounds, CompiledNodeBounds) == loops
        self.nodes = Nodes.roots(bounds, 9)[np.arange(n) % 4]
        self.nodes.one[:] = rng.random((n, 9)) < 0.1
        self.nodes.zero[:] = (rng.random((n, 9)) < 0.2) & ~self.nodes.one
        self.nodes.split[:] = rng.choice([-1, 0, 0, 0, 1], size=self.nodes.split.shape)
        self.actions = space.enumerate()
        self.within, self.values, self.before = [], [], []
        for i in range(n):
            inputs = np.concatenate(
                [self.actions, np.tile(states[i % 4], (len(self.actions), 1))], axis=1
            )
            z, rows = [], inputs
            for layer in self.network.hidden:
                z.append(rows @ layer.weight.T + layer.bias)
                rows = np.maximum(z[-1], 0.0)
            z = np.concatenate(z, axis=1)
            split = self.nodes.split[i]
            agrees = (self.actions[:, self.nodes.one[i]] == 1).all(axis=1)
            agrees &= (self.actions[:, self.nodes.zero[i]] == 0).all(axis=1)
            agrees &= ((z * split >= 0) | (split == 0)).all(axis=1)
            self.within.append(agrees)
            self.before.append(z)
            self.values.append(self.network.forward(inputs)[:, 0])

    def best(self):
        pairs = zip(self.values, self.within, strict=True)
        return np.array([v[w].max(initial=-np.inf) for v, w in pairs])


@pytest.fixture(params=[False, True], ids=["numpy", "loops"])
def loops(request):
    return request.param


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("seed", range(4))
def test_no_slopes_or_multipliers_bound_below_the_best_action(seed, space, random_network, loops):
    case = Case(seed, space, random_network, loops=loops)
    rng = np.random.default_rng(seed)
    best = case.best()
    targets = np.full(len(best), -1e3)
    for _ in range(5):
        case.nodes.alpha[:] = rng.random(case.nodes.alpha.shape)
        case.nodes.beta[:] = rng.exponential(size=case.nodes.beta.shape) * case.nodes.split
        assert (case.bounds.maximize(case.nodes, targets, steps=2).bound >= best).all()


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("seed", range(4))
def test_tightened_neurons_hold_every_action_of_the_node(seed, space, random_network, loops):
    case = Case(seed, space, random_network, loops=loops)
    best = case.best()
    wide = case.nodes[np.arange(len(best))]
    empty = case.bounds.tighten(case.nodes)
    for i, within in enumerate(case.within):
        assert not (empty[i] and within.any())
        z = case.before[i][within]
        if len(z):
            assert (z >= case.nodes.low[i] - 1e-9).all()
            assert (z <= case.nodes.high[i] + 1e-9).all()
    assert (case.nodes.high - case.nodes.low).sum() < (wide.high - wide.low).sum()
    maximum = case.bounds.maximize(case.nodes, best)
    assert (maximum.bound >= best)[~empty].all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
def test_holding_actions_loses_none_above_the_target(seed, space, random_network, loops):
    case = Case(seed, space, random_network, loops=loops)
    best = case.best()
    targets = np.where(np.isfinite(best), best - 0.05, 0.0)
    case.bounds.tighten(case.nodes)
    maximum = case.bounds.maximize(case.nodes, targets)
    free = (~(case.nodes.one | case.nodes.zero)).sum()
    wanted = maximum.bound > targets
    excluded, _ = case.bounds.probe(case.nodes, maximum, targets, wanted)
    assert (~(case.nodes.one | case.nodes.zero)).sum() < free
    assert (excluded <= targets).all()
    for i, within in enumerate(case.within):
        above = case.actions[within & (case.values[i] > targets[i])]
        assert (above[:, case.nodes.one[i]] == 1).all()
        assert (above[:, case.nodes.zero[i]] == 0).all()


def test_steps_tighten_and_the_multiplier_of_a_split_does_its_part(random_network, loops):
    case = Case(0, SPACES[0], random_network, n=200, loops=loops)
    best = case.best()
    some = np.isfinite(best)
    nodes, targets = case.nodes[some], best[some]

    def bounds(steps):
        return case.bounds.maximize(nodes[np.arange(len(nodes))], targets, steps=steps).bound

    slack = [(bounds(steps) - targets).mean() for steps in (0, 3, 30)]
    assert slack[0] > 1.1 * slack[1] > 1.1 * slack[2]
    moved = nodes[np.arange(len(nodes))]
    case.bounds.maximize(moved, targets, steps=30)
    assert (moved.beta * moved.split >= 0).all()
    assert (moved.beta[moved.split == 0] == 0).all()
    assert (moved.beta != 0).any()
    moved.beta[:] = 0.0
    without = case.bounds.maximize(moved, targets, steps=0).bound
    assert (without - bounds(30)).mean() > 0


def relaxed(case, i):
    """The linear program that slopes and multipliers are dual to, of a node under a budget."""
    network, node = case.network, case.nodes[i : i + 1]
    widths = [9, *(len(layer.bias) for layer in network.hidden)]
    neurons = sum(widths[1:])
    n, top = 9 + 2 * neurons, np.zeros((1, 9 + 2 * neurons))  # x, z, h
    equal, right, below, limit = [], [], [top.copy()], [case.space.k]
    below[0][0, :9] = 1
    ranges = [
        (float(one), float(not zero)) for one, zero in zip(node.one[0], node.zero[0], strict=True)
    ]
    ranges += [(None, None)] * (2 * neurons)
    row, source = 0, slice(0, 9)
    for depth, layer in enumerate(network.hidden):
        bias = layer.bias + (layer.weight[:, 9:] @ case.states[i % 4] if depth == 0 else 0)
        for weight, constant in zip(layer.weight, bias, strict=True):
            z, h = 9 + row, 9 + neurons + row
            line = np.zeros(n)
            line[z], line[source] = 1, -weight[: source.stop - source.start]
            equal.append(line), right.append(constant)
            low, high, split = (float(v[0, row]) for v in (node.low, node.high, node.split))
            on, off = low >= 0 or split > 0, high <= 0 or split < 0
            line = np.zeros(n)
            line[h], line[z] = 1, -float(on)
            if on or off:
                equal.append(line), right.append(0.0)
                if low < 0 < high:
                    ranges[z] = (0, None) if on else (None, 0)
            else:
                ranges[h] = (0, None)
                for slope, most in ((1.0, 0.0), (high / (high - low), -high * low / (high - low))):
                    line = np.zeros(n)
                    line[h], line[z] = 1, -slope
                    below.append(-line[None] if slope == 1 else line[None]), limit.append(most)
            row += 1
        source = slice(9 + neurons + row - len(layer.bias), 9 + neurons + row)
    top[0, source] = network.layers[-1].weight[0]
    found = linprog(
        -top[0], np.concatenate(below), limit, np.array(equal), right, ranges, method="highs"
    )
    return -found.fun + network.layers[-1].bias[0] if found.success else -np.inf


@pytest.mark.parametrize("seed", range(3))
def test_steps_lead_to_the_bound_of_the_linear_program(seed, random_network, loops):
    case = Case(seed, SPACES[0], random_network, n=40, loops=loops)
    decided = (case.nodes.low >= 0) | (case.nodes.high <= 0)
    case.nodes.split[decided | (np.random.default_rng(seed).random(decided.shape) < 0.6)] = 0
    best = np.array([relaxed(case, i) for i in range(40)])
    some = np.isfinite(best)
    assert some.sum() > 10
    nodes, best = case.nodes[some], best[some]
    slack = [
        case.bounds.maximize(nodes[np.arange(len(best))], best, steps=steps).bound - best
        for steps in (0, 30, 300)
    ]
    assert min(values.min() for values in slack) > -1e-6
    assert slack[1].mean() < 0.1 * slack[0].mean()
    assert slack[2].mean() < 0.01 * slack[0].mean()


class Skipping:
    """A network whose layers take the action and earlier layers as well."""

    @staticmethod
    def make(rng, n_inputs, hidden):
        layers = [Layer(rng.normal(size=(hidden[0], n_inputs)), rng.normal(size=hidden[0]), "relu")]
        skips = ((INPUT, rng.normal(size=(hidden[1], n_inputs)) / 2),)
        main = rng.normal(size=(hidden[1], hidden[0]))
        layers.append(Layer(main, rng.normal(size=hidden[1]), "relu", skips))
        skips = ((0, rng.normal(size=(1, hidden[0]))), (INPUT, rng.normal(size=(1, n_inputs))))
        layers.append(Layer(rng.normal(size=(1, hidden[1])), np.zeros(1), "linear", skips))
        return Network(tuple(layers))


def same(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", ["chain", "skipping"])
def test_compiled_loops_do_what_numpy_does(kind, space, random_network):
    maker = random_network if kind == "chain" else Skipping.make
    a, b = (Case(5, space, maker, loops=loops) for loops in (False, True))
    for case in (a, b):  # so that margins for rounding are seen
        case.bounds._sizes *= 1e10
        case.bounds._output_size *= 1e10
    targets = np.where(np.isfinite(a.best()), a.best() - 0.1, 0.0)
    for _ in range(2):
        empty = a.bounds.tighten(a.nodes)
        np.testing.assert_array_equal(b.bounds.tighten(b.nodes), empty)
        a.nodes, b.nodes, targets = a.nodes[~empty], b.nodes[~empty], targets[~empty]
        same(b.nodes.low, a.nodes.low)
        same(b.nodes.high, a.nodes.high)
        one, other = (case.bounds.maximize(case.nodes, targets) for case in (a, b))
        same(*(np.maximum(m.bound, targets) for m in (other, one)))
        # Rounding chooses whether a step that meets the target is the last, and among maximisers
        # that tie, as they do where slopes and multipliers are at their best.
        alike = np.isclose(other.bound, one.bound)
        improved = ("alpha", "beta", "x", "z", "h")
        pairs = [(getattr(a.nodes, name), getattr(b.nodes, name)) for name in improved]
        pairs.append(np.where((one.bound > targets)[:, None], m.x, 0.0) for m in (one, other))
        for x, y in pairs:
            alike &= np.isclose(x, y, rtol=1e-5, atol=1e-6, equal_nan=True).all(axis=1)
        assert alike.mean() > 0.8
        one, other = (Maximum(**{k: v[alike] for k, v in vars(m).items()}) for m in (one, other))
        a.nodes, b.nodes, targets = a.nodes[alike], b.nodes[alike], targets[alike]
        left = one.bound > targets
        assert left.any()
        for name in ("bound", "constant", "coefficients", "p"):
            same(getattr(other, name), getattr(one, name))
        doubt = np.abs(a.nodes.h)
        same(b.bounds.influence(b.nodes, doubt), a.bounds.influence(a.nodes, doubt))
        found = [
            case.bounds.probe(case.nodes, m, targets, left) for case, m in ((a, one), (b, other))
        ]
        same(found[1][0], found[0][0])
        np.testing.assert_array_equal(found[1][1], found[0][1])
        np.testing.assert_array_equal(b.nodes.one, a.nodes.one)
        np.testing.assert_array_equal(b.nodes.zero, a.nodes.zero)


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", ["chain", "skipping"])
def test_compiled_loops_bound_neurons_as_numpy_does(kind, held, space, random_network):
    rng = np.random.default_rng(7)
    maker = random_network if kind == "chain" else Skipping.make
    networks = NetworkValue(maker(rng, 12, (8, 7)), 9).at_states(rng.normal(size=(5, 3)))
    one, zero = rng.random((5, 9)) < 0.1, rng.random((5, 9)) < 0.2
    pins = Pins(one & ~zero, zero) if held else Pins()
    propagator = BoundPropagator(9, space.linear_max)
    wanted = propagator.at(networks, pins)
    found = propagator.at(networks, pins, space.compiled_oracle)
    for name in ("lower", "upper"):
        for own, other in zip(getattr(found, name), getattr(wanted, name), strict=True):
            same(own, other)
    same(found.output_lower, wanted.output_lower)
    same(found.output_upper, wanted.output_upper)
    ratio = found.rounding / wanted.rounding
    assert ((ratio > 0.5) & (ratio < 1 + 1e-9)).all()


def test_a_node_does_not_depend_on_those_beside_it(random_network):
    case = Case(1, SPACES[1], random_network, loops=True)
    targets = np.full(len(case.nodes), -1.0)
    together, alone = (case.nodes[np.arange(len(targets))] for _ in range(2))
    bound = case.bounds.maximize(together, targets).bound
    for i in range(len(targets)):
        node = alone[i : i + 1]
        assert case.bounds.maximize(node, targets[:1]).bound[0] == bound[i]
        np.testing.assert_array_equal(node.beta[0], together.beta[i])


def test_threads_give_the_same_bounds(random_network):
    one, two = (Case(2, SPACES[1], random_network, loops=True) for _ in range(2))
    two.bounds._threads = 3
    targets = np.full(len(one.nodes), -1.0)
    np.testing.assert_array_equal(two.bounds.tighten(two.nodes), one.bounds.tighten(one.nodes))
    np.testing.assert_array_equal(two.nodes.high, one.nodes.high)
    found, wanted = (case.bounds.maximize(case.nodes, targets) for case in (two, one))
    np.testing.assert_array_equal(found.bound, wanted.bound)


@pytest.mark.parametrize("seed", range(4))
def test_no_objective_is_bounded_twice_in_a_row(seed, random_network, monkeypatch):
    """Where a step moves nothing, the next bound would be the same."""
    case = Case(seed, BudgetTopK(9, 3), random_network, n=12)
    asked: list[np.ndarray] = []
    bounding = BudgetTopK._linear_max

    def watched(space, c, pins):
        asked.append(c.copy())
        return bounding(space, c, pins)

    monkeypatch.setattr(BudgetTopK, "_linear_max", watched)
    lengths = []
    for i in range(12):
        asked.clear()
        node = case.nodes[np.array([i])]
        case.bounds.maximize(node, np.full(1, case.best()[i] - 1.0))
        for one, other in itertools.pairwise(asked):
            assert not np.array_equal(one, other)
        lengths.append(len(asked))
    assert max(lengths) == 7  # the first bound, and six steps
    assert min(lengths) < 7
