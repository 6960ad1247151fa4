"""A gurobipy model of your own, as :mod:`milp_rl.formulations.native` writes onto it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import LinearModel


@dataclass(frozen=True, eq=False)
class GurobiModel:
    """A ``gurobipy.Model``; see :class:`milp_rl.formulations.native.NativeModel`."""

    model: Any
    embedded: list[Any]

    @staticmethod
    def of(model: Any) -> GurobiModel:
        """Take a model, with what was added to it before."""
        model.update()
        if not hasattr(model, "_milp_rl"):
            model._milp_rl = []
        return GurobiModel(model, model._milp_rl)

    def terms(self, entry: Any) -> tuple[float, list[tuple[Any, float]]]:
        """Return the constant and the terms of an entry."""
        if hasattr(entry, "item"):  # of an MVar, an MLinExpr or a NumPy array
            entry = entry.item()
        found: list[tuple[Any, float]] = []
        if hasattr(entry, "LB"):
            constant, found = 0.0, [(entry, 1.0)]
        elif hasattr(entry, "getConstant"):
            constant = float(entry.getConstant())
            found = [(entry.getVar(k), float(entry.getCoeff(k))) for k in range(entry.size())]
        else:
            try:
                constant = float(entry)
            except TypeError:
                raise ValueError(
                    f"{entry} is no variable, linear expression or number of a gurobipy model"
                ) from None
        for variable, _ in found:
            if variable.VType in ("S", "N"):
                raise ValueError(
                    f"the variable {variable.VarName} is semi-continuous, 0 or between its"
                    " bounds; rows take an interval: use a binary for whether it is 0"
                )
        return constant, found

    def key(self, variable: Any) -> int:
        """Return a variable's number."""
        return int(variable.index)

    def name(self, variable: Any) -> str:
        """Return a variable's name."""
        return str(variable.VarName)

    def bounds(self, variable: Any) -> tuple[float, float]:
        """Return a variable's own bounds."""
        return float(variable.LB), float(variable.UB)

    def is_integer(self, variable: Any) -> bool:
        """Whether a variable is binary or integer."""
        return variable.VType in ("B", "I")

    def add_columns(self, written: LinearModel, first: int) -> list[Any]:
        """Add variables for the columns from ``first`` on."""
        low, high = written.column_lower[first:], written.column_upper[first:]
        if not len(low):
            return []
        binary = np.where((low >= 0) & (high <= 1), "B", "I")
        kinds = np.where(written.integer[first:], binary, "C")
        added = self.model.addMVar(len(low), lb=low, ub=high, vtype=kinds)
        self.model.update()
        return list(added.tolist())

    def add_rows(self, written: LinearModel, columns: Sequence[Any]) -> None:
        """Add the rows over given variables."""
        import gurobipy

        if not columns:
            return
        x = gurobipy.MVar.fromlist(list(columns))
        low, high = written.row_lower, written.row_upper
        equal = low == high
        for rows, sense, side in (
            (equal, "=", high),
            (~equal & np.isfinite(high), "<", high),
            (~equal & np.isfinite(low), ">", low),
        ):
            if rows.any():
                self.model.addMConstr(written.matrix[rows], x, sense, side[rows])
        self.model.update()

    def equate(self, variable: Any, entry: Any) -> None:
        """Add the row ``variable == entry``."""
        self.model.addConstr(variable == entry)

    def values(self, variables: Sequence[Any]) -> FloatArray:
        """Return variables' values in the best solution."""
        if not self.model.SolCount:
            raise ValueError("the model has no solution to check; optimise it first")
        return np.array([variable.X for variable in variables], dtype=np.float64)

    def compiled(self) -> tuple[LinearModel, list[Any], list[str]]:
        """Return the model's linear rows, all variables in their order, and the rows' names."""
        variables, rows = self.model.getVars(), self.model.getConstrs()
        side = np.array(self.model.getAttr("RHS", rows), dtype=np.float64)
        sense = np.array(self.model.getAttr("Sense", rows), dtype="<U1")
        compiled = LinearModel(
            np.zeros(len(variables)),
            0.0,
            self.model.getA().tocsr(),
            np.where(sense == "<", -np.inf, side),
            np.where(sense == ">", np.inf, side),
            np.array(self.model.getAttr("LB", variables), dtype=np.float64),
            np.array(self.model.getAttr("UB", variables), dtype=np.float64),
            np.isin(self.model.getAttr("VType", variables), ["B", "I"]),
        )
        return compiled, variables, self.model.getAttr("ConstrName", rows)
