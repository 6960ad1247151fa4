"""The argmax of a tree ensemble as a MILP over leaves, for any MILP solver, certified."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.milp.trees import tree_model
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.networks.trees_value import TreeNetworks
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.errors import CertificationError
from milp_rl.solvers.milp.argmax import CompactWritten, MilpArgmax
from milp_rl.solvers.milp.run import MilpRun, objective_unit
from milp_rl.solvers.options import SolveOptions, late
from milp_rl.solvers.protocol import Answer, Starts
from milp_rl.solvers.result import Status

_EPSILON = float(np.finfo(np.float64).eps)


class TreeArgmax(MilpArgmax):
    """The argmax of trees over binary actions by a MILP solver.

    The space is compiled once; for a state, what it decides is pruned from the trees, and their
    leaves are written (:mod:`milp_rl.formulations.milp.trees`). Answers are certified as those of
    networks are, and their value compared with the trees' own. Parameters are those of
    :class:`MilpArgmax`; options of how a network is written play no part.
    """

    def _solve(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[Answer]:
        if not isinstance(networks, TreeNetworks):
            return super()._solve(networks, options, starts, pins)
        each = ((networks[i], options, starts[i], pins[i]) for i in range(networks.n_states))
        return [self._best(*own) for own in each]

    def _best(
        self, networks: TreeNetworks, options: SolveOptions, start: ActionArray | None, pins: Pins
    ) -> Answer:
        """Return the best action of one state."""
        begin = time.perf_counter()
        deadline = options.deadline(begin)
        trees = replace(networks.trees[0], base=0.0)
        problem = self._problem(networks, 0, pins[None])
        base = self._base.held(pins.one, pins.zero)
        if (base.column_lower > base.column_upper).any():
            return Answer.empty(problem, begin, "an action is required that is never feasible")
        # The network's constant is another one than that of the trees, as leaves of one comparison
        # have a part in it.
        nothing = np.zeros(self.space.n_actions)
        shift = problem.value(nothing) - float(trees.forward(nothing)[0])
        terms = len(trees.feature) + self.space.n_actions
        rounding = _EPSILON * terms * (trees.largest + abs(shift))
        problem = replace(problem, rounding=rounding)
        first = self._first_action(problem, networks.centred, start, deadline)
        written = tree_model(trees, base)
        highest = written.highest + shift + rounding
        if first is not None and highest <= problem.target(problem.value(first), options):
            message = "proven by the best leaf of each tree alone"
            return Answer(problem, first, highest, time.perf_counter() - begin, message=message)
        if late(deadline):
            message = "stopped at the limit before the model"
            seconds = time.perf_counter() - begin
            return Answer(problem, first, highest, seconds, message=message)
        moved = replace(written.model, offset=written.model.offset + shift)
        known = None if first is None else problem.value(first)
        unit = objective_unit(problem, known, written.highest - written.lowest)
        rows = replace(written, model=moved)
        asked = CompactWritten(rows, problem, self._ranges, unit, self.solver, options.gap)
        run = MilpRun(problem, asked, options, first, self.incumbents, begin)
        status: Status = run.solve()
        if run.action is not None:
            own, claimed = float(trees.forward(run.action)[0]), run.value - shift
            if abs(own - claimed) > 2.0 * rounding:
                raise CertificationError(
                    f"the trees give {run.action.tolist()} the value {own!r} without their"
                    f" constant, its network {claimed!r}"
                )
        seconds, bound = time.perf_counter() - begin, min(run.bound, highest)
        return Answer(
            problem, run.action, bound, seconds, run.nodes, message=run.message, status=status
        )
