"""Phase 1 of SEQUOIA: one-step rewards to fit, and transitions that fill the replay buffer."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.dqn.config import DQNConfig
from milp_rl.envs.fixed_set import FixedSet, shown
from milp_rl.envs.known_model import model_of
from milp_rl.envs.observed import unresolved
from milp_rl.envs.transitions import Transitions
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.budget import BudgetTopK

_RANDOM_STEPS = 1000  # where there is no model
_MOST_LEVEL = 1000.0  # of rewards, in standard deviations
_ROUNDED = 1e-12  # of it, by which rewards differ that are one
_MOST_ENTRIES = 2**25  # of the actions that are fitted: 128 MB of float32
_ENTRIES_AT_ONCE = 2**24  # of actions whose expected rewards are asked for


@runtime_checkable
class ModelledEnv(Protocol):
    """What an environment offers where its model is known, see ``RestlessBandit``."""

    def expected_reward(self, state: ArrayLike, action: ArrayLike) -> FloatArray:
        """Return expected one-step rewards for batches of states and actions."""

    def sample_next(
        self, state: ArrayLike, action: ArrayLike, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Draw next states for batches of states and actions."""

    def informative_states(self, rng: np.random.Generator, n: int) -> NDArray[np.float32]:
        """Return states worth learning one-step rewards in, ``n`` of them random."""


class PretrainingData(NamedTuple):
    """What training begins with; all float32.

    ``states``, ``actions`` and ``rewards`` are fitted, shapes (N, state_dim), (N, n_actions) and
    (N,); ``replayed`` are the columns of transitions for
    :meth:`milp_rl.dqn.replay.PrioritizedReplay.add`.
    """

    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    replayed: tuple[NDArray[Any], ...]


def random_steps_of(env: gym.Env[Any, Any], config: DQNConfig) -> int:
    """Return the number of random steps that training begins with in an environment."""
    if config.random_steps is not None:
        return config.random_steps
    wanted = config.pretrain_epochs and not isinstance(model_of(env), ModelledEnv)
    return _RANDOM_STEPS if wanted else 0


def data_of_steps(played: Transitions, discount: float) -> PretrainingData:
    """Return observed steps, all of them both to fit and to replay.

    Raises
    ------
    ValueError
        If a number is outside float32's range.
    """
    rows = [played.states, played.actions, played.rewards, played.next_states]
    with np.errstate(over="ignore"):
        s, a, r, following = (row.astype(np.float32) for row in rows)
    found = unresolved(played.states, "the states of random play")
    if found:
        warnings.warn(found, stacklevel=2)
    _warn_of_level(played.rewards)
    check_model_rows("a random step", np.column_stack([r, following]), ("state", s))
    bootstrap = discount * ~np.asarray(played.terminated)
    return PretrainingData(s, a, r, (s, a, r, following, bootstrap))


def _warn_of_level(rewards: FloatArray) -> None:
    """Warn of rewards that hardly differ beside what is in all of them."""
    level, spread = abs(float(np.mean(rewards))), float(np.std(rewards))
    varies = float(np.ptp(rewards)) > _ROUNDED * level
    if varies and _MOST_LEVEL * spread < level:
        warnings.warn(
            f"rewards differ by {spread:.3g} around {np.mean(rewards):.6g}: values then rise for"
            " long before what an action changes is learnt. A constant in all rewards changes no"
            " policy unless episodes terminate: subtract it, such as by"
            " gymnasium.wrappers.TransformReward",
            stacklevel=2,
        )


def data_of_model(
    env: ModelledEnv, feasible: FixedSet, config: DQNConfig, rng: np.random.Generator
) -> PretrainingData:
    """Return the one-step data of a model, some of its feasible rows with next states to replay.

    Raises
    ------
    ValueError
        If the model gives a number that is not finite, or the feasible set of a state cannot be
        learnt with.
    """
    c = config
    states, actions, rewards, rows = one_step_data(
        env, feasible, rng, c.pretrain_states, c.pretrain_actions
    )
    playable = np.arange(len(rewards))[rows]
    drawn = rng.choice(playable, min(c.pretrain_replay, len(playable)), replace=False)
    s, a, r = states[drawn], actions[drawn], rewards[drawn]
    following = env.sample_next(s, a, rng)
    check_model_rows("sample_next", following, ("state", s), ("action", a))
    feasible.check_all(following)
    bootstrap = np.full(len(drawn), c.discount)
    return PretrainingData(states, actions, rewards, (s, a, r, following, bootstrap))


def check_model_rows(what: str, values: NDArray[Any], *given: tuple[str, NDArray[Any]]) -> None:
    """Raise ``ValueError`` if a row of what an environment's model returned is not finite."""
    finite = np.isfinite(values).all(axis=tuple(range(1, np.ndim(values))))
    if not finite.all():
        row = int(np.argmin(finite))
        where = " and ".join(f"{name} {shown(rows[row])}" for name, rows in given)
        raise ValueError(
            f"{what} of the environment gives {shown(values[row])}{where and f' for {where}'}; it"
            " must give finite numbers"
        )


def one_step_data(
    env: ModelledEnv,
    feasible: FixedSet,
    rng: np.random.Generator,
    n_states: int,
    n_actions: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], slice]:
    """Build the one-step data: states, actions and expected rewards.

    Every informative state is paired with: each single action on, each single action off, all on,
    all off (feasible or not: they teach what each action does), and random feasible actions. Where
    a budget is the only constraint, a copy of each random action with one chosen action swapped
    for another is added in the same state: it teaches which of two is worth more. Where the rows
    of single actions would be more than 2**25 numbers, each state gets a random part of these
    actions, as many as fit.

    Parameters
    ----------
    env
        The model.
    feasible
        The feasible sets of its states.
    rng
        Source of randomness.
    n_states
        Random states among the informative ones.
    n_actions
        Random feasible actions per state, half of them maximal.

    Returns
    -------
    tuple
        States (N, state_dim), actions (N, n) and rewards (N,), float32, and the slice of the rows
        with random feasible actions.

    Raises
    ------
    ValueError
        If the model gives a number that is not finite.
    """
    states = env.informative_states(rng, n_states)
    check_model_rows("informative_states", states)
    feasible.check_all(np.unique(states, axis=0))
    n = feasible.space.n_actions
    fixed = _single_actions(rng, len(states), n)
    maximal = n_actions // 2
    spaces = feasible.in_states(states)
    drawn = np.concatenate(
        [
            _drawn(feasible, spaces, rng, len(states), maximal, maximal=True),
            _drawn(feasible, spaces, rng, len(states), n_actions - maximal, maximal=False),
        ]
    )
    drawn_states = np.tile(states, (n_actions, 1))
    if all(
        isinstance(space, BudgetTopK) and space.costs is None
        for space in spaces or [feasible.space]
    ):
        drawn = np.concatenate([drawn, _swapped(drawn, rng)])
        drawn_states = np.tile(drawn_states, (2, 1))
    all_states = np.concatenate([np.repeat(states, fixed.shape[1], axis=0), drawn_states])
    all_actions = np.concatenate([fixed.reshape(-1, n), drawn])
    rewards = _expected_rewards(env, all_states, all_actions)
    check_model_rows("expected_reward", rewards, ("state", all_states), ("action", all_actions))
    random = slice(len(states) * fixed.shape[1], None)
    return all_states, all_actions.astype(np.float32), rewards.astype(np.float32), random


def _single_actions(rng: np.random.Generator, n_states: int, n: int) -> ActionArray:
    """Return single actions on, then off, then none and all, shape (states, rows, n)."""
    each = max(_MOST_ENTRIES // (n_states * n) // 2 - 1, 1)
    if each < n:
        chosen = np.argpartition(rng.random((n_states, n)), each, axis=1)[:, :each]
    else:
        each, chosen = n, np.tile(np.arange(n), (n_states, 1))
    rows = np.zeros((n_states, 2 * each + 2, n), dtype=np.int8)
    state, row = np.arange(n_states)[:, None], np.arange(each)
    rows[state, row, chosen] = 1
    rows[:, each : 2 * each] = 1 - rows[:, :each]
    rows[:, -1] = 1
    return rows


def _expected_rewards(
    env: ModelledEnv, states: NDArray[np.float32], actions: ActionArray
) -> FloatArray:
    size = max(_ENTRIES_AT_ONCE // actions.shape[1], 1)
    parts = (slice(i, i + size) for i in range(0, len(actions), size))
    return np.concatenate([env.expected_reward(states[part], actions[part]) for part in parts])


def _drawn(
    feasible: FixedSet,
    spaces: list[ActionSpace] | None,
    rng: np.random.Generator,
    n_states: int,
    each: int,
    *,
    maximal: bool,
) -> ActionArray:
    """Draw ``each`` actions per state, shape (each * n_states, n): one for every state, again."""
    if spaces is None:
        return feasible.space.sample(rng, n_states * each, maximal=maximal)
    drawn = np.stack([space.sample(rng, each, maximal=maximal) for space in spaces], axis=1)
    return drawn.reshape(-1, feasible.space.n_actions)


def _swapped(actions: ActionArray, rng: np.random.Generator) -> ActionArray:
    """Exchange a random chosen action of each row for a random other one, where there are both."""
    keys = rng.random(actions.shape)
    row = np.arange(len(actions))
    swapped = actions.copy()
    swapped[row, np.where(actions == 1, keys, -1.0).argmax(axis=1)] = 0
    swapped[row, np.where(actions == 0, keys, -1.0).argmax(axis=1)] = 1
    whole = (actions == 0).all(axis=1) | (actions == 1).all(axis=1)
    swapped[whole] = actions[whole]
    return swapped
