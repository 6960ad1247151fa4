"""What is between the bounds of a round of branch and bound, compiled: :mod:`.tree` says what.

Children are rows of one buffer, those of candidate i in rows 2 i (held at one, or on) and 2 i + 1;
masks say which of them are still in question, so that none is moved before it is opened.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.kernels.compiling import compiled
from milp_rl.formulations.kernels.description import Integers, NetworkArrays, Signs, Singles
from milp_rl.solvers.branch_and_bound.branching import (
    ACTIONS_TRIED,
    LEAST_DOUBT,
    NEURONS_DUE,
    NEURONS_TRIED,
    TIE_BREAK,
)
from milp_rl.solvers.branch_and_bound.node_bounds import MANY, PROBE_AGAIN

CANDIDATES = ACTIONS_TRIED + NEURONS_TRIED
"""Of a node, at most: actions, then neurons."""


class NodeArrays(NamedTuple):
    """The arrays of :class:`.Nodes`."""

    state: IntArray
    one: BoolArray
    zero: BoolArray
    low: FloatArray
    high: FloatArray
    split: Signs
    alpha: Singles
    beta: FloatArray
    x: Singles
    z: FloatArray
    h: FloatArray
    bound: FloatArray
    probed: FloatArray


@compiled
def copy(source: NodeArrays, rows: IntArray, target: NodeArrays, to: IntArray) -> None:
    """Copy rows."""
    for k in range(len(rows)):
        _copy(source, rows[k], target, to[k])


@compiled
def _copy(source: NodeArrays, i: int, target: NodeArrays, j: int) -> None:
    target.state[j] = source.state[i]
    target.bound[j] = source.bound[i]
    target.probed[j] = source.probed[i]
    for k in range(source.one.shape[1]):
        target.one[j, k] = source.one[i, k]
        target.zero[j, k] = source.zero[i, k]
        target.x[j, k] = source.x[i, k]
    for k in range(source.low.shape[1]):
        target.low[j, k] = source.low[i, k]
        target.high[j, k] = source.high[i, k]
        target.split[j, k] = source.split[i, k]
        target.alpha[j, k] = source.alpha[i, k]
        target.beta[j, k] = source.beta[i, k]
        target.z[j, k] = source.z[i, k]
        target.h[j, k] = source.h[i, k]


@compiled
def divide(
    pool: NodeArrays,
    rows: IntArray,
    branchings: Integers,
    targets: FloatArray,
    children: NodeArrays,
    of: Integers,
    at_neuron: BoolArray,
    target: FloatArray,
) -> int:
    """Write the children of open nodes for every candidate; return how many candidates there are.

    ``of`` gets the node of each, ``target`` that of each child.
    """
    n = 0
    for i in range(len(rows)):
        for k in range(CANDIDATES):
            place = branchings[rows[i], k]
            if place < 0:
                continue
            for half in range(2):
                child = 2 * n + half
                _copy(pool, rows[i], children, child)
                target[child] = targets[children.state[child]]
                if k >= ACTIONS_TRIED:
                    children.split[child, place] = 1 - 2 * half
                elif half == 0:
                    children.one[child, place] = True
                else:
                    children.zero[child, place] = True
            of[n], at_neuron[n] = i, k >= ACTIONS_TRIED
            n += 1
    return n


@compiled
def choose(
    children: NodeArrays,
    of: Integers,
    at_neuron: BoolArray,
    targets: FloatArray,
    bounds: FloatArray,
    of_each_kind: bool,
    kept: BoolArray,
) -> None:
    """Keep the best candidate of each node, or of each kind, as ``branching.choose`` does."""
    n, first = len(of), 0
    while first < n:
        end = first
        while end < n and of[end] == of[first]:
            end += 1
        for kind in range(2 if of_each_kind else 1):
            best, highest = -1, -np.inf
            for i in range(first, end):
                if not kept[i] or (of_each_kind and at_neuron[i] != (kind == 1)):
                    continue
                score = _score(children, targets, bounds, i)
                kept[i] = False
                if best < 0 or score > highest:
                    best, highest = i, score
            if best >= 0:
                kept[best] = True
        first = end


@compiled
def _score(children: NodeArrays, targets: FloatArray, bounds: FloatArray, i: int) -> float:
    """Return the product of what the children of a candidate gain."""
    bound, target = children.bound[2 * i], targets[2 * i]
    excess = bound - target
    if not (0.0 < excess < np.inf):  # without an incumbent there is no target
        excess = 1.0
    score = 1.0
    for row in (2 * i, 2 * i + 1):
        gain = max(bound - max(bounds[row], target), 0.0)
        score *= gain / excess + TIE_BREAK
    return score


@compiled
def doubtful(targets: FloatArray, bounds: FloatArray, kept: BoolArray, due: BoolArray) -> int:
    """Mark the children of kept candidates above their targets; return how many there are."""
    number = 0
    for row in range(len(due)):
        due[row] = kept[row // 2] and bounds[row] > targets[row]
        number += due[row]
    return number


@compiled
def lower(bounds: FloatArray, due: BoolArray, empty: BoolArray, found: FloatArray) -> None:
    """Lower bounds to those found of the rows that were due."""
    for row in range(len(due)):
        if due[row]:
            bounds[row] = -np.inf if empty[row] else min(bounds[row], found[row])


@compiled
def keep(
    children: NodeArrays,
    kept: BoolArray,
    bounds: FloatArray,
    targets: FloatArray,
    live: BoolArray,
    nodes: Integers,
    pruned: FloatArray,
) -> int:
    """Mark the children of kept candidates that are not pruned; return how many there are.

    ``nodes`` and ``pruned`` are of each state: nodes bounded, the highest bound of those pruned.
    """
    number = 0
    for row in range(len(live)):
        live[row] = False
        if not kept[row // 2]:
            continue
        state = children.state[row]
        nodes[state] += 1
        children.bound[row] = min(children.bound[row], bounds[row])
        if children.bound[row] > targets[row]:
            live[row] = True
            number += 1
        else:
            pruned[state] = max(pruned[state], children.bound[row])
    return number


@compiled
def settle(
    net: NetworkArrays,
    nodes: NodeArrays,
    found: FloatArray,
    x: FloatArray,
    empty: BoolArray,
    due: BoolArray,
    values: FloatArray,
    targets: FloatArray,
    live: BoolArray,
    pruned: FloatArray,
    actions: ActionArray,
    offered: IntArray,
) -> int:
    """Lower the bounds of rows that were due, and prune; return how many maximisers are better.

    Those that are better than the incumbent of their state are written to ``actions``, and their
    rows to ``offered``. ``values`` and ``pruned`` are of states.
    """
    number = 0
    size = net.starts[-1] + 1
    z = np.empty(size)
    for row in range(len(due)):
        if not due[row]:
            continue
        highest = -np.inf if empty[row] else found[row]
        nodes.bound[row] = min(nodes.bound[row], highest)
        state = nodes.state[row]
        if not nodes.bound[row] > targets[row]:
            live[row] = False
            pruned[state] = max(pruned[state], nodes.bound[row])
        elif number < len(offered):
            for i in range(net.n_actions):
                actions[number, i] = 1 if x[row, i] > 0.5 else 0
            if _value(net, state, actions[number], z) > values[state]:
                offered[number] = row
                number += 1
    return number


@compiled
def _value(net: NetworkArrays, state: int, action: ActionArray, z: FloatArray) -> float:
    """Return the value of an action, which ranks it only."""
    for d in range(len(net.widths)):
        first, width = net.starts[d], net.widths[d]
        bias = net.bias_offset[d] + state * net.bias_stride[d]
        for j in range(width):
            z[first + j] = net.biases[bias + j]
        for pair in range(net.first_pair[d], net.first_pair[d + 1]):
            k = net.source[pair]
            at = net.offset[pair] + state * net.stride[pair]
            if k < 0:
                for i in range(net.n_actions):
                    if action[i] == 1:
                        for j in range(width):
                            z[first + j] += net.transposed[at + i * width + j]
            else:
                begin = net.starts[k]
                for i in range(net.widths[k]):
                    own = max(z[begin + i], 0.0)
                    if own > 0.0:
                        for j in range(width):
                            z[first + j] += own * net.transposed[at + i * width + j]
    found: float = z[net.starts[-1]]
    return found


@compiled
def ready(
    nodes: NodeArrays, due: BoolArray, targets: FloatArray, live: BoolArray, pruned: FloatArray
) -> int:
    """Prune rows whose target has risen; mark those due to be probed and return how many."""
    number = 0
    for row in range(len(live)):
        if live[row] and not nodes.bound[row] > targets[row]:
            live[row] = False
            state = nodes.state[row]
            pruned[state] = max(pruned[state], nodes.bound[row])
        excess = nodes.bound[row] - targets[row]
        due[row] = due[row] and live[row] and excess < PROBE_AGAIN * nodes.probed[row]
        if due[row]:
            nodes.probed[row] = excess
            number += 1
    return number


@compiled
def held(
    nodes: NodeArrays,
    due: BoolArray,
    excluded: FloatArray,
    number: Integers,
    pruned: FloatArray,
) -> int:
    """Mark the probed rows of which many actions are held now; return how many there are."""
    found = 0
    for row in range(len(due)):
        if not due[row]:
            continue
        state, free = nodes.state[row], 0
        pruned[state] = max(pruned[state], excluded[row])
        for i in range(nodes.one.shape[1]):
            free += not (nodes.one[row, i] or nodes.zero[row, i])
        due[row] = number[row] >= max(MANY * (free + number[row]), 1.0)
        found += due[row]
    return found


@compiled
def doubts(
    nodes: NodeArrays,
    p: FloatArray,
    live: BoolArray,
    leaf: BoolArray,
    doubt: FloatArray,
    weighted: FloatArray,
) -> int:
    """Write what each neuron's relaxation adds to the bounds; mark rows without free actions.

    Returns how many of the latter there are.
    """
    number = 0
    for row in range(len(live)):
        leaf[row] = False
        if not live[row]:
            continue
        leaf[row] = True
        for i in range(nodes.one.shape[1]):
            leaf[row] = leaf[row] and (nodes.one[row, i] or nodes.zero[row, i])
        if leaf[row]:
            live[row] = False
            number += 1
            continue
        for j in range(nodes.low.shape[1]):
            weight = abs(p[row, j])
            doubt[row, j] = -1.0  # it is decided
            if nodes.low[row, j] < 0.0 and nodes.high[row, j] > 0.0 and nodes.split[row, j] == 0:
                doubt[row, j] = weight * abs(nodes.h[row, j] - max(nodes.z[row, j], 0.0))
            weighted[row, j] = max(doubt[row, j], 0.0) + TIE_BREAK * weight
    return number


@compiled
def branch(
    nodes: NodeArrays,
    coefficients: FloatArray,
    live: BoolArray,
    targets: FloatArray,
    doubt: FloatArray,
    score: FloatArray,
    found: Integers,
) -> None:
    """Write the candidates to divide nodes at, as ``branching.branchings`` chooses them.

    ``score`` is the influence of each action, and overwritten; of ``found``, what is not used
    is -1.
    """
    n, neurons = nodes.one.shape[1], nodes.low.shape[1]
    for row in range(len(live)):
        if not live[row]:
            continue
        total, splits, free = 0.0, 0, 0
        for j in range(neurons):
            total += max(doubt[row, j], 0.0)
            splits += nodes.split[row, j] != 0
        fractional = total < NEURONS_DUE * (nodes.bound[row] - targets[row])
        largest = np.finfo(np.float64).tiny
        for i in range(n if fractional else 0):
            largest = max(largest, abs(coefficients[row, i]))
        for i in range(n):
            if nodes.one[row, i] or nodes.zero[row, i]:
                score[row, i] = -1.0
                continue
            free += 1
            if fractional:
                x = nodes.x[row, i]
                size = abs(coefficients[row, i]) / largest
                score[row, i] = min(x, 1.0 - x) + TIE_BREAK * (1.0 + x * size)
        splittable = not fractional and splits < free
        for k in range(CANDIDATES):
            found[row, k] = -1
        for k in range(ACTIONS_TRIED if splittable else 1):
            best = -1
            for i in range(n):
                if score[row, i] >= 0.0 and (best < 0 or score[row, i] > score[row, best]):
                    best = i
            if best >= 0:
                found[row, k] = best
                score[row, best] = -1.0
        for i in range(n if found[row, 0] < 0 else 0):  # numbers overflow: any free action
            if not (nodes.one[row, i] or nodes.zero[row, i]):
                found[row, 0] = i
        least = 0.0
        for k in range(NEURONS_TRIED if splittable else 0):
            best = -1
            for j in range(neurons):
                if doubt[row, j] > least and (best < 0 or doubt[row, j] > doubt[row, best]):
                    best = j
            if best < 0:
                break
            if k == 0:
                least = LEAST_DOUBT * doubt[row, best]
            found[row, ACTIONS_TRIED + k] = best
            doubt[row, best] = -1.0
