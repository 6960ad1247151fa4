"""Restless bandits whose arms are coupled by a combinatorial action set (coRMAB).

The arms and their rewards are those of Xu, Wilder, Khalil and Tambe, "Reinforcement learning with
combinatorial actions for coupled restless bandits" (ICLR 2025), section 3. A domain adds the
feasible set and how an action drives each arm, see :mod:`milp_rl.envs.bandits.additive`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.envs.arms import Arms
from milp_rl.envs.known_model import KnownModelEnv, StateArray
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace

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


class RestlessBandit(KnownModelEnv):
    """Arms moved by the actions of a feasible set; the base of the domains.

    One uniform number per arm and step is drawn: arm j moves up where it is below the arm's
    probability.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of ``block``: a binary vector, int8, shape
    (n_actions,). :meth:`step` raises ``ValueError`` for an action that is not feasible.

    Observation Space
    -----------------
    ``Box(0, n - 1, (J,), float32)``: the state of each arm, an index 0..n-1 as a float, so that it
    feeds a network as it is. Generated instances have n = 4.

    Rewards
    -------
    The sum over arms of ``rewards[j, s]``, s the state that arm j moves to, not the mean. An arm
    moves one up with probability :meth:`up_probability`, otherwise one down, within 0..n-1.

    Starting State
    --------------
    Each arm independently in state 1 with probability 0.2, else in state 0; or the one given as
    ``options={"state": ...}`` to :meth:`reset`.

    Episode End
    -----------
    Truncated after ``horizon`` steps; never terminated.

    Arguments
    ---------
    A base class: a domain defines :meth:`up_probability` and :meth:`one_step_network`.

    Parameters
    ----------
    arms
        The chains and rewards.
    block
        The feasible set of actions.
    horizon
        Steps per episode, at least 1.

    Attributes
    ----------
    arm_layout
        The state of an arm and whether it is acted on; where actions are others, that states are
        not by action.
    """

    def __init__(self, arms: ArmChains, block: ActionSpace, horizon: int) -> None:
        states = gym.spaces.Box(0.0, float(arms.n_states - 1), (arms.n_arms,), np.float32)
        super().__init__(block, horizon, states, arms.n_arms)
        self.arms = arms
        j, n = arms.n_arms, block.n_actions
        self.arm_layout = Arms(j) if n == j else Arms(n, arm_features=0, shared_features=j)

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

    def check_states(self, states: ArrayLike) -> NDArray[np.intp]:
        """Return ``states``, shape (..., J), as indices, or raise ``ValueError``."""
        return self.arms.check_states(states)

    def expected_reward(self, state: ArrayLike, action: ArrayLike) -> FloatArray:
        """Return the expected sum over arms of the rewards of one step, shape (...)."""
        return self.arms.expected_reward(self.arms.check_states(state), self.up_probability(action))

    def transition(
        self, states: ArrayLike, actions: ArrayLike, uniforms: FloatArray
    ) -> tuple[StateArray, FloatArray]:
        """Move the arms; rewards are those of the states they move to."""
        current = self.arms.check_states(states)
        moved = self.arms.move(current, self.up_probability(actions), uniforms)
        return moved.astype(np.float32), self.arms.reward(moved)

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

    def _check_state(self, state: ArrayLike) -> NDArray[np.intp]:
        """Return one state as indices, shape (J,), or raise ``ValueError``."""
        if np.ndim(state) != 1:
            raise ValueError(f"a state must be a vector, got shape {np.shape(state)}")
        return self.arms.check_states(state)
