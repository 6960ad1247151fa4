"""Torch modules that may do anything to the state, against torch."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

import milp_rl as mr
from milp_rl.formulations.networks.action_value import ActionValue, NetworkValue
from milp_rl.formulations.networks.conversion import to_action_value, to_network
from milp_rl.formulations.networks.link import linked
from milp_rl.formulations.networks.network import Network, NetworkError
from milp_rl.qnetwork import QNetwork, export_onnx

N_ACTIONS, STATE_DIM = 6, 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class PerArm(nn.Module):
    """A score of each arm by the state, and what a small network makes of them."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(STATE_DIM, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, N_ACTIONS)
        )
        self.head = nn.Sequential(nn.Linear(N_ACTIONS + STATE_DIM, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, state, action):
        parts = [action * self.encoder(state), torch.tanh(state)]
        return self.head(torch.cat(parts, -1)).squeeze(-1)


class Hyper(nn.Module):
    """A network in the action whose weights another network of the state gives."""

    def __init__(self):
        super().__init__()
        self.weights, self.out = nn.Linear(STATE_DIM, N_ACTIONS * 8), nn.Linear(8, 1)

    def forward(self, obs, act):
        weights = self.weights(obs).sin().view(-1, 8, N_ACTIONS)
        return self.out(functional.relu(torch.bmm(weights, act.unsqueeze(-1)).squeeze(-1)))


class Together(nn.Module):
    """One argument, [action, state]."""

    def __init__(self):
        super().__init__()
        self.state_dim = STATE_DIM
        self.encoder = nn.Sequential(nn.Linear(STATE_DIM, 8), nn.SiLU(), nn.Linear(8, N_ACTIONS))

    def forward(self, x):
        action, state = x[:, :N_ACTIONS], x[:, N_ACTIONS:]
        return (action * self.encoder(state)).relu().sum(-1, keepdim=True)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.state_dim = STATE_DIM
        self.gru = nn.GRU(1, 8, batch_first=True)
        self.layer, self.out = nn.Linear(8 + N_ACTIONS, 8), nn.Linear(8, 1)

    def forward(self, state, action):
        _, h = self.gru(state.unsqueeze(-1))
        return self.out(self.layer(torch.cat([h[0], action], 1)).relu())


class Attentive(nn.Module):
    """Among what attention is exported as there are nodes that would be called alike."""

    def __init__(self):
        super().__init__()
        self.state_dim = STATE_DIM
        self.gru = nn.GRU(1, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.layer, self.out = nn.Linear(4 + N_ACTIONS, 8), nn.Linear(8, 1)

    def forward(self, state, action):
        x, _ = self.gru(state.unsqueeze(-1))
        found, _ = self.attention(x, x, x)
        return self.out(self.layer(torch.cat([found.mean(1), action], 1)).relu())


class Table(nn.Module):
    """States are looked up in a table, which has no rows for most numbers."""

    def __init__(self):
        super().__init__()
        self.state_dim = STATE_DIM
        self.table, self.out = nn.Embedding(2, 3), nn.Linear(3 * STATE_DIM + N_ACTIONS, 1)

    def forward(self, state, action):
        found = self.table(state.long()).flatten(1)
        return self.out(torch.cat([found, action], 1)), None


class Probability(Hyper):
    def forward(self, obs, act):
        return torch.sigmoid(super().forward(obs, act))


KINDS = (PerArm, Hyper, Together, Recurrent, Attentive, Probability, Table)


def drawn(rows=20, kind=None):
    states = torch.randn(rows, STATE_DIM)
    if kind is Table:
        states = (states > 0).float()
    return states, torch.randint(0, 2, (rows, N_ACTIONS)).float()


def values_of(module, states, actions):
    together = isinstance(module, Together)
    given = (torch.cat([actions, states], 1),) if together else (states, actions)
    result = module(*given)
    return (result[0] if isinstance(module, Table) else result).detach().reshape(-1).numpy()


def check(value, module):
    states, actions = drawn(kind=type(module))
    own = value.values(states.double().numpy(), actions.double().numpy())
    expected = values_of(module, states, actions)
    np.testing.assert_allclose(linked(value.link, own), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_module_before_and_after_training(kind):
    module = kind()
    value = to_action_value(module, N_ACTIONS)
    assert (value.n_actions, value.state_dim) == (N_ACTIONS, STATE_DIM)
    check(value, module)
    states, actions = (part.double().numpy() for part in drawn(kind=kind))
    before = value.values(states, actions)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05
    check(to_action_value(module, N_ACTIONS), module)
    assert (value.values(states, actions) == before).all()


def test_what_is_smooth_in_the_action_is_refused_by_name():
    class Smooth(PerArm):
        def forward(self, state, action):
            return self.head(torch.cat([functional.gelu(action), torch.tanh(state)], -1))

    with pytest.raises(NetworkError, match="gelu"):
        to_action_value(Smooth(), N_ACTIONS)
    with pytest.raises(NetworkError, match="attributes state_dim and action_dim"):
        to_network(PerArm())


def test_critics_that_depend_on_the_state_are_an_ensemble():
    critics = [Hyper(), PerArm(), mr.QNetwork(STATE_DIM, N_ACTIONS, (4,))]
    states, actions = drawn()
    own = [values_of(critic, states, actions) for critic in critics[:2]]
    own.append(critics[2].q(states, actions).detach().numpy())
    value = to_action_value(mr.Ensemble(critics, "min"), N_ACTIONS)
    given = value.values(states.double().numpy(), actions.double().numpy())
    np.testing.assert_allclose(given, np.min(own, axis=0), atol=1e-5)


class TestFiles:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_file_has_the_whole_module(self, kind, tmp_path):
        module, path = kind(), tmp_path / "q.onnx"
        export_onnx(module, path, n_actions=N_ACTIONS)
        check(to_action_value(path, N_ACTIONS), module)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        states, actions = drawn(7, kind)
        names = [entry.name for entry in session.get_inputs()]
        if kind is Together:
            assert names == ["x"]
            feeds = {"x": torch.cat([actions, states], 1).numpy()}
        else:
            assert names == ["state", "action"]
            feeds = {"state": states.numpy(), "action": actions.numpy()}
        (run,) = session.run(None, feeds)
        np.testing.assert_allclose(run.reshape(-1), values_of(module, states, actions), atol=1e-5)

    def test_a_chain_of_two_arguments_comes_back_as_a_q_network(self, tmp_path):
        class Critic(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1))

            def forward(self, obs, act):
                return self.layers(torch.cat([obs, act], 1))

        module, (states, actions) = Critic(), drawn()
        export_onnx(module, tmp_path / "q.onnx", n_actions=N_ACTIONS)
        network = QNetwork.from_onnx(tmp_path / "q.onnx", state_dim=STATE_DIM)
        expected = values_of(module, states, actions)
        np.testing.assert_allclose(network.q(states, actions).detach().numpy(), expected, atol=1e-6)

    def test_what_is_more_than_a_chain_is_no_q_network(self, tmp_path):
        module = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(), nn.Linear(4, 1)).eval()
        export_onnx(module, tmp_path / "leaky.onnx")
        with pytest.raises(NetworkError, match=r"one chain of ReLU layers, .*leaky\.onnx is not"):
            QNetwork.from_onnx(tmp_path / "leaky.onnx", state_dim=1)


def test_a_module_may_give_its_own_action_value():
    class Offering(nn.Module):
        def forward(self, x):
            return torch.sin(x)

        def action_value(self) -> ActionValue:
            return NetworkValue(Network.from_arrays([np.ones((1, 3))], [[0.0]]), 2)

    value = to_action_value(Offering(), 2)
    assert value.values(np.ones((1, 1)), np.ones((1, 2))) == [3.0]
    with pytest.raises(ValueError, match="the Offering values 2 actions, not 3"):
        to_action_value(Offering(), 3)
