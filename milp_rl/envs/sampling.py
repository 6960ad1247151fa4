"""Drawing from tables of probabilities."""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import FloatArray, IntArray


def draw_each(probabilities: FloatArray, rng: np.random.Generator) -> IntArray:
    """Draw a number from each row of probabilities, shape (n, actions) to (n,)."""
    cumulative = probabilities.cumsum(axis=1)
    draws = rng.random((len(probabilities), 1)) * cumulative[:, -1:]
    return np.asarray((cumulative < draws).sum(axis=1))
