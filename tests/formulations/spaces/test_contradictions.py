"""Blocks whose methods disagree: named, with the method and the action, by every solver."""

import numpy as np
import pyomo.environ as pyo
import pytest

import milp_rl as mr
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.contradictions import ContradictionError, refusal

NETWORK = Network.from_arrays([[[1.0, 2.0, 1.5, 1.0, 0.5, 3.0]], [[1.0]]], [[0.0], [0.0]])
SOLVERS = ["auto", "enumeration", "branch_and_bound", "highs", "gurobi"]


class Pairs(mr.ActionSpace):
    """No two neighbours; what a subclass leaves out is the fault."""

    n_actions = 6

    def constrain(self, block, actions):
        block.pair = pyo.ConstraintList()
        for i in range(5):
            block.pair.add(actions[i] + actions[i + 1] <= 1)

    def violations(self, action):
        a = self.check_action(action)
        return [f"{i} and {i + 1}" for i in range(5) if a[i] and a[i + 1]]

    def to_dict(self):
        return {"type": type(self).__name__}


class Unchecked(Pairs):
    def violations(self, action):
        self.check_action(action)
        return []


class Unwritten(Pairs):
    def constrain(self, block, actions):
        block.none = pyo.Constraint(expr=sum(actions) <= 6)


class Low(Pairs):
    def linear_max(self, coefficients, pins=None):
        return 0.1 * super().linear_max(coefficients, pins)


class Careless(Pairs):
    def sample(self, rng, n=1, *, maximal=False):
        return np.ones((n, 6), dtype=np.int8)


CASES = [
    (Unchecked(), "Unchecked contradicts itself .* `constrain` forbids it"),
    (Unwritten(), "Unwritten contradicts itself .* `constrain` allows it, `violations` refuses it"),
    (Low(), "Low: the feasible action .* where `linear_max` says"),
    (Careless(), r"Careless: `sample` draws \[0, 1, 2, 3, 4, 5\], which `violations` refuses"),
    (Unchecked() & mr.BudgetTopK(6, 3), "Unchecked contradicts itself"),
    (Unwritten() & mr.BudgetTopK(6, 3), "Unwritten contradicts itself"),
]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("space", "message"), CASES)
def test_a_contradiction_is_named_by_every_solver(solver, space, message):
    with pytest.raises(ContradictionError, match=message):
        mr.argmax(NETWORK, [], space, solver=solver)


def test_a_right_block_is_solved_by_all():
    space = Pairs() & mr.BudgetTopK(6, 3)
    values = {mr.argmax(NETWORK, [], space, solver=s).value for s in SOLVERS}
    assert values == {6.0}  # 1, 3 and 5


@pytest.mark.parametrize("fault", ["adds", "omits"])
def test_a_wrong_list_is_named(fault):
    class Listed(Pairs):
        def enumerate(self, limit=100_000):
            actions = super().enumerate(limit)
            if fault == "adds":
                return np.concatenate([actions, np.ones((1, 6), dtype=np.int8)])
            return actions[:-3]

    what = r"lists \[0, 1, 2, 3, 4, 5\]" if fault == "adds" else "leaves out"
    with pytest.raises(ContradictionError, match=f"Listed: `enumerate` {what}"):
        mr.argmax(NETWORK, [], Listed(), solver="enumeration")


def test_auxiliary_variables_are_filled_in_before_a_block_is_blamed():
    space = mr.Capacity(costs=[2, 3, 4, 5, 2, 3], capacities=[7, 4])
    assert space.linear_model.n_columns > 6
    assert refusal(space, np.array([1, 1, 0, 0, 1, 0], dtype=np.int8)) == ""
    assert "capacit" in refusal(space, np.ones(6, dtype=np.int8))

    class Generous(mr.Capacity):
        def violations(self, action):
            self.check_action(action)
            return []

    generous = Generous(costs=[2, 3, 4, 5, 2, 3], capacities=[7, 4])
    with pytest.raises(ContradictionError, match="Generous contradicts itself"):
        mr.argmax(NETWORK, [], generous, solver="branch_and_bound")


class Total(mr.ActionSpace):
    """Continuous actions that add up to two at most, or what a fault makes of that."""

    n_actions = 4
    continuous = np.ones(4, dtype=bool)

    def __init__(self, written=2.0, checked=2.0, top=1.0):
        self.written, self.checked, self.top = written, checked, top

    @property
    def upper(self):
        return np.full(4, self.top)

    def constrain(self, block, actions):
        block.most = pyo.Constraint(expr=sum(actions) <= self.written)

    def violations(self, action):
        x = self.check_action(action)
        outside = [i for i in range(4) if not -1e-6 <= x[i] <= 1 + 1e-6]
        return [f"{i} outside" for i in outside] + ["too much"] * bool(
            x.sum() > self.checked + 1e-6
        )

    def to_dict(self):
        return {"type": type(self).__name__, **vars(self)}


@pytest.mark.parametrize("solver", ["auto", "highs"])
@pytest.mark.parametrize(
    "fault", [{"written": 1.5}, {"written": 2.5}, {"checked": 1.5}, {"checked": 2.5}, {"top": 0.5}]
)
def test_a_contradiction_of_a_continuous_block_is_named(solver, fault):
    network = Network.from_arrays([np.eye(4), [[1.0, 2.0, 1.5, 1.0]]], [np.zeros(4), [0.0]])
    assert mr.argmax(network, [], Total(), solver=solver).value == pytest.approx(3.5)
    with pytest.raises(ContradictionError, match="Total"):
        mr.argmax(network, [], Total(**fault), solver=solver)
