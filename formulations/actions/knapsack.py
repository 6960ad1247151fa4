"""The fractional knapsack: a bound shared by the blocks with costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.network import FloatArray


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
    gains = np.maximum(coefficients, 0.0)
    base = np.zeros(len(coefficients))
    left = np.full(len(coefficients), budget)
    if fixed_zero is not None:
        gains = np.where(fixed_zero, 0.0, gains)
    if fixed_one is not None:
        gains = np.where(fixed_one, 0.0, gains)
        base = np.where(fixed_one, coefficients, 0.0).sum(axis=1)
        left = budget - (fixed_one * costs).sum(axis=1)
    free = costs <= 0
    base = base + gains[:, free].sum(axis=1)
    gains, paid = gains[:, ~free], costs[~free]
    order = np.argsort(-gains / paid, axis=1)
    ranked_gain = np.take_along_axis(gains, order, axis=1)
    ranked_cost = paid[order]
    room = np.maximum(left, 0.0)[:, None] - (np.cumsum(ranked_cost, axis=1) - ranked_cost)
    part = np.clip(room / ranked_cost, 0.0, 1.0)
    bound = base + (ranked_gain * part).sum(axis=1)
    bound[left < -1e-9] = -np.inf
    if fixed_one is not None and fixed_zero is not None:
        bound[(fixed_one & fixed_zero).any(axis=1)] = -np.inf
    return np.asarray(bound)
