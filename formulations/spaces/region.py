"""Numbers and whole numbers between bounds under linear rows: what the spatial search divides.

Blocks and solvers let an action pass that is beyond a row by their tolerance. Where continuous
variables have small coefficients or short ranges, that is much of Q; what is drawn, found and
answered is therefore moved into the rows themselves (:meth:`Region.settled`).
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy.optimize import linprog

from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box, box_maxima
from milp_rl.formulations.spaces.polytope import Polytope, opposite_rows

_LARGEST_MULTIPLIER = 100.0  # in units of the objective over the row: larger ones add rounding only
_OUTSIDE = 1e-9  # beyond a row, relative to what it sums, a box is empty
_EXACT = 1e-12  # beyond a row, relative to what numbers can move it by, a point is in it
_MET = 1e-8  # beyond a row, a point meets it,
_EMPTY = 1e-6  # and farther than that, one that is as near as possible shows that none does
_OPPOSITE = 1e-12  # largest entry of the sum of two rows of norm one that say an equality
_ROUNDED = 1e-9  # by which an implied bound of a whole number may be beyond the next one
_REMEMBERED = 10_000  # values of the whole numbers for which a feasible point is kept


class Region:
    r"""A feasible set without auxiliary variables, its rows scaled to norm one.

    .. math:: \{x : l \le x \le u,\; M x \le r,\; x_i \in \mathbb{Z} \text{ for whole } i\}

    Parameters
    ----------
    polytope
        The set but for that some variables are whole numbers.
    """

    def __init__(self, polytope: Polytope) -> None:
        lower, upper, whole = polytope.lower, polytope.upper, polytope.whole
        self.lower, self.upper, self.whole = lower, upper, whole
        self.reach = np.maximum(np.abs(lower), np.abs(upper))
        self._polytope = polytope
        used = polytope.matrix.any(axis=1)
        norms = np.linalg.norm(polytope.matrix[used], axis=1)
        self.matrix, self.right = (
            polytope.matrix[used] / norms[:, None],
            polytope.right[used] / norms,
        )
        self.free = ~self.matrix.any(axis=0)  # variables in no constraint
        self.sizes = np.abs(self.matrix) @ self.reach + np.abs(self.right)
        ranges = np.where(whole, 0.0, upper - lower)
        rounding = 4 * (len(lower) + 2) * np.finfo(float).eps * self.sizes
        self._slack = np.maximum(_EXACT * (np.abs(self.matrix) @ ranges), rounding)
        self._inner = lru_cache(_REMEMBERED)(self._find_inner)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied or pickled: all but the points that are remembered."""
        return {name: value for name, value in self.__dict__.items() if name != "_inner"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._inner = lru_cache(_REMEMBERED)(self._find_inner)

    @classmethod
    def of(cls, space: ActionSpace) -> Region | None:
        """Return that of a space, ``None`` if its block has auxiliary variables."""
        whole = ~space.continuous
        if isinstance(space, Box):
            return cls(Polytope(space.lower, space.upper, space.matrix, space.right, whole))
        model = space.linear_model
        if model.n_columns > space.n_actions:
            return None
        above, below = np.isfinite(model.row_upper), np.isfinite(model.row_lower)
        rows = model.matrix.toarray()
        return cls(
            Polytope(
                np.where(whole, np.ceil(space.lower), space.lower),
                np.where(whole, np.floor(space.upper), space.upper),
                np.concatenate([rows[above], -rows[below]]),
                np.concatenate([model.row_upper[above], -model.row_lower[below]]),
                whole,
            )
        )

    def reached(self, lower: FloatArray, upper: FloatArray) -> BoolArray:
        """Mark the boxes that are not altogether beyond a constraint."""
        least = self._least(lower, upper)
        met = (least <= self.right + _OUTSIDE * self.sizes).all(axis=1)
        return np.asarray(met & (lower <= upper).all(axis=1))

    def _least(self, lower: FloatArray, upper: FloatArray) -> FloatArray:
        return np.asarray(lower @ self._positive.T + upper @ self._negative.T)

    @cached_property
    def _positive(self) -> FloatArray:
        return np.asarray(np.maximum(self.matrix, 0.0))

    @cached_property
    def _negative(self) -> FloatArray:
        return np.asarray(np.minimum(self.matrix, 0.0))

    def tightened(self, lower: FloatArray, upper: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Move the bounds of whole numbers to what each constraint leaves of them."""
        for row, right, size in zip(self.matrix, self.right, self.sizes, strict=True):
            own = np.flatnonzero(self.whole & (row != 0))
            if not len(own):
                continue
            least = lower @ np.maximum(row, 0.0) + upper @ np.minimum(row, 0.0)
            steps = (right + _OUTSIDE * size - least)[:, None] / np.abs(row[own])
            steps = np.floor(np.maximum(steps, 0.0) + _ROUNDED)
            up = row[own] > 0
            lower, upper = lower.copy(), upper.copy()
            highest = np.minimum(upper[:, own], lower[:, own] + steps)
            lowest = np.maximum(lower[:, own], upper[:, own] - steps)
            upper[:, own] = np.where(up, highest, upper[:, own])
            lower[:, own] = np.where(up, lower[:, own], lowest)
        return lower, upper

    def maxima(
        self, c: FloatArray, lower: FloatArray, upper: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Bound linear functions over boxes and each constraint; return the points, too."""
        return box_maxima(c, lower, upper, self.matrix, self.right)

    def sensible(self, multipliers: FloatArray, c: FloatArray, width: FloatArray) -> FloatArray:
        """Bound multipliers, and leave only the difference of those of opposite rows.

        Opposite rows say that a sum is between two values (one, for an equality): what their
        multipliers have in common adds nothing but that difference, and rounding.
        """
        unit = (np.abs(c) * width).sum(axis=1)[:, None]
        unit = unit / np.maximum(width @ np.abs(self.matrix).T, np.finfo(float).tiny)
        multipliers = np.minimum(multipliers, _LARGEST_MULTIPLIER * unit)
        for i, j in self._pairs:
            common = np.minimum(multipliers[:, i], multipliers[:, j])
            multipliers[:, i] -= common
            multipliers[:, j] -= common
        return multipliers

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        """Opposite rows."""
        return opposite_rows(self.matrix, np.full(len(self.matrix), _OPPOSITE))

    def nonempty(self, lower: FloatArray, upper: FloatArray) -> BoolArray:
        """Mark the boxes whose whole numbers, where they are fixed, leave a feasible point."""
        found = np.ones(len(lower), dtype=bool)
        if not len(self.right) or self.whole.all():
            return found
        fixed = (lower == upper)[:, self.whole].all(axis=1)
        for i in np.flatnonzero(fixed):
            found[i] = self._inner(lower[i, self.whole].tobytes())[1]
        return found

    def _find_inner(self, key: bytes) -> tuple[FloatArray | None, bool]:
        """Find the point farthest within the constraints, with the whole numbers of ``key``.

        Returns
        -------
        tuple
            The point, ``None`` if there is none or it is not found, and whether there may be one.
        """
        point = np.where(self.whole, 0.0, self.lower)
        point[self.whole] = np.frombuffer(key) if key else 0.0
        moved = ~self.whole
        right = self.right - self.matrix @ point
        # In units of the ranges and of what the numbers can move a row by.
        width = (self.upper - self.lower)[moved]
        scaled = self.matrix[:, moved] * width
        norms = np.linalg.norm(scaled, axis=1)
        rows = norms > 0
        if (right[~rows] < -_OUTSIDE * self.sizes[~rows]).any():
            return None, False
        if not rows.any():
            return point, True
        solution = linprog(
            np.append(np.zeros(len(width)), -1.0),
            A_ub=np.column_stack([scaled[rows] / norms[rows, None], np.ones(rows.sum())]),
            b_ub=right[rows] / norms[rows],
            bounds=[*((0.0, 1.0) for _ in width), (None, 1.0)],
        )
        if solution.x is None:
            return None, True
        inside = self.lower[moved] + width * solution.x[:-1]
        point[moved] = np.clip(inside, self.lower[moved], self.upper[moved])
        point = self._polytope.pulled_in(point, point)  # exactly onto equalities
        if self._nearly(point):
            return point, True
        return None, bool(solution.x[-1] > -_EMPTY)

    def settled(self, points: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Move points that are beyond a row into all of them; whole numbers stay.

        Parameters
        ----------
        points
            Within the bounds, shape (points, n).

        Returns
        -------
        tuple of numpy.ndarray
            The points, and which of them are feasible but for rounding, or, where the whole
            numbers leave numbers next to no room, within 1e-8 of what a row sums.
        """
        found, met = points, self._within(points)
        for i in np.flatnonzero(~met):
            inner, perhaps = self._inner(points[i, self.whole].tobytes())
            met[i] = inner is not None or (perhaps and self._nearly(points[i]))
            if inner is not None:
                found = found.copy() if found is points else found
                pulled = self._polytope.pulled_in(points[i], inner)
                found[i] = np.clip(pulled, self.lower, self.upper)
        return found, met

    def exact(self, points: FloatArray) -> BoolArray:
        """Mark the points that :meth:`settled` would leave as they are."""
        met = self._within(points)
        for i in np.flatnonzero(~met):
            inner, perhaps = self._inner(points[i, self.whole].tobytes())
            known = inner is not None and self._within(inner[None])[0]
            met[i] = not known and perhaps and self._nearly(points[i])
        return met

    def _nearly(self, point: FloatArray) -> bool:
        return bool((self.matrix @ point <= self.right + _MET * self.sizes).all())

    def _within(self, points: FloatArray) -> BoolArray:
        excess = points @ self.matrix.T - self.right
        return np.asarray((excess <= self._slack).all(axis=1))

    def feasible_points(
        self, points: FloatArray, lower: FloatArray, upper: FloatArray, known: FloatArray
    ) -> tuple[FloatArray, BoolArray]:
        """Move points of boxes to feasible ones with whole numbers where these are to be whole.

        Parameters
        ----------
        points, lower, upper
            Shape (boxes, n).
        known
            A feasible point for each, NaN where there is none.

        Returns
        -------
        tuple of numpy.ndarray
            The points, and which of them meet the constraints.
        """
        x = points
        if self.whole.any():
            x = np.where(self.whole, np.clip(np.rint(x), lower, upper), x)
        if not len(self.right):
            return x, np.ones(len(x), dtype=bool)
        if not self.whole.any():
            found = ~np.isnan(known[:, 0])
            inner = known
            if not found.all():
                point = self._inner(b"")[0]
                if point is not None:
                    inner, found = np.where(found[:, None], known, point), np.ones(len(x), bool)
            x = np.where(found[:, None], self._polytope.pulled_in(x, inner), x)
            return x, found
        met = self._within(x)
        if self.whole.all() or met.all():
            return x, np.asarray(met)
        inner = known.copy()
        same = (known == x)[:, self.whole].all(axis=1)
        fixed = (lower == upper)[:, self.whole].all(axis=1) & ~same
        for i in np.flatnonzero(fixed & ~met):
            point = self._inner(x[i, self.whole].tobytes())[0]
            if point is not None:
                inner[i], same[i] = point, True
        pulled = np.flatnonzero(~met & same)
        if len(pulled):
            x[pulled] = self._polytope.pulled_in(x[pulled], inner[pulled])
        return x, np.asarray(met | same)
