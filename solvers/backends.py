"""The solvers of an argmax by their names."""

from __future__ import annotations

from typing import get_args

from milp_rl.formulations.networks.action_value import ActionValue
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.networks.trees_value import TreeValue
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box
from milp_rl.solvers.auto import AutoArgmax
from milp_rl.solvers.branch_and_bound import BranchAndBoundArgmax, SpatialArgmax
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.milp.argmax import MilpArgmax, MilpOptions
from milp_rl.solvers.milp.trees import TreeArgmax
from milp_rl.solvers.models.solve import milp_solver
from milp_rl.solvers.names import SolverName
from milp_rl.solvers.protocol import Argmax

_NODES_BEFORE_MILP = 2000  # of branch and bound that `auto` tries
_BOXES_BEFORE_MILP = 30_000  # of the spatial search


def new_backend(
    value: ActionValue | Network,
    space: ActionSpace,
    solver: SolverName = "auto",
    options: MilpOptions | None = None,
) -> Argmax:
    """Return what solves the argmax of an action value over a space.

    Parameters
    ----------
    value
        Q(state, action), or a network of one output whose inputs are [action, state].
    space
        The feasible set.
    solver
        As in :class:`milp_rl.argmax_solver.ArgmaxSolver`.
    options
        How a MILP solver is given the network.

    Raises
    ------
    ValueError
        If a name is unknown, or the solver does not take the space or the value.
    SolverUnavailableError
        If the solver is not installed or has no licence.
    """
    known = get_args(SolverName)
    if solver not in known:
        raise ValueError(f"solver must be one of {', '.join(map(repr, known))}, got {solver!r}")
    trees = isinstance(value, TreeValue)
    if solver == "enumeration":
        return EnumerationArgmax(value, space)
    if solver == "branch_and_bound":
        if trees:
            raise ValueError(
                "branch_and_bound does not take trees; use 'highs', 'gurobi', 'scip', 'enumeration'"
                " or 'auto'"
            )
        return native_search(value, space, Incumbents(space))
    incumbents = Incumbents(space)
    milp = (TreeArgmax if trees else MilpArgmax)(
        value, space, milp_solver("highs" if solver == "auto" else solver), options, incumbents
    )
    if solver != "auto":
        return milp
    searched = not trees and (space.binary or _is_continuous_box(space))
    return AutoArgmax(
        value,
        space,
        incumbents,
        milp=milp,
        search=native_search(value, space, incumbents) if searched else None,
        nodes=_NODES_BEFORE_MILP if space.binary else _BOXES_BEFORE_MILP,
    )


def native_search(
    value: ActionValue | Network, space: ActionSpace, incumbents: Incumbents
) -> Argmax:
    """Return the native search for a space of binary variables, or a box of continuous ones.

    Raises
    ------
    ValueError
        If the space has continuous variables, but is not a :class:`Box` of nothing else.
    """
    kind = BranchAndBoundArgmax if space.binary else SpatialArgmax
    return kind(value, space, incumbents)


def _is_continuous_box(space: ActionSpace) -> bool:
    return isinstance(space, Box) and bool(space.continuous.all())
