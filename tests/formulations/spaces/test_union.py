"""Unions of spaces, against the sets of their members' actions."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest

import milp_rl as mr
from milp_rl.formulations.spaces.union import alternatives
from milp_rl.formulations.testing import check_action_space
from tests.formulations.spaces.test_integer import Orders, as_set, vectors

TOP = mr.BudgetTopK
EMPTY = TOP(4, 1, exactly=True) & TOP(4, 3, exactly=True)


def triangle(x):
    return min(x) >= 0 and x[0] + x[1] <= 3


def rectangle(x):
    return 2 <= x[0] <= 4 and -1 <= x[1] <= 1


TRIANGLE = mr.Box([0, 0], [3, 3], matrix=[[1, 1]], right=[3], integer=[0, 1])
RECTANGLE = mr.Box([2, -1], [4, 1], integer=[0, 1])
BINARY = {
    "no member has both": (
        TOP(5, 2, exactly=True) | mr.Capacity([3, 2, 2, 1, 4], [4]),
        lambda a: a.sum() == 2 or a @ [3, 2, 2, 1, 4] <= 4,
    ),
    "smaller ones are feasible, too": (
        TOP(5, 2) | mr.Box([0] * 5, [1] * 5, matrix=[[3, 2, 1, 2, 1]], right=[4], binary=range(5)),
        lambda a: a.sum() <= 2 or a @ [3, 2, 1, 2, 1] <= 4,
    ),
    "with auxiliary variables": (
        mr.Permutation(2) | TOP(4, 1, exactly=True),
        lambda a: a.tolist() in ([1, 0, 0, 1], [0, 1, 1, 0]) or a.sum() == 1,
    ),
    "within an intersection": (
        (TOP(5, 4) | mr.Precedence(5, [(0, 1), (1, 2), (3, 4)])) & TOP(5, 3, exactly=True),
        lambda a: a.sum() == 3,
    ),
    "within a product": (
        (TOP(2, 0) | TOP(2, 2, exactly=True)) * (TOP(3, 1) | TOP(3, 3, exactly=True)),
        lambda a: a[0] == a[1] and a[2:].sum() != 2,
    ),
    "of unions": (
        (TOP(3, 0) | TOP(3, 1, exactly=True)) | (TOP(3, 3, exactly=True) | TOP(3, 1)),
        lambda a: a.sum() != 2,
    ),
    "with an empty member": (EMPTY | TOP(4, 2, exactly=True), lambda a: a.sum() == 2),
    "of empty members": (EMPTY | EMPTY, lambda a: False),
}
WHOLE = {
    "overlapping": (TRIANGLE | RECTANGLE, lambda x: triangle(x) or rectangle(x)),
    "cut": (
        (TRIANGLE | RECTANGLE) & mr.Box([-5, -5], [5, 5], matrix=[[1, -1]], right=[2.5]),
        lambda x: (triangle(x) or rectangle(x)) and x[0] - x[1] <= 2,
    ),
    "binary in one member": (
        TOP(2, 1) | mr.Box([0, 1], [3, 2], integer=[0, 1]),
        lambda x: (set(x) <= {0, 1} and sum(x) <= 1) or (0 <= x[0] <= 3 and 1 <= x[1] <= 2),
    ),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_unions_are_what_they_should_be(name):
    space, feasible = BINARY[name]
    reference = check_action_space(space)
    wanted = [x for x in vectors(*[(0, 1)] * space.n_actions) if feasible(x)]
    assert as_set(reference) == as_set(wanted)
    assert space.count() == len(wanted)


@pytest.mark.parametrize("name", WHOLE)
def test_unions_of_whole_numbers(name):
    space, feasible = WHOLE[name]
    wanted = [x for x in vectors(range(-3, 7), range(-3, 7)) if feasible(x)]
    assert as_set(check_action_space(space)) == as_set(wanted)


def test_a_block_of_ones_own_as_a_member():
    both = Orders() | mr.Box([3] * 3, [5] * 3, matrix=[[1, 1, 1]], right=[10], integer=range(3))
    wanted = as_set(Orders().enumerate()) | {(3, 3, 3), (4, 3, 3), (3, 4, 3), (3, 3, 4)}
    assert as_set(check_action_space(both)) == wanted


def test_continuous_unions():
    space = mr.Box([0, 0], [1, 1], matrix=[[1, 1]], right=[1]) | mr.Box([2, 0], [3, 2])
    check_action_space(space)
    for point, inside in (([0.5, 0.5], True), ([2.5, 1.9], True), ([1.5, 0.2], False)):
        assert (space.violations(point) == []) == inside
    drawn = space.sample(np.random.default_rng(0), 100)[:, 0]
    assert 20 < (drawn < 1.5).sum() < 80
    check_action_space(space & mr.Box([0, 0], [3, 3], matrix=[[-1, 2]], right=[0]))
    assert space.exact
    np.testing.assert_allclose(space.linear_max([[-1.0, 3.0], [1.0, -1.0]]), [4.0, 3.0])


def test_a_variable_that_is_whole_for_one_member_alone():
    """x is 0, 1, 2, ... or between 2 and 3."""
    space = mr.Box([0], [5], integer=[0]) | mr.Box([2], [3])
    check_action_space(space)
    assert space.continuous.all()
    for value, inside in ((4, True), (4.5, False), (2.5, True), (1.5, False), (5, True)):
        assert (space.violations([value]) == []) == inside
    assert space.rounded(np.array([4.0000001])).tolist() == [4.0]
    assert space.rounded(np.array([2.4])).tolist() == [2.4]


def test_violations_are_those_of_the_nearest_member():
    space = mr.Union([TOP(4, 1), mr.Box([0] * 4, [1, 1, 1, 0], binary=range(4))], ["one", "near"])
    assert space.violations([1, 1, 0, 0]) == []
    assert [text.split(":")[0] for text in space.violations([1, 1, 0, 1])] == ["one"]
    crowded = mr.Union([TOP(3, 1) & mr.Capacity([1, 1, 1], [1]), TOP(3, 1)], ["both", "one"])
    assert [text.split(":")[0] for text in crowded.violations([1, 1, 1])] == ["one"]


def test_an_action_is_read_by_the_member_that_has_it():
    routes = mr.Union([mr.Permutation(2, jobs=["x", "y"]), TOP(4, 1)], names=["order", "single"])
    assert routes.decode([0, 1, 1, 0]) == {"order": ["y", "x"]}
    assert routes.decode([0, 1, 0, 0]) == {"single": [1]}
    assert routes.member("single") == TOP(4, 1)
    with pytest.raises(ValueError, match="feasible for no member: "):
        routes.decode([1, 1, 0, 0])


def test_its_description_and_its_signs():
    a, b, c = TOP(3, 1), TOP(3, 2), TOP(3, 3)
    assert (a | b) | c == mr.Union([a, b, c])
    assert len(((a | b) & c).members) == 2
    assert repr((a | b) & c) == f"({a!r} | {b!r}) & {c!r}"
    assert repr(a & b | c) == f"({a!r} & {b!r}) | {c!r}"
    named = mr.Union([a, b], names=["few", None])
    assert mr.ActionSpace.from_dict(named.to_dict()) == named
    assert named.names == ("few", "BudgetTopK")


def test_what_is_no_union_is_refused():
    with pytest.raises(ValueError, match="different numbers of actions: \\[2, 3\\]"):
        TOP(2, 1) | TOP(3, 1)
    with pytest.raises(TypeError):
        TOP(2, 1) | {1}
    with pytest.raises(ValueError, match="1 continuous variables: its actions cannot be listed"):
        (mr.Box([0], [1]) | mr.Box([2], [3])).enumerate()
    with pytest.raises(ValueError, match="more than 5 feasible"):
        (TOP(4, 1) | TOP(4, 1, exactly=True) | TOP(4, 4, exactly=True)).enumerate(5)


def test_the_relaxation_is_the_convex_hull():
    """Of the points (0, 0) and (1, 1): no fractional point off the diagonal is left."""
    space = TOP(2, 0) | TOP(2, 2, exactly=True)
    model = pyo.ConcreteModel()
    space.add_to(model)
    relaxed = space._oracle.maxima(np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]))
    np.testing.assert_allclose(relaxed, [0.0, 0.0, 2.0], atol=1e-9)


def test_alternatives_have_no_unions():
    a, b, c = TRIANGLE, RECTANGLE, mr.Box([0, 0], [4, 4])
    assert alternatives(a | b) == [a, b]
    assert alternatives((a | b) & c) == [mr.Intersection([a, c]), mr.Intersection([b, c])]
    assert len(alternatives((a | b) * (a | c) * c)) == 4
    assert alternatives(c) == [c]
    many = a | b
    for _ in range(6):
        many = many * (a | b)
    assert alternatives(many) == [many]
