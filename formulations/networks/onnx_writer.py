"""A network of dense ReLU layers as an ONNX file, in float64."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from milp_rl.formulations.files import write_atomically
from milp_rl.formulations.networks.network import Network, NetworkError

_OPSET = 17
_IR_VERSION = 8


def write_onnx(network: Network, path: str | Path) -> None:
    """Write a network as ``Gemm`` and ``Relu`` nodes, its weights bit for bit.

    Parameters
    ----------
    network
        Layers one after another, without skips.
    path
        File, which is replaced.

    Raises
    ------
    NetworkError
        If a layer takes another than the one before it.

    Examples
    --------
    >>> import milp_rl as mr, tempfile, pathlib
    >>> from milp_rl.formulations.networks.onnx_writer import write_onnx
    >>> network = mr.Network.from_arrays([[[1.0, -1.0]], [[2.0]]], [[0.1], [0.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "q.onnx")
    ...     write_onnx(network, path)
    ...     mr.to_network(path).forward([1.0, 0.5]).tolist()
    [1.2]
    """
    check_writable(network)
    nodes, weights, name = [], [], "input"
    for k, layer in enumerate(network.layers):
        names = [name, f"weight{k}", f"bias{k}"]
        after = f"z{k}"
        weights += [
            numpy_helper.from_array(layer.weight, names[1]),
            numpy_helper.from_array(layer.bias, names[2]),
        ]
        # OMLT's reader wants what has defaults said.
        how = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
        nodes.append(helper.make_node("Gemm", names, [after], f"gemm{k}", **how))
        if layer.activation == "relu":
            nodes.append(helper.make_node("Relu", [after], [f"h{k}"], f"relu{k}"))
            after = f"h{k}"
        name = after
    graph = helper.make_graph(
        nodes,
        "q",
        [helper.make_tensor_value_info("input", TensorProto.DOUBLE, [None, network.n_inputs])],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None, network.n_outputs])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    onnx.checker.check_model(model)
    write_atomically(path, model.SerializeToString())


def check_writable(network: Network) -> None:
    """Raise ``NetworkError`` if a network is not one of layers one after another."""
    for k, layer in enumerate(network.layers):
        if layer.skips:
            before = ", ".join("the inputs" if s < 0 else f"layer {s}" for s, _ in layer.skips)
            raise NetworkError(
                f"layer {k} takes {before} besides the layer before it (a skip, which activations"
                " other than ReLU are lowered to as well); only layers one after another are"
                " written as ONNX"
            )
