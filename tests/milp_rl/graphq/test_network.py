import copy

import numpy as np
import pytest
import torch

import milp_rl as mr
from milp_rl.graphq import DependencyGraph, GraphQNetwork, GraphQPolicy, make_interventions


def inputs(network, n, seed=0):
    rng = np.random.default_rng(seed)
    states = torch.from_numpy(rng.random((n, network.state_dim), dtype=np.float32))
    actions = torch.from_numpy(rng.integers(0, 2, (n, network.action_dim)).astype(np.float32))
    return states, actions


@pytest.fixture(params=["5x5", "clinical"])
def graph(request) -> DependencyGraph:
    return make_interventions(request.param, seed=0).instance.graph()


def test_a_batch_is_its_rows(graph):
    network = GraphQNetwork(graph, seed=1)
    states, actions = inputs(network, 6)
    values, additions = network(states, actions)
    assert values.shape == (6,)
    assert additions.shape == (6, network.action_dim)
    for i in range(6):
        value, addition = network(states[[i]], actions[[i]])
        torch.testing.assert_close(value[0], values[i])
        torch.testing.assert_close(addition[0], additions[i])
    torch.testing.assert_close(network.q(states, actions), values)


def test_messages_go_along_edges_only():
    # a -> x -> y, and b, z apart from them
    effects = [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    influences = [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    graph = DependencyGraph(("a", "b"), ("x", "y", "z"), effects, influences)
    network = GraphQNetwork(graph, layers=3, seed=0)
    states, none = torch.rand(1, 3), torch.zeros(1, 2)
    with_b = torch.tensor([[0.0, 1.0]])
    _, before = network(states, none)
    _, after = network(states, with_b)
    assert before[0, 0] == after[0, 0]  # what a adds does not depend on b
    changed = states.clone()
    changed[0, 2] += 0.5  # z
    assert network(changed, none)[1][0, 0] == before[0, 0]
    changed[0, 1] += 0.5  # y
    assert network(changed, none)[1][0, 0] != before[0, 0]


def test_the_graphs_weights_are_those_of_pytorch_geometric(graph):
    from torch_geometric.nn import GraphConv

    from milp_rl.graphq.network import WeightedConv

    torch.manual_seed(0)
    ours = WeightedConv(4, root=True)
    theirs = GraphConv((4, 4), 4)
    theirs.load_state_dict(ours.state_dict())
    matrix = torch.from_numpy(graph.effects.astype(np.float32))
    target, source = matrix.nonzero(as_tuple=True)
    x = torch.rand(matrix.shape[1], 4), torch.rand(matrix.shape[0], 4)
    wanted = theirs(x, torch.stack([source, target]), matrix[target, source])
    torch.testing.assert_close(ours(tuple(part[None] for part in x), matrix)[0], wanted)


def test_the_seed_gives_the_weights_and_leaves_torchs_generator_alone(graph):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (GraphQNetwork(graph, seed=s) for s in (0, 0, 1))
    assert torch.rand(1) == wanted
    states, actions = inputs(first, 3)
    torch.testing.assert_close(first.q(states, actions), second.q(states, actions))
    assert not torch.allclose(first.q(states, actions), other.q(states, actions))


def test_shift_and_copies(graph):
    network = GraphQNetwork(graph)
    other = copy.deepcopy(network)
    other.shift(2.5)
    states, actions = inputs(network, 3)
    torch.testing.assert_close(other.q(states, actions), network.q(states, actions) + 2.5)


def test_wrong_sizes_are_refused(graph):
    with pytest.raises(ValueError, match="layers must be at least 1"):
        GraphQNetwork(graph, layers=0)
    network = GraphQNetwork(graph)
    with pytest.raises(ValueError, match=r"interventions, the space 3"):
        GraphQPolicy(network, mr.BudgetTopK(3, 1))
    policy = GraphQPolicy(network, mr.BudgetTopK(network.action_dim, 1))
    with pytest.raises(ValueError, match="states must have shape"):
        policy.actions(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="every entry must be finite"):
        policy.act(np.full(network.state_dim, np.nan))


@pytest.mark.parametrize("preset", ["10x10", "clinical"])
@pytest.mark.parametrize("options", [{}, {"width": 3}, {"temperature": 1.0}, {"epsilon": 0.5}])
def test_decisions_are_feasible(preset, options):
    env = make_interventions(preset, seed=0)
    network = GraphQNetwork(env.instance.graph(), seed=0)
    policy = GraphQPolicy(network, env.action_space_block(), **options)
    states = env.start_states(np.random.default_rng(0), 10)
    for action in policy.actions(states):
        assert not env.action_space_block().violations(action)
    assert not env.action_space_block().violations(policy.act(states[0]))


def test_a_beam_of_decisions_takes_one_pass_a_step(monkeypatch):
    env = make_interventions("10x10", seed=0)
    network = GraphQNetwork(env.instance.graph(), seed=0)
    passes = []
    forward = network.forward

    def counted(states, actions):
        passes.append(len(states))
        return forward(states, actions)

    monkeypatch.setattr(network, "forward", counted)
    policy = GraphQPolicy(network, env.action_space_block(), width=3)
    actions = policy.actions(env.start_states(np.random.default_rng(0), 30))
    assert len(passes) <= 5 + 1
    assert passes[0] == 30
    assert max(passes) <= 90
    assert actions.sum(axis=1).max() <= 5


def test_explain_shows_the_decision_step_by_step():
    env = make_interventions("10x10", seed=0)
    network = GraphQNetwork(env.instance.graph(), seed=0)
    policy = GraphQPolicy(network, env.action_space_block())
    state = env.start_states(np.random.default_rng(0), 1)[0]
    table = policy.explain(state)
    action = policy.act(state)
    chosen = [env.interventions.index(name) for name in table["selected"] if name]
    assert sorted(chosen) == np.flatnonzero(action).tolist()
    for step, i in enumerate(chosen):
        marginals = table.loc[step, list(env.interventions)]
        assert marginals.astype(float).idxmax() == env.interventions[i]
        assert marginals.isna().sum() == step


def test_a_plain_network_is_built_on_too_and_gives_the_milp_a_start():
    from milp_rl.baselines import GreedyArgmax

    space = mr.BudgetTopK(8, 3)
    network = mr.QNetwork(2, 8, generator=torch.Generator().manual_seed(0))
    states = np.random.default_rng(0).random((5, 2))
    exact = mr.ArgmaxSolver(network, space)
    starts = GreedyArgmax(network, space, width=4).actions(states)
    greedy = GreedyArgmax(network, space).actions(states)
    for result, start, simple, state in zip(
        exact.solve_batch(states, starts=list(starts)), starts, greedy, states, strict=True
    ):
        values = network.q(torch.tensor(state), torch.tensor(np.array([start, simple])))
        assert values.max() <= result.value + 1e-5
        assert result.status == "optimal"
