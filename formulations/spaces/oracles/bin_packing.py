"""Packing arms into workers of limited capacity, by cost class.

Costs are given per class in descending order; a pattern or count vector gives a number of arms
per class. Comparisons allow ``TOLERANCE``.
"""

from __future__ import annotations

import itertools
import math
import operator
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

import numpy as np

from milp_rl.formulations.arrays import IntArray
from milp_rl.formulations.spaces.oracles.count_vectors import MAX_VECTORS

TOLERANCE = 1e-9
_MAX_CELLS = 1_000_000
_MAX_WORK = 200_000_000
_MAX_SUMS = 20_000

Counts = tuple[int, ...]


def maximal_patterns(
    costs: Sequence[float], counts: Sequence[int], capacity: float
) -> Iterator[tuple[Counts, float]]:
    """Generate what one worker can hold so that no further arm fits, expensive arms first.

    Parameters
    ----------
    costs
        Cost of each class, descending.
    counts
        Number of arms of each class.
    capacity
        The worker's capacity.

    Yields
    ------
    tuple
        Number of arms of each class, and the room left, including ``TOLERANCE``.
    """
    pattern = [0] * len(costs)
    rest = [0.0]  # total cost of the classes from each one on
    for cost, count in zip(reversed(costs), reversed(counts), strict=True):
        rest.insert(0, rest[0] + cost * count)

    def visit(start: int, room: float, left_out: float) -> Iterator[tuple[Counts, float]]:
        for k in range(start, len(costs)):
            if room - rest[k] >= left_out:  # the arm left out fits whatever follows
                return
            if pattern[k] < counts[k]:
                if costs[k] <= room:
                    pattern[k] += 1
                    yield from visit(k, room - costs[k], left_out)
                    pattern[k] -= 1
                left_out = costs[k]
        if room < left_out:
            yield tuple(pattern), room

    return visit(0, capacity + TOLERANCE, math.inf)


def undominated_patterns(
    costs: Sequence[float], counts: Sequence[int], capacity: float
) -> Iterator[Counts]:
    """Generate the maximal patterns in which no arm can be exchanged for a more expensive one.

    If some packing of all arms gives a worker the dominated pattern, exchanging arms between
    workers gives one with the dominating pattern (Martello and Toth 1990), so these suffice.
    """
    for pattern, room in maximal_patterns(costs, counts, capacity):
        dearer = math.inf  # cost of the cheapest arm left over that costs more than class k
        for cost, taken, available in zip(costs, pattern, counts, strict=True):
            if taken and dearer - cost <= room:
                break
            if taken < available:
                dearer = cost
        else:
            yield pattern


def largest_load(costs: Sequence[float], counts: Sequence[int], capacity: float) -> float:
    """Return the largest total cost within ``capacity``, or ``capacity`` where that is hard."""
    sums = np.zeros(1)
    for cost, count in zip(costs, counts, strict=True):
        if cost > 0:
            most = min(count, int((capacity + TOLERANCE) / cost))
            sums = (sums[:, None] + cost * np.arange(most + 1)).ravel()
            sums = np.unique(np.round(sums[sums <= capacity + TOLERANCE], 9))
            if len(sums) > _MAX_SUMS:
                return capacity
    return min(float(sums[-1]), capacity)


class Packer:
    """Decides whether arms fit the workers, and how.

    Parameters
    ----------
    costs
        Cost of each class, descending.
    counts
        Number of arms of each class there are.
    capacities
        Capacity of each worker.
    """

    def __init__(
        self, costs: Sequence[float], counts: Sequence[int], capacities: Sequence[float]
    ) -> None:
        self.costs = [float(cost) for cost in costs]
        self.capacities = [float(capacity) for capacity in capacities]
        # Small workers first: they leave the fewest choices.
        self._order = sorted(range(len(capacities)), key=self.capacities.__getitem__)
        load = {c: largest_load(self.costs, counts, c) for c in set(self.capacities)}
        self.loads = [load[c] for c in self.capacities]
        # Upper bounds on what the workers from each position on can hold: total cost, and number
        # of arms that cost at least as much as each class.
        self._load_left = [0.0]
        self._most_left: list[Counts] = [(0,) * len(costs)]
        for w in reversed(self._order):
            room = self.capacities[w] + TOLERANCE
            most = [int(room / cost) if cost > 0 else sum(counts) for cost in self.costs]
            self._load_left.append(self._load_left[-1] + self.loads[w] + TOLERANCE)
            self._most_left.append(tuple(map(operator.add, self._most_left[-1], most)))
        self._load_left.reverse()
        self._most_left.reverse()

    @property
    def most(self) -> Counts:
        """Upper bounds on the number of arms that cost at least as much as each class."""
        return self._most_left[0]

    @property
    def total_load(self) -> float:
        """Upper bound on the total cost of packed arms."""
        return self._load_left[0]

    def may_fit(self, counts: Sequence[int]) -> bool:
        """Check the bounds; false only if the arms do not fit."""
        return _within(self.costs, counts, self.total_load, self.most)

    def pack(self, counts: Sequence[int], tries: int | None = None) -> list[Counts] | None:
        """Return what each worker holds, or ``None`` if the arms do not fit.

        Best fit decreasing first; then a search worker by worker over undominated patterns,
        which remembers the remaining arms that failed.

        Parameters
        ----------
        counts
            Number of arms of each class.
        tries
            Give up the search after this many patterns; ``None`` may then be wrong. Without it
            the answer is always exact, but may take long: the problem is NP-hard.
        """
        if not self.may_fit(counts):
            return None
        return self.best_fit(counts) or self._search(counts, math.inf if tries is None else tries)

    def best_fit(self, counts: Sequence[int]) -> list[Counts] | None:
        """Give each arm, expensive ones first, to the fitting worker with the least room."""
        rooms = sorted((c + TOLERANCE, w) for w, c in enumerate(self.capacities))
        held = [[0] * len(self.costs) for _ in rooms]
        for k, (cost, count) in enumerate(zip(self.costs, counts, strict=True)):
            for _ in range(count):
                place = bisect_left(rooms, (cost, -1))
                if place == len(rooms):
                    return None
                room, w = rooms.pop(place)
                held[w][k] += 1
                insort(rooms, (room - cost, w))
        return [tuple(pattern) for pattern in held]

    def _search(self, counts: Sequence[int], tries: float) -> list[Counts] | None:
        present = [k for k, count in enumerate(counts) if count]
        costs = [self.costs[k] for k in present]
        most_left = [tuple(most[k] for k in present) for most in self._most_left]
        chosen: list[Counts] = [(0,) * len(present)] * len(self._order)
        failed: set[tuple[int, Counts]] = set()
        left_to_try = tries

        def visit(position: int, left: Counts) -> bool:
            nonlocal left_to_try
            if not any(left):
                return True
            if (position, left) in failed:
                return False
            if not _within(costs, left, self._load_left[position], most_left[position]):
                return False
            w = self._order[position]
            for pattern in undominated_patterns(costs, left, self.capacities[w]):
                left_to_try -= 1
                if left_to_try < 0:
                    return False
                chosen[w] = pattern
                if visit(position + 1, tuple(map(operator.sub, left, pattern))):
                    return True
            chosen[w] = (0,) * len(present)
            failed.add((position, left))
            return False

        if not visit(0, tuple(counts[k] for k in present)):
            return None
        held = np.zeros((len(chosen), len(counts)), dtype=int)
        held[:, present] = chosen
        return [tuple(row) for row in held.tolist()]


def maximal_counts(
    costs: Sequence[float], counts: Sequence[int], capacities: Sequence[float]
) -> IntArray | None:
    """List the maximal count vectors that the workers can hold together.

    The feasible set is kept as a height map, the largest count of one class for each count of
    the others; a worker is added by shifting the map by each of its maximal patterns and taking
    the highest.

    Returns
    -------
    numpy.ndarray or None
        Shape (vectors, classes); ``None`` if there are more than ``MAX_VECTORS`` of them or the
        map is too large.
    """
    sizes = np.asarray(counts, dtype=np.intp)
    if not len(sizes):
        return np.zeros((1, 0), dtype=np.intp)
    last = int(sizes.argmax())
    others = [k for k in range(len(sizes)) if k != last]
    shape = tuple(int(sizes[k]) + 1 for k in others)
    cells = math.prod(shape)
    if cells > _MAX_CELLS:
        return None
    patterns: dict[float, list[Counts]] = {}
    for capacity in set(capacities):
        found = itertools.islice(maximal_patterns(costs, counts, capacity), _MAX_SUMS)
        patterns[capacity] = [pattern for pattern, _ in found]
    if sum(len(patterns[capacity]) for capacity in capacities) * cells > _MAX_WORK:
        return None

    height = np.full(shape, -(10**6), dtype=np.int32)
    height[(0,) * len(shape)] = 0
    for capacity in capacities:
        raised = height
        for pattern in patterns[capacity]:
            shifted = height[
                np.ix_(
                    *(
                        np.maximum(np.arange(size) - pattern[k], 0)
                        for size, k in zip(shape, others, strict=True)
                    )
                )
            ]
            raised = np.maximum(raised, shifted + pattern[last])
        height = np.minimum(raised, sizes[last])
    maximal = np.atleast_1d(height >= 0)
    for axis in range(len(shape)):
        lower = (slice(None),) * axis + (slice(None, -1),)
        upper = (slice(None),) * axis + (slice(1, None),)
        maximal[lower] &= height[upper] < height[lower]
    if np.count_nonzero(maximal) > MAX_VECTORS:
        return None
    where = np.nonzero(maximal)
    vectors = np.empty((len(where[0]), len(sizes)), dtype=np.intp)
    vectors[:, last] = np.atleast_1d(height)[maximal]
    for axis, k in enumerate(others):
        vectors[:, k] = where[axis]
    return vectors


def _within(
    costs: Sequence[float], counts: Sequence[int], load: float, most: Sequence[int]
) -> bool:
    """Whether total cost, and the numbers of arms from each class up, are within the bounds."""
    total = 0.0
    number = 0
    for cost, count, limit in zip(costs, counts, most, strict=True):
        total += cost * count
        number += count
        if number > limit:
            return False
    return total <= load
