r"""Evaluation by state-action weights and linear Q, and fitted Q evaluation with its own errors.

The product of a trajectory's ratios has a variance that grows exponentially with its length. The
ratio of how often target and behaviour are in a state and act so,

.. math:: w(s, a) = \frac{\sum_t \gamma^t d^\pi_t(s, a)}{\sum_t d^{\pi_b}_t(s, a)},

does not (Liu, Li, Tang and Zhou, NeurIPS 2018), and no propensities are needed for it. With
features :math:`\phi(s, a)`, both w and Q solve linear equations of one matrix (minimax weight
learning: Uehara, Huang and Jiang, ICML 2020; LSTD-Q: Lagoudakis and Parr, JMLR 2003),

.. math:: A = \sum \phi \, (\phi - \gamma \phi'_\pi)^\top, \qquad A \beta = \sum \phi \, r, \qquad
          A^\top \theta = \sum_{\text{trajectories}} \phi_\pi(s_0),

sums over logged decisions, :math:`\phi_\pi(s) = \sum_a \pi(a | s) \phi(s, a)`, and
:math:`\phi'_\pi` that of the next state, 0 at the end of a trajectory. They are right as far as the
features hold Q and w; double reinforcement learning (``"drl"``: Kallus and Uehara, JMLR 2020) is
right if either does, and to first order its interval includes the errors of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm
from sklearn.model_selection import GroupKFold

from milp_rl.evaluation.logged import LoggedDecisions
from milp_rl.evaluation.ope import Estimate, low_sample_warning
from milp_rl.evaluation.outcome_models import action_table
from milp_rl.formulations.arrays import FloatArray, IntArray

_STREAM = 7_304
_LEAST_SEEN = 1e-9  # of the squares of combined features, relative to the largest; less is rounding


@dataclass(frozen=True, eq=False)
class LinearModels:
    """What :func:`linear_models` learnt.

    Attributes
    ----------
    q
        Q of the target policy, shape (N, A), for ``estimate(..., q=q)``.
    weights
        The state-action weights of the logged decisions, shape (N,), for
        ``estimate(..., weights=weights)``; those of a few may be negative.
    """

    q: FloatArray
    weights: FloatArray


def linear_models(
    logged: LoggedDecisions,
    state_features: ArrayLike | None = None,
    action_features: ArrayLike | None = None,
    *,
    discount: float = 0.99,
    ridge: float = 10.0,
    folds: int = 5,
) -> LinearModels:
    """Learn Q and the state-action weights of the target policy by linear equations.

    Parameters
    ----------
    logged
        The decisions, with their steps.
    state_features
        Shape (N, k); by default the contexts and their squares, standardized. The features of a
        decision are all products of one of these, or 1, and one of the action's, or 1.
    action_features
        Features of each action, shape (A, f); by default one-hot actions.
    discount
        In [0, 1].
    ridge
        Added to the diagonal of A, each feature in units of its root mean square: as much as so
        many decisions; positive. What it takes off falls as 1/N. Combinations of features that no
        decision of a sample has count as 0 there, in Q and in the weights.
    folds
        Groups of trajectories for cross-fitting, at least 2: a trajectory is judged by models
        without it.

    Raises
    ------
    ValueError
        If an argument is out of range, or a trajectory lacks a step.

    Examples
    --------
    >>> import numpy as np
    >>> from milp_rl.evaluation.ope import LoggedDecisions, estimate
    >>> rng = np.random.default_rng(0)
    >>> patient, week = np.repeat(np.arange(200), 5), np.tile(np.arange(5), 200)
    >>> action = rng.integers(2, size=1000)
    >>> target = np.tile([0.1, 0.9], (1000, 1))  # worth 0.9 in each of five weeks
    >>> half = np.full(1000, 0.5)
    >>> logged = LoggedDecisions(week[:, None], action, action, half, target, patient, week)
    >>> models = linear_models(logged, np.eye(5)[week], discount=1.0)
    >>> found = estimate(logged, "drl", q=models.q, weights=models.weights, discount=1.0)
    >>> bool(found.low < 4.5 < found.high), round(found.effective_sample_size, 1)
    (True, 0.7)
    """
    p = _Problem.of(logged, state_features, action_features, discount, ridge)
    q, weights = np.empty(logged.target.shape), np.empty(len(logged))
    splits = GroupKFold(folds).split(p.phi, groups=p.codes)
    for train, rest in splits:
        counts = np.bincount(p.codes[train], minlength=p.n) > 0
        beta, theta = p.solved(counts.astype(np.float64))
        q[p.order[rest]] = p.q(beta, rest)
        weights[p.order[rest]] = p.phi[rest] @ theta
    return LinearModels(q, weights)


def bootstrapped_fqe(
    logged: LoggedDecisions,
    state_features: ArrayLike | None = None,
    action_features: ArrayLike | None = None,
    *,
    discount: float = 0.99,
    ridge: float = 10.0,
    level: float = 0.95,
    n_bootstraps: int = 100,
    seed: int = 0,
) -> Estimate:
    """Estimate a return by linear fitted Q evaluation, fitted anew in every bootstrap sample.

    Hao, Ji, Duan, Lu, Szepesvari and Wang, "Bootstrapping fitted Q-evaluation for off-policy
    inference" (ICML 2021). The interval has the errors of Q that more data would mend, not those of
    features that cannot hold it. The effective sample is that of the state-action weights.

    Parameters
    ----------
    logged, state_features, action_features, discount, ridge
        As for :func:`linear_models`.
    level, n_bootstraps, seed
        Level of the interval, normal with the standard deviation of the samples; their number, at
        least 2, and seed.

    Raises
    ------
    ValueError
        If an argument is out of range, or a trajectory lacks a step.
    """
    if not 0 < level < 1 or n_bootstraps < 2:
        raise ValueError("need 0 < level < 1 and n_bootstraps >= 2")
    p = _Problem.of(logged, state_features, action_features, discount, ridge)
    rng = np.random.default_rng([_STREAM, seed])
    one = np.ones(p.n)
    value = p.value(one)
    drawn = rng.multinomial(p.n, np.full(p.n, 1 / p.n), size=n_bootstraps)
    samples = np.array([p.value(counts.astype(np.float64)) for counts in drawn])
    error = float(samples.std(ddof=1))
    half = float(norm.isf((1 - level) / 2)) * error
    weights = p.phi @ p.solved(one)[1]
    share = float(weights.sum() ** 2 / (weights**2).sum() / len(weights))
    warning = low_sample_warning(share, len(weights), p.n)
    return Estimate("bootstrapped fqe", value, value - half, value + half, error, share, warning)


@dataclass(frozen=True, eq=False)
class _Problem:
    """The linear equations, rows by trajectory and step; features in units of their scale."""

    phi: FloatArray
    ahead: FloatArray  # of the next state under the target, 0 at the end
    start: FloatArray  # of the first states under the target, by trajectory
    rewards: FloatArray
    codes: IntArray
    order: IntArray
    state: FloatArray
    action: FloatArray
    discount: float
    ridge: float
    n: int
    scale: FloatArray  # root mean squares of the features

    @classmethod
    def of(
        cls,
        logged: LoggedDecisions,
        state_features: ArrayLike | None,
        action_features: ArrayLike | None,
        discount: float,
        ridge: float,
    ) -> _Problem:
        if not 0 <= discount <= 1 or not ridge > 0:
            raise ValueError(
                f"need 0 <= discount <= 1 and a positive ridge, got {discount} and {ridge}"
            )
        order = logged.order(trajectories=True)
        d = logged.rows(order)
        state = _default_features(d)
        if state_features is not None:
            state = np.asarray(state_features, dtype=np.float64)
        if state.ndim != 2 or len(state) != len(logged) or not np.isfinite(state).all():
            raise ValueError(
                f"state_features must be finite, with {len(logged)} rows, got {state.shape}"
            )
        if state_features is not None:
            state = state[order]
        s = np.column_stack([np.ones(len(d)), state])
        table = action_table(logged, action_features)
        a = np.column_stack([np.ones(len(table)), table])
        expected = _products(s, d.target @ a)
        follows = np.append(d.codes[1:] == d.codes[:-1], False)
        ahead = np.where(follows[:, None], np.roll(expected, -1, axis=0), 0.0)
        first = np.append(True, ~follows[:-1])
        phi = _products(s, a[d.actions])
        scale = np.sqrt((phi**2).mean(axis=0))
        scale[scale == 0] = 1.0
        return cls(
            phi / scale,
            ahead / scale,
            expected[first] / scale,
            d.rewards,
            d.codes,
            order,
            s,
            a,
            discount,
            ridge,
            d.n_trajectories,
            scale,
        )

    def solved(self, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return beta and theta with trajectories counted so often, shape (n,)."""
        weighted = self.phi * counts[self.codes][:, None]
        sizes, vectors = np.linalg.eigh(weighted.T @ self.phi)
        seen = vectors[:, sizes > _LEAST_SEEN * sizes[-1]]
        matrix = seen.T @ (weighted.T @ (self.phi - self.discount * self.ahead)) @ seen
        matrix += self.ridge * np.eye(len(matrix))
        beta = np.linalg.solve(matrix, seen.T @ (weighted.T @ self.rewards))
        theta = np.linalg.solve(matrix.T, (counts @ self.start) @ seen)
        return seen @ beta, seen @ theta

    def value(self, counts: FloatArray) -> float:
        beta, _ = self.solved(counts)
        return float(counts @ (self.start @ beta) / counts.sum())

    def q(self, beta: FloatArray, rows: IntArray) -> FloatArray:
        """Return Q of all actions, shape (rows, A)."""
        per_action = (beta / self.scale).reshape(self.state.shape[1], -1) @ self.action.T
        return np.asarray(self.state[rows] @ per_action)


def _products(states: FloatArray, actions: FloatArray) -> FloatArray:
    """Return all products of a feature of each, shape (N, k f)."""
    return np.asarray((states[:, :, None] * actions[:, None, :]).reshape(len(states), -1))


def _default_features(logged: LoggedDecisions) -> FloatArray:
    x = logged.contexts
    scaled = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)
    return np.column_stack([scaled, scaled**2])
