"""ONNX operators that move, repeat or leave out entries, and those that ask for shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.lowering import Affine
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_node import Condition, Node, PerState, Value, axis_of

Array = NDArray[Any]
Results = Value | Sequence[Value]


def identity(node: Node) -> Value:
    """Identity, and Dropout in evaluation."""
    if node.op == "Dropout" and node.has(2) and bool(node.fixed(2)):
        raise NetworkError("is in training mode; export in evaluation mode")
    return node.value(0)


def cast(node: Node) -> Value:
    """Cast: data stay as they are, constants are cast."""
    return _cast(node.value(0), int(node.get("to")))


def cast_like(node: Node) -> Value:
    """CastLike: to the type of another operand."""
    like = node.value(1)
    if isinstance(like, Affine):
        return _cast(node.value(0), TensorProto.DOUBLE)
    values = like if isinstance(like, np.ndarray) else getattr(like, "values", np.ones(0, bool))
    return _cast(node.value(0), helper.np_dtype_to_tensor_dtype(values.dtype))


def _cast(found: Value, to: int) -> Value:
    kinds = {number: name for name, number in TensorProto.DataType.items()}
    if isinstance(found, np.ndarray):
        return _cast_constant(found, to)
    if to in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        if isinstance(found, PerState):
            return Affine(found.values.astype(np.float64))
        return found
    if to == TensorProto.BOOL and isinstance(found, Condition):
        return found
    if isinstance(found, PerState):
        dtype = helper.tensor_dtype_to_np_dtype(to)
        fixed = None if found.fixed is None else found.fixed.astype(dtype)
        return PerState(found.values.astype(dtype), fixed)
    raise NetworkError(f"rounds the data to {kinds.get(to, f'type {to}')}")


def _cast_constant(x: Array, to: int) -> Array:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(to))
    if x.dtype.kind == "f" and dtype.kind in "iu" and x.size:
        limits = np.iinfo(dtype)
        whole = np.trunc(x).astype(np.float64)
        if not ((whole >= float(limits.min)) & (whole < float(limits.max) + 1)).all():
            raise NetworkError(f"a value does not fit {dtype}")
    if "str" in dtype.name or dtype.kind in "OSU" or x.dtype.kind in "OSU":
        raise NetworkError(f"a cast from {x.dtype} to {dtype} is not supported")
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(dtype, copy=False)


def reshape(node: Node) -> Value:
    """Reshape."""
    shape, target = node.shape(), node.ints(1)
    if not node.get("allowzero", 0):
        if any(d == 0 and i >= len(shape) for i, d in enumerate(target)):
            raise NetworkError(f"{tuple(target)} is no shape for data of shape {shape}")
        target = [shape[i] if d == 0 else d for i, d in enumerate(target)]
    if any(d < -1 for d in target) or target.count(-1) > 1:
        raise NetworkError(f"{tuple(target)} is no shape")
    size, rest = math.prod(shape), math.prod(d for d in target if d != -1)
    if not rest:
        raise NetworkError(f"turns the data into shape {tuple(target)}, which has no entries")
    if node.batch > 1 and target[0] == node.batch and rest != size and size % rest:
        target[0], rest = 1, rest // node.batch  # written for a batch, of which one is read
    if size % rest or (-1 not in target and size != rest):
        raise NetworkError(f"turns data of shape {shape} into {tuple(target)}")
    full = [size // rest if d == -1 else d for d in target]
    return node.moved(lambda a: a.reshape(*a.shape[:2], *full))


def flatten(node: Node) -> Value:
    """Flatten."""
    shape, axis = node.shape(), int(node.get("axis", 1))
    if not -len(shape) <= axis <= len(shape):
        raise NetworkError(f"there is no axis {axis}")
    axis += len(shape) if axis < 0 else 0
    full = math.prod(shape[:axis]), math.prod(shape[axis:])
    return node.moved(lambda a: a.reshape(*a.shape[:2], *full))


def _axes(node: Node, ndim: int, at: int = 1) -> list[int] | None:
    """Return axes given as an attribute or an operand."""
    given = node.get("axes")
    if given is None and node.has(at):
        given = node.ints(at)
    return None if given is None else [axis_of(int(axis), ndim) for axis in given]


def squeeze(node: Node) -> Value:
    """Squeeze."""
    shape = node.shape()
    axes = _axes(node, len(shape))
    if axes is None:
        axes = [i for i, size in enumerate(shape) if size == 1]
    if any(shape[axis] != 1 for axis in axes):
        raise NetworkError(f"cannot take axes {axes} of size 1 from shape {shape}")
    return node.moved(lambda a: np.squeeze(a, tuple(axis + 2 for axis in axes)))


def unsqueeze(node: Node) -> Value:
    """Unsqueeze."""
    given = node.get("axes")
    number = len(given) if given is not None else len(node.ints(1))
    axes = _axes(node, len(node.shape()) + number)
    if axes is None or len(set(axes)) < len(axes):
        raise NetworkError(f"needs different axes, got {axes}")
    return node.moved(lambda a: np.expand_dims(a, tuple(axis + 2 for axis in axes)))


def transpose(node: Node) -> Value:
    """Transpose."""
    ndim = len(node.shape())
    given = node.get("perm")
    order = list(range(ndim))[::-1] if given is None else [int(axis) for axis in given]
    if sorted(order) != list(range(ndim)):
        raise NetworkError(f"{order} does not order the axes of shape {node.shape()}")
    return node.moved(lambda a: a.transpose(0, 1, *(axis + 2 for axis in order)))


def slices(node: Node) -> Value:
    """Slice."""
    shape = node.shape()
    if node.has(1):
        starts, ends = node.ints(1), node.ints(2)
        axes = node.ints(3) if node.has(3) else list(range(len(starts)))
        steps = node.ints(4) if node.has(4) else [1] * len(starts)
    else:
        starts, ends = list(node.get("starts")), list(node.get("ends"))
        axes = list(node.get("axes") or range(len(starts)))
        steps = [1] * len(starts)
    at = [slice(None)] * len(shape)
    for start, end, given, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(given, len(shape))
        size = shape[axis]
        start, end = (value + size if value < 0 else value for value in (start, end))
        if step > 0:
            at[axis] = slice(max(start, 0), max(min(end, size), 0), step)
        else:
            last = max(end, -1)
            at[axis] = slice(min(start, size - 1), None if last < 0 else last, step)
    whole = (slice(None), slice(None), *at)
    left = tuple(len(range(*s.indices(size))) for s, size in zip(at, shape, strict=True))
    if not math.prod(left):
        raise NetworkError(f"leaves a tensor of shape {left}, which has no entries")
    return node.moved(lambda a: a[whole])


def split(node: Node) -> Sequence[Value]:
    """Split."""
    shape = node.shape()
    axis = axis_of(int(node.get("axis", 0)), len(shape))
    sizes = node.get("split")
    if sizes is None and node.has(1):
        sizes = node.ints(1)
    if sizes is None:
        count = int(node.get("num_outputs", node.outputs))
        each = -(-shape[axis] // count)
        sizes = [min(each, shape[axis] - i * each) for i in range(count)]
    if sum(sizes) != shape[axis] or min(sizes) < 1 or len(sizes) < node.outputs:
        raise NetworkError(f"splits an axis of size {shape[axis]} into {list(sizes)}")
    ends = np.cumsum(sizes)
    lead = (slice(None),) * (axis + 2)
    return [
        node.moved(lambda a, at=(*lead, slice(int(end - size), int(end))): a[at])  # type: ignore[misc]
        for size, end in zip(sizes, ends, strict=True)
    ]


def concat(node: Node) -> Value:
    """Concat."""
    shapes = [node.shape(i) for i in range(len(node.inputs))]
    axis = axis_of(int(node.get("axis", 0)), len(shapes[0]))
    if len({(*s[:axis], *s[axis + 1 :]) for s in shapes}) > 1 or len({*map(len, shapes)}) > 1:
        raise NetworkError(f"cannot join tensors of shapes {', '.join(map(str, shapes))}")
    if node.is_constant:
        node.fits((sum(math.prod(s) for s in shapes),))
        return np.concatenate([node.fixed(i) for i in range(len(shapes))], axis=axis)
    values = [node.value(i) for i in range(len(shapes))]
    if any(isinstance(value, PerState) for value in values):
        return _joined_integers(node, axis)
    parts = [node.affine(i) for i in range(len(shapes))]
    return node.lowering.concatenated(parts, axis)


def _joined_integers(node: Node, axis: int) -> Value:
    fixed = np.concatenate([node.fixed(i) for i in range(len(node.inputs))], axis=axis)
    return PerState(fixed[None], fixed)


def gather(node: Node) -> Value:
    """Gather, with indices that are constant or that the state decides."""
    shape, found = node.shape(), node.value(1)
    axis = axis_of(int(node.get("axis", 0)), len(shape))
    if isinstance(found, PerState):
        return _gather_by_state(node, axis, found)
    indices = np.asarray(node.fixed(1))
    if indices.dtype.kind not in "iu" or not indices.size:
        raise NetworkError(f"its indices are {indices.dtype}, of shape {indices.shape}")
    if not ((indices >= -shape[axis]) & (indices < shape[axis])).all():
        raise NetworkError(f"asks for entries beyond an axis of size {shape[axis]}")
    node.fits((*shape[:axis], *indices.shape, *shape[axis + 1 :]))
    return node.moved(lambda a: np.take(a, indices, axis=axis + 2))


def _gather_by_state(node: Node, axis: int, found: PerState) -> Value:
    size = node.shape()[axis]

    weights = _one_hot(node, found, size)

    def taken(a: Array, w: Array) -> Array:
        a = np.moveaxis(a, axis + 2, -1)  # (states, columns, *rest, size)
        lead, k = w.shape[1:-1], a.ndim - 3
        flat = w.reshape(len(w), 1, -1, size)
        full = np.matmul(a.reshape(*a.shape[:2], -1, size), np.swapaxes(flat, 2, 3))
        full = full.reshape(*full.shape[:2], *a.shape[2:-1], *lead)
        order = [*range(2, 2 + axis), *range(2 + k, full.ndim), *range(2 + axis, 2 + k)]
        return np.asarray(full.transpose(0, 1, *order))

    return node.lowering.linear(node.affine(0), taken, weights)


def _one_hot(node: Node, found: PerState, size: int) -> FloatArray:
    """Return weights (states, *indices, size) that take the entries of indices."""
    indices = found.values
    if node.lowering.generic:
        return np.random.default_rng(0).uniform(0.5, 1.0, (*indices.shape, size))
    return np.asarray((indices % size)[..., None] == np.arange(size), dtype=np.float64)


def _gather_elements_by_state(node: Node, axis: int, found: PerState) -> Value:
    shape = node.shape()
    weights = np.moveaxis(_one_hot(node, found, shape[axis]), axis + 1, -2)
    rest = [slice(0, size) for size in found.shape]
    rest[axis] = slice(None)
    places = (slice(None), slice(None), *rest)

    def taken(a: Array, w: Array) -> Array:
        a = np.moveaxis(a[places], axis + 2, -1)
        return np.moveaxis(np.matmul(w[:, None], a[..., None])[..., 0], -1, axis + 2)

    return node.lowering.linear(node.affine(0), taken, weights)


def gather_elements(node: Node) -> Value:
    """GatherElements, with indices that are constant or that the state decides."""
    shape, found = node.shape(), node.value(1)
    axis = axis_of(int(node.get("axis", 0)), len(shape))
    if isinstance(found, PerState):
        return _gather_elements_by_state(node, axis, found)
    indices = node.fixed(1)
    node.fits(indices.shape)
    if not ((indices >= -shape[axis]) & (indices < shape[axis])).all():
        raise NetworkError(f"asks for entries beyond an axis of size {shape[axis]}")
    at = np.where(indices < 0, indices + shape[axis], indices)
    grids = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    grids[axis] = at
    places: Any = (slice(None), slice(None), *grids)
    return node.moved(lambda a: a[places])


def gather_nd(node: Node) -> Value:
    """GatherND, with constant indices."""
    indices = node.fixed(1)
    if int(node.get("batch_dims", 0)):
        raise NetworkError("has batch_dims, which is not supported")
    at = tuple(np.moveaxis(indices, -1, 0))
    node.fits((*indices.shape[:-1], *node.shape()[indices.shape[-1] :]))
    return node.moved(lambda a: a[(slice(None), slice(None), *at)])


def expand(node: Node) -> Value:
    """Expand."""
    shape = node.shape()
    full = np.broadcast_shapes(shape, tuple(node.ints(1)))
    node.fits(full)
    missing = len(full) - len(shape)

    def spread(a: Array) -> Array:
        a = a.reshape(*a.shape[:2], *(1,) * missing, *shape)
        return np.broadcast_to(a, (*a.shape[:2], *full)).copy()

    return node.moved(spread)


def tile(node: Node) -> Value:
    """Tile."""
    shape, repeats = node.shape(), node.ints(1)
    if len(repeats) != len(shape):
        raise NetworkError(f"repeats shape {shape} by {repeats}")
    node.fits([size * times for size, times in zip(shape, repeats, strict=True)])
    return node.moved(lambda a: np.tile(a, (1, 1, *repeats)))


def pad(node: Node) -> Value:
    """Pad."""
    shape = node.shape()
    given = node.get("pads")
    pads = [int(p) for p in given] if given is not None else node.ints(1)
    fill = float(node.get("value", 0.0))
    if given is None and node.has(2):
        fill = float(node.fixed(2).reshape(-1)[0])
    axes = [axis_of(i, len(shape)) for i in node.ints(3)] if node.has(3) else range(len(shape))
    if len(pads) != 2 * len(axes):
        raise NetworkError(f"has {len(pads)} pads for {len(axes)} axes")
    before, after = [0] * len(shape), [0] * len(shape)
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    node.fits([b + n + a for b, n, a in zip(before, shape, after, strict=True)])
    mode = node.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise NetworkError(f"has mode {mode!r}")
    widths = [(0, 0), (0, 0), *((max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True))]
    kept = [
        slice(max(-b, 0), max(b, 0) + n + max(a, 0) - max(-a, 0))
        for b, n, a in zip(before, shape, after, strict=True)
    ]
    cut = (slice(None), slice(None), *kept)

    def padded(a: Array, **more: Any) -> Array:
        return np.pad(a, widths, mode=mode, **more)[cut]

    if mode != "constant":
        return node.moved(padded)
    found = node.value(0)
    if isinstance(found, np.ndarray):
        return np.asarray(padded(found[None, None], constant_values=fill)[0, 0])
    low = node.lowering
    result = low.linear(node.affine(0), padded, moves=True)
    if not fill:
        return result
    edge = np.full((1, 1, *shape), 0.0)
    frame = np.pad(edge, widths, mode="constant", constant_values=fill)[cut][0, 0]
    return low.add(result, low.constant(frame))


def shape_of(node: Node) -> Value:
    """Shape."""
    shape = node.shape()
    return np.array(shape[slice(node.get("start", 0), node.get("end"))], dtype=np.int64)


def size_of(node: Node) -> Value:
    """Size."""
    return np.array(math.prod(node.shape()), dtype=np.int64)


def constant_of_shape(node: Node) -> Value:
    """ConstantOfShape."""
    shape = node.ints(0)
    node.fits(shape)
    value = node.get("value")
    fill = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    return np.full(shape, fill.reshape(-1)[0])


def constant_node(node: Node) -> Value:
    """Constant."""
    ((name, value),) = node.attributes.items()
    if name == "value":
        return np.asarray(numpy_helper.to_array(value))
    kinds = {"value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
    return np.asarray(value, dtype=kinds[name])


def ranged(node: Node) -> Value:
    """Range."""
    start, limit, delta = (node.fixed(i).reshape(-1)[0] for i in range(3))
    node.fits((max(int(np.ceil((limit - start) / delta)), 0),))
    return np.arange(start, limit, delta, dtype=node.fixed(0).dtype)


def _spaced(node: Node) -> Value:
    """DepthToSpace and SpaceToDepth."""
    n, c, h, w = node.shape()
    k = int(node.get("blocksize"))

    def deep(a: Array) -> Array:
        lead = a.shape[:2]
        if node.op == "SpaceToDepth":
            a = a.reshape(*lead, n, c, h // k, k, w // k, k)
            return a.transpose(0, 1, 2, 5, 7, 3, 4, 6).reshape(*lead, n, c * k * k, h // k, w // k)
        if node.get("mode", "DCR") == "DCR":
            a = a.reshape(*lead, n, k, k, c // k**2, h, w).transpose(0, 1, 2, 5, 6, 3, 7, 4)
        else:
            a = a.reshape(*lead, n, c // k**2, k, k, h, w).transpose(0, 1, 2, 3, 6, 4, 7, 5)
        return a.reshape(*lead, n, c // k**2, h * k, w * k)

    return node.moved(deep)


MOVES: dict[str, Callable[[Node], Results]] = {
    "Identity": identity,
    "Dropout": identity,
    "Cast": cast,
    "CastLike": cast_like,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Slice": slices,
    "Split": split,
    "Concat": concat,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Expand": expand,
    "Tile": tile,
    "Pad": pad,
    "Shape": shape_of,
    "Size": size_of,
    "ConstantOfShape": constant_of_shape,
    "Constant": constant_node,
    "Range": ranged,
    "DepthToSpace": _spaced,
    "SpaceToDepth": _spaced,
}

__all__ = ["MOVES", "Affine", "Results"]
