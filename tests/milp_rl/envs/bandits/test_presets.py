"""Instances drawn as the published code does, and on the whole Underground."""

from __future__ import annotations

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from milp_rl.baselines import MyopicPolicy
from milp_rl.envs import DOMAINS, PRESETS, make_bandit
from milp_rl.envs.bandits.underground import stations_around, whole_underground
from milp_rl.evaluation import evaluate
from milp_rl.experiments.methods import DOMAIN_LABELS, environment

NEW = sorted(PRESETS.keys() - DOMAINS.keys())
PUBLISHED, GROUPED = "multiple_interventions_published", "multiple_interventions_grouped"


@pytest.mark.parametrize("preset", NEW)
def test_presets_are_environments(preset):
    check_env(make_bandit(preset, 10, 3, seed=1), skip_render_check=True)
    made = make_bandit(preset, 20, 5, seed=2)
    assert gym.make(made.spec).unwrapped.instance.to_dict() == made.instance.to_dict()
    assert make_bandit(preset, 20, 5, seed=3).instance.to_dict() != made.instance.to_dict()
    assert preset in DOMAIN_LABELS
    null = environment(preset, 10, 3, 20, seed=1, method="null").action_space_block()
    assert null.violations(np.zeros(null.n_actions)) == []


@pytest.mark.parametrize("preset", NEW)
@given(n_arms=st.integers(1, 70), share=st.floats(0, 1), seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_any_size_has_the_published_rewards(preset, n_arms, share, seed):
    budget = max(1, int(share * n_arms))
    instance = PRESETS[preset][1](n_arms, budget, horizon=7, seed=seed)
    assert (instance.n_arms, instance.budget, instance.horizon) == (n_arms, budget, 7)
    good = instance.rewards[:, 0] == 0.2
    assert good.sum() == budget
    assert set(instance.rewards[good, 3]) <= {4, 5, 6}
    assert set(instance.rewards[~good, 3]) <= {1, 2, 3}
    if preset in (PUBLISHED, "scheduling_published"):
        assert good[:budget].all()


@pytest.mark.parametrize(("n_arms", "budget", "first"), [(20, 5, 10), (40, 10, 20), (100, 20, 40)])
@pytest.mark.parametrize("preset", [PUBLISHED, GROUPED])
def test_interventions_are_in_groups_of_three(preset, n_arms, budget, first):
    instance = PRESETS[preset][1](n_arms, budget, seed=0)
    several = np.arange(n_arms) >= first
    assert set(instance.threshold[several]) == {9, 10}
    assert set(instance.threshold[~several]) == {1, 2}
    assert ((instance.strength[several] >= 0.7) & (instance.strength[several] <= 1.0)).all()
    assert ((instance.steepness[several] >= 1.4) & (instance.steepness[several] <= 1.9)).all()
    for rounded in (instance.strength, instance.steepness):
        np.testing.assert_array_equal(rounded[several], rounded[several].round(1))
    assert ((instance.strength[~several] >= 0.2) & (instance.strength[~several] <= 0.5)).all()
    assert (instance.steepness[~several] == 1).all()
    weights = instance.weights
    assert weights.shape == (n_arms, n_arms // 2)
    assert set(np.unique(weights)) == {0, 3}
    assert (weights[several, budget:] == 0).all()
    assert (weights[~several, :budget] == 0).all()
    for own in (weights[:, :budget], weights[:, budget:]):
        sets = [frozenset(np.flatnonzero(column)) for column in own.T]
        groups = len(sets) // 3
        for k in range(groups):
            assert len({*sets[3 * k : 3 * k + 3]}) == 1
        parts = [*sets[: 3 * groups : 3], *sets[3 * groups :]]
        assert all(len(part) == 3 for part in parts)
        assert len(frozenset().union(*parts)) == 3 * len(parts)  # none is touched by two
    good = instance.rewards[:, 0] == 0.2
    together = weights[:, :budget].sum(axis=1) == 9
    assert good[together].sum() == (together.sum() if preset == GROUPED else 0)


class Always:
    """The same action whatever the state."""

    def __init__(self, action):
        self.action = action

    def act(self, state):
        return self.action


@pytest.mark.parametrize("seed", [0, 1])
def test_a_myopic_policy_fails_where_groups_have_the_high_rewards(seed):
    """As measured on the published code's instances: 3.1, against 10.1 to 13.4 of a DQN."""
    means = {}
    for preset in (PUBLISHED, GROUPED):
        env = make_bandit(preset, 20, 5, seed=seed)
        good = Always((np.arange(10) < 5).astype(np.int8))
        table = evaluate(env, {"myopic": MyopicPolicy(env), "good": good}, seeds=range(8))
        means[preset] = table.groupby("policy")["reward"].mean()
    assert 2.5 < means[GROUPED]["myopic"] < 3.7
    assert 9.5 < means[GROUPED]["good"] < 14.0
    assert means[PUBLISHED]["myopic"] > 0.97 * means[PUBLISHED]["good"]


def servable(preset, n_arms, budget, seed):
    """The share of random sets of B arms that can be served."""
    space = make_bandit(preset, n_arms, budget, seed=seed).action_space_block()
    rng, count = np.random.default_rng(seed), 40
    actions = np.zeros((count, n_arms), dtype=np.int8)
    for action in actions:
        action[rng.choice(n_arms, budget, replace=False)] = 1
    return np.mean([not space.violations(action) for action in actions])


def test_fewer_sets_of_arms_can_be_served_in_the_published_schedules():
    """0.09 to 0.93 of random sets of B in the published draw at J = 20, 0.71 to 0.99 in ours."""
    ours = [servable("scheduling", 20, 5, seed) for seed in range(12)]
    published = [servable("scheduling_published", 20, 5, seed) for seed in range(12)]
    assert min(ours) > 0.65
    assert min(published) < 0.3
    assert 0.7 < max(published) < 1.0
    assert np.mean(published) < np.mean(ours) - 0.2
    assert min(servable("scheduling", 40, 10, seed) for seed in range(3)) > 0.9


def test_slots_of_arms_and_workers_oppose_each_other():
    arms, workers = np.zeros(5), np.zeros(5)
    for seed in range(30):
        instance = PRESETS["scheduling_published"][1](20, 5, seed=seed)
        assert (instance.worker_slots.sum(axis=1) == 3).all()
        assert (instance.arm_slots.sum(axis=1) == 2).all()
        arms += instance.arm_slots.mean(axis=0) / 30
        workers += instance.worker_slots.mean(axis=0) / 30
    assert (np.diff(arms) > 0).all()
    assert (np.diff(workers) < 0).all()


def test_the_underground_is_whole():
    graph = whole_underground()
    assert (len(graph), graph.number_of_edges()) == (302, 349)
    assert nx.is_connected(graph)
    assert {"Green Park", "Upminster", "Amersham", "Bank", "Canary Wharf"} <= set(graph)
    assert set(graph["Green Park"]) == {
        "Bond Street",
        "Oxford Circus",
        "Piccadilly Circus",
        "Hyde Park Corner",
        "Westminster",
        "Victoria",
    }


def test_parts_of_it_are_around_a_fixed_station():
    graph = whole_underground()
    before: list[str] = []
    for n_arms in (20, 40, 60, 80, 100, 302):
        one, other = (PRESETS["path_underground"][1](n_arms, 5, seed=seed) for seed in (0, 1))
        assert one.edges == other.edges
        assert one.names[one.depot] == "Green Park"
        assert nx.is_connected(one.graph())
        inside = graph.subgraph(one.names).edges
        named = {frozenset((one.names[u], one.names[v])) for u, v in one.edges}
        assert named == {frozenset(edge) for edge in inside}
        assert list(one.names[: len(before)]) == before
        stops = nx.single_source_shortest_path_length(graph, "Green Park")
        outside = [stops[name] for name in set(graph) - set(one.names)]
        assert max(stops[name] for name in one.names) <= min(outside, default=len(graph))
        before = list(one.names)
    with pytest.raises(ValueError, match="the Underground has 302 stations, asked for 303"):
        stations_around(303)
    with pytest.raises(ValueError, match="has no station 'Atlantis'"):
        stations_around(3, "Atlantis")
