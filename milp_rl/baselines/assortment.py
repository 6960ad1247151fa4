"""Policies of dynamic assortment: the dearest items, and the best offer to the next customer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.envs.assortment import DynamicAssortment
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.spaces.budget import BudgetTopK


class DearestItems:
    """Offers the items of the highest prices, the greedy policy of the paper.

    Parameters
    ----------
    env
        The environment (unwrapped).
    """

    def __init__(self, env: DynamicAssortment) -> None:
        self.env = env

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the offer, shape (n_items,)."""
        space = self.env.action_space_block(state)
        return np.asarray(space.maximizers(self.env.prices(state)[None])[0], dtype=np.int8)


class BestAssortment:
    """Offers what the next customer is expected to pay most for: exact, and myopic.

    Parameters
    ----------
    env
        The environment (unwrapped).
    """

    def __init__(self, env: DynamicAssortment) -> None:
        self.env = env

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the offer, shape (n_items,)."""
        space = self.env.action_space_block(state)
        assert isinstance(space, BudgetTopK)
        return best_assortment(self.env.utilities(state), self.env.prices(state), space)


def best_assortment(utilities: FloatArray, prices: FloatArray, space: BudgetTopK) -> ActionArray:
    r"""Return the offer of the highest expected revenue under a multinomial logit choice.

    With :math:`v_i = e^{u_i}`, the largest revenue is the :math:`\lambda` at which

    .. math:: \max_{S} \sum_{i \in S} v_i (r_i - \lambda) = \lambda,

    found by Newton steps (Dinkelbach, "On nonlinear fractional programming", Management Science 13,
    1967): each is a linear maximum over the feasible set, and takes the revenue of its maximizer
    for the next :math:`\lambda`, until there is no larger one.

    Parameters
    ----------
    utilities, prices
        Of the items, shape (n_items,).
    space
        The feasible offers.

    Returns
    -------
    numpy.ndarray
        Binary, int8, shape (n_items,).
    """
    top = max(float(utilities.max()), 0.0)
    v, nothing = np.exp(utilities - top), np.exp(-top)
    best: ActionArray | None = None
    revenue = -np.inf
    while True:
        level = 0.0 if best is None else revenue
        offer = np.asarray(space.maximizers((v * (prices - level))[None])[0])
        found = float((v * prices) @ offer / (nothing + v @ offer))
        if best is not None and found <= revenue:
            return best.astype(np.int8)
        best, revenue = offer, found
