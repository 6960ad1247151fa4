"""Budgets of steps and seconds, callbacks that stop, and `predict`."""

from dataclasses import replace

import numpy as np
import pytest

from milp_rl.dqn import Callback, DQNAgent, DQNConfig, ProgressBar
from milp_rl.envs import make_bandit
from milp_rl.graphq import GraphDQN, GraphDQNConfig, make_interventions

CONFIG = DQNConfig(
    architecture="concat",
    hidden=(6, 6),
    episodes=5,
    batch_size=8,
    updates_per_step=2,
    sync_every=5,
    epsilon_decay=15.0,
    buffer_size=60,
    pretrain_epochs=4,
    pretrain_states=10,
    pretrain_replay=40,
    solver="enumeration",
)


def fresh(**changes) -> DQNAgent:
    """An untrained agent, of a bandit of 4 steps an episode."""
    env = make_bandit("capacity", 4, 2, horizon=4, seed=1)
    return DQNAgent(env, replace(CONFIG, **changes), seed=3)


def weights(agent: DQNAgent) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in agent.network.parameters())


@pytest.fixture(scope="module")
def whole() -> bytes:
    return weights(fresh().train())  # 20 steps


def test_a_budget_of_steps_is_spent_exactly_and_in_parts(whole, tmp_path):
    agent = fresh(episodes=1)  # plays no part
    assert agent.learn(9) is agent
    assert (agent.step, agent.episode, len(agent.running[0].actions)) == (9, 2, 1)
    assert weights(agent.learn(9)) != whole
    assert weights(agent.learn(20)) == whole
    file = tmp_path / "run.pt"
    for steps in (7, 20):
        agent = fresh().learn(steps, checkpoint=file, checkpoint_every=1000)
        assert agent.step == steps
    assert weights(agent) == whole
    assert weights(DQNAgent.load(file, agent.env)) == whole
    assert weights(fresh().learn(20, checkpoint=file)) == whole


def test_random_steps_count():
    agent = fresh(random_steps=20, pretrain_epochs=2)
    assert agent.num_timesteps == 0
    assert agent.learn(25).step == 5
    assert agent.num_timesteps == 25
    with pytest.raises(ValueError, match="more than the 20 random steps"):
        fresh(random_steps=20).learn(20)


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_run_that_is_out_of_time_goes_on_where_it_was(whole, tmp_path, pretrained, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("milp_rl.dqn.training.time.perf_counter", lambda: now[0])

    class Clock(Callback):
        def on_pretrain_epoch(self, agent, loss):
            now[0] += 0.0 if pretrained else 1.0

        def on_step(self, agent):
            now[0] += 1.0

    file = tmp_path / "run.pt"
    agent = fresh().learn(20, seconds=3.0, callbacks=[Clock()], checkpoint=file)
    assert (agent.epoch, agent.step) == ((4, 3) if pretrained else (3, 0))
    assert weights(fresh().learn(20, checkpoint=file)) == whole
    assert weights(agent.learn(seconds=8, callbacks=[Clock()]).learn(20)) == whole


class Stop(Callback):
    def __init__(self, what: str, after: int) -> None:
        setattr(self, what, self.count)
        self.left = after

    def count(self, *about):
        self.left -= 1
        return self.left > 0  # once False, never asked again


@pytest.mark.parametrize(
    ("what", "after", "expected"),
    [
        ("on_train_begin", 1, (0, 0)),
        ("on_pretrain_epoch", 2, (2, 0)),
        ("on_step", 6, (4, 6)),
        ("on_episode_end", 2, (4, 8)),
    ],
)
def test_a_callback_stops_training_which_can_go_on(whole, tmp_path, what, after, expected):
    file = tmp_path / "run.pt"
    agent = fresh().train([Stop(what, after)], checkpoint=file)
    assert (agent.epoch, agent.step) == expected
    assert weights(fresh().train(checkpoint=file)) == whole
    assert weights(agent.train()) == whole


def test_budgets_are_checked():
    with pytest.raises(ValueError, match="needs a budget"):
        fresh().learn()
    with pytest.raises(ValueError, match="seconds must be positive, got 0"):
        fresh().learn(10, seconds=0)


def test_the_bar_is_of_steps(capsys):
    fresh().learn(20, callbacks=[ProgressBar()])
    assert "steps: 100%" in capsys.readouterr().err


# predict ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0, 1, 3])
def test_predict_is_act_for_one_state_and_for_many(width):
    agent = fresh().train()
    if width:
        env = make_interventions("5x5", seed=0, horizon=5)
        config = GraphDQNConfig(
            random_steps=30, pretrain_epochs=1, episodes=1, batch_size=4, width=width
        )
        agent = GraphDQN(env, config, seed=0).train()
    states = np.stack([agent.env.reset(seed=i)[0] for i in range(5)])
    actions, nothing = agent.predict(states)
    assert nothing is None
    np.testing.assert_array_equal(actions, [agent.act(state) for state in states])
    one, _ = agent.predict(states[2], deterministic=True)
    np.testing.assert_array_equal(one, actions[2])
    assert one.dtype == agent.act(states[2]).dtype
    with pytest.raises(ValueError, match=r"must have shape .* got \(2,\)"):
        agent.predict(states[:, :2])
    with pytest.raises(ValueError, match="got an empty batch"):
        agent.predict(states[:0])


def test_predict_explores_as_training_would_and_does_not_touch_it(whole):
    agent = fresh().learn(7)
    states = np.zeros((400, 4))
    drawn, _ = agent.predict(states, deterministic=False)
    assert not any(agent.space.violations(action) for action in drawn)
    best = agent.act(states[0])
    same = (drawn == best).all(axis=1).mean()
    assert 1 - agent.epsilon - 0.1 < same < 1 - agent.epsilon / 2
    np.testing.assert_array_equal(agent.predict(states)[0], np.tile(best, (400, 1)))
    assert weights(agent.learn(20)) == whole


def test_stable_baselines_evaluates_an_agent():
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    agent = fresh().train()
    found, lengths = evaluation.evaluate_policy(
        agent, agent.env, n_eval_episodes=3, return_episode_rewards=True, warn=False
    )
    assert lengths == [4, 4, 4]
    assert np.isfinite(found).all()
