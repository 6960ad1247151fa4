"""Tree ensembles of ONNX models, as LightGBM, XGBoost and scikit-learn export them.

Read are ``TreeEnsembleRegressor`` (ai.onnx.ml 1 to 4) and ``TreeEnsemble`` (5), their sums, and
before them what treats every input on its own and does not change the order of its values: casts,
scalings, constants added or multiplied; inputs may be concatenated. Operators are those of
https://onnx.ai/onnx/operators. Sums are in float64 here, whatever the model's type.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_graph import Graph, GraphInput
from milp_rl.formulations.networks.trees import TreeEnsemble, joined
from milp_rl.formulations.networks.trees_columns import Columns, arithmetic, concatenated, scaled
from milp_rl.formulations.networks.trees_onnx_nodes import ensemble_nodes, regressor_nodes

_ML = "ai.onnx.ml"
_TREES = ("TreeEnsembleRegressor", "TreeEnsemble", "TreeEnsembleClassifier")
_KEPT = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_SUPPORTED = (
    "supported are TreeEnsembleRegressor and TreeEnsemble, sums of them, and before them"
    f" {', '.join((*_KEPT, *_ARITHMETIC))} with constants, Scaler, and Concat of inputs"
)
_FLOATS: dict[str, type[np.float32 | np.float64]] = {"float32": np.float32, "float64": np.float64}


def has_trees(model: onnx.ModelProto) -> bool:
    """Whether a model has a tree ensemble."""
    return any(node.domain == _ML and node.op_type in _TREES for node in model.graph.node)


def read_onnx_trees(graph: Graph) -> TreeEnsemble:
    """Read a sum of tree ensembles.

    Parameters
    ----------
    graph
        With inputs by role and the output asked for
        (:func:`milp_rl.formulations.networks.onnx_graph.read_graph`).

    Returns
    -------
    TreeEnsemble
        Its inputs are the graph's one input as it is, of several [action, state].

    Raises
    ------
    NetworkError
        If an operator, an attribute or a type is not supported: the message names the node.
    """
    reader = _Reader(graph)
    for name in (*graph.actions, *graph.states) or [value.name for value in graph.inputs]:
        reader.data[name] = _columns(graph.input(name), reader.width)
        reader.width += len(reader.data[name].source)
    link, at = graph.link
    output = graph.output if at is None else graph.nodes[at][1].input[0]
    return replace(reader.value(output), link=link)


def _columns(value: GraphInput, start: int) -> Columns:
    shape, dtype = value.shape or (), _FLOATS.get(value.dtype.name)
    width = shape[-1] if shape else None
    if dtype is None or len(shape) > 2 or width is None:
        raise NetworkError(
            f"the input {value.shown}, {value.dtype}, must be of type float32 or float64 and of"
            " shape (batch, features), with a fixed number of features"
        )
    source = np.arange(start, start + width)
    return Columns(source, np.ones(width), lambda x, _: x.astype(dtype), dtype)


class _Reader:
    """Follows a graph from its output to its inputs."""

    def __init__(self, graph: Graph) -> None:
        self.constants = dict(graph.constants)
        self.output = graph.column
        self.width = 0
        self.data: dict[str, Columns] = {}
        self._nodes: dict[str, tuple[str, onnx.NodeProto]] = {}
        for where, node in graph.nodes:
            if node.op_type == "Constant":
                (value,) = ReferenceEvaluator(_alone(node)).run(None, {})
                self.constants[node.output[0]] = np.asarray(value)
            self._nodes |= {name: (where, node) for name in node.output if name}

    def value(self, name: str) -> TreeEnsemble:
        """Return the sum of trees of this name."""
        where, node, attributes = self._node(name)
        kind = (node.domain if node.domain != "ai.onnx" else "", node.op_type)
        if kind == (_ML, "TreeEnsembleRegressor"):
            nodes = regressor_nodes(attributes, self.output, where)
            return nodes.over(self.columns(node.input[0]), self.width, where)
        if kind == (_ML, "TreeEnsemble"):
            nodes = ensemble_nodes(attributes, self.output, where)
            return nodes.over(self.columns(node.input[0]), self.width, where)
        if node.domain in ("", "ai.onnx"):
            if node.op_type == "Cast" and _dtype(attributes["to"]) is None:
                raise NetworkError(f"{where} rounds the value; only FLOAT and DOUBLE are supported")
            if node.op_type in _KEPT:
                return self.value(node.input[0])
            if node.op_type in ("Add", "Sum"):
                return self._sum(node)
        raise NetworkError(f"{where} is not supported; {_SUPPORTED}")

    def _sum(self, node: onnx.NodeProto) -> TreeEnsemble:
        constants = [self.constants[name] for name in node.input if name in self.constants]
        parts = [self.value(name) for name in node.input if name not in self.constants]
        return joined(parts, float(sum(np.float64(c.reshape(-1)[0]) for c in constants)))

    def columns(self, name: str) -> Columns:
        """Return the data of this name."""
        if name in self.data:
            return self.data[name]
        where, node, attributes = self._node(name)
        own = [i for i in node.input if i and i not in self.constants]
        if node.domain == _ML and node.op_type == "Scaler":
            found = scaled(self.columns(own[0]), attributes, where)
        elif node.domain not in ("", "ai.onnx") or not own:
            raise NetworkError(f"{where} is not supported; {_SUPPORTED}")
        elif node.op_type == "Concat":
            if len(own) < len(node.input) or attributes["axis"] not in (-1, 1):
                raise NetworkError(f"{where} must concatenate inputs along the last axis")
            found = concatenated([self.columns(i) for i in own])
        elif node.op_type == "Cast":
            dtype = _dtype(attributes["to"])
            if dtype is None:
                raise NetworkError(f"{where} rounds inputs; only FLOAT and DOUBLE are supported")
            found = self.columns(own[0]).then(lambda x, _: x.astype(dtype), dtype=dtype)
        elif node.op_type in ("Identity", "Flatten", "Reshape"):
            found = self.columns(own[0])
            if node.op_type == "Reshape":
                self._check_rows(node.input[1], len(found.source), where)
        elif node.op_type in _ARITHMETIC and len(own) == 1:
            first = node.input[0] == own[0]
            constant = self.constants[node.input[1 if first else 0]]
            found = arithmetic(self.columns(own[0]), node.op_type, constant, first, where)
        else:
            raise NetworkError(f"{where} is not supported; {_SUPPORTED}")
        self.data[name] = found
        return found

    def _check_rows(self, shape: str, width: int, where: str) -> None:
        """Raise ``NetworkError`` if a new shape does not keep the features of a row together."""
        dims = self.constants.get(shape, np.zeros(0)).reshape(-1).tolist()
        if len(dims) != 2 or dims[1] not in (width, -1) or (dims[1] == -1 and dims[0] > 1):
            raise NetworkError(f"{where} turns rows of {width} inputs into shape {dims}")

    def _node(self, name: str) -> tuple[str, onnx.NodeProto, dict[str, Any]]:
        if name not in self._nodes:
            raise NetworkError(f"{name!r} is not computed from the inputs by trees; {_SUPPORTED}")
        where, node = self._nodes[name]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return where, node, attributes


def _dtype(code: int) -> type[np.float32 | np.float64] | None:
    """Return the type that a cast leads to, None if it is not one of floating-point numbers."""
    return _FLOATS.get(np.dtype(helper.tensor_dtype_to_np_dtype(code)).name)


def _alone(node: onnx.NodeProto) -> onnx.ModelProto:
    """Return the model of a node without inputs."""
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    return helper.make_model(helper.make_graph([node], "constant", [], outputs))
