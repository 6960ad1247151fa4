"""Policies to compare with: null, random, sampling, myopic and the two iterative ones."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.argmax_solver import ArgmaxSolver
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.sequential import SequentialBuilder, valued_by
from milp_rl.heuristics.greedy import GreedyArgmax


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
class OneStepModel(Protocol):
    """What the policies that look one step ahead need, see ``RestlessBandit``."""

    def action_space_block(self, state: ArrayLike) -> ActionSpace:
        """Return the feasible set."""

    def expected_reward(self, state: ArrayLike, action: ArrayLike) -> FloatArray:
        """Return expected one-step rewards for a batch of actions."""

    def one_step_network(self, state: ArrayLike) -> Network:
        """Return the expected one-step reward as a network of the action alone."""


class SamplingPolicy:
    """Draws feasible actions and takes the one of highest expected reward in the next step.

    Parameters
    ----------
    env
        An environment (unwrapped) whose model is known.
    n_samples
        Actions drawn in each state, at least 1; as :class:`RandomPolicy` draws them.
    seed
        Seed of the draws.

    Raises
    ------
    ValueError
        If the environment's model is not known or ``n_samples`` is below 1.
    """

    def __init__(self, env: OneStepModel, n_samples: int = 100, *, seed: int) -> None:
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}")
        self.env = _modelled(env)
        self.n_samples = n_samples
        self._rng = np.random.default_rng(seed)

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the best of the actions drawn."""
        space = self.env.action_space_block(state)
        actions = space.sample(self._rng, self.n_samples, maximal=True)
        return np.asarray(actions[int(self.env.expected_reward(state, actions).argmax())])


class MyopicPolicy:
    """Maximises the expected reward of the next step exactly, by the solver that ``"auto"`` takes.

    Parameters
    ----------
    env
        An environment (unwrapped) whose model is known. Where its one-step network is only
        approximate, the action is optimal up to twice the stated error.

    Attributes
    ----------
    answered
        How many decisions each solver has found.

    Raises
    ------
    ValueError
        If the environment's model is not known.
    """

    def __init__(self, env: OneStepModel) -> None:
        self.env = _modelled(env)
        self.answered: Counter[str] = Counter()
        self._solver: ArgmaxSolver | None = None
        self._description: dict[str, Any] = {}  # of the set that the solver is for

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the best action for one step.

        Raises
        ------
        RuntimeError
            If no action is feasible.
        """
        space, network = self.env.action_space_block(state), self.env.one_step_network(state)
        if self._solver is None or space.to_dict() != self._description:
            self._solver = ArgmaxSolver(network, space)
            self._description = copy.deepcopy(space.to_dict())
        else:
            self._solver.update(network)
        # As a batch: then the choice between equally good actions has no memory.
        result = self._solver.solve_batch(np.zeros((1, 0)))[0]
        if result.action is None:
            raise RuntimeError(f"no best action: the solver's status is {result.status!r}")
        self.answered[result.solver] += 1
        return result.action


class IterativeMyopicPolicy:
    """Builds an action greedily on the expected reward of the next step.

    See :mod:`milp_rl.formulations.spaces.sequential`.

    Parameters
    ----------
    env
        An environment (unwrapped) whose model is known.

    Raises
    ------
    ValueError
        If the environment's model is not known.
    """

    def __init__(self, env: OneStepModel) -> None:
        self.env = _modelled(env)
        self._builder: SequentialBuilder | None = None
        self._description: dict[str, Any] = {}  # of the set that the builder is for

    def act(self, state: ArrayLike) -> ActionArray:
        """Return a feasible action.

        Raises
        ------
        RuntimeError
            If no feasible action can be built.
        """
        space = self.env.action_space_block(state)
        if self._builder is None or space.to_dict() != self._description:
            self._builder = SequentialBuilder(space)
            self._description = copy.deepcopy(space.to_dict())

        def values(_: NDArray[np.intp], actions: ActionArray) -> FloatArray:
            return self.env.expected_reward(state, actions)

        return np.asarray(self._builder.build(valued_by(values), 1)[0])


class IterativeDQNPolicy:
    """Builds an action greedily on a Q-network, one addition at a time.

    See :mod:`milp_rl.formulations.spaces.sequential`.

    Parameters
    ----------
    network
        Takes [action, state] to Q: what
        :func:`~milp_rl.formulations.networks.conversion.to_network` accepts, such as
        :class:`~milp_rl.qnetwork.QNetwork`. Later changes of its weights play no part.
    space
        The feasible set.
    """

    def __init__(self, network: Any, space: ActionSpace) -> None:
        self.space = space
        self._argmax = GreedyArgmax(network, space)

    def act(self, state: ArrayLike) -> ActionArray:
        """Return a feasible action.

        Raises
        ------
        RuntimeError
            If no feasible action can be built.
        """
        return np.asarray(self._argmax.actions(np.asarray(state)[None])[0])


def _modelled(env: Any) -> OneStepModel:
    if not isinstance(env, OneStepModel):
        raise ValueError(
            f"{type(env).__name__} does not know its model: it needs action_space_block(state),"
            " expected_reward(state, action) and one_step_network(state); give the unwrapped"
            " environment of a domain"
        )
    return env
