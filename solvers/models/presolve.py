"""What a model of a user's is made into before a solver sees it: smaller big-Ms, better scales.

A solver accepts a binary of 1e-7 as zero, which in ``y <= 1e8 x`` opens y up to 10, and rows and
objectives that are off by 1e-6 whatever their size. :func:`tightened` takes out of a row what its
big-M is larger than it needs to be, which changes no point with whole integers. :class:`Scaled`
measures continuous variables, rows and the objective in units of about 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import LinearModel

_ROUNDS = 3
_LARGEST = 1e6  # a row is not scaled up beyond this coefficient


@dataclass(frozen=True, eq=False)
class _Sides:
    """The rows as ``terms <= right``, a row with two sides twice."""

    row: NDArray[np.intp]  # of each entry
    column: NDArray[np.intp]
    value: FloatArray
    right: FloatArray
    origin: NDArray[np.intp]  # the model's row of each side
    sign: FloatArray  # of the model's row in it

    @staticmethod
    def of(model: LinearModel) -> _Sides:
        upper, lower = (np.flatnonzero(np.isfinite(s)) for s in (model.row_upper, model.row_lower))
        both = sparse.coo_array(sparse.vstack([model.matrix[upper], -model.matrix[lower]]))
        right = np.concatenate([model.row_upper[upper], -model.row_lower[lower]])
        sign = np.repeat([1.0, -1.0], [len(upper), len(lower)])
        origin = np.concatenate([upper, lower])
        row, column = (np.asarray(index, dtype=np.intp) for index in (both.row, both.col))
        return _Sides(row, column, both.data, right, origin, sign)

    def contributions(self, lower: FloatArray, upper: FloatArray, most: bool) -> FloatArray:
        """Return the largest or the smallest that each entry can add."""
        at_upper = (self.value > 0) == most
        ends = np.where(at_upper, upper[self.column], lower[self.column])
        return np.where(self.value == 0, 0.0, self.value * ends)


def implied_bounds(model: LinearModel) -> tuple[FloatArray, FloatArray]:
    """Return column bounds that the rows imply, also where a column has none of its own."""
    lower, upper = model.column_lower.copy(), model.column_upper.copy()
    sides = _Sides.of(model)
    n = len(sides.right)
    entry = sides.value != 0
    for _ in range(_ROUNDS):
        least = sides.contributions(lower, upper, most=False)
        infinite = ~np.isfinite(least)
        total = np.bincount(sides.row, np.where(infinite, 0.0, least), n)
        size = np.bincount(sides.row, np.abs(np.where(infinite, 0.0, least)), n)
        missing = np.bincount(sides.row, infinite, n)
        others = total[sides.row] - np.where(infinite, 0.0, least)
        known = entry & (missing[sides.row] - infinite == 0)
        row, column, value = sides.row[known], sides.column[known], sides.value[known]
        limit = (sides.right[row] - others[known]) / value
        slack = 1e-9 * (1.0 + np.abs(limit) + size[row] / np.abs(value))
        up = value > 0
        np.minimum.at(upper, column[up], (limit + slack)[up])
        np.maximum.at(lower, column[~up], (limit - slack)[~up])
    return lower, upper


def tightened(model: LinearModel) -> LinearModel:
    """Reduce coefficients of binary variables that are larger than their row needs.

    With g what the rest of a row ``terms <= right`` can exceed its side by at most, a coefficient
    a of a binary variable with ``|a| > g`` does no more than one of size g (with the side moved by
    the difference where a > 0): the rows hold the same points with whole binaries, and fewer others
    (coefficient tightening, Savelsbergh 1994).
    """
    sides = _Sides.of(model)
    lower, upper = implied_bounds(model)
    lower = np.where(model.integer, model.column_lower, lower)  # g is with the binary at either end
    upper = np.where(model.integer, model.column_upper, upper)
    most = sides.contributions(lower, upper, most=True)
    n = len(sides.right)
    with np.errstate(invalid="ignore"):
        reach = np.bincount(sides.row, most, n)
        size = np.bincount(sides.row, np.abs(most), n) + np.abs(sides.right)
        beyond = reach - sides.right + 1e-12 * size
    single = ~(np.isfinite(model.row_lower) & np.isfinite(model.row_upper))
    binary = model.integer & (model.column_lower == 0) & (model.column_upper == 1)
    gap = beyond[sides.row]
    chosen = (
        single[sides.origin][sides.row]
        & binary[sides.column]
        & np.isfinite(gap)
        & (reach - sides.right > 0)[sides.row]
        & (np.abs(sides.value) > 2 * gap)
    )
    if not chosen.any():
        return model
    value = sides.value[chosen]
    smaller = np.sign(value) * gap[chosen]
    moved = np.bincount(sides.row[chosen], np.where(value > 0, value - smaller, 0.0), n)
    rows = sides.origin[sides.row[chosen]]
    change = (smaller - value) * sides.sign[sides.row[chosen]]
    matrix = model.matrix + sparse.csr_array(
        (change, (rows, sides.column[chosen])), shape=model.matrix.shape
    )
    row_lower, row_upper = model.row_lower.copy(), model.row_upper.copy()
    for sign, array in ((1.0, row_upper), (-1.0, row_lower)):
        own = sides.sign == sign
        array[sides.origin[own]] -= sign * moved[own]
    return replace(model, matrix=sparse.csr_array(matrix), row_lower=row_lower, row_upper=row_upper)


@dataclass(frozen=True, eq=False)
class Scaled:
    """A model in other units: ``x = origin + unit * y``, objective and rows multiplied.

    All factors are powers of two, so nothing is rounded but sides that an origin moves.

    Parameters
    ----------
    model
        What a solver gets, without a constant in its objective.
    origin, unit
        Shape (columns,); 0 and 1 for integers.
    scale
        What the objective was divided by.
    """

    model: LinearModel
    origin: FloatArray
    unit: FloatArray
    scale: float

    @staticmethod
    def of(model: LinearModel) -> Scaled:
        """Choose units and origins for a model."""
        low, high = model.column_lower, model.column_upper
        width = high - low
        small = ~model.integer & np.isfinite(width) & (width > 0)
        unit = np.where(small & (width < 1), _power(np.where(small, width, 1.0)), 1.0)
        nearest = np.where(low > 0, low, np.where(high < 0, high, 0.0))
        far = small & (np.abs(nearest) > width)
        origin = np.where(far, nearest, 0.0)
        steps = np.abs(model.objective) * np.where(width > 0, np.minimum(width, 1.0), 0.0)
        largest = float(steps.max(initial=0.0))
        scale = float(_power(np.array(largest))) if largest > 0 else 1.0

        matrix = sparse.csr_array(model.matrix @ sparse.diags_array(unit))
        factor = _row_factors(matrix, model.integer)
        moved = model.matrix @ origin
        scaled = replace(
            model,
            objective=model.objective * unit / scale,
            offset=0.0,
            matrix=sparse.csr_array(sparse.diags_array(factor) @ matrix),
            row_lower=factor * (model.row_lower - moved),
            row_upper=factor * (model.row_upper - moved),
            column_lower=(low - origin) / unit,
            column_upper=(high - origin) / unit,
        )
        return Scaled(scaled, origin, unit, scale)


def _row_factors(matrix: sparse.csr_array, integer: NDArray[np.bool_]) -> FloatArray:
    """Scale rows up to a largest continuous coefficient of about 1, never down."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    size = np.abs(matrix.data)
    largest, continuous = np.zeros(matrix.shape[0]), np.zeros(matrix.shape[0])
    np.maximum.at(largest, rows, size)
    counts = ~integer[matrix.indices]
    np.maximum.at(continuous, rows[counts], size[counts])
    norm = np.where(continuous > 0, continuous, largest)
    positive = norm > 0
    wanted = np.where(positive, 1.0 / np.where(positive, norm, 1.0), 1.0)
    limit = np.where(positive, _LARGEST / np.where(positive, largest, 1.0), 1.0)
    return np.asarray(_power(np.maximum(np.minimum(wanted, limit), 1.0)))


def _power(values: FloatArray) -> FloatArray:
    """Return the largest powers of two that are not above positive values."""
    return np.asarray(np.exp2(np.floor(np.log2(values))))
