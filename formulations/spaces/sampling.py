"""Drawing random feasible actions of any space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.spaces.oracles.lp import LinearOracle
from milp_rl.formulations.time_limit import check_time

_VALUES = 32  # of a whole number that are tried


def built_at_random(
    n: int,
    violations: Callable[[ActionArray], list[str]],
    extensions: Callable[[ActionArray], NDArray[np.intp]],
    rng: np.random.Generator,
    *,
    maximal: bool,
) -> ActionArray:
    """Add what keeps the action completable, at random; stop at a feasible one, or at the last."""
    action = np.zeros(n, dtype=np.int8)
    visited: list[ActionArray] = [] if violations(action) else [action.copy()]
    while len(additions := extensions(action)):
        check_time()
        action[rng.choice(additions)] = 1
        if not violations(action):
            visited.append(action.copy())
    if not visited:
        raise ValueError("the space has no feasible action to sample")
    return visited[-1] if maximal else visited[rng.integers(len(visited))]


def moved(
    action: ActionArray,
    lower: FloatArray,
    upper: FloatArray,
    whole: BoolArray,
    feasible: Callable[[ActionArray], BoolArray],
    rng: np.random.Generator,
) -> ActionArray:
    """Move the whole numbers of a feasible action one after another, each at random.

    Each takes one of the values, of up to 32 that are drawn, with which the action stays feasible;
    then each one in turn is lowered by one for another that is raised, where that is feasible.

    Parameters
    ----------
    action
        Feasible.
    lower, upper
        Bounds, shape (n_actions,).
    whole
        Which variables are whole numbers.
    """
    order = rng.permutation(np.flatnonzero(whole & (upper > lower)))
    for i in order:
        low, size = int(np.ceil(lower[i])), int(np.floor(upper[i]) - np.ceil(lower[i])) + 1
        values = low + (np.arange(size) if size <= _VALUES else rng.integers(size, size=_VALUES))
        tried = np.repeat(action[None], len(values), axis=0)
        tried[:, i] = values
        action = _one_of(tried[feasible(tried)], action, rng)
    for i, j in zip(order, np.roll(order, 1), strict=True):
        tried = action[None].copy()
        tried[0, i] -= 1
        tried[0, j] += 1
        if i != j and tried[0, i] >= lower[i] and tried[0, j] <= upper[j] and feasible(tried)[0]:
            action = tried[0] if rng.random() < 0.5 else action
    return action


def _one_of(actions: ActionArray, otherwise: ActionArray, rng: np.random.Generator) -> ActionArray:
    return np.asarray(actions[rng.integers(len(actions))]) if len(actions) else otherwise


def mixture(oracle: LinearOracle, continuous: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Mix vertices of the set whose whole numbers, auxiliary ones too, are a first one's."""
    point = oracle.integer_point(rng.standard_normal(len(continuous)))
    if point is None:
        raise ValueError("the space has no feasible action to sample")
    first = point[: len(continuous)].copy()
    first[~continuous] = np.rint(first[~continuous])
    directions = rng.standard_normal((int(continuous.sum()), len(continuous)))
    vertices = np.concatenate([first[None], oracle.vertices(directions, point)])
    mixed: FloatArray = rng.dirichlet(np.ones(len(vertices))) @ vertices
    mixed[~continuous] = first[~continuous]
    return mixed
