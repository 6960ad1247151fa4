"""Feasible sets of binary actions that are numbers of actions of groups, by what they are.

At most one action of each machine, exactly one in all: as products of budgets these have closed
forms, which bounds and searches are quicker with than with rows of a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from milp_rl.formulations.arrays import BoolArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.factored import FactoredValidity
from milp_rl.formulations.spaces.product import Product

_WHOLE = 1e-9


def grouped(
    allowed: BoolArray, rows: Sequence[tuple[Mapping[int, float], float]]
) -> ActionSpace | None:
    """Return the binary actions within rows, if these count the actions of disjoint groups.

    Parameters
    ----------
    allowed
        Which actions may be one, shape (n_actions,).
    rows
        Coefficients, none of them zero, and right sides: ``coefficients . x <= right``.

    Returns
    -------
    ActionSpace or None
        ``None`` if there are other rows, groups are not of neighbouring actions, or only a part of
        a group is allowed of which not exactly one is chosen.
    """
    n = len(allowed)
    limits: dict[tuple[int, int], tuple[int, int]] = {}
    for row, right in rows:
        place = (min(row), max(row) + 1)
        signs = set(row.values())
        if len(row) != place[1] - place[0] or signs not in ({1.0}, {-1.0}):
            return None
        least, most = limits.get(place, (0, len(row)))
        if signs == {1.0}:
            most = min(most, math.floor(right + _WHOLE))
        else:
            least = max(least, math.ceil(-right - _WHOLE))
        limits[place] = (least, most)
    if any(most < 0 or least not in (0, most) for least, most in limits.values()):
        return None
    budget = limits.pop((0, n), None) if len(limits) > 1 else None
    groups = [(first, last, most, least > 0) for (first, last), (least, most) in limits.items()]
    parts, start = [], 0
    for first, last, most, exactly in [*sorted(groups), (n, n, 0, False)]:
        if first < start:
            return None
        if first > start:
            parts.append(_of_group(allowed[start:first], first - start, exactly=False))
        if last > first:
            parts.append(_of_group(allowed[first:last], most, exactly=exactly))
        start = last
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    found = known[0] if len(known) == 1 else Product(known)
    return found if budget is None else found & BudgetTopK(n, budget[1], exactly=budget[0] > 0)


def _of_group(allowed: BoolArray, k: int, *, exactly: bool) -> ActionSpace | None:
    """Return at most, or exactly, k of the actions of a group."""
    if allowed.all():
        return BudgetTopK(len(allowed), k, exactly=exactly)
    if not (exactly and k == 1 and allowed.any()):
        return None
    names = [str(i) for i in range(len(allowed))]
    return FactoredValidity({"action": names}, allowed=allowed)
