r"""Prices of shared limits, by Newton steps on a smoothed Lagrangian dual.

With the reduced values :math:`\rho_{ia}(\lambda) = q_{ia} - \sum_r \lambda_r f_{\phi(r) i} u_{ra}`,

.. math:: L_\tau(\lambda) = \lambda^T b + \sum_i \tau \log \sum_a e^{\rho_{ia}(\lambda) / \tau}

is convex and smooth, and tends to the Lagrangian bound as the temperature falls. With the
probabilities :math:`p_i = \mathrm{softmax}(\rho_i / \tau)`, its gradient is what is left of the
limits when everyone draws from :math:`p_i`, and its Hessian a sum of covariances of use, divided by
:math:`\tau` (Nesterov, "Smooth minimization of non-smooth functions", Mathematical Programming
103, 2005). Newton steps at falling temperatures on a weighted sample of patients give prices and a
Hessian; with that Hessian, a few steps on everyone remove the error of the sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg, optimize, sparse

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.time_limit import is_late
from milp_rl.offline.allocation_problem import AllocationProblem

_SAMPLE = 200_000  # choices
_UNCERTAIN = 500  # patients of the sample between two actions at the last temperature, or 5%
_CERTAIN = 0.982  # the larger of two probabilities whose reduced values differ by 4 temperatures


@dataclass(frozen=True, eq=False)
class SharedPrices:
    """Prices, shape (R,), and the temperature at which they are optimal, 0 for none."""

    prices: FloatArray
    temperature: float


@dataclass(frozen=True, eq=False)
class _Smoothed:
    value: float
    gradient: FloatArray
    hessian: FloatArray
    uncertain: int


def shared_prices(p: AllocationProblem) -> SharedPrices:
    """Return nearly optimal prices of the limits, those reached if the time limit passes."""
    sample = _sample(p, _SAMPLE)
    prices = np.zeros(len(p.most))
    temperature, few = 0.3 * p.unit, min(_UNCERTAIN, len(sample.q) // 20)
    while True:
        prices, at = _descend(sample, prices, temperature, steps=8)
        if at.uncertain <= few or temperature < 1e-7 * p.unit or is_late():
            break
        temperature /= 3
    if sample is not p and not is_late():
        ratio = sample.scale / p.scale
        metric = at.hessian * np.outer(ratio, ratio)
        prices, _ = _descend(p, prices, temperature, steps=4, metric=metric)
    return SharedPrices(prices, temperature)


def contradiction(p: AllocationProblem) -> tuple[FloatArray, FloatArray] | None:
    """Return prices that prove that no allocation keeps the limits, if a sample tells them.

    Also by how much each limit is broken at least, shape (R,), together as little as can be.
    """
    sample = _sample(p, _SAMPLE // 10)
    patients, actions = np.nonzero(np.isfinite(sample.q))
    n, rows, columns = len(sample.q), len(p.most), len(patients)
    weight = np.ones(n) if sample.weight is None else sample.weight
    one = sparse.csr_array((np.ones(columns), (patients, np.arange(columns))), shape=(n, columns))
    counted = sample.used_by(patients, actions) * weight[patients] / p.scale[:, None]
    below: Any = sparse.hstack([sparse.csr_array(counted), -sparse.eye_array(rows)])
    equal: Any = sparse.hstack([one, sparse.csr_array((n, rows))])
    costs = np.append(np.zeros(columns), np.ones(rows))
    found = optimize.linprog(costs, below, p.most / p.scale, equal, np.ones(n))
    if found.x is None:
        return None
    prices = np.maximum(-found.ineqlin.marginals, 0.0) / p.scale
    if not p.bound(prices, valued=False) < 0:
        return None
    return prices, np.asarray(found.x[columns:] * p.scale)


def _sample(p: AllocationProblem, choices: int) -> AllocationProblem:
    """Return patients drawn systematically, half by number and half by their factors.

    Patients of large factors, such as those of a small group under parity, are so never missing.
    """
    n, n_actions = p.q.shape
    size = max(2_000, choices // n_actions)
    if n <= 2 * size:
        return p
    share = np.full(n, 1.0 / n)
    own = [np.abs(f) for f in p.factors if f is not None and f.any()]
    for f in own:
        share += f / (f.sum() * len(own))
    total = np.cumsum(share)
    patients = np.searchsorted(total, (np.arange(size) + 0.5) * (total[-1] / size))
    patients = np.minimum(patients, n - 1)
    return p.sample(patients, total[-1] / (size * share[patients]))


def _smoothed(
    p: AllocationProblem, prices: FloatArray, temperature: float, *, curved: bool
) -> _Smoothed:
    """Return the smoothed dual, and its derivatives in prices per scale of each limit."""
    tariff = p.tariff(prices / p.scale)
    rows, (n_factors, n_actions) = len(p.most), tariff.shape
    table, hessian = np.zeros((n_factors, n_actions)), np.zeros((rows, rows))
    value, uncertain = float(prices / p.scale @ p.most), 0
    uses, number = np.unique(p.use, axis=1, return_inverse=True)
    kind = np.eye(uses.shape[1])[number.ravel()]
    stands = float(len(p.q) if p.weight is None else p.weight.sum())
    for patients in p.chunks():
        factor = p.factor(patients)
        chance = p.q[patients] - factor.T @ tariff
        top = chance.max(axis=1, keepdims=True)
        chance -= top
        chance /= temperature
        np.exp(chance, out=chance)
        total = chance.sum(axis=1, keepdims=True)
        chance /= total
        worth = (top + temperature * np.log(total))[:, 0]
        if p.weight is not None:
            worth *= p.weight[patients]
        value += float(worth.sum())
        weighted = factor if p.weight is None else factor * p.weight[patients]
        table += weighted @ chance
        if curved:
            uncertain += int((total[:, 0] > 1 / _CERTAIN).sum())
            alike = chance @ kind  # actions of the same use count together
            for a, use in enumerate(uses.T):
                pairs = (weighted * alike[:, a]) @ factor.T
                hessian += pairs[np.ix_(p.factor_of, p.factor_of)] * np.outer(use, use)
            mean = factor[p.factor_of] * (uses @ alike.T)
            hessian -= (mean if p.weight is None else mean * p.weight[patients]) @ mean.T
    return _Smoothed(
        value,
        (p.most - p.counted(table)) / p.scale,
        (hessian / np.outer(p.scale, p.scale) + 1e-9 * stands * np.eye(rows)) / temperature,
        uncertain,
    )


def _descend(
    p: AllocationProblem,
    prices: FloatArray,
    temperature: float,
    *,
    steps: int,
    metric: FloatArray | None = None,
) -> tuple[FloatArray, _Smoothed]:
    """Return prices after Newton steps, with a given Hessian or that of each point."""
    scaled = prices * p.scale
    highest = 1e4 * p.unit
    curved = metric is None
    at = _smoothed(p, scaled, temperature, curved=curved)
    for _ in range(steps):
        if is_late():
            break
        goal = _lowest(scaled, at.gradient, at.hessian if metric is None else metric)
        step = np.minimum(goal, highest) - scaled
        slope = float(at.gradient @ step)
        if not slope < -(1e-6 if curved else 1e-9) * (abs(at.value) + p.unit):
            break
        length = 1.0
        while length > 1e-3 and not is_late():
            new = _smoothed(p, scaled + length * step, temperature, curved=curved)
            if new.value <= at.value + 1e-2 * length * slope:
                break
            length /= 2
        else:
            break
        scaled, at = scaled + length * step, new
    return scaled / p.scale, at


def _lowest(prices: FloatArray, gradient: FloatArray, hessian: FloatArray) -> FloatArray:
    """Return the nonnegative prices at which the quadratic model is lowest."""
    sizes, axes = linalg.eigh(hessian)
    root = np.sqrt(np.maximum(sizes, max(1e-7 * sizes.max(), np.finfo(float).tiny)))
    # |root (axes' prices) - target|^2 / 2 is the model, up to a constant.
    target = root * (axes.T @ prices) - (axes.T @ gradient) / root
    return np.asarray(optimize.nnls(root[:, None] * axes.T, target)[0])
