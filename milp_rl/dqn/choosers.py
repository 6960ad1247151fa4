"""What finds the best actions of a network: a solver, or a heuristic."""

from __future__ import annotations

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
from milp_rl.heuristics.greedy import GreedyArgmax
from milp_rl.qnetwork import ActionValue


class Chooser(Protocol):
    """Finds the best action of a network in each state."""

    def update(self, network: Any) -> None:
        """Take over the network's weights."""

    def choose(
        self, states: StateArray, starts: Sequence[ActionArray | None], gap: float
    ) -> list[ActionArray]:
        """Return an action for each state; ``starts`` are good ones of earlier weights."""


class ExactChooser:
    """Maximisers, by :class:`milp_rl.argmax_solver.ArgmaxSolver`.

    Parameters
    ----------
    network, space
        The Q-network and the feasible set.
    options
        Keywords of the solver.
    """

    def __init__(self, network: nn.Module, space: ActionSpace, **options: Any) -> None:
        self._solver = ArgmaxSolver(network, space, **options)
        self._propagator: BoundPropagator | None = None

    def update(self, network: Any) -> None:
        """Take over the network's weights."""
        self._solver.update(network)

    def bounds(self, states: StateArray) -> FloatArray:
        """Bound the best value in each state from above, without solving for it."""
        if self._propagator is None:
            space = self._solver.space
            self._propagator = BoundPropagator(
                space.n_actions,
                space.linear_max,
                box=(space.lower, space.upper),
            )
        networks = self._solver.value.at_states(states.astype(np.float64))
        return self._propagator.at(networks).output_upper[:, 0]

    def choose(
        self, states: StateArray, starts: Sequence[ActionArray | None], gap: float
    ) -> list[ActionArray]:
        """Return proven maximisers; raises ``RuntimeError`` if there is none."""
        # One worker: experiments run one training per core.
        results = self._solver.solve_batch(states, starts=starts, gap=gap, workers=1)
        actions = []
        for state, result in zip(states, results, strict=True):
            if result.action is None:
                raise RuntimeError(
                    f"no best action for state {state.tolist()}: the solver's status is"
                    f" {result.status!r}"
                )
            actions.append(result.action)
        return actions


def chooser_of(space: ActionSpace, config: DQNConfig) -> Callable[[ActionValue], Chooser]:
    """Return what finds best actions as a configuration asks for."""
    c = config
    heuristics: dict[str, Callable[[ActionValue, ActionSpace], Chooser]] = {
        "greedy": GreedyArgmax,
        "gradient": GradientAscentArgmax,
        "cross_entropy": CrossEntropyArgmax,
    }
    if c.argmax in heuristics:
        return lambda network: heuristics[c.argmax](network, space)
    return lambda network: ExactChooser(
        network,
        space,
        solver=c.solver,
        formulation=c.formulation,
        bounds=c.bounds,
        time_limit=c.time_limit,
    )
