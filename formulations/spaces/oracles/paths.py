"""Simple paths from a source to a target: best ones, and ones through given arcs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray


class SearchLimitError(RuntimeError):
    """A path was neither found nor excluded in the steps allowed."""


def path_through(
    successors: Sequence[Sequence[int]],
    source: int,
    target: int,
    forced: Mapping[int, int],
    steps: int,
) -> list[int] | None:
    """Find a simple path that takes the forced arcs, by depth-first search.

    A node is not entered if the target or a forced arc cannot be reached any more from there.

    Parameters
    ----------
    successors
        Of each node; none of the target.
    source, target
        The ends of the path.
    forced
        Heads of the forced arcs by their tails; the heads are distinct.
    steps
        Nodes that may be entered.

    Returns
    -------
    list of int or None
        The nodes of the path; ``None`` if there is none.

    Raises
    ------
    SearchLimitError
        If more steps are needed.
    """
    heads = set(forced.values())
    if source in heads or target in forced:
        return None
    path, visited = [source], {source}

    def moves(node: int) -> Sequence[int]:
        if node in forced:
            return (forced[node],)
        return [w for w in successors[node] if w not in heads]

    def promising(start: int) -> bool:
        seen, waiting = {start}, [start]
        while waiting:
            for w in moves(waiting.pop()):
                if w not in seen and w not in visited:
                    seen.add(w)
                    waiting.append(w)
        return target in seen and all(u in seen or u in visited for u in forced)

    if not promising(source):
        return None
    stack: list[Iterator[int]] = [iter(moves(source))]
    while stack:
        node = next((w for w in stack[-1] if w not in visited and promising(w)), None)
        if node is None:
            stack.pop()
            visited.discard(path.pop())
            continue
        path.append(node)
        visited.add(node)
        if node == target:
            if visited >= forced.keys():
                return path
            visited.discard(path.pop())
            continue
        steps -= 1
        if steps < 0:
            raise SearchLimitError
        stack.append(iter(moves(node)))
    return None


def path_by_nearest(
    successors: Sequence[Sequence[int]], source: int, target: int, forced: Mapping[int, int]
) -> list[int] | None:
    """Look for a path as :func:`path_through` does, always to the nearest forced arc.

    Returns
    -------
    list of int or None
        The nodes of the path; ``None`` if there is none by this rule.
    """
    heads = set(forced.values())
    left = {u for u in forced if u not in heads}  # where chains of forced arcs begin
    path, visited = [source], {source}
    while path[-1] != target:
        node = path[-1]
        left.discard(node)
        if node in forced:
            step = [forced[node]] if forced[node] not in visited else None
        else:
            step = _nearest(successors, node, left or {target}, visited | heads | {target})
        if step is None:
            return None
        path += step
        visited.update(step)
    return path if visited >= forced.keys() else None  # or some are around a cycle


def _nearest(
    successors: Sequence[Sequence[int]], start: int, goals: set[int], closed: set[int]
) -> list[int] | None:
    """Return the nodes after ``start`` to the nearest goal, ``None`` if there is no way to one."""
    before = {start: start}
    waiting = deque([start])
    while waiting:
        u = waiting.popleft()
        for w in successors[u]:
            if w in before or (w in closed and w not in goals):
                continue
            before[w] = u
            if w in goals:
                way = [w]
                while before[way[-1]] != start:
                    way.append(before[way[-1]])
                return way[::-1]
            waiting.append(w)
    return None


def longest_in_order(
    weights: FloatArray,
    allowed: BoolArray,
    held: BoolArray,
    incoming: Sequence[tuple[IntArray, IntArray]],
) -> tuple[FloatArray, BoolArray]:
    """Find paths of largest weight in an acyclic graph, for many weights at once.

    Among paths with the most arcs held, which is compared first, the one of largest weight; both
    are found node by node.

    Parameters
    ----------
    weights
        Of the arcs, shape (batch, arcs).
    allowed, held
        Arcs that may, and that must be taken, shape (batch, arcs).
    incoming
        Arcs and their tails, of each node but the source, node 0; the nodes are numbered in a
        topological order, the target last.

    Returns
    -------
    tuple of numpy.ndarray
        The weights, shape (batch,), ``-inf`` where there is no path with all arcs held, and the
        arcs, shape (batch, arcs).
    """
    batch = len(weights)
    rows = np.arange(batch)
    n = len(incoming) + 1
    value = np.zeros((n, batch))
    number = np.zeros((n, batch), dtype=np.intp)
    taken = np.zeros((n, batch), dtype=np.intp)
    before = np.zeros((n, batch), dtype=np.intp)
    for v, (arcs, tails) in enumerate(incoming, start=1):
        reached = allowed[:, arcs].T & np.isfinite(value[tails])
        counts = np.where(reached, number[tails] + held[:, arcs].T, -1)
        most = counts.max(axis=0)
        values = np.where(reached & (counts == most), value[tails] + weights[:, arcs].T, -np.inf)
        best = values.argmax(axis=0)
        value[v], number[v] = values[best, rows], most
        taken[v], before[v] = arcs[best], tails[best]
    chosen = np.zeros(weights.shape, dtype=bool)
    node = np.where(np.isfinite(value[-1]), n - 1, 0)
    while node.any():
        going = rows[node > 0]
        chosen[going, taken[node[going], going]] = True
        node[going] = before[node[going], going]
    complete = np.isfinite(value[-1]) & (number[-1] == held.sum(axis=1))
    return np.where(complete, value[-1], -np.inf), chosen


def paths_and_cycles(
    weights: FloatArray, ends: IntArray, n: int, held: BoolArray | None
) -> tuple[FloatArray, BoolArray]:
    """Find a path and disjoint cycles of largest weight together, for each row of weights.

    An assignment of a next node to each node but the target, itself if it is not visited. The path
    alone is the best one if no cycle has positive weight and no arc is held.

    Parameters
    ----------
    weights
        Of the arcs, ``-inf`` where one may not be taken, shape (batch, arcs).
    ends
        Tail and head of each arc, shape (arcs, 2), no head the source, node 0, and no tail the
        target, node n - 1.
    n
        Number of nodes.
    held
        Arcs that must be taken, shape (batch, arcs).

    Returns
    -------
    tuple of numpy.ndarray
        The weights, shape (batch,), ``-inf`` where there is no such path, and the arcs, shape
        (batch, arcs).
    """
    batch = len(weights)
    value, chosen = np.full(batch, -np.inf), np.zeros(weights.shape, dtype=bool)
    place = np.full((n, n), -1, dtype=np.intp)
    place[ends[:, 0], ends[:, 1]] = np.arange(len(ends))
    may_stay = np.ones((batch, n), dtype=bool)
    possible = np.ones(batch, dtype=bool)
    if held is not None and held.any():
        weights, may_stay, possible = _with_held(weights, ends, n, held, place)
    full = np.full((n, n), -np.inf)
    inner = np.arange(1, n - 1)
    for b in np.flatnonzero(possible):
        full[ends[:, 0], ends[:, 1]] = weights[b]
        full[inner, inner] = np.where(may_stay[b, inner], 0.0, -np.inf)
        try:
            tail, head = linear_sum_assignment(full[:-1, 1:], maximize=True)
        except ValueError:  # infeasible
            continue
        moving = tail != head + 1
        arcs = place[tail[moving], head[moving] + 1]
        value[b], chosen[b, arcs] = weights[b, arcs].sum(), True
    return value, chosen


def _with_held(
    weights: FloatArray, ends: IntArray, n: int, held: BoolArray, place: IntArray
) -> tuple[FloatArray, BoolArray, BoolArray]:
    """Forbid what the arcs held exclude: other arcs at their ends, and to turn a chain to a cycle.

    Returns
    -------
    tuple of numpy.ndarray
        The weights, which nodes may not be visited, shape (batch, n), and where the arcs held do
        not contradict each other, shape (batch,).
    """
    batch = len(held)
    nodes = np.arange(n)
    row, arc = np.nonzero(held)
    after, before = np.tile(nodes, (batch, 1)), np.tile(nodes, (batch, 1))
    after[row, ends[arc, 0]], before[row, ends[arc, 1]] = ends[arc, 1], ends[arc, 0]
    leaving, entering = after != nodes, before != nodes
    number = held.sum(axis=1)
    possible = (leaving.sum(axis=1) == number) & (entering.sum(axis=1) == number)
    possible &= np.isfinite(np.where(held, weights, 0.0)).all(axis=1)
    last, first = after.copy(), before.copy()
    for _ in range(n.bit_length()):  # to the end of the chain, doubling the step
        last = np.take_along_axis(last, last, axis=1)
        first = np.take_along_axis(first, first, axis=1)
    possible &= ~np.take_along_axis(leaving, last, axis=1).any(axis=1)  # a cycle has no end
    tail, head = ends.T
    free = ~leaving[:, tail] & ~entering[:, head] & (first[:, tail] != head)
    whole = last[:, 0] == n - 1  # the path is complete: nothing else is visited
    possible &= ~(whole[:, None] & leaving & (first != 0)).any(axis=1)
    allowed = held | (free & ~whole[:, None])
    return np.where(allowed, weights, -np.inf), ~(leaving | entering), possible
