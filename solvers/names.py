"""Names of solvers and engines; importing them costs nothing."""

from typing import Literal

SolverName = Literal["auto", "highs", "gurobi", "scip", "branch_and_bound", "enumeration"]
Engine = Literal["compact", "pyomo"]
