"""The best actions in order, of every solver, against all feasible actions of every block."""

from __future__ import annotations

import time
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.spaces.apart import Apart
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.testing import all_actions
from milp_rl.solvers.errors import CertificationError

PATHS = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5)]
SPACES = {
    "top k": mr.BudgetTopK(7, 3),
    "budget": mr.BudgetTopK(7, 7, costs=[1, 2, 3, 1, 2, 3, 2], budget=7.5),
    "exactly k": mr.BudgetTopK(6, 3, exactly=True),
    "capacity": mr.Capacity([2, 3, 4, 2, 5, 3], [5, 4]),
    "scheduling": mr.Scheduling(
        [[1, 1, 0, 1], [0, 1, 1, 1]], [[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]]
    ),
    "routing": mr.Routing(nx.cycle_graph(7), 0, 6, 3),
    "factored": mr.FactoredValidity(
        {"how": ["a", "b"], "who": ["c", "d"]}, forbidden=[("a", "c")], n_decision_makers=2
    ),
    "matching": mr.Matching([[1, 1, 0], [1, 1, 1], [0, 1, 1]]),
    "permutation": mr.Permutation(3),
    "precedence": mr.Precedence(7, [(0, 1), (1, 2), (1, 3), (4, 3), (6, 5)]),
    "simple path": mr.SimplePath(nx.DiGraph([*PATHS, (3, 1)]), 0, 5),
    "intersection": mr.BudgetTopK(6, 3) & mr.Capacity([2, 3, 4, 2, 5, 3], [5, 4]),
    "product": mr.BudgetTopK(4, 2) * mr.Permutation(2),
    "one action": mr.BudgetTopK(3, 3, exactly=True),
    "none": mr.BudgetTopK(3, 3, exactly=True) & mr.BudgetTopK(3, 1),
}
SOLVERS = ["enumeration", "branch_and_bound", "auto", "highs", "gurobi", "scip"]
STATE = np.array([0.3, -1.0])


def values(network, actions):
    return network.at_state(STATE).forward(actions)[:, 0]


def check(results, network, space, n, difference):
    """Check that each is the best of the actions that differ from those before it."""
    everything = all_actions(space.n_actions)
    left = everything[[not space.violations(action) for action in everything]]
    feasible = len(left)
    for result in results:
        best = values(network, left).max()
        assert result.status == "optimal"
        assert space.violations(result.action) == []
        assert result.value == values(network, result.action[None])[0]
        assert result.value == pytest.approx(best, rel=0, abs=2e-6)
        assert result.bound >= best - 1e-9
        assert any((left == result.action).all(axis=1)), "too near one before it"
        left = left[(left != result.action).sum(axis=1) >= difference]
    assert len(results) == n or not len(left)
    if difference == 1:
        assert len(results) == min(n, feasible)
    found = [result.value for result in results]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", SPACES)
def test_the_ranking_is_that_of_all_feasible_actions(name, solver, random_network):
    if solver in ("gurobi", "scip"):
        pytest.importorskip({"gurobi": "gurobipy", "scip": "pyscipopt"}[solver])
    space = SPACES[name]
    network = random_network(np.random.default_rng(1), space.n_actions + 2, (8, 6))
    ranked = mr.ArgmaxSolver(network, space, solver=solver)
    numbers = [(100, 1), (6, 2), (4, 3), (4, 4)]
    if solver in ("highs", "gurobi", "scip"):  # a model for each action
        numbers = [(3, 1), (3, 2)] if solver == "scip" else [(8, 1), (5, 2), (4, 3), (3, 4)]
    for n, difference in numbers:
        check(ranked.solve_top(STATE, n, min_difference=difference), network, space, n, difference)


@pytest.mark.parametrize("solver", ["enumeration", "branch_and_bound", "auto", "highs"])
@pytest.mark.parametrize("difference", [1, 3])
def test_within_masks_and_a_space_of_the_day(difference, solver, random_network):
    rng = np.random.default_rng(5)
    network = random_network(rng, 9, (8, 6))
    ranked = mr.ArgmaxSolver(network, mr.BudgetTopK(7, 2), solver=solver)
    available, required = np.arange(7) != 2, np.arange(7) == 4
    today = mr.BudgetTopK(7, 3)
    masks = {"available": available, "required": required}
    results = ranked.solve_top(STATE, 6, min_difference=difference, space=today, **masks)
    left = today.enumerate()
    left = left[(left[:, 2] == 0) & (left[:, 4] == 1)]
    for result in results:
        assert (result.status, result.space) == ("optimal", today)
        assert result.value == pytest.approx(values(network, left).max(), rel=0, abs=2e-6)
        left = left[(left != result.action).sum(axis=1) >= difference]
    assert len(results) == 6 or not len(left)
    assert ranked.solve_top(STATE, 3, required=np.ones(7)) == []


@pytest.mark.parametrize("solver", ["enumeration", "branch_and_bound", "highs"])
def test_the_lowest_values_first_and_through_a_link(solver, random_network):
    space = SPACES["capacity"]
    network = random_network(np.random.default_rng(2), space.n_actions + 2, (8, 6))
    lowest = mr.ArgmaxSolver(network, space, solver=solver, sense="minimize").solve_top(STATE, 5)
    expected = np.sort(values(network, space.enumerate()))[:5]
    np.testing.assert_allclose([r.value for r in lowest], expected, atol=2e-6)
    assert all(r.bound <= r.value and r.solution == space.decode(r.action) for r in lowest)


@pytest.mark.parametrize("seed", range(6))
def test_one_search_ranks_a_hundred_actions_of_a_larger_set(seed, random_network):
    rng = np.random.default_rng(seed)
    space = [mr.BudgetTopK(14, 5), mr.Capacity(rng.integers(2, 7, 12), [7, 6, 5])][seed % 2]
    network = random_network(rng, space.n_actions + 2, (12, 8))
    actions = space.enumerate()
    expected = np.sort(values(network, actions))[::-1][:100]
    results = mr.ArgmaxSolver(network, space, solver="branch_and_bound").solve_top(STATE, 100)
    np.testing.assert_allclose([r.value for r in results], expected, rtol=0, atol=2e-6)
    assert len({r.action.tobytes() for r in results}) == 100
    assert {r.status for r in results} == {"optimal"}


def test_auto_goes_on_where_the_search_does_not_finish(random_network):
    space = mr.BudgetTopK(40, 8)  # too many actions for a list
    network = random_network(np.random.default_rng(3), 42, (10,))
    alone = mr.ArgmaxSolver(network, space, solver="branch_and_bound").solve_top(STATE, 4)
    limited = mr.ArgmaxSolver(network, space)
    limited._batch.backend._nodes = 1
    results = limited.solve_top(STATE, 4)
    assert {r.status for r in [*alone, *results]} == {"optimal"}
    np.testing.assert_allclose([r.value for r in results], [r.value for r in alone], atol=1e-6)


@pytest.mark.parametrize("solver", ["branch_and_bound", "highs", "auto"])
@pytest.mark.parametrize("difference", [1, 3])
def test_a_time_limit_leaves_valid_bounds(solver, difference, random_network):
    space = mr.BudgetTopK(60, 20)
    network = random_network(np.random.default_rng(4), 62, (64, 64))
    begin = time.perf_counter()
    ranked = mr.ArgmaxSolver(network, space, solver=solver)
    results = ranked.solve_top(STATE, 20, min_difference=difference, time_limit=0.5)
    assert time.perf_counter() - begin < 60
    assert any(r.status != "optimal" for r in results)
    found = [r for r in results if r.action is not None]
    assert [r.status for r in results[len(found) :]] in ([], ["no_solution"])
    best = max(values(network, space.sample(np.random.default_rng(0), 500)))
    assert results[0].bound >= best
    for before, after in pairwise(found):
        assert before.value >= after.value
        assert (before.action != after.action).sum() >= difference
        assert after.bound >= after.value


def test_wrong_arguments_are_refused(random_network):
    network = random_network(np.random.default_rng(0), 4, (3,))
    solver = mr.ArgmaxSolver(network, mr.BudgetTopK(4, 2))
    with pytest.raises(ValueError, match="n must be"):
        solver.solve_top(None, 0)
    with pytest.raises(ValueError, match="min_difference must be"):
        solver.solve_top(None, 3, min_difference=0)
    for name in ("auto", "highs"):
        mixed = mr.ArgmaxSolver(network, mr.Box([0] * 4, [1] * 4, binary=[0]), solver=name)
        with pytest.raises(ValueError, match="continuous variables: its actions cannot be ranked"):
            mixed.solve_top(None, 2)


def test_a_wrong_ranking_is_noticed(random_network, monkeypatch):
    from milp_rl.solvers.branch_and_bound.ranked import RankedTree

    space = mr.BudgetTopK(7, 3)
    network = random_network(np.random.default_rng(1), 9, (8, 6))
    ranked = mr.ArgmaxSolver(network, space, solver="branch_and_bound")
    run = RankedTree.run

    def losing(tree, bounds, starts):
        run(tree, bounds, starts)
        del tree.kept[1]

    monkeypatch.setattr(RankedTree, "run", losing)
    with pytest.raises(CertificationError, match="above the claimed bound"):
        ranked.solve_top(STATE, 5)


@pytest.mark.parametrize("name", [name for name in SPACES if name != "none"])
def test_the_oracle_of_the_actions_apart_is_a_bound(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    actions = space.enumerate()
    for distance in (1, 2, 4):
        taken = actions[rng.choice(len(actions), min(3, len(actions)), replace=False)]
        apart = Apart(space, taken, distance)
        left = apart.enumerate()
        far = (actions[:, None] != taken).sum(axis=2).min(axis=1) >= distance
        np.testing.assert_array_equal(left, actions[far])
        np.testing.assert_array_equal(apart.feasible(actions), far)
        c = rng.normal(size=(30, space.n_actions))
        one, zero = rng.random((2, *c.shape)) < 0.1
        pins = Pins(one & ~zero, zero)
        held = (pins.one[:, None] > left) | (pins.zero[:, None] & (left == 1))
        highest = np.where(held.any(axis=2), -np.inf, c @ left.T).max(axis=1, initial=-np.inf)
        assert (apart.linear_max(c, pins) >= highest - 1e-9).all()
        assert (apart.linear_max(c) <= space.linear_max(c) + 1e-9).all()
        again = mr.ActionSpace.from_dict(apart.to_dict())
        assert again == apart
