"""Estimating a dependency graph from transitions by sparse regression.

Each variable's next value is regressed on all variables and interventions with scikit-learn's
cross-validated lasso or elastic net; pairs of interventions can be added. An edge is kept where the
regression selects it in most of the bootstrap samples (stability selection, Meinshausen and
Buehlmann, "Stability selection", JRSS B 2010) with a large enough effect.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, ElasticNetCV, Lasso, LassoCV

from milp_rl.envs.transitions import Transitions
from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.graphq.edges import Edge, Interaction
from milp_rl.solvers.processes import safe_path

Estimation = Literal["lasso", "elastic_net"]
_FOLDS = 5
_NOT_SMALL = 0.2  # part of a variable's standard deviation


class EstimatedEdges(NamedTuple):
    """The edges found, as :class:`~milp_rl.graphq.DependencyGraph` holds them."""

    effects: FloatArray
    influences: FloatArray
    interactions: tuple[Interaction, ...]


def estimate_edges(
    transitions: Transitions,
    method: Estimation = "lasso",
    *,
    interactions: bool = False,
    n_bootstraps: int = 30,
    threshold: float = 0.85,
    smallest_effect: float = 0.0125,
    forced: Iterable[Edge] = (),
    forbidden: Iterable[Edge] = (),
    jobs: int = 1,
    seed: int = 0,
) -> EstimatedEdges:
    """Estimate which interventions and variables move each variable.

    Weights are the coefficients of the least-squares fit on the kept edges: of an intervention,
    the mean change of the variable when it is chosen; of a variable, per unit.

    Parameters
    ----------
    transitions
        The data.
    method
        ``"lasso"`` or ``"elastic_net"``. The penalty is chosen by cross-validation: the geometric
        mean of the one of smallest error and the largest within one standard error of it.
    interactions
        Whether to look for pairs of interventions that act together.
    n_bootstraps
        Bootstrap samples, at least 1.
    threshold
        Share of the bootstrap samples in which an edge must be selected, in (0.5, 1].
    smallest_effect
        Edges with a smaller effect are dropped: the coefficient of an intervention, or the
        coefficient of a variable times its standard deviation, in units of the variable moved;
        its default is for variables of standard deviations of about 0.1 and more.
    forced, forbidden
        Edges (from, to), by names, that an expert knows to be there, or not to be.
    jobs
        Variables estimated at the same time; -1: one per processor.
    seed
        Seed of the bootstrap samples; the result does not depend on ``jobs``.

    Raises
    ------
    ValueError
        If an argument is out of range, or an expert's edge is unknown or both forced and forbidden.

    Warns
    -----
    UserWarning
        If an effect was dropped that is above a fifth of the standard deviation of what it moves.
    """
    if method not in ("lasso", "elastic_net"):
        raise ValueError(f"method must be 'lasso' or 'elastic_net', got {method!r}")
    if n_bootstraps < 1:
        raise ValueError(f"n_bootstraps must be at least 1, got {n_bootstraps}")
    if not 0.5 < threshold <= 1:
        raise ValueError(f"threshold must be in (0.5, 1], got {threshold}")
    data = transitions
    m, n = data.states.shape[1], data.actions.shape[1]
    known, excluded = (_expert(edges, data) for edges in (forced, forbidden))
    if (known & excluded).any():
        raise ValueError("an edge is both forced and forbidden")
    single = np.concatenate([data.actions, data.states], axis=1)
    pairs = list(itertools.combinations(range(n), 2)) if interactions else []
    products = [data.actions[:, i] * data.actions[:, j] for i, j in pairs]
    pairs = [p for p, x in zip(pairs, products, strict=True) if x.any()]
    features = np.column_stack([single, *(x for x in products if x.any())])
    seeds = np.random.SeedSequence(seed).spawn(m)

    def estimate(k: int) -> tuple[FloatArray, float]:
        allowed = np.concatenate([~excluded[k], np.ones(len(pairs), dtype=bool)])
        for p, (i, j) in enumerate(pairs):
            allowed[n + m + p] = not (excluded[k, i] or excluded[k, j])
        sure = np.concatenate([known[k], np.zeros(len(pairs), dtype=bool)])
        sure[n + k] = allowed[n + k] = True  # a variable persists
        rng = np.random.default_rng(seeds[k])
        target = data.next_states[:, k]
        options = (method, n_bootstraps, threshold, smallest_effect)
        return _regress(features, target, allowed, sure, rng, *options)

    with safe_path():
        rows = joblib.Parallel(n_jobs=jobs)(joblib.delayed(estimate)(k) for k in range(m))
    table = np.array([coefficients for coefficients, _ in rows])
    _warn_of_units(data, [dropped for _, dropped in rows], smallest_effect)
    influences = table[:, n : n + m].copy()
    np.fill_diagonal(influences, 0.0)
    found = tuple(
        Interaction(pairs[p][0], pairs[p][1], int(k), float(table[k, n + m + p]))
        for k, p in np.argwhere(table[:, n + m :])
    )
    return EstimatedEdges(table[:, :n], influences, found)


def _regress(
    features: FloatArray,
    target: FloatArray,
    allowed: BoolArray,
    sure: BoolArray,
    rng: np.random.Generator,
    method: Estimation,
    n_bootstraps: int,
    threshold: float,
    smallest_effect: float,
) -> tuple[FloatArray, float]:
    """Return the coefficients of the kept features, zero elsewhere; the largest effect dropped."""
    scale = features.std(axis=0)
    columns = np.flatnonzero(allowed & (scale > 0))
    coefficients = np.zeros(features.shape[1])
    dropped = 0.0
    if not len(columns) or target.std() == 0:
        return coefficients, dropped
    x = (features[:, columns] - features[:, columns].mean(axis=0)) / scale[columns]
    y = (target - target.mean()) / target.std()
    model = _tuned(method, x, y)
    chosen = np.zeros(len(columns))
    for _ in range(n_bootstraps):
        rows = rng.integers(len(y), size=len(y))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            chosen += model.fit(x[rows], y[rows]).coef_ != 0
    kept = columns[(chosen >= threshold * n_bootstraps) | sure[columns]]
    while len(kept):
        design = np.column_stack([features[:, kept], np.ones(len(target))])
        fitted = np.linalg.lstsq(design, target, rcond=None)[0][:-1]
        binary = np.isin(features[:, kept], (0, 1)).all(axis=0)
        effect = np.abs(fitted) * np.where(binary, 1.0, scale[kept])
        large = (effect >= smallest_effect) | sure[kept]
        if large.all():
            coefficients[kept] = fitted
            break
        dropped = max(dropped, effect[~large].max())
        kept = kept[large]
    return coefficients, dropped


def _warn_of_units(data: Transitions, dropped: list[float], smallest_effect: float) -> None:
    """Warn where what was dropped as small is not small beside the variable that it moves."""
    for k, effect in enumerate(dropped):
        spread = float(data.next_states[:, k].std())
        if effect > _NOT_SMALL * spread:
            warnings.warn(
                f"an effect of {effect:.3g} on {data.variables[k]!r}, whose standard deviation is"
                f" {spread:.3g}, was dropped as smaller than smallest_effect={smallest_effect:g}:"
                " give that in units of the variables, or the variables in larger ones",
                stacklevel=3,
            )


def _tuned(method: Estimation, x: FloatArray, y: FloatArray) -> Any:
    """Return a regression with a penalty chosen by cross-validation."""
    search = LassoCV(cv=_FOLDS) if method == "lasso" else ElasticNetCV(cv=_FOLDS, l1_ratio=0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(x, y)
    errors = search.mse_path_.mean(axis=-1)
    spread = search.mse_path_.std(axis=-1) / np.sqrt(_FOLDS)
    best = int(errors.argmin())
    largest = search.alphas_[errors <= errors[best] + spread[best]].max()
    penalty = float(np.sqrt(search.alpha_ * largest))
    return Lasso(penalty) if method == "lasso" else ElasticNet(penalty, l1_ratio=0.7)


def _expert(edges: Iterable[Edge], data: Transitions) -> BoolArray:
    """Return an expert's edges as a table: variables moved by features."""
    names = [*data.interventions, *data.variables]
    table = np.zeros((len(data.variables), len(names)), dtype=bool)
    for source, end in edges:
        if source not in names or end not in data.variables or source == end:
            raise ValueError(
                f"no edge can go from {source!r} to {end!r}: edges go from interventions and"
                " variables to other variables"
            )
        table[data.variables.index(end), names.index(source)] = True
    return table
