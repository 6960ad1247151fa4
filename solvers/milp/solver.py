"""What HiGHS, Gurobi and SCIP implement: a persistent MILP solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import Status


@dataclass(frozen=True, eq=False)
class MilpSolution:
    """What a MILP solver says of a :class:`LinearModel`.

    Parameters
    ----------
    status
        ``"optimal"`` means within the requested gap, ``"unbounded"`` that the linear relaxation
        is, or that the solver cannot tell whether it is that or infeasible.
    x
        Column values of the best solution found, or ``None``.
    bound
        Upper bound on the maximum; infinite if there is none.
    nodes
        Branch-and-bound nodes.
    message
        The solver's own word for its status.
    """

    status: Status
    x: FloatArray | None
    bound: float
    nodes: int = 0
    message: str = ""


class MilpSolver(Protocol):
    """A persistent MILP solver; a solve's result does not depend on earlier ones."""

    name: str

    def solve(
        self,
        model: LinearModel,
        options: SolveOptions,
        *,
        start: FloatArray | None = None,
        tight: bool = False,
        seed: int = 0,
    ) -> MilpSolution:
        """Maximise ``model``.

        Parameters
        ----------
        model
            The problem.
        options
            Limits.
        start
            Column values to start from, NaN where unknown.
        tight
            Use the tightest tolerances the solver has.
        seed
            Of the solver's own random decisions: another one takes another path.
        """
        ...
