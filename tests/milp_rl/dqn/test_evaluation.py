"""Evaluations while training: their values, the best weights, early stopping; TensorBoard."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch

from milp_rl.dqn import (
    Callback,
    DQNAgent,
    DQNConfig,
    EvaluationCallback,
    FlatDQN,
    TensorBoardLogger,
)
from milp_rl.envs import make_bandit

CONFIG = DQNConfig(
    architecture="concat",
    hidden=(6, 6),
    batch_size=8,
    updates_per_step=2,
    sync_every=5,
    epsilon_decay=15.0,
    learning_rate=3e-3,
    pretrain_epochs=3,
    pretrain_states=10,
    solver="enumeration",
)


def bandit():
    return make_bandit("capacity", 4, 2, horizon=7, seed=1)


def wrapped():
    return gym.wrappers.RecordEpisodeStatistics(bandit())


def weights(agent: DQNAgent) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in agent.network.parameters())


class Die(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, agent):
        if agent.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("make", [bandit, wrapped])
def test_returns_are_those_of_episodes_played_with_the_weights_of_then(make):
    agent = DQNAgent(bandit(), CONFIG, seed=3)
    evaluation = EvaluationCallback(make(), every=10, episodes=3, seed=50)
    agent.learn(20, callbacks=[evaluation])
    assert [row["step"] for row in evaluation.rows] == [10, 20]
    env, returns = bandit(), []
    for seed in (50, 51, 52):
        state, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action = agent.act(state)
            total += float(env.expected_reward(state, action))
            state, _, _, done, _ = env.step(action)
        returns.append(total)
    row = evaluation.rows[-1]
    assert row["return"] == pytest.approx(np.mean(returns))
    assert row["error"] == pytest.approx(np.std(returns, ddof=1) / np.sqrt(3))
    assert row["steps"] == 7


@pytest.mark.parametrize("kind", [DQNAgent, FlatDQN])
def test_training_is_as_without_and_a_killed_run_evaluates_the_same(kind, tmp_path):
    config = CONFIG if kind is DQNAgent else replace(CONFIG, random_steps=10, pretrain_epochs=1)

    def run(folder, steps, *others, checkpoint=None):
        evaluation = EvaluationCallback(
            wrapped(), every=4, episodes=2, best=folder / "best.pt", log=folder / "log.csv"
        )
        agent = kind(wrapped(), config, seed=3)
        agent.learn(
            steps, callbacks=[evaluation, *others], checkpoint=checkpoint, checkpoint_every=6
        )
        return agent, evaluation

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    agent, evaluation = run(whole, 40)
    plain = kind(bandit(), config, seed=3).learn(40)
    assert weights(agent) == weights(plain)
    for step in (9, 16):
        with pytest.raises(KeyboardInterrupt):
            run(broken, 40, Die(step), checkpoint=broken / "run.pt")
    run(broken, 28, checkpoint=broken / "run.pt")
    resumed, again = run(broken, 40, checkpoint=broken / "run.pt")
    assert weights(resumed) == weights(agent)
    assert again.rows == evaluation.rows
    written = [pd.read_csv(folder / "log.csv") for folder in (whole, broken)]
    pd.testing.assert_frame_equal(*written)
    best = [torch.load(folder / "best.pt", weights_only=True) for folder in (whole, broken)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    resumed.use(broken / "best.pt")
    highest = max(row["return"] for row in evaluation.rows)
    check = EvaluationCallback(wrapped(), every=1, episodes=2)
    check.on_step(resumed)
    assert check.rows[-1]["return"] == highest


class Scripted(EvaluationCallback):
    """Returns that are known."""

    def __init__(self, returns, **options) -> None:
        super().__init__(bandit(), every=5, episodes=2, **options)
        self.returns = iter(returns)
        self._episodes.play = lambda agent: (np.full(2, next(self.returns)), np.full(2, 1))


def test_training_stops_when_nothing_gets_better_and_stays_stopped(tmp_path):
    file = tmp_path / "run.pt"
    agent = DQNAgent(bandit(), CONFIG, seed=3)
    first = Scripted([1, 3, 2, 4, 4, 3, 9], patience=2)
    agent.learn(100, callbacks=[first], checkpoint=file)
    assert agent.step == 30
    assert [row["return"] for row in first.rows] == [1, 3, 2, 4, 4, 3]
    again = DQNAgent(bandit(), CONFIG, seed=3)
    again.learn(100, callbacks=[Scripted([9], patience=2)], checkpoint=file)
    assert again.step == 30
    more = DQNAgent(bandit(), CONFIG, seed=3)
    more.learn(100, callbacks=[Scripted([3, 2, 1], patience=4)], checkpoint=file)
    assert more.step == 40
    kept = first.best_weights()
    at_20 = DQNAgent(bandit(), CONFIG, seed=3).learn(20)
    assert all(torch.equal(kept[n], w) for n, w in at_20.network.state_dict().items())


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        EvaluationCallback(bandit(), patience=0)
    with pytest.raises(ValueError, match="the first is after 50 steps"):
        EvaluationCallback(bandit(), every=50).best_weights()
    env = wrapped()
    with pytest.raises(ValueError, match="make another one"):
        DQNAgent(env, CONFIG).learn(10, callbacks=[EvaluationCallback(env)])


def test_tensorboard_shows_every_episode_and_evaluation_once(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def run(steps, *others):
        evaluation = EvaluationCallback(bandit(), every=10, episodes=2)
        logs = TensorBoardLogger(tmp_path / "logs", evaluation)
        agent = DQNAgent(bandit(), CONFIG, seed=3)
        agent.learn(
            steps,
            callbacks=[evaluation, logs, *others],
            checkpoint=tmp_path / "run.pt",
            checkpoint_every=5,
        )
        return agent, evaluation

    with pytest.raises(KeyboardInterrupt):
        run(30, Die(14))  # after a checkpoint at 10 and an episode that ends at 14
    agent, evaluation = run(30)
    written = accumulator.EventAccumulator(str(tmp_path / "logs")).Reload()

    def scalars(name):
        return [(event.step, pytest.approx(event.value)) for event in written.Scalars(name)]

    rows = agent.history
    assert scalars("episode/return") == [(7 * (i + 1), 7 * r["reward"]) for i, r in enumerate(rows)]
    assert scalars("train/loss") == [(7 * (i + 1), r["loss"]) for i, r in enumerate(rows)]
    assert scalars("eval/return") == [(r["step"], r["return"]) for r in evaluation.rows]
    assert [event.step for event in written.Scalars("pretrain/loss")] == [-2, -1, 0]


def test_tensorboard_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"milp-rl\[tensorboard\]"):
        DQNAgent(bandit(), CONFIG).learn(5, callbacks=[TensorBoardLogger(tmp_path)])
