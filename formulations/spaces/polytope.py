"""Moving points into a polytope towards points of it."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray


class Polytope:
    r"""The points between bounds under linear constraints.

    .. math:: l \le x \le u, \qquad M x \le r

    Parameters
    ----------
    lower, upper
        Shape (n,).
    matrix, right
        The constraints, shapes (constraints, n) and (constraints,). Two opposite rows with opposite
        sides are an equality.
    whole
        Which variables are whole numbers, which are not moved, shape (n,); ``None`` for none.
    """

    def __init__(
        self,
        lower: FloatArray,
        upper: FloatArray,
        matrix: FloatArray,
        right: FloatArray,
        whole: BoolArray | None = None,
    ) -> None:
        self.lower, self.upper, self.matrix, self.right = lower, upper, matrix, right
        self.whole: BoolArray = np.zeros(len(lower), dtype=bool) if whole is None else whole

    def pulled_in(self, points: FloatArray, inner: FloatArray) -> FloatArray:
        """Move points towards feasible ones until they meet the constraints.

        Parameters
        ----------
        points
            Within the bounds, shape (..., n).
        inner
            Feasible, broadcast against ``points``, which they equal where nothing is moved.
        """
        if not len(self.right):
            return points
        equal, sides, inverse, free = self._equalities
        if len(sides):
            points = points - (points @ equal.T - sides) @ inverse.T
        rows, right = self.matrix[free], self.right[free]
        there, here = points @ rows.T, inner @ rows.T
        share = _shares(there, here, right).min(axis=-1, initial=1.0)
        if len(sides):  # the nearest point that meets them may be outside the bounds
            above = _shares(points, inner, self.upper).min(axis=-1)
            below = _shares(-points, -inner, -self.lower).min(axis=-1)
            share = np.minimum(share, np.minimum(above, below))
        moved = inner + share[..., None] * (points - inner)
        return np.asarray(np.clip(moved, self.lower, self.upper) if len(sides) else moved)

    @cached_property
    def _equalities(self) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
        """Opposite rows with opposite sides, the inverse of these, and which rows are not such."""
        size = np.abs(self.matrix).max(axis=1, initial=0.0) + np.abs(self.right)
        whole = np.column_stack([self.matrix, self.right])
        pairs = np.array(opposite_rows(whole, 1e-12 * size), dtype=np.intp).reshape(-1, 2)
        pairs = pairs[self.matrix[pairs[:, 0]].any(axis=1)]
        free: BoolArray = np.ones(len(self.right), dtype=bool)
        free[pairs.ravel()] = False
        first = pairs[:, 0]
        equal = self.matrix[first]
        inverse = np.asarray(np.linalg.pinv(equal * ~self.whole), dtype=np.float64)
        return equal, self.right[first], inverse, free


def opposite_rows(rows: FloatArray, tolerance: FloatArray) -> list[tuple[int, int]]:
    """Return the pairs of rows whose sum is zero but for a tolerance, that of the first of them.

    Rows that are opposite have opposite products with any vector, by which they are found.
    """
    vector = np.random.default_rng(0).uniform(0.5, 1.0, rows.shape[1])
    products = rows @ vector
    order = np.argsort(products)
    reach = tolerance * rows.shape[1] + 1e-14 * (np.abs(rows) @ vector)
    low = np.searchsorted(products[order], -products - reach, side="left")
    high = np.searchsorted(products[order], -products + reach, side="right")
    found = []
    for i in range(len(rows)):
        for j in order[low[i] : high[i]]:
            if i < j and np.abs(rows[i] + rows[j]).max(initial=0.0) <= tolerance[i]:
                found.append((i, int(j)))
    return found


def _shares(there: FloatArray, here: FloatArray, right: FloatArray) -> FloatArray:
    """Return the largest share of the step from ``here`` to ``there`` that keeps to ``right``."""
    room = np.maximum(right - here, 0.0)
    step = np.where(there > right, np.maximum(there - here, 1e-300), np.maximum(room, 1.0))
    return np.asarray(np.where(there > right, np.minimum(room / step, 1.0), 1.0))
