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
    begins_itself: bool
    """Whether a lane begins its next episode by itself, so that nobody can say its seed."""

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

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._env = env
        self.waiting = np.zeros(1, dtype=bool)

    def reset(self, seeds: list[int], which: NDArray[np.bool_]) -> Sequence[Any]:
        """Begin an episode."""
        return [self._env.reset(seed=seeds[0])[0]]

    def step(self, actions: Sequence[ActionArray]) -> After:
        """Play an action."""
        observed, reward, terminated, truncated, _ = self._env.step(actions[0])
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
        self.waiting = np.zeros(self.n, dtype=bool)
        # What says nothing is of before there were modes, which all reset in the next step.
        self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.begins_itself = self._mode != AutoresetMode.DISABLED

    def reset(self, seeds: list[int], which: NDArray[np.bool_]) -> Sequence[Any]:
        """Begin episodes in some lanes."""
        options = None if which.all() else {"reset_mask": which.copy()}
        own: Any = list(seeds)  # Gymnasium's annotation has no lists, its environments take them
        observed, _ = self._env.reset(seed=own, options=options)
        self.waiting = np.zeros(self.n, dtype=bool)
        return self._vectors(observed)

    def step(self, actions: Sequence[ActionArray]) -> After:
        """Play an action in every lane; in those that wait, an episode begins instead."""
        flat = self._flat
        given = np.array(actions)
        if flat is not None:
            given = flat.together([flat.action(action) for action in actions])
        observed, rewards, terminated, truncated, info = self._env.step(given)
        vectors = self._vectors(observed)
        begun = {i: vectors[i] for i in np.flatnonzero(self.waiting).tolist()}
        over = (np.asarray(terminated) | np.asarray(truncated)) & ~self.waiting
        if self._mode == AutoresetMode.NEXT_STEP:
            self.waiting = over
        elif self._mode == AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(over).tolist():
                last = info["final_obs"][i]
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
    if isinstance(inner, ParallelEpisodes):
        one: gym.Env[Any, Any] = inner.env
    else:
        makers: Sequence[Callable[[], gym.Env[Any, Any]]] = getattr(inner, "env_fns", ())
        if not makers:
            raise ValueError(
                f"{type(inner).__name__} does not show how its environments are made, of which one"
                " more is needed to ask for feasible sets: give a gymnasium.vector.SyncVectorEnv or"
                " AsyncVectorEnv, or one environment alone"
            )
        one = makers[0]()
    for kind, own, shown in (
        ("observation", one.observation_space, env.single_observation_space),
        ("action", one.action_space, env.single_action_space),
    ):
        if own != shown:
            raise ValueError(
                f"the vector environment has the {kind} space {shown}, the environments in it"
                f" {own}: wrap these, rather than the vector environment, to change their {kind}s"
            )
    return one
