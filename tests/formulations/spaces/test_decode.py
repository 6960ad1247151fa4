"""What actions stand for: every block's decode, and members of compositions by name."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest

import milp_rl as mr


def test_each_block_says_what_an_action_stands_for():
    assert mr.BudgetTopK(4, 2).decode([0, 1, 0, 1]) == [1, 3]
    assert mr.Box([0, 0, 0], [1, 2, 1], binary=[0]).decode([1, 0.5, 0]) == {0: 1.0, 1: 0.5}
    assert mr.Routing(nx.cycle_graph(5), 0, 5).decode([0, 0, 1, 0, 0]) == [0, 1, 2, 1, 0]
    levels = mr.FactoredValidity({"channel": ["call", "visit"], "time": ["day", "night"]})
    assert levels.decode([0, 1, 1, 0]) == [("visit", "day")]


def test_chosen_arms_have_a_worker_with_room():
    space = mr.Capacity([3, 2, 2, 1], [4, 3])
    worker_of = space.decode([1, 1, 1, 0])
    assert list(worker_of) == [0, 1, 2]
    loads = [sum(space.costs[i] for i, w in worker_of.items() if w == own) for own in (0, 1)]
    assert (np.array(loads) <= space.capacities).all()
    with pytest.raises(ValueError, match="not feasible: 4 arms of total cost 8"):
        space.decode([1, 1, 1, 1])


def test_visits_have_worker_and_slot():
    space = mr.Scheduling([[1, 1, 0], [0, 1, 1]], [[1, 1, 0], [1, 1, 0], [0, 1, 1]], needs=2)
    assert space.decode([1, 0, 1]) == {0: [(0, 0), (1, 1)], 2: [(0, 1), (1, 2)]}
    with pytest.raises(ValueError, match="not feasible"):
        space.decode([1, 1, 1])


def test_members_are_read_by_their_names():
    calls, tour = mr.BudgetTopK(2, 1), mr.Permutation(2)
    named = mr.Product([calls, tour], names=["calls", "tour"])
    assert named.decode([0, 1, 1, 0, 0, 1]) == {"calls": [1], "tour": [0, 1]}
    assert named.member("tour") == tour
    with pytest.raises(ValueError, match=r"no member 'x'; there are \['calls', 'tour'\]"):
        named.member("x")
    assert named.violations([1, 1, 1, 0, 0, 1]) == ["calls: 2 actions chosen, at most 1 allowed"]
    both = mr.Intersection(
        [mr.BudgetTopK(2, 1), mr.Box([0, 0], [1, 1], binary=[0, 1])], ["k", None]
    )
    assert both.decode([0, 1]) == {"k": [1], "Box": [1]}


def test_members_without_a_name_are_called_by_their_class():
    a, b = mr.BudgetTopK(1, 1), mr.Box([0.0], [2.0])
    assert (a * a * b).decode([1, 0, 1.5]) == {
        "BudgetTopK": [0],
        "BudgetTopK 2": [],
        "Box": {0: 1.5},
    }
    taken = mr.Product([a, a], names=[None, "BudgetTopK"])
    assert taken.names == ("BudgetTopK 2", "BudgetTopK")


def test_names_survive_composition_and_json():
    a, b = mr.BudgetTopK(1, 1), mr.BudgetTopK(2, 1)
    space = mr.Product([a, b], names=["first", None]) * b
    assert space.names == ("first", "BudgetTopK", "BudgetTopK 2")
    again = mr.ActionSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert again.names == space.names
    assert space != a * b * b
    assert "names" not in (a * b).to_dict()
    inside = mr.Product([mr.Product([a, b], names=["x", "y"]), b], names=["pair", "rest"])
    assert inside.decode([1, 0, 1, 0, 0]) == {"pair": {"x": [0], "y": [1]}, "rest": []}
    assert mr.ActionSpace.from_dict(inside.to_dict()) == inside


def test_a_product_with_named_products_keeps_the_contract(check_space):
    pair = mr.Product([mr.BudgetTopK(2, 1), mr.BudgetTopK(2, 1, exactly=True)], names=["x", "y"])
    check_space(mr.Product([pair, mr.Permutation(2)], names=["pair", "order"]))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "2 members need as many names"),
        (["a", "a"], "names of members must be distinct"),
        (["a", 3], "must be a string, got 3"),
        ("ab", "names must be a list"),
    ],
)
def test_wrong_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        mr.Product([mr.BudgetTopK(2, 1), mr.BudgetTopK(2, 1)], names=names)
