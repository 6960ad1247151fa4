from __future__ import annotations

import numpy as np
import pytest

from milp_rl.envs.performative.population import Population, Proportional, Threshold


def test_populations_have_the_moments_asked_for():
    population = Population(10, mean=(1.0, -1.0), deviation=(0.5, 2.0), correlation=0.6)
    drawn = population.draw(np.random.default_rng(0), 200_000)
    np.testing.assert_allclose(drawn.mean(axis=0), [1, -1], atol=0.02)
    np.testing.assert_allclose(drawn.std(axis=0), [0.5, 2], atol=0.02)
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.6, abs=0.01)


def test_wrong_populations():
    with pytest.raises(ValueError, match="size"):
        Population(1)
    with pytest.raises(ValueError, match="correlation"):
        Population(correlation=1.0)


def test_interventions_follow_their_definitions():
    scores, actionable = np.array([0.2, 0.5, 0.8]), np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(Threshold(0.5, 1.5)(scores, actionable), [1.0, 2.0, 1.5])
    np.testing.assert_allclose(Proportional(2.0)(scores, actionable), [0.6, 1.0, 1.4])
