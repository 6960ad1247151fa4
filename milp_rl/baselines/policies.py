"""Policies to compare with: null, random, myopic, iterative."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.argmax_solver import ArgmaxSolver
from milp_rl.conversion import to_network
from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.network import FloatArray, Network


@runtime_checkable
class Policy(Protocol):
    """Anything that chooses actions, such as :class:`milp_rl.dqn.DQNAgent`."""

    def act(self, state: NDArray[np.float32]) -> ActionArray:
        """Return a feasible action, shape (n_actions,), int8."""


class NullPolicy:
    """Does nothing.

    Parameters
    ----------
    space
        The feasible set.

    Raises
    ------
    ValueError
        If doing nothing is not feasible.
    """

    def __init__(self, space: ActionSpace) -> None:
        self._action = np.zeros(space.n_actions, dtype=np.int8)
        violations = space.violations(self._action)
        if violations:
            raise ValueError(f"doing nothing is not feasible: {'; '.join(violations)}")

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the zero action."""
        return self._action.copy()


class RandomPolicy:
    """Draws feasible actions to which nothing can be added, so that the budget is spent.

    Parameters
    ----------
    space
        The feasible set.
    seed
        Seed of the draws.
    """

    def __init__(self, space: ActionSpace, *, seed: int) -> None:
        self.space = space
        self._rng = np.random.default_rng(seed)

    def act(self, state: ArrayLike) -> ActionArray:
        """Return a random maximal feasible action."""
        return np.asarray(self.space.sample(self._rng, 1, maximal=True)[0])


@runtime_checkable
class AdditiveEnv(Protocol):
    """An environment whose expected one-step reward is a constant plus ``gains @ action``."""

    def action_space_block(self, state: ArrayLike) -> ActionSpace:
        """Return the feasible set."""

    def action_gains(self, state: ArrayLike) -> FloatArray:
        """Return the gains in a state, shape (n_actions,)."""


class MyopicPolicy:
    """Maximises the expected reward of the next step exactly, by a mixed-integer program.

    Parameters
    ----------
    env
        An environment (unwrapped) with ``action_gains(state)``.

    Raises
    ------
    ValueError
        If the environment has no additive one-step reward.
    """

    def __init__(self, env: AdditiveEnv) -> None:
        if not isinstance(env, AdditiveEnv):
            raise ValueError(
                f"{type(env).__name__} has no action_gains(state); give the unwrapped environment"
                " of a domain with additive rewards"
            )
        self.env = env
        self._solver: ArgmaxSolver | None = None

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the best action for one step.

        Raises
        ------
        RuntimeError
            If no action is feasible.
        """
        space = self.env.action_space_block(state)
        gains = Network.from_arrays([self.env.action_gains(state)[None]], [[0.0]])
        if self._solver is None or self._solver.space is not space:
            self._solver = ArgmaxSolver(gains, space)
        else:
            self._solver.update(gains)
        result = self._solver.solve([])
        if result.action is None:
            raise RuntimeError(f"no best action: the solver's status is {result.status!r}")
        return result.action


class IterativeDQNPolicy:
    """Builds an action greedily on a Q-network, one addition at a time.

    Each round values all additions that keep the action completable in one forward pass and takes
    the best. It ends when nothing can be added, or when the action is feasible and no addition
    has a higher value: after at most as many rounds as there are actions.

    Parameters
    ----------
    network
        Takes [action, state] to Q: what :func:`milp_rl.conversion.to_network` accepts, such as
        :class:`milp_rl.qnetwork.QNetwork`. Later changes of its weights play no part.
    space
        The feasible set.
    """

    def __init__(self, network: Any, space: ActionSpace) -> None:
        self.space = space
        self._network: Network = to_network(network)

    def act(self, state: ArrayLike) -> ActionArray:
        """Return a feasible action.

        Raises
        ------
        RuntimeError
            If the space has no feasible action to build.
        """
        valued = self._network.at_state(state)
        action = np.zeros(self.space.n_actions, dtype=np.int8)
        value = valued.forward(action)[0]
        while len(additions := self.space.extensions(action)):
            candidates = np.repeat(action[None], len(additions), axis=0)
            candidates[np.arange(len(additions)), additions] = 1
            values = valued.forward(candidates)[:, 0]
            best = int(values.argmax())
            if values[best] <= value and not self.space.violations(action):
                break
            action, value = candidates[best], values[best]
        violations = self.space.violations(action)
        if violations:
            raise RuntimeError(f"no feasible action can be built: {'; '.join(violations)}")
        return action
