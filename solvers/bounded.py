"""What the searches share that begin with bounds of the network over the feasible set."""

from __future__ import annotations

import time
from abc import abstractmethod

from milp_rl.formulations.bounds import BoundPropagator, Bounds, InfeasibleSetError
from milp_rl.formulations.names import Strength
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.spaces.contradictions import called_empty
from milp_rl.solvers.certify import ArgmaxProblem, check_bounds
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.protocol import Answer, Argmax, Starts


class BoundedArgmax(Argmax):
    """An argmax that searches with bounds of every neuron, which are made when first needed."""

    strength: Strength = "linear"
    """Of the bounds."""
    _propagator: BoundPropagator | None = None

    def _solve(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts
    ) -> list[Answer]:
        begin = time.perf_counter()
        count, centred = networks.n_states, networks.centred
        try:
            if self._propagator is None:
                self._propagator = self._new_propagator()
            bounds = self._propagator.at(centred)
        except InfeasibleSetError as error:
            if len(self.incumbents.sample):
                raise called_empty(self.space, self.incumbents.sample[0]) from error
            return [
                Answer.empty(self._problem(networks, i), begin, str(error)) for i in range(count)
            ]
        problems = [self._problem(networks, i, float(bounds.rounding[i])) for i in range(count)]
        for i, problem in enumerate(problems):
            check_bounds(problem, bounds.at(i))
        return self._search(centred, problems, bounds, options, starts, begin)

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
        begin: float,
    ) -> list[Answer]:
        """Search for the networks without their constants.

        The bounds have one row per state; ``begin`` is when the clock started.
        """
