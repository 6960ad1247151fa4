"""Proofs: those of true claims are verified, and no mutation of one makes a false claim pass."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

import milp_rl as mr
from milp_rl.cli import commands
from milp_rl.envs import make_bandit
from milp_rl.proofs import Proof, check
from milp_rl.proofs.arithmetic import Exact, Rounded, float_above
from milp_rl.proofs.check import Checker, leaves_of
from milp_rl.proofs.proof import network_hash
from milp_rl.proofs.prove import NotProvenError
from milp_rl.proofs.rows import Rows, rows_of
from tests.milp_rl.test_what_if import SPACES as BLOCKS

NETWORKS = Path(__file__).parents[3] / "benchmarks" / "networks"
STATE = np.array([0.3, -1.0])
SPACES = BLOCKS | {
    "capacity of parts": mr.Capacity([0.3, 0.3, 0.45, 0.2, 0.9, 0.3], [0.9, 0.4]),
    "budget of parts": mr.BudgetTopK(7, 7, costs=[1, 2, 3, 1.5, 2, 3, 2], budget=5.5),
    "product": mr.BudgetTopK(4, 2) * mr.Capacity([2, 3, 1], [3]),
    "union": mr.BudgetTopK(6, 1) | mr.Capacity([2, 3, 4, 2, 5, 3], [5, 4]),
}


def drawn(space, hidden=(8, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return mr.to_network(mr.QNetwork(2, space.n_actions, hidden, generator=generator))


def exact_value(network, state, action):
    """The value in rational numbers, by the definition of a network."""
    h = [Fraction(float(x)) for x in (*action, *state)]
    for depth, layer in enumerate(network.layers):
        z = [
            Fraction(b) + sum(Fraction(w) * x for w, x in zip(row, h, strict=True))
            for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        h = z if depth == len(network.layers) - 1 else [max(x, Fraction(0)) for x in z]
    return h[0]


@pytest.mark.parametrize(
    ("name", "sense"), list(zip(SPACES, itertools.cycle(["maximize", "minimize"]), strict=False))
)
def test_every_block(name, sense):
    space = SPACES[name]
    network = drawn(space)
    solver = mr.ArgmaxSolver(network, space, sense=sense)
    result = solver.solve(STATE, proof=True)
    proof = result.proof
    assert check(network, space, STATE, proof).verified
    sign = 1 if sense == "maximize" else -1
    actions = space.enumerate()
    values = sign * network.at_state(STATE).forward(actions)[:, 0]
    best = sign * exact_value(network, STATE, actions[np.argmax(values)])
    claimed, bound = sign * Fraction(proof.value), sign * Fraction(proof.bound)
    assert claimed <= best <= bound
    assert bound - claimed <= 2 * result.tolerance
    worse = sign * (float(np.nextafter(float(best), -np.inf)) - 1e-15)
    assert sign * Fraction(worse) < best
    assert not check(network, space, STATE, replace(proof, bound=worse)).verified
    if len(proof.reasons) < 6:
        assert check(network, space, STATE, proof, exact=True).verified


@pytest.mark.parametrize("domain", ["multiple_interventions", "capacity", "scheduling"])
def test_trained_networks(domain):
    for n_arms, budget in ((20, 5), (40, 10)):
        env = make_bandit(domain, n_arms, budget, seed=0)
        space = env.action_space_block()
        network = mr.to_network(NETWORKS / f"{domain}-J{n_arms}-16-32.onnx")
        state = env.informative_states(np.random.default_rng(0), 4)[3].astype(float)
        result = mr.ArgmaxSolver(network, space).solve(state, proof=True)
        verdict = check(network, space, state, result.proof)
        assert verdict.verified, verdict.step
        assert result.proof.value == pytest.approx(result.value, abs=1e-9)
        assert result.proof.bound - result.proof.value <= 2 * result.tolerance
        assert len(result.proof.to_bytes()) < 100_000
        if n_arms == 20 and domain == "multiple_interventions":
            assert check(network, space, state, result.proof, exact=True).verified


@pytest.mark.parametrize("name", SPACES)
def test_linear_maxima_under_any_multipliers(name, monkeypatch):
    space, rng = SPACES[name], np.random.default_rng(0)
    rows, actions = rows_of(space), space.enumerate()
    c = rng.normal(size=(5, 4, space.n_actions))
    held = actions[rng.integers(len(actions), size=5)]
    mask = rng.random(held.shape) < 0.4
    one, zero = mask & (held == 1), mask & (held == 0)
    columns = rows.columns(one, zero)
    arithmetic = Rounded()
    assert not rows.contradicted(*columns, arithmetic).any()
    within = (~mask[:, None] | (actions[None] == held[:, None])).all(axis=2)
    true = np.where(within[:, None], c @ actions.T, -np.inf).max(axis=2)
    found = rows.maxima(c, *columns, arithmetic)
    assert (found >= true).all()
    exact = rows.maxima(Exact().of(c), *columns, Exact())
    assert np.allclose(exact.astype(float), found)
    assert (exact <= found).all()
    if name in ("top k", "exactly k"):
        assert np.allclose(found, true)

    def any_multipliers(self, c, low, high):
        y = rng.normal(size=(*c.shape[:-1], len(self.matrix)))
        y = np.where(np.isfinite(self.high), y, np.minimum(y, 0.0))
        return np.where(np.isfinite(self.low), y, np.maximum(y, 0.0))

    monkeypatch.setattr(Rows, "multipliers", any_multipliers)
    assert (rows.maxima(c, *columns, arithmetic) >= true).all()


def test_rounded_arithmetic_encloses_the_exact():
    rng, rounded, exact = np.random.default_rng(0), Rounded(), Exact()
    a = rng.normal(size=(4, 30)) * 10.0 ** rng.integers(-12, 12, size=(4, 30))
    a[:, 1::2] = -a[:, ::2] * (1 + rng.integers(-2, 3, size=(4, 15)) * 2.0**-52)
    ones = np.ones((30, 3))
    found, wrong = rounded.product(a, ones)
    true, _ = exact.product(exact.of(a), exact.of(ones))
    off = np.abs(exact.of(found) - true)
    assert (off <= exact.of(wrong)).all()
    assert (off > 0).any()
    assert (exact.of(rounded.up_sum(a)) >= exact.up_sum(exact.of(a))).all()
    b = rng.normal(size=a.shape)
    assert (exact.of(rounded.up_times(a, b)) >= exact.of(a) * exact.of(b)).all()
    assert (exact.of(rounded.up(a, b, a)) >= exact.up(*map(exact.of, (a, b, a)))).all()
    third = np.array([Fraction(1, 3), Fraction(-1, 3)], dtype=object)
    assert (exact.of(float_above(third)) >= third).all()


def test_no_tolerance_hides_in_it():
    """In float64 the two best sum to 1.0; in truth they are above it."""
    small = mr.Network.from_arrays([[[1.0, 1e-17]]], [[0.0]])
    space = mr.BudgetTopK(2, 2)
    proof = mr.ArgmaxSolver(small, space).solve([], proof=True).proof
    assert Fraction(proof.bound) >= 1 + Fraction(1e-17)
    for exact in (False, True):
        assert check(small, space, [], proof, exact=exact).verified
        assert not check(small, space, [], replace(proof, bound=1.0), exact=exact).verified


HARD = mr.BudgetTopK(10, 4)
HARD_NETWORK = drawn(HARD, (10, 10), seed=3)


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
        reasons=proof.reasons[kept],
    )


def mutated(proof, network, rng):
    """A proof and a network that differ in something from a valid pair."""
    kind = rng.integers(12)
    splits, slopes = proof.splits.copy(), proof.slopes.copy()
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
        slopes, multipliers, reasons = slopes[keep], multipliers[keep], reasons[keep]
    elif kind == 3:
        return without_subtree(proof, rng), network
    elif kind == 4:  # another split
        splits[node] = rng.integers(-2, 31)
    elif kind == 5:  # the parts are exchanged, their leaves are not
        first = int(rng.integers(len(reasons)))
        second = int(rng.integers(len(reasons)))
        for array in (slopes, multipliers, reasons):
            array[[first, second]] = array[[second, first]]
    elif kind == 6:
        reasons[leaf] = rng.integers(-1, 4)
    elif kind == 7:
        return replace(proof, value=proof.value + size), network
    elif kind == 8:
        return replace(proof, bound=proof.bound - size), network
    elif kind == 9:
        action = proof.action.copy()
        action[rng.integers(len(action))] ^= 1
        return replace(proof, action=action), network
    elif kind == 10:
        return proof, changed_network(network, rng)
    else:  # with the hash that goes with it
        other = changed_network(network, rng)
        return replace(proof, network=network_hash(other)), other
    return replace(
        proof, splits=splits, slopes=slopes, multipliers=multipliers, reasons=reasons
    ), network


def count_mutations(n, seed):
    """Check n mutations; return how many were accepted, how many false, and the false accepted.

    Whether a claim is true is told by listing all actions and valuing the best one in rationals. A
    mutation that is accepted though its claim is true is a proof of it all the same.
    """
    rng, actions = np.random.default_rng(seed), HARD.enumerate()
    valid = mr.ArgmaxSolver(HARD_NETWORK, HARD).solve(STATE, proof=True).proof
    assert len(valid.reasons) >= 8
    assert (valid.splits >= 10).any()
    best = {}

    def exact_best(network):
        if id(network) not in best:
            values = network.at_state(STATE).forward(actions)[:, 0]
            value = exact_value(network, STATE, actions[np.argmax(values)])
            best[id(network)] = (network, value)
        return best[id(network)][1]

    accepted, false, wrong = 0, 0, []
    for _ in range(n):
        start = valid
        if rng.random() < 0.5:  # a false claim from the start, the mutation on top
            below = float(exact_best(HARD_NETWORK)) - 10.0 ** rng.uniform(-14, -2)
            start = replace(valid, bound=below)
        proof, network = mutated(start, HARD_NETWORK, rng)
        verdict = check(network, HARD, STATE, proof)
        true = exact_best(network) <= Fraction(proof.bound)
        true &= not HARD.violations(proof.action)
        true &= exact_value(network, STATE, proof.action) >= Fraction(proof.value)
        true &= proof.network == network_hash(network)
        accepted += verdict.verified
        false += not true
        if verdict.verified and not true:
            wrong.append(proof)
    return accepted, false, wrong


def test_no_mutation_makes_a_false_claim_pass():
    accepted, false, wrong = count_mutations(150, 0)
    assert not wrong
    assert false >= 90
    assert accepted >= 2


def test_each_step_that_fails_is_named():
    space, network = HARD, HARD_NETWORK
    proof = mr.ArgmaxSolver(network, space).solve(STATE, proof=True).proof

    def step(net=network, its_space=space, state=STATE, **parts):
        verdict = check(net, its_space, state, replace(proof, **parts))
        assert not verdict.verified
        assert str(verdict).startswith("REFUSED: ")
        return verdict.step

    assert "another hash" in step(net=drawn(space, (10, 10), seed=4))
    assert "feasible set is not" in step(its_space=mr.BudgetTopK(10, 3))
    assert "state is not" in step(state=[0.3, -1.1])
    assert "lower than its" in step(value=proof.value + 1e-9)
    assert "not feasible: 10 actions chosen" in step(action=np.ones(10, dtype=np.int8))
    assert "above the proof's" in step(bound=proof.value - 1e-9)
    assert "does not cover" in step(splits=proof.splits[:-1])
    assert "ended before" in step(splits=np.append(proof.splits, -1))
    twice = proof.splits.copy()
    twice[1] = twice[0]
    assert "cannot be divided" in step(splits=twice)
    assert "slope of leaf 0" in step(slopes=proof.slopes + 2)
    assert "multiplier of leaf 0" in step(multipliers=proof.multipliers + np.nan)
    assert "holds actions that are feasible" in step(reasons=np.full_like(proof.reasons, 2))
    assert "not seen to be empty" in step(reasons=np.full_like(proof.reasons, 1))


def test_leaves_cover_all():
    parts = leaves_of(np.array([0, -1, 3, -1, 1, -1, -1]), 2, 2)
    for point in itertools.product([False, True], repeat=4):
        held = np.array(point)
        one = np.concatenate([parts.one, parts.split > 0], axis=1)
        zero = np.concatenate([parts.zero, parts.split < 0], axis=1)
        assert ((~one | held) & (~zero | ~held)).all(axis=1).sum() == 1


def test_file(tmp_path):
    proof = mr.ArgmaxSolver(HARD_NETWORK, HARD).solve(STATE, proof=True).proof
    proof.save(tmp_path / "p.npz")
    again = Proof.load(tmp_path / "p.npz")
    assert check(HARD_NETWORK, HARD, STATE, again).verified
    assert again.its_space().to_dict() == HARD.to_dict()
    for name, value in vars(proof).items():
        assert np.array_equal(getattr(again, name), value), name
    (tmp_path / "cut.npz").write_bytes(proof.to_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut\.npz is no proof"):
        Proof.load(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", format=np.array("milp-rl proof 0"))
    with pytest.raises(ValueError, match="its format is milp-rl proof 0"):
        Proof.load(tmp_path / "other.npz")


def test_what_there_are_no_proofs_of():
    network = drawn(HARD)
    solver = mr.ArgmaxSolver(network, HARD)
    with pytest.raises(ValueError, match="put the masks into the space"):
        solver.solve(STATE, proof=True, available=np.ones(10, dtype=bool))
    box = mr.Box([0.0] * 10, [1.0] * 10)
    with pytest.raises(ValueError, match="binary actions"):
        mr.ArgmaxSolver(network, box, time_limit=5.0, gap=0.5).solve(STATE, proof=True)
    with pytest.raises(NotProvenError, match="the time ended"):
        solver.prove(STATE, solver.solve(STATE), time_limit=1e-9)
    low = replace(solver.solve(STATE), value=0.0, bound=0.0)
    with pytest.raises(NotProvenError, match="above the"):
        solver.prove(STATE, low)


def test_commands(tmp_path, capfd):
    q, other = (NETWORKS / f"{domain}-J20-16-32.onnx" for domain in ("capacity", "scheduling"))
    file = tmp_path / "space.json"
    mr.BudgetTopK(20, 3).to_json(file)
    mr.BudgetTopK(20, 4).to_json(tmp_path / "larger.json")
    np.savetxt(tmp_path / "states.csv", np.arange(40).reshape(2, 20) % 4, delimiter=",")
    folder = tmp_path / "proofs"
    commands.argmax(q, file, tmp_path / "states.csv", minimize=True, proof=folder)
    proofs = [folder / "state-0.npz", folder / "state-1.npz"]
    capfd.readouterr()
    commands.check(proofs, q, exact=True)
    commands.check(proofs, q, space=file)
    assert capfd.readouterr().out.count("VERIFIED: no feasible action is better than") == 4
    for network, its_space, reason in (
        (other, file, "another hash"),
        (q, tmp_path / "larger.json", "the feasible set is not"),
    ):
        with pytest.raises(typer.Exit) as stop:
            commands.check(proofs, network, space=its_space)
        assert stop.value.exit_code == 3
        assert capfd.readouterr().out.count(reason) == 2
    with pytest.raises(typer.Exit) as stop:
        commands.check([file], q)
    assert stop.value.exit_code == 1


def test_cancellation_is_allowed_for():
    """Actions cancel in each neuron, and the neurons in the output: most of it is rounding."""
    rng, space = np.random.default_rng(0), mr.BudgetTopK(6, 6)
    for _ in range(30):
        first = rng.random((1, 3)) * (1 + 1e-9 * rng.random((2, 3)))
        first = np.concatenate([first, -first * (1 - 1e-9 * rng.random((2, 3)))], axis=1)
        network = mr.Network.from_arrays(
            [first, 1e8 * (1 + rng.random((1, 1))) * np.array([[1.0, -1.0]])], [[0, 0], [0]]
        )
        action = np.ones(6, dtype=np.int8)
        value = exact_value(network, [], action)
        least, most = (
            sign * Checker(network, space, np.zeros(0), sign, Rounded()).least_value(action)
            for sign in (1.0, -1.0)
        )
        assert Fraction(least) <= value <= Fraction(most)
