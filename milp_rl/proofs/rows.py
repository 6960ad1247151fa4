r"""What a proof knows of a feasible set: linear rows, and bounds of linear maxima by their duals.

For rows :math:`r \le A x \le R` and bounds :math:`l \le x \le u` that every feasible action (with
some auxiliary variables) meets, and **any** multipliers y, weak duality gives

.. math:: \max c x \;\le\; R y^+ - r y^- + \sum_j \max_{l_j \le x_j \le u_j} (c - A^T y)_j x_j .

So nothing depends on where y comes from. Here one multiplier after the other is made best with
those before it held: for a single row that is the fractional knapsack, so that ``BudgetTopK`` has
the sum of its k largest coefficients. For the output, proofs may have others, of a linear program.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.proofs.arithmetic import Arithmetic, Numbers


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows, infinite where there is no such side, and the columns, the actions first.

    Parameters
    ----------
    matrix, low, high
        Shapes (rows, columns), (rows,) and (rows,).
    column_low, column_high
        Finite bounds of the columns.
    whole
        Which columns are whole numbers.
    """

    matrix: FloatArray
    low: FloatArray
    high: FloatArray
    column_low: FloatArray
    column_high: FloatArray
    whole: BoolArray

    @cached_property
    def reach(self) -> FloatArray:
        """The largest absolute value of every column."""
        return np.maximum(np.abs(self.column_low), np.abs(self.column_high))

    def of_point(self, action: FloatArray) -> Rows:
        """Return the bounds of a single action, which need no rows."""
        none = np.zeros(0)
        whole = np.zeros(len(action), dtype=bool)
        return Rows(np.zeros((0, len(action))), none, none, action, action, whole)

    def contradicted(self, low: FloatArray, high: FloatArray, arithmetic: Arithmetic) -> BoolArray:
        """Say for each set of columns' bounds whether it is empty, as a row alone shows."""
        up, down = (arithmetic.of(np.maximum(side, 0.0).T) for side in (self.matrix, -self.matrix))
        one, other = arithmetic.of(low), arithmetic.of(high)
        tops = (*arithmetic.product(other, up), *arithmetic.product(-one, down))
        bottoms = (*arithmetic.product(-one, up), *arithmetic.product(other, down))
        beyond = (arithmetic.up(*tops) < self.low) | (-arithmetic.up(*bottoms) > self.high)
        return np.asarray(beyond.any(axis=1) | (low > high).any(axis=1), dtype=bool)

    def maxima(
        self,
        c: Numbers,
        low: FloatArray,
        high: FloatArray,
        arithmetic: Arithmetic,
        duals: FloatArray | None = None,
    ) -> Numbers:
        """Bound ``max c @ x`` from above.

        Parameters
        ----------
        c
            Coefficients of the actions, (sets, objectives, n_actions).
        low, high
            Bounds of the columns, (sets, columns).
        duals
            Multipliers of the rows, (sets, rows), to take where they are not all 0.
        """
        given = np.zeros(len(low), dtype=bool) if duals is None else duals.any(axis=1)
        y = np.zeros((*c.shape[:2], len(self.matrix)))
        if duals is not None:
            y[given] = duals[given][:, None]
        if not given.all():
            y[~given] = self.multipliers(c[~given].astype(np.float64), low[~given], high[~given])
        return self._above(c, y, low, high, arithmetic)

    def _above(
        self, c: Numbers, y: FloatArray, low: FloatArray, high: FloatArray, arithmetic: Arithmetic
    ) -> Numbers:
        """Bound ``max c @ x`` by multipliers; those of sides that there are not do not count."""
        up = arithmetic.of(np.where(np.isfinite(self.high), np.maximum(y, 0.0), 0.0))
        down = arithmetic.of(np.where(np.isfinite(self.low), np.maximum(-y, 0.0), 0.0))
        top = arithmetic.of(np.where(np.isfinite(self.high), self.high, 0.0))
        bottom = arithmetic.of(np.where(np.isfinite(self.low), self.low, 0.0))
        paid = arithmetic.up_sum(arithmetic.up_times(up, top))
        got = arithmetic.up_sum(arithmetic.up_times(down, -bottom))
        left, wrong = arithmetic.product(down - up, arithmetic.of(self.matrix))
        n = c.shape[-1]
        left[..., :n], more = arithmetic.sum(left[..., :n], c)
        wrong[..., :n] = arithmetic.up(wrong[..., :n], more)
        own, others = arithmetic.of(low)[:, None], arithmetic.of(high)[:, None]
        each = np.maximum(arithmetic.up_times(left, own), arithmetic.up_times(left, others))
        most = arithmetic.up(each, arithmetic.up_times(wrong, arithmetic.of(self.reach)))
        return arithmetic.up(arithmetic.up_sum(most), paid, got)

    def multipliers(self, c: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
        """Propose multipliers of the rows, (sets, objectives, rows); any are valid."""
        each, n = np.arange(c.shape[0] * c.shape[1])[:, None], c.shape[2]
        low, high = (np.repeat(side, c.shape[1], axis=0) for side in (low, high))
        y = np.zeros((len(each), len(self.matrix)))
        left = np.zeros((len(each), self.matrix.shape[1]))
        left[:, :n] = c.reshape(-1, n)
        padded = np.zeros((len(each), left.shape[1] + 1))  # the last one: no limit is reached
        for i in range(len(self.matrix)):
            used = np.flatnonzero(self.matrix[i])
            a, size = self.matrix[i, used], len(used)
            rest = left[:, used]
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
