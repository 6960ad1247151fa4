"""Listing every feasible action of a space, in an order that is always the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.time_limit import check_time

_COUNTED = 1_000_000
_MOST_PARTIAL = 2_000_000
_PARTIAL_PER_ACTION = 8  # partial actions that may be open, per action listed
_MOST_ENTRIES = 2**28
_CHUNK = 2**15
_CHUNK_ENTRIES = 2**19
_VALUES_PER_PARTIAL = 64


def check_limit(count: float, limit: int) -> None:
    """Raise ``ValueError`` if there are more actions than ``limit``."""
    if count > limit:
        raise ValueError(
            f"the space has more than {limit} feasible actions; raise `limit` to list them"
        )


def grown(
    n: int,
    feasible: Callable[[ActionArray], BoolArray],
    is_open: Callable[[ActionArray, int], BoolArray],
    *,
    down_closed: bool,
    limit: int,
    variables: Iterable[int],
) -> ActionArray | None:
    """List by deciding variable by variable for all partial actions at once.

    Parameters
    ----------
    n
        Number of actions.
    feasible, is_open
        Which actions are feasible, and which partial ones, their first variables decided, may be
        completed; as the methods of :class:`.base.ActionSpace`.
    down_closed
        Whether what is open is feasible.
    limit
        Largest number of actions to list.
    variables
        Those that may be 1, in order.

    Returns
    -------
    numpy.ndarray or None
        In the order of :func:`built`; ``None`` if too many partial actions may or may not be
        completed.
    """
    most = max(limit, min(_PARTIAL_PER_ACTION * limit, _MOST_PARTIAL, _MOST_ENTRIES // n))
    rows: ActionArray = np.zeros((1, n), dtype=np.int8)
    if down_closed and not feasible(rows)[0]:
        return rows[:0]
    for i in variables:
        chosen = rows.copy()
        chosen[:, i] = 1
        both = np.concatenate([rows, chosen])
        rows = _kept(both, is_open, i + 1)
        if down_closed:  # what is kept is feasible
            check_limit(len(rows), limit)
        if len(rows) > most:
            return None
    if not down_closed and len(rows):
        rows = _kept(rows, feasible)
    sizes = rows.sum(axis=1)
    width = int(sizes.max(initial=0))
    places = np.argsort(-rows, axis=1, kind="stable")[:, :width]
    places[np.arange(width) >= sizes[:, None]] = -1
    ordered: ActionArray = rows[np.lexsort(places.T[::-1])] if width else rows
    return ordered


def counted_up(
    lower: FloatArray,
    upper: FloatArray,
    feasible: Callable[[ActionArray], BoolArray],
    is_open: Callable[[ActionArray, int], BoolArray],
    limit: int,
) -> ActionArray:
    """List vectors of whole numbers by deciding variable by variable, all partial ones at once.

    Parameters
    ----------
    lower, upper
        Bounds of the variables, shape (n,).
    feasible, is_open
        As for :func:`grown`.
    limit
        Largest number of actions to list.

    Returns
    -------
    numpy.ndarray
        Ascending, variable by variable from the first; int64.

    Raises
    ------
    ValueError
        If there are more, or too many partial ones may or may not be completed.
    """
    n = len(lower)
    most = max(limit, min(_PARTIAL_PER_ACTION * limit, _MOST_PARTIAL, _MOST_ENTRIES // n))
    rows = np.zeros((1, n), dtype=np.int64)
    for i, (low, high) in enumerate(zip(np.ceil(lower), np.floor(upper), strict=True)):
        size = max(high - low + 1, 0)
        if len(rows) * size > _VALUES_PER_PARTIAL * most:
            raise ValueError(
                "the space has too many actions to list:"
                f" {len(rows) * size:.3g} partial ones may be feasible once {i + 1} of {n}"
                " variables are decided"
            )
        values = np.arange(int(low), int(low + size))
        parts = []
        for part in np.array_split(rows, len(rows) * len(values) // _CHUNK + 1):
            larger = np.repeat(part, len(values), axis=0)
            larger[:, i] = np.tile(values, len(part))
            check_time()
            parts.append(larger[is_open(larger, i + 1)])
        rows = np.concatenate(parts)
        if len(rows) > most:
            raise ValueError(
                f"the space has too many actions to list: {len(rows)} partial ones may be feasible"
                f" once {i + 1} of {n} variables are decided"
            )
    listed = _kept(rows, feasible)
    check_limit(len(listed), limit)
    return listed


def _kept(rows: ActionArray, wanted: Callable[..., BoolArray], *others: int) -> ActionArray:
    """Return the wanted rows, asking for few enough entries at a time to look at the clock."""
    size = max(min(_CHUNK, _CHUNK_ENTRIES // rows.shape[1]), 1)
    parts = []
    for begin in range(0, len(rows), size):
        check_time()
        part = rows[begin : begin + size]
        parts.append(part[wanted(part, *others)])
    return np.concatenate(parts) if parts else rows


def built(
    n: int,
    violations: Callable[[ActionArray], list[str]],
    extensions: Callable[[ActionArray], NDArray[np.intp]],
    limit: int,
) -> ActionArray:
    """List by adding to partial actions what keeps them completable, one after another."""
    found: list[ActionArray] = []

    def visit(action: ActionArray, last: int) -> None:
        check_time()
        if not violations(action):
            found.append(action.copy())
            check_limit(len(found), limit)
        for i in extensions(action):
            if i > last:
                action[i] = 1
                visit(action, int(i))
                action[i] = 0

    visit(np.zeros(n, dtype=np.int8), -1)
    return np.array(found, dtype=np.int8).reshape(len(found), n)


def subsets(n: int, smallest: int, largest: int, most: float = math.inf) -> int:
    """Count the subsets of n whose size is in a range, until there are more than ``most``.

    >>> from milp_rl.formulations.spaces.listing import subsets
    >>> subsets(4, 1, 2)
    10
    """
    total, sets = 0, 1
    for size in range(min(largest, n) + 1):
        if size:
            sets = sets * (n - size + 1) // size
        if size >= smallest:
            total += sets
        elif sets > most and smallest <= n - size:  # then there are no fewer of the smallest size
            return sets
        if total > most:
            break
    return total


def subsets_bound(n: int, smallest: int, largest: int) -> float:
    """Return the number of such subsets, infinite beyond a million."""
    found = subsets(n, smallest, largest, _COUNTED)
    return found if found <= _COUNTED else math.inf
