"""Tree ensembles of ONNX models, as LightGBM, XGBoost and scikit-learn export them.

Read are ``TreeEnsembleRegressor`` (ai.onnx.ml 1 to 4) and ``TreeEnsemble`` (5), their sums, and
before them what treats every input on its own and does not change the order of its values: casts,
scalings, constants added or multiplied; inputs may be concatenated. Operators are those of
https://onnx.ai/onnx/operators. Sums are in float64 here, whatever the model's type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_constants import Constants, evaluated_constants, label
from milp_rl.formulations.networks.onnx_file import budget
from milp_rl.formulations.networks.trees import TreeEnsemble, joined, largest_below

_ML = "ai.onnx.ml"
_TREES = ("TreeEnsembleRegressor", "TreeEnsemble", "TreeEnsembleClassifier")
_KEPT = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
_SUPPORTED = (
    "supported are TreeEnsembleRegressor and TreeEnsemble, sums of them, and before them"
    f" {', '.join((*_KEPT, *_ARITHMETIC))} with constants, Scaler, and Concat of inputs"
)
_FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}


def has_trees(model: onnx.ModelProto) -> bool:
    """Whether a model has a tree ensemble."""
    return any(node.domain == _ML and node.op_type in _TREES for node in model.graph.node)


def read_onnx_trees(
    model: onnx.ModelProto,
    *,
    inputs: Sequence[str] | Mapping[str, str] | None = None,
    output: int | None = None,
) -> TreeEnsemble:
    """Read a sum of tree ensembles.

    Parameters
    ----------
    model
        Loaded and checked (:func:`milp_rl.formulations.networks.onnx_file.load_model`).
    inputs
        Where there are two: ``("action", "state")`` or ``("state", "action")`` by their order in
        the graph, or ``{"action": name, "state": name}``.
    output
        Which one to take of several targets.

    Raises
    ------
    NetworkError
        If an operator, an attribute or a type is not supported: the message names the node.
    """
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    known = {value.name: value for value in graph.input if value.name not in stored}
    names = _ordered(list(known), inputs)
    if len(graph.output) != 1:
        shown = ", ".join(repr(value.name) for value in graph.output)
        raise NetworkError(f"the model must have one output, not {shown}")
    reader = _Reader(graph, evaluated_constants(graph, budget(model)), output)
    for name in names:
        reader.data[name] = _input(known[name], reader.width)
        reader.width += len(reader.data[name].source)
    return reader.value(graph.output[0].name)


def _ordered(names: list[str], inputs: Sequence[str] | Mapping[str, str] | None) -> list[str]:
    """Return the graph's inputs in the order action, state."""
    if len(names) == 1:
        return names
    if inputs is not None:
        found = (
            dict(inputs) if isinstance(inputs, Mapping) else dict(zip(inputs, names, strict=False))
        )
        order = [found.get("action", ""), found.get("state", "")]
        if sorted(order) == sorted(names):
            return order
    raise NetworkError(
        f"the model has the inputs {', '.join(map(repr, names))}; say which is which with"
        ' inputs={"action": name, "state": name}'
    )


@dataclass(frozen=True, eq=False)
class _Data:
    """Columns that trees compare: each is a monotone function of one input.

    Parameters
    ----------
    source
        The input of each column.
    sign
        1 where the function does not decrease, -1 where it does not increase.
    function
        Takes values of inputs and the columns they are for, same shapes.
    dtype
        Of the columns.
    """

    source: IntArray
    sign: FloatArray
    function: Callable[[FloatArray, IntArray], NDArray[Any]]
    dtype: type[np.float32 | np.float64]

    def then(
        self,
        step: Callable[[NDArray[Any], IntArray], NDArray[Any]],
        sign: FloatArray | float = 1.0,
        dtype: type[np.float32 | np.float64] | None = None,
    ) -> _Data:
        """Return the columns after one more step."""
        before = self.function
        return _Data(
            self.source,
            self.sign * sign,
            lambda x, column: step(before(x, column), column),
            dtype or self.dtype,
        )


def _input(value: onnx.ValueInfoProto, start: int) -> _Data:
    kind = value.type.tensor_type.elem_type
    dims = value.type.tensor_type.shape.dim
    if kind not in _FLOATS or not dims or dims[-1].dim_value < 1:
        raise NetworkError(
            f"the input {value.name!r} must be of type float or double with a last dimension of"
            f" fixed size, not {helper.printable_type(value.type)}"
        )
    dtype = _FLOATS[kind]
    width = int(dims[-1].dim_value)
    source = np.arange(start, start + width)
    return _Data(source, np.ones(width), lambda x, _: x.astype(dtype), dtype)


class _Reader:
    """Follows a graph from its output to its inputs."""

    def __init__(self, graph: onnx.GraphProto, constants: Constants, output: int | None) -> None:
        self.constants = constants
        self.output = output
        self.width = 0
        self.data: dict[str, _Data] = {}
        self._nodes = {
            name: (i, node) for i, node in enumerate(graph.node) for name in node.output if name
        }

    def value(self, name: str) -> TreeEnsemble:
        """Return the sum of trees of this name."""
        where, node, attributes = self._node(name)
        kind = (node.domain if node.domain != "ai.onnx" else "", node.op_type)
        if kind == (_ML, "TreeEnsembleRegressor"):
            nodes = _regressor(attributes, self.output, where)
            return nodes.over(self.columns(node.input[0]), self.width, where)
        if kind == (_ML, "TreeEnsemble"):
            nodes = _ensemble(attributes, self.output, where)
            return nodes.over(self.columns(node.input[0]), self.width, where)
        if node.domain in ("", "ai.onnx"):
            if node.op_type == "Cast" and attributes["to"] not in _FLOATS:
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

    def columns(self, name: str) -> _Data:
        """Return the data of this name."""
        if name in self.data:
            return self.data[name]
        where, node, attributes = self._node(name)
        own = [i for i in node.input if i and i not in self.constants]
        if node.domain == _ML and node.op_type == "Scaler":
            found = _scaled(self.columns(own[0]), attributes, where)
        elif node.domain not in ("", "ai.onnx") or not own:
            raise NetworkError(f"{where} is not supported; {_SUPPORTED}")
        elif node.op_type == "Concat":
            if len(own) < len(node.input) or attributes["axis"] not in (-1, 1):
                raise NetworkError(f"{where} must concatenate inputs along the last axis")
            found = _concatenated([self.columns(i) for i in own])
        elif node.op_type == "Cast":
            dtype = _FLOATS.get(attributes["to"])
            if dtype is None:
                raise NetworkError(f"{where} rounds inputs; only FLOAT and DOUBLE are supported")
            found = self.columns(own[0]).then(lambda x, _: x.astype(dtype), dtype=dtype)
        elif node.op_type in _KEPT:
            found = self.columns(own[0])
        elif node.op_type in _ARITHMETIC and len(own) == 1:
            first = node.input[0] == own[0]
            constant = self.constants[node.input[1 if first else 0]]
            found = _arithmetic(self.columns(own[0]), node.op_type, constant, first, where)
        else:
            raise NetworkError(f"{where} is not supported; {_SUPPORTED}")
        self.data[name] = found
        return found

    def _node(self, name: str) -> tuple[str, onnx.NodeProto, dict[str, Any]]:
        if name not in self._nodes:
            raise NetworkError(f"{name!r} is not computed from the inputs by trees; {_SUPPORTED}")
        position, node = self._nodes[name]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return label(position, node), node, attributes


def _concatenated(parts: list[_Data]) -> _Data:
    starts = np.cumsum([0, *(len(part.source) for part in parts)])

    def function(x: FloatArray, column: IntArray) -> NDArray[Any]:
        found = np.empty(len(x))
        of = np.searchsorted(starts, column, side="right") - 1
        for i, part in enumerate(parts):
            found[of == i] = part.function(x[of == i], column[of == i] - starts[i])
        return found.astype(parts[0].dtype)

    source, sign = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("source", "sign")
    )
    return _Data(source, sign, function, parts[0].dtype)


def _wide(values: Any, width: int, dtype: Any, where: str) -> NDArray[Any]:
    """Return one number per column, of these or of the only one."""
    numbers = np.asarray(values, dtype=dtype).reshape(-1)
    if len(numbers) not in (1, width) or not np.isfinite(numbers).all():
        raise NetworkError(f"{where} needs 1 or {width} finite numbers, got {len(numbers)}")
    return np.broadcast_to(numbers, (width,))


def _scaled(data: _Data, attributes: dict[str, Any], where: str) -> _Data:
    """Apply ``(x - offset) * scale``, in float32."""
    width = len(data.source)
    offset = _wide(attributes.get("offset", [0.0]), width, np.float32, where)
    scale = _wide(attributes.get("scale", [1.0]), width, np.float32, where)

    def step(x: NDArray[Any], column: IntArray) -> NDArray[Any]:
        return np.asarray((x.astype(np.float32) - offset[column]) * scale[column])

    return data.then(step, _direction(scale), np.float32)


def _arithmetic(
    data: _Data, operator: str, constant: NDArray[Any], first: bool, where: str
) -> _Data:
    """Apply an operator to columns and a constant; ``first`` if the columns come first."""
    c = _wide(constant, len(data.source), data.dtype, where)
    if operator == "Div" and not (first and c.all()):
        raise NetworkError(f"{where} must divide inputs by a constant other than 0")
    operators = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    apply = operators[operator]

    def step(x: NDArray[Any], column: IntArray) -> NDArray[Any]:
        return np.asarray(apply(x, c[column]) if first else apply(c[column], x))

    if operator in ("Mul", "Div"):
        return data.then(step, _direction(c))
    return data.then(step, 1.0 if first or operator == "Add" else -1.0)


def _direction(factor: NDArray[Any]) -> FloatArray:
    return np.where(factor < 0, -1.0, 1.0)


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Trees as ONNX has them: nodes compare columns in several modes.

    Parameters
    ----------
    mode
        Number of the mode in ``_MODES`` of each node, -1 for a leaf.
    column, number, children, value, roots, base
        As in :class:`TreeEnsemble`; children where the comparison is true and where it is not.
    """

    mode: IntArray
    column: IntArray
    number: FloatArray
    children: IntArray
    value: FloatArray
    roots: IntArray
    base: float

    def over(self, data: _Data, width: int, where: str) -> TreeEnsemble:
        """Return the ensemble over the inputs, ``width`` of them, that columns are made of."""
        inner = np.flatnonzero(self.mode >= 0)
        mode, column = self.mode[inner], self.column[inner]
        if len(column) and not 0 <= column.min() <= column.max() < len(data.source):
            raise NetworkError(
                f"{where}: a tree compares column {int(column.max())} of {len(data.source)}"
            )
        sign = data.sign[column]

        def function(y: FloatArray) -> Any:
            return data.function(sign * y, column)

        up_to = largest_below(function, self.number[inner])
        below = largest_below(function, self.number[inner], strictly=True)
        # The comparison is `y <= at` or its contrary; of equality there is a second one.
        equality = mode >= 4
        at = np.where((mode == 0) | (mode == 3) | equality, up_to, below)
        swapped = (mode == 2) | (mode == 3) | (mode == 5)
        children = self.children.copy()
        children[inner[swapped]] = children[inner[swapped]][:, ::-1]
        n, extra = len(self.mode), inner[equality]
        second = n + np.arange(len(extra))
        # y <= at ? (y <= below ? no : yes) : no
        more = children[extra][:, ::-1].copy()
        children[extra, 0] = second
        children = np.concatenate([children, more])
        feature, threshold = np.full(n + len(extra), -1), np.zeros(n + len(extra))
        feature[inner], threshold[inner] = data.source[column], at
        feature[n:], threshold[n:] = data.source[column[equality]], below[equality]
        turned = np.concatenate([inner[sign < 0], second[sign[equality] < 0]])
        threshold[turned] = np.nextafter(-threshold[turned], -np.inf)  # y <= at: x >= -at
        children[turned] = children[turned][:, ::-1]
        value = np.concatenate([self.value, np.zeros(len(extra))])
        try:
            return TreeEnsemble(feature, threshold, children, value, self.roots, width, self.base)
        except NetworkError as error:
            raise NetworkError(f"{where}: {error}") from error


def _choice(attributes: dict[str, Any], output: int | None, where: str) -> int:
    count = int(attributes.get("n_targets", 1))
    if output is None and count > 1:
        raise NetworkError(f"{where} has {count} targets; choose one with output=0 to {count - 1}")
    if output is not None and not 0 <= output < count:
        raise NetworkError(f"{where} has {count} targets, there is no output {output}")
    return output or 0


def _numbers(attributes: dict[str, Any], name: str) -> FloatArray:
    """Return an attribute of float32, or of its tensor of float64."""
    tensor = attributes.get(f"{name}_as_tensor")
    values = numpy_helper.to_array(tensor) if tensor is not None else attributes.get(name, [])
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _share(aggregate: str, transform: str, n_trees: int, where: str) -> float:
    """Return the factor of every leaf."""
    if transform != "NONE":
        raise NetworkError(f"{where} has post_transform {transform}; only NONE is supported")
    if aggregate in ("MIN", "MAX") and n_trees > 1:
        raise NetworkError(
            f"{where} takes the {aggregate} of its trees; only SUM and AVERAGE are supported"
        )
    return 1.0 / n_trees if aggregate == "AVERAGE" else 1.0


def _regressor(attributes: dict[str, Any], output: int | None, where: str) -> _Nodes:
    """Read the attributes of a TreeEnsembleRegressor."""
    target = _choice(attributes, output, where)
    tree, node = (
        np.asarray(attributes.get(f"nodes_{name}", []), dtype=np.int64)
        for name in ("treeids", "nodeids")
    )
    names = [m.decode() for m in attributes.get("nodes_modes", [])]
    unknown = sorted(set(names) - {*_MODES, "LEAF"})
    if unknown:
        raise NetworkError(f"{where} has nodes of mode {', '.join(unknown)}")
    mode = np.array([_MODES.index(m) if m != "LEAF" else -1 for m in names], dtype=np.intp)
    numbers = {(t, k): i for i, (t, k) in enumerate(zip(tree.tolist(), node.tolist(), strict=True))}
    if len(numbers) < len(mode):
        raise NetworkError(f"{where}: two nodes of a tree have the same number")
    children = np.zeros((len(mode), 2), dtype=np.intp)
    value = np.zeros(len(mode))
    try:
        for side, name in enumerate(("nodes_truenodeids", "nodes_falsenodeids")):
            for i in np.flatnonzero(mode >= 0).tolist():
                children[i, side] = numbers[int(tree[i]), int(attributes[name][i])]
        weights = _numbers(attributes, "target_weights")
        for t, k, of, weight in zip(
            attributes["target_treeids"],
            attributes["target_nodeids"],
            attributes["target_ids"],
            weights.tolist(),
            strict=True,
        ):
            if of == target:
                value[numbers[t, k]] += weight
        column = np.asarray(attributes["nodes_featureids"], dtype=np.intp)
        roots = np.setdiff1d(np.arange(len(mode)), children[mode >= 0])
        number = _numbers(attributes, "nodes_values")
        if not len(mode) == len(column) == len(number) or len(roots) != len(set(tree.tolist())):
            raise NetworkError(f"{where}: its attributes do not describe trees with one root each")
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(f"{where}: its attributes do not describe trees: {error!r}") from error
    aggregate = attributes.get("aggregate_function", b"SUM").decode()
    transform = attributes.get("post_transform", b"NONE").decode()
    share = _share(aggregate, transform, len(roots), where)
    base = _numbers(attributes, "base_values")
    if len(base) > 1 and len(base) != int(attributes.get("n_targets", 1)):
        raise NetworkError(f"{where} has {len(base)} base values")
    constant = float(base[target] if len(base) > 1 else base.sum())
    return _Nodes(mode, column, number, children, share * value, roots, constant)


def _ensemble(attributes: dict[str, Any], output: int | None, where: str) -> _Nodes:
    """Read the attributes of a TreeEnsemble, of ai.onnx.ml 5."""
    target = _choice(attributes, output, where)
    try:
        codes = numpy_helper.to_array(attributes["nodes_modes"]).astype(np.intp).reshape(-1)
        number = numpy_helper.to_array(attributes["nodes_splits"]).astype(np.float64).reshape(-1)
        weights = numpy_helper.to_array(attributes["leaf_weights"]).astype(np.float64).reshape(-1)
        column, roots, targets, *sides = (
            np.asarray(attributes[name], dtype=np.intp)
            for name in (
                "nodes_featureids",
                "tree_roots",
                "leaf_targetids",
                "nodes_truenodeids",
                "nodes_falsenodeids",
                "nodes_trueleafs",
                "nodes_falseleafs",
            )
        )
        n, leaves = len(codes), len(weights)
        if (codes >= len(_MODES)).any():
            raise NetworkError(f"{where} has nodes that test membership of a set")
        children = np.zeros((n + leaves, 2), dtype=np.intp)
        for side in range(2):
            children[:n, side] = sides[side] + np.where(sides[2 + side] != 0, n, 0)
        mode = np.concatenate([codes, np.full(leaves, -1)])
        column = np.concatenate([column, np.zeros(leaves, dtype=np.intp)])
        number = np.concatenate([number, np.zeros(leaves)])
        value = np.concatenate([np.zeros(n), np.where(targets == target, weights, 0.0)])
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(f"{where}: its attributes do not describe trees: {error!r}") from error
    aggregate = _AGGREGATES[int(attributes.get("aggregate_function", 1))]
    transform = _TRANSFORMS[int(attributes.get("post_transform", 0))]
    share = _share(aggregate, transform, len(roots), where)
    return _Nodes(mode, column, number, children, share * value, roots, 0.0)
