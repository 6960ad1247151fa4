from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from milp_rl.envs.care_management import CareManagement
from milp_rl.evaluation.ope import (
    ESTIMATORS,
    LoggedDecisions,
    compare,
    estimate,
    estimator_name,
    fitted_q,
    outcome_model,
    propensity_model,
)
from milp_rl.offline import generate_care_management

QUICK = {"n_bootstraps": 200}


def bandit(n, seed=0):
    """One decision a patient; returns the decisions, the true Q and the target's true value."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 1))
    behaviour = np.concatenate([0.2 + 0.5 * x, 0.5 - 0.4 * x, 0.3 - 0.1 * x], axis=1)
    actions = (behaviour.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    q = np.concatenate([x, 1 - x, 0.5 + 0 * x], axis=1)
    rewards = q[np.arange(n), actions] + 0.3 * rng.normal(size=n)
    target = np.concatenate([0.7 - 0.5 * x, 0.1 + 0.5 * x, 0.2 + 0 * x], axis=1)
    propensities = behaviour[np.arange(n), actions]
    logged = LoggedDecisions(x, actions, rewards, propensities, target, np.arange(n))
    # E[(0.7 - 0.5 x) x + (0.1 + 0.5 x)(1 - x) + 0.1] with x uniform
    return logged, q, (0.35 - 0.5 / 3) + (0.1 + 0.2 - 0.5 / 3) + 0.1


def chain(n, steps, seed=0):
    """Two states, two actions, three steps or more: returns decisions, Q and the true value."""
    rng = np.random.default_rng(seed)
    behaviour, target = np.array([[0.6, 0.4], [0.5, 0.5]]), np.array([[0.3, 0.7], [0.8, 0.2]])
    reward, stay = np.array([[0.0, 1.0], [2.0, 0.5]]), np.array([[0.9, 0.4], [0.3, 0.7]])
    state = np.zeros(n, dtype=int)
    rows = []
    for _ in range(steps):
        action = (rng.random(n) < behaviour[state, 1]).astype(int)
        rows.append((state, action, reward[state, action] + 0.1 * rng.normal(size=n)))
        state = np.where(rng.random(n) < stay[state, action], state, 1 - state)
    states, actions, rewards = (np.stack(c, axis=1) for c in zip(*rows, strict=True))
    values, q = np.zeros(2), []
    for _ in range(steps):
        now = reward + 0.9 * (stay * values[:, None] + (1 - stay) * values[::-1][:, None])
        q.append(now)
        values = (target * now).sum(axis=1)
    table = np.stack(q[::-1])  # by step
    step = np.tile(np.arange(steps), n)
    s, a = states.ravel(), actions.ravel()
    logged = LoggedDecisions(
        np.eye(2)[s], a, rewards.ravel(), behaviour[s, a], target[s], np.repeat(np.arange(n), steps)
    )
    return logged, table[step, s], float(values[0])


@pytest.mark.parametrize("name", ["dm", "is", "snips", "dr", "wdr"])
def test_estimators_per_decision_find_the_truth(name):
    logged, q, truth = bandit(40_000)
    found = estimate(logged, name, q=q, **QUICK)
    assert found.value == pytest.approx(truth, abs=0.01)
    assert found.low < truth < found.high or name == "dm"
    assert found.low < found.value < found.high


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n.startswith("traj") or "pdis" in n])
def test_estimators_per_trajectory_find_the_truth(name):
    logged, q, truth = chain(20_000, 4, seed=1)
    found = estimate(logged, name, q=q, discount=0.9, **QUICK)
    assert found.value == pytest.approx(truth, rel=0.03)
    assert found.low - 0.02 < truth < found.high + 0.02


def by_recursion(logged, q, discount):
    """Doubly robust values of trajectories from their last step backward (Jiang and Li, eq. 10)."""
    rho = logged.ratios()
    values = []
    for patient in np.unique(logged.trajectory):
        value = 0.0
        for i in np.flatnonzero(logged.trajectory == patient)[::-1]:
            error = logged.rewards[i] + discount * value - q[i, logged.actions[i]]
            value = logged.target[i] @ q[i] + rho[i] * error
        values.append(value)
    return float(np.mean(values))


def by_shares(logged, q, discount):
    """Weighted doubly robust value (Thomas and Brunskill, eq. 9), with the shares of weights."""
    patients, rho, horizon = np.unique(logged.trajectory), logged.ratios(), 5
    weights = np.ones((len(patients), horizon + 1))  # after a trajectory's end they stay
    total = 0.0
    rows = {p: np.flatnonzero(logged.trajectory == p) for p in patients}
    for j, p in enumerate(patients):
        for t in range(horizon):
            factor = rho[rows[p][t]] if t < len(rows[p]) else 1.0
            weights[j, t + 1] = weights[j, t] * factor
    shares = weights / weights.sum(axis=0)
    for j, p in enumerate(patients):
        for t, i in enumerate(rows[p]):
            error = logged.rewards[i] - q[i, logged.actions[i]]
            now, before = shares[j, t + 1], shares[j, t]
            total += discount**t * (now * error + before * (logged.target[i] @ q[i]))
    return total


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_doubly_robust_values_of_trajectories_are_those_of_the_formulas(scale):
    logged, _, _ = uneven()
    q = scale * np.random.default_rng(4).normal(size=logged.target.shape)  # right nowhere
    found = estimate(logged, "trajectory_dr", q=q, discount=0.9, **QUICK).value
    assert found == pytest.approx(by_recursion(logged, q, 0.9))
    found = estimate(logged, "trajectory_wdr", q=q, discount=0.9, **QUICK).value
    assert found == pytest.approx(by_shares(logged, q, 0.9))


def by_loops(logged, q, discount):
    """Values of the other estimators, decision by decision, as their papers write them."""
    rho, rewards = logged.ratios(), logged.rewards
    rows = range(len(logged))
    modelled = [float(logged.target[i] @ q[i]) for i in rows]
    errors = [rho[i] * (rewards[i] - q[i, logged.actions[i]]) for i in rows]
    found = {
        "dm": sum(modelled) / len(logged),
        "is": sum(rho[i] * rewards[i] for i in rows) / len(logged),
        "snips": sum(rho[i] * rewards[i] for i in rows) / sum(rho),
        "dr": (sum(modelled) + sum(errors)) / len(logged),
        "wdr": sum(modelled) / len(logged) + sum(errors) / sum(rho),
    }
    whole, later, n = [], [], len(np.unique(logged.trajectory))
    for name in np.unique(logged.trajectory):
        weight, steps = 1.0, []
        for t, i in enumerate(np.flatnonzero(logged.trajectory == name)):
            weight *= rho[i]
            steps.append((weight, discount**t * rewards[i]))
        whole.append((weight, sum(r for _, r in steps)))
        later.append(steps)
    total, weights = sum(w * g for w, g in whole), sum(w for w, _ in whole)
    found |= {"trajectory_is": total / n, "trajectory_wis": total / weights}
    found["pdis"] = sum(w * r for steps in later for w, r in steps) / n
    found["wpdis"] = 0.0
    for t in range(max(map(len, later))):
        # A trajectory that has ended keeps its weight, and has no reward any more.
        share = sum(steps[min(t, len(steps) - 1)][0] for steps in later)
        found["wpdis"] += sum(s[t][0] * s[t][1] for s in later if t < len(s)) / share
    return found


def test_estimates_are_those_of_the_formulas():
    logged, _, _ = uneven()
    q = np.random.default_rng(4).normal(size=logged.target.shape)
    for name, value in by_loops(logged, q, 0.9).items():
        found = estimate(logged, name, q=q, discount=0.9, **QUICK)
        assert found.value == pytest.approx(value), name


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_a_mean_is_that_of_its_standard_error(level):
    logged, _, _ = bandit(400)
    weighted = logged.ratios() * logged.rewards
    error = weighted.std(ddof=1) / np.sqrt(400)
    found = estimate(logged, "is", level=level, n_bootstraps=4000)
    assert found.standard_error == pytest.approx(error, rel=0.04)
    assert found.high - found.low == pytest.approx(2 * norm.isf((1 - level) / 2) * error, rel=0.06)
    rho = logged.ratios()
    share = rho.sum() ** 2 / (rho**2).sum() / 400
    assert found.effective_sample_size == pytest.approx(share)


def test_a_target_that_never_does_what_was_done_is_worth_nothing_known():
    logged, q, _ = bandit(50)
    other = np.eye(3)[(logged.actions + 1) % 3]
    found = estimate(replace(logged, target=other), "snips", **QUICK)
    assert (found.value, found.low, found.high, found.effective_sample_size) == (0, 0, 0, 0)
    assert found.warning.startswith("effective sample 0% of 50")
    modelled = estimate(replace(logged, target=other), "wdr", q=q, **QUICK)
    assert modelled.value == pytest.approx((other * q).sum(axis=1).mean())


def test_doubly_robust_is_right_if_either_model_is_and_not_if_neither():
    logged, q, truth = bandit(40_000)
    wrong_q = np.zeros_like(q)
    wrong = replace(logged, propensities=np.full(len(logged), 1 / 3))
    assert estimate(logged, "dr", q=wrong_q, **QUICK).value == pytest.approx(truth, abs=0.01)
    assert estimate(wrong, "dr", q=q, **QUICK).value == pytest.approx(truth, abs=0.01)
    assert abs(estimate(wrong, "dr", q=wrong_q, **QUICK).value - truth) > 0.05


def test_models_are_learnt_from_the_data():
    logged, q, truth = bandit(6000)
    found = outcome_model(logged)
    assert np.abs(found - q).mean() < 0.06
    assert estimate(logged, "dr", q=found, **QUICK).value == pytest.approx(truth, abs=0.03)
    probabilities = propensity_model(logged.contexts, logged.actions, logged.trajectory)
    taken = probabilities[np.arange(len(logged)), logged.actions]
    assert np.abs(taken - logged.propensities).mean() < 0.03


def test_predictions_of_a_patient_come_from_a_model_without_it():
    logged, _, _ = bandit(200)
    before = outcome_model(logged, model=LinearRegression(), folds=4)
    rewards = logged.rewards.copy()
    rewards[7] += 100.0
    after = outcome_model(replace(logged, rewards=rewards), model=LinearRegression(), folds=4)
    changed = np.abs(after - before).max(axis=1) > 1e-9
    assert not changed[7]
    assert changed.sum() > 100


def test_fitted_q_is_the_return():
    logged, _, _ = chain(3000, 4)
    short = logged.rows(np.arange(len(logged)))
    found = fitted_q(short, discount=0.0, iterations=1)
    immediate = np.array([[0.0, 1.0], [2.0, 0.5]])[logged.contexts.argmax(axis=1)]
    np.testing.assert_allclose(found, immediate, atol=0.05)
    ahead = fitted_q(logged, discount=0.9, iterations=6)
    assert np.abs(ahead - immediate).mean() > 0.5


def test_effective_sample_sizes_of_long_trajectories_vanish():
    logged, q, _ = chain(2000, 50)
    table = compare(logged, ["dr", "trajectory_is"], q=q, **QUICK).set_index("estimator")
    assert table.loc["dr", "effective_sample_size"] > 0.5
    assert table.loc["trajectory_is", "effective_sample_size"] < 0.01


def test_truncation_bounds_the_ratios():
    logged, q, _ = bandit(2000)
    assert logged.ratios().max() > 1.5
    assert logged.ratios(1.5).max() == 1.5
    plain, cut = (estimate(logged, "dr", q=q, truncation=t, **QUICK) for t in (None, 1.0))
    assert cut.effective_sample_size > plain.effective_sample_size


def test_patients_are_resampled_together():
    logged, _, _ = bandit(500)
    repeated = LoggedDecisions(
        np.repeat(logged.contexts, 10, axis=0),
        np.repeat(logged.actions, 10),
        np.repeat(logged.rewards, 10),
        np.repeat(logged.propensities, 10),
        np.repeat(logged.target, 10, axis=0),
        np.repeat(logged.trajectory, 10),
    )
    one, ten = (estimate(d, "is") for d in (logged, repeated))
    assert ten.value == pytest.approx(one.value)
    assert ten.standard_error == pytest.approx(one.standard_error)  # not 3 times smaller


def test_trajectories_may_have_different_lengths():
    logged, q, _ = chain(300, 4)
    keep = np.ones(len(logged), dtype=bool)
    keep[3::8] = False  # every other patient lacks the last step
    part = logged.rows(keep)
    found = estimate(part, "trajectory_dr", q=q[keep], discount=0.9, **QUICK)
    assert np.isfinite(found.value)


# The order of rows ----------------------------------------------------------------------------


def uneven(n=60):
    """Trajectories of 1 to 5 steps, of patients with names, with and without their steps."""
    logged, q, _ = chain(n, 5)
    steps = np.tile(np.arange(5), n)
    keep = steps <= np.repeat(np.arange(n) % 5, 5)
    patients = np.array([f"p{17 * i % 101:03}" for i in range(n)]).repeat(5)
    contexts = np.column_stack([logged.contexts, np.random.default_rng(5).random(len(logged))])
    logged = replace(logged, contexts=contexts, trajectory=patients)
    return replace(logged, step=steps).rows(keep), logged.rows(keep), q[keep]


def interleaved(logged, rng):
    """An order that mixes patients but keeps the rows of each as they are."""
    mixed = logged.trajectory[rng.permutation(len(logged))]
    order = np.empty(len(logged), dtype=int)
    for patient in np.unique(mixed):
        order[mixed == patient] = np.flatnonzero(logged.trajectory == patient)
    return order


def orders(logged, rng):
    everything = rng.permutation(len(logged))
    return [everything] if logged.step is not None else [interleaved(logged, rng)]


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_the_order_of_rows_plays_no_part_in_any_estimate(name):
    rng = np.random.default_rng(0)
    stepped, plain, q = uneven()
    weights = rng.random(len(q))
    for logged in (stepped, plain):
        whole = estimate(logged, name, q=q, weights=weights, discount=0.9, **QUICK)
        for order in orders(logged, rng):
            assert not np.array_equal(order, np.arange(len(order)))
            own = {"q": q[order], "weights": weights[order]}
            moved = estimate(logged.rows(order), name, **own, discount=0.9, **QUICK)
            assert moved == whole
    by_row = estimate(plain, name, q=q, weights=weights, discount=0.9, **QUICK)
    by_step = estimate(stepped, name, q=q, weights=weights, discount=0.9)
    assert by_row.value == pytest.approx(by_step.value)


@pytest.mark.parametrize("name", ["dm", "is", "snips", "dr", "wdr"])
def test_estimates_per_decision_need_no_steps_for_that(name):
    _, plain, q = uneven()
    order = np.random.default_rng(1).permutation(len(plain))
    moved, whole = estimate(plain.rows(order), name, q=q[order]), estimate(plain, name, q=q)
    for field in ("value", "low", "high", "standard_error", "effective_sample_size"):
        assert getattr(moved, field) == pytest.approx(getattr(whole, field), rel=1e-12)


def test_the_order_of_rows_plays_no_part_in_any_model():
    rng = np.random.default_rng(2)
    # Early stopping holds out rows by their position.
    model = HistGradientBoostingRegressor(
        max_iter=20, min_samples_leaf=3, early_stopping=True, random_state=0
    )
    stepped, plain, _ = uneven()
    for logged in (stepped, plain):
        for order in orders(logged, rng):
            moved = logged.rows(order)
            for make in (fitted_q, outcome_model):
                expected = make(logged, model=model)
                np.testing.assert_array_equal(make(moved, model=model), expected[order])
    order = rng.permutation(len(plain))
    np.testing.assert_array_equal(
        outcome_model(plain.rows(order), model=model), outcome_model(plain, model=model)[order]
    )
    whole = propensity_model(plain.contexts, plain.actions, plain.trajectory)
    moved = plain.rows(order)
    found = propensity_model(moved.contexts, moved.actions, moved.trajectory)
    np.testing.assert_array_equal(found, whole[order])


def test_fitted_q_finds_the_next_step_in_a_log_by_week():
    logged, _, truth = chain(2000, 4)
    steps = np.tile(np.arange(4), 2000)
    logged = replace(logged, contexts=np.column_stack([logged.contexts, steps]))
    for by_week in (replace(logged, step=steps), logged):
        order = np.argsort(steps, kind="stable")  # week 1 of all, week 2 of all, ...
        q = fitted_q(by_week.rows(order), discount=0.9, iterations=6, model=LinearRegression())
        np.testing.assert_array_equal(
            q, fitted_q(logged, discount=0.9, iterations=6, model=LinearRegression())[order]
        )
    q = fitted_q(logged.rows(order), discount=0.9, iterations=4)
    first = steps[order] == 0
    assert (logged.target[order] * q).sum(axis=1)[first].mean() == pytest.approx(truth, rel=0.03)


def test_steps_that_are_twice_or_missing_are_refused_with_patient_and_row():
    logged, _, q = uneven()
    order = np.random.default_rng(3).permutation(len(logged))
    moved, q = logged.rows(order), q[order]
    row = int(np.flatnonzero(moved.step == 3)[0])
    name = moved.trajectory[row]
    steps = moved.step.copy()
    steps[row] = 2
    other = int(np.flatnonzero((moved.trajectory == name) & (moved.step == 2))[0])
    rows = "rows {} and {}".format(*sorted((row, other)))
    with pytest.raises(ValueError, match=f"trajectory '{name}' has step 2 twice, in {rows}"):
        replace(moved, step=steps)
    lacking, q = moved.rows(np.arange(len(moved)) != other), np.delete(q, other, axis=0)
    for make in (lambda: estimate(lacking, "trajectory_dr", q=q), lambda: fitted_q(lacking)):
        with pytest.raises(ValueError, match=f"'{name}' has no step 2: the next is 3, in"):
            make()
    assert np.isfinite(estimate(lacking, "dr", q=q, **QUICK).value)  # needs no trajectory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": np.full(10, 0.5)}, r"step must be 0, 1, \.\.\.: row 0 has 0.5"),
        ({"step": -np.ones(10)}, "row 0 has -1"),
        ({"step": np.append(np.zeros(9), np.nan)}, "row 9 has nan"),
        ({"step": np.zeros(9)}, r"step has shape \(9,\), actions 10 rows"),
        ({"trajectory": [*"abcdefghi", None]}, "trajectory must not be missing: row 9"),
        ({"trajectory": [*range(9), (1, 2)]}, "trajectories cannot be sorted"),
    ],
)
def test_wrong_steps_and_patients_are_refused(change, message):
    logged, _, _ = bandit(10)
    if isinstance(change.get("trajectory"), list):
        values = np.empty(10, dtype=object)
        values[:] = change["trajectory"]
        change = {"trajectory": values}
    with pytest.raises(ValueError, match=message):
        replace(logged, **change)


def test_an_outcome_model_that_is_not_finite_is_refused():
    logged, q, _ = bandit(10)
    q[7, 1] = np.nan
    with pytest.raises(ValueError, match="q must be finite: row 7 has"):
        estimate(logged, "dr", q=q)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": np.zeros(10)}, r"propensities must be in \(0, 1\]: row 0 has 0"),
        (
            {"propensities": np.array([0.5, 1.5, *[0.2] * 8])},
            r"propensities must be in \(0, 1\]: row 1 has 1.5",
        ),
        ({"target": np.full((10, 3), 0.5)}, "must be probabilities: row 0 has"),
        ({"actions": np.full(10, 3)}, r"actions must be 0\.\.2"),
        ({"actions": np.array([0, 1, 1.9, *[0] * 7])}, "whole numbers: row 2 has 1.9"),
        ({"actions": np.array([*["0"] * 4, "stop", *["0"] * 5])}, "numbers: row 4 has 'stop'"),
        ({"rewards": np.array([0.0, *[np.nan] * 9])}, "rewards must be finite: row 1 has nan"),
        ({"rewards": [1.0, None, *[1.0] * 8]}, "rewards must be finite: row 1 has nan"),
        ({"contexts": [[1.0]] * 7 + [["m"]] * 3}, "contexts must be numbers: row 7 has"),
        ({"rewards": np.zeros((10, 1))}, r"rewards must have shape \(10,\), got \(10, 1\)"),
        ({"rewards": np.zeros(9)}, "rewards has 9 rows, actions 10"),
    ],
)
def test_wrong_decisions_are_refused(change, message):
    logged, _, _ = bandit(10)
    with pytest.raises(ValueError, match=message):
        replace(logged, **change)


def test_names_are_those_of_the_literature():
    logged, _, q = uneven()
    plain = {"q": q, "discount": 0.9, **QUICK}
    pairs = {
        "wis": "trajectory_wis", "WIS": "trajectory_wis", "snis": "snips", "SNIPS": "snips",
        "pdis": "pdis", "is": "is", "dm": "dm", "dr": "dr", "wdr": "wdr", "fqe": "fqe",
    }  # fmt: skip
    for name, own in pairs.items():
        assert estimate(logged, name, **plain) == estimate(logged, own, **plain)
        assert estimate(logged, name, **plain).estimator == own
    whole = {"is": "trajectory_is", "wis": "trajectory_wis", "dr": "trajectory_dr", "dm": "fqe"}
    for name, own in whole.items():
        assert estimate(logged, name, per="trajectory", **plain).estimator == own
    assert estimator_name("wis", "decision") == "snips"
    for name, per in (("pdis", "decision"), ("snips", "trajectory"), ("trajectory_dr", "decision")):
        with pytest.raises(ValueError, match=f"unknown estimator per {per} '{name}'"):
            estimator_name(name, per)
    with pytest.raises(ValueError, match="per must be"):
        estimator_name("is", "patient")


def test_fitted_q_evaluation_is_the_mean_of_the_first_values():
    logged, _, q = uneven()
    order = np.random.default_rng(8).permutation(len(logged))
    moved, values = logged.rows(order), q[order]
    first = moved.step == 0
    expected = np.mean([t @ v for t, v in zip(moved.target[first], values[first], strict=True)])
    found = estimate(moved, "fqe", q=values, discount=0.9, **QUICK)
    assert found.value == pytest.approx(expected)
    assert "errors of q" in found.warning


def test_a_small_effective_sample_is_warned_of():
    logged, q, _ = chain(200, 30)
    few = estimate(logged, "wis", discount=0.9, **QUICK)
    assert few.effective_sample_size < 0.05
    share, count = 100 * few.effective_sample_size, 200 * few.effective_sample_size
    assert few.warning.startswith(f"effective sample {share:.2g}% of 200 ({count:.1f})")
    assert estimate(logged, "dr", q=q, **QUICK).warning == ""


def test_wrong_arguments_are_refused():
    logged, _, _ = bandit(10)
    with pytest.raises(ValueError, match="unknown estimator"):
        estimate(logged, "magic")
    with pytest.raises(
        ValueError, match=r"'dr' needs q of shape \(10, 3\), got None: outcome_model"
    ):
        estimate(logged, "dr")
    with pytest.raises(ValueError, match="truncation must be positive"):
        estimate(logged, "is", truncation=0.0)


def test_the_bootstrap_is_independent_of_data_drawn_with_the_same_seed():
    errors = [estimate(bandit(2000, seed)[0], "is", seed=0).standard_error for seed in (0, 1)]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)


def logged_care(n_patients, n_weeks, seed):
    env = CareManagement()
    data = generate_care_management(n_patients, n_weeks, seed, undocumented=0.0)
    behaviour = env.behaviour(data.states)
    target = behaviour * np.exp(15.0 * env.expected_rewards(data.states))
    target /= target.sum(axis=1, keepdims=True)
    numbers = env.actions.encode(data.frame)
    logged = LoggedDecisions(
        data.states,
        numbers,
        data.rewards(),
        behaviour[np.arange(len(numbers)), numbers],
        target,
        data.patients,
    )
    truth = (target * env.expected_rewards(data.states)).sum(axis=1).mean()
    return logged, truth, env.actions.one_hot(np.arange(97))


@pytest.mark.slow
def test_the_confidence_interval_covers_the_simulators_truth():
    truth = logged_care(10_000, 8, seed=10**6)[1]
    covered = 0
    for seed in range(25):
        logged, _, features = logged_care(150, 8, seed)
        q = outcome_model(logged, features, folds=2)
        found = estimate(logged, "dr", q=q, n_bootstraps=200)
        covered += found.low <= truth <= found.high
    assert covered >= 23


@pytest.mark.parametrize(("n", "said"), [(1, "no width"), (4, "4 trajectories"), (12, "")])
def test_few_trajectories_are_warned_of(n, said):
    logged, q, _ = bandit(12)
    few = replace(logged, trajectory=np.arange(12) % n)
    found = estimate(few, "is", **QUICK)
    assert said in found.warning
    assert bool(said) == bool(found.warning)
    assert said in estimate(few, "dm", q=q, **QUICK).warning
    assert (found.low == found.high) == (n == 1)


def test_fitted_q_looks_to_the_end_of_the_longest_trajectory():
    steps, n = 30, 40
    t = np.tile(np.arange(steps), n)
    target = np.full((len(t), 2), 0.5)
    actions = np.random.default_rng(0).integers(2, size=len(t))
    ones, half = np.ones(len(t)), np.full(len(t), 0.5)
    who = np.repeat(np.arange(n), steps)
    logged = LoggedDecisions(np.eye(steps)[t], actions, ones, half, target, who, t)
    q = fitted_q(logged, discount=0.9, model=LinearRegression())
    left = (1 - 0.9 ** (steps - t)) / 0.1
    np.testing.assert_allclose(q, np.tile(left[:, None], 2), rtol=1e-6)


def test_propensities_of_hardly_any_choice():
    rng = np.random.default_rng(0)
    x, who = rng.normal(size=(50, 2)), np.arange(50)
    actions = np.zeros(50, dtype=int)
    actions[7] = 1  # in one fold: the models of that lack it
    found = propensity_model(x, actions, who)
    assert (found[:, 0] > 0.9).all()
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    with pytest.raises(ValueError, match=r"actions must be 0, 1, \.\.\.: row 3 has"):
        propensity_model(x, [0, 1, 0, -1] + [0] * 46, who)
    with pytest.raises(ValueError, match=r"row 0 has .*'call'"):
        propensity_model(x, ["call"] * 50, who)
    with pytest.raises(ValueError, match="trajectory must not be missing: row 2"):
        propensity_model(x, actions, [0.0, 1.0, np.nan, *range(47)])


def test_models_are_taken_as_tables_and_lists():
    logged, q, _ = bandit(60)
    wanted = estimate(logged, "dr", q=q, **QUICK)
    for given in (pd.DataFrame(q), q.tolist()):
        assert estimate(logged, "dr", q=given, **QUICK) == wanted
