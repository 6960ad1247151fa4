"""Off-policy values of sepsis policies: logged decisions, and features that linear models need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from milp_rl.envs.sepsis import ACTIONS, CORE, FEATURES, HISTORY, OUTCOME
from milp_rl.evaluation.bounds import high_confidence_bounds
from milp_rl.evaluation.marginalised import bootstrapped_fqe, linear_models
from milp_rl.evaluation.ope import Estimate, LoggedDecisions, estimate
from milp_rl.formulations.arrays import FloatArray
from milp_rl.offline.sepsis.data import SepsisData

DISCOUNT = 0.99
_LEVELS = ACTIONS.levels.astype(np.float64)
DOSES = np.column_stack([_LEVELS, _LEVELS**2, _LEVELS.prod(axis=1)])
"""Levels of vasopressor and fluid, their squares and their product, shape (9, 5)."""
_SQUARED = ("mean_blood_pressure", "lactate", "severity_score", "volume", "hours")
SOFTENING = 0.05
Values = Callable[[FloatArray], FloatArray]
"""Takes features, shape (n, 41), to values of the actions, shape (n, 9)."""
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


def greedy(values: Values, softening: float = SOFTENING) -> Callable[[FloatArray], FloatArray]:
    """Return the policy that takes the best action, any other with a little probability."""

    def act(features: FloatArray) -> FloatArray:
        q = values(features)
        probabilities = np.full(q.shape, softening / q.shape[1])
        probabilities[np.arange(len(q)), q.argmax(axis=1)] += 1 - softening
        return probabilities

    return act


def state_features(features: FloatArray) -> FloatArray:
    """Return the core and the history of a state, and squares, standardized, shape (n, 14)."""
    columns = [features[:, FEATURES.index(name)] for name in (*CORE, *HISTORY)]
    x = np.column_stack(columns)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)
    squared = [(*CORE, *HISTORY).index(name) for name in _SQUARED]
    return np.column_stack([x, x[:, squared] ** 2])


def fitted_value(data: SepsisData, target: FloatArray, *, seed: int = 0) -> Estimate:
    """Estimate a return by fitted Q evaluation, refitted in its bootstrap; without propensities."""
    unused = np.full(target.shape, 1 / 9)
    logged = logged_stays(data, target, unused)
    return bootstrapped_fqe(
        logged, state_features(data.features), DOSES, discount=DISCOUNT, n_bootstraps=60, seed=seed
    )


def intervals(
    logged: LoggedDecisions,
    methods: Sequence[str] = METHODS,
    *,
    n_bootstraps: int = 400,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate a policy's return, each time with an interval, by the names of :data:`METHODS`.

    Q and the state-action weights are linear in :func:`state_features` and :data:`DOSES`.
    """
    logged = logged.rows(logged.order(trajectories=True))
    states = state_features(logged.contexts)
    models = linear_models(logged, states, DOSES, discount=DISCOUNT)
    options: dict[str, Any] = {"q": models.q, "weights": models.weights, "discount": DISCOUNT}
    options |= {"n_bootstraps": n_bootstraps, "seed": seed}
    found = {}
    for name in methods:
        if name == "fqe":
            found[name] = bootstrapped_fqe(logged, states, DOSES, discount=DISCOUNT, seed=seed)
        elif name == "bounds":
            ends = (-OUTCOME, OUTCOME)
            found[name] = high_confidence_bounds(logged, ends, discount=DISCOUNT, seed=seed)
        else:
            found[name] = estimate(logged, name, per="trajectory", **options)
    return found
