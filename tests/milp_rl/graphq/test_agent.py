from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from milp_rl.dqn import Callback, CSVLogger, DQNAgent, DQNConfig, FlatDQN, Validation
from milp_rl.envs import make_bandit
from milp_rl.evaluation import evaluate
from milp_rl.graphq import DependencyGraph, GraphDQN, GraphDQNConfig, make_interventions

SMALL = GraphDQNConfig(
    random_steps=200,
    pretrain_epochs=3,
    episodes=3,
    batch_size=8,
    updates_per_step=2,
    sync_every=20,
    channels=8,
    expected_rewards=False,
)


def weights(agent):
    return torch.cat([p.detach().flatten() for p in agent.network.parameters()])


@pytest.fixture
def env():
    return make_interventions("5x5", seed=0, horizon=8)


def test_training_reaches_more_than_random_decisions_and_estimates_the_graph():
    env = make_interventions("8x8", seed=0)
    config = replace(SMALL, random_steps=1500, pretrain_epochs=20, episodes=5)
    agent = GraphDQN(env, config, seed=0).train()
    assert agent.graph.scores(env.instance.graph()).f1 > 0.75
    from milp_rl.baselines import RandomPolicy

    policies = {"graphq": agent, "random": RandomPolicy(env.action_space_block(), seed=0)}
    rewards = evaluate(env, policies, seeds=range(10)).groupby("policy")["reward"].mean()
    assert rewards["graphq"] > 1.05 * rewards["random"]


def test_the_same_seed_gives_the_same_weights(env):
    first, second = (GraphDQN(env, SMALL, seed=3).train() for _ in range(2))
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(GraphDQN(env, SMALL, seed=4).train()))


class StopAfter(Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_step(self, agent):
        if agent.step == self.steps:
            raise KeyboardInterrupt

    def on_pretrain_epoch(self, agent, loss):
        if -agent.epoch == self.steps:
            raise KeyboardInterrupt


@pytest.mark.parametrize("steps", [-2, 5, 16])
def test_a_run_that_is_stopped_goes_on_to_the_same_weights(env, tmp_path, steps):
    whole = GraphDQN(env, SMALL, seed=0).train()
    path = tmp_path / "agent.pt"
    with pytest.raises(KeyboardInterrupt):
        GraphDQN(env, SMALL, seed=0).train([StopAfter(steps)], checkpoint=path, checkpoint_every=1)
    resumed = GraphDQN(env, SMALL, seed=0).train(checkpoint=path)
    assert torch.equal(weights(whole), weights(resumed))


def test_checkpoints_hold_the_graph(env, tmp_path):
    agent = GraphDQN(env, SMALL, seed=0).train()
    agent.save(tmp_path / "agent.pt")
    loaded = GraphDQN.load(tmp_path / "agent.pt", env)
    assert loaded.graph.edges == agent.graph.edges
    state, _ = env.reset(seed=0)
    np.testing.assert_array_equal(loaded.act(state), agent.act(state))
    other = GraphDQN(env, SMALL, graph=DependencyGraph.complete(env.interventions, env.variables))
    with pytest.raises(ValueError, match=r"another run: dependency graph.* was .*, now"):
        other.train(checkpoint=tmp_path / "agent.pt")


def test_the_packages_callbacks_serve(env, tmp_path):
    validation = Validation(env, tmp_path, every=1, episodes=3)
    agent = GraphDQN(env, SMALL, seed=0)
    agent.train([CSVLogger(tmp_path / "history.csv"), validation])
    assert len(pd.read_csv(tmp_path / "history.csv")) == SMALL.episodes
    agent.use(validation.best())
    state, _ = env.reset(seed=0)
    assert env.action_space.contains(agent.act(state))


def test_marginal_values_become_the_differences_of_values(env):
    config = replace(SMALL, episodes=0, pretrain_epochs=60, random_steps=600)
    agent = GraphDQN(env, config, seed=0).train()
    policy = agent.policy()
    states = torch.from_numpy(env.start_states(np.random.default_rng(0), 50))
    none = torch.zeros(50, 5)
    with torch.no_grad():
        values, additions = policy.network(states, none)
        wanted = torch.stack(
            [policy.network.q(states, torch.eye(5)[[i]].expand(50, -1)) for i in range(5)], dim=1
        )
    differences = wanted - values[:, None]
    error = (additions - differences).square().mean()
    assert error < 0.1 * differences.var()


@pytest.mark.parametrize(
    "change", [{"width": 3}, {"temperature": 1.0}, {"graph": "complete"}, {"layers": 1}]
)
def test_variants_train_and_act(env, change):
    agent = GraphDQN(env, replace(SMALL, **change), seed=0).train()
    state, _ = env.reset(seed=0)
    assert env.action_space.contains(agent.act(state))


def test_it_plays_other_feasible_sets():
    env = make_bandit("capacity", 6, 2, horizon=6, seed=0)
    agent = GraphDQN(env, replace(SMALL, expected_rewards=True), seed=0).train()
    state, _ = env.reset(seed=0)
    assert env.action_space.contains(agent.act(state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph": "true"}, "graph must be"),
        ({"channels": 0}, "channels must be"),
        ({"width": 1.5}, "width must be"),
        ({"temperature": -1}, "temperature must be"),
    ],
)
def test_wrong_parameters_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_a_graph_must_fit_the_environment(env):
    graph = DependencyGraph.complete(("a",), ("x",))
    with pytest.raises(ValueError, match="1 variables and 1 interventions, the"):
        GraphDQN(env, SMALL, graph=graph)
    with pytest.raises(ValueError, match="random_steps are needed"):
        GraphDQN(env, replace(SMALL, random_steps=0, pretrain_epochs=0))


def test_the_standard_dqn_values_every_combination(env):
    config = DQNConfig(
        random_steps=200, pretrain_epochs=3, episodes=2, batch_size=8, expected_rewards=False
    )
    agent = FlatDQN(env, config, seed=0).train()
    state, _ = env.reset(seed=0)
    actions = env.action_space_block().enumerate()
    with torch.no_grad():
        values = agent.network.q(
            torch.from_numpy(state).expand(len(actions), -1), torch.from_numpy(actions).float()
        )
    np.testing.assert_array_equal(agent.act(state), actions[int(values.argmax())])
    with pytest.raises(ValueError, match="set random_steps"):
        FlatDQN(env, replace(config, random_steps=0))


def test_random_steps_need_no_model():
    import gymnasium as gym

    class Unknown(gym.Wrapper):
        @property
        def unwrapped(self):
            return self

        def action_space_block(self, state=None):
            return self.env.unwrapped.action_space_block(state)

    env = Unknown(make_interventions("5x5", seed=0, horizon=8))
    config = DQNConfig(random_steps=50, pretrain_epochs=2, episodes=1, batch_size=8)
    agent = DQNAgent(env, config, seed=0).train()
    assert len(agent.learner.replay) == 58
    with pytest.raises(ValueError, match="set random_steps to pretrain on random play"):
        DQNAgent(env, replace(config, random_steps=0))
