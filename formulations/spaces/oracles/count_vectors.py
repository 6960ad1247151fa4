r"""Linear maximisation over spaces whose feasibility depends only on counts per class of arms.

In :class:`~milp_rl.formulations.spaces.capacity.Capacity` arms of equal cost are
interchangeable, in :class:`~milp_rl.formulations.spaces.scheduling.Scheduling` arms of equal
availability and need. If the feasible count vectors are closed downwards, with maximal elements
``N``, then

.. math:: \max_a c \cdot a = \max_N \sum_k s_k(N_k),

where :math:`s_k(m)` is the sum of the m largest positive coefficients of class k, and there are
often few maximal vectors where there are many actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.kernels.description import ClassCountsOracle

MAX_VECTORS = 20_000
_CHUNK = 64  # rows whose sums stay in the cache


class ClassCounts:
    """The exact linear oracle of a down-closed space given by its maximal count vectors.

    Parameters
    ----------
    class_of
        Class of each arm, shape (n_actions,); -1 for an arm that can never be chosen.
    maximal
        Maximal feasible count vectors, shape (vectors, classes), at least one; no entry above
        the size of its class.
    """

    def __init__(self, class_of: IntArray, maximal: IntArray) -> None:
        n_classes = maximal.shape[1]
        self._never = class_of < 0
        self._class_of = class_of
        sizes = np.bincount(class_of[~self._never], minlength=n_classes)
        order = np.argsort(sizes, kind="stable")  # large classes last, where most is shared
        self._n_classes = n_classes
        self._order = order
        self._width = int(sizes.max(initial=0))
        self._members = np.full((n_classes, self._width), len(class_of), dtype=np.intp)
        for k in range(n_classes):
            self._members[k, : sizes[k]] = np.flatnonzero(class_of == k)
        self._levels = _diagram(maximal[:, order])
        self._rows = [  # per level: row of the prefix-sum table of each arc
            k * (self._width + 1) + level.count
            for k, level in zip(order, self._levels, strict=True)
        ]

    @cached_property
    def compiled(self) -> ClassCountsOracle:
        """The diagram, for compiled loops."""
        levels = self._levels
        first_state = np.cumsum([0, *(len(level.first) for level in levels)])
        before = np.cumsum([0, *(len(level.count) for level in levels)])
        first_arc = [level.first + at for level, at in zip(levels, before[:-1], strict=True)]
        targets = [level.target + at for level, at in zip(levels, first_state[1:], strict=True)]
        sizes = [self._n_classes, first_state[-1] + 1, before[-1]]
        parts = [sizes, self._order, first_state, self._class_of, *first_arc, before[-1:]]
        counts = [level.count for level in levels]
        data = np.concatenate([*parts, *counts, *targets]).astype(np.int64)
        return ClassCountsOracle(data)

    def maxima(
        self,
        coefficients: FloatArray,
        fixed_one: NDArray[np.bool_] | None,
        fixed_zero: NDArray[np.bool_] | None,
    ) -> FloatArray:
        """Maximise each row of ``coefficients``; masks of shape (batch, n_actions).

        Returns
        -------
        numpy.ndarray
            Shape (batch,); ``-inf`` where no feasible action agrees with the fixings.
        """
        found = np.empty(len(coefficients))
        for first in range(0, len(found), _CHUNK):
            part = slice(first, first + _CHUNK)
            table, base = self._prefix_sums(
                coefficients[part],
                None if fixed_one is None else fixed_one[part],
                None if fixed_zero is None else fixed_zero[part],
            )
            found[part] = base + self._below(table)[0][0]
        return found

    def maximizers(
        self,
        coefficients: FloatArray,
        fixed_one: NDArray[np.bool_] | None,
        fixed_zero: NDArray[np.bool_] | None,
    ) -> FloatArray:
        """Return an action that attains each maximum, shape (batch, n_actions)."""
        batch, n = coefficients.shape
        if not batch:
            return np.zeros((0, n))
        rank = np.zeros((batch, n + 1))
        rank[:, :n] = coefficients
        if fixed_zero is not None:
            rank[:, :n][fixed_zero] = 0.0
        if fixed_one is not None:
            rank[:, :n][fixed_one] = np.inf
        x, each = np.zeros((batch, n + 1)), np.arange(batch)
        table, _ = self._prefix_sums(coefficients, fixed_one, fixed_zero)
        below = self._below(table)
        state = np.zeros(batch, dtype=np.intp)
        for level, rows, best in zip(self._levels, self._rows, below[1:], strict=True):
            # Go on along the arc that the maximum came from.
            first = level.first[state]
            end = np.append(level.first, len(rows))[state + 1]
            arcs = first[:, None] + np.arange((end - first).max(initial=0))
            inside = arcs < end[:, None]
            own = np.where(inside, arcs, 0)
            values = table[rows[own], each[:, None]] + best[level.target[own], each[:, None]]
            arc = first + np.where(inside, values, -np.inf).argmax(axis=1)
            k, count = np.divmod(rows[arc], self._width + 1)
            members = self._members[k]
            best_first = np.argsort(-np.take_along_axis(rank, members, axis=1), axis=1)
            arms = np.take_along_axis(members, best_first, axis=1)
            np.put_along_axis(x, arms, np.arange(self._width) < count[:, None], axis=1)
            state = level.target[arc]
        return np.where(rank > 0, x, 0.0)[:, :n]

    def _below(self, table: FloatArray) -> list[FloatArray]:
        """Return the best sums on ways from the states of each level, shape (states, batch)."""
        values = [np.zeros((1, table.shape[1]))]
        for level, rows in zip(self._levels[::-1], self._rows[::-1], strict=True):
            own = table[rows] + values[-1][level.target]
            values.append(np.maximum.reduceat(own, level.first, axis=0))
        return values[::-1]

    def _prefix_sums(
        self,
        coefficients: FloatArray,
        fixed_one: NDArray[np.bool_] | None,
        fixed_zero: NDArray[np.bool_] | None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return the best sum of each number of arms of each class, and what is held at one.

        Shapes (classes * (width + 1), batch) and (batch,); ``-inf`` where that cannot be.
        """
        batch, n = coefficients.shape
        gains = np.zeros((batch, n + 1))  # the last column pads the classes to one width
        np.maximum(coefficients, 0.0, out=gains[:, :n])
        base = np.zeros(batch)
        if fixed_zero is not None:
            gains[:, :n][fixed_zero] = 0.0
        if fixed_one is not None:
            gains[:, :n][fixed_one] = 0.0
            base = np.where(fixed_one, coefficients, 0.0).sum(axis=1)
            base[fixed_one[:, self._never].any(axis=1)] = -np.inf
            if fixed_zero is not None:
                base[(fixed_one & fixed_zero).any(axis=1)] = -np.inf
        if not self._n_classes:
            return np.zeros((0, batch)), base
        ranked = -np.sort(-gains[:, self._members], axis=2)
        best = np.zeros((batch, self._n_classes, self._width + 1))
        np.cumsum(ranked, axis=2, out=best[:, :, 1:])
        if fixed_one is not None:  # the arms held at one take their places first
            held = np.append(fixed_one, np.zeros((batch, 1), dtype=bool), axis=1)
            taken = held[:, self._members].sum(axis=2)
            place = np.arange(self._width + 1) - taken[:, :, None]
            best = np.take_along_axis(best, np.maximum(place, 0), axis=2)
            best[place < 0] = -np.inf
        return np.ascontiguousarray(best.reshape(batch, -1).T), base


@dataclass(frozen=True, eq=False)
class _Level:
    """A level of a decision diagram: states, and their arcs to those of the next level.

    Attributes
    ----------
    first
        First arc of each state.
    count, target
        Of each arc, how many arms of the level's class are taken, and the state it leads to.
    """

    first: IntArray
    count: IntArray
    target: IntArray


def _diagram(vectors: IntArray) -> list[_Level]:
    """Return the decision diagram of some vectors, a level for each column.

    Ways from the one state of the first level to the last one are the vectors; prefixes that are
    continued in the same ways share a state, so that there are few (Bergman, Cire, van Hoeve and
    Hooker, "Decision Diagrams for Optimization", Springer 2016).
    """
    n_vectors, n_classes = vectors.shape
    if n_classes:
        vectors = vectors[np.lexsort(vectors.T[::-1])]
    new = [np.arange(n_vectors) == 0]  # where a vector differs from the one before, up to a column
    for column in vectors.T:
        new.append(new[-1] | np.append(False, column[1:] != column[:-1]))
    levels: list[_Level] = []
    below = np.zeros(len(np.flatnonzero(new[-1])), dtype=np.intp)  # state after each prefix
    for k in range(n_classes - 1, -1, -1):
        longer = np.flatnonzero(new[k + 1])
        starts = np.searchsorted(longer, np.flatnonzero(new[k]))
        arcs = np.column_stack([vectors[longer, k], below])
        known: dict[bytes, int] = {}
        kept: list[IntArray] = []
        below = np.empty(len(starts), dtype=np.intp)
        for i, own in enumerate(np.split(arcs, starts[1:])):
            below[i] = known.setdefault(own.tobytes(), len(known))
            if below[i] == len(kept):
                kept.append(own)
        first = np.cumsum([0, *(len(own) for own in kept[:-1])])
        count, target = np.concatenate(kept).T
        levels.append(_Level(first, count.copy(), target.copy()))
    return levels[::-1]


def maximal_counts_of_rows(
    rows: IntArray, limits: IntArray, sizes: IntArray, most: int
) -> IntArray | None:
    """List the maximal integer vectors ``N`` with ``rows @ N <= limits``, ``0 <= N <= sizes``.

    Parameters
    ----------
    rows
        Nonnegative, shape (rows, classes).
    limits
        Nonnegative, shape (rows,).
    sizes
        Nonnegative, shape (classes,).
    most
        Maximal vectors that may be listed, at least 1.

    Returns
    -------
    numpy.ndarray or None
        Shape (vectors, classes); ``None`` if there are more of them, or many times as many vectors
        to search.
    """
    counts = np.zeros((1, 0), dtype=np.intp)
    slack = np.asarray(limits[None, :], dtype=np.int64)
    for k, size in enumerate(sizes):
        added = np.arange(size + 1)
        left = slack[:, None, :] - added[:, None] * rows[:, k]
        parents, steps = np.nonzero((left >= 0).all(axis=2))
        if len(parents) * max(len(limits), 1) > 200 * most:
            return None
        slack = np.asarray(left[parents, steps], dtype=np.int64)
        counts = np.column_stack([counts[parents], steps])
    grows = np.zeros(len(counts), dtype=bool)
    for k, size in enumerate(sizes):
        grows |= (counts[:, k] < size) & (slack >= rows[:, k]).all(axis=1)
    maximal = counts[~grows]
    return maximal if len(maximal) <= most else None


def maximal_counts_where(
    holds: Callable[[IntArray], bool], sizes: IntArray, most: int
) -> IntArray | None:
    """List the maximal vectors ``0 <= N <= sizes`` of which ``holds`` is true.

    Parameters
    ----------
    holds
        True of zeros, and with a vector of every smaller one.
    sizes
        Nonnegative, shape (classes,).
    most
        Vectors that may be tried.

    Returns
    -------
    numpy.ndarray or None
        Shape (vectors, classes); ``None`` if there are more to try.
    """
    found = [np.zeros(len(sizes), dtype=np.intp)]
    tried = 0
    for k, size in enumerate(sizes):
        for counts in list(found):
            for number in range(1, int(size) + 1):
                larger = counts.copy()
                larger[k] = number
                tried += 1
                if tried > most:
                    return None
                if not holds(larger):
                    break
                found.append(larger)
    known = {tuple(counts.tolist()) for counts in found}
    units = np.eye(len(sizes), dtype=np.intp)
    return np.array(
        [n for n in found if not any(tuple((n + unit).tolist()) in known for unit in units)],
        dtype=np.intp,
    )


def polymatroid_maxima(
    coefficients: FloatArray,
    units: IntArray,
    rows: NDArray[np.bool_],
    limits: IntArray,
    fixed_one: NDArray[np.bool_] | None,
    fixed_zero: NDArray[np.bool_] | None,
) -> tuple[FloatArray, FloatArray]:
    """Maximise each row of ``coefficients`` over a polymatroid, fractions of arms allowed.

    The units taken by the arms of each row sum to at most its limit; where the rows are the
    constraints of a polymatroid, taking arms by value per unit is optimal (Edmonds 1970).

    Parameters
    ----------
    coefficients
        Shape (batch, n_actions).
    units
        Units that an arm takes if chosen, at least 1, shape (n_actions,).
    rows
        Which arms each row counts, shape (rows, n_actions).
    limits
        Nonnegative, shape (rows,).
    fixed_one, fixed_zero
        Masks of shape (batch, n_actions).

    Returns
    -------
    tuple of numpy.ndarray
        The maxima, shape (batch,), ``-inf`` where the arms held at one exceed a limit; and the
        part taken of each arm, shape (batch, n_actions).
    """
    density = coefficients / units
    if fixed_zero is not None:
        density = np.where(fixed_zero, 0.0, density)
    if fixed_one is not None:
        density = np.where(fixed_one, np.inf, density)
    order = np.argsort(-density, axis=1)
    batch = np.arange(len(coefficients))
    uncounted = np.where(rows.T, 0.0, np.inf)  # (n_actions, rows)
    slack = np.tile(limits.astype(np.float64), (len(coefficients), 1))
    value = np.zeros(len(coefficients))
    x = np.zeros_like(coefficients)
    for arms in order.T[: (density > 0).sum(axis=1).max(initial=0)]:
        room = (slack + uncounted[arms]).min(axis=1, initial=np.inf)
        held = np.isinf(density[batch, arms])
        value[held & (room < units[arms])] = -np.inf
        taken = np.minimum(units[arms], np.maximum(room, 0.0)) * (density[batch, arms] > 0)
        value += coefficients[batch, arms] * taken / units[arms]
        x[batch, arms] = taken / units[arms]
        slack -= rows.T[arms] * taken[:, None]
    if fixed_one is not None and fixed_zero is not None:
        value[(fixed_one & fixed_zero).any(axis=1)] = -np.inf
    return value, x
