from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milp_rl.formulations.spaces import budget
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.pins import Pins

COSTS = [0.1, 0.2, 0.3, 1.0, 2.5, 0.0, 0.7]
SETTINGS = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("exactly", [False, True])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (4, 0), (6, 2), (7, 7), (8, 3)])
def test_without_costs(check_space, n, k, exactly):
    feasible = check_space(BudgetTopK(n, k, exactly=exactly))
    sizes = range(k if exactly else 0, k + 1)
    assert len(feasible) == sum(math.comb(n, size) for size in sizes)
    assert set(feasible.sum(axis=1).tolist()) == set(sizes)


@pytest.mark.parametrize("exactly", [False, True])
def test_with_costs_a_sum_equal_to_the_budget_fits(check_space, exactly):
    space = BudgetTopK(7, 3, exactly=exactly, costs=COSTS, budget=0.6)
    feasible = check_space(space)
    # 0.1 + 0.2 + 0.3 is 0.6000000000000001 in floating point
    assert [1, 1, 1, 0, 0, 0, 0] in feasible.tolist()
    assert (feasible @ np.array(COSTS) <= 0.6 + 1e-9).all()


@SETTINGS
@given(data=st.data())
def test_any_budget(check_space, data):
    n = data.draw(st.integers(1, 6))
    k = data.draw(st.integers(0, n))
    costs = data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    exactly = data.draw(st.booleans())
    least = sum(sorted(costs)[:k]) if exactly else 0
    budget = data.draw(st.integers(least, sum(costs) + 1))
    space = BudgetTopK(n, k, exactly=exactly, costs=costs, budget=budget)
    feasible = check_space(space, seed=data.draw(st.integers(0, 99)))
    assert (feasible @ np.array(costs) <= budget).all()


def test_every_feasible_action_can_be_drawn(check_space):
    check_space(BudgetTopK(5, 3), support_draws=2000)
    check_space(BudgetTopK(5, 3, costs=[1, 2, 3, 4, 5], budget=6), support_draws=2000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_actions": 0, "k": 0}, "at least 1"),
        ({"n_actions": 3, "k": 4}, "between 0 and"),
        ({"n_actions": 3, "k": -1}, "between 0 and"),
        ({"n_actions": 3, "k": 1, "costs": [1, 2, 3]}, "go together"),
        ({"n_actions": 3, "k": 1, "costs": [1, 2], "budget": 1}, "3 nonnegative"),
        ({"n_actions": 3, "k": 1, "costs": [1, -2, 3], "budget": 1}, "nonnegative"),
        ({"n_actions": 3, "k": 1, "costs": [1, np.nan, 3], "budget": 1}, "finite"),
        ({"n_actions": 3, "k": 1, "costs": [1, 2, 3], "budget": np.inf}, "budget"),
        ({"n_actions": 3, "k": 1, "costs": [1, 2, 3], "budget": -1}, "budget"),
        (
            {"n_actions": 3, "k": 2, "exactly": True, "costs": [1, 2, 3], "budget": 2},
            "no feasible action",
        ),
    ],
)
def test_wrong_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        BudgetTopK(**arguments)


def test_violations_name_the_excess():
    space = BudgetTopK(4, 2, costs=[1, 2, 3, 4], budget=5)
    count, cost = space.violations([1, 1, 1, 0])
    assert "3 actions" in count
    assert "by 1" in cost


@pytest.mark.parametrize("exactly", [False, True])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_the_best_of_many_actions_are_found_without_sorting_all(k, exactly, monkeypatch):
    rng = np.random.default_rng(k)
    space = BudgetTopK(30, k, exactly=exactly)
    c = rng.standard_normal((40, 30))
    one, zero = rng.random(c.shape) < 0.03, rng.random(c.shape) < 0.3
    one &= ~zero
    pins = Pins(one, zero)
    found = [space.linear_max(c, pins), space.maximizers(c, pins)]
    monkeypatch.setattr(budget, "_PARTITIONED", 1000)
    monkeypatch.setattr(budget, "_MOST_SORTED", 0)
    again = [space.linear_max(c, pins), space.maximizers(c, pins)]
    left = np.isfinite(found[0])
    assert np.array_equal(left, np.isfinite(again[0]))
    assert again[0][left] == pytest.approx(found[0][left], rel=1e-12, abs=1e-12)
    assert np.array_equal(found[1][left], again[1][left])
