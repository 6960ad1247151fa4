"""What a learner asks of its environment: spaces that fit, finite numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.pretraining import ModelledEnv
from milp_rl.envs.feasible_sets import FeasibleSets
from milp_rl.envs.fixed_set import FixedSet
from milp_rl.envs.known_model import model_of
from milp_rl.formulations.spaces.base import ActionSpace

_LARGEST = float(np.finfo(np.float32).max)
_TOLERANCE = 1e-6


def checked_env(
    env: gym.Env[Any, Any], config: DQNConfig, user: str, kind: type[FixedSet]
) -> tuple[FixedSet, int]:
    """Return the feasible set, of all states or of each, and the length of a state.

    Raises
    ------
    ValueError
        If the environment does not fit a learner called ``user``, or its configuration.
    """
    length = int(gym.spaces.flatdim(env.observation_space))
    modelled = isinstance(model_of(env), ModelledEnv)
    if config.pretrain_epochs and config.random_steps == 0 and not modelled:
        raise ValueError(
            "pretraining needs expected_reward, sample_next and informative_states on the"
            " environment; set random_steps to pretrain on random play, or pretrain_epochs=0"
        )
    state, _ = env.reset(seed=0)
    finite_state(state, length, "after reset(seed=0)")
    feasible: FixedSet
    if issubclass(kind, FeasibleSets):
        feasible = kind(env, state, user, check=partial(_check_actions, env.action_space))
    else:
        feasible = kind(env, state, user)
    _check_actions(env.action_space, feasible.space)
    return feasible, length


def finite_state(observed: Any, length: int, when: str) -> NDArray[np.float32]:
    """Return an observation as float32, shape (length,), or raise ``ValueError``."""
    with np.errstate(over="ignore"):
        state = np.asarray(observed, dtype=np.float32)
    if state.shape != (length,):
        raise ValueError(
            f"the observation {when} has shape {state.shape}, the observation space ({length},)"
        )
    if not np.isfinite(state).all():
        i = int(np.argmin(np.isfinite(state)))
        raise ValueError(
            f"the observation {when} has the value {np.asarray(observed)[i]} at index {i}; a"
            " network needs finite numbers of float32's range"
        )
    return state


def finite_reward(reward: Any, when: str) -> float:
    """Return a reward as a float, or raise ``ValueError`` if it is none in float32's range."""
    if np.ndim(reward) and np.size(reward) != 1:
        raise ValueError(f"the reward {when} has shape {np.shape(reward)}, it must be one number")
    value = float(np.asarray(reward).item())
    if not abs(value) <= _LARGEST:
        raise ValueError(
            f"the reward {when} is {value}; nothing can be learnt from it: rewards must be finite"
            " numbers of float32's range"
        )
    return value


def _check_actions(declared: gym.Space[Any], block: ActionSpace) -> None:
    """Refuse a Gymnasium space that does not hold the block's actions."""
    n, kind = block.n_actions, "binary"
    wanted = f"MultiBinary({n})"
    if not block.binary:
        kind = "continuous" if block.continuous.any() else "integer"
        wanted = f"Box(low, high, ({n},))"
    if not isinstance(declared, gym.spaces.MultiBinary | gym.spaces.Box):
        raise ValueError(
            f"the action space {declared} does not hold the actions of action_space_block, {kind}"
            f" vectors of length {n}: declare gymnasium.spaces.{wanted}"
        )
    if declared.shape != (n,):
        raise ValueError(
            f"action_space_block has {n} actions, the action space {declared} has shape"
            f" {declared.shape}: they must be the same, such as gymnasium.spaces.{wanted}"
        )
    low, high = np.zeros(n), np.ones(n)
    if isinstance(declared, gym.spaces.Box):
        low, high = declared.low.astype(float), declared.high.astype(float)
    elif not block.binary:
        raise ValueError(
            f"action_space_block has {block.domains}, which the action space {declared} does not"
            f" hold: declare gymnasium.spaces.{wanted}"
        )
    slack = _TOLERANCE * np.maximum(1.0, np.maximum(np.abs(block.lower), np.abs(block.upper)))
    outside = (block.lower < low - slack) | (block.upper > high + slack)
    if outside.any():
        i = int(np.argmax(outside))
        raise ValueError(
            f"variable {i} of action_space_block is in [{block.lower[i]:g}, {block.upper[i]:g}],"
            f" the action space allows [{low[i]:g}, {high[i]:g}]: they must fit"
        )
