"""The conformance test finds what is wrong with a block."""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo
import pytest

import milp_rl as mr
from milp_rl.formulations.testing import check_action_space


class AtMostTwo(mr.ActionSpace):
    """The smallest block that there can be, to be spoiled below."""

    @property
    def n_actions(self):
        return 5

    def constrain(self, block, actions):
        block.most = pyo.Constraint(expr=pyo.quicksum(actions) <= 2)

    def violations(self, action):
        chosen = int(self.check_action(action).sum())
        return [f"{chosen} chosen, at most 2 allowed"] if chosen > 2 else []

    def to_dict(self):
        return {"type": type(self).__name__}


def test_a_right_block_passes_and_its_actions_are_returned():
    feasible = check_action_space(AtMostTwo(), support_draws=500)
    assert feasible.shape == (1 + 5 + 10, 5)
    assert feasible.sum(axis=1).max() == 2


class TooLoose(AtMostTwo):
    def constrain(self, block, actions):
        block.most = pyo.Constraint(expr=pyo.quicksum(actions) <= 3)


class TooLow(AtMostTwo):
    def linear_max(self, coefficients, pins=None):
        return super().linear_max(coefficients, pins) - 0.1


class NotExact(AtMostTwo):
    exact = True

    def linear_max(self, coefficients, pins=None):
        c, _ = self._checked(coefficients, pins)
        return np.maximum(c, 0).sum(axis=1)


class NotDownClosed(AtMostTwo):
    down_closed = True

    def constrain(self, block, actions):
        block.two = pyo.Constraint(expr=pyo.quicksum(actions) == 2)

    def violations(self, action):
        return [] if self.check_action(action).sum() == 2 else ["not 2"]


class WrongSample(AtMostTwo):
    def sample(self, rng, n=1, *, maximal=False):
        return np.ones((n, 5), dtype=np.int8)


class WrongCount(AtMostTwo):
    def count(self, limit=100_000):
        return 3


class Forgetful(AtMostTwo):
    def __init__(self, k=2):
        self.k = k

    def to_dict(self):
        return {"type": "Forgetful", "k": self.k + 1}


class Careless(AtMostTwo):
    def violations(self, action):
        return ["too many"] if np.asarray(action).sum() > 2 else []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TooLoose, "the model says feasible, violations says"),
        (TooLow, "linear_max is below the true maximum"),
        (NotExact, "linear_max is above the true maximum"),
        (NotDownClosed, "down_closed is true, but"),
        (WrongSample, "a sample is not feasible"),
        (WrongCount, "count is 3, there are 16"),
        (Forgetful, "gives another space"),
        (Careless, "a ValueError is expected|should say"),
    ],
)
def test_what_is_wrong_is_said(kind, message):
    with pytest.raises(AssertionError, match=message):
        check_action_space(kind())


def test_large_binary_spaces_are_refused():
    with pytest.raises(ValueError, match="at most 12"):
        check_action_space(mr.BudgetTopK(13, 2))


class Unbounded(mr.Box):
    def violations(self, action):
        self.check_action(action)
        return []


def test_continuous_blocks_are_checked_at_points():
    with pytest.raises(AssertionError, match="the model says infeasible"):
        check_action_space(Unbounded([-1, -1], [1, 1]))
