"""Environments of any Gymnasium spaces as ones of vectors and a feasible set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from milp_rl.envs.action_codes import ActionCode, action_code
from milp_rl.envs.fixed_set import block_of, checked_block, shown
from milp_rl.envs.known_model import StateArray
from milp_rl.envs.observed import Resolution
from milp_rl.envs.spaces import FeasibleActions, FeasibleBox
from milp_rl.formulations.spaces.base import ActionSpace

FeasibleSet = ActionSpace | Callable[[Any], ActionSpace]
AnyEnv = gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]
_MASK = "action_mask"
_REMEMBERED = 1000  # feasible sets


class FlatEnv(gym.Wrapper[StateArray, NDArray[Any], Any, Any]):
    """An environment whose observations and actions are vectors, with a feasible set.

    Made by :func:`adapted`.

    Parameters
    ----------
    env
        The environment.
    code
        How its actions are vectors.
    feasible
        Its feasible set, or the function of its observations that gives it; by default all
        actions, those aside that an entry ``"action_mask"`` of the observation excludes.

    Raises
    ------
    ValueError
        If its observations have no vectors.
    """

    def __init__(
        self, env: gym.Env[Any, Any], code: ActionCode, feasible: FeasibleSet | None
    ) -> None:
        super().__init__(env)
        observed = env.observation_space
        if not observed.is_np_flattenable:
            raise ValueError(
                f"observations of {observed} have no vectors: wrap the environment in a"
                " gymnasium.ObservationWrapper that gives vectors"
            )
        self._observed = observed
        self._is_vector = isinstance(observed, gym.spaces.Box) and len(observed.shape) == 1
        self._code = code
        self._within = lru_cache(_REMEMBERED)(code.within)
        self._feasible = self._whole(feasible) if isinstance(feasible, ActionSpace) else feasible
        self.asks_within = feasible is not None and feasible == block_of(env)
        self._masked = feasible is None and _has_mask(observed, code)
        flat = gym.spaces.flatten_space(observed)
        assert isinstance(flat, gym.spaces.Box)
        wide = flat.dtype is not None and flat.dtype.itemsize > 4
        self._resolution = Resolution(flat.shape[0]) if wide else None
        with np.errstate(over="ignore"):
            low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)
        kind = FeasibleActions if code.space.binary else FeasibleBox
        self.action_space = kind(code.space)

    @property
    def unwrapped(self) -> gym.Env[Any, Any]:
        """The environment within; itself where that has a model of other states and actions."""
        inner = self.env.unwrapped
        same = self._is_vector and self._code.natural
        return inner if same or not hasattr(inner, "expected_reward") else self

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]  # as gymnasium.Wrapper does
        """How the environment within is made."""
        return self.env.spec

    def vector(self, observation: Any) -> StateArray:
        """Return the vector of an observation, float32, shape (state_dim,)."""
        flat = observation
        if not self._is_vector:
            flat = gym.spaces.flatten(self._observed, observation)
        if self._resolution is not None and self._resolution.look(flat):
            self._resolution = None
        with np.errstate(over="ignore"):
            return np.asarray(flat, dtype=np.float32)

    def observation(self, vector: NDArray[Any]) -> Any:
        """Return the observation of a vector, in float32's precision."""
        if self._is_vector:
            return np.asarray(vector).astype(self._observed.dtype)
        return gym.spaces.unflatten(self._observed, np.asarray(vector))

    def one_by_one(self, observations: Any) -> list[Any] | None:
        """Return the observations of a batch, as vector environments give them; ``None`` if one."""
        space: Any = self._observed
        leaf = observations
        if isinstance(observations, list) and _has_parts(space):
            return observations
        while _has_parts(space) and len(space):
            key: Any = next(iter(space.spaces)) if isinstance(space, gym.spaces.Dict) else 0
            space, leaf = space.spaces[key], leaf[key]
        if np.ndim(leaf) <= len(space.shape or ()):
            return None
        if self._observed is space:
            return list(observations)
        return list(iterate(batch_space(self._observed, len(leaf)), observations))

    def together(self, actions: Sequence[Any]) -> Any:
        """Return actions as vector environments take them."""
        space = self.env.action_space
        out: Any = create_empty_array(space, len(actions))
        return concatenate(space, actions, out)

    def action(self, vector: NDArray[Any]) -> Any:
        """Return the environment's own action of a vector.

        Raises
        ------
        ValueError
            If a choice is not one-hot in it.
        """
        given = np.asarray(vector)
        for place in self._code.choices:
            if np.sum(given[place]) != 1:
                raise ValueError(
                    f"exactly one of variables {place.start} to {place.stop - 1} is chosen, got"
                    f" {given[place].tolist()}"
                )
        return self._code.decode(given)

    def action_vector(self, action: Any) -> NDArray[Any]:
        """Return the vector of an action of the environment."""
        return self._code.encode(action)

    def action_space_block(self, state: NDArray[Any]) -> ActionSpace:
        """Return the feasible set in a state, a vector."""
        if isinstance(self._feasible, ActionSpace):
            return self._feasible
        if self._feasible is not None:
            return self._whole(checked_block(self._feasible(self.observation(state))))
        if not self._masked:
            return self._code.space
        mask = np.ravel(self.observation(state)[_MASK])
        try:
            return self._code.allowed(mask)
        except ValueError as error:
            raise ValueError(
                f"the action_mask {shown(mask)} leaves no action of {self.env.action_space} in"
                f" state {shown(state)}: {error}. Nothing is chosen where an episode has"
                " terminated; in any other state, truncated ones too, something must be allowed"
            ) from error

    def _whole(self, block: ActionSpace) -> ActionSpace:
        """Return a set without the vectors that are no actions."""
        own = self._code.space
        if block.n_actions != own.n_actions:
            raise ValueError(
                f"the feasible set has {block.n_actions} variables, the actions"
                f" {self.env.action_space} have {own.n_actions}"
            )
        return self._within(block)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[StateArray, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self.vector(observation), info

    def step(self, action: NDArray[Any]) -> tuple[StateArray, float, bool, bool, dict[str, Any]]:
        """Play the action of a vector."""
        observation, reward, terminated, truncated, info = self.env.step(self.action(action))
        return self.vector(observation), reward, terminated, truncated, info  # type: ignore[return-value]


def adapted(env: gym.Env[Any, Any], space: FeasibleSet | None = None) -> gym.Env[Any, Any]:
    """Return an environment as a learner takes it: of vectors, with a feasible set.

    An environment that is like that already is returned as it is. Of others,

    - observations are flattened as ``gymnasium.spaces.flatten`` does, one-hot where they are
      choices;
    - a ``Discrete`` action becomes binary variables of which one is 1, a ``MultiDiscrete`` one such
      variables for each entry, an array its entries, ``Dict`` and ``Tuple`` actions what their
      parts are;
    - where nothing says what is feasible, all actions are, but for those that an entry
      ``"action_mask"`` of a ``Dict`` observation excludes.

    Parameters
    ----------
    env
        The environment.
    space
        The feasible set over those variables, or a function that gives it for an observation of
        ``env``; by default ``env.action_space_block``, if it has that. Where the variables of a
        choice have to be one-hot, they are, whatever the set says. For integer variables instead
        of choices, give a set with a variable for each entry of the action.

    Raises
    ------
    ValueError
        If the spaces have no vectors, or the environment gives a mask of its actions that its
        observations do not show: see :class:`MaskedObservation`.

    Examples
    --------
    >>> import gymnasium as gym
    >>> from milp_rl.envs.adaptation import adapted
    >>> env = adapted(gym.make("FrozenLake-v1"))
    >>> env.observation_space.shape, env.action_space_block(env.reset(seed=0)[0])
    ((16,), BudgetTopK(n_actions=4, k=1, exactly=True))
    """
    several: Any = env
    if isinstance(several, gym.vector.VectorEnv):
        raise ValueError(
            f"one environment is played, got the vector environment {type(several).__name__} of"
            f" {several.num_envs}; give one of them (milp_rl.evaluation.evaluate_parallel plays"
            " many, DQNAgent trains on many)"
        )
    method = block_of(env)
    declared, observed = env.action_space, env.observation_space
    vectors = isinstance(observed, gym.spaces.Box) and len(observed.shape) == 1
    if method is not None and space is None and vectors and _is_plain(declared):
        return env
    observation, info = env.reset(seed=0)
    feasible = method if space is None else space
    if feasible is None:
        hidden = _MASK in info or env.has_wrapper_attr("action_masks")
        if hidden and not _shows_mask(observed):
            raise ValueError(
                "the environment says which actions are allowed in info or by action_masks(),"
                " which nothing that is remembered shows: wrap it in"
                " milp_rl.envs.MaskedObservation, or give the feasible set, space="
            )
        return FlatEnv(env, action_code(declared), None)
    first = feasible if isinstance(feasible, ActionSpace) else checked_block(feasible(observation))
    if isinstance(declared, gym.spaces.Box) and not declared.is_bounded():
        declared = _within(declared, first)
    return FlatEnv(env, action_code(declared, first.n_actions), feasible)


class MaskedObservation(
    gym.Wrapper[dict[str, Any], Any, Any, Any], gym.utils.RecordConstructorArgs
):
    """An environment whose observations have the mask of its actions.

    Observations become ``{"observation": ..., "action_mask": ...}``, with the mask that the
    environment gives as ``info["action_mask"]`` or, as in sb3-contrib, by ``action_masks()``; for
    a ``MultiDiscrete`` space that of all choices, one after the other. A learner keeps to it, in
    what it remembers too.

    Parameters
    ----------
    env
        An environment with ``Discrete``, ``MultiDiscrete`` or ``MultiBinary`` actions.

    Examples
    --------
    >>> import gymnasium as gym
    >>> from milp_rl.envs.adaptation import MaskedObservation, adapted
    >>> env = adapted(MaskedObservation(gym.make("Taxi")))
    >>> state, _ = env.reset(seed=0)
    >>> env.action_space.n, env.action_space_block(state).count() < 6
    (6, True)
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        code = action_code(env.action_space)
        if not code.space.binary:
            raise ValueError(f"actions of {env.action_space} have no mask")
        self._size = code.space.n_actions
        self.observation_space = gym.spaces.Dict(
            {
                _MASK: gym.spaces.Box(0, 1, (self._size,), np.int8),
                "observation": env.observation_space,
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, info, "after a reset"), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Play an action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated and info.get(_MASK) is None:  # nothing is chosen there
            masked = {_MASK: np.ones(self._size, np.int8), "observation": observation}
            return masked, reward, terminated, truncated, info
        where = "in the last state of an episode that is truncated" if truncated else "after a step"
        return self._with_mask(observation, info, where), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: dict[str, Any], where: str) -> dict[str, Any]:
        given = info.get(_MASK)
        if given is None and self.env.has_wrapper_attr("action_masks"):
            given = self.env.get_wrapper_attr("action_masks")()
        if given is None:
            raise ValueError(
                f"the environment gives no action_mask in info {where}, and no action_masks()"
            )
        parts = (
            [np.ravel(part) for part in given] if isinstance(given, tuple) else [np.ravel(given)]
        )
        mask = np.concatenate(parts).astype(bool).astype(np.int8)
        if mask.shape != (self._size,):
            raise ValueError(f"the mask has {len(mask)} entries, the actions {self._size}")
        return {_MASK: mask, "observation": observation}


def _has_mask(observed: gym.Space[Any], code: ActionCode) -> bool:
    """Whether observations have a mask of the actions."""
    if not _shows_mask(observed):
        return False
    assert isinstance(observed, gym.spaces.Dict)
    size, wanted = int(gym.spaces.flatdim(observed[_MASK])), code.space.n_actions
    if size != wanted or not code.space.binary:
        raise ValueError(
            f"the action_mask of the observations has {size} entries, the actions are {wanted}"
            f" {'binary' if code.space.binary else 'other'} variables"
        )
    return True


def _has_parts(space: gym.Space[Any]) -> bool:
    return isinstance(space, gym.spaces.Dict | gym.spaces.Tuple)


def _shows_mask(observed: gym.Space[Any]) -> bool:
    return isinstance(observed, gym.spaces.Dict) and _MASK in observed.spaces


def _is_plain(space: gym.Space[Any]) -> bool:
    """Whether an action is a vector of variables itself."""
    kinds = gym.spaces.MultiBinary | gym.spaces.Box
    return isinstance(space, kinds) and len(space.shape or ()) == 1


def _within(space: gym.spaces.Box, block: ActionSpace) -> gym.spaces.Box:
    """Return a space with the bounds of a feasible set where it has none."""
    low = np.maximum(space.low, block.lower.reshape(space.shape))
    high = np.minimum(space.high, block.upper.reshape(space.shape))
    return gym.spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype.type)
