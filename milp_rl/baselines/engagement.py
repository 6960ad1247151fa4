r"""Policies for service calls to mothers: without learning, and by any value of a call.

All but the top-k one take the best matching of women and places for values of the pairs, exactly
(an assignment problem); they differ in the values. With :math:`\rho_{ip}` the probability that a
call is answered,

- myopic: what the call adds to next week's listening, which is exact for one week;
- Whittle: :math:`\rho_{ip}` times the index of the woman, from the chain of her cluster. The index
  is that of the observed chain; between its two states it is weighted by the belief, a heuristic.
  Weeks of rest, and who can be called when, play no part in it.

The top-k policy is what is done where indices are all there is: the k women of highest index, then
whoever of them can be called.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.baselines.whittle import chain_indices, indexable
from milp_rl.envs.engagement import Engagement, Programme
from milp_rl.formulations.arrays import ActionArray, FloatArray

DISCOUNT = 0.97
"""Of the indices: a week counts half after 23 weeks, about the middle of an episode of 40."""


class MatchedCalls:
    """Makes the calls whose values are largest together.

    Parameters
    ----------
    env
        The environment.
    values
        Gives the value of each pair in a state, shape (N, P), from a state; pairs of no positive
        value are never called.
    """

    def __init__(self, env: Engagement, values: Callable[[FloatArray], FloatArray]) -> None:
        self.env = env
        self._values = values

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the feasible action of largest total value."""
        s = self.env.check_states(state)
        values = self._values(s).reshape(1, -1)
        found = self.env.action_space_block(s).maximizers(np.maximum(values, 0.0))[0]
        return np.where(values[0] > 0, np.rint(found), 0).astype(np.int8)


def myopic_calls(env: Engagement) -> MatchedCalls:
    """Return the policy that makes next week's expected listening largest."""
    return MatchedCalls(env, env.gains)


def whittle_calls(env: Engagement, *, discount: float = DISCOUNT) -> MatchedCalls:
    """Return the policy of the best matching by Whittle indices.

    Raises
    ------
    ValueError
        If a cluster is not indexable.
    """
    indices = cluster_indices(env.programme, discount=discount)

    def values(state: FloatArray) -> FloatArray:
        index = index_of(indices, env.belief(state), env.women.cluster)
        return np.asarray(index[:, None] * env.reach / env.programme.reach)

    return MatchedCalls(env, values)


class WhittleTopK:
    """Picks the k women of highest positive Whittle index, then calls whom of them can be called.

    Parameters
    ----------
    env
        The environment; k is its budget, or the number of places.
    discount
        Of the indices.

    Raises
    ------
    ValueError
        If a cluster is not indexable.
    """

    def __init__(self, env: Engagement, *, discount: float = DISCOUNT) -> None:
        self.env = env
        self._indices = cluster_indices(env.programme, discount=discount)
        budget = env.programme.budget
        self._k = len(env.places) if budget is None else budget

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the calls."""
        s = self.env.check_states(state)
        index = index_of(self._indices, self.env.belief(s), self.env.women.cluster)
        index = np.where(self.env.rested(s), index, 0.0)
        chosen = np.argsort(-index, kind="stable")[: self._k]
        kept = np.zeros_like(index)
        kept[chosen] = np.maximum(index[chosen], 0.0)
        return MatchedCalls(self.env, lambda _: kept[:, None] * self.env.reach).act(s)


class RandomCalls:
    """Makes random calls, as many as can be made.

    Parameters
    ----------
    env
        The environment.
    seed
        Seed of the draws.
    """

    def __init__(self, env: Engagement, *, seed: int) -> None:
        self.env = env
        self._rng = np.random.default_rng(seed)

    def act(self, state: ArrayLike) -> ActionArray:
        """Return a random set of calls to which none can be added."""
        return np.asarray(self.env.action_space_block(state).sample(self._rng, maximal=True)[0])


class RoundRobin:
    """Calls the women in turn, those first who were not called for longest.

    Parameters
    ----------
    env
        The environment.
    """

    def __init__(self, env: Engagement) -> None:
        self.env = env
        self._waited = np.arange(len(env.women), 0, -1, dtype=np.float64)

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the calls; they count as made."""
        n = len(self._waited)
        turn = np.argsort(np.argsort(self._waited))  # as many calls as possible come first
        values = np.where(self.env.reach > 0, (n + 1.0 + turn)[:, None], 0.0)
        action = MatchedCalls(self.env, lambda _: values).act(state)
        called = action.reshape(self.env.reach.shape).any(axis=1)
        self._waited = np.where(called, 0.0, self._waited + 1.0)
        return action


def cluster_indices(
    programme: Programme, *, discount: float = DISCOUNT, reach: float | None = None
) -> FloatArray:
    """Return the Whittle index of a call in each cluster and state.

    Parameters
    ----------
    programme
        The chains.
    discount
        Discount factor, in [0, 1).
    reach
        Probability that the call is answered; by default ``programme.reach``.

    Returns
    -------
    numpy.ndarray
        Shape (C, 2), for women who do not listen and who listen.

    Raises
    ------
    ValueError
        If a cluster is not indexable: its numbers are then no order of preference.
    """
    rho = programme.reach if reach is None else reach
    called = programme.passive + rho * (programme.active - programme.passive)
    up = np.stack([programme.passive, called])  # (without and with a call, cluster, state)
    move = np.stack([1 - up, up], axis=-1)
    wrong = ~indexable(move, up, discount)
    if wrong.any():
        raise ValueError(
            f"cluster {int(wrong.argmax())} is not indexable at discount {discount}: no Whittle"
            " index exists; plan by 'myopic' or by a Q-network"
        )
    return chain_indices(move, up, discount)


def index_of(indices: FloatArray, belief: FloatArray, cluster: ArrayLike) -> FloatArray:
    """Return each woman's index, that of the two states weighted by the belief."""
    own = indices[np.asarray(cluster)]
    return np.asarray(own[..., 0] + belief * (own[..., 1] - own[..., 0]))
