"""What an argmax returns."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from reprlib import Repr
from typing import Any, Literal

import numpy as np

from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.spaces.base import ActionSpace

Status = Literal["optimal", "feasible", "infeasible", "no_solution", "unbounded", "error"]

_MOST_SHOWN = 20  # entries of a list, when a result is printed
_MOST_CHARACTERS = 60  # of one entry


@dataclass(frozen=True, eq=False)
class ArgmaxResult:
    """A certified answer to ``max Q(state, action)`` over a feasible set.

    Parameters
    ----------
    action
        Shape (n_actions,), of the space's dtype: int8 for binary variables, int64 with integer
        ones, float64 with continuous ones; ``None`` if none was found.
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
    space
        The feasible set, which says what the action stands for; ``None`` if it is not known.
    proof
        What :func:`milp_rl.proofs.check` checks, where it was asked for.

    Examples
    --------
    >>> import milp_rl as mr
    >>> network = mr.Network.from_arrays([[[3.0, 1.0, 2.0, 1.0]]], [[0.0]])
    >>> day = mr.Product([mr.BudgetTopK(2, 1), mr.BudgetTopK(2, 1)], names=["calls", "visits"])
    >>> result = mr.argmax(network, [], day)
    >>> result.solution
    {'calls': [0], 'visits': [0]}
    >>> print(result)  # doctest: +ELLIPSIS
    status    optimal
    value     5
    bound     5 (gap 0)
    solver    enumeration, ... ms
    solution  calls   [0]
              visits  [0]
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
    space: ActionSpace | None = field(default=None, repr=False)
    proof: Any = field(default=None, repr=False)

    @property
    def chosen(self) -> list[int]:
        """Indices of the actions that are not zero."""
        return [] if self.action is None else np.flatnonzero(self.action).tolist()

    @cached_property
    def solution(self) -> Any:
        """What the action means, as :meth:`.ActionSpace.decode` of the space says.

        The route in order, the worker of each arm, the levels by name; of ``&`` and ``*`` a
        dictionary of what each member makes of it, by the members' names, of ``|`` that of the
        one that has it. ``None`` without action or space.
        """
        if self.action is None or self.space is None:
            return None
        return self.space.decode(self.action)

    def to_dict(self) -> dict[str, Any]:
        """Return all but space and proof, JSON-ready: ``None`` for what is not finite."""
        return {
            "status": self.status,
            "value": _plain(self.value),
            "bound": _plain(self.bound),
            "gap": _plain(self.gap),
            "seconds": self.seconds,
            "solver": self.solver,
            "nodes": self.nodes,
            "unstable": self.unstable,
            "message": self.message,
            "tolerance": _plain(self.tolerance),
            "action": None if self.action is None else self.action.tolist(),
            "solution": _plain(self.solution),
        }

    def to_json(self) -> str:
        """Return :meth:`to_dict` as a line of JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        """Write the result on a few lines, of a large action the first entries."""
        lines: list[tuple[str, str]] = [("status", self.status)]
        if self.action is not None:
            lines.append(("value", f"{self.value:.9g}"))
        gap = f" (gap {self.gap:.2g})" if math.isfinite(self.gap) else ""
        lines.append(("bound", f"{self.bound:.9g}{gap}"))
        lines.append(("solver", f"{self.solver}, {1e3 * self.seconds:.3g} ms"))
        if self.action is not None:
            names = itertools.chain(["solution"], itertools.repeat(""))
            lines += zip(names, self._written(), strict=False)
        return "\n".join(f"{name:<10}{text}" for name, text in lines)

    def _written(self) -> list[str]:
        """Write the solution: a line for each member, or one."""
        short = Repr()
        short.maxlist = short.maxdict = short.maxtuple = _MOST_SHOWN
        short.maxstring = short.maxother = _MOST_CHARACTERS
        solution = self.chosen if self.space is None else self.solution
        if not isinstance(solution, dict) or not all(isinstance(key, str) for key in solution):
            return [short.repr(solution)]
        width = max(map(len, solution), default=0)
        return [f"{name:<{width}}  {short.repr(own)}" for name, own in solution.items()]


def relative_gap(value: float, bound: float) -> float:
    """Return ``|bound - value| / |value|``, 0 where they are equal."""
    difference = abs(bound - value)
    if difference == 0:
        return 0.0
    return difference / abs(value) if value else math.inf


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: keys and labels of other kinds as text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        return [_plain(own) for own in value]
    return str(value)
