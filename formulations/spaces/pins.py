"""Binary actions held at one or at zero, as an oracle is asked about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import ActionArray, BoolArray, IntArray

_MOST_NAMED = 10  # actions in a message


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

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return self.one is None and self.zero is None

    def allows(self, actions: ActionArray) -> BoolArray:
        """Whether actions, shape (..., n_actions), are at one and at zero where they are held."""
        found = np.ones(actions.shape[:-1], dtype=bool)
        if self.one is not None:
            found &= ~(self.one & (actions == 0)).any(axis=-1)
        if self.zero is not None:
            found &= ~(self.zero & (actions != 0)).any(axis=-1)
        return found

    def imposed_on(self, actions: ActionArray) -> ActionArray:
        """Return actions, shape (..., n_actions), with what is held at one and at zero."""
        if self.one is not None:
            actions = np.where(self.one, actions.dtype.type(1), actions)
        if self.zero is not None:
            actions = np.where(self.zero, actions.dtype.type(0), actions)
        return actions

    def __str__(self) -> str:
        """Say which actions one row of masks holds, as a message needs it."""
        parts = [("required", self.one), ("not available", self.zero)]
        named = [(word, np.flatnonzero(mask)) for word, mask in parts if mask is not None]
        return "; ".join(f"{word}: {_listed(held)}" for word, held in named if len(held))

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

    def masks(self, shape: int | tuple[int, ...]) -> tuple[BoolArray, BoolArray]:
        """Return both masks as contiguous arrays of a shape, false where there is none."""
        one, zero = (
            np.zeros(shape, dtype=bool)
            if mask is None
            else np.ascontiguousarray(np.broadcast_to(mask, shape))
            for mask in (self.one, self.zero)
        )
        return one, zero

    def and_one(self, mask: BoolArray, shape: tuple[int, ...]) -> Pins:
        """Return the pins with further actions held at one."""
        return Pins(_joined(self.one, mask, shape), self.zero)

    def and_zero(self, mask: BoolArray, shape: tuple[int, ...]) -> Pins:
        """Return the pins with further actions held at zero."""
        return Pins(self.one, _joined(self.zero, mask, shape))


def pins_of(
    available: ArrayLike | None,
    required: ArrayLike | None,
    continuous: BoolArray,
    integer: BoolArray | None = None,
    n_states: int | None = None,
) -> Pins:
    """Return the masks of a call as pins.

    Parameters
    ----------
    available
        Which actions may be chosen; the others are held at zero. Shape (n_actions,), or (n_states,
        n_actions); ``None`` for all.
    required
        Which actions have to be chosen; of the same shapes, ``None`` for none.
    continuous, integer
        Which variables are continuous and integer, shape (n_actions,); ``None`` for none.
    n_states
        Number of states, ``None`` for a single one.

    Returns
    -------
    Pins
        Masks of shape (n_states or 1, n_actions), ``None`` where they are empty.

    Raises
    ------
    ValueError
        If a mask has another shape or other values than true and false, a variable is held that is
        not binary, or an action is required and not available.
    """
    shape = (1 if n_states is None else n_states, len(continuous))
    one = _checked_mask(required, "required", shape, n_states is None)
    usable = _checked_mask(available, "available", shape, n_states is None)
    zero = None if usable is None else ~usable
    others = continuous if integer is None else continuous | integer
    for name, mask in (("required", one), ("not available", zero)):
        if mask is not None and (wrong := np.flatnonzero((mask & others).any(axis=0))).size:
            kind = "continuous" if continuous[wrong[0]] else "integer"
            raise ValueError(
                f"variable {wrong[0]} is {name}, but {kind}: masks are for binary ones; bounds of"
                " the others change with space="
            )
    if one is not None and zero is not None and (one & zero).any():
        state, action = (int(i) for i in np.argwhere(one & zero)[0])
        where = "" if n_states is None else f" in state {state}"
        raise ValueError(f"action {action} is required and not available{where}")
    return Pins(one, zero).checked(shape)


def _checked_mask(
    values: ArrayLike | None, name: str, shape: tuple[int, int], single: bool
) -> BoolArray | None:
    if values is None:
        return None
    given = np.asarray(values)
    wanted = [shape[1:]] if single else [shape[1:], shape]
    if given.shape not in wanted:
        raise ValueError(
            f"{name} must be a mask of shape {' or '.join(map(str, wanted))}, true or false for"
            f" each action, got shape {given.shape}"
        )
    if given.dtype != bool:
        wrong = np.argwhere((given != 0) & (given != 1))
        if len(wrong):
            at = tuple(wrong[0].tolist())
            raise ValueError(
                f"{name}[{', '.join(map(str, at))}] is {given[at]}, but a mask has true and false"
            )
    return np.broadcast_to(given.astype(bool), shape)


def _listed(actions: IntArray) -> str:
    text = ", ".join(map(str, actions[:_MOST_NAMED].tolist()))
    more = len(actions) - _MOST_NAMED
    return f"{text} and {more} more" if more > 0 else text


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
