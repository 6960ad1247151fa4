r"""Dynamic assortment: which items to offer, where offers and sales change what customers want.

The setting of Hoppe, Baty, Bouvier, Parmentier and Schiffer, "Structured reinforcement learning for
combinatorial decision-making" (2025), whose weights and rates are the defaults. Item i has static
features :math:`f_i`, a hype :math:`h_i`, a satisfaction :math:`q_i` and a price :math:`r_i`. Of the
offered items :math:`S` a customer buys at most one, by a multinomial logit choice:

.. math:: u_i = w^\top f_i + w_h h_i + w_q q_i + w_r r_i, \qquad
          P(i \mid S) = \frac{e^{u_i}}{1 + \sum_{j \in S} e^{u_j}},

and buys nothing with the probability that is left. With :math:`c_t` the item bought in step t,

.. math:: h_i \leftarrow h_i \Big(1 + 0.02\,[c_t = i] - 0.005 \sum_{k=1}^{4} [c_{t-k} = i]\Big),
          \qquad q_i \leftarrow q_i\,(1 + 0.01\,[c_t = i]).

The initial stock of 200 of each item, which 80 customers cannot use up, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.envs.arms import Arms
from milp_rl.envs.known_model import KnownModelEnv, StateArray
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.spaces.budget import BudgetTopK

LOWEST, HIGHEST = 1.0, 10.0
"""Range of all features and prices at the start."""

_REMEMBERED = 4  # purchases before the present one
_HYPED, _FADED, _SATISFIED = 0.02, 0.005, 0.01
_HYPE, _SATISFACTION, _PRICE = 0, 1, 2  # columns after the static features
_COLUMNS = 3 + _REMEMBERED


class DynamicAssortment(KnownModelEnv):
    """Offering a few of many items to one customer after the other.

    Action Space
    ------------
    :class:`~milp_rl.envs.spaces.FeasibleActions` of a :class:`~milp_rl.BudgetTopK`: a binary
    vector, int8, shape (n_items,), with a one for each offered item, exactly ``n_offered`` of them
    or, with ``exactly=False``, at most.

    Observation Space
    -----------------
    ``Box``, float32, shape (n_items * (n_static + 7) + 1,): item after item its static features,
    its hype, satisfaction and price, and whether it was what was bought one, two, three and four
    steps ago (0 or 1 each); last the share of the horizon that is over. This is the whole state:
    nothing else matters for what comes.

    Rewards
    -------
    The price of what the customer buys, in expectation the sum over the offered items of
    P(i | S) times the price.

    Starting State
    --------------
    All static features, hypes, satisfactions and prices drawn anew, uniform in [1, 10], and nothing
    bought yet; or the one given as ``options={"state": ...}`` to :meth:`reset`.

    Episode End
    -----------
    Truncated after ``horizon`` customers, 80 by default; never terminated.

    Arguments
    ---------
    ``import milp_rl.envs`` registers the environment.

    ```python
    gymnasium.make("milp_rl/DynamicAssortment-v0", n_items=10, n_offered=3, horizon=20)
    ```

    Parameters
    ----------
    n_items
        Number of items n, at least 1.
    n_offered
        Items offered to a customer, 1 to n.
    horizon
        Customers of an episode, at least 1.
    exactly
        Whether exactly ``n_offered`` items have to be offered, as in the paper; fewer may earn
        more, since a cheap item takes customers from a dear one.
    weights
        Of the static features in the utility, one each; their number is ``n_static``.
    hype_weight, satisfaction_weight, price_weight
        The other weights.

    Attributes
    ----------
    n_items, n_static
        Number of items, and of static features of each.
    arm_layout
        The items as arms, for :class:`~milp_rl.ArmQNetwork`.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    def __init__(
        self,
        n_items: int = 20,
        n_offered: int = 4,
        *,
        horizon: int = 80,
        exactly: bool = True,
        weights: Sequence[float] = (0.3, 0.5),
        hype_weight: float = 0.6,
        satisfaction_weight: float = -0.4,
        price_weight: float = -0.8,
    ) -> None:
        if n_items < 1 or not 1 <= n_offered <= n_items:
            raise ValueError(
                "n_items must be at least 1 and n_offered from 1 to n_items, got"
                f" {n_items} and {n_offered}"
            )
        self.n_items, self.n_static = int(n_items), len(weights)
        self.arm_layout = Arms(self.n_items, self.n_static + _COLUMNS, shared_features=1)
        rates = (hype_weight, satisfaction_weight, price_weight)
        self._weights = np.array([*weights, *rates, *[0.0] * _REMEMBERED], dtype=np.float64)
        if not np.isfinite(self._weights).all():
            raise ValueError(f"weights must be finite, got {self._weights.tolist()}")
        block = BudgetTopK(self.n_items, int(n_offered), exactly=exactly)
        super().__init__(block, horizon, self._observations(horizon), luck_dim=1)

    def check_states(self, states: ArrayLike) -> NDArray[Any]:
        """Return ``states``, shape (..., state_dim), or raise ``ValueError`` if they are none."""
        s = np.asarray(states, dtype=np.float64)
        if s.shape[-1:] != (self.state_dim,) or not np.isfinite(s).all():
            raise ValueError(
                f"states must be finite, of shape (..., {self.state_dim}), got {s.shape}"
            )
        box = self.observation_space
        assert isinstance(box, gym.spaces.Box)
        if (s < box.low).any() or (s > box.high).any():
            raise ValueError("states must be within the bounds of observation_space")
        return s

    def items(self, states: ArrayLike) -> FloatArray:
        """Return the features by item, shape (..., n_items, n_static + 7), as in a state."""
        s = self.check_states(states)
        return s[..., :-1].reshape(*s.shape[:-1], self.n_items, self.n_static + _COLUMNS)

    def prices(self, states: ArrayLike) -> FloatArray:
        """Return the prices of the items, shape (..., n_items)."""
        return self.items(states)[..., self.n_static + _PRICE]

    def utilities(self, states: ArrayLike) -> FloatArray:
        """Return the utilities u of the items, shape (..., n_items)."""
        return np.asarray(self.items(states) @ self._weights)

    def choice_probabilities(self, states: ArrayLike, actions: ArrayLike) -> FloatArray:
        """Return the probability that each item is bought, shape (..., n_items).

        Parameters
        ----------
        states
            Shape (..., state_dim).
        actions
            Binary, shape (..., n_items), broadcast against ``states``; need not be feasible.
        """
        offered = np.asarray(actions) > 0.5
        u = np.where(offered, self.utilities(states), -np.inf)
        top = np.maximum(u.max(axis=-1, keepdims=True), 0.0)
        weights = np.exp(u - top)
        return np.asarray(weights / (np.exp(-top) + weights.sum(axis=-1, keepdims=True)))

    def expected_reward(self, state: ArrayLike, action: ArrayLike) -> FloatArray:
        """Return the expected revenue of one customer, batched, shape (...)."""
        bought = self.choice_probabilities(state, action)
        return np.asarray((bought * self.prices(state)).sum(axis=-1))

    def transition(
        self, states: ArrayLike, actions: ArrayLike, uniforms: FloatArray
    ) -> tuple[StateArray, FloatArray]:
        """Let one customer choose; the rewards are what is paid."""
        limits = self.choice_probabilities(states, actions).cumsum(axis=-1)
        choice = (limits <= np.asarray(uniforms)).sum(axis=-1)  # n_items: nothing
        bought = choice[..., None] == np.arange(self.n_items)
        items = np.broadcast_to(self.items(states), (*bought.shape, self._weights.size)).copy()
        n = self.n_static
        rewards = np.where(bought, items[..., n + _PRICE], 0.0).sum(axis=-1)
        earlier = items[..., n + 3 :]
        items[..., n + _HYPE] *= 1.0 + _HYPED * bought - _FADED * earlier.sum(axis=-1)
        items[..., n + _SATISFACTION] *= 1.0 + _SATISFIED * bought
        items[..., n + 3 :] = np.concatenate([bought[..., None], earlier[..., :-1]], axis=-1)
        over = np.broadcast_to(self.check_states(states)[..., -1], choice.shape) + 1 / self.horizon
        flat = items.reshape(*choice.shape, self.state_dim - 1)
        moved = np.concatenate([flat, np.minimum(over, 1.0)[..., None]], axis=-1)
        box = self.observation_space
        assert isinstance(box, gym.spaces.Box)
        return np.clip(moved, box.low, box.high).astype(np.float32), rewards

    def start_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Draw ``n`` start states, shape (n, state_dim)."""
        items = np.zeros((n, self.n_items, self._weights.size))
        items[..., : self.n_static + 3] = rng.uniform(
            LOWEST, HIGHEST, (n, self.n_items, self.n_static + 3)
        )
        start = np.concatenate([items.reshape(n, -1), np.zeros((n, 1))], axis=1)
        return start.astype(np.float32)

    def informative_states(self, rng: np.random.Generator, n: int) -> StateArray:
        """Return ``n`` states of random steps of random episodes."""
        states = self.start_states(rng, n)
        steps = rng.integers(0, self.horizon, size=n)
        for step in range(int(steps.max(initial=0))):
            left = np.flatnonzero(steps > step)
            states[left] = self.sample_next(states[left], self._block.sample(rng, len(left)), rng)
        return states

    def _observations(self, horizon: int) -> gym.spaces.Box:
        """Return the range of what can be reached within the horizon."""
        most = HIGHEST * (1.0 + np.array([_HYPED, _SATISFIED])) ** horizon
        own = np.full((2, self._weights.size), LOWEST)
        own[0, self.n_static + _HYPE] = 0.0
        own[1] = HIGHEST
        own[1, self.n_static : self.n_static + 2] = most
        own[0, self.n_static + 3 :], own[1, self.n_static + 3 :] = 0.0, 1.0
        low, high = np.hstack([np.tile(own, self.n_items), [[0.0], [1.0]]]).astype(np.float32)
        return gym.spaces.Box(low, high, dtype=np.float32)
