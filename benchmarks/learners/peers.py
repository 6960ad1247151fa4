"""Stable-Baselines3's PPO, and sb3-contrib's MaskablePPO on actions built one item at a time.

Both with the libraries' defaults, on 4 environments at once, with observations and rewards
normalised by running moments (`VecNormalize`), except that an update follows every 500 steps of the
environments together instead of 2048 of each, so that 10,000 steps are 20 updates. After training,
the policy plays 10 episodes by its most likely and 10 by drawn actions, and stays with the better.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from milp_rl.evaluation import evaluate

from .building import Build, OneAtATime, Projected

DISCOUNT = 0.99
BATCH = 500
COPIES = 4
TRIALS = range(2_000_000, 2_000_010)
"""Seeds of the episodes by which it is chosen how actions are taken."""


class PPOPolicy:
    """PPO's actions, made feasible as in training."""

    deterministic = True

    def __init__(self, model: PPO, projected: Projected, moments: VecNormalize) -> None:
        self.model, self.projected, self.moments = model, projected, moments

    def act(self, state: Any) -> NDArray[Any]:
        seen = self.moments.normalize_obs(state)
        action, _ = self.model.predict(seen, deterministic=self.deterministic)
        return self.projected.feasible(state, action)


def ppo(env: gym.Env, steps: int, seed: int, *, bits: bool) -> PPOPolicy:
    """Train PPO on bits, or scores, that are projected on the feasible set."""
    projected = [Projected(copy.deepcopy(env), bits=bits, seed=seed + i) for i in range(COPIES)]
    moments = _normalised(projected, DISCOUNT)
    model = PPO(
        "MlpPolicy", moments, n_steps=BATCH // COPIES, batch_size=50, gamma=DISCOUNT, seed=seed
    )
    model.learn(steps)
    moments.training = False
    return _better(env, PPOPolicy(model, projected[0], moments))


class MaskablePolicy:
    """MaskablePPO's choices, one after the other."""

    deterministic = True

    def __init__(self, model: MaskablePPO, env: gym.Env, moments: VecNormalize) -> None:
        self.model, self.moments = model, moments
        self.block = env.get_wrapper_attr("action_space_block")

    def act(self, state: Any) -> NDArray[Any]:
        build = Build(self.block(state))
        while not build.done:
            seen = np.append(np.asarray(state, np.float32), build.observed).astype(np.float32)
            choice, _ = self.model.predict(
                self.moments.normalize_obs(seen),
                deterministic=self.deterministic,
                action_masks=build.allowed(),
            )
            build.choose(int(choice))
        return build.action


class _Until(BaseCallback):
    """Stops after so many steps of the environments."""

    def __init__(self, envs: Sequence[OneAtATime], steps: int) -> None:
        super().__init__()
        self.envs, self.most = envs, steps

    def _on_step(self) -> bool:
        return sum(env.steps for env in self.envs) < self.most


def maskable_ppo(env: gym.Env, steps: int, seed: int) -> MaskablePolicy:
    """Train MaskablePPO on choices of single items; only steps of the environment count.

    Rewards come with the last choice of an action. A choice is discounted by the root of the
    discount that makes a step of the environment count as for the others.
    """
    singles = [OneAtATime(copy.deepcopy(env)) for _ in range(COPIES)]
    per_step = _choices_per_step(singles[0], seed)
    discount = DISCOUNT ** (1.0 / per_step)
    moments = _normalised(singles, discount)
    n_steps = 25 * round(BATCH * per_step / COPIES / 25)
    model = MaskablePPO(
        "MlpPolicy",
        moments,
        n_steps=n_steps,
        batch_size=n_steps * COPIES // 10,
        gamma=discount,
        seed=seed,
    )
    for single in singles:
        single.steps = 0
    model.learn(10**9, callback=_Until(singles, steps))
    moments.training = False
    return _better(env, MaskablePolicy(model, env, moments))


def _better(env: gym.Env, policy: Any) -> Any:
    """Let a policy take its most likely actions, or draw them, whichever earns more."""
    returns = []
    for policy.deterministic in (True, False):
        policy.model.set_random_seed(0)
        returns.append(evaluate(env, {"": policy}, seeds=TRIALS)["reward"].mean())
    policy.deterministic = bool(returns[0] >= returns[1])
    return policy


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


def _normalised(envs: Sequence[gym.Env], discount: float) -> VecNormalize:
    return VecNormalize(DummyVecEnv([lambda env=env: env for env in envs]), gamma=discount)
