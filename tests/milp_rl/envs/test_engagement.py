"""Service calls to mothers: chains, who can be called, and the belief, against plain formulas."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import milp_rl.envs  # noqa: F401  (registers the environment)
from milp_rl.envs import ParallelEpisodes
from milp_rl.envs.engagement import (
    Beneficiaries,
    Engagement,
    Programme,
    draw_engagement,
    listening_without_calls,
)
from milp_rl.envs.fixed_set import feasible_set


def small(**changed):
    """Three women and two callers: Ada speaks 0 in both slots, Bea 0 and 1 in the second."""
    values = {
        "passive": [[0.1, 0.9], [0.3, 0.6]],
        "active": [[0.6, 0.95], [0.5, 0.9]],
        "capacity": [[1, 1], [0, 2]],
        "speaks": [[1, 0], [1, 1]],
        "callers": ("Ada", "Bea"),
        "slots": ("day", "evening"),
    }
    programme = Programme(**(values | changed))
    women = Beneficiaries(
        cluster=[0, 1, 0],
        language=[0, 1, 0],
        free=[[1, 1], [1, 1], [0, 1]],
        shared=[0, 1, 0],
        familiar=[-1, 1, 0],
    )
    return Engagement(programme, women, horizon=5)


def test_the_environment_is_one_of_gymnasiums():
    check_env(gym.make("milp_rl/Engagement-v0").unwrapped, skip_render_check=True)


@pytest.mark.parametrize(("n", "seed"), [(20, 0), (97, 3)])
def test_38_percent_drop_out_without_calls(n, seed):
    programme, women = draw_engagement(n, seed=seed)
    left = []
    for c in women.cluster:
        stay, back = programme.passive[c, 1], programme.passive[c, 0]
        chain = np.array([[1 - back, back], [1 - stay, stay]])
        left.append(np.linalg.matrix_power(chain, 40)[1, 0])
    assert np.mean(left) == pytest.approx(0.38, abs=1e-9)
    shares = listening_without_calls(programme, women.cluster, 40)
    assert shares[0] == 1
    assert shares[40] == pytest.approx(0.62, abs=1e-9)
    assert (programme.active >= programme.passive).all()


def test_who_can_call_whom_when():
    env = small()
    named = [(env.programme.callers[k], env.programme.slots[s]) for k, s in env.places]
    assert named == [("Ada", "day"), ("Ada", "evening"), ("Bea", "evening"), ("Bea", "evening")]
    expected = [
        [0.6, 0.6, 0.6, 0.6],  # both speak her language, both slots
        [0, 0, 0.35 + 0.25, 0.35 + 0.25],  # shares a phone, knows Bea, whom alone she understands
        [0, 0.6 + 0.25, 0.6, 0.6],  # knows Ada, evening only
    ]
    np.testing.assert_allclose(env.reach, expected)
    action = env.action_space_block().encode([(2, 1), (1, 3)])
    assert env.calls(action) == [(1, "Bea", "evening"), (2, "Ada", "evening")]


def test_the_feasible_set_is_that_of_the_state():
    env = small(budget=2)
    state, _ = env.reset(seed=0)
    action = env.action_space_block(state).encode([(0, 0)])
    for week in range(4):
        block = env.action_space_block(state)
        feasible = block.enumerate()
        rested = env.rested(state)
        assert rested.tolist() == [week in (0, 3), True, True]  # two weeks of rest
        assert feasible_set(env, state).to_dict() == env.action_space.block.to_dict()
        pairs = feasible.reshape(-1, 3, 4)
        assert pairs.sum(axis=(1, 2)).max() == 2
        assert bool(pairs[:, 0].any()) == bool(rested[0])
        if not rested[0]:
            with pytest.raises(ValueError, match="not eligible"):
                env.step(action)
        state, *_ = env.step(action if week == 0 else np.zeros(12, dtype=np.int8))


@pytest.mark.parametrize("rest", [0, 1, 3])
def test_rest_lasts_the_weeks_it_says(rest):
    env = small(rest=rest)
    env.reset(seed=0)
    state, *_ = env.step(env.action_space_block().encode([(1, 2)]))
    waited = 0
    while not env.rested(state)[1]:
        state, *_ = env.step(np.zeros(12, dtype=np.int8))
        waited += 1
    assert waited == rest


def test_weeks_are_those_of_the_hidden_chain():
    """Beliefs are what a filter finds that follows the answers and what was seen (Bayes)."""
    env = small()
    rng = np.random.default_rng(0)
    n, state = 40_000, np.array([1, 0, 0.4, 0.5, 0, 0], dtype=np.float32)
    action = env.action_space_block(state).encode([(0, 1), (2, 2)])
    following, observed = env.week(np.tile(state, (n, 1)), action, rng.random((n, 9)))
    answered, seen, listened = np.moveaxis(observed, -1, 0)
    assert (answered[:, 1] == -1).all()
    assert answered[:, [0, 2]].mean(axis=0) == pytest.approx([0.6, 0.6], abs=0.01)
    chances = {(0, 0): 0.9, (0, 1): 0.95, (2, 0): 0.1, (2, 1): 0.6}
    for (i, a), chance in chances.items():
        rows = answered[:, i] == a
        assert listened[rows & (seen[:, i] == 1), i].mean() == pytest.approx(chance, abs=0.015)
        unseen = following[rows & (seen[:, i] == 0), 2 * i]
        np.testing.assert_allclose(unseen, chance, atol=1e-6)
    np.testing.assert_array_equal(following[:, 2][seen[:, 1] == 1], listened[seen[:, 1] == 1, 1])
    assert seen.mean() == pytest.approx(0.75, abs=0.01)
    expected = 0.9 + 0.6 * 0.05 + (0.3 + 0.4 * 0.3) + 0.1 + 0.6 * 0.5
    assert env.expected_reward(state, action) == pytest.approx(expected, abs=1e-6)
    assert following[:, 0::2].sum(axis=1).mean() == pytest.approx(expected, abs=0.01)
    network = env.one_step_network(state)
    for a in env.action_space_block(state).enumerate():
        assert network.forward(a[None].astype(float))[0, 0] == pytest.approx(
            env.expected_reward(state, a), abs=1e-9
        )


def test_parallel_episodes_are_single_ones():
    env = small(budget=2)
    parallel = ParallelEpisodes(env, 2)
    states, _ = parallel.reset(seed=7)
    own, _ = env.reset(seed=7)
    for _ in range(5):
        actions = parallel.action_space.sample()
        states, rewards, *_ = parallel.step(actions)
        own, reward, *_ = env.step(actions[0])
        np.testing.assert_array_equal(states[0], own)
        assert rewards[0] == pytest.approx(reward)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"passive": [[0.1, 1.2]] * 2}, "passive must be probabilities"),
        ({"active": [[0.1, 0.2]]}, "2 clusters, active of 1"),
        ({"capacity": [[0, 0], [0, 0]]}, "no caller has time"),
        ({"speaks": [[1, 0]]}, "2 callers by languages"),
        ({"reach": 0.9}, "at most 1"),
        ({"callers": ("Ada", "Ada")}, "2 distinct names"),
        ({"speaks": [[1], [1]]}, r"language of beneficiary 1 must be 0\.\.0, got 1"),
    ],
)
def test_what_is_wrong_is_named(changed, message):
    with pytest.raises(ValueError, match=message):
        small(**changed)


def test_every_woman_has_a_slot_and_callers_speak_their_languages():
    programme, women = draw_engagement(300, seed=1)
    assert women.free.any(axis=1).all()
    known = women.familiar >= 0
    assert programme.speaks[women.familiar[known], women.language[known]].all()
    for one, other in itertools.pairwise([draw_engagement(30, seed=s)[0] for s in (4, 4)]):
        np.testing.assert_array_equal(one.passive, other.passive)
