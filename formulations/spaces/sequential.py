"""Building actions one addition at a time, for many states at once.

Each round values, for every build, stopping there and all additions that keep the action
completable. An action is finished when nothing can be added, or when it is feasible and no addition
has a higher value: after at most as many rounds as there are actions, whatever the constraints.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins

Values = Callable[[IntArray, ActionArray], FloatArray]
Expand = Callable[[IntArray, ActionArray, BoolArray], tuple[FloatArray, FloatArray]]


def valued_by(values: Values) -> Expand:
    """Return an ``expand`` for :class:`SequentialBuilder` that values whole actions.

    Parameters
    ----------
    values
        ``values(rows, actions)`` gives the value of each of a batch of actions, for the builds
        ``rows``, shape (batch,).
    """

    def expand(
        rows: IntArray, actions: ActionArray, allowed: BoolArray
    ) -> tuple[FloatArray, FloatArray]:
        of, additions = np.nonzero(allowed)
        candidates = actions[of]
        candidates[np.arange(len(of)), additions] = 1
        found = values(np.concatenate([rows, rows[of]]), np.concatenate([actions, candidates]))
        children = np.full(actions.shape, -np.inf)
        children[of, additions] = found[len(rows) :]
        return found[: len(rows)], children

    return expand


class SequentialBuilder:
    """Builds feasible actions of one space, one addition at a time.

    Greedily, each round takes the best addition. A beam keeps the ``width`` best partial actions of
    each build, goes on until nothing can be added, and returns the best feasible one that it met.
    Sampling takes additions, or stops, at random.

    Parameters
    ----------
    space
        The feasible set.
    width
        Partial actions kept, at least 1 (greedy).
    epsilon
        Probability that a round takes an addition, or stops, uniformly at random.
    temperature
        If positive, a round draws from the softmax of values divided by it, instead of the best.

    Raises
    ------
    ValueError
        If a number is out of range, or a beam is to be sampled.

    Examples
    --------
    For a sum of coefficients, greedy building takes the largest that fit:

    >>> import numpy as np
    >>> import milp_rl as mr
    >>> from milp_rl.formulations.spaces.sequential import SequentialBuilder, valued_by
    >>> builder = SequentialBuilder(mr.BudgetTopK(4, 2))
    >>> coefficients = np.array([1.0, -2.0, 3.0, 2.0])
    >>> builder.build(valued_by(lambda rows, actions: actions @ coefficients), n=1)
    array([[0, 0, 1, 1]], dtype=int8)
    """

    def __init__(
        self,
        space: ActionSpace,
        *,
        width: int = 1,
        epsilon: float = 0.0,
        temperature: float = 0.0,
    ) -> None:
        space.require_binary("built one by one")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be in [0, 1], got {epsilon}")
        if not 0 <= temperature < np.inf:
            raise ValueError(f"temperature must be nonnegative, got {temperature}")
        if width > 1 and (epsilon or temperature):
            raise ValueError("a beam is not sampled: give width, or epsilon and temperature")
        self.space = space
        self.width = width
        self.epsilon = epsilon
        self.temperature = temperature

    def build(
        self,
        expand: Expand,
        n: int,
        rng: np.random.Generator | None = None,
        pins: Pins | None = None,
    ) -> ActionArray:
        """Build n actions.

        Parameters
        ----------
        expand
            ``expand(rows, actions, allowed)`` values partial actions of the builds ``rows``
            (0..n-1): the value of stopping there, shape (batch,), and of the action with each
            allowed addition, shape (batch, n_actions), where ``allowed`` is false anything.
        n
            How many.
        rng
            Source of randomness, for sampling.
        pins
            Actions held at one, with which building starts, and at zero, which are not added; a
            build may get stuck where they leave feasible actions, unless the space is down-closed.

        Returns
        -------
        numpy.ndarray
            Shape (n, n_actions), int8.

        Raises
        ------
        RuntimeError
            If no feasible action can be built.
        ValueError
            If sampling has no source of randomness.
        """
        held = (pins or Pins()).checked((n, self.space.n_actions))
        actions = held.imposed_on(np.zeros((n, self.space.n_actions), dtype=np.int8))
        if self.width > 1:
            return self._beam(expand, actions, held)
        if rng is None and (self.epsilon or self.temperature):
            raise ValueError("sampling needs a random generator")
        rows = np.arange(n)
        while len(rows):
            allowed, feasible = self._extension_masks(actions[rows], held[rows])
            going_on = allowed.any(axis=1)
            for row in rows[~going_on & ~feasible]:
                self._fail(actions[row])
            rows, allowed, feasible = rows[going_on], allowed[going_on], feasible[going_on]
            if not len(rows):
                break
            values, children = expand(rows, actions[rows], allowed)
            children = np.where(allowed, children, -np.inf)
            chosen = self._choose(values, children, feasible, rng)
            adding = chosen >= 0
            rows = rows[adding]
            actions[rows, chosen[adding]] = 1
        return actions

    def _choose(
        self,
        values: FloatArray,
        children: FloatArray,
        feasible: BoolArray,
        rng: np.random.Generator | None,
    ) -> IntArray:
        """Return the addition of each partial action, -1 to stop."""
        if self.temperature:
            assert rng is not None
            options = np.column_stack([np.where(feasible, values, -np.inf), children])
            drawn = options / self.temperature + rng.gumbel(size=options.shape)
            chosen: IntArray = drawn.argmax(axis=1) - 1
        else:
            chosen = children.argmax(axis=1)
            chosen[feasible & (children.max(axis=1) <= values)] = -1
        if self.epsilon:
            assert rng is not None
            keys = rng.random((len(values), children.shape[1] + 1))
            keys[:, 0] *= feasible
            keys[:, 1:] *= children > -np.inf
            random = rng.random(len(values)) < self.epsilon
            chosen[random] = keys[random].argmax(axis=1) - 1
        return np.asarray(chosen)

    def _extension_masks(self, actions: ActionArray, held: Pins) -> tuple[BoolArray, BoolArray]:
        """Return the additions to partial actions that are not held at zero, and feasibility."""
        allowed, feasible = self.space.extension_masks(actions)
        return allowed if held.zero is None else allowed & ~held.zero, feasible

    def _beam(self, expand: Expand, best: ActionArray, held: Pins) -> ActionArray:
        n = len(best)
        best_value = np.full(n, -np.inf)
        rows, beams = np.arange(n), best.copy()
        while len(rows):
            allowed, feasible = self._extension_masks(beams, held[rows])
            values, children = expand(rows, beams, allowed)
            for i in np.flatnonzero(feasible):
                if values[i] > best_value[rows[i]]:
                    best[rows[i]], best_value[rows[i]] = beams[i], values[i]
            of, additions = np.nonzero(allowed)
            grown = beams[of]
            grown[np.arange(len(of)), additions] = 1
            kept = self._best_of_each(rows[of], grown, children[of, additions])
            rows, beams = rows[of][kept], grown[kept]
        for row in np.flatnonzero(best_value == -np.inf):
            self._fail(best[row])
        return best

    def _best_of_each(self, rows: IntArray, actions: ActionArray, values: FloatArray) -> IntArray:
        """Return the positions of the best actions of each row, no action twice."""
        order = np.lexsort((-values, rows))
        keys = np.column_stack([rows, np.packbits(actions.astype(bool), axis=1)])[order]
        distinct = order[np.sort(np.unique(keys, axis=0, return_index=True)[1])]
        _, first = np.unique(rows[distinct], return_index=True)
        counts = np.diff(np.append(first, len(distinct)))
        rank = np.arange(len(distinct)) - np.repeat(first, counts)
        return np.asarray(distinct[rank < self.width])

    def _fail(self, action: ActionArray) -> None:
        violations = "; ".join(self.space.violations(action))
        raise RuntimeError(f"no feasible action can be built: {violations}")
