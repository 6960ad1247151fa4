"""A user's own rows at the point that is loaded, and the meaning of optimal in her model."""

import numpy as np
import pyomo.environ as pyo
import pytest
import torch

import milp_rl as mr
from milp_rl.formulations.milp.linear_model import LinearModel, compile_pyomo
from milp_rl.solvers.models.presolve import Scaled, tightened

SOLVERS = ["highs", "gurobi", "scip"]


def rows_hold(model, tolerance=1e-6):
    for row in model.component_data_objects(pyo.Constraint, active=True):
        body = pyo.value(row.body)
        assert row.lower is None or body >= pyo.value(row.lower) - tolerance
        assert row.upper is None or body <= pyo.value(row.upper) + tolerance
    for variable in model.component_data_objects(pyo.Var, active=True):
        if variable.is_integer():
            assert variable.value == round(variable.value)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("big", [1e5, 1e6, 1e7, 1e8])
@pytest.mark.parametrize("top", [0.09, 0.9, 5.0])
def test_a_switch_is_not_opened_by_a_tolerance(solver, big, top):
    """Opening costs 10 and gives at most 5: a binary of 1e-7 times 1e8 would give 5 for nothing."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var(domain=pyo.Binary)
    m.y = pyo.Var(bounds=(0, top))
    m.switch = pyo.Constraint(expr=m.y <= big * m.x)
    m.objective = pyo.Objective(expr=m.y - 10 * m.x, sense=pyo.maximize)
    result = mr.solve_model(m, solver=solver)
    assert result.status == "optimal"
    assert result.value == pytest.approx(0.0, abs=1e-6)
    assert result.bound == pytest.approx(0.0, abs=2e-5)
    rows_hold(m)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("big", [1e4, 1e7])
def test_a_switch_before_a_network_neither(solver, big):
    network = mr.to_network(mr.QNetwork(0, 6, (8, 8), generator=torch.Generator().manual_seed(1)))

    def solved(coefficient):
        m = pyo.ConcreteModel()
        m.x = pyo.Var(range(6), domain=pyo.Binary)
        m.y = pyo.Var(range(6), bounds=(0, 1))
        m.switch = pyo.Constraint(range(6), rule=lambda m, i: m.y[i] <= coefficient * m.x[i])
        m.n = pyo.Block()
        q = mr.add_network(m.n, network, [m.y[i] for i in range(6)])
        m.objective = pyo.Objective(expr=q - 0.05 * sum(m.x[:]), sense=pyo.maximize)
        result = mr.solve_model(m, solver=solver)
        assert result.status == "optimal"
        for i in range(6):
            assert m.y[i].value <= 1e-6 + coefficient * round(m.x[i].value)
        return result.value

    assert solved(big) == pytest.approx(solved(1.0), abs=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 1e8), (1e-6, 0.0), (1e-6, 5.0), (1e7, -1e9)])
def test_scale_and_level_of_the_objective_change_no_solution(solver, scale, shift):
    rng = np.random.default_rng(3)
    worth, weight = rng.integers(5, 60, 12), rng.integers(5, 40, 12)
    best = max(
        sum(worth[i] for i in range(12) if bits >> i & 1)
        for bits in range(2**12)
        if sum(weight[i] for i in range(12) if bits >> i & 1) <= 90
    )
    m = pyo.ConcreteModel()
    m.x = pyo.Var(range(12), domain=pyo.Binary)
    m.room = pyo.Constraint(expr=sum(int(weight[i]) * m.x[i] for i in range(12)) <= 90)
    value = sum(int(worth[i]) * m.x[i] for i in range(12))
    m.objective = pyo.Objective(expr=scale * value + shift, sense=pyo.maximize)
    result = mr.solve_model(m, solver=solver)
    assert result.status == "optimal"
    assert sum(worth[i] for i in range(12) if m.x[i].value == 1) == best
    assert result.gap == abs(result.bound - result.value) / abs(result.value)
    rows_hold(m)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_variable_fixed_anew_gives_the_new_optimum(solver):
    network = mr.to_network(mr.QNetwork(1, 3, (6,), generator=torch.Generator().manual_seed(0)))
    m = pyo.ConcreteModel()
    m.visit = pyo.Block()
    space = mr.BudgetTopK(3, 2)
    visit = space.add_to(m.visit)
    m.severity = pyo.Var(bounds=(0, 2))
    m.q = pyo.Block()
    value = mr.add_network(m.q, network, [*visit, m.severity], space=None)
    m.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    for severity in (0.5, 0.9, 1.7):
        m.severity.fix(severity)
        result = mr.solve_model(m, solver=solver)
        best = mr.argmax(network, [severity], space)
        assert result.status == "optimal"
        assert result.value == pytest.approx(best.value, abs=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_block_that_contradicts_itself_is_named_and_not_the_solver(solver):
    class Unwritten(mr.ActionSpace):
        n_actions = 4

        def constrain(self, block, actions):
            block.some = pyo.Constraint(expr=sum(actions) <= 4)

        def violations(self, action):
            chosen = int(self.check_action(action).sum())
            return [f"{chosen} chosen, at most 2"] if chosen > 2 else []

        def to_dict(self):
            return {"type": "Unwritten"}

    m = pyo.ConcreteModel()
    m.visit = pyo.Block()
    visit = Unwritten().add_to(m.visit)
    m.objective = pyo.Objective(expr=sum(visit), sense=pyo.maximize)
    with pytest.raises(
        mr.ContradictionError, match="Unwritten on visit contradicts itself"
    ) as error:
        mr.solve_model(m, solver=solver)
    assert solver not in str(error.value)
    assert all(v.value is None for v in visit)


def test_smaller_coefficients_and_other_units_hold_the_same_whole_points():
    """Big-M rows with random signs, some of the binaries' ends implied by other rows."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        n, rows = int(rng.integers(2, 6)), int(rng.integers(1, 6))
        matrix = rng.integers(-3, 4, (rows, n)) * 10.0 ** rng.integers(0, 5, (rows, n))
        right = rng.integers(-3, 5, rows) * 10.0 ** rng.integers(0, 4, rows)
        m = pyo.ConcreteModel()
        m.x = pyo.Var(range(n), domain=pyo.Binary)
        m.row = pyo.ConstraintList()
        for row, side in zip(matrix, right, strict=True):
            if row.any():
                body = sum(float(a) * m.x[i] for i, a in enumerate(row))
                m.row.add(body <= float(side) if rng.random() < 0.7 else body >= float(side))
        m.objective = pyo.Objective(expr=m.x[0])
        compiled, _ = compile_pyomo(m, list(m.x.values()))
        points = np.array(np.meshgrid(*[[0.0, 1.0]] * n)).reshape(n, -1)
        expected = holds(compiled, points)
        np.testing.assert_array_equal(holds(tightened(compiled), points), expected)
        scaled = Scaled.of(compiled)
        moved = (points - scaled.origin[:, None]) / scaled.unit[:, None]
        np.testing.assert_array_equal(holds(scaled.model, moved), expected)


def holds(model: LinearModel, points):
    sums = model.matrix @ points
    slack = 1e-7
    return (
        (sums <= model.row_upper[:, None] + slack) & (sums >= model.row_lower[:, None] - slack)
    ).all(axis=0)
