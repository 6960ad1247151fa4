"""Playing an environment: its numbers are checked, and interrupted episodes are resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from milp_rl.dqn.checks import finite_reward, finite_state
from milp_rl.dqn.replay import Step
from milp_rl.envs.fixed_set import FixedSet
from milp_rl.envs.known_model import StateArray, model_of
from milp_rl.formulations.arrays import ActionArray


@dataclass
class RunningEpisode:
    """What a checkpoint in the middle of an episode must hold.

    The environment itself is not stored: it is reset with the episode's seed and given the same
    actions again, which works for every environment that its seed makes reproducible.
    """

    actions: list[list[float]] = field(default_factory=list)
    """The actions played so far."""

    reward: float = 0.0
    """Sum of the rewards so far."""

    loss: float = 0.0
    """Sum of the losses of its updates."""

    updates: int = 0
    """Updates so far."""

    seconds: float = 0.0
    """Wall-clock time of its steps, with their updates."""


class EpisodePlayer:
    """Plays the episodes of an environment, one after the other.

    Parameters
    ----------
    env
        The environment.
    feasible
        Its feasible sets, which are asked for in every state that is met.
    state_dim
        Length of a state.
    expected_rewards
        Take ``env.expected_reward`` for the reward, where it exists, rather than a sample.
    """

    def __init__(
        self, env: gym.Env[Any, Any], feasible: FixedSet, state_dim: int, *, expected_rewards: bool
    ) -> None:
        self._env = env
        self._feasible = feasible
        self._state_dim = state_dim
        self.rewards_expected = expected_rewards and hasattr(model_of(env), "expected_reward")
        self._episode = self._played = 0
        self._state: StateArray = np.zeros(state_dim, dtype=np.float32)

    def begin(self, episode: int, seed: int) -> StateArray:
        """Reset the environment for an episode; return the state it begins in."""
        sequence = np.random.SeedSequence([seed, episode])
        observed, _ = self._env.reset(seed=int(sequence.generate_state(1)[0]))
        self._state = finite_state(
            observed, self._state_dim, f"after the reset of episode {episode}"
        )
        self._feasible.at(observed)
        self._episode, self._played = episode, 0
        return self._state

    def repeat(self, actions: Sequence[Sequence[float]]) -> list[Step]:
        """Play the actions of an episode that was interrupted; return its steps."""
        dtype = self._feasible.space.dtype
        return [self.step(np.asarray(action).astype(dtype)) for action in actions]

    def step(self, action: ActionArray) -> Step:
        """Play an action.

        Raises
        ------
        ValueError
            If the observation or the reward is not finite, or the feasible set of the state that
            follows cannot be learnt with.
        """
        observed, sampled, terminated, truncated, _ = self._env.step(action)
        moment = f"step {self._played} of episode {self._episode}"
        state, next_state = self._state, finite_state(observed, self._state_dim, f"after {moment}")
        if not terminated:  # in the end nothing is chosen
            self._feasible.at(observed)
        if self.rewards_expected:
            sampled = model_of(self._env).expected_reward(state, action)
        reward = finite_reward(sampled, f"of {moment}")
        self._state = next_state
        self._played += 1
        return Step(state, action, reward, next_state, terminated, truncated)
