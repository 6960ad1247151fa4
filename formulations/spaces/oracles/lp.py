"""Linear maximisation over a compiled block with HiGHS: the default oracle of an action space."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import highspy
import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.highs import new_highs, pass_model, run
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.time_limit import check_time, is_late, seconds_left


class LinearOracle:
    """The linear relaxation of a block, loaded once; each call changes costs and bounds only.

    Parameters
    ----------
    model
        The compiled block; the first ``n_actions`` columns are those of the objectives.
    n_actions
        Number of columns that objectives and fixings speak of.
    """

    def __init__(self, model: LinearModel, n_actions: int) -> None:
        self.model = model
        self.n_actions = n_actions
        self._lower = model.column_lower[:n_actions]
        self._upper = model.column_upper[:n_actions]
        self._index = np.arange(n_actions, dtype=np.int32)
        self._relaxation = new_highs()
        without_objective = replace(model, objective=np.zeros(model.n_columns), offset=0.0)
        pass_model(self._relaxation, without_objective.relaxed())
        # Of each row, the sum of absolute terms.
        reach = np.maximum(np.abs(model.column_lower), np.abs(model.column_upper))
        self._absolute = abs(model.matrix) @ np.where(np.isfinite(reach), reach, 0.0)
        self._lock = threading.Lock()  # the relaxation is shared by everything that uses a space

    def maxima(
        self,
        coefficients: FloatArray,
        fixed_one: NDArray[np.bool_] | None = None,
        fixed_zero: NDArray[np.bool_] | None = None,
    ) -> FloatArray:
        """Maximise each row of ``coefficients`` over the relaxation; ``-inf`` if infeasible."""
        lower, upper = self._limits(coefficients, fixed_one, fixed_zero)
        with self._lock:
            return self._solve(coefficients, lower, upper)[0]

    def maximizers(
        self,
        coefficients: FloatArray,
        fixed_one: NDArray[np.bool_] | None = None,
        fixed_zero: NDArray[np.bool_] | None = None,
    ) -> FloatArray:
        """Return the maximiser of each row, shape (batch, n_actions); zeros if infeasible."""
        lower, upper = self._limits(coefficients, fixed_one, fixed_zero)
        with self._lock:
            return self._solve(coefficients, lower, upper)[1]

    def vertices(self, coefficients: FloatArray, point: FloatArray) -> FloatArray:
        """Return :meth:`maximizers` that hold all integer columns as they are at a point, if any.

        Parameters
        ----------
        coefficients
            Shape (batch, n_actions).
        point
            Of the block, as :meth:`integer_point` gives it.
        """
        model, n = self.model, self.n_actions
        held = np.rint(point)
        lower = np.where(model.integer, held, model.column_lower)
        upper = np.where(model.integer, held, model.column_upper)
        others = np.arange(n, model.n_columns, dtype=np.int32)
        shape = coefficients.shape
        ends = (np.broadcast_to(side[:n], shape) for side in (lower, upper))
        with self._lock:
            self._relaxation.clearSolver()  # the same, to the bit, whatever was solved before
            self._relaxation.changeColsBounds(len(others), others, lower[n:], upper[n:])
            try:
                values, points = self._solve(coefficients, *ends)
            finally:
                own = model.column_lower[n:], model.column_upper[n:]
                self._relaxation.changeColsBounds(len(others), others, *own)
        return points[np.isfinite(values)]

    def _limits(
        self,
        coefficients: FloatArray,
        fixed_one: NDArray[np.bool_] | None,
        fixed_zero: NDArray[np.bool_] | None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return the bounds of the actions with what is fixed, of each objective."""
        lower = np.broadcast_to(self._lower, coefficients.shape)
        upper = np.broadcast_to(self._upper, coefficients.shape)
        if fixed_one is not None:
            lower = np.where(fixed_one, 1.0, lower)
            upper = np.where(fixed_one, np.minimum(upper, 1.0), upper)
        if fixed_zero is not None:
            upper = np.where(fixed_zero, 0.0, upper)
            lower = np.where(fixed_zero, np.maximum(lower, 0.0), lower)
        return lower, upper

    def _solve(
        self, coefficients: FloatArray, lowers: FloatArray, uppers: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        n = self.n_actions
        highs = self._relaxation
        result = np.empty(len(coefficients))
        points = np.zeros((len(coefficients), n))
        for i, (row, lower, upper) in enumerate(zip(coefficients, lowers, uppers, strict=True)):
            if np.any(lower > upper):
                result[i] = -np.inf
                continue
            if is_late():
                result[i] = _box_bound(row, lower, upper)
                continue
            highs.changeColsBounds(n, self._index, lower, upper)
            highs.changeColsCost(n, self._index, row)
            status = run(highs)
            if status == highspy.HighsModelStatus.kInfeasible:
                result[i] = -np.inf
            elif status == highspy.HighsModelStatus.kOptimal:
                solution = highs.getSolution()
                points[i] = solution.col_value[:n]
                result[i] = self._dual_bound(row, np.array(solution.row_dual), lower, upper)
                if np.isposinf(result[i]):  # an unbounded column: trust the tolerance of the LP
                    value = highs.getInfo().objective_function_value
                    result[i] = value + 1e-6 * (abs(value) + np.abs(row).max(initial=0.0))
            else:  # fall back to the box, which is always valid
                result[i] = _box_bound(row, lower, upper)
        return result, np.clip(points, self._lower, self._upper)

    def _dual_bound(
        self, c: FloatArray, y: FloatArray, lower: FloatArray, upper: FloatArray
    ) -> float:
        r"""Bound the maximum by any multipliers of the rows, in spite of the solver's tolerances.

        .. math:: \max_{A x \in [r, s],\, l \le x \le u} c x
                  \le \max_{r \le t \le s} y t + \max_{l \le x \le u} (c - y A) x

        (Neumaier and Shcherbina 2004, "Safe bounds in linear and mixed-integer linear
        programming"), with what float64 may lose added.
        """
        model, n = self.model, self.n_actions
        y = np.where((y > 0) & np.isinf(model.row_upper), 0.0, y)
        y = np.where((y < 0) & np.isinf(model.row_lower), 0.0, y)
        priced = y @ model.matrix if model.n_rows else np.zeros(model.n_columns)
        reduced = -priced
        reduced[:n] += c
        low, high = model.column_lower.copy(), model.column_upper.copy()
        low[:n], high[:n] = lower, upper
        sides = np.where(y > 0, model.row_upper, np.where(y < 0, model.row_lower, 0.0))
        ends = np.where(reduced > 0, high, np.where(reduced < 0, low, 0.0))
        terms = np.concatenate([y * sides, reduced * ends])
        if not np.isfinite(terms).all():
            return math.inf
        size = np.abs(terms).sum() + self._absolute @ np.abs(y) + np.abs(c) @ np.abs(ends[:n])
        operations = 2 * (model.n_rows + model.n_columns)
        return float(terms.sum() + operations * np.finfo(float).eps * size)

    def feasible(self, fixed_one: NDArray[np.bool_]) -> bool:
        """Whether the block (with integrality) has a point with these actions at one."""
        highs = self._with_integrality()
        lower = np.where(fixed_one, 1.0, self._lower)
        highs.changeColsBounds(self.n_actions, self._index, lower, self._upper)
        status = run(highs)
        check_time()
        return bool(status == highspy.HighsModelStatus.kOptimal)

    def integer_point(self, coefficients: FloatArray) -> FloatArray | None:
        """Maximise over the block with integrality; all columns, ``None`` if it is empty."""
        highs = self._with_integrality()
        highs.changeColsCost(self.n_actions, self._index, coefficients)
        if run(highs) != highspy.HighsModelStatus.kOptimal:
            check_time()
            return None
        point = np.array(highs.getSolution().col_value)
        return np.asarray(np.clip(point, self.model.column_lower, self.model.column_upper))

    def _with_integrality(self) -> highspy.Highs:
        """Return the block in a new solver, which stops when the time is up."""
        highs = new_highs()
        pass_model(highs, self.model)
        highs.setOptionValue("time_limit", max(seconds_left(), 0.0))
        return highs


def _box_bound(row: FloatArray, lower: FloatArray, upper: FloatArray) -> float:
    return float(np.where(row > 0, upper, lower)[row != 0] @ row[row != 0])
