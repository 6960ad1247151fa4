"""Best closed walks through the states of :mod:`.walk_states`, compiled.

Imported when it is first needed, since numba takes longer to import than everything else.
"""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.kernels.compiling import compiled
from milp_rl.formulations.spaces.oracles.walk_states import WalkStates

_MOST_PRICES = 12  # that are tried for an objective
_ENOUGH = 1e-4  # what a better price can still give, relative to the bound


@compiled
def _forward(
    walks: WalkStates,
    worth_out: FloatArray,
    worth_on: FloatArray,
    value: FloatArray,
) -> None:
    """Find the largest worth of ways to each state of at most each length.

    Parameters
    ----------
    worth_out, worth_on
        Worth of each node that is out and on the walk, shape (nodes,).
    value
        Is set, a number for each entry.
    """
    for entry in range(walks.first_entry[1]):
        value[entry] = 0.0
    for layer in range(len(walks.node)):
        v = walks.node[layer]
        for state in range(walks.first_state[layer + 1], walks.first_state[layer + 2]):
            begin, end = walks.first_entry[state], walks.first_entry[state + 1]
            for entry in range(begin, end):
                value[entry] = -np.inf
            for arc in range(walks.first_arc[state], walks.first_arc[state + 1]):
                own = worth_on[v] if walks.on[arc] else worth_out[v]
                before, moved = walks.source[arc], walks.length[arc]
                # From the length at this state to the entry of the other one.
                start = max(walks.least[before] + moved, walks.least[state])
                shift = walks.first_entry[before] - moved - walks.least[before]
                first = begin + start - walks.least[state]
                other = shift + start
                for k in range(end - first):
                    value[first + k] = max(value[first + k], value[other + k] + own)


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
        As :func:`_forward` has them.
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
    visited: BoolArray,
) -> None:
    """Mark the nodes of the walk behind the last value of :func:`_forward`."""
    state, entry = len(walks.first_arc) - 2, len(value) - 1
    for layer in range(len(walks.node) - 1, -1, -1):
        v = walks.node[layer]
        for arc in range(walks.first_arc[state], walks.first_arc[state + 1]):
            own = worth_on[v] if walks.on[arc] else worth_out[v]
            before = walks.source[arc]
            at = walks.least[state] + entry - walks.first_entry[state] - walks.length[arc]
            other = walks.first_entry[before] + at - walks.least[before]
            if at >= walks.least[before] and value[other] + own == value[entry]:
                visited[v] = walks.on[arc]
                state, entry = before, other
                break


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
    value, rest = np.zeros(walks.first_entry[-1]), np.zeros(walks.first_entry[-1])
    visited = np.zeros(n_nodes, dtype=np.bool_)
    worth_out, worth_on = np.zeros(n_nodes), np.zeros(n_nodes)
    with_out, with_on = np.zeros(n_nodes), np.zeros(n_nodes)
    bounds, points = np.zeros(batch), np.zeros((batch, n), dtype=np.bool_)
    all_one, all_zero = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    point = np.zeros(n, dtype=np.bool_)
    end = 0
    for row in range(batch):
        if row == end:
            begin, end = row, row + 1
            while end < batch and _equal(c, row, end):
                end += 1
            together = end - begin > 2
            if together:
                for i in range(n):
                    all_one[i] = all_zero[i] = True
                    for other in range(begin, end):
                        all_one[i] &= one[other, i]
                        all_zero[i] &= zero[other, i]
                common, price = _priced(
                    walks,
                    c[row],
                    all_one,
                    all_zero,
                    node_of,
                    most,
                    worth_out,
                    worth_on,
                    value,
                    visited,
                    point,
                )
                _weigh(c[row], all_one, all_zero, node_of, price, worth_out, worth_on)
                _forward(
                    walks,
                    worth_out,
                    worth_on,
                    value,
                )
                _backward(
                    walks,
                    worth_out,
                    worth_on,
                    value,
                    rest,
                    with_out,
                    with_on,
                )
        differences, i = 0, -1
        if together:
            for j in range(n):
                if one[row, j] != all_one[j] or zero[row, j] != all_zero[j]:
                    differences += 1
                    i = j
        if not together or (differences > 1 and common > -np.inf):
            bounds[row], _ = _priced(
                walks,
                c[row],
                one[row],
                zero[row],
                node_of,
                most,
                worth_out,
                worth_on,
                value,
                visited,
                points[row],
            )
            continue
        bounds[row] = common
        for j in range(n):
            points[row, j] = point[j]
        if differences == 1 and common > -np.inf:
            v = node_of[i]
            own = max(with_on[v], with_out[v])
            if one[row, i]:
                own = with_on[v] + c[row, i] - price
            bounds[row] = min(common, own + price * most + _margin(c[row], price, most))
            points[row, i] = one[row, i]
    return bounds, points


@compiled
def _priced(
    walks: WalkStates,
    c: FloatArray,
    one: BoolArray,
    zero: BoolArray,
    node_of: IntArray,
    most: int,
    worth_out: FloatArray,
    worth_on: FloatArray,
    value: FloatArray,
    visited: BoolArray,
    point: BoolArray,
) -> tuple[float, float]:
    """Bound one objective; return the bound and the price, and set the point behind it."""
    n = len(c)
    bound, seen = np.inf, -np.inf
    low_value = high_value = 0.0
    low_count, high_count = -1, -1  # of walks with at most, and with more than B actions
    price = at = 0.0
    for k in range(_MOST_PRICES):
        _weigh(c, one, zero, node_of, at, worth_out, worth_on)
        _forward(
            walks,
            worth_out,
            worth_on,
            value,
        )
        got = value[len(value) - 1]
        if got == -np.inf:
            return -np.inf, 0.0
        got += at * most + _margin(c, at, most)
        if got < bound:
            bound, price = got, at
        _traced(
            walks,
            worth_out,
            worth_on,
            value,
            visited,
        )
        total, count = 0.0, 0
        for i in range(n):
            visited_here = visited[node_of[i]] and not zero[i]
            if visited_here and (c[i] > at or one[i]):
                total += c[i]
                count += 1
        if k == 0 or (count <= most and total > seen):
            seen = total if count <= most else -np.inf
            for i in range(n):
                point[i] = visited[node_of[i]] and not zero[i] and (c[i] > at or one[i])
        if count > most:
            high_value, high_count = total, count
        else:
            low_value, low_count = total, count
        if count == most or high_count < 0 or bound - seen <= _ENOUGH * abs(bound):
            break
        if low_count < 0:
            at = _next_price(c, point, most) if k == 0 else c.max()
            continue
        following = (high_value - low_value) / (high_count - low_count)
        lower = low_value + following * (most - low_count)
        if following == at or bound - lower <= _ENOUGH * abs(bound):
            break
        at = following
    return bound, price


@compiled
def _next_price(c: FloatArray, point: BoolArray, most: int) -> float:
    """Return the price at which B actions of a point are worth more."""
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
) -> None:
    """Set the worth of each node that is out and on the walk."""
    for v in range(len(worth_out)):
        worth_out[v] = worth_on[v] = 0.0
    for i in range(len(c)):
        v = node_of[i]
        if one[i]:
            worth_out[v], worth_on[v] = -np.inf, c[i] - price
        elif not zero[i]:
            worth_on[v] = max(c[i] - price, 0.0)


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
    batch = len(needed)
    lengths, value = np.zeros(batch), np.zeros(len(walks.first_arc) - 1)
    for row in range(batch):
        for layer in range(len(walks.node)):
            out = np.inf if needed[row, walks.node[layer]] else 0.0
            for state in range(walks.first_state[layer + 1], walks.first_state[layer + 2]):
                best = np.inf
                for arc in range(walks.first_arc[state], walks.first_arc[state + 1]):
                    own = value[walks.source[arc]] + (walks.length[arc] if walks.on[arc] else out)
                    best = min(best, own)
                value[state] = best
        lengths[row] = value[len(value) - 1]
    return lengths
