"""The intersection of action spaces, ``a & b``."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.spaces.base import INTEGRALITY, ActionSpace
from milp_rl.formulations.spaces.composite import Overlaid
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.spaces.sampling import built_at_random

_TRIES = 20
_SLACK = 1e-5  # of bounds of continuous variables, which members need not meet to the last digit
_MOST_ASKED = 1000  # variables of which the members' oracles are asked for the ranges


class Intersection(Overlaid):
    r"""The actions that are feasible for every member; written ``a & b``.

    .. math:: A = A_1 \cap \dots \cap A_m, \qquad
              \max_{x \in A} c x \le \min_j \max_{x \in A_j} c x

    A variable is continuous if it is for every member, and binary if it is whole and between 0 and
    1 by any of them.

    ``linear_max`` is the smallest of the members' (a relaxation), with actions that one member
    forces to zero or one fixed for all.

    Parameters
    ----------
    members
        One or more spaces over the same number of actions.
    names
        Names of the members for :meth:`decode`; ``None`` to call one by its class.

    Raises
    ------
    ValueError
        If there is no member, one is not a space, their numbers of actions differ, or names repeat.

    Examples
    --------
    >>> import milp_rl as mr
    >>> space = mr.BudgetTopK(3, 2) & mr.Capacity(costs=[2, 2, 1], capacities=[2, 1])
    >>> space.violations([1, 1, 0])
    ['2 arms of total cost 4 do not fit the workers, whose total capacity is 3: 1 too much']
    >>> space.enumerate()
    array([[0, 0, 0],
           [1, 0, 0],
           [1, 0, 1],
           [0, 1, 0],
           [0, 1, 1],
           [0, 0, 1]], dtype=int8)
    >>> space.linear_max([[3.0, 2.0, 1.0]])
    array([4.])
    >>> space.decode([1, 0, 1])
    {'BudgetTopK': [0, 2], 'Capacity': {0: 0, 2: 1}}
    """

    _verb = "intersect"

    @property
    def continuous(self) -> BoolArray:
        """Which variables are continuous for every member."""
        return np.asarray(np.all([member.continuous for member in self.members], axis=0))

    @property
    def lower(self) -> FloatArray:
        """The members' largest lower bounds, whole where a variable is not continuous."""
        largest = np.max([member.lower for member in self.members], axis=0)
        return np.asarray(np.where(self.continuous, largest, np.ceil(largest - INTEGRALITY)))

    @property
    def upper(self) -> FloatArray:
        """The members' smallest upper bounds, whole where a variable is not continuous."""
        smallest = np.min([member.upper for member in self.members], axis=0)
        return np.asarray(np.where(self.continuous, smallest, np.floor(smallest + INTEGRALITY)))

    def violations(self, action: ArrayLike) -> list[str]:
        """Collect the members' violations; a number that is of another domain is one."""
        a, found = self.check_action(action), []
        for member in self.members:
            wrong = np.flatnonzero(member.outside_domains(a))
            found += [f"action[{i}] is {a[i]:g}, and 0 or 1 for one of the spaces" for i in wrong]
            if not len(wrong):
                found += member.violations(a)
        return found

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check many actions, those of all members' domains by one member after another."""
        found = self._within(actions, self.n_actions)
        found[found] = super().feasible(actions[found])
        return found

    def _within(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell which actions are of all members' domains in their first variables."""
        found = np.ones(len(actions), dtype=bool)
        for member in self._of_other_domains:
            found &= ~member.outside_domains(actions)[:, :decided].any(axis=1)
        return found

    @cached_property
    def _of_other_domains(self) -> tuple[ActionSpace, ...]:
        """The members for which an action of the intersection's domains may be none."""
        if not (self.continuous | self.integer).any() and not self._crossed:
            return ()  # bits, which are of all domains
        return tuple(self.members)

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the smallest of the members' bounds; none where their variables' bounds cross."""
        if self._crossed:
            return np.full(len(c), -np.inf)
        held = self._with_forced(c, pins)
        bounds = [member.linear_max(c, held) for member in self.members]
        return np.asarray(np.min(bounds, axis=0))

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the point of the member whose bound is smallest."""
        held = self._with_forced(c, pins)
        tightest = np.argmin([m.linear_max(c, held) for m in self.members], axis=0)
        x = np.empty_like(c)
        for i, member in enumerate(self.members):
            own = tightest == i
            if own.any():
                x[own] = member.maximizers(c[own], held[own])
        return np.clip(x, self.lower, self.upper)

    @cached_property
    def _crossed(self) -> bool:
        """Whether a variable has no value: its largest lower bound is above its upper ones."""
        size = np.maximum(1.0, np.maximum(np.abs(self.lower), np.abs(self.upper)))
        return bool((self.lower > self.upper + _SLACK * size * self.continuous).any())

    def _with_forced(self, c: FloatArray, pins: Pins) -> Pins:
        """Hold what one member forces."""
        one, zero = self._forced
        return pins.and_one(one, c.shape).and_zero(zero, c.shape)

    @cached_property
    def _forced(self) -> tuple[BoolArray, BoolArray]:
        if self.n_actions > _MOST_ASKED:
            return self._surely_forced()
        unit = np.eye(self.n_actions)
        highest = np.min([member.linear_max(unit) for member in self.members], axis=0)
        lowest = -np.min([member.linear_max(-unit) for member in self.members], axis=0)
        own = self._zero_one
        return (lowest > 0.5) & own, (highest < 0.5) & own

    @property
    def _zero_one(self) -> BoolArray:
        return ~self.continuous & ~self.integer

    def _surely_forced(self) -> tuple[BoolArray, BoolArray]:
        """Return what bounds fix, and actions that a down-closed member never allows."""
        one, zero = self.lower > 0.5, self.upper < 0.5
        for member in self._binary_members:
            if member.down_closed:
                allowed = np.zeros(self.n_actions, dtype=bool)
                allowed[member.extensions(np.zeros(self.n_actions, dtype=np.int8))] = True
                zero = zero | ~allowed
        return one & self._zero_one, zero & self._zero_one

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the additions that every member allows, checked jointly where needed."""
        self.require_binary("built one by one")
        a = self.check_action(action)
        additions = self._allowed(a)
        if self._crossed:
            return additions[:0]
        if self.down_closed or not len(additions):
            return additions
        larger = np.tile(a, (len(additions), 1))
        larger[np.arange(len(additions)), additions] = 1
        found = self._completed_by_members(larger)
        for i in np.flatnonzero(~found):
            found[i] = self.completable(larger[i])
        return additions[found]

    def completable(self, action: ArrayLike) -> bool:
        """Whether some feasible action contains all ones of ``action``."""
        return not self._crossed and super().completable(action)

    def _allowed(self, a: ActionArray) -> NDArray[np.intp]:
        """Return the additions that every member allows."""
        allowed = set(np.flatnonzero(a == 0).tolist())
        for member in self._binary_members:
            allowed &= set(member.extensions(a).tolist())
        return np.array(sorted(allowed), dtype=np.intp)

    def _drawn(self, a: ActionArray, rng: np.random.Generator) -> NDArray[np.intp]:
        """Return one of :meth:`extensions` at random, none if there is none."""
        for i in rng.permutation(self._allowed(a)):
            larger = a.copy()
            larger[i] = 1
            if self._completed_by_members(larger[None])[0] or self.completable(larger):
                return np.array([i], dtype=np.intp)
        return np.array([], dtype=np.intp)

    def _completed_by_members(self, actions: ActionArray) -> BoolArray:
        """Tell which partial actions a member completes, by as little as it can, for all."""
        found = self.feasible(actions)
        for member in self._binary_members:
            if not member.down_closed:
                points = member.maximizers(-np.ones(actions.shape), Pins(one=actions == 1))
                found |= self.feasible(np.rint(points).astype(np.int8))
        return found

    @cached_property
    def _binary_members(self) -> tuple[ActionSpace, ...]:
        return tuple(member for member in self.members if member.binary)

    def _sample_one(self, rng: np.random.Generator, maximal: bool) -> ActionArray:
        """Draw from a member until feasible for all; after some tries, build step by step."""
        if self._crossed:
            raise ValueError("the space has no feasible action to sample")
        members = self._binary_members
        if members and not self.down_closed and not maximal:
            for _ in range(_TRIES):
                action: ActionArray = members[rng.integers(len(members))].sample(rng)[0]
                if not self.violations(action):
                    return action
        if self.down_closed or not self.binary:
            return super()._sample_one(rng, maximal)
        return built_at_random(
            self.n_actions,
            self.violations,
            lambda action: self._drawn(action, rng),
            rng,
            maximal=maximal,
        )

    @property
    def count_bound(self) -> float:
        """The least of the members' bounds."""
        return min(super().count_bound, *(member.count_bound for member in self.members))

    @property
    def oracle_seconds(self) -> float:
        """Of all members together."""
        return sum(member.oracle_seconds for member in self.members)

    @property
    def counts_quickly(self) -> bool:
        """True if every member does, and actions may be left out one by one."""
        return self.down_closed and all(member.counts_quickly for member in self.members)

    def _open(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell what is open for every member."""
        found = self._within(actions, decided)
        for member in self.members:
            found[found] = member._open(actions[found], decided)
        return found

    def __repr__(self) -> str:
        return self._written(" & ")
