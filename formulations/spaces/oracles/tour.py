"""Shortest closed walks through given nodes: the travelling salesman in the metric closure."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray

_FEW = 9  # nodes, for which dynamic programming takes less time than a refutation
_MOST_INTERPRETED = 12  # nodes of a graph
_PRICINGS = 60
_RESOLUTION = 1e-12  # of lengths that are not integers, relative


def shortest_closed_walk(
    distance: FloatArray, depot: int, nodes: list[int], limit: float | None = None
) -> list[int] | None:
    """Order ``nodes`` so that the closed walk from the depot through them is shortest.

    Insertion with local search comes first; what 1-trees with node prices (Held and Karp 1970) do
    not refute, dynamic programming over subsets (Held and Karp 1962) decides exactly, keeping only
    states that can still lead to a better walk. In graphs of more than 12 nodes compiled code does
    the same, with a depth-first search bounded by 1-trees in place of the dynamic programming;
    through up to 12 nodes not where it would have to be compiled within a time limit.

    Parameters
    ----------
    distance
        Lengths of shortest walks between any two nodes, positive between different ones, infinite
        where there is none; need not be symmetric.
    depot
        Where the walk starts and ends.
    nodes
        Distinct nodes other than the depot.
    limit
        If given, any walk of at most this length will do.

    Returns
    -------
    list of int or None
        The nodes in order; ``None`` if there is no such walk.
    """
    if not np.isfinite(distance[depot, nodes] + distance[nodes, depot]).all():
        return None
    if pays_to_compile(len(distance)) and (len(nodes) > _MOST_INTERPRETED or _is_in_time()):
        return _compiled(distance, depot, nodes, limit)
    order: list[int] = []
    for node in sorted(nodes, key=lambda v: -(distance[depot, v] + distance[v, depot])):
        order, _ = insert_cheapest(distance, depot, order, node)
    order = _reinserted(distance, depot, order)
    length = walk_length(distance, depot, order)
    if limit is not None and length <= limit:
        return order
    own = distance[np.ix_([depot, *nodes], [depot, *nodes])]
    step = _step(own, length)
    bound = length - step if limit is None else float(limit)
    if len(nodes) > _FEW and _refuted(own, bound):
        return order if limit is None else None
    better = _held_karp(distance, depot, nodes, bound) if nodes else None
    if better is not None:
        return better
    return order if limit is None else None


def pays_to_compile(n_nodes: int) -> bool:
    """Whether compiled code saves more, on walks in so large a graph, than it takes to load."""
    return n_nodes > _MOST_INTERPRETED


def _is_in_time() -> bool:
    from milp_rl.formulations.kernels.compiling import is_in_time
    from milp_rl.formulations.spaces.oracles.tour_search import closed_walk

    return is_in_time(closed_walk)


def _compiled(
    distance: FloatArray, depot: int, nodes: list[int], limit: float | None
) -> list[int] | None:
    from milp_rl.formulations.spaces.oracles.tour_search import closed_walk

    if not nodes:
        return [] if limit is None or limit >= 0 else None
    own = distance[np.ix_([depot, *nodes], [depot, *nodes])]
    step = _step(own, own.max())
    found = closed_walk(own, np.inf if limit is None else float(limit), step, limit is None)
    return [nodes[i - 1] for i in found[1:]] if len(found) else None


def _step(distance: FloatArray, length: float) -> float:
    """Return by how much lengths of walks differ at least."""
    return 1.0 if (distance == np.rint(distance)).all() else _RESOLUTION * max(1.0, length)


def insert_cheapest(
    distance: FloatArray, depot: int, order: list[int], node: int
) -> tuple[list[int], float]:
    """Insert a node where it lengthens the walk least; return the new order and its length."""
    walk = np.array([depot, *order, depot])
    extra = distance[walk[:-1], node] + distance[node, walk[1:]] - distance[walk[:-1], walk[1:]]
    place = int(np.argmin(extra))
    longer = [*order[:place], node, *order[place:]]
    return longer, walk_length(distance, depot, longer)


def walk_length(distance: FloatArray, depot: int, order: list[int]) -> float:
    """Return the length of the closed walk from the depot through the nodes in order."""
    return float(sum(distance[u, v] for u, v in pairwise([depot, *order, depot])))


def _reinserted(distance: FloatArray, depot: int, order: list[int]) -> list[int]:
    """Move single nodes elsewhere and reverse stretches while that shortens the walk."""
    best = walk_length(distance, depot, order)
    improved = True
    while improved:
        improved = False
        for node in list(order):
            without = [v for v in order if v != node]
            candidate, length = insert_cheapest(distance, depot, without, node)
            if length < best:
                order, best, improved = candidate, length, True
        for i, j in combinations(range(len(order) + 1), 2):
            candidate = [*order[:i], *order[i:j][::-1], *order[j:]]
            length = walk_length(distance, depot, candidate)
            if length < best:
                order, best, improved = candidate, length, True
    return order


def _refuted(distance: FloatArray, limit: float) -> bool:
    """Whether 1-trees prove that a closed walk through all nodes, the depot first, is too long.

    A walk contains two edges at the depot and a spanning tree of the others; a price on a node
    that is added to its edges adds twice itself to every walk.
    """
    shorter = np.minimum(distance, distance.T)
    n = len(shorter)
    price = np.zeros(n)
    between = shorter[~np.eye(n, dtype=bool)].min()
    for step in range(_PRICINGS):
        priced = shorter + price[:, None] + price
        ends = np.argpartition(priced[0, 1:], 1)[:2] + 1
        length = priced[0, ends].sum()
        degree = np.zeros(n)
        degree[ends] += 1
        nearest, to = priced[1].copy(), np.ones(n, dtype=np.intp)
        nearest[:2] = np.inf  # the depot is not in the tree, node 1 already is
        for _ in range(n - 2):
            node = int(nearest.argmin())
            length += nearest[node]
            degree[node] += 1
            degree[to[node]] += 1
            closer = (priced[node] < nearest) & np.isfinite(nearest)
            nearest[closer], to[closer] = priced[node, closer], node
            nearest[node] = np.inf
        bound = length - 2 * price.sum()
        if bound > limit + 1e-6 * max(1.0, limit):
            return True
        excess = degree - 2
        excess[0] = 0.0
        if not excess.any():  # the 1-tree is a walk
            return False
        price += (limit + between - bound) / (excess @ excess) * 0.98**step * excess
    return False


def _held_karp(
    distance: FloatArray, depot: int, nodes: list[int], limit: float
) -> list[int] | None:
    """Find a shortest walk of length at most ``limit``, or ``None``.

    A layer holds, for every set of so many visited nodes, the shortest walk to each last node.
    """
    k = len(nodes)
    between = distance[np.ix_(nodes, nodes)]
    out, back = distance[depot, nodes], distance[nodes, depot]
    detour = between + back  # from a last node over another one home
    step = min(back.min(), between[~np.eye(k, dtype=bool)].min(initial=np.inf))
    bits = 1 << np.arange(k, dtype=np.int64)
    masks = bits.copy()
    lengths = np.full((k, k), np.inf)
    np.fill_diagonal(lengths, out)
    layers: list[tuple[NDArray[np.int64], FloatArray]] = []
    for size in range(1, k + 1):
        left = (masks[:, None] & bits) == 0
        for last in range(k):
            rest = np.where(left, detour[last], back[last]).max(axis=1)
            rest = np.maximum(rest, (k - size) * step + (back[last] if size == k else step))
            lengths[lengths[:, last] + rest > limit, last] = np.inf
        keep = np.isfinite(lengths).any(axis=1)
        masks, lengths, left = masks[keep], lengths[keep], left[keep]
        layers.append((masks, lengths))
        if not len(masks):
            return None
        if size == k:
            break
        reach = [(lengths[left[:, j]] + between[:, j]).min(axis=1) for j in range(k)]
        targets = [masks[left[:, j]] | bits[j] for j in range(k)]
        masks = np.unique(np.concatenate(targets))
        lengths = np.full((len(masks), k), np.inf)
        for j in range(k):
            lengths[np.searchsorted(masks, targets[j]), j] = reach[j]
    return _traced(layers, between, back, bits, nodes)


def _traced(
    layers: list[tuple[NDArray[np.int64], FloatArray]],
    between: FloatArray,
    back: FloatArray,
    bits: NDArray[np.int64],
    nodes: list[int],
) -> list[int]:
    """Walk back from the last layer."""
    mask, home = int(layers[-1][0][0]), layers[-1][1][0] + back
    last = int(np.argmin(home))
    order = [last]
    for masks, lengths in layers[-2::-1]:
        mask &= ~int(bits[last])
        row = lengths[int(np.searchsorted(masks, mask))]
        last = int(np.argmin(row + between[:, last]))
        order.append(last)
    return [nodes[i] for i in reversed(order)]
