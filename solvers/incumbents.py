"""Feasible actions of high value, built greedily and improved by single flips and swaps.

Where variables are continuous, the best of a random sample, moved towards the others of it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.actions.sequential import SequentialBuilder, valued_by
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import (
    ArgmaxProblem,
    draw_sample,
    neighbour_values,
    neighbourhood,
    on_the_way,
    tolerance,
)

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
        self.sample = draw_sample(space)
        self._greedy = SequentialBuilder(space) if space.binary else None
        self._feasible = lru_cache(_REMEMBERED)(self._check)

    def __reduce__(self) -> tuple[type[Incumbents], tuple[ActionSpace]]:
        return Incumbents, (self.space,)

    def feasible(self, action: ActionArray) -> bool:
        """Whether an action, of the space's dtype, is feasible."""
        return self._feasible(action.tobytes())

    def _check(self, key: bytes) -> bool:
        return not self.space.violations(np.frombuffer(key, dtype=self.space.dtype))

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
            better = np.flatnonzero(values > value + tolerance(value))
            ranked = better[np.argsort(-values[better], kind="stable")]
            others = neighbourhood(best, ranked) if self._greedy is not None else points[ranked]
            found = next((other for other in others if self.feasible(other)), None)
            if found is None:
                return best, value
            best, value = found, problem.value(found)
