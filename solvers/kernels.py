"""Compiled loops that build actions and look at their neighbours.

A neighbour differs by few products of the action with the layers that take it, so that only what
comes after these is computed, for many neighbours side by side. The values rank actions; what is
answered is valued by a forward pass in numpy.
"""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.kernels.compiling import compiled, compiled_freely
from milp_rl.formulations.kernels.description import CompiledOracle, Integers, NetworkArrays
from milp_rl.formulations.kernels.oracles import feasible

_SIDE_BY_SIDE = 128  # values that are computed together


@compiled
def columns(net: NetworkArrays, state: int) -> FloatArray:
    """Return what each action gives each neuron and the output directly, a column each.

    Two columns more: the biases, and zeros.
    """
    n, top = net.n_actions, len(net.widths) - 1
    found = np.zeros((net.starts[top] + net.widths[top], n + 2))
    for d in range(top + 1):
        first = net.starts[d]
        bias = net.bias_offset[d] + state * net.bias_stride[d]
        for j in range(net.widths[d]):
            found[first + j, n] = net.biases[bias + j]
        for pair in range(net.first_pair[d], net.first_pair[d + 1]):
            if net.source[pair] < 0:
                at = net.offset[pair] + state * net.stride[pair]
                for j in range(net.widths[d]):
                    for i in range(n):
                        found[first + j, i] += net.weights[at + j * n + i]
    return found


@compiled
def products(each: FloatArray, action: ActionArray, found: FloatArray) -> None:
    """Write what an action gives each neuron and the output directly, with the biases."""
    n = len(action)
    for j in range(len(found)):
        found[j] = each[j, n]
        for i in range(n):
            if action[i] == 1:
                found[j] += each[j, i]


@compiled
def values_with(
    net: NetworkArrays,
    state: int,
    base: FloatArray,
    each: FloatArray,
    added: Integers,
    m: int,
    h: FloatArray,
    values: FloatArray,
) -> None:
    """Write the values of what ``base`` is the products of, with the first m columns added.

    They are computed side by side, as many as ``h`` has columns, whose rows are the neurons and the
    output.
    """
    total, size = h.shape
    for begin in range(0, m, size):
        own = min(size, m - begin)
        for r in range(total):
            for i in range(own):
                h[r, i] = base[r] + each[r, added[begin + i]]
        for d in range(len(net.widths)):
            first = net.starts[d]
            for pair in range(net.first_pair[d], net.first_pair[d + 1]):
                if net.source[pair] >= 0:
                    at = net.offset[pair] + state * net.stride[pair]
                    width, source = net.widths[net.source[pair]], net.starts[net.source[pair]]
                    for j in range(net.widths[d]):
                        _add_products(net.weights, at + j * width, width, source, first + j, own, h)
            if d < len(net.widths) - 1:
                for r in range(first, first + net.widths[d]):
                    for i in range(own):
                        h[r, i] = max(h[r, i], 0.0)
        for i in range(own):
            values[begin + i] = h[total - 1, i]


@compiled
def _add_products(
    weights: FloatArray, at: int, width: int, source: int, r: int, m: int, h: FloatArray
) -> None:
    """Add rows of ``h`` from ``source`` on, times weights, to row r; four at a time."""
    j = 0
    while j + 4 <= width:
        a, b, c, d = weights[at + j], weights[at + j + 1], weights[at + j + 2], weights[at + j + 3]
        k = source + j
        for i in range(m):
            h[r, i] += a * h[k, i] + b * h[k + 1, i] + c * h[k + 2, i] + d * h[k + 3, i]
        j += 4
    while j < width:
        a = weights[at + j]
        for i in range(m):
            h[r, i] += a * h[source + j, i]
        j += 1


@compiled
def _without(here: FloatArray, each: FloatArray, j: int, found: FloatArray) -> None:
    """Write the products of an action without one of its columns."""
    for r in range(len(here)):
        found[r] = here[r] - each[r, j]


@compiled
def build(
    net: NetworkArrays,
    state: int,
    oracle: CompiledOracle,
    zero: BoolArray,
    down_closed: bool,
    action: ActionArray,
) -> bool:
    """Add the best action after another while the value grows; ``False`` if that gets stuck.

    ``action`` has what is held at one, and is written. Of a space that is not down-closed, which
    takes an exact number, the value need not grow until the action is complete.
    """
    n = net.n_actions
    each = columns(net, state)
    here, h = np.empty(len(each)), np.empty((len(each), min(n + 1, _SIDE_BY_SIDE)))
    added, values = np.empty(n + 1, dtype=np.int64), np.empty(n + 1)
    if down_closed and not feasible(oracle, action):
        return False
    while True:
        complete = down_closed or feasible(oracle, action)
        if complete and not down_closed:
            return True
        products(each, action, here)
        added[0], m = n + 1, 1
        for i in range(n):
            if action[i] == 0 and not zero[i]:
                added[m] = i
                m += 1
        values_with(net, state, here, each, added, m, h, values)
        best = values[0] if complete else -np.inf
        chosen = -1
        for k in range(1, m):
            if values[k] > best:
                i = added[k]
                action[i] = 1
                if not down_closed or feasible(oracle, action):
                    best, chosen = values[k], i
                action[i] = 0
        if chosen < 0:
            return complete
        action[chosen] = 1


@compiled
def best_neighbour(
    net: NetworkArrays,
    state: int,
    oracle: CompiledOracle,
    one: BoolArray,
    zero: BoolArray,
    margin: float,
    action: ActionArray,
) -> bool:
    """Go on to the best feasible flip or swap that is better by a margin; ``False`` if none is."""
    n = net.n_actions
    each = columns(net, state)
    here, base = np.empty(len(each)), np.empty(len(each))
    h = np.empty((len(each), min(n + 1, _SIDE_BY_SIDE)))
    additions, values = np.empty(n + 1, dtype=np.int64), np.empty(n + 1)
    products(each, action, here)
    additions[0], m = n + 1, 1
    for i in range(n):
        if action[i] == 0 and not zero[i]:
            additions[m] = i
            m += 1
    best, added, taken = -np.inf, -1, -1
    for j in range(-1, n):
        if j >= 0 and (action[j] == 0 or one[j]):
            continue
        _without(here, each, j if j >= 0 else n + 1, base)
        values_with(net, state, base, each, additions, m, h, values)
        if j < 0:
            best = values[0] + margin
        for k in range(m):
            if not values[k] > best:
                continue
            i = additions[k] if k else -1
            if i >= 0:
                action[i] = 1
            if j >= 0:
                action[j] = 0
            if feasible(oracle, action):
                best, added, taken = values[k], i, j
            if i >= 0:
                action[i] = 0
            if j >= 0:
                action[j] = 1
    if added >= 0:
        action[added] = 1
    if taken >= 0:
        action[taken] = 0
    return added >= 0 or taken >= 0


@compiled
def neighbours(
    net: NetworkArrays,
    state: int,
    action: ActionArray,
    one: BoolArray,
    zero: BoolArray,
    limit: float,
    rows: IntArray,
    values: FloatArray,
) -> int:
    """Write the flips and swaps above a limit as ``neighbours_above`` has them; return how many."""
    n = net.n_actions
    each = columns(net, state)
    here, base = np.empty(len(each)), np.empty(len(each))
    h = np.empty((len(each), min(n + 1, _SIDE_BY_SIDE)))
    zeros, own, flipped = np.empty(n + 1, dtype=np.int64), np.empty(n + 1), np.empty(n)
    products(each, action, here)
    m = 0
    for i in range(n):
        if action[i] == 0:
            zeros[m] = i
            m += 1
    values_with(net, state, here, each, zeros, m, h, own)
    for k in range(m):
        flipped[zeros[k]] = own[k]
    zeros[m], found = n + 1, 0
    for j in range(n):
        if action[j] == 1:
            _without(here, each, j, base)
            values_with(net, state, base, each, zeros[m:], 1, h, own)
            flipped[j] = own[0]
        if flipped[j] > limit and not one[j] and not zero[j]:
            rows[found], values[found] = j, flipped[j]
            found += 1
    place = n
    for j in range(n):
        if action[j] == 0:
            continue
        if not one[j]:
            _without(here, each, j, base)
            values_with(net, state, base, each, zeros, m, h, own)
            for k in range(m):
                if own[k] > limit and not zero[zeros[k]]:
                    rows[found], values[found] = place + k, own[k]
                    found += 1
        place += m
    return found


@compiled_freely
def values_of_listed(
    net: NetworkArrays, state: int, first: Integers, chosen: Integers, values: FloatArray
) -> None:
    """Write the values of listed actions by a network of one hidden layer.

    Parameters
    ----------
    net, state
        The networks, and which of them.
    first, chosen
        Of each action, and the end, where what it takes begins in ``chosen``.
    values
        Written, shape (actions,).
    """
    each = columns(net, state)
    n, width = net.n_actions, net.widths[0]
    own, h, output = np.empty((n + 1, width)), np.empty(width), np.zeros(width)
    for i in range(n + 1):
        for j in range(width):
            own[i, j] = each[j, i]
    for pair in range(net.first_pair[1], net.first_pair[2]):
        if net.source[pair] == 0:
            at = net.offset[pair] + state * net.stride[pair]
            for j in range(width):
                output[j] = net.weights[at + j]
    for action in range(len(values)):
        total = each[width, n]
        for j in range(width):
            h[j] = own[n, j]
        for place in range(first[action], first[action + 1]):
            i = chosen[place]
            total += each[width, i]
            for j in range(width):
                h[j] += own[i, j]
        for j in range(width):
            total += output[j] * max(h[j], 0.0)
        values[action] = total
