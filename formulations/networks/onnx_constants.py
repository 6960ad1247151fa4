"""Constants of an ONNX graph: what is stored, and what nodes make of it.

Only what the output needs is evaluated, in time linear in the nodes, and what no later node uses
is dropped at once. Operators are those of https://onnx.ai/onnx/operators from opset 7.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from milp_rl.formulations.networks.network import NetworkError

Constants = dict[str, NDArray[Any]]

_WORK = 16  # times the budget: bytes written while constants are cast and rearranged


def label(position: int, node: onnx.NodeProto) -> str:
    """Return what messages call a node."""
    if node.name:
        return f"{node.op_type} node {node.name!r}"
    return f"{node.op_type} node without a name at position {position}"


def evaluated_constants(graph: onnx.GraphProto, most: int) -> Constants:
    """Evaluate the constants that the nodes of the data take.

    Parameters
    ----------
    graph
        In topological order, as the checker asks for.
    most
        Bytes that all constants alive may take.

    Raises
    ------
    NetworkError
        If a constant cannot be read or evaluated, or they take more.
    """
    needed = _needed(graph)
    constants: Constants = {}
    for tensor in graph.initializer:
        if tensor.name in constants:
            raise NetworkError(f"two initializers are named {tensor.name!r}")
        if tensor.name in needed:
            try:
                constants[tensor.name] = numpy_helper.to_array(tensor)
            except Exception as error:
                raise NetworkError(
                    f"the initializer {tensor.name!r} cannot be read: {error}"
                ) from error
    nodes = [node for node in graph.node if needed.intersection(node.output)]
    left = Counter(name for node in nodes for name in node.input)
    left.update(value.name for value in graph.output)
    alive, written = sum(array.nbytes for array in constants.values()), 0
    positions = {node.output[0]: i for i, node in enumerate(graph.node) if node.output}
    for node in nodes:
        foldable = node.op_type in _OPS and all(name in constants for name in node.input if name)
        if node.domain not in ("", "ai.onnx") or not foldable:
            continue
        where = label(positions[node.output[0]], node)
        value = _evaluate(node, constants, where)
        alive, written = alive + value.nbytes, written + value.nbytes
        if alive > most or written > _WORK * most:
            raise NetworkError(f"{where}: constants take more than {most:,} bytes")
        constants[node.output[0]] = value
        for name in node.input:
            left[name] -= 1
            if name and not left[name]:
                alive -= constants.pop(name).nbytes
    return constants


def _needed(graph: onnx.GraphProto) -> set[str]:
    """Return the names that the output depends on."""
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(name for name in node.input if name)
    return needed


def _evaluate(node: onnx.NodeProto, constants: Constants, where: str) -> NDArray[Any]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs = [constants[name] if name else None for name in node.input]
    try:
        return _OPS[node.op_type](*inputs, **attributes)
    except MemoryError:
        raise
    except Exception as error:  # wrong shapes, axes, types: whatever numpy says
        raise NetworkError(f"{where} cannot be evaluated: {error}") from error


def _constant(**attributes: Any) -> NDArray[Any]:
    ((name, value),) = attributes.items()
    if name == "value":
        return np.asarray(numpy_helper.to_array(value))
    kinds = {"value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
    return np.asarray(value, dtype=kinds[name])


def _cast(x: NDArray[Any], *, to: int, **_: Any) -> NDArray[Any]:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(to))
    if x.dtype.kind not in "biuf" or dtype.kind not in "biuf":
        raise ValueError(f"a cast from {x.dtype} to {dtype} is not supported")
    if x.dtype.kind == "f" and dtype.kind in "iu" and x.size:
        limits = np.iinfo(dtype)
        whole = np.trunc(x).astype(np.float64)
        if not ((whole >= float(limits.min)) & (whole < float(limits.max) + 1)).all():
            raise ValueError(f"a value does not fit {dtype}")
    with np.errstate(over="ignore"):
        return x.astype(dtype, copy=False)


def _transpose(x: NDArray[Any], *, perm: list[int] | None = None) -> NDArray[Any]:
    return np.transpose(x, perm)


def _reshape(x: NDArray[Any], target: NDArray[Any], *, allowzero: int = 0) -> NDArray[Any]:
    dims = [int(size) for size in target]
    if not allowzero:
        dims = [x.shape[i] if size == 0 else size for i, size in enumerate(dims)]
    return x.reshape(dims)


def _flatten(x: NDArray[Any], *, axis: int = 1) -> NDArray[Any]:
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"there is no axis {axis}")
    axis += x.ndim if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(x: NDArray[Any], given: NDArray[Any] | None = None, **old: Any) -> NDArray[Any]:
    axes = old.get("axes", given)
    return np.squeeze(x, None if axes is None else tuple(int(axis) for axis in axes))


def _unsqueeze(x: NDArray[Any], given: NDArray[Any] | None = None, **old: Any) -> NDArray[Any]:
    axes = old.get("axes", given)
    if axes is None:
        raise ValueError("it has no axes")
    return np.expand_dims(x, tuple(int(axis) for axis in axes))


_OPS: dict[str, Callable[..., NDArray[Any]]] = {
    "Constant": _constant,
    "Identity": lambda x: x,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
