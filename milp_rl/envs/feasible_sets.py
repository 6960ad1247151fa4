"""The feasible sets of an environment whose set may differ from state to state.

An environment's ``action_space_block`` has to be a function of the state: a set is asked for again
when a remembered transition is learnt from, or when training goes on from a file. While all states
met have had one set, nothing is done for each state but to look.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from milp_rl.envs.fixed_set import (
    FixedSet,
    check_observations,
    difference,
    feasible_set,
    shown,
)
from milp_rl.formulations.spaces.base import ActionSpace

_REMEMBERED = 10_000


class FeasibleSets(FixedSet):
    """The feasible set of each state of an environment.

    Equal sets are the same object, a copy of what the environment returned first; the sets of the
    last 10,000 states are remembered.

    Parameters
    ----------
    env, state, user, space
        As for :class:`~milp_rl.envs.fixed_set.FixedSet`.
    check
        Called with every new set; raises ``ValueError`` if it does not fit.

    Attributes
    ----------
    space
        The set in the first state.
    varies
        Whether another set than that was met.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        state: Any,
        user: str,
        space: ActionSpace | None = None,
        check: Callable[[ActionSpace], None] | None = None,
    ) -> None:
        super().__init__(env, state, user, space)
        self.space = copy.deepcopy(self.space)  # the environment may change its own in place
        self.varies = self._looked = False
        self._check = check
        self._dtype = env.observation_space.dtype
        self._alike = WeakValueDictionary({_key(self._description): self.space})
        self._known: dict[bytes, ActionSpace] = {}
        self._last: tuple[Any, ActionSpace] | None = None  # the state met last, and its set
        if space is None:
            self._last = self._as_observed(state), self.space

    def at(self, state: Any) -> ActionSpace:
        """Return the set in a state that is met now, after a look at the environment's.

        Raises
        ------
        ValueError
            If it has another number or kind of variables than the first, or the environment's set
            does not depend on the state alone.
        """
        rounded = self._as_observed(state)
        space = self._asked(rounded)
        last, self._last = self._last, (rounded, space)
        self.varies = self.varies or space is not self.space
        if not self.varies:
            return space
        if not np.array_equal(rounded, state):
            self._expect(state, space, "and as it is learnt from, in float32, ")
        if last is not None and last[1] is not space:
            self._expect(*last, "and in the same state before, ")
        key = _bytes(state)
        if self._known.get(key, space) is not space:
            self._expect(rounded, self._known[key], "and in the same state before, ")
        self._remember(key, space)
        return space

    def in_state(self, state: Any) -> ActionSpace:
        """Return the set in a state, as remembered, or else as the environment has it."""
        if not self.varies:
            return self.space
        key = _bytes(state)
        found = self._known.get(key)
        if found is None:
            found = self._asked(self._as_observed(state))
            self._remember(key, found)
        return found

    def in_states(self, states: NDArray[Any]) -> list[ActionSpace] | None:
        """Return the set in each state, or ``None`` where one set is that of all."""
        return [self.in_state(state) for state in states] if self.varies else None

    def _asked(self, state: Any) -> ActionSpace:
        """Return the environment's set in a state, the same object for equal sets."""
        found = feasible_set(self.env, state)
        description = found.to_dict()
        if description == self._description:
            return self.space
        if not self._looked:
            self._looked = True
            check_observations(self.env, state)
        known = self._alike.get(_key(description))
        if known is not None:
            return known
        if not np.array_equal(found.continuous, self.space.continuous):
            counts = [
                f"{s.n_actions} variables, {int(s.continuous.sum())} of them continuous"
                for s in (found, self.space)
            ]
            raise ValueError(
                f"the feasible set has {counts[0]} in state {shown(state)}, and {counts[1]}"
                f" {self._whence}: sets may differ from state to state, but not in number or kind"
                " of variables. Keep a variable for every action, and bound by zero what a state"
                " does not allow, such as with milp_rl.Box(lower, upper, binary=range(n))"
            )
        if self._check is not None:
            self._check(found)
        self._alike[_key(description)] = space = copy.deepcopy(found)
        return space

    def _expect(self, state: Any, space: ActionSpace, where: str) -> None:
        """Refuse an environment whose set in a state is not this one."""
        found, expected = feasible_set(self.env, state).to_dict(), space.to_dict()
        if found != expected:
            what, now, other = difference(found, expected)
            raise ValueError(
                f"the feasible set does not depend on the observed state alone: {what} is {now} in"
                f" state {shown(state)}, {where}it is {other}. {self._user} asks for the set of a"
                " state again when it learns from it: put what the set depends on into the"
                " observation, in float32, and compute it from the state that action_space_block is"
                " given"
            )

    def _as_observed(self, state: Any) -> NDArray[Any]:
        """Return a state as a learner remembers it, in float32, as an observation."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(state, dtype=np.float32).astype(self._dtype)

    def _remember(self, key: bytes, space: ActionSpace) -> None:
        self._known[key] = space
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]


def _bytes(state: Any) -> bytes:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(state, dtype=np.float32).tobytes()


def _key(description: dict[str, Any]) -> str:
    return json.dumps(description, sort_keys=True)
