"""Whether a point meets a model's own rows, judged apart from any solver.

What a row may be off by is not a matter of the largest term: in ``y <= 1e5 (1 - x)`` with x = 1
that would let y be 0.1. The integers of a point are whole, so that what they add to a row is exact
and excuses nothing; only continuous variables do. With N the largest ``|a_j| max(1, |x_j|)`` and T
the largest ``|a_j x_j|`` over the continuous variables of a row (all, if none is continuous), it
may be off by

    max(1e-6 min(1, N), 1e-9 T)

and by the rounding of its largest term in float64: by 1e-6 in general, by less if the row is
written in small numbers (a row multiplied by 1e-6 means the same), and by a relative 1e-9 where
the quantities are in thousands and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import LinearModel

_ABSOLUTE = 1e-6  # of a row in numbers of at least 1
_RELATIVE = 1e-9  # of the largest continuous term
HARDLY = 2e-3
"""Share of what a row may be off by that is left at a solver's tightest tolerances."""


@dataclass(frozen=True, eq=False)
class RowCheck:
    """How far a point is from meeting each row.

    Parameters
    ----------
    activity
        ``matrix @ x``, shape (rows,).
    excess
        What a side is exceeded by, 0 where none is, shape (rows,).
    allowed
        What it may be exceeded by, shape (rows,).
    """

    activity: FloatArray
    excess: FloatArray
    allowed: FloatArray

    def violated(self, share: float = 1.0) -> NDArray[np.intp]:
        """Return the rows that are off by more than a share of what is allowed, the worst first."""
        rows = np.flatnonzero(~(self.excess <= share * self.allowed))  # also what is not a number
        return rows[np.argsort(-self.excess[rows], kind="stable")]

    def texts(
        self, model: LinearModel, names: Sequence[str], share: float = 1.0, most: int = 3
    ) -> list[str]:
        """Say which rows are :meth:`violated`, with the excess of each."""
        rows = self.violated(share)
        found = []
        for i in rows[:most].tolist():
            above = self.activity[i] > model.row_upper[i]
            sense, side = ("<=", model.row_upper[i]) if above else (">=", model.row_lower[i])
            found.append(
                f"constraint {names[i]} is violated by {self.excess[i]:.6g}"
                f" ({self.activity[i]:.9g} {sense} {side:.9g} does not hold)"
            )
        if len(rows) > most:
            found.append(f"and {len(rows) - most} more")
        return found


def check_rows(model: LinearModel, x: FloatArray) -> RowCheck:
    """Compare a point, its integers whole, with the rows of a model.

    Parameters
    ----------
    model
        Any model.
    x
        Shape (columns,).
    """
    matrix = model.matrix
    rows = np.repeat(np.arange(model.n_rows), np.diff(matrix.indptr))
    wide = np.longdouble  # large integer terms must cancel to the last bit
    terms = matrix.data.astype(wide) * x[matrix.indices].astype(wide)
    activity = np.zeros(model.n_rows, dtype=wide)
    np.add.at(activity, rows, terms)
    excess = np.maximum(np.maximum(activity - model.row_upper, model.row_lower - activity), 0)
    size = np.abs(terms).astype(float)

    def largest(values: FloatArray, chosen: NDArray[np.bool_]) -> FloatArray:
        found = np.zeros(model.n_rows)
        np.maximum.at(found, rows[chosen], values[chosen])
        return found

    counts = ~model.integer[matrix.indices]
    alone = np.ones(model.n_rows, dtype=bool)
    alone[rows[counts]] = False  # rows of integers alone
    norm = largest(np.maximum(np.abs(matrix.data), size), counts | alone[rows])
    continuous = largest(size, counts)
    rounding = 4 * np.finfo(float).eps * largest(size, np.ones(len(rows), dtype=bool))
    allowed = np.maximum(_ABSOLUTE * np.minimum(1.0, norm), _RELATIVE * continuous) + rounding
    return RowCheck(activity.astype(float), excess.astype(float), allowed)


def spread(model: LinearModel, x: FloatArray) -> float:
    """Return the scale of the objective at a point, which no constant changes.

    The largest that one variable decides on: ``|c_j|`` times what it can move, which is its
    distance from the nearest of its bounds (or from 0, without any), at least 1, and at most
    its range.
    """
    sides = np.abs(np.stack([x - model.column_lower, model.column_upper - x]))
    nearest = sides.min(axis=0)
    distance = np.where(np.isfinite(nearest), nearest, np.abs(x))
    move = np.minimum(np.maximum(distance, 1.0), model.column_upper - model.column_lower)
    return float(np.where(model.objective != 0, np.abs(model.objective) * move, 0).max(initial=0))
