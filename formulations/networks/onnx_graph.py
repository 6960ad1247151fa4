"""An ONNX graph as it is read: its inputs by role, the output asked for, and the nodes it needs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper

from milp_rl.formulations.networks.link import Link
from milp_rl.formulations.networks.network import NetworkError

Constants = dict[str, NDArray[Any]]
Inputs = Sequence[str] | Mapping[str, str | Sequence[str]] | None
Output = int | str | tuple[int | str, int] | None

_LINKS: dict[str, Link] = {
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Exp": "exp",
    "Softplus": "softplus",
}
_SHAPES = ("Squeeze", "Unsqueeze", "Reshape", "Flatten", "Identity", "Cast", "Transpose")
_WORDS = {
    "action": {"a", "act", "acts", "action", "actions"},
    "state": {"s", "obs", "state", "states", "observation", "observations"},
}


@dataclass(frozen=True, eq=False)
class GraphInput:
    """An input: its name, its declared shape, None where a size is not fixed, and its type."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any]

    @property
    def width(self) -> int | None:
        """Number of features of one sample, if it is fixed."""
        sizes = self.shape[1:] if self.shape and len(self.shape) > 1 else self.shape
        if sizes is None:
            return None
        known = [size for size in sizes if size is not None]
        return math.prod(known) if len(known) == len(sizes) else None

    @property
    def shown(self) -> str:
        """Its name and shape as messages have them."""
        dims = (
            "?"
            if self.shape is None
            else ", ".join("?" if d is None else str(d) for d in self.shape)
        )
        return f"{self.name!r} of shape ({dims})"


@dataclass(frozen=True, eq=False)
class Graph:
    """What is read of a model.

    Parameters
    ----------
    model
        The model, with functions of its own written out.
    inputs
        Those that are not stored.
    actions, states
        Names of inputs by role, both empty for a single input that holds both.
    state_first
        Whether a single input holds the state before the action.
    output
        Name of the tensor that is read.
    column
        Entry of it that is read, None for all.
    """

    model: onnx.ModelProto
    inputs: tuple[GraphInput, ...]
    actions: tuple[str, ...]
    states: tuple[str, ...]
    state_first: bool
    output: str
    column: int | None

    @cached_property
    def nodes(self) -> list[tuple[str, onnx.NodeProto]]:
        """Nodes that the output needs, in order, with what messages call them."""
        return nodes_for(self.model.graph, {self.output})

    @cached_property
    def constants(self) -> Constants:
        """What the nodes need of what is stored."""
        used = {self.output}.union(*(taken(node) for _, node in self.nodes))
        return stored_constants(self.model.graph, used)

    @cached_property
    def link(self) -> tuple[Link, int | None]:
        """The monotone function at the end, and the position of its node among the nodes."""
        producers = {name: i for i, (_, node) in enumerate(self.nodes) for name in node.output}
        name = self.output
        while name in producers:
            node = self.nodes[producers[name]][1]
            if node.domain not in ("", "ai.onnx"):
                break
            if node.op_type in _LINKS:
                return _LINKS[node.op_type], producers[name]
            if node.op_type not in _SHAPES:
                break
            name = node.input[0]
        return "identity", None

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        versions = [o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")]
        return max(versions, default=18)

    def input(self, name: str) -> GraphInput:
        """Return an input by name."""
        return next(value for value in self.inputs if value.name == name)

    def declared_outputs(self) -> int | None:
        """Return the number of entries that the output is said or found to have, if it is fixed."""
        for model in (self.model, None):
            if model is None:
                try:
                    model = onnx.shape_inference.infer_shapes(self.model)
                except Exception:  # whatever it says of a model that is not valid
                    return None
            for value in (*model.graph.output, *model.graph.value_info):
                kind = value.type.tensor_type
                if value.name == self.output and kind.HasField("shape") and kind.shape.dim:
                    sizes = [d.dim_value for d in kind.shape.dim]
                    if all(size > 0 for size in sizes):
                        return int(np.prod(sizes))
        return None


def read_graph(
    model: onnx.ModelProto,
    inputs: Inputs = None,
    output: Output = None,
    n_actions: int | None = None,
) -> Graph:
    """Find out what the inputs are and which output is meant; as in ``read_onnx``.

    Where the number of actions is known, a width may say which input is the action.
    """
    if model.functions:
        try:
            model = inliner.inline_local_functions(model)
        except Exception as error:
            raise NetworkError(f"its functions cannot be written out: {error}") from error
    graph = model.graph
    if graph.sparse_initializer:
        raise NetworkError("the model has sparse initializers; store its weights densely")
    used = {node.domain for node in graph.node}
    for opset in model.opset_import:
        plain = opset.domain in ("", "ai.onnx")
        if plain and opset.version < 7 and used & {"", "ai.onnx"}:
            raise NetworkError(f"the model has opset {opset.version}; convert it to 7 or later")
    name, column = _output(graph, output)
    stored = {tensor.name for tensor in graph.initializer}
    found = tuple(_input(value) for value in graph.input if value.name not in stored)
    wanted = {k for _, node in nodes_for(graph, {name}) for k in taken(node)} | {name}
    given = tuple(value for value in found if value.name in wanted)
    if not given:
        raise NetworkError("the output does not depend on the input")
    actions, states, state_first = _roles(found if inputs is not None else given, inputs, n_actions)
    kept = tuple(value for value in found if value.name in {*actions, *states}) or given
    missing = [value.shown for value in given if value not in kept]
    if missing:
        raise NetworkError(f"inputs= leaves out {', '.join(missing)}, which the output needs")
    return Graph(model, kept, actions, states, state_first, name, column)


def stored_constants(graph: onnx.GraphProto, names: set[str]) -> Constants:
    """Return the initializers of these names.

    Raises
    ------
    NetworkError
        If two have one name, or one cannot be read.
    """
    found: Constants = {}
    for tensor in graph.initializer:
        if tensor.name in found:
            raise NetworkError(f"two initializers are named {tensor.name!r}")
        if tensor.name in names:
            try:
                found[tensor.name] = numpy_helper.to_array(tensor)
            except Exception as error:
                raise NetworkError(
                    f"the initializer {tensor.name!r} cannot be read: {error}"
                ) from error
    return found


def nodes_for(graph: onnx.GraphProto, names: set[str]) -> list[tuple[str, onnx.NodeProto]]:
    """Return the nodes that tensors need, in order, with what messages call them."""
    needed, found = set(names), []
    for position in range(len(graph.node) - 1, -1, -1):
        node = graph.node[position]
        if needed.intersection(node.output):
            needed.update(taken(node))
            found.append((label(position, node), node))
    return found[::-1]


def taken(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node takes, those that its graphs take from outside included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from taken(inner)
            yield from (value.name for value in graph.output)


def label(position: int, node: onnx.NodeProto) -> str:
    """Return what messages call a node."""
    domain = f" of {node.domain}" if node.domain not in ("", "ai.onnx", "ai.onnx.ml") else ""
    if node.name:
        return f"{node.op_type} node {node.name!r}{domain}"
    return f"{node.op_type} node without a name at position {position}{domain}"


def _input(value: onnx.ValueInfoProto) -> GraphInput:
    if not value.type.HasField("tensor_type"):
        raise NetworkError(f"the input {value.name!r} is not a tensor")
    kind = value.type.tensor_type
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except (KeyError, TypeError) as error:
        raise NetworkError(f"the input {value.name!r} is of no known type") from error
    if not kind.HasField("shape"):
        return GraphInput(value.name, None, dtype)
    dims = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    return GraphInput(value.name, dims, dtype)


def _output(graph: onnx.GraphProto, output: Output) -> tuple[str, int | None]:
    names = [value.name for value in graph.output]
    column: int | None = None
    if isinstance(output, tuple):
        output, column = output
    elif isinstance(output, int) and len(names) == 1:
        output, column = None, output
    shown = ", ".join(map(repr, names)) or "none"
    if output is None:
        if len(names) != 1:
            raise NetworkError(
                f"the network has several outputs: {shown}; choose one with output=, its name or"
                f" number"
                if names
                else "the network has no outputs"
            )
        return names[0], column
    if isinstance(output, str):
        if output not in names:
            raise NetworkError(f"there is no output {output!r}; the outputs are {shown}")
        return output, column
    if not 0 <= output < len(names):
        raise NetworkError(f"there is no output {output}; the {len(names)} outputs are {shown}")
    return names[output], column


def _roles(
    found: Sequence[GraphInput], inputs: Inputs, n_actions: int | None
) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return the names of action and state inputs, and whether one input has the state first."""
    names = [value.name for value in found]
    shown = ", ".join(value.shown for value in found)
    how = (
        'say which is which: inputs=("action", "state") in the order of the inputs, or'
        ' inputs={"action": name, "state": name}'
    )
    if inputs is None:
        if len(found) == 1:
            return (), (), False
        roles: list[str | None] = [role_of(name) for name in names]
        if len(found) == 2 and None in roles:
            known = next((role for role in roles if role), None)
            other = {"action": "state", "state": "action"}
            roles = [role or (other[known] if known else None) for role in roles]
        widths = [value.width for value in found]
        if None in roles and None not in widths and widths.count(n_actions) == 1:
            roles = ["action" if width == n_actions else "state" for width in widths]
        if None in roles or len(set(roles)) < 2:
            raise NetworkError(f"the network has several inputs: {shown}; {how}")
    elif isinstance(inputs, Mapping):
        if set(inputs) - {"action", "state"} or "action" not in inputs:
            raise ValueError(f"inputs= has {sorted(inputs)}; it needs 'action' and 'state'")
        parts = {
            role: (given,) if isinstance(given, str) else tuple(given)
            for role, given in inputs.items()
        }
        wrong = [name for given in parts.values() for name in given if name not in names]
        if wrong:
            raise NetworkError(f"there is no input {wrong[0]!r}; the inputs are {shown}")
        return parts["action"], parts.get("state", ()), False
    else:
        roles = list(inputs)
        if not set(roles) <= {"action", "state"} or "action" not in roles:
            raise ValueError(f"inputs= must name 'action' and 'state', got {tuple(inputs)}")
        if len(found) == 1 and len(roles) == 2 and set(roles) == {"action", "state"}:
            return (), (), roles[0] == "state"
        if len(roles) != len(found):
            raise NetworkError(f"inputs= names {len(roles)} inputs, the network has {shown}")
    return (
        tuple(n for n, role in zip(names, roles, strict=True) if role == "action"),
        tuple(n for n, role in zip(names, roles, strict=True) if role == "state"),
        False,
    )


def role_of(name: str) -> str | None:
    """Return ``"action"`` or ``"state"`` where a name says so."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = set(re.split(r"[^a-z]+", spaced))
    roles = [role for role, known in _WORDS.items() if words & known]
    if not roles:
        roles = [r for r, w in (("action", "action"), ("state", "state")) if w in spaced]
        roles += ["state"] if "observation" in spaced else []
    return roles[0] if len(roles) == 1 else None
