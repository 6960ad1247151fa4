"""Sets as they are on the day: masks and spaces of a call, in every solver, by brute force."""

from __future__ import annotations

import importlib.util

import networkx as nx
import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor

import milp_rl as mr
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.spaces import Pins
from milp_rl.formulations.testing import all_actions
from milp_rl.solvers import batch
from milp_rl.solvers.branch_and_bound.nodes import Nodes
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.incumbents import Incumbents

PATHS = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5)]
FACTORS = {"how": ["call", "visit", "text"], "who": ["nurse", "doctor"]}


class Linked(mr.ActionSpace):
    """A block of a user's own, with the defaults: action 0 only with 1, costs within a budget."""

    n_actions = 7

    def __init__(self, budget: float = 8.0) -> None:
        self.budget = budget

    def constrain(self, block, actions):
        import pyomo.environ as pyo

        block.linked = pyo.Constraint(expr=actions[0] <= actions[1])
        total = sum((i % 3 + 1) * action for i, action in enumerate(actions))
        block.cost = pyo.Constraint(expr=total <= self.budget)

    def violations(self, action):
        a = self.check_action(action)
        cost = sum((i % 3 + 1) * int(x) for i, x in enumerate(a))
        found = ["action 0 is chosen without 1"] if a[0] > a[1] else []
        return found + ([f"costs {cost}"] if cost > self.budget else [])

    def to_dict(self):
        return {"type": "Linked", "budget": self.budget}


SPACES = {
    "budget": mr.BudgetTopK(8, 3),
    "exactly": mr.BudgetTopK(8, 4, exactly=True),
    "costs": mr.BudgetTopK(8, 8, costs=[1, 2, 3, 1, 2, 3, 1, 2], budget=7),
    "capacity": mr.Capacity([3, 2, 2, 1, 4, 2, 3, 1], [4, 3]),
    "scheduling": mr.Scheduling(
        [[1, 1, 0, 1], [0, 1, 1, 1]],
        [[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 1]],
        needs=2,
        budget=3,
    ),
    "visits in one": mr.Scheduling(
        [[1, 1, 1, 0, 1], [0, 1, 1, 1, 1]],
        [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [1, 1, 0, 1, 1]],
        durations=[1, 2, 3, 2, 2],
    ),
    "routing": mr.Routing(nx.grid_2d_graph(2, 4), (0, 0), 6, budget=4),
    "factored": mr.FactoredValidity(
        FACTORS,
        forbidden=[("visit", "nurse")],
        n_decision_makers=2,
        caps={"how": {"call": 1}},
        optional=True,
    ),
    "box": mr.Box([0] * 7, [1] * 7, matrix=[[1, 2, -1, 2, 1, 1, 1]], right=[4], binary=range(7)),
    "intersection": mr.BudgetTopK(7, 3) & mr.Capacity([3, 2, 2, 1, 4, 2, 3], [4, 3]),
    "product": mr.BudgetTopK(4, 2) * mr.Permutation(2),
    "matching": mr.Matching([[1, 1, 0], [1, 1, 1], [0, 1, 1]], min_pairs=1),
    "permutation": mr.Permutation(3),
    "simple path": mr.SimplePath(nx.DiGraph(PATHS), 0, 5),
    "path with cycles": mr.SimplePath(nx.DiGraph([*PATHS, (3, 1), (4, 2), (2, 1)]), 0, 5),
    "precedence": mr.Precedence(8, [(0, 1), (1, 2), (1, 3), (4, 3), (6, 5), (5, 7)]),
    "of one's own": Linked(),
}
SOLVERS = ["auto", "enumeration", "branch_and_bound", "highs", "gurobi", "scip"]
MISSING = [
    name
    for name, package in (("gurobi", "gurobipy"), ("scip", "pyscipopt"))
    if importlib.util.find_spec(package) is None
]
NATIVE = [name for name in SOLVERS if name not in MISSING]


def feasible_actions(space):
    everything = all_actions(space.n_actions)
    return everything[[not space.violations(action) for action in everything]]


def masks_for(rng, feasible, n_states):
    """Draw masks for each state; most of them leave something."""
    n = feasible.shape[1]
    available = rng.random((n_states, n)) < rng.choice([0.6, 0.85, 1.0], (n_states, 1))
    required = rng.random((n_states, n)) < rng.choice([0.0, 0.2, 0.5], (n_states, 1))
    for i in range(0, n_states, 2):  # around a feasible action
        one = feasible[rng.integers(len(feasible))] == 1
        available[i] |= one
        required[i] &= one
    return available, required & available


def within(feasible, available, required):
    kept = (feasible[:, ~available] == 0).all(axis=1) & (feasible[:, required] == 1).all(axis=1)
    return feasible[kept]


def check(results, network, states, sets):
    """Compare results with the best of each state's own set of actions."""
    for state, own, result in zip(states, sets, results, strict=True):
        if not len(own):
            assert result.status == "infeasible", result
            assert result.action is None
            assert "masks" in result.message
            continue
        best = network.forward(np.concatenate([own, np.tile(state, (len(own), 1))], axis=1)).max()
        assert result.status == "optimal", result
        assert (own == result.action).all(axis=1).any(), result
        assert result.value == pytest.approx(best, rel=0, abs=1e-6)
        assert result.bound >= best - 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", SPACES)
def test_masks_of_each_state_leave_the_best_of_what_is_within_them(name, solver, random_network):
    if solver in MISSING:
        pytest.skip(f"{solver} is not installed")
    space, rng = SPACES[name], np.random.default_rng(len(name))
    feasible = feasible_actions(space)
    network = random_network(rng, space.n_actions + 2, (7, 5))
    solving = mr.ArgmaxSolver(network, space, solver=solver)
    states = rng.normal(size=(6, 2))
    available, required = masks_for(rng, feasible, len(states))
    sets = [within(feasible, *own) for own in zip(available, required, strict=True)]
    for workers in (1, 2):
        results = solving.solve_batch(
            states, available=available, required=required, workers=workers
        )
        check(results, network, states, sets)
    one = solving.solve_batch(states, available=available[0], workers=1)
    check(one, network, states, [within(feasible, available[0], np.zeros_like(available[0]))] * 6)
    alone = [
        solving.solve(state, available=own, required=forced)
        for state, own, forced in zip(states, available, required, strict=True)
    ]
    check(alone, network, states, sets)
    check(solving.solve_batch(states, workers=1), network, states, [feasible] * 6)  # as before


@pytest.mark.parametrize("solver", NATIVE)
@pytest.mark.parametrize("formulation", ["bigm", "partition"])
@pytest.mark.parametrize("bounds", ["interval", "linear", "lp"])
def test_masks_hold_in_every_formulation_and_with_all_bounds(
    solver, formulation, bounds, random_network
):
    if solver in ("enumeration", "branch_and_bound", "auto") and formulation == "partition":
        pytest.skip("the same solver")
    rng = np.random.default_rng(5)
    space = SPACES["intersection"]
    feasible, network = feasible_actions(space), random_network(rng, 9, (6, 6))
    states = rng.normal(size=(4, 2))
    available, required = masks_for(rng, feasible, len(states))
    sets = [within(feasible, *own) for own in zip(available, required, strict=True)]
    solving = mr.ArgmaxSolver(
        network, space, solver=solver, formulation=formulation, bounds=bounds, sense="minimize"
    )
    results = solving.solve_batch(states, available=available, required=required)
    negative = mr.Network.from_arrays(
        [layer.weight for layer in network.layers[:-1]] + [-network.output.weight],
        [layer.bias for layer in network.layers[:-1]] + [-network.output.bias],
    )
    from dataclasses import replace

    check([replace(r, value=-r.value, bound=-r.bound) for r in results], negative, states, sets)


class SlowToCount(mr.BudgetTopK):
    counts_quickly = False


@pytest.mark.parametrize("nodes", [1, 2000])
@pytest.mark.parametrize(
    "space", [mr.BudgetTopK(22, 4), mr.BudgetTopK(22, 8), SlowToCount(22, 8)], ids=repr
)
def test_every_part_of_auto_keeps_to_masks(space, nodes, random_network):
    """Listing, the search, and what comes after it; up to 10 of 22 actions are available."""
    rng = np.random.default_rng(6)
    network, states = random_network(rng, 24, (6, 4)), rng.normal(size=(10, 2))
    available = np.zeros((10, 22), dtype=bool)
    sets = []
    for i in range(10):
        usable = rng.permutation(22)[:10]
        available[i, usable] = True
        own = np.zeros((2**10, 22), dtype=np.int8)
        own[:, usable] = all_actions(10)
        sets.append(own[own.sum(axis=1) <= space.k])
    solving = mr.ArgmaxSolver(network, space)
    solving._batch.backend._nodes = nodes
    for i in range(3):
        check(
            [solving.solve(states[i], available=available[i])],
            network,
            states[i : i + 1],
            sets[i : i + 1],
        )
    check(solving.solve_batch(states, available=available), network, states, sets)


@pytest.mark.parametrize("solver", ["auto", "enumeration", "highs", "scip"])
def test_trees_keep_to_masks(solver):
    if solver in MISSING:
        pytest.skip(f"{solver} is not installed")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (300, 8)).astype(float)
    y = x @ rng.normal(size=8) + x[:, 0] * x[:, 1] - 2 * x[:, 2] * x[:, 3]
    model = GradientBoostingRegressor(n_estimators=15, max_depth=3, random_state=0).fit(x, y)
    space = mr.BudgetTopK(8, 3)
    feasible = feasible_actions(space)
    solving = mr.ArgmaxSolver(model, space, solver=solver)
    available, required = masks_for(rng, feasible, 6)
    for own, forced in zip(available, required, strict=True):
        result = solving.solve([], available=own, required=forced)
        left = within(feasible, own, forced)
        if len(left):
            assert result.status == "optimal"
            assert result.value == pytest.approx(model.predict(left.astype(float)).max())
            assert (left == result.action).all(axis=1).any()
        else:
            assert result.status == "infeasible"


def test_masks_travel_to_worker_processes(random_network, monkeypatch):
    monkeypatch.setattr(batch, "_SECONDS_WORTH_PROCESSES", 0.0)
    rng = np.random.default_rng(1)
    space, network = SPACES["capacity"], random_network(rng, 10, (6,))
    other = mr.Capacity(space.costs, [3, 2])
    feasible = [feasible_actions(space), feasible_actions(other)]
    states = rng.normal(size=(130, 2))
    available, required = masks_for(rng, feasible[1], len(states))
    which = rng.integers(2, size=len(states))
    sets = [within(feasible[k], available[i], required[i]) for i, k in enumerate(which)]
    solving = mr.ArgmaxSolver(network, space, solver="branch_and_bound")
    results = solving.solve_batch(
        states,
        available=available,
        required=required,
        space=[(None, other)[k] for k in which],
        workers=2,
    )
    check(results, network, states, sets)


@pytest.mark.parametrize("solver", ["highs", "gurobi", "auto"])
def test_masks_hold_binary_variables_beside_continuous_ones(solver):
    """Whom to call, and for how long: at most 4 hours for each call."""
    if solver in MISSING:
        pytest.skip(f"{solver} is not installed")
    rows = mr.Box([0, 0, 0], [1, 1, 8], matrix=[[-4.0, -4.0, 1.0]], right=[0], binary=[0, 1])
    network = mr.Network.from_arrays([[[-1.0, -2.0, 1.0]]], [[0.0]])
    solving = mr.ArgmaxSolver(network, rows, solver=solver)
    assert solving.solve([]).value == pytest.approx(8 - 3)
    first = solving.solve([], available=[False, True, True])
    np.testing.assert_allclose(first.action, [0, 1, 4], atol=1e-6)
    forced = solving.solve([], required=[False, True, False], space=rows)
    assert forced.action[1] == 1
    with pytest.raises(ValueError, match="variable 2 is not available, but continuous: masks are"):
        solving.solve([], available=[True, True, False])
    with pytest.raises(ValueError, match="variable 2 is required, but continuous"):
        solving.solve([], required=[False, False, True])
    box = mr.ArgmaxSolver(mr.Network.from_arrays([[[1.0]]], [[0.0]]), mr.Box([0.0], [2.0]))
    with pytest.raises(ValueError, match="bounds of the others change with space="):
        box.solve([], available=[False])
    assert box.solve([], available=[True]).value == pytest.approx(2.0)
    assert box.solve([], space=mr.Box([0.0], [1.0])).value == pytest.approx(1.0)


@pytest.mark.parametrize("solver", NATIVE)
def test_masks_that_contradict_each_other_or_the_set_are_named(solver, random_network):
    rng = np.random.default_rng(3)
    solving = mr.ArgmaxSolver(random_network(rng, 8, (5,)), mr.BudgetTopK(6, 2), solver=solver)
    state, yes = np.zeros(2), np.ones(6, dtype=bool)
    with pytest.raises(ValueError, match=r"action 4 is required and not available$"):
        solving.solve(state, available=np.arange(6) != 4, required=np.arange(6) == 4)
    available = np.array([yes, np.arange(6) != 4])
    with pytest.raises(ValueError, match="action 4 is required and not available in state 1"):
        solving.solve_batch(np.zeros((2, 2)), available=available, required=np.arange(6) == 4)
    too_many = solving.solve(state, required=[1, 1, 1, 0, 0, 0], available=[1, 1, 1, 1, 1, 0])
    assert too_many.status == "infeasible"
    assert "within the masks (required: 0, 1, 2; not available: 5)" in too_many.message
    exactly = mr.BudgetTopK(6, 3, exactly=True)
    none_left = solving.solve(state, space=exactly, available=[1, 1, 0, 0, 0, 0])
    assert none_left.status == "infeasible"
    assert "not available: 2, 3, 4, 5" in none_left.message
    everything = solving.solve_batch(
        np.zeros((3, 2)), required=[[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0] * 6], workers=1
    )
    assert [result.status for result in everything] == ["infeasible", "optimal", "optimal"]
    assert solving.solve(state, available=np.zeros(6, dtype=bool)).chosen == []


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"available": [0, 2, 4]}, r"available must be a mask of shape \(6,\), true or false"),
        ({"required": np.ones((1, 6))}, r"required must be a mask of shape \(6,\).*\(1, 6\)"),
        ({"available": [1, 1, 2, 1, 1, 1]}, r"available\[2\] is 2, but a mask has true and false"),
        ({"required": [0, 0, 0, 0, 0, np.nan]}, r"required\[5\] is nan, but a mask has"),
        ({"space": 5}, "space must be an ActionSpace, got int"),
        ({"space": mr.BudgetTopK(5, 2)}, "the space of the call has 5 variables, the solver's own"),
        (
            {"start": [1, 1, 0, 0, 0, 0], "available": [0, 1, 1, 1, 1, 1]},
            r"the start \[0, 1\] is not within the masks \(not available: 0\)",
        ),
        ({"start": [1, 1, 0, 0, 0, 0], "space": mr.BudgetTopK(6, 1)}, "start is not feasible"),
    ],
)
def test_wrong_masks_and_spaces_are_named(masks, message, random_network):
    network = random_network(np.random.default_rng(0), 8, (5,))
    solving = mr.ArgmaxSolver(network, mr.BudgetTopK(6, 2))
    with pytest.raises(ValueError, match=message):
        solving.solve(np.zeros(2), **masks)


def test_wrong_numbers_of_masks_and_spaces_are_named(random_network):
    network = random_network(np.random.default_rng(0), 8, (5,))
    solving, states = mr.ArgmaxSolver(network, mr.BudgetTopK(6, 2)), np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"available must .* \(6,\) or \(3, 6\).* \(2, 6\)"):
        solving.solve_batch(states, available=np.ones((2, 6)))
    with pytest.raises(ValueError, match="got 2 spaces for 3 states"):
        solving.solve_batch(states, space=[None, None])
    assert solving.solve_batch(np.zeros((0, 2)), available=np.ones(6)) == []


CHANGED = {
    "capacity": [mr.Capacity([3, 2, 2, 1, 4, 2, 3, 1], c) for c in ([2, 2], [6], [4, 4, 1])],
    "costs": [mr.BudgetTopK(8, 8, costs=c, budget=7) for c in ([2] * 8, [1, 3] * 4, [0, 5] * 4)],
    "budget": [mr.BudgetTopK(8, k) for k in (1, 5, 8)],
    "routing": [
        mr.Routing(graph, (0, 0), 6, budget=4)
        for graph in (
            nx.grid_2d_graph(2, 4),
            nx.Graph([*nx.grid_2d_graph(2, 4).edges][1:]),
            nx.Graph([*nx.grid_2d_graph(2, 4).edges, ((0, 0), (1, 3))]),
        )
        if graph.add_nodes_from(nx.grid_2d_graph(2, 4)) is None
    ],
    "of one's own": [Linked(b) for b in (3.0, 5.0, 12.0)],
    "pairs": [
        mr.Matching(rows, 1, 3)
        for rows in ([[1] * 4] * 4, [[1, 0, 1, 1]] * 3 + [[0] * 4], np.tri(4), np.eye(4))
    ],
    "orders": [mr.Permutation(3, rows) for rows in ([[1] * 3] * 3, np.tri(3, k=1), 1 - np.eye(3))],
    "intersection": [SPACES["capacity"] & mr.BudgetTopK(8, k) for k in (0, 2, 4)],
}


@pytest.mark.parametrize("solver", NATIVE)
@pytest.mark.parametrize("name", CHANGED)
def test_a_space_of_the_call_is_solved_as_by_a_solver_of_its_own(name, solver, random_network):
    rng = np.random.default_rng(2)
    spaces = CHANGED[name]
    n = spaces[0].n_actions
    network, later = random_network(rng, n + 2, (6, 5)), random_network(rng, n + 2, (6, 5))
    solving = mr.ArgmaxSolver(network, spaces[0], solver=solver)
    states = rng.normal(size=(6, 2))
    each = [spaces[i] for i in (1, 2, 0, 1, 2, 1)]
    sets = [feasible_actions(space) for space in each]
    check(solving.solve_batch(states, space=each, workers=1), network, states, sets)
    check(solving.solve_batch(states, space=each, workers=2), network, states, sets)
    solving.update(later)  # also where spaces are kept
    again = [mr.ActionSpace.from_dict(space.to_dict()) for space in each]
    alone = [solving.solve(state, space=space) for state, space in zip(states, again, strict=True)]
    check(alone, later, states, sets)
    available, required = masks_for(rng, sets[0], 6)
    sets = [within(*own) for own in zip(sets, available, required, strict=True)]
    results = solving.solve_batch(states, space=each, available=available, required=required)
    check(results, later, states, sets)


def test_sets_that_leave_out_other_pairs_each_day_are_solved_together(random_network, monkeypatch):
    """As masks: the solver's own backend has all of them, and answers as for the sets alone."""
    rng = np.random.default_rng(3)
    network = random_network(rng, 2 + 40 * 6, (8,))
    days = [mr.Matching(rng.random((40, 6)) < 0.5, max_pairs=3) for _ in range(5)]
    solving = mr.ArgmaxSolver(network, mr.Matching(np.ones((40, 6)), max_pairs=3))
    states = rng.normal(size=(5, 2))
    alone = [mr.argmax(network, s, day) for s, day in zip(states, days, strict=True)]
    monkeypatch.setattr(type(solving._batch.backends), "_entry", None)  # what makes another one
    for found, own, day in zip(solving.solve_batch(states, space=days), alone, days, strict=True):
        assert found.value == pytest.approx(own.value, abs=1e-9)
        assert day.violations(found.action) == []
    one = solving.solve(states[0], space=days[0], available=~days[1].eligible.ravel())
    fewer = mr.Matching(days[0].eligible & ~days[1].eligible, max_pairs=3)
    assert one.value == pytest.approx(mr.argmax(network, states[0], fewer).value, abs=1e-9)


def test_a_pair_that_is_required_and_left_out_that_day_leaves_nothing(random_network):
    rng = np.random.default_rng(3)
    network = random_network(rng, 2 + 40 * 6, (8,))
    day = mr.Matching(rng.random((40, 6)) < 0.5, max_pairs=3)
    required = np.zeros(240, dtype=bool)
    required[np.argmin(day.eligible.ravel())] = True
    for solver in ("auto", "branch_and_bound"):
        solving = mr.ArgmaxSolver(
            network, mr.Matching(np.ones((40, 6)), max_pairs=3), solver=solver
        )
        assert solving.solve(np.zeros(2), space=day, required=required).status == "infeasible"


def test_other_pairs_are_a_mask_only_where_nothing_else_differs():
    class Odd(mr.Matching):
        def violations(self, action):
            return super().violations(action) or (["even"] if np.sum(action) % 2 == 0 else [])

    own, fewer = np.ones((3, 4)), np.tri(3, 4)
    space = mr.Matching(own, 1, 2)
    left_out = space.left_out_by(mr.Matching(fewer, 1, 2))
    np.testing.assert_array_equal(left_out, (fewer == 0).ravel())
    for other in (
        mr.Matching(fewer, 0, 2),
        mr.Matching(fewer, 1),
        mr.Matching(np.tri(4, 3), 1, 2),
        mr.BudgetTopK(12, 2),
        Odd(fewer, 1, 2),
    ):
        assert space.left_out_by(other) is None
    assert mr.Matching(fewer, 1, 2).left_out_by(space) is None
    assert Odd(own, 1, 2).left_out_by(Odd(fewer, 1, 2)) is None


def test_a_set_of_a_call_that_is_seen_to_be_small_is_listed_at_once(random_network):
    """Few of many pairs are eligible, other ones every day."""
    rng = np.random.default_rng(0)
    network = random_network(rng, 2 + 20 * 7, (16, 32))
    solving = mr.ArgmaxSolver(network, mr.Matching(np.ones((20, 7), dtype=bool), max_pairs=2))
    for _ in range(3):
        space = mr.Matching(rng.random((20, 7)) < 0.2, max_pairs=2)
        state = rng.normal(size=2)
        result = solving.solve(state, space=space)
        assert result.solver == "enumeration"
        actions = space.enumerate()
        assert len(actions) <= space.count_bound <= 4096
        values = network.at_state(state).forward(actions)[:, 0]
        assert result.value == pytest.approx(values.max(), abs=1e-9)
        assert space.violations(result.action) == []


def test_equal_spaces_of_calls_are_kept_and_old_ones_left(random_network):
    solving = mr.ArgmaxSolver(
        random_network(np.random.default_rng(0), 8, (5,)), mr.BudgetTopK(6, 2)
    )
    backends = solving._batch.backends
    first = backends.over(mr.BudgetTopK(6, 3))
    assert backends.over(mr.BudgetTopK(6, 3)) is first
    assert backends.over(solving.space) is backends.own
    for i in range(40):
        backends.over(mr.BudgetTopK(6, 3, costs=[1 + i] * 6, budget=9))
    assert len(backends._others) == 32
    assert backends.over(mr.BudgetTopK(6, 3)) is not first


def test_an_empty_space_of_a_call_is_infeasible(random_network):
    network = random_network(np.random.default_rng(0), 6, (4,))
    empty = mr.BudgetTopK(4, 3, exactly=True) & mr.BudgetTopK(4, 2)
    for solver in NATIVE:
        solving = mr.ArgmaxSolver(network, mr.BudgetTopK(4, 3), solver=solver)
        assert solving.solve(np.zeros(2), space=empty).status == "infeasible"


FAULTS = {
    "branch_and_bound": (Nodes, "roots", classmethod(lambda cls, b, n, pins=None: ROOTS(b, n))),
    "enumeration": (EnumerationArgmax, "_within", lambda self, pins: None),
    "highs": (LinearModel, "held", lambda self, one, zero: self),
}
ROOTS = Nodes.roots


@pytest.mark.parametrize("solver", FAULTS)
def test_a_solver_that_ignores_masks_is_caught(solver, random_network, monkeypatch):
    """Its answers are refused by the certificate, whatever it claims."""
    rng = np.random.default_rng(7)
    network = random_network(rng, 10, (6, 6))
    states = rng.normal(size=(8, 2))
    solving = mr.ArgmaxSolver(network, mr.BudgetTopK(8, 3), solver=solver)
    best = solving.solve_batch(states, workers=1)
    monkeypatch.setattr(*FAULTS[solver])
    refused = 0
    for state, result in zip(states, best, strict=True):
        available = np.ones(8, dtype=bool)
        available[result.chosen] = False
        try:
            found = solving.solve(state, available=available)
        except mr.CertificationError:
            refused += 1
        else:  # the bounds of the network alone have proven an action that was built
            assert not found.action[~available].any()
    assert refused


def test_actions_known_within_masks_are_feasible_and_within_them():
    for space in SPACES.values():
        rng, feasible = np.random.default_rng(0), feasible_actions(space)
        incumbents = Incumbents(space)
        for available, required in zip(*masks_for(rng, feasible, 6), strict=True):
            pins = Pins(required, ~available).checked((1, space.n_actions))[0]
            for action in incumbents.sample_within(pins):
                assert space.violations(action) == []
                assert not action[~available].any()
                assert action[required].all()
