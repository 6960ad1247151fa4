"""What is seen of a policy while it plays: its states and decisions, their time, who solved them.

From it follows where exact argmaxes are worth it: in how many of the visited states an action built
greedily on the same network has a lower value, and by how much.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np

from milp_rl.baselines import (
    IterativeMyopicPolicy,
    MyopicPolicy,
    NullPolicy,
    Policy,
    RandomPolicy,
    SamplingPolicy,
    WhittlePolicy,
)
from milp_rl.baselines.actor_critic import ActorCritic
from milp_rl.dqn import DQNAgent, FlatDQN
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.networks.conversion import to_action_value
from milp_rl.heuristics.greedy import GreedyArgmax

GREEDY = ("states_visited", "greedy_lower", "greedy_loss", "greedy_largest_loss")
_DRAWN = 100  # random actions in each state, for the spread of Q
_TOLERANCE = 1e-6  # of the spread of Q: what counts as optimal everywhere
_HOW = {
    NullPolicy: "none",
    RandomPolicy: "drawn",
    SamplingPolicy: "best of 100 drawn",
    IterativeMyopicPolicy: "greedy building",
    WhittlePolicy: "largest indices",
    FlatDQN: "enumeration",  # an output for each action
}
_HEURISTICS = {
    "greedy": "greedy building",
    "gradient": "gradient ascent",
    "cross_entropy": "cross-entropy search",
}


class Played:
    """A policy that remembers what it did.

    Parameters
    ----------
    policy
        The policy.

    Attributes
    ----------
    states, actions
        What it met and chose, a row each.
    seconds
        Processor time of all decisions.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.states: list[FloatArray] = []
        self.actions: list[ActionArray] = []
        self.seconds = 0.0

    def act(self, state: Any) -> Any:
        """Return the policy's action."""
        started = time.process_time()
        action = self.policy.act(state)
        self.seconds += time.process_time() - started
        self.states.append(np.array(state))
        self.actions.append(np.array(action))
        return action

    @property
    def answered(self) -> Counter[str]:
        """How many decisions each solver has found so far, not counting those remembered."""
        policy = self.policy
        if isinstance(policy, MyopicPolicy):
            return policy.answered
        found = policy.learner.averaged_greedy.answered if isinstance(policy, DQNAgent) else None
        return Counter() if found is None else found


def way_of(policy: Policy, answered: Counter[str]) -> str:
    """Return in words what found a policy's decisions.

    Parameters
    ----------
    policy
        The policy.
    answered
        How many of them each solver answered.
    """
    if isinstance(policy, ActorCritic):
        nearest = f"the best of the {policy.config.nearest} nearest"
        return "simulated annealing" if policy.config.search == "annealing" else nearest
    # Graph-Q has a width; its class is not imported, as it is an extra.
    width = getattr(policy.config, "width", None) if isinstance(policy, DQNAgent) else None
    if width is not None:
        return "greedy building" if width == 1 else "beam"
    if isinstance(policy, DQNAgent) and policy.config.argmax in _HEURISTICS:
        return _HEURISTICS[policy.config.argmax]
    total = answered.total()
    if total:
        ranked = [(name.replace("_", " "), n / total) for name, n in answered.most_common()]
        if len(ranked) == 1:
            return ranked[0][0]
        return ", ".join(f"{name} ({share:.0%})" for name, share in ranked)
    return next((how for kind, how in _HOW.items() if isinstance(policy, kind)), "a rule")


def greedy_losses(policy: Policy, played: Played, seed: int) -> dict[str, float | None]:
    """Return what greedy building on the network of an exact policy loses in the states it met.

    Parameters
    ----------
    policy
        The policy; of others than exact ones of binary actions nothing is returned.
    played
        What it did.
    seed
        Of the random actions that a loss is compared with.

    Returns
    -------
    dict
        ``states_visited``, how many different states; ``greedy_lower``, the share of them in which
        the action that greedy building finds has a value below the optimum; and the mean and the
        largest loss of value, as shares of what the optimum is above the mean of random maximal
        actions in the state.
    """
    if (
        not isinstance(policy, DQNAgent)
        or policy.learner.averaged_greedy.answered is None
        or not policy.space.binary
        or policy._feasible.varies
    ):
        return dict.fromkeys(GREEDY)
    states, first = np.unique(np.array(played.states), axis=0, return_index=True)
    best = np.array(played.actions)[first]
    space, value = policy.space, to_action_value(policy.network, policy.space.n_actions)
    greedy = GreedyArgmax(policy.network, space).actions(states)
    drawn = space.sample(np.random.default_rng(seed), _DRAWN, maximal=True)
    networks = value.at_states(states)
    rows = np.arange(len(states))
    top = networks.values(best.astype(np.float64), rows)
    missing = top - networks.values(greedy.astype(np.float64), rows)
    tiled = np.tile(drawn.astype(np.float64), (len(states), 1))
    random = networks.values(tiled, np.repeat(rows, _DRAWN)).reshape(len(states), _DRAWN)
    spread = np.maximum(top - random.min(axis=1), 1e-12)
    worth = np.maximum(top - random.mean(axis=1), 1e-12)
    lower = missing > _TOLERANCE * spread
    loss = np.where(lower, missing, 0.0) / worth
    return {
        "states_visited": float(len(states)),
        "greedy_lower": float(lower.mean()),
        "greedy_loss": float(loss.mean()),
        "greedy_largest_loss": float(loss.max()),
    }
