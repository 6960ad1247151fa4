"""Compiled loops that build actions and look at their neighbours.

A neighbour differs by few products of the action with the layers that take it, so that only what
comes after these is computed. The values rank actions; what is answered is valued by a forward pass
in numpy.
"""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.kernels.compiling import compiled, compiled_freely
from milp_rl.formulations.kernels.description import CompiledOracle, Integers, NetworkArrays
from milp_rl.formulations.kernels.oracles import feasible


@compiled
def columns(net: NetworkArrays, state: int) -> FloatArray:
    """Return what each action gives each neuron and the output directly; last the biases."""
    n, top = net.n_actions, len(net.widths) - 1
    found = np.zeros((n + 1, net.starts[top] + net.widths[top]))
    for d in range(top + 1):
        first = net.starts[d]
        bias = net.bias_offset[d] + state * net.bias_stride[d]
        for j in range(net.widths[d]):
            found[n, first + j] = net.biases[bias + j]
        for pair in range(net.first_pair[d], net.first_pair[d + 1]):
            if net.source[pair] < 0:
                at = net.offset[pair] + state * net.stride[pair]
                for i in range(n):
                    for j in range(net.widths[d]):
                        found[i, first + j] += net.transposed[at + i * net.widths[d] + j]
    return found


@compiled
def products(each: FloatArray, action: ActionArray, found: FloatArray) -> None:
    """Write what an action gives each neuron and the output directly, with the biases."""
    n = len(action)
    for j in range(len(found)):
        found[j] = each[n, j]
    for i in range(n):
        if action[i] == 1:
            for j in range(len(found)):
                found[j] += each[i, j]


@compiled
def value_after(net: NetworkArrays, state: int, given: FloatArray, h: FloatArray) -> float:
    """Return the output for what the action gives directly; ``h`` is overwritten."""
    for d in range(len(net.widths)):
        first, width = net.starts[d], net.widths[d]
        for j in range(width):
            h[first + j] = given[first + j]
        for pair in range(net.first_pair[d], net.first_pair[d + 1]):
            k = net.source[pair]
            if k < 0:
                continue
            begin = net.starts[k]
            at = net.offset[pair] + state * net.stride[pair]
            if width == 1:
                total = 0.0
                for i in range(net.widths[k]):
                    total += max(h[begin + i], 0.0) * net.weights[at + i]
                h[first] += total
                continue
            for i in range(net.widths[k]):
                output = max(h[begin + i], 0.0)
                if output > 0.0:
                    for j in range(width):
                        h[first + j] += output * net.transposed[at + i * width + j]
    found: float = h[net.starts[-1]]
    return found


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
    here, given, h = np.empty(each.shape[1]), np.empty(each.shape[1]), np.empty(each.shape[1])
    if down_closed and not feasible(oracle, action):
        return False
    while True:
        complete = down_closed or feasible(oracle, action)
        if complete and not down_closed:
            return True
        products(each, action, here)
        best = value_after(net, state, here, h) if complete else -np.inf
        chosen = -1
        for i in range(n):
            if action[i] == 1 or zero[i]:
                continue
            for j in range(len(here)):
                given[j] = here[j] + each[i, j]
            value = value_after(net, state, given, h)
            if value > best:
                action[i] = 1
                if not down_closed or feasible(oracle, action):
                    best, chosen = value, i
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
    here, base = np.empty(each.shape[1]), np.empty(each.shape[1])
    given, h = np.empty(each.shape[1]), np.empty(each.shape[1])
    products(each, action, here)
    best = value_after(net, state, here, h) + margin
    added, taken = -1, -1
    for j in range(-1, n):
        if j >= 0 and (action[j] == 0 or one[j]):
            continue
        for m in range(len(here)):
            base[m] = here[m] if j < 0 else here[m] - each[j, m]
        for i in range(-1, n):
            if (i < 0 and j < 0) or (i >= 0 and (action[i] == 1 or zero[i])):
                continue
            for m in range(len(here)):
                given[m] = base[m] if i < 0 else base[m] + each[i, m]
            value = value_after(net, state, given, h)
            if value > best:
                if i >= 0:
                    action[i] = 1
                if j >= 0:
                    action[j] = 0
                if feasible(oracle, action):
                    best, added, taken = value, i, j
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
    here, given, h = np.empty(each.shape[1]), np.empty(each.shape[1]), np.empty(each.shape[1])
    products(each, action, here)
    found, zeros = 0, 0
    for i in range(n):
        zeros += action[i] == 0
        if one[i] or zero[i]:
            continue
        for m in range(len(here)):
            given[m] = here[m] - each[i, m] if action[i] == 1 else here[m] + each[i, m]
        value = value_after(net, state, given, h)
        if value > limit:
            rows[found], values[found] = i, value
            found += 1
    place = n
    for j in range(n):
        if action[j] == 0:
            continue
        for i in range(n):
            if action[i] == 1:
                continue
            if not one[j] and not zero[i]:
                for m in range(len(here)):
                    given[m] = here[m] - each[j, m] + each[i, m]
                value = value_after(net, state, given, h)
                if value > limit:
                    rows[found], values[found] = place, value
                    found += 1
            place += 1
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
            own[i, j] = each[i, j]
    for pair in range(net.first_pair[1], net.first_pair[2]):
        if net.source[pair] == 0:
            at = net.offset[pair] + state * net.stride[pair]
            for j in range(width):
                output[j] = net.weights[at + j]
    for action in range(len(values)):
        total = each[n, width]
        for j in range(width):
            h[j] = own[n, j]
        for place in range(first[action], first[action + 1]):
            i = chosen[place]
            total += each[i, width]
            for j in range(width):
                h[j] += own[i, j]
        for j in range(width):
            total += output[j] * max(h[j], 0.0)
        values[action] = total
