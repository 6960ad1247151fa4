from __future__ import annotations

import numpy as np
import pytest

from milp_rl.baselines.performative import (
    TRUE_RISK,
    FixedScorePolicy,
    NaiveUpdatingPolicy,
    naive_trajectory,
    optimal_point,
    stable_point,
)
from milp_rl.envs.performative import PerformativeRisk, Proportional, Threshold
from milp_rl.evaluation import evaluate, summarize


def test_naive_updating_unlearns_what_its_intervention_prevents():
    """It ends at a score below the true risk, which estimates the risk after its own effect."""
    env = PerformativeRisk(intervention=Proportional(2.0))
    trajectory = naive_trajectory(env, 60)
    early, late = trajectory[1], trajectory[-1]
    np.testing.assert_allclose(early.parameters, TRUE_RISK, atol=1e-3)
    np.testing.assert_allclose(late.parameters, trajectory[-2].parameters, atol=1e-3)
    assert late.calibration_error < early.calibration_error
    assert late.parameters[0] < -0.5
    assert late.scores.mean() == pytest.approx(late.risk_after.mean(), abs=1e-3)
    assert late.intervention < early.intervention  # so that less is prevented
    assert late.prevented < early.prevented
    np.testing.assert_allclose(stable_point(env), late.parameters, atol=0.02)


@pytest.mark.parametrize("intervention", [Threshold(), Proportional()])
def test_the_optimal_point_beats_the_stable_one_and_others(intervention):
    env = PerformativeRisk(intervention=intervention)
    best, stable = optimal_point(env, size=5000), stable_point(env, size=5000)
    policies = {
        "optimal": FixedScorePolicy(best),
        "stable": FixedScorePolicy(stable),
        "naive": NaiveUpdatingPolicy(env),
        "true": FixedScorePolicy(TRUE_RISK),
    }
    rewards = summarize(evaluate(env, policies, seeds=range(3))).set_index("policy")["mean"]
    assert rewards["optimal"] == rewards.max()
    assert rewards["optimal"] > rewards["stable"] + 0.02
    assert rewards["naive"] == pytest.approx(rewards["stable"], abs=0.01)
