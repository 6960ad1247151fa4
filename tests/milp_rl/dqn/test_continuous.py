"""The same DQN with continuous actions, and CAQL's options."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import milp_rl as mr
import milp_rl.dqn
import milp_rl.envs
from milp_rl.dqn import DQNAgent, DQNConfig, Validation
from milp_rl.envs import ConstrainedControl
from milp_rl.envs.performative import PerformativeRisk, Population

TOY = {
    "hidden": (8, 8),
    "episodes": 3,
    "random_steps": 40,
    "pretrain_epochs": 2,
    "pretrain_batch_size": 16,
    "batch_size": 16,
    "updates_per_step": 2,
    "sync_every": 7,
}


def environment():
    return PerformativeRisk(Population(50), horizon=8)


def weights(agent):
    return torch.cat([p.detach().reshape(-1) for p in agent.network.parameters()])


@pytest.mark.parametrize("argmax", ["exact", "gradient", "cross_entropy"])
def test_training_plays_feasible_actions_and_is_reproducible(argmax):
    config = DQNConfig(**TOY, argmax=argmax)
    first = DQNAgent(environment(), config, seed=1).train()
    second = DQNAgent(environment(), config, seed=1).train()
    assert torch.equal(weights(first), weights(second))
    action = first.act(np.linspace(0.1, 0.9, 10))
    assert action.dtype == np.float64
    assert first.space.violations(action) == []


def test_acting_is_exact():
    agent = DQNAgent(environment(), DQNConfig(**TOY), seed=0).train()
    state = np.linspace(0.1, 0.9, 10, dtype=np.float32)
    best = mr.argmax(agent.network, state, agent.space, solver="highs")
    mine = agent.network.q(torch.from_numpy(state), torch.from_numpy(agent.act(state)))
    assert float(mine.detach()) == pytest.approx(best.value, abs=1e-5)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    config = DQNConfig(**TOY, dynamic_tolerance=1.0, cluster_radius=0.05)
    whole = DQNAgent(environment(), config, seed=2).train()

    class Stop(mr.dqn.Callback):
        def on_step(self, agent):
            if agent.step == 13:
                raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        DQNAgent(environment(), config, seed=2).train([Stop()], checkpoint=path, checkpoint_every=3)
    resumed = DQNAgent(environment(), config, seed=2).train(checkpoint=path)
    assert torch.equal(weights(whole), weights(resumed))
    assert resumed.learner.mean_error == whole.learner.mean_error


def test_validation_plays_any_environment(tmp_path):
    env = ConstrainedControl(gym.make("Pendulum-v1", max_episode_steps=5), mr.Box([-1], [1]))
    config = DQNConfig(hidden=(8,), episodes=2, pretrain_epochs=0, batch_size=4)
    validation = Validation(env, tmp_path, every=1, episodes=2)
    DQNAgent(env, config).train([validation])
    assert sorted(validation.rewards) == [0, 1, 2]
    assert all(-17 < reward < 0 for reward in validation.rewards.values())


def test_dual_filtering_changes_nothing_but_the_number_of_argmaxes():
    config = DQNConfig(**TOY, loss="hinge", dual_filtering=True)
    learner = DQNAgent(environment(), config, seed=3).train().learner
    batch = learner.replay.sample(np.random.default_rng(0), 64)
    exact = learner.targets(batch, 0.0).numpy()
    unit = exact.max() - exact.min()
    for above in (0.0, 1.0, 100.0):  # values from below their targets to above them
        values = exact + unit * (np.linspace(-1, 1, 64, dtype=np.float32) + above)
        learner.target_greedy.renew()
        before = learner.target_greedy.lookups
        spared = learner.targets(batch, 0.0, values).numpy()
        solved = learner.target_greedy.lookups - before
        # Priorities see a bound where a value was not solved for; the loss does not.
        np.testing.assert_allclose(
            np.maximum(exact - values, 0), np.maximum(spared - values, 0), atol=1e-5 * unit
        )
        if above == 0.0:
            assert solved >= 32  # all that are below
        if above == 100.0:
            assert solved == 0
            assert (spared >= exact - 1e-5 * unit).all()


def test_clusters_spare_argmaxes_and_lose_no_more_than_their_radius():
    agent = DQNAgent(environment(), DQNConfig(**TOY), seed=4).train()
    close = DQNAgent(environment(), DQNConfig(**TOY, cluster_radius=0.5), seed=4)
    close.learner.load_state_dict(agent.learner.state_dict())
    batch = agent.learner.replay.sample(np.random.default_rng(0), 64)
    before = close.learner.target_greedy.lookups
    exact, clustered = agent.learner.targets(batch, 0.0), close.learner.targets(batch, 0.0)
    assert close.learner.target_greedy.lookups - before < 64
    assert (clustered <= exact + 1e-5).all()
    assert float((exact - clustered).mean()) < 0.1 * float(exact.abs().mean()) + 0.05


def test_the_tolerance_follows_the_errors_and_decays():
    agent = DQNAgent(environment(), DQNConfig(**TOY, dynamic_tolerance=0.5, gap=0.01))
    agent.learner.mean_error, agent.learner.mean_value = 0.3, 1.0
    assert agent.gap == 0.125  # 0.15, rounded down to a power of two
    agent.episode = 10
    assert agent.gap == 0.0625  # 0.09
    agent.episode = 1000
    assert agent.gap == 0.01


def test_options_that_do_not_go_together():
    with pytest.raises(ValueError, match="dual_filtering needs loss='hinge'"):
        DQNConfig(dual_filtering=True)
    with pytest.raises(ValueError, match="needs a Box"):
        DQNAgent(
            mr.envs.make_bandit("budget", 4, 2, seed=0),
            DQNConfig(argmax="gradient", pretrain_epochs=0),
        )
    with pytest.raises(ValueError, match="continuous"):
        DQNAgent(environment(), DQNConfig(argmax="greedy", pretrain_epochs=0))
