"""Prioritized experience replay (Schaul, Quan, Antonoglou and Silver, ICLR 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from milp_rl.envs.known_model import StateArray
from milp_rl.formulations.arrays import ActionArray, FloatArray

_SMALLEST_PRIORITY = 1e-6


class Step(NamedTuple):
    """One step of an environment: what was seen, done and paid, and what followed."""

    state: StateArray
    action: ActionArray
    reward: float
    next_state: StateArray
    terminated: bool
    truncated: bool

    @property
    def last(self) -> bool:
        """Whether the episode ended with it."""
        return self.terminated or self.truncated


@dataclass(frozen=True, eq=False)
class Batch:
    """Sampled transitions; arrays of shape (batch, ...).

    ``rewards`` are discounted sums over one or more steps, ``next_states`` what follows the last,
    and ``bootstrap`` is the factor on its value: the discount to the power of the steps, 0 where
    the episode terminated. ``weights`` are the importance weights, largest 1; ``index`` is for
    :meth:`PrioritizedReplay.update`.
    """

    index: NDArray[np.intp]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    next_states: NDArray[np.float32]
    bootstrap: NDArray[np.float32]
    weights: NDArray[np.float32]


class PrioritizedReplay:
    """A ring buffer sampled in proportion to ``(|error| + 1e-6) ** alpha``.

    New transitions get the largest priority seen, so that each is likely to be learnt from once.
    Sampling is one cumulative sum and one binary search per draw, which for buffers of this size
    is faster than a tree written in Python.

    Parameters
    ----------
    capacity
        Most transitions kept; the oldest are overwritten.
    state_dim, action_dim
        Lengths of a state and an action.
    alpha, beta
        Exponents of priorities and of importance weights.
    """

    def __init__(
        self, capacity: int, state_dim: int, action_dim: int, alpha: float, beta: float
    ) -> None:
        self.capacity = capacity
        self.alpha = alpha
        self.beta = beta
        self._data = {
            "states": np.zeros((capacity, state_dim), dtype=np.float32),
            "actions": np.zeros((capacity, action_dim), dtype=np.float32),
            "rewards": np.zeros(capacity, dtype=np.float32),
            "next_states": np.zeros((capacity, state_dim), dtype=np.float32),
            "bootstrap": np.zeros(capacity, dtype=np.float32),
        }
        self._priorities = np.zeros(capacity)
        self._largest = 1.0
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(
        self,
        states: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        next_states: ArrayLike,
        bootstrap: ArrayLike,
    ) -> None:
        """Add transitions, arrays of shape (n, ...)."""
        n = len(np.atleast_1d(np.asarray(rewards)))
        slots = np.arange(self._added, self._added + n) % self.capacity
        values = (states, actions, rewards, next_states, bootstrap)
        for column, value in zip(self._data.values(), values, strict=True):
            column[slots] = value
        self._priorities[slots] = self._largest
        self._added += n

    def sample(self, rng: np.random.Generator, n: int) -> Batch:
        """Draw ``n`` transitions with replacement; raises ``ValueError`` if there are none."""
        size = len(self)
        if size == 0:
            raise ValueError("the replay buffer is empty")
        cumulative = np.cumsum(self._priorities[:size])
        draws = rng.random(n) * cumulative[-1]
        index = np.minimum(np.searchsorted(cumulative, draws, side="right"), size - 1)
        weights = self._priorities[index] ** -self.beta
        columns = {name: column[index] for name, column in self._data.items()}
        return Batch(index=index, weights=(weights / weights.max()).astype(np.float32), **columns)

    def update(self, index: NDArray[np.intp], errors: FloatArray) -> None:
        """Set the priorities of sampled transitions from their temporal-difference errors."""
        priorities = (np.abs(errors) + _SMALLEST_PRIORITY) ** self.alpha
        self._priorities[index] = priorities
        self._largest = max(self._largest, float(priorities.max()))

    def state_dict(self) -> dict[str, Any]:
        """Return everything a checkpoint needs, as tensors and numbers."""
        size = len(self)
        columns = {name: torch.from_numpy(c[:size].copy()) for name, c in self._data.items()}
        priorities = torch.from_numpy(self._priorities[:size].copy())
        return {**columns, "priorities": priorities, "largest": self._largest, "added": self._added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` of a buffer of the same capacity."""
        size = len(state["priorities"])
        for name, column in self._data.items():
            column[:size] = state[name].numpy()
        self._priorities[:size] = state["priorities"].numpy()
        self._largest = float(state["largest"])
        self._added = int(state["added"])
