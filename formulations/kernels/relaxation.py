"""The linear relaxation of :mod:`milp_rl.formulations.relaxation`, one function at a time.

The same lines, substitution and margins for rounding; there is the mathematics.
"""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.kernels.compiling import compiled
from milp_rl.formulations.kernels.description import CompiledOracle, NetworkArrays, Signs
from milp_rl.formulations.kernels.oracles import linear_maximum


@compiled
def lines(
    low: FloatArray,
    high: FloatArray,
    split: Signs,
    upper: FloatArray,
    intercept: FloatArray,
    lower: FloatArray,
) -> None:
    """Write the lines of neurons over [low, high], as ``Lines.over`` has them."""
    for j in range(len(low)):
        on = low[j] >= 0.0
        upper[j] = 1.0 if on else 0.0
        intercept[j] = 0.0
        lower[j] = upper[j]
        if low[j] < 0.0 and high[j] > 0.0:
            lower[j] = 1.0 if high[j] > -low[j] else 0.0
            if split[j] == 0:
                upper[j] = high[j] / (high[j] - low[j])
                intercept[j] = -upper[j] * low[j]
            else:
                upper[j] = 1.0 if split[j] > 0 else 0.0


@compiled
def start(
    net: NetworkArrays, state: int, depth: int, row: int, sign: float, q: FloatArray, c: FloatArray
) -> None:
    """Write a row of a layer, or its negative, as coefficients of neurons' outputs and actions."""
    for i in range(len(q)):
        q[i] = 0.0
    for i in range(len(c)):
        c[i] = 0.0
    for pair in range(net.first_pair[depth], net.first_pair[depth + 1]):
        k = net.source[pair]
        at = net.offset[pair] + state * net.stride[pair]
        if k < 0:
            at += row * net.n_actions
            for i in range(net.n_actions):
                c[i] += sign * net.weights[at + i]
        else:
            width, begin = net.widths[k], net.starts[k]
            at += row * width
            for i in range(width):
                q[begin + i] += sign * net.weights[at + i]


@compiled
def backward(
    net: NetworkArrays,
    state: int,
    depth: int,
    upper: FloatArray,
    intercept: FloatArray,
    lower: FloatArray,
    beta: FloatArray,
    q: FloatArray,
    c: FloatArray,
) -> float:
    """Replace coefficients ``q`` of outputs below a layer by such of actions, added to ``c``.

    Returns the constant; ``q`` holds the coefficients p of the neurons' outputs afterwards.
    """
    constant = 0.0
    for d in range(depth - 1, -1, -1):
        first = net.starts[d]
        bias = net.bias_offset[d] + state * net.bias_stride[d]
        for j in range(net.widths[d]):
            p = q[first + j]
            own = beta[first + j]
            if p > 0.0:
                constant += p * intercept[first + j]
                own += p * upper[first + j]
            elif p < 0.0:
                own += p * lower[first + j]
            if own == 0.0:
                continue
            constant += own * net.biases[bias + j]
            for pair in range(net.first_pair[d], net.first_pair[d + 1]):
                k = net.source[pair]
                at = net.offset[pair] + state * net.stride[pair]
                if k < 0:
                    at += j * net.n_actions
                    for i in range(net.n_actions):
                        c[i] += own * net.weights[at + i]
                else:
                    width, begin = net.widths[k], net.starts[k]
                    at += j * width
                    for i in range(width):
                        q[begin + i] += own * net.weights[at + i]
    return constant


@compiled
def forward(
    net: NetworkArrays,
    state: int,
    x: FloatArray,
    p: FloatArray,
    upper: FloatArray,
    intercept: FloatArray,
    lower: FloatArray,
    z: FloatArray,
    h: FloatArray,
) -> None:
    """Write the pre-activations and outputs that the relaxed network gives an action."""
    for d in range(len(net.widths) - 1):
        first, width = net.starts[d], net.widths[d]
        bias = net.bias_offset[d] + state * net.bias_stride[d]
        for j in range(width):
            z[first + j] = net.biases[bias + j]
        for pair in range(net.first_pair[d], net.first_pair[d + 1]):
            k = net.source[pair]
            at = net.offset[pair] + state * net.stride[pair]
            for i in range(net.n_actions if k < 0 else net.widths[k]):
                own = x[i] if k < 0 else h[net.starts[k] + i]
                if own != 0.0:
                    for j in range(width):
                        z[first + j] += own * net.transposed[at + i * width + j]
        for j in range(first, first + width):
            h[j] = upper[j] * z[j] + intercept[j] if p[j] > 0.0 else lower[j] * z[j]


@compiled
def margin(
    net: NetworkArrays,
    depth: int,
    rounded: FloatArray,
    own: float,
    p: FloatArray,
    beta: FloatArray,
) -> float:
    """Bound the rounding in a bound of a layer; ``rounded`` has gamma times size by neuron."""
    total: float = net.gammas[depth] * own
    for j in range(net.starts[depth]):
        total += (abs(p[j]) + abs(beta[j])) * rounded[j]
    return total


@compiled
def neuron_bounds(
    net: NetworkArrays,
    oracle: CompiledOracle,
    one: BoolArray,
    zero: BoolArray,
    held: bool,
    ranges_low: FloatArray,
    ranges_high: FloatArray,
    box_low: FloatArray,
    box_high: FloatArray,
    low: FloatArray,
    high: FloatArray,
    sizes: FloatArray,
    found: FloatArray,
) -> bool:
    """Bound every neuron and the output, state by state; ``False`` if a set is found empty.

    Parameters
    ----------
    net, oracle
        Networks of one output, and the oracle of the space.
    one, zero
        What is held, shape (states, n_actions).
    held
        Whether anything is.
    ranges_low, ranges_high
        Of the first layer's rows over the set without pins, (1 or states, width).
    box_low, box_high
        Of the variables, shape (n_actions,).
    low, high, sizes
        Of all neurons; written, shape (states, neurons).
    found
        Written, shape (states, 3): bounds of the output, and its margin.
    """
    n, neurons, top = net.n_actions, low.shape[1], len(net.widths) - 1
    upper, intercept, lower = np.empty(neurons), np.empty(neurons), np.empty(neurons)
    split, beta = np.zeros(neurons, dtype=np.int8), np.zeros(neurons)
    q, c, x, rounded = np.empty(neurons), np.empty(n), np.empty(n), np.empty(neurons)
    least, most, reach = np.empty(n), np.empty(n), np.empty(n)
    for s in range(len(low)):
        for i in range(n):
            reach[i] = max(abs(box_low[i]), abs(box_high[i]))
            least[i] = 1.0 if one[s, i] else (0.0 if zero[s, i] else box_low[i])
            most[i] = 0.0 if zero[s, i] and not one[s, i] else box_high[i]
            if most[i] < least[i] - 0.5 or (one[s, i] and zero[s, i]):
                return False
            most[i] = max(least[i], most[i])
        for d in range(top + 1):
            first = net.starts[d]
            bias = net.bias_offset[d] + s * net.bias_stride[d]
            lines(
                low[s, :first],
                high[s, :first],
                split[:first],
                upper[:first],
                intercept[:first],
                lower[:first],
            )
            for j in range(net.widths[d]):
                # Intervals, and the sum of absolute terms.
                constant = net.biases[bias + j]
                below, above, size = constant, constant, abs(constant)
                for pair in range(net.first_pair[d], net.first_pair[d + 1]):
                    k = net.source[pair]
                    at = net.offset[pair] + s * net.stride[pair]
                    if k < 0:
                        at += j * n
                        for i in range(n):
                            w = net.weights[at + i]
                            size += abs(w) * reach[i]
                            below += w * (least[i] if w > 0.0 else most[i])
                            above += w * (most[i] if w > 0.0 else least[i])
                    else:
                        width, begin = net.widths[k], net.starts[k]
                        at += j * width
                        for i in range(width):
                            w = net.weights[at + i]
                            largest = max(high[s, begin + i], 0.0)
                            smallest = max(low[s, begin + i], 0.0)
                            size += abs(w) * largest
                            below += w * (smallest if w > 0.0 else largest)
                            above += w * (largest if w > 0.0 else smallest)
                error = net.gammas[d] * size
                if d == 0:
                    row = s if len(ranges_low) > 1 else 0
                    own_low = ranges_low[row, j] + constant
                    own_high = ranges_high[row, j] + constant
                    below = max(below, own_low) if held else own_low
                    above = min(above, own_high) if held else own_high
                below -= error
                above += error
                worst = error
                if d > 0:
                    for sign in (1.0, -1.0):
                        start(net, s, d, j, sign, q, c)
                        total = backward(net, s, d, upper, intercept, lower, beta, q, c)
                        value = linear_maximum(oracle, c, one[s], zero[s], x)
                        if value == -np.inf:
                            return False
                        lost = margin(net, d, rounded, size, q, beta)
                        if sign > 0:
                            above = min(above, total + value + constant + lost)
                        else:
                            below = max(below, constant - total - value - lost)
                        worst = max(worst, lost)
                if d < top:
                    low[s, first + j], high[s, first + j] = below, above
                    sizes[s, first + j] = size
                    rounded[first + j] = net.gammas[d] * size
                else:
                    found[s, 0], found[s, 1], found[s, 2] = below, above, worst
    return True
