"""Restless bandits whose arms are coupled by a combinatorial action set (coRMAB).

The arms and their rewards are those of Xu, Wilder, Khalil and Tambe, "Reinforcement learning with
combinatorial actions for coupled restless bandits" (ICLR 2025), section 3. A domain adds the
feasible set and how an action drives each arm, see :mod:`milp_rl.envs.additive`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.envs.spaces import FeasibleActions
from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.network import FloatArray, Network

StateArray = NDArray[np.float32]

START_PROBABILITY = 0.2


@dataclass(frozen=True, eq=False)
class ArmChains:
    r"""J chains over the states 0..n-1 that move one up with probability p, otherwise one down.

    Moves are clamped at both ends. An arm pays the reward of the state it moves to,

    .. math:: E[r_j] = p_j \, r_j(\min(s_j + 1, n - 1)) + (1 - p_j) \, r_j(\max(s_j - 1, 0)).

    Parameters
    ----------
    rewards
        Reward of each arm in each state, shape (J, n), finite, n at least 2.

    Raises
    ------
    ValueError
        If ``rewards`` is not such an array.
    """

    rewards: FloatArray

    def __post_init__(self) -> None:
        rewards = np.array(self.rewards, dtype=np.float64)
        if rewards.ndim != 2 or rewards.shape[0] < 1 or rewards.shape[1] < 2:
            raise ValueError(
                "rewards must have shape (arms, states) with at least one arm and two states,"
                f" got {rewards.shape}"
            )
        if not np.isfinite(rewards).all():
            raise ValueError("rewards must be finite")
        rewards.flags.writeable = False
        object.__setattr__(self, "rewards", rewards)

    @property
    def n_arms(self) -> int:
        """Number of arms."""
        return int(self.rewards.shape[0])

    @property
    def n_states(self) -> int:
        """Number of states of each arm."""
        return int(self.rewards.shape[1])

    def check_states(self, states: ArrayLike) -> NDArray[np.intp]:
        """Return ``states``, shape (..., J), as indices, or raise ``ValueError``."""
        values = np.asarray(states)
        if values.shape[-1:] != (self.n_arms,):
            raise ValueError(f"a state has shape (..., {self.n_arms}), got {values.shape}")
        valid = (values >= 0) & (values < self.n_states) & (values == np.floor(values))
        if not valid.all():
            raise ValueError(
                f"arm states are integers 0..{self.n_states - 1}, got {values[~valid].flat[0]}"
            )
        return values.astype(np.intp)

    def reward(self, states: NDArray[np.intp]) -> FloatArray:
        """Sum the rewards of the arms in ``states``, shape (..., J)."""
        return np.asarray(self.rewards[np.arange(self.n_arms), states].sum(axis=-1))

    def expected_reward(self, states: NDArray[np.intp], up: FloatArray) -> FloatArray:
        """Sum over arms the expected reward of the next state; ``up`` has shape (..., J)."""
        above, below = self.next_rewards(states)
        return np.asarray((up * above + (1.0 - up) * below).sum(axis=-1))

    def next_rewards(self, states: NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
        """Return the reward of each arm after moving up and after moving down, shape (..., J)."""
        arm = np.arange(self.n_arms)
        above = self.rewards[arm, np.minimum(states + 1, self.n_states - 1)]
        below = self.rewards[arm, np.maximum(states - 1, 0)]
        return above, below

    def move(
        self, states: NDArray[np.intp], up: FloatArray, uniforms: FloatArray
    ) -> NDArray[np.intp]:
        """Move arm j up where ``uniforms[..., j] < up[..., j]``, down elsewhere."""
        return np.clip(states + np.where(uniforms < up, 1, -1), 0, self.n_states - 1)


class RestlessBandit(gym.Env[StateArray, ActionArray]):
    """Arms moved by the actions of a feasible set; the base of the domains.

    The observation is the vector of arm states, raw indices 0..n-1 as float32, shape (J,), so that
    it feeds a network as it is. The reward of a step is the **sum** over arms of the reward of the
    state each moves to. Episodes are truncated, never terminated, after ``horizon`` steps. An
    episode starts with each arm in state 1 with probability 0.2, else 0, or in
    ``options={"state": ...}`` of :meth:`reset`.

    One uniform number an arm and step is drawn when the episode starts, whatever the actions, so
    that episodes reset with the same seed and state face the same luck under different policies
    (common random numbers), and in :class:`~milp_rl.envs.vector.VectorBandit`.

    Parameters
    ----------
    arms
        The chains and rewards.
    block
        The feasible set of actions.
    horizon
        Steps an episode, at least 1.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own declaration)

    def __init__(self, arms: ArmChains, block: ActionSpace, horizon: int) -> None:
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        self.arms = arms
        self.horizon = int(horizon)
        self._block = block
        self.observation_space = gym.spaces.Box(
            0.0, float(arms.n_states - 1), (arms.n_arms,), np.float32
        )
        self.action_space = FeasibleActions(block)
        self._state = np.zeros(arms.n_arms, dtype=np.intp)
        self._luck = np.empty((0, arms.n_arms))
        self._steps = 0

    @abstractmethod
    def up_probability(self, action: ArrayLike) -> FloatArray:
        """Probability that each arm moves up, shape (..., J), for actions of shape (..., n)."""

    @abstractmethod
    def one_step_network(self, state: ArrayLike) -> Network:
        """Return the expected reward of one step as a network of the action alone.

        With the exact argmax it gives the myopic action of any domain.

        Parameters
        ----------
        state
            Arm states, shape (J,).

        Returns
        -------
        Network
            ``n_actions`` inputs, one output, which differs from :meth:`expected_reward` by at
            most :attr:`one_step_error` (up to rounding) at every feasible action.
        """

    @property
    def one_step_error(self) -> float:
        """Largest error of :meth:`one_step_network` at feasible actions, in any state."""
        return 0.0

    def action_space_block(self, state: ArrayLike | None = None) -> ActionSpace:
        """Return the feasible set; it is the same in every state."""
        return self._block

    def expected_reward(self, state: ArrayLike, action: ArrayLike) -> FloatArray:
        """Return the expected reward of one step, batched.

        Parameters
        ----------
        state
            Arm states, shape (..., J).
        action
            Binary, shape (..., n_actions), broadcast against ``state``; need not be feasible, so
            that a learner can be taught the effect of every action.

        Returns
        -------
        numpy.ndarray
            Sum over arms, shape (...).
        """
        return self.arms.expected_reward(self.arms.check_states(state), self.up_probability(action))

    def sample_next(
        self, state: ArrayLike, action: ArrayLike, rng: np.random.Generator
    ) -> StateArray:
        """Draw next states for a batch of states and (not necessarily feasible) actions."""
        states, up = self.arms.check_states(state), self.up_probability(action)
        uniforms = rng.random(np.broadcast_shapes(states.shape, up.shape))
        return self.arms.move(states, up, uniforms).astype(np.float32)

    def start_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Draw ``n`` start states, shape (n, J)."""
        return (rng.random((n, self.arms.n_arms)) < START_PROBABILITY).astype(np.float32)

    def informative_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Return states that show a learner what each arm is worth.

        All arms low or in state 1, each single arm in state 1 and each single one not, and ``n``
        random states, in every other of which a random set of arms that can be served together
        is in the top state: such states are worth most and would hardly be seen otherwise. An
        arm is served by an action that raises its probability of moving up by more than half of
        what all actions together would.

        Returns
        -------
        numpy.ndarray
            Shape (2 + 2 J + n, J).
        """
        arms, unit = self.arms, np.eye(self.arms.n_arms)
        random = rng.integers(0, arms.n_states, size=(n, arms.n_arms)).astype(np.float64)
        idle = self.up_probability(np.zeros(self._block.n_actions, dtype=np.int8))
        most = self.up_probability(np.ones(self._block.n_actions, dtype=np.int8)) - idle
        gain = self.up_probability(self._block.sample(rng, n, maximal=True)) - idle
        top = (gain > 0.5 * most) & (gain > 0)
        top[1::2] = False
        random[top] = arms.n_states - 1
        low = np.zeros((1, arms.n_arms))
        return np.concatenate([low, low + 1, unit, 1 - unit, random]).astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[StateArray, dict[str, Any]]:
        """Start an episode, in ``options["state"]`` if given.

        Raises
        ------
        ValueError
            If the state is not a vector of J integers 0..n-1, or an option is unknown.
        """
        super().reset(seed=seed)
        start, luck = self.draw_episode(self.np_random)
        if options:
            unknown = set(options) - {"state"}
            if unknown:
                raise ValueError(f"unknown reset options {sorted(unknown)}; known is 'state'")
            start = self._check_state(options["state"]).astype(np.float32)
        self._state = start.astype(np.intp)
        self._luck = luck
        self._steps = 0
        return start, {}

    def draw_episode(self, rng: np.random.Generator) -> tuple[StateArray, FloatArray]:
        """Draw the start state of an episode, shape (J,), and its luck, shape (horizon, J)."""
        return self.start_states(rng, 1)[0], rng.random((self.horizon, self.arms.n_arms))

    def step(self, action: ActionArray) -> tuple[StateArray, float, bool, bool, dict[str, Any]]:
        """Move the arms.

        Raises
        ------
        ValueError
            If the action is not feasible, with the violated constraints.
        gymnasium.error.ResetNeeded
            If the episode is over or has not begun.
        """
        violations = self._block.violations(action)
        if violations:
            raise ValueError(f"infeasible action: {'; '.join(violations)}")
        if self._steps >= len(self._luck):
            raise gym.error.ResetNeeded("the episode is over or has not begun; call reset() first")
        up = self.up_probability(action)
        self._state = self.arms.move(self._state, up, self._luck[self._steps])
        self._steps += 1
        reward = float(self.arms.reward(self._state))
        return self._state.astype(np.float32), reward, False, self._steps >= self.horizon, {}

    def _check_state(self, state: ArrayLike) -> NDArray[np.intp]:
        """Return one state as indices, shape (J,), or raise ``ValueError``."""
        if np.ndim(state) != 1:
            raise ValueError(f"a state must be a vector, got shape {np.shape(state)}")
        return self.arms.check_states(state)
