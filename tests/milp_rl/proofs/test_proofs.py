"""Proofs: those of true claims are verified, and no mutation of one makes a false claim pass."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import networkx as nx
import numpy as np
import pyomo.environ as pyo
import pytest
import torch
import typer

import milp_rl as mr
from milp_rl.cli import commands
from milp_rl.envs import make_bandit
from milp_rl.proofs import Proof, check
from milp_rl.proofs.arithmetic import Exact, Rounded, float_above
from milp_rl.proofs.check import Checker, leaves_of
from milp_rl.proofs.rows import Rows
from milp_rl.proofs.sets import rows_of
from milp_rl.proofs.tree import NotProvenError
from tests.milp_rl.test_what_if import SPACES as BLOCKS


class Implied(mr.ActionSpace):
    """A block of a user's own: what is chosen is allowed by an auxiliary variable."""

    n_actions = 4

    def constrain(self, block, actions):
        block.z = pyo.Var(bounds=(0, 1))
        block.chain = pyo.Constraint(expr=actions[0] + actions[1] <= 2 * block.z)
        block.end = pyo.Constraint(expr=block.z <= actions[2])

    def violations(self, action):
        a = self.check_action(action)
        return ["0 or 1 without 2"] if max(a[0], a[1]) > a[2] else []

    def to_dict(self):
        return {"type": "Implied"}


class Unbounded(Implied):
    """The same, written with an auxiliary variable that has no bounds."""

    def constrain(self, block, actions):
        super().constrain(block, actions)
        block.z.setub(None)


NETWORKS = Path(__file__).parents[3] / "benchmarks" / "networks"
STATE = np.array([0.3, -1.0])
SPACES = BLOCKS | {
    "capacity of parts": mr.Capacity([0.3, 0.3, 0.45, 0.2, 0.9, 0.3], [0.9, 0.4]),
    "budget of parts": mr.BudgetTopK(7, 7, costs=[1, 2, 3, 1.5, 2, 3, 2], budget=5.5),
    "product": mr.BudgetTopK(4, 2) * mr.Capacity([2, 3, 1], [3]),
    "union": mr.BudgetTopK(6, 1) | mr.Capacity([2, 3, 4, 2, 5, 3], [5, 4]),
    "a user's": Implied() & mr.BudgetTopK(4, 2),
    "route in slots": mr.Routing(nx.cycle_graph(6), 0, max_length=6)
    & mr.Scheduling([[1, 0, 1], [0, 1, 0]], np.tile(np.eye(3), (2, 1))),
    "routes": mr.Routing(nx.cycle_graph(4), 0, max_length=4)
    * mr.Scheduling([[1, 1]], [[1, 0], [1, 1], [0, 1]]),
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
    n = space.n_actions
    columns = tuple(np.tile(side, (5, 1)) for side in (rows.column_low, rows.column_high))
    columns[0][:, :n][one], columns[1][:, :n][zero] = 1.0, 0.0
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
    assert "ended before" in step(splits=np.append(proof.splits, np.int32(-1)))
    twice = proof.splits.copy()
    twice[1] = twice[0]
    assert "cannot be divided" in step(splits=twice)
    assert "not every dual value" in step(duals=proof.duals + np.inf)
    assert "slope of leaf 0" in step(slopes=proof.slopes + 2)
    assert "multiplier of leaf 0" in step(multipliers=proof.multipliers + np.nan)
    assert "holds actions that are feasible" in step(reasons=np.full_like(proof.reasons, 2))
    assert "not seen to be empty" in step(reasons=np.full_like(proof.reasons, 1))


def test_leaves_cover_all():
    """Columns: binary, whole between -3 and 4, a number; two neurons."""
    none, rng = np.zeros(0), np.random.default_rng(0)
    low, high = np.array([0.0, -3.0, -0.7]), np.array([1.0, 4.0, 0.1])
    rows = Rows(np.zeros((0, 3)), none, none, low, high, np.array([True, True, False]))
    for _ in range(20):
        splits, open_ = [], 1
        while open_:
            splits.append(int(rng.integers(-1, 5)) if len(splits) < 40 else -1)
            open_ += 1 if splits[-1] >= 0 else -1
        try:
            parts = leaves_of(np.array(splits), rows, 2)
        except ValueError:
            continue
        for _ in range(50):
            x = np.array([rng.integers(0, 2), rng.integers(-3, 5), rng.uniform(-0.7, 0.1)])
            z = rng.choice([-1.0, 1.0], 2)
            inside = ((parts.low <= x) & (x <= parts.high)).all(axis=1)
            inside &= (parts.split * z >= 0).all(axis=1)
            assert inside.sum() == 1


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
    own = mr.ArgmaxSolver(drawn(Unbounded()), Unbounded())
    with pytest.raises(ValueError, match="needs bounds of all variables that Unbounded writes"):
        own.solve(STATE, proof=True)
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
    with pytest.raises(ValueError, match=r"space\.json is no proof"):
        commands.check([file], q)


@pytest.mark.parametrize("solver", ["enumeration", "branch_and_bound"])
def test_a_value_below_what_rounding_tells_is_proven_with_the_bound_that_is_reached(solver):
    w, v, b, c = np.random.default_rng(0).normal(size=4)
    network = mr.Network.from_arrays([[[w]], [[v]]], [[b / 2], [c / 2]])
    space = mr.BudgetTopK(1, 1, exactly=True)
    solve = mr.ArgmaxSolver(network, space, solver=solver).solve
    proof = solve([], proof=True).proof
    assert check(network, space, [], proof).verified
    value = exact_value(network, [], np.ones(1))
    assert Fraction(proof.value) <= value <= Fraction(proof.bound)
    assert proof.bound - proof.value < 1e-14


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
