"""ONNX operators that are affine in the one operand that depends on the input."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.networks.lowering import Affine
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_moves import Results
from milp_rl.formulations.networks.onnx_node import Condition, Node, Value, axis_of

_FOLDED: dict[str, Callable[..., FloatArray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": lambda a, b: a // b if a.dtype.kind in "iu" else a / b,
    "Neg": np.negative,
}


def arithmetic(node: Node) -> Value:
    """Add, Sub, Mul, Div, Neg."""
    if node.is_constant:
        operands = [node.fixed(i) for i in range(len(node.inputs))]
        node.fits(np.broadcast_shapes(*(x.shape for x in operands)))
        return np.asarray(_FOLDED[node.op](*operands))
    low = node.lowering
    if node.op == "Neg":
        return low.negated(node.affine(0))
    if node.op in ("Add", "Sub"):
        return low.add(node.affine(0), node.affine(1), 1.0 if node.op == "Add" else -1.0)
    if node.op == "Mul":
        for x, y in ((0, 1), (1, 0)):
            found = node.value(x)
            if isinstance(found, Condition) and not isinstance(node.value(y), Condition):
                zero = low.constant(np.zeros(node.shape(y)))
                return low.chosen(found.difference, node.affine(y), zero)
        x, y = (1, 0) if node.is_known(0) else (0, 1)
        return low.scaled(node.affine(x), node.known(y))
    divisor = node.known(1)
    if not low.generic and not divisor.all():
        raise NetworkError("divides by zero")
    return low.scaled(node.affine(0), low.computed(lambda d: 1.0 / d, divisor))


def sums(node: Node) -> Value:
    """Sum and Mean of several tensors."""
    total = node.affine(0)
    for i in range(1, len(node.inputs)):
        total = node.lowering.add(total, node.affine(i))
    if node.op == "Mean":
        return node.lowering.scaled(total, node.lowering.fixed(1.0 / len(node.inputs)))
    return total


def matmul(node: Node) -> Value:
    """MatMul."""
    return _product(node, node.affine(0), node.affine(1))


def _product(node: Node, x: Affine, y: Affine) -> Affine:
    """Return the matrix product, of which one operand is known."""
    swapped = not x.coefficients and bool(y.coefficients)
    if x.coefficients and y.coefficients:
        raise NetworkError("multiplies two tensors that both depend on the input")
    known, free = (x, y) if swapped else (y, x)
    shapes = [(1, *z.shape) if len(z.shape) == 1 else z.shape for z in (x, y)]
    if len(y.shape) == 1:
        shapes[1] = (*y.shape, 1)
    (*a, m, k), (*b, k2, n) = shapes
    if k != k2:
        raise NetworkError(
            f"takes {k2 if known is y else k} inputs, but the data has shape {free.shape}"
        )
    lead = np.broadcast_shapes(tuple(a), tuple(b))
    full = (*lead, *((m,) if len(x.shape) > 1 else ()), *((n,) if len(y.shape) > 1 else ()))
    node.lowering.reserve(math.prod(full))
    own, weight = shapes[1 if swapped else 0], shapes[0 if swapped else 1]
    ndim = max(len(own), len(weight))

    def times(c: FloatArray, w: FloatArray) -> FloatArray:
        c = c.reshape(*c.shape[:2], *own)
        w = w.reshape(len(w), *weight)
        if not swapped and w.ndim == 3:
            product = np.matmul(c.reshape(len(c), -1, k), w)
            return np.asarray(product.reshape(len(product), c.shape[1], *full))
        c = c.reshape(*c.shape[:2], *(1,) * (ndim - len(own)), *own)
        w = w.reshape(len(w), 1, *(1,) * (ndim - len(weight)), *weight)
        product = np.matmul(w, c) if swapped else np.matmul(c, w)
        return np.asarray(product.reshape(*product.shape[:2], *full))

    def matrix() -> Any:
        flat = known.constant[0].reshape(weight[-2:])
        if swapped:
            return sparse.kron(flat, sparse.eye_array(n), "csr")
        rows = math.prod(own[:-1])
        return flat.T if rows == 1 else sparse.kron(sparse.eye_array(rows), flat.T, "csr")

    simple = len(weight) == 2 and (not swapped or len(own) == 2) and len(known.constant) == 1
    return node.lowering.linear(free, times, known.constant, matrix=matrix if simple else None)


def gemm(node: Node) -> Value:
    """Gemm; a vector is taken for a row."""
    low = node.lowering
    operands = []
    for i, name in enumerate(("transA", "transB")):
        x = node.affine(i)
        if node.get(name, 0):
            x = low.linear(x, lambda a: np.swapaxes(a, -1, -2), moves=True)
        operands.append(x)
    if max(len(operands[0].shape), len(operands[1].shape)) > 2:
        raise NetworkError(f"takes matrices, but the data has shape {node.shape(0)}")
    result = _product(node, *operands)
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    if alpha != 1:
        result = low.scaled(result, low.fixed(alpha))
    if node.has(2) and beta:
        bias = node.affine(2)
        added = low.add(result, bias if beta == 1 else low.scaled(bias, low.fixed(beta)))
        if added.size != result.size:
            raise NetworkError(f"adds a bias of shape {bias.shape} to shape {result.shape}")
        result = added
    return result


def einsum(node: Node) -> Value:
    """Einsum of one or two tensors, without an ellipsis."""
    equation = str(node.get("equation")).replace(" ", "")
    if "." in equation or len(node.inputs) > 2:
        raise NetworkError(f"has equation {equation!r}; at most two operands, no ellipsis")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = left.replace(",", "")
        right = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if len(terms) == 1:
        return node.lowering.linear(
            node.affine(0), lambda a: np.einsum(f"...{left}->...{right}", a)
        )
    x, y = (1, 0) if node.is_known(0) else (0, 1)
    sizes = dict(zip(terms[0] + terms[1], node.shape(0) + node.shape(1), strict=True))
    node.fits([sizes[c] for c in right])
    rule = f"...{terms[x]},...{terms[y]}->...{right}"
    return node.lowering.linear(
        node.affine(x),
        lambda a, b: np.einsum(rule, a, b[:, None], optimize=True),
        node.known(y),
    )


def reduced(node: Node) -> Value:
    """ReduceSum and ReduceMean."""
    axes = reduced_axes(node)
    function = np.sum if node.op == "ReduceSum" else np.mean
    keep = bool(node.get("keepdims", 1))
    found = node.value(0)
    at = tuple(axis + 2 for axis in axes)
    if isinstance(found, np.ndarray) and found.dtype.kind in "iu":
        return np.asarray(function(found, axis=tuple(axes), keepdims=keep)).astype(found.dtype)
    return node.lowering.linear(
        node.affine(0),
        lambda a: function(a, axis=at, keepdims=keep),
        matrix=lambda: _reduction(node.shape(), axes, node.op == "ReduceMean"),
    )


def _reduction(shape: tuple[int, ...], axes: Sequence[int], mean: bool) -> Any:
    """Return the matrix that sums or averages along axes."""
    left = [1 if axis in axes else size for axis, size in enumerate(shape)]
    rows = np.broadcast_to(np.arange(math.prod(left)).reshape(left), shape).reshape(-1)
    value = math.prod(left) / math.prod(shape) if mean else 1.0
    entries = np.full(len(rows), value)
    return sparse.csr_matrix((entries, (rows, np.arange(len(rows)))))


def reduced_axes(node: Node) -> list[int]:
    """Return the axes that an operator named Reduce reduces."""
    ndim = len(node.shape())
    given = node.get("axes")
    if given is None and node.has(1):
        given = node.ints(1)
    if not given:
        given = [] if node.get("noop_with_empty_axes", 0) else range(ndim)
    axes = sorted({axis_of(int(axis), ndim) for axis in given})
    if node.batch > 1 and 0 in axes:
        raise NetworkError("takes the samples of a batch together")
    return axes


def batch_normalization(node: Node) -> Value:
    """BatchNormalization in evaluation."""
    if node.get("training_mode", 0):
        raise NetworkError("is in training mode; export in evaluation mode")
    scale, shift, mean, variance = (node.floats(i) for i in range(1, 5))
    factor = scale / np.sqrt(variance + float(node.get("epsilon", 1e-5)))
    ndim = len(node.shape())
    across = (1, -1, *(1,) * (ndim - 2))
    low = node.lowering
    scaled = low.scaled(node.affine(0), low.fixed(factor.reshape(across)))
    return low.add(scaled, low.constant((shift - mean * factor).reshape(across)))


def scaler(node: Node) -> Value:
    """Scaler of ai.onnx.ml: ``(x - offset) * scale``."""
    low = node.lowering
    offset, scale = (np.array(node.get(k), dtype=np.float64) for k in ("offset", "scale"))
    return low.scaled(low.add(node.affine(0), low.constant(offset), -1.0), low.fixed(scale))


def linear_regressor(node: Node) -> Value:
    """LinearRegressor of ai.onnx.ml."""
    if node.get("post_transform", "NONE") != "NONE":
        raise NetworkError(f"has post_transform {node.get('post_transform')}")
    weight = np.array(node.get("coefficients"), dtype=np.float64)
    weight = weight.reshape(int(node.get("targets", 1)), -1).T
    product = _product(node, node.affine(0), node.lowering.constant(weight))
    intercepts = node.get("intercepts")
    if not intercepts:
        return product
    return node.lowering.add(product, node.lowering.constant(intercepts))


def convolution(node: Node) -> Value:
    """Conv, with any number of axes, groups, strides and dilations."""
    weight = node.floats(1)
    shape, groups = node.shape(), int(node.get("group", 1))
    outputs, channels, *kernel = weight.shape
    if len(shape) != weight.ndim or shape[1] != channels * groups or outputs % groups:
        raise NetworkError(
            f"takes {channels * groups} channels, but the data has shape {shape}, the kernel"
            f" {weight.shape}"
        )
    windows = [window(node, i, shape[i + 2], size) for i, size in enumerate(kernel)]
    sizes = [w.count for w in windows]
    node.fits((shape[0], outputs, *sizes))
    node.fits((shape[0], shape[1], *(w.before + s + w.after for w, s in _with(windows, shape))))

    kernels = {
        at: np.moveaxis(weight, (0, 1), (-2, -1))[at].reshape(groups, -1, channels)
        for at in itertools.product(*map(range, kernel))
    }

    def convolved(a: FloatArray) -> FloatArray:
        lead = a.shape[:3]
        a = a.reshape(-1, groups, channels, *shape[2:])
        pads = [(w.before, w.after) for w in windows]
        a = np.pad(a, [(0, 0)] * 3 + pads)
        total = np.zeros((len(a), groups, outputs // groups, math.prod(sizes)))
        for at in kernels:
            seen: Any = [w.slice(k) for w, k in zip(windows, at, strict=True)]
            part = a[(*(slice(None),) * 3, *seen)].reshape(*a.shape[:3], -1)
            total += np.matmul(kernels[at], part)
        return total.reshape(*lead, outputs, *sizes)

    def matrix() -> Any:
        total: Any = 0
        for at in kernels:
            seen: Any = sparse.eye_array(1)
            for own, k in zip(windows, at, strict=True):
                seen = sparse.kron(seen, own.seen(k))
            total = total + sparse.kron(sparse.block_diag(list(kernels[at])), seen, "csr")
        return sparse.kron(sparse.eye_array(shape[0]), total, "csr")

    low = node.lowering
    result = low.linear(node.affine(0), convolved, matrix=matrix)
    if node.has(2):
        bias = node.floats(2).reshape(1, -1, *(1,) * len(kernel))
        result = low.add(result, low.constant(bias))
    return result


def average_pool(node: Node) -> Value:
    """AveragePool and GlobalAveragePool, one axis after another."""
    shape = node.shape()
    if node.op == "GlobalAveragePool":
        at = tuple(range(4, len(shape) + 2))
        axes = range(2, len(shape))
        return node.lowering.linear(
            node.affine(0),
            lambda a: a.mean(axis=at, keepdims=True),
            matrix=lambda: _reduction(shape, axes, True),
        )
    result = node.affine(0)
    for i, size in enumerate(kernel_of(node)):
        own = window(node, i, shape[i + 2], size)
        matrix = own.average(bool(node.get("count_include_pad", 0)))
        before, after = math.prod(result.shape[: i + 2]), math.prod(result.shape[i + 3 :])

        def averaged(a: FloatArray, axis: int = i + 4, m: FloatArray = matrix) -> FloatArray:
            return np.moveaxis(np.moveaxis(a, axis, -1) @ m.T, -1, axis)

        def full(m: FloatArray = matrix, before: int = before, after: int = after) -> Any:
            inner = sparse.kron(sparse.csr_matrix(m), sparse.eye_array(after))
            return sparse.kron(sparse.eye_array(before), inner, "csr")

        result = node.lowering.linear(result, averaged, matrix=full)
    return result


def kernel_of(node: Node) -> list[int]:
    """Return the size of a pooling's windows along each spatial axis."""
    sizes = [int(size) for size in node.get("kernel_shape")]
    shape = node.shape()
    if len(sizes) == len(shape) - 1 and sizes[0] == shape[1]:
        return sizes[1:]  # OMLT's own files have the channels before
    if len(sizes) != len(shape) - 2:
        raise NetworkError(f"has windows of {sizes} on data of shape {shape}")
    return sizes


class Window:
    """Windows along an axis: where each begins, what it sees, and the padding.

    Parameters
    ----------
    size
        Of the axis.
    kernel, stride, dilation
        Of the windows.
    before, after
        Padding.
    count
        Number of windows; they may go beyond the padding.
    """

    def __init__(
        self, size: int, kernel: int, stride: int, dilation: int, before: int, after: int, up: bool
    ) -> None:
        self.size, self.kernel, self.stride, self.dilation = size, kernel, stride, dilation
        self.before, self.after = before, after
        span = size + before + after - dilation * (kernel - 1) - 1
        if span < 0:
            raise NetworkError(f"has a kernel of {kernel} on an axis of size {size}")
        count = (-(-span // stride) if up else span // stride) + 1
        if up and (count - 1) * stride >= size + before:
            count -= 1  # it would begin in the padding after
        self.count = count
        self.positions: IntArray = (
            np.arange(count)[:, None] * stride - before + np.arange(kernel) * dilation
        )  # of the data seen, shape (count, kernel)

    def slice(self, k: int) -> slice:
        """Return what the k-th entries of the windows see of the padded axis."""
        start = k * self.dilation
        return slice(start, start + (self.count - 1) * self.stride + 1, self.stride)

    def seen(self, k: int) -> Any:
        """Return the matrix (windows, size) of what the k-th entries of the windows see."""
        rows = np.flatnonzero(self.inside()[:, k])
        at = rows, self.positions[rows, k]
        return sparse.csr_matrix((np.ones(len(rows)), at), shape=(self.count, self.size))

    def inside(self) -> BoolArray:
        """Return which positions hold data."""
        return (self.positions >= 0) & (self.positions < self.size)

    def average(self, with_padding: bool) -> FloatArray:
        """Return the matrix (windows, size) that averages."""
        counted = self.inside()
        if with_padding:
            counted = (self.positions >= -self.before) & (self.positions < self.size + self.after)
        matrix = np.zeros((self.count, self.size))
        rows, columns = np.nonzero(self.inside())
        np.add.at(matrix, (rows, self.positions[rows, columns]), 1.0)
        return np.asarray(matrix / np.maximum(counted.sum(axis=1), 1)[:, None])


def window(node: Node, i: int, size: int, kernel: int) -> Window:
    """Return the windows of a convolution or pooling along its i-th spatial axis."""
    stride = int((node.get("strides") or [1] * (i + 1))[i])
    dilation = int((node.get("dilations") or [1] * (i + 1))[i])
    given = node.get("pads")
    before, after = (int(given[i]), int(given[i + len(given) // 2])) if given else (0, 0)
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
        before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        after = total - before
    elif auto == "VALID":
        before = after = 0
    if min(stride, dilation, kernel) < 1 or min(before, after) < 0:
        raise NetworkError(f"has stride {stride}, dilation {dilation}, pads {before} and {after}")
    return Window(size, kernel, stride, dilation, before, after, bool(node.get("ceil_mode", 0)))


def _with(windows: Sequence[Window], shape: Sequence[int]) -> list[tuple[Window, int]]:
    return list(zip(windows, shape[2:], strict=True))


AFFINE: dict[str, Callable[[Node], Results]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Neg"), arithmetic),
    "Sum": sums,
    "Mean": sums,
    "MatMul": matmul,
    "Gemm": gemm,
    "Einsum": einsum,
    "ReduceSum": reduced,
    "ReduceMean": reduced,
    "BatchNormalization": batch_normalization,
    "Scaler": scaler,
    "LinearRegressor": linear_regressor,
    "Conv": convolution,
    "AveragePool": average_pool,
    "GlobalAveragePool": average_pool,
}
