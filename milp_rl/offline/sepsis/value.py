"""Off-policy values of sepsis policies: logged decisions, and features that linear models need."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from milp_rl.envs.sepsis import ACTIONS, CORE, FEATURES, HISTORY, OUTCOME
from milp_rl.evaluation.bounds import high_confidence_bounds
from milp_rl.evaluation.marginalised import bootstrapped_fqe, linear_models
from milp_rl.evaluation.ope import Estimate, LoggedDecisions, estimate, fitted_q
from milp_rl.formulations.arrays import FloatArray
from milp_rl.offline.sepsis.data import SepsisData

DISCOUNT = 0.99
ACTION_FEATURES = np.concatenate([np.eye(9), ACTIONS.levels], axis=1)
_LEVELS = ACTIONS.levels.astype(np.float64)
DOSES = np.column_stack([_LEVELS, _LEVELS**2, _LEVELS.prod(axis=1)])
"""Levels of vasopressor and fluid, their squares and their product, shape (9, 5)."""
_SQUARED = ("mean_blood_pressure", "lactate", "severity_score", "volume", "hours")
METHODS = ("wdr", "wpdis", "fqe", "mis", "drl", "bounds")


def logged_stays(
    data: SepsisData, target: FloatArray, probabilities: FloatArray
) -> LoggedDecisions:
    """Return a table's steps for evaluation.

    Parameters
    ----------
    data
        The steps.
    target, probabilities
        What the target policy would do, and what usual care did, shape (N, 9).
    """
    return LoggedDecisions(
        data.features,
        data.actions,
        data.rewards,
        probabilities[np.arange(len(probabilities)), data.actions],
        target,
        data.frame["stay"].to_numpy(),
        data.frame["step"].to_numpy(),
    )


def state_features(features: FloatArray) -> FloatArray:
    """Return the core and the history of a state, and squares, standardized, shape (n, 14)."""
    columns = [features[:, FEATURES.index(name)] for name in (*CORE, *HISTORY)]
    x = np.column_stack(columns)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)
    squared = [(*CORE, *HISTORY).index(name) for name in _SQUARED]
    return np.column_stack([x, x[:, squared] ** 2])


def boosted_q(logged: LoggedDecisions, seed: int = 0) -> FloatArray:
    """Return Q of the target policy by fitted Q evaluation with boosted trees, shape (N, 9)."""
    model = HistGradientBoostingRegressor(
        max_iter=40, learning_rate=0.15, min_samples_leaf=50, random_state=seed
    )
    return fitted_q(logged, ACTION_FEATURES, iterations=18, model=model, seed=seed)


def intervals(
    logged: LoggedDecisions, *, n_bootstraps: int = 400, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate a policy's return in every way that has an interval, by the names of METHODS.

    Q and the state-action weights are linear in :func:`state_features` and :data:`DOSES`.
    """
    states = state_features(logged.contexts)
    models = linear_models(logged, states, DOSES, discount=DISCOUNT)
    options: dict[str, Any] = {"q": models.q, "weights": models.weights, "discount": DISCOUNT}
    options |= {"n_bootstraps": n_bootstraps, "seed": seed}
    own = {
        name: estimate(logged, name, per="trajectory", **options)
        for name in ("wdr", "wpdis", "mis", "drl")
    }
    own["fqe"] = bootstrapped_fqe(logged, states, DOSES, discount=DISCOUNT, seed=seed)
    own["bounds"] = high_confidence_bounds(
        logged, (-OUTCOME, OUTCOME), discount=DISCOUNT, seed=seed
    )
    return {name: own[name] for name in METHODS}
