from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from milp_rl.argmax_solver import argmax
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces import intersection
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.intersection import Intersection
from milp_rl.formulations.spaces.union import Union

COSTS = [1, 2, 3, 4, 5, 6]
WEIGHTS = [6, 5, 4, 3, 2, 1]


def test_two_knapsacks(check_space):
    first = BudgetTopK(6, 6, costs=COSTS, budget=8)
    second = BudgetTopK(6, 4, costs=WEIGHTS, budget=9)
    feasible = check_space(first & second, support_draws=3000)
    assert (feasible @ np.array(COSTS) <= 8).all()
    assert (feasible @ np.array(WEIGHTS) <= 9).all()
    assert len(feasible) < min(first.count(), second.count())


def test_exactly_k_within_a_cost(check_space):
    space = BudgetTopK(6, 3, exactly=True) & BudgetTopK(6, 6, costs=COSTS, budget=8)
    assert not space.down_closed
    feasible = check_space(space)
    assert (feasible.sum(axis=1) == 3).all()
    assert (feasible @ np.array(COSTS) <= 8).all()


def test_an_empty_intersection(check_space):
    space = BudgetTopK(4, 2, exactly=True) & BudgetTopK(4, 3, exactly=True)
    assert len(check_space(space)) == 0


def test_three_members_are_flat(check_space):
    a, b, c = (BudgetTopK(5, k) for k in (4, 3, 2))
    assert (a & b) & c == a & (b & c)
    assert len(((a & b) & c).members) == 3
    feasible = check_space(a & b & c)
    assert feasible.sum(axis=1).max() == 2


def test_forced_actions_tighten_the_other_member():
    everything = BudgetTopK(3, 3, exactly=True, costs=[1, 1, 1], budget=3)
    space = everything & BudgetTopK(3, 3)
    np.testing.assert_allclose(space.linear_max([[-1.0, -2.0, 5.0]]), [2.0])


def test_wrong_members():
    with pytest.raises(ValueError, match="different numbers"):
        BudgetTopK(3, 1) & BudgetTopK(4, 1)
    with pytest.raises(ValueError, match="at least one"):
        Intersection([])
    with pytest.raises(TypeError):
        BudgetTopK(3, 1) & 3  # type: ignore[operator]


def test_wrong_files(tmp_path):
    path = tmp_path / "space.json"
    for text, message in (
        ("", "is empty"),
        ("{", "line 1, column 2: not JSON"),
        ("\x00", "is binary data"),
        ('{"type": "BudgetTopK",\n "n_actions"', "line 2, column 13: not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            ActionSpace.from_json(path)
    for data in ([], {}, {"type": 3}):
        path.write_text(json.dumps(data))
        with pytest.raises(ValueError, match='"type"'):
            ActionSpace.from_json(path)
    with pytest.raises(ValueError, match="unknown action space 'NoSuch'"):
        ActionSpace.from_dict({"type": "NoSuch"})
    with pytest.raises(ValueError, match="wrong parameters for Intersection"):
        ActionSpace.from_dict({"type": "Intersection"})
    with pytest.raises(ValueError, match=r"unknown parameter 'no_such_param.*BudgetTopK"):
        ActionSpace.from_dict({**BudgetTopK(3, 1).to_dict(), "no_such_parameter": 1})


def test_what_one_member_forces_is_found_without_asking_for_every_variable(
    check_space, monkeypatch
):
    space = BudgetTopK(6, 6, costs=COSTS, budget=4) & BudgetTopK(6, 3)
    asked = space._forced
    monkeypatch.setattr(intersection, "_MOST_ASKED", 0)
    again = BudgetTopK(6, 6, costs=COSTS, budget=4) & BudgetTopK(6, 3)
    for own, other in zip(asked, again._forced, strict=True):
        assert (other >= own).all()
    assert np.flatnonzero(again._forced[1]).tolist() == [4, 5]  # they cost more than the budget
    check_space(again)
    check_space(BudgetTopK(6, 3, exactly=True) & BudgetTopK(6, 6, costs=COSTS, budget=8))


def test_bounds_that_meet_but_for_the_last_digits_leave_a_point():
    met = Box([1.0000005], [2.0]) & Box([0.0], [1.0])
    assert met.violations([1.0]) == []
    assert met.feasible(np.array([[1.0]])).all()
    assert met.linear_max(np.array([[1.0]]))[0] >= 1.0
    apart = Box([1.3], [2.0]) & Box([0.0], [1.0])
    assert apart.linear_max(np.array([[1.0]]))[0] == -np.inf
    large = BudgetTopK(2, 2) & Box([0.5, 0.0], [1e6, 1e6])
    for action in ([0, 1], [1, 1], [1, 0]):
        own = np.array([action], dtype=large.dtype)
        assert large.feasible(own)[0] == (not large.violations(action))


NONE_OR_A_LOT = Box([0], [1], binary=[0]) | Box([2], [5], integer=[0])
LOTS = Box([0, 2], [1, 3], matrix=[[1, -1]], right=[0], binary=[0], integer=[1])
BITS = Box([0, 0], [1, 1], binary=[0, 1])


def in_it(space, x) -> bool:
    """Whether an action is in a tree of boxes and budgets, by their definitions."""
    if isinstance(space, Intersection):
        return all(in_it(member, x) for member in space.members)
    if isinstance(space, Union):
        return any(in_it(member, x) for member in space.members)
    if isinstance(space, BudgetTopK):
        return set(x) <= {0, 1} and sum(x) <= space.k
    sides = zip(space.lower, x, space.upper, strict=True)
    within = all(low <= value <= high for low, value, high in sides)
    return within and bool((space.matrix @ np.array(x) <= space.right + 1e-9).all())


def tree_of_spaces(rng, n: int, depth: int):
    """Boxes, some binary, some of whole numbers, and budgets, joined and cut at random."""
    if depth and rng.random() > 0.3:
        left, right = (tree_of_spaces(rng, n, depth - 1) for _ in range(2))
        return left & right if rng.random() < 0.5 else left | right
    if rng.random() < 0.25:
        return BudgetTopK(n, int(rng.integers(0, n + 1)))
    bits = rng.random(n) < 0.5
    lower = np.where(bits, 0, rng.integers(-1, 3, n))
    upper = np.where(bits, 1, lower + rng.integers(0, 4, n))
    rows = {}
    if rng.random() < 0.4:
        matrix = rng.integers(-1, 3, (1, n))
        rows = {"matrix": matrix, "right": matrix @ lower + rng.integers(0, 4)}
    return Box(lower, upper, binary=np.flatnonzero(bits), integer=np.flatnonzero(~bits), **rows)


@pytest.mark.parametrize("seed", range(60))
def test_bits_and_whole_numbers_together(seed):
    """What is 0 or 1 for one member may be 2 for another, and their bounds may cross."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    trees = {0: NONE_OR_A_LOT & Box([0], [4], integer=[0]), 1: LOTS & BITS, 2: BITS & LOTS}
    space = trees.get(seed) or tree_of_spaces(rng, n, 2)
    n = space.n_actions
    wanted = [x for x in itertools.product(range(-1, 6), repeat=n) if in_it(space, x)]
    assert space.count() == len(wanted)
    assert {tuple(x) for x in space.enumerate().tolist()} == set(wanted)
    weights = [rng.normal(size=(4, n)), rng.normal(size=(1, 4))]
    network = Network.from_arrays(weights, [rng.normal(size=4), [0.0]])
    solvers = ["auto", "enumeration", "highs", *["branch_and_bound"] * space.binary]
    for solver in solvers:
        result = argmax(network, None, space, solver=solver)
        if wanted:
            best = network.forward(np.array(wanted, dtype=float)).max()
            assert result.value == pytest.approx(best, abs=1e-6)
        else:
            assert result.status == "infeasible"
