"""A gurobipy model of your own, as :mod:`milp_rl.formulations.native` writes onto it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.solved import Solved


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

    def foreign(self, variables: Sequence[Any]) -> list[Any]:
        """Return those of the variables that are not this model's."""
        own = self.model.getVars()
        return [v for v in variables if not 0 <= v.index < len(own) or not own[v.index].sameAs(v)]

    def solved(self) -> Solved:
        """Return the model with its best solution."""
        model = self.model
        if not model.SolCount:
            raise ValueError("the model has no solution to check; optimise it first")
        variables, rows = model.getVars(), model.getConstrs()
        side = np.array(model.getAttr("RHS", rows), dtype=np.float64)
        sense = np.array(model.getAttr("Sense", rows), dtype="<U1")
        kind = np.array(model.getAttr("VType", variables), dtype="<U1")
        low, high = (
            np.array(model.getAttr(name, variables), dtype=np.float64) for name in ("LB", "UB")
        )
        or_zero = np.isin(kind, ["S", "N"])  # semi-continuous and semi-integer
        linear = not (model.IsQP or model.NumPWLObjVars or model.NumObj > 1)
        compiled = LinearModel(
            np.array(model.getAttr("Obj", variables), dtype=np.float64),
            float(model.ObjCon),
            model.getA().tocsr(),
            np.where(sense == "<", -np.inf, side),
            np.where(sense == ">", np.inf, side),
            np.where(or_zero, np.minimum(low, 0), low),
            np.where(or_zero, np.maximum(high, 0), high),
            np.isin(kind, ["B", "I", "N"]),
        )
        others = [f"quadratic {row.QCName}".strip() for row in model.getQConstrs()]
        others += [f"general {row.GenConstrName}".strip() for row in model.getGenConstrs()]
        others += ["SOS"] * model.NumSOS
        x = np.array(model.getAttr("X", variables), dtype=np.float64)
        names = list(model.getAttr("ConstrName", rows))
        value = float(model.ObjVal) if linear else None
        return Solved(compiled, variables, names, x, value, others)
