"""SEQUOIA: deep Q-learning with exact argmaxes over a combinatorial action set.

Xu, Wilder, Khalil and Tambe, "Reinforcement learning with combinatorial actions for coupled
restless bandits", ICLR 2025 (arXiv 2503.01919), section 4, in three phases: (1) the Q-network is
pretrained on one-step expected rewards (:mod:`milp_rl.dqn.pretraining`); (2) actions are
epsilon-greedy, the greedy one the exact maximiser of the Q-network over the feasible set, found by
a mixed-integer program; (3) the updates' targets contain such maximisers too. Phases 2 and 3 are
the page :mod:`milp_rl.dqn.learner`; here is what surrounds it: the environment, the order of
things, observers and files. Read on from :meth:`DQNAgent.train`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from milp_rl.dqn.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from milp_rl.dqn.checks import checked_env
from milp_rl.dqn.choosers import chooser_of
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.episodes import EpisodePlayer, RunningEpisode
from milp_rl.dqn.learner import QLearner
from milp_rl.dqn.module_value import ModuleValue
from milp_rl.dqn.pretraining import ModelledEnv, PretrainingData, data_of_model, data_of_steps
from milp_rl.envs.feasible_sets import FeasibleSets
from milp_rl.envs.fixed_set import FixedSet
from milp_rl.envs.transitions import Transitions, collect_transitions
from milp_rl.formulations.arrays import ActionArray, check_vector
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.qnetwork import ActionValue, QNetwork

_COUNTERS = ("epoch", "episode", "step", "pretrain_seconds")


class Callback:
    """Methods called during :meth:`milp_rl.dqn.DQNAgent.train`; override what you need.

    They may look at the agent but must not change it.
    """

    def on_train_begin(self, agent: DQNAgent) -> None:
        """Be told that training begins, or goes on from a checkpoint."""

    def on_pretrain_epoch(self, agent: DQNAgent, loss: float) -> None:
        """Be told the mean loss of a pretraining epoch."""

    def on_step(self, agent: DQNAgent) -> None:
        """Be told that a step of the environment, with its updates, is done."""

    def on_episode_end(self, agent: DQNAgent, record: dict[str, Any]) -> None:
        """Be told the episode's row of ``agent.history``."""

    def on_train_end(self, agent: DQNAgent) -> None:
        """Be told that training has ended."""


class DQNAgent:
    """A Q-network on [action, state] and its training.

    >>> from milp_rl.dqn import DQNAgent, DQNConfig
    >>> from milp_rl.envs import make_bandit
    >>> env = make_bandit("budget", 6, 2, seed=0)  # at most 2 of 6 arms
    >>> agent = DQNAgent(env, DQNConfig(pretrain_epochs=2, episodes=2), seed=0).train()
    >>> state, _ = env.reset(seed=1)
    >>> agent.space.violations(agent.act(state))
    []

    Episodes of these environments are truncated at a horizon that the state does not show, not
    terminated: targets therefore bootstrap through truncation (Pardo et al., ICML 2018), and only
    a ``terminated`` transition has none.

    Parameters
    ----------
    env
        A Gymnasium environment with vector observations, a ``MultiBinary`` or ``Box`` action space
        and ``action_space_block(state)``, of its own or of a wrapper, giving the feasible set of a
        state, that is of an observation as the learner sees it. It may differ from state to state,
        over the same variables, but has to depend on the state alone, as it is asked for again when
        a remembered state is learnt from. Pretraining also needs what
        :class:`milp_rl.dqn.pretraining.ModelledEnv` lists. Resetting it with a seed must make what
        follows reproducible.
    config
        Parameters; by default those of the class.
    network
        A Q-network of your own, trained in place from the weights that it has, instead of a new
        :class:`~milp_rl.qnetwork.QNetwork` of ``config.hidden``: a torch module of (state, action)
        in either order, or of [action, state], as :class:`~milp_rl.dqn.ModuleValue` takes it; or a
        :class:`~milp_rl.qnetwork.ActionValue`.
    seed
        Seed of weights, exploration, replay and episodes, at least 0.

    Attributes
    ----------
    space
        The feasible set, of the first state if it differs from state to state.
    epoch, episode, step
        Pretraining epochs, episodes and steps done.
    pretrain_seconds
        Wall-clock time of the pretraining epochs.
    history
        A row per episode: mean reward, loss, argmaxes solved so far, seconds.

    Raises
    ------
    ValueError
        If environment, configuration and network do not fit; while training, if an observation or a
        reward is not finite, or the feasible set of a state has other variables or does not depend
        on the state alone.
    NetworkError
        If the network cannot be trained, or what follows the action is not piecewise linear.
    """

    config_class: ClassVar[type[DQNConfig]] = DQNConfig
    _kind_of_set: ClassVar[type[FixedSet]] = FeasibleSets

    def __init__(
        self,
        env: gym.Env[Any, Any],
        config: DQNConfig | None = None,
        *,
        network: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        self.env = env
        self.config = self.config_class() if config is None else config
        self.seed = seed
        self._feasible, self.state_dim = checked_env(
            env, self.config, type(self).__name__, self._kind_of_set
        )
        self.space = self._feasible.space
        self._player = EpisodePlayer(
            env, self._feasible, self.state_dim, expected_rewards=self.config.expected_rewards
        )
        self._own = None if network is None else self._own_network(network)
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
        c, network = self.config, self._own
        if network is None:
            generator = torch.Generator().manual_seed(self.seed)
            network = QNetwork(self.state_dim, self.space.n_actions, c.hidden, generator=generator)
        return QLearner(network, self._feasible, c, chooser_of(self.space, c))

    def _own_network(self, network: nn.Module) -> ActionValue:
        """Return a network that was given as what a learner trains."""
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"network must be a torch module, which can be trained, got"
                f" {type(network).__name__}; QNetwork.from_onnx reads chains of ReLU layers"
            )
        sizes = self.state_dim, self.space.n_actions
        if not isinstance(network, ActionValue):
            return ModuleValue(network, *sizes)
        if (network.state_dim, network.action_dim) != sizes:
            raise ValueError(
                f"the network takes {network.state_dim} state features and {network.action_dim}"
                f" actions, the environment has {sizes[0]} and {sizes[1]}"
            )
        return network

    @property
    def network(self) -> ActionValue:
        """The Q-network."""
        return self.learner.network

    @property
    def setup(self) -> dict[str, Any]:
        """What a checkpoint's run must have in common with this one, beside the parameters."""
        setup: dict[str, Any] = {"seed": self.seed, "action space": self.space.to_dict()}
        if self._own is not None:
            weights = self._own.state_dict().items()
            setup["network"] = [[name, list(value.shape)] for name, value in weights]
        return setup

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the feasible action of highest Q-value, proven so with ``argmax="exact"``.

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
            If the state is not finite, or the environment's feasible set there is not one that
            was trained for.
        """
        s = check_vector(state, "state").astype(np.float32)
        self._feasible.at(s)
        return np.asarray(self.learner.greedy.actions(s[None])[0])

    def action_space_block(self, state: ArrayLike) -> ActionSpace:
        """Return the feasible set that :meth:`act` keeps to in a state: its environment's."""
        return self._feasible.at(check_vector(state, "state").astype(np.float32))

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
            at any moment and started again ends with the same weights to the last bit; one that is
            over goes on if ``config.episodes`` is larger now, and ends as if it had been from the
            start (not with ``early_gap``, which goes by the number of episodes).
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
            self._restore(self._checkpoint, read_checkpoint(self._checkpoint, type(self.config)))
            if self.episode > self.config.episodes:
                raise ValueError(
                    f"{checkpoint}: {self.episode} episodes were played, more than"
                    f" episodes={self.config.episodes}"
                )
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

    def _pretrain(self) -> None:
        """Fit one-step rewards, and put some of the data into the replay buffer."""
        c, learner = self.config, self.learner
        if self.epoch >= c.pretrain_epochs and (self.step or len(learner.replay)):
            return
        if not (c.pretrain_epochs or c.random_steps):
            return
        data = self._pretraining_data()
        states, actions, wanted = (torch.from_numpy(column) for column in data[:3])
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
                learner.replay.add(*data.replayed)
            self.pretrain_seconds += time.perf_counter() - started
            for callback in self._callbacks:
                callback.on_pretrain_epoch(self, float(np.mean(losses)))
            if not done and self.epoch % self._checkpoint_every == 0:
                self._save_checkpoint()
        if not c.pretrain_epochs:
            learner.replay.add(*data.replayed)
        learner.begin()
        self._save_checkpoint()

    def _pretraining_data(self) -> PretrainingData:
        """Return the data of random steps, if there are any, otherwise of the environment's model.

        Drawn with a generator of its own, so that a resumed run has the same.
        """
        if self.config.random_steps:
            return data_of_steps(self.random_play, self.config.discount)
        model = self.env.unwrapped
        assert isinstance(model, ModelledEnv)
        rng = np.random.default_rng([self.seed, 1])
        return data_of_model(model, self._feasible, self.config, rng)

    @cached_property
    def random_play(self) -> Transitions:
        """The ``random_steps`` transitions that training begins with."""
        c, rng = self.config, np.random.default_rng([self.seed, 2])
        return collect_transitions(
            self.env,
            c.random_steps,
            rng,
            expected_rewards=self._player.rewards_expected,
            feasible=self._feasible.at,
        )

    def _play_episode(self) -> None:
        """Play one episode, with updates after every step."""
        learner, running = self.learner, self.running
        state = self._player.begin(self.episode, self.seed)
        played = self._player.repeat(running.actions)  # if the episode was interrupted
        learner.begin_episode(played)
        if played:
            state = played[-1].next_state
        done = False
        while not done:
            started = time.perf_counter()
            action = learner.explore(state, self.step, self.episode, self.rng)
            step = self._player.step(action)
            learner.remember(step)
            running.actions.append(action.tolist())
            running.reward += step.reward
            self.step += 1
            for loss in learner.learn(self.step, self.episode, self.rng):
                running.loss += loss
                running.updates += 1
            state, done = step.next_state, step.last
            running.seconds += time.perf_counter() - started
            if done:
                self._end_episode()
            for callback in self._callbacks:
                callback.on_step(self)
            if self.step % self._checkpoint_every == 0:
                self._save_checkpoint()

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

    @property
    def epsilon(self) -> float:
        """Probability of a random action in the next step."""
        return self.learner.epsilon(self.step)

    @property
    def gap(self) -> float:
        """Relative gap of the argmaxes of the running episode."""
        return self.learner.gap(self.episode)

    def use(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Replace the weights by the ``state_dict()`` of a network of the same shape."""
        self.network.load_state_dict(weights)
        self.learner.greedy.renew()

    def save(self, path: str | Path) -> None:
        """Write weights, replay, random states and counters; the file appears whole or not."""
        state: dict[str, Any] = {
            "learner": self.learner.state_dict(),
            "rng": self.rng.bit_generator.state,
            "history": self.history,
            "running": asdict(self.running),
            "sets vary": self._feasible.varies,
        }
        counters = {name: getattr(self, name) for name in _COUNTERS}
        write_checkpoint(path, self.config, self.setup, state | counters)

    def _restore(self, path: str | Path, checkpoint: Checkpoint) -> None:
        checkpoint.check_same_run(path, self.config, self.setup)
        state = checkpoint.state
        try:
            self.learner.load_state_dict(state["learner"])
        except RuntimeError as error:  # torch's, for weights of other shapes
            raise ValueError(f"{path} has the weights of another network: {error}") from error
        self.rng.bit_generator.state = state["rng"]
        self.history = state["history"]
        self.running = RunningEpisode(**state["running"])
        self._feasible.varies = state["sets vary"]
        for name in _COUNTERS:
            setattr(self, name, state[name])

    @classmethod
    def load(
        cls, path: str | Path, env: gym.Env[Any, Any], network: nn.Module | None = None
    ) -> Self:
        """Read an agent written by :meth:`save` or :meth:`train`; it can act, or train on.

        Parameters
        ----------
        path
            The file. It is read as data only: no code in it is run.
        env
            An environment like the one it was trained on.
        network
            If it was trained with a network of your own, another of the same kind, which takes
            over the weights.

        Raises
        ------
        ValueError
            If the file is damaged, or the environment's action space or the network is another.
        """
        checkpoint = read_checkpoint(path, cls.config_class)
        if "network" in checkpoint.setup and network is None:
            raise ValueError(
                f"{path} has the weights of a network of your own; give one of the same kind with"
                " network="
            )
        given = {} if network is None else {"network": network}
        agent = cls._like(env, checkpoint, **given)
        agent._restore(path, checkpoint)
        return agent

    @classmethod
    def _like(cls, env: gym.Env[Any, Any], checkpoint: Checkpoint, **given: Any) -> Self:
        """Return an untrained agent of a checkpoint's parameters and seed."""
        return cls(env, checkpoint.config, seed=checkpoint.setup["seed"], **given)

    def _save_checkpoint(self) -> None:
        if self._checkpoint is not None:
            self.save(self._checkpoint)
