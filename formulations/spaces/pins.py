"""Binary actions held at one or at zero, as an oracle is asked about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import BoolArray


@dataclass(frozen=True, eq=False)
class Pins:
    """Binary actions held at one or at zero.

    Parameters
    ----------
    one, zero
        Boolean masks of the actions held at one and at zero, shape (n_actions,), or
        (batch, n_actions) with masks of its own for each objective; ``None`` for none.

    Examples
    --------
    >>> import milp_rl as mr
    >>> from milp_rl.formulations.spaces import Pins
    >>> space = mr.BudgetTopK(n_actions=4, k=2)
    >>> space.linear_max([[3.0, 1.0, 2.0, 5.0]], Pins(one=[True, False, False, False])).tolist()
    [8.0]
    """

    one: BoolArray | None = None
    zero: BoolArray | None = None

    def checked(self, shape: tuple[int, ...]) -> Pins:
        """Return the masks as arrays of a shape (batch, n_actions), ``None`` where they are empty.

        Raises
        ------
        ValueError
            If a mask has neither that shape nor (n_actions,).
        """
        return Pins(_mask(self.one, "one", shape), _mask(self.zero, "zero", shape))

    def __getitem__(self, index: Any) -> Pins:
        """Return the masks of some objectives, or of some actions."""
        return Pins(
            None if self.one is None else self.one[index],
            None if self.zero is None else self.zero[index],
        )

    def and_one(self, mask: BoolArray, shape: tuple[int, ...]) -> Pins:
        """Return the pins with further actions held at one."""
        return Pins(_joined(self.one, mask, shape), self.zero)

    def and_zero(self, mask: BoolArray, shape: tuple[int, ...]) -> Pins:
        """Return the pins with further actions held at zero."""
        return Pins(self.one, _joined(self.zero, mask, shape))


def _mask(values: ArrayLike | None, name: str, shape: tuple[int, ...]) -> BoolArray | None:
    if values is None:
        return None
    mask = np.asarray(values, dtype=bool)
    if mask.shape not in (shape[1:], shape):
        raise ValueError(f"pins.{name} must have shape {shape[1:]} or {shape}, got {mask.shape}")
    return np.broadcast_to(mask, shape) if mask.any() else None


def _joined(known: BoolArray | None, mask: BoolArray, shape: tuple[int, ...]) -> BoolArray | None:
    if not mask.any():
        return known
    return np.broadcast_to(mask, shape) if known is None else known | mask
