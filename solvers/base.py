"""What solvers have in common: errors, limits, the interface of MILP solvers, and neighbours."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.actions.base import ActionSpace
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.linear_model import LinearModel
from milp_rl.solvers.result import Status

if TYPE_CHECKING:
    from milp_rl.solvers.certify import ArgmaxProblem


TOLERANCE = 1e-6
"""Values that differ by at most this part of the spread of the objective count as equal."""

SHARES = (0.5, 0.1, 0.01, 0.001)
"""Of the way to another action at which continuous ones are tried."""

_MOST_SWAPS = 100_000  # of which all are looked at; of more, as many that a fixed seed picks
_ENTRIES = 4_000_000  # of a layer that are computed at a time


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

    def deadline(self, begin: float) -> float:
        """Return when a solve that began then is to end, infinite without a time limit."""
        return math.inf if self.time_limit is None else begin + self.time_limit


def late(deadline: float) -> bool:
    """Whether a deadline has passed."""
    return time.perf_counter() >= deadline


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


def neighbours_above(
    problem: ArgmaxProblem, action: ActionArray, limit: float, deadline: float = math.inf
) -> tuple[NDArray[np.intp], FloatArray]:
    """Find the actions one flip or one swap away whose value is above a limit.

    Of more than 100,000 swaps, a part of that size is looked at, always the same.

    Parameters
    ----------
    problem
        What is solved.
    action
        Binary vector.
    limit
        Values up to this are left out.
    deadline
        When to look no further.

    Returns
    -------
    tuple of numpy.ndarray
        Their rows, as :func:`neighbourhood` counts them, ascending; and their values.
    """
    first, *rest = problem.network.layers
    columns = first.weight.T  # what each action adds to the first layer
    chosen = np.flatnonzero(action)
    zeros = np.flatnonzero(action == 0)
    here = columns[chosen].sum(axis=0) + first.bias
    widest = max(len(layer.bias) for layer in problem.network.layers)
    rows = _neighbour_rows(len(action), len(chosen), len(zeros))
    size = max(_ENTRIES // widest, 1)
    found, values = [], []
    for i in range(0, len(rows), size):
        own = rows[i : i + size]
        flips, swaps = own[own < len(action)], own[own >= len(action)] - len(action)
        y = np.empty((len(own), len(here)))
        y[: len(flips)] = columns[flips] * np.where(action[flips], -1.0, 1.0)[:, None]
        if len(swaps):
            one, zero = np.divmod(swaps, len(zeros))
            y[len(flips) :] = columns[zeros[zero]] - columns[chosen[one]]
        y += here
        for layer in rest:
            y = np.maximum(y, 0.0, out=y) @ layer.weight.T
            y += layer.bias
        above = y[:, 0] > limit
        found.append(own[above])
        values.append(y[above, 0])
        if late(deadline):
            break
    return np.concatenate(found), np.concatenate(values)


def _neighbour_rows(n: int, n_ones: int, n_zeros: int) -> NDArray[np.intp]:
    """Return the rows of all flips and of the swaps that are looked at, ascending."""
    number = n_ones * n_zeros
    if number <= _MOST_SWAPS:
        return np.arange(n + number)
    swaps = np.unique(np.random.default_rng(0).integers(number, size=_MOST_SWAPS))
    return np.concatenate([np.arange(n), n + swaps])
