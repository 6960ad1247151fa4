"""Models of gurobipy and PySCIPOpt: what is written onto them, and read from their solution.

:mod:`milp_rl.formulations.gurobi` and :mod:`milp_rl.formulations.scip` say how, for each of the
two; here is what is the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.gurobi import GurobiModel
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.scip import ScipModel
from milp_rl.formulations.solved import Solved

if TYPE_CHECKING:
    from milp_rl.formulations.spaces.base import ActionSpace


class NativeModel(Protocol):
    """A model of gurobipy or of PySCIPOpt."""

    @property
    def embedded(self) -> list[Any]:
        """What was added to the model by this library, to check its solutions."""
        ...

    def terms(self, entry: Any) -> tuple[float, list[tuple[Any, float]]]:
        """Return the constant and the terms of a linear expression, a variable or a number.

        Raises
        ------
        ValueError
            If it is none of these, or a variable's domain has gaps.
        """
        ...

    def key(self, variable: Any) -> int:
        """Return a number that tells variables apart."""
        ...

    def name(self, variable: Any) -> str:
        """Return a variable's name."""
        ...

    def bounds(self, variable: Any) -> tuple[float, float]:
        """Return a variable's own bounds."""
        ...

    def is_integer(self, variable: Any) -> bool:
        """Whether a variable is binary or integer."""
        ...

    def add_columns(self, written: LinearModel, first: int) -> list[Any]:
        """Add variables for the columns from ``first`` on."""
        ...

    def add_rows(self, written: LinearModel, columns: Sequence[Any]) -> None:
        """Add the rows over given variables."""
        ...

    def equate(self, variable: Any, entry: Any) -> None:
        """Add the row ``variable == entry``."""
        ...

    def foreign(self, variables: Sequence[Any]) -> list[Any]:
        """Return those of the variables that are not this model's."""
        ...

    def solved(self) -> Solved:
        """Return the model with its best solution.

        Raises
        ------
        ValueError
            If there is none.
        """
        ...


def native_model(model: Any) -> NativeModel | None:
    """Return a model of gurobipy or PySCIPOpt, known without importing them; else ``None``."""
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "gurobipy" in packages:
        return GurobiModel.of(model)
    if "pyscipopt" in packages:
        return ScipModel.of(model)
    return None


def native_ranges(native: NativeModel, entries: Sequence[Any]) -> tuple[FloatArray, FloatArray]:
    """Return the finite ranges of inputs: variables, linear expressions or numbers.

    Raises
    ------
    ValueError
        If one is something else, of another model, or not bounded.
    """
    terms = []
    for i, entry in enumerate(entries):
        try:
            terms.append(native.terms(entry))
        except ValueError as error:
            raise ValueError(f"input {i}: {error}") from error
    require_own(native, [variable for _, own in terms for variable, _ in own])
    ranges = []
    for i, (constant, own) in enumerate(terms):
        low = high = constant
        for variable, c in own:
            ends = [c * end for end in native.bounds(variable)] if c else [0.0, 0.0]
            low, high = low + min(ends), high + max(ends)
        if not (math.isfinite(low) and math.isfinite(high) and max(abs(low), abs(high)) < 1e20):
            raise ValueError(
                f"input {i} has bounds ({low:g}, {high:g}); give it finite bounds, which the big-M"
                " constants are derived from"
            )
        ranges.append((low, high))
    lower, upper = np.array(ranges, dtype=np.float64).reshape(-1, 2).T
    return lower, upper


def require_own(native: NativeModel, variables: Sequence[Any]) -> None:
    """Raise ``ValueError`` if a variable is of another model, which solvers may not notice."""
    if foreign := native.foreign(variables):
        position = next(i for i, variable in enumerate(variables) if variable is foreign[0])
        raise ValueError(f"variable {position} of those given is of another model")


def is_whole(native: NativeModel, entry: Any) -> bool:
    """Whether a variable or linear expression has integer values."""
    constant, terms = native.terms(entry)
    numbers = [constant, *(c for _, c in terms)]
    return (
        bool(terms)
        and all(native.is_integer(variable) for variable, _ in terms)
        and all(number.is_integer() for number in numbers)
    )


def add_linear_model(
    native: NativeModel, written: LinearModel, leading: Sequence[Any]
) -> list[Any]:
    """Add columns and rows, the first columns being given variables or expressions.

    Returns
    -------
    list
        The variables of all columns.
    """
    columns: list[Any] = []
    seen: set[int] = set()
    zero, one = np.zeros(1), sparse.csr_array(np.ones((1, 1)))
    bounds = LinearModel(zero, 0.0, one, zero, zero, zero, zero, np.zeros(1, dtype=bool))
    for i, entry in enumerate(leading):
        low, high = written.column_lower[i], written.column_upper[i]
        constant, terms = native.terms(entry)
        if len(terms) == 1 and terms[0][1] == 1 and constant == 0:
            variable = terms[0][0]
            if native.key(variable) not in seen:
                seen.add(native.key(variable))
                columns.append(variable)
                own_low, own_high = native.bounds(variable)
                if low > own_low or high < own_high:
                    row = replace(bounds, row_lower=np.array([low]), row_upper=np.array([high]))
                    native.add_rows(row, [variable])
                continue
        own = replace(bounds, column_lower=np.array([low]), column_upper=np.array([high]))
        columns.extend(native.add_columns(own, 0))
        native.equate(columns[-1], entry)
    columns.extend(native.add_columns(written, len(columns)))
    native.add_rows(written, columns)
    return columns


def with_outputs(
    written: LinearModel, weight: FloatArray, bias: FloatArray, low: FloatArray, high: FloatArray
) -> LinearModel:
    """Return a model with further columns, in [low, high], that equal ``weight @ x + bias``."""
    n = len(bias)
    own = sparse.hstack([sparse.csr_array(-weight), sparse.eye_array(n)])
    before = sparse.hstack([written.matrix, sparse.csr_array((written.n_rows, n))])
    return LinearModel(
        np.concatenate([written.objective, np.zeros(n)]),
        written.offset,
        sparse.csr_array(sparse.vstack([before, own])),
        np.concatenate([written.row_lower, bias]),
        np.concatenate([written.row_upper, bias]),
        np.concatenate([written.column_lower, low]),
        np.concatenate([written.column_upper, high]),
        np.concatenate([written.integer, np.zeros(n, dtype=bool)]),
    )


def add_space(native: NativeModel, space: ActionSpace, actions: Sequence[Any] | None) -> list[Any]:
    """Add a space by its compiled rows; see :meth:`.ActionSpace.add_to`."""
    written, n = space.linear_model, space.n_actions
    given = [] if actions is None else list(actions)
    variables: list[Any] = []
    for i, entry in enumerate(given):
        constant, terms = native.terms(entry)
        if len(terms) != 1 or terms[0][1] != 1 or constant:
            raise ValueError(f"action {i} must be a variable of the model, got {entry}")
        variables.append(terms[0][0])
    require_own(native, variables)
    for i, variable in enumerate(variables):
        kind = "binary" if written.column_upper[i] <= 1 else "integer"
        if written.integer[i] and not native.is_integer(variable):
            raise ValueError(
                f"action {i}, the variable {native.name(variable)}, must be {kind}, as it is in"
                " the space"
            )
    columns = add_linear_model(native, written, given)
    native.embedded.append((space, columns[:n]))
    return columns[:n]
