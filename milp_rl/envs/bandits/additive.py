"""Domains in which an action says which arms are acted on: the arms' rewards add up.

An arm moves up with its acting probability if acted on and with its passive one if not, so that
the expected reward of a step is linear in the action. The domains differ in which arms can be
acted on together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.envs.bandits.instance import BanditInstance
from milp_rl.envs.bandits.restless_bandit import ArmChains, RestlessBandit
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace


class AdditiveInstance(BanditInstance):
    """Base of the instances with an acting and a passive probability per arm."""

    if TYPE_CHECKING:

        @property
        def acting(self) -> FloatArray:
            """Probability of moving up when acted on, shape (J,)."""

        @property
        def passive(self) -> FloatArray:
            """Probability of moving up when not acted on, shape (J,)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("acting", "passive"):
            self._check_array(name, (self.n_arms,), 0.0, 1.0)


def draw_probabilities(rng: np.random.Generator, n_arms: int) -> tuple[FloatArray, FloatArray]:
    """Draw acting probabilities, uniform on [0.7, 0.9), and passive ones, uniform on [0, 0.2)."""
    return rng.uniform(0.7, 0.9, size=n_arms), rng.uniform(0.0, 0.2, size=n_arms)


class AdditiveBandit(RestlessBandit):
    """A restless bandit whose action says which arms are acted on; the base of four domains.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of ``block``: a binary vector, int8, shape (J,),
    with a one for each arm acted on.

    Observation Space
    -----------------
    ``Box(0, n - 1, (J,), float32)``: the state of each arm, an index 0..n-1 as a float, so that it
    feeds a network as it is. Generated instances have n = 4.

    Rewards
    -------
    The sum over arms of ``rewards[j, s]``, s the state that arm j moves to, not the mean. An arm
    moves one up with probability ``acting[j]`` if acted on, else ``passive[j]``, otherwise one
    down, within 0..n-1.

    Starting State
    --------------
    Each arm independently in state 1 with probability 0.2, else in state 0; or the one given as
    ``options={"state": ...}`` to :meth:`reset`.

    Episode End
    -----------
    Truncated after ``horizon`` steps, 20 by default; never terminated.

    Arguments
    ---------
    A base class; :class:`~milp_rl.envs.BudgetBandit`, :class:`~milp_rl.envs.CapacityBandit`,
    :class:`~milp_rl.envs.PathBandit` and :class:`~milp_rl.envs.SchedulingBandit` give it a block.

    Parameters
    ----------
    instance
        The arms.
    block
        Which arms can be acted on together.
    """

    instance: AdditiveInstance

    def __init__(self, instance: AdditiveInstance, block: ActionSpace) -> None:
        self.instance = instance
        super().__init__(ArmChains(instance.rewards), block, instance.horizon)

    def up_probability(self, action: ArrayLike) -> FloatArray:
        """Return the acting probability for arms acted on, the passive one for the others."""
        a = np.asarray(action)
        if a.shape[-1:] != (self.instance.n_arms,):
            raise ValueError(f"an action has shape (..., {self.instance.n_arms}), got {a.shape}")
        return np.where(a > 0, self.instance.acting, self.instance.passive)

    def action_gains(self, state: ArrayLike) -> FloatArray:
        """Return the expected one-step reward that acting on each arm adds.

        The expected reward of an action is that of doing nothing plus ``gains @ action``.

        Parameters
        ----------
        state
            Arm states, shape (J,).

        Returns
        -------
        numpy.ndarray
            Shape (J,).
        """
        above, below = self.arms.next_rewards(self._check_state(state))
        return np.asarray((self.instance.acting - self.instance.passive) * (above - below))

    def one_step_network(self, state: ArrayLike) -> Network:
        """Return the expected reward of one step, which is linear in the action, as a network."""
        nothing = self.expected_reward(state, np.zeros(self.instance.n_arms))
        return Network.from_arrays([self.action_gains(state)[None]], [[nothing]])
