"""State-action weights, linear Q and bounds, against dynamic programming and simulated truths."""

from dataclasses import replace

import numpy as np
import pytest

from milp_rl.evaluation.bounds import high_confidence_bounds, lower_bound
from milp_rl.evaluation.marginalised import bootstrapped_fqe, linear_models
from milp_rl.evaluation.ope import LoggedDecisions, estimate

BEHAVIOUR, TARGET = np.array([[0.6, 0.4], [0.5, 0.5]]), np.array([[0.3, 0.7], [0.8, 0.2]])
REWARD, STAY = np.array([[0.0, 1.0], [2.0, 0.5]]), np.array([[0.9, 0.4], [0.3, 0.7]])
STEPS, DISCOUNT = 6, 0.9


def chain(n, seed=0):
    """Log trajectories of two states and two actions, that end early in one case of ten."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        s = 0
        for t in range(STEPS):
            a = int(rng.random() < BEHAVIOUR[s, 1])
            rows.append((i, t, s, a, REWARD[s, a] + 0.1 * rng.normal()))
            if rng.random() < 0.1:
                break
            s = s if rng.random() < STAY[s, a] else 1 - s
    who, t, s, a, r = (np.array(c) for c in zip(*rows, strict=True))
    cell = np.eye(2 * STEPS)[2 * t + s]
    logged = LoggedDecisions(np.column_stack([t, s]), a, r, BEHAVIOUR[s, a], TARGET[s], who, t)
    return logged, cell


def exact():
    """Return the true Q by step, state and action, and how often target and behaviour are there."""
    q, value = np.zeros((STEPS, 2, 2)), np.zeros(2)
    for t in range(STEPS)[::-1]:
        following = STAY * value[:, None] + (1 - STAY) * value[::-1][:, None]
        q[t] = REWARD + (0.9 * DISCOUNT * following if t < STEPS - 1 else 0.0)
        value = (TARGET * q[t]).sum(axis=1)
    visits = []
    for policy, discount in ((TARGET, DISCOUNT), (BEHAVIOUR, 1.0)):
        d, found = np.array([1.0, 0.0]), np.zeros((STEPS, 2, 2))
        for t in range(STEPS):
            found[t] = discount**t * d[:, None] * policy
            moved = d[:, None] * policy
            d = 0.9 * ((moved * STAY).sum(axis=1) + (moved * (1 - STAY)).sum(axis=1)[::-1])
        visits.append(found)
    return q, visits[0] / np.where(visits[1] > 0, visits[1], 1.0), float(value[0])


def test_linear_models_are_those_of_dynamic_programming():
    logged, cell = chain(6000)
    q, weights, truth = exact()
    found = linear_models(logged, cell, discount=DISCOUNT)
    t, s = logged.contexts.astype(int).T
    np.testing.assert_allclose(found.q, q[t, s], atol=0.15)
    np.testing.assert_allclose(found.weights, weights[t, s, logged.actions], rtol=0.15, atol=0.08)
    options = {"q": found.q, "weights": found.weights, "discount": DISCOUNT, "n_bootstraps": 100}
    for name in ("mis", "drl", "fqe"):
        assert estimate(logged, name, **options).value == pytest.approx(truth, rel=0.02)
    # The doubly robust one is right if either model is.
    wrong_q = estimate(logged, "drl", **options | {"q": np.zeros_like(found.q)})
    wrong_w = estimate(logged, "drl", **options | {"weights": np.ones(len(logged))})
    assert wrong_q.value == pytest.approx(truth, rel=0.02)
    assert wrong_w.value == pytest.approx(truth, rel=0.05)


def test_marginal_estimates_are_those_of_the_formulas():
    logged, _ = chain(40)
    rng = np.random.default_rng(1)
    q, w = rng.normal(size=logged.target.shape), rng.random(len(logged))
    rows = {i: np.flatnonzero(logged.trajectory == i) for i in range(40)}
    plain = doubly = 0.0
    for own in rows.values():
        doubly += logged.target[own[0]] @ q[own[0]] / 40
        for k, i in enumerate(own):
            ahead = logged.target[own[k + 1]] @ q[own[k + 1]] if k + 1 < len(own) else 0.0
            plain += w[i] * logged.rewards[i] / 40
            error = logged.rewards[i] + 0.8 * ahead - q[i, logged.actions[i]]
            doubly += w[i] * error / 40
    order = rng.permutation(len(logged))
    moved = logged.rows(order)
    options = {"q": q[order], "weights": w[order], "discount": 0.8, "n_bootstraps": 50}
    assert estimate(moved, "mis", **options).value == pytest.approx(plain)
    assert estimate(moved, "drl", **options).value == pytest.approx(doubly)


def test_the_order_of_rows_plays_no_part():
    logged, cell = chain(60)
    order = np.random.default_rng(2).permutation(len(logged))
    one, two = linear_models(logged, cell), linear_models(logged.rows(order), cell[order])
    np.testing.assert_allclose(two.q, one.q[order])
    np.testing.assert_allclose(two.weights, one.weights[order])
    a, b = bootstrapped_fqe(logged, cell), bootstrapped_fqe(logged.rows(order), cell[order])
    assert a.low == pytest.approx(b.low)


def test_units_of_features_play_no_part():
    logged, cell = chain(80)
    units = np.geomspace(1e-4, 1e3, cell.shape[1])
    one, two = (linear_models(logged, x, discount=DISCOUNT) for x in (cell, cell * units))
    np.testing.assert_allclose(two.q, one.q, atol=1e-7)
    np.testing.assert_allclose(two.weights, one.weights, atol=1e-7)


def test_cells_that_few_decisions_are_in_are_not_taken_for_zero():
    # 200 cells that 1 in 200 of the decisions is in each: fitted Q is their mean reward.
    n, cells = 4000, 200
    rng = np.random.default_rng(0)
    cell = rng.permutation(np.arange(n) % cells)
    worth = 5.0 + rng.normal(size=cells)
    action = rng.integers(2, size=n)
    half = np.full(n, 0.5)
    logged = LoggedDecisions(
        cell[:, None], action, worth[cell], half, np.full((n, 2), 0.5), np.arange(n), np.zeros(n)
    )
    found = bootstrapped_fqe(logged, np.eye(cells)[cell], discount=1.0, n_bootstraps=20)
    assert found.value == pytest.approx(worth.mean(), rel=2e-3)
    assert found.low < worth.mean() < found.high
    models = linear_models(logged, np.eye(cells)[cell], discount=1.0)
    np.testing.assert_allclose(models.q, np.tile(worth[cell][:, None], 2), rtol=0.01)


def test_what_a_fold_lacks_has_no_weight_there_rather_than_an_enormous_one():
    logged, cell = chain(60)
    rare = np.zeros(len(logged))
    rare[np.flatnonzero(logged.step == 0)[7]] = 1.0  # seen once: in no other fold
    found = linear_models(logged, np.column_stack([cell, rare]), discount=DISCOUNT)
    plain = linear_models(logged, cell, discount=DISCOUNT)
    assert np.abs(found.weights).max() < 2 * np.abs(plain.weights).max()
    assert np.abs(found.q).max() < 2 * np.abs(plain.q).max()


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth, held = exact()[2], {"fqe": 0, "drl": 0, "bounds": 0}
    for seed in range(25):
        logged, cell = chain(150, seed)
        found = linear_models(logged, cell, discount=DISCOUNT)
        options = {"q": found.q, "weights": found.weights, "n_bootstraps": 200}
        for name, one in (
            ("fqe", bootstrapped_fqe(logged, cell, discount=DISCOUNT, n_bootstraps=60)),
            ("drl", estimate(logged, "drl", discount=DISCOUNT, **options)),
            ("bounds", high_confidence_bounds(logged, (-3.0, 13.0), discount=DISCOUNT)),
        ):
            held[name] += one.low <= truth <= one.high
    assert min(held.values()) >= 21
    assert held["bounds"] == 25


def test_a_lower_bound_is_that_of_maurer_and_pontil():
    x = np.array([0.2, 5.0, 0.4, 1.0])
    cut = [0.2, 2.0, 0.4, 1.0]
    pairs = sum((a - b) ** 2 for a in cut for b in cut) / (2 * 4 * 3)
    log = np.log(2 / 0.1)
    expected = 0.9 - np.sqrt(2 * pairs * log / 4) - 7 * 2.0 * log / (3 * 3)
    assert lower_bound(x, 2.0, 0.1) == pytest.approx(expected)
    expected = 0.9 - np.sqrt(2 * pairs * log / 50) - 7 * 2.0 * log / (3 * 49)
    assert lower_bound(x, 2.0, 0.1, n=50) == pytest.approx(expected)


def test_bounds_tighten_with_more_data_and_know_the_behaviours_own_value():
    widths = []
    for n in (200, 3000):
        logged, _ = chain(n)
        logged = replace(logged, target=BEHAVIOUR[logged.contexts[:, 1].astype(int)])
        step = logged.step
        value = (logged.rewards * DISCOUNT**step).sum() / n
        found = high_confidence_bounds(logged, (-1.0, 9.0), discount=DISCOUNT)
        assert found.low < value < found.high
        assert found.value == pytest.approx(value)
        widths.append(found.high - found.low)
    assert widths[1] < 0.5 * widths[0] < 5.0


def test_what_does_not_fit_is_refused():
    logged, cell = chain(50)
    with pytest.raises(ValueError, match=r"'drl' needs finite weights of shape .* got None"):
        estimate(logged, "drl", q=np.zeros((len(logged), 2)))
    with pytest.raises(ValueError, match="state_features must be finite"):
        linear_models(logged, cell[:-1])
    with pytest.raises(ValueError, match="positive ridge"):
        linear_models(logged, cell, ridge=0.0)
    with pytest.raises(ValueError, match=r"has the return .*, not in \[0, 1\]"):
        high_confidence_bounds(logged, (0.0, 1.0))
    with pytest.raises(ValueError, match="at least 40 trajectories, got 10"):
        high_confidence_bounds(logged.rows(logged.trajectory < 10), (-1.0, 9.0))
