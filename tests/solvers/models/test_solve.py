"""`solve_model` on users' own models, with and without our blocks."""

import pyomo.environ as pyo
import pytest

from milp_rl.solvers.models.solve import solve_model

pytestmark = pytest.mark.parametrize("solver", ["highs", "gurobi", "scip"])


@pytest.fixture
def model():
    """Integers, a continuous variable, a range: min x - 2y at x = -1, y = 4."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(domain=pyo.Integers, bounds=(-3, 9))
    m.y = pyo.Var(bounds=(0, 4))
    m.range = pyo.Constraint(expr=(1, 2 * m.x + m.y, 7.5))
    m.objective = pyo.Objective(expr=m.x - 2 * m.y)
    return m


def test_a_minimum_is_loaded_into_the_variables(model, solver):
    result = solve_model(model, solver=solver)
    assert (result.status, result.solver) == ("optimal", solver)
    assert result.value == pytest.approx(-9.0)
    assert result.bound <= result.value + 1e-9
    assert (pyo.value(model.x), pyo.value(model.y)) == pytest.approx((-1, 4))


def test_fixed_variables_stay(model, solver):
    model.x.fix(2)
    result = solve_model(model, solver=solver)
    assert result.value == pytest.approx(-5.0)
    assert pyo.value(model.x) == 2
    model.y.fix(1)
    model.range.deactivate()
    assert solve_model(model, solver=solver).value == pytest.approx(0.0)  # nothing left to choose


def test_an_infeasible_model_says_so_and_loads_nothing(model, solver):
    model.impossible = pyo.Constraint(expr=model.x >= 20)
    result = solve_model(model, solver=solver)
    assert result.status == "infeasible"
    assert model.x.value is None


def test_an_unbounded_model_says_so(solver):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(domain=pyo.NonNegativeReals)
    m.objective = pyo.Objective(expr=m.x, sense=pyo.maximize)
    result = solve_model(m, solver=solver)
    assert (result.status, result.bound) == ("unbounded", float("inf"))
    assert m.x.value is None
    m.empty = pyo.Constraint(expr=m.x <= -1)  # whose relaxation is empty, not unbounded
    assert solve_model(m, solver=solver).status == "infeasible"


def test_a_model_without_objective_is_refused(solver):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(0, 1))
    with pytest.raises(ValueError, match="needs one active objective, it has 0"):
        solve_model(m, solver=solver)
