"""Node work of branch and bound, compiled: what :mod:`.node_bounds` and :mod:`.branching` say.

Rows of the arrays are nodes, as in :class:`.Nodes`; each is treated by itself, so that a node's
bound does not depend on which others are bounded with it.
"""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.kernels.compiling import compiled, is_in_time
from milp_rl.formulations.kernels.description import CompiledOracle, NetworkArrays, Signs, Singles
from milp_rl.formulations.kernels.oracles import linear_maximum, other_maxima
from milp_rl.formulations.kernels.relaxation import backward, forward, lines, margin, start
from milp_rl.solvers.options import SECONDS_TO_FETCH

_SECONDS_TO_COMPILE = 120.0  # which takes up to half a minute on a machine that does other things


def are_in_time(kind: type) -> bool:
    """Whether the time limit leaves time for the loops of a search with a kind of oracle."""
    seconds = {"to_fetch": SECONDS_TO_FETCH, "to_compile": _SECONDS_TO_COMPILE}
    return all(is_in_time(loop, kind, **seconds) for loop in (maximize, tighten, probe))


@compiled
def maximize(
    net: NetworkArrays,
    oracle: CompiledOracle,
    sizes: FloatArray,
    output_size: FloatArray,
    gammas: FloatArray,
    steps: int,
    weight: float,
    largest_multiplier: float,
    at_limit: float,
    step_length: float,
    targets: FloatArray,
    state: IntArray,
    one: BoolArray,
    zero: BoolArray,
    low: FloatArray,
    high: FloatArray,
    split: Signs,
    alpha: Singles,
    beta: FloatArray,
    x: Singles,
    z: FloatArray,
    h: FloatArray,
    bound: FloatArray,
    coefficients: FloatArray,
    constant: FloatArray,
    point: FloatArray,
    p: FloatArray,
) -> None:
    """Bound nodes and improve their slopes and multipliers in place; see ``NodeBounds.maximize``.

    ``gammas`` are those of each neuron, ``weight`` that of the newest maximiser in the averages.
    """
    neurons, n, top = low.shape[1], net.n_actions, len(net.widths) - 1
    upper, intercept, lower = np.empty(neurons), np.empty(neurons), np.empty(neurons)
    slope, multiplier = np.empty(neurons), np.empty(neurons)
    q, c, rounded, own_x = np.empty(neurons), np.empty(n), np.empty(neurons), np.empty(n)
    own_z, own_h = np.empty(neurons), np.empty(neurons)
    by_slope, by_multiplier = np.empty(neurons), np.empty(neurons)
    for i in range(len(state)):
        s, target = state[i], targets[i]
        lines(low[i], high[i], split[i], upper, intercept, lower)
        for j in range(neurons):
            slope[j], multiplier[j] = alpha[i, j], beta[i, j]
        bound[i] = np.inf
        for step in range(steps + 1):
            for j in range(neurons):
                if low[i, j] < 0.0 and high[i, j] > 0.0:
                    lower[j] = slope[j]
            start(net, s, top, 0, 1.0, q, c)
            total = backward(net, s, top, upper, intercept, lower, multiplier, q, c)
            total += net.biases[net.bias_offset[top] + s * net.bias_stride[top]]
            value = total + linear_maximum(oracle, c, one[i], zero[i], own_x)
            better = value < bound[i]
            if better:
                bound[i], constant[i] = value, total
                for k in range(n):
                    coefficients[i, k], point[i, k] = c[k], own_x[k]
                for j in range(neurons):
                    alpha[i, j], beta[i, j], p[i, j] = slope[j], multiplier[j], q[j]
            if not value > target:
                break
            forward(net, s, own_x, q, upper, intercept, lower, own_z, own_h)
            fresh = np.isnan(x[i, 0])
            part = 1.0 if fresh else weight
            for k in range(n):
                old = 0.0 if fresh else x[i, k]
                x[i, k] = old + part * (own_x[k] - old)
            for j in range(neurons):
                z[i, j] = own_z[j] if fresh else z[i, j] + part * (own_z[j] - z[i, j])
                h[i, j] = own_h[j] if fresh else h[i, j] + part * (own_h[j] - h[i, j])
            if step == steps or not neurons:
                break
            moved = _step(
                low[i],
                high[i],
                split[i],
                q,
                own_z,
                step_length * (value - target),
                largest_multiplier,
                at_limit,
                slope,
                multiplier,
                by_slope,
                by_multiplier,
            )
            if not moved:
                break
        for j in range(neurons):
            rounded[j] = gammas[j] * sizes[s, j]
        lost = margin(net, top, rounded, output_size[s], p[i], beta[i])
        bound[i] += lost
        constant[i] += lost


@compiled
def _step(
    low: FloatArray,
    high: FloatArray,
    split: Signs,
    p: FloatArray,
    z: FloatArray,
    excess: float,
    largest_multiplier: float,
    at_limit: float,
    slope: FloatArray,
    multiplier: FloatArray,
    by_slope: FloatArray,
    by_multiplier: FloatArray,
) -> bool:
    """Move slopes and multipliers of a node by a step of Polyak's length; return whether any did.

    ``by_slope`` and ``by_multiplier`` are room for the parts of the gradient.
    """
    neurons = len(p)
    mean = 0.0
    for j in range(neurons):
        mean += abs(p[j])
    mean /= neurons
    squared = 0.0
    for j in range(neurons):
        by_slope[j] = by_multiplier[j] = 0.0
        if low[j] < 0.0 and high[j] > 0.0 and p[j] < 0.0:
            down = p[j] * z[j]
            if (slope[j] > at_limit) if down > 0.0 else (slope[j] < 1.0 - at_limit):
                by_slope[j] = down
        if split[j] != 0:
            unit = max(abs(p[j]), mean)
            if abs(multiplier[j]) > at_limit * unit or z[j] * split[j] <= 0.0:
                by_multiplier[j] = z[j] * unit
        squared += by_slope[j] ** 2 + by_multiplier[j] ** 2
    if not (squared > 0.0 and 0.0 < excess < np.inf):
        return False
    length, moved = excess / squared, False
    for j in range(neurons):
        if by_slope[j] != 0.0:
            before = slope[j]
            slope[j] = min(max(before - length * by_slope[j], 0.0), 1.0)
            moved = moved or slope[j] != before
        if split[j] != 0:
            unit, before = max(abs(p[j]), mean), multiplier[j]
            most = largest_multiplier * unit
            own = min(max(before - length * by_multiplier[j] * unit, -most), most)
            multiplier[j] = max(own, 0.0) if split[j] > 0 else min(own, 0.0)
            moved = moved or multiplier[j] != before
    return moved


@compiled
def tighten(
    net: NetworkArrays,
    oracle: CompiledOracle,
    sizes: FloatArray,
    gammas: FloatArray,
    state: IntArray,
    one: BoolArray,
    zero: BoolArray,
    low: FloatArray,
    high: FloatArray,
    split: Signs,
    empty: BoolArray,
) -> None:
    """Tighten the undecided neurons of nodes in place, layer by layer; mark the empty nodes."""
    neurons, n = low.shape[1], net.n_actions
    upper, intercept, lower = np.empty(neurons), np.empty(neurons), np.empty(neurons)
    beta, rounded = np.zeros(neurons), np.empty(neurons)
    q, c, x = np.empty(neurons), np.empty(n), np.empty(n)
    last = len(net.widths) - 2
    output, output_stride = 0, 0  # the output's weights of the last layer
    for pair in range(net.first_pair[last + 1], net.first_pair[last + 2]):
        if net.source[pair] == last:
            output, output_stride = net.offset[pair], net.stride[pair]
    for i in range(len(state)):
        s = state[i]
        for j in range(neurons):
            rounded[j] = gammas[j] * sizes[s, j]
        for d in range(len(net.widths) - 1):
            first = net.starts[d]
            bias = net.bias_offset[d] + s * net.bias_stride[d]
            lines(
                low[i, :first],
                high[i, :first],
                split[i, :first],
                upper[:first],
                intercept[:first],
                lower[:first],
            )
            for row in range(net.widths[d]):
                j = first + row
                if d == last and net.weights[output + s * output_stride + row] <= 0.0:
                    continue
                if empty[i] or not (low[i, j] < 0.0 and high[i, j] > 0.0 and split[i, j] == 0):
                    continue
                for sign in (1.0, -1.0):
                    start(net, s, d, row, sign, q, c)
                    reach = backward(net, s, d, upper, intercept, lower, beta, q, c)
                    reach += linear_maximum(oracle, c, one[i], zero[i], x)
                    if reach == -np.inf:
                        empty[i] = True
                        break
                    reach += margin(net, d, rounded, sizes[s, j], q, beta)
                    if sign > 0.0:
                        high[i, j] = min(high[i, j], reach + net.biases[bias + row])
                    else:
                        low[i, j] = max(low[i, j], net.biases[bias + row] - reach)
        for j in range(neurons):
            contradiction = (
                low[i, j] > high[i, j]
                or (split[i, j] > 0 and high[i, j] < 0.0)
                or (split[i, j] < 0 and low[i, j] > 0.0)
            )
            empty[i] = empty[i] or contradiction


@compiled
def probe(
    oracle: CompiledOracle,
    coefficients: FloatArray,
    constant: FloatArray,
    targets: FloatArray,
    due: BoolArray,
    one: BoolArray,
    zero: BoolArray,
    excluded: FloatArray,
    number: IntArray,
) -> None:
    """Hold the actions without which a node is bounded by its target, in place."""
    n = one.shape[1]
    other, point = np.empty(n), np.empty(n)
    for i in range(len(due)):
        if not due[i]:
            continue
        linear_maximum(oracle, coefficients[i], one[i], zero[i], point)
        other_maxima(oracle, coefficients[i], one[i], zero[i], point, other)
        for k in range(n):
            if one[i, k] or zero[i, k] or not constant[i] + other[k] <= targets[i]:
                continue
            excluded[i] = max(excluded[i], constant[i] + other[k])
            number[i] += 1
            if point[k] > 0.5:
                one[i, k] = True
            else:
                zero[i, k] = True


@compiled
def influence(
    net: NetworkArrays,
    state: IntArray,
    low: FloatArray,
    high: FloatArray,
    split: Signs,
    doubt: FloatArray,
    found: FloatArray,
) -> None:
    """Write by how far each action moves the neurons in doubt; see ``NodeBounds.influence``."""
    neurons, n = low.shape[1], net.n_actions
    moved = np.empty(neurons)
    for i in range(len(state)):
        s = state[i]
        for j in range(neurons):
            moved[j] = 0.0
        for a in range(n):
            found[i, a] = 0.0
        for d in range(len(net.widths) - 2, -1, -1):
            first = net.starts[d]
            for row in range(net.widths[d]):
                j = first + row
                if low[i, j] < 0.0 and high[i, j] > 0.0 and split[i, j] == 0:
                    width = high[i, j] - low[i, j]
                    own = doubt[i, j] / width + moved[j] * high[i, j] / width
                else:
                    own = moved[j] if high[i, j] > 0.0 and split[i, j] >= 0 else 0.0
                if own == 0.0:
                    continue
                for pair in range(net.first_pair[d], net.first_pair[d + 1]):
                    k = net.source[pair]
                    at = net.offset[pair] + s * net.stride[pair]
                    if k < 0:
                        at += row * n
                        for a in range(n):
                            found[i, a] += own * abs(net.weights[at + a])
                    else:
                        at += row * net.widths[k]
                        begin = net.starts[k]
                        for a in range(net.widths[k]):
                            moved[begin + a] += own * abs(net.weights[at + a])
