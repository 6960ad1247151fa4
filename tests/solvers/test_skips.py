"""Networks with skips, and networks that differ from state to state, in every solver.

``MILP_RL_FUZZ=5000 pytest tests/solvers/test_skips.py`` is the long run of docs/reliability.md.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import os

import numpy as np
import pyomo.environ as pyo
import pytest

import milp_rl as mr
from milp_rl.formulations.networks.action_value import (
    ActionLayer,
    ActionNetworks,
    ActionValue,
    NetworkValue,
)
from milp_rl.formulations.networks.chain import chained
from milp_rl.formulations.networks.conversion import to_action_value
from milp_rl.formulations.networks.link import linked
from milp_rl.formulations.networks.network import INPUT, Layer, Network, NetworkError
from tests.formulations.networks.drawn import BY_STATE, PLAIN, drawn_value

CASES = int(os.environ.get("MILP_RL_FUZZ", "40"))
PARTS = 4
ENSEMBLE = ("residual", "leaky", "deep state")
MILPS = ["highs", "gurobi"] + (["scip"] if importlib.util.find_spec("pyscipopt") else [])


def skipping(rng, n_inputs, linear=0.3):
    """A network of one output: layers take input from any earlier one; some are linear."""
    widths = [int(w) for w in rng.integers(1, 7, rng.integers(1, 5))] + [1]
    layers, width = [], {INPUT: n_inputs}
    for depth, own in enumerate(widths):
        skips = tuple(
            (k, rng.normal(size=(own, width[k])) * (rng.random((own, width[k])) < 0.7))
            for k in range(INPUT, depth - 1)
            if rng.random() < 0.5
        )
        main = rng.normal(size=(own, width[depth - 1])) / np.sqrt(width[depth - 1])
        last = depth == len(widths) - 1
        kind = "linear" if last or rng.random() < linear else "relu"
        layers.append(Layer(main, rng.normal(size=own) / 2, kind, skips))
        width[depth] = own
    return Network(tuple(layers))


class Varying(ActionValue):
    """Weights and biases of every layer are functions of the state, or shared."""

    def __init__(self, rng, n_actions, state_dim):
        self.n_actions, self.state_dim = n_actions, state_dim
        self.network = skipping(rng, n_actions)
        self.moves = rng.random(len(self.network.layers)) < 0.6
        self.direction = rng.normal(size=state_dim)

    def at_states(self, states):
        turn = np.cos(states @ self.direction)
        layers = []
        for depth, layer in enumerate(self.network.layers):
            inputs, bias = self.network.inputs(depth), layer.bias
            if self.moves[depth]:
                inputs = tuple((k, turn[:, None, None] * w + 0.1 * w) for k, w in inputs)
                bias = bias - turn[:, None]
            layers.append(ActionLayer(inputs, bias))
        return ActionNetworks(tuple(layers), self.n_actions, len(states))


def small_space(rng):
    return space_of(int(rng.integers(24)))


@functools.cache
def space_of(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 8))
    kind = rng.integers(4)
    if kind == 0:
        return mr.BudgetTopK(n, int(rng.integers(1, n + 1)), exactly=bool(rng.integers(2)))
    if kind == 1:
        return mr.Capacity(rng.integers(1, 5, n), rng.integers(2, 8, 2))
    if kind == 2:
        costs = rng.random(n)
        return mr.BudgetTopK(n, n, costs=costs, budget=float(costs.sum() / 2))
    return mr.BudgetTopK(n, n) & mr.Box(
        [0] * n, [1] * n, matrix=rng.integers(-2, 3, (1, n)), right=[1], binary=range(n)
    )


def problem(rng, kind):
    space, state_dim = small_space(rng), int(rng.integers(0, 4))
    if kind == "varying":
        value = Varying(rng, space.n_actions, state_dim)
    else:
        network = skipping(rng, space.n_actions + state_dim)
        value = NetworkValue(network, space.n_actions)
    return value, space, rng.normal(size=(2, state_dim))


def drawn(rng, kind):
    """A Q-network as its owners have them, read from ONNX, or several of them as one."""
    space, state_dim = small_space(rng), int(rng.integers(1, 4))
    if kind == "ensemble":
        members = [drawn_value(k, rng, space.n_actions, state_dim)[0] for k in ENSEMBLE]
        same = [replace_link(member) for member in members]
        reduce = ["min", "mean", "max"][int(rng.integers(3))]
        value = to_action_value(mr.Ensemble(same, reduce=reduce), space.n_actions)
    else:
        value, _ = drawn_value(kind, rng, space.n_actions, state_dim)
    return value, space, rng.normal(size=(2, state_dim))


def replace_link(value):
    value = copy.copy(value)
    value.link = "identity"
    return value


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", ["skipping", "varying", "ensemble", *PLAIN, *BY_STATE])
def test_every_solver_finds_the_optimum(kind, part):
    for case in range(part, CASES, PARTS):
        rng = np.random.default_rng([case, len(kind)])
        own = problem if kind in ("skipping", "varying") else drawn
        value, space, states = own(rng, kind)
        actions = space.enumerate().astype(float)
        tables = [value.at_state(state).forward(actions)[:, 0] for state in states]
        tables = [linked(value.link, table) for table in tables]
        solvers = [MILPS[case % len(MILPS)], "branch_and_bound", "enumeration", "auto"]
        if kind in PLAIN or kind in BY_STATE:  # what they have in common is tried above
            solvers = [solvers[0], "branch_and_bound"]
        for solver in solvers:
            options = {"sense": "minimize" if case % 5 == 4 else "maximize"}
            if solver in MILPS:
                options["formulation"] = ["bigm", "partition"][case % 2]
                options["bounds"] = ["interval", "linear", "lp"][case % 3]
                options["one_sided"] = bool(rng.integers(2))
            sign = -1 if options["sense"] == "minimize" else 1
            tried = states[:1] if solver in MILPS else states
            found = mr.ArgmaxSolver(value, space, solver=solver, **options).solve_batch(tried)
            networks = value.at_states(tried)
            for i, (table, result) in enumerate(zip(tables, found, strict=False)):
                assert result.status == "optimal", (case, solver, result)
                best = sign * (sign * table).max()
                assert result.value == pytest.approx(best, abs=1e-6 * max(np.ptp(table), 1e-3))
                own = linked(value.link, networks.at(i).forward(result.action)[0])
                assert result.value == pytest.approx(own, rel=1e-12, abs=1e-12)
                assert sign * result.bound >= sign * best - 1e-9 * (1 + abs(best))


@pytest.mark.parametrize("seed", range(12))
def test_boxes_are_searched_and_proven(seed):
    rng = np.random.default_rng(seed)
    box = mr.Box([-1.0] * 3, [1.0] * 3, matrix=[[1.0, 1.0, 1.0]], right=[1.5])
    kind = seed % 2
    value = Varying(rng, 3, 2) if kind else NetworkValue(skipping(rng, 5), 3)
    states = rng.normal(size=(2, 2))
    native = mr.ArgmaxSolver(value, box, solver="branch_and_bound").solve_batch(states)
    milp = mr.ArgmaxSolver(value, box, solver="gurobi").solve_batch(states)
    sample = box.sample(rng, 2000)
    for state, a, b in zip(states, native, milp, strict=True):
        assert a.status == "optimal"
        assert a.value == pytest.approx(b.value, rel=1e-5, abs=1e-6)
        assert a.bound >= value.at_state(state).forward(sample).max() - 1e-9


@pytest.mark.parametrize("formulation", ["bigm", "partition"])
@pytest.mark.parametrize("seed", range(10))
def test_embedded_in_pyomo_and_gurobi_the_network_keeps_its_value(seed, formulation):
    rng = np.random.default_rng(seed)
    network, n = skipping(rng, 5), 5
    low, high = -rng.random(n), rng.random(n) + 0.1
    best = mr.argmax(network, [], mr.Box(low, high), solver="branch_and_bound")
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), bounds=lambda _, i: (low[i], high[i]))
    model.block = pyo.Block()
    output = mr.add_network(model.block, network, list(model.x.values()), formulation=formulation)
    model.objective = pyo.Objective(expr=output, sense=pyo.maximize)
    result = mr.solve_model(model, solver="highs")
    x = np.array([model.x[i].value for i in range(n)])
    assert pyo.value(output) == pytest.approx(network.forward(x)[0], abs=1e-5)
    assert pyo.value(output) == pytest.approx(best.value, abs=1e-5)
    assert result.status == "optimal"

    gurobipy = pytest.importorskip("gurobipy")
    with gurobipy.Env(params={"OutputFlag": 0}) as env, gurobipy.Model(env=env) as own:
        x = [own.addVar(lb=low[i], ub=high[i]) for i in range(n)]
        out = mr.add_network(own, network, x, formulation=formulation)
        own.Params.MIPGap = 0
        own.setObjective(out, gurobipy.GRB.MAXIMIZE)
        own.optimize()
        assert own.ObjVal == pytest.approx(best.value, abs=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_a_chain_computes_what_the_network_with_skips_does(seed):
    rng = np.random.default_rng(seed)
    network = skipping(rng, 4)
    low = rng.normal(size=4)
    chain = chained(network, low)
    x = low + rng.exponential(size=(50, 4))
    assert chain.network.is_chain
    assert chain.network.forward(x) == pytest.approx(network.forward(x), abs=1e-10)


def test_what_the_action_does_not_reach_is_evaluated_at_the_state():
    """An encoder of the state of 50 neurons leaves the three that follow the action."""
    rng = np.random.default_rng(0)
    encoder = np.concatenate([np.zeros((50, 4)), rng.normal(size=(50, 6))], axis=1)
    head = rng.normal(size=(3, 50))
    action = np.concatenate([rng.normal(size=(3, 4)), np.zeros((3, 6))], axis=1)
    network = Network(
        (
            Layer(encoder, rng.normal(size=50)),
            Layer(head, np.zeros(3), "relu", ((INPUT, action),)),
            Layer(rng.normal(size=(1, 3)), np.zeros(1), "linear"),
        )
    )
    value, states = NetworkValue(network, 4), rng.normal(size=(5, 6))
    networks = value.at_states(states)
    assert [layer.width for layer in networks.layers] == [3, 1]
    actions = rng.integers(0, 2, (5, 4)).astype(float)
    inputs = np.concatenate([actions, states], axis=1)
    assert value.values(states, actions) == pytest.approx(network.forward(inputs)[:, 0])


@pytest.mark.parametrize("solver", [*MILPS, "branch_and_bound", "enumeration", "auto"])
def test_layers_that_the_action_does_not_reach_are_no_end(solver):
    """A layer of zeros in the middle, and a network that is a constant."""
    middle = Network.from_arrays(
        [[[1.4e-5]], np.zeros((4, 1)), [[0.2, -0.3, 0.3, 0.2]]],
        [[6e-6], [0.014, 0.27, -0.37, -0.08], [-0.24]],
    )
    constant = Network.from_arrays([np.zeros((3, 1)), np.zeros((1, 3))], [np.ones(3), [2.5]])
    for network in (middle, constant):
        result = mr.argmax(network, [], mr.BudgetTopK(1, 1, exactly=True), solver=solver)
        assert result.status == "optimal"
        assert result.value == pytest.approx(network.forward([1.0])[0])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["weight", "skip", "bias"])
def test_an_action_value_that_is_not_finite_at_a_state_is_refused(place, wrong):
    own = {name: np.ones((1, 1, 2)) for name in ("weight", "skip")} | {"bias": np.ones((1, 1))}
    own[place].flat[-1] = wrong
    layers = (
        ActionLayer(((INPUT, own["weight"]),), own["bias"]),
        ActionLayer(((0, np.ones((1, 1))), (INPUT, own["skip"])), np.zeros(1)),
    )
    with pytest.raises(NetworkError, match="not finite"):
        ActionNetworks(layers, 2, 1).at(0)
