"""Searches among the feasible actions near a continuous proto-action.

Two ways to turn what a continuous actor wants into an action of a combinatorial set, by the values
of a critic:

- :func:`annealed`: simulated annealing over neighbours, dynamic neighbourhood construction
  (Akkerman, Luy, van Heeswijk and Schiffer, arXiv 2305.19891);
- :class:`Nearest`: the best of the k actions nearest to the proto-action, Wolpertinger
  (Dulac-Arnold et al., arXiv 1512.07679).

Neighbours are all feasible actions that differ in one item or exchange two, at most 200 drawn at
random, since under a budget that is spent nothing can be added.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.heuristics.scores import by_scores
from milp_rl.solvers.neighbours import neighbourhood

MOST_NEIGHBOURS = 200
STEPS = 5  # in the values of integer variables
ACCEPTANCE, ACCEPTANCE_COOLING, COOLING = 0.9, 0.225, 0.25
MOST_LISTED = 30_000

Values = Callable[[ActionArray], FloatArray]


def neighbours(space: ActionSpace, action: ActionArray, rng: np.random.Generator) -> ActionArray:
    """Return feasible actions next to one, shape (at most 200, n_actions)."""
    if not space.binary:
        unit = np.eye(space.n_actions, dtype=action.dtype)
        moves = np.concatenate([step * unit for step in range(1, STEPS + 1)])
        near = np.concatenate([action + moves, action - moves])
        near = np.unique(np.clip(near, space.lower, space.upper).astype(action.dtype), axis=0)
        near = near[(near != action).any(axis=1)]
        return np.asarray(near[space.feasible(near)])
    chosen, free = np.flatnonzero(action), np.flatnonzero(action == 0)
    swaps = space.n_actions + np.arange(len(chosen) * len(free))
    rows = np.concatenate([free, chosen, swaps])
    if len(rows) > MOST_NEIGHBOURS:
        rows = rows[rng.choice(len(rows), MOST_NEIGHBOURS, replace=False)]
    near = neighbourhood(action, rows)
    return near[space.feasible(near)]


def annealed(
    space: ActionSpace, start: ActionArray, values: Values, rng: np.random.Generator
) -> ActionArray:
    """Search the neighbours of an action for one of high value.

    As published: acceptance from 0.9 cooled by 0.225, and the number of neighbours kept by 0.25.

    Parameters
    ----------
    space, start
        The feasible set, and an action in it.
    values
        Gives the values of actions, shape (batch, n_actions).
    rng
        Source of randomness.
    """
    base, best, best_value = start, start, float(values(start[None])[0])
    k = first = max(int(0.1 * 2 * space.n_actions), 4)
    accepted, kept = ACCEPTANCE, np.empty((0, space.n_actions), dtype=start.dtype)
    while k > 0:
        near = np.concatenate([neighbours(space, base, rng), base[None]])
        found = values(near)
        order = np.argsort(-found, kind="stable")[:k]
        kept = np.concatenate([kept, near[order]])
        top, own = float(found[order[0]]), float(found[-1])
        if top > own:
            if top > best_value:
                best, best_value = near[order[0]], top
            base = near[order[0]]
        elif accepted > 0 and rng.random() < np.exp(-(own - top) / accepted):
            accepted -= ACCEPTANCE_COOLING
            base = near[order[0]]
        else:
            row = int(rng.integers(len(kept)))
            base, kept = kept[row], np.delete(kept, row, axis=0)
        k -= max(int(COOLING * first), 1)
    return best


class Nearest:
    """The k feasible actions nearest to a proto-action.

    Exactly, from a list, where there are at most 30,000; otherwise a local search from the action
    that the proto-action's scores build, until the neighbours of the k nearest have been met.

    Parameters
    ----------
    space
        The feasible set.
    k
        How many, at least 1.
    """

    def __init__(self, space: ActionSpace, k: int) -> None:
        self.space = space
        self.k = k
        self._listed: ActionArray | None = None
        if not space.continuous.any():
            try:
                self._listed = space.enumerate(MOST_LISTED)
            except ValueError:  # there are more
                self._listed = None
        if self._listed is not None:
            self._shares = shares(space, self._listed)

    def actions(self, proto: FloatArray, rng: np.random.Generator) -> ActionArray:
        """Return the k nearest actions, or all there are, the nearest first.

        Parameters
        ----------
        proto
            Scores in [-1, 1], which span the ranges of the variables, shape (n_actions,).
        rng
            Draws neighbours where there are many.
        """
        wanted = (np.clip(proto, -1.0, 1.0) + 1.0) / 2.0
        if self._listed is not None:
            # |w - a|^2 without its constant, as a product: the shares are 0 or 1 or in between
            far = (self._shares**2).sum(axis=1) - 2.0 * (self._shares @ wanted)
            k = min(self.k, len(far))
            first = np.argpartition(far, k - 1)[:k]
            return self._listed[first[np.argsort(far[first], kind="stable")]]
        start = by_scores(self.space, proto)
        met = {start.tobytes(): (self._distance(start, wanted), start)}
        seen: set[bytes] = set()
        while True:
            nearest = sorted(met, key=lambda key: (met[key][0], key))[: self.k]
            new = [key for key in nearest if key not in seen]
            if not new:
                return np.array([met[key][1] for key in nearest])
            seen.add(new[0])
            for near in neighbours(self.space, met[new[0]][1], rng):
                if (key := near.tobytes()) not in met:
                    met[key] = self._distance(near, wanted), near

    def _distance(self, action: ActionArray, wanted: FloatArray) -> float:
        return float(((shares(self.space, action) - wanted) ** 2).sum())


def shares(space: ActionSpace, actions: ActionArray) -> FloatArray:
    """Return actions as shares of the ranges of their variables, in [0, 1]."""
    spread = np.maximum(space.upper - space.lower, 1e-9)
    return np.asarray((actions - space.lower) / spread)
