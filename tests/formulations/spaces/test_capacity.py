from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milp_rl.formulations.spaces import capacity as capacity_module
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.capacity import Capacity
from milp_rl.formulations.spaces.oracles import bin_packing as packing
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.testing import relaxed_max

SETTINGS = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def restless_bandit(n_arms: int, n_workers: int, seed: int) -> Capacity:
    """Draw the domain of Xu et al. 2025: costs 2..6, capacities 2..7."""
    rng = np.random.default_rng(seed)
    return Capacity(rng.integers(2, 7, n_arms), rng.integers(2, 8, n_workers))


def brute_force(costs: list[float], capacities: list[float]) -> set[tuple[int, ...]]:
    """List the feasible actions by trying every assignment of arms to workers."""
    found = {(0,) * len(costs)}
    for where in itertools.product(range(len(capacities) + 1), repeat=len(costs)):
        loads = [0.0] * (len(capacities) + 1)
        for cost, w in zip(costs, where, strict=True):
            loads[w] += cost
        if all(load <= c + 1e-9 for load, c in zip(loads, capacities, strict=False)):
            found.add(tuple(int(w < len(capacities)) for w in where))
    return found


@SETTINGS
@given(
    costs=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    capacities=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_integers(check_space, costs, capacities, seed):
    space = Capacity(costs, capacities)
    assert space.exact
    feasible = check_space(space, seed=seed)
    assert set(map(tuple, feasible.tolist())) == brute_force(costs, capacities)


@SETTINGS
@given(
    costs=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.7, 1.1]), min_size=1, max_size=6),
    capacities=st.lists(st.sampled_from([0.3, 0.6, 0.9, 1.0]), min_size=1, max_size=3),
)
def test_sums_that_equal_a_capacity_up_to_rounding_fit(check_space, costs, capacities):
    feasible = check_space(Capacity(costs, capacities))
    assert set(map(tuple, feasible.tolist())) == brute_force(costs, capacities)


@pytest.mark.parametrize("seed", range(4))
def test_restless_bandit(check_space, seed):
    space = restless_bandit(9, 3, seed)
    assert space.exact
    check_space(space, seed=seed)


@pytest.mark.slow
def test_twelve_arms(check_space):
    check_space(restless_bandit(12, 4, 0))


@pytest.mark.parametrize("seed", range(3))
def test_relaxations_where_there_is_too_much_to_list(check_space, monkeypatch, seed):
    monkeypatch.setattr(packing, "_MAX_CELLS", 0)
    monkeypatch.setattr(packing, "_MAX_SUMS", 3)
    monkeypatch.setattr(capacity_module, "_MAX_PATTERNS", 0)
    space = restless_bandit(8, 3, seed)
    assert not space.exact
    feasible = check_space(space, seed=seed)
    expected = brute_force(space.costs.tolist(), space.capacities.tolist())
    assert set(map(tuple, feasible.tolist())) == expected


def test_every_feasible_action_can_be_drawn(check_space):
    check_space(Capacity([2, 2, 3, 4], [5, 4]), support_draws=3000)


def test_with_a_budget(check_space):
    space = restless_bandit(9, 3, 1) & BudgetTopK(9, 2)
    feasible = check_space(space)
    assert feasible.sum(axis=1).max() == 2


@pytest.mark.parametrize("costs", [[3.0] * 9, [5.0, 6.0], [0.0, 0.0, 0.0], [2.0]])
def test_one_cost_or_none_that_fits(check_space, costs):
    feasible = check_space(Capacity(costs, [4.0, 4.0, 3.0, 0.0]))
    assert set(map(tuple, feasible.tolist())) == brute_force(costs, [4.0, 4.0, 3.0])


def test_best_fit_decreasing_is_not_enough():
    # Best fit decreasing builds 4 + 3 and 3 + 2 + 2; 4 + 2 + 2 and 3 + 3 + 2 is the only way.
    space = Capacity([4, 3, 3, 2, 2, 2], [8, 8])
    assert space._packer.best_fit((1, 2, 3)) is None
    action = np.ones(6, dtype=int)
    assert space.violations(action) == []
    assignment = space.assignment(action)
    assert sorted(assignment) == [0, 1]
    assert sorted(assignment[0] + assignment[1]) == list(range(6))


@pytest.mark.parametrize(("n_arms", "n_workers"), [(20, 5), (100, 20)])
def test_assignments_are_valid(n_arms, n_workers):
    space = restless_bandit(n_arms, n_workers, 3)
    for action in space.sample(np.random.default_rng(0), 20, maximal=True):
        assert len(space.extensions(action)) == 0
        assignment = space.assignment(action)
        arms = sorted(i for own in assignment.values() for i in own)
        assert arms == np.flatnonzero(action).tolist()
        for worker, own in assignment.items():
            assert space.costs[own].sum() <= space.capacities[worker]


@pytest.mark.parametrize("seed", range(2))
def test_the_default_relaxation_is_no_tighter_at_full_size(seed):
    space = restless_bandit(40, 10, seed)
    rng = np.random.default_rng(seed)
    coefficients = rng.normal(size=(6, 40))
    one = rng.random((6, 40)) < 0.05
    exact = space.linear_max(coefficients, Pins(one))
    relaxed = relaxed_max(space, coefficients, Pins(one))
    assert (relaxed >= exact - 1e-9).all()
    reached = [coefficients @ a for a in space.sample(rng, 50, maximal=True)]
    assert (space.linear_max(coefficients) >= np.max(reached, axis=0) - 1e-9).all()


def test_a_hundred_arms_of_different_costs():
    rng = np.random.default_rng(0)
    space = Capacity(rng.uniform(2, 6, 100), rng.uniform(2, 7, 20))
    assert not space.exact
    coefficients = rng.normal(size=(10, 100))
    bound = space.linear_max(coefficients)
    actions = space.sample(rng, 20, maximal=True)
    for action in actions:
        assert space.violations(action) == []
    assert (bound >= (actions @ coefficients.T).max(axis=0)).all()


def test_violations_say_what_does_not_fit():
    space = Capacity([9, 4, 4, 4, 2, 3], [5, 5, 1])
    (never,) = space.violations([1, 0, 0, 0, 0, 0])
    assert "arm 0 costs 9" in never
    (many,) = space.violations([0, 1, 1, 1, 0, 0])
    assert "12" in many
    assert "1 too much" in many
    (large,) = Capacity([4, 4, 4], [5, 5, 3]).violations([1, 1, 1])
    assert "3 arms cost 4 or more, at most 2" in large
    (odd,) = Capacity([3, 3, 2], [4, 4]).violations([1, 1, 1])
    assert odd.endswith("of capacities 4, 4: no assignment takes 2 of cost 3, 1 of cost 2")


def test_an_infeasible_action_has_no_assignment():
    with pytest.raises(ValueError, match="arm 0 costs 9"):
        Capacity([9, 1], [5]).assignment([1, 1])
    with pytest.raises(ValueError, match="not feasible"):
        Capacity([3, 3], [5]).assignment([1, 1])


@pytest.mark.parametrize(
    ("costs", "capacities", "message"),
    [
        ([], [1], "costs is empty"),
        ([1], [], "at least one worker"),
        ([1, -2], [1], r"costs\[1\] is -2"),
        ([1], [-1], r"capacities\[0\] is -1"),
        ([1, np.nan], [1], "finite"),
        ([1], [np.inf], "finite"),
        ([[1, 2]], [1], "1 dimension"),
        (3, [1], "1 dimension"),
    ],
)
def test_wrong_parameters(costs, capacities, message):
    with pytest.raises(ValueError, match=message):
        Capacity(costs, capacities)
    data = {"type": "Capacity", "costs": costs, "capacities": capacities}
    with pytest.raises(ValueError, match=message):
        ActionSpace.from_dict(data)
