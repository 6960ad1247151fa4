"""A model on which HiGHS, left to its presolve, reports a worse action as optimal."""

import json
from pathlib import Path

import highspy
import numpy as np
import pyomo.environ as pyo
import pytest
from omlt import OmltBlock
from omlt.neuralnet import NetworkDefinition, ReluPartitionFormulation
from omlt.neuralnet.layer import DenseLayer, InputLayer

from milp_rl.formulations.actions import BudgetTopK
from milp_rl.formulations.highs_model import new_highs, pass_model, run
from milp_rl.formulations.linear_model import compile_pyomo
from milp_rl.formulations.network import Network
from milp_rl.solvers.base import SolveOptions
from milp_rl.solvers.highs import HighsSolver
from milp_rl.solvers.model import solve_model

CASE = json.loads((Path(__file__).parent / "data" / "highs_presolve.json").read_text())


@pytest.fixture
def problem():
    """OMLT's partition formulation, as a user of OMLT writes it, minimised over a budget."""
    network = Network.from_arrays(CASE["weights"], CASE["biases"])
    state = CASE["state"]
    n = network.n_inputs - len(state)
    m = pyo.ConcreteModel()
    space = BudgetTopK(n, CASE["k"])
    actions = space.add_to(m)
    bounds = {i: (0.0, 1.0) if i < n else (state[i - n],) * 2 for i in range(network.n_inputs)}
    definition = NetworkDefinition(scaled_input_bounds=bounds)
    before = InputLayer([network.n_inputs])
    definition.add_layer(before)
    for layer in network.layers:
        outputs, inputs = layer.weight.shape
        dense = DenseLayer(
            [inputs], [outputs], layer.weight.T, layer.bias, activation=layer.activation
        )
        definition.add_layer(dense)
        definition.add_edge(before, dense)
        before = dense
    m.network = OmltBlock()
    m.network.build_formulation(ReluPartitionFormulation(definition))
    m.link = pyo.Constraint(
        range(network.n_inputs),
        rule=lambda m, i: m.network.inputs[i] == (actions[i] if i < n else state[i - n]),
    )
    m.objective = pyo.Objective(expr=m.network.outputs[0], sense=pyo.minimize)
    return m, actions, network.at_state(state).forward(space.enumerate())[:, 0].min()


@pytest.mark.parametrize("tight", [False, True])
def test_the_optimum_is_not_lost(problem, tight):
    m, actions, minimum = problem
    model, _ = compile_pyomo(m, actions)
    solution = HighsSolver().solve(model, SolveOptions(), tight=tight)
    assert solution.status == "optimal"
    assert -solution.bound == pytest.approx(minimum, abs=1e-6)
    assert np.flatnonzero(np.rint(solution.x[: len(actions)])).tolist() == CASE["action"]


def test_a_users_model_of_omlt_is_solved_to_its_optimum(problem):
    m, _, minimum = problem
    result = solve_model(m)
    assert result.status == "optimal"
    assert result.value == pytest.approx(minimum, abs=1e-6)


def test_highs_still_needs_its_presolve_off(problem):
    """When this fails, HiGHS has mended its presolve and ours may be switched on again."""
    m, actions, minimum = problem
    model, _ = compile_pyomo(m, actions)
    wrong = 0
    for seed in range(10):
        highs = new_highs()
        highs.setOptionValue("presolve", "choose")
        highs.setOptionValue("mip_rel_gap", 0.0)
        highs.setOptionValue("random_seed", seed)
        pass_model(highs, model)
        assert run(highs) == highspy.HighsModelStatus.kOptimal
        wrong += -highs.getInfo().objective_function_value > minimum + 1e-3
    assert wrong > 0 or highs.version() != "1.15.1"
