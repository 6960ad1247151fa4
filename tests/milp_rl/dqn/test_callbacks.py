"""What observers of a training show."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

import milp_rl as mr
from milp_rl.dqn import Callback, DQNAgent, DQNConfig, EvaluationCallback
from milp_rl.envs import make_bandit

SMALL = DQNConfig(episodes=1, batch_size=4, pretrain_epochs=0, random_steps=4)


def test_a_notebook_without_ipywidgets_is_not_warned_of_bars():
    code = """
import sys, warnings
import ipykernel.zmqshell
sys.modules["ipywidgets"] = None
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import milp_rl.dqn
assert not [one for one in seen if "IProgress" in str(one.message)]
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [
        ([lambda *_: None], "derived from milp_rl.dqn.Callback.* got function"),
        ([Callback], "derived from milp_rl.dqn.Callback.* got the class Callback"),
        (Callback(), "callbacks must be a list of Callback objects, got Callback"),
    ],
)
def test_what_is_no_callback_is_refused_by_name(callbacks, said):
    agent = DQNAgent(make_bandit("budget", 4, 1, seed=0), SMALL, seed=0)
    with pytest.raises(TypeError, match=said):
        agent.train(callbacks=callbacks)


def test_an_evaluation_that_never_ends_is_an_error(monkeypatch):
    class Endless(gym.Env):
        observation_space = gym.spaces.Box(0, 1, (1,))
        action_space = gym.spaces.MultiBinary(2)

        def action_space_block(self, state):
            return mr.BudgetTopK(2, 1)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.low, {}

        def step(self, action):
            return self.observation_space.low, 1.0, False, False, {}

    evaluation = EvaluationCallback(Endless(), every=10, episodes=1)
    monkeypatch.setattr(sys.modules["milp_rl.evaluation.evaluate"], "MOST_STEPS", 50)
    with pytest.raises(
        ValueError, match=r"episode 0 has not ended after 50 steps: wrap .*TimeLimit"
    ):
        DQNAgent(Endless(), SMALL, seed=0).learn(20, callbacks=[evaluation])


@pytest.mark.parametrize("false", [False, np.False_, np.mean([3.0]) < 3])
def test_a_false_of_numpy_ends_the_training_too(false):
    class Until(Callback):
        def on_step(self, agent):
            return false if agent.num_timesteps == 9 else None

    config = DQNConfig(episodes=3, batch_size=4, pretrain_epochs=0, random_steps=4)
    agent = DQNAgent(make_bandit("budget", 4, 1, seed=0), config, seed=0)
    assert agent.train(callbacks=[Until()]).num_timesteps == 9
