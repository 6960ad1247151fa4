"""The solvers of an argmax by their names."""

from __future__ import annotations

from typing import get_args

from milp_rl.formulations.actions.base import ActionSpace
from milp_rl.formulations.bounds import check_strength
from milp_rl.formulations.compact import check_formulation
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.network import Network
from milp_rl.solvers.auto import AutoArgmax
from milp_rl.solvers.batch import Argmax
from milp_rl.solvers.box_search import branch_and_bound
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.milp import MilpArgmax
from milp_rl.solvers.model import milp_solver
from milp_rl.solvers.names import SolverName


def new_backend(
    network: Network,
    space: ActionSpace,
    solver: SolverName = "auto",
    *,
    formulation: Formulation = "bigm",
    partitions: int = 2,
    bounds: Strength = "linear",
    one_sided: bool = True,
) -> Argmax:
    """Return what solves the argmax of a network over a space.

    Parameters
    ----------
    network
        Scalar output; inputs [action, state].
    space
        The feasible set.
    solver, formulation, partitions, bounds, one_sided
        As in :class:`milp_rl.argmax_solver.ArgmaxSolver`.

    Raises
    ------
    ValueError
        If a name is unknown, or the solver does not take the space.
    SolverUnavailableError
        If the solver is not installed or has no licence.
    """
    known = get_args(SolverName)
    if solver not in known:
        raise ValueError(f"solver must be one of {', '.join(map(repr, known))}, got {solver!r}")
    check_formulation(formulation, partitions)
    check_strength(bounds)
    if solver == "enumeration":
        return EnumerationArgmax(network, space)
    if solver == "branch_and_bound":
        return branch_and_bound(network, space)
    milp = MilpArgmax(
        network,
        space,
        milp_solver("highs" if solver == "auto" else solver),
        formulation=formulation,
        partitions=partitions,
        bounds=bounds,
        one_sided=one_sided,
    )
    return AutoArgmax(network, space, milp) if solver == "auto" else milp
