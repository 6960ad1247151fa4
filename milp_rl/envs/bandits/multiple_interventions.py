r"""The multiple-interventions domain: each action moves several arms, each arm needs several.

Domain 1 of Xu, Wilder, Khalil and Tambe (ICLR 2025): exactly B of N interventions are chosen; with
:math:`w_j` the weights of the interventions on arm j, the arm moves up with probability

.. math:: 0.01 + 0.98 \, a_j \, (\sigma(b_j w_j^T a - x_j) - \sigma(-x_j)).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from milp_rl.envs.bandits.instance import (
    BanditInstance,
    draw_rewards,
    first_are_good,
    rewards_of,
)
from milp_rl.envs.bandits.restless_bandit import ArmChains, RestlessBandit
from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.networks.piecewise import relu_pieces, sigmoid_chord_error, sigmoid_points
from milp_rl.formulations.spaces.budget import BudgetTopK

LOWEST, RANGE = 0.01, 0.98
TOUCHED, WEIGHT = 3, 3.0
ONE_STEP_ERROR = 1e-3
_MOST_ATTAINABLE = 64


@dataclass(frozen=True, eq=False)
class MultipleInterventionsInstance(BanditInstance):
    """One bandit whose arms respond to several interventions together.

    Parameters
    ----------
    rewards
        Reward of each arm in each state, shape (J, n).
    strength
        How much interventions can do for each arm, a in the paper, shape (J,), in [0, 1].
    steepness
        How fast each arm responds, b in the paper, shape (J,), nonnegative.
    threshold
        What it takes to move each arm, shape (J,), nonnegative.
    weights
        Effect of each intervention on each arm, shape (J, N), nonnegative.
    budget
        Number of interventions chosen, 1 to N.
    horizon
        Steps per episode, at least 1.
    exactly
        Whether exactly ``budget`` interventions are chosen, as in the paper, or at most.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range.
    """

    domain: ClassVar[str] = "multiple_interventions"

    rewards: FloatArray
    strength: FloatArray
    steepness: FloatArray
    threshold: FloatArray
    weights: FloatArray
    budget: int
    horizon: int = 20
    exactly: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_array("strength", (self.n_arms,), 0.0, 1.0)
        self._check_array("steepness", (self.n_arms,))
        self._check_array("threshold", (self.n_arms,))
        self._check_array("weights", (self.n_arms, None))
        self._check_integer("budget", 1, self.weights.shape[1])
        if not isinstance(self.exactly, bool):
            raise ValueError(f"exactly must be true or false, got {self.exactly!r}")

    @classmethod
    def generate(
        cls,
        n_arms: int = 10,
        budget: int = 3,
        *,
        n_actions: int | None = None,
        horizon: int = 20,
        seed: int,
    ) -> Self:
        """Draw an instance as in the paper; the same arguments give the same instance.

        Rewards as in :func:`.instance.draw_rewards`. Every intervention has weight 3 on 3 random
        arms. Good arms respond only to several interventions together: strength uniform on
        [0.7, 1), steepness on [1.4, 1.9), threshold 9 or 10. The others respond to one: strength
        on [0.2, 0.5), steepness 1, threshold 1 or 2.

        Parameters
        ----------
        n_arms
            Number of arms J, at least ``budget``.
        budget
            Number of interventions chosen, at least 1; also the number of good arms.
        n_actions
            Number of interventions N, at least ``budget``; by default half the arms, but at least
            ``budget``.
        horizon
            Steps per episode.
        seed
            Seed of the generator.
        """
        rng = np.random.default_rng(seed)
        rewards, good = draw_rewards(rng, n_arms, budget)
        n = max(n_arms // 2, budget) if n_actions is None else int(n_actions)
        if n < budget:
            raise ValueError(f"need n_actions >= budget, got n_actions={n}, budget={budget}")
        strength = np.where(
            good, rng.uniform(0.7, 1.0, size=n_arms), rng.uniform(0.2, 0.5, size=n_arms)
        )
        steepness = np.where(good, rng.uniform(1.4, 1.9, size=n_arms), 1.0)
        threshold = np.where(
            good, rng.integers(9, 11, size=n_arms), rng.integers(1, 3, size=n_arms)
        )
        touched = np.argsort(rng.random((n, n_arms)), axis=1) < TOUCHED
        weights = np.asarray(WEIGHT * touched.T, dtype=np.float64)
        return cls(rewards, strength, steepness, threshold.astype(float), weights, budget, horizon)

    @classmethod
    def published(cls, n_arms: int = 20, budget: int = 5, *, horizon: int = 20, seed: int) -> Self:
        """Draw an instance as the published code does; the same arguments give the same instance.

        Of the N interventions, half the arms but at least B, B are good. Arms from number
        J B / N on, rounded up, respond only to several interventions together: strength uniform on
        [0.7, 1], steepness on [1.4, 1.9], both rounded to 0.1, threshold 9 or 10; the others
        respond to one: strength uniform on [0.2, 0.5], steepness 1, threshold 1 or 2. Good
        interventions are for the former, the others for the latter: three at a time have weight 3
        on the same three arms, and each that is left over on three arms that no other has (or as
        many as there are).

        The first B arms have the high rewards, and these are not those that respond to several
        interventions: a myopic policy is then nearly as good as any. In :meth:`grouped` they are.

        Parameters
        ----------
        n_arms, budget, horizon, seed
            As for :meth:`generate`.
        """
        return cls._in_groups(n_arms, budget, horizon, seed, rewarding=False)

    @classmethod
    def grouped(cls, n_arms: int = 20, budget: int = 5, *, horizon: int = 20, seed: int) -> Self:
        """Draw an instance in groups whose arms have the high rewards, the domain's point.

        As :meth:`published`, except that the B arms of high rewards are those that three good
        interventions move together, then those that one of the good ones has an effect on, and
        then others: a myopic policy, which sees no reward above the first ones, does not get
        there.

        Parameters
        ----------
        n_arms, budget, horizon, seed
            As for :meth:`generate`.
        """
        return cls._in_groups(n_arms, budget, horizon, seed, rewarding=True)

    @classmethod
    def _in_groups(
        cls, n_arms: int, budget: int, horizon: int, seed: int, *, rewarding: bool
    ) -> Self:
        rng = np.random.default_rng(seed)
        good = first_are_good(n_arms, budget)
        n = max(n_arms // 2, budget)
        several = np.arange(n_arms) >= -(-n_arms * budget // n)
        weights = np.zeros((n_arms, n))
        _touch(rng, weights[:, :budget], several)
        _touch(rng, weights[:, budget:], ~several)
        if rewarding:
            moved = weights[:, :budget].sum(axis=1)
            good = np.zeros(n_arms, dtype=bool)
            good[np.argsort(-moved, kind="stable")[:budget]] = True
        strength = np.where(
            several, rng.uniform(0.7, 1.0, n_arms).round(1), rng.uniform(0.2, 0.5, n_arms)
        )
        steepness = np.where(several, rng.uniform(1.4, 1.9, n_arms).round(1), 1.0)
        threshold = np.where(several, rng.integers(9, 11, n_arms), rng.integers(1, 3, n_arms))
        return cls(
            rewards_of(rng, good),
            strength,
            steepness,
            threshold.astype(float),
            weights,
            budget,
            horizon,
        )


def _touch(rng: np.random.Generator, weights: FloatArray, kind: BoolArray) -> None:
    """Give interventions, columns, their effects on arms of a kind: three share three arms."""
    left = rng.permutation(np.flatnonzero(kind))
    n, column = weights.shape[1], 0
    while column < n and len(left):
        together = TOUCHED if n - column >= TOUCHED else 1
        arms, left = left[:TOUCHED], left[TOUCHED:]
        weights[np.ix_(arms, np.arange(column, column + together))] = WEIGHT
        column += together


class MultipleInterventionsBandit(RestlessBandit):
    """A restless bandit whose arms respond to several interventions together.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of a :class:`~milp_rl.BudgetTopK`: a binary
    vector, int8, shape (N,), with a one for each intervention chosen, exactly ``budget`` of them
    (at most ``budget`` with ``exactly=False``).

    Observation Space
    -----------------
    ``Box(0, n - 1, (J,), float32)``: the state of each arm, an index 0..n-1 as a float, so that it
    feeds a network as it is. Generated instances have n = 4.

    Rewards
    -------
    The sum over arms of ``rewards[j, s]``, s the state that arm j moves to, not the mean. An arm
    moves one up with the probability of :meth:`up_probability`, otherwise one down, within 0..n-1.

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
    instance = MultipleInterventionsInstance.generate(20, 5, seed=0)
    gymnasium.make("milp_rl/MultipleInterventionsBandit-v0", instance=instance)
    ```

    Parameters
    ----------
    instance
        Arms and interventions; by default ``MultipleInterventionsInstance.generate(seed=0)``.
    """

    def __init__(self, instance: MultipleInterventionsInstance | None = None) -> None:
        self.instance = (
            MultipleInterventionsInstance.generate(seed=0) if instance is None else instance
        )
        block = BudgetTopK(
            self.instance.weights.shape[1], self.instance.budget, exactly=self.instance.exactly
        )
        super().__init__(ArmChains(self.instance.rewards), block, self.instance.horizon)

    def up_probability(self, action: ArrayLike) -> FloatArray:
        """Return what the formula at the top of the module says."""
        i, a = self.instance, np.asarray(action)
        if a.shape[-1:] != (self._block.n_actions,):
            raise ValueError(f"an action has shape (..., {self._block.n_actions}), got {a.shape}")
        raised = expit(i.steepness * (a @ i.weights.T) - i.threshold) - expit(-i.threshold)
        return np.asarray(LOWEST + RANGE * i.strength * raised)

    def one_step_network(self, state: ArrayLike) -> Network:
        """Return the expected reward of one step with each arm's sigmoid piecewise linear.

        The breakpoints are all values that an arm's exponent can take, which makes the network
        exact at every action; where there are more than 64, they are chosen such that the errors
        of all arms together stay below :attr:`one_step_error`.
        """
        above, below = self.arms.next_rewards(self._check_state(state))
        weight, bias, pieces, arm = self._pieces
        nothing = self.expected_reward(state, np.zeros(self._block.n_actions))
        output = (above - below)[arm] * pieces
        return Network.from_arrays([weight, output[None]], [bias, [nothing]])

    @cached_property
    def one_step_error(self) -> float:
        """Largest error of :meth:`one_step_network`: 0 if exact, below 1e-3 otherwise."""
        return float(
            sum(
                0.0 if attainable else largest * sigmoid_chord_error(points)
                for largest, (points, attainable) in zip(
                    self._largest_effect, self._breakpoints, strict=True
                )
            )
        )

    @cached_property
    def _largest_effect(self) -> FloatArray:
        """Most that a unit of an arm's sigmoid changes the expected reward, in any state."""
        states = np.arange(self.arms.n_states)[:, None] + np.zeros(self.arms.n_arms, dtype=int)
        above, below = self.arms.next_rewards(states)
        return np.asarray(RANGE * self.instance.strength * np.abs(above - below).max(axis=0))

    @cached_property
    def _breakpoints(self) -> list[tuple[FloatArray, bool]]:
        """Breakpoints of each arm's exponent, and whether they are all that it can take."""
        i = self.instance
        share = ONE_STEP_ERROR / (2 * self.arms.n_arms)
        result = []
        for b, x, weights, effect in zip(
            i.steepness, i.threshold, i.weights, self._largest_effect, strict=True
        ):
            sums = np.zeros(1)
            for weight in weights[weights > 0]:
                sums = np.unique(np.concatenate([sums, sums + weight]).round(12))
                if len(sums) > _MOST_ATTAINABLE:
                    break
            attainable = len(sums) <= _MOST_ATTAINABLE
            if not attainable and b > 0:
                points = sigmoid_points(-x, b * weights.sum() - x, share / max(effect, share))
            else:
                points = np.unique(b * sums - x)
            result.append((points, attainable or b == 0))
        return result

    @cached_property
    def _pieces(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Hidden layer of the one-step network, its output weights, and the arm of each neuron."""
        i = self.instance
        weight, bias, pieces, arms = [], [], [], []
        for j, (points, _) in enumerate(self._breakpoints):
            for piece, point in zip(relu_pieces(points, expit(points)), points, strict=False):
                weight.append(i.steepness[j] * i.weights[j])
                bias.append(-i.threshold[j] - point)
                pieces.append(RANGE * i.strength[j] * piece)
                arms.append(j)
        if not weight:  # nothing has any effect: a neuron that is never on
            n = self._block.n_actions
            return np.zeros((1, n)), np.full(1, -1.0), np.zeros(1), np.zeros(1, dtype=np.intp)
        return np.array(weight), np.array(bias), np.array(pieces), np.array(arms)
