"""Closed walks in an undirected graph as paths through an acyclic graph of states.

A closed walk is a connected subgraph with the depot whose edges are passed once or twice, so that
every node has an even degree (Euler). The nodes of the graph enter one after another; a state says
of those that still have edges to come, the frontier, which are on the walk, which have an odd
degree so far, and which are joined already (frontier-based search, as in Sekine, Imai and Tani,
"Computing the Tutte polynomial of a graph of moderate size", ISAAC 1995). Planar-like networks have
small frontiers: 100 stations of the London Underground have at most six.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import check_time

_MOST_ARCS = 300_000
_MANY_ARCS = 20_000  # above which the nodes are numbered otherwise,
_OTHER_NUMBERS = 2  # so many times, to find fewer
_WIDEST = 8  # nodes of a frontier
_ORDERS = 24  # that are followed at a time
_SECONDS_PER_LENGTH = 1e-9  # of an arc, for all the prices that are tried
_DONE = 15  # instead of the depot's component: the walk is complete


class WalkStates(NamedTuple):
    """The states, layer after layer, from the first one to the last.

    Parameters
    ----------
    node
        The node that each layer after the first one decides on, shape (nodes,).
    first_state
        Of each layer's states, shape (nodes + 2,); the first layer has one state.
    first_arc
        Of the arcs into each state, shape (states + 1,).
    source, on, length
        State that each arc comes from, whether the node is on the walk, and the length of the edges
        to earlier nodes that are passed, shape (arcs,).
    least
        Length of the shortest way to each state, shape (states,).
    first_entry
        Of the lengths at each state, from the shortest way there to the longest from which the end
        can be reached, shape (states + 1,).
    limit
        The largest length.
    """

    node: IntArray
    first_state: IntArray
    first_arc: IntArray
    source: IntArray
    on: BoolArray
    length: IntArray
    least: IntArray
    first_entry: IntArray
    limit: int

    @property
    def lengths_of_arcs(self) -> int:
        """How many lengths the arcs have together: the work of following all of them once."""
        target = np.repeat(np.arange(len(self.least)), np.diff(self.first_arc))
        start = np.maximum(self.least[self.source] + self.length, self.least[target])
        entries = np.diff(self.first_entry)[target]
        return int(np.maximum(self.least[target] + entries - start, 0).sum())


class BestWalks:
    """What actions on a walk are worth at most, by its states.

    Parameters
    ----------
    states
        Of the walks.
    node_of
        Node of each action, shape (actions,).
    n_nodes
        Number of nodes.
    most
        Largest number of actions.
    exact
        Whether the lengths are the true ones rather than rounded down.
    """

    def __init__(
        self, states: WalkStates, node_of: IntArray, n_nodes: int, most: int, *, exact: bool
    ) -> None:
        self.exact = exact
        self._states = states
        self._node_of = node_of
        self._n_nodes = n_nodes
        self._most = most
        self._last: tuple[FloatArray, Pins, BoolArray] | None = None
        self.seconds = _SECONDS_PER_LENGTH * states.lengths_of_arcs
        """Estimated time to bound an objective."""

    @staticmethod
    def is_in_time() -> bool:
        """Whether there is time to compile what finds walks, where that was not done."""
        from milp_rl.formulations.kernels.compiling import is_in_time
        from milp_rl.formulations.spaces.oracles.walk_search import bounds_on_walks, shortest_walks

        return is_in_time(bounds_on_walks) and is_in_time(shortest_walks)

    def bounds(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Bound objectives, shape (batch, actions), from above; ``-inf`` where there is no walk."""
        return self._found(c, pins)[0]

    def points(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the points behind the bounds, those of the last call from memory."""
        if self._last is not None:
            objectives, held, points = self._last
            last = dict(zip(_keys(objectives, held), points, strict=True))
            keys = _keys(c, pins)
            if all(key in last for key in keys):
                return np.array([last[key] for key in keys], dtype=np.float64).reshape(c.shape)
        return self._found(c, pins)[1].astype(np.float64)

    def _found(self, c: FloatArray, pins: Pins) -> tuple[FloatArray, BoolArray]:
        from milp_rl.formulations.spaces.oracles.walk_search import bounds_on_walks

        # Copies, since compiled code is compiled again for arrays that are not to be written to.
        none = np.zeros(c.shape, dtype=bool)
        one, zero = (none if m is None else np.array(m, order="C") for m in (pins.one, pins.zero))
        objectives = np.array(c, order="C")
        own = (self._node_of, self._n_nodes, self._most)
        bounds, points = bounds_on_walks(self._states, objectives, one, zero, *own)
        self._last = objectives, Pins(one, zero), points
        return bounds, points

    def visit(self, chosen: BoolArray) -> BoolArray:
        """Tell whether a walk within the limit visits what is chosen, shape (batch, actions)."""
        from milp_rl.formulations.spaces.oracles.walk_search import shortest_walks

        needed = np.zeros((len(chosen), self._n_nodes), dtype=bool)
        needed[:, self._node_of] = chosen
        return np.asarray(shortest_walks(self._states, needed) <= self._states.limit)


def _keys(c: FloatArray, pins: Pins) -> list[bytes]:
    """Return what each row is told from others by."""
    none = np.zeros(c.shape, dtype=bool)
    rows = [c, *(none if mask is None else mask for mask in (pins.one, pins.zero))]
    return [b"".join(row[i].tobytes() for row in rows) for i in range(len(c))]


def walk_states(
    n: int, edges: Sequence[tuple[int, int, int]], depot: int, limit: int
) -> WalkStates | None:
    """Return the states of the closed walks of limited length, ``None`` if there are too many.

    A :class:`~milp_rl.formulations.time_limit.LateError` if there is no time to find them.

    Parameters
    ----------
    n
        Number of nodes.
    edges
        Ends and length of each edge, no two between the same nodes.
    depot
        A node that all walks pass.
    limit
        Largest length, as the lengths of edges a whole number.
    """
    best = _states(n, edges, depot, limit)
    if best is None or len(best.source) <= _MANY_ARCS:
        return best
    for seed in range(_OTHER_NUMBERS):  # of equal orders, others are followed
        number = np.random.default_rng(seed).permutation(n)
        renumbered = [(int(number[u]), int(number[v]), length) for u, v, length in edges]
        found = _states(n, renumbered, int(number[depot]), limit)
        if found is not None and len(found.source) < len(best.source):
            best = found._replace(node=np.argsort(number)[found.node])
    return best


def _states(
    n: int, edges: Sequence[tuple[int, int, int]], depot: int, limit: int
) -> WalkStates | None:
    order = _order(n, edges)
    if order is None:
        return None
    place = {v: i for i, v in enumerate(order)}
    earlier: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    last = list(range(n))  # when the last edge of each node comes
    for u, v, length in edges:
        first, second = sorted((u, v), key=place.__getitem__)
        earlier[place[second]].append((first, length))
        last[place[first]] = max(last[place[first]], place[second])
    frontier: list[int] = []
    labels = np.zeros((1, 0), dtype=np.int64)
    odd = np.zeros((1, 0), dtype=bool)
    component = np.zeros(1, dtype=np.int64)  # the depot's, 0 before the depot
    layers: list[_Layer] = []
    total = 0
    for step, v in enumerate(order):
        check_time()
        labels, odd, component, source, on = _with_node(labels, odd, component, v == depot)
        moved = np.zeros(len(source), dtype=np.int64)
        frontier.append(v)
        for u, own in earlier[step]:
            i = frontier.index(u)
            labels, odd, component, before, times = _with_edge(labels, odd, component, i)
            source, on, moved = source[before], on[before], moved[before] + own * times
        for w in [w for w in frontier if last[place[w]] <= step]:
            i = frontier.index(w)
            labels, odd, component, kept = _without(labels, odd, component, i)
            source, on, moved = source[kept], on[kept], moved[kept]
            frontier.pop(i)
        if len(frontier) > _WIDEST or len(source) > _MOST_ARCS // 4 or not len(source):
            return None
        labels, odd, component, target = _distinct(labels, odd, component)
        layers.append(_shortest_arcs(source, on, moved, target, len(labels)))
        total += len(layers[-1].source)
        if total > _MOST_ARCS:
            return None
    return _within(order, layers, limit)


def _order(n: int, edges: Sequence[tuple[int, int, int]]) -> list[int] | None:
    """Order the nodes so that frontiers are small, following some of the best orders at a time.

    ``None`` if all of them have one that is too large.
    """
    adjacent = [0] * n
    for u, v, _ in edges:
        adjacent[u] |= 1 << v
        adjacent[v] |= 1 << u
    # By the set of nodes so far: what its frontiers cost, the frontier, and the order.
    best: dict[int, tuple[float, tuple[int, ...], tuple[int, ...]]] = {0: (0.0, (), ())}
    for _ in range(n):
        following: dict[int, tuple[float, tuple[int, ...], tuple[int, ...]]] = {}
        for known, (cost, frontier, order) in best.items():
            near = 0
            for u in frontier:
                near |= adjacent[u]
            near &= ~known
            candidates = near or ~known & ((1 << n) - 1)
            while candidates:
                bit = candidates & -candidates
                candidates ^= bit
                v, larger = bit.bit_length() - 1, known | bit
                kept = tuple(u for u in (*frontier, v) if adjacent[u] & ~larger)
                total = cost + 4.0 ** len(kept)
                if larger not in following or following[larger][0] > total:
                    following[larger] = (total, kept, (*order, v))
        check_time()
        if all(len(frontier) > _WIDEST for _, frontier, _ in following.values()):
            return None
        ranked = sorted(following.items(), key=lambda item: item[1][0])
        best = dict(ranked[:_ORDERS])
    (entry,) = list(best.values())[:1]
    return list(entry[2])


_Found = tuple[IntArray, BoolArray, IntArray, IntArray, IntArray]


def _with_node(labels: IntArray, odd: BoolArray, component: IntArray, depot: bool) -> _Found:
    """Leave the new node out, or take it as a component of its own."""
    n = len(labels)
    out = np.arange(0 if depot else n)
    taken = np.flatnonzero(component != _DONE)
    source = np.concatenate([out, taken])
    choice = np.repeat([0, 1], [len(out), len(taken)])
    fresh = labels.max(axis=1, initial=0)[source] + 1
    own = np.where(choice == 1, fresh, 0)
    component = np.where(depot & (choice == 1), fresh, component[source])
    return (
        np.column_stack([labels[source], own]),
        np.column_stack([odd[source], np.zeros(len(source), dtype=bool)]),
        component,
        source,
        choice,
    )


def _with_edge(labels: IntArray, odd: BoolArray, component: IntArray, i: int) -> _Found:
    """Pass the edge from a node of the frontier to its last one never, once, or twice.

    Passing it twice is for what it joins: between joined nodes it can as well be left out.
    """
    both = (labels[:, i] > 0) & (labels[:, -1] > 0)
    once, twice = np.flatnonzero(both), np.flatnonzero(both & (labels[:, i] != labels[:, -1]))
    source = np.concatenate([np.arange(len(labels)), once, twice])
    choice = np.repeat([0, 1, 2], [len(labels), len(once), len(twice)])
    labels, odd, component = labels[source], odd[source], component[source]
    odd[choice == 1, i] ^= True
    odd[choice == 1, -1] ^= True
    old, new = labels[:, -1].copy(), labels[:, i].copy()
    joined = (choice > 0) & (old != new)
    component = np.where(joined & (component == old), new, component)
    labels = np.where(joined[:, None] & (labels == old[:, None]), new[:, None], labels)
    return labels, odd, component, source, choice


def _without(
    labels: IntArray, odd: BoolArray, component: IntArray, i: int
) -> tuple[IntArray, BoolArray, IntArray, IntArray]:
    """Take a node with no more edges out of the frontier, where the walk may be left there."""
    own = labels[:, i]
    others = np.delete(labels, i, axis=1)
    alone = (own > 0) & ~(others == own[:, None]).any(axis=1)
    complete = alone & (own == component) & ~others.any(axis=1)
    kept = np.flatnonzero(~odd[:, i] & (~alone | complete))
    component = np.where(complete, _DONE, component)[kept]
    return others[kept], np.delete(odd, i, axis=1)[kept], component, kept


def _distinct(
    labels: IntArray, odd: BoolArray, component: IntArray
) -> tuple[IntArray, BoolArray, IntArray, IntArray]:
    """Keep each state once, its components numbered in the order in which they appear."""
    n, width = labels.shape
    rows = np.arange(n)
    number = np.zeros((n, _DONE + 1), dtype=np.int64)
    following = np.ones(n, dtype=np.int64)
    for i in range(width):
        own = labels[:, i]
        fresh = (own > 0) & (number[rows, own] == 0)
        number[rows[fresh], own[fresh]] = following[fresh]
        following[fresh] += 1
    number[:, 0], number[:, _DONE] = 0, _DONE
    labels = np.take_along_axis(number, labels, axis=1)
    component = number[rows, component]
    key = component
    for i in range(width):
        key = key * 32 + labels[:, i] * 2 + odd[:, i]
    _, first, target = np.unique(key, return_index=True, return_inverse=True)
    return labels[first], odd[first], component[first], target


@dataclass(frozen=True, eq=False)
class _Layer:
    """Arcs to the states of one more node: where from, whether the node is on the walk, to where.

    ``size`` is the number of states.
    """

    source: IntArray
    on: IntArray
    length: IntArray
    target: IntArray
    size: int


def _shortest_arcs(
    source: IntArray, on: IntArray, length: IntArray, target: IntArray, size: int
) -> _Layer:
    """Keep the shortest of the arcs between two states that agree on the node, by their targets."""
    order = np.lexsort((length, on, source, target))
    source, on, length, target = source[order], on[order], length[order], target[order]
    new = np.ones(len(order), dtype=bool)
    for part in (source, on, target):
        new[1:] &= part[1:] == part[:-1]
    new[1:] = ~new[1:]
    return _Layer(source[new], on[new], length[new], target[new], size)


def _within(order: list[int], layers: list[_Layer], limit: int) -> WalkStates | None:
    """Keep the states on a complete walk within the limit, and number them."""
    there = [np.zeros(1)]
    for layer in layers:
        reached = np.full(layer.size, np.inf)
        np.minimum.at(reached, layer.target, there[-1][layer.source] + layer.length)
        there.append(reached)
    back = [np.zeros(1)]
    for layer, out in zip(layers[::-1], there[-2::-1], strict=True):
        left = np.full(len(out), np.inf)
        np.minimum.at(left, layer.source, back[-1][layer.target] + layer.length)
        back.append(left)
    back.reverse()
    kept = [out + rest <= limit for out, rest in zip(there, back, strict=True)]
    if not kept[0][0]:
        return None
    first_state = np.cumsum([0, *(int(own.sum()) for own in kept)])
    arcs, counts = [], []
    for i, layer in enumerate(layers):
        through = there[i][layer.source] + layer.length + back[i + 1][layer.target] <= limit
        number = np.cumsum(kept[i]) - 1 + first_state[i]
        arcs.append((number[layer.source[through]], layer.on[through], layer.length[through]))
        counts.append(np.bincount(layer.target[through], minlength=layer.size)[kept[i + 1]])
    least = np.concatenate([out[own] for out, own in zip(there, kept, strict=True)])
    rest = np.concatenate([left[own] for left, own in zip(back, kept, strict=True)])
    source, on, length = (np.concatenate(part) for part in zip(*arcs, strict=True))
    return WalkStates(
        np.array(order, dtype=np.int64),
        first_state,
        np.cumsum(np.concatenate([[0, 0], *counts])),
        source,
        on == 1,
        length,
        least.astype(np.int64),
        np.cumsum([0, *(limit - rest - least + 1)]).astype(np.int64),
        limit,
    )
