import io
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from milp_rl.baselines import NullPolicy, RandomPolicy
from milp_rl.envs import CapacityBandit, CapacityInstance
from milp_rl.evaluation import evaluate, plot_rewards, summarize


@pytest.fixture
def env() -> CapacityBandit:
    return CapacityBandit(CapacityInstance.generate(4, 2, horizon=5, seed=0))


class Fixed:
    def __init__(self, action):
        self.action = np.array(action, dtype=np.int8)
        self.seen = []

    def act(self, state):
        self.seen.append(state.tolist())
        return self.action


def test_reward_is_the_mean_expected_reward_of_the_visited_states(env):
    action = env.action_space_block().sample(np.random.default_rng(0), 1, maximal=True)[0]
    policy = Fixed(action)
    results = evaluate(env, {"fixed": policy}, seeds=[3, 4], start_states=np.eye(4)[:2])
    assert policy.seen[0] == [1, 0, 0, 0]
    assert policy.seen[5] == [0, 1, 0, 0]
    expected = env.expected_reward(np.array(policy.seen), action).reshape(2, 5).mean(axis=1)
    np.testing.assert_allclose(results["reward"], expected)
    assert results["seed"].tolist() == [3, 4]
    assert results["episode"].tolist() == [0, 1]
    assert (results["ms_per_decision"] > 0).all()


def test_policies_play_the_same_episodes(env):
    space = env.action_space_block()
    action = space.sample(np.random.default_rng(0), 1, maximal=True)[0]
    results = evaluate(
        env, {"a": Fixed(action), "random": RandomPolicy(space, seed=0), "b": Fixed(action)}
    )
    rewards = results.pivot_table(index="episode", columns="policy", values="reward")
    assert len(rewards) == 50
    np.testing.assert_array_equal(rewards["a"], rewards["b"])
    assert (rewards["random"] != rewards["a"]).any()


def test_start_states_come_from_the_seed_if_not_given(env):
    policy = Fixed(np.zeros(4))
    evaluate(env, {"fixed": policy}, seeds=range(5))
    assert policy.seen[::5] == [env.reset(seed=s)[0].tolist() for s in range(5)]


class Countdown(gym.Env[Any, Any]):
    """Without a model: reward 1, 2, 3, then terminated."""

    observation_space = gym.spaces.Box(0, 9, (1,), np.float32)
    action_space = gym.spaces.MultiBinary(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, dtype=np.float32), float(self.t), self.t == 3, False, {}


def test_sampled_rewards_count_where_there_is_no_model():
    results = evaluate(Countdown(), {"null": Fixed([0])}, seeds=[0])
    assert results["reward"].tolist() == [2.0]


def test_summary_has_mean_and_standard_error(env):
    space = env.action_space_block()
    results = evaluate(
        env, {"random": RandomPolicy(space, seed=0), "null": NullPolicy(space)}, seeds=range(9)
    )
    summary = summarize(results)
    assert summary["policy"].tolist() == ["random", "null"]
    assert summary["episodes"].tolist() == [9, 9]
    rewards = results.loc[results["policy"] == "random", "reward"].to_numpy()
    assert summary["mean"][0] == pytest.approx(rewards.mean())
    assert summary["standard_error"][0] == pytest.approx(rewards.std(ddof=1) / 3)


def test_nothing_to_evaluate_is_refused(env):
    policy = Fixed(np.zeros(4))
    with pytest.raises(ValueError, match="at least one"):
        evaluate(env, {})
    with pytest.raises(ValueError, match="at least one"):
        evaluate(env, {"a": policy}, seeds=[])
    with pytest.raises(ValueError, match="2 start states for 1 seeds"):
        evaluate(env, {"a": policy}, seeds=[0], start_states=np.zeros((2, 4)))


def test_chart_shows_means_and_errors_without_pyplot():
    summary = pd.DataFrame(
        {"policy": ["a", "b"], "mean": [1.0, 2.5], "standard_error": [0.1, float("nan")]}
    )
    before = plt.get_fignums()
    figure = plot_rewards(summary, "title")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [1.0, 2.5]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b"]
    assert axes.get_title() == "title"
    png = io.BytesIO()
    figure.savefig(png, format="png")
    assert png.getvalue().startswith(b"\x89PNG")
    assert plt.get_fignums() == before
