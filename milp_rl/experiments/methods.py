"""The methods that experiments compare, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from milp_rl.baselines import (
    IterativeMyopicPolicy,
    MyopicPolicy,
    NullPolicy,
    Policy,
    RandomPolicy,
    SamplingPolicy,
    WhittlePolicy,
)
from milp_rl.baselines.actor_critic import ActorCriticConfig
from milp_rl.baselines.performative import (
    TRUE_RISK,
    FixedScorePolicy,
    NaiveUpdatingPolicy,
    optimal_point,
)
from milp_rl.dqn import DQNAgent, DQNConfig, FlatDQN
from milp_rl.envs import DOMAINS, PRESETS, ConstrainedControl, make_bandit
from milp_rl.envs.bandits.restless_bandit import RestlessBandit
from milp_rl.envs.performative import PerformativeRisk, Population, no_intervention
from milp_rl.formulations.spaces.box import Box

BASELINES: dict[str, Callable[[Any, int], Policy]] = {
    "null": lambda env, seed: NullPolicy(env.action_space_block()),
    "random": lambda env, seed: RandomPolicy(env.action_space_block(), seed=seed),
    "sampling": lambda env, seed: SamplingPolicy(env, 100, seed=seed),
    "myopic": lambda env, seed: MyopicPolicy(env),
    "iterative_myopic": lambda env, seed: IterativeMyopicPolicy(env),
    "whittle": lambda env, seed: WhittlePolicy(env),
    "no_intervention": lambda env, seed: FixedScorePolicy(TRUE_RISK),
    "naive_updating": lambda env, seed: NaiveUpdatingPolicy(env),
    "true_risk": lambda env, seed: FixedScorePolicy(TRUE_RISK),
    "oracle": lambda env, seed: FixedScorePolicy(optimal_point(env)),
}
ALGORITHMS = ("dqn", "flat_dqn", "graphq")
ACTOR_CRITIC = "actor_critic"  # an algorithm with parameters of its own
LEARNERS: dict[str, dict[str, Any]] = {
    "dnc": {"algorithm": ACTOR_CRITIC},
    "wolpertinger": {"algorithm": ACTOR_CRITIC, "search": "nearest"},
    "iterative_dqn": {"argmax": "greedy"},
    "iterative_dqn_published": {"of": "sequoia", "argmax": "greedy"},
    "greedy_on_arms": {"of": "sequoia_arms", "argmax": "greedy"},
    "flat_dqn": {"algorithm": "flat_dqn"},
    "graphq": {"algorithm": "graphq"},
    "graphq_beam": {"algorithm": "graphq", "width": 4},
    "sequoia": {},
    "sequoia_arms": {"preset": "default"},
    "dqn_gradient": {"argmax": "gradient"},
    "dqn_cem": {"argmax": "cross_entropy"},
    "dqn_exact": {},
}
CONTINUOUS = ("performative_risk", "pendulum", "constrained_pendulum")
TORQUE = 0.66  # the range of CAQL's constrained pendulum
_OF_BANDITS = ("sampling", "myopic", "iterative_myopic")
_OF_SCORES = ("no_intervention", "naive_updating", "true_risk", "oracle")
DEFAULT_METHODS = (
    *(name for name in BASELINES if name not in _OF_SCORES),
    "iterative_dqn",
    "sequoia",
)
DRAWN = ("random", "sampling")  # their actions do not depend on the state alone

LABELS = {
    "null": "null",
    "random": "random",
    "sampling": "sampling",
    "myopic": "myopic",
    "iterative_myopic": "iterative myopic",
    "whittle": "Whittle index",
    "flat_dqn": "standard DQN",
    "dnc": "DNC",
    "wolpertinger": "Wolpertinger, k nearest",
    "iterative_dqn_published": "iterative DQN, as published",
    "iterative_dqn": "iterative DQN",
    "greedy_on_arms": "greedy on the network of arms",
    "graphq": "Graph-Q, greedy",
    "graphq_beam": "Graph-Q, beam",
    "graphq_complete": "Graph-Q, complete graph",
    "sequoia": "SEQUOIA",
    "sequoia_arms": "SEQUOIA, network of arms",
    "no_intervention": "no intervention",
    "naive_updating": "naive updating",
    "true_risk": "true risk",
    "oracle": "oracle (optimal point)",
    "dqn_gradient": "DQN, gradient ascent",
    "dqn_cem": "DQN, cross-entropy",
    "dqn_exact": "DQN, exact",
}
DOMAIN_LABELS = {
    "multiple_interventions": "multiple interventions",
    "multiple_interventions_published": "multiple interventions, published draw",
    "multiple_interventions_grouped": "multiple interventions, grouped",
    "path": "path",
    "path_underground": "path, whole Underground",
    "scheduling": "scheduling",
    "scheduling_published": "scheduling, published draw",
    "capacity": "capacity",
    "budget": "budget",
    "interventions": "interventions",
    "performative_risk": "performative risk",
    "pendulum": "pendulum",
    "constrained_pendulum": "constrained pendulum",
}


def applies(method: str, domain: str) -> bool:
    """Whether a domain has the method: some baselines are for some domains only."""
    if method in _OF_SCORES:
        return domain == "performative_risk"
    if method in _OF_BANDITS:
        return domain not in CONTINUOUS
    return method != "whittle" or domain == "budget"


def agent_class(name: str) -> type[DQNAgent]:
    """Return the class of a name in :data:`ALGORITHMS`; Graph-Q is an extra of its own."""
    if name == "graphq":
        from milp_rl.graphq import GraphDQN

        return GraphDQN
    return {"dqn": DQNAgent, "flat_dqn": FlatDQN}[name]


def config_class(algorithm: str) -> type[DQNConfig] | type[ActorCriticConfig]:
    """Return the parameters of an algorithm."""
    return ActorCriticConfig if algorithm == ACTOR_CRITIC else agent_class(algorithm).config_class


def environment(
    domain: str, n_arms: int, budget: int, horizon: int, seed: int, method: str
) -> gym.Env[Any, Any]:
    """Return the environment that a method plays.

    A domain of :func:`milp_rl.envs.make_bandit`; ``"interventions"``: a
    :class:`~milp_rl.graphq.SyntheticInterventions` of J interventions; ``"performative_risk"`` with
    J patients, of whose scores B quantiles are observed; ``"pendulum"``: Gymnasium's Pendulum-v1;
    ``"constrained_pendulum"``: the same with a torque of at most 0.66.

    Where exactly B interventions have to be chosen, doing nothing is not feasible: the null
    policy plays the same instance with at most B.
    """
    if domain == "interventions":
        from milp_rl.graphq import InterventionsInstance, SyntheticInterventions

        return SyntheticInterventions(
            InterventionsInstance.generate(n_arms, budget, horizon=horizon, seed=seed)
        )
    if domain == "performative_risk":
        return PerformativeRisk(
            Population(n_arms),
            n_quantiles=budget,
            horizon=horizon,
            intervention=no_intervention if method == "no_intervention" else None,
        )
    if domain in CONTINUOUS:
        limit = Box([-TORQUE], [TORQUE]) if domain == "constrained_pendulum" else None
        return ConstrainedControl(gym.make("Pendulum-v1", max_episode_steps=horizon), limit)
    env = make_bandit(domain, n_arms, budget, horizon=horizon, seed=seed)
    kind = PRESETS[domain][0]
    if method == "null" and kind == "multiple_interventions":
        _, bandit = DOMAINS[kind]
        relaxed: RestlessBandit = bandit(dataclasses.replace(_instance(env), exactly=False))
        return relaxed
    return env


def _instance(env: RestlessBandit) -> Any:
    return env.instance  # type: ignore[attr-defined]
