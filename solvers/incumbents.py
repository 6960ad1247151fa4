"""Feasible actions of high value, built greedily and improved by single flips and swaps.

Where variables are continuous, the best of a random sample, moved towards the others of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.networks.action_value import ActionNetworks, times_transposed
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.contradictions import refusal
from milp_rl.formulations.spaces.sequential import SequentialBuilder
from milp_rl.solvers.neighbours import neighbourhood, neighbours_above, on_the_way
from milp_rl.solvers.options import late

if TYPE_CHECKING:
    from milp_rl.solvers.certify import ArgmaxProblem


_REMEMBERED = 100_000
_REMEMBERED_BYTES = 200_000_000
_ENTRIES = 4_000_000  # of a layer that are computed at a time
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
        most = min(_REMEMBERED, _REMEMBERED_BYTES // (self.sample.itemsize * space.n_actions))
        self._feasible = lru_cache(most)(self._check)
        self._refusal = lru_cache(most)(self._examine)
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
        action: ActionArray = np.frombuffer(key, dtype=self.space.dtype)
        return refusal(self.space, action, complete=self._examined <= _COMPLETED)

    def build(self, networks: ActionNetworks, deadline: float = math.inf) -> ActionArray:
        """Build an action for each state greedily; none if building gets stuck.

        With continuous variables, or where the deadline passes, take the best of the sample.
        """
        if self._greedy is None:
            return self._best_known(networks)
        try:
            return self._greedy.build(_Additions(networks, deadline).expand, networks.n_states)
        except _LateError:
            return self._best_known(networks)
        except RuntimeError:
            return np.zeros((0, self.space.n_actions), dtype=np.int8)

    def _best_known(self, networks: ActionNetworks) -> ActionArray:
        """Return the best of the sample for each state, none if it is empty."""
        sample = self.sample
        if not len(sample):
            return sample
        best: list[int] = []
        size = max(_ENTRIES // (len(sample) * networks.n_actions), 1)
        for i in range(0, networks.n_states, size):
            own = np.arange(i, min(i + size, networks.n_states))
            actions = np.tile(sample, (len(own), 1)).astype(np.float64)
            values = networks.values(actions, np.repeat(own, len(sample)))
            best += values.reshape(len(own), -1).argmax(axis=1).tolist()
        return np.asarray(sample[best])

    def climb(
        self, problem: ArgmaxProblem, action: ActionArray, deadline: float = math.inf
    ) -> tuple[ActionArray, float]:
        """Improve a feasible action until no flip and no swap (or no move) does.

        Where there are more than 100,000 swaps, a fixed part of them is tried.

        Parameters
        ----------
        problem
            What is solved.
        action
            Feasible.
        deadline
            When to stop.

        Returns
        -------
        tuple
            The action and its value.
        """
        best, value = action, problem.value(action)
        while not late(deadline):
            limit = value + 2.0 * problem.rounding
            if self._greedy is None:
                points = on_the_way(self.space, best, self.sample)
                values = problem.network.forward(points)[:, 0]
                better = np.flatnonzero(values > limit)
                ranked = better[np.argsort(-values[better], kind="stable")]
                others = iter(points[ranked])
            else:
                better, values = neighbours_above(problem, best, limit, deadline)
                ranked = better[np.argsort(-values, kind="stable")]
                others = self._each_neighbour(best, ranked, deadline)
            found = next((other for other in others if self.feasible(other)), None)
            if found is None:
                break
            best, value = found, problem.value(found)
        return best, value

    def _each_neighbour(
        self, action: ActionArray, rows: IntArray, deadline: float
    ) -> Iterator[ActionArray]:
        size = max(_ENTRIES // len(action), 1)
        for i in range(0, len(rows), size):
            if late(deadline):
                return
            yield from neighbourhood(action, rows[i : i + size])


class _LateError(Exception):
    """The time limit ended the building of actions."""


class _Additions:
    """Values actions and all their additions, by what each adds to the layers that take it."""

    def __init__(self, networks: ActionNetworks, deadline: float) -> None:
        self._networks = networks
        # (states or 1, actions, outputs)
        self._columns = {
            depth: np.ascontiguousarray(weight.transpose(0, 2, 1))
            if weight.ndim == 3
            else np.ascontiguousarray(weight.T)[None]
            for depth, weight in networks.direct.items()
        }
        self._deadline = deadline
        self._most = max(_ENTRIES // networks.widest, 1)

    def expand(
        self, rows: IntArray, actions: ActionArray, allowed: BoolArray
    ) -> tuple[FloatArray, FloatArray]:
        """Value partial actions and their additions, for a :class:`.SequentialBuilder`."""
        chosen = actions.astype(np.float64)
        before = {
            depth: times_transposed(chosen, weight, rows)
            for depth, weight in self._networks.direct.items()
        }
        children = np.full(actions.shape, -np.inf)
        of, additions = np.nonzero(allowed)
        for i in range(0, len(of), self._most):
            if late(self._deadline):
                raise _LateError
            own, added = of[i : i + self._most], additions[i : i + self._most]
            products = {
                depth: before[depth][own]
                + (columns[0, added] if len(columns) == 1 else columns[rows[own], added])
                for depth, columns in self._columns.items()
            }
            children[own, added] = self._networks.values_after(products, rows[own])
        return self._networks.values_after(before, rows), children
