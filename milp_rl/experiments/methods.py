"""The methods that experiments compare, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from milp_rl.baselines import (
    IterativeMyopicPolicy,
    MyopicPolicy,
    NullPolicy,
    Policy,
    RandomPolicy,
    SamplingPolicy,
    WhittlePolicy,
)
from milp_rl.envs import DOMAINS, make_bandit
from milp_rl.envs.restless_bandit import RestlessBandit

BASELINES: dict[str, Callable[[Any, int], Policy]] = {
    "null": lambda env, seed: NullPolicy(env.action_space_block()),
    "random": lambda env, seed: RandomPolicy(env.action_space_block(), seed=seed),
    "sampling": lambda env, seed: SamplingPolicy(env, 100, seed=seed),
    "myopic": lambda env, seed: MyopicPolicy(env),
    "iterative_myopic": lambda env, seed: IterativeMyopicPolicy(env),
    "whittle": lambda env, seed: WhittlePolicy(env),
}
LEARNERS: dict[str, dict[str, Any]] = {"iterative_dqn": {"argmax": "greedy"}, "sequoia": {}}
DRAWN = ("random", "sampling")  # their actions do not depend on the state alone

LABELS = {
    "null": "null",
    "random": "random",
    "sampling": "sampling",
    "myopic": "myopic",
    "iterative_myopic": "iterative myopic",
    "whittle": "Whittle index",
    "iterative_dqn": "iterative DQN",
    "sequoia": "SEQUOIA",
}
DOMAIN_LABELS = {
    "multiple_interventions": "multiple interventions",
    "path": "path",
    "scheduling": "scheduling",
    "capacity": "capacity",
    "budget": "budget",
}


def applies(method: str, domain: str) -> bool:
    """Whether a domain has the method: the Whittle index is for plain budgets only."""
    return method != "whittle" or domain == "budget"


def environment(
    domain: str, n_arms: int, budget: int, horizon: int, seed: int, method: str
) -> RestlessBandit:
    """Return the environment that a method plays.

    Where exactly B interventions have to be chosen, doing nothing is not feasible: the null
    policy plays the same instance with at most B.
    """
    env = make_bandit(domain, n_arms, budget, horizon=horizon, seed=seed)
    if method == "null" and domain == "multiple_interventions":
        _, bandit = DOMAINS[domain]
        relaxed: RestlessBandit = bandit(dataclasses.replace(_instance(env), exactly=False))
        return relaxed
    return env


def _instance(env: RestlessBandit) -> Any:
    return env.instance  # type: ignore[attr-defined]
