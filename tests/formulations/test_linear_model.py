import numpy as np
import pyomo.environ as pyo
import pytest

from milp_rl.formulations.linear_model import compile_pyomo


def test_a_model_is_compiled_in_the_order_asked_for():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(0, 4))
    m.y = pyo.Var(domain=pyo.Integers, bounds=(-1, None))
    m.unused = pyo.Var(domain=pyo.Binary)
    m.equal = pyo.Constraint(expr=m.x + 2 * m.y == 3)
    m.range = pyo.Constraint(expr=(-1, m.x - m.y, 5))
    m.objective = pyo.Objective(expr=m.x - m.y + 7, sense=pyo.minimize)
    model, variables = compile_pyomo(m, [m.unused, m.y])
    assert [v.name for v in variables] == ["unused", "y", "x"]
    np.testing.assert_array_equal(model.objective, [0, 1, -1])  # minimised, so negated
    assert model.offset == -7
    np.testing.assert_array_equal(model.column_lower, [0, -1, 0])
    np.testing.assert_array_equal(model.column_upper, [1, np.inf, 4])
    np.testing.assert_array_equal(model.integer, [True, True, False])
    x = np.array([0.0, 1.0, 1.0])
    rows = model.matrix @ x
    assert np.all(rows >= model.row_lower - 1e-9)
    assert np.all(rows <= model.row_upper + 1e-9)
    x[2] = 4.0  # violates the equation
    rows = model.matrix @ x
    assert np.any(rows > model.row_upper) or np.any(rows < model.row_lower)


def test_nonlinear_models_and_several_objectives_are_refused():
    m = pyo.ConcreteModel()
    m.x = pyo.Var(bounds=(0, 1))
    m.first = pyo.Objective(expr=m.x)
    m.second = pyo.Objective(expr=2 * m.x)
    with pytest.raises(ValueError, match=r"several active objectives \(first, second\)"):
        compile_pyomo(m)
    m.second.deactivate()
    m.curve = pyo.Constraint(expr=m.x**2 <= 1)
    with pytest.raises(ValueError, match="not a mixed-integer linear model"):
        compile_pyomo(m)
