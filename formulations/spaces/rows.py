"""Checking linear rows for many actions at once."""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray


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
