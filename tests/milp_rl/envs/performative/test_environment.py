from __future__ import annotations

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.special import expit

import milp_rl.envs  # noqa: F401  (registers the ids)
from milp_rl.baselines.performative import (
    TRUE_RISK,
    FixedScorePolicy,
)
from milp_rl.envs.performative import (
    PerformativeRisk,
    Population,
    Proportional,
    Threshold,
    no_intervention,
)


def play(env, policy, seed=0):
    state, _ = env.reset(seed=seed)
    rewards, done = [], False
    while not done:
        state, reward, _, done, _ = env.step(policy.act(state))
        rewards.append(reward)
    return rewards


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"outcomes": "sampled", "reward": "calibration"},
        {"intervention": Proportional(), "observation": "scores", "n_quantiles": 3},
        {"reward": lambda epoch: -epoch.intervention},
        {"timing": "previous"},
    ],
)
def test_gymnasiums_checks_pass(options):
    env = PerformativeRisk(Population(200), render_mode="rgb_array", **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space.*")
        check_env(env)
    made = gym.make("milp_rl/PerformativeRisk-v0", horizon=3)
    state, _ = made.reset(seed=0)
    assert made.observation_space.contains(state)


def rewards_of(env, actions):
    env.reset(seed=0)
    return [env.step(np.array(action))[1] for action in actions]


def test_the_score_of_an_epoch_acts_in_it_or_in_the_next():
    one, two, three = (0.5, 1.0, 1.0), (-1.5, 0.2, -1.0), (0.0, 1.0, 0.5)
    now = PerformativeRisk(Population(300))
    first, second = rewards_of(now, (one, three)), rewards_of(now, (two, three))
    assert first[0] != second[0]
    assert first[1] == second[1]  # a bandit
    later = PerformativeRisk(Population(300), timing="previous")
    first, second = rewards_of(later, (one, three)), rewards_of(later, (two, three))
    assert first[0] == second[0]  # the score of epoch 0 acts
    assert first[1] != second[1]
    last = [rewards_of(later, (one, three, x))[2] for x in (one, two)]
    assert last[0] == last[1]
    epoch = later.epochs[2]
    static, actionable = epoch.covariates.T

    def score(theta):
        return expit(theta[0] + theta[1] * static + theta[2] * actionable)

    np.testing.assert_allclose(epoch.driving, one)
    np.testing.assert_allclose(epoch.scores, score(three))
    treated = actionable - (score(one) > 0.5)
    np.testing.assert_allclose(epoch.treated, treated)
    np.testing.assert_allclose(epoch.risk_after, expit(static + treated))
    with pytest.raises(ValueError, match="timing must be one of"):
        PerformativeRisk(timing="next")


def test_an_episode_has_the_chosen_number_of_epochs():
    env = PerformativeRisk(Population(50), horizon=7)
    assert len(play(env, FixedScorePolicy(TRUE_RISK))) == 7
    assert [epoch.number for epoch in env.epochs] == list(range(8))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(3))


def test_the_epochs_follow_the_definitions():
    env = PerformativeRisk(Population(500), intervention=Threshold(0.6, 1.5), cost=0.2)
    env.reset(seed=1)
    theta = np.array([0.3, 1.2, 0.7])
    observed, reward, *_, info = env.step(theta)
    epoch = env.epoch
    static, actionable = epoch.covariates.T
    scores = expit(0.3 + 1.2 * static + 0.7 * actionable)
    np.testing.assert_allclose(epoch.scores, scores)
    treated = actionable - 1.5 * (scores > 0.6)
    np.testing.assert_allclose(epoch.treated, treated)
    before, after = expit(static + actionable), expit(static + treated)
    assert reward == pytest.approx((before - after).mean() - 0.2 * 1.5 * (scores > 0.6).mean())
    assert info["prevented"] == pytest.approx((before - after).mean())
    np.testing.assert_allclose(
        observed, np.quantile(scores, (np.arange(10) + 0.5) / 10).astype(np.float32)
    )
    calibrated = PerformativeRisk(
        Population(500), intervention=Threshold(0.6, 1.5), reward="calibration"
    )
    assert calibrated.value(epoch) == pytest.approx(-((scores - after) ** 2).mean())


def test_the_first_epoch_has_no_intervention_and_its_score_is_fitted():
    env = PerformativeRisk(Population(4000), outcomes="sampled")
    env.reset(seed=3)
    epoch = env.epoch
    assert epoch.number == 0
    assert epoch.intervention == 0
    assert set(epoch.outcomes.tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(epoch.parameters, TRUE_RISK, atol=0.2)
    exact = PerformativeRisk(Population(4000))
    exact.reset(seed=3)
    np.testing.assert_allclose(exact.epoch.parameters, TRUE_RISK, atol=1e-3)


def test_seeds_give_the_same_luck_whatever_the_actions():
    env = PerformativeRisk(Population(100), outcomes="sampled", horizon=4)
    first = play(env, FixedScorePolicy(TRUE_RISK), seed=5)
    covariates = [epoch.covariates for epoch in env.epochs]
    assert first == play(env, FixedScorePolicy(TRUE_RISK), seed=5)
    assert first != play(env, FixedScorePolicy(TRUE_RISK), seed=6)
    play(env, FixedScorePolicy([-2, 0, 0]), seed=5)
    for one, other in zip(covariates, env.epochs, strict=True):
        np.testing.assert_array_equal(one, other.covariates)


def test_without_intervention_nothing_is_prevented_and_nothing_paid():
    env = PerformativeRisk(Population(100), intervention=no_intervention, horizon=3)
    assert play(env, FixedScorePolicy(TRUE_RISK)) == [0.0, 0.0, 0.0]


def test_own_populations_and_interventions():
    class Uniform(Population):
        def draw(self, rng, size):
            return rng.random((size, 2))

    env = PerformativeRisk(
        Uniform(20), intervention=lambda score, actionable: actionable - score**2
    )
    env.reset(seed=0)
    assert env.step(np.zeros(3))[1] > 0
    assert (env.epoch.covariates >= 0).all()
    wrong = PerformativeRisk(intervention=lambda score, actionable: actionable[:3])
    wrong.reset(seed=0)
    with pytest.raises(ValueError, match="finite covariates"):
        wrong.step(np.zeros(3))


def test_scores_that_all_or_none_fit():
    env = PerformativeRisk(Population(50, mean=(40.0, 40.0)), outcomes="sampled")
    env.reset(seed=0)
    np.testing.assert_array_equal(env.epoch.parameters, [2, 0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outcomes": "maybe"}, "outcomes must be one of"),
        ({"reward": "high"}, "reward must be"),
        ({"observation": "mean"}, "observation must be one of"),
        ({"cost": -1}, "nonnegative"),
        ({"horizon": 0}, "at least 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        PerformativeRisk(**options)


def test_wrong_actions():
    env = PerformativeRisk(Population(10))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(3))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"x\[1\] = 3 is outside \[-2, 2\]"):
        env.step([0, 3, 0])


def test_a_rendering_is_a_picture():
    env = PerformativeRisk(Population(50), render_mode="rgb_array")
    env.reset(seed=0)
    env.step(np.zeros(3))
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.std() > 5
    assert PerformativeRisk().render() is None


def test_a_pickled_environment_goes_on_as_it_would_have():
    env = PerformativeRisk(Population(50), outcomes="sampled")
    env.reset(seed=0)
    copy = pickle.loads(pickle.dumps(env))
    mine, other = env.step([0.5, 1, 1]), copy.step([0.5, 1, 1])
    np.testing.assert_array_equal(mine[0], other[0])
    assert mine[1:] == other[1:]
