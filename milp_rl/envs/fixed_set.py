"""The feasible set of an environment that has one set for all states, and a check that it does.

Whoever keeps one set for all states (a learner, its random play, its validation) compares it with
the environment's own in every state it meets: by :meth:`ActionSpace.to_dict`, which takes some
microseconds, sees blocks that were changed in place, and lets an environment build an equal block
in every call.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from milp_rl.envs.known_model import KnownModelEnv
from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.spaces.base import ActionSpace

_METHOD = "action_space_block"
_SHOWN = 120


def block_of(env: gym.Env[Any, Any]) -> Callable[[Any], Any] | None:
    """Return ``action_space_block`` of the outermost wrapper, or environment, that has it.

    Raises
    ------
    TypeError
        If it is no environment of Gymnasium's.
    """
    given: Any = env
    if not isinstance(given, gym.Env):
        what = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
        raise TypeError(
            f"an environment is an object of gymnasium.Env, such as gymnasium.make gives, got"
            f" {_short(what)}"
        )
    return env.get_wrapper_attr(_METHOD) if env.has_wrapper_attr(_METHOD) else None


def check_observations(env: gym.Env[Any, Any], state: Any) -> None:
    """Look for wrappers that change what a set that depends on the observation is asked with.

    They are around the wrapper, or the environment, whose ``action_space_block`` is asked.

    Raises
    ------
    ValueError
        If one of them scales or normalises observations.

    Warns
    -----
    UserWarning
        If one of them may give other observations, which that method may know of or not.
    """
    layer: Any = env
    scaling, others = [], []
    while isinstance(layer, gym.Wrapper):
        asks_within = getattr(layer, "asks_within", None)  # of vectors, which it undoes
        if asks_within is None:
            if _defines(layer):
                break
            if isinstance(layer, _SCALING):
                scaling.append(type(layer).__name__)
            elif _changes_observations(layer):
                others.append(type(layer).__name__)
        elif not asks_within:
            break
        layer = layer.env
    if not (scaling or others):
        return
    text = (
        f"action_space_block of {type(layer).__name__} depends on the observation (its set in state"
        f" {shown(state)} is not that of the first state), and is asked with what"
        f" {(scaling or others)[0]} makes of it. Define action_space_block on a wrapper outside of"
        " that, which is given the observations as they are there, or give the learner space=, a"
        " function of these that returns the set"
    )
    if scaling:
        raise ValueError(text)
    warnings.warn(text, stacklevel=2)


_SCALING = (gym.wrappers.NormalizeObservation, gym.wrappers.RescaleObservation)
_KEEPING = (gym.wrappers.DtypeObservation, gym.wrappers.TimeAwareObservation)
"""Wrappers whose observations begin with the numbers that they get."""


def _changes_observations(layer: gym.Wrapper[Any, Any, Any, Any]) -> bool:
    """Whether a wrapper may give other numbers than it gets."""
    within = layer.env.observation_space
    if isinstance(layer, _KEEPING):
        return False
    if isinstance(layer, gym.wrappers.FlattenObservation):
        return not (isinstance(within, gym.spaces.Box) and len(within.shape) == 1)
    return isinstance(layer, gym.ObservationWrapper) or layer.observation_space != within


def _defines(layer: Any) -> bool:
    return hasattr(type(layer), _METHOD) or _METHOD in vars(layer)


def same_in_all_states(env: gym.Env[Any, Any]) -> bool:
    """Whether the environment's feasible set does not see the state: that of a known model."""
    return getattr(block_of(env), "__func__", None) is KnownModelEnv.action_space_block


def feasible_set(env: gym.Env[Any, Any], state: Any) -> ActionSpace:
    """Return the environment's feasible set in a state, that is an observation.

    Raises
    ------
    ValueError
        If the environment has no ``action_space_block``, or it returns something else.
    """
    method = block_of(env)
    if method is None:
        raise ValueError(
            f"{type(env.unwrapped).__name__} has no action_space_block(state), its feasible set:"
            " define it, such as `def action_space_block(self, state): return"
            " milp_rl.BudgetTopK(n, k)` for at most k of n, or take"
            " milp_rl.envs.adapted(env), where all actions are feasible"
        )
    return checked_block(method(state))


def checked_block(block: Any) -> ActionSpace:
    """Return what an environment gives as its feasible set, or raise ``ValueError``."""
    if not isinstance(block, ActionSpace):
        raise ValueError(
            f"action_space_block(state) must return an action space, such as"
            f" milp_rl.BudgetTopK, got {type(block).__name__}"
        )
    return block


class FixedSet:
    """The feasible set of an environment, the same in all states.

    Parameters
    ----------
    env
        The environment, with ``action_space_block(state)`` of its own or of a wrapper.
    state
        Any state of it.
    user
        Who keeps one set, for messages.
    space
        The set that it keeps; by default the environment's in this state.

    Attributes
    ----------
    space
        The set.
    varies
        Whether another set was met: never.

    Raises
    ------
    ValueError
        If the environment has no feasible set.
    """

    def __init__(
        self, env: gym.Env[Any, Any], state: Any, user: str, space: ActionSpace | None = None
    ) -> None:
        self.env = env
        self.space = feasible_set(env, state) if space is None else space
        self.varies = False
        self._user = user
        self._first = np.array(state)
        self._whence = f"in state {shown(state)}" if space is None else "where it was given"
        self._description = copy.deepcopy(self.space.to_dict())

    def at(self, state: Any) -> ActionSpace:
        """Return the set, after a look at whether it is the environment's in this state.

        Raises
        ------
        ValueError
            If it is not.
        """
        found = feasible_set(self.env, state).to_dict()
        if found != self._description:
            what, now, before = difference(found, self._description)
            raise ValueError(
                f"the feasible set is not one for all states: {what} is {now} in state"
                f" {shown(state)}, and was {before} {self._whence}. {self._user} keeps one set for"
                " all states. Return one set from action_space_block in every state, and let step()"
                " ignore what a state does not allow"
            )
        return self.space

    def in_state(self, state: Any) -> ActionSpace:
        """Return the set, without a look at the environment's."""
        return self.space

    def in_states(self, states: NDArray[Any]) -> list[ActionSpace] | None:
        """Return ``None``: one set is that of all states."""
        return None

    def check_all(self, states: Iterable[Any]) -> None:
        """Check many states; raises as :meth:`at` does."""
        if same_in_all_states(self.env):
            self.at(self._first)
            return
        for state in states:
            self.at(state)


def drawn_in(
    space: ActionSpace, state: Any, rng: np.random.Generator, *, maximal: bool
) -> ActionArray:
    """Draw an action of the feasible set of a state.

    Raises
    ------
    ValueError
        If it has none: says in which state.
    """
    try:
        drawn: ActionArray = space.sample(rng, 1, maximal=maximal)[0]
        return drawn
    except ValueError as error:
        raise ValueError(
            f"no action can be drawn in state {shown(state)}: {error}. action_space_block must"
            " allow something in every state that does not end an episode, such as to do nothing"
        ) from error


def difference(found: Any, expected: Any, path: str = "the set") -> tuple[str, str, str]:
    """Return where two descriptions differ first, and both values there, as text."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            if found.get(key) != expected.get(key):
                inner = key if path == "the set" else f"{path}.{key}"
                return difference(found.get(key), expected.get(key), str(inner))
    pairs = isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected)
    if pairs and any(isinstance(value, dict | list) for value in found):
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            if one != other:
                return difference(one, other, f"{path}[{i}]")
    return path, _short(found), _short(expected)


def shown(state: Any) -> str:
    """Return a state as short text."""
    return _short(np.array2string(np.asarray(state), precision=5, separator=", ", threshold=20))


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
