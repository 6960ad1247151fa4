import numpy as np
import pyomo.environ as pyo
import pytest

from milp_rl.formulations.milp.linear_model import InfeasibleRowError, compile_pyomo


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


NAN, INF = float("nan"), float("inf")


def broken(change):
    """A sound model, but for one change."""
    m = pyo.ConcreteModel()
    m.p = pyo.Param(initialize=1.0, mutable=True, within=pyo.Any)
    m.x = pyo.Var(range(2), domain=pyo.Binary)
    m.f = pyo.Var(bounds=(0, 1))
    m.f.fix(1)
    m.cost = pyo.Objective(expr=m.x[0] + m.x[1], sense=pyo.maximize)
    m.inner = pyo.Block()
    change(m)
    return m


def row(make):
    return lambda m: m.inner.add_component("row", pyo.Constraint(expr=make(m)))


def with_param(value, make):
    def change(m):
        m.p = value
        make(m)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            row(lambda m: m.x[0] * NAN + m.x[1] <= 1),
            r"inner\.row: the coefficient of x\[0\] is nan",
        ),
        (row(lambda m: m.x[0] * INF <= 1), r"inner\.row: the coefficient of x\[0\] is inf"),
        (row(lambda m: m.x[0] <= NAN), r"inner\.row: its upper side is nan"),
        (row(lambda m: m.x[0] >= INF), r"inner\.row: its lower side is inf"),
        (row(lambda m: m.x[0] == INF), r"inner\.row: its lower side is inf"),
        (row(lambda m: m.x[0] - INF <= 1), r"inner\.row: its constant is -inf"),
        (with_param(NAN, row(lambda m: m.p * m.x[0] <= 1)), r"inner\.row: .* x\[0\] is nan"),
        (with_param(NAN, row(lambda m: m.x[0] + m.p <= 1)), r"inner\.row: its constant is nan"),
        (with_param(NAN, row(lambda m: m.f * m.p <= 1)), r"inner\.row: its constant is nan"),
        (lambda m: m.cost.set_value(m.x[0] * INF), r"objective cost: the coefficient of x\[0\]"),
        (with_param(NAN, lambda m: m.cost.set_value(m.x[0] + m.p)), "cost: its constant is nan"),
    ],
)
def test_a_number_that_is_not_finite_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        compile_pyomo(broken(change))


def test_a_bound_that_is_nan_is_named():
    m = broken(lambda m: m.f.setlb(NAN))
    m.f.unfix()
    m.use = pyo.Constraint(expr=m.f + m.x[0] <= 3)
    with pytest.raises(ValueError, match=r"'f' .*lower bound .nan"):
        compile_pyomo(m)


@pytest.mark.parametrize("value", [None, NAN])
def test_a_variable_fixed_to_no_number_is_named(value):
    m = broken(row(lambda m: m.f * m.x[0] + m.x[1] <= 1))
    m.f.fix(value, skip_validation=True)
    with pytest.raises(ValueError, match=r"inner\.row: the fixed variable f has the value"):
        compile_pyomo(m)


def test_infinite_sides_and_bounds_may_mean_none():
    m = broken(row(lambda m: (-INF, m.x[0] + m.x[1], 1)))
    m.free = pyo.Var(bounds=(-INF, INF))
    m.more = pyo.Constraint(expr=m.free + m.x[0] <= m.p)
    m.p = INF
    model, _ = compile_pyomo(m)
    assert model.row_upper[np.isfinite(model.row_upper)].tolist() == [1.0]
    assert np.isinf([model.column_lower[2], model.column_upper[2]]).all()


@pytest.mark.parametrize(
    ("domain", "shown"),
    [
        (pyo.Set(initialize=[0, 3, 7]), "{.*0.*3.*7.*}"),
        (pyo.RangeSet(0, 10, 2), "0:10:2"),
        (pyo.Integers - pyo.RangeSet(3, 5), "{"),
        (pyo.NonNegativeReals | pyo.RangeSet(-5, -3, 0), "{"),
        (pyo.Set(initialize=[0.5, 1.5]), "{"),
    ],
)
def test_a_domain_with_gaps_is_refused(domain, shown):
    m = pyo.ConcreteModel()
    m.d = domain
    m.x = pyo.Var(domain=m.d)
    m.o = pyo.Objective(expr=m.x)
    with pytest.raises(ValueError, match=f"variable x has the domain .*{shown}.* gaps"):
        compile_pyomo(m)


@pytest.mark.parametrize(
    ("domain", "integer"),
    [(pyo.Set(initialize=[1, 2, 3]), True), (pyo.RangeSet(4), True), (pyo.Any, False)],
)
def test_a_domain_without_gaps_is_kept(domain, integer):
    m = pyo.ConcreteModel()
    m.x = pyo.Var(domain=domain)
    m.o = pyo.Objective(expr=m.x)
    assert compile_pyomo(m)[0].integer.tolist() == [integer]


def test_a_row_of_fixed_variables_that_does_not_hold_is_called_infeasible():
    m = broken(row(lambda m: m.f >= 2))
    with pytest.raises(InfeasibleRowError, match=r"infeasible constraint, 'inner\.row'"):
        compile_pyomo(m)
