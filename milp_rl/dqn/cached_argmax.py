"""Best actions of one network over a state's feasible set, remembered while its weights change.

What was found is keyed by the state and marked with the version of the weights it was found for:
for that version it is the answer, for later ones where the solver starts.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from milp_rl.dqn.choosers import Chooser, ExactChooser
from milp_rl.envs.known_model import StateArray
from milp_rl.envs.state_sets import StateSets
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.spaces.base import ActionSpace

_COUNTERS = ("lookups", "solves", "starts", "seconds")


@dataclass(frozen=True, eq=False)
class _Answer:
    """A best action, the version of the weights it is for, and the gap it was solved to."""

    version: int
    gap: float
    action: ActionArray


class CachedArgmax:
    """Best actions of a network, cached by state and version of the weights.

    Parameters
    ----------
    network
        The network. After its weights change, :meth:`renew` must be called.
    chooser
        What finds its best actions.
    capacity
        Most states remembered; those solved for longest ago are forgotten first.
    feasible
        Gives the feasible set of each state; by default the chooser's own is that of all.

    Attributes
    ----------
    lookups, solves, starts, seconds
        Argmaxes asked for, those of them that had to be solved, those of these that started from
        an earlier answer, and the time that took.
    """

    def __init__(
        self,
        network: nn.Module,
        chooser: Chooser,
        capacity: int,
        feasible: StateSets | None = None,
    ) -> None:
        self.network = network
        self.capacity = capacity
        self.lookups = 0
        self.solves = 0
        self.starts = 0
        self.seconds = 0.0
        self._chooser = chooser
        self._feasible = feasible
        self._version = self._solved_version = 0
        self._found: dict[bytes, _Answer] = {}

    @property
    def answered(self) -> Counter[str] | None:
        """How many argmaxes each solver has answered; ``None`` where a heuristic does."""
        return self._chooser.answered if isinstance(self._chooser, ExactChooser) else None

    def renew(self) -> None:
        """Say that the weights have changed: what was found is only where to start from now."""
        self._version += 1  # the solver is told once it is needed, which may be much later

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
            Shape (n, n_actions), of the chooser's dtype.

        Raises
        ------
        RuntimeError
            If the argmax of a state could not be found.
        """
        keys = [state.tobytes() for state in states]
        missing = {k: s for k, s in zip(keys, states, strict=True) if not self._answers(k, gap)}
        if missing:
            olds = [self._found.pop(key, None) for key in missing]
            starts = [None if old is None else old.action for old in olds]
            found = self._solve(np.stack(list(missing.values())), starts, gap)
            for key, action in zip(missing, found, strict=True):
                self._found[key] = _Answer(self._version, gap, action)
            self.starts += sum(start is not None for start in starts)
        result = np.array([self._found[key].action for key in keys])
        while len(self._found) > self.capacity:
            del self._found[next(iter(self._found))]
        self.lookups += len(keys)
        self.solves += len(missing)
        return result

    def bounds(self, states: StateArray) -> FloatArray:
        """Bound the best value in each state from above; for exact choosers."""
        assert isinstance(self._chooser, ExactChooser)
        self._renew_chooser()
        return self._chooser.bounds(states, self._spaces(states))

    def _spaces(self, states: StateArray) -> list[ActionSpace] | None:
        return None if self._feasible is None else self._feasible.in_states(states)

    def _renew_chooser(self) -> None:
        if self._solved_version != self._version:
            self._chooser.update(self.network)
            self._solved_version = self._version

    def _answers(self, key: bytes, gap: float) -> bool:
        answer = self._found.get(key)
        return answer is not None and answer.version == self._version and answer.gap <= gap

    def state_dict(self) -> dict[str, Any]:
        """Return what was counted and found, for a checkpoint: a resumed run solves the same."""
        counters = {name: getattr(self, name) for name in _COUNTERS}
        answers = self._found.values()
        states = np.frombuffer(b"".join(self._found), dtype=np.uint8).copy()
        found = {
            "states": torch.from_numpy(states).reshape(len(answers), -1 if len(answers) else 0),
            "current": torch.tensor([a.version == self._version for a in answers]),
            "gaps": torch.tensor([a.gap for a in answers], dtype=torch.float64),
            "actions": torch.from_numpy(np.array([a.action for a in answers])),
        }
        return counters | found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.renew()
        rows = zip(
            state["states"].numpy(),
            state["current"].tolist(),
            state["gaps"].tolist(),
            state["actions"].numpy(),
            strict=True,
        )
        self._found = {
            key.tobytes(): _Answer(self._version if current else -1, gap, action.copy())
            for key, current, gap, action in rows
        }

    def _solve(
        self, states: StateArray, starts: list[ActionArray | None], gap: float
    ) -> list[ActionArray]:
        started = time.perf_counter()
        self._renew_chooser()
        actions = self._chooser.choose(states, starts, gap, self._spaces(states))
        self.seconds += time.perf_counter() - started
        return actions
