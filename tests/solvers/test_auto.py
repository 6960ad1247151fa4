"""The solver that picks: limits of time, and what it may spend on the choice."""

import itertools
import math
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import milp_rl as mr
from milp_rl.formulations.networks.onnx_reader import read_onnx
from milp_rl.solvers import auto
from milp_rl.solvers.backends import new_backend
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import ArgmaxResult


def test_the_states_that_a_batch_tries_first_keep_their_own_time(monkeypatch, random_network):
    """The first four of twelve took half of the limit together."""
    monkeypatch.setattr(auto, "LARGEST_LISTED", 100)
    rng = np.random.default_rng(0)
    space = mr.BudgetTopK(n_actions=14, k=7)
    backend = new_backend(random_network(rng, 16, (14, 14)), space)
    monkeypatch.setattr(backend, "_nodes", 1)
    solve = backend._search.solve

    def timed(states, options, starts=None):
        return [replace(r, seconds=10.0 / len(states)) for r in solve(states, options, starts)]

    monkeypatch.setattr(backend._search, "solve", timed)
    results = backend.solve(rng.normal(size=(12, 2)), SolveOptions(time_limit=20.0))
    assert [r.status for r in results] == ["optimal"] * 12


def test_the_lower_bound_is_kept_where_no_action_is_found():
    none = ArgmaxResult(None, math.nan, math.inf, math.inf, "no_solution", 1.0, "highs")
    tried = replace(none, bound=3.0, solver="branch_and_bound")
    merged = auto._merged(none, tried, SolveOptions())
    assert (merged.status, merged.bound, merged.seconds) == ("no_solution", 3.0, 2.0)


def test_a_set_whose_listing_takes_long_is_not_listed_for_a_few_states(monkeypatch):
    graph = mr.london_underground()
    route = mr.Routing(graph, "Green Park", max_length=10, budget=5)  # listed in half a minute
    weight = np.random.default_rng(0).random((1, route.n_actions))
    network = mr.Network.from_arrays([weight], [[0.0]])

    def listed(*_):
        raise AssertionError("listed")

    monkeypatch.setattr(mr.Routing, "enumerate", listed)
    solver = mr.ArgmaxSolver(network, route)
    for result in solver.solve_batch(np.zeros((3, 0))):
        assert result.status == "optimal"
        assert result.solver == "branch_and_bound"


def test_a_set_that_is_counted_by_listing_is_listed_once(monkeypatch, random_network):
    listings = []
    own = mr.Capacity.enumerate

    def counted(self, limit=100_000):
        listings.append(limit)
        return own(self, limit)

    monkeypatch.setattr(mr.Capacity, "enumerate", counted)
    network = random_network(np.random.default_rng(0), 12, (8,))
    result = mr.argmax(network, [], mr.Capacity([1, 2, 3] * 4, [3, 3]))
    assert result.solver == "enumeration"
    assert len(listings) == 1


def test_a_listing_that_takes_less_than_a_node_is_not_preceded_by_a_search(
    monkeypatch, random_network
):
    """It was given a search of no nodes, which is an error."""
    backend = new_backend(
        random_network(np.random.default_rng(0), 9, (6,)), mr.Capacity([1] * 9, [4])
    )
    backend._count(math.inf)
    monkeypatch.setattr(backend, "_seconds_to_list", lambda networks: 1e-9)
    monkeypatch.setattr(backend, "_next_to_no_time", lambda networks: 0.0)
    result = backend.solve(np.zeros((1, 0)), SolveOptions())[0]
    assert (result.status, result.solver) == ("optimal", "enumeration")


# A network of capacity with 100 arms, pretrained as grid100.toml does, seed 0, whose 48 neurons
# are rough: most states are decided in some nodes, the last three of these in many thousands.
ROUGH = Path(__file__).parent / "data" / "rough_capacity"


def rough():
    space = mr.ActionSpace.from_json(ROUGH / "space.json")
    return read_onnx(ROUGH / "q.onnx"), space, np.load(ROUGH / "states.npy")


def test_a_search_that_is_stalled_is_handed_over():
    network, space, states = rough()
    solver = mr.ArgmaxSolver(network, space)
    highs = mr.ArgmaxSolver(network, space, solver="highs")
    for state in states[4:]:
        result = solver.solve(state)
        assert result.status == "optimal"
        assert result.solver == "highs"
        searched = int(re.search(r"after (\d+) nodes", result.message)[1])
        assert 3600 < searched < 16_000
        np.testing.assert_allclose(result.value, highs.solve(state).value, rtol=1e-7)


def test_the_bound_of_a_stalled_search_is_one():
    network, space, states = rough()
    search = new_backend(network, space, "branch_and_bound")
    options = SolveOptions(stall_limit=300)
    best = mr.ArgmaxSolver(network, space, solver="highs").solve(states[2]).value
    (result,) = search.solve(states[2:3], options)
    assert result.status == "feasible"
    assert 300 <= result.nodes < 3000
    assert result.message.startswith("given up, as its bound hardly fell, after")
    assert result.value <= best + 1e-6 <= result.bound


def test_a_rough_network_is_mostly_searched_in_few_nodes():
    network, space, states = rough()
    solver = mr.ArgmaxSolver(network, space)
    highs = mr.ArgmaxSolver(network, space, solver="highs")
    for i, state in enumerate(states[:4]):
        result = solver.solve(state)
        assert (result.status, result.solver) == ("optimal", "branch_and_bound")
        assert result.nodes < (900 if i < 2 else 10_000)  # the bound of the others falls
        np.testing.assert_allclose(result.value, highs.solve(state).value, rtol=1e-7)


def test_a_search_whose_bound_falls_is_not_handed_over():
    """A random network of 40 actions: thousands of nodes, each soon bounded."""
    rng = np.random.default_rng(1)
    space = mr.BudgetTopK(n_actions=40, k=8)
    weights = [rng.normal(size=size) / np.sqrt(size[1]) for size in ((16, 40), (32, 16), (1, 32))]
    network = mr.Network.from_arrays(weights, [rng.normal(size=len(w)) / 3 for w in weights])
    result = mr.ArgmaxSolver(network, space).solve(None)
    assert (result.status, result.solver) == ("optimal", "branch_and_bound")
    assert result.nodes > 1000


def test_nodes_are_few_where_the_oracle_takes_long(monkeypatch, random_network):
    """Closed walks of 40 edges through the Underground take half a millisecond per objective."""
    graph = mr.london_underground()
    spaces = [
        mr.Routing(graph, "Green Park", max_length=length, budget=length // 2)
        for length in (20, 40)
    ]
    limits: list[list[int]] = []
    for space in spaces:
        network = random_network(np.random.default_rng(0), space.n_actions + 8, (16, 8))
        backend = new_backend(network, space)
        none = ArgmaxResult(None, math.nan, math.inf, math.inf, "no_solution", 1.0, "none")
        asked = []

        def results(networks, options, starts, pins, asked=asked, none=none):
            asked.append(options.node_limit)
            assert options.stall_limit is None  # nodes of routes are not taken in loops
            return [none]

        monkeypatch.setattr(backend._search, "results", results)
        monkeypatch.setattr(backend._milp, "results", lambda *_, none=none: [none])
        backend.solve(np.zeros((1, 8)), SolveOptions())
        limits.append(asked[:2])
    (_, short), (first, long) = limits
    assert spaces[0].oracle_seconds < 1e-4 < 3e-4 < spaces[1].oracle_seconds < 5e-3
    assert (spaces[0] & mr.BudgetTopK(66, 3)).oracle_seconds == spaces[0].oracle_seconds
    assert first < 10 < 300 < long < 1800 < short


def test_over_a_wide_network_a_box_is_not_handed_over_before_the_search_is_done() -> None:
    rng = np.random.default_rng(0)
    sizes = (6, 64, 64, 1)
    weights = [rng.normal(size=(b, a)) * np.sqrt(2 / a) for a, b in itertools.pairwise(sizes)]
    biases = [0.1 * rng.normal(size=b) for b in sizes[1:]]
    network = mr.Network.from_arrays(weights, biases)
    found = mr.argmax(network, [], mr.Box([-1.0] * 6, [1.0] * 6), time_limit=120)
    assert (found.status, found.solver) == ("optimal", "branch_and_bound")
    assert found.nodes > 30_000  # after which a narrow one is


def test_states_of_a_batch_of_wide_networks_keep_their_own_time() -> None:
    rng = np.random.default_rng(0)
    sizes = (8, 64, 64, 1)
    weights = [rng.standard_normal((b, a)) * np.sqrt(2 / a) for a, b in itertools.pairwise(sizes)]
    network = mr.Network.from_arrays(weights, [0.1 * rng.standard_normal(b) for b in sizes[1:]])
    solver = mr.ArgmaxSolver(network, mr.Box([-1.0] * 6, [1.0] * 6), time_limit=0.4)
    states = rng.standard_normal((10, 2))
    for _ in range(2):  # the set is counted before the second
        begin = time.perf_counter()
        found = solver.solve_batch(states, workers=1)
        assert time.perf_counter() - begin < 10 * 0.4 + 2
        assert {r.solver for r in found} == {"branch_and_bound"}
        assert not any(str(2**31 - 1) in r.message for r in found)
        assert all(r.status == "optimal" or r.seconds > 0.3 for r in found)


def test_a_set_without_end_is_not_tried_before_it_is_counted(monkeypatch, random_network):
    # What is tried first shares one time limit among the states of a batch.
    monkeypatch.setattr(auto.AutoArgmax, "_counted_if_hard", None)
    network = random_network(np.random.default_rng(0), 5, (6,))
    solver = mr.ArgmaxSolver(network, mr.Box([-1.0] * 3, [1.0] * 3))
    states = np.random.default_rng(1).normal(size=(4, 2))
    assert {result.status for result in solver.solve_batch(states, workers=1)} == {"optimal"}
