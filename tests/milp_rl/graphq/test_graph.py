import matplotlib as mpl
import networkx as nx
import numpy as np
import pytest

from milp_rl.graphq import (
    DependencyGraph,
    Interaction,
    Transitions,
    collect_transitions,
    make_interventions,
)

mpl.use("Agg")


@pytest.fixture(scope="module")
def twenty():
    env = make_interventions("20x20", seed=0)
    return env, collect_transitions(env, 2000, np.random.default_rng(0))


def same(first, second):
    return (
        first.interventions == second.interventions
        and first.variables == second.variables
        and np.array_equal(first.effects, second.effects)
        and np.array_equal(first.influences, second.influences)
        and first.interactions == second.interactions
    )


@pytest.mark.parametrize("method", ["lasso", "elastic_net"])
def test_finds_the_graph_of_20_interventions_from_2000_transitions(twenty, method):
    env, transitions = twenty
    scores = DependencyGraph.estimate(transitions, method).scores(env.instance.graph())
    assert scores.f1 >= 0.9


@pytest.mark.slow
def test_finds_the_graphs_of_other_seeds():
    scores = []
    for seed in range(1, 7):
        env = make_interventions("20x20", seed=seed)
        transitions = collect_transitions(env, 2000, np.random.default_rng(seed))
        scores.append(DependencyGraph.estimate(transitions).scores(env.instance.graph()).f1)
    assert np.mean(scores) >= 0.92
    assert min(scores) >= 0.88  # one of six is below 0.9


def test_weights_are_effects(twenty):
    env, transitions = twenty
    graph = DependencyGraph.estimate(transitions)
    both = (graph.effects != 0) & (env.instance.graph().effects != 0)
    signs = np.sign(graph.effects[both]) == np.sign(env.instance.graph().effects[both])
    assert signs.mean() > 0.95


def test_the_estimate_does_not_depend_on_jobs(twenty):
    _, transitions = twenty
    one, two = (
        DependencyGraph.estimate(transitions, n_bootstraps=5, jobs=jobs, seed=3) for jobs in (1, 2)
    )
    assert same(one, two)


def test_finds_pairs_that_act_together():
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 2, (3000, 3))
    following = 0.8 * actions[:, [0]] * actions[:, [2]] + 0.05 * rng.normal(size=(3000, 1))
    data = Transitions(np.zeros((3000, 1)), actions, np.zeros(3000), following)
    graph = DependencyGraph.estimate(data, interactions=True)
    (pair,) = graph.interactions
    assert (pair.first, pair.second, pair.variable) == (0, 2, 0)
    assert pair.weight == pytest.approx(0.8, abs=0.02)
    assert not graph.effects.any()


def test_experts_edges_are_there_and_forbidden_ones_are_not(twenty):
    _, transitions = twenty
    plain = DependencyGraph.estimate(transitions, n_bootstraps=5)
    absent = next(
        (i, k) for i in plain.interventions for k in plain.variables if (i, k) not in plain.edges
    )
    present = sorted(plain.edges)[0]
    told = DependencyGraph.estimate(
        transitions, n_bootstraps=5, forced=[absent], forbidden=[present]
    )
    assert absent in told.edges
    assert present not in told.edges
    with pytest.raises(ValueError, match="both forced and forbidden"):
        DependencyGraph.estimate(transitions, forced=[absent], forbidden=[absent])
    with pytest.raises(ValueError, match="no edge can go from 'variable 0' to 'intervention 1'"):
        DependencyGraph.estimate(transitions, forced=[("variable 0", "intervention 1")])


@pytest.mark.parametrize("preset", ["5x5", "10x10 seasonal", "clinical"])
def test_networkx_and_graphml_hold_everything(preset, tmp_path):
    graph = make_interventions(preset, seed=0).instance.graph()
    digraph = graph.to_networkx()
    assert isinstance(digraph, nx.DiGraph)
    assert same(DependencyGraph.from_networkx(digraph), graph)
    graph.to_graphml(tmp_path / "graph.graphml")
    assert same(DependencyGraph.from_graphml(tmp_path / "graph.graphml"), graph)


def test_wrong_graphs_are_refused(tmp_path):
    (tmp_path / "x.graphml").write_text("nothing")
    with pytest.raises(ValueError, match="not GraphML"):
        DependencyGraph.from_graphml(tmp_path / "x.graphml")
    digraph = nx.DiGraph([("a", "b")])
    with pytest.raises(ValueError, match="must have a kind"):
        DependencyGraph.from_networkx(digraph)
    nx.set_node_attributes(digraph, "variable", "kind")
    with pytest.raises(ValueError, match="has no weight"):
        DependencyGraph.from_networkx(digraph)
    with pytest.raises(ValueError, match="must all be distinct"):
        DependencyGraph(("a",), ("a",), np.zeros((1, 1)), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="the diagonal must be 0"):
        DependencyGraph(("a",), ("x",), np.zeros((1, 1)), np.ones((1, 1)))
    with pytest.raises(ValueError, match="not an interaction"):
        DependencyGraph(
            ("a",), ("x",), np.zeros((1, 1)), np.zeros((1, 1)), (Interaction(0, 1, 0, 1.0),)
        )


def test_scores_by_hand():
    truth = DependencyGraph(("a", "b"), ("x", "y"), np.eye(2), np.zeros((2, 2)))
    other = DependencyGraph(("a", "b"), ("x", "y"), [[1, 1], [0, 0]], np.zeros((2, 2)))
    scores = other.scores(truth)
    assert (scores.precision, scores.recall, scores.f1) == (0.5, 0.5, 0.5)
    assert truth.scores(truth).f1 == 1.0
    renamed = DependencyGraph(("a", "c"), ("x", "y"), np.eye(2), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="different interventions"):
        renamed.scores(truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": [[np.nan]]}, "states must be a finite table"),
        ({"rewards": [0.0, 1.0]}, "the same rows"),
        ({"interventions": ("a", "b")}, "2 names for 1 interventions"),
    ],
)
def test_wrong_transitions_are_refused(change, message):
    data = {"states": [[0.0]], "actions": [[1]], "rewards": [0.0], "next_states": [[0.0]]}
    with pytest.raises(ValueError, match=message):
        Transitions(**{**data, **change})


def test_plots_compare_with_the_truth(twenty):
    env, transitions = twenty
    graph = DependencyGraph.estimate(transitions, n_bootstraps=5)
    axes = graph.plot(truth=env.instance.graph())
    texts = {text.get_text() for text in axes.get_legend().get_texts()}
    assert texts == {"raises", "lowers", "missed", "not in the truth"}
    assert {"intervention 3", "variable 7"} <= {text.get_text() for text in axes.texts}


def test_effects_dropped_for_the_unit_of_a_variable_are_warned_of():
    rng = np.random.default_rng(0)
    x, a = rng.normal(size=(2000, 2)), rng.integers(2, size=(2000, 1))
    y = np.column_stack([0.8 * x[:, 0] + a[:, 0], 0.6 * x[:, 0] + 0.3 * rng.normal(size=2000)])
    given = Transitions(x, a, y.sum(axis=1), y)
    edges = set(DependencyGraph.estimate(given).edges)
    assert ("variable 0", "variable 1") in edges
    small = Transitions(1e-3 * x, a, y.sum(axis=1), 1e-3 * y)
    with pytest.warns(
        UserWarning, match="'variable 1', whose standard deviation is .* was dropped"
    ):
        assert ("variable 0", "variable 1") not in DependencyGraph.estimate(small).edges
    assert set(DependencyGraph.estimate(small, smallest_effect=1.25e-5).edges) == edges
