"""What a learner asks of its environment: spaces that fit, finite numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.pretraining import ModelledEnv
from milp_rl.envs.feasible_sets import FeasibleSets
from milp_rl.envs.fixed_set import FixedSet
from milp_rl.envs.known_model import model_of
from milp_rl.envs.observed import finite_state
from milp_rl.formulations.spaces.base import ActionSpace

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
    if config.batch_size > config.buffer_size:
        raise ValueError(
            f"batch_size={config.batch_size} transitions are more than the buffer_size="
            f"{config.buffer_size} that are kept: nothing would ever be learnt"
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
