"""The budget domain: at most B arms are acted on, with no further constraint.

The restless bandit in its plain form, for which index policies exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from milp_rl.envs.bandits.additive import AdditiveBandit, AdditiveInstance, draw_probabilities
from milp_rl.envs.bandits.instance import draw_rewards
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.spaces.budget import BudgetTopK


@dataclass(frozen=True, eq=False)
class BudgetInstance(AdditiveInstance):
    """One bandit in which at most ``budget`` arms are acted on.

    Parameters
    ----------
    rewards
        Reward of each arm in each state, shape (J, n).
    acting
        Probability of moving up when acted on, shape (J,), in [0, 1].
    passive
        Probability of moving up when not acted on, shape (J,), in [0, 1].
    budget
        Largest number of arms acted on, 1 to J.
    horizon
        Steps per episode, at least 1.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range.
    """

    domain: ClassVar[str] = "budget"

    rewards: FloatArray
    acting: FloatArray
    passive: FloatArray
    budget: int
    horizon: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_integer("budget", 1, self.n_arms)

    @classmethod
    def generate(cls, n_arms: int = 10, budget: int = 3, *, horizon: int = 20, seed: int) -> Self:
        """Draw an instance as in the paper; the same arguments give the same instance.

        Rewards as in :func:`.instance.draw_rewards`, probabilities as in
        :func:`.additive.draw_probabilities`.

        Parameters
        ----------
        n_arms
            Number of arms J, at least ``budget``.
        budget
            Largest number of arms acted on, at least 1; also the number of good arms.
        horizon
            Steps per episode.
        seed
            Seed of the generator.
        """
        rng = np.random.default_rng(seed)
        rewards, _ = draw_rewards(rng, n_arms, budget)
        acting, passive = draw_probabilities(rng, n_arms)
        return cls(rewards, acting, passive, budget, horizon)


class BudgetBandit(AdditiveBandit):
    """A restless bandit in which at most B arms are acted on.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of a :class:`~milp_rl.BudgetTopK`: a binary
    vector, int8, shape (J,), with a one for each arm acted on, at most ``budget`` of them.

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
    ``import milp_rl.envs`` registers the environment.

    ```python
    gymnasium.make("milp_rl/BudgetBandit-v0", instance=BudgetInstance.generate(20, 5, seed=0))
    ```

    Parameters
    ----------
    instance
        Arms and budget; by default ``BudgetInstance.generate(seed=0)``.
    """

    instance: BudgetInstance

    def __init__(self, instance: BudgetInstance | None = None) -> None:
        instance = BudgetInstance.generate(seed=0) if instance is None else instance
        super().__init__(instance, BudgetTopK(instance.n_arms, instance.budget))
