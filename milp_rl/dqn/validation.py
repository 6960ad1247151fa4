"""Playing validation episodes while training, and keeping the network that plays them best."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from milp_rl.dqn.agent import Callback, DQNAgent
from milp_rl.dqn.cached_argmax import CachedArgmax
from milp_rl.envs.fixed_set import FixedSet
from milp_rl.envs.known_model import KnownModelEnv
from milp_rl.envs.vector import ParallelEpisodes
from milp_rl.evaluation.evaluate import evaluate
from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.files import write_atomically

CURVE = "validation.csv"


class Validation(Callback):
    """Plays the same episodes with the greedy policy every few episodes of training.

    Writes the rewards to ``validation.csv`` and the weights of each network beside it, so that the
    best one can be used after training (:meth:`best`) and a resumed run ends with the same files.

    Parameters
    ----------
    env
        The environment; the state of a :class:`KnownModelEnv` plays no part, any other is played.
    folder
        Where to write; made if it does not exist.
    every
        Episodes of training between validations, at least 1; the last is always validated.
    episodes
        Validation episodes, at least 1.
    seed
        Seed of the first of them; the others' follow it.

    Raises
    ------
    ValueError
        If a number is below 1.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        folder: str | Path,
        *,
        every: int = 10,
        episodes: int = 50,
        seed: int = 1_000_000,
    ) -> None:
        if every < 1 or episodes < 1:
            raise ValueError(f"every and episodes must be at least 1, got {every} and {episodes}")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.every = every
        self.seed = seed
        self._env, self._count = env, episodes
        self._parallel: ParallelEpisodes | None = None
        if isinstance(env, KnownModelEnv):
            self._parallel = ParallelEpisodes(env, episodes, check_actions=False)
        self._rows: dict[int, float] = {}
        self._policy: CachedArgmax | None = None
        self._sets: FixedSet

    def on_train_begin(self, agent: DQNAgent) -> None:
        """Read what was written before the checkpoint that training goes on from."""
        path = self.folder / CURVE
        self._rows = {}
        if path.exists():
            # Before pandas 3.1, its own way to read numbers may change their last digit.
            written = pd.read_csv(path, converters={"reward": float})
            known = zip(written["episode"], written["reward"], strict=True)
            self._rows = {int(e): float(r) for e, r in known if e <= agent.episode}
        if not agent.config.pretrain_epochs and not agent.step:
            self._validate_if_due(agent)

    def on_pretrain_epoch(self, agent: DQNAgent, loss: float) -> None:
        """Validate the pretrained network."""
        if agent.epoch == agent.config.pretrain_epochs:
            self._validate_if_due(agent)

    def on_episode_end(self, agent: DQNAgent, record: dict[str, Any]) -> None:
        """Validate the network if it is due."""
        self._validate_if_due(agent)

    @property
    def rewards(self) -> dict[int, float]:
        """Validation rewards so far, by episode of training."""
        return dict(self._rows)

    def best(self) -> dict[str, Tensor]:
        """Return the weights of highest validation reward, the latest of equals.

        For :meth:`milp_rl.dqn.DQNAgent.use`.

        Raises
        ------
        ValueError
            If nothing was validated yet.
        """
        if not self._rows:
            raise ValueError("no network has been validated yet")
        episode = max(self._rows, key=lambda e: (self._rows[e], e))
        weights: dict[str, Tensor] = torch.load(self._weights_path(episode), weights_only=True)
        return weights

    def _validate_if_due(self, agent: DQNAgent) -> None:
        episode, last = agent.episode, agent.config.episodes
        if episode in self._rows or (episode % self.every and episode != last):
            return
        weights = io.BytesIO()
        torch.save(agent.network.state_dict(), weights)
        write_atomically(self._weights_path(episode), weights.getvalue())
        self._rows[episode] = self._play(agent)
        curve = pd.DataFrame(sorted(self._rows.items()), columns=["episode", "reward"])
        write_atomically(self.folder / CURVE, curve.to_csv(index=False).encode())

    def _play(self, agent: DQNAgent) -> float:
        """Return the mean reward per step, expected where the model is known."""
        if self._policy is None or self._policy.network is not agent.network:
            self._sets = copy.copy(agent._feasible)  # meets states that the agent does not
            self._policy = agent.learner.new_argmax(agent.network, self._sets)
        self._policy.renew()
        if self._parallel is None:
            seeds = range(self.seed, self.seed + self._count)
            policy = _Greedy(self._policy, self._sets)
            results = evaluate(self._env, {"of validation": policy}, seeds=seeds)
            return float(results["reward"].mean())
        episodes, env = self._parallel, self._parallel.env
        fits = agent.space == episodes.space
        states, _ = episodes.reset(seed=self.seed)
        rewards = []
        for _ in range(env.horizon):
            self._sets.check_all(states)
            episodes.check_actions = not fits or self._sets.varies
            actions = self._policy.actions(states)
            rewards.append(env.expected_reward(states, actions))
            states, *_ = episodes.step(actions)
        return float(np.mean(rewards))

    def _weights_path(self, episode: int) -> Path:
        return self.folder / f"episode-{episode:04d}.pt"


class _Greedy:
    """The policy of remembered argmaxes over the feasible set of each state."""

    def __init__(self, argmax: CachedArgmax, sets: FixedSet) -> None:
        self._argmax = argmax
        self._sets = sets

    def act(self, state: NDArray[np.float32]) -> ActionArray:
        self._sets.at(state)
        return np.asarray(self._argmax.actions(np.asarray(state, dtype=np.float32)[None])[0])
