"""Q(state, action) of an ONNX model that is piecewise linear in the action, anything in the state.

The graph is cut where what depends on the state alone meets what depends on the action: the one
side is evaluated at the state by onnxruntime, whatever its operators, the other is lowered to ReLU
layers with those values as constants. Which neurons and layers there are is found out once, for
numbers in general position in place of those constants; a batch of states only brings the numbers.
"""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue, NetworkValue
from milp_rl.formulations.networks.lowering import Affine, Lowering
from milp_rl.formulations.networks.network import INPUT, NetworkError
from milp_rl.formulations.networks.onnx_file import budget, load_model
from milp_rl.formulations.networks.onnx_graph import Graph, Inputs, Output, read_graph
from milp_rl.formulations.networks.onnx_node import PerState, Value
from milp_rl.formulations.networks.onnx_reader import entry, features_of, network_of
from milp_rl.formulations.networks.onnx_session import Arrays, StateSession, session_of
from milp_rl.formulations.networks.onnx_walk import Walk, is_known

_PROBES = 130
_RANDOM = ("RandomNormal", "RandomUniform", "Multinomial", "Bernoulli")


def onnx_value(
    source: str | Path | bytes | onnx.ModelProto,
    n_actions: int,
    *,
    inputs: Inputs = None,
    output: Output = None,
    state_dim: int | None = None,
) -> ActionValue:
    """Read Q(state, action) from an ONNX model, piecewise linear in the action alone.

    Parameters
    ----------
    source
        Path of a file, its bytes, or the loaded model.
    n_actions
        Number of action variables, at least 1.
    inputs, output
        As in :func:`~milp_rl.formulations.networks.onnx_reader.read_onnx`; for a single input also
        ``("state", "action")``, where it holds the state first. Where names say nothing, the one
        input that takes as many values as there are actions is the action.
    state_dim
        Number of state features, needed where the model does not say it.

    Returns
    -------
    ActionValue
        States and actions in row-major order where inputs have more axes. A model that is
        piecewise linear in both is a
        :class:`~milp_rl.formulations.networks.action_value.NetworkValue`, in float64 throughout;
        of others, what depends on the state alone is in the precision of the model.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    NetworkError
        If the model cannot be read, its output is not one value, dimensions do not fit, or nodes
        between the action and the output are not piecewise linear: the message names all of them.
    """
    if n_actions < 1:
        raise ValueError(f"n_actions must be at least 1, got {n_actions}")
    model = load_model(source)
    graph = read_graph(model, inputs, output, n_actions)
    try:
        network = network_of(graph, budget(model), n_actions)
    except NetworkError:
        return _SplitValue(model, graph, n_actions, state_dim)
    _check_width(graph, n_actions, network.n_inputs, state_dim)
    if network.n_outputs != 1:
        raise NetworkError(_several(network.n_outputs))
    return NetworkValue(network, n_actions)


def _several(number: int) -> str:
    return f"Q(state, action) is one value, the network gives {number}; choose one with output="


def _check_width(graph: Graph, n_actions: int, width: int, state_dim: int | None) -> None:
    for name in graph.actions[: len(graph.actions) == 1]:
        shape = graph.input(name).shape or ()
        if (
            shape[1:]
            and None not in shape[1:]
            and math.prod(s or 1 for s in shape[1:]) != n_actions
        ):
            raise NetworkError(
                f"the action input {graph.input(name).shown} does not take {n_actions} actions"
            )
    if width < n_actions or (state_dim is not None and width != n_actions + state_dim):
        raise NetworkError(
            f"the network takes {width} inputs, which are not {n_actions} actions and"
            f" {'a state' if state_dim is None else f'{state_dim} state features'}"
        )


class _SplitValue(ActionValue):
    """The networks in the action of a graph that is cut.

    Pickled and copied as the model; sessions of onnxruntime are made anew.
    """

    def __init__(
        self, model: onnx.ModelProto, graph: Graph, n_actions: int, state_dim: int | None
    ) -> None:
        self._arguments = model, graph, n_actions, state_dim
        self._lock = threading.Lock()
        self.n_actions = n_actions
        self._graph = graph
        self._shapes = self._find_shapes(state_dim)
        sizes = {name: math.prod(shape) for name, shape in self._shapes.items()}
        self.state_dim = sum(sizes.values()) - n_actions
        actions = sum(sizes[name] for name in graph.actions)
        _check_width(graph, n_actions, sum(sizes.values()), state_dim)
        if graph.actions and actions != n_actions:
            raise NetworkError(f"the action inputs take {actions} values, not {n_actions}")
        self.link, self._link_at = graph.link
        self._plan(budget(model))

    def __reduce__(self) -> tuple[Any, ...]:
        model, graph, n_actions, state_dim = self._arguments
        roles = graph.actions, graph.states, graph.state_first, graph.output, graph.column
        return _again, (model.SerializeToString(), roles, n_actions, state_dim)

    def at_states(self, states: FloatArray) -> ActionNetworks:
        """Return the networks in the action alone, for finite states (states, state_dim)."""
        found = self._session.values(states)
        with self._lock:
            self._lowering.again()
            values = {**self._known, **self._inputs(states)}
            for name, fixed in self._boundary.items():
                values[name] = _value(found[name], fixed)
            walk = Walk(self._lowering, values, self._nodes, [self._graph.output], None)
            walk.link = self._link_node
            walk.run()
            walk.refusals.check()
            return self._lowering.networks(self._output(walk), len(states))

    def _find_shapes(self, state_dim: int | None) -> dict[str, tuple[int, ...]]:
        """Return the shape of one sample of each input."""
        graph, found = self._graph, {}
        names = (*graph.actions, *graph.states) or (graph.inputs[0].name,)
        for name in names:
            value = graph.input(name)
            shape = list(value.shape if value.shape is not None else (None, None))
            if len(shape) > 1 and (shape[0] or 1) > 1:
                raise NetworkError(
                    f"the input {value.shown} is of {shape[0]} samples at once; export the model"
                    " with a dynamic batch axis, or of one sample"
                )
            if len(shape) > 1:
                shape[0] = 1
            unknown = [i for i, size in enumerate(shape) if size is None]
            if unknown:
                width = self._width(name, state_dim) or features_of(graph, name)
                if width is None:
                    raise NetworkError(
                        f"the sizes of the input {value.shown} are not known; give state_dim"
                    )
                for i in unknown:
                    shape[i] = 1
                shape[unknown[-1]] = width // math.prod(size or 1 for size in shape)
            found[name] = tuple(size or 1 for size in shape)
        return found

    def _width(self, name: str, state_dim: int | None) -> int | None:
        if self._graph.actions == (name,):
            return self.n_actions
        if self._graph.states == (name,):
            return state_dim
        alone = not self._graph.actions and state_dim is not None
        return self.n_actions + (state_dim or 0) if alone else None

    def _inputs(self, states: FloatArray) -> dict[str, Value]:
        """Return the graph's inputs with the action as a variable."""
        low, start = self._lowering, 0
        values: dict[str, Value] = {}
        if not self._graph.actions:
            (name, shape), n = next(iter(self._shapes.items())), self.n_actions
            size = n + self.state_dim
            actions = np.arange(size - n, size) if self._graph.state_first else np.arange(n)
            whole = np.zeros((len(states), size))
            whole[:, np.setdiff1d(np.arange(size), actions)] = states
            unit = low.computed(lambda: _unit(actions, size, shape))
            return {name: Affine(whole.reshape(len(states), *shape), {INPUT: unit})}
        for name in self._graph.actions:
            size = math.prod(self._shapes[name])
            values[name] = low.inputs(start + np.arange(size), self._shapes[name])
            start += size
        start = 0
        for name in self._graph.states:
            size, shape = math.prod(self._shapes[name]), self._shapes[name]
            own = states[:, start : start + size].reshape(len(states), *shape)
            dtype = self._graph.input(name).dtype
            values[name] = (
                Affine(own)
                if dtype.kind == "f" or dtype.name == "bfloat16"
                else PerState(own.astype(dtype), None)
            )
            start += size
        return values

    def _feed(self, states: FloatArray) -> Arrays:
        """Return the graph's inputs with no action, shape (states, *shape)."""
        fed, start = {}, 0
        for name, shape in self._shapes.items():
            size, dtype = math.prod(shape), self._graph.input(name).dtype
            if not self._graph.actions:
                zeros = np.zeros((len(states), self.n_actions))
                parts = [states, zeros] if self._graph.state_first else [zeros, states]
                own = np.concatenate(parts, axis=1)
            elif name in self._graph.actions:
                own = np.zeros((len(states), size))
            else:
                own = states[:, start : start + size]
                start += size
            fed[name] = own.reshape(len(states), *shape).astype(dtype)
        return fed

    def _plan(self, most: int) -> None:
        """Find out what is lowered, and what is evaluated at the state."""
        graph, rng = self._graph, np.random.default_rng(0)
        probes, tried = self._try(rng)
        self._lowering = Lowering(self.n_actions, most=most, repeated=True)
        self._lowering.generic = True
        values: dict[str, Value] = dict(graph.constants)
        values.update(self._inputs(rng.normal(size=(1, self.state_dim))))
        walk = Walk(self._lowering, values, [], [graph.output], most)
        walk.opset = graph.opset
        by_state: dict[str, Value] = {}
        used: set[str] = set()
        self._nodes: list[tuple[str, onnx.NodeProto]] = []
        self._link_node: int | None = None
        known: dict[str, Value | None] = dict(graph.constants)
        for i, (where, node) in enumerate(graph.nodes):
            inputs = [walk.values.get(name) for name in node.input if name]
            if any(name not in walk.values for name in node.input if name):
                raise NetworkError(f"{where} takes what no node before it gives")
            depends = any(_depends(x) for x in inputs) or any(x is None for x in inputs)
            constant = all(isinstance(x, np.ndarray) for x in inputs)
            if node.op_type.startswith(_RANDOM):
                walk.refusals.add(where, "draws random numbers")
            if depends or (constant and is_known(node)):
                results = walk.step(where, node, linked=i == self._link_at)
                used |= {name for name in node.input if name in by_state}
                lowered = not all(isinstance(x, np.ndarray) for x in results)
                if lowered:
                    self._link_node = len(self._nodes) if i == self._link_at else self._link_node
                    self._nodes.append((where, node))
                for name, value in zip(node.output, results, strict=False):
                    walk.values[name] = value
                    if not lowered and isinstance(value, np.ndarray):
                        known[name] = value
                continue
            for name in node.output:
                if name and name in tried[0]:
                    by_state[name] = _generic(tried[0][name], tried[1][name], rng)
                    walk.values[name] = by_state[name]
                elif name:
                    walk.values[name] = None
        walk.refusals.check()
        output = self._output(walk)
        self._boundary: dict[str, Any] = {}
        for name in sorted(used):
            value = by_state[name]
            if isinstance(value, PerState) and not value.asked:
                known[name] = value.fixed  # only asked for as a shape
            else:
                self._boundary[name] = value.fixed if isinstance(value, PerState) else None
        self._known: dict[str, Value] = {k: v for k, v in known.items() if v is not None}
        self._lowering.networks(output, 1)
        self._session = StateSession(graph, list(self._boundary), self._shapes, self._feed, probes)
        self.at_states(probes[:2])  # says what numbers in general position cannot

    def _output(self, walk: Walk) -> Affine:
        result = walk.values[self._graph.output]
        if not isinstance(result, Affine) or not result.coefficients:
            raise NetworkError(f"the output {self._graph.output!r} does not depend on the action")
        result = entry(self._lowering, result, self._graph.column)
        if result.size != 1:
            raise NetworkError(_several(result.size))
        return result

    def _try(self, rng: np.random.Generator) -> tuple[FloatArray, tuple[Arrays, Arrays]]:
        """Return states that the model takes, and all its tensors at two of them."""
        names = [name for _, node in self._graph.nodes for name in node.output if name]
        names = list(dict.fromkeys(names))
        session = session_of(self._graph, names, self._shapes)
        shape = (_PROBES, self.state_dim)
        for states in (rng.normal(size=shape), rng.random(shape), np.zeros(shape)):
            try:
                found = []
                for i in range(2):
                    fed = {k: v[0] for k, v in self._feed(states[i : i + 1]).items()}
                    wanted = {value.name for value in session.get_inputs()}
                    fed = {k: v for k, v in fed.items() if k in wanted}
                    found.append(dict(zip(names, session.run(names, fed), strict=True)))
            except Exception as error:  # its errors have no public base
                last = error
                continue
            return states, (found[0], found[1])
        raise NetworkError(f"onnxruntime cannot evaluate the model: {last}")


def _unit(actions: np.ndarray[Any, Any], size: int, shape: tuple[int, ...]) -> FloatArray:
    matrix = np.zeros((1, len(actions), size))
    matrix[0, np.arange(len(actions)), actions] = 1.0
    return matrix.reshape(1, len(actions), *shape)


def _again(
    data: bytes, roles: tuple[Any, ...], n_actions: int, state_dim: int | None
) -> ActionValue:
    model = load_model(data)
    actions, states, state_first, output, column = roles
    found = read_graph(model, {"action": actions, "state": states} if actions else None, output)
    graph = Graph(found.model, found.inputs, actions, states, state_first, output, column)
    return _SplitValue(model, graph, n_actions, state_dim)


def _depends(value: Value | None) -> bool:
    """Whether a value depends on the action."""
    if isinstance(value, Affine):
        return bool(value.coefficients)
    return value is not None and not isinstance(value, np.ndarray | PerState)


def _generic(value: Any, other: Any, rng: np.random.Generator) -> Value:
    """Return what stands for a tensor that the state decides."""
    if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
        return Affine(rng.normal(size=(1, *value.shape)))
    same = value.shape == other.shape and (value == other).all()
    return PerState(value[None], value if same else None)


def _value(values: Any, fixed: Any) -> Value:
    """Return a tensor at states."""
    if values.dtype.kind == "f" or values.dtype.name == "bfloat16":
        return Affine(values.astype(np.float64))
    return PerState(values, fixed)
