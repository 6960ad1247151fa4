"""Feasible actions of high value, built greedily and improved by single flips and swaps.

Where variables are continuous, the best of a random sample, moved towards the others of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.actions.contradictions import refusal
from milp_rl.formulations.actions.sequential import SequentialBuilder, valued_by
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import neighbour_values, neighbourhood, on_the_way

if TYPE_CHECKING:
    from milp_rl.solvers.certify import ArgmaxProblem

IntArray = NDArray[np.intp]

_REMEMBERED = 100_000
_COMPLETED = 16  # answers for which auxiliary variables of the model are looked for


class Incumbents:
    """Finds good feasible actions of one space; remembers which actions are feasible.

    Parameters
    ----------
    space
        The feasible set.
    """

    def __init__(self, space: ActionSpace) -> None:
        self.space = space
        self.sample = space.known_actions
        self._greedy = SequentialBuilder(space) if space.binary else None
        self._feasible = lru_cache(_REMEMBERED)(self._check)
        self._refusal = lru_cache(_REMEMBERED)(self._examine)
        self._examined = 0

    def __reduce__(self) -> tuple[type[Incumbents], tuple[ActionSpace]]:
        return Incumbents, (self.space,)

    def feasible(self, action: ActionArray) -> bool:
        """Whether an action, of the space's dtype, is feasible."""
        return self._feasible(action.tobytes())

    def _check(self, key: bytes) -> bool:
        return not self.space.violations(np.frombuffer(key, dtype=self.space.dtype))

    def refusal(self, action: ActionArray) -> str:
        """Check an answer by the space's check and its constraints; empty if it is feasible.

        Raises
        ------
        ContradictionError
            If the two disagree.
        """
        return self._refusal(np.ascontiguousarray(action).tobytes())

    def _examine(self, key: bytes) -> str:
        self._examined += 1
        action = np.frombuffer(key, dtype=self.space.dtype)
        return refusal(self.space, action, complete=self._examined <= _COMPLETED)

    def build(self, network: Network, states: FloatArray) -> ActionArray:
        """Build an action for each state greedily; none if building gets stuck.

        With continuous variables, take the best of the sample.
        """
        if self._greedy is None:
            n, sample = len(states), self.sample
            if not len(sample):
                return sample
            rows = np.repeat(np.arange(n), len(sample))
            inputs = np.concatenate([np.tile(sample, (n, 1)), states[rows]], axis=1)
            return np.asarray(sample[network.forward(inputs).reshape(n, -1).argmax(axis=1)])

        def values(rows: IntArray, actions: ActionArray) -> FloatArray:
            return network.forward(np.concatenate([actions, states[rows]], axis=1))[:, 0]

        try:
            return self._greedy.build(valued_by(values), len(states))
        except RuntimeError:
            return np.zeros((0, self.space.n_actions), dtype=np.int8)

    def climb(self, problem: ArgmaxProblem, action: ActionArray) -> tuple[ActionArray, float]:
        """Improve a feasible action until no flip and no swap (or no move) does.

        Returns
        -------
        tuple
            The action and its value.
        """
        best, value = action, problem.value(action)
        while True:
            if self._greedy is None:
                points = on_the_way(self.space, best, self.sample)
                values = problem.network.forward(points)[:, 0]
            else:
                values = neighbour_values(problem, best)
            better = np.flatnonzero(values > value + 2.0 * problem.rounding)
            ranked = better[np.argsort(-values[better], kind="stable")]
            others = neighbourhood(best, ranked) if self._greedy is not None else points[ranked]
            found = next((other for other in others if self.feasible(other)), None)
            if found is None:
                return best, value
            best, value = found, problem.value(found)
