"""Best closed walks through the states of :mod:`.walk_states`, compiled.

Imported when it is first needed, since numba takes longer to import than everything else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.kernels.compiling import compiled
from milp_rl.formulations.spaces.oracles.walk_states import WalkStates

_MOST_PRICES = 12  # that are tried for an objective
_ENOUGH = 1e-4  # what a better price can still give, relative to the bound
_LANES = 8  # objectives at once
_FEW = 4  # so many are quicker one after the other


def _forward_of(lanes: int) -> Callable[..., None]:
    """Return what finds the largest worth of ways to each state of at most each length.

    Parameters
    ----------
    lanes
        How many objectives it does so for at once: with several, a walk's states are read once for
        all, and their numbers lie side by side.

    Returns
    -------
    Callable
        A function of the states; of the worth of each node that is out and on the walk, shape
        (nodes, lanes); and of what it sets, shape (entries * lanes,).
    """
    own_entry = np.uint64(lanes)

    @compiled
    def forward(
        walks: WalkStates, worth_out: FloatArray, worth_on: FloatArray, value: FloatArray
    ) -> None:
        for at in range(walks.first_entry[1] * lanes):
            value[at] = 0.0
        for layer in range(len(walks.node)):
            v = walks.node[layer]
            for state in range(walks.first_state[layer + 1], walks.first_state[layer + 2]):
                begin, end = walks.first_entry[state], walks.first_entry[state + 1]
                for at in range(begin * lanes, end * lanes):
                    value[np.uint64(at)] = -np.inf
                for arc in range(walks.first_arc[state], walks.first_arc[state + 1]):
                    own = worth_on[v] if walks.on[arc] else worth_out[v]
                    before, moved = walks.source[arc], walks.length[arc]
                    # From the length at this state to the entry of the other one.
                    start = max(walks.least[before] + moved, walks.least[state])
                    shift = walks.first_entry[before] - moved - walks.least[before]
                    first = begin + start - walks.least[state]
                    # Unsigned, since a negative index would be one from the end: that takes time.
                    to, of = np.uint64(first * lanes), np.uint64((shift + start) * lanes)
                    for _ in range(end - first):
                        for lane in range(own_entry):
                            got = value[of + lane] + own[lane]
                            kept = value[to + lane]
                            value[to + lane] = got if got > kept else kept
                        to += own_entry
                        of += own_entry

    return forward


_forward = _forward_of(1)
_forward_together = _forward_of(_LANES)


@compiled
def _backward(
    walks: WalkStates,
    worth_out: FloatArray,
    worth_on: FloatArray,
    value: FloatArray,
    rest: FloatArray,
    with_out: FloatArray,
    with_on: FloatArray,
) -> None:
    """Find the largest worth of walks on which each node is out, and on which it is.

    Parameters
    ----------
    worth_out, worth_on, value
        As :func:`_forward` has them, of one objective: shapes (nodes,) and (entries,).
    rest
        Working space, a number for each entry.
    with_out, with_on
        Are set, without the worth of the node itself, shape (nodes,).
    """
    for entry in range(len(rest)):
        rest[entry] = -np.inf
    rest[len(rest) - 1] = 0.0
    for v in range(len(worth_out)):
        with_out[v] = with_on[v] = -np.inf
    for layer in range(len(walks.node) - 1, -1, -1):
        v = walks.node[layer]
        for state in range(walks.first_state[layer + 1], walks.first_state[layer + 2]):
            begin, end = walks.first_entry[state], walks.first_entry[state + 1]
            for arc in range(walks.first_arc[state], walks.first_arc[state + 1]):
                own = worth_on[v] if walks.on[arc] else worth_out[v]
                before, moved = walks.source[arc], walks.length[arc]
                start = max(walks.least[before] + moved, walks.least[state])
                first = begin + start - walks.least[state]
                other = walks.first_entry[before] - moved - walks.least[before] + start
                best = -np.inf
                for k in range(end - first):
                    best = max(best, value[other + k] + rest[first + k])
                    rest[other + k] = max(rest[other + k], rest[first + k] + own)
                if walks.on[arc]:
                    with_on[v] = max(with_on[v], best)
                else:
                    with_out[v] = max(with_out[v], best)


@compiled
def _traced(
    walks: WalkStates,
    worth_out: FloatArray,
    worth_on: FloatArray,
    value: FloatArray,
    lane: int,
    visited: BoolArray,
) -> None:
    """Mark the nodes of a walk behind a lane's last value of :func:`_forward_of`.

    Of several ways there, those on which a node is on the walk.
    """
    lanes = worth_out.shape[1]
    state, entry = len(walks.first_arc) - 2, len(value) // lanes - 1
    for layer in range(len(walks.node) - 1, -1, -1):
        v = walks.node[layer]
        length = entry - walks.first_entry[state] + walks.least[state]
        following = state, entry
        for arc in range(walks.first_arc[state], walks.first_arc[state + 1]):
            own = worth_on[v, lane] if walks.on[arc] else worth_out[v, lane]
            before = walks.source[arc]
            at = length - walks.length[arc]
            other = walks.first_entry[before] + at - walks.least[before]
            if (
                at >= walks.least[before]
                and value[other * lanes + lane] + own == value[entry * lanes + lane]
            ):
                following, visited[v] = (before, other), walks.on[arc]
                if visited[v]:
                    break
        state, entry = following


@compiled
def bounds_on_walks(
    walks: WalkStates,
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    node_of: IntArray,
    n_nodes: int,
    most: int,
) -> tuple[FloatArray, BoolArray]:
    r"""Bound the worth of at most B actions on a closed walk, each paid for.

    The walks of limited length are found exactly, the number of actions has a price (Lagrangian
    relaxation):

    .. math:: \min_{\mu \ge 0} \; \mu B + \max_{walks} \sum_v (c_v - \mu)^+

    Where three or more rows in turn have one objective, it is solved with the pins that they share,
    and those that hold one action more are bounded, at its price, by the best walk through the node
    or around it.

    Parameters
    ----------
    c
        Shape (batch, actions).
    one, zero
        Actions held, shape (batch, actions).
    node_of
        Node of each action, shape (actions,).
    n_nodes
        Number of nodes.
    most
        Largest number of actions, B.

    Returns
    -------
    tuple of numpy.ndarray
        The bounds, ``-inf`` where no walk visits what is held, shape (batch,), and the best actions
        on a walk that were seen, at most B if any such were, shape (batch, actions).
    """
    batch, n = c.shape
    entries = walks.first_entry[-1]
    value, rest = np.zeros(entries), np.zeros(entries)
    worth_out, worth_on = np.zeros((n_nodes, 1)), np.zeros((n_nodes, 1))
    with_out, with_on = np.zeros(n_nodes), np.zeros(n_nodes)
    bounds, points = np.zeros(batch), np.zeros((batch, n), dtype=np.bool_)
    prices = np.zeros(batch)
    common_one, common_zero = np.zeros((1, n), dtype=np.bool_), np.zeros((1, n), dtype=np.bool_)
    common_bound, common_price = np.zeros(1), np.zeros(1)
    common_point = np.zeros((1, n), dtype=np.bool_)
    only = np.zeros(1, dtype=np.int64)
    alone, n_alone = np.zeros(batch, dtype=np.int64), 0  # rows that are priced by themselves
    end = 0
    for row in range(batch):
        if row == end:
            begin, end = row, row + 1
            while end < batch and _equal(c, row, end):
                end += 1
            together = end - begin > 2
            if together:
                for i in range(n):
                    common_one[0, i] = common_zero[0, i] = True
                    for other in range(begin, end):
                        common_one[0, i] &= one[other, i]
                        common_zero[0, i] &= zero[other, i]
                shared = c[row : row + 1]
                _price(
                    walks,
                    shared,
                    common_one,
                    common_zero,
                    only,
                    node_of,
                    n_nodes,
                    most,
                    common_bound,
                    common_price,
                    common_point,
                    value,
                )
                common, price = common_bound[0], common_price[0]
                _weigh(
                    c[row], common_one[0], common_zero[0], node_of, price, worth_out, worth_on, 0
                )
                _forward(walks, worth_out, worth_on, value)
                _backward(walks, worth_out[:, 0], worth_on[:, 0], value, rest, with_out, with_on)
        differences, i = 0, -1
        if together:
            for j in range(n):
                if one[row, j] != common_one[0, j] or zero[row, j] != common_zero[0, j]:
                    differences += 1
                    i = j
        if not together or (differences > 1 and common > -np.inf):
            alone[n_alone] = row
            n_alone += 1
            continue
        bounds[row] = common
        for j in range(n):
            points[row, j] = common_point[0, j]
        if differences == 1 and common > -np.inf:
            v = node_of[i]
            own = max(with_on[v], with_out[v])
            if one[row, i]:
                own = with_on[v] + c[row, i] - price
            bounds[row] = min(common, own + price * most + _margin(c[row], price, most))
            points[row, i] = one[row, i]
    rows = alone[:n_alone]
    _price(walks, c, one, zero, rows, node_of, n_nodes, most, bounds, prices, points, value)
    return bounds, points


@compiled
def _price(
    walks: WalkStates,
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    rows: IntArray,
    node_of: IntArray,
    n_nodes: int,
    most: int,
    bounds: FloatArray,
    prices: FloatArray,
    points: BoolArray,
    value: FloatArray,
) -> None:
    """Bound objectives, each by itself: set the bounds, prices and points of ``rows``.

    Each has a lane until its price is found; then another one takes its place. ``value`` is working
    space, a number for each entry.
    """
    n, together = c.shape[1], len(rows) > _FEW
    values = np.empty(len(value) * _LANES if together else 0)
    worth_out, worth_on = np.zeros((n_nodes, _LANES)), np.zeros((n_nodes, _LANES))
    own_out, own_on = np.zeros((n_nodes, 1)), np.zeros((n_nodes, 1))
    visited, point = np.zeros(n_nodes, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    row_of, tried = np.full(_LANES, -1), np.zeros(_LANES, dtype=np.int64)
    at, seen = np.zeros(_LANES), np.zeros(_LANES)
    # Of walks with at most, and with more than B actions.
    low_value, high_value = np.zeros(_LANES), np.zeros(_LANES)
    low_count, high_count = np.zeros(_LANES, dtype=np.int64), np.zeros(_LANES, dtype=np.int64)
    taken = 0
    while True:
        going = 0
        for lane in range(_LANES):
            if row_of[lane] < 0 and taken < len(rows):
                row = row_of[lane] = rows[taken]
                taken += 1
                bounds[row], prices[row] = np.inf, 0.0
                tried[lane], at[lane] = 0, 0.0
                low_value[lane] = high_value[lane] = 0.0
                low_count[lane] = high_count[lane] = -1
            row = row_of[lane]
            if row >= 0:
                _weigh(c[row], one[row], zero[row], node_of, at[lane], worth_out, worth_on, lane)
                going += 1
        if not going:
            break
        several = going > _FEW
        if several:
            _forward_together(walks, worth_out, worth_on, values)
        for lane in range(_LANES):
            row = row_of[lane]
            if row < 0:
                continue
            if several:
                got = values[len(values) - _LANES + lane]
            else:
                for v in range(n_nodes):
                    own_out[v, 0], own_on[v, 0] = worth_out[v, lane], worth_on[v, lane]
                _forward(walks, own_out, own_on, value)
                got = value[len(value) - 1]
            if got == -np.inf:
                bounds[row], row_of[lane] = -np.inf, -1
                continue
            if several:
                _traced(walks, worth_out, worth_on, values, lane, visited)
            else:
                _traced(walks, own_out, own_on, value, 0, visited)
            got += at[lane] * most + _margin(c[row], at[lane], most)
            if got < bounds[row]:
                bounds[row], prices[row] = got, at[lane]
            total, count = _taken(
                c[row], one[row], zero[row], node_of, at[lane], most, visited, point
            )
            first = tried[lane] == 0
            if first or (count <= most and total > seen[lane]):
                seen[lane] = total if count <= most else -np.inf
                for i in range(n):
                    points[row, i] = point[i]
            if count > most:
                high_value[lane], high_count[lane] = total, count
            else:
                low_value[lane], low_count[lane] = total, count
            tried[lane] += 1
            enough = _ENOUGH * abs(bounds[row])
            if (
                count == most
                or high_count[lane] < 0
                or bounds[row] - seen[lane] <= enough
                or tried[lane] == _MOST_PRICES
            ):
                row_of[lane] = -1
            elif low_count[lane] < 0:
                following, highest = _next_price(c[row], point, most), c[row].max()
                if at[lane] >= highest:  # so many are held
                    row_of[lane] = -1
                at[lane] = following if following > at[lane] else highest
            else:
                gained = high_value[lane] - low_value[lane]
                following = gained / (high_count[lane] - low_count[lane])
                lower = low_value[lane] + following * (most - low_count[lane])
                if following == at[lane] or bounds[row] - lower <= enough:
                    row_of[lane] = -1
                at[lane] = following


@compiled
def _taken(
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    node_of: IntArray,
    price: float,
    most: int,
    visited: BoolArray,
    point: BoolArray,
) -> tuple[float, int]:
    """Mark the actions on a walk that are worth more than the price; return their worth and number.

    Where fewer than B are, those that are worth the price itself are taken, too, up to B.
    """
    total, count = 0.0, 0
    for i in range(len(c)):
        point[i] = visited[node_of[i]] and not zero[i] and (c[i] > price or one[i])
        if point[i]:
            total += c[i]
            count += 1
    for i in range(len(c)):
        if count >= most:
            break
        if price > 0.0 and c[i] == price and visited[node_of[i]] and not (zero[i] or point[i]):
            point[i] = True
            total += c[i]
            count += 1
    return total, count


@compiled
def _next_price(c: FloatArray, point: BoolArray, most: int) -> float:
    """Return the price at which B actions of a point are worth more, or as much."""
    own = np.sort(c[point])
    return float(max(own[len(own) - 1 - most], 0.0))


@compiled
def _margin(c: FloatArray, price: float, most: int) -> float:
    """Return by how much float64 may have rounded a bound."""
    size = price * most
    for i in range(len(c)):
        size += abs(c[i])
    return 1e-13 * size


@compiled
def _equal(c: FloatArray, row: int, other: int) -> bool:
    differences = 0
    for i in range(c.shape[1]):
        if c[row, i] != c[other, i]:
            differences += 1
    return differences == 0


@compiled
def _weigh(
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    node_of: IntArray,
    price: float,
    worth_out: FloatArray,
    worth_on: FloatArray,
    lane: int,
) -> None:
    """Set the worth of each node that is out and on the walk, shape (nodes, lanes), in a lane."""
    for v in range(len(worth_out)):
        worth_out[v, lane] = worth_on[v, lane] = 0.0
    for i in range(len(c)):
        v = node_of[i]
        if one[i]:
            worth_out[v, lane], worth_on[v, lane] = -np.inf, c[i] - price
        elif not zero[i]:
            worth_on[v, lane] = max(c[i] - price, 0.0)


def _shortest_of(lanes: int) -> Callable[..., None]:
    """Return what finds the lengths of shortest walks that visit what is needed.

    Parameters
    ----------
    lanes
        How many walks it finds at once.

    Returns
    -------
    Callable
        A function of the states; of the nodes needed, shape (batch, nodes); of the first of the
        rows; of working space, shape (states, lanes); and of the lengths, of which it sets some.
    """

    @compiled
    def shortest(
        walks: WalkStates, needed: BoolArray, first: int, value: FloatArray, lengths: FloatArray
    ) -> None:
        out, best = np.zeros(lanes), np.zeros(lanes)
        for lane in range(lanes):
            value[0, lane] = 0.0
        for layer in range(len(walks.node)):
            for lane in range(lanes):
                row = min(first + lane, len(needed) - 1)
                out[lane] = np.inf if needed[row, walks.node[layer]] else 0.0
            for state in range(walks.first_state[layer + 1], walks.first_state[layer + 2]):
                for lane in range(lanes):
                    best[lane] = np.inf
                for arc in range(walks.first_arc[state], walks.first_arc[state + 1]):
                    before, on, moved = walks.source[arc], walks.on[arc], float(walks.length[arc])
                    for lane in range(lanes):
                        own = value[before, lane] + (moved if on else out[lane])
                        best[lane] = own if own < best[lane] else best[lane]
                for lane in range(lanes):
                    value[state, lane] = best[lane]
        for lane in range(min(lanes, len(needed) - first)):
            lengths[first + lane] = value[len(value) - 1, lane]

    return shortest


_shortest = _shortest_of(1)
_shortest_together = _shortest_of(_LANES)


@compiled
def shortest_walks(
    walks: WalkStates,
    needed: BoolArray,
) -> FloatArray:
    """Find the lengths of shortest walks that visit the nodes needed, shape (batch, nodes).

    Returns
    -------
    numpy.ndarray
        Shape (batch,), infinite where no walk does.
    """
    batch, states = len(needed), len(walks.first_arc) - 1
    lengths, alone = np.zeros(batch), np.zeros((states, 1))
    together = np.zeros((states if batch > _FEW else 0, _LANES))
    first = 0
    while first < batch:
        if batch - first > _FEW:
            _shortest_together(walks, needed, first, together, lengths)
            first += _LANES
        else:
            _shortest(walks, needed, first, alone, lengths)
            first += 1
    return lengths
