"""The argmax over continuous and mixed actions: solvers agree, and with a fine grid."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import milp_rl as mr
from milp_rl.solvers.branch_and_bound import SpatialArgmax, spatial
from milp_rl.solvers.options import SolveOptions

OPTIONS = ("branch_and_bound", "highs", "gurobi", "auto")


def agree(first: float, second: float) -> bool:
    return abs(first - second) <= 2e-6 * max(1.0, abs(first))


def constrained(rng, n, constraints):
    if not constraints:
        return mr.Box(-2 * np.ones(n), 2 * np.ones(n))
    matrix = rng.standard_normal((constraints, n))
    return mr.Box(-2 * np.ones(n), 2 * np.ones(n), matrix=matrix, right=rng.random(constraints))


@pytest.mark.parametrize("constraints", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_all_solvers_agree_over_boxes(n, constraints, random_network):
    rng = np.random.default_rng([n, constraints])
    space = constrained(rng, n, constraints)
    network = random_network(rng, n + 3, (8, 8))
    states = rng.random((6, 3))
    results = {
        name: mr.ArgmaxSolver(network, space, solver=name).solve_batch(states) for name in OPTIONS
    }
    sample = space.sample(rng, 2000)
    for i, state in enumerate(states):
        values = [results[name][i].value for name in OPTIONS]
        assert all(agree(values[0], value) for value in values)
        inputs = np.concatenate([sample, np.broadcast_to(state, (2000, 3))], axis=1)
        for name in OPTIONS:
            result = results[name][i]
            assert result.status == "optimal"
            assert space.violations(result.action) == []
            assert result.action.dtype == np.float64
            true = network.forward(np.append(result.action, state))[0]
            assert true == pytest.approx(result.value, abs=1e-12)
            assert network.forward(inputs).max() <= result.bound + 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(0, 2), st.integers(0, 3))
def test_box_search_against_highs(random_network, seed, n, constraints, depth):
    rng = np.random.default_rng(seed)
    space = constrained(rng, n, constraints)
    network = random_network(rng, n, (5,) * depth)
    ours = mr.ArgmaxSolver(network, space).solve([])
    other = mr.ArgmaxSolver(network, space, solver="highs").solve([])
    assert ours.status == other.status == "optimal"
    assert agree(ours.value, other.value)


def test_the_whole_action_range_against_a_grid(trained_network):
    """A trained network with kinks inside: no grid point is better, some is nearly as good."""
    network = trained_network(np.random.default_rng(3), 2, (16, 16))
    space = mr.Box([0, 0], [1, 1])
    result = mr.argmax(network, [], space)
    grid = np.array(list(itertools.product(np.linspace(0, 1, 201), repeat=2)))
    best = network.forward(grid).max()
    assert result.solver == "branch_and_bound"
    assert "divided the box" in result.message
    assert best <= result.value + 1e-6
    assert result.value - best < 0.05


def test_a_peak_inside_is_found_to_the_tolerance():
    """-|x - 0.3| - |y + 0.2| has its maximum where four neurons meet."""
    weight = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    network = mr.Network.from_arrays([weight, -np.ones((1, 4))], [[-0.3, 0.3, 0.2, -0.2], [0.0]])
    result = mr.argmax(network, [], mr.Box([-1, -1], [1, 1]))
    np.testing.assert_allclose(result.action, [0.3, -0.2], atol=2e-6)
    assert abs(result.value) < 1e-6


@pytest.mark.parametrize("solver", ["branch_and_bound", "highs", "gurobi", "auto"])
def test_mixed_spaces_against_enumeration_of_their_binaries(solver, random_network):
    rng = np.random.default_rng(5)
    network = random_network(rng, 4 + 2 + 1, (8, 6))
    space = mr.BudgetTopK(4, 2) * mr.Box([-1, -1], [1, 1])
    result = mr.argmax(network, [0.5], space, solver=solver)
    best = -np.inf
    for chosen in mr.BudgetTopK(4, 2).enumerate():
        held = mr.Box([*chosen, -1, -1], [*chosen, 1, 1])
        best = max(best, mr.argmax(network, [0.5], held, solver="branch_and_bound").value)
    assert result.status == "optimal"
    assert agree(result.value, best)
    assert set(result.action[:4]) <= {0.0, 1.0}


def test_what_cannot_be_searched_is_refused():
    network = mr.QNetwork(1, 5)
    assigned = mr.Capacity([3, 2, 4], [4, 3]) * mr.Box([0, 0], [1, 5], integer=[1])
    with pytest.raises(ValueError, match=r"1 continuous and 1 integer variables and .* auxiliary"):
        mr.ArgmaxSolver(network, assigned, solver="branch_and_bound")
    with pytest.raises(ValueError, match="cannot be listed"):
        mr.ArgmaxSolver(network, assigned, solver="enumeration")
    assert "continuous" in mr.argmax(network, [0.0], assigned).message


def test_limits_leave_a_bound_that_holds(random_network):
    network = random_network(np.random.default_rng(1), 3, (16, 16))
    space = mr.Box([-5] * 3, [5] * 3)
    exact = mr.argmax(network, [], space, solver="branch_and_bound")
    for limits in ({"node_limit": 3}, {"time_limit": 1e-9}, {"gap": 0.5}, {"absolute_gap": 1.0}):
        result = mr.argmax(network, [], space, solver="branch_and_bound", **limits)
        assert result.value <= exact.value + 1e-6 <= result.bound + 2e-6
        assert space.violations(result.action) == []
        assert result.status == ("feasible" if "limit" in next(iter(limits)) else "optimal")


def test_a_start_is_used_and_checked(random_network):
    network = random_network(np.random.default_rng(1), 2, (8, 8))
    space = mr.Box([-1, -1], [1, 1], matrix=[[1, 1]], right=[1])
    solver = mr.ArgmaxSolver(network, space)
    exact = solver.solve([])
    stopped = mr.ArgmaxSolver(network, space, solver="branch_and_bound", node_limit=1)
    assert agree(stopped.solve([], start=exact.action).value, exact.value)
    with pytest.raises(ValueError, match="start is not feasible"):
        solver.solve([], start=[1, 1])


def test_batches_and_updates_do_not_mix_states():
    generator = torch.Generator().manual_seed(0)
    first, second = (mr.QNetwork(2, 2, (8,), generator=generator) for _ in range(2))
    space = mr.Box([-1, -1], [1, 1])
    solver = mr.ArgmaxSolver(first, space)
    states = np.random.default_rng(0).random((40, 2))
    batch = solver.solve_batch(states, workers=1)
    for state, result in zip(states, batch, strict=True):
        assert agree(solver.solve(state).value, result.value)
    solver.update(second)
    assert agree(solver.solve(states[0]).value, mr.argmax(second, states[0], space).value)
    assert SpatialArgmax(mr.to_network(first), space).solve(np.zeros((0, 2)), SolveOptions()) == []


def test_a_box_in_a_model_of_ones_own(random_network):
    import pyomo.environ as pyo

    network = random_network(np.random.default_rng(2), 2, (6, 6))
    space = mr.Box([-1, -1], [1, 1], matrix=[[1, 2]], right=[1])
    model = pyo.ConcreteModel()
    model.dose = pyo.Block()
    dose = space.add_to(model.dose)
    model.q = pyo.Block()
    value = mr.add_network(model.q, network, dose, space=space)
    model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    result = mr.solve_model(model)
    assert agree(result.value, mr.argmax(network, [], space).value)


def test_nodes_that_fill_the_room_end_a_search_with_a_bound_that_holds(random_network, monkeypatch):
    network = random_network(np.random.default_rng(0), 6, (24, 24))
    space, states = mr.Box([-1.0] * 4, [1.0] * 4), np.random.default_rng(5).normal(size=(6, 2))
    solver = mr.ArgmaxSolver(network, space, solver="branch_and_bound")
    whole = solver.solve_batch(states, workers=1)
    assert {r.status for r in whole} == {"optimal"}
    assert max(r.nodes for r in whole) > 3 * min(r.nodes for r in whole)
    monkeypatch.setattr(spatial, "_MOST_BYTES", 100_000)
    some = solver.solve_batch(states, workers=1)
    unfinished = [r for r in some if r.status == "feasible"]
    assert 0 < len(unfinished) < 6
    for found, best in zip(some, whole, strict=True):
        assert found.value <= best.value + 1e-6
        assert found.bound >= best.value - 1e-9
    assert all("no room for more" in r.message for r in unfinished)


@pytest.mark.parametrize("solver", ["auto", "branch_and_bound"])
@pytest.mark.parametrize("part", [False, True])
def test_solvers_over_boxes_are_pickled_before_and_after_a_solve(solver, part, random_network):
    rng = np.random.default_rng(0)
    box = mr.Box([0, 0.0], [3, 3.0], integer=[0], matrix=[[1.0, 2.0]], right=[4.0])
    space = box * mr.BudgetTopK(3, 1) if part else box
    made = mr.ArgmaxSolver(random_network(rng, space.n_actions, (6, 6)), space, solver=solver)
    states = np.zeros((2, 0))
    before = pickle.loads(pickle.dumps(made))
    values = [result.value for result in made.solve_batch(states)]
    for copied in (before, pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert [result.value for result in copied.solve_batch(states)] == values
