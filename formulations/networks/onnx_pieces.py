r"""ONNX operators that are piecewise linear, by ReLUs and skips.

With :math:`r(z) = \max(0, z)`: :math:`\max(a, b) = b + r(a - b)`, :math:`|z| = 2 r(z) - z`, a leaky
ReLU of slope :math:`\alpha` is :math:`\alpha z + (1 - \alpha) r(z)`, and
:math:`\min(\max(z, l), u) = l + r(z - l) - r(z - u)` for :math:`l \le u`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.networks.lowering import Affine, balanced
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_affine import kernel_of, reduced_axes, window
from milp_rl.formulations.networks.onnx_moves import Results
from milp_rl.formulations.networks.onnx_node import Condition, Node, PerState, Value

_BEYOND = 3.4e38  # of exporters that have no infinity


def relu(node: Node) -> Value:
    """Relu, and ThresholdedRelu at 0."""
    if node.op == "ThresholdedRelu" and float(node.get("alpha", 1.0)) != 0:
        raise NetworkError("jumps at its threshold; only alpha=0 is continuous")
    return node.lowering.relu(node.affine(0))


def _leaky(node: Node, slope: FloatArray) -> Affine:
    low, x = node.lowering, node.affine(0)
    below = low.scaled(x, slope)
    return low.add(below, low.scaled(low.relu(x), low.computed(lambda a: 1.0 - a, slope)))


def leaky_relu(node: Node) -> Value:
    """LeakyRelu."""
    return _leaky(node, node.lowering.fixed(float(node.get("alpha", 0.01))))


def prelu(node: Node) -> Value:
    """PRelu, of slopes that do not depend on the input."""
    return _leaky(node, node.known(1))


def absolute(node: Node) -> Value:
    """Abs."""
    low, x = node.lowering, node.affine(0)
    return low.add(low.scaled(low.relu(x), low.fixed(2.0)), x, -1.0)


def _between(node: Node, x: Affine, low: float | FloatArray, high: float | FloatArray) -> Affine:
    lowering = node.lowering
    a, b = (np.asarray(v, dtype=np.float64) for v in (low, high))
    bounded_below, bounded_above = bool((a > -_BEYOND).all()), bool((b < _BEYOND).all())
    if bounded_below and bounded_above and not (a <= b).all():
        raise NetworkError(f"has a lower bound of {a} above its upper bound of {b}")
    if not bounded_above:
        return lowering.at_least(x, a) if bounded_below else x
    if bounded_below and x.nonnegative and (a <= 0).all():
        bounded_below = False
    if not bounded_below:
        return lowering.minimum(x, lowering.constant(b))
    over = lowering.relu(lowering.add(x, lowering.constant(b), -1.0))
    return lowering.add(lowering.at_least(x, a), over, -1.0)


def clip(node: Node) -> Value:
    """Clip."""
    x = node.affine(0)
    bounds: list[float | FloatArray] = [-np.inf, np.inf]
    for i, name in enumerate(("min", "max")):
        if node.get(name) is not None:
            bounds[i] = float(node.get(name))
        elif node.has(i + 1):
            found = node.value(i + 1)
            if not isinstance(found, np.ndarray):
                return _clip_by_state(node)
            bounds[i] = node.floats(i + 1, finite=False)
    return _between(node, x, *bounds)


def _clip_by_state(node: Node) -> Value:
    x = node.affine(0)
    if node.has(1):
        x = node.lowering.maximum(x, node.affine(1))
    return node.lowering.minimum(x, node.affine(2)) if node.has(2) else x


def hard_sigmoid(node: Node) -> Value:
    """HardSigmoid."""
    low = node.lowering
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    line = low.scaled(node.affine(0), low.fixed(alpha))
    return _between(node, low.add(line, low.constant(beta)), 0.0, 1.0)


def shrink(node: Node) -> Value:
    """Shrink that is continuous, as of torch's Softshrink."""
    edge, bias = float(node.get("lambd", 0.5)), float(node.get("bias", 0.0))
    if edge != bias or edge < 0:
        raise NetworkError(f"jumps at {edge}; only a bias equal to lambd is continuous")
    low, x = node.lowering, node.affine(0)
    shift = low.constant(edge)
    above = low.relu(low.add(x, shift, -1.0))
    return low.add(above, low.relu(low.add(low.negated(x), shift, -1.0)), -1.0)


def extremes(node: Node) -> Value:
    """Max and Min of any number of tensors."""
    if node.is_constant:
        function = np.maximum if node.op == "Max" else np.minimum
        return np.asarray(functools.reduce(function, map(node.fixed, range(len(node.inputs)))))
    low, largest = node.lowering, node.op == "Max"
    parts: list[Affine] = []
    bounds: list[FloatArray] = []
    for i, found in enumerate(node.inputs):
        if isinstance(found, np.ndarray):
            bounds.append(node.floats(i, finite=False))
        else:
            parts.append(node.affine(i))
    result = balanced(low.maximum if largest else low.minimum, parts)
    for bound in bounds:
        result = _between(node, result, *((bound, np.inf) if largest else (-np.inf, bound)))
    return result


def reduced_extremes(node: Node) -> Value:
    """ReduceMax and ReduceMin, by tournaments."""
    axes, shape, low = reduced_axes(node), node.shape(), node.lowering
    if node.is_constant:
        function = np.max if node.op == "ReduceMax" else np.min
        return np.asarray(
            function(node.fixed(0), axis=tuple(axes), keepdims=bool(node.get("keepdims", 1)))
        )
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    order = [0, 1, *(axis + 2 for axis in (*rest, *axes))]
    flat = tuple(shape[axis] for axis in rest)
    x = node.affine(0)
    if node.op == "ReduceMin":
        x = low.negated(x)
    x = low.linear(x, lambda a: a.transpose(order).reshape(*a.shape[:2], *flat, -1), moves=True)
    x = low.largest(x, len(flat))
    if node.get("keepdims", 1):
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        x = low.linear(x, lambda a: a.reshape(*a.shape[:2], *kept), moves=True)
    return low.negated(x) if node.op == "ReduceMin" else x


def summed_sizes(node: Node) -> Value:
    """ReduceL1."""
    low, size = node.lowering, absolute(node)
    assert isinstance(size, Affine)
    axes, keep = reduced_axes(node), bool(node.get("keepdims", 1))
    at = tuple(axis + 2 for axis in axes)
    return low.linear(size, lambda a: a.sum(axis=at, keepdims=keep))


def max_pool(node: Node) -> Value:
    """MaxPool and GlobalMaxPool, one axis after another, each by tournaments."""
    shape, low, x = node.shape(), node.lowering, node.affine(0)
    spatial = range(len(shape) - 2)
    sizes = shape[2:] if node.op == "GlobalMaxPool" else kernel_of(node)
    for i in spatial:
        if node.op == "GlobalMaxPool":
            seen = np.arange(shape[i + 2])[None]
        else:
            own = window(node, i, shape[i + 2], sizes[i])
            inside = own.inside()
            if not inside.any(axis=1).all():
                raise NetworkError("has windows that see padding alone")
            # What lies outside is replaced by what the window sees anyway.
            first = own.positions[np.arange(own.count), inside.argmax(axis=1)]
            seen = np.where(inside, own.positions, first[:, None])
        at = i + 4

        def windows(a: FloatArray, at: int = at, seen: IntArray = seen) -> FloatArray:
            return np.take(a, seen, axis=at)  # (..., windows, kernel, ...)

        low.reserve(x.size // x.shape[i + 2] * seen.size)
        x = low.largest(low.linear(x, windows, moves=True), i + 3)
    return x


def comparison(node: Node) -> Value:
    """Greater and Less, with or without equality, which no continuous choice can tell."""
    if node.is_constant:
        functions = {
            "Greater": np.greater,
            "GreaterOrEqual": np.greater_equal,
            "Less": np.less,
            "LessOrEqual": np.less_equal,
        }
        return np.asarray(functions[node.op](node.fixed(0), node.fixed(1)))
    x, y = (0, 1) if node.op.startswith("Greater") else (1, 0)
    return Condition(node.lowering.add(node.affine(x), node.affine(y), -1.0))


def negation(node: Node) -> Value:
    """Not."""
    found = node.value(0)
    if isinstance(found, np.ndarray):
        return ~found
    if isinstance(found, PerState):
        return PerState(~found.values, None if found.fixed is None else ~found.fixed)
    if not isinstance(found, Condition):
        raise NetworkError("negates what is no condition")
    return Condition(node.lowering.negated(found.difference))


def where(node: Node) -> Value:
    """Where: a continuous choice by a comparison, or any choice that the state makes."""
    found, low = node.value(0), node.lowering
    if node.is_constant:
        return np.where(node.fixed(0), node.fixed(1), node.fixed(2))
    if isinstance(found, Condition):
        return low.chosen(found.difference, node.affine(1), node.affine(2))
    if isinstance(found, Affine):
        raise NetworkError("chooses by numbers")
    if isinstance(found, PerState):
        mask = found.values.astype(np.float64)
        if low.generic:
            mask = np.random.default_rng(0).uniform(0.2, 0.8, mask.shape)
    else:
        mask = low.fixed(found)
    rest = low.computed(lambda a: 1.0 - a, mask)
    return low.add(low.scaled(node.affine(1), mask), low.scaled(node.affine(2), rest))


PIECES: dict[str, Callable[[Node], Results]] = {
    "Relu": relu,
    "ThresholdedRelu": relu,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Abs": absolute,
    "Clip": clip,
    "HardSigmoid": hard_sigmoid,
    "Shrink": shrink,
    "Max": extremes,
    "Min": extremes,
    "ReduceMax": reduced_extremes,
    "ReduceMin": reduced_extremes,
    "ReduceL1": summed_sizes,
    "MaxPool": max_pool,
    "GlobalMaxPool": max_pool,
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), comparison),
    "Not": negation,
    "Where": where,
}
