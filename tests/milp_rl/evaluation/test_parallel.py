from __future__ import annotations

from collections import OrderedDict

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from milp_rl.dqn import DQNAgent, DQNConfig
from milp_rl.evaluation import evaluate_parallel

SMALL = DQNConfig(
    hidden=(8,), encoder=(8,), head=(8,), episodes=1, pretrain_epochs=0, random_steps=0
)


class Walk(gym.Env):
    """Ends after a number of steps that is drawn; pays what is chosen, and the time."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            OrderedDict(t=spaces.Discrete(30), x=spaces.Box(-1, 1, (2,), np.float32))
        )
        self.action_space = spaces.Dict(a=spaces.Discrete(3), b=spaces.MultiBinary(2))

    def seen(self):
        x = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"t": np.int64(self.t), "x": x}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.end = 0, int(self.np_random.integers(2, 12))
        return self.seen(), {}

    def step(self, action):
        assert self.action_space.contains({"a": np.int64(action["a"]), "b": action["b"]})
        self.t += 1
        reward = float(action["a"] + 10 * action["b"].sum() + 100 * self.t)
        return self.seen(), reward, self.t >= self.end, self.t >= 9, {}


def one_after_another(agent, seed, episodes):
    """What an environment gives without any vector environment."""
    env, rows = Walk(), []
    for k in range(episodes):
        observation, _ = env.reset(seed=seed if k == 0 else None)
        total, steps, over = 0.0, 0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            total, steps, over = total + reward, steps + 1, terminated or truncated
        rows.append((total, steps))
    return rows


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_episodes_in_parallel_are_those_one_after_another(mode):
    agent = DQNAgent(Walk(), SMALL, seed=0)
    env = SyncVectorEnv([Walk] * 3, autoreset_mode=mode)
    found = evaluate_parallel(env, agent, episodes=7, seed=5)
    assert len(found) == 9
    for i, own in found.groupby("environment"):
        played = [*zip(own["return"], own["steps"], strict=True)]
        assert played == one_after_another(agent, 5 + i, 3)


def test_batches_of_any_form():
    agent = DQNAgent(Walk(), SMALL, seed=0)
    env = SyncVectorEnv([Walk] * 4)
    observations, _ = env.reset(seed=0)
    actions, _ = agent.predict(observations)
    assert env.action_space.contains(actions)
    for i in range(4):
        one = {name: value[i] for name, value in observations.items()}
        assert agent.predict(one)[0]["a"] == agent.act(one)["a"] == actions["a"][i]
    with pytest.raises(ValueError, match="episodes must be at least 1"):
        evaluate_parallel(env, agent, episodes=0)


def test_an_episode_that_never_ends_is_an_error(monkeypatch):
    class Endless(gym.Env):
        observation_space = gym.spaces.Box(0, 1, (1,))
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.low, {}

        def step(self, action):
            return self.observation_space.low, 1.0, False, False, {}

    class First:
        def predict(self, observation):
            return np.zeros(len(observation), dtype=int), None

    monkeypatch.setattr("milp_rl.evaluation.parallel.MOST_STEPS", 20)
    env = gym.vector.SyncVectorEnv([Endless] * 2)
    with pytest.raises(
        ValueError, match=r"environment 0 has not ended after 20 steps: .*TimeLimit"
    ):
        evaluate_parallel(env, First(), episodes=2)
