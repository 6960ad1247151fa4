"""The fractional knapsack: a bound shared by the blocks with costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray


def fractional_knapsack(
    coefficients: FloatArray,
    costs: FloatArray,
    budget: float,
    fixed_one: NDArray[np.bool_] | None = None,
    fixed_zero: NDArray[np.bool_] | None = None,
) -> FloatArray:
    """Maximise ``coefficients @ x`` over ``costs @ x <= budget``, ``0 <= x <= 1``, batched.

    Items are taken by value per cost, the last one in part (Dantzig 1957).

    Parameters
    ----------
    coefficients
        Shape (batch, items).
    costs
        Nonnegative, shape (items,).
    budget
        Nonnegative.
    fixed_one, fixed_zero
        Masks of items held at one or zero, shape (batch, items).

    Returns
    -------
    numpy.ndarray
        Shape (batch,); ``-inf`` where the items held at one exceed the budget.
    """
    x, left = knapsack_fractions(coefficients, costs, budget, fixed_one, fixed_zero)
    bound = (coefficients * x).sum(axis=1)
    bound[left < -1e-9] = -np.inf
    if fixed_one is not None and fixed_zero is not None:
        bound[(fixed_one & fixed_zero).any(axis=1)] = -np.inf
    return np.asarray(bound)


def knapsack_fractions(
    coefficients: FloatArray,
    costs: FloatArray,
    budget: float,
    fixed_one: NDArray[np.bool_] | None = None,
    fixed_zero: NDArray[np.bool_] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return the maximiser behind :func:`fractional_knapsack` and what is left for free items.

    Returns
    -------
    tuple of numpy.ndarray
        The part taken of each item, shape (batch, items), and the budget less the cost of the
        items held at one, shape (batch,); where that is negative there is no maximiser.
    """
    gains = np.maximum(coefficients, 0.0)
    left = np.full(len(coefficients), float(budget))
    if fixed_zero is not None:
        gains = np.where(fixed_zero, 0.0, gains)
    if fixed_one is not None:
        gains = np.where(fixed_one, 0.0, gains)
        left = budget - (fixed_one * costs).sum(axis=1)
    x = (gains > 0).astype(np.float64)  # for nothing, or in order of value per cost
    paid = np.flatnonzero(costs > 0)
    order = paid[np.argsort(-gains[:, paid] / costs[paid], axis=1)]
    ranked_cost = costs[order]
    room = np.maximum(left, 0.0)[:, None] - (np.cumsum(ranked_cost, axis=1) - ranked_cost)
    part = np.clip(room / ranked_cost, 0.0, 1.0)
    part *= np.take_along_axis(x, order, axis=1)
    np.put_along_axis(x, order, part, axis=1)
    if fixed_one is not None:
        x[fixed_one] = 1.0
    return x, left
