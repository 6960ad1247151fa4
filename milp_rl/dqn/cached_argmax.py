"""Best actions of one network over one action space, remembered until its weights change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from milp_rl.argmax_solver import ArgmaxSolver
from milp_rl.baselines.greedy import GreedyArgmax
from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.solvers.base import ArgmaxResult

StateArray = NDArray[np.float32]


class CachedArgmax:
    """Maximisers of ``network([action, state])``, cached by state and gap for the current weights.

    Parameters
    ----------
    network
        A ReLU network on [action, state]. After its weights change, :meth:`renew` must be called.
    space
        The feasible set.
    capacity
        Most states remembered; the oldest are forgotten first.
    argmax
        ``"exact"``, or ``"greedy"``: actions built by
        :class:`milp_rl.baselines.greedy.GreedyArgmax` instead of maximisers.
    options
        Keywords of :class:`milp_rl.argmax_solver.ArgmaxSolver`.

    Attributes
    ----------
    lookups, solves, seconds
        Argmaxes asked for, those of them that had to be solved, and the time that took.
    """

    def __init__(
        self,
        network: nn.Module,
        space: ActionSpace,
        capacity: int,
        argmax: Literal["exact", "greedy"] = "exact",
        **options: Any,
    ) -> None:
        self.network = network
        self.capacity = capacity
        self.lookups = 0
        self.solves = 0
        self.seconds = 0.0
        self._solver = (
            GreedyArgmax(network, space)
            if argmax == "greedy"
            else ArgmaxSolver(network, space, **options)
        )
        self._current = True
        self._known: dict[tuple[bytes, float], ActionArray] = {}

    def renew(self) -> None:
        """Say that the weights have changed: what was found for the old ones is forgotten."""
        self._known.clear()
        self._current = False  # the solver is told once it is needed, which may be much later

    def actions(self, states: StateArray, gap: float = 0.0) -> ActionArray:
        """Return the best action in each state.

        Parameters
        ----------
        states
            Shape (n, state_dim), finite.
        gap
            Relative gap of solves.

        Returns
        -------
        numpy.ndarray
            Shape (n, n_actions), int8.

        Raises
        ------
        RuntimeError
            If the argmax of a state could not be found.
        """
        keys = [(state.tobytes(), gap) for state in states]
        missing = {k: s for k, s in zip(keys, states, strict=True) if k not in self._known}
        if missing:
            found = self._solve(np.stack(list(missing.values())), gap)
            self._known.update(zip(missing, found, strict=True))
        result = np.array([self._known[key] for key in keys], dtype=np.int8)
        while len(self._known) > self.capacity:
            del self._known[next(iter(self._known))]
        self.lookups += len(keys)
        self.solves += len(missing)
        return result

    def state_dict(self) -> dict[str, float]:
        """Return what has been counted, for a checkpoint; what was found can be found again."""
        return {"lookups": self.lookups, "solves": self.solves, "seconds": self.seconds}

    def load_state_dict(self, counters: dict[str, float]) -> None:
        """Restore :meth:`state_dict`, with nothing found yet."""
        self.lookups, self.solves = int(counters["lookups"]), int(counters["solves"])
        self.seconds = float(counters["seconds"])
        self.renew()

    def _solve(self, states: StateArray, gap: float) -> list[ActionArray]:
        started = time.perf_counter()
        if not self._current:
            self._solver.update(self.network)
            self._current = True
        if isinstance(self._solver, GreedyArgmax):
            actions = list(self._solver.actions(states))
        else:
            actions = _proven(states, self._solver.solve_batch(states, gap=gap))
        self.seconds += time.perf_counter() - started
        return actions


def _proven(states: StateArray, results: Sequence[ArgmaxResult]) -> list[ActionArray]:
    actions = []
    for state, result in zip(states, results, strict=True):
        if result.action is None:
            raise RuntimeError(
                f"no best action for state {state.tolist()}: the solver's status is"
                f" {result.status!r}"
            )
        actions.append(result.action)
    return actions
