"""The argmax by the path through an ONNX file, OMLT and Pyomo, certified like every other."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pyomo.common.collections import ComponentMap

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.bounds import BoundPropagator, Bounds
from milp_rl.formulations.networks.action_value import (
    ActionNetworks,
    ActionValue,
    NetworkValue,
)
from milp_rl.formulations.networks.network import Network, NetworkError
from milp_rl.formulations.networks.onnx_writer import check_writable
from milp_rl.formulations.pyomo import oracle, set_model
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.bounded import BoundedArgmax
from milp_rl.solvers.certify import ArgmaxProblem
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.milp.argmax import MilpOptions
from milp_rl.solvers.milp.pyomo_model import PyomoModel
from milp_rl.solvers.milp.run import Attempt, MilpRun, Written, objective_unit
from milp_rl.solvers.options import SolveOptions, late
from milp_rl.solvers.protocol import Answer, Starts
from milp_rl.solvers.result import ArgmaxResult, Status


class PyomoArgmax(BoundedArgmax):
    """The argmax by OMLT's formulations in a Pyomo model that the solver keeps loaded.

    For each network one model is made (:mod:`milp_rl.solvers.milp.pyomo_model`), when the first
    state is asked for; states are values that change in it. The constants of the partition
    formulation hold for a box of states; a state outside has it written anew for a larger one.
    States are solved one after another, also those of a batch, and each by the solver: nothing is
    taken over from bounds alone.

    Parameters
    ----------
    value
        A network of one output whose inputs are [action, state]: dense layers and ReLU.
    space
        The feasible set.
    solver
        ``"highs"``, ``"gurobi"`` or ``"scip"``.
    options
        How the network is written.
    incumbents
        What is known of the space.
    """

    parallel = "threads"

    def __init__(
        self,
        value: ActionValue | Network,
        space: ActionSpace,
        solver: str,
        options: MilpOptions,
        incumbents: Incumbents | None = None,
    ) -> None:
        self.solver = solver
        self.name = f"{solver} through pyomo"
        self.options = options
        self.strength = options.bounds
        self._box = np.zeros((2, 0))
        self._start()
        super().__init__(value, space, incumbents)

    def _start(self) -> None:
        self._lock = threading.Lock()  # one state at a time
        self._model: PyomoModel | None = None
        self._state = np.zeros(0)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_model", "_state")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def update(self, value: ActionValue | Network) -> None:
        """Replace the action value; the next solve writes its model.

        Raises
        ------
        NetworkError
            If it cannot go through an ONNX file and OMLT, saying what cannot.
        """
        super().update(value)
        if not isinstance(self.value, NetworkValue):
            raise NetworkError(
                "engine='pyomo' takes a network of dense layers and ReLU whose inputs are [action,"
                " state], as OMLT reads it from an ONNX file, and this is a"
                f" {type(self.value).__name__.lstrip('_')}; use engine='compact' (in a DQN also"
                " architecture='concat')"
            )
        try:
            check_writable(self.value.network)
        except NetworkError as error:
            raise NetworkError(f"engine='pyomo': {error}; use engine='compact'") from error
        self._model = None

    def over(self, space: ActionSpace, incumbents: Incumbents | None = None) -> PyomoArgmax:
        """Return a solver of the same kind and value for another space of the same variables."""
        return PyomoArgmax(self.value, space, self.solver, self.options, incumbents)

    def solve(
        self,
        states: FloatArray,
        options: SolveOptions,
        starts: Starts | None = None,
        pins: Pins | None = None,
    ) -> list[ArgmaxResult]:
        """Solve for several states; see :meth:`.Argmax.solve`."""
        assert isinstance(self.value, NetworkValue)
        held = (pins or Pins()).checked((len(states), self.space.n_actions))
        firsts = self._checked(starts, len(states), held)
        results = []
        with self._lock:
            self._widen(states)
            for i, state in enumerate(states):
                self._state = state
                networks, own = (
                    ActionNetworks.of(self.value.network.at_state(state)),
                    slice(i, i + 1),
                )
                try:
                    answers = super()._solve(networks, options, firsts[own], held[own])
                except BaseException:  # the solver may go on with the model for a while
                    self._model = None
                    raise
                results += [self._result(answer, options) for answer in answers]
        return results

    def results(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[ArgmaxResult]:
        """Raise ``ValueError``: what ranks actions asks without a state."""
        raise ValueError(
            "engine='pyomo' finds the best action of a state, not those after it; use"
            " engine='compact' for these"
        )

    def _widen(self, states: FloatArray) -> None:
        """Let the box of states contain these, with room up to the next power of two."""
        if not len(states):
            return
        if not self._box.shape[1]:
            self._box = np.zeros((2, states.shape[1]))
        low = np.minimum(self._box[0], -_next_power(-states.min(axis=0)))
        high = np.maximum(self._box[1], _next_power(states.max(axis=0)))
        self._box = np.stack([low, high])

    def _search(
        self,
        networks: ActionNetworks,
        problems: list[ArgmaxProblem],
        bounds: Bounds,
        options: SolveOptions,
        starts: Starts,
        pins: Pins,
        begin: float,
    ) -> list[Answer]:
        (problem,), start, unstable = problems, starts[0], int(bounds.unstable[0])
        highest = float(bounds.output_upper[0, 0])
        shifted = replace(
            bounds,
            output_lower=bounds.output_lower + problem.offset,
            output_upper=bounds.output_upper + problem.offset,
        )
        model = self._model_at(self._state, shifted)
        if late(options.deadline(begin)):
            seconds, message = time.perf_counter() - begin, "stopped at the limit before the solve"
            status: Status = "no_solution"
            return [Answer(problem, start, highest, seconds, 0, unstable, message, status)]
        if nothing := model.move_to(self._state, shifted, problem.pins):
            return [Answer.empty(problem, begin, nothing)]
        reach = float((bounds.output_upper - bounds.output_lower)[0, 0])
        unit = objective_unit(problem, None if start is None else problem.value(start), reach)
        written = _PyomoWritten(self.name, model, problem, unit)
        run = MilpRun(problem, written, options, start, self.incumbents, begin)
        status = run.solve()
        seconds, bound = time.perf_counter() - begin, min(run.bound, highest)
        answer = Answer(
            problem, run.action, bound, seconds, run.nodes, unstable, run.message, status
        )
        return [answer]

    def _model_at(self, state: FloatArray, bounds: Bounds) -> PyomoModel:
        """Return the model, which is made if there is none that is right at the state."""
        assert isinstance(self.value, NetworkValue)
        if self._model is None or not self._model.holds(state):
            low, high = self._box if self.options.formulation == "partition" else (state, state)
            if (low < high).any():
                bounds = self._over_box(self.value.network, low, high)
            self._model = PyomoModel(
                self.value.network, self.space, self.solver, self.options, bounds, low, high
            )
        return self._model

    def _over_box(self, network: Network, low: FloatArray, high: FloatArray) -> Bounds:
        """Bound the neurons over the space and all states of a box."""
        lower = np.concatenate([self.space.lower, low])
        upper = np.concatenate([self.space.upper, high])
        lp = self.strength == "lp"
        propagator = BoundPropagator(
            network.n_inputs,
            oracle(self.space, lower, upper),
            box=(lower, upper),
            strength=self.strength,
            model=set_model(self.space, lower, upper) if lp else None,
        )
        return propagator.at(ActionNetworks.of(network))


class _PyomoWritten(Written):
    """A Pyomo model at one state."""

    def __init__(self, name: str, model: PyomoModel, problem: ArgmaxProblem, unit: float) -> None:
        self.name = name
        self.can_cut = problem.space.binary
        self._model = model
        self._problem = problem
        self._unit = unit

    def attempt(
        self,
        options: SolveOptions,
        *,
        start: ActionArray | None = None,
        cuts: Sequence[ActionArray] = (),
        tight: bool = False,
        seed: int = 0,
    ) -> Attempt:
        """Solve it; see :class:`.Written`."""
        offset = self._problem.offset
        status, bound, nodes, message, values = self._model.solve(
            options,
            scale=1.0 / self._unit,
            level=0.0 if options.gap else offset,  # a relative gap is one of whole values
            start=start,
            cuts=cuts,
            tight=tight,
            seed=seed,
        )
        action = None if values is None else self._rounded(values)
        return Attempt(status, action, bound - offset, nodes, message, values)

    def polished(self, solution: ComponentMap, options: SolveOptions) -> ActionArray | None:
        """Return the best action with the integers of a solution, a linear program."""
        values = self._model.polish(solution, options)
        return None if values is None else self._rounded(values)

    def _rounded(self, values: ComponentMap) -> ActionArray:
        return self._problem.space.rounded(self._model.action(values))


def _next_power(values: FloatArray) -> FloatArray:
    """Return the power of two from each value on, 0 for those that are not positive."""
    positive = np.maximum(values, 0.0)
    exponents = np.ceil(np.log2(np.where(positive > 0, positive, 1.0)))
    return np.where(positive > 0, 2.0**exponents, 0.0)
