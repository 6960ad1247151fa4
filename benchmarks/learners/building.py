"""Feasible actions for learners that know nothing of feasible sets: built one item at a time."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.heuristics.scores import by_scores


class SamplesOnly(gym.Env):
    """An environment without its model, so that all learners see the same: states and rewards."""

    def __init__(self, env: gym.Env) -> None:
        self.inner = env
        self.observation_space, self.action_space = env.observation_space, env.action_space
        if hasattr(env.unwrapped, "arm_layout"):
            self.arm_layout = env.unwrapped.arm_layout

    def action_space_block(self, state: Any) -> ActionSpace:
        return self.inner.get_wrapper_attr("action_space_block")(state)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.inner.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        return self.inner.step(action)


class Projected(gym.Env):
    """An environment whose actions any vector of scores is turned into, by :func:`by_scores`.

    With ``bits`` the learner chooses a bit for each item; those chosen are taken in a random order
    while they fit. Otherwise, and where variables are not binary, it gives each a score in [-1, 1].
    """

    def __init__(self, env: gym.Env, *, bits: bool, seed: int = 0) -> None:
        self.inner = env
        self.bits = bits and isinstance(env.action_space, gym.spaces.MultiBinary)
        n = env.action_space.shape[0]
        self.observation_space = env.observation_space
        if self.bits:
            self.action_space = gym.spaces.MultiBinary(n)
        else:
            self.action_space = gym.spaces.Box(-1.0, 1.0, (n,), np.float32)
        self._order = np.random.default_rng(seed)
        self._state: Any = None

    def feasible(self, state: Any, action: NDArray[Any]) -> NDArray[Any]:
        scores = np.asarray(action, dtype=np.float64)
        if self.bits:
            luck = self._order.random(len(scores))
            scores = np.where(scores > 0.5, luck, -luck)
        return by_scores(self.inner.get_wrapper_attr("action_space_block")(state), scores)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._state, info = self.inner.reset(seed=seed, options=options)
        return self._state, info

    def step(self, action: Any) -> Any:
        self._state, *rest = self.inner.step(self.feasible(self._state, action))
        return self._state, *rest


class OneAtATime(gym.Env):
    """An environment whose actions are built one item, or one variable, at a time.

    Observed are the state and what is built so far. For binary actions, 0..n-1 adds an item and n
    stops; otherwise each step sets the next variable to its lowest value plus the action. What is
    allowed is in :meth:`action_masks`. The reward is that of the environment, in the last step of
    a build.
    """

    def __init__(self, env: gym.Env) -> None:
        self.inner = env
        self.steps = 0
        """Steps of the environment, which may have taken many builds' steps each."""
        state, _ = env.reset(seed=0)
        self.build = Build(env.get_wrapper_attr("action_space_block")(state))
        low, high = env.observation_space.low, env.observation_space.high
        n = len(self.build.observed)
        self.observation_space = gym.spaces.Box(
            np.append(low.astype(np.float32), np.zeros(n, np.float32)),
            np.append(high.astype(np.float32), np.ones(n, np.float32)),
            dtype=np.float32,
        )
        self.action_space = gym.spaces.Discrete(self.build.n_choices)
        self._begin(state)

    def action_masks(self) -> NDArray[np.bool_]:
        return self.build.allowed()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        state, info = self.inner.reset(seed=seed, options=options)
        return self._begin(state), info

    def step(self, action: Any) -> Any:
        self.build.choose(int(action))
        if not self.build.done:
            return self._observed(), 0.0, False, False, {}
        state, reward, terminated, truncated, info = self.inner.step(self.build.action)
        self.steps += 1
        return self._begin(state), float(reward), terminated, truncated, info

    def _begin(self, state: Any) -> NDArray[np.float32]:
        self._state = np.asarray(state, dtype=np.float32)
        self.build = Build(self.inner.get_wrapper_attr("action_space_block")(state))
        return self._observed()

    def _observed(self) -> NDArray[np.float32]:
        return np.append(self._state, self.build.observed).astype(np.float32)


class Build:
    """An action that is being built."""

    def __init__(self, space: ActionSpace) -> None:
        self.space, self.set = space, 0
        self.action = space.lower.astype(space.dtype)
        self.done = False
        self._allowed: NDArray[np.bool_] | None = None
        self._levels = np.rint(space.upper - space.lower).astype(int) + 1
        self.n_choices = space.n_actions + 1 if space.binary else int(self._levels.max())

    @property
    def observed(self) -> NDArray[Any]:
        """Return the action so far, in [0, 1], and, where variables are set in turn, which is."""
        share = (self.action - self.space.lower) / np.maximum(self._levels - 1, 1)
        if self.space.binary:
            return share
        return np.append(share, np.arange(self.space.n_actions) == self.set)

    def allowed(self) -> NDArray[np.bool_]:
        """Return which choices leave an action that can be made feasible."""
        if self._allowed is None:
            self._allowed = np.zeros(self.n_choices, dtype=bool)
            if self.space.binary:
                self._allowed[self.space.extensions(self.action)] = True
                self._allowed[-1] = not self.space.violations(self.action)
            else:
                self._allowed[: self._levels[self.set]] = True
        return self._allowed

    def choose(self, choice: int) -> None:
        if not self.allowed()[choice]:
            raise ValueError(f"choice {choice} is not allowed")
        self._allowed = None
        if not self.space.binary:
            self.action[self.set] += choice
            self.set += 1
            self.done = self.set == self.space.n_actions
            return
        if choice == self.space.n_actions:
            self.done = True
            return
        self.action[choice] = 1
        self.done = not self.allowed()[:-1].any()
