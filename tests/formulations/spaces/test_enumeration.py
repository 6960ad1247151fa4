"""Listing feasible sets, among them intersections that no member lists by itself."""

from __future__ import annotations

import time

import networkx as nx
import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.testing import all_actions

N = 12


def blocks(rng):
    """One block of each kind over the same twelve actions."""
    costs = rng.integers(1, 6, N) + rng.choice([0.0, 0.1], N)
    graph = nx.random_geometric_graph(N, 0.5, seed=int(rng.integers(1000)))
    half = mr.FactoredValidity(
        {"a": ["1", "2"], "b": ["1", "2", "3", "4"]},
        forbidden=[("1", "1"), ("2", "3")],
        n_decision_makers=1,
        optional=bool(rng.random() < 0.5),
    )
    return [
        mr.BudgetTopK(N, int(rng.integers(2, 8)), exactly=bool(rng.random() < 0.5)),
        mr.BudgetTopK(N, N, costs=costs, budget=round(float(costs.sum() / 3), 1)),
        mr.Capacity(costs, rng.integers(2, 9, 3)),
        mr.Scheduling(rng.random((4, 4)) < 0.6, rng.random((N, 4)) < 0.5, 2, budget=5),
        mr.Routing(graph, 0, int(rng.integers(4, 9))),
        mr.Box(
            np.zeros(N),
            np.append(np.zeros(1), np.ones(N - 1)),
            matrix=rng.integers(-2, 4, (2, N)),
            right=[4.0, 6.0],
            binary=range(N),
        ),
        half * half,
        mr.Precedence(N, rng.permuted(np.tile(np.arange(N), (6, 1)), axis=1)[:, :2]),
        mr.Matching(rng.random((3, 4)) < 0.8, max_pairs=2),
        mr.BudgetTopK(5, 2) * mr.BudgetTopK(N - 5, 3, exactly=True),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_an_intersection_is_listed_as_trying_every_vector_does(seed):
    rng = np.random.default_rng(seed)
    own = blocks(rng)
    chosen = rng.choice(len(own), 2 + seed % 2, replace=False)
    space = own[chosen[0]]
    for i in chosen[1:]:
        space = space & own[i]
    everything = all_actions(N)
    expected = everything[[not space.violations(action) for action in everything]]
    listed = space.enumerate()
    assert sorted(map(tuple, listed.tolist())) == sorted(map(tuple, expected.tolist()))
    assert np.array_equal(space.feasible(listed), np.ones(len(listed), dtype=bool))
    assert space.count() == len(expected)
    if len(expected):
        with pytest.raises(ValueError, match="more than"):
            space.enumerate(len(expected) - 1)


def test_each_block_checks_many_actions_as_it_checks_one():
    rng = np.random.default_rng(5)
    everything = all_actions(N)
    for space in blocks(rng):
        one_by_one = [not space.violations(action) for action in everything]
        assert space.feasible(everything).tolist() == one_by_one, space


def test_costs_that_meet_the_budget_but_for_rounding():
    """0.1 + 0.2 is not 0.3: many at once, and one alone, decide the same."""
    for n, cost, budget in ((10, 0.1, 0.3), (6, 1e9 + 0.1, 3e9 + 0.3), (6, 1e-8, 2e-8)):
        space = mr.BudgetTopK(n, n, costs=[cost] * n, budget=budget)
        everything = all_actions(n)
        found = space.feasible(everything)
        assert found.tolist() == [not space.violations(action) for action in everything]
        assert len(space.enumerate()) == found.sum()


def test_a_block_that_overrides_the_check_is_checked_by_it():
    class WithoutFirst(mr.Capacity):
        def violations(self, action):
            return [*super().violations(action), *(["the first"] if action[0] else [])]

    listed = WithoutFirst([1, 1, 1, 1], [2]).enumerate()
    assert len(listed) == 1 + 3 + 3
    assert not listed[:, 0].any()
    both = WithoutFirst([1, 1, 1, 1], [2]) & mr.BudgetTopK(4, 1)
    assert len(both.enumerate()) == 4


def test_a_large_intersection_takes_seconds():
    """Twenty actions, none of whose members lists few: minutes when built one by one."""
    rng = np.random.default_rng(0)
    space = mr.BudgetTopK(20, 10, exactly=True)
    for _ in range(3):
        space = space & mr.BudgetTopK(20, 20, costs=rng.random(20), budget=4.5)
    start = time.monotonic()
    listed = space.enumerate()
    assert time.monotonic() - start < 20
    assert len(listed) > 100
    assert not any(space.violations(action) for action in listed)
    sparse = mr.BudgetTopK(60, 3, exactly=True) & mr.BudgetTopK(
        60, 60, costs=rng.random(60), budget=1
    )
    start = time.monotonic()
    assert len(sparse.enumerate()) == len(
        [1 for a in mr.BudgetTopK(60, 3, exactly=True).enumerate() if not sparse.violations(a)]
    )
    assert time.monotonic() - start < 20
    with pytest.raises(ValueError, match="more than"):
        (mr.BudgetTopK(50, 25) & mr.BudgetTopK(50, 25, costs=rng.random(50), budget=5)).enumerate()


def test_huge_sets_are_refused_at_once():
    start = time.monotonic()
    for exactly in (True, False):
        with pytest.raises(ValueError, match="more than"):
            mr.BudgetTopK(1_000_000, 500_000, exactly=exactly).enumerate()
    with pytest.raises(ValueError, match="more than"):
        mr.BudgetTopK(60, 30, costs=np.ones(60), budget=30).enumerate()
    assert time.monotonic() - start < 20


def test_a_hundred_thousand_workers():
    start = time.monotonic()
    space = mr.Capacity([1.0, 2.0, 3.0, 2.5] * 5, [4.0] * 100_000)
    assert space.linear_max(np.ones((1, 20))) == [20.0]
    assert space.violations(np.ones(20)) == []
    assert space.linear_model.n_columns < 100
    plan = space.assignment(np.ones(20))
    assert len(plan) == 100_000
    assert sorted(arm for arms in plan.values() for arm in arms) == list(range(20))
    assert time.monotonic() - start < 20
    few = mr.Capacity([3, 3, 3], [1, 3, 1, 2, 3, 1])
    assert few.enumerate().sum(axis=1).max() == 2
    assert {w for w, arms in few.assignment([1, 0, 1]).items() if arms} == {1, 4}
