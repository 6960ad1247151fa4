r"""A Q-network that all women share, fitted to logged weeks.

The problem of all women comes apart at a price :math:`\lambda` of a call (Lagrangian relaxation;
Hawkins, "A Langrangian decomposition approach to weakly coupled dynamic optimization problems",
2003; Adelman and Mersereau, Operations Research 56, 2008). A call that is answered with probability
:math:`\rho` mixes the two chains, so that the value is linear in :math:`\rho`:

.. math:: Q(x, \rho) = V(x) + \rho\, A(x), \qquad
          Q(x, \rho) = E[r + \gamma \max\{V(x'), V(x') + \rho' A(x') - \lambda\}].

V and A are the two outputs of one network of a woman's belief, rest and cluster, whose hidden layer
is fixed: ReLUs of the belief, one set for each cluster (each value is piecewise linear in the
belief, as that of a partially observed process is). Its output layer is fitted by least squares, so
that fitted Q iteration on single weeks of women (Ernst, Geurts and Wehenkel, "Tree-based batch mode
reinforcement learning", JMLR 6, 2005) needs no steps of a gradient and no seed; the price of each
iteration is that at which as many calls pay as may be made. No environment is played and no
transition probability is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.baselines.engagement import DISCOUNT, MatchedCalls
from milp_rl.envs.engagement import Engagement
from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.offline.engagement.data import CallLog

_KNOTS = np.array([0.25, 0.5, 0.75])
_HIDDEN = 3 + len(_KNOTS)  # constant, belief, rest, and a ReLU at each knot
_RIDGE = 1.0  # rows of zeros that each weight is fitted to besides


@dataclass(frozen=True, eq=False)
class CallValues:
    """V and A of a woman, from belief, rest and cluster.

    Parameters
    ----------
    value, gain
        Output weights of V and A, by cluster, shape (C, H) and (C, 2): A is of a constant and the
        belief.
    price
        The price of a call at which as many pay as may be made.
    """

    value: FloatArray
    gain: FloatArray
    price: float

    def advantage(self, belief: ArrayLike, cluster: ArrayLike) -> FloatArray:
        """Return what a call that is answered is worth, shape (N,)."""
        own = self.gain[np.asarray(cluster)]
        return np.asarray(own[..., 0] + own[..., 1] * np.asarray(belief, dtype=np.float64))


def fit_call_values(
    log: CallLog,
    share: float,
    *,
    n_clusters: int | None = None,
    discount: float = DISCOUNT,
    iterations: int = 300,
) -> CallValues:
    """Fit V and A to logged weeks.

    Parameters
    ----------
    log
        The weeks, with calls and without.
    share
        Calls that may be made in a week, as a share of the women, in (0, 1).
    n_clusters
        Number of clusters; by default one more than the largest logged.
    discount
        Discount factor, in [0, 1).
    iterations
        Iterations of fitted Q, at least 1.

    Raises
    ------
    ValueError
        If a cluster of women who can be called was never called, or always, in the log, or a value
        is out of range.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    if not 0 <= discount < 1 or iterations < 1:
        raise ValueError(
            f"need discount in [0, 1) and iterations of at least 1, got {discount}, {iterations}"
        )
    cluster = log.clusters
    n = int(cluster.max()) + 1 if n_clusters is None else n_clusters
    rho = log.column("reach")
    can = log.column("places") > 0
    for c in np.unique(cluster[can]):
        calls = int((rho[cluster == c] > 0).sum())
        weeks = int((cluster == c).sum())
        if not 0 < calls < weeks:
            raise ValueError(
                f"cluster {c} has {calls} calls in {weeks} logged weeks: what a call is worth can"
                " only be learnt from weeks with calls and weeks without"
            )
    belief, following = log.column("belief"), log.column("next_belief")
    hidden = _hidden(belief, log.column("rest"))
    after = _hidden(following, log.column("next_rest"))
    inputs = np.hstack([hidden, rho[:, None], (rho * belief)[:, None]])
    solvers = [_least_squares(inputs[cluster == c]) for c in range(n)]
    may = (log.column("next_rest") == 0) & (log.column("places") > 0)
    usual = float(rho[rho > 0].mean())  # of the next call, which is not known yet
    found = CallValues(np.zeros((n, _HIDDEN)), np.zeros((n, 2)), 0.0)
    for _ in range(iterations):
        worth = np.where(may, usual * found.advantage(following, cluster), 0.0)
        price = max(float(np.quantile(worth, 1 - share)), 0.0)
        later = (after * found.value[cluster]).sum(axis=1) + np.maximum(worth - price, 0.0)
        target = following + discount * later
        weights = _fitted(solvers, cluster, target)
        found = CallValues(weights[:, :_HIDDEN], weights[:, _HIDDEN:], price)
    return found


def _hidden(belief: FloatArray, rest: FloatArray) -> FloatArray:
    bent = np.maximum(belief[:, None] - _KNOTS, 0.0)
    return np.column_stack([np.ones_like(belief), belief, rest, bent])


def _least_squares(x: FloatArray) -> FloatArray:
    """Return the matrix that takes targets to weights; of a constant, no weight is held small."""
    held = _RIDGE * np.eye(x.shape[1])
    held[0, 0] = 1e-9
    return np.asarray(np.linalg.solve(x.T @ x + held, x.T))


def _fitted(solvers: list[FloatArray], cluster: IntArray, target: FloatArray) -> FloatArray:
    return np.array([solve @ target[cluster == c] for c, solve in enumerate(solvers)])


def learnt_calls(env: Engagement, network: CallValues) -> MatchedCalls:
    """Return the policy of the best matching by what calls are worth to the network."""

    def values(state: FloatArray) -> FloatArray:
        worth = network.advantage(state[0::2], env.women.cluster)
        return np.asarray(worth[:, None] * env.reach)

    return MatchedCalls(env, values)
