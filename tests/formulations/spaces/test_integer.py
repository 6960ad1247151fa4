"""Bounded integers in boxes and in blocks of a user's own, against lists of all vectors."""

from __future__ import annotations

import itertools

import numpy as np
import pyomo.environ as pyo
import pytest

import milp_rl as mr
from milp_rl.formulations.spaces.sequential import SequentialBuilder
from milp_rl.formulations.testing import check_action_space


class Orders(mr.ActionSpace):
    """Quantities within a budget; none of good 1 or at least two, of 2 no more than of 0."""

    n_actions = 3
    lower = np.array([0.0, 0.0, -1.0])
    upper = np.array([4.0, 5.0, 3.0])

    def __init__(self, budget: float = 9.0) -> None:
        self.budget = budget

    def constrain(self, block, actions):
        block.any = pyo.Var(domain=pyo.Binary)
        block.least = pyo.Constraint(expr=actions[1] >= 2 * block.any)
        block.most = pyo.Constraint(expr=actions[1] <= 5 * block.any)
        block.third = pyo.Constraint(expr=actions[2] <= actions[0])
        total = 2 * actions[0] + actions[1] + 3 * actions[2]
        block.cost = pyo.Constraint(expr=total <= self.budget)

    def violations(self, action):
        x = self.check_action(action)
        found = self.outside_bounds(x)
        found += ["a single one of good 1"] if x[1] == 1 else []
        found += ["more of good 2 than of 0"] if x[2] > x[0] else []
        cost = 2 * x[0] + x[1] + 3 * x[2]
        return found + ([f"costs {cost}"] if cost > self.budget else [])

    def to_dict(self):
        return {"type": "Orders", "budget": self.budget}


def vectors(*ranges):
    return [np.array(x) for x in itertools.product(*ranges)]


def as_set(actions):
    return {tuple(int(v) for v in action) for action in actions}


def test_a_box_of_whole_numbers():
    space = mr.Box([-1.5, 0, 0], [2, 5.7, 3], matrix=[[1, 2, -1]], right=[4], integer=range(3))
    wanted = [x for x in vectors(range(-1, 3), range(6), range(4)) if x @ [1, 2, -1] <= 4]
    assert as_set(check_action_space(space)) == as_set(wanted)
    assert space.count() == len(wanted)
    assert space.dtype == np.int64
    assert space.integer.all()
    assert space.lower.tolist() == [-1, 0, 0]
    assert space.upper.tolist() == [2, 5, 3]


def test_an_equality_of_whole_numbers():
    space = mr.Box(
        [0, 0, 0], [4, 1, 3], matrix=[[1, 2, 1], [-1, -2, -1]], right=[5, -5], integer=[0, 1, 2]
    )
    wanted = [x for x in vectors(range(5), range(2), range(4)) if x @ [1, 2, 1] == 5]
    assert as_set(check_action_space(space)) == as_set(wanted)


@pytest.mark.parametrize("binary", [(), (1,)])
def test_whole_and_continuous_variables(binary):
    """Of the space of (x0, x1, y), y is at most the half of x0 less x1."""
    space = mr.Box(
        [0, 0, -1], [4, 1, 3], matrix=[[-0.5, 1, 1]], right=[0], integer=[0], binary=binary
    )
    check_action_space(space)
    assert space.continuous.tolist() == [False, not binary, True]
    drawn = space.sample(np.random.default_rng(0), 200)
    assert set(drawn[:, 0]) == {0, 1, 2, 3, 4}
    assert drawn[:, 2].std() > 0.1


def test_a_block_of_ones_own():
    wanted = [
        x
        for x in vectors(range(5), range(6), range(-1, 4))
        if x[1] != 1 and x[2] <= x[0] and x @ [2, 1, 3] <= 9
    ]
    assert as_set(check_action_space(Orders())) == as_set(wanted)


def test_intersections_and_products():
    box = mr.Box([0] * 3, [3, 3, 1], integer=range(3), matrix=[[1, 1, 1]], right=[5])
    both = Orders() & box
    wanted = [
        x
        for x in vectors(range(4), (0, 2, 3), (0, 1))
        if x[2] <= x[0] and x @ [2, 1, 3] <= 9 and x.sum() <= 5
    ]
    assert as_set(check_action_space(both)) == as_set(wanted)
    assert both.integer.tolist() == [True, True, False]
    product = mr.BudgetTopK(2, 1) * mr.Box([-1], [2], integer=[0])
    assert len(check_action_space(product)) == 3 * 4
    assert product.sample(np.random.default_rng(0)).dtype == np.int64
    narrowed = mr.Box([0], [5], integer=[0]) & mr.Box([0.5], [3.5])
    assert narrowed == mr.Box([1], [3], integer=[0])
    assert (mr.Box([0, 0], [9, 9], integer=[0, 1]) & mr.BudgetTopK(2, 1)).binary


def test_a_whole_number_between_zero_and_one_is_binary():
    space = mr.Box([0, -0.5], [1, 1.2], integer=[0, 1])
    assert space == mr.Box([0, 0], [1, 1], binary=[0, 1])
    assert space.binary
    assert space.dtype == np.int8


def test_actions_are_rounded_exactly_and_refused_in_between():
    space = mr.Box([0, 0], [5, 2], integer=[0])
    assert space.violations([3 + 1e-7, 1.5]) == []
    assert space.check_action([3 + 1e-7, 1.5]).tolist() == [3.0, 1.5]
    for value in (2.5, 3 + 1e-5, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"action\[0\] is .* this variable is a whole number"):
            space.violations([value, 0])
    assert space.violations([6, 0]) == ["x[0] = 6 is outside [0, 5] by 1"]
    assert space.decode([4, 0]) == {0: 4.0}


def test_large_sums_of_whole_numbers_are_exact():
    space = mr.Box([0, 0], [1e6, 1e6], matrix=[[7, 11]], right=[9_000_001], integer=[0, 1])
    inside = [1_000_000, 181_818]
    assert space.violations(inside) == []
    (found,) = space.violations([1_000_000, 181_819])
    assert found.endswith("exceeds 9e+06 by 8")
    assert not space.feasible(np.array([[1_000_000, 181_819]]))[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lower": [0.2], "upper": [0.8], "integer": [0]}, "no whole number between lower"),
        ({"lower": [0], "upper": [1], "integer": [0], "binary": [0]}, "both binary and integer"),
        ({"lower": [0], "upper": [1], "integer": [1]}, "integer must be distinct indices"),
        ({"lower": [0], "upper": [2], "integer": [0, 0]}, "integer must be distinct indices"),
        (
            {"lower": [0], "upper": [5], "matrix": [[2], [-2]], "right": [5, -5], "integer": [0]},
            "no feasible action",
        ),
    ],
)
def test_what_is_no_box_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.Box(**arguments)


def test_what_is_for_binary_variables_says_so():
    space = mr.Box([0, 0], [5, 1], integer=[0, 1])
    for call in (lambda: space.extensions([0, 0]), lambda: SequentialBuilder(space)):
        with pytest.raises(ValueError, match="1 integer variables: its actions cannot be built"):
            call()
    large = mr.Box([0] * 9, [999] * 9, integer=range(9))
    with pytest.raises(ValueError, match="too many actions to list"):
        large.enumerate()


def test_samples_of_large_sets_are_feasible_and_spread():
    row = np.ones((1, 4))
    space = mr.Box(
        [0] * 4, [40] * 4, matrix=np.vstack([row, -row]), right=[60, -60], integer=range(4)
    )
    drawn = space.sample(np.random.default_rng(0), 40)
    assert (drawn.sum(axis=1) == 60).all()
    assert not any(space.violations(x) for x in drawn)
    assert len(as_set(drawn)) > 20
