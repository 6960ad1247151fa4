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
    States are run together only where the rows of a batch are, to the bit, the same in batches of
    all sizes from two on: what a state is worth must not depend on the states beside it.
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
        self._session: onnxruntime.InferenceSession | None = None
        if not names:
            return
        self._session = session_of(graph, names, shapes, batched=True)
        if self._session is None or not self._agrees(probes):
            self._session = None
            self._single = session_of(graph, names, shapes, batched=False)
            if self._single is None:
                raise NetworkError("onnxruntime cannot evaluate what depends on the state")

    def values(self, states: FloatArray) -> Arrays:
        """Return the tensors, shape (states, *shape of one sample)."""
        if not self._names:
            return {}
        if self._session is not None:
            if len(states) == 1:
                return {k: v[:1] for k, v in self._batch(np.repeat(states, 2, axis=0)).items()}
            return self._batch(states)
        rows = [self._run(self._single, states[i : i + 1]) for i in range(len(states))]
        return {name: np.stack([row[name] for row in rows]) for name in self._names}

    def _batch(self, states: FloatArray) -> Arrays:
        found = self._run(self._session, states, together=True)
        return {name: value[:, None] for name, value in found.items()}

    def _run(
        self, session: onnxruntime.InferenceSession, states: FloatArray, *, together: bool = False
    ) -> Arrays:
        given = self._feed(states)
        feeds = {}
        for entry in session.get_inputs():
            x = given[entry.name]
            shape = self._shapes[entry.name]
            feeds[entry.name] = x.reshape(len(states), *shape[1:]) if together else x[0]
        return dict(zip(self._names, session.run(self._names, feeds), strict=True))

    def _agrees(self, probes: FloatArray) -> bool:
        """Whether a batch gives for each state what two of it give, and as many rows."""
        try:
            pairs = [self.values(probes[i : i + 1]) for i in range(min(_BATCHES[-1], len(probes)))]
            for size in _BATCHES:
                whole = self._run(self._session, probes[:size], together=True)
                for name, value in whole.items():
                    if value.shape[:1] != (size,):
                        return False
                    expected = np.concatenate([pair[name][0] for pair in pairs[:size]])
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
) -> onnxruntime.InferenceSession | None:
    """Return a session for some tensors of a graph, None if there can be none.

    With ``batched`` the first axis of its inputs is a batch axis of any length.
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
                return None
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
    except Exception:  # its errors have no public base
        return None
