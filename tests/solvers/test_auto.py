"""The solver that picks: limits of time, and what it may spend on the choice."""

import math
from dataclasses import replace

import numpy as np

import milp_rl as mr
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
