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
from milp_rl.dqn import DQNAgent, FlatDQN
from milp_rl.envs import DOMAINS, KnownModelEnv, make_bandit
from milp_rl.envs.restless_bandit import RestlessBandit
from milp_rl.graphq import GraphDQN, InterventionsInstance, SyntheticInterventions

BASELINES: dict[str, Callable[[Any, int], Policy]] = {
    "null": lambda env, seed: NullPolicy(env.action_space_block()),
    "random": lambda env, seed: RandomPolicy(env.action_space_block(), seed=seed),
    "sampling": lambda env, seed: SamplingPolicy(env, 100, seed=seed),
    "myopic": lambda env, seed: MyopicPolicy(env),
    "iterative_myopic": lambda env, seed: IterativeMyopicPolicy(env),
    "whittle": lambda env, seed: WhittlePolicy(env),
}
ALGORITHMS: dict[str, type[DQNAgent]] = {"dqn": DQNAgent, "flat_dqn": FlatDQN, "graphq": GraphDQN}
LEARNERS: dict[str, dict[str, Any]] = {
    "iterative_dqn": {"argmax": "greedy"},
    "flat_dqn": {"algorithm": "flat_dqn"},
    "graphq": {"algorithm": "graphq"},
    "graphq_beam": {"algorithm": "graphq", "width": 4},
    "sequoia": {},
}
DEFAULT_METHODS = (*BASELINES, "iterative_dqn", "sequoia")
DRAWN = ("random", "sampling")  # their actions do not depend on the state alone

LABELS = {
    "null": "null",
    "random": "random",
    "sampling": "sampling",
    "myopic": "myopic",
    "iterative_myopic": "iterative myopic",
    "whittle": "Whittle index",
    "flat_dqn": "standard DQN",
    "iterative_dqn": "iterative DQN",
    "graphq": "Graph-Q, greedy",
    "graphq_beam": "Graph-Q, beam",
    "graphq_complete": "Graph-Q, complete graph",
    "sequoia": "SEQUOIA",
}
DOMAIN_LABELS = {
    "multiple_interventions": "multiple interventions",
    "path": "path",
    "scheduling": "scheduling",
    "capacity": "capacity",
    "budget": "budget",
    "interventions": "interventions",
}


def applies(method: str, domain: str) -> bool:
    """Whether a domain has the method: the Whittle index is for plain budgets only."""
    return method != "whittle" or domain == "budget"


def environment(
    domain: str, n_arms: int, budget: int, horizon: int, seed: int, method: str
) -> KnownModelEnv:
    """Return the environment that a method plays.

    A domain of :func:`milp_rl.envs.make_bandit`, or ``"interventions"``: a
    :class:`~milp_rl.graphq.SyntheticInterventions` of J interventions.

    Where exactly B interventions have to be chosen, doing nothing is not feasible: the null
    policy plays the same instance with at most B.
    """
    if domain == "interventions":
        return SyntheticInterventions(
            InterventionsInstance.generate(n_arms, budget, horizon=horizon, seed=seed)
        )
    env = make_bandit(domain, n_arms, budget, horizon=horizon, seed=seed)
    if method == "null" and domain == "multiple_interventions":
        _, bandit = DOMAINS[domain]
        relaxed: RestlessBandit = bandit(dataclasses.replace(_instance(env), exactly=False))
        return relaxed
    return env


def _instance(env: RestlessBandit) -> Any:
    return env.instance  # type: ignore[attr-defined]
