"""The permutation block: orders of n jobs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.checks import MOST_VARIABLES, check_integer
from milp_rl.formulations.spaces.matching import Matching


class Permutation(Matching):
    r"""Orders of n jobs: every job at one position, every position with one job.

    The variable :math:`x_{jp}` says whether job j is at position p; the action is the matrix, row
    by row:

    .. math:: \sum_p x_{jp} = 1, \qquad \sum_j x_{jp} = 1,

    whose relaxation is integral (Birkhoff, "Tres observaciones sobre el álgebra lineal",
    Universidad Nacional de Tucumán, Revista A 5, 1946). ``linear_max`` is exact, also under pins:
    the assignment problem.

    Parameters
    ----------
    n
        Number of jobs, at least 1.
    allowed
        Which job may be at which position, boolean, shape (n, n); ``None`` for all.
    jobs
        Names of the jobs for :meth:`decode`, distinct; ``None`` for their numbers.

    Raises
    ------
    ValueError
        If shapes do not fit or no order is allowed.

    Examples
    --------
    >>> import milp_rl as mr
    >>> space = mr.Permutation(3, jobs=["cut", "drill", "paint"])
    >>> space.encode(["drill", "cut", "paint"])
    array([0, 1, 0, 1, 0, 0, 0, 0, 1], dtype=int8)
    >>> late = [[0, 1, 2], [0, 5, 10], [0, 2, 4]]  # what a job costs at each position
    >>> best = space.maximizers([[-cost for row in late for cost in row]])[0]
    >>> space.decode(best)
    ['drill', 'paint', 'cut']
    >>> space.violations([0, 1, 0, 0, 1, 0, 0, 0, 1])
    ['position 0 has 0 jobs, exactly 1 allowed', 'position 1 has 2 jobs, exactly 1 allowed']
    """

    def __init__(
        self, n: int, allowed: ArrayLike | None = None, *, jobs: Iterable[str] | None = None
    ) -> None:
        n = check_integer(n, "n", 1, int(MOST_VARIABLES**0.5))
        pairs = np.ones((n, n), dtype=bool) if allowed is None else np.asarray(allowed)
        if pairs.shape != (n, n):
            raise ValueError(f"allowed must have shape ({n}, {n}), got {pairs.shape}")
        super().__init__(pairs, n, left=jobs)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "type": "Permutation",
            "n": len(self.eligible),
            "allowed": None if self._complete else self.eligible.astype(int).tolist(),
            "jobs": self.left,
        }

    def encode(self, pairs: Iterable[Any]) -> ActionArray:
        """Return the action of an order: the jobs, by name where they have names."""
        return super().encode((job, position) for position, job in enumerate(pairs))

    def decode(self, action: ArrayLike) -> list[Any]:
        """Return the jobs in order, by name where they have names.

        Raises
        ------
        ValueError
            If the action is not feasible.
        """
        found = self.violations(action)
        if found:
            raise ValueError(f"the action is no order: {'; '.join(found)}")
        order = self._matrix(action).argmax(axis=0).tolist()
        return order if self.left is None else [self.left[j] for j in order]

    def violations(self, action: ArrayLike) -> list[str]:
        """Count the positions of each job, the jobs of each position, and what is not allowed."""
        x = self._matrix(action)
        found = []
        for j in np.flatnonzero(x.sum(axis=1) != 1).tolist():
            found.append(f"{self._job(j)} has {x[j].sum()} positions, exactly 1 allowed")
        for p in np.flatnonzero(x.sum(axis=0) != 1).tolist():
            found.append(f"position {p} has {x[:, p].sum()} jobs, exactly 1 allowed")
        for j, p in np.argwhere((x == 1) & ~self.eligible).tolist():
            found.append(f"{self._job(j)} is not allowed at position {p}")
        return found

    compiled_oracle = Matching.compiled_oracle
    left_out_by = Matching.left_out_by
    feasible = Matching.feasible  # the same check, in another form
    _open = Matching._open

    def _job(self, j: int) -> str:
        return f"job {j}" if self.left is None else f"job {self.left[j]!r}"
