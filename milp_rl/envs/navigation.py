r"""Navigation in many dimensions at once, with pits: an action is a set of directions.

The environment of Landers, Killian, Barnes, Hartvigsen and Doryab, "BraVE: Offline reinforcement
learning for discrete combinatorial action spaces" (NeurIPS 2025, arXiv 2410.21151), there called
CoNE, written afresh. The rules are those of its authors' published code; where pits lie and what
the logged decisions are is drawn in the same manner, not with the same numbers. What makes it hard
is that single directions say little: whether a step is good depends on all of them together.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.envs.arms import Arms
from milp_rl.envs.spaces import FeasibleActions
from milp_rl.envs.transitions import Transitions
from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box

GOAL_REWARD = 10.0
_PIT_FACTOR = 10.0
_TRIES = 1000


class CombinatorialNavigation(gym.Env[NDArray[np.float32], ActionArray]):
    r"""A grid in D dimensions from one corner to the other, around pits.

    Action Space
    ------------
    Binary, int8, shape (2 D,): for each dimension whether to go up, and whether to go down; both
    together, or neither, leave it as it is. All :math:`4^D` vectors are feasible.

    Observation Space
    -----------------
    ``Box(0, size - 1, (D,), float32)``: the cell.

    Rewards
    -------
    The negative Euclidean distance of the new cell to the goal; 10 at the goal; in a pit -10 times
    the distance of the start to the goal.

    Starting State
    --------------
    The corner of zeros; with ``reset(options={"state": cell})`` another cell.

    Episode End
    -----------
    Terminated at the goal, which is the opposite corner, and in a pit; truncated after
    ``horizon`` steps, 100 by default.

    Arguments
    ---------
    ```python
    gymnasium.make("milp_rl/CombinatorialNavigation-v0", dimensions=10, pits=5)
    ```

    Parameters
    ----------
    dimensions
        D, at least 1.
    size
        Cells in a dimension, at least 2.
    pits
        Number of pits, at least 0: the cell halfway to the goal, and cells next to it (one more or
        less in some dimensions) that are not on the border.
    horizon
        Steps per episode, at least 1.
    seed
        Seed of the pits.

    Attributes
    ----------
    goal
        The goal's cell, shape (D,).
    pits
        The pits' cells, shape (pits, D).

    Raises
    ------
    ValueError
        If a parameter is too small, or there are not as many cells for pits.

    Examples
    --------
    >>> env = CombinatorialNavigation(dimensions=3, pits=1)
    >>> state, _ = env.reset(seed=0)
    >>> env.step(np.array([1, 0, 1, 0, 0, 0], dtype=np.int8))[0]
    array([1., 1., 0.], dtype=float32)
    >>> env.pits
    array([[2, 2, 2]])
    """

    def __init__(
        self,
        dimensions: int = 10,
        size: int = 5,
        pits: int = 5,
        *,
        horizon: int = 100,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("dimensions", dimensions, 1),
            ("size", size, 2),
            ("pits", pits, 0),
            ("horizon", horizon, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.dimensions, self.size, self.horizon = dimensions, size, horizon
        self.goal = np.full(dimensions, size - 1)
        self.pits = _drawn_pits(dimensions, size, pits, np.random.default_rng([seed, 41]))
        self._pits = {cell.tobytes() for cell in self.pits}
        self._longest = float(np.linalg.norm(self.goal))
        self._block = Box(
            np.zeros(2 * dimensions), np.ones(2 * dimensions), binary=range(2 * dimensions)
        )
        self.action_space = FeasibleActions(self._block)
        self.observation_space = gym.spaces.Box(0.0, size - 1.0, (dimensions,), np.float32)
        self.arm_layout = Arms(dimensions, arm_features=1, arm_actions=2)
        self._cell = np.zeros(dimensions, dtype=np.int64)
        self._steps = 0

    def action_space_block(self, state: ArrayLike | None = None) -> ActionSpace:
        """Return the feasible set: every set of directions."""
        return self._block

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        if unknown := {*(options or {})} - {"state"}:
            raise ValueError(f"unknown reset options {sorted(unknown)}; known is 'state'")
        start = (options or {}).get("state", np.zeros(self.dimensions))
        cell = np.asarray(start)
        within = cell.shape == (self.dimensions,) and ((cell >= 0) & (cell < self.size)).all()
        if not within or (cell != np.rint(cell)).any() or self.ends(cell):
            raise ValueError(f"state must be a cell that is neither goal nor pit, got {start}")
        self._cell, self._steps = cell.astype(np.int64), 0
        return self._cell.astype(np.float32), {}

    def step(
        self, action: ActionArray
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Go one step."""
        a = self._block.check_action(action).astype(np.int64)
        self._cell = np.clip(self._cell + a[0::2] - a[1::2], 0, self.size - 1)
        self._steps += 1
        truncated = self._steps >= self.horizon
        cell = self._cell
        return cell.astype(np.float32), self._reward(cell), self.ends(cell), truncated, {}

    def ends(self, cell: ArrayLike) -> bool:
        """Whether a cell is the goal or a pit."""
        own = np.asarray(cell, dtype=np.int64)
        return bool((own == self.goal).all()) or own.tobytes() in self._pits

    def _reward(self, cell: NDArray[np.int64]) -> float:
        if cell.tobytes() in self._pits:
            return -_PIT_FACTOR * self._longest
        distance = float(np.linalg.norm(cell - self.goal))
        return -distance if distance else GOAL_REWARD

    def towards(self, cell: ArrayLike, other: ArrayLike) -> ActionArray:
        """Return the directions that lead to, or towards, another cell, shape (2 D,)."""
        step = np.sign(np.asarray(other, dtype=np.int64) - np.asarray(cell, dtype=np.int64))
        action = np.zeros(2 * self.dimensions, dtype=np.int8)
        action[0::2], action[1::2] = step > 0, step < 0
        return action


def log_navigation(
    env: CombinatorialNavigation,
    n: int,
    rng: np.random.Generator,
    *,
    suboptimal: float = 0.9,
    horizon: int = 1000,
) -> Transitions:
    """Log the decisions of one who mostly goes to any neighbouring cell, else straight to the goal.

    So are the logged decisions of the paper: with probability 0.9 a neighbouring cell (in all
    dimensions, at the border the cell itself included) is drawn uniformly; else the step is that
    of A* with a distance that knows of no pits, which here goes straight.

    Parameters
    ----------
    env
        The environment.
    n
        Number of transitions, at least 1.
    rng
        Source of randomness.
    suboptimal
        Probability of a drawn step, in [0, 1].
    horizon
        Steps after which an episode that has not ended begins again.
    """
    if n < 1 or not 0 <= suboptimal <= 1:
        raise ValueError(f"n must be at least 1 and suboptimal in [0, 1], got {n}, {suboptimal}")
    d = env.dimensions
    states, following = np.zeros((n, d)), np.zeros((n, d))
    actions, rewards, ends = np.zeros((n, 2 * d)), np.zeros(n), np.zeros(n, dtype=bool)
    cell, steps = np.zeros(d, dtype=np.int64), 0
    for i in range(n):
        other = env.goal
        if rng.random() < suboptimal:
            other = np.clip(cell + _drawn_offset(d, rng), 0, env.size - 1)
        actions[i] = env.towards(cell, other)
        states[i] = cell
        cell = np.clip(cell + np.sign(other - cell), 0, env.size - 1)
        following[i], rewards[i], ends[i] = cell, env._reward(cell), env.ends(cell)
        steps += 1
        if ends[i] or steps == horizon:
            cell, steps = np.zeros(d, dtype=np.int64), 0
    return Transitions(states, actions, rewards, following, ends)


def _drawn_offset(dimensions: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return one of the offsets of neighbours, not all zero."""
    while True:
        offset = rng.integers(-1, 2, dimensions)
        if offset.any():
            return offset


def _drawn_pits(
    dimensions: int, size: int, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return distinct cells around the one halfway to the goal, that one first."""
    centre = np.full(dimensions, min(max(1, (size - 1) // 2), size - 2))
    found: dict[bytes, NDArray[np.int64]] = {}
    if count:
        if size < 3:
            raise ValueError(f"pits need a size of at least 3, got {size}")
        found[centre.tobytes()] = centre
    for _ in range(_TRIES * count):
        if len(found) == count:
            break
        cell = centre + _drawn_offset(dimensions, rng)
        if ((cell > 0) & (cell < size - 1)).all():
            found.setdefault(cell.tobytes(), cell)
    if len(found) < count:
        raise ValueError(f"there are only {len(found)} cells for {count} pits")
    return np.array(list(found.values()), dtype=np.int64).reshape(count, dimensions)
