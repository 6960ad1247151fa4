"""Policies and fixed points of the performative risk score."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import Bounds, differential_evolution

from milp_rl.envs.performative.environment import PerformativeRisk
from milp_rl.envs.performative.population import no_intervention
from milp_rl.envs.performative.scores import LARGEST_PARAMETER, Epoch, fit_score, use_score
from milp_rl.formulations.arrays import FloatArray, check_vector

TRUE_RISK = (0.0, 1.0, 1.0)
"""Parameters of the score that is the risk without intervention."""

_LARGE = 20_000


class NaiveUpdatingPolicy:
    """Refits the score to the last epoch's outcomes and uses it in the next.

    What the outcomes show is the risk after the intervention that the last score drove: a score
    that lowers high risks unlearns that they are high.

    Parameters
    ----------
    env
        The environment (unwrapped) that it plays, whose last epoch it sees.
    """

    def __init__(self, env: PerformativeRisk) -> None:
        self.env = env

    def act(self, state: ArrayLike) -> FloatArray:
        """Return the parameters fitted to the last epoch."""
        return fit_score(self.env.epoch)


class FixedScorePolicy:
    """Uses one score always.

    Parameters
    ----------
    parameters
        Theta, shape (3,).
    """

    def __init__(self, parameters: ArrayLike) -> None:
        self.parameters = check_vector(parameters, "parameters")

    def act(self, state: ArrayLike) -> FloatArray:
        """Return the parameters."""
        return self.parameters.copy()


def naive_trajectory(
    env: PerformativeRisk, epochs: int = 20, *, size: int = _LARGE, seed: int = 0
) -> list[Epoch]:
    """Update naively on one large population with probability outcomes.

    Parameters
    ----------
    env
        The environment whose population and intervention are used.
    epochs
        Number of updates.
    size
        Number of patients.
    seed
        Seed of the population.

    Returns
    -------
    list of Epoch
        Epoch 0, without intervention, and one for each update.
    """
    covariates = env.population.draw(np.random.default_rng([2, seed]), size)
    fitted = fit_score(use_score(np.zeros(3), covariates, no_intervention, number=0))
    found = [use_score(fitted, covariates, no_intervention, number=0)]
    for number in range(1, epochs + 1):
        score = fit_score(found[-1])
        found.append(use_score(score, covariates, env.intervention, number=number))
    return found


def stable_point(
    env: PerformativeRisk, *, epochs: int = 200, size: int = _LARGE, seed: int = 0
) -> FloatArray:
    """Return where naive updating leads: the performatively stable score (Perdomo et al. 2020).

    Mean parameters of the last half of the epochs, as updating may end in a cycle (with
    thresholds it often does) instead of a point.
    """
    trajectory = naive_trajectory(env, epochs, size=size, seed=seed)
    return np.asarray(np.mean([e.parameters for e in trajectory[epochs // 2 :]], axis=0))


def optimal_point(env: PerformativeRisk, *, size: int = _LARGE, seed: int = 0) -> FloatArray:
    """Return the performatively optimal score: the fixed one of highest expected reward.

    Found by differential evolution on one large population with probability outcomes, knowing risk
    and intervention as no learner does: an oracle up to that search and that population.
    """
    covariates = env.population.draw(np.random.default_rng([2, seed]), size)

    def loss(theta: FloatArray) -> float:
        return -env.value(use_score(theta, covariates, env.intervention))

    found = differential_evolution(
        loss,
        Bounds(np.full(3, -LARGEST_PARAMETER), np.full(3, LARGEST_PARAMETER)),
        rng=np.random.default_rng([3, seed]),
        popsize=10,
        maxiter=60,
        tol=1e-6,
    )
    return np.asarray(found.x)
