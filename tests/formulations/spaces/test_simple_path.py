import itertools
from itertools import pairwise

import networkx as nx
import numpy as np
import pyomo.environ as pyo
import pytest

import milp_rl as mr
from milp_rl.formulations.spaces import simple_path
from milp_rl.formulations.spaces.oracles.paths import SearchLimitError, path_through
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.models.solve import solve_model


def random_graph(seed, n, arcs, *, acyclic):
    """A graph with a path from 0 to n - 1, and other arcs at random."""
    rng = np.random.default_rng(seed)
    middle = rng.permutation(np.arange(1, n - 1))[: int(rng.integers(0, n - 1))]
    path = [0, *(sorted(middle) if acyclic else middle), n - 1]
    others = [(u, v) for u, v in itertools.permutations(range(n), 2) if u < v or not acyclic]
    chosen = [*pairwise(map(int, path)), *map(tuple, rng.permutation(others).tolist())]
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(list(dict.fromkeys(chosen))[:arcs])
    return graph


@pytest.mark.parametrize("acyclic", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_random_graphs_keep_the_contract(seed, acyclic, check_space):
    n = 2 + seed % 5
    graph = random_graph(seed, n, 11, acyclic=acyclic)
    space = mr.SimplePath(graph, 0, n - 1)
    assert space.exact or not acyclic
    feasible = check_space(space, seed=seed, support_draws=3000)
    expected = {tuple(space.encode(path).tolist()) for path in nx.all_simple_paths(graph, 0, n - 1)}
    assert {tuple(a) for a in feasible.tolist()} == expected


@pytest.mark.parametrize("seed", range(5))
def test_without_cycles_of_positive_weight_it_is_the_shortest_path(seed):
    """Dijkstra's, on graphs with cycles."""
    rng = np.random.default_rng(seed)
    graph = random_graph(seed, 40, 200, acyclic=False)
    lengths = rng.random(graph.number_of_edges())
    space = mr.SimplePath(graph, 0, 39)
    nx.set_edge_attributes(graph, dict(zip(space.arcs, lengths, strict=True)), "length")
    shortest = nx.shortest_path(graph, 0, 39, weight="length")
    assert not space.exact
    np.testing.assert_allclose(
        space.linear_max(-lengths[None]), -nx.path_weight(graph, shortest, "length")
    )
    assert space.decode(space.maximizers(-lengths[None])[0]) == shortest


def test_without_cycles_longest_paths_through_given_arcs_are_exact():
    rng = np.random.default_rng(0)
    graph = random_graph(3, 14, 40, acyclic=True)
    space = mr.SimplePath(graph, 0, 13)
    actions = space.enumerate()
    assert space.count() == len(actions) > 20
    c = rng.normal(size=(200, space.n_actions))
    one = actions[rng.integers(len(actions), size=200)] * (rng.random(c.shape) < 0.4) > 0
    one |= rng.random(c.shape) < 0.01
    zero = rng.random(c.shape) < 0.1
    bounds = space.linear_max(c, Pins(one, zero))
    for row in range(200):
        agree = (actions[:, one[row]] == 1).all(axis=1) & (actions[:, zero[row]] == 0).all(axis=1)
        best = (actions[agree] @ c[row]).max(initial=-np.inf)
        assert bounds[row] == pytest.approx(best, abs=1e-12)
    assert np.isneginf(bounds).any()
    assert np.isfinite(bounds).any()


def test_arcs_held_around_a_cycle_leave_nothing():
    graph = nx.DiGraph([(0, 1), (1, 2), (2, 1), (1, 3), (2, 3), (0, 2), (2, 4), (4, 2), (0, 3)])
    space = mr.SimplePath(graph, 0, 3)
    for held, bound in (
        ([(1, 2), (2, 1)], -np.inf),
        ([(0, 1), (1, 3), (2, 4)], -np.inf),  # the path is complete
        ([(0, 1), (1, 3)], 2.0),  # and the cycle between 2 and 4 is no part of it
        ([(0, 1), (0, 2)], -np.inf),
    ):
        one = np.array([[arc in held for arc in space.arcs]])
        assert space.linear_max(np.ones((1, space.n_actions)), Pins(one)) == bound, held
    gains = np.array([[100.0 if arc == (2, 1) else 1.0 for arc in space.arcs]])
    one = np.array([[arc == (1, 2) for arc in space.arcs]])
    assert space.linear_max(gains, Pins(one)) == 3.0  # nor does an arc held close one


@pytest.mark.parametrize("seed", range(6))
def test_arcs_are_completed_by_the_paths_through_them(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    space = mr.SimplePath(random_graph(seed, 9, 24, acyclic=False), 0, 8)
    paths = space.enumerate()
    for _ in range(20):
        action = (rng.random(space.n_actions) < 0.12).astype(np.int8)
        expected = bool((paths >= action).all(axis=1).any())
        monkeypatch.setattr(simple_path, "_STEPS", 10_000)
        assert space.completable(action) == expected
        monkeypatch.setattr(simple_path, "_STEPS", 0)
        assert space.completable(action) <= expected  # a search that is cut off says no


@pytest.mark.parametrize("seed", range(3))
def test_what_is_built_arc_by_arc_becomes_a_path_even_where_searches_are_cut_off(seed):
    rng = np.random.default_rng(seed)
    space = mr.SimplePath(nx.grid_2d_graph(5, 5).to_directed(), (0, 0), (4, 4))
    action = np.zeros(space.n_actions, dtype=np.int8)
    while len(more := space.extensions(action)):
        action[rng.choice(more)] = 1
    assert space.violations(action) == []


def test_a_search_that_takes_long_says_so():
    complete = [[v for v in range(12) if v != u] for u in range(11)]
    dead_end = [*complete, [12], []]
    with pytest.raises(SearchLimitError):
        path_through(dead_end, 0, 12, {1: 2, 3: 4}, 2)
    path = path_through(dead_end, 0, 12, {1: 2, 3: 4}, 1000)
    assert {(1, 2), (3, 4)} <= set(pairwise(path))


@pytest.mark.parametrize("solver", ["highs", "gurobi"])
def test_a_model_has_no_cycles_beside_the_path(solver):
    graph = nx.grid_2d_graph(4, 4).to_directed()
    space = mr.SimplePath(graph, (0, 0), (3, 3))
    gains = np.random.default_rng(0).random(space.n_actions)
    m = pyo.ConcreteModel()
    arcs = space.add_to(m)
    m.gain = pyo.Objective(
        expr=sum(g * x for g, x in zip(gains, arcs, strict=True)), sense=pyo.maximize
    )
    result = solve_model(m, solver=solver)
    best = max(
        float(gains @ space.encode(path)) for path in nx.all_simple_paths(graph, (0, 0), (3, 3))
    )
    assert result.value == pytest.approx(best, abs=1e-6)
    assert space.linear_max(gains[None])[0] > best + 0.1  # with cycles


def test_labels_of_a_grid_survive_json():
    space = mr.SimplePath(nx.grid_2d_graph(2, 2).to_directed(), (0, 0), (1, 1))
    again = mr.ActionSpace.from_dict(space.to_dict())
    assert again == space
    assert again.decode(again.encode([(0, 0), (0, 1), (1, 1)])) == [(0, 0), (0, 1), (1, 1)]


def test_violations_say_what_is_wrong():
    graph = nx.DiGraph([("s", "a"), ("a", "b"), ("b", "a"), ("a", "t"), ("b", "c"), ("c", "b")])
    space = mr.SimplePath(graph, "s", "t")

    def wrong(*arcs):
        return space.violations([arc in {tuple(own) for own in arcs} for arc in space.arcs])

    assert wrong("sa", "at") == []
    assert wrong("sa", "at", "ab") == ["2 arcs leave 'a', at most 1 may"]
    assert wrong("sa", "ab", "ba") == ["2 arcs enter 'a', at most 1 may"]
    assert wrong() == ["the arcs from 's' end at 's', not at 't'"]
    assert wrong("sa", "at", "bc", "cb") == [
        "the arcs [('b', 'c'), ('c', 'b')] are not on the path from 's'"
    ]
    with pytest.raises(ValueError, match="the action is no path: the arcs from 's' end at 'a'"):
        space.decode(space.encode(["s", "a"]))
    with pytest.raises(ValueError, match="no arc from 's' to 't'"):
        space.encode(["s", "t"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"graph": nx.path_graph(3)}, r"must be directed .* graph.to_directed\(\)"),
        ({"graph": nx.MultiDiGraph([(0, 2), (0, 2)])}, "without parallel arcs"),
        ({"source": 9}, "the source 9 is not a node"),
        ({"target": 9}, "the target 9 is not a node"),
        ({"target": 0}, "source and target must differ, both are 0"),
        ({"source": 2, "target": 0}, "no path leads from 2 to 0"),
        ({"graph": nx.DiGraph([(0, 1.5), (0, 2)])}, "labels are strings, integers or tuples"),
    ],
)
def test_wrong_parameters_are_named(arguments, message):
    graph = nx.DiGraph([(0, 1), (1, 2)])
    with pytest.raises(ValueError, match=message):
        mr.SimplePath(**{"graph": graph, "source": 0, "target": 2} | arguments)
