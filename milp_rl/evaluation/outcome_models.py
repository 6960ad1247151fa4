"""Models that off-policy estimators need: of rewards, of returns and of the behaviour's actions.

All are cross-fitted: what is predicted of a trajectory comes from models without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from milp_rl.envs.sampling import draw_each
from milp_rl.evaluation.logged import LoggedDecisions
from milp_rl.formulations.arrays import FloatArray


def outcome_model(
    logged: LoggedDecisions,
    action_features: ArrayLike | None = None,
    *,
    model: Any = None,
    folds: int = 5,
    seed: int = 0,
) -> FloatArray:
    """Predict the reward of every action in every context, each trajectory by a model without it.

    Parameters
    ----------
    logged
        The decisions.
    action_features
        Features of each action, shape (A, f), such as one-hot levels; by default one-hot actions.
    model
        A scikit-learn regressor; by default gradient-boosted trees.
    folds
        Groups of trajectories for cross-fitting, at least 2.
    seed
        Seed of the default model.

    Returns
    -------
    numpy.ndarray
        Q, shape (N, A).
    """
    default = HistGradientBoostingRegressor(
        max_iter=100, learning_rate=0.1, min_samples_leaf=30, random_state=seed
    )
    regressor = default if model is None else model
    features = action_table(logged, action_features)
    order = logged.order(trajectories=False)
    d = logged.rows(order)
    q = np.empty(d.target.shape)
    x = np.concatenate([d.contexts, features[d.actions]], axis=1)
    for train, rest in GroupKFold(folds).split(x, groups=d.codes):
        fitted = clone(regressor).fit(x[train], d.rewards[train])
        q[order[rest]] = predict_all(fitted, d.contexts[rest], features)
    return q


def predict_all(fitted: Any, contexts: FloatArray, action_features: FloatArray) -> FloatArray:
    """Predict every action in every context with a fitted regressor, shape (N, A)."""
    n, a = len(contexts), len(action_features)
    x = np.concatenate([np.repeat(contexts, a, axis=0), np.tile(action_features, (n, 1))], axis=1)
    return np.asarray(fitted.predict(x)).reshape(n, a)


def propensity_model(
    contexts: ArrayLike,
    actions: ArrayLike,
    trajectory: ArrayLike,
    *,
    folds: int = 5,
    inverse_penalty: float = 0.03,
) -> FloatArray:
    """Estimate the probabilities of all actions by cross-fitted logistic regression.

    Parameters
    ----------
    contexts, actions, trajectory
        As in :class:`LoggedDecisions`.
    folds
        Groups of trajectories, at least 2.
    inverse_penalty
        scikit-learn's ``C``: the smaller, the closer to the actions' shares. Too large a value
        makes some estimates too small, and their ratios too large.

    Returns
    -------
    numpy.ndarray
        Shape (N, largest action + 1); an action that a fold's training rows lack gets the share of
        half a decision.

    Raises
    ------
    ValueError
        If an action is none of 0, 1, ..., a trajectory is missing, or lengths differ.
    """
    x = np.asarray(contexts, dtype=np.float64)
    given = np.asarray(actions)
    numbers = pd.to_numeric(pd.Series(given), errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~((numbers >= 0) & (numbers == np.floor(numbers)))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"actions must be 0, 1, ...: row {row} has {given[row]!r}")
    a = numbers.astype(np.intp)
    codes = pd.factorize(np.asarray(trajectory), sort=True)[0]
    if len(x) != len(a) or len(codes) != len(a):
        raise ValueError(f"got {len(x)} contexts, {len(a)} actions and {len(codes)} trajectories")
    if (codes < 0).any():
        raise ValueError(f"trajectory must not be missing: row {int(codes.argmin())} is")
    order = np.lexsort((a, *x.T, codes))  # whatever the order of the rows, the same
    x, a, codes = x[order], a[order], codes[order]
    probabilities = np.full((len(a), int(a.max()) + 1), 0.5 / len(a))
    for train, rest in GroupKFold(folds).split(x, groups=codes):
        if (a[train] == a[train[0]]).all():  # no regression tells one action from others
            probabilities[order[rest], a[train[0]]] = 1.0
            continue
        logistic = LogisticRegression(C=inverse_penalty, max_iter=500)
        model = make_pipeline(StandardScaler(), logistic)
        model.fit(x[train], a[train])
        probabilities[np.ix_(order[rest], model.classes_)] = model.predict_proba(x[rest])
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def fitted_q(
    logged: LoggedDecisions,
    action_features: ArrayLike | None = None,
    *,
    discount: float = 0.99,
    iterations: int | None = None,
    model: Any = None,
    folds: int = 2,
    seed: int = 0,
) -> FloatArray:
    """Predict the discounted return of the target policy after every action (fitted Q evaluation).

    Le, Voloshin and Yue, ICML 2019; each trajectory by a model without it. The next action is drawn
    from the target policy anew in every iteration.

    Parameters
    ----------
    logged, action_features, model, folds, seed
        As for :func:`outcome_model`.
    discount
        In [0, 1].
    iterations
        Regressions, at least 1: how many steps ahead are looked. By default the steps of the
        longest trajectory.

    Raises
    ------
    ValueError
        If ``iterations`` is below 1, or a trajectory lacks a step.
    """
    if iterations is not None and iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    default = HistGradientBoostingRegressor(
        max_iter=60, learning_rate=0.15, min_samples_leaf=30, random_state=seed
    )
    regressor = default if model is None else model
    features = action_table(logged, action_features)
    rng = np.random.default_rng(seed)
    order = logged.order(trajectories=True)
    d = logged.rows(order)
    x = np.concatenate([d.contexts, features[d.actions]], axis=1)
    follows = np.append(d.codes[1:] == d.codes[:-1], False)
    q = np.empty(d.target.shape)
    for train, rest in GroupKFold(folds).split(x, groups=d.codes):
        going_on = train[follows[train]]
        fitted: Any = None
        for _ in range(int(np.bincount(d.codes).max()) if iterations is None else iterations):
            wanted = d.rewards.copy()
            if fitted is not None and len(going_on):
                drawn = draw_each(d.target[going_on + 1], rng)
                following = [d.contexts[going_on + 1], features[drawn]]
                wanted[going_on] += discount * fitted.predict(np.concatenate(following, axis=1))
            fitted = clone(regressor).fit(x[train], wanted[train])
        q[order[rest]] = predict_all(fitted, d.contexts[rest], features)
    return q


def action_table(logged: LoggedDecisions, features: ArrayLike | None) -> FloatArray:
    """Return the features of each action, shape (A, f): those given, or one-hot."""
    table = np.eye(logged.n_actions) if features is None else np.asarray(features, dtype=float)
    if table.ndim != 2 or len(table) != logged.n_actions:
        raise ValueError(f"action_features must have {logged.n_actions} rows, got {table.shape}")
    return table
