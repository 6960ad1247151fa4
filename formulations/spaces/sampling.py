"""Drawing random feasible actions of any space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.spaces.oracles.lp import LinearOracle


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
        action[rng.choice(additions)] = 1
        if not violations(action):
            visited.append(action.copy())
    if not visited:
        raise ValueError("the space has no feasible action to sample")
    return visited[-1] if maximal else visited[rng.integers(len(visited))]


def mixture(oracle: LinearOracle, continuous: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Mix vertices of the set whose binary variables are those of a first random one."""
    first = oracle.integer_maximizer(rng.standard_normal(len(continuous)))
    if first is None:
        raise ValueError("the space has no feasible action to sample")
    first[~continuous] = np.rint(first[~continuous])
    directions = rng.standard_normal((int(continuous.sum()), len(continuous)))
    one, zero = ~continuous & (first > 0.5), ~continuous & (first < 0.5)
    masks = (np.broadcast_to(mask, directions.shape) for mask in (one, zero))
    vertices = np.concatenate([first[None], oracle.maximizers(directions, *masks)])
    mixed: FloatArray = rng.dirichlet(np.ones(len(vertices))) @ vertices
    mixed[~continuous] = first[~continuous]
    return mixed
