"""Building actions greedily, one addition at a time, for many states at once.

Each round values all additions that keep an action completable and takes the best. An action is
finished when nothing can be added, or when it is feasible and no addition has a higher value:
after at most as many rounds as there are actions, whatever the constraints.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.network import FloatArray

Values = Callable[[NDArray[np.intp], ActionArray], FloatArray]
_REMEMBERED = 100_000


class GreedyBuilder:
    """Builds feasible actions of one space; remembers which additions each partial action has.

    Parameters
    ----------
    space
        The feasible set.
    """

    def __init__(self, space: ActionSpace) -> None:
        self.space = space
        self._options = lru_cache(_REMEMBERED)(self._find_options)

    def __reduce__(self) -> tuple[type[GreedyBuilder], tuple[ActionSpace]]:
        return GreedyBuilder, (self.space,)

    def build(self, values: Values, n: int) -> ActionArray:
        """Build n actions.

        Parameters
        ----------
        values
            ``values(rows, actions)`` gives the value of each of a batch of actions, for the
            builds ``rows`` (0..n-1), shape (batch,).
        n
            How many.

        Returns
        -------
        numpy.ndarray
            Shape (n, n_actions), int8.

        Raises
        ------
        RuntimeError
            If no feasible action can be built.
        """
        actions = np.zeros((n, self.space.n_actions), dtype=np.int8)
        rows = np.arange(n)
        best = values(rows, actions)
        while len(rows):
            options = [self._options(actions[row].tobytes()) for row in rows]
            counts = np.array([len(additions) for additions, _ in options])
            finished = counts == 0
            for row in rows[finished]:
                self._check(actions[row])
            rows, counts = rows[~finished], counts[~finished]
            if not len(rows):
                break
            additions = np.concatenate([a for a, _ in options if len(a)])
            feasible = np.array([f for (a, f) in options if len(a)])
            of = np.repeat(rows, counts)
            candidates = actions[of]
            candidates[np.arange(len(of)), additions] = 1
            found = values(of, candidates)
            ends = np.cumsum(counts)
            chosen = np.array(
                [
                    start + int(found[start:end].argmax())
                    for start, end in zip(ends - counts, ends, strict=True)
                ]
            )
            improves = ~feasible | (found[chosen] > best[rows])
            rows, chosen = rows[improves], chosen[improves]
            actions[rows], best[rows] = candidates[chosen], found[chosen]
        return actions

    def _find_options(self, key: bytes) -> tuple[NDArray[np.intp], bool]:
        """Return the additions to a partial action, and whether it is feasible as it is."""
        action = np.frombuffer(key, dtype=np.int8)
        return self.space.extensions(action), not self.space.violations(action)

    def _check(self, action: ActionArray) -> None:
        if violations := self.space.violations(action):
            raise RuntimeError(f"no feasible action can be built: {'; '.join(violations)}")
