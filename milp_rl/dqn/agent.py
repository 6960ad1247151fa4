"""SEQUOIA: deep Q-learning with exact argmaxes over a combinatorial action set.

Xu, Wilder, Khalil and Tambe, "Reinforcement learning with combinatorial actions for coupled
restless bandits", ICLR 2025 (arXiv 2503.01919), section 4, in three phases: (1) the Q-network is
pretrained on one-step expected rewards; (2) actions are epsilon-greedy, the greedy one the exact
maximiser of the Q-network over the feasible set, found by a mixed-integer program; (3) the
updates' targets contain such maximisers too (:mod:`milp_rl.dqn.learner`). Read on from
:meth:`DQNAgent.train`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from milp_rl.dqn import checkpoint as checkpoints
from milp_rl.dqn.callbacks import Callback
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.learner import QLearner, inputs_of
from milp_rl.dqn.pretraining import ModelledEnv, one_step_data
from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.network import check_vector
from milp_rl.qnetwork import QNetwork

StateArray = NDArray[np.float32]
Steps = deque[tuple[StateArray, ActionArray, float]]


@dataclass
class RunningEpisode:
    """What a checkpoint in the middle of an episode must hold.

    The environment itself is not stored: it is reset with the episode's seed and given the same
    actions again, which works for every environment that its seed makes reproducible.
    """

    actions: list[list[int]] = field(default_factory=list)
    reward: float = 0.0
    loss: float = 0.0
    updates: int = 0
    seconds: float = 0.0


class DQNAgent:
    """A Q-network on [action, state] and its training.

    Episodes of these environments are truncated at a horizon that the state does not show, not
    terminated: targets therefore bootstrap through truncation (Pardo et al., ICML 2018), and only
    a ``terminated`` transition has none.

    Parameters
    ----------
    env
        A Gymnasium environment with vector observations and, on ``env.unwrapped``,
        ``action_space_block(state)`` giving one feasible set for all states. Pretraining also
        needs what :class:`milp_rl.dqn.pretraining.ModelledEnv` lists. Resetting it with a seed
        must make what follows reproducible.
    config
        Parameters; without, the defaults.
    seed
        Seed of weights, exploration, replay and episodes, at least 0.

    Attributes
    ----------
    epoch, episode, step
        Pretraining epochs, episodes and steps done.
    pretrain_seconds
        Wall-clock time of the pretraining epochs.
    history
        A row for each episode: mean reward, loss, argmaxes solved so far, seconds.

    Raises
    ------
    ValueError
        If environment and configuration do not fit.
    """

    def __init__(
        self, env: gym.Env[Any, Any], config: DQNConfig | None = None, *, seed: int = 0
    ) -> None:
        self.env = env
        self.config = DQNConfig() if config is None else config
        self.seed = seed
        self.space, state_dim = _checked_env(env, self.config)
        self.learner = QLearner(state_dim, self.space, self.config, seed)
        self.rng = np.random.default_rng(seed)
        self.epoch = self.episode = self.step = 0
        self.pretrain_seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.running = RunningEpisode()
        self._callbacks: Sequence[Callback] = ()
        self._checkpoint: Path | None = None
        self._checkpoint_every = 1

    @property
    def network(self) -> QNetwork:
        """The Q-network."""
        return self.learner.network

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the feasible action of highest Q-value, proven so unless ``argmax="greedy"``.

        Parameters
        ----------
        state
            Shape (state_dim,), finite.

        Returns
        -------
        numpy.ndarray
            Shape (n_actions,), int8.
        """
        s = check_vector(state, "state").astype(np.float32)
        return np.asarray(self.learner.greedy.actions(s[None])[0])

    def train(
        self,
        callbacks: Sequence[Callback] = (),
        *,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 100,
    ) -> DQNAgent:
        """Train up to ``config.episodes`` episodes, on from where the agent, or its file, is.

        Parameters
        ----------
        callbacks
            Observers, called in order.
        checkpoint
            A file to write everything to. If it exists, training goes on from it: a run killed
            at any moment and started again ends with the same weights to the last bit.
        checkpoint_every
            Steps (in pretraining: epochs) between checkpoints; one more is written at the end.

        Returns
        -------
        DQNAgent
            The agent itself.

        Raises
        ------
        ValueError
            If the checkpoint is damaged, or of another configuration, seed or action space.
        """
        if checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
        self._callbacks = tuple(callbacks)
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self._checkpoint_every = checkpoint_every
        if self._checkpoint is not None and self._checkpoint.exists():
            checkpoints.restore(self, self._checkpoint)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # these networks are too small to share among threads
        try:
            for callback in self._callbacks:
                callback.on_train_begin(self)
            self._pretrain()
            while self.episode < self.config.episodes:
                self._play_episode()
            if self._checkpoint is not None:
                self.save(self._checkpoint)
        finally:
            torch.set_num_threads(threads)
            for callback in self._callbacks:
                callback.on_train_end(self)
        return self

    def use(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over weights, the ``state_dict()`` of a network of the same shape."""
        self.network.load_state_dict(weights)
        self.learner.greedy.renew()

    def save(self, path: str | Path) -> None:
        """Write weights, replay, random states and counters; the file appears whole or not."""
        checkpoints.save(self, path)

    @classmethod
    def load(cls, path: str | Path, env: gym.Env[Any, Any]) -> DQNAgent:
        """Read an agent written by :meth:`save` or :meth:`train`; it can act, or train on.

        Parameters
        ----------
        path
            The file. It is read as data only: no code in it is run.
        env
            An environment like the one it was trained on.

        Raises
        ------
        ValueError
            If the file is damaged, or the environment's action space is another.
        """
        config, seed = checkpoints.read_setup(path)
        agent = cls(env, config, seed=seed)
        checkpoints.restore(agent, path)
        return agent

    def _pretrain(self) -> None:
        """Fit one-step expected rewards, then put some of the data into the replay buffer."""
        c, model = self.config, self.env.unwrapped
        if self.epoch >= c.pretrain_epochs:
            return
        assert isinstance(model, ModelledEnv)
        rng = np.random.default_rng([self.seed, 1])  # its own, so that resuming rebuilds the data
        states, actions, rewards, feasible = one_step_data(
            model, self.space, rng, c.pretrain_states, c.pretrain_actions
        )
        inputs, wanted = inputs_of(actions, states), torch.from_numpy(rewards)
        if self.epoch == 0:
            self.learner.shift_level(float(wanted.mean()))
        while self.epoch < c.pretrain_epochs:
            started = time.perf_counter()
            rate = c.pretrain_learning_rate * c.pretrain_learning_rate_decay**self.epoch
            order = torch.from_numpy(self.rng.permutation(len(wanted)))
            losses = [
                self.learner.fit(inputs[rows], wanted[rows], rate)
                for rows in torch.split(order, c.pretrain_batch_size)
            ]
            self.epoch += 1
            done = self.epoch == c.pretrain_epochs
            if done:
                rows = np.arange(len(wanted))[feasible]
                drawn = rng.choice(rows, min(c.pretrain_replay, len(rows)), replace=False)
                s, a, r = states[drawn], actions[drawn], rewards[drawn]
                next_states = model.sample_next(s, a, rng)
                bootstrap = np.full(len(drawn), c.discount)
                self.learner.replay.add(s, a, r, next_states, bootstrap)
                self.learner.begin()
            self.pretrain_seconds += time.perf_counter() - started
            for callback in self._callbacks:
                callback.on_pretrain_epoch(self, float(np.mean(losses)))
            if done or self.epoch % self._checkpoint_every == 0:
                self._save_checkpoint()

    def _play_episode(self) -> None:
        """Play one episode, with updates after every step."""
        c, learner, running = self.config, self.learner, self.running
        rate = c.learning_rate * c.learning_rate_decay**self.episode
        state, recent = self._begin_episode()
        done = False
        while not done:
            started = time.perf_counter()
            action = self._explore(state)
            observed, sampled, terminated, truncated, _ = self.env.step(action)
            next_state = np.asarray(observed, dtype=np.float32)
            reward = self._reward(state, action, sampled)
            done = terminated or truncated
            recent.append((state, action, reward))
            self._remember(recent, next_state, terminated, done)
            running.actions.append(action.tolist())
            running.reward += reward
            self.step += 1
            if len(learner.replay) >= c.batch_size:
                for _ in range(c.updates_per_step):
                    running.loss += learner.update(self.rng, rate, self.gap)
                    running.updates += 1
                learner.update_target(self.step, self.rng, self.gap)
            state = next_state
            running.seconds += time.perf_counter() - started
            if done:
                self._end_episode()
            for callback in self._callbacks:
                callback.on_step(self)
            if self.step % self._checkpoint_every == 0:
                self._save_checkpoint()

    def _begin_episode(self) -> tuple[StateArray, Steps]:
        """Reset the environment; if the episode was interrupted, play its actions again.

        Returns the state, and the last steps that are not yet in the replay buffer.
        """
        sequence = np.random.SeedSequence([self.seed, self.episode])
        observed, _ = self.env.reset(seed=int(sequence.generate_state(1)[0]))
        state = np.asarray(observed, dtype=np.float32)
        recent: Steps = deque(maxlen=self.config.n_step - 1)
        for played in self.running.actions:
            action = np.array(played, dtype=np.int8)
            observed, sampled, *_ = self.env.step(action)
            recent.append((state, action, self._reward(state, action, sampled)))
            state = np.asarray(observed, dtype=np.float32)
        return state, deque(recent)

    def _remember(
        self, recent: Steps, next_state: StateArray, terminated: bool, done: bool
    ) -> None:
        """Put the n-step transition that ``next_state`` completes into the replay buffer.

        At the end of an episode, the shorter ones that begin at the last steps too.
        """
        c = self.config
        while recent and (done or len(recent) == c.n_step):
            total = sum(c.discount**i * reward for i, (_, _, reward) in enumerate(recent))
            bootstrap = 0.0 if terminated else c.discount ** len(recent)
            state, action, _ = recent.popleft()
            self.learner.replay.add(
                state[None], action[None], [total], next_state[None], [bootstrap]
            )

    def _end_episode(self) -> None:
        running, learner = self.running, self.learner
        row = {
            "episode": self.episode,
            "steps": len(running.actions),
            "reward": running.reward / len(running.actions),
            "epsilon": self.epsilon,
            "loss": running.loss / max(running.updates, 1),
            "greedy_solves": learner.greedy.solves,
            "target_lookups": learner.target_greedy.lookups,
            "target_solves": learner.target_greedy.solves,
            "argmax_seconds": learner.greedy.seconds + learner.target_greedy.seconds,
            "seconds": running.seconds,
        }
        self.history.append(row)
        self.episode += 1
        self.running = RunningEpisode()
        for callback in self._callbacks:
            callback.on_episode_end(self, row)

    def _explore(self, state: StateArray) -> ActionArray:
        """Choose the greedy action, or with probability epsilon a random maximal one."""
        if self.rng.random() < self.epsilon:
            return np.asarray(self.space.sample(self.rng, 1, maximal=True)[0])
        return np.asarray(self.learner.greedy.actions(state[None], self.gap)[0])

    def _reward(self, state: StateArray, action: ActionArray, sampled: Any) -> float:
        expected = getattr(self.env.unwrapped, "expected_reward", None)
        if self.config.expected_rewards and expected is not None:
            return float(expected(state, action))
        return float(sampled)

    @property
    def epsilon(self) -> float:
        """Probability of a random action in the next step."""
        c = self.config
        decayed = math.exp(-self.step / c.epsilon_decay)
        return c.epsilon_end + (c.epsilon_start - c.epsilon_end) * decayed

    @property
    def gap(self) -> float:
        """Relative gap of the argmaxes of the running episode."""
        c = self.config
        early = c.early_gap is not None and 2 * self.episode < c.episodes
        return float(c.early_gap if early and c.early_gap is not None else c.gap)

    def _save_checkpoint(self) -> None:
        if self._checkpoint is not None:
            self.save(self._checkpoint)


def _checked_env(env: gym.Env[Any, Any], config: DQNConfig) -> tuple[ActionSpace, int]:
    """Return the action space and the length of a state."""
    shape = env.observation_space.shape
    if shape is None or len(shape) != 1:
        raise ValueError(f"observations must be vectors, this environment's have shape {shape}")
    block = getattr(env.unwrapped, "action_space_block", None)
    if block is None:
        raise ValueError("the environment has no action_space_block(state), its feasible set")
    if config.pretrain_epochs and not isinstance(env.unwrapped, ModelledEnv):
        raise ValueError(
            "pretraining needs expected_reward, sample_next and informative_states on the"
            " environment; set pretrain_epochs=0 to train without"
        )
    state, _ = env.reset(seed=0)
    return block(state), shape[0]
