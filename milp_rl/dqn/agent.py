"""SEQUOIA: deep Q-learning with exact argmaxes over a combinatorial action set.

Xu, Wilder, Khalil and Tambe, "Reinforcement learning with combinatorial actions for coupled
restless bandits", ICLR 2025 (arXiv 2503.01919), section 4, in three phases: (1) the Q-network is
pretrained on one-step expected rewards (:mod:`milp_rl.dqn.pretraining`); (2) actions are
epsilon-greedy, the greedy one the exact maximiser of the Q-network over the feasible set, found by
a mixed-integer program; (3) the updates' targets contain such maximisers too. Phases 2 and 3 are
the page :mod:`milp_rl.dqn.learner`; here is what surrounds it: the environment, the what
is asked of it, and files; the order of things is :mod:`milp_rl.dqn.training`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from milp_rl.dqn.callbacks import Callback
from milp_rl.dqn.checkpoint import (
    Checkpoint,
    load_weights,
    read_checkpoint,
    read_tensors,
    write_checkpoint,
)
from milp_rl.dqn.checks import checked_env
from milp_rl.dqn.choosers import chooser_of
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.episodes import EpisodePlayer, RunningEpisode
from milp_rl.dqn.lanes import Lanes, OneLane, VectorLanes, one_of
from milp_rl.dqn.learner import QLearner
from milp_rl.dqn.networks import new_network, own_network
from milp_rl.dqn.normalised import NormalisedQNetwork
from milp_rl.dqn.pretraining import (
    ModelledEnv,
    PretrainingData,
    data_of_model,
    data_of_steps,
    random_steps_of,
)
from milp_rl.dqn.training import Budget, Training
from milp_rl.envs.adaptation import AnyEnv, FeasibleSet, FlatEnv, adapted
from milp_rl.envs.arms import arms_of
from milp_rl.envs.feasible_sets import FeasibleSets
from milp_rl.envs.fixed_set import FixedSet, drawn_in
from milp_rl.envs.known_model import StateArray, model_of
from milp_rl.envs.transitions import Transitions, collect_transitions
from milp_rl.formulations.arrays import ActionArray, check_vector
from milp_rl.formulations.checks import LARGEST_SEED, check_integer
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.qnetwork import ActionValue

if TYPE_CHECKING:
    from milp_rl.offline.config import OfflineConfig
    from milp_rl.offline.fitting import OfflinePolicy

_COUNTERS = ("epoch", "episode", "step", "pretrain_seconds", "random_steps")


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
        A Gymnasium environment. Its spaces may be any that :func:`milp_rl.envs.adapted` makes
        vectors of; what is learnt, remembered and counted is about these. Its
        ``action_space_block(state)``, of its own or of a wrapper, gives the feasible set of a
        state, that is of an observation. It may differ from state to state,
        over the same variables, but has to depend on the state alone, as it is asked for again when
        a remembered state is learnt from. Pretraining with a model also needs what
        :class:`milp_rl.dqn.pretraining.ModelledEnv` lists. Resetting it with a seed must make what
        follows reproducible.
        Or a vector environment of such, which are played side by side: each of their steps is one
        of the training, and their actions are solved for at once. One more is made like them, for
        feasible sets and random steps.
    config
        Parameters; by default those of the class.
    network
        A Q-network of your own, trained in place from the weights that it has, instead of a new one
        as ``config.architecture`` says: a torch module of (state, action) in either order, or of
        [action, state], as :class:`~milp_rl.dqn.ModuleValue` takes it; or a
        :class:`~milp_rl.qnetwork.ActionValue`.
    space
        The feasible set, or a function that gives it for an observation, instead of what the
        environment says; by default that, or all actions where it says nothing.
    seed
        Seed of weights, exploration, replay and episodes, at least 0.

    Attributes
    ----------
    space
        The feasible set, of the first state if it differs from state to state.
    arms
        How its states and actions belong to arms; ``None`` where nothing is known.
    random_steps
        Random steps that training begins with; none after :meth:`fit`.
    epoch, episode, step
        Pretraining epochs, episodes and steps done, those of all environments together.
    pretrain_seconds
        Wall-clock time of the pretraining epochs.
    running
        The episode in progress, of each environment.
    budget
        When the training in progress, or the last one, ends.
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
        env: AnyEnv,
        config: DQNConfig | None = None,
        *,
        network: nn.Module | None = None,
        space: FeasibleSet | None = None,
        seed: int = 0,
    ) -> None:
        seed = check_integer(seed, "seed", 0, LARGEST_SEED)
        self._given_space = space
        lanes: Lanes
        if isinstance(env, gym.vector.VectorEnv):
            one = self.adapted(one_of(env))
            lanes = VectorLanes(env, one)
        else:
            one = self.adapted(env)
            lanes = OneLane(one)
        self.env, self.lanes = one, lanes
        self.config = self.config_class() if config is None else config
        self.seed = seed
        self._feasible, self.state_dim = checked_env(
            one, self.config, type(self).__name__, self._kind_of_set
        )
        self.space = self._feasible.space
        self.player = EpisodePlayer(
            lanes,
            one,
            self._feasible,
            self.state_dim,
            seed=seed,
            expected_rewards=self.config.expected_rewards,
        )
        self.arms = arms_of(one, self.state_dim, self.space.n_actions)
        self.random_steps = random_steps_of(one, self.config)
        sizes = self.state_dim, self.space.n_actions
        self._own = None if network is None else own_network(network, *sizes, self.config.critics)
        self.learner = self._new_learner()
        self.rng = np.random.default_rng(seed)
        self.epoch = self.episode = self.step = 0
        self.pretrain_seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.running = [RunningEpisode(number) for number in range(self.lanes.n)]
        self.budget = Budget(episodes=self.config.episodes)
        self.callback_states: dict[str, Any] = {}
        self._luck = np.random.default_rng([seed, 3])  # of predictions that are not deterministic

    def adapted(self, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        """Return another environment like the agent's as it takes it, of vectors."""
        return adapted(env, self._given_space)

    def _new_learner(self) -> QLearner:
        network = self._own
        if network is None:
            generator = torch.Generator().manual_seed(self.seed)
            network = new_network(
                self.config, self.state_dim, self.space.n_actions, self.arms, generator
            )
        chooser = chooser_of(self.space, self.config)
        return QLearner(network, self._feasible, self.config, chooser)

    @property
    def network(self) -> ActionValue:
        """The Q-network of the policy."""
        return self.learner.averaged

    @property
    def setup(self) -> dict[str, Any]:
        """What a checkpoint's run must have in common with this one, beside the parameters."""
        setup: dict[str, Any] = {"seed": self.seed, "action space": self.space.to_dict()}
        if self._own is not None:
            weights = self._own.state_dict().items()
            setup["network"] = [[name, list(value.shape)] for name, value in weights]
        return setup

    def act(self, observation: Any) -> Any:
        """Return the feasible action of highest Q-value, proven so with ``argmax="exact"``.

        Parameters
        ----------
        observation
            An observation of the environment, finite; of vectors, shape (state_dim,).

        Returns
        -------
        numpy.ndarray or object
            An action of the environment; a vector, shape (n_actions,), is of the feasible set's
            dtype.

        Raises
        ------
        ValueError
            If the observation is not finite, or the environment's feasible set there is not one
            that was trained for.
        """
        s = self._state_of(observation)
        self._feasible.at(s)
        return self._action_of(np.asarray(self._best_actions(s[None])[0]))

    def _state_of(self, observation: Any) -> StateArray:
        """Return the vector of an observation."""
        if isinstance(self.env, FlatEnv):
            observation = self.env.vector(observation)
        state = check_vector(observation, "state")
        if len(state) != self.state_dim:
            raise ValueError(f"a state must have shape ({self.state_dim},), got {state.shape}")
        return state.astype(np.float32)

    def _action_of(self, vector: ActionArray) -> Any:
        """Return the environment's own action of a vector."""
        return self.env.action(vector) if isinstance(self.env, FlatEnv) else vector

    def _best_actions(self, states: StateArray) -> ActionArray:
        return self.learner.averaged_greedy.actions(states)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, None]:
        """Return actions as the models of Stable-Baselines3 do: :meth:`act`, for batches too.

        Parameters
        ----------
        observation
            An observation of the environment, finite, or several, as an array, a list, or in the
            form in which ``gymnasium.vector`` gives them: of vectors, shape (state_dim,) or
            (batch, state_dim).
        state, episode_start
            Not looked at: the policy remembers nothing.
        deterministic
            Otherwise an action is a random maximal one with the probability with which it would be
            in training now (``agent.epsilon``). Training's own luck is not touched.

        Returns
        -------
        tuple
            An action, or several in the form in which ``gymnasium.vector`` takes them, and
            ``None``: of vectors, shape (n_actions,) or (batch, n_actions).

        Raises
        ------
        ValueError
            As for :meth:`act`, or if there is no observation.
        """
        env = self.env if isinstance(self.env, FlatEnv) else None
        if env is not None:
            several = env.one_by_one(observation)
        else:
            several = list(observation) if np.ndim(observation) > 1 else None
        given = [observation] if several is None else several
        if not given:
            raise ValueError("predict needs an observation, got an empty batch")
        states = np.array([self._state_of(one) for one in given])
        spaces = [self._feasible.at(s) for s in states]
        actions = self._best_actions(states).copy()
        if not deterministic:
            for i in np.flatnonzero(self._luck.random(len(states)) < self.epsilon):
                actions[i] = drawn_in(spaces[i], states[i], self._luck, maximal=True)
        own = [self._action_of(action) for action in actions]
        if several is None:
            return own[0], None
        return (np.array(own) if env is None else env.together(own)), None

    def action_space_block(self, observation: Any) -> ActionSpace:
        """Return the feasible set of vectors that :meth:`act` keeps to: its environment's."""
        return self._feasible.at(self._state_of(observation))

    def train(
        self,
        callbacks: Sequence[Callback] = (),
        *,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 100,
    ) -> Self:
        """Train up to ``config.episodes`` episodes, on from where the agent, or its file, is.

        Parameters
        ----------
        callbacks
            Observers, called in order; each may stop the training.
        checkpoint
            A file to write everything to. If it exists, training goes on from it: a run killed
            at any moment and started again ends with the same weights to the last bit; one that is
            over goes on if ``config.episodes`` is larger now, and ends as if it had been from the
            start (not with ``early_gap``, which goes by the number of episodes). Of vector
            environments that holds for Gymnasium's own in the autoreset mode ``DISABLED``; of
            others, the episodes in progress are left, and new ones begin.
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
        self.budget = Budget(episodes=self.config.episodes)
        file = self._resume(checkpoint)
        # Several environments may have ended episodes in the last step.
        if file is not None and self.episode >= self.config.episodes + self.lanes.n:
            raise ValueError(
                f"{file}: {self.episode} episodes were played, more than"
                f" episodes={self.config.episodes}"
            )
        Training(self, callbacks, file, checkpoint_every).run()
        return self

    def fit(self, transitions: Transitions, config: OfflineConfig | None = None) -> OfflinePolicy:
        """Learn from logged transitions instead of playing; the environment gives the feasible set.

        The agent's network is trained in place and the log put into the replay buffer, so that
        :meth:`act` and :meth:`train` go on from there, without pretraining; and without the
        behaviour's support, to which only the policy that is returned keeps.

        Parameters
        ----------
        transitions
            The logged decisions, of an environment like the agent's.
        config
            What is learnt; by default implicit Q-learning. Discount, optimizer, targets and solver
            are those of the agent's own configuration.

        Returns
        -------
        milp_rl.offline.OfflinePolicy
            Decides by what was learnt; with ``method="bc"`` not by the agent's network.

        Raises
        ------
        ValueError
            If the transitions are of other states or actions, or a logged action is not feasible.
        """
        from milp_rl.offline.config import OfflineConfig
        from milp_rl.offline.fitting import check_logged, fit_network

        t = transitions
        if t.states.shape[1] != self.state_dim:
            raise ValueError(
                f"the logged states have {t.states.shape[1]} features, the environment's"
                f" {self.state_dim}"
            )
        assert t.terminated is not None
        for state in (*t.states, *t.next_states[~t.terminated]):
            self._feasible.at(state.astype(np.float32))
        check_logged(t, self._feasible)
        c = OfflineConfig() if config is None else config
        network, learner = self.network, self.learner
        untrained = not (self.epoch or self.step or len(learner.replay))
        if untrained:
            self.normalise(t.states, t.rewards)
        policy = fit_network(
            network, t, self._feasible, c, self.config, learner.new_chooser, seed=self.seed
        )
        ends = np.where(t.terminated, 0.0, self.config.discount)
        learner.replay.add(
            *(
                column[-learner.replay.capacity :]
                for column in (t.states, t.actions, t.rewards, t.next_states, ends)
            )
        )
        learner.go_on_from_average()
        learner.begin()
        if untrained:
            self.random_steps = 0
        self.epoch = self.config.pretrain_epochs
        return policy

    def learn(
        self,
        total_timesteps: int | None = None,
        *,
        seconds: float | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 100,
    ) -> Self:
        """Train as :meth:`train` does, for a budget of steps, or of time, rather than episodes.

        It may end in the middle of an episode, which is gone on with if training is. After
        ``learn(1000)``, ``learn(3000)`` ends as ``learn(3000)`` alone would have. Environments that
        are played side by side end a step together, up to one less than their number later.

        Parameters
        ----------
        total_timesteps
            Steps of the environment in all, those of earlier calls and the ``random_steps`` among
            them; it takes the place of ``config.episodes``.
        seconds
            Wall-clock time of this call, positive, looked at after every step and every epoch of
            pretraining; a longer step is not cut off. What was reached in it depends on the
            machine, what is learnt from there on does not.
        callbacks, checkpoint, checkpoint_every
            As for :meth:`train`.

        Returns
        -------
        DQNAgent
            The agent itself.

        Raises
        ------
        ValueError
            If there is no budget, or none is left for learning, or the configuration has an
            ``early_gap``; otherwise as for :meth:`train`.
        """
        if total_timesteps is None and seconds is None:
            raise ValueError("learn needs a budget: total_timesteps, seconds, or both")
        if seconds is not None and not seconds > 0:
            raise ValueError(f"seconds must be positive, got {seconds}")
        if self.config.early_gap is not None:
            raise ValueError(
                f"early_gap={self.config.early_gap} is for the first half of config.episodes, which"
                " learn does not go by: use train, or gap and dynamic_tolerance"
            )
        if total_timesteps is not None and not total_timesteps > self.random_steps:
            raise ValueError(
                f"total_timesteps must be more than the {self.random_steps} random steps"
                f" (random_steps), which count too, got {total_timesteps}"
            )
        self.budget = Budget(steps=total_timesteps, seconds=seconds)
        Training(self, callbacks, self._resume(checkpoint), checkpoint_every).run()
        return self

    @property
    def num_timesteps(self) -> int:
        """Steps of the environment, the random ones that training begins with among them."""
        begun = self.step or self.epoch or len(self.learner.replay)
        return self.step + (self.random_steps if begun else 0)

    def normalise(self, states: NDArray[Any], rewards: NDArray[Any]) -> None:
        """Normalise a network that the agent has made by observed states and rewards.

        See :meth:`milp_rl.dqn.NormalisedQNetwork.normalise`; a network of your own is left as it
        is.
        """
        if self.normalises:
            assert isinstance(self.network, NormalisedQNetwork)
            bounds = self.space.lower, self.space.upper
            self.network.normalise(states, rewards, self.arms, bounds)
            self.learner.go_on_from_average()

    @property
    def normalises(self) -> bool:
        """Whether the agent has made a network that is normalised by data."""
        return self._own is None and isinstance(self.network, NormalisedQNetwork)

    def pretraining_data(self) -> PretrainingData:
        """Return the data of random steps, if there are any, otherwise of the environment's model.

        Drawn with a generator of its own, so that a resumed run has the same.
        """
        if self.random_steps:
            return data_of_steps(self.random_play, self.config.discount)
        model = model_of(self.env)
        assert isinstance(model, ModelledEnv)
        self.player.never_ends = self.config.pretrain_replay > 0
        rng = np.random.default_rng([self.seed, 1])
        return data_of_model(model, self._feasible, self.config, rng)

    @cached_property
    def random_play(self) -> Transitions:
        """The ``random_steps`` transitions that training begins with."""
        rng = np.random.default_rng([self.seed, 2])
        return collect_transitions(
            self.env,
            self.random_steps,
            rng,
            expected_rewards=self.player.rewards_expected,
            feasible=self._feasible.at,
        )

    @property
    def epsilon(self) -> float:
        """Probability of a random action in the next step."""
        return self.learner.epsilon(self.step)

    @property
    def gap(self) -> float:
        """Relative gap of the argmaxes of the running episode."""
        return self.learner.gap(self.episode)

    def use(self, weights: Mapping[str, torch.Tensor] | str | Path) -> None:
        """Replace the weights by the ``state_dict()`` of a network of the same shape, or a file."""
        if isinstance(weights, Mapping):
            load_weights(self.network, weights, "the mapping")
        else:
            load_weights(self.network, read_tensors(weights), weights)
        self.learner.go_on_from_average()

    def save(self, path: str | Path) -> None:
        """Write weights, replay, random states and counters; the file appears whole or not."""
        state: dict[str, Any] = {
            "learner": self.learner.state_dict(),
            "rng": self.rng.bit_generator.state,
            "history": self.history,
            "running": [asdict(episode) for episode in self.running],
            "sets vary": self._feasible.varies,
            "callbacks": self.callback_states,
        }
        counters = {name: getattr(self, name) for name in _COUNTERS}
        write_checkpoint(path, self.config, self.setup, state | counters)

    def _resume(self, checkpoint: str | Path | None) -> Path | None:
        """Restore a file if there is one; return its path."""
        if checkpoint is None:
            return None
        folder = Path(checkpoint).parent
        if not folder.is_dir():
            raise FileNotFoundError(
                f"the checkpoint {checkpoint} cannot be written: there is no folder {folder}"
            )
        if Path(checkpoint).exists():
            read = read_checkpoint(checkpoint, type(self.config))
            if len(read.state["running"]) != self.lanes.n:
                raise ValueError(
                    f"{checkpoint} belongs to a run of {len(read.state['running'])} environments"
                    f" side by side, this is one of {self.lanes.n}; delete it to start afresh, or"
                    " give another path"
                )
            self._restore(checkpoint, read)
        return Path(checkpoint)

    def _restore(self, path: str | Path, checkpoint: Checkpoint) -> None:
        checkpoint.check_same_run(path, self.config, self.setup)
        state = checkpoint.state
        try:
            self.learner.load_state_dict(state["learner"])
        except RuntimeError as error:  # torch's, for weights of other shapes
            raise ValueError(f"{path} has the weights of another network: {error}") from error
        self.rng.bit_generator.state = state["rng"]
        self.history = state["history"]
        self.running = [RunningEpisode(**episode) for episode in state["running"]]
        if len(self.running) != self.lanes.n:  # read to act, or to go on in another way
            begun = 1 + max(episode.number for episode in self.running)
            self.running = [RunningEpisode(begun + i) for i in range(self.lanes.n)]
        self._feasible.varies = state["sets vary"]
        self.callback_states = state.get("callbacks", {})
        for name in _COUNTERS:
            setattr(self, name, state.get(name, getattr(self, name)))

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: AnyEnv,
        network: nn.Module | None = None,
        space: FeasibleSet | None = None,
    ) -> Self:
        """Read an agent written by :meth:`save` or :meth:`train`; it can act, or train on.

        Parameters
        ----------
        path
            The file. It is read as data only: no code in it is run.
        env
            An environment like the one it was trained on, or a vector environment of such.
        network
            If it was trained with a network of your own, another of the same kind, which takes
            over the weights.
        space
            The feasible set, if it was given with ``space=``.

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
        given: dict[str, Any] = {} if network is None else {"network": network}
        if space is not None:
            given["space"] = space
        agent = cls._like(env, checkpoint, **given)
        agent._restore(path, checkpoint)
        return agent

    @classmethod
    def _like(cls, env: AnyEnv, checkpoint: Checkpoint, **given: Any) -> Self:
        """Return an untrained agent of a checkpoint's parameters and seed."""
        return cls(env, checkpoint.config, seed=checkpoint.setup["seed"], **given)
