"""Navigation in many dimensions: rules by hand, pits, and the logged decisions."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest

from milp_rl.envs import CombinatorialNavigation, make_bandit
from milp_rl.envs.navigation import log_navigation
from milp_rl.graphq import make_interventions


def played(env, cells):
    """Go from cell to cell; return the states seen, the rewards and the last flags."""
    state, _ = env.reset(seed=0)
    states, rewards, flags = [state], [], (False, False)
    for cell in cells:
        state, reward, *flags, _ = env.step(env.towards(state, cell))
        states.append(state)
        rewards.append(reward)
    return states, rewards, flags


def test_a_walk_by_hand():
    env = CombinatorialNavigation(dimensions=2, pits=1, horizon=5)
    states, rewards, flags = played(env, [(1, 1), (2, 1), (3, 2), (4, 3), (4, 4)])
    np.testing.assert_array_equal(states[1:], [(1, 1), (2, 1), (3, 2), (4, 3), (4, 4)])
    assert rewards == pytest.approx([-(18**0.5), -(13**0.5), -(5**0.5), -1.0, 10.0])
    assert flags == [True, True]
    _, rewards, flags = played(env, [(1, 1), (2, 2)])
    assert rewards[-1] == pytest.approx(-10 * 32**0.5)
    assert flags == [True, False]
    env.reset(seed=0)
    state, reward, *_ = env.step(np.array([0, 1, 1, 1], dtype=np.int8))  # down at 0; both
    np.testing.assert_array_equal(state, [0, 0])
    assert reward == pytest.approx(-(32**0.5))


def test_pits_lie_around_the_middle_and_off_the_border():
    env = CombinatorialNavigation(dimensions=3, pits=27, seed=3)
    expected = set(itertools.product((1, 2, 3), repeat=3))
    assert {tuple(map(int, cell)) for cell in env.pits} == expected
    with pytest.raises(ValueError, match="only 27 cells for 28 pits"):
        CombinatorialNavigation(dimensions=3, pits=28)
    with pytest.raises(ValueError, match="neither goal nor pit"):
        env.reset(options={"state": [2, 2, 2]})


def test_logged_steps_are_those_of_the_environment():
    env = CombinatorialNavigation(dimensions=3, size=4, pits=2)
    logged = log_navigation(env, 400, np.random.default_rng(0), suboptimal=0.8)
    assert logged.terminated.any()
    for i in range(len(logged)):
        if env.ends(logged.states[i]):
            pytest.fail("a step from where the episode has ended")
        env.reset(options={"state": logged.states[i]})
        state, reward, terminated, _, _ = env.step(logged.actions[i].astype(np.int8))
        np.testing.assert_array_equal(state, logged.next_states[i])
        assert (reward, terminated) == (logged.rewards[i], logged.terminated[i])
    straight = log_navigation(
        CombinatorialNavigation(dimensions=3, pits=0), 8, np.random.default_rng(0), suboptimal=0
    )
    np.testing.assert_array_equal(straight.terminated, [False, False, False, True] * 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_bandit("capacity", 6, 2, horizon=7, seed=3),
        lambda: make_interventions("10x10", seed=2, horizon=5),
        lambda: gym.make("milp_rl/CombinatorialNavigation-v0", dimensions=4, seed=2),
    ],
)
def test_an_environment_is_made_again_from_the_text_of_its_spec(make):
    env = make()
    other = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    one, two = env.reset(seed=5)[0], other.reset(seed=5)[0]
    np.testing.assert_array_equal(one, two)
    block = other.unwrapped.action_space_block(two)
    assert block == env.unwrapped.action_space_block(one)
    done = False
    rng = np.random.default_rng(0)
    while not done:
        action = block.sample(rng)[0]
        one, reward, *flags, _ = env.step(action)
        two, again, *same, _ = other.step(action)
        np.testing.assert_array_equal(one, two)
        assert (reward, flags) == (again, same)
        done = any(flags)
