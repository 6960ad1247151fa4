"""The exact argmax of Graph-Q: its values are the module's, its optimum is that of enumeration."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import milp_rl as mr
from milp_rl.graphq import (
    DependencyGraph,
    GraphDQN,
    GraphDQNConfig,
    GraphQNetwork,
    GraphQPolicy,
    GraphQValue,
    Interaction,
    make_interventions,
)


def module_values(network, states, actions):
    """Values by the torch module, in the precision of its own."""
    dtype = network.level.dtype
    with torch.no_grad():
        values = network.q(
            torch.from_numpy(states).to(dtype), torch.from_numpy(np.asarray(actions)).to(dtype)
        )
    return values.double().numpy()


def all_actions(n):
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)


def drawn_graph(rng):
    """A random graph with isolated nodes, empty relations and pairs among what can come."""
    n, m = rng.integers(1, 7), rng.integers(1, 6)
    effects = rng.normal(size=(m, n)) * (rng.random((m, n)) < rng.choice([0.0, 0.3, 0.8]))
    influences = rng.normal(size=(m, m)) * (rng.random((m, m)) < rng.choice([0.0, 0.3, 0.8]))
    np.fill_diagonal(influences, 0.0)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if rng.random() < 0.2]
    interactions = [Interaction(i, j, int(rng.integers(m)), rng.normal()) for i, j in pairs]
    names = [f"i{i}" for i in range(n)], [f"v{k}" for k in range(m)]
    return DependencyGraph(*map(tuple, names), effects, influences, tuple(interactions))


def drawn_network(rng):
    return GraphQNetwork(
        drawn_graph(rng),
        channels=int(rng.integers(1, 5)),
        layers=int(rng.integers(1, 4)),
        embedding=int(rng.integers(0, 4)),
        seed=int(rng.integers(1000)),
    )


@pytest.mark.parametrize("preset", ["10x10", "10x10 seasonal", "clinical", "50x35"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("pairs", [True, False])
def test_the_values_of_decisions_are_those_of_the_module(preset, layers, pairs):
    graph = make_interventions(preset, seed=1).instance.graph()
    if not pairs:
        graph = DependencyGraph(
            graph.interventions, graph.variables, graph.effects, graph.influences
        )
    network = GraphQNetwork(graph, channels=3, layers=layers, seed=layers)
    value = GraphQValue(network)
    rng = np.random.default_rng(0)
    states = 2 * rng.normal(size=(20, value.state_dim))
    actions = rng.integers(0, 2, (20, value.n_actions)).astype(np.float64)
    actions[0], actions[1] = 0.0, 1.0
    wanted = module_values(network, states, actions)
    assert value.values(states, actions) == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("solver", "count"), [("branch_and_bound", 200), ("highs", 25)])
def test_drawn_networks_have_the_modules_values_and_the_optimum_of_enumeration(solver, count):
    rng = np.random.default_rng(0)
    spaces = {}  # checked once each
    for _ in range(count):
        network = drawn_network(rng).double()
        n = network.action_dim
        value = GraphQValue(network)
        state = rng.normal(size=(1, network.state_dim))
        actions = all_actions(n)
        wanted = module_values(network, np.repeat(state, len(actions), axis=0), actions)
        found = value.at_state(state[0]).forward(actions)[:, 0]
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        k = int(rng.integers(1, n + 1))
        space = spaces.setdefault((n, k), mr.BudgetTopK(n, k))
        best = wanted[actions.sum(axis=1) <= k].max()
        result = mr.ArgmaxSolver(value, space, solver=solver).solve(state[0])
        assert result.status == "optimal"
        assert result.value == pytest.approx(best, abs=2 * result.tolerance)
        assert best <= result.bound + 1e-9
        assert result.value == pytest.approx(wanted[result.action @ 2 ** np.arange(n)], abs=1e-9)


@pytest.fixture(scope="module")
def trained():
    env = make_interventions("8x8", seed=0)
    config = GraphDQNConfig(random_steps=300, pretrain_epochs=5, episodes=1, channels=8)
    agent = GraphDQN(env, config, graph=env.instance.graph(), seed=0).train()
    rng = np.random.default_rng(0)
    return agent.network, env.action_space_block(), env.start_states(rng, 6).astype(np.float64)


@pytest.mark.parametrize("solver", ["auto", "branch_and_bound", "highs"])
@pytest.mark.parametrize("sense", ["maximize", "minimize"])
def test_a_trained_network_has_the_optimum_of_enumeration(trained, solver, sense):
    network, space, states = trained
    actions = space.enumerate()
    results = mr.ArgmaxSolver(GraphQValue(network), space, solver=solver, sense=sense).solve_batch(
        states, workers=1
    )
    built = GraphQPolicy(network, space).actions(states)
    for i, result in enumerate(results):
        values = module_values(network, np.repeat(states[[i]], len(actions), axis=0), actions)
        best = values.max() if sense == "maximize" else values.min()
        assert result.status == "optimal"
        assert result.value == pytest.approx(best, rel=1e-5)
        sign = 1 if sense == "maximize" else -1
        own = module_values(network, states[[i]], built[[i]])[0]
        assert sign * own <= sign * result.value + 1e-5


def test_a_state_has_the_same_network_in_every_batch(trained):
    network, _, states = trained
    value = GraphQValue(network)
    actions = all_actions(8)
    together = value.at_states(states)
    for i, state in enumerate(states):
        alone = value.at_state(state)
        found = together.values(actions, np.full(len(actions), i))
        assert [layer.width for layer in together.layers] == [len(w.bias) for w in alone.layers]
        assert alone.forward(actions)[:, 0] == pytest.approx(found, rel=1e-12)


def test_later_training_does_not_change_a_value(trained):
    network, space, states = trained
    network = copy.deepcopy(network)
    solver = mr.ArgmaxSolver(GraphQValue(network), space)
    before = solver.solve(states[0])
    network.shift(5.0)
    assert solver.solve(states[0]).value == before.value
    solver.update(GraphQValue(network))
    assert solver.solve(states[0]).value == pytest.approx(before.value + 5.0, abs=1e-5)


def test_interventions_of_one_round_need_no_neurons():
    graph = make_interventions("10x10", seed=0).instance.graph()
    graph = DependencyGraph(graph.interventions, graph.variables, graph.effects, graph.influences)
    value = GraphQValue(GraphQNetwork(graph, channels=4, layers=1))
    reached = int(((graph.effects != 0).sum(axis=1) >= 2).sum())  # by two interventions or more
    widths = [layer.width for layer in value.at_states(np.zeros((1, 10))).hidden]
    assert widths == [4 * reached, 4 * reached]


def test_what_is_of_the_state_alone_may_be_any_module():
    network = GraphQNetwork(make_interventions("5x5", seed=0).instance.graph(), channels=4)
    torch.manual_seed(0)
    network.encoders["variable"] = nn.Sequential(
        nn.Linear(9, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 4)
    )
    rng = np.random.default_rng(0)
    states, actions = rng.random((32, 5)), all_actions(5)
    wanted = module_values(network, states, actions)
    assert GraphQValue(network).values(states, actions) == pytest.approx(wanted, abs=1e-5)


class Smooth(GraphQNetwork):
    """A network that computes its values in its own way."""

    def q(self, state, action):
        return torch.tanh(super().q(state, action))


def with_gelu(network):
    network.heads["variable"][1] = nn.GELU()


def with_norm(network):
    network.heads["selected"].insert(1, nn.LayerNorm(4))


def with_normalised_flags(network):
    network.encoders["intervention"] = nn.Sequential(network.encoders["intervention"], nn.Tanh())


def with_attention(network):
    from torch_geometric.nn import GATConv

    relation = ("variable", "moves", "variable")
    network.convolutions[1].convs[relation] = GATConv((4, 4), 4, add_self_loops=False)


def with_several(network):
    with_gelu(network)
    with_attention(network)


def with_hook(network):
    network.heads["selected"].register_forward_hook(lambda module, inputs, output: output**2)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (with_gelu, [r"heads\['variable'\]\[1\] is GELU, not ReLU"]),
        (with_norm, [r"heads\['selected'\]\[1\] is LayerNorm"]),
        (with_normalised_flags, [r"encoders\['intervention'\] is Sequential"]),
        (with_attention, [r"convolutions\[1\].*is GATConv"]),
        (with_several, ["GELU", "GATConv"]),
        (with_hook, ["hook"]),
    ],
)
def test_what_is_not_linear_and_relu_is_refused_by_name(change, names):
    network = GraphQNetwork(make_interventions("5x5", seed=0).instance.graph(), channels=4)
    GraphQValue(network)
    change(network)
    for name in [*names, r"GraphQPolicy\(network, space, width"]:
        with pytest.raises(mr.NetworkError, match=name):
            GraphQValue(network)


def test_a_network_that_computes_otherwise_is_refused():
    network = Smooth(make_interventions("5x5", seed=0).instance.graph(), channels=4)
    with pytest.raises(mr.NetworkError, match="Smooth has a q of its own"):
        GraphQValue(network)
