"""Continuous variables that move a row little: a tolerance in it is worth much of Q.

A row of whole numbers and a number between -0.01 and 0.01 may be exceeded by 1e-6 for a block's own
check. Answers are compared with the set itself: for each combination of whole numbers, the value is
piecewise linear in the number, and largest at a break or an end.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import milp_rl as mr

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
