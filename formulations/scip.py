"""A PySCIPOpt model of your own, as :mod:`milp_rl.formulations.native` writes onto it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy import sparse

from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.solved import Solved

_EMBEDDED: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()  # models take no attributes
_LARGE = 1e6  # coefficients, from which on a row has a unit of its own
_LINEAR = ("linear", "knapsack")  # kinds that PySCIPOpt gives the coefficients of


@dataclass(frozen=True, eq=False)
class ScipModel:
    """A ``pyscipopt.Model``; see :class:`milp_rl.formulations.native.NativeModel`."""

    model: Any
    embedded: list[Any]

    @staticmethod
    def of(model: Any) -> ScipModel:
        """Take a model, with what was added to it before."""
        return ScipModel(model, _EMBEDDED.setdefault(model, []))

    def terms(self, entry: Any) -> tuple[float, list[tuple[Any, float]]]:
        """Return the constant and the terms of an entry."""
        constant, found = 0.0, []
        if hasattr(entry, "terms"):
            for term, coefficient in entry.terms.items():
                if len(term.vartuple) > 1:
                    raise ValueError(f"{entry} is not linear")
                if term.vartuple:
                    found.append((term.vartuple[0], float(coefficient)))
                else:
                    constant = float(coefficient)
            return constant, found
        try:
            return float(entry), found
        except TypeError:
            raise ValueError(
                f"{entry} is no variable, linear expression or number of a PySCIPOpt model"
            ) from None

    def key(self, variable: Any) -> int:
        """Return a variable's number."""
        return int(variable.ptr())

    def name(self, variable: Any) -> str:
        """Return a variable's name."""
        return str(variable.name)

    def bounds(self, variable: Any) -> tuple[float, float]:
        """Return a variable's own bounds."""
        infinity = self.model.infinity()
        low, high = variable.getLbOriginal(), variable.getUbOriginal()
        return (
            -np.inf if low <= -infinity else float(low),
            np.inf if high >= infinity else float(high),
        )

    def is_integer(self, variable: Any) -> bool:
        """Whether a variable is binary or integer."""
        return variable.vtype() in ("BINARY", "INTEGER")

    def add_columns(self, written: LinearModel, first: int) -> list[Any]:
        """Add variables for the columns from ``first`` on."""
        if self.model.getStageName() != "PROBLEM":
            raise ValueError("the model has been solved; call its freeTransform() before you add")
        return add_columns(self.model, written, first)

    def add_rows(self, written: LinearModel, columns: Sequence[Any]) -> None:
        """Add the rows over given variables."""
        for row in rows_of(written, columns):
            self.model.addCons(row)

    def equate(self, variable: Any, entry: Any) -> None:
        """Add the row ``variable == entry``."""
        self.model.addCons(variable == entry)

    def foreign(self, variables: Sequence[Any]) -> list[Any]:
        """Return those of the variables that are not this model's."""
        own = {self.key(variable) for variable in self.model.getVars(transformed=False)}
        return [variable for variable in variables if self.key(variable) not in own]

    def solved(self) -> Solved:
        """Return the model with its best solution."""
        model, infinity = self.model, self.model.infinity()
        if not model.getNSols():
            raise ValueError("the model has no solution to check; optimise it first")
        variables = model.getVars(transformed=False)
        position = {self.key(variable): j for j, variable in enumerate(variables)}
        constraints = model.getConss(False)
        rows = [c for c in constraints if c.getConshdlrName() in _LINEAR]
        entries = [
            (i, position[self.key(variable)], value)
            for i, row in enumerate(rows)
            for variable, value in zip(model.getConsVars(row), model.getConsVals(row), strict=True)
        ]
        at = np.array([(i, j) for i, j, _ in entries], dtype=np.int64).reshape(-1, 2).T
        numbers = np.array([value for *_, value in entries], dtype=np.float64)
        sides = [(model.getLhs(row), model.getRhs(row)) for row in rows]
        low, high = np.array(sides, dtype=np.float64).reshape(-1, 2).T
        lower, upper = np.array([self.bounds(v) for v in variables]).reshape(-1, 2).T
        offset, terms = self.terms(model.getObjective())
        objective = np.zeros(len(variables))
        for variable, coefficient in terms:
            objective[position[self.key(variable)]] += coefficient
        compiled = LinearModel(
            objective,
            offset + model.getObjoffset(),
            sparse.csr_array(sparse.coo_array((numbers, at), shape=(len(rows), len(variables)))),
            np.where(low <= -infinity, -np.inf, low),
            np.where(high >= infinity, np.inf, high),
            lower,
            upper,
            np.array([self.is_integer(v) for v in variables], dtype=bool),
        )
        best = model.getBestSol()
        x = np.array([model.getSolVal(best, v) for v in variables], dtype=np.float64)
        others = [
            f"{c.getConshdlrName()} {c.name}".strip()
            for c in constraints
            if c.getConshdlrName() not in _LINEAR
        ]
        names = [row.name for row in rows]
        return Solved(compiled, variables, names, x, float(model.getObjVal()), others)


def add_columns(model: Any, written: LinearModel, first: int = 0) -> list[Any]:
    """Add variables to a ``pyscipopt.Model`` for the columns from ``first`` on."""

    def limit(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return [
        model.addVar(vtype="I" if integer else "C", lb=limit(low), ub=limit(high))
        for low, high, integer in zip(
            written.column_lower[first:],
            written.column_upper[first:],
            written.integer[first:],
            strict=True,
        )
    ]


def rows_of(written: LinearModel, columns: Sequence[Any]) -> Iterator[Any]:
    """Yield the rows of a linear model as PySCIPOpt's constraints over given variables.

    Rows of coefficients from a million on are in units of a power of two: over those of a billion
    SCIP 10 cuts off feasible points (``tests/solvers/milp/test_scip.py`` keeps one).
    """
    from pyscipopt import quicksum

    matrix, largest = written.matrix, written.largest_coefficients
    units = np.where(largest >= _LARGE, np.exp2(-np.floor(np.log2(np.maximum(largest, 1.0)))), 1.0)
    for i, unit in enumerate(units.tolist()):
        own = slice(matrix.indptr[i], matrix.indptr[i + 1])
        terms = quicksum(
            unit * float(value) * columns[column]
            for value, column in zip(matrix.data[own], matrix.indices[own], strict=True)
            if value
        )
        low, high = unit * float(written.row_lower[i]), unit * float(written.row_upper[i])
        if low == high:
            yield terms == low
            continue
        if np.isfinite(low):
            yield terms >= low
        if np.isfinite(high):
            yield terms <= high
