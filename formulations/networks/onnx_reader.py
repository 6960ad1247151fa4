"""Reading a piecewise linear network from an ONNX model, without the framework that wrote it.

Every operator that is affine or piecewise linear in what depends on the input becomes ReLU layers
with skips (:mod:`~milp_rl.formulations.networks.lowering`), see ``OPERATORS`` of
:mod:`~milp_rl.formulations.networks.onnx_walk`. Operators are those of
https://onnx.ai/onnx/operators from opset 7.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from milp_rl.formulations.networks.lowering import Affine, Lowering
from milp_rl.formulations.networks.network import Network, NetworkError
from milp_rl.formulations.networks.onnx_file import budget, load_model
from milp_rl.formulations.networks.onnx_graph import Graph, GraphInput, Inputs, Output, read_graph
from milp_rl.formulations.networks.onnx_node import Value
from milp_rl.formulations.networks.onnx_walk import Walk

_DENSE = {
    *("Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Neg", "Relu", "Identity", "Dropout", "Cast"),
    *("Flatten", "Reshape", "Squeeze", "Unsqueeze", "BatchNormalization", "Scaler"),
    "LinearRegressor",
}
_ROWWISE = {
    *("Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Neg", "Relu", "Identity", "Dropout", "Cast"),
    *("LeakyRelu", "PRelu", "Clip", "HardSigmoid", "Abs", "Min", "Max", "Shrink", "Constant"),
}


def read_onnx(
    source: str | Path | bytes | onnx.ModelProto, *, inputs: Inputs = None, output: Output = None
) -> Network:
    """Read a piecewise linear network from an ONNX model.

    Parameters
    ----------
    source
        Path of a file, its bytes, or the loaded model. Weights are of any floating-point type;
        rounding between operators is not part of the network.
    inputs
        Which inputs are what, where there are several: ``"action"`` and ``"state"`` in the order
        of the graph's inputs, or ``{"action": name, "state": name}``, several names for a part
        that has several inputs. None where names say so (``obs``, ``state``, ``observation``,
        ``s``; ``act``, ``action``, ``a``) or there is one input.
    output
        Which output, by name or number, where the graph has several. Where it has one, a number is
        that of an entry of it. A pair is an output and an entry of it.

    Returns
    -------
    Network
        Of one sample, inputs and outputs in row-major order where the graph has more axes: the one
        input as it is, of several [action, state]. Leading axes of an input are taken for batch
        axes. A monotone operator at the end is the network's ``link``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    NetworkError
        If the file is not a valid ONNX model, a weight is NaN or infinite, inputs or outputs are
        not clear, nodes are not piecewise linear in the input, or what is asked for takes far more
        memory than the file: the message names all such nodes.
    """
    model = load_model(source)
    graph = read_graph(model, inputs, output)
    if graph.state_first:
        raise NetworkError(
            'inputs=("state", "action") of one input needs the number of actions: use'
            " to_action_value(source, n_actions, inputs=...)"
        )
    return network_of(graph, budget(model))


def read_metadata(source: str | Path | bytes | onnx.ModelProto) -> dict[str, str]:
    """Return the ``metadata_props`` of an ONNX model; sources and errors as in `read_onnx`."""
    return {entry.key: entry.value for entry in load_model(source).metadata_props}


def network_of(graph: Graph, most: int, n_actions: int | None = None) -> Network:
    """Return the network of a graph whose arrays take at most so many bytes.

    The number of actions is needed for a single input that holds the state first.
    """
    first: NetworkError | None = None
    for shapes, batch in _samples(graph):
        try:
            return _lowered(graph, shapes, batch, most, n_actions)
        except NetworkError as error:
            first = first or error
    assert first is not None
    raise first


def _lowered(
    graph: Graph,
    shapes: dict[str, tuple[int, ...]],
    batch: int,
    most: int,
    n_actions: int | None,
) -> Network:
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    lowering = Lowering(sum(sizes.values()), prune=not _is_chain(graph), most=most)
    values: dict[str, Value] = dict(graph.constants)
    start = 0
    for name in (*graph.actions, *graph.states) or tuple(sizes):
        lowering.reserve(lowering.width * sizes[name])
        numbers = start + np.arange(sizes[name])
        if graph.state_first and n_actions is not None:
            numbers = np.roll(numbers, -n_actions)
        values[name] = lowering.inputs(numbers, shapes[name])
        start += sizes[name]
    link, at = graph.link
    walk = Walk(lowering, values, graph.nodes, [graph.output], most, batch=batch, link=at)
    walk.opset = graph.opset
    walk.run()
    walk.refusals.check()
    result = walk.values[graph.output]
    if isinstance(result, np.ndarray):
        raise NetworkError(f"the output {graph.output!r} does not depend on the input")
    if not isinstance(result, Affine):
        raise NetworkError(f"the output {graph.output!r} is not of floating-point numbers")
    if batch > 1:
        declared = graph.declared_outputs()
        if result.shape[:1] != (1,) or declared not in (None, batch * result.size):
            raise NetworkError("the output of a batch is not that of its samples")
    chosen = entry(lowering, result, graph.column)
    lowering.reserve(2 * chosen.size * lowering.width)
    with np.errstate(over="ignore", invalid="ignore"):
        return lowering.network(chosen, link)


def entry(lowering: Lowering, result: Affine, column: int | None) -> Affine:
    """Return one entry of an output, or all."""
    if column is None:
        return result
    if not -result.size <= column < result.size:
        raise NetworkError(f"there is no output {column}; the output has {result.size} entries")
    return lowering.linear(
        result, lambda a: a.reshape(*a.shape[:2], -1)[:, :, [column]], moves=True
    )


def _is_chain(graph: Graph) -> bool:
    """Whether a graph is a chain of dense layers, whose neurons are left as they are."""
    seen: set[str] = set()
    for _, node in graph.nodes:
        moving = [name for name in node.input if name and name not in graph.constants]
        if node.op_type == "Constant" or node.op_type in ("Identity", "Transpose", "Cast"):
            if seen.intersection(moving):
                return False
        elif node.op_type not in _DENSE or seen.intersection(moving):
            return False
        seen.update(moving)
    return True


def _samples(graph: Graph) -> Iterator[tuple[dict[str, tuple[int, ...]], int]]:
    """Yield what the shapes of one sample may be, and how many samples the graph speaks of.

    The first axis is taken for a batch axis, and all axes but the last where every operator works
    along the last alone. A graph that takes a column of shape (n, 1) from the left, or all samples
    together, has none.
    """
    sizes = {value.name: _declared(graph, value) for value in graph.inputs}
    rowwise = all(node.op_type in _ROWWISE for _, node in graph.nodes)
    if rowwise and any(
        len(dims) > 2 and max(d or 1 for d in dims[1:-1]) > 1 for dims in sizes.values()
    ):
        batch = max(math.prod(d or 1 for d in dims[:-1]) for dims in sizes.values())
        yield {k: (*(1,) * (len(d) - 1), d[-1] or 1) for k, d in sizes.items()}, batch
    one = {k: _filled((1, *dims[1:]) if len(dims) > 1 else dims) for k, dims in sizes.items()}
    yield one, max((dims[0] or 1) if len(dims) > 1 else 1 for dims in sizes.values())
    whole = {
        k: _filled((features_of(graph, k), 1) if dims == (None, 1) else dims)
        for k, dims in sizes.items()
    }
    if whole != one:
        yield whole, 1


def _filled(dims: Sequence[int | None]) -> tuple[int, ...]:
    """Return a shape with 1 where a size is not known."""
    return tuple(size or 1 for size in dims)


def _declared(graph: Graph, value: GraphInput) -> tuple[int | None, ...]:
    """Return the shape with at most its first size unknown."""
    shape = list(value.shape if value.shape is not None else (None, None))
    unknown = [i for i, size in enumerate(shape) if size is None and (i or len(shape) == 1)]
    if unknown:
        width = features_of(graph, value.name)
        if width is None:
            raise NetworkError(
                f"the graph's input {value.shown} needs a last dimension of fixed size"
            )
        for i in unknown:
            shape[i] = 1
        known = math.prod(size for size in shape[1:] if size)
        shape[unknown[-1]] = max(width // known, 1)
    return tuple(shape)


def features_of(graph: Graph, start: str) -> int | None:
    """Return the number of features of an input that the first weights that it meets ask for."""
    names = {start}
    for _, node in graph.nodes:
        if not names.intersection(node.input):
            continue
        weights = [graph.constants[name] for name in node.input if name in graph.constants]
        if node.op_type in ("MatMul", "Gemm") and weights and weights[0].ndim == 2:
            if node.op_type == "Gemm":
                transposed = any(a.name == "transB" and a.i for a in node.attribute)
                return int(weights[0].shape[1 if transposed else 0])
            return int(weights[0].shape[1 if node.input[0] in graph.constants else 0])
        if node.op_type in ("Scaler", "LinearRegressor"):
            name = "offset" if node.op_type == "Scaler" else "coefficients"
            return next((len(a.floats) for a in node.attribute if a.name == name), None)
        if node.op_type == "BatchNormalization" and weights:
            return len(weights[0])
        if node.op_type in ("Add", "Sub", "Mul", "Div") and weights and weights[0].size > 1:
            return int(weights[0].shape[-1])
        names.update(node.output)
    return None


__all__ = ["entry", "network_of", "read_metadata", "read_onnx"]
