"""Tables of observed steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from milp_rl.envs.fixed_set import check_observations, drawn_in, feasible_set
from milp_rl.envs.known_model import model_of
from milp_rl.envs.observed import check_finite, finite_reward
from milp_rl.formulations.arrays import BoolArray, FloatArray, unmasked
from milp_rl.formulations.spaces.base import ActionSpace

_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)


@dataclass(frozen=True, eq=False)
class Transitions:
    """Observed steps.

    Parameters
    ----------
    states, next_states
        Shape (N, state_dim), finite.
    actions
        Shape (N, n_actions), finite.
    rewards
        Shape (N,), finite.
    terminated
        Whether the episode ended in the next state, true and false or 1 and 0, shape (N,); by
        default never.
    interventions, variables
        Names of actions and state variables; by default ``"intervention 0"`` and so on.
    feasible
        The feasible set, or a function that gives that of a state; ``None`` if it is not known.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or an end is neither true nor false.
    """

    states: FloatArray
    actions: FloatArray
    rewards: FloatArray
    next_states: FloatArray
    terminated: BoolArray | None = None
    interventions: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    feasible: ActionSpace | Callable[[Any], ActionSpace] | None = None

    def __post_init__(self) -> None:
        for name in ("states", "actions", "rewards", "next_states"):
            values = np.array(unmasked(getattr(self, name), name), dtype=np.float64)
            if values.ndim != (1 if name == "rewards" else 2):
                raise ValueError(f"{name} must be a finite table, got shape {values.shape}")
            if not np.isfinite(values).all():
                row = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
                raise ValueError(
                    f"{name} must be a finite table, row {row[0]} has the value {values[row]}"
                )
            object.__setattr__(self, name, values)
        n = len(self.states)
        if not n:
            raise ValueError("there are no transitions")
        ends = np.zeros(n, dtype=bool) if self.terminated is None else self.terminated
        object.__setattr__(self, "terminated", _flags(ends, "terminated", n))
        lengths = {len(self.actions), len(self.rewards), len(self.next_states)}
        if lengths != {n} or self.states.shape != self.next_states.shape:
            raise ValueError("states, actions, rewards and next_states must have the same rows")
        for name, size in (
            ("interventions", self.actions.shape[1]),
            ("variables", self.states.shape[1]),
        ):
            names = tuple(getattr(self, name)) or tuple(f"{name[:-1]} {i}" for i in range(size))
            if len(names) != size:
                raise ValueError(f"got {len(names)} names for {size} {name}")
            object.__setattr__(self, name, names)

    def __len__(self) -> int:
        return len(self.states)


def _flags(values: Any, name: str, n: int) -> BoolArray:
    """Return a column of true and false, shape (n,), or raise ``ValueError``."""
    given = np.asarray(values)
    if given.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {given.shape}")
    if given.dtype == bool:
        return given.copy()
    flags = np.array([isinstance(value, _NUMBERS) and value in (0, 1) for value in given.tolist()])
    if not flags.all():
        row = int(np.argmin(flags))
        raise ValueError(
            f"{name} must be true or false, or 1 or 0: row {row} has {given.tolist()[row]!r}"
        )
    return given.astype(bool)


def _check_vector(observed: NDArray[Any], when: str) -> None:
    """Raise ``ValueError`` if an observed vector of numbers has an entry that is not finite."""
    if observed.ndim == 1 and observed.dtype.kind == "f":
        check_finite(observed, observed, when)


def collect_transitions(
    env: gym.Env[Any, Any],
    n: int,
    rng: np.random.Generator,
    *,
    expected_rewards: bool = False,
    feasible: Callable[[Any], ActionSpace] | None = None,
) -> Transitions:
    """Play random feasible actions, every other one maximal, in episodes of an environment.

    Parameters
    ----------
    env
        An environment with vector observations and ``action_space_block(state)``.
    n
        Number of transitions, at least 1.
    rng
        Source of randomness, of the episodes' seeds too.
    expected_rewards
        Record ``env.expected_reward`` rather than sampled rewards.
    feasible
        Gives the feasible set in each state, also in the last of an episode that is truncated;
        by default ``env.action_space_block`` where an action is drawn.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    model: Any = env.unwrapped
    own: Callable[[Any], ActionSpace] = partial(feasible_set, env) if feasible is None else feasible
    sets: list[ActionSpace] = []
    rows: list[tuple[Any, ...]] = []

    def met_in(state: Any) -> ActionSpace:
        block = own(state)
        if len(sets) < 2 and block not in sets:
            if sets and feasible is None:
                check_observations(env, state)
            sets.append(block)
        return block

    while len(rows) < n:
        state = np.array(env.reset(seed=int(rng.integers(2**31)))[0])
        _check_vector(state, "after a reset in random play")
        done = False
        while not done and len(rows) < n:
            action = drawn_in(met_in(state), state, rng, maximal=len(rows) % 2 == 1)
            observed, reward, terminated, truncated, _ = env.step(action.copy())  # may change it
            following = np.array(observed)  # it may write the next one into the same array
            _check_vector(following, f"after random step {len(rows)}")
            if expected_rewards:
                reward = float(model_of(env).expected_reward(state, action))
            paid = finite_reward(reward, f"of random step {len(rows)}")
            rows.append((state, action, paid, following, terminated))
            state, done = following, terminated or truncated
        if not terminated:
            met_in(state)
    columns: list[NDArray[Any]] = [np.array(column) for column in zip(*rows, strict=True)]
    return Transitions(
        columns[0],
        columns[1],
        columns[2],
        columns[3],
        columns[4],
        interventions=getattr(model, "interventions", ()),
        variables=getattr(model, "variables", ()),
        feasible=sets[0] if len(sets) == 1 else own,
    )
