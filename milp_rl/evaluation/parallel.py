"""Playing several environments of a Gymnasium vector environment at once."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import pandas as pd
from gymnasium.vector import AutoresetMode

from milp_rl.evaluation.evaluate import MOST_STEPS


class BatchPolicy(Protocol):
    """Acts in several environments at once, such as :class:`milp_rl.dqn.DQNAgent`."""

    def predict(self, observation: Any) -> tuple[Any, Any]:
        """Return the actions for a batch of observations, and something else."""


def evaluate_parallel(
    env: gym.vector.VectorEnv[Any, Any, Any],
    policy: BatchPolicy,
    *,
    episodes: int = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Play episodes in all environments of a vector environment, one decision for all at a time.

    Each environment plays as many episodes, so that short ones count no more than long ones. All
    autoreset modes are taken; what is played in an environment after its last episode is left out.

    Parameters
    ----------
    env
        The vector environment; its episodes must end.
    policy
        What acts: an agent, or a model of Stable-Baselines3.
    episodes
        Episodes in all, at least 1, rounded up to a multiple of the number of environments.
    seed
        Of the first environment; the others' follow it. Their later episodes go on with the luck of
        their first.

    Returns
    -------
    pandas.DataFrame
        A row for each episode, in the order of environments: ``environment``, ``episode``,
        ``return`` (the sum of rewards), ``steps``.

    Raises
    ------
    ValueError
        If ``episodes`` is below 1, a reward is not finite, or an episode does not end.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    n = env.num_envs
    each = -(-episodes // n)
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    observation, _ = env.reset(seed=seed)
    total, steps = np.zeros(n), np.zeros(n, dtype=int)
    begins = np.zeros(n, dtype=bool)  # environments that this step resets, whatever is done
    played: list[list[tuple[float, int]]] = [[] for _ in range(n)]
    while min(map(len, played)) < each:
        action, _ = policy.predict(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards = np.asarray(reward, dtype=float)
        if not np.isfinite(rewards).all():
            worst = int(np.argmin(np.isfinite(rewards)))
            raise ValueError(f"the reward of environment {worst} is {rewards[worst]}")
        total += np.where(begins, 0.0, rewards)
        steps += ~begins
        if steps.max() > MOST_STEPS:
            raise ValueError(
                f"an episode of environment {int(steps.argmax())} has not ended after"
                f" {MOST_STEPS:,} steps: wrap the environments in gymnasium.wrappers.TimeLimit"
            )
        over = (np.asarray(terminated) | np.asarray(truncated)) & ~begins
        for i in np.flatnonzero(over).tolist():
            played[i].append((float(total[i]), int(steps[i])))
            total[i], steps[i] = 0.0, 0
        begins = over if mode == AutoresetMode.NEXT_STEP else np.zeros(n, dtype=bool)
        if mode == AutoresetMode.DISABLED and over.any():
            observation, _ = env.reset(options={"reset_mask": over})
    rows = [(i, k, *own[k]) for i, own in enumerate(played) for k in range(each)]
    return pd.DataFrame(rows, columns=["environment", "episode", "return", "steps"])
