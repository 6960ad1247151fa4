"""The capacity domain: workers of limited capacity serve arms of different cost.

Domain 4 of Xu, Wilder, Khalil and Tambe (ICLR 2025): the arms assigned to a worker cost at most
its capacity; an arm that is served is acted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from milp_rl.envs.bandits.additive import AdditiveBandit, AdditiveInstance, draw_probabilities
from milp_rl.envs.bandits.instance import draw_rewards
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.spaces.capacity import Capacity


@dataclass(frozen=True, eq=False)
class CapacityInstance(AdditiveInstance):
    """One capacity-constrained bandit.

    Parameters
    ----------
    rewards
        Reward of each arm in each state, shape (J, n).
    acting
        Probability of moving up when acted on, shape (J,), in [0, 1].
    passive
        Probability of moving up when not acted on, shape (J,), in [0, 1].
    costs
        Cost of serving each arm, shape (J,), nonnegative.
    capacities
        Capacity of each worker, shape (B,), nonnegative.
    horizon
        Steps per episode, at least 1.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range.
    """

    domain: ClassVar[str] = "capacity"

    rewards: FloatArray
    acting: FloatArray
    passive: FloatArray
    costs: FloatArray
    capacities: FloatArray
    horizon: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_array("costs", (self.n_arms,))
        self._check_array("capacities", (None,))

    @property
    def n_workers(self) -> int:
        """Number of workers B."""
        return len(self.capacities)

    @property
    def budget(self) -> int:
        """Number of workers B."""
        return self.n_workers

    @classmethod
    def generate(
        cls, n_arms: int = 10, n_workers: int = 3, *, horizon: int = 20, seed: int
    ) -> Self:
        """Draw an instance as in the paper; the same arguments give the same instance.

        Rewards as in :func:`.instance.draw_rewards`, probabilities as in
        :func:`.additive.draw_probabilities`; costs uniform on 2..6; capacities uniform on 2..7,
        of which at least one is large enough for the cheapest arm (otherwise there would be
        nothing to decide).

        Parameters
        ----------
        n_arms
            Number of arms J, at least ``n_workers``.
        n_workers
            Number of workers B, at least 1; also the number of good arms.
        horizon
            Steps per episode.
        seed
            Seed of the generator.
        """
        rng = np.random.default_rng(seed)
        rewards, _ = draw_rewards(rng, n_arms, n_workers, "n_workers")
        acting, passive = draw_probabilities(rng, n_arms)
        costs = rng.integers(2, 7, size=n_arms).astype(np.float64)
        capacities = rng.integers(2, 8, size=n_workers).astype(np.float64)
        while capacities.max() < costs.min():
            capacities = rng.integers(2, 8, size=n_workers).astype(np.float64)
        return cls(rewards, acting, passive, costs, capacities, horizon)


class CapacityBandit(AdditiveBandit):
    """A restless bandit whose arms are served by workers of limited capacity.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of a :class:`~milp_rl.Capacity`: a binary vector,
    int8, shape (J,), with a one for each arm served. Arms served can be divided among the workers
    such that those of each worker cost at most its capacity; the division is not part of the
    action.

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
    gymnasium.make("milp_rl/CapacityBandit-v0", instance=CapacityInstance.generate(20, 5, seed=0))
    ```

    Parameters
    ----------
    instance
        Arms, costs and capacities; by default ``CapacityInstance.generate(seed=0)``.
    """

    instance: CapacityInstance

    def __init__(self, instance: CapacityInstance | None = None) -> None:
        instance = CapacityInstance.generate(seed=0) if instance is None else instance
        super().__init__(instance, Capacity(instance.costs, instance.capacities))
