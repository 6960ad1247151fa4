import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from milp_rl.envs import ArmChains, CapacityBandit, CapacityInstance


@pytest.fixture
def env() -> CapacityBandit:
    return CapacityBandit(CapacityInstance.generate(5, 2, seed=3))


@pytest.mark.parametrize(("n_arms", "n_workers"), [(1, 1), (4, 2), (10, 3)])
def test_passes_gymnasiums_check(n_arms, n_workers):
    check_env(CapacityBandit(CapacityInstance.generate(n_arms, n_workers, seed=1)))


def test_registered_with_gymnasium():
    instance = CapacityInstance.generate(4, 2, seed=1)
    env = gym.make("milp_rl/CapacityBandit-v0", instance=instance)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4,)
    assert env.unwrapped.instance is not None


def one_arm_expectation(instance: CapacityInstance, arm: int, state: int, acted: int) -> float:
    up = instance.acting[arm] if acted else instance.passive[arm]
    rewards = instance.rewards[arm]
    return up * rewards[min(state + 1, 3)] + (1 - up) * rewards[max(state - 1, 0)]


def test_expected_reward_is_the_sum_over_arms_in_every_state(env):
    instance = env.instance
    rng = np.random.default_rng(0)
    for state in itertools.product(range(4), repeat=5):
        action = rng.integers(0, 2, size=5)
        expected = sum(one_arm_expectation(instance, j, state[j], action[j]) for j in range(5))
        assert env.expected_reward(state, action) == pytest.approx(expected)


def test_expected_reward_broadcasts(env):
    rng = np.random.default_rng(0)
    states, actions = rng.integers(0, 4, (7, 1, 5)), rng.integers(0, 2, (3, 5))
    batch = env.expected_reward(states, actions)
    assert batch.shape == (7, 3)
    assert batch[4, 2] == env.expected_reward(states[4, 0], actions[2])


def test_sampled_rewards_average_to_the_expected_reward(env):
    state, action = np.array([0, 1, 2, 3, 2]), env.action_space_block().enumerate()[-1]
    rewards = []
    env.reset(seed=0)
    for _ in range(4000):
        env.reset(options={"state": state})
        observation, reward, *_ = env.step(action)
        assert reward == pytest.approx(
            sum(env.instance.rewards[j, int(s)] for j, s in enumerate(observation))
        )
        rewards.append(reward)
    error = np.std(rewards) / np.sqrt(len(rewards))
    assert abs(np.mean(rewards) - env.expected_reward(state, action)) < 5 * error


def test_arms_move_one_up_or_down_with_their_probability(env):
    n = 20_000
    rng = np.random.default_rng(0)
    for acted, probability in ((0, env.instance.passive), (1, env.instance.acting)):
        action = np.full((n, 5), acted)
        moved = env.sample_next(np.tile([0, 1, 2, 3, 1], (n, 1)), action, rng)
        assert set(np.unique(moved[:, 0])) == {0, 1}  # clamped at the lower end
        assert set(np.unique(moved[:, 1])) == {0, 2}
        assert set(np.unique(moved[:, 2])) == {1, 3}
        assert set(np.unique(moved[:, 3])) == {2, 3}  # and the upper
        up = (moved > [0.5, 1, 2, 2.5, 1]).mean(axis=0)
        assert np.abs(up - probability).max() < 5 * 0.5 / np.sqrt(n)


def test_action_gains_make_the_one_step_reward_linear(env):
    rng = np.random.default_rng(0)
    actions = env.action_space_block().enumerate()
    for state in rng.integers(0, 4, (20, 5)):
        values = env.expected_reward(state, np.zeros(5)) + actions @ env.action_gains(state)
        np.testing.assert_allclose(env.expected_reward(state, actions), values)


def test_episode_is_truncated_at_the_horizon():
    env = CapacityBandit(CapacityInstance.generate(3, 1, horizon=4, seed=0))
    env.reset(seed=0)
    ends = [env.step(np.zeros(3, dtype=np.int8))[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_starts_are_one_with_probability_a_fifth(env):
    starts = env.start_states(np.random.default_rng(0), 10_000)
    assert set(np.unique(starts)) == {0, 1}
    assert abs(starts.mean() - 0.2) < 5 * 0.4 / np.sqrt(starts.size)
    assert (env.reset(seed=4)[0] == env.reset(seed=4)[0]).all()


def test_same_seed_means_same_luck_whatever_the_actions(env):
    """An arm treated alike and in the same state moves alike, whatever is done to others."""
    actions = env.action_space_block().enumerate()
    for seed in range(10):
        outcomes = []
        for action in actions:
            env.reset(seed=seed, options={"state": [1, 2, 1, 2, 1]})
            outcomes.append(env.step(action)[0])
        for (a, x), (b, y) in itertools.combinations(zip(actions, outcomes, strict=True), 2):
            assert (x[a == b] == y[a == b]).all()


def test_infeasible_action_is_refused_with_its_violations(env):
    env.reset(seed=0)
    everything = np.ones(5, dtype=np.int8)
    (violation,) = env.action_space_block().violations(everything)
    with pytest.raises(ValueError, match="infeasible action") as error:
        env.step(everything)
    assert violation in str(error.value)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([0, 1, 2, 3], "shape"),
        ([0, 1, 2, 3, 4], "0..3, got 4"),
        ([0, 1, 2, 3, 0.5], "0..3, got 0.5"),
        ([0, 1, 2, 3, -1], "0..3, got -1"),
        ([0, 1, 2, 3, np.nan], "0..3, got nan"),
        (np.zeros((2, 5)), "vector"),
    ],
)
def test_wrong_start_states_are_refused(env, state, message):
    with pytest.raises(ValueError, match=message):
        env.reset(seed=0, options={"state": state})


def test_unknown_reset_option_is_refused(env):
    with pytest.raises(ValueError, match="unknown reset options"):
        env.reset(options={"start": [0] * 5})


def test_gymnasium_action_space_holds_feasible_actions_only(env):
    block, space = env.action_space_block(), env.action_space
    space.seed(0)
    feasible = {tuple(a) for a in block.enumerate()}
    assert {tuple(space.sample()) for _ in range(300)} <= feasible
    for bits in itertools.product((0, 1), repeat=5):
        assert space.contains(np.array(bits, dtype=np.int8)) == (bits in feasible)


def test_informative_states_have_the_served_arms_on_top(env):
    states = env.informative_states(np.random.default_rng(0), 50)
    assert states.shape == (2 + 2 * 5 + 50, 5)
    assert {tuple(s) for s in np.eye(5)} <= {tuple(s) for s in states}
    maximal = [
        a
        for a in env.action_space_block().enumerate()
        if not len(env.action_space_block().extensions(a))
    ]
    for state in states[12::2]:
        assert any((state[a == 1] == 3).all() for a in maximal)


@given(
    n_arms=st.integers(1, 30),
    share=st.floats(0, 1),
    horizon=st.integers(1, 50),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=50, deadline=None)
def test_generated_instances_are_as_published(n_arms, share, horizon, seed):
    n_workers = max(1, int(share * n_arms))
    instance = CapacityInstance.generate(n_arms, n_workers, horizon=horizon, seed=seed)
    good = instance.rewards[:, 0] == 0.2
    assert good.sum() == n_workers
    assert (instance.rewards[good, :3] == [0.2, 0.15, 0.1]).all()
    assert (instance.rewards[~good, :3] == [0.1, 0.15, 0.2]).all()
    assert set(instance.rewards[good, 3]) <= {4, 5, 6}
    assert set(instance.rewards[~good, 3]) <= {1, 2, 3}
    assert ((instance.acting >= 0.7) & (instance.acting < 0.9)).all()
    assert ((instance.passive >= 0) & (instance.passive < 0.2)).all()
    assert set(instance.costs) <= {2, 3, 4, 5, 6}
    assert set(instance.capacities) <= {2, 3, 4, 5, 6, 7}
    assert instance.capacities.max() >= instance.costs.min()
    assert (instance.n_arms, instance.n_workers, instance.horizon) == (n_arms, n_workers, horizon)
    again = CapacityInstance.generate(n_arms, n_workers, horizon=horizon, seed=seed)
    assert again.to_dict() == instance.to_dict()


def test_json_round_trip_gives_the_same_episodes(env, tmp_path):
    env.instance.to_json(tmp_path / "instance.json")
    other = CapacityBandit(CapacityInstance.from_json(tmp_path / "instance.json"))
    action = env.action_space_block().sample(np.random.default_rng(0), 1, maximal=True)[0]
    runs = []
    for e in (env, other):
        e.reset(seed=5)
        runs.append([e.step(action)[:2] for _ in range(20)])
    for (s, r), (t, q) in zip(*runs, strict=True):
        assert (s == t).all()
        assert r == q


def test_files_that_are_no_instance_are_refused(tmp_path):
    path = tmp_path / "x.json"
    for text, message in (
        ("{", r"x\.json, line 1, column 2: not JSON"),
        ("[1]", "not a CapacityInstance"),
        ('{"a": 1}', "not a"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            CapacityInstance.from_json(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acting": [0.5, 1.5]}, "acting must lie between 0 and 1"),
        ({"passive": [0.5, np.nan]}, "passive must lie between"),
        ({"passive": [0.5]}, "passive must have shape"),
        ({"costs": [1.0, -1.0]}, "costs must lie between"),
        ({"capacities": [[1.0]]}, "capacities must have"),
        ({"capacities": []}, "capacities must"),
        ({"horizon": 0}, "horizon"),
        ({"horizon": 2.5}, "horizon"),
        ({"rewards": [[1.0], [1.0]]}, "two states"),
        ({"rewards": [[1.0, np.inf], [1.0, 2.0]]}, "finite"),
    ],
)
def test_wrong_instances_are_refused(changes, message):
    good = {
        "rewards": [[0.1, 1.0], [0.2, 2.0]],
        "acting": [0.8, 0.8],
        "passive": [0.1, 0.1],
        "costs": [2.0, 3.0],
        "capacities": [3.0],
    }
    CapacityInstance(**good)
    with pytest.raises(ValueError, match=message):
        CapacityInstance(**{**good, **changes})


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="n_workers <= n_arms"):
        CapacityInstance.generate(3, 4, seed=0)


def test_chains_cannot_be_changed_by_accident():
    rewards = np.array([[0.0, 1.0]])
    chains = ArmChains(rewards)
    rewards[0, 0] = 9.0
    assert chains.rewards[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        chains.rewards[0, 0] = 1.0
