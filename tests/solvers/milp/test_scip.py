"""SCIP: the same optima, and a model on which its presolve loses the optimum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.milp.highs import new_highs
from milp_rl.formulations.networks.network import INPUT, Layer
from milp_rl.solvers.milp.scip import ScipSolver
from milp_rl.solvers.milp.solver import MilpSolver
from milp_rl.solvers.options import SolveOptions

pyscipopt = pytest.importorskip("pyscipopt")

LOST = Path(__file__).parent / "data" / "scip_presolve.lp"


def optimum(*parameters):
    model = pyscipopt.Model()
    model.hideOutput()
    model.readProblem(str(LOST))
    for name, value in parameters:
        model.setParam(name, value)
    model.optimize()
    assert model.getStatus() == "optimal"
    return model.getObjVal()


def test_presolve_loses_an_optimum_that_is_found_without_it():
    highs = new_highs()
    highs.readModel(str(LOST))
    highs.run()
    true = highs.getInfo().objective_function_value
    assert optimum(("presolving/maxrounds", 0)) == pytest.approx(true, abs=1e-6)
    if optimum() > true - 1e-6:
        pytest.fail("SCIP has been mended: presolve can be switched on for this version and later")


@pytest.mark.parametrize("formulation", ["bigm", "partition"])
@pytest.mark.parametrize("seed", range(3))
def test_the_optima_are_those_of_enumeration(seed, formulation, random_network):
    rng = np.random.default_rng(seed)
    network, space = random_network(rng, 8, (6, 6)), mr.BudgetTopK(6, 3)
    state = rng.normal(size=2)
    result = mr.argmax(network, state, space, solver="scip", formulation=formulation)
    assert result.status == "optimal"
    assert result.solver == "scip"
    best = mr.argmax(network, state, space, solver="enumeration")
    assert result.value == pytest.approx(best.value, abs=1e-6)


def test_limits_and_empty_sets(random_network):
    rng = np.random.default_rng(0)
    network = random_network(rng, 30, (32, 32))
    space = mr.BudgetTopK(30, 12)
    stopped = mr.argmax(network, [], space, solver="scip", time_limit=0.2)
    assert stopped.status == "feasible"
    assert stopped.bound > stopped.value
    assert space.violations(stopped.action) == []
    empty = mr.BudgetTopK(5, 1, exactly=True) & mr.BudgetTopK(5, 2, exactly=True)
    assert mr.argmax(mr.QNetwork(0, 5), [], empty, solver="scip").status == "infeasible"


def test_it_is_a_milp_solver_for_ones_own_model():
    import pyomo.environ as pyo

    solver: MilpSolver = ScipSolver()
    assert solver.name == "scip"
    model = pyo.ConcreteModel()
    actions = mr.BudgetTopK(4, 2).add_to(model)
    model.objective = pyo.Objective(
        expr=sum(w * a for w, a in zip([3, -1, 2, 1], actions, strict=True)), sense=pyo.maximize
    )
    result = mr.solve_model(model, solver="scip")
    assert (result.status, result.value) == ("optimal", 5.0)
    assert SolveOptions().gap == 0.0


@pytest.mark.parametrize("unit", [1e6, 1e9, 1e12])
def test_rows_of_large_numbers_cut_nothing_off(unit):
    # With the costs as they are, SCIP 10 proves an "optimum" below the value of [4, 7].
    weights = [
        0.05155749532698354,
        -0.06886116468422572,
        -0.1073856836876668,
        -0.10330842711918033,
        0.03934573792054959,
        0.02248563923702976,
        0.05445498304349186,
        0.16646323451211276,
    ]
    skip = [
        -0.0019671503893841195,
        0.001477241152651018,
        0.001614466238728134,
        0.004285058937638495,
        0.00028573186902503374,
        -0.0032721155959137076,
        -0.0024673354693834737,
        -0.002653377063710993,
    ]
    hidden = Layer(np.array([weights]), np.array([-0.0341909924717719]))
    output = Layer(
        np.array([[0.04982136931544801]]),
        np.array([-0.072519289814412]),
        "linear",
        ((INPUT, np.array([skip])),),
    )
    network = mr.Network((hidden, output))
    costs = np.array([0.0, 0.0, 3.0, 4.0, 3.0, 4.0, 4.0, 5.0])
    space = mr.BudgetTopK(8, 2, exactly=True, costs=unit * costs, budget=12 * unit)
    available = [1, 0, 1, 1, 1, 1, 1, 1]
    found, best = (
        mr.ArgmaxSolver(network, space, solver=name).solve([], available=available)
        for name in ("scip", "enumeration")
    )
    assert found.status == "optimal"
    assert found.value == pytest.approx(best.value, abs=1e-9)
