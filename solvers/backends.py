"""The solvers of an argmax by their names, over one space or several."""

from __future__ import annotations

import json
import threading
from typing import Any, get_args

from milp_rl.formulations.networks.action_value import ActionValue
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.networks.trees_value import TreeValue
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box
from milp_rl.formulations.spaces.union import alternatives
from milp_rl.solvers.alternatives import AlternativesArgmax
from milp_rl.solvers.auto import AutoArgmax
from milp_rl.solvers.branch_and_bound import BranchAndBoundArgmax, SpatialArgmax
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.milp.argmax import MilpArgmax, MilpOptions
from milp_rl.solvers.milp.solver import MilpSolver
from milp_rl.solvers.milp.trees import TreeArgmax
from milp_rl.solvers.models.solve import milp_solver
from milp_rl.solvers.names import SolverName
from milp_rl.solvers.protocol import Argmax

_NODES_BEFORE_MILP = 2000  # of branch and bound that `auto` tries,
_NODES_IN_LOOPS = 30_000  # or so many where compiled loops take them
_BOXES_BEFORE_MILP = 30_000  # of the spatial search
_MOST_SPACES = 32  # of calls, that are kept


class Backends:
    """What solves for one action value over the solver's own space, and over those of calls.

    The last 32 other spaces are kept with what is known of them, for calls that give them, or equal
    ones, again. They share the MILP solver, and begin with the actions known of the own space.

    Parameters
    ----------
    value
        Q(state, action).
    space
        The solver's own.
    solver, options
        As for :func:`new_backend`.
    """

    def __init__(
        self,
        value: ActionValue,
        space: ActionSpace,
        solver: SolverName = "auto",
        options: MilpOptions | None = None,
    ) -> None:
        self.own = new_backend(value, space, solver, options)
        self._solver: SolverName = solver
        self._options = options
        self._start()

    def _start(self) -> None:
        self._others: list[tuple[ActionSpace, str, Argmax]] = []  # the one used last is last
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_others", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def update(self, value: ActionValue) -> None:
        """Replace the action value."""
        self.own.update(value)

    def over(self, space: ActionSpace | None) -> Argmax:
        """Return what solves over a space of as many variables, ``None`` for the solver's own.

        Raises
        ------
        ValueError
            If the solver does not take the space.
        """
        if space is None or space is self.own.space:
            return self.own
        with self._lock:
            entry = self._entry(space)
            others = [other for other in self._others if other is not entry]
            self._others = [*others[-(_MOST_SPACES - 1) :], entry]
            backend = entry[2]
            if backend.value is not self.own.value:
                backend.update(self.own.value)
            return backend

    def _entry(self, space: ActionSpace) -> tuple[ActionSpace, str, Argmax]:
        """Return the space, what describes it, and its backend, which is kept or new."""
        for entry in self._others:
            if entry[0] is space:
                return entry
        key = json.dumps(space.to_dict(), sort_keys=True)
        for entry in self._others:
            if entry[1] == key:
                return entry
        backend = new_backend(
            self.own.value,
            space,
            self._solver,
            self._options,
            incumbents=Incumbents(space, self.own.incumbents),
            milp=self.own.milp_solver,
        )
        return space, key, backend


def new_backend(
    value: ActionValue | Network,
    space: ActionSpace,
    solver: SolverName = "auto",
    options: MilpOptions | None = None,
    *,
    incumbents: Incumbents | None = None,
    milp: MilpSolver | None = None,
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
    incumbents
        What is known of the space.
    milp
        The MILP solver of that name, if one is set up already.

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
    incumbents = incumbents or Incumbents(space)
    if options is not None and options.engine == "pyomo":
        return _through_pyomo(value, space, solver, options, incumbents)
    if solver == "enumeration":
        return EnumerationArgmax(value, space, incumbents)
    if solver == "branch_and_bound":
        if trees:
            raise ValueError(
                "branch_and_bound does not take trees; use 'highs', 'gurobi', 'scip', 'enumeration'"
                " or 'auto'"
            )
        return native_search(value, space, incumbents)
    milp = milp or milp_solver("highs" if solver == "auto" else solver)
    kind = TreeArgmax if trees else MilpArgmax
    written = kind(value, space, milp, options, incumbents)
    if solver != "auto":
        return written
    boxes = all(isinstance(own, Box) for own in alternatives(space))
    searched = not trees and (space.binary or boxes)
    return AutoArgmax(
        value,
        space,
        incumbents,
        milp=written,
        search=native_search(value, space, incumbents) if searched else None,
        nodes=_most_nodes(space),
    )


def _most_nodes(space: ActionSpace) -> int:
    """Return how many nodes ``auto`` gives its search before the MILP's turn."""
    if not space.binary:
        return _BOXES_BEFORE_MILP
    return _NODES_BEFORE_MILP if space.compiled_oracle is None else _NODES_IN_LOOPS


def _through_pyomo(
    value: ActionValue | Network,
    space: ActionSpace,
    solver: SolverName,
    options: MilpOptions,
    incumbents: Incumbents,
) -> Argmax:
    from milp_rl.solvers.milp.pyomo_argmax import PyomoArgmax

    if solver not in ("highs", "gurobi", "scip"):
        raise ValueError(f"engine='pyomo' is for 'highs', 'gurobi' and 'scip', got {solver!r}")
    milp_solver(solver)  # says what is not installed, or has no licence
    return PyomoArgmax(value, space, solver, options, incumbents)


def native_search(
    value: ActionValue | Network, space: ActionSpace, incumbents: Incumbents
) -> Argmax:
    """Return the native search for a space of binary variables, or the spatial one for others.

    Where unions have other variables, each of their alternatives is searched.

    Raises
    ------
    ValueError
        If the space has variables that are not binary, and its block has auxiliary variables.
    """
    if space.binary:
        return BranchAndBoundArgmax(value, space, incumbents)
    parts = alternatives(space)
    if len(parts) > 1:
        return AlternativesArgmax(value, space, parts, native_search, incumbents)
    return SpatialArgmax(value, space, incumbents)
