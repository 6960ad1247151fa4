"""Walking through the nodes of an ONNX graph while they are lowered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from milp_rl.formulations.networks.lowering import Affine, Lowering
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_affine import AFFINE
from milp_rl.formulations.networks.onnx_graph import taken
from milp_rl.formulations.networks.onnx_moves import MOVES
from milp_rl.formulations.networks.onnx_node import Condition, Node, PerState, Value
from milp_rl.formulations.networks.onnx_pieces import PIECES

OPERATORS = {**MOVES, **AFFINE, **PIECES}
_ML = ("Scaler", "LinearRegressor")
# Of one operand, entry by entry: what follows can be looked at as if they were not there.
_SMOOTH = {
    *("Sigmoid", "Tanh", "Exp", "Softplus", "Elu", "Selu", "Celu", "Gelu", "Mish", "Softsign"),
    *("Swish", "HardSwish", "Erf", "Sqrt", "Log", "Pow", "Sin", "Cos", "Reciprocal", "Atan"),
    *("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "Sign", "Floor"),
    *("Ceil", "Round", "InstanceNormalization", "GroupNormalization", "LpNormalization"),
}
# Of constants alone: whatever is no larger than they are, and the same each time.
_FOLDED = {
    *_SMOOTH - {"Gelu", "Swish", "Mish", "RMSNormalization", "GroupNormalization"},
    *("Abs", "Equal", "And", "Or", "Xor", "Mod", "ReduceProd", "ReduceMin", "ReduceMax", "CumSum"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ArgMax", "ArgMin", "Trilu", "CastLike"),
    *("Sum", "Mean", "MatMul", "Gemm", "Relu", "Clip", "IsNaN", "IsInf", "NonZero"),
}


class Refusals:
    """What a network has that cannot be read, all of it."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._kinds = False

    def add(self, where: str, why: str) -> None:
        """Note a node and why it cannot be read."""
        self.found.append(f"{where}: {why}")

    def add_operator(self, where: str, node: onnx.NodeProto) -> None:
        """Note a node whose operator is not read."""
        advice = _advice(node)
        if advice is not None:
            self.add(where, advice)
            return
        self._kinds = True
        smooth = node.domain in ("", "ai.onnx") and node.op_type in _SMOOTH
        self.found.append(f"{where} is not {'piecewise linear' if smooth else 'supported'}")

    def check(self) -> None:
        """Raise ``NetworkError`` if there is anything."""
        if not self.found:
            return
        message = "; ".join(self.found)
        if len(self.found) > 1:
            message = f"{len(self.found)} nodes cannot be read: {message}"
        if self._kinds:
            message += (
                "; hidden activations may be ReLU, LeakyReLU, PReLU, ReLU6, Hardtanh, Hardsigmoid,"
                " Abs, Clip, Max and Min, the last operator a Sigmoid, Tanh, Exp or Softplus, and"
                " what depends on the state alone anything where the state is told from the action"
                f" (to_action_value); supported are {', '.join(sorted(OPERATORS))}"
            )
        raise NetworkError(message)


class Walk:
    """Values of tensors by name, while nodes are lowered one after another.

    Parameters
    ----------
    lowering
        Where neurons go.
    values
        Constants and inputs.
    nodes
        All that will be lowered, with what messages call them.
    keep
        Names that are needed at the end.
    most
        Bytes that what is alive may take.
    """

    def __init__(
        self,
        lowering: Lowering,
        values: Mapping[str, Value],
        nodes: Sequence[tuple[str, onnx.NodeProto]],
        keep: Sequence[str],
        most: int | None,
        *,
        batch: int = 1,
        link: int | None = None,
    ) -> None:
        self.lowering, self.batch, self.link = lowering, batch, link
        self.values: dict[str, Value | None] = dict(values)  # None: unknown, after a refusal
        self.nodes = nodes
        self.refusals = Refusals()
        self._left = Counter(name for _, node in nodes for name in taken(node))
        self._left.update(keep)
        self._most = most
        self._sizes: dict[str, int] = {}
        self._alive = sum(x.nbytes for x in values.values() if isinstance(x, np.ndarray))
        for name, x in values.items():
            if isinstance(x, np.ndarray):
                self._sizes[name] = x.nbytes

    def run(self) -> None:
        """Lower all nodes; what cannot be is in ``refusals``."""
        for i, (where, node) in enumerate(self.nodes):
            results = self.step(where, node, linked=i == self.link)
            self._store(where, node, results)

    def step(
        self, where: str, node: onnx.NodeProto, *, linked: bool = False
    ) -> Sequence[Value | None]:
        """Return the outputs of one node, None for what cannot be lowered."""
        known = node.domain in ("", "ai.onnx") and node.op_type not in _ML
        known |= node.domain == "ai.onnx.ml" and node.op_type in _ML
        missing = [name for name in node.input if name and name not in self.values]
        if missing:
            raise NetworkError(f"{where} takes {missing[0]!r}, which no node before it gives")
        inputs = [self.values[name] if name else None for name in node.input]
        nothing = [None] * len(node.output)
        constant = all(x is None or isinstance(x, np.ndarray) for x in inputs) and not any(
            name and self.values[name] is None for name in node.input
        )
        try:
            if linked:
                return [inputs[0]]
            if constant and known and node.op_type in _FOLDED and len(inputs):
                return [self._folded(node, inputs)]
            if not known or node.op_type not in OPERATORS:
                self.refusals.add_operator(where, node)
                if known and node.op_type in _SMOOTH and isinstance(inputs[0], Affine):
                    return [inputs[0]]
                return nothing
            if any(name and self.values[name] is None for name in node.input):
                return nothing
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            own = Node(
                node.op_type,
                node.input,
                inputs,
                attributes,
                self.lowering,
                len(node.output),
                self.batch,
            )
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                found = OPERATORS[node.op_type](own)
        except MemoryError:
            raise
        except NetworkError as error:
            self.refusals.add(where, str(error))
            return nothing
        except Exception as error:  # wrong shapes, axes, types: whatever numpy says
            self.refusals.add(where, f"cannot be evaluated: {error}")
            return nothing
        return list(found) if isinstance(found, list | tuple) else [found]  # type: ignore[list-item]

    def _folded(self, node: onnx.NodeProto, inputs: Sequence[Any]) -> NDArray[Any]:
        """Evaluate a node of constants with ONNX's own reference."""
        present = [(name, x) for name, x in zip(node.input, inputs, strict=True) if x is not None]
        shape = np.broadcast_shapes(*(x.shape[:-2] for _, x in present if x.ndim > 2), ())
        self.lowering.reserve(int(np.prod(shape)))
        graph = helper.make_graph(
            [node],
            "g",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape
                )
                for name, x in dict(present).items()
            ],
            [onnx.ValueInfoProto(name=node.output[0])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        (result,) = ReferenceEvaluator(model).run(None, dict(present))
        return np.asarray(result)

    opset = 18

    def _store(self, where: str, node: onnx.NodeProto, results: Sequence[Value | None]) -> None:
        if self._most is None:
            self.values.update(zip(node.output, results, strict=False))
            return
        before = {id(a) for name in node.input if name for a in arrays(self.values[name])}
        for name, value in zip(node.output, results, strict=False):
            if not name or not self._left[name]:
                continue
            self.values[name] = value
            own = [
                a for a in arrays(value) if id(a) not in before and getattr(a, "base", None) is None
            ]
            self._sizes[name] = sum(a.nbytes for a in own)
            self._alive += self._sizes[name]
        for name in node.output[len(results) :]:
            if name:
                self.values[name] = None
        for name in taken(node):
            self._left[name] -= 1
            if not self._left[name]:
                self.values[name] = None
                del self.values[name]
                self._alive -= self._sizes.pop(name, 0)
        if self._alive > self._most:
            raise NetworkError(
                f"{where}: the network takes {self._alive:,} bytes, but a file of this size at"
                f" most {self._most:,}"
            )


def is_known(node: onnx.NodeProto) -> bool:
    """Whether the operator of a node is read."""
    if node.domain == "ai.onnx.ml":
        return node.op_type in _ML
    known = node.op_type in OPERATORS or node.op_type in _FOLDED
    return known and node.domain in ("", "ai.onnx") and node.op_type not in _ML


def arrays(value: Value | None) -> list[Any]:
    """Return the arrays that a value holds."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Affine):
        return [value.constant, *value.coefficients.values()]
    if isinstance(value, Condition):
        return arrays(value.difference)
    if isinstance(value, PerState):
        return [value.values]
    return []


def _advice(node: onnx.NodeProto) -> str | None:
    if node.op_type.startswith("TreeEnsemble"):
        return "is an ensemble of trees, which is no network of ReLUs"
    if node.op_type in ("LSTM", "GRU", "RNN", "Loop", "Scan", "If"):
        return (
            "recurs or branches on the data, which layers of ReLUs cannot; it may only be in what"
            " depends on the state alone (to_action_value)"
        )
    if node.op_type in (
        "DynamicQuantizeLinear",
        "QuantizeLinear",
        "MatMulInteger",
        "QLinearMatMul",
    ):
        return "rounds to integers; export the network before it is quantised"
    return None
