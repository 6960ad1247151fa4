"""Feasible actions of high value: built greedily and improved by single flips and swaps."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.actions.sequential import SequentialBuilder, valued_by
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import ArgmaxProblem, neighbour_values, neighbourhood, tolerance

IntArray = NDArray[np.intp]

_REMEMBERED = 100_000


class Incumbents:
    """Finds good feasible actions of one space; remembers which actions are feasible.

    Parameters
    ----------
    space
        The feasible set.
    """

    def __init__(self, space: ActionSpace) -> None:
        self.space = space
        self._greedy = SequentialBuilder(space)
        self._feasible = lru_cache(_REMEMBERED)(self._check)

    def __reduce__(self) -> tuple[type[Incumbents], tuple[ActionSpace]]:
        return Incumbents, (self.space,)

    def feasible(self, action: ActionArray) -> bool:
        """Whether an int8 action is feasible."""
        return self._feasible(action.tobytes())

    def _check(self, key: bytes) -> bool:
        return not self.space.violations(np.frombuffer(key, dtype=np.int8))

    def build(self, network: Network, states: FloatArray) -> ActionArray:
        """Build an action for each state greedily; none if building gets stuck."""

        def values(rows: IntArray, actions: ActionArray) -> FloatArray:
            return network.forward(np.concatenate([actions, states[rows]], axis=1))[:, 0]

        try:
            return self._greedy.build(valued_by(values), len(states))
        except RuntimeError:
            return np.zeros((0, self.space.n_actions), dtype=np.int8)

    def climb(self, problem: ArgmaxProblem, action: ActionArray) -> tuple[ActionArray, float]:
        """Improve a feasible action until no flip and no swap does.

        Returns
        -------
        tuple
            The action and its value.
        """
        best, value = action, problem.value(action)
        while True:
            values = neighbour_values(problem, best)
            better = np.flatnonzero(values > value + tolerance(value))
            ranked = better[np.argsort(-values[better], kind="stable")]
            others = neighbourhood(best, ranked)
            found = next((other for other in others if self.feasible(other)), None)
            if found is None:
                return best, value
            best, value = found, problem.value(found)
