r"""The Whittle index policy for restless bandits with nothing but a budget.

Whittle, "Restless bandits: activity allocation in a changing world", Journal of Applied
Probability 25 (1988): the index of an arm in a state is the subsidy for leaving it alone at which
acting on it and leaving it alone are worth the same; the arms of highest index are acted on.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.envs.bandits.additive import AdditiveBandit
from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.spaces.budget import BudgetTopK

_MOST_STATES = 10
_MOST_CHECKED = 3
_HALVINGS = 60


class WhittlePolicy:
    """Acts on the arms of highest positive Whittle index, at most as many as the budget.

    Parameters
    ----------
    env
        A bandit with known chains whose only constraint is a budget, such as
        :class:`milp_rl.envs.BudgetBandit`.
    discount
        Discount factor of the single-arm problems, in [0, 1).

    Attributes
    ----------
    indices
        Whittle index of each arm in each state, shape (J, n).

    Raises
    ------
    ValueError
        If the environment has another constraint or unknown chains.
    """

    def __init__(self, env: AdditiveBandit, *, discount: float = 0.99) -> None:
        block = env.action_space_block() if isinstance(env, AdditiveBandit) else None
        if not isinstance(block, BudgetTopK) or block.costs is not None or block.exactly:
            raise ValueError(
                "the Whittle index is for arms coupled by nothing but a budget, such as those of"
                f" BudgetBandit, not for {type(env).__name__}"
            )
        self.env = env
        self._k = block.k
        instance = env.instance
        self.indices = whittle_indices(
            env.arms.rewards, instance.acting, instance.passive, discount
        )

    def act(self, state: ArrayLike) -> ActionArray:
        """Return a feasible action."""
        s = self.env.arms.check_states(state)
        index = self.indices[np.arange(len(s)), s]
        top = np.argsort(-index, kind="stable")[: self._k]
        action = np.zeros(len(s), dtype=np.int8)
        action[top[index[top] > 0]] = 1
        return action


def whittle_indices(
    rewards: ArrayLike, acting: ArrayLike, passive: ArrayLike, discount: float = 0.99
) -> FloatArray:
    r"""Compute the indices of arms that move one up or down, see :class:`milp_rl.envs.ArmChains`.

    With a subsidy :math:`\lambda` the value of an arm is the largest over its stationary policies
    of :math:`(I - \gamma P)^{-1} (r + \lambda\, [passive])`, linear in :math:`\lambda` each; the
    subsidy that makes both actions equal is found by bisection.

    Parameters
    ----------
    rewards
        Reward of each arm in each state, paid by the state moved to, shape (J, n), n at most 10.
    acting, passive
        Probability of moving up when acted on and when not, shape (J,).
    discount
        Discount factor, in [0, 1).

    Returns
    -------
    numpy.ndarray
        Shape (J, n).

    Raises
    ------
    ValueError
        If there are more than 10 states or the discount is out of range.
    """
    r = np.asarray(rewards, dtype=np.float64)
    n_arms, n = r.shape
    states = np.arange(n)
    move = np.zeros((2, n_arms, n, n))  # (passive or acting, arm, from, to)
    for a, up in enumerate((np.asarray(passive), np.asarray(acting))):
        move[a, :, states, np.minimum(states + 1, n - 1)] += up
        move[a, :, states, np.maximum(states - 1, 0)] += 1.0 - up
    return chain_indices(move, np.einsum("ajst,jt->ajs", move, r), discount)


def chain_indices(move: FloatArray, now: FloatArray, discount: float = 0.99) -> FloatArray:
    """Compute the Whittle indices of arms that are any finite chains.

    Parameters
    ----------
    move
        Transition probabilities without and with acting, shape (2, J, n, n), n at most 10.
    now
        Expected reward of the step, shape (2, J, n).
    discount
        Discount factor, in [0, 1).

    Returns
    -------
    numpy.ndarray
        Shape (J, n). They are indices of indexable arms, see :func:`indexable`.

    Raises
    ------
    ValueError
        If there are more than 10 states or the discount is out of range.
    """
    base, slope = _policies(move, now, discount)
    n_arms, n = now.shape[1:]
    largest = (np.ptp(now) + 1.0) / (1.0 - discount)
    low, high = np.full((n_arms, n), -largest), np.full((n_arms, n), largest)
    for _ in range(_HALVINGS):
        subsidy = (low + high) / 2.0  # one for each (arm, state) whose index is sought
        gain = _gains(move, now, discount, base, slope, subsidy)
        own = np.diagonal(gain, axis1=1, axis2=2)
        low, high = np.where(own > 0, subsidy, low), np.where(own > 0, high, subsidy)
    return np.asarray((low + high) / 2.0)


def indexable(move: FloatArray, now: FloatArray, discount: float = 0.99) -> BoolArray:
    """Tell which arms are indexable: no state that is left alone is acted on at a larger subsidy.

    What acting gains is piecewise linear in the subsidy and bends only where two policies are worth
    the same in a state; it is looked at in every bend, and beyond the outermost.

    Parameters
    ----------
    move, now, discount
        As for :func:`chain_indices`; n at most 3, as there are many bends.

    Returns
    -------
    numpy.ndarray
        Shape (J,).
    """
    if now.shape[2] > _MOST_CHECKED:
        raise ValueError(f"indexability is checked of {_MOST_CHECKED} states at most")
    base, slope = _policies(move, now, discount)
    one, two = np.triu_indices(base.shape[1], 1)
    rise = slope[:, two] - slope[:, one]
    parallel = np.abs(rise) < 1e-12
    bends = np.where(parallel, 0.0, (base[:, one] - base[:, two]) / np.where(parallel, 1.0, rise))
    bends = bends.reshape(len(bends), -1)
    largest = np.abs(bends).max(axis=1, keepdims=True) + 1.0
    subsidies = np.sort(np.hstack([bends, -largest, largest]), axis=1)
    gain = _gains(move, now, discount, base, slope, subsidies)
    acted = gain > 1e-9 * (1.0 + np.abs(now).max())
    return np.asarray(~(acted[:, 1:] & ~acted[:, :-1]).any(axis=(1, 2)))


def _policies(move: FloatArray, now: FloatArray, discount: float) -> tuple[FloatArray, FloatArray]:
    """Return each stationary policy's value without subsidy, and its rise with it, (J, p, n)."""
    n = now.shape[2]
    if n > _MOST_STATES:
        raise ValueError(f"the indices of arms with {n} states are not computed, at most 10")
    if not 0 <= discount < 1:
        raise ValueError(f"discount must be in [0, 1), got {discount}")
    states = np.arange(n)
    policies = np.array(list(product((0, 1), repeat=n)))  # (policy, state)
    moves = move[policies, :, states].transpose(2, 0, 1, 3)  # (arm, policy, from, to)
    paid = now[policies, :, states].transpose(2, 0, 1)
    solved = np.linalg.inv(np.eye(n) - discount * moves)
    base = np.einsum("jpst,jpt->jps", solved, paid)
    slope = np.einsum("jpst,pt->jps", solved, 1.0 - policies)
    return base, slope


def _gains(
    move: FloatArray,
    now: FloatArray,
    discount: float,
    base: FloatArray,
    slope: FloatArray,
    subsidy: FloatArray,
) -> FloatArray:
    """Return what acting gains at subsidies of shape (J, m), in each state, shape (J, m, n)."""
    values = (base[:, None] + subsidy[..., None, None] * slope[:, None]).max(axis=2)
    later = np.einsum("ajst,jmt->ajms", move, values)
    gain = now[1][:, None] + discount * later[1] - now[0][:, None] - discount * later[0]
    return np.asarray(gain - subsidy[..., None])
