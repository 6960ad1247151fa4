r"""What feasible set a proof is of: rows and bounds that every feasible action meets.

Rows of the blocks, all in the actions alone:

- ``BudgetTopK``: the number, and the cost.
- ``Capacity``: for every superadditive function f with f(0) = 0, here :math:`\lfloor c/t \rfloor`
  for the costs t, what fits into the workers fits f of them:
  :math:`\sum_i f(c_i) a_i \le \sum_w f(C_w)`.
- ``Scheduling``: Hall's condition for sets of slots T,
  :math:`\sum_{T_j \subseteq T} n_j a_j \le W_T`, with the same functions, and the budget.
- ``Box``: its rows.

Every other block: the rows it writes into a model, with auxiliary columns after the actions.
Intersections and products have those of all members.

A set with continuous variables is what its rows and bounds say in real arithmetic. Where all are
whole numbers it is what the blocks' own checks let pass, which allow for rounding: so sides are
moved outward by what they allow, rows of whole numbers to the next whole number within.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.capacity import Capacity
from milp_rl.formulations.spaces.intersection import Intersection
from milp_rl.formulations.spaces.product import Product
from milp_rl.formulations.spaces.scheduling import Scheduling
from milp_rl.proofs.rows import Rows

_ALLOWED = Fraction(1, 10**9)  # by which the blocks' checks let sums of costs exceed a limit,
_BEYOND = 1e-6  # and sums of whole numbers in other rows, relative to what is above 1e6
_MOST_UNITS = 12  # functions floor(c / t) of one row
_LARGEST = 2**40  # of what has to be told apart as a whole number
_MOST_SLOTS = 8  # of which all sets are looked at


def rows_of(space: ActionSpace) -> Rows:
    """Return rows that every feasible action meets.

    Raises
    ------
    ValueError
        If a variable that a block writes into a model has no bounds, or whole numbers are beyond
        what float64 tells apart.
    """
    n, whole = space.n_actions, ~space.continuous
    low, high = space.lower.astype(np.float64), space.upper.astype(np.float64)
    found: _Sides = []
    written: list[tuple[IntArray, LinearModel]] = []
    for block, at in _blocks(space, np.arange(n)):
        own = _in_actions(block, whole[at])
        if own is None:
            model = block.linear_model
            low[at] = np.maximum(low[at], model.column_lower[: len(at)])
            high[at] = np.minimum(high[at], model.column_upper[: len(at)])
            written.append((at, model))
        else:
            found += [(_wide(row, at, n), least, most) for row, least, most in own]
    found = _needed(found, low, high)
    rows = [(np.array([row for row, _, _ in found]).reshape(len(found), n), np.arange(n))]
    sides = [tuple(np.array([own[k] for own in found], dtype=float) for k in (1, 2))]
    for at, model in written:
        free, auxiliary = not whole[at].all(), slice(len(at), None)
        own_whole = model.integer[auxiliary]
        own_low, own_high = model.column_lower[auxiliary], model.column_upper[auxiliary]
        if not free:  # their bounds may be sides of the blocks' checks, too
            own_low = np.where(own_whole, own_low, _moved(own_low, -1.0))
            own_high = np.where(own_whole, own_high, _moved(own_high, 1.0))
        columns = np.concatenate([at, len(low) + np.arange(len(own_whole))])
        low, high = np.concatenate([low, own_low]), np.concatenate([high, own_high])
        whole = np.concatenate([whole, own_whole])
        matrix = np.asarray(model.matrix.toarray(), dtype=np.float64)
        rows.append((matrix, columns))
        sides.append(_allowed_sides(matrix, model.row_lower, model.row_upper, whole[columns], free))
    matrix = np.concatenate([_wide(own, columns, len(low)) for own, columns in rows])
    least, most = (np.concatenate(own) for own in zip(*sides, strict=True))
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise ValueError(
            f"a proof needs bounds of all variables that {type(space).__name__} writes into a"
            " model; some of them have none"
        )
    if (np.maximum(np.abs(low), np.abs(high))[whole] > _LARGEST).any():
        raise ValueError(f"a proof needs whole numbers of at most {_LARGEST}; some may be larger")
    return Rows(matrix, least, most, low, high, whole)


def _blocks(space: ActionSpace, at: IntArray) -> Iterator[tuple[ActionSpace, IntArray]]:
    """Yield the blocks that a set is made of by intersections and products, and their variables."""
    if type(space) in (Intersection, Product):
        assert isinstance(space, Intersection | Product)
        for member, part in space.parts():
            yield from _blocks(member, at[part])
    else:
        yield space, at


def _wide(rows: FloatArray, at: IntArray, n: int) -> FloatArray:
    """Return rows of some columns as rows of all n."""
    found = np.zeros((*rows.shape[:-1], n))
    found[..., at] = rows
    return found


def _allowed_sides(
    matrix: FloatArray, low: FloatArray, high: FloatArray, whole: BoolArray, free: bool
) -> tuple[FloatArray, FloatArray]:
    """Return the sides of rows with what the blocks' checks let pass.

    In a set with continuous variables (``free``), rows with any that is not whole are as they are.
    """
    used = matrix != 0
    integral = (matrix == np.rint(matrix)).all(axis=1) & (np.abs(matrix) < _LARGEST).all(axis=1)
    mixed = (used & ~whole).any(axis=1)
    size = np.abs(matrix).max(axis=1, initial=0.0)
    found = []
    for side, sign in ((low, -1.0), (high, 1.0)):
        loose = np.where(integral & (side == np.rint(side)), side, _moved(side, sign, size))
        inner = np.where(integral & ~mixed, sign * np.floor(sign * loose), loose)
        found.append(np.where(mixed & free, side, inner))
    return found[0], found[1]


def _moved(side: FloatArray, sign: float, size: FloatArray | float = 0.0) -> FloatArray:
    """Move sides outward by what checks allow, and what float64 loses of sums of such a size."""
    largest = np.maximum(np.where(np.isfinite(side), np.abs(side), 0.0), size)
    return np.asarray(side + sign * _BEYOND * np.maximum(1.0, 1e-6 * largest))


_Sides = list[tuple[FloatArray, float, float]]


def _in_actions(space: ActionSpace, whole: BoolArray) -> _Sides | None:
    """Return rows in the actions alone with their two sides, or ``None`` if they are not known.

    ``whole`` says which variables are whole numbers.
    """
    kind = type(space)
    if kind is BudgetTopK:
        assert isinstance(space, BudgetTopK)
        k = float(space.k)
        found: _Sides = [(np.ones(space.n_actions), k if space.exactly else -np.inf, k)]
        if space.costs is not None and space.budget is not None:
            allowed = _allowed(np.array([space.budget]), space.costs)[0]
            found.append((space.costs, -np.inf, _above(allowed)))
        return found
    if kind is Capacity:
        assert isinstance(space, Capacity)
        limits = _allowed(space.capacities, space.costs)
        return _floors(space.costs, limits)
    if kind is Scheduling:
        assert isinstance(space, Scheduling)
        return _halls(space)
    if kind is Box:
        assert isinstance(space, Box)
        none = np.full(len(space.right), -np.inf)
        _, right = _allowed_sides(space.matrix, none, space.right, whole, not whole.all())
        return [(row, -np.inf, float(side)) for row, side in zip(space.matrix, right, strict=True)]
    return None


def _needed(rows: _Sides, lower: FloatArray, upper: FloatArray) -> _Sides:
    """Return rows without those that the bounds, or one other row over numbers >= 0, imply."""
    tops = [np.maximum(row * lower, row * upper).sum() for row, _, _ in rows]
    left = [own for own, top in zip(rows, tops, strict=True) if own[1] > -np.inf or top > own[2]]
    if (lower < 0).any():
        return left
    kept: _Sides = []
    for i, (row, low, high) in enumerate(left):
        implied = low == -np.inf and any(
            (other >= row).all()
            and limit <= high
            and (limit < high or (other > row).any() or j < i)
            for j, (other, _, limit) in enumerate(left)
            if j != i
        )
        if not implied:
            kept.append((row, low, high))
    return kept


def _floors(costs: FloatArray, limits: list[Fraction]) -> _Sides:
    """Return the rows of costs, and of ``floor(c / t)`` for units t among them."""
    largest = max([*limits, Fraction(float(costs.max(initial=0.0)))])
    if (costs == np.rint(costs)).all() and largest <= _LARGEST:
        whole = costs.astype(np.int64)
        units = {1, *np.unique(whole[whole > 0])[::-1][:_MOST_UNITS].tolist()}
        return [
            ((whole // t).astype(np.float64), -np.inf, _above(sum(limit // t for limit in limits)))
            for t in sorted(units, reverse=True)
        ]
    exact = [Fraction(c) for c in costs.tolist()]
    found: _Sides = [(costs, -np.inf, _above(sum(limits, Fraction(0))))]
    for t in sorted({c for c in exact if c > 0}, reverse=True)[:_MOST_UNITS]:
        if largest // t > _LARGEST:  # float64 has every whole number below
            break
        row = np.array([float(c // t) for c in exact])
        found.append((row, -np.inf, _above(sum(limit // t for limit in limits))))
    return found


def _halls(space: Scheduling) -> _Sides:
    """Return Hall's rows, of all sets of slots or of all slots together, and the budget."""
    n_slots = space.worker_slots.shape[1]
    together = [range(n_slots)]
    if n_slots <= _MOST_SLOTS:
        sizes = range(n_slots + 1)
        together = [s for k in sizes for s in itertools.combinations(range(n_slots), k)]  # type: ignore[misc]
    found: _Sides = []
    if space.budget is not None:
        found.append((np.ones(space.n_actions), -np.inf, float(space.budget)))
    for slots in together:
        chosen = np.isin(np.arange(n_slots), list(slots))
        inside = ~(space.arm_slots & ~chosen).any(axis=1)
        if inside.any():
            needs = np.where(inside, space.needs, 0).astype(np.float64)
            offered = Fraction(int(space.worker_slots[:, chosen].sum()))
            found += _floors(needs, [offered])
    return found


def _allowed(limits: FloatArray, costs: FloatArray) -> list[Fraction]:
    """Return what sums of costs, rounded in float64, are allowed by a block's check."""
    total = 2 * Fraction(float(costs.sum()))
    given = [Fraction(limit) for limit in limits.tolist()]
    return [own + 2 * _ALLOWED + (own + total) * len(costs) / 2**50 for own in given]


def _above(value: Fraction | int) -> float:
    """Return the float64 number at or next above."""
    found = float(value)
    return found if Fraction(found) >= value else float(np.nextafter(found, np.inf))
