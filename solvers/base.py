"""What solvers have in common: errors, limits, the interface of MILP solvers, and neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.linear_model import LinearModel
from milp_rl.formulations.network import FloatArray
from milp_rl.solvers.result import Status

if TYPE_CHECKING:
    from milp_rl.solvers.certify import ArgmaxProblem


TOLERANCE = 1e-6
"""Values that differ by at most this part of the spread of the objective count as equal."""

SHARES = (0.5, 0.1, 0.01, 0.001)
"""Of the way to another action at which continuous ones are tried."""


class CertificationError(RuntimeError):
    """A solver's answer contradicts the network or the space, also when solved more tightly."""


class SolverUnavailableError(RuntimeError):
    """A solver is not installed, has no licence, or its licence is too small for the model."""


@dataclass(frozen=True)
class SolveOptions:
    """Limits of one solve.

    Parameters
    ----------
    gap
        Relative gap at which to stop, (bound - value) / |value|, at least 0.
    absolute_gap
        Absolute gap at which to stop, at least 0; the solve stops at whichever comes first.
    time_limit
        Seconds, positive; ``None`` for none.
    threads
        Threads a solve, at least 1.
    node_limit
        Branch-and-bound nodes, at least 1; ``None`` for no limit.
    """

    gap: float = 0.0
    absolute_gap: float = 0.0
    time_limit: float | None = None
    threads: int = 1
    node_limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("gap", "absolute_gap"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a nonnegative number, got {value!r}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit must be positive seconds or None, got {self.time_limit}")
        if not (isinstance(self.threads, int) and self.threads >= 1):
            raise ValueError(f"threads must be an integer of at least 1, got {self.threads!r}")
        limit = self.node_limit
        if limit is not None and not (isinstance(limit, int) and limit >= 1):
            raise ValueError(f"node_limit must be an integer of at least 1 or None, got {limit!r}")


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


def on_the_way(space: ActionSpace, action: ActionArray, others: ActionArray) -> ActionArray:
    """Move an action's continuous variables some of the way towards those of other actions."""
    moves = np.where(space.continuous, others - action, 0.0)
    return np.concatenate([action + share * moves for share in SHARES])


def neighbourhood(action: ActionArray, rows: NDArray[np.intp]) -> ActionArray:
    """Return actions one flip or one swap away, shape (rows, n_actions).

    Parameters
    ----------
    action
        Binary vector.
    rows
        Which: the flips in order, then for each one in turn its swaps with the zeros.
    """
    n = len(action)
    ones, zeros = np.flatnonzero(action), np.flatnonzero(action == 0)
    found = np.repeat(action[None], len(rows), axis=0)
    flips, swaps = np.flatnonzero(rows < n), np.flatnonzero(rows >= n)
    found[flips, rows[flips]] = 1 - found[flips, rows[flips]]
    if len(swaps):
        one, zero = np.divmod(rows[swaps] - n, len(zeros))
        found[swaps, ones[one]] = 0
        found[swaps, zeros[zero]] = 1
    return found


def neighbour_values(problem: ArgmaxProblem, action: ActionArray) -> FloatArray:
    """Value all actions one flip or one swap away, in the order of :func:`neighbourhood`."""
    first, *rest = problem.network.layers
    columns = first.weight.T  # what each action adds to the first layer
    here = columns[action == 1].sum(axis=0) + first.bias
    ones, zeros = columns[action == 1], columns[action == 0]
    flips = here + np.where(action[:, None] == 1, -columns, columns)
    swaps = (here - ones)[:, None] + zeros
    y = np.concatenate([flips, swaps.reshape(-1, len(here))])
    for layer in rest:
        y = np.maximum(y, 0.0, out=y) @ layer.weight.T
        y += layer.bias
    return np.asarray(y[:, 0])
