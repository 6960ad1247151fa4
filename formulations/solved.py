"""What a model of gurobipy or PySCIPOpt says once it is solved, read back as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import LinearModel


@dataclass(frozen=True, eq=False)
class Solved:
    """A model and its best solution.

    Parameters
    ----------
    model
        Its linear rows, bounds and integers, and its linear objective, whatever its sense.
    variables
        All variables, in the order of columns.
    rows
        Names of the linear rows.
    x
        Values of the variables, shape (columns,).
    value
        The objective value that the solver claims; ``None`` if the objective is not linear.
    unread
        Kinds and names of the constraints that are not linear rows.
    """

    model: LinearModel
    variables: list[Any]
    rows: list[str]
    x: FloatArray
    value: float | None
    unread: list[str]
