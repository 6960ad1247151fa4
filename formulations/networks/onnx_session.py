"""What an ONNX model computes of the state alone, for a batch of states, by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_graph import Graph, nodes_for, taken

Arrays = dict[str, NDArray[Any]]

_BATCHES = (2, 3, 7, 33, 130)
_PACKET = 16  # float32 numbers that a processor takes at once, at most
# Of whose packets a last one that is not full is rounded otherwise: they are computed by Eigen.
_BY_PACKET = {
    *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan"),
    *("Celu", "Elu", "Log", "Mish", "Selu", "Softplus", "Softsign", "ThresholdedRelu"),
}


class StateSession:
    """Tensors that the state decides.

    Parameters
    ----------
    graph
        The graph.
    names
        The tensors.
    shapes
        Of one sample of each input of the graph, a leading batch axis included.
    feed
        Gives the inputs, shape (states, *shape of one sample), of states (states, state_dim).
    probes
        States to try, shape (at least 130, state_dim).

    Notes
    -----
    What a state is worth must not depend on the states beside it. A lone state is run twice, since
    one row is multiplied otherwise than several; where an operator works on packets of numbers,
    batches are filled up to whole packets; and states are run one by one where the rows of some
    batches are still not the same to the bit.
    """

    def __init__(
        self,
        graph: Graph,
        names: Sequence[str],
        shapes: Mapping[str, tuple[int, ...]],
        feed: Callable[[FloatArray], Arrays],
        probes: FloatArray,
    ) -> None:
        self._names = list(names)
        self._feed = feed
        self._shapes = shapes
        self._together = False
        if not names:
            return
        nodes = nodes_for(graph.model.graph, set(names))
        self._multiple = _PACKET if _BY_PACKET & {node.op_type for _, node in nodes} else 1
        try:
            self._session = session_of(graph, names, shapes, batched=True)
            self._together = True
            self._together = self._agrees(probes)
        except NetworkError:
            self._together = False
        if not self._together:
            self._session = session_of(graph, names, shapes)

    def values(self, states: FloatArray) -> Arrays:
        """Return the tensors, shape (states, *shape of one sample)."""
        if not self._names:
            return {}
        if self._together:
            count = len(states)
            size = max(-(-count // self._multiple) * self._multiple, 2)
            if size == count:
                return self._batch(states)
            filled = np.concatenate([states, np.repeat(states[-1:], size - count, axis=0)])
            return {name: value[:count] for name, value in self._batch(filled).items()}
        rows = [self._run(states[i : i + 1]) for i in range(len(states))]
        return {name: np.stack([row[name] for row in rows]) for name in self._names}

    def _batch(self, states: FloatArray) -> Arrays:
        found = self._run(states)
        return {name: value[:, None] for name, value in found.items()}

    def _run(self, states: FloatArray) -> Arrays:
        given = self._feed(states)
        feeds = {}
        for entry in self._session.get_inputs():
            x = given[entry.name]
            shape = self._shapes[entry.name]
            feeds[entry.name] = x.reshape(len(states), *shape[1:]) if self._together else x[0]
        return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))

    def _agrees(self, probes: FloatArray) -> bool:
        """Whether a batch gives for each state what it gives alone, and as many rows."""
        try:
            alone = [self.values(probes[i : i + 1]) for i in range(min(_BATCHES[-1], len(probes)))]
            for size in _BATCHES:
                for name, value in self.values(probes[:size]).items():
                    expected = np.concatenate([one[name] for one in alone[:size]])
                    if value.shape != expected.shape or value.tobytes() != expected.tobytes():
                        return False
        except Exception:  # whatever onnxruntime says of a batch that the graph does not take
            return False
        return True


def session_of(
    graph: Graph,
    names: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    batched: bool = False,
) -> onnxruntime.InferenceSession:
    """Return a session for some tensors of a graph.

    With ``batched`` the first axis of its inputs is a batch axis of any length.

    Raises
    ------
    NetworkError
        If onnxruntime does not take it.
    """
    whole = graph.model.graph
    nodes = [node for _, node in nodes_for(whole, set(names))]
    needed = {name for node in nodes for name in taken(node)} | set(names)
    model = onnx.ModelProto()
    model.ir_version = graph.model.ir_version
    model.opset_import.extend(graph.model.opset_import)
    model.graph.name = whole.name or "g"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(t for t in whole.initializer if t.name in needed)
    for value in whole.input:
        if value.name in shapes and value.name in needed:
            own = model.graph.input.add()
            own.CopyFrom(value)
            shape = shapes[value.name]
            if batched and len(shape) < 2:
                raise NetworkError(f"the input {value.name!r} has no batch axis")
            own.type.tensor_type.shape.Clear()
            for i, size in enumerate(shape):
                dim = own.type.tensor_type.shape.dim.add()
                if batched and i == 0:
                    dim.dim_param = "states"
                else:
                    dim.dim_value = size
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no public base
        raise NetworkError(f"onnxruntime does not take the model: {error}") from error
