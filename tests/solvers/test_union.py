"""The argmax over unions, in every solver, against all actions or the members one by one."""

from __future__ import annotations

import importlib.util

import numpy as np
import pyomo.environ as pyo
import pytest

import milp_rl as mr
from tests.formulations.spaces.test_integer import Orders
from tests.formulations.spaces.test_union import BINARY, WHOLE
from tests.solvers.test_skips import skipping

SOLVERS = ["auto", "enumeration", "branch_and_bound", "highs", "gurobi"]
SOLVERS += ["scip"] if importlib.util.find_spec("pyscipopt") else []
SPACES = {name: space for name, (space, _) in (BINARY | WHOLE).items()}
BOXES = [mr.Box([0, 0], [1, 1], matrix=[[1, 1]], right=[1]), mr.Box([2, 0], [3, 2], integer=[0])]


def agree(first, second):
    return abs(first - second) <= 4e-6 * max(1.0, abs(first))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", SPACES)
def test_all_solvers_against_all_actions(name, solver, random_network):
    """Also within masks, drawn for each state."""
    space = SPACES[name]
    actions, n = space.enumerate(), space.n_actions
    for seed in range(2):
        rng = np.random.default_rng(seed)
        network = random_network(rng, n + 1, (7, 5)) if seed else skipping(rng, n + 1)
        states = rng.normal(size=(2, 1))
        available = np.ones((2, n), bool)
        available[1] = (rng.random(n) < 0.7) | space.integer
        sense, sign = (("minimize", -1), ("maximize", 1))[seed]
        solving = mr.ArgmaxSolver(network, space, solver=solver, sense=sense)
        results = solving.solve_batch(states, available=available)
        for state, mask, result in zip(states, available, results, strict=True):
            kept = actions[(actions[:, ~mask] == 0).all(axis=1)]
            if not len(kept):
                assert result.status == "infeasible"
                continue
            inputs = np.column_stack([kept, np.tile(state, (len(kept), 1))])
            best = sign * (sign * network.forward(inputs)).max()
            assert result.status == "optimal"
            assert agree(best, result.value)
            assert space.violations(result.action) == []
            assert result.action.dtype == space.dtype


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "enumeration"])
def test_continuous_members_one_by_one(solver, random_network):
    rng = np.random.default_rng(0)
    ring = BOXES[0] | BOXES[1]
    limit = mr.Box([0, 0], [9, 9], matrix=[[1, 3]], right=[5])
    pairs = mr.BudgetTopK(2, 1) | mr.BudgetTopK(2, 2, exactly=True)
    cases = {
        ring: BOXES,
        ring & limit: [mr.Intersection([box, limit]) for box in BOXES],
        pairs * ring: [member * box for member in pairs.members for box in BOXES],
    }
    for space, members in cases.items():
        network = random_network(rng, space.n_actions, (7, 5))
        values = [mr.argmax(network, [], member, solver="highs").value for member in members]
        result = mr.argmax(network, [], space, solver=solver)
        assert result.status == "optimal"
        assert agree(max(values), result.value)
        assert space.violations(result.action) == []


def test_the_native_search_goes_through_the_alternatives(random_network):
    network = random_network(np.random.default_rng(3), 2, (8, 8))
    result = mr.argmax(network, [], BOXES[0] | BOXES[1], solver="branch_and_bound")
    assert "searched 2 alternatives" in result.message
    both = Orders() | mr.Box([3] * 3, [5] * 3, integer=range(3))
    with pytest.raises(ValueError, match="this Orders has 3 integer variables and 1 auxiliary"):
        mr.ArgmaxSolver(mr.QNetwork(1, 3), both, solver="branch_and_bound")


@pytest.mark.parametrize("solver", ["auto", "branch_and_bound", "enumeration", "highs"])
def test_the_n_best_of_a_union(solver, random_network):
    space = SPACES["no member has both"]
    network = random_network(np.random.default_rng(2), 5, (6,))
    values = np.sort(network.forward(space.enumerate())[:, 0])[::-1]
    ranked = mr.ArgmaxSolver(network, space, solver=solver).solve_top([], 6)
    np.testing.assert_allclose([result.value for result in ranked], values[:6], atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_union_of_a_call(solver, random_network):
    rng = np.random.default_rng(5)
    network = random_network(rng, 6, (6,))
    solving = mr.ArgmaxSolver(network, mr.BudgetTopK(5, 5), solver=solver)
    space = SPACES["no member has both"]
    actions = space.enumerate()
    result = solving.solve([0.5], space=space)
    assert agree(
        network.forward(np.column_stack([actions, np.full(len(actions), 0.5)])).max(), result.value
    )
    owner = next(own for own in space.members if not own.violations(result.action))
    assert list(result.solution.values()) == [owner.decode(result.action)]


def test_in_a_model_of_ones_own(random_network):
    space = SPACES["cut"]
    network = random_network(np.random.default_rng(0), 2, (6,))
    model = pyo.ConcreteModel()
    model.space, model.network = pyo.Block(), pyo.Block()
    variables = space.add_to(model.space)
    output = mr.add_network(model.network, network, variables, space=space)
    model.value = pyo.Objective(expr=output, sense=pyo.minimize)
    result = mr.solve_model(model)
    assert result.status == "optimal"
    assert agree(network.forward(space.enumerate()).min(), result.value)


@pytest.mark.parametrize("space", [SPACES["cut"], Orders()], ids=["union", "orders"])
def test_in_a_gurobipy_model(space, random_network):
    gp = pytest.importorskip("gurobipy")
    network = random_network(np.random.default_rng(1), space.n_actions, (6,))
    model = gp.Model(env=gp.Env(params={"OutputFlag": 0}))
    variables = space.add_to(model)
    output = mr.add_network(model, network, variables)
    model.setObjective(output, gp.GRB.MAXIMIZE)
    model.optimize()
    assert agree(network.forward(space.enumerate()).max(), model.ObjVal)
    assert space.violations([variable.X for variable in variables]) == []
