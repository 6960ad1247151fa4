from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from milp_rl.envs.performative.population import Population, Proportional
from milp_rl.envs.performative.scores import fit_score, use_score


def test_a_fit_maximises_the_likelihood_of_the_outcomes():
    """Against a general optimiser, of events and of probabilities."""
    rng = np.random.default_rng(0)
    covariates = Population().draw(rng, 400)
    design = np.column_stack([np.ones(400), covariates])
    for luck in (None, rng.random(400)):
        epoch = use_score([0.3, 0.8, -0.2], covariates, Proportional(0.5), luck)

        def loss(theta, y=epoch.outcomes):
            z = design @ theta
            return float((np.logaddexp(0, z) - y * z).sum())

        best = minimize(loss, np.zeros(3), bounds=[(-2, 2)] * 3).x
        np.testing.assert_allclose(fit_score(epoch), best, atol=2e-3)


def test_sampled_outcomes_are_events_of_the_risk_after_the_intervention():
    rng = np.random.default_rng(1)
    covariates = Population().draw(rng, 50_000)
    epoch = use_score([0.0, 1.0, 1.0], covariates, Proportional(2.0), rng.random(50_000))
    static, actionable = covariates.T
    treated = actionable - 2.0 * expit(static + actionable)
    assert set(epoch.outcomes.tolist()) == {0.0, 1.0}
    assert abs(epoch.outcomes.mean() - expit(static + treated).mean()) < 0.01
