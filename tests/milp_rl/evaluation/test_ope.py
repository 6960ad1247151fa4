from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from milp_rl.envs.care_management import CareManagement
from milp_rl.evaluation.ope import (
    ESTIMATORS,
    LoggedDecisions,
    compare,
    estimate,
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


@pytest.mark.parametrize("name", ["dm", "is", "snis", "dr", "wdr"])
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
    probabilities = propensity_model(logged.contexts, logged.actions, logged.patients)
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
        np.repeat(logged.patients, 10),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": np.zeros(10)}, r"propensities must be in \(0, 1\]: row 0 has 0"),
        ({"target": np.full((10, 3), 0.5)}, "must be probabilities"),
        ({"actions": np.full(10, 3)}, r"actions must be 0\.\.2"),
        ({"rewards": np.full(10, np.nan)}, "rewards must be finite"),
        ({"rewards": np.zeros(9)}, "rewards has 9 rows, actions 10"),
    ],
)
def test_wrong_decisions_are_refused(change, message):
    logged, _, _ = bandit(10)
    with pytest.raises(ValueError, match=message):
        replace(logged, **change)


def test_wrong_arguments_are_refused():
    logged, _, _ = bandit(10)
    with pytest.raises(ValueError, match="unknown estimator"):
        estimate(logged, "magic")
    with pytest.raises(ValueError, match=r"'dr' needs q of shape \(10, 3\), got None"):
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
    for seed in range(100):
        logged, _, features = logged_care(150, 8, seed)
        q = outcome_model(logged, features, folds=2)
        found = estimate(logged, "dr", q=q, n_bootstraps=400)
        covered += found.low <= truth <= found.high
    assert covered >= 90
