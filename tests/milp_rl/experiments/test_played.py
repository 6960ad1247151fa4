"""What is seen of policies while they play, against enumeration."""

import copy

import numpy as np
import pytest
import torch

from milp_rl.baselines import MyopicPolicy, RandomPolicy
from milp_rl.dqn import DQNAgent, DQNConfig
from milp_rl.envs import make_bandit
from milp_rl.evaluation import evaluate
from milp_rl.experiments.played import Played, greedy_losses, way_of
from milp_rl.heuristics.greedy import GreedyArgmax


def agent_of(env, argmax="exact", seed=0):
    config = DQNConfig(architecture="concat", normalise=False, argmax=argmax)
    return DQNAgent(env, config, seed=seed)


def test_losses_of_greedy_building_are_those_to_the_best_of_all_actions():
    env = make_bandit("capacity", 6, 2, horizon=6, seed=0)
    agent = agent_of(env, seed=3)
    played = Played(agent)
    evaluate(env, {"": played}, seeds=range(4))
    found = greedy_losses(agent, played, seed=0)

    states = np.unique(played.states, axis=0)
    actions = agent.space.enumerate().astype(float)
    maximal = agent.space.sample(np.random.default_rng(0), 100, maximal=True).astype(float)
    network = copy.deepcopy(agent.network).double()

    def q(state, rows):
        tiled = torch.from_numpy(np.tile(state, (len(rows), 1)))
        return network.q(tiled, torch.from_numpy(rows)).detach().numpy()

    shares = []
    for state in states:
        greedy = GreedyArgmax(agent.network, agent.space).actions(state[None])
        best = q(state, actions).max()
        random = q(state, maximal).mean()
        shares.append((best - q(state, greedy.astype(float))[0]) / (best - random))
    shares = np.where(np.array(shares) > 1e-6, shares, 0.0)
    assert found["states_visited"] == len(states)
    assert 0 < found["greedy_lower"] == pytest.approx((shares > 0).mean())
    assert found["greedy_loss"] == pytest.approx(shares.mean(), abs=1e-6)
    assert found["greedy_largest_loss"] == pytest.approx(shares.max(), abs=1e-6)


def test_heuristic_policies_have_no_losses_and_every_way_is_named():
    env = make_bandit("capacity", 6, 2, horizon=3, seed=0)
    ways = {}
    for name, policy in {
        "exact": agent_of(env),
        "greedy": agent_of(env, "greedy"),
        "cross-entropy": agent_of(env, "cross_entropy"),
        "myopic": MyopicPolicy(env),
        "random": RandomPolicy(env.action_space_block(), seed=0),
    }.items():
        played = Played(policy)
        evaluate(env, {"": played}, seeds=range(2))
        assert len(played.actions) == 6
        assert played.seconds > 0
        ways[name] = way_of(policy, played.answered)
        known = set(greedy_losses(policy, played, 0).values()) != {None}
        assert known == (name == "exact")
    assert ways == {
        "exact": "enumeration",
        "greedy": "greedy building",
        "cross-entropy": "cross-entropy search",
        "myopic": "enumeration",
        "random": "drawn",
    }
