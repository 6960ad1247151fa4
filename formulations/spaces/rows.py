"""Checking linear rows for many actions at once, also for actions that are not yet whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.milp.linear_model import LinearModel

_LOOSE = 1e-5  # by which a row may be missed, relative to its sum: nothing feasible is left out


def within(
    actions: ActionArray, matrix: FloatArray, right: FloatArray, tolerance: FloatArray | float
) -> tuple[BoolArray, BoolArray]:
    """Check ``matrix @ action <= right + tolerance`` for many actions.

    Returns
    -------
    tuple of numpy.ndarray
        Whether all rows hold, and whether rounding leaves that in doubt, shapes (batch,).
    """
    x = np.asarray(actions, dtype=np.float64)
    excess = x @ matrix.T - right - tolerance
    rounding = 4 * (x.shape[1] + 2) * np.finfo(np.float64).eps
    unclear = np.abs(excess) <= rounding * (np.abs(x) @ np.abs(matrix).T + np.abs(right))
    return np.asarray((excess <= 0).all(axis=1)), np.asarray(unclear.any(axis=1))


def reachable(model: LinearModel, actions: ActionArray, decided: int) -> BoolArray:
    """Tell which partial actions no row of a model excludes, whatever its other columns are.

    Parameters
    ----------
    model
        The first columns are the actions'.
    actions
        Shape (batch, n_actions), of which the first ``decided`` variables count.

    Returns
    -------
    numpy.ndarray
        Shape (batch,); false only where the bounds of the columns leave no completion of a row.
    """
    x = np.asarray(actions, dtype=np.float64)[:, :decided]
    low, high = model.column_lower, model.column_upper
    found = ((x >= low[:decided] - _LOOSE) & (x <= high[:decided] + _LOOSE)).all(axis=1)
    if not model.n_rows:
        return np.asarray(found)
    rest = model.matrix[:, decided:]
    up, down = rest.maximum(0.0), rest.minimum(0.0)
    least, most = (
        _activity(up, first[decided:]) + _activity(down, second[decided:])
        for first, second in ((low, high), (high, low))
    )
    here = x @ model.matrix[:, :decided].T
    loose = _LOOSE * (1.0 + np.abs(here))
    met = (here + least <= model.row_upper + loose) & (here + most >= model.row_lower - loose)
    return np.asarray(found & met.all(axis=1))


def _activity(matrix: Any, ends: FloatArray) -> FloatArray:
    """Sum the entries times the ends of their columns, which may be infinite."""
    infinite = ~np.isfinite(ends)
    total = matrix @ np.where(infinite, 0.0, ends)
    signs = matrix @ np.where(infinite, np.sign(ends), 0.0)
    return np.asarray(np.where(signs == 0, total, np.copysign(np.inf, signs)))
