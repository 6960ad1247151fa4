"""Tree ensembles in models of one's own, against enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
from sklearn import ensemble

import milp_rl as mr
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.networks.trees_reader import read_trees
from milp_rl.formulations.spaces.contradictions import ContradictionError

N = 5
ALL = np.array(list(itertools.product((0.0, 1.0), repeat=N)))


def _fitted(rng: np.random.Generator, width: int, levels: int = 1) -> Any:
    x = rng.normal(size=(400, width))
    x[:, :N] = rng.integers(0, levels + 1, (400, N))
    y = np.sin(x @ rng.normal(size=width)) + x[:, 0] * x[:, 1]
    kinds = (
        ensemble.RandomForestRegressor(4, max_depth=5, random_state=0),
        ensemble.HistGradientBoostingRegressor(max_iter=8, random_state=0),
    )
    return kinds[int(rng.integers(2))].fit(x, y)


def _values(model: Any, points: Any, state: Any) -> Any:
    return model.predict(np.concatenate([points, np.tile(state, (len(points), 1))], axis=1))


@pytest.mark.parametrize("seed", range(4))
def test_the_best_action_of_a_space(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trees, state = _fitted(rng, N + 2), rng.normal(size=2)
    space = mr.BudgetTopK(N, 3)
    model = pyo.ConcreteModel()
    model.space, model.q = pyo.Block(), pyo.Block()
    actions = space.add_to(model.space)
    value = mr.add_network(model.q, trees, [*actions, *state], space=space)
    model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    result = mr.solve_model(model)
    assert result.status == "optimal"
    best = _values(trees, ALL[ALL.sum(axis=1) <= 3], state).max()
    assert result.value == pytest.approx(best, abs=1e-6)
    chosen = np.array([[round(pyo.value(a)) for a in actions]])
    assert _values(trees, chosen, state)[0] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_value_in_a_constraint_of_integers_and_expressions(seed: int) -> None:
    """The cheapest point whose value is at least v; one input is an expression, one is fixed."""
    rng = np.random.default_rng(seed)
    trees, state = _fitted(rng, N + 1, levels=3), rng.normal(size=1)
    costs = rng.random(4)
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(4), domain=pyo.Integers, bounds=(0, 3))
    model.x[3].fix(2)
    model.s = pyo.Var(bounds=(-5, 5))
    model.s.fix(float(state[0]))
    model.q = pyo.Block()
    inputs = [*model.x.values(), 3 - model.x[0], float(state[0])]
    value = mr.add_network(model.q, read_trees(trees), inputs)
    points = np.array(list(itertools.product(range(4), repeat=3)), dtype=float)
    points = np.column_stack([points, np.full(len(points), 2.0), 3 - points[:, 0]])
    values = _values(trees, points, state)
    least = float(np.quantile(values, 0.8))
    model.good = pyo.Constraint(expr=value >= least)
    model.objective = pyo.Objective(expr=sum(costs[i] * model.x[i] for i in range(4)))
    result = mr.solve_model(model)
    assert result.status == "optimal"
    expected = (points[:, :4] @ costs)[values >= least - 1e-9].min()
    assert result.value == pytest.approx(expected, abs=1e-6)


def test_continuous_inputs_and_wrong_ones_are_refused() -> None:
    rng = np.random.default_rng(0)
    trees = _fitted(rng, N + 1)
    model = pyo.ConcreteModel()
    model.a = pyo.Var(range(N), domain=pyo.Binary)
    model.s = pyo.Var(bounds=(-5, 5))
    model.q = pyo.Block()
    actions = list(model.a.values())
    with pytest.raises(ValueError, match=f"compare input {N}, which is continuous"):
        mr.add_network(model.q, trees, [*actions, model.s])
    with pytest.raises(ValueError, match="compare input 0, which is continuous"):
        mr.add_network(model.q, trees, [0.7 * model.a[0], *actions[1:], 0.0])
    with pytest.raises(ValueError, match="take 6 inputs, got 5"):
        mr.add_network(model.q, trees, actions)
    with pytest.raises(ValueError, match="all inputs are numbers"):
        mr.add_network(model.q, trees, [0.0] * 6)
    x = rng.normal(size=(50, 2))
    poisson = ensemble.HistGradientBoostingRegressor(max_iter=2, loss="poisson", min_samples_leaf=2)
    poisson.fit(x, x[:, 0] ** 2)
    with pytest.raises(ValueError, match="goes through exp"):
        mr.add_network(model.q, poisson, actions[:2])


def test_integers_within_a_solvers_tolerance_are_on_their_side_of_a_threshold() -> None:
    one = np.array([[1, 2], [0, 0], [0, 0]])
    trees = TreeEnsemble([0, -1, -1], [1e-35, 0, 0], one, [0, 2, 3], [0], 1)
    model = pyo.ConcreteModel()
    model.a, model.q = pyo.Var(domain=pyo.Binary), pyo.Block()
    mr.add_network(model.q, trees, [model.a])
    checked = model.q.milp_rl_network.network
    assert checked.forward([[-1e-9], [1e-9], [1 - 1e-9]])[:, 0].tolist() == [2.0, 2.0, 3.0]


def test_a_wrong_row_is_noticed() -> None:
    rng = np.random.default_rng(1)
    trees = _fitted(rng, N)
    model = pyo.ConcreteModel()
    model.a = pyo.Var(range(N), domain=pyo.Binary)
    model.q = pyo.Block()
    value = mr.add_network(model.q, trees, list(model.a.values()))
    for row in model.q.trees.rows.values():
        row.deactivate()
    model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    with pytest.raises(ContradictionError, match="the forward pass gives"):
        mr.solve_model(model)


class TestGurobi:
    """The same in gurobipy models."""

    @pytest.fixture
    def model(self) -> Any:
        gurobipy = pytest.importorskip("gurobipy")
        with gurobipy.Env(params={"OutputFlag": 0}) as env, gurobipy.Model(env=env) as model:
            yield model

    @pytest.mark.parametrize("seed", range(4))
    def test_trees_are_maximised(self, seed: int, model: Any) -> None:
        rng = np.random.default_rng(seed)
        trees, state = _fitted(rng, N + 2, levels=3), rng.normal(size=2)
        x = model.addVars(N - 1, vtype="I", lb=0, ub=3)
        model.addConstr(x.sum() <= 5)
        entries = [*x.values(), 3 - x[0], *state]
        value = mr.add_network(model, trees, entries)
        model.setObjective(value, -1)
        model.optimize()
        points = np.array(list(itertools.product(range(4), repeat=N - 1)), dtype=float)
        points = points[points.sum(axis=1) <= 5]
        points = np.column_stack([points, 3 - points[:, 0]])
        assert model.ObjVal == pytest.approx(_values(trees, points, state).max(), abs=1e-6)

    def test_continuous_inputs_are_refused(self, model: Any) -> None:
        rng = np.random.default_rng(0)
        trees = _fitted(rng, N)
        x = model.addVars(N, lb=0, ub=1)
        with pytest.raises(ValueError, match="compare input 0, which is continuous"):
            mr.add_network(model, trees, x.values())
