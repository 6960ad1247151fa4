"""Doing a computation again with other numbers: the same decisions, and arrays that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.blocks import Block
from milp_rl.formulations.networks.network import NetworkError

_WORK = 64  # times the budget: bytes written in all


class Repetition:
    """What is decided and computed in a fixed order, perhaps several times.

    Parameters
    ----------
    most
        Bytes that arrays may take; None for any.
    repeated
        Whether all is done again, each time after :meth:`again`.

    Attributes
    ----------
    generic
        Whether numbers that a state decides are in general position, in place of those of a state.
    """

    def __init__(self, most: int | None, repeated: bool) -> None:
        self.generic = False
        self._most = most
        self._repeated, self._replayed = repeated, False
        self._decisions: list[Any] = []
        self._kept: list[tuple[tuple[Block, ...], Any] | None] = []
        self._decided = self._at = self._written = self._held = 0

    def again(self) -> None:
        """Start over, with the decisions that were made and the arrays that no state changes."""
        self._decided = self._at = self._written = self._held = 0
        self._replayed, self.generic, self._most = True, False, None

    def decide(self, question: Callable[[], Any]) -> Any:
        """Return the answer, that of the first time where the lowering is repeated."""
        self._decided += 1
        if not self._replayed:
            self._decisions.append(question())
        return self._decisions[self._decided - 1]

    def computed(self, function: Callable[..., Any], *arrays: Block) -> Any:
        """Return ``function(*arrays)``, the same array as before if these are."""
        if not self._repeated:
            return function(*arrays)
        at = self._at
        self._at += 1
        if self._replayed and at < len(self._kept):
            kept = self._kept[at]
            if kept is not None and all(a is b for a, b in zip(kept[0], arrays, strict=True)):
                return kept[1]
        result = function(*arrays)
        shared = all(len(array) == 1 for array in arrays)
        if not self._replayed:
            self._kept.append((arrays, result) if shared else None)
        elif shared:
            self._kept[at] = arrays, result
        return result

    def fixed(self, values: ArrayLike) -> FloatArray:
        """Return constants that are the same in all states, shape (1, *shape)."""
        result: FloatArray = self.computed(lambda: np.asarray(values, dtype=np.float64)[None])
        return result

    def reserve(self, entries: int) -> None:
        """Count entries of float64 that are about to be written.

        Raises
        ------
        NetworkError
            If they take more than may be taken.
        """
        if self._most is None:
            return
        taken = self._held + 8 * entries
        self._written += 8 * entries
        if taken > self._most or self._written > _WORK * self._most:
            raise NetworkError(
                f"the network takes {max(taken, self._written // _WORK):,} bytes, but a file of"
                f" this size at most {self._most:,}"
            )

    def hold(self, size: int) -> None:
        """Count bytes of arrays that are kept to the end."""
        self._held += size
        self.reserve(0)
