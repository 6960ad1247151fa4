"""Proofs of answers over numbers and whole numbers, of every space that has them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.proofs import check
from tests.milp_rl.proofs.test_proofs import STATE, drawn, exact_value

HOURS = mr.Box([0, 0, 0], [1, 1, 8], matrix=[[-8, -8, 1]], right=[0], binary=[0, 1])
SPACES = {
    "box": mr.Box([-1, -1], [1, 1]),
    "box of four": mr.Box([-1] * 4, [1] * 4),
    "rows": mr.Box([0] * 3, [1] * 3, matrix=[[1, 2, 1], [1, -1, 0]], right=[2, 0.3]),
    "equality": mr.Box([0] * 3, [1] * 3, matrix=[[1, 1, 1], [-1, -1, -1]], right=[1, -1]),
    "whole": mr.Box([-2, 0, 0], [5, 5, 3], matrix=[[3, 2, 1]], right=[9], integer=[0, 1, 2]),
    "mixed": mr.Box(
        [0] * 3, [1, 1, 4], matrix=[[-4, -4, 1], [0.1, 0.2, 0]], right=[0, 0.3], binary=[0, 1]
    ),
    "product": mr.BudgetTopK(3, 1) * mr.Box([0.0], [2.0]),
    "intersection": (mr.BudgetTopK(2, 1) * mr.Box([0.0], [8.0])) & HOURS,
    "union": mr.Box([0, 0], [0.4, 0.4]) | mr.Box([0.6, 0.6], [1, 1]),
}


@pytest.mark.parametrize(
    ("name", "sense"), list(zip(SPACES, itertools.cycle(["minimize", "maximize"]), strict=False))
)
def test_every_space(name, sense):
    space = SPACES[name]
    network, sign = drawn(space), 1 if sense == "maximize" else -1
    result = mr.ArgmaxSolver(network, space, sense=sense).solve(STATE, proof=True)
    proof = result.proof
    assert check(network, space, STATE, proof).verified
    assert sign * (proof.bound - proof.value) <= 2 * result.tolerance
    best = exact_value(network, STATE, result.action)
    assert sign * Fraction(proof.value) <= sign * best
    drawn_actions = space.sample(np.random.default_rng(0), 200)
    values = network.at_state(STATE).forward(drawn_actions.astype(float))[:, 0]
    assert (sign * values <= sign * proof.bound + 1e-12).all()
    false = float(best) - sign * max(1e-12, 3e-6 * abs(float(best)))
    assert not check(network, space, STATE, replace(proof, bound=false)).verified
    if len(proof.reasons) < 4:
        assert check(network, space, STATE, proof, exact=True).verified


def test_a_gap_between_two_boxes_is_not_in_the_union():
    """The function is highest between the two: only their selectors tell that it is outside."""
    tent = mr.Network.from_arrays([[[1.0], [-1.0]], [[-1.0, -1.0]]], [[-0.5, 0.5], [1.0]])
    space = mr.Box([0.0], [0.4]) | mr.Box([0.7], [1.0])
    proof = mr.ArgmaxSolver(tent, space).solve([], proof=True).proof
    assert check(tent, space, [], proof).verified
    assert proof.bound == pytest.approx(0.9, abs=1e-6)
    assert (proof.splits > 0).any()  # beyond the action
    assert not check(tent, mr.Box([0.0], [1.0]), [], proof).verified


def test_what_is_left_of_a_set_that_no_row_shows_empty():
    """Neurons held where the rows together leave no point: prices of a program close it."""
    first = [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, -1.0, 1.0]]
    network = mr.Network.from_arrays(
        [first, [[1.0, 1.0, 1.0, -2.0]]], [[-1.2, -1.2, -1.2, 0.1], [0.0]]
    )
    space = mr.Box(
        [0] * 3, [1] * 3, matrix=[[1, 1, 1], [1, -1, 0], [0, 1, -1]], right=[1.7, 0.1, 0.1]
    )
    for sense in ("maximize", "minimize"):
        result = mr.ArgmaxSolver(network, space, sense=sense).solve([], proof=True)
        assert check(network, space, [], result.proof).verified
        assert abs(result.proof.bound - result.proof.value) <= 2 * result.tolerance
