r"""Off-policy evaluation: what a policy would have been worth, from decisions of another.

Every estimator here is a sum of ratios of means over patients, so that one patient-level bootstrap
serves them all. *Per decision*, the value is the mean reward of a decision in the logged contexts
had the policy taken it; with :math:`\rho = \pi / \pi_b`, the doubly robust estimator is

.. math:: V = E[\rho \, (Y - Q(X, A))] + E[\sum_a \pi(a | X) \, Q(X, a)],

(Dudik, Langford and Li, ICML 2011): right if the propensities or the outcome model is. *Per
trajectory*, the value is the discounted sum of rewards of an episode (Jiang and Li, ICML 2016;
Thomas and Brunskill, ICML 2016).

Nothing depends on the order of the rows: models and estimates are made in an order of their own, by
patient and step. Only where no steps are given is a patient's trajectory in the order of its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from milp_rl.envs.sampling import draw_each
from milp_rl.formulations.arrays import FloatArray, IntArray

_STREAM = 7_303

Term = tuple[FloatArray, FloatArray]  # a numerator and a denominator for each patient
Estimator = Literal[
    "dm", "is", "snis", "dr", "wdr", "trajectory_is", "trajectory_wis", "pdis", "wpdis",
    "trajectory_dr", "trajectory_wdr",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class LoggedDecisions:
    """Decisions of a behaviour policy, and what a target policy would do in their place.

    Parameters
    ----------
    contexts
        Shape (N, d), finite.
    actions
        Number of each action taken, shape (N,), 0..A-1.
    rewards
        Shape (N,), finite.
    propensities
        Probability with which each action was taken, shape (N,), in (0, 1].
    target
        Probabilities of the target policy, shape (N, A).
    patients
        Whose decision it was, any values that can be sorted, shape (N,): decisions of one are
        resampled together, and are its trajectory.
    steps
        Number of each decision in its patient's trajectory, 0, 1, ..., shape (N,); by default a
        patient's rows must be in the order of time (those of others may lie between them).

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range; if a patient has a step twice.
    """

    contexts: FloatArray
    actions: NDArray[np.intp]
    rewards: FloatArray
    propensities: FloatArray
    target: FloatArray
    patients: NDArray[Any]
    steps: NDArray[np.intp] | None = None

    def __post_init__(self) -> None:
        for name in ("contexts", "rewards", "propensities", "target"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite")
            object.__setattr__(self, name, values)
        n = len(self.actions)
        object.__setattr__(self, "patients", np.asarray(self.patients))
        for name in ("contexts", "rewards", "propensities", "target", "patients"):
            if len(getattr(self, name)) != n or not n:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, actions {n}")
        if self.contexts.ndim != 2 or self.target.ndim != 2:
            raise ValueError("contexts and target must be tables")
        actions = np.asarray(self.actions)
        if not ((actions >= 0) & (actions < self.n_actions)).all():
            raise ValueError(f"actions must be 0..{self.n_actions - 1}")
        object.__setattr__(self, "actions", actions.astype(np.intp))
        low = int(np.argmin(self.propensities))
        if not self.propensities[low] > 0 or self.propensities.max() > 1 + 1e-9:
            raise ValueError(
                f"propensities must be in (0, 1]: row {low} has {self.propensities[low]:g}"
            )
        sums = self.target.sum(axis=1)
        if (self.target < -1e-9).any() or np.abs(sums - 1).max() > 1e-4:
            raise ValueError("the rows of target must be probabilities")
        if (self.codes < 0).any():
            raise ValueError(f"patients must not be missing: row {int(self.codes.argmin())} is")
        if self.steps is not None:
            object.__setattr__(self, "steps", self._checked_steps())

    def _checked_steps(self) -> IntArray:
        """Return the steps as integers, or raise ``ValueError`` with the first wrong row."""
        steps = np.asarray(self.steps, dtype=np.float64)
        if steps.shape != (len(self),):
            raise ValueError(f"steps has shape {steps.shape}, actions {len(self)} rows")
        wrong = ~((steps >= 0) & (steps == np.floor(steps)) & (steps < 2**31))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(f"steps must be 0, 1, ...: row {row} has {steps[row]:g}")
        order = np.lexsort((steps, self.codes))
        one, two = order[:-1], order[1:]
        twice = (steps[one] == steps[two]) & (self.codes[one] == self.codes[two])
        if twice.any():
            i = int(np.argmax(twice))
            raise ValueError(
                f"patient {_plain(self.patients[two[i]])!r} has step {int(steps[two[i]])} twice, in"
                f" rows {one[i]} and {two[i]}"
            )
        return steps.astype(np.intp)

    @cached_property
    def codes(self) -> IntArray:
        """Position of each row's patient among the sorted ones, shape (N,)."""
        try:
            return np.asarray(pd.factorize(self.patients, sort=True)[0])
        except TypeError as error:
            raise ValueError(f"patients cannot be sorted: {error}") from error

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def n_actions(self) -> int:
        """Number of actions A."""
        return int(self.target.shape[1])

    @property
    def n_patients(self) -> int:
        """Number of patients."""
        return int(self.codes.max()) + 1

    def ratios(self, truncation: float | None = None) -> FloatArray:
        """Return pi / pi_b of each decision, at most ``truncation``."""
        rho = self.target[np.arange(len(self)), self.actions] / self.propensities
        return np.asarray(rho if truncation is None else np.minimum(rho, truncation))

    def by_patient(self, values: FloatArray) -> FloatArray:
        """Sum over the decisions of each patient."""
        sums: FloatArray = np.bincount(self.codes, values, self.n_patients).astype(np.float64)
        return sums

    def rows(self, keep: ArrayLike) -> LoggedDecisions:
        """Return some of the decisions."""
        k = np.asarray(keep)
        return LoggedDecisions(
            self.contexts[k],
            self.actions[k],
            self.rewards[k],
            self.propensities[k],
            self.target[k],
            self.patients[k],
            None if self.steps is None else self.steps[k],
        )

    def order(self, *, trajectories: bool) -> IntArray:
        """Return the rows by patient and step, which is the same whatever their order is.

        Parameters
        ----------
        trajectories
            Whether the steps of a patient must be 0, 1, ... without gaps. Without steps, a
            patient's rows are then as they are; otherwise sorted by what is logged.

        Raises
        ------
        ValueError
            If a step is missing.
        """
        if self.steps is None and trajectories:
            return np.argsort(self.codes, kind="stable")
        if self.steps is None:
            logged = (self.propensities, self.rewards, self.actions)
            return np.lexsort((*logged, *self.contexts.T, self.codes))
        order = np.lexsort((self.steps, self.codes))
        if trajectories:
            counts = np.bincount(self.codes)
            expected = np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)
            missing = self.steps[order] != expected
            if missing.any():
                i = int(np.argmax(missing))
                row = order[i]
                raise ValueError(
                    f"patient {_plain(self.patients[row])!r} has no step {expected[i]}: the next is"
                    f" {self.steps[row]}, in row {row}; trajectories need steps 0, 1, ... without"
                    " gaps"
                )
        return order


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval.

    ``effective_sample_size`` is that of the importance weights, as a share of the decisions (or, of
    trajectories), from 0 to 1: (sum w)^2 / (n sum w^2). 1 for the direct method, which has none.
    """

    estimator: str
    value: float
    low: float
    high: float
    standard_error: float
    effective_sample_size: float


def estimate(
    logged: LoggedDecisions,
    estimator: Estimator = "dr",
    *,
    q: FloatArray | None = None,
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
        Per decision: ``"dm"`` direct method, ``"is"`` importance sampling, ``"snis"``
        self-normalised, ``"dr"`` doubly robust, ``"wdr"`` doubly robust with self-normalised
        weights. Per trajectory: ``"trajectory_is"`` and ``"trajectory_wis"`` with the product of
        all ratios, ``"pdis"`` and ``"wpdis"`` per decision of it, ``"trajectory_dr"`` and
        ``"trajectory_wdr"``.
    q
        Outcome model Q(X, a), shape (N, A): of the reward for estimators per decision
        (:func:`outcome_model`), of the return for those per trajectory (:func:`fitted_q`).
    truncation
        Largest ratio pi / pi_b.
    discount
        Discount factor of trajectories, in [0, 1].
    level
        Level of the confidence interval, by the percentiles of a bootstrap over patients.
    n_bootstraps
        Bootstrap samples.
    seed
        Seed of the bootstrap.

    Raises
    ------
    ValueError
        If the estimator is unknown, or needs ``q``, or ``q`` has the wrong shape or is not finite;
        if it is one per trajectory and a patient lacks a step.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator {estimator!r}; known are {', '.join(ESTIMATORS)}")
    if truncation is not None and not truncation > 0:
        raise ValueError(f"truncation must be positive, got {truncation}")
    if not 0 < level < 1 or not 0 <= discount <= 1 or n_bootstraps < 2:
        raise ValueError("need 0 < level < 1, 0 <= discount <= 1 and n_bootstraps >= 2")
    needs_q = estimator == "dm" or estimator.endswith("dr")
    if needs_q and (q is None or q.shape != logged.target.shape):
        shape = None if q is None else q.shape
        raise ValueError(f"{estimator!r} needs q of shape {logged.target.shape}, got {shape}")
    if q is not None and not np.isfinite(q).all():
        row = int(np.argmin(np.isfinite(q).all(axis=1)))
        raise ValueError(f"q must be finite: row {row} has {q[row]}")
    order = logged.order(trajectories=estimator not in _PER_DECISION)
    values = np.zeros(logged.target.shape) if q is None else q
    d = logged.rows(order)
    terms, weights = ESTIMATORS[estimator](d, d.ratios(truncation), values[order], discount)
    numerators = np.stack([numerator for numerator, _ in terms], axis=1)
    denominators = np.stack([denominator for _, denominator in terms], axis=1)
    # Not the stream of the same seed that the data may have been drawn with.
    rng = np.random.default_rng([_STREAM, seed])
    n = logged.n_patients
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstraps).astype(np.float64)
    samples = _ratio(drawn @ numerators, drawn @ denominators)
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    total = weights.sum() ** 2 / max(float((weights**2).sum()), 1e-300) / len(weights)
    return Estimate(
        estimator,
        float(_ratio(numerators.sum(axis=0), denominators.sum(axis=0))),
        float(low),
        float(high),
        float(samples.std(ddof=1)),
        float(total),
    )


def compare(logged: LoggedDecisions, names: list[Estimator], **options: Any) -> pd.DataFrame:
    """Return a row for each estimator; options as for :func:`estimate`."""
    return pd.DataFrame([estimate(logged, name, **options) for name in names])


def outcome_model(
    logged: LoggedDecisions,
    action_features: ArrayLike | None = None,
    *,
    model: Any = None,
    folds: int = 5,
    seed: int = 0,
) -> FloatArray:
    """Predict the reward of every action in every context, each patient by a model without it.

    Parameters
    ----------
    logged
        The decisions.
    action_features
        Features of each action, shape (A, f), such as one-hot levels; by default one-hot actions.
    model
        A scikit-learn regressor; by default gradient-boosted trees.
    folds
        Groups of patients for cross-fitting, at least 2.
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
    features = _action_features(logged, action_features)
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
    patients: ArrayLike,
    *,
    folds: int = 5,
    inverse_penalty: float = 0.03,
) -> FloatArray:
    """Estimate the probabilities of all actions by cross-fitted logistic regression.

    Parameters
    ----------
    contexts, actions, patients
        As in :class:`LoggedDecisions`.
    folds
        Groups of patients, at least 2.
    inverse_penalty
        scikit-learn's ``C``: the smaller, the closer to the actions' shares. Too large a value
        makes some estimates too small, and their ratios too large.

    Returns
    -------
    numpy.ndarray
        Shape (N, largest action + 1); an action that a fold's training rows lack gets the share of
        half a decision.
    """
    x, a = np.asarray(contexts, dtype=np.float64), np.asarray(actions)
    codes = pd.factorize(np.asarray(patients), sort=True)[0]
    if len(x) != len(a) or len(codes) != len(a):
        raise ValueError(f"got {len(x)} contexts, {len(a)} actions and {len(codes)} patients")
    order = np.lexsort((a, *x.T, codes))  # whatever the order of the rows, the same
    x, a, codes = x[order], a[order], codes[order]
    probabilities = np.full((len(a), int(a.max()) + 1), 0.5 / len(a))
    for train, rest in GroupKFold(folds).split(x, groups=codes):
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
    iterations: int = 20,
    model: Any = None,
    folds: int = 2,
    seed: int = 0,
) -> FloatArray:
    """Predict the discounted return of the target policy after every action (fitted Q evaluation).

    Le, Voloshin and Yue, ICML 2019; each patient by a model without it. The next action is drawn
    from the target policy anew in every iteration.

    Parameters
    ----------
    logged, action_features, model, folds, seed
        As for :func:`outcome_model`.
    discount
        In [0, 1].
    iterations
        Regressions, at least 1: how many steps ahead are looked.

    Raises
    ------
    ValueError
        If ``iterations`` is below 1, or a patient lacks a step.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    default = HistGradientBoostingRegressor(
        max_iter=60, learning_rate=0.15, min_samples_leaf=30, random_state=seed
    )
    regressor = default if model is None else model
    features = _action_features(logged, action_features)
    rng = np.random.default_rng(seed)
    order = logged.order(trajectories=True)
    d = logged.rows(order)
    x = np.concatenate([d.contexts, features[d.actions]], axis=1)
    follows = np.append(d.codes[1:] == d.codes[:-1], False)
    q = np.empty(d.target.shape)
    for train, rest in GroupKFold(folds).split(x, groups=d.codes):
        going_on = train[follows[train]]
        fitted: Any = None
        for _ in range(iterations):
            wanted = d.rewards.copy()
            if fitted is not None and len(going_on):
                drawn = draw_each(d.target[going_on + 1], rng)
                following = [d.contexts[going_on + 1], features[drawn]]
                wanted[going_on] += discount * fitted.predict(np.concatenate(following, axis=1))
            fitted = clone(regressor).fit(x[train], wanted[train])
        q[order[rest]] = predict_all(fitted, d.contexts[rest], features)
    return q


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _action_features(logged: LoggedDecisions, features: ArrayLike | None) -> FloatArray:
    table = np.eye(logged.n_actions) if features is None else np.asarray(features, dtype=float)
    if table.ndim != 2 or len(table) != logged.n_actions:
        raise ValueError(f"action_features must have {logged.n_actions} rows, got {table.shape}")
    return table


def _ratio(numerators: FloatArray, denominators: FloatArray) -> FloatArray:
    """Sum ratios over the last axis; a ratio of nothing is zero."""
    safe = np.where(denominators == 0, 1.0, denominators)
    return np.asarray(np.where(denominators == 0, 0.0, numerators / safe).sum(axis=-1))


Terms = tuple[list[Term], FloatArray]


def _per_decision(
    *, weighted: bool, normalised: bool, model: bool
) -> Callable[[LoggedDecisions, FloatArray, FloatArray, float], Terms]:
    """Return an estimator per decision: weighted rewards or errors, plus the model's mean."""

    def terms(d: LoggedDecisions, rho: FloatArray, q: FloatArray, _: float) -> Terms:
        counts = d.by_patient(np.ones(len(d)))
        found: list[Term] = []
        if weighted:
            residual = d.rewards - (q[np.arange(len(d)), d.actions] if model else 0.0)
            below = d.by_patient(rho) if normalised else counts
            found.append((d.by_patient(rho * residual), below))
        if model:
            found.append((d.by_patient((d.target * q).sum(axis=1)), counts))
        return found, rho if weighted else np.ones(len(d))

    return terms


def _trajectory_arrays(
    d: LoggedDecisions, rho: FloatArray, q: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return rewards, products of ratios before and after each step, Q and V, (patients, steps).

    The rows are by patient and step. Trajectories that end early are continued with nothing: no
    reward, no value, ratio 1.
    """
    counts = np.bincount(d.codes)
    step = np.arange(len(d)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (d.n_patients, int(counts.max()))

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


_PER_DECISION = ("dm", "is", "snis", "dr", "wdr")
ESTIMATORS: dict[str, Callable[[LoggedDecisions, FloatArray, FloatArray, float], Terms]] = {
    "dm": _per_decision(weighted=False, normalised=False, model=True),
    "is": _per_decision(weighted=True, normalised=False, model=False),
    "snis": _per_decision(weighted=True, normalised=True, model=False),
    "dr": _per_decision(weighted=True, normalised=False, model=True),
    "wdr": _per_decision(weighted=True, normalised=True, model=True),
    "trajectory_is": _whole(normalised=False),
    "trajectory_wis": _whole(normalised=True),
    "pdis": _stepwise(normalised=False, model=False),
    "wpdis": _stepwise(normalised=True, model=False),
    "trajectory_dr": _stepwise(normalised=False, model=True),
    "trajectory_wdr": _stepwise(normalised=True, model=True),
}
