"""Environments whose model is known, and whose episodes face the same luck under any policy."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.envs.spaces import FeasibleActions
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.spaces.base import ActionSpace

StateArray = NDArray[np.float32]
_PASSING = (
    gym.wrappers.Autoreset,
    gym.wrappers.HumanRendering,
    gym.wrappers.OrderEnforcing,
    gym.wrappers.PassiveEnvChecker,
    gym.wrappers.RecordEpisodeStatistics,
    gym.wrappers.RecordVideo,
    gym.wrappers.RenderCollection,
    gym.wrappers.TimeLimit,
)
"""Wrappers with a ``step`` of their own that change no observation, action or reward."""


def model_of(env: gym.Env[Any, Any]) -> Any:
    """Return what may know a model of an environment: the one within its wrappers.

    Where a wrapper may give other observations, actions or rewards, since it has a ``step`` or a
    ``reset`` of its own, what is within knows nothing of them, and the wrapped environment itself
    is returned. Gymnasium's wrappers that only watch are known.
    """
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        if not _passes_on(layer):
            return env
        layer = layer.env
    return env.unwrapped


def _passes_on(layer: gym.Wrapper[Any, Any, Any, Any]) -> bool:
    """Whether observations, actions and rewards are those of the environment within."""
    kind = type(layer)
    own = any(
        getattr(kind, method) is not getattr(gym.Wrapper, method) for method in ("step", "reset")
    )
    says_itself = kind.unwrapped is not gym.Wrapper.unwrapped
    return not own or says_itself or isinstance(layer, _PASSING)


class KnownModelEnv(gym.Env[StateArray, ActionArray]):
    """A state vector moved by the actions of a feasible set and by uniform random numbers.

    The random numbers of an episode are drawn when it starts, whatever the actions, so that
    episodes reset with the same seed and state face the same luck under different policies (common
    random numbers), and in :class:`~milp_rl.envs.vector.ParallelEpisodes`.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of ``block``: a binary vector, int8, shape
    (n_actions,). :meth:`step` raises ``ValueError`` for an action that is not feasible.

    Observation Space
    -----------------
    ``observation_space``, a ``gymnasium.spaces.Box`` of vectors, float32, shape (state_dim,). The
    observation is the whole state.

    Rewards
    -------
    The second value of :meth:`transition`; its expectation is :meth:`expected_reward`.

    Starting State
    --------------
    One of :meth:`start_states`, or the one given as ``options={"state": ...}`` to :meth:`reset`.

    Episode End
    -----------
    Truncated after ``horizon`` steps; never terminated.

    Arguments
    ---------
    A base class: a model defines :meth:`check_states`, :meth:`transition`, :meth:`expected_reward`,
    :meth:`start_states` and :meth:`informative_states`.

    Parameters
    ----------
    block
        The feasible set of actions.
    horizon
        Steps per episode, at least 1.
    observation_space
        The states, vectors.
    luck_dim
        Uniform random numbers used in a step.

    Attributes
    ----------
    state_dim
        Length of a state.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own declaration)

    def __init__(
        self, block: ActionSpace, horizon: int, observation_space: gym.spaces.Box, luck_dim: int
    ) -> None:
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        self.horizon = int(horizon)
        self.luck_dim = luck_dim
        self.state_dim = observation_space.shape[0]
        self.observation_space = observation_space  # type: ignore[assignment]
        self.action_space = FeasibleActions(block)
        self._block = block
        self._state = np.zeros(observation_space.shape, dtype=np.float32)
        self._luck = np.empty((0, luck_dim))
        self._steps = 0

    @abstractmethod
    def check_states(self, states: ArrayLike) -> NDArray[Any]:
        """Return ``states``, shape (..., state_dim), or raise ``ValueError`` if they are none."""

    @abstractmethod
    def transition(
        self, states: ArrayLike, actions: ArrayLike, uniforms: FloatArray
    ) -> tuple[StateArray, FloatArray]:
        """Move states.

        Parameters
        ----------
        states
            Shape (..., state_dim).
        actions
            Binary, shape (..., n_actions), broadcast against ``states``; need not be feasible.
        uniforms
            In [0, 1), shape (..., luck_dim).

        Returns
        -------
        tuple of numpy.ndarray
            Next states, float32, and rewards, shape (...).
        """

    @abstractmethod
    def expected_reward(self, state: ArrayLike, action: ArrayLike) -> FloatArray:
        """Return the expected reward of one step, batched.

        Parameters
        ----------
        state
            Shape (..., state_dim).
        action
            Binary, shape (..., n_actions), broadcast against ``state``; need not be feasible, so
            that a learner can be taught the effect of every action.

        Returns
        -------
        numpy.ndarray
            Shape (...).
        """

    @abstractmethod
    def start_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Draw ``n`` start states, shape (n, state_dim)."""

    @abstractmethod
    def informative_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Return states that show a learner what each action is worth, ``n`` of them random."""

    def action_space_block(self, state: ArrayLike | None = None) -> ActionSpace:
        """Return the feasible set; unless a subclass says otherwise, the same in every state."""
        return self._block

    def sample_next(
        self, state: ArrayLike, action: ArrayLike, rng: np.random.Generator
    ) -> StateArray:
        """Draw next states for a batch of states and (not necessarily feasible) actions."""
        lead = np.broadcast_shapes(np.shape(state)[:-1], np.shape(action)[:-1])
        return self.transition(state, action, rng.random((*lead, self.luck_dim)))[0]

    def draw_episode(self, rng: np.random.Generator) -> tuple[StateArray, FloatArray]:
        """Draw the start state of an episode and its luck, shape (horizon, luck_dim)."""
        return self.start_states(rng, 1)[0], rng.random((self.horizon, self.luck_dim))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[StateArray, dict[str, Any]]:
        """Start an episode, in ``options["state"]`` if given.

        Raises
        ------
        ValueError
            If the state is not one of the environment's, or an option is unknown.
        """
        super().reset(seed=seed)
        start, luck = self.draw_episode(self.np_random)
        if options:
            unknown = set(options) - {"state"}
            if unknown:
                raise ValueError(f"unknown reset options {sorted(unknown)}; known is 'state'")
            if np.ndim(options["state"]) != 1:
                raise ValueError(f"a state must be a vector, got {np.shape(options['state'])}")
            start = self.check_states(options["state"]).astype(np.float32)
        self._state = start
        self._luck = luck
        self._steps = 0
        return start.copy(), {}

    def step(self, action: ActionArray) -> tuple[StateArray, float, bool, bool, dict[str, Any]]:
        """Move the state.

        Raises
        ------
        ValueError
            If the action is not feasible, with the violated constraints.
        gymnasium.error.ResetNeeded
            If the episode is over or has not begun.
        """
        violations = self.action_space_block(self._state).violations(action)
        if violations:
            raise ValueError(f"infeasible action: {'; '.join(violations)}")
        if self._steps >= len(self._luck):
            raise gym.error.ResetNeeded("the episode is over or has not begun; call reset() first")
        self._state, reward = self.transition(self._state, action, self._luck[self._steps])
        self._steps += 1
        return self._state.copy(), float(reward), False, self._steps >= self.horizon, {}
