"""A Q-network and a space in one Pyomo model that a solver keeps loaded: ONNX, OMLT, Pyomo.

The network goes through an ONNX file, which OMLT reads and writes onto a block; the space's own
``constrain`` writes beside it. A state is a number of changed values: parameters, to which the
network's other inputs are equal; and, as they depend on it, bounds of variables and OMLT's big-Ms.

Solvers are reached by Pyomo's own interfaces. ``Highs`` and ``GurobiPersistent`` keep their model
and are told what has changed. ``ScipPersistent`` of Pyomo 6.10 makes a variable of every parameter,
which would make OMLT's big-M rows quadratic; SCIP is given the whole model anew for each solve, by
``ScipDirect``.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import onnx
import pyomo.environ as pyo
from omlt.io import load_onnx_neural_network
from omlt.neuralnet import NetworkDefinition
from pyomo.common.collections import ComponentMap
from pyomo.contrib.solver.common.results import Results, TerminationCondition
from pyomo.contrib.solver.solvers.gurobi.gurobi_persistent import GurobiPersistent
from pyomo.contrib.solver.solvers.highs import Highs
from pyomo.contrib.solver.solvers.scip.scip_direct import ScipDirect

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.interruption import interruptible
from milp_rl.formulations.milp.highs import reliable_options, silent_highs
from milp_rl.formulations.networks.network import Network, NetworkError
from milp_rl.formulations.networks.omlt_reader import read_omlt
from milp_rl.formulations.networks.onnx_writer import write_onnx
from milp_rl.formulations.omlt import OmltNetwork
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.log import Lines
from milp_rl.solvers.milp.argmax import MilpOptions
from milp_rl.solvers.milp.gurobi import explained
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import Status

_ALONE = threading.Lock()  # Pyomo redirects the process's standard output while it solves


class _Unlocked:
    """A SCIP model that lets other threads run while it is solved, so that they can stop it."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        if name == "optimize":  # older ones hold the lock
            return getattr(self._model, "optimizeNogil", self._model.optimize)
        return getattr(self._model, name)


class _Scip(ScipDirect):  # type: ignore[misc]
    def _create_solver_model(self, model: Any, config: Any) -> tuple[Any, Any, bool]:
        made, loader, has_objective = super()._create_solver_model(model, config)
        return _Unlocked(made), loader, has_objective


_INTERFACES: dict[str, type[Any]] = {
    "highs": Highs,
    "gurobi": GurobiPersistent,
    "scip": _Scip,
}
_UNSET = highspy.HighsModelStatus.kNotset
_T = TerminationCondition
_UNLIKE_OPTIMAL: dict[TerminationCondition, Status] = {
    _T.provenInfeasible: "infeasible",
    _T.infeasibleOrUnbounded: "infeasible",  # every variable that the objective has is bounded
    _T.unbounded: "error",
    _T.error: "error",
}


class PyomoModel:
    """The model of a network over a space.

    Parameters
    ----------
    network
        Of one output, whose inputs are [action, state].
    space
        The feasible set.
    solver
        ``"highs"``, ``"gurobi"`` or ``"scip"``.
    options
        How the network is written.
    bounds
        Of the neurons, over the space and the box.
    low, high
        Box that states are in, shape (state_dim,).

    Raises
    ------
    NetworkError
        If the network has skips, or OMLT reads another from the ONNX file.
    """

    def __init__(
        self,
        network: Network,
        space: ActionSpace,
        solver: str,
        options: MilpOptions,
        bounds: Bounds,
        low: FloatArray,
        high: FloatArray,
    ) -> None:
        self.low, self.high = low, high
        self._movable = options.formulation == "bigm"  # all that depends on the box can be changed
        self._network = network
        self._solver = solver
        self._opt = _INTERFACES[solver]()
        m = self.model = pyo.ConcreteModel()
        m.space = pyo.Block()
        self.actions = space.add_to(m.space)
        self._held = ComponentMap((x, (x.lb, x.ub)) for x in self.actions)
        box = np.concatenate([space.lower, low]), np.concatenate([space.upper, high])
        m.network = pyo.Block()
        self._written = OmltNetwork.write(
            m.network,
            _through_onnx(network, *box),
            bounds,
            formulation=options.formulation,
            partitions=options.partitions,
            maximised=network.output.weight[0] if options.one_sided else None,
        )
        if self._movable:
            self._written.free_inputs(range(space.n_actions, network.n_inputs))
        m.state = pyo.Param(range(len(low)), mutable=True, initialize=dict(enumerate(low.tolist())))
        entries = [*self.actions, *m.state.values()]
        m.link = pyo.Constraint(
            range(network.n_inputs), rule=lambda _, i: self._written.inputs[i] == entries[i]
        )
        m.scale = pyo.Param(mutable=True, initialize=1.0)
        m.level = pyo.Param(mutable=True, initialize=0.0)
        m.objective = pyo.Objective(
            expr=m.scale * (self._written.outputs[0] - m.level), sense=pyo.maximize
        )
        m.cuts = pyo.ConstraintList()
        self._loaded_cuts = 0

    def holds(self, state: FloatArray) -> bool:
        """Whether what is written is right at a state."""
        return self._movable or bool(((state >= self.low) & (state <= self.high)).all())

    def move_to(self, state: FloatArray, bounds: Bounds, pins: Pins) -> str:
        """Change what depends on the state and on the pins.

        Parameters
        ----------
        state
            Shape (state_dim,).
        bounds
            Of the neurons at the state, their output with its constant.
        pins
            Of one state, shape (n_actions,).

        Returns
        -------
        str
            Why no action is left; empty if one may be.
        """
        for j, number in enumerate(state.tolist()):
            self.model.state[j].set_value(number)
        self._written.change_bounds(bounds)
        for i, x in enumerate(self.actions):
            low, high = self._held[x]
            if pins.one is not None and pins.one[i]:
                low = 1.0
            if pins.zero is not None and pins.zero[i]:
                high = 0.0
            if (x.fixed and not low <= x.value <= high) or low > high:
                return "an action is required that is never feasible"
            x.setlb(low)
            x.setub(high)
        return ""

    def solve(
        self,
        options: SolveOptions,
        *,
        scale: float,
        level: float,
        start: ActionArray | None,
        cuts: Sequence[ActionArray],
        tight: bool,
        seed: int,
    ) -> tuple[Status, float, int, str, ComponentMap | None]:
        """Solve it at the state that it was moved to.

        Parameters
        ----------
        options
            Limits; the absolute gap is one of values.
        scale, level
            The objective is ``scale * (Q - level)``.
        start, cuts, tight, seed
            As for :meth:`milp_rl.solvers.milp.run.Written.attempt`.

        Returns
        -------
        tuple
            Status, bound on Q, nodes, message, and the variables' values if there is a solution.

        Raises
        ------
        SolverUnavailableError
            If the solver's licence is too small.
        """
        m = self.model
        m.scale.set_value(scale)
        m.level.set_value(level)
        changed = bool(cuts) or self._loaded_cuts > 0
        self._loaded_cuts = len(cuts)
        for cut in m.cuts.values():  # kept: a solver's interface cannot remove what is deleted
            cut.deactivate()
        for action in cuts:
            pairs = zip(self.actions, action.tolist(), strict=True)
            m.cuts.add(sum(1 - x if value else x for x, value in pairs) >= 1)
        started = start is not None and self._start(start)
        result = self._run(options, scale, started, changed, tight, seed)
        return self._read(result, scale, level)

    def polish(self, values: ComponentMap, options: SolveOptions) -> ComponentMap | None:
        """Hold the integers of a solution and solve again; return the values."""
        whole = [v for v in values if v.is_integer() and not v.fixed]
        before = [(v, v.lb, v.ub) for v in whole]
        try:
            for v in whole:
                number = round(values[v])
                v.setlb(number)
                v.setub(number)
            result = self._run(options, 1.0, False, False, True, 0)
            return self._read(result, 1.0, 0.0)[4]
        finally:
            for v, low, high in before:
                v.setlb(low)
                v.setub(high)

    def action(self, values: ComponentMap) -> FloatArray:
        """Return the action among the variables' values."""
        return np.array([values.get(x, x.value) for x in self.actions], dtype=float)

    def _start(self, action: ActionArray) -> bool:
        """Set the integers' values, where the interface takes them; return whether it does."""
        if self._solver == "highs":
            return False
        for x, value in zip(self.actions, action.tolist(), strict=True):
            x.set_value(value, skip_validation=True)
        state = [number.value for number in self.model.state.values()]
        point = np.concatenate([np.asarray(action, dtype=np.float64), state])
        self._written.start_at(list(self._network.pre_activations(point)))
        if self._solver == "gurobi":
            return True
        # Pyomo's interface to SCIP passes a value of every integer, also of those that have none.
        variables = self.model.component_data_objects(pyo.Var, active=True)
        return all(v.value is not None for v in variables if v.is_integer())

    def _run(
        self,
        options: SolveOptions,
        scale: float,
        started: bool,
        changed: bool,
        tight: bool,
        seed: int,
    ) -> Results:
        asked: dict[str, Any] = {
            "threads": options.threads,
            "rel_gap": options.gap,
            "abs_gap": max(options.absolute_gap * scale, 1e-9),
            "time_limit": options.time_limit or _no_limit(self._solver),
            "load_solutions": False,
            "raise_exception_on_nonoptimal_result": False,
            "solver_options": _settings(self._solver, options.node_limit, tight, seed),
        }
        if self._solver != "highs":
            asked["warmstart_discrete_vars"] = started
        if self._solver != "scip":
            looked_for = {"update_vars", "update_parameters"}
            if changed:
                looked_for.add("check_for_new_or_removed_constraints")
            kinds = self._opt.config.auto_updates
            asked["auto_updates"] = {kind: kind in looked_for for kind in kinds}

        def solve() -> Results:
            with _ALONE:
                done = self._opt.solve(self.model, **asked)
                if self._solver == "highs" and self._opt._solver_model.getModelStatus() == _UNSET:
                    # HiGHS refuses another number of threads than the run before it in this
                    # thread had, whoever that was of.
                    silent_highs().resetGlobalScheduler(True)
                    done = self._opt.solve(self.model, **asked)
                if self._solver == "highs":  # Pyomo turns it on, and it warns of changes
                    self._opt._solver_model.setOptionValue("log_to_console", False)
                return done

        try:
            result = interruptible(solve, self._stop)
        except Exception as error:
            if self._solver == "gurobi" and hasattr(error, "errno"):
                raise explained(error, *self._size()) from error
            if self._solver == "scip" and str(error).startswith("SCIP:"):
                raise RuntimeError(f"SCIP failed ({error}); use solver='highs'") from error
            raise
        if result.termination_condition == _T.interrupted:  # the solver took Ctrl-C for itself
            raise KeyboardInterrupt
        if options.log is not None:  # not before: standard error is redirected meanwhile
            lines = Lines(options.log)
            lines.write(result.solver_log or "")
            lines.end()
        return result

    def _stop(self) -> None:
        """Make the solve that is going on end soon."""
        loaded = self._opt._solver_model
        if loaded is not None:
            stops = {"highs": "cancelSolve", "gurobi": "terminate", "scip": "interruptSolve"}
            getattr(loaded, stops[self._solver])()

    def _size(self) -> tuple[int, int]:
        """Return the numbers of variables and of constraints."""
        variables = [v for v in self.model.component_data_objects(pyo.Var) if not v.fixed]
        rows = list(self.model.component_data_objects(pyo.Constraint, active=True))
        return len(variables), len(rows)

    def _read(
        self, result: Results, scale: float, level: float
    ) -> tuple[Status, float, int, str, ComponentMap | None]:
        condition = result.termination_condition
        message, nodes = condition.name, _nodes(result)
        status = _UNLIKE_OPTIMAL.get(condition)
        if status is not None:
            return status, -math.inf if status == "infeasible" else math.inf, nodes, message, None
        found = result.objective_bound
        bound = math.inf if found is None else found / scale + level
        if not result.solution_loader.get_number_of_solutions():
            return "no_solution", bound, nodes, message, None
        values = result.solution_loader.get_vars()
        optimal = condition == _T.convergenceCriteriaSatisfied
        return "optimal" if optimal else "feasible", bound, nodes, message, values


def _through_onnx(network: Network, low: FloatArray, high: FloatArray) -> NetworkDefinition:
    """Write an ONNX file and have OMLT read it; it has to come back bit for bit."""
    box = dict(enumerate(zip(low.tolist(), high.tolist(), strict=True)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "q.onnx")
        write_onnx(network, path)
        definition = load_onnx_neural_network(onnx.load(path), input_bounds=box)
    read = read_omlt(definition)
    same = len(read.layers) == len(network.layers) and all(
        np.array_equal(a.weight, b.weight)
        and np.array_equal(a.bias, b.bias)
        and a.activation == b.activation
        for a, b in zip(read.layers, network.layers, strict=True)
    )
    if not same:
        raise NetworkError("OMLT reads another network from the ONNX file than was written")
    return definition


def _no_limit(solver: str) -> float:
    return 1e20 if solver == "scip" else math.inf


def _settings(solver: str, node_limit: int | None, tight: bool, seed: int) -> dict[str, Any]:
    """Return options of a solver by its own names: all of them each time, as it stays loaded."""
    if solver == "highs":
        feasibility = 1e-9 if tight else 1e-7
        return {
            **reliable_options(),
            "random_seed": seed,
            "mip_max_nodes": node_limit or 2**31 - 1,
            "mip_feasibility_tolerance": 1e-9 if tight else 1e-6,
            "primal_feasibility_tolerance": feasibility,
            "dual_feasibility_tolerance": feasibility,
        }
    if solver == "gurobi":
        return {
            "Seed": seed,
            "NodeLimit": node_limit or math.inf,
            "IntFeasTol": 1e-9 if tight else 1e-5,
            "FeasibilityTol": 1e-9 if tight else 1e-6,
            "OptimalityTol": 1e-9 if tight else 1e-6,
            "IntegralityFocus": int(tight),
        }
    feasibility = 1e-9 if tight else 1e-6
    return {
        "misc/catchctrlc": False,
        "presolving/maxrounds": 0,  # as in milp_rl.solvers.milp.scip
        "randomization/randomseedshift": seed,
        "limits/nodes": node_limit or -1,
        "numerics/feastol": feasibility,
        "numerics/dualfeastol": min(feasibility, 1e-7),
    }


def _nodes(result: Results) -> int:
    """Return how many nodes there were, by the name that each interface gives them."""
    own = result.extra_info
    names = ("mip_node_count", "NodeCount", "NNodes")
    return max([0, *(int(own[name]) for name in names if name in own)])
