import heapq
import itertools
import os
import subprocess
import sys
from itertools import pairwise, permutations

import networkx as nx
import numpy as np
import pyomo.environ as pyo
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milp_rl.argmax_solver import argmax
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.oracles import tour, walk_states
from milp_rl.formulations.spaces.oracles.tour import _held_karp, shortest_closed_walk
from milp_rl.formulations.spaces.oracles.tour_search import _rest
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.spaces.routing import Routing, london_underground
from milp_rl.solvers.models.solve import solve_model


def reachable_sets(graph, depot, length) -> set[frozenset]:
    """Node sets of all closed walks of at most ``length`` edges, by walking them all."""
    found = set()
    layer = {(depot, frozenset([depot]))}
    for _ in range(length + 1):
        found |= {seen for node, seen in layer if node == depot}
        layer |= {(v, seen | {v}) for node, seen in layer for v in graph.neighbors(node)}
    return found


@pytest.fixture(scope="module", params=[99, 0], ids=["numpy", "compiled"])
def path(request):
    """Decide by which of the two ways walks are searched for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tour, "_MOST_INTERPRETED", request.param)
        yield


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("seed", range(10))
def test_random_graphs_keep_the_contract(seed, check_space):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 8))
    graph = nx.gnp_random_graph(n, 0.45, seed=seed, directed=seed % 2 == 1)
    if seed % 3 == 0:
        graph = nx.relabel_nodes(graph, {i: f"stop {i}" for i in graph})
    depot = next(iter(graph))
    length = int(rng.integers(0, 8))
    budget = None if seed % 4 == 0 else int(rng.integers(0, n + 1))
    space = Routing(graph, depot, length, budget)
    feasible = {tuple(a) for a in check_space(space, seed=seed).tolist()}
    sets = reachable_sets(graph, depot, length)
    for action in itertools.product((0, 1), repeat=n):
        chosen = {node for node, a in zip(graph, action, strict=True) if a}
        on_a_walk = any(chosen <= nodes for nodes in sets)
        within_budget = budget is None or len(chosen) <= budget
        assert (action in feasible) == (on_a_walk and within_budget)


def shortest_visits(graph, depot, weight) -> dict[frozenset, float]:
    """Length of a shortest closed walk that passes each set of nodes: Dijkstra's over sets."""
    best = {}
    waiting = [(0.0, 0, depot, frozenset([depot]))]
    number = itertools.count(1)
    while waiting:
        length, _, node, seen = heapq.heappop(waiting)
        if (node, seen) in best:
            continue
        best[node, seen] = length
        for v in graph.neighbors(node):
            step = graph.edges[node, v].get(weight, 1.0)
            heapq.heappush(waiting, (length + step, next(number), v, seen | {v}))
    return {seen: length for (node, seen), length in best.items() if node == depot}


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("seed", range(10))
def test_lengths_and_service_times_keep_the_contract(seed, check_space):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    graph = nx.gnp_random_graph(n, 0.6, seed=seed, directed=seed % 2 == 1)
    for u, v in graph.edges:
        graph.edges[u, v]["minutes"] = float(rng.integers(1, 50) / (1 if seed % 4 == 0 else 7))
    service = None if seed % 3 == 0 else rng.integers(0, 4, n) * 0.3
    weight = "minutes" if seed % 5 or service is None else None
    limit = float(rng.uniform(0, 30) if weight else rng.uniform(0, 9))
    space = Routing(graph, 0, limit, weight=weight, service_times=service)
    feasible = {tuple(a) for a in check_space(space, seed=seed).tolist()}
    lengths = shortest_visits(graph, 0, weight)
    for action in itertools.product((0, 1), repeat=n):
        chosen = {i for i in range(n) if action[i]}
        length = min((k for seen, k in lengths.items() if chosen <= seen), default=np.inf)
        total = length + (0 if service is None else service @ action)
        assert (action in feasible) == (total <= limit + 1e-9)


def test_a_route_by_travel_times_is_decoded():
    graph = nx.Graph([("depot", "far", {"t": 9}), ("depot", "near", {"t": 2})])
    graph.add_edge("near", "far", t=3)
    space = Routing(graph, "depot", 20, weight="t", service_times=[0, 4, 1.5])
    route = space.decode([0, 1, 0])
    assert route == ["depot", "near", "far", "near", "depot"]
    assert space.violations([1, 1, 1]) == []
    late = Routing(graph, "depot", 12, weight="t", service_times=[0, 4, 1.5])
    with pytest.raises(ValueError, match="walk of length at most 12, less 4 for service, from"):
        late.decode([0, 1, 0])
    assert Routing(graph, "depot", 10, weight="t").decode([0, 1, 1]) == route


def test_edges_of_length_one_are_as_without_lengths():
    plain = london_underground()
    nx.set_edge_attributes(plain, 1, "length")
    counted = Routing(plain, "Green Park", 8, 4)
    measured = Routing(plain, "Green Park", 8, 4, weight="length")
    actions = counted.sample(np.random.default_rng(0), 50)
    near = (np.random.default_rng(1).random(actions.shape) < 0.02).astype(np.int8)
    for action in np.maximum(actions, near):
        assert bool(counted.violations(action)) == bool(measured.violations(action))
        assert counted.shortest_route(action) == measured.shortest_route(action)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("seed", range(4))
def test_long_walks_of_any_length_are_refuted_exactly(seed):
    rng = np.random.default_rng(seed)
    points = rng.random((13, 2))
    distance = np.linalg.norm(points[:, None] - points, axis=2) * 10.0 ** (3 * seed - 4)
    nodes = list(range(1, 12))
    order = _held_karp(distance, 0, nodes, np.inf)
    shortest = sum(distance[u, v] for u, v in pairwise([0, *order, 0]))
    for share in (0.9, 0.99, 0.9999, 1.0001, 1.01):
        found = shortest_closed_walk(distance, 0, nodes, shortest * share)
        assert (found is not None) == (share > 1)
    best = shortest_closed_walk(distance, 0, nodes)
    assert sum(distance[u, v] for u, v in pairwise([0, *best, 0])) == pytest.approx(shortest)


def test_some_nodes_of_a_grid_in_another_order(check_space):
    graph = nx.grid_2d_graph(3, 3)
    space = Routing(graph, (1, 1), 6, 2, nodes=[(2, 2), (0, 0), (1, 1), (0, 2)])
    feasible = check_space(space)
    assert [1, 1, 0, 0] not in feasible.tolist()  # opposite corners are 8 edges apart
    assert [1, 0, 0, 1] in feasible.tolist()  # corners of one side: 2 + 2 + 2
    assert ActionSpace.from_dict(space.to_dict()).nodes[0] == (2, 2)


@pytest.mark.usefixtures("path")
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(0, 6))
def test_the_shortest_closed_walk_is_that_of_all_permutations(seed, k):
    rng = np.random.default_rng(seed)
    d = rng.integers(1, 9, (k + 1, k + 1)).astype(float)
    for via in range(k + 1):
        d = np.minimum(d, d[:, via : via + 1] + d[via])
    np.fill_diagonal(d, 0)
    nodes = list(range(1, k + 1))

    def length(order):
        return sum(d[u, v] for u, v in pairwise([0, *order, 0]))

    best = min(length(order) for order in itertools.permutations(nodes))
    assert length(shortest_closed_walk(d, 0, nodes)) == best
    assert shortest_closed_walk(d, 0, nodes, int(best) - 1) is None
    assert length(shortest_closed_walk(d, 0, nodes, int(best))) <= best


def test_london_is_the_real_network():
    graph = london_underground()
    assert nx.is_connected(graph)
    assert graph.number_of_nodes() >= 60
    neighbours = {
        "Oxford Circus": {
            "Bond Street",
            "Tottenham Court Road",
            "Green Park",
            "Warren Street",
            "Regent's Park",
            "Piccadilly Circus",
        },
        "Holborn": {"Chancery Lane", "Tottenham Court Road", "Covent Garden", "Russell Square"},
        "Waterloo": {
            "Embankment",
            "Lambeth North",
            "Westminster",
            "Southwark",
            "Kennington",
            "Bank",
        },
    }
    for station, expected in neighbours.items():
        assert set(graph[station]) == expected
    assert graph["Bank"]["Waterloo"]["lines"] == ["Waterloo & City"]
    assert sorted(graph["Temple"]["Blackfriars"]["lines"]) == ["Circle", "District"]
    assert nx.shortest_path_length(graph, "Paddington", "Bank") == 7
    names = sorted(graph)
    assert len({name.lower().replace(".", "").replace("'", "") for name in names}) == len(names)


@pytest.mark.parametrize("solver", ["highs", "gurobi"])
def test_a_route_through_london_is_read_from_the_solved_block(solver):
    graph = london_underground()
    centre = nx.ego_graph(graph, "Oxford Circus", radius=3)
    space = Routing(centre, "Oxford Circus", 8, 4)
    gain = dict(zip(space.nodes, np.random.default_rng(0).random(space.n_actions), strict=True))
    m = pyo.ConcreteModel()
    m.trip = pyo.Block()
    a = space.add_to(m.trip)
    m.gain = pyo.Objective(
        expr=sum(gain[node] * a[i] for i, node in enumerate(space.nodes)), sense=pyo.maximize
    )
    assert solve_model(m, solver=solver).status == "optimal"
    route = space.route(m.trip)
    assert route[0] == route[-1] == "Oxford Circus"
    assert len(route) - 1 <= 8
    assert all(centre.has_edge(u, v) for u, v in pairwise(route))
    chosen = [node for node, v in zip(space.nodes, a, strict=True) if pyo.value(v) > 0.5]
    assert set(chosen) <= set(route)
    assert len(chosen) <= 4
    action = [round(pyo.value(v)) for v in a]
    shortest = space.shortest_route(action)
    assert len(shortest) <= len(route)
    assert set(chosen) <= set(shortest)
    assert all(centre.has_edge(u, v) for u, v in pairwise(shortest))
    assert nx.is_connected(centre.subgraph(route))


def test_many_chosen_nodes_are_checked_in_reasonable_time():
    graph = nx.gnp_random_graph(100, 0.04, seed=1)
    space = Routing(graph, 0, 40, 20)
    action = space.sample(np.random.default_rng(0), maximal=True)[0]
    assert action.sum() == 20
    assert space.violations(action) == []
    tight = Routing(graph, 0, 16, 15)
    assert "no closed walk of at most 16 edges" in " ".join(tight.violations(action))


def test_a_block_without_solution_has_no_route():
    space = Routing(nx.path_graph(3), 0, 2, 1)
    m = pyo.ConcreteModel()
    space.add_to(m)
    with pytest.raises(ValueError, match="no solution to read a route from"):
        space.route(m)


@pytest.mark.parametrize("where", ["model", "copy of it", "block", "constrain"])
def test_a_route_is_read_from_where_it_was_written(where):
    space, other = Routing(nx.path_graph(4), 0, 4, 2), Routing(nx.path_graph(4), 1, 2, 1)
    m = pyo.ConcreteModel()
    m.b = pyo.Block()
    if where == "constrain":
        m.x = pyo.Var(range(4), domain=pyo.Binary)
        actions = list(m.x.values())
        space.constrain(m.b, actions)
    else:
        actions = space.add_to(m.b if where == "block" else m)
    m.other = pyo.Block()
    other.add_to(m.other)
    m.moves = pyo.Var()  # another's, by the name that the space has, too
    m.objective = pyo.Objective(expr=actions[2] + m.other.action[0], sense=pyo.maximize)
    if where == "copy of it":
        m = m.clone()
    assert solve_model(m).status == "optimal"
    assert space.route(m.b if where in ("block", "constrain") else m) == [0, 1, 2, 1, 0]
    assert other.route(m.other) == [1, 0, 1]


def test_violations_say_what_is_wrong():
    graph = nx.path_graph(5)
    graph.add_node("island")
    space = Routing(graph, 0, 4, 2)
    assert space.violations([0, 0, 0, 0, 0, 1]) == ["no closed walk from 0 visits ['island']"]
    assert space.shortest_route([0, 0, 0, 0, 0, 1]) is None
    assert space.violations([0, 0, 0, 1, 0, 0]) == [
        "no closed walk of at most 4 edges from 0 visits [3]"
    ]
    assert space.violations([1, 1, 1, 0, 0, 0]) == ["3 nodes chosen, at most 2 allowed"]
    assert space.shortest_route([0, 0, 1, 0, 0, 0]) == [0, 1, 2, 1, 0]


WEIGHTED = nx.Graph([(0, 1, {"w": 1, "x": "far"}), (1, 2, {"w": 0})])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depot": 9}, "the depot 9 is not a node"),
        ({"max_length": -1}, "max_length must be at least 0, got -1"),
        ({"max_length": 2.5}, "max_length must be an integer, got 2.5"),
        ({"budget": -2}, "budget must be at least 0, got -2"),
        ({"nodes": [0, 7]}, "7 is not a node of the graph"),
        ({"nodes": [0, 0]}, "nodes must be distinct"),
        ({"weight": "km"}, "the edge from 0 to 1 has no attribute 'km'"),
        ({"weight": "w", "graph": WEIGHTED}, "lengths must be positive, 'w' of .* 1 to 2 is 0"),
        ({"weight": "x", "graph": WEIGHTED}, "'x' of the edge from 0 to 1 must be a number"),
        ({"service_times": [1, 2]}, "one nonnegative number or 3, got"),
        ({"service_times": -1}, "one nonnegative number or 3, got -1"),
        ({"service_times": 1, "max_length": np.inf}, "max_length must be finite"),
        ({"graph": nx.Graph([(0, 1.5)])}, "labels are strings, integers or tuples, got 1.5"),
    ],
)
def test_wrong_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Routing(**{"graph": nx.path_graph(3), "depot": 0, "max_length": 4} | arguments)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("seed", range(6))
def test_walks_through_many_nodes_are_refuted_exactly_where_none_is_short_enough(seed):
    """Node prices refute what would take the dynamic program long; it is asked for the truth."""
    rng = np.random.default_rng(seed)
    graph = nx.connected_watts_strogatz_graph(25, 2 + seed % 2, 0.3, seed=seed)
    distance = np.asarray(nx.floyd_warshall_numpy(graph))
    nodes = rng.choice(np.arange(1, 25), 11, replace=False).tolist()
    order = _held_karp(distance, 0, nodes, np.inf)
    shortest = sum(distance[u, v] for u, v in pairwise([0, *order, 0]))
    for limit in range(int(shortest) - 4, int(shortest) + 2):
        found = shortest_closed_walk(distance, 0, nodes, limit)
        assert (found is not None) == (limit >= shortest)


def test_branch_and_bound_over_many_stations_agrees_with_highs():
    rng = np.random.default_rng(3)
    space = Routing(london_underground(), "Green Park", 8, 4)
    weights = [rng.normal(size=(4, space.n_actions)), rng.normal(size=(1, 4))]
    network = Network.from_arrays(weights, [rng.normal(size=4), [0.0]])
    by = {name: argmax(network, None, space, solver=name) for name in ("branch_and_bound", "highs")}
    assert all(result.status == "optimal" for result in by.values())
    assert by["branch_and_bound"].value == pytest.approx(by["highs"].value, abs=1e-6)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("seed", range(6))
def test_the_oracle_bounds_what_walks_collect(seed):
    """Where the budget is no limit, walks are all there is, and the bound is their maximum."""
    rng = np.random.default_rng(seed)
    graph = nx.convert_node_labels_to_integers(nx.grid_2d_graph(3, 3))
    graph.remove_edges_from(list(graph.edges)[seed : seed + 2])
    budget = None if seed % 2 else 3
    space = Routing(graph, int(rng.integers(9)), int(rng.integers(4, 9)), budget)
    feasible = space.enumerate()
    some = (rng.random((60, 9)) < 0.3).astype(np.int8)
    assert space.feasible(some).tolist() == [not space.violations(action) for action in some]
    c = np.repeat(rng.normal(0.3, 1.0, (4, 9)).round(3), 10, axis=0)
    pinned = rng.random((40, 9)) < 0.1
    held = rng.random((40, 9)) < 0.5
    pins = Pins(one=pinned & held, zero=pinned & ~held)
    bounds, points = space.linear_max(c, pins), space.maximizers(c, pins)
    for row in range(40):
        within = feasible[pins[row].allows(feasible)]
        best = (within @ c[row]).max(initial=-np.inf)
        assert bounds[row] >= best - 1e-12
        if space._walks is not None and budget is None:
            assert bounds[row] == pytest.approx(best, abs=1e-9)
            if np.isfinite(best) and pinned[row].sum() == 0:
                assert c[row] @ points[row] == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_budget_has_the_best_price(seed, ties, monkeypatch):
    """The bound is the least over all prices of an action, and a point of it has B actions."""
    monkeypatch.setattr(tour, "_MOST_INTERPRETED", 0)
    rng = np.random.default_rng(seed)
    graph = nx.convert_node_labels_to_integers(nx.grid_2d_graph(3, 4))
    depot, length, budget = int(rng.integers(12)), int(rng.integers(6, 11)), 2 + seed % 3
    space = Routing(graph, depot, length, budget)
    assert space._walks is not None
    walks = np.array(
        [[v in nodes for v in graph] for nodes in reachable_sets(graph, depot, length)]
    )
    c = rng.normal(0.8, 1.0, (30, 12))
    c = c.round() if ties else c
    bounds, points = space._walks.bounds(c, Pins()), space._walks.points(c, Pins())
    for row in range(30):
        crossings = np.concatenate([[0.0], c[row], np.subtract.outer(c[row], c[row]).ravel()])
        prices = np.unique(crossings[crossings >= 0.0])
        # Where two walks of the dual cross: fine steps between the prices of single actions.
        prices = np.unique(np.concatenate([prices, np.linspace(0.0, c[row].max(), 400)]))
        paid = np.maximum(c[row][None] - prices[:, None], 0.0)
        dual = (prices * budget + (paid @ walks.T).max(axis=1)).min()
        assert bounds[row] <= dual + 1e-3 * abs(dual)
        assert points[row].sum() <= budget
        best = max(np.sort(c[row] * nodes)[::-1][:budget].clip(0.0).sum() for nodes in walks)
        assert best - 1e-9 <= bounds[row]
        assert c[row] @ points[row] <= best + 1e-9
        if not ties and bounds[row] == pytest.approx(best, abs=1e-9):
            assert c[row] @ points[row] >= best - 1e-3 * abs(best)


@pytest.mark.parametrize("length", [10, 16])
def test_bounds_do_not_depend_on_what_is_bounded_beside_them(length):
    """Several objectives pass the states of the walks at once."""
    rng = np.random.default_rng(length)
    space = Routing(london_underground(), "Green Park", length, length // 3)
    n = 30
    c = rng.normal(0.3, 1.0, (n, space.n_actions)) * rng.integers(0, 2, (n, space.n_actions))
    pinned, held = rng.random((2, *c.shape))
    pins = Pins(one=(pinned < 0.05) & (held < 0.4), zero=(pinned < 0.05) & (held >= 0.4))
    bounds, points = space.linear_max(c, pins), space.maximizers(c, pins)
    empty = np.isneginf(bounds)
    assert 0 < empty.sum() < n
    for size in (1, 3, 5, 12):
        for i in range(0, n, size):
            part = slice(i, i + size)
            assert np.array_equal(space.linear_max(c[part], pins[part]), bounds[part])
            own = space.maximizers(c[part], pins[part])
            assert np.array_equal(own[~empty[part]], points[part][~empty[part]])


def test_walks_are_the_same_in_other_numbers(monkeypatch):
    """Many states are looked for under several numberings of the nodes."""
    c = np.random.default_rng(0).normal(0.5, 1.0, (6, 66))
    found = [Routing(london_underground(), "Green Park", 16).linear_max(c)]
    monkeypatch.setattr(walk_states, "_MANY_ARCS", 0)
    found.append(Routing(london_underground(), "Green Park", 16).linear_max(c))
    assert found[1] == pytest.approx(found[0], abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_of_a_walk_is_no_shorter_than_its_bound(seed):
    rng = np.random.default_rng(seed)
    distance = rng.integers(1, 9, (7, 7)).astype(float)
    shorter = np.minimum(distance, distance.T)
    n_left = 1 + seed % 5
    left = rng.permutation(np.arange(2, 7))[:n_left]
    least = min(
        sum(distance[u, v] for u, v in pairwise([1, *order, 0])) for order in permutations(left)
    )
    for price in (np.zeros(7), rng.normal(size=7), rng.normal(size=7)):
        bound = _rest(distance, shorter, price, left, n_left, 1, np.zeros(7))
        assert bound <= least + 1e-9
        assert n_left > 1 or bound == pytest.approx(least)


COLD = """
import time
import networkx as nx
import numpy as np
import milp_rl as mr
from milp_rl.formulations.spaces.oracles import tour_search, walk_search
space = mr.Routing(nx.gnp_random_graph(14, 0.3, seed=0), 0, 6)
rng = np.random.default_rng(0)
weights = [rng.normal(size=(8, 14)), rng.normal(size=(1, 8))]
network = mr.Network.from_arrays(weights, [np.zeros(8), [0.0]])
result = mr.argmax(network, [], space, time_limit=5)
kernels = (tour_search.closed_walk, walk_search.bounds_on_walks, walk_search.shortest_walks)
print(sum(len(kernel.signatures) for kernel in kernels), result.status, result.value)
"""


def test_nothing_is_compiled_within_a_short_limit(tmp_path):
    """What comes instead is as right."""
    told = subprocess.run(
        [sys.executable, "-c", COLD],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    compiled, status, value = told.stdout.split()
    assert (compiled, status) == ("0", "optimal")
    space = Routing(nx.gnp_random_graph(14, 0.3, seed=0), 0, 6)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(8, 14)), rng.normal(size=(1, 8))]
    network = Network.from_arrays(weights, [np.zeros(8), [0.0]])
    assert argmax(network, [], space, solver="highs").value == pytest.approx(float(value))
