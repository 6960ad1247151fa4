"""Feasible sets as Gymnasium spaces: for one environment, and for several played at once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.spaces.base import ActionSpace


class FeasibleActions(gym.spaces.MultiBinary):
    """The Gymnasium view of an :class:`ActionSpace`: contains and samples feasible actions only.

    Parameters
    ----------
    block
        The feasible set.
    seed
        Seed of :meth:`sample`.
    """

    def __init__(self, block: ActionSpace, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(block.n_actions, seed)
        self.block = block

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.int8]:
        """Draw one feasible action; masks are not supported."""
        _refuse_masks(mask, probability)
        return np.asarray(self.block.sample(self.np_random, 1)[0], dtype=np.int8)

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is binary and feasible."""
        return super().contains(x) and not self.block.violations(x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FeasibleActions) and self.block == other.block

    def __repr__(self) -> str:
        return f"FeasibleActions({self.block!r})"


class FeasibleBox(gym.spaces.Box):
    """The Gymnasium view of a space of continuous or integer actions.

    Parameters
    ----------
    block
        The feasible set.
    seed
        Seed of :meth:`sample`.
    """

    def __init__(self, block: ActionSpace, seed: int | np.random.Generator | None = None) -> None:
        dtype = block.dtype.type
        super().__init__(
            block.lower.astype(dtype), block.upper.astype(dtype), dtype=dtype, seed=seed
        )
        self.block = block

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[Any]:
        """Draw one feasible action; masks are not supported."""
        _refuse_masks(mask, probability)
        return np.asarray(self.block.sample(self.np_random, 1)[0])

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is feasible."""
        shaped = np.shape(x) == self.shape and bool(np.isfinite(x).all())
        return shaped and not self.block.violations(x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FeasibleBox) and self.block == other.block

    def __repr__(self) -> str:
        return f"FeasibleBox({self.block!r})"


class FeasibleActionRows(gym.spaces.MultiBinary):
    """Several feasible actions, one per row: the actions of environments played at once.

    Parameters
    ----------
    block
        The feasible set of each row.
    rows
        Number of rows, at least 1.
    seed
        Seed of :meth:`sample`.

    Attributes
    ----------
    each
        The feasible set of each row where they are not all ``block``, otherwise ``None``.
    """

    def __init__(
        self, block: ActionSpace, rows: int, seed: int | np.random.Generator | None = None
    ) -> None:
        super().__init__((rows, block.n_actions), seed)
        self.block = block
        self.each: list[ActionSpace] | None = None

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.int8]:
        """Draw a feasible action per row; masks are not supported."""
        _refuse_masks(mask, probability)
        if self.each is None:
            return np.asarray(self.block.sample(self.np_random, self.shape[0]), dtype=np.int8)
        drawn = [block.sample(self.np_random, 1)[0] for block in self.each]
        return np.asarray(drawn, dtype=np.int8)

    def contains(self, x: Any) -> bool:
        """Whether every row of ``x`` is binary and feasible."""
        return super().contains(x) and not any(self.violations(np.asarray(x)))

    def violations(self, actions: NDArray[Any]) -> list[list[str]]:
        """Return the violated constraints of each row."""
        blocks = [self.block] * self.shape[0] if self.each is None else self.each
        return [block.violations(row) for block, row in zip(blocks, actions, strict=True)]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, FeasibleActionRows)
            and self.shape == other.shape
            and self.block == other.block
            and self.each == other.each
        )

    def __repr__(self) -> str:
        return f"FeasibleActionRows({self.block!r}, {self.shape[0]})"


def _refuse_masks(mask: Any, probability: Any) -> None:
    if mask is not None or probability is not None:
        raise ValueError("a feasible set cannot be sampled with a mask or probabilities")
