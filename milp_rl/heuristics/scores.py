"""The feasible action that scores of its variables ask for."""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.sequential import SequentialBuilder


def by_scores(space: ActionSpace, scores: FloatArray) -> ActionArray:
    """Return the action that takes items by falling score, each that still fits.

    Parameters
    ----------
    space
        The feasible set.
    scores
        Shape (n_actions,). Items of negative score are taken only where the set requires more.
        Variables that are not binary have scores in [-1, 1], which are stretched over their range
        and rounded.

    Examples
    --------
    >>> import numpy as np
    >>> import milp_rl as mr
    >>> by_scores(mr.BudgetTopK(4, 2), np.array([0.1, -0.2, 0.3, 0.2]))
    array([0, 0, 1, 1], dtype=int8)
    """
    if not space.binary:
        share = (np.clip(scores, -1.0, 1.0) + 1.0) / 2.0
        values = space.lower + share * (space.upper - space.lower)
        found: ActionArray = np.where(space.integer, np.rint(values), values).astype(space.dtype)
        return found
    return np.asarray(built_by_scores(space, scores[None])[0])


def built_by_scores(space: ActionSpace, scores: FloatArray) -> ActionArray:
    """Return what :func:`by_scores` does for several scores of binary variables.

    Parameters
    ----------
    space
        The feasible set, of binary variables.
    scores
        Shape (n, n_actions).

    Raises
    ------
    RuntimeError
        If no feasible action can be built.
    """
    stopping = np.nextafter(0.0, -1.0)  # an item of score 0 is still taken

    def expand(
        rows: IntArray, actions: ActionArray, allowed: BoolArray
    ) -> tuple[FloatArray, FloatArray]:
        return np.full(len(rows), stopping), scores[rows]

    return SequentialBuilder(space).build(expand, len(scores))
