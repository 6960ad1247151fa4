"""The argmax over a union of spaces by an argmax over each: the best of their best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.protocol import Answer, Argmax, Starts

Search = Callable[[ActionValue | Network, ActionSpace, Incumbents], Argmax]


class AlternativesArgmax(Argmax):
    r"""Exact argmax over a union by an argmax over each of its alternatives.

    .. math:: \max_{x \in A_1 \cup \dots \cup A_m} Q(x, s) = \max_j \max_{x \in A_j} Q(x, s)

    Limits of time are for all alternatives together, those of nodes for each.

    Parameters
    ----------
    value
        Q(state, action), or a network of one output whose inputs are [action, state].
    space
        The feasible set.
    alternatives
        Spaces of which it is the union, as :func:`.alternatives` gives them.
    search
        What makes the argmax over one.
    incumbents
        What is known of the space.
    """

    name = "branch_and_bound"

    def __init__(
        self,
        value: ActionValue | Network,
        space: ActionSpace,
        alternatives: Sequence[ActionSpace],
        search: Search,
        incumbents: Incumbents | None = None,
    ) -> None:
        self._new = search
        self._parts = [search(value, own, Incumbents(own)) for own in alternatives]
        super().__init__(value, space, incumbents)

    def update(self, value: ActionValue | Network) -> None:
        """Replace the action value."""
        super().update(value)
        for part in self._parts:
            part.update(self.value)

    def prepare(self) -> None:
        """Compile or fetch the loops of the alternatives' searches."""
        for part in self._parts:
            part.prepare()

    def over(self, space: ActionSpace, incumbents: Incumbents | None = None) -> Argmax:
        """Return a solver of the same kind and value for another space of the same variables."""
        return self._new(self.value, space, incumbents or Incumbents(space))

    def _solve(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[Answer]:
        begin = time.perf_counter()
        deadline = options.deadline(begin)
        found = []
        for number, part in enumerate(self._parts):
            own = options
            if math.isfinite(deadline):  # an equal share of what is left
                left = max(deadline - time.perf_counter(), 1e-3)
                own = replace(options, time_limit=left / (len(self._parts) - number))
            found.append(part._solve(networks, own, [None] * networks.n_states, pins))
        seconds = (time.perf_counter() - begin) / networks.n_states
        states = zip(*found, strict=True)
        return [
            self._joined(networks, i, pins, answers, starts[i], seconds)
            for i, answers in enumerate(states)
        ]

    def _joined(
        self,
        networks: ActionNetworks,
        state: int,
        pins: Pins,
        answers: tuple[Answer, ...],
        start: ActionArray | None,
        seconds: float,
    ) -> Answer:
        """Return the best of the alternatives' answers for a state, and the bound for all."""
        rounding = max(answer.problem.rounding for answer in answers)
        problem = self._problem(networks, state, pins, rounding)
        actions = [answer.action for answer in answers] + [start]
        known: list[ActionArray] = [
            action.astype(self.space.dtype) for action in actions if action is not None
        ]
        bound = max(answer.bound for answer in answers)
        nodes = sum(answer.nodes for answer in answers)
        unstable = max(answer.unstable for answer in answers)
        empty = all(answer.status == "infeasible" for answer in answers)
        return Answer(
            problem,
            max(known, key=problem.value, default=None),
            bound,
            seconds,
            nodes,
            unstable,
            f"searched {len(answers)} alternatives, {nodes} nodes",
            "infeasible" if empty else "no_solution",
        )
