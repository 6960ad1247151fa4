"""The exact optimum of small bandits: value iteration over the joint chain of all arms.

Arms move independently given the action, so that the expectation over next states is taken one arm
after another; even so the joint chain has n^J states, which limits it to small instances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.baselines.policies import Policy
from milp_rl.envs.bandits.restless_bandit import START_PROBABILITY, RestlessBandit
from milp_rl.envs.fixed_set import FixedSet
from milp_rl.formulations.arrays import ActionArray, FloatArray


class JointMDP:
    """All arms of a bandit as one Markov decision process over their joint states.

    Rewards are measured as by :func:`milp_rl.evaluation.evaluate`: the mean over the steps of an
    episode of the expected reward of the step, here exactly, over all luck. As an episode ends at
    a horizon, the optimal policy depends on the step.

    Parameters
    ----------
    env
        The bandit.
    limit
        Largest number of joint states n^J.
    action_limit
        Largest number of feasible actions.

    Attributes
    ----------
    states
        The joint states, shape (n^J, J), in lexicographic order.
    actions
        The feasible actions, shape (count, n_actions).

    Raises
    ------
    ValueError
        If there are more states or actions, or the feasible set is not the same in all states.
    """

    def __init__(
        self, env: RestlessBandit, *, limit: int = 4096, action_limit: int = 10_000
    ) -> None:
        self.env = env
        n, n_arms = env.arms.n_states, env.arms.n_arms
        if n**n_arms > limit:
            raise ValueError(
                f"{n_arms} arms of {n} states have {n**n_arms} joint states, more than the limit"
                f" of {limit}"
            )
        self._shape = (n,) * n_arms
        self.states: NDArray[np.intp] = np.indices(self._shape).reshape(n_arms, -1).T
        feasible = FixedSet(env, self.states[0].astype(np.float32), "JointMDP")
        feasible.check_all(self.states.astype(np.float32))
        self.actions = feasible.space.enumerate(action_limit)
        self._up = env.up_probability(self.actions)
        self._rewards = env.expected_reward(self.states[:, None], self.actions)  # (state, action)

    def start_probabilities(self) -> FloatArray:
        """Return the probability of starting in each joint state, shape (n^J,)."""
        one = np.zeros(self._shape[0])
        one[:2] = 1.0 - START_PROBABILITY, START_PROBABILITY
        return np.asarray(one[self.states].prod(axis=1))

    def index(self, states: ArrayLike) -> NDArray[np.intp]:
        """Return the positions of states, shape (..., J), in :attr:`states`."""
        checked = self.env.arms.check_states(states)
        return np.asarray(np.ravel_multi_index(tuple(np.moveaxis(checked, -1, 0)), self._shape))

    def optimum(self, start_states: ArrayLike | None = None) -> float:
        """Return the largest mean reward that any policy can have.

        Parameters
        ----------
        start_states
            Shape (episodes, J), each as likely; by default all starts with their probability.
        """
        values = np.zeros(len(self.states))
        for _ in range(self.env.horizon):
            values = self._action_values(values).max(axis=1)
        return self._mean(values, start_states)

    def value(self, policy: Policy, start_states: ArrayLike | None = None) -> float:
        """Return the mean reward of a policy that depends on the state alone.

        Parameters
        ----------
        policy
            Asked once in every joint state.
        start_states
            As in :meth:`optimum`.

        Raises
        ------
        ValueError
            If the policy's action in some state is not feasible.
        """
        known = {action.tobytes(): i for i, action in enumerate(self.actions)}
        chosen = np.empty(len(self.states), dtype=np.intp)
        for row, state in enumerate(self.states):
            action = np.asarray(policy.act(state.astype(np.float32)), dtype=np.int8)
            if action.tobytes() not in known:
                raise ValueError(f"the action {action} in state {state} is not feasible")
            chosen[row] = known[action.tobytes()]
        rows = np.arange(len(self.states))
        values = np.zeros(len(self.states))
        for _ in range(self.env.horizon):
            values = self._action_values(values)[rows, chosen]
        return self._mean(values, start_states)

    def discounted_policy(self, discount: float = 0.99, tolerance: float = 1e-6) -> ExactPolicy:
        """Return the stationary policy that is optimal for the discounted infinite horizon.

        Value iteration until values change by less than ``tolerance``.
        """
        if not 0 <= discount < 1:
            raise ValueError(f"discount must be in [0, 1), got {discount}")
        values, change = np.zeros(len(self.states)), np.inf
        while change > tolerance:
            q = self._action_values(discount * values)
            updated = q.max(axis=1)
            change = float(np.ptp(updated - values))
            values = updated
        return ExactPolicy(self, q.argmax(axis=1))

    def _action_values(self, values: FloatArray) -> FloatArray:
        """One-step reward plus expected next value, shape (n^J, actions)."""
        q = self._rewards.copy()
        n = self._shape[0]
        above, below = np.minimum(np.arange(n) + 1, n - 1), np.maximum(np.arange(n) - 1, 0)
        for i, up in enumerate(self._up):
            expected = values.reshape(self._shape)
            for arm, p in enumerate(up):
                expected = p * expected.take(above, arm) + (1.0 - p) * expected.take(below, arm)
            q[:, i] += expected.ravel()
        return q

    def _mean(self, values: FloatArray, start_states: ArrayLike | None) -> float:
        if start_states is None:
            total = float(self.start_probabilities() @ values)
        else:
            total = float(values[self.index(start_states)].mean())
        return total / self.env.horizon


class ExactPolicy:
    """A policy given by a table over all joint states.

    Parameters
    ----------
    mdp
        The process.
    chosen
        Position in ``mdp.actions`` of the action in each joint state, shape (n^J,).
    """

    def __init__(self, mdp: JointMDP, chosen: NDArray[np.intp]) -> None:
        self._mdp = mdp
        self._chosen = chosen

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the table's action."""
        action: ActionArray = self._mdp.actions[self._chosen[self._mdp.index(state)]]
        return action.copy()
