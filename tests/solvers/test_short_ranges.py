"""Continuous variables that move a row little: a tolerance in it is worth much of Q.

A row of whole numbers and a number between -0.01 and 0.01 may be exceeded by 1e-6 for a block's own
check. Answers are compared with the set itself: for each combination of whole numbers, the value is
piecewise linear in the number, and largest at a break or an end.
"""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.spaces.polytope import opposite_rows

RANGE = 0.01
FOUR = mr.Box(
    [-1, -0.003, -2, 0],
    [-1, 0.007, -2, 4],
    matrix=[[0.66, -0.03, -2.11, -0.57]],
    right=[2.4199878532060994],
    integer=[0, 2, 3],
)
SOLVERS = ("auto", "branch_and_bound", "highs", "gurobi", "scip")


def problem(seed: int) -> tuple[mr.Network, np.ndarray, mr.Box]:
    """Return a network of six neurons, a state, and a box of one number and two whole numbers."""
    rng = np.random.default_rng(seed)
    matrix = np.round(rng.normal(size=(1, 3)), 2)
    matrix[0, 0] *= 0.3
    on_it = [rng.uniform(-RANGE, RANGE), rng.integers(0, 5), rng.integers(-2, 3)]
    box = mr.Box(
        [-RANGE, 0, -2], [RANGE, 4, 2], matrix=matrix, right=matrix @ on_it, integer=[1, 2]
    )
    weights = [rng.normal(size=(6, 4)), rng.normal(size=(1, 6))]
    weights[0][:, 0] /= RANGE
    return mr.Network.from_arrays(weights, [rng.normal(size=6), [0.0]]), rng.normal(size=1), box


def largest(network: mr.Network, state: np.ndarray, box: mr.Box) -> float:
    """Return the maximum, by all whole numbers and all breaks of the value between them."""
    (coefficient, *others), best = box.matrix[0], -np.inf
    hidden = network.layers[0]
    weight, bias = hidden.weight, hidden.bias
    for whole in itertools.product(range(5), range(-2, 3)):
        end = (box.right[0] - np.dot(others, whole)) / coefficient
        low, high = (-RANGE, min(RANGE, end)) if coefficient > 0 else (max(-RANGE, end), RANGE)
        breaks = -(weight[:, 1:] @ [*whole, *state] + bias) / weight[:, 0]
        points = [low, high, *breaks[(breaks > low) & (breaks < high)]] if low <= high else []
        values = [float(network.forward(np.array([x, *whole, *state]))[0]) for x in points]
        best = max(best, *values) if values else best
    return best


@pytest.mark.parametrize("seed", [51, 16, 99, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_value_comes_from_a_tolerance_in_a_row(solver: str, seed: int) -> None:
    network, state, box = problem(seed)
    result = mr.argmax(network, state, box, solver=solver)
    assert result.status == "optimal"
    assert abs(result.value - largest(network, state, box)) <= result.tolerance
    assert box.matrix[0] @ result.action <= box.right[0] + 1e-12


@pytest.mark.parametrize("coefficients", [[1.0, -1.0, 1.0, -1.0], [0.0, -5.0, 0.0, -3.0]])
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_sampled_action_is_held_against_a_right_answer(
    solver: str, coefficients: list[float]
) -> None:
    box = FOUR
    # At y = 2, x is at least this; both are worth more small.
    least = (0.66 * -1 + 2.11 * 2 - 0.57 * 2 - 2.4199878532060994) / 0.03
    best = np.dot(coefficients, [-1, least, -2, 2])
    result = mr.argmax(mr.Network.from_arrays([[coefficients]], [[0.0]]), [], box, solver=solver)
    assert result.status == "optimal"
    assert abs(result.value - best) <= result.tolerance


def test_what_is_drawn_is_within_the_rows_themselves() -> None:
    drawn = FOUR.sample(np.random.default_rng(0), 200)
    assert (drawn @ FOUR.matrix[0] <= FOUR.right[0] + 1e-12).all()
    assert len(np.unique(drawn[:, 2:], axis=0)) == 3


def test_a_start_that_uses_the_tolerance_is_moved_into_the_row() -> None:
    network, state, box = problem(51)
    beyond = np.array([-0.0055, 4.0, 1.0])  # with what the check allows on top
    beyond[0] = (box.right[0] + 1e-6 - box.matrix[0, 1:] @ beyond[1:]) / box.matrix[0, 0]
    assert not box.violations(beyond)
    result = mr.argmax(network, state, box, start=beyond)
    assert abs(result.value - largest(network, state, box)) <= result.tolerance


@pytest.mark.parametrize("seed", [51, 16, 99])
@pytest.mark.parametrize("solver", ["auto", "highs", "gurobi"])
def test_the_same_holds_in_products_and_unions(solver: str, seed: int) -> None:
    network, state, box = problem(seed)
    best = largest(network, state, box)
    first, last = network.layers
    weights = np.zeros((6, 6))
    weights[:, :3], weights[:, 5:] = first.weight[:, :3], first.weight[:, 3:]
    weights = np.vstack([weights, np.eye(6)[3:5]])
    out = np.append(last.weight, [0.5, 0.25])[None]  # of two arms, only the first can be served
    both = mr.Network.from_arrays([weights, out], [np.append(first.bias, [0, 0]), last.bias])
    result = mr.argmax(both, state, box * mr.Capacity([1, 2], [1, 1]), solver=solver)
    assert result.status == "optimal"
    assert abs(result.value - best - 0.5) <= result.tolerance
    other = mr.Box([-RANGE, 0, -2], [-RANGE, 0, -2], integer=[1, 2])
    result = mr.argmax(network, state, box | other, solver=solver)
    alone = network.forward(np.array([-RANGE, 0, -2, *state]))[0]
    assert result.status == "optimal"
    assert abs(result.value - max(best, alone)) <= result.tolerance


def test_products_and_unions_settle_as_their_members() -> None:
    box = problem(51)[2]
    beyond = np.array([[-0.0055, 4.0, 1.0]])
    beyond[0, 0] = (box.right[0] + 1e-6 - box.matrix[0, 1:] @ beyond[0, 1:]) / box.matrix[0, 0]
    within = box.settled(beyond)[0]
    point = mr.Box([-RANGE, 0, -2], [-RANGE, 0, -2], integer=[1, 2])
    more = [[1.0, 0.0]]
    for space, given, wanted in (
        (box * mr.Capacity([1, 2], [1, 1]), np.hstack([beyond, more]), np.hstack([within, more])),
        (box | point, beyond, within),
        (point | box, beyond, within),
    ):
        assert space.feasible(given).all()
        assert not space.met_exactly(given).any()
        found, met = space.settled(given)
        assert met.all()
        assert space.met_exactly(found).all()
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(space.rounded(given[0]), wanted[0])
    assert not np.array_equal(within, beyond)


@pytest.mark.parametrize("solver", SOLVERS)
def test_whole_numbers_that_fit_by_a_tolerance_alone_are_no_answer(solver: str) -> None:
    network = mr.Network.from_arrays([[[1.0, 0.0]]], [[0.0]])
    box = mr.Box([0, 0], [1, 1e-7], matrix=[[1, -1]], right=[1 - 5e-7], integer=[0])
    assert not box.violations([1.0, 0.0])  # as a user may have it
    result = mr.argmax(network, [], box, solver=solver)
    assert (result.status, result.value) == ("optimal", 0.0)
    assert (box.known_actions[:, 0] == 0).all()
    mild = mr.Box(
        [0, 0, 0], [3, 3, 1e-3], matrix=[[1, 0.5, -1e-4]], right=[2 - 6e-7], integer=[0, 1]
    )
    third = mr.Network.from_arrays([[[1.0, 0.4, 0.0]]], [[0.0]])
    assert abs(mr.argmax(third, [], mild, solver=solver).value - 1.4) < 1e-9
    start = np.array([1.0, 0.0])
    assert mr.argmax(network, [], box, solver=solver, start=start).value == 0.0


class Northern(mr.BudgetTopK):
    def __init__(self, n: int, k: int) -> None:
        super().__init__(n, k)
        self.region = "north"


def test_a_block_may_have_a_region_of_its_own() -> None:
    space = Northern(8, 3)
    assert mr.argmax(mr.QNetwork(0, 8, (4,)), [], space).status == "optimal"
    assert pickle.loads(pickle.dumps(space)).region == "north"


def test_opposite_rows_are_found_among_many() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 40))
    rows[200], rows[7] = -rows[3], -rows[299]
    assert sorted(opposite_rows(rows, np.full(300, 1e-12))) == [(3, 200), (7, 299)]


@pytest.mark.parametrize("wide", [0.1, 0.01])
def test_the_default_and_a_milp_solver_agree_on_random_boxes(wide: float) -> None:
    """The 120 boxes of docs/reliability.md, with a linear value."""
    for seed in range(120):
        rng = np.random.default_rng(seed)
        matrix = np.round(rng.normal(size=(1, 3)), 2)
        matrix[0, 0] *= wide
        on_it = [rng.uniform(-1, 1) * wide, rng.integers(0, 5), rng.integers(-2, 3)]
        low, high = [-wide, 0, -2], [wide, 4, 2]
        box = mr.Box(low, high, matrix=matrix, right=matrix @ on_it, integer=[1, 2])
        coefficients = rng.normal(size=3) / [wide, 1, 1]
        network = mr.Network.from_arrays([[coefficients]], [[0.0]])
        own, other = (mr.argmax(network, [], box, solver=solver) for solver in ("auto", "highs"))
        assert abs(own.value - other.value) <= own.tolerance, seed
