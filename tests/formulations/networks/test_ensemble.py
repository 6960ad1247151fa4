"""Several critics as one network, against what their members say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import milp_rl as mr
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks, ActionValue
from milp_rl.formulations.networks.conversion import to_action_value, to_network
from milp_rl.formulations.networks.ensemble import Ensemble, EnsembleValue, merged
from milp_rl.formulations.networks.network import INPUT, Layer, Network, NetworkError

REDUCE = {"min": np.min, "mean": np.mean, "max": np.max}


def drawn(rng, n_inputs, n_outputs=1):
    """Return a network of up to three hidden layers, some with skips, of random widths."""
    widths = [n_inputs, *rng.integers(1, 6, size=rng.integers(0, 4)), n_outputs]
    layers = []
    for depth in range(len(widths) - 1):
        skips = tuple(
            (source, rng.normal(size=(widths[depth + 1], widths[source + 1])))
            for source in range(INPUT, depth - 1)
            if rng.random() < 0.5
        )
        kind = "linear" if depth == len(widths) - 2 else "relu"
        weight = rng.normal(size=(widths[depth + 1], widths[depth]))
        layers.append(Layer(weight, rng.normal(size=widths[depth + 1]), kind, skips))
    return Network(tuple(layers))


@pytest.mark.parametrize("reduce", REDUCE)
def test_values_are_those_of_the_members(reduce):
    rng = np.random.default_rng(0)
    for _ in range(100):
        n_inputs, n_outputs = rng.integers(1, 6), rng.integers(1, 4)
        members = [drawn(rng, n_inputs, n_outputs) for _ in range(rng.integers(1, 7))]
        network = to_network(Ensemble(members, reduce))
        x = rng.normal(size=(30, n_inputs))
        expected = REDUCE[reduce]([member.forward(x) for member in members], axis=0)
        np.testing.assert_allclose(network.forward(x), expected, atol=1e-9)


@pytest.mark.parametrize("reduce", REDUCE)
def test_a_tournament_takes_a_neuron_less_than_there_are_members(reduce):
    members = [Network.from_arrays([np.full((1, 2), i)], [[i]]) for i in range(5)]
    network = to_network(Ensemble(members, reduce))
    assert sum(len(layer.bias) for layer in network.hidden) == (0 if reduce == "mean" else 4)
    assert len(network.hidden) == (0 if reduce == "mean" else 3)


class PerState(ActionValue):
    """Weights of all layers depend on the state, or those of some."""

    def __init__(self, rng, n_actions, state_dim):
        self.n_actions, self.state_dim = n_actions, state_dim
        self.depth, self.width = int(rng.integers(0, 3)), int(rng.integers(1, 5))
        self.shared = rng.random(self.depth + 1) < 0.5
        self.seed = int(rng.integers(2**31))

    def at_states(self, states):
        rng, layers = np.random.default_rng(self.seed), []
        for depth in range(self.depth + 1):
            rows = self.width if depth < self.depth else 1
            columns = self.width if depth else self.n_actions
            weight, skip = rng.normal(size=(rows, columns)), rng.normal(size=(rows, self.n_actions))
            bias, turn = rng.normal(size=rows), rng.normal(size=self.state_dim)
            if not self.shared[depth]:
                weight = weight * (states @ turn)[:, None, None]
                bias = bias + (states @ turn)[:, None]
            inputs = [(depth - 1, weight)] + [(INPUT, skip)] * (depth > 0)
            layers.append(ActionLayer(tuple(inputs), bias))
        return ActionNetworks(tuple(layers), self.n_actions, len(states))


@pytest.mark.parametrize("reduce", REDUCE)
def test_members_whose_weights_depend_on_the_state(reduce):
    rng = np.random.default_rng(1)
    for _ in range(50):
        members = [PerState(rng, 3, 2) for _ in range(rng.integers(1, 5))]
        value = to_action_value(Ensemble([*members, drawn(rng, 5)], reduce), 3)
        assert isinstance(value, EnsembleValue)
        states, actions = rng.normal(size=(8, 2)), rng.integers(0, 2, size=(8, 3)).astype(float)
        own = [member.values(states, actions) for member in value.members]
        expected = REDUCE[reduce](own, axis=0)
        np.testing.assert_allclose(value.values(states, actions), expected, atol=1e-9)
        for i in range(8):
            at = value.at_state(states[i]).forward(actions[i])[0]
            np.testing.assert_allclose(at, expected[i], atol=1e-9)


def test_merging_one_gives_it_back():
    networks = ActionNetworks.of(drawn(np.random.default_rng(2), 3))
    assert merged([networks], "min") is networks


@pytest.mark.parametrize("reduce", REDUCE)
def test_torch_critics(reduce):
    torch.manual_seed(0)
    critics = [mr.QNetwork(2, 6, hidden) for hidden in ((8,), (4, 4), ())]
    states, actions = torch.randn(20, 2), torch.randint(0, 2, (20, 6))
    own = [critic.q(states, actions).detach().numpy() for critic in critics]
    value = to_action_value(Ensemble(critics, reduce), 6)
    given = value.values(states.double().numpy(), actions.double().numpy())
    np.testing.assert_allclose(given, REDUCE[reduce](own, axis=0), atol=1e-6)


@pytest.mark.parametrize("solver", ["branch_and_bound", "enumeration", "highs"])
@pytest.mark.parametrize("reduce", REDUCE)
def test_the_best_action_is_that_of_enumeration(reduce, solver):
    torch.manual_seed(1)
    critics = [mr.QNetwork(2, 6, hidden) for hidden in ((8,), (4, 4), ())]
    space = mr.BudgetTopK(6, 2)
    actions = np.array(list(space.enumerate()))
    for state in np.random.default_rng(3).normal(size=(4, 2)):
        tiled = torch.tensor(np.tile(state, (len(actions), 1)), dtype=torch.float32)
        own = [c.q(tiled, torch.from_numpy(actions)).detach().numpy() for c in critics]
        result = mr.argmax(Ensemble(critics, reduce), state, space, solver=solver)
        assert result.status == "optimal"
        assert result.value == pytest.approx(REDUCE[reduce](own, axis=0).max(), abs=1e-5)


def test_ensembles_of_ensembles():
    rng = np.random.default_rng(4)
    a, b, c = (drawn(rng, 3) for _ in range(3))
    network = to_network(Ensemble([Ensemble([a, b], "max"), c], "min"))
    x = rng.normal(size=(20, 3))
    expected = np.minimum(np.maximum(a.forward(x), b.forward(x)), c.forward(x))
    np.testing.assert_allclose(network.forward(x), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble([], "min"), "at least one member"),
        (lambda: Ensemble([1], "median"), "'median'"),
        (
            lambda: to_network(Ensemble([mr.QNetwork(1, 2), mr.QNetwork(1, 3)])),
            "member 1 of the ensemble takes 4 inputs to 1 outputs, member 0 3 to 1",
        ),
    ],
)
def test_what_is_no_ensemble(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_members_of_other_widths_are_refused():
    rng = np.random.default_rng(5)
    members = [PerState(rng, 3, 2), PerState(rng, 3, 1)]
    with pytest.raises(NetworkError, match="member 1 of the ensemble takes 3 actions and 1 state"):
        to_action_value(Ensemble(members), 3)


@pytest.mark.parametrize("reduce", ["min", "max"])
def test_a_monotone_function_of_all_members_is_applied_after_them(reduce):
    rng = np.random.default_rng(6)
    members = [replace(drawn(rng, 3), link="sigmoid") for _ in range(3)]
    assert to_network(Ensemble(members, reduce)).link == "sigmoid"
    assert to_action_value(Ensemble(members, reduce), 2).link == "sigmoid"


@pytest.mark.parametrize(
    ("links", "reduce"), [(("sigmoid", "sigmoid"), "mean"), (("identity", "exp"), "min")]
)
def test_other_functions_of_members_are_refused(links, reduce):
    rng = np.random.default_rng(7)
    members = [replace(drawn(rng, 3), link=link) for link in links]
    for convert in (to_network, lambda source: to_action_value(source, 2)):
        with pytest.raises(NetworkError, match=f"the members of the ensemble end in .*{links[1]}"):
            convert(Ensemble(members, reduce))
