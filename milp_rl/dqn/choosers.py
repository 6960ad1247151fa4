"""What finds the best actions of a network: a solver, or a heuristic."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from torch import nn

from milp_rl.argmax_solver import ArgmaxSolver
from milp_rl.dqn.config import DQNConfig
from milp_rl.envs.known_model import StateArray
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.bounds import BoundPropagator
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.heuristics.continuous import CrossEntropyArgmax, GradientAscentArgmax
from milp_rl.heuristics.cross_entropy import CombinatorialCrossEntropyArgmax
from milp_rl.heuristics.greedy import GreedyArgmax
from milp_rl.qnetwork import ActionValue
from milp_rl.solvers.batch import rows_of
from milp_rl.solvers.result import ArgmaxResult

_log = logging.getLogger(__name__)
_KEPT = 32  # sets whose bounds are kept, as many as the solver keeps


class Chooser(Protocol):
    """Finds the best action of a network in each state."""

    def update(self, network: Any) -> None:
        """Take over the network's weights."""

    def choose(
        self,
        states: StateArray,
        starts: Sequence[ActionArray | None],
        gap: float,
        spaces: Sequence[ActionSpace] | None = None,
    ) -> list[ActionArray]:
        """Return an action for each state.

        Parameters
        ----------
        states
            Shape (n, state_dim).
        starts
            Good actions of earlier weights, or ``None``.
        gap
            Relative gap of solves.
        spaces
            The feasible set of each state, where there is not one for all.
        """


class ExactChooser:
    """Maximisers, by :class:`milp_rl.argmax_solver.ArgmaxSolver`.

    Parameters
    ----------
    network, space
        The Q-network and the feasible set.
    audit
        Share of the answers that are proven (:mod:`milp_rl.proofs`); failures are logged.
    options
        Keywords of the solver.

    Attributes
    ----------
    answered
        How many argmaxes each solver has answered.
    """

    def __init__(
        self, network: nn.Module, space: ActionSpace, *, audit: float = 0.0, **options: Any
    ) -> None:
        self._solver = ArgmaxSolver(network, space, **options)
        if options.get("time_limit") is not None:
            self._solver.prepare()
        self.answered: Counter[str] = Counter()
        self._audit_share = audit
        self._audits_due = 0.0
        self._propagators: dict[ActionSpace, BoundPropagator] = {}

    def update(self, network: Any) -> None:
        """Take over the network's weights."""
        self._solver.update(network)

    def bounds(self, states: StateArray, spaces: Sequence[ActionSpace] | None = None) -> FloatArray:
        """Bound the best value in each state from above, without solving for it."""
        if spaces is None:
            return self._bounds_over(self._solver.space, states)
        result = np.empty(len(states))
        for space, rows in rows_of(spaces).items():
            result[rows] = self._bounds_over(space, states[rows])
        return result

    def _bounds_over(self, space: ActionSpace, states: StateArray) -> FloatArray:
        propagator = self._propagators.get(space)
        if propagator is None:
            box = space.lower, space.upper
            propagator = BoundPropagator(space.n_actions, space.linear_max, box=box)
            self._propagators[space] = propagator
            if len(self._propagators) > _KEPT:
                del self._propagators[next(iter(self._propagators))]
        networks = self._solver.value.at_states(states.astype(np.float64))
        return propagator.at(networks).output_upper[:, 0]

    def choose(
        self,
        states: StateArray,
        starts: Sequence[ActionArray | None],
        gap: float,
        spaces: Sequence[ActionSpace] | None = None,
    ) -> list[ActionArray]:
        """Return proven maximisers; raises ``RuntimeError`` if there is none."""
        # One worker: experiments run one training per core.
        results = self._solver.solve_batch(states, starts=starts, space=spaces, gap=gap, workers=1)
        actions = []
        for state, result in zip(states, results, strict=True):
            if result.action is None:
                raise RuntimeError(
                    f"no best action for state {state.tolist()}: the solver's status is"
                    f" {result.status!r}"
                )
            actions.append(result.action)
            self.answered[result.solver] += 1
            self._audits_due += self._audit_share
            if self._audits_due >= 1.0:
                self._audits_due -= 1.0
                self._audit(state, result)
        return actions

    def _audit(self, state: FloatArray, result: ArgmaxResult) -> None:
        """Prove an answer, and log it as an error if that fails."""
        try:
            self._solver.prove(state, result, time_limit=self._solver.options.time_limit)
        except (ValueError, RuntimeError) as error:
            _log.error("an argmax is not proven, in state %s: %s", state.tolist(), error)


class Heuristic(Protocol):
    """Finds actions of one feasible set, without a proof."""

    def actions(self, states: StateArray) -> ActionArray:
        """Find an action in each state, shape (n, n_actions)."""

    def update(self, network: Any) -> None:
        """Take over the network's weights."""


class HeuristicChooser:
    """Feasible actions of a heuristic, which is made anew for a set that is not the first state's.

    Parameters
    ----------
    kind
        Makes the heuristic of a network and a feasible set.
    network, space
        The Q-network and the feasible set.
    """

    def __init__(
        self,
        kind: Callable[[Any, ActionSpace], Heuristic],
        network: ActionValue,
        space: ActionSpace,
    ) -> None:
        self._kind = kind
        self._network = network
        self._own = kind(network, space)

    def update(self, network: Any) -> None:
        """Take over the network's weights."""
        self._network = network
        self._own.update(network)

    def choose(
        self,
        states: StateArray,
        starts: Sequence[ActionArray | None],
        gap: float,
        spaces: Sequence[ActionSpace] | None = None,
    ) -> list[ActionArray]:
        """Return a feasible action for each state."""
        if spaces is None:
            return list(self._own.actions(states))
        actions = np.empty((len(states), spaces[0].n_actions), dtype=spaces[0].dtype)
        for space, rows in rows_of(spaces).items():
            actions[rows] = self._kind(self._network, space).actions(states[rows])
        return list(actions)


def chooser_of(space: ActionSpace, config: DQNConfig) -> Callable[[ActionValue], Chooser]:
    """Return what finds best actions as a configuration asks for."""
    c = config
    heuristics: dict[str, Callable[[Any, ActionSpace], Heuristic]] = {
        "greedy": GreedyArgmax,
        "gradient": GradientAscentArgmax,
        "cross_entropy": CombinatorialCrossEntropyArgmax if space.binary else CrossEntropyArgmax,
    }
    if c.argmax in heuristics:
        return lambda network: HeuristicChooser(heuristics[c.argmax], network, space)
    return lambda network: ExactChooser(
        network,
        space,
        audit=c.audit,
        solver=c.solver,
        engine=c.engine,
        formulation=c.formulation,
        bounds=c.bounds,
        time_limit=c.time_limit,
    )
