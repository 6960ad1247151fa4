from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import milp_rl as mr
from milp_rl.envs import ConstrainedControl


def test_a_constrained_pendulum():
    env = ConstrainedControl(gym.make("Pendulum-v1"), mr.Box([-0.66], [0.66]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)
    assert env.action_space_block() == mr.Box([-0.66], [0.66])
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"x\[0\] = 1 is outside \[-0.66, 0.66\]"):
        env.step(np.array([1.0]))
    assert all(env.action_space.contains(env.action_space.sample()) for _ in range(20))
    assert not env.action_space.contains(np.array([0.7]))


def test_it_is_the_environment_within_its_own_bounds():
    env, inner = ConstrainedControl(gym.make("Pendulum-v1")), gym.make("Pendulum-v1")
    assert env.action_space_block() == mr.Box([-2], [2])
    one, _ = env.reset(seed=4)
    other, _ = inner.reset(seed=4)
    np.testing.assert_array_equal(one, other)
    for torque in (-2.0, 0.5, 1.7):
        mine, theirs = env.step([torque]), inner.step(np.array([torque], dtype=np.float32))
        np.testing.assert_array_equal(mine[0], theirs[0])
        assert mine[1] == pytest.approx(float(theirs[1]))
    env.close()


def test_other_actions_are_refused():
    with pytest.raises(ValueError, match="bounded vector"):
        ConstrainedControl(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"no action of Box.* is within the constraints"):
        ConstrainedControl(gym.make("Pendulum-v1"), mr.Box([3], [4]))
