"""The path through an ONNX file, OMLT and Pyomo, against the compact models and brute force."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections import Counter

import networkx as nx
import numpy as np
import pytest
from omlt.block import OmltBlockData
from pyomo.contrib.solver.solvers.gurobi.gurobi_persistent import GurobiPersistent
from pyomo.contrib.solver.solvers.highs import Highs
from pyomo.contrib.solver.solvers.scip.scip_direct import ScipDirect

import milp_rl as mr
from milp_rl.dqn import DQNAgent, DQNConfig
from milp_rl.dqn.choosers import ExactChooser
from milp_rl.envs import CapacityBandit, CapacityInstance
from milp_rl.formulations.networks.network import Layer
from milp_rl.solvers.milp import pyomo_model
from milp_rl.solvers.options import SolveOptions

ARCS = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)]
SPACES = {
    "budget": mr.BudgetTopK(7, 3, exactly=True),
    "costs": mr.BudgetTopK(7, 7, costs=[1.5, 2, 3, 1, 2, 4, 1], budget=6.5),
    "capacity": mr.Capacity([2, 3, 4, 5, 2, 3], [7, 4]),
    "scheduling": mr.Scheduling(
        [[1, 1, 0], [0, 1, 1]], [[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]], needs=1
    ),
    "routing": mr.Routing(nx.cycle_graph(6), 0, max_length=4),
    "factored": mr.FactoredValidity(
        {"dose": ["low", "high"], "by": ["nurse", "doctor"]}, [("low", "nurse"), ("high", "doctor")]
    ),
    "matching": mr.Matching([[1, 1, 0], [1, 1, 1]]),
    "permutation": mr.Permutation(3, [[1, 1, 0], [1, 1, 1], [0, 1, 1]]),
    "precedence": mr.Precedence(6, [(0, 1), (1, 2), (1, 3), (4, 3)]),
    "simple path": mr.SimplePath(nx.DiGraph(ARCS), 0, 4),
    "intersection": mr.BudgetTopK(6, 3) & mr.Capacity([2, 3, 4, 5, 2, 3], [7, 4]),
    "union": mr.BudgetTopK(5, 2) | mr.Precedence(5, [(0, 1), (1, 2)]),
    "product": mr.BudgetTopK(3, 1) * mr.Permutation(2),
    "integer": mr.Box([0, -1, 0], [3, 2, 1], matrix=[[1, 1, 2]], right=[4], integer=[0, 1, 2]),
    "continuous": mr.Box([-1.0] * 3, [1.0] * 3, matrix=[[1.0, 2.0, 1.0]], right=[1.0]),
}
INTERFACES = {"highs": Highs, "gurobi": GurobiPersistent, "scip": ScipDirect}


def test_every_block_is_among_them():
    kinds = {type(part).__name__ for part in SPACES.values()}
    blocks = {name for name in mr.__all__ if isinstance(getattr(mr, name), type)}
    blocks = {name for name in blocks if issubclass(getattr(mr, name), mr.ActionSpace)}
    assert blocks - {"ActionSpace"} == kinds


@pytest.mark.parametrize("name", SPACES)
def test_the_engines_agree_on_every_block(name, random_network):
    space, rng = SPACES[name], np.random.default_rng(len(name))
    network = random_network(rng, space.n_actions + 2, (5, 3))
    states = rng.normal(size=(1, 2))
    exact = [r.value for r in mr.ArgmaxSolver(network, space, solver="highs").solve_batch(states)]
    for solver, formulation in [("highs", "bigm"), ("highs", "partition"), ("gurobi", "bigm")]:
        options = {"solver": solver, "formulation": formulation, "engine": "pyomo"}
        results = mr.ArgmaxSolver(network, space, **options).solve_batch(states, workers=1)
        for result, value in zip(results, exact, strict=True):
            assert result.status == "optimal", result
            assert result.value == pytest.approx(value, rel=0, abs=1e-6), options
            assert space.violations(result.action) == []


@pytest.fixture
def problem(random_network):
    network = random_network(np.random.default_rng(3), 10, (6, 4))
    return network, mr.Capacity([2, 3, 4, 5, 2, 3], [7, 4])


@pytest.mark.parametrize("formulation", ["bigm", "partition"])
@pytest.mark.parametrize("solver", INTERFACES)
def test_masks_starts_gaps_and_new_networks(solver, formulation, problem, random_network):
    pytest.importorskip({"highs": "highspy", "gurobi": "gurobipy", "scip": "pyscipopt"}[solver])
    network, space = problem
    options = {"solver": solver, "formulation": formulation}
    made = mr.ArgmaxSolver(network, space, engine="pyomo", **options)
    compact = mr.ArgmaxSolver(network, space, **options)
    rng = np.random.default_rng(0)
    asked = [
        {},
        {"available": 1 - compact.solve(np.ones(4)).action},
        {"required": [0, 0, 0, 1, 0, 0], "start": [0, 0, 0, 1, 0, 0]},
        {"required": [0, 0, 0, 1, 1, 1]},  # none is within
        {"gap": 0.3},
        {},
    ]
    for call in asked:
        state = np.ones(4) if "available" in call else rng.normal(size=4) * 3
        result, other = made.solve(state, **call), compact.solve(state, **call)
        assert result.status == other.status
        allowed = 0.3 * abs(other.value) if "gap" in call else 1e-7
        assert other.action is None or abs(result.value - other.value) <= allowed
    other_network = random_network(rng, 10, (6, 4))
    for solver_of in (made, compact, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        solver_of.update(other_network)
        solver_of.solve(np.zeros(4))
    assert made.solve(state).value == pytest.approx(compact.solve(state).value, abs=1e-7)


def counted(monkeypatch, solver="highs"):
    """Count what is read, written and solved."""
    counts: Counter[str] = Counter()

    def count(target, name, what):
        original = getattr(target, name)

        def counting(*args, **kwargs):
            counts[what] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(target, name, counting)

    count(pyomo_model, "load_onnx_neural_network", "reads")
    count(OmltBlockData, "build_formulation", "builds")
    count(INTERFACES[solver], "solve", "solves")
    if solver != "scip":
        count(INTERFACES[solver], "set_instance", "loads")
    return counts


@pytest.mark.parametrize("solver", ["highs", "gurobi"])
def test_a_network_is_read_written_and_loaded_once(solver, problem, monkeypatch):
    network, space = problem
    made = mr.ArgmaxSolver(network, space, solver=solver, engine="pyomo")
    counts = counted(monkeypatch, solver)
    for state in np.random.default_rng(1).normal(size=(4, 4)) * [1, 10, 100, 1000]:
        made.solve(state)
    assert counts == {"reads": 1, "builds": 1, "loads": 1, "solves": 4}


def test_a_partition_is_written_anew_for_states_outside_its_box(problem, monkeypatch):
    network, space = problem
    made = mr.ArgmaxSolver(network, space, solver="highs", engine="pyomo", formulation="partition")
    compact, counts = mr.ArgmaxSolver(network, space, solver="highs"), counted(monkeypatch)
    for scale, builds in [(0.9, 1), (0.8, 1), (3.0, 2), (2.5, 2), (-0.1, 3), (0.4, 3)]:
        state = np.full(4, scale)
        value = made.solve(state).value
        assert value == pytest.approx(compact.solve(state).value, abs=1e-7)
        assert counts["builds"] == builds


def test_a_training_passes_through_it(monkeypatch):
    env = CapacityBandit(CapacityInstance.generate(4, 2, horizon=5, seed=0))
    config = DQNConfig(
        architecture="concat",
        hidden=(6,),
        episodes=2,
        batch_size=4,
        updates_per_step=1,
        sync_every=4,
        pretrain_epochs=2,
        pretrain_states=10,
        pretrain_actions=2,
        pretrain_replay=10,
        epsilon_start=0.0,
        solver="highs",
        engine="pyomo",
    )
    versions, states = [0], [0]
    update, choose = ExactChooser.update, ExactChooser.choose
    fresh: dict[int, bool] = {}

    def updating(self, network):
        fresh[id(self)] = True
        update(self, network)

    def choosing(self, given, *args, **kwargs):
        if fresh.pop(id(self), True) and len(given):
            versions[0] += 1
        fresh[id(self)] = False
        states[0] += len(given)
        return choose(self, given, *args, **kwargs)

    monkeypatch.setattr(ExactChooser, "update", updating)
    monkeypatch.setattr(ExactChooser, "choose", choosing)
    counts = counted(monkeypatch)
    trained = DQNAgent(env, config, seed=0).train()
    assert versions[0] >= 4
    assert states[0] > versions[0]
    assert counts["reads"] == counts["builds"] == counts["loads"] == versions[0]
    assert states[0] <= counts["solves"] <= 1.2 * states[0]  # some are solved more tightly
    assert trained.act(np.zeros(4)).shape == (4,)


@pytest.mark.parametrize("formulation", ["bigm", "partition"])
def test_a_wrong_answer_is_an_error(formulation, problem, monkeypatch):
    """As partition models with presolve in HiGHS up to 1.15 gave: too low, and called optimal."""
    network, space = problem
    made = mr.ArgmaxSolver(network, space, solver="highs", engine="pyomo", formulation=formulation)
    value, original = made.solve(np.ones(4)).value, pyomo_model.PyomoModel._read

    def too_low(self, *given):
        status, bound, nodes, message, values = original(self, *given)
        worst = min(space.enumerate(), key=lambda a: network.forward([*a, 1, 1, 1, 1])[0])
        for x, own in zip(self.actions, worst.tolist(), strict=True):
            values[x] = own
        return status, bound - 0.1 * abs(value), nodes, message, values

    monkeypatch.setattr(pyomo_model.PyomoModel, "_read", too_low)
    with pytest.raises(mr.CertificationError, match="highs through pyomo gave a wrong answer"):
        made.solve(np.ones(4))


def test_limits(random_network):
    space = mr.BudgetTopK(16, 6)
    network = random_network(np.random.default_rng(0), 20, (32, 32))
    made = mr.ArgmaxSolver(network, space, solver="highs", engine="pyomo", node_limit=1)
    start, exact = np.eye(16, dtype=int)[0], mr.ArgmaxSolver(network, space).solve(np.zeros(4))
    for limits in ({}, {"time_limit": 0.3}, {"time_limit": 1e-4}):
        result = made.solve(np.zeros(4), start=start, **limits)
        assert result.status == "feasible", limits
        assert math.isfinite(result.bound)
        assert result.bound >= exact.value - 1e-9
        assert network.forward([*start, 0, 0, 0, 0])[0] <= result.value <= exact.value + 1e-9


def test_lines_of_the_solver_are_shown_when_asked_for(problem, capfd):
    made = mr.ArgmaxSolver(*problem, solver="highs", engine="pyomo", verbose=True)
    made.solve(np.zeros(4))
    shown = capfd.readouterr()
    assert re.search("MIP +has", shown.err)
    assert "ERROR" not in shown.err
    assert shown.out == ""


def test_a_constant_that_is_zero_in_every_state_is_not_warned_of(capfd):
    network = mr.Network.from_arrays([[[-1.0, 0.0, 1.0], [1, 2, 0]], [[1.0, 1.0]]], [[0, 0], [0]])
    made = mr.ArgmaxSolver(network, mr.BudgetTopK(2, 1), solver="highs", engine="pyomo")
    assert [made.solve([state]).value for state in (0.0, 0.0, 1.5)] == pytest.approx([2, 2, 3.5])
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("solver", INTERFACES)
def test_actions_are_cut_off(solver, problem):
    """What is asked where a tolerance violation leaves the bound above every value."""
    network, space = problem
    made = mr.ArgmaxSolver(network, space, solver=solver, engine="pyomo")
    state, cuts = np.ones(4), []
    made.solve(state)
    model = made._batch.backend._model
    values = np.sort([network.forward([*a, *state])[0] for a in space.enumerate()])[::-1]
    options = SolveOptions()
    limits = {"scale": 1.0, "level": 0.0, "start": None, "tight": True, "seed": 0}
    for k in range(3):
        _, bound, _, _, found = model.solve(options, cuts=cuts, **limits)
        assert bound == pytest.approx(values[k], abs=1e-7)
        cuts.append(space.rounded(model.action(found)))
    assert made.solve(state).value == pytest.approx(values[0])


def test_highs_may_have_had_another_number_of_threads_before(problem):
    mr.ArgmaxSolver(*problem, solver="highs", threads=2).solve(np.zeros(4))
    result = mr.ArgmaxSolver(*problem, solver="highs", engine="pyomo").solve(np.zeros(4))
    assert result.status == "optimal"


def test_what_it_cannot_take_is_named(problem):
    network, space = problem
    residual = Layer(
        network.output.weight, network.output.bias, "linear", ((-1, np.ones((1, 10))),)
    )
    with pytest.raises(mr.NetworkError, match="layer 2 takes the inputs besides the layer before"):
        mr.ArgmaxSolver(
            mr.Network((*network.hidden, residual)), space, solver="highs", engine="pyomo"
        )
    arms = mr.ArmQNetwork(6)
    with pytest.raises(mr.NetworkError, match="engine='pyomo' takes a network of dense layers"):
        mr.ArgmaxSolver(arms, space, solver="highs", engine="pyomo")
    for solver in ("auto", "branch_and_bound", "enumeration"):
        with pytest.raises(
            ValueError, match=f"is for 'highs', 'gurobi' and 'scip', got '{solver}'"
        ):
            mr.ArgmaxSolver(network, space, solver=solver, engine="pyomo")
    made = mr.ArgmaxSolver(network, space, solver="highs", engine="pyomo")
    with pytest.raises(ValueError, match="finds the best action of a state, not those after it"):
        made.solve_top(np.zeros(4), 2)
    with pytest.raises(ValueError, match="engine must be 'compact' or 'pyomo', got 'omlt'"):
        mr.ArgmaxSolver(network, space, solver="highs", engine="omlt")
    with pytest.raises(ValueError, match="engine must be 'compact' or 'pyomo'"):
        DQNConfig(engine="omlt")


def test_gurobi_without_a_full_licence(random_network):
    network = random_network(np.random.default_rng(0), 64, (40,))
    options = {"engine": "pyomo", "formulation": "partition", "partitions": 16}
    made = mr.ArgmaxSolver(network, mr.BudgetTopK(60, 5), solver="gurobi", **options)
    with pytest.raises(mr.SolverUnavailableError, match="more than this Gurobi licence allows"):
        made.solve(np.zeros(4))
