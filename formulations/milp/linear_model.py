"""A mixed-integer linear model as arrays, the form in which solvers take it.

:func:`compile_pyomo` turns any linear Pyomo model or block into this form through Pyomo's own
standard-form compiler, so that action spaces written once as Pyomo constraints are loaded into
highspy and gurobipy without Pyomo in the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray
from pyomo.common.errors import InfeasibleConstraintException, PyomoException
from pyomo.core.base.var import VarData
from pyomo.opt import WriterFactory
from pyomo.repn.util import InvalidValueError
from scipy import sparse

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.model_checks import check_domain, check_numbers


class InfeasibleRowError(ValueError):
    """A constraint without free variables that does not hold."""


@dataclass(frozen=True, eq=False)
class LinearModel:
    r"""Maximise ``objective @ x + offset`` over rows, column bounds and integrality.

    .. math:: \max \{ c x + c_0 : r \le M x \le R,\; l \le x \le u,\;
              x_j \text{ integer for integer columns } j \}

    Parameters
    ----------
    objective
        Shape (columns,).
    offset
        Constant added to the objective.
    matrix
        Sparse rows, shape (rows, columns).
    row_lower, row_upper
        Shape (rows,), infinite where a row has no such side.
    column_lower, column_upper
        Shape (columns,), infinite where a column is free.
    integer
        Shape (columns,), true for integer columns.

    Examples
    --------
    >>> import milp_rl as mr
    >>> model = mr.BudgetTopK(3, 2).linear_model
    >>> model.matrix.toarray(), model.row_lower, model.row_upper
    (array([[1., 1., 1.]]), array([-inf]), array([2.]))
    """

    objective: FloatArray
    offset: float
    matrix: sparse.csr_array
    row_lower: FloatArray
    row_upper: FloatArray
    column_lower: FloatArray
    column_upper: FloatArray
    integer: NDArray[np.bool_]

    @property
    def n_columns(self) -> int:
        """Number of variables."""
        return len(self.objective)

    @property
    def n_rows(self) -> int:
        """Number of constraints."""
        return len(self.row_lower)

    @cached_property
    def largest_coefficients(self) -> FloatArray:
        """Largest absolute coefficient of each row, shape (rows,)."""
        if not self.n_rows:
            return np.zeros(0)
        return np.asarray(abs(self.matrix).max(axis=1).toarray().ravel())

    def fixed(self, whole: FloatArray) -> LinearModel:
        """Return the model with its integer columns held at given values, shape (columns,)."""
        return replace(
            self,
            column_lower=np.where(self.integer, whole, self.column_lower),
            column_upper=np.where(self.integer, whole, self.column_upper),
        )

    def held(self, one: NDArray[np.bool_] | None, zero: NDArray[np.bool_] | None) -> LinearModel:
        """Return the model with some of its first columns, binary ones, held at one and at zero."""
        if one is None and zero is None:
            return self
        lower, upper = self.column_lower.copy(), self.column_upper.copy()
        if one is not None:
            lower[: len(one)][one] = 1.0
        if zero is not None:
            upper[: len(zero)][zero] = 0.0
        return replace(self, column_lower=lower, column_upper=upper)

    def relaxed(self) -> LinearModel:
        """Return the model with integrality dropped."""
        return replace(self, integer=np.zeros(self.n_columns, dtype=bool))


def compile_pyomo(
    block: Any, columns: list[VarData] | None = None
) -> tuple[LinearModel, list[VarData]]:
    """Compile a linear Pyomo model or block.

    Parameters
    ----------
    block
        A Pyomo block with linear constraints and at most one active objective. A minimised
        objective is negated; without objective, the objective is zero.
    columns
        Variables that come first, in this order, whether or not a constraint uses them.

    Returns
    -------
    tuple
        The model (to be maximised) and the Pyomo variables in column order. Fixed variables are
        folded in as constants and are not columns, unless named in ``columns``.

    Raises
    ------
    ValueError
        If there is more than one active objective, something is not linear, a number is not
        finite, or a variable's domain has gaps; it names the component.
    InfeasibleRowError
        If a constraint is left without variables, all being fixed, and does not hold.
    """
    model, variables, _ = compile_with_rows(block, columns)
    return model, variables


def compile_with_rows(
    block: Any, columns: list[VarData] | None = None
) -> tuple[LinearModel, list[VarData], list[Any]]:
    """Compile as :func:`compile_pyomo` does, and return the Pyomo constraint of each row."""
    first = list(columns or [])
    info = _standard_form(block)
    if len(info.objectives) > 1:
        names = ", ".join(objective.name for objective in info.objectives)
        raise ValueError(
            f"the model has several active objectives ({names}); deactivate all but one"
        )

    for var in (*first, *info.columns):
        check_domain(var)
    position = {id(var): i for i, var in enumerate(first)}
    variables = list(first)
    for var in info.columns:
        if id(var) not in position:
            position[id(var)] = len(variables)
            variables.append(var)
    new_index = np.array([position[id(var)] for var in info.columns], dtype=int)

    def reindexed(array: Any) -> sparse.csr_array:
        coo = sparse.coo_array(array)
        return sparse.csr_array(
            sparse.coo_array(
                (coo.data, (coo.row, new_index[coo.col] if len(coo.col) else coo.col)),
                shape=(coo.shape[0], len(variables)),
            )
        )

    matrix = reindexed(info.A)
    objective = np.zeros(len(variables))
    offset = 0.0
    if info.objectives:
        objective = reindexed(info.c).toarray()[0]
        offset = float(info.c_offset[0])
    row_lower = np.full(len(info.rhs), -np.inf)
    row_upper = np.full(len(info.rhs), np.inf)
    for i, (row, right) in enumerate(zip(info.rows, info.rhs, strict=True)):
        if row.bound_type <= 0:
            row_lower[i] = right
        if row.bound_type >= 0:
            row_upper[i] = right
    lower = np.array([-np.inf if v.lb is None else v.lb for v in variables], dtype=float)
    upper = np.array([np.inf if v.ub is None else v.ub for v in variables], dtype=float)
    for i, var in enumerate(first):
        if var.fixed:
            lower[i] = upper[i] = pyo.value(var)
    integer = np.array([v.is_integer() for v in variables], dtype=bool)
    model = LinearModel(objective, offset, matrix, row_lower, row_upper, lower, upper, integer)
    return model, variables, [row.constraint for row in info.rows]


def _standard_form(block: Any) -> Any:
    """Return Pyomo's standard form, in which every number is finite."""
    writer = WriterFactory("compile_standard_form")
    try:
        info = writer.write(block, mixed_form=True, set_sense=pyo.maximize)
    except InfeasibleConstraintException as error:
        check_numbers(block)
        raise InfeasibleRowError(str(error)) from error
    except (PyomoException, ValueError) as error:  # nonlinear terms, other components
        check_numbers(block)
        raise ValueError(f"the model is not a mixed-integer linear model: {error}") from error
    if not _finite(info.rhs):
        check_numbers(block)  # an infinite side may mean none
    if not all(map(_finite, (info.A.data, info.c.data, info.c_offset))):
        check_numbers(block)
        raise ValueError("a coefficient of the model is not finite")
    return info


def _finite(numbers: Any) -> bool:
    try:
        return bool(np.isfinite(np.asarray(numbers, dtype=float)).all())
    except InvalidValueError:  # Pyomo's own mark
        return False
