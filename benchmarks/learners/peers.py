"""Stable-Baselines3's PPO, and sb3-contrib's MaskablePPO on actions built one item at a time.

Both with the libraries' defaults, observations and rewards normalised by running moments
(`VecNormalize`), except that an update follows every 500 steps of the environment instead of 2048,
so that 10,000 steps are 20 updates.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from .building import Build, OneAtATime, Projected

DISCOUNT = 0.99
BATCH = 500


class PPOPolicy:
    """PPO's most likely action, made feasible as in training."""

    def __init__(self, model: PPO, projected: Projected, moments: VecNormalize) -> None:
        self.model, self.projected, self.moments = model, projected, moments

    def act(self, state: Any) -> NDArray[Any]:
        action, _ = self.model.predict(self.moments.normalize_obs(state), deterministic=True)
        return self.projected.feasible(state, action)


def ppo(env: gym.Env, steps: int, seed: int, *, bits: bool) -> PPOPolicy:
    """Train PPO on bits, or scores, that are projected on the feasible set."""
    projected = Projected(env, bits=bits, seed=seed)
    moments = _normalised(projected, DISCOUNT)
    model = PPO("MlpPolicy", moments, n_steps=BATCH, batch_size=50, gamma=DISCOUNT, seed=seed)
    model.learn(steps)
    moments.training = False
    return PPOPolicy(model, projected, moments)


class MaskablePolicy:
    """MaskablePPO's most likely choices, one after the other."""

    def __init__(self, model: MaskablePPO, env: gym.Env, moments: VecNormalize) -> None:
        self.model, self.env, self.moments = model, env, moments

    def act(self, state: Any) -> NDArray[Any]:
        build = Build(self.env.get_wrapper_attr("action_space_block")(state))
        while not build.done:
            seen = np.append(np.asarray(state, np.float32), build.observed).astype(np.float32)
            choice, _ = self.model.predict(
                self.moments.normalize_obs(seen), deterministic=True, action_masks=build.allowed()
            )
            build.choose(int(choice))
        return build.action


class _Until(BaseCallback):
    """Stops after so many steps of the environment."""

    def __init__(self, env: OneAtATime, steps: int) -> None:
        super().__init__()
        self.env, self.most = env, steps

    def _on_step(self) -> bool:
        return self.env.steps < self.most


def maskable_ppo(env: gym.Env, steps: int, seed: int) -> MaskablePolicy:
    """Train MaskablePPO on choices of single items; only steps of the environment count.

    Rewards come with the last choice of an action. A choice is discounted by the root of the
    discount that makes a step of the environment count as for the others.
    """
    single = OneAtATime(env)
    per_step = _choices_per_step(OneAtATime(env), seed)
    discount = DISCOUNT ** (1.0 / per_step)
    moments = _normalised(single, discount)
    n_steps = 50 * round(BATCH * per_step / 50)
    model = MaskablePPO(
        "MlpPolicy", moments, n_steps=n_steps, batch_size=n_steps // 10, gamma=discount, seed=seed
    )
    single.steps = 0
    model.learn(10**9, callback=_Until(single, steps))
    moments.training = False
    return MaskablePolicy(model, env, moments)


def _choices_per_step(env: OneAtATime, seed: int, steps: int = 20) -> float:
    """Return how many choices a random action takes."""
    rng, choices = np.random.default_rng(seed), 0
    env.reset(seed=seed)
    env.steps = 0
    while env.steps < steps:
        *_, terminated, truncated, _ = env.step(rng.choice(np.flatnonzero(env.action_masks())))
        choices += 1
        if terminated or truncated:
            env.reset()
    return choices / steps


def _normalised(env: gym.Env, discount: float) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda: env]), gamma=discount)
