"""Reading a ReLU network from an ONNX model, without the framework that wrote it.

An ONNX graph is accepted if it is one chain of dense layers: ``Gemm``, ``MatMul``, ``Add`` of a
constant and ``Relu``, with ``Flatten``, ``Reshape``, ``Identity`` and ``Cast`` between them where
they do not change what a layer sees. That covers both exporters of torch, scikit-learn's
``MLPRegressor`` through skl2onnx, and Keras models as OMLT reads them. Operators are those of
https://onnx.ai/onnx/operators from opset 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.network import Activation, Layer, Network, NetworkError
from milp_rl.formulations.networks.onnx_constants import Constants, evaluated_constants, label
from milp_rl.formulations.networks.onnx_file import budget, load_model

_NO_OPS = ("Identity", "Cast", "Flatten", "Reshape")
_OPS = ("Gemm", "MatMul", "Add", "Relu", *_NO_OPS)
_SUPPORTED = f"supported are {', '.join(_OPS)} in one chain, with constant weights"


def read_onnx(source: str | Path | bytes | onnx.ModelProto) -> Network:
    """Read a chain of dense layers with ReLU from an ONNX model.

    Parameters
    ----------
    source
        Path of a file, its bytes, or the loaded model. Weights are float32 or float64.

    Returns
    -------
    Network
        The inputs and outputs of one sample, in row-major order where the graph has more axes;
        leading axes of the graph's input are taken for batch axes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    NetworkError
        If the file is not a valid ONNX model, a weight is NaN or infinite, the graph has several
        inputs or outputs, it has anything but such a chain, or what it asks for takes far more
        memory than the file: the message names the operator and the node.
    """
    model = load_model(source)
    graph = model.graph
    if graph.sparse_initializer:
        raise NetworkError("the model has sparse initializers; store its weights densely")
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    for what, values in (("inputs", inputs), ("outputs", graph.output)):
        if len(values) != 1:
            names = ", ".join(repr(value.name) for value in values) or "none"
            raise NetworkError(
                f"the network must have one input and one output, its {what}: {names}"
            )
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version < 7:
            raise NetworkError(f"the model has opset {opset.version}; convert it to 7 or later")
    most = budget(model)
    constants = evaluated_constants(graph, most)
    chain = _chain(graph, constants, inputs[0].name)
    return _Walk(_shape(inputs[0]), constants, most).network(chain)


def read_metadata(source: str | Path | bytes | onnx.ModelProto) -> dict[str, str]:
    """Return the ``metadata_props`` of an ONNX model; sources and errors as in `read_onnx`."""
    return {entry.key: entry.value for entry in load_model(source).metadata_props}


def _chain(
    graph: onnx.GraphProto, constants: Constants, start: str
) -> list[tuple[str, onnx.NodeProto]]:
    """Return the nodes from the input to the output; nodes that lead elsewhere are left out."""
    producers = {
        output: (i, node) for i, node in enumerate(graph.node) for output in node.output if output
    }
    chain: list[tuple[str, onnx.NodeProto]] = []
    name = graph.output[0].name
    while name != start:
        if name in constants or name not in producers:
            raise NetworkError(f"the output does not depend on the input but on {name!r}")
        position, node = producers[name]
        where = label(position, node)
        if node.domain not in ("", "ai.onnx") or node.op_type not in _OPS:
            domain = f" of {node.domain}" if node.domain else ""
            raise NetworkError(f"{where}{domain} is not supported; {_SUPPORTED}")
        data = [i for i in node.input if i and i not in constants]
        if len(data) != 1:
            raise NetworkError(
                f"{where} has {len(data)} inputs that are not constant ({', '.join(data)});"
                f" branches, residual connections and computed weights are not supported"
            )
        chain.append((where, node))
        if len(chain) > len(producers):
            raise NetworkError(f"the nodes form a cycle, {where} in it")
        name = data[0]
    return chain[::-1]


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    """Return the declared shape, None where a dimension is unknown."""
    if not value.type.HasField("tensor_type"):
        raise NetworkError(f"the input {value.name!r} is not a tensor")
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.dim_value > 0 else None for d in dims] or [1]


@dataclass
class _Dense:
    """A layer while it is collected, and the node that began it."""

    weight: FloatArray
    bias: FloatArray
    activation: Activation
    where: str

    def layer(self) -> Layer:
        try:
            return Layer(self.weight, self.bias, self.activation)
        except NetworkError as error:
            raise NetworkError(f"{self.where}: {error}") from error


class _Walk:
    """Follows the data through the chain, collecting layers.

    The features of a sample are on the last axis of the data, or, where the graph computes
    ``W @ x``, on the first axis of a column of shape (features, 1).
    """

    def __init__(self, shape: list[int | None], constants: Constants, most: int) -> None:
        self.shape = shape
        self.constants = constants
        self.layers: list[_Dense] = []
        self.column = False
        self._most = most
        self._bytes = 0
        self._where = "the graph's input"

    def network(self, chain: Sequence[tuple[str, onnx.NodeProto]]) -> Network:
        """Walk the chain and return its network."""
        # Reshaping the outputs leaves those of one sample as they are, in row-major order.
        last = max((i for i, (_, n) in enumerate(chain) if n.op_type not in _NO_OPS), default=None)
        steps: dict[str, Callable[..., None]] = {
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "Add": self._add,
            "Relu": self._relu,
            "Cast": self._cast,
            "Flatten": self._flatten,
            "Reshape": self._reshape,
        }
        for i, (where, node) in enumerate(chain):
            final = last is not None and i > last
            if node.op_type == "Identity" or (final and node.op_type == "Flatten"):
                continue
            self._where = where
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            step = self._reshape_outputs if final and node.op_type == "Reshape" else None
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # Layer refuses the result
                    (step or steps[node.op_type])(*node.input, **attributes)
            except (NetworkError, TypeError, OverflowError) as error:
                raise NetworkError(f"{where}: {error}") from error
        self._start()
        self._check_merged()
        return Network(tuple(dense.layer() for dense in self.layers))

    def _append(self, weight: FloatArray) -> None:
        bias = np.zeros(weight.shape[0])
        self.layers.append(_Dense(weight, bias, "linear", self._where))

    def _identity(self, width: int) -> None:
        self._reserve(width * width)
        self._append(np.eye(width))

    def _reserve(self, entries: int) -> None:
        """Count entries of float64 arrays; raise ``NetworkError`` beyond what a file may take."""
        self._bytes += 8 * entries
        if self._bytes > self._most:
            raise NetworkError(
                f"the network takes {self._bytes:,} bytes, but a file of this size at most"
                f" {self._most:,}"
            )

    def _check_merged(self) -> None:
        """Reserve what merging linear layers, and an identity after a last ReLU, take."""
        width = self.layers[0].weight.shape[1]  # inputs of the layer being merged
        for dense, after in pairwise([*self.layers, None]):
            assert dense is not None
            self._reserve(dense.weight.shape[0] * width)
            if dense.activation == "relu":
                width = dense.weight.shape[0]
                if after is None:
                    self._reserve(width * width)

    def _gemm(
        self,
        a: str,
        b: str,
        c: str = "",
        alpha: float = 1.0,
        beta: float = 1.0,
        transA: int = 0,
        transB: int = 0,
    ) -> None:
        if transA or a in self.constants:
            raise NetworkError("the data must be its first operand, not transposed")
        weight = alpha * self._floats(b)
        self._dense(weight if transB else weight.T, axis=-1)
        if c:
            self.layers[-1].bias = beta * self._per_feature(self._floats(c))

    def _matmul(self, a: str, b: str) -> None:
        if b in self.constants:
            self._dense(self._floats(b).T, axis=-1)
            return
        if not self.layers and len(self.shape) == 2 and self.shape[1] == 1:
            self.column = True
        if not self.column and len(self.shape) != 1:
            raise NetworkError(
                f"the data, of shape {self._shown()}, is its second operand; that has one meaning"
                f" only for a vector, or from the input on for a column of shape (n, 1)"
            )
        self._dense(self._floats(a), axis=0)

    def _dense(self, weight: FloatArray, axis: Literal[0, -1]) -> None:
        if weight.ndim != 2:
            raise NetworkError(f"its constant is no matrix but of shape {weight.T.shape}")
        if self.column and axis == -1:
            raise NetworkError("the data, a column until here, is its first operand")
        if self.shape[axis] not in (None, weight.shape[1]):
            raise NetworkError(
                f"takes {weight.shape[1]} inputs, but the data has shape {self._shown()}"
            )
        self.shape[axis] = weight.shape[0]
        self._append(weight)

    def _add(self, a: str, b: str) -> None:
        constant = self._floats(a if a in self.constants else b)
        self._start()
        bias = self._per_feature(constant)
        if self.layers[-1].activation == "relu":
            self._identity(len(bias))
        self.layers[-1].bias = self.layers[-1].bias + bias
        self.shape[:0] = [1] * (constant.ndim - len(self.shape))

    def _relu(self, _: str) -> None:
        self._start()
        self.layers[-1].activation = "relu"

    def _cast(self, _: str, to: int, **_others: Any) -> None:
        if to not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
            names = {number: name for name, number in onnx.TensorProto.DataType.items()}
            kind = names.get(to, f"type {to}")
            raise NetworkError(f"rounds the data to {kind}; only FLOAT and DOUBLE are supported")

    def _flatten(self, _: str, axis: int = 1) -> None:
        axis += len(self.shape) if axis < 0 else 0
        self._rearrange([_product(self.shape[:axis]), _product(self.shape[axis:])])

    def _reshape(self, _: str, target: str, allowzero: int = 0) -> None:
        dims = self._target(target, allowzero)
        if not allowzero:
            old = [*self.shape, *[0] * len(dims)]
            dims = [old[i] if d == 0 else d for i, d in enumerate(dims)]
        if -1 in dims:
            at = dims.index(-1)
            rest = dims[:at] + dims[at + 1 :]
            # Unknown dimensions cancel if each was copied from the old shape.
            same = rest.count(None) == self.shape.count(None)
            size = math.prod(filter(None, self.shape)) // math.prod(filter(None, rest))
            dims[at] = size if same else None
        self._rearrange(dims)

    def _target(self, name: str, allowzero: int) -> list[int | None]:
        """Return the new shape as it is given; no data may be left without entries."""
        if name not in self.constants:
            raise NetworkError("the new shape must be constant")
        dims: list[int | None] = [int(d) for d in self.constants[name].reshape(-1)]
        if allowzero and 0 in dims:
            raise NetworkError(f"turns the data into shape {_shown(dims)}, which has no entries")
        if any(d is not None and d < -1 for d in dims) or dims.count(-1) > 1:
            raise NetworkError(f"{_shown(dims)} is no shape")
        return dims or [1]

    def _reshape_outputs(self, _: str, target: str, allowzero: int = 0) -> None:
        dims = self._target(target, allowzero)
        width = self.shape[0 if self.column else -1]
        if width and -1 not in dims and 0 not in dims and (_product(dims) or 0) % width:
            raise NetworkError(
                f"turns outputs of shape {self._shown()} into {_shown(dims)}, which does not hold"
                " those of whole samples"
            )

    def _rearrange(self, dims: list[int | None]) -> None:
        """Give the data a new shape that leaves the features of a sample together."""
        width, last = self.shape[0 if self.column else -1], dims[-1]
        if self.column:
            allowed = last == width or dims == self.shape
            self.column = last != width
        elif self.layers:
            allowed = last == width
        else:
            sizes = {_product(self.shape[i:]) for i in range(len(self.shape))}
            allowed = last in sizes - {None} or None in self.shape[1:]
        if not allowed:
            raise NetworkError(
                f"turns data of shape {self._shown()} into {_shown(dims)}, which does not keep"
                f" the features of a sample together"
            )
        self.shape = dims

    def _start(self) -> None:
        """Make sure that there is a layer, the identity on the inputs if need be."""
        if not self.layers:
            width = self.shape[-1]
            if width is None:
                raise NetworkError("the graph's input needs a last dimension of fixed size")
            self._identity(width)

    def _floats(self, name: str) -> FloatArray:
        values = self.constants[name]
        if values.dtype not in (np.float32, np.float64):
            raise NetworkError(f"{name!r} is of type {values.dtype}, not float32 or float64")
        if not values.size:
            raise NetworkError(f"{name!r} has no entries, its shape is {values.shape}")
        if not np.isfinite(values).all():
            number = int((~np.isfinite(values)).sum())
            raise NetworkError(f"{number} entries of {name!r} are not finite")
        self._reserve(values.size)
        return values.astype(np.float64)

    def _per_feature(self, values: FloatArray) -> FloatArray:
        """Return a constant added to the data as one value per feature."""
        width = self.shape[0 if self.column else -1]
        across = values
        if self.column:
            across = values[:, None] if values.ndim == 1 else values.T
        if values.size not in (1, width) or across.shape[-1:] not in ((), (values.size,)):
            raise NetworkError(
                f"adds a constant of shape {values.shape} to data of shape {self._shown()}, which"
                f" is not one value for each of {width} features"
            )
        return np.broadcast_to(values.reshape(-1), (width or 1,))

    def _shown(self) -> str:
        return _shown(self.shape)


def _product(dims: Sequence[int | None]) -> int | None:
    known = [d for d in dims if d is not None]
    return math.prod(known) if len(known) == len(dims) else None


def _shown(dims: Sequence[int | None]) -> str:
    return f"({', '.join('?' if d is None else str(d) for d in dims)})"
