"""What an argmax returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from milp_rl.formulations.arrays import ActionArray

Status = Literal["optimal", "feasible", "infeasible", "no_solution", "unbounded", "error"]


@dataclass(frozen=True, eq=False)
class ArgmaxResult:
    """A certified answer to ``max Q(state, action)`` over a feasible set.

    Parameters
    ----------
    action
        Shape (n_actions,), int8, or float64 if variables of the space are continuous; ``None`` if
        none was found.
    value
        The network's value of ``action``, recomputed by a forward pass in float64; NaN without
        action.
    bound
        Proven bound on the optimal value: no feasible action is better than this.
    gap
        ``|bound - value| / |value|``, as it is; infinite without action.
    status
        ``"optimal"``: bound and value differ by at most the requested gap or by ``tolerance``.
        ``"feasible"``: stopped before, with a valid bound. ``"infeasible"``: the set is empty.
        ``"no_solution"``: stopped before any action was found. ``"error"``: the solver failed.
    seconds
        Wall-clock time of this solve.
    solver
        The solver that answered.
    nodes
        Branch-and-bound nodes (actions evaluated, for enumeration).
    unstable
        Neurons proven neither on nor off, those that need a binary variable; -1 if not computed.
    message
        What the solver said, or why it was chosen or stopped.
    tolerance
        The difference of bound and value that counts as none: 1e-6 of the spread of Q over the
        feasible set (:meth:`.ArgmaxProblem.tolerance`).
    """

    action: ActionArray | None
    value: float
    bound: float
    gap: float
    status: Status
    seconds: float
    solver: str
    nodes: int = 0
    unstable: int = -1
    message: str = ""
    tolerance: float = 0.0

    @property
    def chosen(self) -> list[int]:
        """Indices of the actions set to one."""
        return [] if self.action is None else np.flatnonzero(self.action).tolist()


def relative_gap(value: float, bound: float) -> float:
    """Return ``|bound - value| / |value|``, 0 where they are equal."""
    difference = abs(bound - value)
    if difference == 0:
        return 0.0
    return difference / abs(value) if value else math.inf
