import numpy as np
import pytest

from milp_rl.formulations.spaces.sequential import SequentialBuilder
from milp_rl.graphq import DependencyGraph, GraphQNetwork, GraphQPolicy, make_interventions
from milp_rl.graphq.marginals import GreedyMarginals


def network_on(preset, layers, complete=False):
    env = make_interventions(preset, seed=0)
    graph = env.instance.graph()
    names = graph.interventions, graph.variables
    graph = (
        DependencyGraph.complete(*names)
        if complete
        else DependencyGraph(*names, graph.effects, graph.influences)
    )
    return env, GraphQNetwork(graph, layers=layers, seed=1)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("builds", [1, 5, 20])
@pytest.mark.parametrize("complete", [False, True])
def test_they_are_those_of_the_network_along_any_build(layers, builds, complete):
    env, network = network_on("20x20", layers, complete)
    rng = np.random.default_rng(0)
    states = env.start_states(rng, builds)
    expand = GreedyMarginals(network, states)
    actions = np.zeros((builds, 20), dtype=np.int8)
    rows = np.arange(builds)
    for _ in range(6):
        values, children = network.expansion(states, rows, actions[rows])
        stopping, marginals = expand(rows, actions[rows], actions[rows] == 0)
        assert not stopping.any()
        np.testing.assert_allclose(marginals, children - values[:, None], atol=1e-5)
        rows = rows[: max(1, len(rows) - 3)]  # some builds end earlier
        for row in rows:
            actions[row, rng.choice(np.flatnonzero(actions[row] == 0))] = 1


def test_later_weights_count():
    env, network = network_on("10x10", 2)
    policy = GraphQPolicy(network, env.action_space_block())
    states = env.start_states(np.random.default_rng(0), 10)
    before = policy.actions(states)
    other = GraphQNetwork(network.graph, seed=7)
    other.heads["addition"][2].bias.data.add_(1.0)  # adds whatever it can
    network.load_state_dict(other.state_dict())
    after = policy.actions(states)
    wanted = SequentialBuilder(env.action_space_block()).build(
        lambda rows, actions, allowed: other.expansion(states, rows, actions), 10
    )
    np.testing.assert_array_equal(after, wanted)
    assert (after.sum(axis=1) == 5).all()
    assert (before != after).any()
