"""A PySCIPOpt model of your own, as :mod:`milp_rl.formulations.native` writes onto it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy import sparse

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import LinearModel

_EMBEDDED: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()  # models take no attributes


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

    def values(self, variables: Sequence[Any]) -> FloatArray:
        """Return variables' values in the best solution."""
        if not self.model.getNSols():
            raise ValueError("the model has no solution to check; optimise it first")
        best = self.model.getBestSol()
        return np.array([self.model.getSolVal(best, v) for v in variables], dtype=np.float64)

    def compiled(self) -> tuple[LinearModel, list[Any], list[str]]:
        """Return the model's linear rows, all variables in their order, and the rows' names."""
        variables = self.model.getVars(transformed=False)
        position = {self.key(variable): j for j, variable in enumerate(variables)}
        rows = [c for c in self.model.getConss(False) if c.getConshdlrName() == "linear"]
        entries: list[tuple[int, int, float]] = []
        for i, row in enumerate(rows):
            own = zip(self.model.getConsVars(row), self.model.getConsVals(row), strict=True)
            entries.extend((i, position[self.key(v)], value) for v, value in own)
        matrix = sparse.lil_array((len(rows), len(variables)))
        for i, j, value in entries:
            matrix[i, j] = value
        infinity = self.model.infinity()
        sides = [(self.model.getLhs(c), self.model.getRhs(c)) for c in rows]
        low, high = np.array(sides, dtype=np.float64).reshape(-1, 2).T
        lower, upper = np.array([self.bounds(v) for v in variables]).reshape(-1, 2).T
        compiled = LinearModel(
            np.zeros(len(variables)),
            0.0,
            sparse.csr_array(matrix),
            np.where(low <= -infinity, -np.inf, low),
            np.where(high >= infinity, np.inf, high),
            lower,
            upper,
            np.array([self.is_integer(v) for v in variables], dtype=bool),
        )
        return compiled, variables, [c.name for c in rows]


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
    """Yield the rows of a linear model as PySCIPOpt's constraints over given variables."""
    from pyscipopt import quicksum

    matrix = written.matrix
    for i in range(written.n_rows):
        own = slice(matrix.indptr[i], matrix.indptr[i + 1])
        terms = quicksum(
            float(value) * columns[column]
            for value, column in zip(matrix.data[own], matrix.indices[own], strict=True)
            if value
        )
        low, high = float(written.row_lower[i]), float(written.row_upper[i])
        if low == high:
            yield terms == low
            continue
        if np.isfinite(low):
            yield terms >= low
        if np.isfinite(high):
            yield terms <= high
