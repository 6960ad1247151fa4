"""What holds in every domain."""

import dataclasses
import itertools
import json
import subprocess
import sys

import gymnasium as gym
import networkx as nx
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from milp_rl.envs import (
    DOMAINS,
    MultipleInterventionsBandit,
    MultipleInterventionsInstance,
    ParallelEpisodes,
    PathInstance,
    SchedulingInstance,
    make_bandit,
)
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.routing import Routing
from milp_rl.formulations.spaces.scheduling import Scheduling

ALL = pytest.mark.parametrize("domain", DOMAINS)


@ALL
@pytest.mark.parametrize("size", [(2, 1), (10, 3)])
def test_passes_gymnasiums_check(domain, size):
    check_env(make_bandit(domain, *size, seed=1), skip_render_check=True)


@ALL
def test_registered_with_gymnasium(domain):
    kind, bandit = DOMAINS[domain]
    instance = kind.generate(6, 2, seed=1)
    env = gym.make(f"milp_rl/{bandit.__name__}-v0", instance=instance)
    assert env.reset(seed=0)[0].shape == (6,)
    assert env.unwrapped.instance is instance
    assert gym.make(f"milp_rl/{bandit.__name__}-v0").reset(seed=0)[0].shape == (10,)


@ALL
@given(n_arms=st.integers(1, 70), share=st.floats(0, 1), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_generated_instances_follow_their_seed_and_have_the_published_rewards(
    domain, n_arms, share, seed
):
    budget = max(1, int(share * n_arms))
    kind, bandit = DOMAINS[domain]
    instance = kind.generate(n_arms, budget, horizon=7, seed=seed)
    assert (instance.n_arms, instance.budget, instance.horizon) == (n_arms, budget, 7)
    good = instance.rewards[:, 0] == 0.2
    assert good.sum() == budget
    assert (instance.rewards[good, :3] == [0.2, 0.15, 0.1]).all()
    assert (instance.rewards[~good, :3] == [0.1, 0.15, 0.2]).all()
    assert set(instance.rewards[good, 3]) <= {4, 5, 6}
    assert set(instance.rewards[~good, 3]) <= {1, 2, 3}
    again = kind.generate(n_arms, budget, horizon=7, seed=seed)
    assert again.to_dict() == instance.to_dict()
    space = bandit(instance).action_space_block()
    action = space.sample(np.random.default_rng(seed), 1, maximal=True)[0]
    assert space.violations(action) == []
    assert action.any() or domain == "path"  # the depot alone may be all that is reached


def test_instances_are_the_same_in_every_process():
    code = (
        "import json; from milp_rl.envs import DOMAINS;"
        "made = {name: kind.generate(30, 5, seed=3) for name, (kind, *_) in DOMAINS.items()};"
        "print(json.dumps({name: instance.to_dict() for name, instance in made.items()}))"
    )
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        made = json.loads(run.stdout)
        assert made.keys() == DOMAINS.keys()
        for domain, (kind, *_) in DOMAINS.items():
            expected = kind.generate(30, 5, seed=3).to_dict()
            assert made[domain] == json.loads(json.dumps(expected)), domain


@ALL
def test_json_round_trip_gives_the_same_episodes(domain, tmp_path):
    kind, bandit = DOMAINS[domain]
    env = make_bandit(domain, 9, 3, seed=5)
    env.instance.to_json(tmp_path / "instance.json")
    other = bandit(kind.from_json(tmp_path / "instance.json"))
    assert other.action_space_block() == env.action_space_block()
    assert other.instance.to_dict() == env.instance.to_dict()
    action = env.action_space_block().sample(np.random.default_rng(0), 1, maximal=True)[0]
    runs = []
    for e in (env, other):
        e.reset(seed=5)
        runs.append([(*e.step(action)[0], e.step(action)[1]) for _ in range(10)])
    assert runs[0] == runs[1]


@ALL
def test_another_domains_file_is_refused(domain, tmp_path):
    other = next(d for d in DOMAINS if d not in (domain, "budget"))
    make_bandit(other, 4, 2, seed=0).instance.to_json(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"not a .*Instance"):
        DOMAINS[domain][0].from_json(tmp_path / "x.json")


@ALL
def test_sampled_rewards_average_to_the_expected_reward(domain):
    env = make_bandit(domain, 6, 2, horizon=1, seed=4)
    rng = np.random.default_rng(0)
    state = rng.integers(0, 4, size=6)
    action = env.action_space_block().sample(rng, 1, maximal=True)[0]
    rewards = []
    for seed in range(3000):
        env.reset(seed=seed, options={"state": state})
        rewards.append(env.step(action)[1])
    error = np.std(rewards) / np.sqrt(len(rewards))
    assert abs(np.mean(rewards) - env.expected_reward(state, action)) < 5 * error


@ALL
def test_one_step_network_is_the_expected_reward(domain):
    env = make_bandit(domain, 12, 4, seed=2)
    actions = env.action_space_block().enumerate()
    assert env.one_step_error == 0
    for state in np.random.default_rng(0).integers(0, 4, size=(20, 12)):
        values = env.one_step_network(state).forward(actions)[:, 0]
        np.testing.assert_allclose(values, env.expected_reward(state, actions), atol=1e-9)


def test_one_step_network_of_irregular_weights_is_within_its_stated_error():
    drawn = MultipleInterventionsInstance.generate(8, 3, n_actions=10, seed=0)
    weights = np.random.default_rng(0).uniform(0, 2, size=(8, 10))
    env = MultipleInterventionsBandit(dataclasses.replace(drawn, weights=weights))
    actions = env.action_space_block().enumerate()
    largest = 0.0
    for state in np.random.default_rng(1).integers(0, 4, size=(20, 8)):
        values = env.one_step_network(state).forward(actions)[:, 0]
        largest = max(largest, np.abs(values - env.expected_reward(state, actions)).max())
    assert 0 < largest <= env.one_step_error < 1e-3


def test_interventions_without_any_effect_are_a_constant():
    drawn = MultipleInterventionsInstance.generate(4, 2, seed=0)
    env = MultipleInterventionsBandit(dataclasses.replace(drawn, weights=np.zeros((4, 2))))
    value = env.one_step_network([0, 1, 2, 3]).forward(np.ones(2))
    assert value[0] == pytest.approx(env.expected_reward([0, 1, 2, 3], [1, 1]))


def test_up_probability_of_interventions_is_the_published_one():
    env = make_bandit("multiple_interventions", 20, 5, seed=1)
    i = env.instance
    assert env.action_space_block() == BudgetTopK(10, 5, exactly=True)
    assert ((i.weights == 3).sum(axis=0) == 3).all()
    assert set(np.unique(i.weights)) == {0, 3}
    good = i.rewards[:, 0] == 0.2
    assert ((i.strength[good] >= 0.7) & (i.strength[good] < 1)).all()
    assert ((i.strength[~good] >= 0.2) & (i.strength[~good] < 0.5)).all()
    assert ((i.steepness[good] >= 1.4) & (i.steepness[good] < 1.9)).all()
    assert (i.steepness[~good] == 1).all()
    assert set(i.threshold[good]) <= {9, 10}
    assert set(i.threshold[~good]) <= {1, 2}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for action in env.action_space_block().sample(np.random.default_rng(0), 20):
        up = env.up_probability(action)
        for j in range(20):
            total = sum(i.weights[j, k] for k in range(10) if action[k])
            raised = i.strength[j] * (
                sigmoid(i.steepness[j] * total - i.threshold[j]) - sigmoid(-i.threshold[j])
            )
            assert up[j] == pytest.approx(0.01 + 0.98 * raised)
    assert env.up_probability(np.zeros(10)) == pytest.approx(np.full(20, 0.01))


def test_at_most_the_budget_of_interventions_where_asked():
    drawn = MultipleInterventionsInstance.generate(6, 2, seed=0)
    env = MultipleInterventionsBandit(dataclasses.replace(drawn, exactly=False))
    assert not env.action_space_block().violations(np.zeros(3))


def test_paths_are_in_the_underground_around_the_depot():
    env = make_bandit("path", 20, 5, seed=3)
    instance = env.instance
    graph = instance.graph()
    space = env.action_space_block()
    assert isinstance(space, Routing)
    assert (space.max_length, space.budget, space.depot) == (10, 5, instance.depot)
    assert nx.is_connected(graph)
    assert len(set(instance.names)) == 20
    whole = PathInstance.generate(66, 5, seed=3)
    names = {frozenset((whole.names[u], whole.names[v])) for u, v in whole.edges}
    assert {frozenset((instance.names[u], instance.names[v])) for u, v in graph.edges} <= names


def test_paths_beyond_the_underground_are_in_a_network_like_it():
    instance = PathInstance.generate(100, 20, seed=0)
    graph = instance.graph()
    assert nx.is_connected(graph)
    assert graph.number_of_edges() == 138


def test_scheduling_slots_are_as_published():
    instance = SchedulingInstance.generate(20, 5, seed=0)
    assert (instance.worker_slots.shape, instance.arm_slots.shape) == ((5, 5), (20, 5))
    assert (instance.worker_slots.sum(axis=1) == 3).all()
    assert (instance.arm_slots.sum(axis=1) == 2).all()
    space = make_bandit("scheduling", 20, 5, seed=0).action_space_block()
    assert space == Scheduling(instance.worker_slots, instance.arm_slots, 2, budget=5)


def valid(domain):
    common = {"rewards": [[0.1, 1.0], [0.2, 2.0]], "acting": [0.8, 0.8], "passive": [0.1, 0.1]}
    return {
        "budget": common | {"budget": 1},
        "path": common | {"edges": [(0, 1)], "depot": 0, "budget": 1, "max_length": 2},
        "scheduling": common | {"worker_slots": [[1, 1]], "arm_slots": [[1, 0], [1, 1]]},
        "multiple_interventions": {
            "rewards": common["rewards"],
            "strength": [0.5, 0.5],
            "steepness": [1, 1],
            "threshold": [1, 1],
            "weights": [[3, 0], [0, 3]],
            "budget": 1,
        },
    }[domain]


@pytest.mark.parametrize(
    ("domain", "changes", "message"),
    [
        ("budget", {"budget": 3}, "budget must be at most 2, got 3"),
        ("budget", {"budget": 0.5}, "budget must be an integer"),
        ("path", {"edges": [(0, 2)]}, r"edges join arms 0..1, got \(0, 2\)"),
        ("path", {"depot": 2}, "depot must be at most 1"),
        ("path", {"max_length": -1}, "max_length must be an integer of at least 0"),
        ("path", {"names": ["a"]}, "names must be 2 or none"),
        ("scheduling", {"arm_slots": [[1], [1]]}, "arm_slots must have shape"),
        ("scheduling", {"worker_slots": [[0.5, 1]]}, "worker_slots must be zeros and ones"),
        ("multiple_interventions", {"weights": [[-3, 0], [0, 3]]}, "weights must lie between"),
        ("multiple_interventions", {"budget": 3}, "budget must be at most 2"),
        ("multiple_interventions", {"exactly": 1}, "exactly must be"),
        ("multiple_interventions", {"strength": [0.5, 2]}, "strength must lie between 0 and 1"),
    ],
)
def test_wrong_instances_are_refused(domain, changes, message):
    kind, bandit = DOMAINS[domain]
    bandit(kind(**valid(domain))).reset(seed=0)
    with pytest.raises(ValueError, match=message):
        kind(**{**valid(domain), **changes})


def test_unknown_domains_are_refused():
    with pytest.raises(ValueError, match="unknown domain 'queue'; known are multiple"):
        make_bandit("queue", 4, 2, seed=0)
    with pytest.raises(ValueError, match="n_actions >= budget"):
        MultipleInterventionsInstance.generate(8, 4, n_actions=3, seed=0)


@ALL
def test_parallel_episodes_are_those_of_the_single_environment(domain):
    env = make_bandit(domain, 8, 3, horizon=6, seed=2)
    vector = ParallelEpisodes(env, 5)
    rng = np.random.default_rng(0)
    single = make_bandit(domain, 8, 3, horizon=6, seed=2)
    observations, _ = vector.reset(seed=7)
    starts, played = [observations], []
    for step in range(6):
        actions = env.action_space_block().sample(rng, 5)
        observations, rewards, terminated, truncated, _ = vector.step(actions)
        played.append((actions, observations, rewards))
        assert observations in vector.observation_space
        assert not terminated.any()
        assert (truncated == (step == 5)).all()
    for i in range(5):
        state, _ = single.reset(seed=7 + i)
        np.testing.assert_array_equal(state, starts[0][i])
        for actions, observations, rewards in played:
            state, reward, *_ = single.step(actions[i])
            np.testing.assert_array_equal(state, observations[i])
            assert reward == rewards[i]
    # the step after the end starts the next episodes, which are those of a second reset
    observations, rewards, _, truncated, _ = vector.step(played[0][0])
    assert not rewards.any()
    assert not truncated.any()
    for i in range(5):
        single.reset(seed=7 + i)
        np.testing.assert_array_equal(single.reset()[0], observations[i])


def test_parallel_episodes_start_where_told():
    vector = ParallelEpisodes(make_bandit("budget", 3, 1, seed=0), 2)
    assert vector.reset(options={"state": [1, 2, 3]})[0].tolist() == [[1, 2, 3]] * 2
    assert vector.reset(options={"state": [[1, 2, 3], [0, 0, 0]]})[0].tolist() == [
        [1, 2, 3],
        [0, 0, 0],
    ]
    seeds = vector.reset(seed=[3, 3])[0]
    assert (seeds[0] == seeds[1]).all()


def test_wrong_use_of_parallel_episodes_is_refused():
    env = make_bandit("budget", 3, 1, seed=0)
    vector = ParallelEpisodes(env, 2)
    nothing = np.zeros((2, 3), dtype=np.int8)
    with pytest.raises(gym.error.ResetNeeded):
        vector.step(nothing)
    with pytest.raises(ValueError, match="got 3 seeds for 2"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="unknown reset options"):
        vector.reset(options={"start": 1})
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        vector.step(nothing[0])
    with pytest.raises(ValueError, match="infeasible action in episode 1: 2 actions chosen"):
        vector.step(np.array([[0, 0, 0], [1, 1, 0]]))
    with pytest.raises(ValueError, match="num_envs"):
        ParallelEpisodes(env, 0)
    unchecked = ParallelEpisodes(env, 2, check_actions=False)
    unchecked.reset(seed=0)
    unchecked.step(np.ones((2, 3)))


def test_gymnasium_rows_of_actions_are_feasible_row_by_row():
    vector = ParallelEpisodes(make_bandit("budget", 3, 1, seed=0), 2)
    vector.action_space.seed(0)
    feasible = {(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)}
    for _ in range(50):
        sample = vector.action_space.sample()
        assert {tuple(row) for row in sample} <= feasible
        assert sample in vector.action_space
    for first, second in itertools.product(itertools.product((0, 1), repeat=3), repeat=2):
        rows = np.array([first, second], dtype=np.int8)
        assert (rows in vector.action_space) == ({first, second} <= feasible)
