"""Allocation to many: the path that large populations take, on small ones and at full size."""

import resource
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, sparse

from milp_rl.offline import allocation, prices
from milp_rl.offline.allocation import InfeasibleAllocationError, Limit, allocate, parity_limits
from milp_rl.offline.allocation_problem import AllocationProblem

sys.path.append(str(Path(__file__).parents[3]))

from benchmarks.allocation import population


def program(q, limits):
    """The constraints of the allocation program, written out once more for scipy."""
    n, n_actions = q.shape
    rows = [
        np.outer(
            np.ones(n) if limit.patient_factor is None else limit.patient_factor, limit.use
        ).ravel()
        for limit in limits
    ]
    one = sparse.csr_array(sparse.kron(sparse.eye_array(n), np.ones((1, n_actions))))
    return one, np.array(rows), np.array([limit.most for limit in limits])


def best_value(q, limits, *, integer=True):
    """The optimum by HiGHS through scipy, None if there is none."""
    one, rows, most = program(q, limits)
    there = np.isfinite(q).ravel()
    result = optimize.milp(
        -np.where(there, q.ravel(), 0.0),
        constraints=[
            optimize.LinearConstraint(one, 1, 1),
            optimize.LinearConstraint(rows, -np.inf, most),
        ],
        bounds=optimize.Bounds(0, there.astype(float)),
        integrality=int(integer),
        options={"mip_rel_gap": 0.0},
    )
    return None if result.x is None else -result.fun


def random_problem(rng):
    """Few patients and limits of all kinds: at most, at least, exactly, with factors, parity."""
    n, n_actions = int(rng.integers(2, 13)), int(rng.integers(2, 6))
    q = rng.normal(size=(n, n_actions)) * 10 ** rng.uniform(-4, 4)
    if rng.random() < 0.3:
        q = np.round(rng.normal(size=q.shape))  # ties
    q[rng.random(q.shape) < 0.1] = -np.inf
    q[:, 0] = np.where(np.isfinite(q[:, 0]), q[:, 0], 0.0)
    some = np.where(np.isfinite(q), rng.random(q.shape), -1.0).argmax(axis=1)
    limits = []
    for k in range(int(rng.integers(1, 4))):
        use, factor = rng.random(n_actions), rng.gamma(1.0, 1.0, n)
        kind = rng.choice(["most", "least", "exactly", "less"])
        if kind == "exactly" or rng.random() < 0.5:
            use, factor = (use < 0.5).astype(float), None
        used = float(((1.0 if factor is None else factor) * use[some]).sum())
        if kind in ("most", "exactly", "less"):
            limits.append(Limit(f"{k}", use, used * (0.7 if kind == "less" else 1.0), factor))
        if kind in ("least", "exactly"):
            limits.append(Limit(f"{k} at least", -use, -used, factor))
    if rng.random() < 0.4:
        level = rng.random(n_actions) < 0.5
        limits += parity_limits("parity", level, rng.integers(0, 3, n), 0.3)
    return q, limits


def kept(limits, actions):
    """Whether all limits are kept, by sums over patients one by one."""
    for limit in limits:
        factor = np.ones(len(actions)) if limit.patient_factor is None else limit.patient_factor
        if (factor * limit.use[actions]).sum() > limit.most + 1e-7 * (1 + abs(limit.most)):
            return False
    return True


@pytest.mark.parametrize("few", [True, False])
def test_allocations_are_those_of_highs(few, monkeypatch):
    if few:  # small problems take the path of large ones
        monkeypatch.setattr(allocation, "_CHOICES", 12)
        monkeypatch.setattr(allocation, "_PATIENTS", 2)
        monkeypatch.setattr(allocation, "_NODES", 1)
    feasible = 0
    for seed in range(100):
        q, limits = random_problem(np.random.default_rng([seed, few]))
        wanted = best_value(q, limits)
        if wanted is None:
            with pytest.raises(InfeasibleAllocationError):
                allocate(q, limits, gap=0.0)
            continue
        feasible += 1
        found = allocate(q, limits, gap=0.0)
        assert kept(limits, found.actions), seed
        assert found.value == pytest.approx(wanted, rel=1e-6, abs=1e-9), seed
        assert found.value <= found.bound <= found.value + 1e-6 * abs(wanted) + 1e-9, seed
    assert feasible > 70


def test_two_hundred_thousand_keep_twenty_limits():
    q, limits = population(200_000, 0)
    assert len(limits) == 20
    found = allocate(q, limits)
    assert kept(limits, found.actions)
    assert found.value == pytest.approx(q[np.arange(len(q)), found.actions].sum())
    assert found.gap <= 1e-3


def test_many_alike_are_worth_what_the_relaxation_of_few_says():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(200, 5))
    limits = [
        Limit("a", rng.random(5), 60.0),
        Limit("b", -rng.random(5), -45.0, rng.random(200)),
        Limit("at most", np.eye(5)[2], 40.0),
        Limit("at least", -np.eye(5)[2], -40.0),
    ]
    each = best_value(q, limits, integer=False)
    times = 400
    many = [
        Limit(
            limit.name,
            limit.use,
            limit.most * times,
            None if limit.patient_factor is None else np.tile(limit.patient_factor, times),
        )
        for limit in limits
    ]
    found = allocate(np.tile(q, (times, 1)), many, gap=1e-5)
    assert kept(many, found.actions)
    assert (found.actions == 2).sum() == 40 * times
    assert found.bound == pytest.approx(each * times, rel=1e-5)
    assert found.bound >= each * times * (1 - 1e-9)
    assert found.gap <= 1e-5


def test_all_alike_share_what_there_is():
    n = 60_001
    q = np.tile([0.0, 1.0, 2.0], (n, 1))
    found = allocate(q, [Limit("best", np.eye(3)[2], 20_000.0), Limit("any", [0, 1, 1], 30_000.0)])
    assert np.bincount(found.actions).tolist() == [30_001, 10_000, 20_000]


def test_impossible_limits_of_many_are_named():
    q = np.random.default_rng(0).normal(size=(12_000, 3))
    limits = [
        Limit("nurses", np.array([0, 1.0, 1.0]), 5_000.0),
        Limit("visits", np.array([0, -1.0, -1.0]), -5_500.0),
    ]
    with pytest.raises(InfeasibleAllocationError, match=r"'(nurses|visits)' by 500"):
        allocate(q, limits)


def test_a_bound_holds_in_exact_arithmetic():
    rng = np.random.default_rng(0)
    for _ in range(20):
        q = rng.normal(size=(7, 3)) * 10.0 ** rng.integers(-3, 4, size=(7, 3))
        limits = [
            Limit("a", rng.random(3), 1.3),
            Limit("b", rng.normal(size=3), 0.1, rng.normal(size=7)),
        ]
        at = rng.random(2) * 10
        exact = sum(Fraction(x) * Fraction(limit.most) for x, limit in zip(at, limits, strict=True))
        for i in range(7):
            exact += max(
                Fraction(q[i, a])
                - Fraction(at[0]) * Fraction(limits[0].use[a])
                - Fraction(at[1])
                * Fraction(limits[1].patient_factor[i])
                * Fraction(limits[1].use[a])
                for a in range(3)
            )
        bound = AllocationProblem.checked(q, limits, optional=False).bound(at)
        assert exact <= Fraction(bound) <= exact + Fraction(1, 10**9)


@pytest.mark.parametrize("weighted", [False, True])
def test_derivatives_of_the_smoothed_dual_are_its_differences(weighted):
    q, limits = population(500, 0)
    p = AllocationProblem.checked(q, limits, optional=True)
    if weighted:
        p = p.sample(np.arange(0, 500, 3), np.random.default_rng(1).random(167))
    at = np.random.default_rng(0).random(20)
    here = prices._smoothed(p, at, 0.1, curved=True)
    for r in (0, 5, 8, 19):
        step = np.zeros(20)
        step[r] = 1e-5
        up, down = (prices._smoothed(p, at + s * step, 0.1, curved=True) for s in (1, -1))
        assert here.gradient[r] == pytest.approx((up.value - down.value) / 2e-5, rel=1e-5, abs=1e-5)
        difference = (up.gradient - down.gradient) / 2e-5
        np.testing.assert_allclose(here.hessian[r], difference, rtol=1e-4, atol=1e-4)


def test_a_sample_stands_for_everyone_and_misses_no_small_group():
    q, limits = population(100_000, 0)
    p = AllocationProblem.checked(q, limits, optional=False)
    sample = prices._sample(p, prices._SAMPLE)
    assert len(sample.q) < len(q) / 2
    assert sample.weight.sum() == pytest.approx(len(q), rel=0.01)
    for of, factor in zip(sample.factors, p.factors, strict=True):
        if factor is not None:
            inside, all_inside = np.maximum(of, 0.0), np.maximum(factor, 0.0).sum()
            assert sample.weight @ inside == pytest.approx(all_inside, rel=0.1)


def test_time_runs_out_but_not_for_what_is_quick():
    limit = Limit("a", np.array([0.0, 2.0]), 3.0)
    q = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.5]])
    assert allocate(q, [limit], time_limit=1e-9).value == 1.5
    # A group of five cannot have the share that the others want: not even near it.
    rng = np.random.default_rng(0)
    groups = np.where(np.arange(8_000) < 5, "few", "many")
    level = np.array([0, 0, 1, 1])
    limits = [Limit("beds", level.astype(float), 1_000.0)]
    with pytest.raises(TimeoutError, match="within time_limit"):
        allocate(
            rng.normal(size=(8_000, 4)),
            limits + parity_limits("beds", level, groups, 0.01),
            time_limit=1e-9,
        )


@pytest.mark.slow
def test_two_million_keep_twenty_limits():
    q, limits = population(2_200_000, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = allocate(q, limits)
    assert kept(limits, found.actions)
    assert found.gap <= 1e-3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2e6  # kilobytes


def test_limits_that_contradict_each_other_are_named_at_once(monkeypatch):
    monkeypatch.setattr(allocation, "relax", None)  # the program of all choices takes minutes
    n = 200_000
    q = np.random.default_rng(0).random((n, 6))
    second, group = np.eye(6)[1], np.arange(n) % 4 == 0
    pairs = [
        ([Limit("at most", second, 1000.0), Limit("at least", -second, -2000.0)], 1000.0),
        ([Limit("all", np.ones(6), n - 5.0)], 5.0),
        (
            [
                Limit("group", second, 1000.0, group.astype(float)),
                Limit("of the group", -second, -1500.0, group.astype(float)),
                Limit("others", second, 9e9),
            ],
            500.0,
        ),
    ]
    for limits, by in pairs:
        with pytest.raises(InfeasibleAllocationError) as caught:
            allocate(q, limits, time_limit=20.0)
        message = str(caught.value)
        assert f"by {by:.3g}" in message
        for limit in limits:
            assert (repr(limit.name) in message) == (limit.name != "others")
