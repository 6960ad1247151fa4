"""What the searches share that begin with bounds of the network over the feasible set."""

from __future__ import annotations

import time
from abc import abstractmethod

from milp_rl.formulations.bounds import (
    BoundPropagator,
    Bounds,
    InfeasibleSetError,
    suits_loops,
)
from milp_rl.formulations.names import Strength
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.spaces.contradictions import called_empty
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import is_late
from milp_rl.solvers.certify import ArgmaxProblem, check_bounds
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.protocol import Answer, Argmax, Starts


class BoundedArgmax(Argmax):
    """An argmax that searches with bounds of every neuron, which are made when first needed."""

    strength: Strength = "linear"
    """Of the bounds."""
    _propagator: BoundPropagator | None = None

    def _solve(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[Answer]:
        begin = time.perf_counter()
        count, centred = networks.n_states, networks.centred
        try:
            propagator = self._propagator or self._new_propagator()
            loops = options.loops_of(self.space.compiled_oracle) if suits_loops(centred) else None
            bounds = propagator.at(centred, pins, loops)
            if not is_late():  # then its ranges are not as tight as they can be
                self._propagator = propagator
        except InfeasibleSetError as error:
            if not pins.empty and count > 1:  # for some of the states
                halves = (slice(count // 2), slice(count // 2, None))
                parts = ((networks.rows(i), options, starts[i], pins[i]) for i in halves)
                return [answer for part in parts for answer in self._solve(*part)]
            problems = [self._problem(networks, i, pins) for i in range(count)]
            for problem in problems:
                if problem.sample is not None and len(problem.sample):
                    raise called_empty(self.space, problem.sample[0], problem.pins) from error
            return [Answer.empty(problem, begin, str(error)) for problem in problems]
        rounding = bounds.rounding.tolist()
        problems = [self._problem(networks, i, pins, rounding[i], loops) for i in range(count)]
        for i, problem in enumerate(problems):
            check_bounds(problem, bounds.at(i))
        return self._search(centred, problems, bounds, options, starts, pins, begin)

    def _new_propagator(self) -> BoundPropagator:
        """Return what bounds the network; a set found empty is an ``InfeasibleSetError``."""
        lp = self.strength == "lp"
        return BoundPropagator(
            self.space.n_actions,
            self.space.linear_max,
            box=(self.space.lower, self.space.upper),
            strength=self.strength,
            model=self.space.linear_model if lp else None,
        )

    @abstractmethod
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
        """Search for the networks without their constants.

        Bounds and pins have one row per state; ``begin`` is when the clock started.
        """
