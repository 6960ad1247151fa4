"""A state that changes between solves of one model, against argmax at that state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
import torch
from sklearn import ensemble

import milp_rl as mr
from tests.solvers.test_skips import Varying

N = 4
SPACE = mr.BudgetTopK(N, 2)
STATES = [[0.5, 0.5], [-1.5, 1.0], [1.8, -1.2], [0.5, 0.5]]


def network(kind: str) -> Any:
    if kind == "any function of the state":
        return Varying(np.random.default_rng(4), N, 2)
    if kind == "trees":
        rng = np.random.default_rng(0)
        x = np.column_stack([rng.integers(0, 2, (300, N)), rng.uniform(-2, 2, (300, 2))])
        y = np.sin(3 * x[:, N]) * x[:, 0] + x[:, 1] * x[:, N + 1] - 0.3 * x[:, 2]
        return ensemble.RandomForestRegressor(4, max_depth=5, random_state=0).fit(x, y)
    made = mr.QNetwork(2, N, (8, 6), generator=torch.Generator().manual_seed(2))
    return mr.to_network(made)


@pytest.mark.parametrize("state", ["param", "fixed variable"])
@pytest.mark.parametrize("kind", ["bigm", "partition", "any function of the state", "trees"])
def test_a_changed_state_gives_the_new_optimum(kind: str, state: str) -> None:
    value_of = network(kind)
    model = pyo.ConcreteModel()
    model.space, model.q = pyo.Block(), pyo.Block()
    actions = SPACE.add_to(model.space)
    if state == "param":
        model.state = pyo.Param(range(2), initialize=0.5, mutable=True)
    else:
        model.state = pyo.Var(range(2), bounds=(-1, 1))
        model.state.fix(0.5)

    def change(i: int, number: float) -> None:
        if state == "param":
            model.state[i] = number
        else:
            model.state[i].setlb(-2)
            model.state[i].setub(2)
            model.state[i].fix(number)

    options = {"formulation": kind} if kind == "partition" else {}
    inputs = [*actions, *model.state.values()]
    value = mr.add_network(model.q, value_of, inputs, space=SPACE, **options)
    model.limit = pyo.Constraint(expr=value <= 1e6)
    model.objective = pyo.Objective(expr=value - 0.1, sense=pyo.maximize)
    found = []
    for numbers in STATES:
        for i in range(2):
            change(i, numbers[i])
        result = mr.solve_model(model)
        assert result.status == "optimal"
        best = mr.argmax(value_of, numbers, SPACE).value
        assert result.value == pytest.approx(best - 0.1, abs=1e-5)
        assert pyo.value(value) == pytest.approx(best, abs=1e-5)
        assert mr.check_solution(model) == []
        found.append(result.value)
    assert found[0] == pytest.approx(found[3], abs=1e-5)
    assert max(found) > min(found) + 1e-3
    change(0, 1.77)
    assert mr.check_solution(model) != []
    change(0, float("nan"))
    with pytest.raises(ValueError, match=r"input 4 \(state\[0\]\) is nan"):
        mr.solve_model(model)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("any function of the state", "the others are the state, .* must be numbers"),
        ("trees", "the trees compare input 4, which is continuous"),
    ],
)
def test_a_state_set_free_is_an_error(kind: str, message: str) -> None:
    model = pyo.ConcreteModel()
    model.space, model.q = pyo.Block(), pyo.Block()
    actions = SPACE.add_to(model.space)
    model.state = pyo.Var(range(2), bounds=(-2, 2))
    model.state.fix(0.5)
    inputs = [*actions, *model.state.values()]
    value = mr.add_network(model.q, network(kind), inputs, space=SPACE)
    model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    assert mr.solve_model(model).status == "optimal"
    model.state[0].unfix()
    with pytest.raises(ValueError, match=message):
        mr.solve_model(model)


def test_a_wider_range_gives_the_new_optimum() -> None:
    """The output stands in constraints, the network is solved for again and the model cloned."""
    value_of = network("bigm")
    model = pyo.ConcreteModel()
    model.space, model.q = pyo.Block(), pyo.Block()
    actions = SPACE.add_to(model.space)
    model.state = pyo.Var(range(2), bounds=(0, 1))
    inputs = [*actions, *model.state.values()]
    value = mr.add_network(model.q, value_of, inputs, space=SPACE)
    model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    model.own = pyo.Constraint(expr=value >= -1e6)
    mr.solve_model(model)
    for variable, now in zip(model.state.values(), (-6.0, 9.0), strict=True):
        variable.setlb(-10)
        variable.setub(10)
        variable.fix(now)
    best = mr.argmax(value_of, [-6.0, 9.0], SPACE).value
    assert mr.solve_model(model).value == pytest.approx(best, abs=1e-5)
    for other in (model, model.clone()):
        other.state[0].fix(4.0)
        best = mr.argmax(value_of, [4.0, 9.0], SPACE).value
        assert mr.solve_model(other).value == pytest.approx(best, abs=1e-5)
        assert mr.check_solution(other) == []
