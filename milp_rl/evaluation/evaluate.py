"""Evaluating policies on the same episodes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from milp_rl.baselines.policies import Policy
from milp_rl.envs.adaptation import FlatEnv, adapted
from milp_rl.envs.fixed_set import FixedSet, block_of, feasible_set, same_in_all_states, shown
from milp_rl.envs.known_model import model_of
from milp_rl.formulations.checks import check_integer
from milp_rl.formulations.spaces.base import ActionSpace

_COLUMNS = ["policy", "episode", "seed", "reward", "ms_per_decision", "steps"]

MOST_STEPS = 100_000


def evaluate(
    env: gym.Env[Any, Any],
    policies: Mapping[str, Policy],
    *,
    seeds: Sequence[int] = range(50),
    start_states: ArrayLike | None = None,
    max_steps: int | None = None,
) -> pd.DataFrame:
    """Play the same episodes with every policy.

    An episode is a seed and a start state. The restless bandits draw one uniform number per
    arm and step whatever the action, so that all policies face the same luck in an episode (common
    random numbers). The reward of an episode is the mean over its steps of the expected reward of
    the step, ``env.expected_reward(state, action)``, where the environment has it (the measure of
    Xu et al. 2025), otherwise of the sampled reward.

    Parameters
    ----------
    env
        The environment; episodes must end.
    policies
        Policies by name.
    seeds
        One per episode, passed to ``env.reset``.
    start_states
        Shape (episodes, state_dim), passed to ``env.reset`` as ``options={"state": ...}``;
        by default ``env.reset`` draws the start from the seed.
    max_steps
        Steps after which an episode that has not ended is an error; by default 100,000.

    Returns
    -------
    pandas.DataFrame
        A row for each policy and episode: ``policy``, ``episode``, ``seed``, ``reward`` and
        ``ms_per_decision`` (mean wall-clock time of ``policy.act``), ``steps``.

    Raises
    ------
    ValueError
        If there is nothing to evaluate, or start states and seeds differ in number; if a policy
        chooses an action that is not feasible in its state, or keeps one feasible set
        (``policy.space``) where the environment's changes; if a reward is not finite, or an
        episode does not end.
    """
    if not policies or not len(seeds):
        raise ValueError("evaluation needs at least one policy and one seed")
    starts = None if start_states is None else np.asarray(start_states)
    if starts is not None and len(starts) != len(seeds):
        raise ValueError(f"got {len(starts)} start states for {len(seeds)} seeds")
    most = MOST_STEPS if max_steps is None else check_integer(max_steps, "max_steps", 1)
    watched = _Watched(env)
    rows = []
    for name, policy in policies.items():
        for episode, seed in enumerate(seeds):
            options = None if starts is None else {"state": starts[episode]}
            who = f"policy {name!r}, episode {episode}"
            reward, seconds, steps = _play(watched, who, policy, int(seed), options, most)
            rows.append((name, episode, int(seed), reward, 1e3 * seconds, steps))
    return pd.DataFrame(rows, columns=_COLUMNS)


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each policy, in the order of ``results``.

    Parameters
    ----------
    results
        From :func:`evaluate`.

    Returns
    -------
    pandas.DataFrame
        ``policy``, ``episodes``, ``mean`` and ``standard_error`` of the reward (NaN for a single
        episode), and ``ms_per_decision``.
    """
    groups = results.groupby("policy", sort=False)
    summary = groups["reward"].agg(episodes="count", mean="mean", standard_error="sem")
    summary["ms_per_decision"] = groups["ms_per_decision"].mean()
    return summary.reset_index()


class _Watched:
    """An environment, and its feasible set as of the first state that was met."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        # Those with KnownModelEnv's check every action in `step`, against their one set.
        self._watch = block_of(env) is not None and not same_in_all_states(env)
        self._vectors = adapted(env) if self._watch else env
        self._fixed: FixedSet | None = None

    def check(self, who: str, policy: Policy, state: Any, action: Any) -> None:
        """Refuse an action that is not feasible, and a policy of one set where it changes."""
        if not self._watch:
            return
        if isinstance(self._vectors, FlatEnv) and self._vectors is not self.env:
            state, action = self._vectors.vector(state), self._vectors.action_vector(action)
        one_set = isinstance(getattr(policy, "space", None), ActionSpace)
        if one_set and not hasattr(policy, "action_space_block"):  # as learners have, with sets
            if self._fixed is None:
                self._fixed = FixedSet(self._vectors, state, "A policy with an attribute `space`")
            self._fixed.at(state)
        violations = feasible_set(self._vectors, state).violations(action)
        if violations:
            raise ValueError(
                f"{who}: the action {np.asarray(action).tolist()} is not feasible in state"
                f" {shown(state)}: {'; '.join(violations)}"
            )


def _play(
    watched: _Watched,
    who: str,
    policy: Policy,
    seed: int,
    options: dict[str, Any] | None,
    max_steps: int,
) -> tuple[float, float, int]:
    """Play an episode; return its mean reward, mean seconds of a decision, number of steps."""
    env = watched.env
    expected = getattr(model_of(env), "expected_reward", None)
    state, _ = env.reset(seed=seed, options=options)
    rewards: list[float] = []
    seconds = 0.0
    done = False
    while not done:
        if len(rewards) == max_steps:
            raise ValueError(
                f"{who} has not ended after {max_steps:,} steps: wrap the environment in"
                " gymnasium.wrappers.TimeLimit, or make it with max_episode_steps (on the command"
                " line: --env-arg max_episode_steps=200)"
            )
        started = time.perf_counter()
        action = policy.act(state)
        seconds += time.perf_counter() - started
        watched.check(who, policy, state, action)
        paid = None if expected is None else expected(state, action)  # it may change its state
        next_state, sampled, terminated, truncated, _ = env.step(action)
        reward = float(sampled if paid is None else paid)
        if not math.isfinite(reward):
            raise ValueError(f"{who}: the reward of step {len(rewards)} is {reward}")
        rewards.append(reward)
        state, done = next_state, terminated or truncated
    return float(np.mean(rewards)), seconds / len(rewards), len(rewards)
