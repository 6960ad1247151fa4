"""Optimal means to 1e-6 of the spread of Q over the feasible set, whatever its scale and level."""

import itertools

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.networks.network import Layer, Network

SPACE = mr.BudgetTopK(n_actions=10, k=3)
SOLVERS = ["auto", "branch_and_bound", "enumeration", "highs", "gurobi", "scip"]
BOX_SOLVERS = ["auto", "highs", "gurobi"]


def values_of(network, state, space=SPACE):
    actions = space.enumerate()
    return network.forward(np.concatenate([actions, np.tile(state, (len(actions), 1))], axis=1))[
        :, 0
    ]


def with_output(network, scale=1.0, shift=0.0):
    last = network.output
    layer = Layer(last.weight * scale, last.bias * scale + shift, "linear")
    return Network((*network.hidden, layer))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("exponent", [-12, -9, -5, 5, 9, 12])
def test_a_scaled_network_has_the_same_best_action(solver, exponent, random_network):
    """The output scaled, and the first layer scaled while the second undoes it."""
    rng = np.random.default_rng(abs(exponent))
    network, state = random_network(rng, 13, (9, 9)), rng.normal(size=3)
    factor = 10.0**exponent
    inner = Network(
        (
            Layer(network.layers[0].weight * factor, network.layers[0].bias * factor),
            Layer(network.layers[1].weight / factor, network.layers[1].bias),
            network.layers[2],
        )
    )
    values = values_of(network, state)
    spread = values.max() - values.min()
    for scaled, unit in ((with_output(network, factor), factor), (inner, 1.0)):
        result = mr.argmax(scaled, state, SPACE, solver=solver)
        true = network.forward(np.append(result.action, state))[0]
        assert result.status == "optimal"
        assert values.max() - true <= 1e-6 * spread
        assert result.value == pytest.approx(true * unit, rel=1e-9)
        assert 0 <= result.bound - result.value <= result.tolerance <= 1.001e-6 * spread * unit
        assert result.bound >= values.max() * unit - 1e-9 * spread * unit


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shift", [1e3, -1e5, 1e8, 1e12])
def test_a_constant_added_changes_no_action(solver, shift, random_network):
    rng = np.random.default_rng(int(abs(shift)) % 97)
    network, state = random_network(rng, 13, (9, 9)), rng.normal(size=3)
    values = values_of(network, state)
    result = mr.argmax(with_output(network, shift=shift), state, SPACE, solver=solver)
    true = network.forward(np.append(result.action, state))[0]
    assert result.status == "optimal"
    assert values.max() - true <= 1e-6 * (values.max() - values.min())
    assert result.value == pytest.approx(true + shift, rel=1e-12)
    assert result.gap == abs(result.bound - result.value) / abs(result.value)


def test_the_gap_is_what_it_is(random_network):
    """A search that stops at a gap of 1e-7 of the value does not call it zero."""
    rng = np.random.default_rng(3)
    network, state = random_network(rng, 23, (16, 16)), rng.normal(size=3)
    result = mr.argmax(
        network, state, mr.BudgetTopK(20, 8), solver="branch_and_bound", node_limit=3
    )
    assert result.gap == (result.bound - result.value) / abs(result.value) > 0


@pytest.mark.parametrize("solver", ["branch_and_bound", "enumeration", "highs", "auto"])
def test_a_constant_network_is_optimal_and_a_single_action_too(solver):
    constant = Network.from_arrays([np.zeros((3, 5)), np.zeros((1, 3))], [np.ones(3), [2.5]])
    for space in (mr.BudgetTopK(5, 2), mr.BudgetTopK(5, 5, exactly=True)):
        result = mr.argmax(constant, [], space, solver=solver)
        assert (result.status, result.value) == ("optimal", 2.5)


def test_a_value_that_float64_rounds_by_more_than_the_tolerance_is_not_called_optimal():
    """1e12 in a hidden neuron, taken off again by the next: the actions differ by rounding."""
    weights = [[[1e-3, 2e-3, 3e-3], [0.0, 0.0, 0.0]], [[1.0, 1.0]], [[1.0]]]
    network = Network.from_arrays(weights, [[1e12, 1.0], [-1e12 - 0.5], [0.0]])
    result = mr.argmax(network, [], mr.BudgetTopK(3, 1), solver="branch_and_bound")
    assert result.status == "feasible" or result.bound - result.value <= result.tolerance
    assert result.bound >= 0.503


@pytest.mark.parametrize("solver", BOX_SOLVERS)
@pytest.mark.parametrize("seed", [358, 478])
def test_continuous_boxes_keep_the_tolerance(solver, seed):
    """Two networks for which HiGHS, given the range of the bounds for a unit, lost more."""
    rng = np.random.default_rng([99, seed])
    n, depth = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    sizes = [n + 1, *rng.integers(2, 12, depth), 1]
    network = Network.from_arrays(
        [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)],
        [rng.normal(size=b) for b in sizes[1:]],
    )
    rng.normal(size=n), rng.uniform(-0.5, 0.5, n)
    state = rng.normal(size=1)
    best = {358: -2.3085315826614687, 478: 1.0316195609918952}[seed]
    lowest = {358: -20.2, 478: -17.8}[seed]
    result = mr.argmax(network, state, mr.Box(-np.ones(n), np.ones(n)), solver=solver)
    assert result.status == "optimal"
    assert best - result.value <= 1e-6 * (best - lowest)
    assert result.bound >= best - 1e-7 * (best - lowest)


@pytest.mark.parametrize("seed", range(24))
def test_a_box_with_an_equality_is_never_bounded_too_low(seed):
    """Shares that add up to one, and random equalities as two opposite rows."""
    rng = np.random.default_rng([7, seed])
    n, depth = int(rng.integers(2, 5)), int(rng.integers(1, 4))
    sizes = [n + 1, *rng.integers(2, 12, depth), 1]
    network = Network.from_arrays(
        [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)],
        [rng.normal(size=b) for b in sizes[1:]],
    )
    row, inside = rng.normal(size=n), rng.uniform(-0.5, 0.5, n)
    low = -np.ones(n)
    if seed % 2:
        low, row, inside = np.zeros(n), np.ones(n), np.full(n, 1 / n)
    right = row @ inside
    space = mr.Box(low, np.ones(n), matrix=[row, -row], right=[right, -right])
    state = rng.normal(size=1)
    ours = mr.argmax(network, state, space, solver="branch_and_bound")
    other = mr.argmax(network, state, space, solver="gurobi")
    slack = 2.0 * max(ours.tolerance, other.tolerance)  # Gurobi's point may be 1e-9 outside
    assert ours.status == "optimal"
    assert ours.bound >= other.value - slack
    assert abs(ours.value - other.value) <= slack


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("solver", ["auto", "highs", "gurobi", "scip"])
@pytest.mark.parametrize(("size", "centre"), [(1e-4, 1.0), (1e7, 0.0), (1e9, 1e9)])
def test_the_unit_of_continuous_actions_does_not_matter(solver, size, centre, random_network):
    """One action in four changes Q a thousand times less than the others."""
    if solver == "scip":
        pytest.importorskip("pyscipopt")
    rng = np.random.default_rng(0)
    row, network = rng.normal(size=(1, 5)), random_network(rng, 5, (6, 5))
    first = network.layers[0].weight * [1.0, 1e-2, 1.0, 1e-3, 1.0]
    low, high = np.array([-1.0, -1, -1, -1, 0]), np.ones(5)
    plain = Network((Layer(first, network.layers[0].bias), *network.layers[1:]))
    scale, shift = np.array([size] * 4 + [1.0]), np.array([centre] * 4 + [0.0])
    bias = network.layers[0].bias - first @ (shift / scale)
    scaled = Network((Layer(first / scale, bias), *network.layers[1:]))
    box = mr.Box(low, high, matrix=row, right=[0.1], binary=[4])
    moved = mr.Box(
        low * scale + shift,
        high * scale + shift,
        matrix=row * size / scale,
        right=row @ (shift * size / scale) + 0.1 * size,
        binary=[4],
    )
    assert not moved.violations(moved.anchor)
    best = mr.argmax(plain, [], box, solver="gurobi")
    result = mr.argmax(scaled, [], moved, solver=solver)
    assert result.status == "optimal"
    assert result.value == pytest.approx(best.value, abs=4 * best.tolerance)


@pytest.mark.parametrize("solver", ["highs", "gurobi", "scip"])
@pytest.mark.parametrize("seed", range(3))
def test_the_unit_of_a_row_does_not_matter(solver, seed, random_network):
    """With coefficients of 1e-6 a solver's tolerance leaves the row out."""
    if solver == "scip":
        pytest.importorskip("pyscipopt")
    rng = np.random.default_rng(seed)
    network, row = random_network(rng, 4, (8, 6)), rng.normal(size=(1, 4))
    boxes = [
        mr.Box([0] * 4, [1] * 4, matrix=f * np.vstack([row, -row]), right=f * np.array([1, -1]) * v)
        for f, v in ((1.0, row.sum() * 0.3), (1e-6, row.sum() * 0.3))
    ]
    best = mr.argmax(network, [], boxes[0], solver=solver)
    result = mr.argmax(network, [], boxes[1], solver=solver)
    assert result.status == "optimal"
    assert result.value == pytest.approx(best.value, abs=4 * best.tolerance)


@pytest.mark.parametrize("solver", ["auto", "branch_and_bound", "highs", "gurobi", "scip"])
@pytest.mark.parametrize(
    ("high", "rows"), [(1.0, {}), (50.0, {"matrix": np.ones((1, 4)), "right": [100.0]})]
)
def test_a_start_beyond_the_set_within_its_tolerance_is_no_wrong_answer(
    solver, high, rows, random_network
):
    """What counts as feasible may be worth more than the bound over the set itself."""
    if solver == "scip":
        pytest.importorskip("pyscipopt")
    first = np.abs(random_network(np.random.default_rng(0), 4, (8,)).layers[0].weight)
    first += np.arange(4)[::-1]
    network = Network.from_arrays([first, np.ones((1, 8))], [-first.sum(axis=1), [0.0]])
    box = mr.Box([0] * 4, [high] * 4, **rows)
    start = np.full(4, 1 + 9e-7) if not rows else np.array([50, 50 + 4e-5, 4e-5, 0])
    assert not box.violations(start)
    best = mr.argmax(network, [], box, solver="branch_and_bound")
    result = mr.argmax(network, [], box, solver=solver, start=start)
    assert result.status == "optimal"
    assert result.value == pytest.approx(best.value, rel=2e-6)


@pytest.mark.parametrize("solver", ["auto", "branch_and_bound", "highs"])
@pytest.mark.parametrize("space", [mr.BudgetTopK(8, 3), mr.Box([0] * 4, [1] * 4)])
def test_large_states_that_cancel_are_summed_once(solver, space, random_network):
    """Bounds and values took a state's part of the first layer from different sums."""
    for seed in range(8):
        rng, n = np.random.default_rng(seed), space.n_actions
        network, state = random_network(rng, n + 300, (6, 5)), 1e12 * rng.normal(size=300)
        weight = network.layers[0].weight.copy()
        weight[:, n:] -= np.outer(weight[:, n:] @ state, state) / (state @ state)
        network = Network((Layer(weight, network.layers[0].bias), *network.layers[1:]))
        best = mr.argmax(network.at_state(state), [], space, solver="gurobi")
        for result in mr.ArgmaxSolver(network, space, solver=solver).solve_batch([state] * 5):
            assert result.status == "optimal"
            assert result.value == pytest.approx(best.value, abs=2 * best.tolerance)
