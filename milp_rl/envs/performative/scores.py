r"""Scores: their use on a population, and their fit to what came of it.

A score with parameters :math:`\theta` is :math:`\rho(x) = \sigma(\theta_0 + \theta_1 x^s + \theta_2
x^a)`. Used on covariates it drives the intervention :math:`x^a(1) = g(\rho(x), x^a)`, and events
happen with probability :math:`\sigma(x^s + x^a(1))` (Liley et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from milp_rl.envs.performative.population import Intervention
from milp_rl.formulations.arrays import FloatArray, check_vector

LARGEST_PARAMETER = 2.0


@dataclass(frozen=True, eq=False)
class Epoch:
    """What happened in one epoch.

    Parameters
    ----------
    number
        Number of the epoch; 0 for the one without intervention.
    parameters
        Theta of the score, shape (3,).
    driving
        Theta of the score that drove the intervention, shape (3,): the same, or an earlier one.
    covariates
        Static and actionable covariates before the intervention, shape (n, 2).
    scores
        Scores before the intervention, shape (n,), in [0, 1].
    treated
        Actionable covariates after the intervention, shape (n,).
    risk_before, risk_after
        Probabilities of an event without and with the intervention, shape (n,).
    outcomes
        Events, zeros and ones; with probability outcomes, ``risk_after``. Shape (n,).
    """

    number: int
    parameters: FloatArray
    driving: FloatArray
    covariates: FloatArray
    scores: FloatArray
    treated: FloatArray
    risk_before: FloatArray
    risk_after: FloatArray
    outcomes: FloatArray

    @property
    def intervention(self) -> float:
        """Mean size of the intervention, in units of the actionable covariate."""
        return float(np.abs(self.covariates[:, 1] - self.treated).mean())

    @property
    def calibration_error(self) -> float:
        """Mean squared difference between the score and the outcomes."""
        return float(((self.scores - self.outcomes) ** 2).mean())

    @property
    def prevented(self) -> float:
        """Expected events without intervention, less those that happened, per patient."""
        return float((self.risk_before - self.outcomes).mean())


def use_score(
    parameters: ArrayLike,
    covariates: FloatArray,
    intervention: Intervention,
    luck: FloatArray | None = None,
    *,
    number: int = 1,
    driving: ArrayLike | None = None,
) -> Epoch:
    """Use a score on a population.

    Parameters
    ----------
    parameters
        Theta, shape (3,).
    covariates
        Static and actionable, shape (n, 2).
    intervention
        The map g that the score drives.
    luck
        Uniform numbers in [0, 1), shape (n,), for sampled outcomes; by default the outcomes are
        the probabilities.
    number
        Number of the epoch.
    driving
        Theta of the score that drives the intervention, shape (3,); by default ``parameters``.

    Raises
    ------
    ValueError
        If the intervention does not return finite covariates, shape (n,).
    """
    theta = check_vector(parameters, "parameters")
    drives = theta if driving is None else check_vector(driving, "driving")
    static, actionable = covariates.T
    scores, acted_on = (expit(t[0] + t[1] * static + t[2] * actionable) for t in (theta, drives))
    treated = np.asarray(intervention(acted_on, actionable), dtype=np.float64)
    if treated.shape != actionable.shape or not np.isfinite(treated).all():
        raise ValueError(
            f"the intervention must return {len(actionable)} finite covariates, got {treated.shape}"
        )
    before, after = expit(static + actionable), expit(static + treated)
    happened = after if luck is None else (luck < after).astype(np.float64)
    return Epoch(number, theta, drives, covariates, scores, treated, before, after, happened)


def fit_score(epoch: Epoch) -> FloatArray:
    """Fit a score to the outcomes of an epoch given the covariates before the intervention.

    Returns
    -------
    numpy.ndarray
        Parameters of an unpenalised logistic regression, cut off at -2 and 2, shape (3,).
    """
    y, n = epoch.outcomes, len(epoch.outcomes)
    # A probability is so much of an event and so much of none.
    x = np.concatenate([epoch.covariates, epoch.covariates])
    labels, weights = np.repeat([1, 0], n), np.concatenate([y, 1 - y])
    used = weights > 0
    if len(np.unique(labels[used])) < 2:  # all or none had the event
        return np.array([LARGEST_PARAMETER * (2 * labels[used][0] - 1), 0.0, 0.0])
    model = LogisticRegression(C=np.inf, max_iter=1000)
    model.fit(x[used], labels[used], sample_weight=weights[used])
    theta = np.concatenate([model.intercept_, model.coef_[0]])
    return np.asarray(np.clip(theta, -LARGEST_PARAMETER, LARGEST_PARAMETER))
