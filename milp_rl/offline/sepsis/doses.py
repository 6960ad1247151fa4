"""Doses under safety limits: for one patient, and for a ward that shares its pumps."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.envs.factored_actions import FactoredActionSpace
from milp_rl.envs.sepsis import ACTIONS
from milp_rl.formulations.arrays import BoolArray, IntArray
from milp_rl.offline.allocation import Allocation, Limit, allocate


def allowed_doses(
    previous: ArrayLike, *, largest_step: int = 1, both_high: bool = False
) -> BoolArray:
    """Return which of the nine actions each patient may get.

    Parameters
    ----------
    previous
        Levels of vasopressor and fluid in the step before, shape (n, 2).
    largest_step
        Most levels that a dose may change by.
    both_high
        Whether both doses may be at their highest level at once.

    Returns
    -------
    numpy.ndarray
        Shape (n, 9).
    """
    levels = np.asarray(previous)
    if levels.ndim != 2 or levels.shape[1] != 2 or not np.isin(levels, (0, 1, 2)).all():
        raise ValueError(f"previous must be pairs of levels 0, 1 or 2, got shape {levels.shape}")
    if largest_step < 0:
        raise ValueError(f"largest_step must be nonnegative, got {largest_step}")
    steps = np.abs(ACTIONS.levels[None] - levels[:, None])
    allowed = (steps <= largest_step).all(axis=2)
    if not both_high:
        allowed &= ~(ACTIONS.levels == 2).all(axis=1)
    if not allowed.any(axis=1).all():
        raise ValueError(
            "a patient has no allowed action: both doses were high, and may not change"
        )
    return np.asarray(allowed)


def dose_space(
    previous: ArrayLike, *, largest_step: int = 1, both_high: bool = False
) -> FactoredActionSpace:
    """Return one patient's allowed doses as an action space; its ``block()`` goes into a MILP."""
    allowed = allowed_doses(
        np.asarray(previous)[None], largest_step=largest_step, both_high=both_high
    )[0]
    return FactoredActionSpace(ACTIONS.factors, allowed.reshape(3, 3))


def best_doses(q: ArrayLike, previous: ArrayLike, **limits: bool | int) -> IntArray:
    """Return each patient's allowed action of highest value, shape (n,).

    Parameters
    ----------
    q
        Values of the nine actions, shape (n, 9).
    previous, **limits
        As for :func:`allowed_doses`.
    """
    allowed = allowed_doses(previous, **limits)  # type: ignore[arg-type]
    return np.asarray(np.where(allowed, np.asarray(q, dtype=float), -np.inf).argmax(axis=1))


def ward_doses(
    q: ArrayLike, previous: ArrayLike, pumps: int, *, gap: float = 0.0, **limits: bool | int
) -> Allocation:
    """Choose the actions of a ward's patients together: vasopressor needs a pump each.

    Parameters
    ----------
    q, previous, **limits
        As for :func:`best_doses`.
    pumps
        How many patients may get vasopressor at once.
    gap
        Largest relative gap of the total value.

    Returns
    -------
    Allocation
        Actions 0..8, with a proven bound; see :func:`milp_rl.offline.allocation.allocate`.
    """
    allowed = allowed_doses(previous, **limits)  # type: ignore[arg-type]
    values = np.where(allowed, np.asarray(q, dtype=float), -np.inf)
    running = (ACTIONS.levels[:, 0] > 0).astype(float)
    return allocate(values, [Limit("vasopressor pumps", running, pumps)], gap=gap)
