from __future__ import annotations

import json

import numpy as np
import pytest

from milp_rl.formulations.spaces import intersection
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.intersection import Intersection

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
