"""The argmax over whole numbers, in every solver, against the values of all feasible actions."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pyomo.environ as pyo
import pytest

import milp_rl as mr
from milp_rl.formulations.testing import all_actions
from milp_rl.solvers.milp.argmax import without
from tests.formulations.spaces.test_integer import Orders, as_set, vectors
from tests.solvers.test_skips import skipping

SOLVERS = ["auto", "enumeration", "branch_and_bound", "highs", "gurobi"]
SOLVERS += ["scip"] if importlib.util.find_spec("pyscipopt") else []
ROWS = {"matrix": [[1, 2, -1], [2, -1, 1]], "right": [4, 5]}
EQUAL = np.array([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
LINKED = [[-9.0, 0.0, 1.0, 0.0], [0.0, -9.0, 0.0, 1.0]]  # quantities of what is chosen
SPACES = {
    "box": mr.Box([-2, 0, 0], [3, 6, 1], integer=[0, 1, 2]),
    "rows": mr.Box([0] * 3, [5] * 3, **ROWS, integer=range(3)),
    "equality": mr.Box([0] * 3, [6] * 3, matrix=EQUAL, right=[8, -8], integer=range(3)),
    "linked": (mr.BudgetTopK(2, 1) * mr.Box([0, 0], [9, 9], integer=[0, 1]))
    & mr.Box([0] * 4, [1, 1, 9, 9], matrix=LINKED, right=[0, 0], integer=range(4)),
    "of one's own": Orders(),
}
MIXED = {
    "box": mr.Box([-2, 0, 0], [3, 6, 1], integer=[0, 1]),
    "rows": mr.Box([0] * 3, [4] * 3, **ROWS, integer=[0]),
    "equality": mr.Box([0] * 3, [1, 2, 9], matrix=EQUAL, right=[8.5, -8.5], integer=[0, 1]),
    "product": mr.BudgetTopK(2, 1) * mr.Box([-1], [2]),
}


def agree(first, second, scale=1.0):
    return abs(first - second) <= 4e-6 * max(1.0, scale)


def unbranched(space, solver):
    return solver == "branch_and_bound" and space.linear_model.n_columns > space.n_actions


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", SPACES)
def test_all_solvers_against_all_actions(name, solver, random_network):
    space = SPACES[name]
    if unbranched(space, solver):
        with pytest.raises(ValueError, match="1 auxiliary ones: use solver='highs'"):
            mr.ArgmaxSolver(random_network(np.random.default_rng(0), 4, (3,)), space, solver=solver)
        return
    actions = space.enumerate()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        network = skipping(rng, space.n_actions + 1)
        if seed:
            network = random_network(rng, space.n_actions + 1, (8,) * seed)
        states = rng.normal(size=(2, 1))
        sense, sign = ("minimize", -1) if seed == 1 else ("maximize", 1)
        solving = mr.ArgmaxSolver(network, space, solver=solver, sense=sense)
        for state, result in zip(states, solving.solve_batch(states), strict=True):
            inputs = np.column_stack([actions, np.tile(state, (len(actions), 1))])
            values = network.forward(inputs)[:, 0]
            assert result.status == "optimal"
            assert result.action.dtype == np.int64
            assert tuple(result.action) in as_set(actions)
            assert agree(result.value, sign * (sign * values).max(), np.ptp(values))


@pytest.mark.parametrize("name", MIXED)
def test_whole_and_continuous_variables_together(name, random_network):
    """For each choice of the whole numbers, a box of the continuous ones is solved on its own."""
    space = MIXED[name]
    whole = np.flatnonzero(~space.continuous)
    rng = np.random.default_rng(1)
    network = random_network(rng, 3, (6, 5))
    rows = space.linear_model
    best = -np.inf
    ranges = [range(int(space.lower[i]), int(space.upper[i]) + 1) for i in whole]
    for values in itertools.product(*ranges):
        low, high = space.lower.copy(), space.upper.copy()
        low[whole] = high[whole] = values
        sides = np.isfinite(rows.row_upper), np.isfinite(rows.row_lower)
        dense = rows.matrix.toarray()
        matrix = np.vstack([dense[sides[0]], -dense[sides[1]]])
        right = np.append(rows.row_upper[sides[0]], -rows.row_lower[sides[1]])
        try:
            held = mr.Box(low, high, matrix=matrix, right=right)
        except ValueError:  # nothing is feasible with these
            continue
        best = max(best, mr.argmax(network, [], held).value)
    for solver in SOLVERS:
        if solver != "enumeration":
            result = mr.argmax(network, [], space, solver=solver)
            assert result.status == "optimal", solver
            assert agree(result.value, best), solver
            assert (result.action[whole] == np.rint(result.action[whole])).all()
            assert space.violations(result.action) == []


@pytest.mark.parametrize("solver", SOLVERS)
def test_masks_and_spaces_of_a_call(solver, random_network):
    space, rng = SPACES["linked"], np.random.default_rng(0)
    network, actions = random_network(rng, 5, (6,)), SPACES["linked"].enumerate()
    states = rng.normal(size=(4, 1))
    available, required = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    available[0, 0] = available[1, :2] = False
    required[2, 1] = required[3, :2] = True
    solving = mr.ArgmaxSolver(network, space, solver=solver)
    results = solving.solve_batch(states, available=available, required=required)
    assert [result.status for result in results] == ["optimal"] * 3 + ["infeasible"]
    for i in range(3):
        kept = (actions[:, ~available[i]] == 0).all(axis=1) & (actions[:, required[i]] == 1).all(1)
        inputs = np.column_stack([actions[kept], np.tile(states[i], (kept.sum(), 1))])
        assert agree(results[i].value, network.forward(inputs).max())
    smaller = mr.Box([0, 0, 0, 1], [1, 1, 2, 3], integer=range(4))
    other = smaller.enumerate()
    inputs = np.column_stack([other, np.tile(states[0], (len(other), 1))])
    assert agree(solving.solve(states[0], space=smaller).value, network.forward(inputs).max())
    with pytest.raises(ValueError, match="variable 2 is not available, but integer: masks are for"):
        solving.solve(states[0], available=[1, 1, 0, 1])


def test_the_native_search_over_long_ranges(random_network):
    """More vectors than can be listed; HiGHS and the search agree, and no neighbour is better."""
    rng = np.random.default_rng(4)
    space = mr.Box(
        [0] * 5, [60] * 5, matrix=rng.uniform(0.5, 2, (2, 5)), right=[90, 120], integer=range(5)
    )
    network = random_network(rng, 5, (12, 8)).affine_of_inputs(np.full(5, 1 / 20), np.zeros(5))
    found = [mr.argmax(network, [], space, solver=s) for s in ("branch_and_bound", "highs", "auto")]
    assert [result.status for result in found] == ["optimal"] * 3
    assert agree(found[0].value, found[1].value)
    assert found[2].solver == "branch_and_bound"
    steps = np.vstack([np.eye(5), -np.eye(5)]).astype(int)
    near = [x for x in found[0].action + steps if not space.violations(x)]
    assert network.forward(np.array(near, dtype=float)).max() <= found[0].value + 1e-6


def needle(point):
    """``relu(1 - 2 sum |x - p|)``: one at a single whole vector, and zero at all others."""
    n, eye = len(point), np.eye(len(point))
    weights = [np.vstack([eye, -eye]), np.full((1, 2 * n), -2.0), [[1.0]]]
    return mr.Network.from_arrays(weights, [np.append(-point, point), [1.0], [0.0]])


@pytest.mark.parametrize("name", ["bounds", "rows", "mixed"])
def test_a_single_best_action_is_found_wherever_it_is(name):
    """No step leads there: what the search leaves out, it does not find."""
    rows = {} if name == "bounds" else {"matrix": [[2, -1, 3], [-1, 2, 1]], "right": [25, 14]}
    whole = [0, 1] if name == "mixed" else [0, 1, 2]
    space = mr.Box([-4, 0, 3], [9, 13, 16], **rows, integer=whole)
    solving, rng = None, np.random.default_rng(0)
    points = rng.integers(space.lower.astype(int), space.upper.astype(int) + 1, (300, 3))
    points = [point for point in points.astype(float) if not space.violations(point)][:40]
    for point in points:
        network = needle(point)
        solving = solving or mr.ArgmaxSolver(network, space, solver="branch_and_bound")
        solving.update(network)
        result = solving.solve([])
        np.testing.assert_allclose(result.action, point, atol=1e-6)


def test_whole_numbers_that_float32_does_not_hold_are_told_apart():
    """Of ``-|x + 103 - 101 - 200|``, all above 2^24: rounded to even ones, x = 196 seems best."""
    fixed = 2**24 + np.array([103, 101, 200])
    space = mr.Box([2**24, *fixed], [2**24 + 300, *fixed], integer=range(4))
    row = [1.0, 1.0, -1.0, -1.0]
    weights = [[row, np.negative(row)], [[-1.0, -1.0]]]
    tent = mr.Network.from_arrays(weights, [[0.0, 0.0], [0.0]])
    result = mr.argmax(tent, [], space, solver="enumeration")
    assert result.action[0] - 2**24 == 198
    assert result.value == 0.0


def test_the_n_best_of_a_list(random_network):
    space = SPACES["rows"]
    network = random_network(np.random.default_rng(2), 3, (6,))
    values = np.sort(network.forward(space.enumerate())[:, 0])[::-1]
    for solver in ("enumeration", "auto"):
        ranked = mr.ArgmaxSolver(network, space, solver=solver).solve_top([], 5)
        np.testing.assert_allclose([result.value for result in ranked], values[:5])
    with pytest.raises(ValueError, match="3 integer variables: its actions cannot be ranked"):
        mr.ArgmaxSolver(network, space, solver="highs").solve_top([], 5)


def test_a_cut_removes_one_action():
    space = mr.Box([0, 0, -1], [3, 1, 2], matrix=[[1, 1, 1]], right=[3], integer=range(3))
    for action in space.enumerate():
        model = without(space.linear_model, action, space.integer)
        left = set()
        for other in vectors(range(4), range(2), range(-1, 3)):
            for chosen in all_actions(model.n_columns - 3):
                point = np.concatenate([other, chosen])
                sums = model.matrix @ point
                if ((sums <= model.row_upper) & (sums >= model.row_lower)).all():
                    left.add(tuple(other.tolist()))
                    break
        assert left == as_set(space.enumerate()) - {tuple(action.tolist())}


def test_in_a_model_of_ones_own(random_network):
    space = Orders()
    network = random_network(np.random.default_rng(0), 3, (6,))
    model = pyo.ConcreteModel()
    model.network = pyo.Block()
    quantities = space.add_to(model)
    output = mr.add_network(model.network, network, quantities, space=space)
    model.value = pyo.Objective(expr=output, sense=pyo.maximize)
    result = mr.solve_model(model)
    assert result.status == "optimal"
    assert agree(result.value, network.forward(space.enumerate()).max())
