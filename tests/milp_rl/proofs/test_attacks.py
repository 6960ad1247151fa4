"""Attacks: proofs that were tampered with, and claims that are false, are refused.

``MILP_RL_MUTATIONS=1000 pytest tests/milp_rl/proofs/test_attacks.py`` is the long run of
docs/proofs.md.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.proofs import Proof, check
from milp_rl.proofs.proof import network_hash, space_text
from tests.milp_rl.proofs.test_proofs import HARD, HARD_NETWORK, STATE, drawn, exact_value

MUTATIONS = int(os.environ.get("MILP_RL_MUTATIONS", "150"))
BOX = mr.Box([0, 0, 0], [1, 1, 4], matrix=[[-4, -4, 1]], right=[0], binary=[0, 1])
BOX_NETWORK = drawn(BOX)
PROBLEMS = {"binary": (HARD, HARD_NETWORK), "box": (BOX, BOX_NETWORK)}


def changed_network(network, rng):
    """The network with one of the numbers changed."""
    layers = [(layer.weight.copy(), layer.bias.copy()) for layer in network.layers]
    weight, bias = layers[rng.integers(len(layers))]
    array = weight if rng.random() < 0.8 else bias
    array.flat[rng.integers(array.size)] += rng.normal()
    return mr.Network.from_arrays([w for w, _ in layers], [b for _, b in layers])


def without_subtree(proof, rng):
    """The proof with a leaf in place of a part of its tree: all arrays still fit together."""
    inner = np.flatnonzero(proof.splits >= 0)
    start = int(rng.choice(inner)) if len(inner) else 0
    missing, end = 1, start
    while missing:
        missing += 1 if proof.splits[end] >= 0 else -1
        end += 1
    leaf = int((proof.splits[:start] == -1).sum())
    gone = int((proof.splits[start:end] == -1).sum())
    kept = [*range(leaf + 1), *range(leaf + gone, len(proof.reasons))]
    splits = [*proof.splits[:start], -1, *proof.splits[end:]]
    return replace(
        proof,
        splits=np.array(splits, dtype=np.int32),
        slopes=proof.slopes[kept],
        multipliers=0 * proof.multipliers[kept],
        duals=proof.duals[kept],
        reasons=proof.reasons[kept],
    )


def mutated(proof, network, rng):
    """A proof and a network that differ in something from a valid pair."""
    kind = rng.integers(14)
    splits, slopes, duals = proof.splits.copy(), proof.slopes.copy(), proof.duals.copy()
    multipliers, reasons = proof.multipliers.copy(), proof.reasons.copy()
    leaf, neuron = rng.integers(len(reasons)), rng.integers(slopes.shape[1])
    node = rng.integers(len(splits))
    size = 10.0 ** rng.uniform(-12, 1)
    if kind == 0:
        slopes[leaf] = rng.choice([rng.random(), -rng.random(), 1 + rng.random(), np.nan])
    elif kind == 1:
        multipliers[leaf, neuron] = rng.choice([rng.normal() * 10, np.inf, np.nan])
    elif kind == 2:  # a leaf is missing
        splits = np.delete(splits, rng.choice(np.flatnonzero(splits == -1)))
        keep = np.arange(len(reasons)) != leaf
        slopes, multipliers = slopes[keep], multipliers[keep]
        duals, reasons = duals[keep], reasons[keep]
    elif kind == 3:
        return without_subtree(proof, rng), network
    elif kind == 4:  # another split
        splits[node] = rng.integers(-2, 31)
    elif kind == 5:  # the parts are exchanged, their leaves are not
        first = int(rng.integers(len(reasons)))
        second = int(rng.integers(len(reasons)))
        for array in (slopes, multipliers, duals, reasons):
            array[[first, second]] = array[[second, first]]
    elif kind == 6:
        reasons[leaf] = rng.integers(-1, 4)
    elif kind == 7:
        return replace(proof, value=proof.value + size), network
    elif kind == 8:
        return replace(proof, bound=proof.bound - size), network
    elif kind == 9:
        action = proof.action.copy()
        at = rng.integers(len(action))
        action[at] = 1 - action[at] if action.dtype == np.int8 else rng.normal()
        return replace(proof, action=action), network
    elif kind == 10:
        return proof, changed_network(network, rng)
    elif kind == 11:  # with the hash that goes with it
        other = changed_network(network, rng)
        return replace(proof, network=network_hash(other)), other
    elif kind == 12:
        duals[leaf] = rng.choice([-1.0, 1e-3 * rng.normal(), 1e30 * rng.normal(), np.inf, np.nan])
    else:
        return replace(proof, sense="minimize"), network
    return replace(
        proof, splits=splits, slopes=slopes, multipliers=multipliers, duals=duals, reasons=reasons
    ), network


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_mutation_makes_a_false_claim_pass(name):
    """Whether a claim is true is told by an argmax that is valued in rational numbers.

    A mutation that is accepted though its claim is true is a proof of it all the same.
    """
    space, its_network = PROBLEMS[name]
    rng = np.random.default_rng(0)
    valid = mr.ArgmaxSolver(its_network, space).solve(STATE, proof=True).proof
    assert len(valid.reasons) >= 4
    assert (valid.splits >= space.n_actions).any()
    assert check(its_network, space, STATE, valid).verified
    best = {}

    def exact_best(network):
        if id(network) not in best:
            found = mr.argmax(network, STATE, space)
            best[id(network)] = (network, exact_value(network, STATE, found.action))
        return best[id(network)][1]

    accepted, false = 0, 0
    for _ in range(MUTATIONS // 2):
        start = valid
        if rng.random() < 0.5:  # a false claim from the start, the mutation on top
            below = float(exact_best(its_network)) - 10.0 ** rng.uniform(-14, -2)
            start = replace(valid, bound=below)
        proof, network = mutated(start, its_network, rng)
        verdict = check(network, space, STATE, proof)
        if proof.sense == "minimize":
            assert not verdict.verified
            false += 1
            continue
        true = exact_best(network) <= Fraction(proof.bound)
        try:
            true &= not space.violations(proof.action)
        except ValueError:
            true = False
        true &= exact_value(network, STATE, proof.action) >= Fraction(proof.value)
        true &= proof.network == network_hash(network)
        accepted += verdict.verified
        false += not true
        assert true or not verdict.verified, proof
    assert false >= MUTATIONS * 0.28
    assert accepted >= 1


def test_numbers_that_are_none_prove_nothing():
    """Overflow, in whichever layer, bounds nothing, and no part of it is seen to be empty."""
    rng, space = np.random.default_rng(0), mr.BudgetTopK(3, 2)
    for _ in range(40):
        weights = [rng.normal(size=(4, 3)), rng.normal(size=(4, 4)), rng.normal(size=(1, 4))]
        weights[rng.integers(3)] *= 10.0 ** rng.uniform(150, 308)
        with np.errstate(over="ignore"):
            weights[rng.integers(3)] *= 10.0 ** rng.uniform(0, 308)
        weights = [np.clip(w, -1.7e308, 1.7e308) for w in weights]
        network = mr.Network.from_arrays(weights, [np.zeros(4), np.zeros(4), np.zeros(1)])
        scaled = [w / np.abs(w).max() for w in weights]
        small = mr.Network.from_arrays(scaled, [np.zeros(4), np.zeros(4), np.zeros(1)])
        proof = mr.ArgmaxSolver(small, space).solve([], proof=True).proof
        values = [exact_value(network, [], action) for action in space.enumerate()]
        forged = replace(
            proof,
            network=network_hash(network),
            action=np.zeros(3, dtype=np.int8),
            value=0.0,
            bound=0.0,
            reasons=rng.choice([0, 1], len(proof.reasons)).astype(np.int8),
        )
        with np.errstate(all="ignore"):
            verdict = check(network, space, [], forged)
        assert not verdict.verified or max(values) <= 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bound": np.nan}, "the bound is nan"),
        ({"bound": np.inf}, "the bound is inf"),
        ({"value": -np.inf}, "the value is -inf"),
        ({"value": "1"}, "the value is '1'"),
        ({"sense": "maximise"}, "the sense is 'maximise'"),
        ({"splits": np.array([-1.0])}, "splits is of type float64"),
        ({"splits": np.full((1, 1), -1, dtype=np.int32)}, "splits has 2 dimensions"),
        ({"splits": np.array([], dtype=np.int32)}, "does not cover all"),
        ({"slopes": [[0.0] * 20]}, "slopes is of type list"),
        ({"reasons": np.array([False])}, "reasons is of type bool"),
        ({"action": np.full(10, "1")}, "action is of type <U1"),
        ({"action": np.full(10, 0.5)}, "0 or 1"),
        ({"action": np.zeros(9, dtype=np.int8)}, "shape"),
        ({"space": "{"}, "Expecting property name"),
        ({"space": "[" * 100_000}, "recursion"),
        ({"network": "0" * 64}, "another hash"),
    ],
)
def test_what_is_not_of_its_type_is_refused_by_name(change, reason):
    proof = mr.ArgmaxSolver(HARD_NETWORK, HARD).solve(STATE, proof=True).proof
    verdict = check(HARD_NETWORK, HARD, STATE, replace(proof, **change))
    assert not verdict.verified
    assert reason in verdict.step


def test_files_that_are_damaged_are_refused(tmp_path):
    whole = mr.ArgmaxSolver(HARD_NETWORK, HARD).solve(STATE, proof=True).proof
    rng, content = np.random.default_rng(0), whole.to_bytes()
    file, refused = tmp_path / "p.npz", []
    for _ in range(60):
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(damaged))
        try:
            proof = Proof.load(file)
        except ValueError as error:
            refused.append(str(error))
            continue
        same = all(np.array_equal(getattr(proof, k), v) for k, v in vars(whole).items())
        assert same or not check(HARD_NETWORK, HARD, STATE, proof).verified
    assert refused
    assert all("p.npz is no proof" in text for text in refused)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match="is no proof"):
        Proof.load(tmp_path / "array.npy")


def test_what_a_block_lets_pass_for_rounding_is_in_the_set():
    """0.1 + 0.2 is above 0.3 in real arithmetic, and feasible by the block's own check."""
    space = mr.Box([0, 0], [1, 1], matrix=[[0.1, 0.2]], right=[0.3], binary=[0, 1])
    assert not space.violations([1, 1])
    network = mr.Network.from_arrays([[[1.0, 1.0]]], [[0.0]])
    proof = mr.ArgmaxSolver(network, space, solver="enumeration").solve([], proof=True).proof
    assert check(network, space, [], proof).verified
    for union in (space, space | mr.BudgetTopK(2, 1)):
        proof = mr.ArgmaxSolver(network, union, solver="enumeration").solve([], proof=True).proof
        assert check(network, union, [], proof).verified
        assert not check(network, union, [], replace(proof, bound=1.9)).verified


def test_a_value_does_not_profit_from_rows_that_the_action_breaks():
    """Within the block's tolerance an action is outside the rows: they say nothing of its value."""
    space = mr.Box([0.0, 0.0], [2.0, 2.0], matrix=[[1.0, 1.0], [-1.0, -1.0]], right=[2.0, -2.0])
    network = mr.Network.from_arrays([[[1.0, 1.0]]], [[0.0]])
    proof = mr.ArgmaxSolver(network, space).solve([], proof=True).proof
    assert check(network, space, [], proof).verified
    action = np.array([1.0, 1.0 - 5e-7])
    assert not space.violations(action)
    for value, true in ((2.0 - 4e-7, False), (2.0 - 6e-7, True)):
        moved = replace(proof, action=action, value=value)
        assert check(network, space, [], moved).verified == true


def test_a_set_that_reads_alike_is_another_one():
    proof = mr.ArgmaxSolver(HARD_NETWORK, HARD).solve(STATE, proof=True).proof
    twice = proof.space.replace('"k": 4', '"k": 5, "k": 4')
    assert check(HARD_NETWORK, HARD, STATE, replace(proof, space=twice)).verified  # JSON's last one
    described = json.loads(proof.space)
    for other in ({"k": True}, {"k": 5}, {"exactly": 0}, {"type": "Capacity"}):
        text = space_text(described | other)
        assert not check(HARD_NETWORK, HARD, STATE, replace(proof, space=text)).verified
