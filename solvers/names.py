"""Names of solvers; importing them costs nothing."""

from typing import Literal

SolverName = Literal["auto", "highs", "gurobi", "scip", "branch_and_bound", "enumeration"]
