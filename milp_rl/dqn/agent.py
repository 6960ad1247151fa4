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
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from milp_rl.dqn import checkpoint as checkpoints
from milp_rl.dqn.callbacks import Callback
from milp_rl.dqn.checks import checked_env, finite_reward, finite_state
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.learner import QLearner, chooser_of
from milp_rl.dqn.pretraining import ModelledEnv, check_model_rows, one_step_data
from milp_rl.envs.transitions import Transitions, collect_transitions
from milp_rl.formulations.arrays import ActionArray, check_vector
from milp_rl.qnetwork import ActionValue, QNetwork

StateArray = NDArray[np.float32]
Steps = deque[tuple[StateArray, ActionArray, float]]
Columns = tuple[NDArray[Any], ...]


@dataclass
class RunningEpisode:
    """What a checkpoint in the middle of an episode must hold.

    The environment itself is not stored: it is reset with the episode's seed and given the same
    actions again, which works for every environment that its seed makes reproducible.
    """

    actions: list[list[float]] = field(default_factory=list)
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
        A Gymnasium environment with vector observations, a ``MultiBinary`` or ``Box`` action space
        and, on ``env.unwrapped``, ``action_space_block(state)`` giving one feasible set for all
        states: it is compared with the first in every state that is played or learnt from.
        Pretraining also needs what :class:`milp_rl.dqn.pretraining.ModelledEnv` lists. Resetting
        it with a seed must make what follows reproducible.
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
        If environment and configuration do not fit; while training, if an observation or a reward
        is not finite or the feasible set is another in some state.
    """

    config_class: ClassVar[type[DQNConfig]] = DQNConfig

    def __init__(
        self, env: gym.Env[Any, Any], config: DQNConfig | None = None, *, seed: int = 0
    ) -> None:
        self.env = env
        self.config = self.config_class() if config is None else config
        self.seed = seed
        self._feasible, self.state_dim = checked_env(env, self.config, type(self).__name__)
        self.space = self._feasible.space
        self.learner = self._new_learner()
        self.rng = np.random.default_rng(seed)
        self.epoch = self.episode = self.step = 0
        self.pretrain_seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.running = RunningEpisode()
        self._callbacks: Sequence[Callback] = ()
        self._checkpoint: Path | None = None
        self._checkpoint_every = 1

    def _new_learner(self) -> QLearner:
        c, generator = self.config, torch.Generator().manual_seed(self.seed)
        network = QNetwork(self.state_dim, self.space.n_actions, c.hidden, generator=generator)
        return QLearner(network, self.space, c, chooser_of(self.space, c))

    @property
    def network(self) -> ActionValue:
        """The Q-network."""
        return self.learner.network

    @property
    def setup(self) -> dict[str, Any]:
        """What a checkpoint's run must have in common with this one: plain values."""
        return {**asdict(self.config), "seed": self.seed, "action space": self.space.to_dict()}

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the feasible action of highest Q-value, proven so unless ``argmax="greedy"``.

        Parameters
        ----------
        state
            Shape (state_dim,), finite.

        Returns
        -------
        numpy.ndarray
            Shape (n_actions,), of the action space's dtype.

        Raises
        ------
        ValueError
            If the state is not finite, or the environment's feasible set is another there.
        """
        s = check_vector(state, "state").astype(np.float32)
        self._feasible.at(s)
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
    def load(cls, path: str | Path, env: gym.Env[Any, Any]) -> Self:
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
        agent = cls._from_setup(env, checkpoints.read_setup(path))
        checkpoints.restore(agent, path)
        return agent

    @classmethod
    def _from_setup(cls, env: gym.Env[Any, Any], setup: dict[str, Any]) -> Self:
        return cls(env, cls._config_of(setup), seed=setup["seed"])

    @classmethod
    def _config_of(cls, setup: dict[str, Any]) -> DQNConfig:
        return cls.config_class(**{f.name: setup[f.name] for f in fields(cls.config_class)})

    def _pretrain(self) -> None:
        """Fit one-step rewards, and put some of the data into the replay buffer."""
        c, learner = self.config, self.learner
        if self.epoch >= c.pretrain_epochs and (self.step or len(learner.replay)):
            return
        if not (c.pretrain_epochs or c.random_steps):
            return
        data, replayed = self._one_step_data()
        states, actions, wanted = (torch.from_numpy(column) for column in data)
        if self.epoch == 0 and c.pretrain_epochs:
            learner.shift_level(float(wanted.mean()))
        while self.epoch < c.pretrain_epochs:
            started = time.perf_counter()
            rate = c.pretrain_learning_rate * c.pretrain_learning_rate_decay**self.epoch
            order = torch.from_numpy(self.rng.permutation(len(wanted)))
            losses = [
                learner.fit(states[rows], actions[rows], wanted[rows], rate, self.rng)
                for rows in torch.split(order, c.pretrain_batch_size)
            ]
            self.epoch += 1
            done = self.epoch == c.pretrain_epochs
            if done:
                learner.replay.add(*replayed)
            self.pretrain_seconds += time.perf_counter() - started
            for callback in self._callbacks:
                callback.on_pretrain_epoch(self, float(np.mean(losses)))
            if not done and self.epoch % self._checkpoint_every == 0:
                self._save_checkpoint()
        if not c.pretrain_epochs:
            learner.replay.add(*replayed)
        learner.begin()
        self._save_checkpoint()

    def _one_step_data(self) -> tuple[Columns, Columns]:
        """Return states, actions and rewards to fit, and transitions for the replay buffer.

        Drawn with a generator of its own, so that a resumed run has the same. From random steps in
        the environment if the configuration asks for them, otherwise from its model.
        """
        c = self.config
        if c.random_steps:
            played = self.random_play
            rows = [played.states, played.actions, played.rewards, played.next_states]
            with np.errstate(over="ignore"):
                s, a, r, following = (row.astype(np.float32) for row in rows)
            check_model_rows("a random step", np.column_stack([r, following]), ("state", s))
            bootstrap = c.discount * ~np.asarray(played.terminated)
            return (s, a, r), (s, a, r, following, bootstrap)
        model, rng = self.env.unwrapped, np.random.default_rng([self.seed, 1])
        assert isinstance(model, ModelledEnv)
        states, actions, rewards, feasible = one_step_data(
            model, self.space, rng, c.pretrain_states, c.pretrain_actions
        )
        self._feasible.check_all(np.unique(states, axis=0))
        rows_feasible = np.arange(len(rewards))[feasible]
        drawn = rng.choice(rows_feasible, min(c.pretrain_replay, len(rows_feasible)), replace=False)
        s, a, r = states[drawn], actions[drawn], rewards[drawn]
        following = model.sample_next(s, a, rng)
        check_model_rows("sample_next", following, ("state", s), ("action", a))
        self._feasible.check_all(following)
        return (states, actions, rewards), (s, a, r, following, np.full(len(drawn), c.discount))

    @cached_property
    def random_play(self) -> Transitions:
        """Return the ``random_steps`` transitions that training begins with."""
        c, rng = self.config, np.random.default_rng([self.seed, 2])
        return collect_transitions(
            self.env,
            c.random_steps,
            rng,
            expected_rewards=self._rewards_expected,
            feasible=self._feasible.at,
        )

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
            next_state = finite_state(observed, self.state_dim, f"after {self._moment}")
            if not terminated:  # in the end nothing is chosen
                self._feasible.at(observed)
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
        when = f"after the reset of episode {self.episode}"
        state = finite_state(observed, self.state_dim, when)
        self._feasible.at(observed)
        recent: Steps = deque(maxlen=self.config.n_step - 1)
        for played in self.running.actions:
            action: ActionArray = np.asarray(played).astype(self.space.dtype)
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
        if self._rewards_expected:
            model: Any = self.env.unwrapped
            sampled = model.expected_reward(state, action)
        return finite_reward(sampled, f"of {self._moment}")

    @property
    def _moment(self) -> str:
        return f"step {len(self.running.actions)} of episode {self.episode}"

    @property
    def _rewards_expected(self) -> bool:
        return self.config.expected_rewards and hasattr(self.env.unwrapped, "expected_reward")

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
        gap = c.gap
        if c.early_gap is not None and 2 * self.episode < c.episodes:
            gap = c.early_gap
        if c.dynamic_tolerance is not None and self.learner.mean_value > 0:
            relative_error = self.learner.mean_error / self.learner.mean_value
            decay = c.dynamic_tolerance_decay**self.episode
            tolerance = c.dynamic_tolerance * relative_error * decay
            if tolerance > 0:  # in powers of two, since a smaller gap makes known answers useless
                gap = max(gap, 2.0 ** math.floor(math.log2(tolerance)))
        return float(gap)

    def _save_checkpoint(self) -> None:
        if self._checkpoint is not None:
            self.save(self._checkpoint)
