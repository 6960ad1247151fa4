"""Neighbours of an action, with which answers are tested: a flip, a swap, part of a step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.kernels.description import Loops
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.options import late

if TYPE_CHECKING:
    from milp_rl.solvers.certify import ArgmaxProblem

SHARES = (0.5, 0.1, 0.01, 0.001)
"""Parts of the step to another action at which continuous ones are tried."""

_MOST_SWAPS = 100_000  # of which all are looked at; of more, as many that a fixed seed picks
_ENTRIES = 4_000_000  # of a layer that are computed at a time


def on_the_way(
    space: ActionSpace, action: ActionArray, others: ActionArray, pins: Pins | None = None
) -> ActionArray:
    """Return neighbours of an action whose variables are not all binary, feasible or not.

    Its continuous variables are moved by parts of the step to those of other actions, or one of its
    whole numbers is one more or one less; what pins hold stays.
    """
    moved = np.zeros((0, len(action)))
    if space.continuous.any():
        moves = np.where(space.continuous, others - action, 0.0)
        moved = np.concatenate([action + share * moves for share in SHARES])
    kept = space.continuous
    for mask in () if pins is None else (pins.one, pins.zero):
        kept = kept if mask is None else kept | mask
    steps: ActionArray = np.eye(len(action), dtype=np.int8)[~kept].astype(action.dtype)
    whole = np.concatenate([action + steps, action - steps])
    within = ((whole >= space.lower) & (whole <= space.upper)).all(axis=1)
    return np.concatenate([moved.astype(space.dtype), whole[within]])


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


def looks_at_all(action: ActionArray) -> bool:
    """Whether an action has so few swaps that all of them are looked at."""
    n_ones = int(action.sum())
    return n_ones * (len(action) - n_ones) <= _MOST_SWAPS


def neighbours_above(
    problem: ArgmaxProblem, action: ActionArray, limit: float, deadline: float = math.inf
) -> tuple[NDArray[np.intp], FloatArray]:
    """Find the actions one flip or one swap away whose value is above a limit.

    Of more than 100,000 swaps, a part of that size is looked at, always the same.

    Parameters
    ----------
    problem
        What is solved; what its pins hold is not turned.
    action
        Binary vector, within the pins.
    limit
        Values up to this are left out.
    deadline
        When to look no further.

    Returns
    -------
    tuple of numpy.ndarray
        Their rows, as :func:`neighbourhood` counts them, ascending; and their values.
    """
    if problem.loops is not None and looks_at_all(action):
        return _above_in_loops(problem, problem.loops, action, limit)
    networks = ActionNetworks.of(problem.network)
    columns = {depth: weight.T for depth, weight in networks.direct.items()}  # of each action
    chosen = np.flatnonzero(action)
    zeros = np.flatnonzero(action == 0)
    here = {depth: own[chosen].sum(axis=0) for depth, own in columns.items()}
    rows = _neighbour_rows(len(action), len(chosen), len(zeros))
    if not problem.pins.empty:
        rows = rows[_free(problem.pins, rows, chosen, zeros)]
    size = max(_ENTRIES // networks.widest, 1)
    found, values = [], []
    for i in range(0, len(rows), size):
        own = rows[i : i + size]
        flips, swaps = own[own < len(action)], own[own >= len(action)] - len(action)
        products = {}
        for depth, added in columns.items():
            y = np.empty((len(own), added.shape[1]))
            y[: len(flips)] = added[flips] * np.where(action[flips], -1.0, 1.0)[:, None]
            if len(swaps):
                one, zero = np.divmod(swaps, len(zeros))
                y[len(flips) :] = added[zeros[zero]] - added[chosen[one]]
            y += here[depth]
            products[depth] = y
        valued = networks.values_after(products, np.zeros(len(own), dtype=int))
        above = valued > limit
        found.append(own[above])
        values.append(valued[above])
        if late(deadline):
            break
    if not found:
        return rows, np.zeros(0)
    return np.concatenate(found), np.concatenate(values)


def _above_in_loops(
    problem: ArgmaxProblem, loops: Loops, action: ActionArray, limit: float
) -> tuple[NDArray[np.intp], FloatArray]:
    """Do the same by compiled loops."""
    from milp_rl.solvers.kernels import neighbours

    n, n_ones = len(action), int(action.sum())
    rows = np.empty(n + n_ones * (n - n_ones), dtype=np.intp)
    values = np.empty(len(rows))
    held = problem.pins.masks(n)
    found = neighbours(loops.networks, loops.state, action, *held, limit, rows, values)
    return rows[:found], values[:found]


def _free(
    pins: Pins, rows: NDArray[np.intp], ones: NDArray[np.intp], zeros: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Mark the flips and swaps that turn nothing that is held."""
    n = len(ones) + len(zeros)
    free = np.ones(n, dtype=bool)
    for mask in (pins.one, pins.zero):
        if mask is not None:
            free &= ~mask
    flips, swaps = rows[rows < n], rows[rows >= n] - n
    one, zero = np.divmod(swaps, max(len(zeros), 1))
    return np.concatenate([free[flips], free[ones[one]] & free[zeros[zero]]])


def _neighbour_rows(n: int, n_ones: int, n_zeros: int) -> NDArray[np.intp]:
    """Return the rows of all flips and of the swaps that are looked at, ascending."""
    number = n_ones * n_zeros
    if number <= _MOST_SWAPS:
        return np.arange(n + number)
    swaps = np.unique(np.random.default_rng(0).integers(number, size=_MOST_SWAPS))
    return np.concatenate([np.arange(n), n + swaps])
