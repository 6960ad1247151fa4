"""Training networks of one's own."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import milp_rl as mr
from milp_rl.dqn import Callback, DQNAgent, DQNConfig, FlatDQN, ModuleValue
from milp_rl.envs import make_bandit
from milp_rl.formulations.networks.conversion import to_action_value

SHORT = DQNConfig(
    episodes=2,
    batch_size=8,
    updates_per_step=1,
    sync_every=10,
    pretrain_epochs=3,
    pretrain_states=10,
    pretrain_actions=2,
    pretrain_replay=20,
)


class Critic(nn.Module):
    """GELU, LayerNorm and a gate in the state; ReLU after the action; two inputs."""

    def __init__(self, state_dim: int = 4, n_actions: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(state_dim, 6), nn.GELU(), nn.LayerNorm(6))
        self.gate = nn.Linear(6, n_actions)
        self.head = nn.Sequential(nn.Linear(n_actions + 6, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, obs: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        found = self.encoder(obs)
        return self.head(torch.cat([act * torch.tanh(self.gate(found)), found], dim=-1))


class ActionFirst(Critic):
    def forward(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return super().forward(v, u).squeeze(-1)


def critic(kind: type[Critic] = Critic, **sizes: int) -> Critic:
    torch.manual_seed(0)
    return kind(**sizes)


def bandit() -> Any:
    return make_bandit("budget", 4, 2, horizon=6, seed=0)


def weights(module: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])


class Keeper(Callback):
    """Keeps the checkpoint of the eighth step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step(self, agent: DQNAgent) -> None:
        if agent.step == 9:
            shutil.copy(self.path, self.path.with_name("kept.pt"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.pt"
    agent = DQNAgent(bandit(), SHORT, network=critic(), seed=0)
    return path, agent.train([Keeper(path)], checkpoint=path, checkpoint_every=4)


def test_a_network_of_ones_own_is_trained_and_acted_by(trained):
    agent = trained[1]
    module = agent.network.module
    assert type(module) is Critic
    assert all((p.grad != 0).any() for p in agent.learner.network.parameters())
    assert (weights(module) != weights(critic())).mean() > 0.9
    actions = torch.tensor(agent.space.enumerate()).float()
    for state in np.random.default_rng(0).integers(0, 4, (10, 4)).astype(np.float32):
        rows = torch.tensor(state).expand(len(actions), -1)
        with torch.no_grad():
            values = agent.network.q(rows, actions)
            assert values.allclose(module(rows, actions)[:, 0] + agent.network.level)
            value = agent.network.q(rows[:1], torch.tensor(agent.act(state)[None]).float())
        assert float(value) == pytest.approx(float(values.max()), rel=1e-5)


def test_a_checkpoint_goes_on_in_another_module_and_ends_with_the_same_weights(trained):
    path, whole = trained
    module = critic()
    resumed = DQNAgent.load(path.with_name("kept.pt"), bandit(), module)
    assert resumed.step == 8
    resumed.train()
    np.testing.assert_array_equal(weights(resumed.network), weights(whole.network))
    np.testing.assert_array_equal(weights(resumed.network.module), weights(module))


def test_a_checkpoint_says_which_network_it_needs(trained):
    path, _ = trained
    with pytest.raises(ValueError, match="network="):
        DQNAgent.load(path, bandit())
    with pytest.raises(ValueError, match=r"another run: network.* was .*, now"):
        DQNAgent.load(path, bandit(), mr.QNetwork(4, 4))
    with pytest.raises(ValueError, match=r"another run: network.* was .*, now"):
        DQNAgent(bandit(), SHORT, seed=0).train(checkpoint=path)


def test_it_is_exported_with_its_level(tmp_path):
    network = ModuleValue(critic(), 4, 4)
    network.shift(2.5)
    network.to_onnx(tmp_path / "q.onnx")
    rng = np.random.default_rng(0)
    states, actions = rng.normal(size=(20, 4)), rng.integers(0, 2, (20, 4)).astype(float)
    wanted = critic()(torch.tensor(states).float(), torch.tensor(actions).float())[:, 0] + 2.5
    for source in (network, tmp_path / "q.onnx"):
        found = to_action_value(source, 4).values(states, actions)
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", [("action", "state"), ("state", "action")])
def test_arguments_are_told_apart_by_name_or_by_order(order):
    rng = np.random.default_rng(0)
    states, actions = (torch.tensor(rng.normal(size=(5, n))).float() for n in (3, 4))
    kind = {("action", "state"): ActionFirst, ("state", "action"): Critic}[order]
    sizes = {"state_dim": 3, "n_actions": 4}
    with torch.no_grad():
        wanted = critic(**sizes)(states, actions)[:, 0]
        named = ModuleValue(critic(kind, **sizes), 3, 4, inputs=order)
        assert named.q(states, actions).allclose(wanted)
        torch.manual_seed(0)
        chain = nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 1))
        parts = [states, actions] if order[0] == "state" else [actions, states]
        joined = ModuleValue(chain, 3, 4, inputs=order)
        assert joined.q(states, actions).allclose(chain(torch.cat(parts, dim=1))[:, 0])


def test_a_q_network_that_is_given_is_trained_as_it_is():
    plain = replace(SHORT, architecture="concat", normalise=False)
    made = DQNAgent(bandit(), plain, seed=0)
    given = mr.QNetwork(4, 4, SHORT.hidden, generator=torch.Generator().manual_seed(0))
    agent = DQNAgent(bandit(), SHORT, network=given, seed=0)
    assert agent.network is given
    np.testing.assert_array_equal(weights(agent.train().network), weights(made.train().network))


class Smooth(Critic):
    def forward(self, obs: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        return torch.tanh(super().forward(obs, act)) * 2 + super().forward(obs, act)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: critic(state_dim=5), "shapes cannot be multiplied"),
        (lambda: critic(ActionFirst), "which argument"),
        (lambda: critic(Smooth), "Tanh"),
        (lambda: mr.QNetwork(5, 4), "5 state features and 4 actions, the environment has 4 and 4"),
        (lambda: nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), r"\.eval\(\)"),
        (lambda: nn.Linear(8, 1).half(), r"torch\.float16.*\.float\(\)"),
        (lambda: nn.Linear(9, 1), "9"),
        (lambda: nn.Linear(8, 2), "one value"),
        (lambda: nn.ReLU(), "none"),
        (lambda: "q.onnx", "must be a torch module"),
    ],
)
def test_networks_that_do_not_fit_are_refused(network, message):
    with pytest.raises((ValueError, mr.NetworkError), match=message):
        DQNAgent(bandit(), SHORT, network=network(), seed=0)


def test_an_agent_that_makes_its_own_network_takes_none():
    with pytest.raises(ValueError, match="makes its own network"):
        FlatDQN(bandit(), DQNConfig(pretrain_epochs=0), network=critic())
