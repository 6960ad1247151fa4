"""Closed walks through many nodes: compiled local search, 1-tree bounds and depth-first search.

Imported when it is first needed, since numba takes longer to import than everything else. The numpy
path beside it is :mod:`.tour`, which gives walks of the same length.
"""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.kernels.compiling import compiled

_MOST_REMEMBERED = 57  # nodes, whose subset and the last of which fit into a number
_PRICINGS = 150
_LONGEST_MOVED = 3  # nodes that are moved together
_SEEN = 1 << 15  # partial walks that are remembered
_ROUNDING = 1e-6  # of a bound, relative to the limit if that is above 1


@compiled
def closed_walk(distance: FloatArray, limit: float, step: float, shortest: bool) -> IntArray:
    """Order the nodes 1, 2, ... so that the closed walk from node 0 through all is short.

    Parameters
    ----------
    distance
        Between any two nodes, finite, shape (nodes, nodes).
    limit
        Largest length.
    step
        By how much lengths differ at least.
    shortest
        Whether the shortest walk is wanted rather than any within the limit.

    Returns
    -------
    numpy.ndarray
        The nodes in order, from node 0, shape (nodes,); of shape (0,) if there is no such walk.
    """
    order = _inserted(distance)
    length = _improved(distance, order)
    found = length <= limit
    if found and not shortest:
        return order
    target = min(limit, length - step) if found else limit
    n = len(distance)
    shorter = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            shorter[i, j] = min(distance[i, j], distance[j, i])
    price = np.zeros(n)
    if n > 3 and _priced(shorter, target, price):
        return order if found else np.empty(0, dtype=np.int64)
    better = _searched(distance, shorter, price, target, step, shortest)
    if len(better):
        return better
    return order if found else better


@compiled
def _inserted(distance: FloatArray) -> IntArray:
    """Insert the nodes one after another, the farthest first, where each takes least."""
    n = len(distance)
    order = np.zeros(n, dtype=np.int64)
    inserted = np.zeros(n, dtype=np.bool_)
    for size in range(n - 1):
        node, farthest = 0, -np.inf
        for v in range(1, n):
            if not inserted[v] and distance[0, v] + distance[v, 0] > farthest:
                node, farthest = v, distance[0, v] + distance[v, 0]
        inserted[node] = True
        best, place = np.inf, 0
        for i in range(size + 1):
            u, v = order[i], order[i + 1] if i < size else 0
            extra = distance[u, node] + distance[node, v] - distance[u, v]
            if extra < best:
                best, place = extra, i
        for i in range(size, place, -1):
            order[i + 1] = order[i]
        order[place + 1] = node
    return order


@compiled
def _length(distance: FloatArray, order: IntArray) -> float:
    total = float(distance[order[-1], order[0]])
    for i in range(len(order) - 1):
        total += distance[order[i], order[i + 1]]
    return total


@compiled
def _improved(distance: FloatArray, order: IntArray) -> float:
    """Reverse stretches and move short ones, in place, while that shortens the walk."""
    n = len(order)
    best = _length(distance, order)
    tried = order.copy()
    improved = True
    while improved:
        improved = False
        for i in range(1, n):
            for j in range(i, n):
                for k in range(i, j + 1):
                    tried[k] = order[j + i - k]
                length = _length(distance, tried)
                if length < best - 1e-12:
                    best, improved = length, True
                    _copied(tried, order)
                else:
                    _copied(order, tried)
        for size in range(1, min(_LONGEST_MOVED, n - 2) + 1):
            for i in range(1, n - size + 1):
                for j in range(1, n - size + 1):
                    if i == j:
                        continue
                    _moved(order, tried, i, j, size)
                    length = _length(distance, tried)
                    if length < best - 1e-12:
                        best, improved = length, True
                        _copied(tried, order)
        _copied(order, tried)
    return best


@compiled
def _copied(source: IntArray, target: IntArray) -> None:
    for i in range(len(source)):
        target[i] = source[i]


@compiled
def _moved(order: IntArray, tried: IntArray, i: int, j: int, size: int) -> None:
    """Write the order with ``size`` nodes from place i at place j."""
    for m in range(size):
        tried[j + m] = order[i + m]
    source = 0
    for place in range(len(order)):
        if j <= place < j + size:
            continue
        while i <= source < i + size:
            source += 1
        tried[place] = order[source]
        source += 1


@compiled
def _priced(shorter: FloatArray, limit: float, price: FloatArray) -> bool:
    """Price the nodes, in place, until 1-trees refute the limit or no more is to be had.

    Held and Karp, Operations Research 18 (1970): a walk has two edges at node 0 and a spanning tree
    of the others; a price on a node that is added to its edges adds twice itself to every walk.
    """
    n = len(shorter)
    between = np.inf
    for i in range(n):
        for j in range(i):
            between = min(between, shorter[i, j])
    at, nearest = np.zeros(n), np.zeros(n)
    to, degree = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    best, size = -np.inf, 1.0
    own = np.zeros(n)
    for _ in range(_PRICINGS):
        prices = 0.0
        for i in range(n):
            degree[i] = 0
            prices += own[i]
        first = second = np.inf
        u = v = 0
        for i in range(1, n):
            at[i] = shorter[0, i] + own[0] + own[i]
            if at[i] < first:
                second, v, first, u = first, u, at[i], i
            elif at[i] < second:
                second, v = at[i], i
        length = first + second
        degree[u] += 1
        degree[v] += 1
        for i in range(2, n):
            nearest[i], to[i] = shorter[1, i] + own[1] + own[i], 1
        nearest[0] = nearest[1] = np.inf
        for _ in range(n - 2):
            node, closest = 0, np.inf
            for i in range(2, n):
                if nearest[i] < closest:
                    node, closest = i, nearest[i]
            length += closest
            degree[node] += 1
            degree[to[node]] += 1
            nearest[node] = np.inf
            for i in range(2, n):
                other = shorter[node, i] + own[node] + own[i]
                if nearest[i] < np.inf and other < nearest[i]:
                    nearest[i], to[i] = other, node
        bound = length - 2.0 * prices
        if bound > best:
            best = bound
            for i in range(n):
                price[i] = own[i]
        if bound > limit + _ROUNDING * max(1.0, abs(limit)):
            return True
        squares = 0.0
        for i in range(1, n):
            squares += (degree[i] - 2) ** 2
        if squares == 0.0:
            break
        size *= 0.98
        for i in range(1, n):
            own[i] += size * (limit + between - bound) / squares * (degree[i] - 2)
    return False


@compiled
def _rest(
    distance: FloatArray,
    shorter: FloatArray,
    price: FloatArray,
    left: IntArray,
    n_left: int,
    last: int,
    nearest: FloatArray,
) -> float:
    """Bound the walk from ``last`` through what is left to node 0 by a priced spanning tree."""
    if n_left == 0:
        return float(distance[last, 0])
    out: float = np.inf
    back: float = np.inf
    prices = 0.0
    for i in range(n_left):
        v = left[i]
        out = min(out, distance[last, v] + price[v])
        back = min(back, distance[v, 0] + price[v])
        nearest[i] = np.inf
        prices += price[v]
    if n_left == 1:
        return out + back - 2.0 * prices
    total: float = out + back - 2.0 * prices
    place = 0
    nearest[0] = -np.inf
    for _ in range(n_left - 1):
        u, following, closest = left[place], -1, np.inf
        for i in range(n_left):
            if nearest[i] == -np.inf:
                continue
            own = shorter[u, left[i]] + price[u] + price[left[i]]
            if own < nearest[i]:
                nearest[i] = own
            if nearest[i] < closest:
                following, closest = i, nearest[i]
        total += closest
        nearest[following] = -np.inf
        place = following
    return total


@compiled
def _searched(
    distance: FloatArray,
    shorter: FloatArray,
    price: FloatArray,
    limit: float,
    step: float,
    shortest: bool,
) -> IntArray:
    """Build walks node by node, depth first, without those whose bound is above the limit."""
    n = len(distance)
    best = np.zeros(0, dtype=np.int64)
    walk = np.zeros(n, dtype=np.int64)
    taken = np.zeros(n + 1)
    children = np.zeros((n, n), dtype=np.int64)
    number, following = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    bounds, nearest = np.zeros(n), np.zeros(n)
    free = np.zeros(n, dtype=np.bool_)
    for v in range(1, n):
        free[v] = True
    left = np.zeros(n, dtype=np.int64)
    seen, at = np.zeros(_SEEN, dtype=np.int64), np.zeros(_SEEN)  # no key of one is 0
    slack = _ROUNDING * max(1.0, abs(limit))
    mask, depth, fresh = np.int64(0), 0, True
    while depth >= 0:
        last = walk[depth]
        if fresh:
            fresh = False
            number[depth] = following[depth] = 0
            key = mask * 64 + last
            place = (key ^ (key >> 15) ^ (key >> 31) ^ (key >> 47)) & (_SEEN - 1)
            known = depth > 0 and n <= _MOST_REMEMBERED
            if known and seen[place] == key and at[place] <= taken[depth]:
                pass
            elif depth == n - 1:
                if taken[depth] + distance[last, 0] <= limit:
                    best = walk.copy()
                    if not shortest:
                        return best
                    limit = taken[depth] + distance[last, 0] - step
            else:
                seen[place], at[place] = key, taken[depth]
                for v in range(1, n):
                    if not free[v]:
                        continue
                    n_left = 0
                    for w in range(1, n):
                        if free[w] and w != v:
                            left[n_left] = w
                            n_left += 1
                    bound = taken[depth] + distance[last, v]
                    bound += _rest(distance, shorter, price, left, n_left, v, nearest)
                    if bound > limit + slack:
                        continue
                    i = number[depth]
                    while i and bounds[children[depth, i - 1]] > bound:
                        children[depth, i] = children[depth, i - 1]
                        i -= 1
                    children[depth, i] = v
                    bounds[v] = bound
                    number[depth] += 1
        if following[depth] == number[depth]:
            if depth:
                free[last] = True
                mask ^= np.int64(1) << (last - 1)
            depth -= 1
            continue
        v = children[depth, following[depth]]
        following[depth] += 1
        free[v] = False
        mask |= np.int64(1) << (v - 1)
        taken[depth + 1] = taken[depth] + distance[last, v]
        depth += 1
        walk[depth] = v
        fresh = True
    return best
