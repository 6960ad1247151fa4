"""What is played in training: one environment, or those of a vector environment side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from milp_rl.envs.adaptation import FlatEnv
from milp_rl.envs.vector import ParallelEpisodes
from milp_rl.formulations.arrays import ActionArray

# What the kwargs of a vector environment's spec have beside those of one environment.
_OF_MAKE_VEC = ("num_envs", "vectorization_mode", "vector_kwargs", "wrappers")


@dataclass(frozen=True, eq=False)
class After:
    """What a step gave in each lane; that of a waiting lane means nothing.

    ``observed`` is what the step led to; ``begun`` the first observations of the episodes that
    began with it, by lane.
    """

    observed: Sequence[Any]
    rewards: Sequence[Any]
    terminated: Sequence[Any]
    truncated: Sequence[Any]
    begun: Mapping[int, Any]


class Lanes(Protocol):
    """Environments that are played side by side, each with its own episodes."""

    n: int
    played: Sequence[gym.Env[Any, Any]]
    """The environments, where they are in this process and not one for all lanes."""

    begins_itself: bool
    """Whether a lane begins its next episode by itself, so that nobody can say its seed."""

    repeats: bool
    """Whether the episode of a lane can be begun with a seed of its own, and so played again."""

    waiting: NDArray[np.bool_]
    """The lanes that the next step does not play in, but begins an episode."""

    def reset(self, seeds: list[int], which: NDArray[np.bool_]) -> Sequence[Any]:
        """Begin episodes in some lanes; return observations, those of the others meaningless."""

    def step(self, actions: Sequence[ActionArray]) -> After:
        """Play an action in every lane."""


class OneLane:
    """An environment of vectors.

    Parameters
    ----------
    env
        The environment.
    """

    n = 1
    begins_itself = False
    repeats = True

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._env = env
        self.played: Sequence[gym.Env[Any, Any]] = [env]
        self.waiting = np.zeros(1, dtype=bool)

    def reset(self, seeds: list[int], which: NDArray[np.bool_]) -> Sequence[Any]:
        """Begin an episode."""
        return [self._env.reset(seed=seeds[0])[0]]

    def step(self, actions: Sequence[ActionArray]) -> After:
        """Play an action."""
        given = np.array(actions[0])  # a copy: what it is given, the environment may change
        observed, reward, terminated, truncated, _ = self._env.step(given)
        return After([observed], [reward], [terminated], [truncated], {})


class VectorLanes:
    """The environments of a vector environment.

    Parameters
    ----------
    env
        The vector environment, of any autoreset mode.
    one
        An environment like each of them, as a learner takes it.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], one: gym.Env[Any, Any]) -> None:
        self._env = env
        self._flat = one if isinstance(one, FlatEnv) else None
        self.n = env.num_envs
        self.played = _environments(env)
        self.waiting = np.zeros(self.n, dtype=bool)
        # What says nothing is of before there were modes, which all reset in the next step.
        self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.begins_itself = self._mode != AutoresetMode.DISABLED
        self._seeded_apart = bool(_makers(env)) or isinstance(env.unwrapped, ParallelEpisodes)
        self.repeats = self._seeded_apart and not self.begins_itself

    def reset(self, seeds: list[int], which: NDArray[np.bool_]) -> Sequence[Any]:
        """Begin episodes in some lanes."""
        options = None if which.all() else {"reset_mask": which.copy()}
        # Gymnasium's annotation has no lists; environments that are vectorised inside take none.
        own: Any = list(seeds)
        if not self._seeded_apart:
            own = seeds[0] if options is None else None
        observed, _ = self._env.reset(seed=own, options=options)
        self.waiting = np.zeros(self.n, dtype=bool)
        return self._vectors(observed)

    def step(self, actions: Sequence[ActionArray]) -> After:
        """Play an action in every lane; in those that wait, an episode begins instead."""
        flat = self._flat
        given = np.array(actions)
        if flat is not None:
            given = flat.together([flat.action(action) for action in actions])
        observed, rewards, terminated, truncated, told = self._env.step(given)
        info: Any = told  # a list under gymnasium.wrappers.vector.DictInfoToList
        vectors = self._vectors(observed)
        begun = {i: vectors[i] for i in np.flatnonzero(self.waiting).tolist()}
        over = (np.asarray(terminated) | np.asarray(truncated)) & ~self.waiting
        if self._mode == AutoresetMode.NEXT_STEP:
            self.waiting = over
        elif self._mode == AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(over).tolist():
                last = info[i]["final_obs"] if isinstance(info, list) else info["final_obs"][i]
                begun[i] = vectors[i]
                vectors[i] = last if flat is None else flat.vector(last)
        return After(vectors, rewards, terminated, truncated, begun)

    def _vectors(self, observed: Any) -> list[Any]:
        """Return the observations of all lanes one by one, as vectors."""
        flat = self._flat
        if flat is None:
            return list(observed)
        parts = flat.one_by_one(observed)
        assert parts is not None
        return [flat.vector(part) for part in parts]


def one_of(env: gym.vector.VectorEnv[Any, Any, Any]) -> gym.Env[Any, Any]:
    """Return an environment like those of a vector environment: another one of the same making.

    Raises
    ------
    ValueError
        If the vector environment does not show how its environments are made, or shows others than
        they make.
    """
    inner: Any = env.unwrapped
    spec = inner.spec
    if isinstance(inner, ParallelEpisodes):
        one: gym.Env[Any, Any] = inner.env
    elif makers := _makers(env):
        one = makers[0]()
        if any(one.unwrapped is other.unwrapped for other in _environments(env)):
            raise ValueError(
                "the vector environment was given functions that return one and the same"
                f" {type(one.unwrapped).__name__}: give functions that make a new one each"
            )
    elif spec is not None and spec.entry_point is not None:
        own = {name: value for name, value in spec.kwargs.items() if name not in _OF_MAKE_VEC}
        one = gym.make(spec.id, **own)
    else:
        raise ValueError(
            f"{type(inner).__name__} does not show how its environments are made, of which one more"
            " is needed to ask for feasible sets: give a gymnasium.vector.SyncVectorEnv or"
            " AsyncVectorEnv, what gymnasium.make_vec makes, or one environment alone"
        )
    for kind, single, shown in (
        ("observation", one.observation_space, env.single_observation_space),
        ("action", one.action_space, env.single_action_space),
    ):
        if single != shown:
            raise ValueError(
                f"the vector environment has the {kind} space {shown}, the environments in it"
                f" {single}: wrap these, rather than the vector environment, to change their"
                f" {kind}s"
            )
    return one


def _makers(
    env: gym.vector.VectorEnv[Any, Any, Any],
) -> Sequence[Callable[[], gym.Env[Any, Any]]]:
    """Return what made the environments of a vector environment, none if it does not say."""
    return getattr(env.unwrapped, "env_fns", ())


def _environments(env: gym.vector.VectorEnv[Any, Any, Any]) -> Sequence[gym.Env[Any, Any]]:
    """Return the environments of a vector environment, none if they are not in this process."""
    return getattr(env.unwrapped, "envs", ())
