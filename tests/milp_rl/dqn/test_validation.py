from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from milp_rl.dqn import Callback, DQNAgent, DQNConfig, Validation
from milp_rl.envs import make_bandit
from milp_rl.evaluation import evaluate

CONFIG = DQNConfig(
    hidden=(8, 8), episodes=5, batch_size=8, pretrain_epochs=3, pretrain_states=10, sync_every=10
)


@pytest.fixture
def env():
    return make_bandit("capacity", 5, 2, horizon=6, seed=1)


def curve(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "validation.csv")


def test_validates_at_the_start_every_few_episodes_and_at_the_end(env, tmp_path):
    DQNAgent(env, CONFIG).train([Validation(env, tmp_path, every=2, episodes=3)])
    assert curve(tmp_path)["episode"].tolist() == [0, 2, 4, 5]


def test_rewards_are_those_of_the_same_episodes_played_one_by_one(env, tmp_path):
    agent = DQNAgent(env, CONFIG)
    agent.train([Validation(env, tmp_path, every=5, episodes=4, seed=90)])
    played = evaluate(env, {"agent": agent}, seeds=range(90, 94))["reward"].mean()
    assert curve(tmp_path)["reward"].iloc[-1] == pytest.approx(played)


def test_validation_does_not_change_the_training(env, tmp_path):
    with_it = DQNAgent(env, CONFIG).train([Validation(env, tmp_path, every=1, episodes=2)])
    without = DQNAgent(env, CONFIG).train()
    for a, b in zip(with_it.network.parameters(), without.network.parameters(), strict=True):
        assert torch.equal(a, b)
    timed = ("seconds", "argmax_seconds")
    rows = [[{k: v for k, v in r.items() if k not in timed} for r in a.history] for a in
            (with_it, without)]  # fmt: skip
    assert rows[0] == rows[1]


def test_best_is_the_network_of_highest_reward(env, tmp_path):
    validation = Validation(env, tmp_path, every=1, episodes=2)
    agent = DQNAgent(env, CONFIG)
    agent.train([validation])
    agent.use(validation.best())
    played = evaluate(env, {"best": agent}, seeds=range(1_000_000, 1_000_002))["reward"].mean()
    assert played == pytest.approx(curve(tmp_path)["reward"].max())


class StoppedError(Exception):
    pass


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, agent: DQNAgent) -> None:
        if agent.step == self.step:
            raise StoppedError


def test_a_resumed_run_ends_with_the_same_curve_and_network(env, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    DQNAgent(env, CONFIG).train([Validation(env, whole, every=1, episodes=2)])
    checkpoint = tmp_path / "checkpoint.pt"
    for step in (7, 15):
        with pytest.raises(StoppedError):
            DQNAgent(env, CONFIG).train(
                [Validation(env, broken, every=1, episodes=2), StopAt(step)],
                checkpoint=checkpoint,
                checkpoint_every=4,
            )
    validation = Validation(env, broken, every=1, episodes=2)
    DQNAgent(env, CONFIG).train([validation], checkpoint=checkpoint)
    pd.testing.assert_frame_equal(curve(broken), curve(whole))
    other = Validation(env, whole, every=1, episodes=2)
    other.on_train_begin(DQNAgent.load(checkpoint, env))
    weights, wanted = validation.best(), other.best()
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


def test_without_pretraining_the_first_network_is_validated(env, tmp_path):
    config = replace(CONFIG, pretrain_epochs=0, episodes=1)
    DQNAgent(env, config).train([Validation(env, tmp_path, every=1, episodes=2)])
    assert curve(tmp_path)["episode"].tolist() == [0, 1]
    assert np.isfinite(curve(tmp_path)["reward"]).all()


def test_wrong_use_is_refused(env, tmp_path):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Validation(env, tmp_path, every=0)
    with pytest.raises(ValueError, match="no network has been validated"):
        Validation(env, tmp_path).best()
