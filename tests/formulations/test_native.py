"""Spaces, networks and trees in gurobipy and PySCIPOpt models, against enumeration and argmax."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from sklearn import ensemble
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

import milp_rl as mr
from milp_rl.formulations.native import native_model
from milp_rl.formulations.testing import all_actions
from tests.solvers.test_skips import skipping

N = 6
ALL = np.array(list(itertools.product((0, 1), repeat=N)), dtype=float)


class Gurobi:
    def __init__(self) -> None:
        gurobipy = pytest.importorskip("gurobipy")
        self.model = gurobipy.Model(env=gurobipy.Env(params={"OutputFlag": 0}))

    def variable(self, kind: str = "B", low: float = 0, high: float = 1) -> Any:
        return self.model.addVar(vtype=kind, lb=low, ub=high)

    def add(self, row: Any, name: str = "") -> None:
        self.model.addConstr(row, name)

    def maximise(self, value: Any) -> float:
        self.model.setObjective(value, -1)
        self.model.optimize()
        return float(self.model.ObjVal)

    def value(self, variable: Any) -> float:
        return float(variable.X)

    def widen(self, variable: Any, high: float) -> None:
        variable.UB = high

    def loosen(self) -> None:
        self.model.Params.Presolve = 0
        self.model.Params.IntFeasTol = 0.1


class Scip:
    def __init__(self) -> None:
        self.model = pytest.importorskip("pyscipopt").Model()
        self.model.hideOutput()

    def variable(self, kind: str = "B", low: float = 0, high: float = 1) -> Any:
        return self.model.addVar(vtype=kind, lb=low, ub=high)

    def add(self, row: Any, name: str = "") -> None:
        self.model.addCons(row, name)

    def maximise(self, value: Any) -> float:
        self.model.setPresolve(3)  # off: SCIP 10.0's loses optima of partition models
        self.model.setObjective(value, "maximize")
        self.model.optimize()
        return float(self.model.getObjVal())

    def value(self, variable: Any) -> float:
        return float(self.model.getVal(variable))

    def widen(self, variable: Any, high: float) -> None:
        self.model.chgVarUb(variable, high)

    def loosen(self) -> None:
        self.model.setParams({"numerics/feastol": 1e-3, "numerics/sumepsilon": 1e-3})


@pytest.fixture(params=[Gurobi, Scip])
def own(request: Any) -> Any:
    return request.param()


SPACES = [
    mr.BudgetTopK(N, 3, exactly=True),
    mr.Capacity([1, 2, 2, 3, 1, 1], [3, 2]),
    mr.Routing(nx.Graph([(0, 1), (1, 2), (2, 3), (3, 0), (1, 4)]), 0, 4, budget=2),
    mr.Scheduling([[1, 1, 0], [0, 1, 1]], [[1, 0, 1], [1, 1, 0], [0, 1, 1], [0, 0, 1]], 1, 3),
    mr.FactoredValidity({"a": ["x", "y", "z"], "b": ["u", "v"]}, forbidden=[("x", "u")]),
    mr.Matching([[1, 1, 0], [0, 1, 1]], 1),
    mr.Permutation(3),
    mr.BudgetTopK(N, 4) & mr.Precedence(N, [(0, 1), (2, 3)]),
]


def feasible_actions(space: Any) -> Any:
    everything = all_actions(space.n_actions)
    return everything[[not space.violations(action) for action in everything]]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_the_best_action_of_a_space(own: Any, space: Any, random_network: Any) -> None:
    """One network with skips is maximised, another limited, against all feasible actions."""
    rng = np.random.default_rng(space.n_actions)
    state = rng.random(2)
    network = skipping(rng, space.n_actions + 2)
    other = random_network(rng, space.n_actions, (5,))
    actions = space.add_to(own.model)
    value = mr.add_network(own.model, network, [*actions, *state], space=space)
    limited = mr.add_network(own.model, other, actions, space=space)
    feasible = feasible_actions(space)
    risks = other.forward(feasible)[:, 0]
    limit = float(np.median(risks))
    own.add(limited <= limit)
    allowed = feasible[risks <= limit]
    best = network.forward(np.column_stack([allowed, np.tile(state, (len(allowed), 1))])).max()
    assert own.maximise(value) == pytest.approx(best, abs=1e-5)
    action = np.rint([own.value(a) for a in actions])
    assert space.violations(action) == []
    assert network.forward([*action, *state])[0] == pytest.approx(best, abs=1e-5)
    assert mr.check_solution(own.model, tolerance=1e-5) == []


def test_continuous_variables_of_a_space(own: Any, random_network: Any) -> None:
    space = mr.Box([0.0, -1, 0, 0], [1, 2, 1, 1], matrix=[[1, 1, 1, 1]], right=[2], binary=[2, 3])
    network = random_network(np.random.default_rng(4), 4, (6,))
    value = mr.add_network(own.model, network, space.add_to(own.model), space=space)
    assert own.maximise(value) == pytest.approx(mr.argmax(network, [], space).value, abs=1e-5)
    assert mr.check_solution(own.model, tolerance=1e-5) == []


@pytest.mark.parametrize("formulation", ["bigm", "partition"])
def test_variables_of_ones_own_and_values_in_constraints(
    own: Any, formulation: Any, random_network: Any
) -> None:
    """One output is maximised, another limited; inputs are expressions, numbers, twice the same."""
    rng = np.random.default_rng(2)
    network = random_network(rng, N + 2, (6, 4), n_outputs=2)
    x = [own.variable() for _ in range(N)]
    given = mr.BudgetTopK(N, 3).add_to(own.model, x)
    inputs = [*given, 2 * x[0] - x[1] + 0.5, x[2]]
    first, second = mr.add_network(own.model, network, inputs, formulation=formulation, bounds="lp")
    chosen = ALL[ALL.sum(axis=1) <= 3]
    outputs = network.forward(
        np.column_stack([chosen, 2 * chosen[:, 0] - chosen[:, 1] + 0.5, chosen[:, 2]])
    )
    limit = float(np.median(outputs[:, 1]))
    own.add(second <= limit)
    expected = outputs[outputs[:, 1] <= limit, 0].max()
    assert own.maximise(first) == pytest.approx(expected, abs=1e-5)
    assert mr.check_solution(own.model, tolerance=1e-5) == []


def test_trees(own: Any) -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 2, (300, N + 1)).astype(float)
    y = np.sin(x @ rng.normal(size=N + 1)) + x[:, 0] * x[:, 1]
    trees = ensemble.RandomForestRegressor(4, max_depth=4, random_state=0).fit(x, y)
    space = mr.BudgetTopK(N, 3)
    actions = space.add_to(own.model)
    value = mr.add_network(own.model, trees, [*actions, 1.0], space=space)
    points = np.column_stack([ALL, np.ones(len(ALL))])[ALL.sum(axis=1) <= 3]
    assert own.maximise(value) == pytest.approx(trees.predict(points).max(), abs=1e-5)
    assert mr.check_solution(own.model, tolerance=1e-5) == []


def test_bounds_of_a_space_hold_for_given_variables(own: Any) -> None:
    wide = own.variable("C", -5, 5)
    mr.Box([-1.0], [2.0]).add_to(own.model, [wide])
    assert own.maximise(wide) == pytest.approx(2.0)


def test_wrong_variables_are_named(own: Any, random_network: Any) -> None:
    space = mr.BudgetTopK(2, 1)
    x, dose = own.variable(), own.variable("C")
    with pytest.raises(ValueError, match="must be binary"):
        space.add_to(own.model, [x, dose])
    with pytest.raises(ValueError, match="action 1 must be a variable"):
        space.add_to(own.model, [x, 2 * x])
    with pytest.raises(ValueError, match="2 actions, got 1"):
        space.add_to(own.model, [x])
    network = random_network(np.random.default_rng(0), 2, (3,))
    with pytest.raises(ValueError, match="input 1: "):
        mr.add_network(own.model, network, [x, x * dose])
    with pytest.raises(ValueError, match="input 1 has bounds"):
        mr.add_network(own.model, network, [x, own.variable("C", 0, 1e30)])
    other = type(own)()
    theirs = mr.BudgetTopK(1, 1).add_to(other.model)
    with pytest.raises(ValueError, match="variable 1 of those given is of another model"):
        mr.add_network(own.model, network, [x, *theirs])
    with pytest.raises(ValueError, match="variable 1 of those given is of another model"):
        space.add_to(own.model, [x, *theirs])
    with pytest.raises(ValueError, match="no solution to check"):
        mr.check_solution(own.model)
    with pytest.raises(ValueError, match="one of Pyomo, gurobipy or PySCIPOpt, got list"):
        mr.check_solution([])


def test_a_knapsack_with_two_regressors(own: Any) -> None:
    """Items have values of their own, a network says which go together, a forest what it costs."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 2, (200, N)).astype(float)
    weights, values = rng.integers(1, 9, N), rng.random(N)
    together = np.tanh(x @ rng.normal(size=N)) + x[:, 0] * x[:, 1]
    network = MLPRegressor(hidden_layer_sizes=(8,), max_iter=50, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(x, together)
    forest = ensemble.RandomForestRegressor(4, max_depth=3, random_state=0)
    forest.fit(x, np.sin(x @ rng.normal(size=N)))
    items = [own.variable() for _ in range(N)]
    own.add(sum(int(w) * item for w, item in zip(weights, items, strict=True)) <= 15, "knapsack")
    gain = sum(float(v) * item for v, item in zip(values, items, strict=True))
    gain = gain + mr.add_network(own.model, network, items)
    found = own.maximise(gain - mr.add_network(own.model, forest, items))
    within = ALL[ALL @ weights <= 15]
    expected = within @ values + network.predict(within) - forest.predict(within)
    assert found == pytest.approx(expected.max(), abs=1e-5)
    assert mr.check_solution(own.model, tolerance=1e-5) == []


def test_an_optimum_that_tolerances_made_up_is_refused(own: Any) -> None:
    """Opening a plant never pays, but a tenth of an opening is none to the solver."""
    amounts = [own.variable("C", 0, 5) for _ in range(3)]
    plants = [own.variable() for _ in range(3)]
    for i, (amount, plant) in enumerate(zip(amounts, plants, strict=True)):
        own.add(amount <= 6000 * plant, f"capacity{i}")
    own.loosen()
    claimed = own.maximise(sum(amounts) - 10 * sum(plants))
    assert claimed == pytest.approx(15, abs=0.1)
    found = mr.check_solution(own.model)
    for i in range(3):
        assert any(f"constraint capacity{i} is violated by 5 " in text for text in found)
    assert found[-1] == f"the solver's objective value is {claimed!r}, that of its solution 15.0"


def test_a_switch_that_a_tolerance_opened_is_reported(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row holds at a binary of 5e-8, which solvers take for 0, and not at 0."""
    on, flow = own.variable(), own.variable("C", 0, 5)
    own.add(flow <= 1e8 * on, "switch")
    own.maximise(flow - 100 * on)
    assert mr.check_solution(own.model) == []
    kind = type(native_model(own.model))
    solved = native_model(own.model).solved()

    def left(on: float, flow: float, value: float) -> None:
        found = replace(solved, x=np.array([on, flow]), value=value)
        monkeypatch.setattr(kind, "solved", lambda self: found)

    left(5e-8, 5.0, 5.0)
    assert any("constraint switch is violated by 5 " in t for t in mr.check_solution(own.model))
    left(0.5, 6.0, 6.0)
    found = mr.check_solution(own.model)
    assert any("is 0.5" in text for text in found)
    assert any("is 6.0, outside its bounds (0, 5)" in text for text in found)
    left(0.0, 0.0, 7.0)
    assert mr.check_solution(own.model) == [
        "the solver's objective value is 7.0, that of its solution 0.0"
    ]


def test_rows_that_are_not_linear_are_said_not_to_be_checked(own: Any) -> None:
    x = own.variable("C", 0, 5)
    own.add(x * x <= 4 + x, "curve")
    own.maximise(1.0 * x)
    with pytest.warns(UserWarning, match="1 constraints are not linear .* curve"):
        assert mr.check_solution(own.model) == []


def test_semi_continuous_variables_may_be_zero() -> None:
    own = Gurobi()
    own.maximise(-1.0 * own.variable("S", 2, 5))
    assert mr.check_solution(own.model) == []


def test_a_space_that_the_model_does_not_keep_is_reported(own: Any) -> None:
    x = [own.variable() for _ in range(3)]
    network = mr.Network.from_arrays([[[1.0, 0, 0]], [[1.0]]], [[0.0], [0.0]])
    value = mr.add_network(own.model, network, x, space=mr.BudgetTopK(3, 2))
    assert own.maximise(value + sum(x)) == pytest.approx(4)
    found = mr.check_solution(own.model)
    assert any("not in the space that add_network was given" in text for text in found)


def test_a_changed_range_is_reported(own: Any) -> None:
    x = own.variable("C", 0, 1)
    network = mr.Network.from_arrays([[[1.0]], [[1.0]]], [[-0.5], [0.0]])
    value = mr.add_network(own.model, network, [x])
    own.widen(x, 2)
    own.maximise(value)
    assert any("was between 0 and 1" in text for text in mr.check_solution(own.model))


def test_a_solution_of_pyomo() -> None:
    import pyomo.environ as pyo

    model = pyo.ConcreteModel()
    model.unused = pyo.Var()
    model.space, model.q = pyo.Block(), pyo.Block()
    actions = mr.BudgetTopK(2, 1).add_to(model.space)
    network = mr.Network.from_arrays([[[1.0, 2.0]], [[1.0]]], [[0.0], [0.0]])
    value = mr.add_network(model.q, network, actions)
    model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    with pytest.raises(ValueError, match="has no value"):
        mr.check_solution(model)
    pyo.SolverFactory("appsi_highs").solve(model)
    assert mr.check_solution(model) == []
    assert model.unused.value is None
    actions[0].set_value(1)
    found = mr.check_solution(model)
    assert any("not in the space BudgetTopK on space" in text for text in found)
    assert any("constraint space." in text for text in found)
    assert any("the forward pass gives 3.0" in text for text in found)
    assert actions[0].value == 1
    actions[0].set_value(0.4)
    assert any("is 0.4" in text for text in mr.check_solution(model))
    assert actions[0].value == 0.4
