"""What a comparison runs: its methods, combined from solvers, formulations and bounds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from milp_rl.formulations.suggestions import unknown

MILP_SOLVERS = ("highs", "gurobi", "scip")
SOLVERS = (*MILP_SOLVERS, "branch_and_bound", "enumeration", "auto")


@dataclass(frozen=True)
class Method:
    """A solver, with formulation and bounds if it is for MILPs.

    Parameters
    ----------
    solver
        Name of a solver.
    formulation, bounds
        ``None`` for a solver that has no use for them.
    """

    solver: str
    formulation: str | None = None
    bounds: str | None = None

    @property
    def name(self) -> str:
        """Its name in tables and files."""
        return "-".join(part for part in (self.solver, self.formulation, self.bounds) if part)


def all_methods(
    solvers: Sequence[str], formulations: Sequence[str], bounds: Sequence[str]
) -> list[Method]:
    """Combine solvers, formulations and bounds; the last two vary for the MILP solvers only.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    for kind, given, known in (
        ("solver", solvers, SOLVERS),
        ("formulation", formulations, ("bigm", "partition")),
        ("bounds", bounds, ("interval", "linear", "lp")),
    ):
        for name in given:
            if name not in known:
                raise ValueError(unknown(kind, name, known))
    found = []
    for solver in solvers:
        if solver in MILP_SOLVERS:
            pairs = itertools.product(formulations, bounds)
            found += [Method(solver, formulation, strength) for formulation, strength in pairs]
        else:
            found.append(Method(solver))
    return found
