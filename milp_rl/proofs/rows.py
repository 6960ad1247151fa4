r"""What a proof knows of a feasible set: linear rows, and bounds of linear maxima by their duals.

For rows :math:`r \le A x \le R` and bounds :math:`l \le x \le u` that every feasible action (with
some auxiliary variables) meets, and **any** multipliers y, weak duality gives

.. math:: \max c x \;\le\; R y^+ - r y^- + \sum_j \max_{l_j \le x_j \le u_j} (c - A^T y)_j x_j .

So nothing depends on where y comes from. Here each y is found by a few rounds in which one
multiplier after the other is made best with the others held: for a single row that is the
fractional knapsack, so that ``BudgetTopK`` has the sum of its k largest coefficients.

Rows of the blocks, all in the actions alone:

- ``BudgetTopK``: the number, and the cost.
- ``Capacity``: for every superadditive function f with f(0) = 0, here :math:`\lfloor c/t \rfloor`
  for the costs t, what fits into the workers fits f of them:
  :math:`\sum_i f(c_i) a_i \le \sum_w f(C_w)`.
- ``Scheduling``: Hall's condition for sets of slots T,
  :math:`\sum_{T_j \subseteq T} n_j a_j \le W_T`, with the same functions, and the budget.
- Intersections: those of all members. Every other block: the rows it writes into a model.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.capacity import Capacity
from milp_rl.formulations.spaces.intersection import Intersection
from milp_rl.formulations.spaces.scheduling import Scheduling
from milp_rl.proofs.arithmetic import Arithmetic, Numbers

_ALLOWED = Fraction(1, 10**9)  # by which the blocks' checks let sums of costs exceed a limit
_ROUNDS = 2  # of improving every multiplier
_MOST_UNITS = 12  # functions floor(c / t) of one row
_LARGEST = 2**40
_MOST_SLOTS = 8  # of which all sets are looked at


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows, infinite where there is no such side, and bounds of the columns, the actions first."""

    matrix: FloatArray
    low: FloatArray
    high: FloatArray
    column_low: FloatArray
    column_high: FloatArray

    def columns(self, one: BoolArray, zero: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Return the bounds of the columns with actions held, (sets, columns) each."""
        n = one.shape[1]
        low = np.tile(self.column_low, (len(one), 1))
        high = np.tile(self.column_high, (len(one), 1))
        low[:, :n] = np.where(one, 1.0, low[:, :n])
        high[:, :n] = np.where(zero, 0.0, high[:, :n])
        return low, high

    def contradicted(self, low: FloatArray, high: FloatArray, arithmetic: Arithmetic) -> BoolArray:
        """Say for each set of columns' bounds whether a row alone shows that it is empty."""
        empty = np.zeros(len(low), dtype=bool)
        for row, least, most in zip(self.matrix, self.low, self.high, strict=True):
            used = row != 0
            a, one, other = arithmetic.of(row[used]), low[:, used], high[:, used]
            own, others = arithmetic.of(one), arithmetic.of(other)
            upper = arithmetic.up_sum(np.maximum(*_both(arithmetic, a, own, others)))
            lower = -arithmetic.up_sum(np.maximum(*_both(arithmetic, -a, own, others)))
            empty |= np.asarray((upper < least) | (lower > most), dtype=bool)
        return empty

    def maxima(
        self, c: Numbers, low: FloatArray, high: FloatArray, arithmetic: Arithmetic
    ) -> Numbers:
        """Bound ``max c @ x`` from above.

        Parameters
        ----------
        c
            Coefficients of the actions, (sets, objectives, n_actions).
        low, high
            Bounds of the columns, (sets, columns).
        """
        y = self.multipliers(c.astype(np.float64), low, high)
        up, down = arithmetic.of(np.maximum(y, 0.0)), arithmetic.of(np.maximum(-y, 0.0))
        top = arithmetic.of(np.where(np.isfinite(self.high), self.high, 0.0))
        bottom = arithmetic.of(np.where(np.isfinite(self.low), self.low, 0.0))
        paid = arithmetic.up_sum(arithmetic.up_times(up, top))
        got = arithmetic.up_sum(arithmetic.up_times(down, -bottom))
        left, wrong = arithmetic.product(-arithmetic.of(y), arithmetic.of(self.matrix))
        n = c.shape[-1]
        left[..., :n], more = arithmetic.sum(left[..., :n], c)
        wrong[..., :n] = arithmetic.up(wrong[..., :n], more)
        own, others = arithmetic.of(low)[:, None], arithmetic.of(high)[:, None]
        reach = np.maximum(np.abs(own), np.abs(others))
        each = np.maximum(*_both(arithmetic, left, own, others))
        most = arithmetic.up(each, arithmetic.up_times(wrong, reach))
        return arithmetic.up(arithmetic.up_sum(most), paid, got)

    def multipliers(self, c: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
        """Propose multipliers of the rows, (sets, objectives, rows); any are valid."""
        each, n = np.arange(c.shape[0] * c.shape[1])[:, None], c.shape[2]
        low, high = (np.repeat(side, c.shape[1], axis=0) for side in (low, high))
        y = np.zeros((len(each), len(self.matrix)))
        left = np.zeros((len(each), self.matrix.shape[1]))
        left[:, :n] = c.reshape(-1, n)
        padded = np.zeros((len(each), left.shape[1] + 1))  # the last one: no limit is reached
        for i in [*range(len(self.matrix))] * (1 if len(self.matrix) == 1 else _ROUNDS):
            used = np.flatnonzero(self.matrix[i])
            a, size = self.matrix[i, used], len(used)
            rest = left[:, used] + a * y[:, i, None]
            ratio = rest / a
            order = np.argsort(-ratio, axis=1)
            padded[:, :size] = ratio[each, order]
            padded[:, size] = 0.0
            reached = np.cumsum((np.abs(a) * (high[:, used] - low[:, used]))[each, order], axis=1)
            reached += np.where(a > 0, a * low[:, used], a * high[:, used]).sum(axis=1)[:, None]
            slack = 1e-9 * (1 + np.abs(reached))
            best = np.zeros(len(each))
            if self.high[i] < np.inf:
                first = (reached <= self.high[i] + slack).sum(axis=1)
                best = np.maximum(padded[each[:, 0], first], 0.0)
            if self.low[i] > -np.inf:
                first = (reached < self.low[i] - slack).sum(axis=1)
                best = best + np.minimum(padded[each[:, 0], first], 0.0)
            y[:, i] = np.where(np.isfinite(best), best, 0.0)
            left[:, used] = rest - a * y[:, i, None]
        return y.reshape(*c.shape[:2], len(self.matrix))


def _both(arithmetic: Arithmetic, c: Numbers, low: Numbers, high: Numbers) -> tuple[Numbers, ...]:
    return arithmetic.up_times(c, low), arithmetic.up_times(c, high)


def rows_of(space: ActionSpace) -> Rows:
    """Return rows that every feasible action meets.

    Raises
    ------
    ValueError
        If a variable is not binary, or one that a block writes into a model has no bounds.
    """
    if not space.binary:
        raise ValueError("a proof is of binary actions; the space has other variables")
    n, found = space.n_actions, _in_actions(space)
    if found is not None:
        found = _needed(found)
        matrix = np.array([row for row, _, _ in found]).reshape(len(found), n)
        low, high = (np.array([side[k] for side in found], dtype=float) for k in (1, 2))
        return Rows(matrix, low, high, np.zeros(n), np.ones(n))
    model = space.linear_model
    matrix = np.asarray(model.matrix.toarray(), dtype=np.float64)
    low, high = model.column_lower.copy(), model.column_upper.copy()
    low[:n], high[:n] = np.maximum(low[:n], 0.0), np.minimum(high[:n], 1.0)
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise ValueError(
            f"a proof needs bounds of all variables that {type(space).__name__} writes into a"
            " model; some of them have none"
        )
    return Rows(matrix, model.row_lower, model.row_upper, low, high)


_Sides = list[tuple[FloatArray, float, float]]


def _in_actions(space: ActionSpace) -> _Sides | None:
    """Return rows in the actions alone with their two sides, or ``None`` if they are not known."""
    kind = type(space)
    if kind is BudgetTopK:
        assert isinstance(space, BudgetTopK)
        k = float(space.k)
        found: _Sides = [(np.ones(space.n_actions), k if space.exactly else -np.inf, k)]
        if space.costs is not None and space.budget is not None:
            found.append((space.costs, -np.inf, _above(_allowed(space.budget, space.costs))))
        return found
    if kind is Capacity:
        assert isinstance(space, Capacity)
        limits = [_allowed(limit, space.costs) for limit in space.capacities]
        return _floors(space.costs, limits)
    if kind is Scheduling:
        assert isinstance(space, Scheduling)
        return _halls(space)
    if kind is Intersection:
        assert isinstance(space, Intersection)
        members = [_in_actions(member) for member in space.members]
        if any(own is None for own in members):
            return None
        return [row for own in members if own is not None for row in own]
    return None


def _needed(rows: _Sides) -> _Sides:
    """Return nonnegative rows without those that 0 and 1, or one other row, imply."""
    left = [own for own in rows if own[1] > -np.inf or own[0].sum() > own[2]]
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
    exact = [Fraction(c) for c in costs.tolist()]
    units = sorted({c for c in exact if c > 0}, reverse=True)[:_MOST_UNITS]
    found: _Sides = []
    if all(c.denominator == 1 for c in exact):
        units = sorted({Fraction(1), *units}, reverse=True)
    else:
        found.append((costs, -np.inf, _above(sum(limits, Fraction(0)))))
    for t in units:
        if max(exact + limits) // t > _LARGEST:  # float64 has every whole number below
            break
        row = np.array([float(c // t) for c in exact])
        found.append((row, -np.inf, float(sum(limit // t for limit in limits))))
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


def _allowed(limit: float, costs: FloatArray) -> Fraction:
    """Return what a sum of costs, rounded in float64, is allowed by a block's check."""
    size = Fraction(limit) + sum(map(Fraction, costs.tolist()), Fraction(0))
    return Fraction(limit) + 2 * _ALLOWED + size * len(costs) / 2**50


def _above(value: Fraction) -> float:
    return float(np.nextafter(float(value), np.inf))
