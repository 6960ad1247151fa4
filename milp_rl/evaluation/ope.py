r"""Off-policy evaluation: what a policy would have been worth, from decisions of another.

Every estimator here is a sum of ratios of means over trajectories, so that one bootstrap over
trajectories serves them all. *Per decision*, the value is the mean reward of a decision in the
logged contexts had the policy taken it; with :math:`\rho = \pi / \pi_b`, the doubly robust
estimator is

.. math:: V = E[\rho \, (Y - Q(X, A))] + E[\sum_a \pi(a | X) \, Q(X, a)],

(Dudik, Langford and Li, ICML 2011): right if the propensities or the outcome model is. *Per
trajectory*, the value is the discounted sum of rewards of an episode (Jiang and Li, ICML 2016;
Thomas and Brunskill, ICML 2016).

The literature gives both kinds the same names; :func:`estimator_name` says which is which. Where
the products of ratios leave next to no effective sample, :attr:`Estimate.warning` says so;
:mod:`milp_rl.evaluation.marginalised` and :mod:`milp_rl.evaluation.bounds` have intervals that do
not rest on such products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from milp_rl.evaluation.logged import LoggedDecisions
from milp_rl.evaluation.outcome_models import (
    fitted_q,
    outcome_model,
    predict_all,
    propensity_model,
)
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.suggestions import unknown

__all__ = [
    "ESTIMATORS",
    "Estimate",
    "LoggedDecisions",
    "Per",
    "compare",
    "estimate",
    "estimator_name",
    "fitted_q",
    "low_sample_warning",
    "outcome_model",
    "predict_all",
    "propensity_model",
]

_STREAM = 7_303
LEAST_SHARE = 0.05
"""Effective samples below this share of the trajectories are warned of."""
LEAST_TRAJECTORIES = 10
"""Fewer than these are warned of: a bootstrap sees no more of the spread than there is."""

Per = Literal["decision", "trajectory"]
Term = tuple[FloatArray, FloatArray]  # a numerator and a denominator for each trajectory
Terms = tuple[list[Term], FloatArray]

_DECISION = {
    "dm": "dm", "is": "is", "snips": "snips", "snis": "snips", "wis": "snips", "dr": "dr",
    "wdr": "wdr",
}  # fmt: skip
_TRAJECTORY = {
    "dm": "fqe", "fqe": "fqe", "is": "trajectory_is", "wis": "trajectory_wis", "pdis": "pdis",
    "wpdis": "wpdis", "dr": "trajectory_dr", "wdr": "trajectory_wdr", "mis": "mis", "drl": "drl",
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval.

    ``effective_sample_size`` is that of the importance weights, as a share of the decisions (or, of
    trajectories), from 0 to 1: (sum w)^2 / (n sum w^2). 1 for the direct method, which has none.
    ``warning`` says what makes the interval too narrow; empty if nothing is known to.
    """

    estimator: str
    value: float
    low: float
    high: float
    standard_error: float
    effective_sample_size: float
    warning: str = ""


def estimator_name(name: str, per: Per | None = None) -> str:
    """Return the name in :data:`ESTIMATORS` of an estimator that the literature names.

    Parameters
    ----------
    name
        A name of :data:`ESTIMATORS`, or ``"is"``, ``"wis"``, ``"snips"`` (``"snis"``), ``"pdis"``,
        ``"wpdis"``, ``"dm"``, ``"dr"``, ``"wdr"``, ``"fqe"``, in any case.
    per
        Whether the value is that of a decision or of a trajectory. By default ``"is"``,
        ``"snips"``, ``"dm"``, ``"dr"`` and ``"wdr"`` are per decision and the rest, ``"wis"`` too,
        per trajectory.

    Raises
    ------
    ValueError
        If there is no such estimator.

    Examples
    --------
    >>> estimator_name("WIS"), estimator_name("wdr"), estimator_name("wdr", "trajectory")
    ('trajectory_wis', 'wdr', 'trajectory_wdr')
    """
    if per not in (None, "decision", "trajectory"):
        raise ValueError(f"per must be 'decision' or 'trajectory', got {per!r}")
    lower = name.lower()
    kinds = {"decision": _DECISION, "trajectory": _TRAJECTORY}
    known = {**_TRAJECTORY, **_DECISION, "wis": "trajectory_wis"} if per is None else kinds[per]
    own = {n: n for n in ESTIMATORS if per is None or (n in known.values())}
    found = {**own, **known}
    if lower not in found:
        kind = "estimator" if per is None else f"estimator per {per}"
        raise ValueError(unknown(kind, name, sorted(found)))
    return found[lower]


def low_sample_warning(share: float, n: int, trajectories: int) -> str:
    """Return what makes an interval too narrow, or nothing.

    That is weights with an effective sample of a small share of n, or few trajectories.
    """
    found = []
    if trajectories == 1:
        found.append("one trajectory, which says nothing of others: the interval has no width")
    elif trajectories < LEAST_TRAJECTORIES:
        found.append(f"{trajectories} trajectories: the interval is likely too narrow")
    if share < LEAST_SHARE:
        found.append(
            f"effective sample {100 * share:.2g}% of {n} ({share * n:.1f}), below"
            f" {100 * LEAST_SHARE:g}%: the interval is likely too narrow"
        )
    return "; ".join(found)


def estimate(
    logged: LoggedDecisions,
    estimator: str = "dr",
    *,
    per: Per | None = None,
    q: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    truncation: float | None = None,
    discount: float = 0.99,
    level: float = 0.95,
    n_bootstraps: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Estimate the value of the target policy.

    Parameters
    ----------
    logged
        The decisions.
    estimator
        Per decision: ``"dm"`` direct method, ``"is"`` importance sampling, ``"snips"``
        self-normalised, ``"dr"`` doubly robust, ``"wdr"`` doubly robust with self-normalised
        weights. Per trajectory: ``"trajectory_is"`` and ``"trajectory_wis"`` (``"wis"``) with the
        product of all ratios, ``"pdis"`` and ``"wpdis"`` per decision of it, ``"trajectory_dr"``
        and ``"trajectory_wdr"``, ``"fqe"``, the mean of q at the first steps, and, with weights of
        states and actions, ``"mis"`` and the doubly robust ``"drl"``.
    per
        Which of the two, where a name is that of both: see :func:`estimator_name`.
    q
        Outcome model Q(X, a), shape (N, A): of the reward for estimators per decision
        (:func:`outcome_model`), of the return for those per trajectory (:func:`fitted_q`).
    weights
        State-action weights of the decisions, shape (N,), of
        :func:`milp_rl.evaluation.marginalised.linear_models`.
    truncation
        Largest ratio pi / pi_b.
    discount
        Discount factor of trajectories, in [0, 1].
    level
        Level of the confidence interval, by the percentiles of a bootstrap over trajectories. The
        model q stays as it is in it: the intervals of ``"dm"`` and ``"fqe"`` know nothing of its
        errors .
    n_bootstraps
        Bootstrap samples.
    seed
        Seed of the bootstrap.

    Raises
    ------
    ValueError
        If the estimator is unknown, or needs ``q`` or ``weights``, or they have the wrong shape or
        are not finite;
        if it is one per trajectory and a trajectory lacks a step.
    """
    name = estimator_name(estimator, per)
    if truncation is not None and not truncation > 0:
        raise ValueError(f"truncation must be positive, got {truncation}")
    if not 0 < level < 1 or not 0 <= discount <= 1 or n_bootstraps < 2:
        raise ValueError("need 0 < level < 1, 0 <= discount <= 1 and n_bootstraps >= 2")
    model = None if q is None else np.asarray(q, dtype=np.float64)
    given = None if weights is None else np.asarray(weights, dtype=np.float64)
    needs_q = name in ("dm", "fqe", "drl") or name.endswith("dr")
    if needs_q and (model is None or model.shape != logged.target.shape):
        shape = None if model is None else model.shape
        maker = "outcome_model" if name in _DECISION.values() else "fitted_q"
        raise ValueError(
            f"{name!r} needs q of shape {logged.target.shape}, got {shape}: {maker} makes one"
        )
    if model is not None and not np.isfinite(model).all():
        row = int(np.argmin(np.isfinite(model).all(axis=1)))
        raise ValueError(f"q must be finite: row {row} has {model[row]}")
    marginal = name in ("mis", "drl")
    unfit = given is None or given.shape != (len(logged),) or not np.isfinite(given).all()
    if marginal and unfit:
        found = None if given is None else given.shape
        raise ValueError(
            f"{name!r} needs finite weights of shape ({len(logged)},), got {found}:"
            " milp_rl.evaluation.marginalised.linear_models makes some"
        )
    order = logged.order(trajectories=name not in _DECISION.values())
    values = np.zeros(logged.target.shape) if model is None else model
    d = logged.rows(order)
    ratios = d.ratios(truncation)
    if given is not None and marginal:
        ratios = given[order]
    terms, used = ESTIMATORS[name](d, ratios, values[order], discount)
    numerators = np.stack([numerator for numerator, _ in terms], axis=1)
    denominators = np.stack([denominator for _, denominator in terms], axis=1)
    # Not the stream of the same seed that the data may have been drawn with.
    rng = np.random.default_rng([_STREAM, seed])
    n = logged.n_trajectories
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstraps).astype(np.float64)
    samples = _ratio(drawn @ numerators, drawn @ denominators)
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    share = used.sum() ** 2 / max(float((used**2).sum()), 1e-300) / len(used)
    warning = low_sample_warning(share, len(used), n)
    if name in ("dm", "fqe"):
        warning = "; ".join(filter(None, ["the interval leaves out the errors of q", warning]))
    return Estimate(
        name,
        float(_ratio(numerators.sum(axis=0), denominators.sum(axis=0))),
        float(low),
        float(high),
        float(samples.std(ddof=1)),
        float(share),
        warning,
    )


def compare(logged: LoggedDecisions, names: list[str], **options: Any) -> pd.DataFrame:
    """Return a row for each estimator; options as for :func:`estimate`."""
    return pd.DataFrame([estimate(logged, name, **options) for name in names])


def _ratio(numerators: FloatArray, denominators: FloatArray) -> FloatArray:
    """Sum ratios over the last axis; a ratio of nothing is zero."""
    safe = np.where(denominators == 0, 1.0, denominators)
    return np.asarray(np.where(denominators == 0, 0.0, numerators / safe).sum(axis=-1))


def _per_decision(
    *, weighted: bool, normalised: bool, model: bool
) -> Callable[[LoggedDecisions, FloatArray, FloatArray, float], Terms]:
    """Return an estimator per decision: weighted rewards or errors, plus the model's mean."""

    def terms(d: LoggedDecisions, rho: FloatArray, q: FloatArray, _: float) -> Terms:
        counts = d.by_trajectory(np.ones(len(d)))
        found: list[Term] = []
        if weighted:
            residual = d.rewards - (q[np.arange(len(d)), d.actions] if model else 0.0)
            below = d.by_trajectory(rho) if normalised else counts
            found.append((d.by_trajectory(rho * residual), below))
        if model:
            found.append((d.by_trajectory((d.target * q).sum(axis=1)), counts))
        return found, rho if weighted else np.ones(len(d))

    return terms


def _trajectory_arrays(
    d: LoggedDecisions, rho: FloatArray, q: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return rewards, products of ratios before and after each step, Q and V, by trajectory.

    The rows are by trajectory and step. Trajectories that end early are continued with nothing: no
    reward, no value, ratio 1.
    """
    counts = np.bincount(d.codes)
    step = np.arange(len(d)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (d.n_trajectories, int(counts.max()))

    def table(values: FloatArray, filler: float) -> FloatArray:
        full = np.full(shape, filler)
        full[d.codes, step] = values
        return full

    after = table(rho, 1.0).cumprod(axis=1)
    before = np.concatenate([np.ones((shape[0], 1)), after[:, :-1]], axis=1)
    taken = table(q[np.arange(len(d)), d.actions], 0.0)
    return table(d.rewards, 0.0), before, after, taken, table((d.target * q).sum(axis=1), 0.0)


def _whole(*, normalised: bool) -> Callable[..., Terms]:
    def terms(d: LoggedDecisions, rho: FloatArray, q: FloatArray, discount: float) -> Terms:
        rewards, _, after, *_ = _trajectory_arrays(d, rho, q)
        returns = rewards @ discount ** np.arange(rewards.shape[1])
        weight = after[:, -1]
        return [(weight * returns, weight if normalised else np.ones(len(weight)))], weight

    return terms


def _stepwise(*, normalised: bool, model: bool) -> Callable[..., Terms]:
    def terms(d: LoggedDecisions, rho: FloatArray, q: FloatArray, discount: float) -> Terms:
        rewards, before, after, taken, values = _trajectory_arrays(d, rho, q)
        found: list[Term] = []
        for t in range(rewards.shape[1]):
            one = np.ones(len(rewards))
            factor = discount**t
            residual = rewards[:, t] - (taken[:, t] if model else 0.0)
            found.append((factor * after[:, t] * residual, after[:, t] if normalised else one))
            if model:
                now = before[:, t]
                found.append((factor * now * values[:, t], now if normalised else one))
        return found, after[:, -1]

    return terms


def _start(d: LoggedDecisions, rho: FloatArray, q: FloatArray, _: float) -> Terms:
    """Return the model's values at the first steps: fitted Q evaluation."""
    values = _trajectory_arrays(d, rho, q)[-1][:, 0]
    return [(values, np.ones(len(values)))], np.ones(len(values))


def _marginal(*, model: bool) -> Callable[..., Terms]:
    """Return an estimator with state-action weights, whose discount is in them."""

    def terms(d: LoggedDecisions, w: FloatArray, q: FloatArray, discount: float) -> Terms:
        one = np.ones(d.n_trajectories)
        if not model:
            return [(d.by_trajectory(w * d.rewards), one)], w
        values = (d.target * q).sum(axis=1)
        follows = np.append(d.codes[1:] == d.codes[:-1], False)
        ahead = np.where(follows, np.roll(values, -1), 0.0)
        errors = d.rewards + discount * ahead - q[np.arange(len(d)), d.actions]
        first = np.append(True, ~follows[:-1])
        return [(values[first] + d.by_trajectory(w * errors), one)], w

    return terms


ESTIMATORS: dict[str, Callable[[LoggedDecisions, FloatArray, FloatArray, float], Terms]] = {
    "dm": _per_decision(weighted=False, normalised=False, model=True),
    "is": _per_decision(weighted=True, normalised=False, model=False),
    "snips": _per_decision(weighted=True, normalised=True, model=False),
    "dr": _per_decision(weighted=True, normalised=False, model=True),
    "wdr": _per_decision(weighted=True, normalised=True, model=True),
    "trajectory_is": _whole(normalised=False),
    "trajectory_wis": _whole(normalised=True),
    "pdis": _stepwise(normalised=False, model=False),
    "wpdis": _stepwise(normalised=True, model=False),
    "trajectory_dr": _stepwise(normalised=False, model=True),
    "trajectory_wdr": _stepwise(normalised=True, model=True),
    "fqe": _start,
    "mis": _marginal(model=False),
    "drl": _marginal(model=True),
}
