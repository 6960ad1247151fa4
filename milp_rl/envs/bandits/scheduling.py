"""The scheduling domain: workers serve arms in the time slots in which both are available.

Domain 3 of Xu, Wilder, Khalil and Tambe (ICLR 2025): an arm that is acted on takes two
worker-slots; a worker serves one arm per slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from milp_rl.envs.bandits.additive import AdditiveBandit, AdditiveInstance, draw_probabilities
from milp_rl.envs.bandits.instance import draw_rewards, first_are_good, rewards_of
from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.spaces.scheduling import Scheduling

NEED = 2
N_SLOTS, WORKER_SLOTS, ARM_SLOTS = 5, 3, 2


@dataclass(frozen=True, eq=False)
class SchedulingInstance(AdditiveInstance):
    """One bandit whose arms are served in time slots.

    Parameters
    ----------
    rewards
        Reward of each arm in each state, shape (J, n).
    acting
        Probability of moving up when acted on, shape (J,), in [0, 1].
    passive
        Probability of moving up when not acted on, shape (J,), in [0, 1].
    worker_slots
        Which workers are available in which slots, zeros and ones, shape (B, slots).
    arm_slots
        Which arms are available in which slots, zeros and ones, shape (J, slots).
    horizon
        Steps per episode, at least 1.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range.
    """

    domain: ClassVar[str] = "scheduling"

    rewards: FloatArray
    acting: FloatArray
    passive: FloatArray
    worker_slots: BoolArray
    arm_slots: BoolArray
    horizon: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_slots("worker_slots", (None, None))
        self._check_slots("arm_slots", (self.n_arms, self.worker_slots.shape[1]))

    @property
    def budget(self) -> int:
        """Number of workers B, also the largest number of arms acted on."""
        return len(self.worker_slots)

    @classmethod
    def generate(cls, n_arms: int = 10, budget: int = 3, *, horizon: int = 20, seed: int) -> Self:
        """Draw an instance as in the paper; the same arguments give the same instance.

        Rewards as in :func:`.instance.draw_rewards`, probabilities as in
        :func:`.additive.draw_probabilities`; of 5 slots, each worker is available in 3 random
        ones and each arm in 2, such that at least one arm can be served (otherwise there would
        be nothing to decide).

        Parameters
        ----------
        n_arms
            Number of arms J, at least ``budget``.
        budget
            Number of workers B, at least 1; also the number of good arms, and the largest number
            of arms acted on.
        horizon
            Steps per episode.
        seed
            Seed of the generator.
        """
        rng = np.random.default_rng(seed)
        rewards, _ = draw_rewards(rng, n_arms, budget)
        acting, passive = draw_probabilities(rng, n_arms)
        while True:
            worker_slots = _draw_slots(rng, budget, WORKER_SLOTS)
            arm_slots = _draw_slots(rng, n_arms, ARM_SLOTS)
            if ((arm_slots * worker_slots.sum(axis=0)).sum(axis=1) >= NEED).any():
                return cls(rewards, acting, passive, worker_slots, arm_slots, horizon)

    @classmethod
    def published(cls, n_arms: int = 20, budget: int = 5, *, horizon: int = 20, seed: int) -> Self:
        """Draw an instance as the published code does; the same arguments give the same instance.

        The first B arms are the good ones. The 5 slots have a popularity each, drawn once: of
        these in ascending order, each arm draws 2 slots by it, without replacement; of these in
        descending order each worker 3. So arms ask for slots in which few workers are there, and
        fewer sets of arms can be served than with the slots of :meth:`generate`, all alike. Such
        that at least one arm can be served.

        Parameters
        ----------
        n_arms, budget, horizon, seed
            As for :meth:`generate`.
        """
        rng = np.random.default_rng(seed)
        rewards = rewards_of(rng, first_are_good(n_arms, budget))
        acting, passive = draw_probabilities(rng, n_arms)
        while True:
            popularity = np.sort(rng.random(N_SLOTS))
            popularity /= popularity.sum()
            worker_slots = _draw_slots_by(rng, budget, WORKER_SLOTS, popularity[::-1])
            arm_slots = _draw_slots_by(rng, n_arms, ARM_SLOTS, popularity)
            if ((arm_slots * worker_slots.sum(axis=0)).sum(axis=1) >= NEED).any():
                return cls(rewards, acting, passive, worker_slots, arm_slots, horizon)


class SchedulingBandit(AdditiveBandit):
    """A restless bandit whose arms are served by workers in time slots.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of a :class:`~milp_rl.Scheduling`: a binary
    vector, int8, shape (J,), with a one for each arm served, at most B of them. Each arm served
    gets 2 worker-slots in which it and the worker are available, and a worker serves one arm per
    slot; the schedule is not part of the action.

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
    instance = SchedulingInstance.generate(20, 5, seed=0)
    gymnasium.make("milp_rl/SchedulingBandit-v0", instance=instance)
    ```

    Parameters
    ----------
    instance
        Arms and slots; by default ``SchedulingInstance.generate(seed=0)``.
    """

    instance: SchedulingInstance

    def __init__(self, instance: SchedulingInstance | None = None) -> None:
        instance = SchedulingInstance.generate(seed=0) if instance is None else instance
        block = Scheduling(
            instance.worker_slots,
            instance.arm_slots,
            needs=NEED,
            budget=min(instance.budget, instance.n_arms),
        )
        super().__init__(instance, block)


def _draw_slots(rng: np.random.Generator, rows: int, available: int) -> NDArray[np.bool_]:
    """Make each row available in random slots."""
    return np.argsort(rng.random((rows, N_SLOTS)), axis=1) < available


def _draw_slots_by(
    rng: np.random.Generator, rows: int, available: int, popularity: FloatArray
) -> NDArray[np.bool_]:
    """Make each row available in slots drawn without replacement by their popularity."""
    slots = np.zeros((rows, N_SLOTS), dtype=bool)
    for row in slots:
        row[rng.choice(N_SLOTS, available, replace=False, p=popularity)] = True
    return slots
