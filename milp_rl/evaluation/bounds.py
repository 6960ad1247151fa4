r"""Bounds on the value of a policy that hold with high confidence, whatever the distribution.

Thomas, Theocharous and Ghavamzadeh, "High-confidence off-policy evaluation" (AAAI 2015). Returns
are scaled to [0, 1] and weighted by the products of ratios; weighted returns cut off at c have at
most the mean of those that are not, and of n of them with variance v (Maurer and Pontil 2009)

.. math:: E \ge \bar X - \sqrt{\frac{2 v \ln(2 / \delta)}{n}}
          - \frac{7 c \ln(2 / \delta)}{3 (n - 1)}

with probability :math:`1 - \delta`. The upper bound is that of one minus the return. What is
assumed is only that returns lie where they are said to and that propensities are right.
"""

from __future__ import annotations

import numpy as np

from milp_rl.evaluation.logged import LoggedDecisions
from milp_rl.evaluation.ope import Estimate, estimate
from milp_rl.formulations.arrays import FloatArray

_STREAM = 7_305
_FIRST_SHARE = 0.05
_CUTS = np.geomspace(0.1, 100.0, 31)


def high_confidence_bounds(
    logged: LoggedDecisions,
    returns: tuple[float, float],
    *,
    discount: float = 0.99,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Bound the return of the target policy from below and above.

    Parameters
    ----------
    logged
        The decisions, at least 40 trajectories of them.
    returns
        Least and largest discounted return that is possible.
    discount
        In [0, 1].
    level
        Probability with which both bounds hold, in (0, 1).
    seed
        Seed of the twentieth of the trajectories that chooses where to cut off, and is used for
        nothing else.

    Returns
    -------
    Estimate
        Its value is that of importance sampling over whole trajectories, moved into the bounds.

    Raises
    ------
    ValueError
        If an argument is out of range, a return is, or a trajectory lacks a step.
    """
    least, largest = returns
    if not least < largest or not 0 < level < 1:
        raise ValueError(f"need least < largest and 0 < level < 1, got {returns} and {level}")
    if logged.n_trajectories < 40:
        raise ValueError(f"need at least 40 trajectories, got {logged.n_trajectories}")
    d = logged.rows(logged.order(trajectories=True))
    begins = np.flatnonzero(np.append(True, d.codes[1:] != d.codes[:-1]))
    step = np.arange(len(d)) - np.repeat(begins, np.diff(np.append(begins, len(d))))
    earned = np.add.reduceat(d.rewards * discount**step, begins)
    outside = (earned < least - 1e-9) | (earned > largest + 1e-9)
    if outside.any():
        row = int(begins[np.argmax(outside)])
        raise ValueError(
            f"trajectory {d.trajectory[row]!r} has the return {earned[np.argmax(outside)]:g}, not"
            f" in [{least:g}, {largest:g}]"
        )
    weights = np.multiply.reduceat(d.ratios(), begins)
    scaled = (earned - least) / (largest - least)
    shuffled = np.random.default_rng([_STREAM, seed]).permutation(len(begins))
    n_first = max(2, round(_FIRST_SHARE * len(begins)))
    first, rest = shuffled[:n_first], shuffled[n_first:]
    delta = (1 - level) / 2

    def lower(outcomes: FloatArray) -> float:
        weighted = weights * outcomes
        chosen = [lower_bound(weighted[first], c, delta, n=len(rest)) for c in _CUTS]
        cut = float(_CUTS[int(np.argmax(chosen))])
        return max(lower_bound(weighted[rest], cut, delta), 0.0)

    low, high = lower(scaled), 1 - lower(1 - scaled)
    plain = estimate(logged, "trajectory_is", discount=discount, n_bootstraps=2, seed=seed)
    low, high = (least + (largest - least) * bound for bound in (low, high))
    return Estimate(
        "high-confidence bounds",
        float(np.clip(plain.value, low, high)),
        low,
        high,
        float("nan"),
        plain.effective_sample_size,
    )


def lower_bound(values: FloatArray, cut: float, delta: float, *, n: int | None = None) -> float:
    """Return the empirical Bernstein bound of a mean of nonnegative values, cut off.

    Parameters
    ----------
    values
        A sample, at least 2.
    cut
        Where it is cut off, positive; chosen without looking at it.
    delta
        Probability with which the bound may be wrong, in (0, 1).
    n
        Size of the sample that the bound is predicted for; by default that of this one.
    """
    x = np.minimum(values, cut)
    size = len(x) if n is None else n
    term = np.log(2 / delta)
    spread = np.sqrt(2 * x.var(ddof=1) * term / size)
    return float(x.mean() - spread - 7 * cut * term / (3 * (size - 1)))
