"""or-gymnasium's multi-echelon inventory with lost sales (`InvManagement-v1`): integer orders."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import or_gymnasium  # noqa: F401  (registers its environments)
from numpy.typing import NDArray

import milp_rl as mr
from milp_rl.envs.spaces import FeasibleBox


class Inventory(gym.Env):
    """The environment with a feasible set: orders of three stages, 0 to what can be supplied."""

    def __init__(self) -> None:
        self.inner = gym.make("InvManagement-v1").unwrapped
        own = self.inner.action_space
        low, high = own.low.astype(float), own.high.astype(float)
        self.block = mr.Box(low, high, integer=range(len(low)))
        self.action_space = FeasibleBox(self.block)
        shape = self.inner.observation_space.shape
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, shape, np.float32)

    def action_space_block(self, state: Any) -> mr.Box:
        return self.block

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        state, info = self.inner.reset(seed=seed)
        return state.astype(np.float32), info

    def step(self, action: Any) -> Any:
        state, *rest = self.inner.step(np.asarray(action))
        return state.astype(np.float32), *rest


class Timed(gym.Wrapper):
    """The 30 periods as a problem of their own: their share that has passed is observed.

    The last one ends the episode. Profits are worth 3% less period by period, and what is ordered
    last is never sold.
    """

    def __init__(self) -> None:
        super().__init__(Inventory())
        shape = (self.env.observation_space.shape[0] + 1,)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, shape, np.float32)

    def action_space_block(self, state: Any) -> mr.Box:
        return self.unwrapped.block

    def reset(self, **given: Any) -> Any:
        state, info = self.env.reset(**given)
        return self._timed(state), info

    def step(self, action: Any) -> Any:
        state, reward, terminated, truncated, info = self.env.step(action)
        return self._timed(state), reward, terminated or truncated, False, info

    def _timed(self, state: NDArray[Any]) -> NDArray[Any]:
        inner = self.unwrapped.inner
        return np.append(state, np.float32(inner.period / inner.num_periods))


class MeanDemand:
    """Orders the mean demand at every stage."""

    def __init__(self, env: Any) -> None:
        inner = env.unwrapped.inner
        mean = inner.dist_param["mu"]
        self.order = np.minimum(np.full(inner.num_stages - 1, mean), inner.supply_capacity)

    def act(self, state: Any) -> NDArray[Any]:
        return self.order.astype(np.int64)
