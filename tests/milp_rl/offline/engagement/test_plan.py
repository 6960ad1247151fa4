"""Weekly plans of calls against a mixed-integer program over single calls, and their checks."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from milp_rl.envs.engagement import draw_engagement
from milp_rl.offline.engagement.plan import plan_calls, plan_violations


def optimum(programme, women, worth):
    """The largest value of single calls, each a variable: woman, caller and slot."""
    reach = women.pair_reach(programme)
    i, k, s = np.nonzero(reach)
    value = reach[i, k, s] * worth[i]
    places = k * programme.n_slots + s
    rows = [LinearConstraint(np.eye(len(women))[:, i], ub=1)]
    capacity = programme.capacity.ravel()
    rows.append(LinearConstraint(np.eye(len(capacity))[:, places], ub=capacity))
    rows.append(LinearConstraint(np.ones((1, len(i))), ub=programme.budget))
    found = milp(-value, constraints=rows, integrality=np.ones(len(i)), bounds=Bounds(0, 1))
    return -found.fun


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_can_be_made_and_its_bound_holds(seed):
    rng = np.random.default_rng(seed)
    programme, women = draw_engagement(60, n_callers=4, calls_per_slot=2, budget=12, seed=seed)
    worth = rng.gamma(2.0, size=60)
    plan = plan_calls(programme, women, worth)
    assert plan_violations(programme, women, plan) == []
    reach = women.pair_reach(programme)[plan.women, plan.caller, plan.slot]
    np.testing.assert_allclose(plan.reach, reach)
    assert plan.value == pytest.approx((reach * worth[plan.women]).sum())
    best = optimum(programme, women, worth)
    assert plan.value <= best + 1e-9 <= plan.bound + 2e-9
    assert plan.value >= 0.97 * best


def test_callers_of_several_languages_are_shared_out():
    """Two languages and one caller for each, and one for both: all three calls can be made."""
    programme, women = draw_engagement(3, n_callers=3, budget=3, seed=0)
    capacity = np.zeros_like(programme.capacity)
    capacity[:, 2] = 1
    speaks = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)
    programme = replace(programme, capacity=capacity, speaks=speaks)
    free = np.ones_like(women.free)
    for language, calls in (([0, 0, 1], 3), ([0, 1, 1], 3), ([0, 0, 0], 2), ([2, 2, 0], 1)):
        own = replace(women, language=language, free=free, familiar=[1, -1, -1])
        plan = plan_calls(programme, own, np.ones(3))
        assert plan_violations(programme, own, plan) == []
        assert len(plan) == calls
        assert plan.bound >= optimum(programme, own, np.ones(3)) - 1e-9


def test_nobody_is_called_who_may_not_be_or_has_no_value():
    programme, women = draw_engagement(40, seed=1)
    worth = np.where(np.arange(40) < 20, 1.0, -1.0)
    may = np.arange(40) % 2 == 0
    plan = plan_calls(programme, women, worth, may=may)
    assert len(plan)
    assert may[plan.women].all()
    assert (plan.women < 20).all()
    assert len(plan_calls(programme, women, -np.ones(40))) == 0


def test_what_is_wrong_with_calls_is_said():
    programme, women = draw_engagement(40, budget=3, seed=1)
    plan = plan_calls(programme, women, np.ones(40))
    twice = replace(plan, women=plan.women[[0, 0, 0]])
    assert "is called 3 times" in plan_violations(programme, women, twice)[0]
    less = replace(programme, capacity=np.zeros_like(programme.capacity), budget=2)
    said = plan_violations(less, women, plan)
    assert any("at most 0" in text for text in said)
    assert said[-1] == "3 calls, at most 2 allowed"
    away = replace(women, free=~women.free)
    assert "calls when she is not free" in plan_violations(programme, away, plan)[0]
    assert "may not call her" in plan_violations(programme, women, plan, may=np.zeros(40, bool))[0]


def test_values_must_be_numbers():
    programme, women = draw_engagement(20, seed=0)
    with pytest.raises(ValueError, match="worth must be 20 finite numbers"):
        plan_calls(programme, women, np.full(20, np.nan))
