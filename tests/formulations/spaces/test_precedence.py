import itertools

import networkx as nx
import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.testing import relaxed_max


@pytest.mark.parametrize("seed", range(12))
def test_random_precedences_keep_the_contract(seed, check_space):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    pairs = [
        (i, j)
        for i, j in itertools.permutations(range(n), 2)
        if rng.random() < 0.25 and (seed % 4 == 0 or i < j if seed % 2 else i > j)
    ]
    space = mr.Precedence(n, pairs)
    feasible = check_space(space, seed=seed, support_draws=3000 if n < 6 else 0)
    expected = {
        x for x in itertools.product((0, 1), repeat=n) if all(x[j] <= x[i] for i, j in pairs)
    }
    assert {tuple(a) for a in feasible.tolist()} == expected


@pytest.mark.parametrize("n", [30, 150])
def test_large_closures_are_those_of_the_integral_relaxation(n):
    graph = nx.gnp_random_graph(n, 3 / n, seed=n)
    space = mr.Precedence(n, [(u, v) for u, v in graph.edges])
    rng = np.random.default_rng(0)
    c = rng.normal(size=(20, n)) * 10.0 ** rng.integers(-3, 4, (20, 1))
    one, zero = rng.random((20, n)) < 0.02, rng.random((20, n)) < 0.02
    for pins in (Pins(), Pins(one, zero).checked(c.shape)):
        bound, points = space.linear_max(c, pins), space.maximizers(c, pins)
        relaxed = relaxed_max(space, c, pins)
        np.testing.assert_array_equal(np.isfinite(bound), np.isfinite(relaxed))
        size = np.abs(c).sum(axis=1)
        found = np.isfinite(bound)
        assert (np.abs(bound[found] - relaxed[found]) <= 1e-6 * size[found]).all()
        assert not any(space.violations(x) for x in points[found])


def test_gains_of_very_different_size_are_told_apart():
    """One flow in integers has too few digits to see the last of these gains."""
    space = mr.Precedence(6, [(0, 1), (2, 3), (4, 5)])
    c = np.array([[-1e3, 1e3 + 1e-7, -1.0, 1.0 + 1e-9, -1.0, 1.0 - 1e-9]])
    assert space.maximizers(c).tolist() == [[1, 1, 1, 1, 0, 0]]


def test_actions_around_a_cycle_are_chosen_together():
    space = mr.Precedence(4, [(0, 1), (1, 2), (2, 0)])
    assert space.enumerate().tolist() == [
        [0, 0, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 1],
        [0, 0, 0, 1],
    ]


def test_chosen_actions_are_read_in_an_order_that_keeps_the_pairs():
    space = mr.Precedence(4, [(3, 1), (1, 0)], names=["roof", "wall", "garden", "floor"])
    assert space.decode([1, 1, 1, 1]) == ["garden", "floor", "wall", "roof"]
    assert mr.Precedence(4, [(3, 1)]).decode([0, 1, 0, 1]) == [3, 1]


def test_with_a_budget_it_is_the_precedence_constrained_knapsack():
    rng = np.random.default_rng(1)
    pairs = [(0, 2), (1, 2), (1, 3), (3, 5), (4, 6), (4, 7)]
    costs = rng.integers(1, 6, 8)
    space = mr.Precedence(8, pairs) & mr.BudgetTopK(8, 8, costs=costs, budget=11)
    listed = {tuple(a) for a in space.enumerate().tolist()}
    assert listed == {
        x
        for x in itertools.product((0, 1), repeat=8)
        if costs @ x <= 11 and all(x[j] <= x[i] for i, j in pairs)
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_actions": 0}, "n_actions must be at least 1"),
        ({"n_actions": 10**6}, "n_actions must be at most 10000"),
        ({"before": [(0, 3)]}, r"a pair of before\[1\] must be at most 2, got 3"),
        ({"before": [(1, 1)]}, "pairs of different actions, got"),
        ({"before": [(0, 1, 2)]}, "pairs of different actions, got"),
        ({"before": [3]}, "a pair of before must be a list, got 3"),
        ({"names": ["a", "b", "b"]}, "names must be 3 distinct names"),
    ],
)
def test_wrong_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.Precedence(**{"n_actions": 3, "before": [(0, 1)]} | arguments)
