"""Q-networks drawn at random, of every kind that is read, as ONNX models.

``drawn_model(kind, rng)`` gives a model, ``drawn_network`` and ``drawn_value`` what is read of it
with what onnxruntime says of the same inputs: tests of formulations and solvers take theirs here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from milp_rl.formulations.networks.action_value import ActionValue
from milp_rl.formulations.networks.link import linked
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.networks.onnx_reader import read_onnx
from milp_rl.formulations.networks.onnx_value import onnx_value


class Sketch:
    """A graph in the making: tensors of shape (batch, features), by name."""

    def __init__(self, rng, widths, opset=18):
        self.rng, self.opset = rng, opset
        self.nodes, self.constants = [], {}
        self.inputs = dict(widths)
        self.width = dict(widths)

    def add(self, op, inputs, width=None, outputs=1, **attributes):
        """Add a node; return the name of its output, or a list of names."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        inputs = [inputs] if isinstance(inputs, str) else list(inputs)
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        for name in names:
            self.width[name] = self.width.get(inputs[0]) if width is None else width
        return names[0] if outputs == 1 else names

    def constant(self, values, dtype=np.float32):
        """Store a constant; return its name."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(values, dtype=dtype)
        return name

    def normal(self, *shape, scale=1.0):
        """Store normal numbers; return their name."""
        return self.constant(scale * self.rng.normal(size=shape))

    def dense(self, x, width=None, bias=True):
        """Add a dense layer, written in one of the forms that exporters write."""
        width = int(width or self.rng.integers(2, 7))
        before = self.width[x]
        scale = 1.0 / np.sqrt(before)
        if self.rng.random() < 0.5:
            weight = self.normal(width, before, scale=scale)
            return self.add("Gemm", [x, weight, self.normal(width, scale=0.5)], width, transB=1)
        y = self.add("MatMul", [x, self.normal(before, width, scale=scale)], width)
        return self.add("Add", [y, self.normal(width, scale=0.5)]) if bias else y

    def relu(self, x):
        """Add a ReLU."""
        return self.add("Relu", x)

    def some(self, *choices):
        """Return one of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def model(self, output, shapes=None):
        """Return the model with this tensor for its output."""
        inputs = [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, (shapes or {}).get(name, ("batch", width))
            )
            for name, width in self.inputs.items()
        ]
        nodes = [*self.nodes, helper.make_node("Identity", [output], ["q"])]
        value = onnx.ValueInfoProto(name="q")
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        value.type.tensor_type.shape.SetInParent()
        stored = [numpy_helper.from_array(v, k) for k, v in self.constants.items()]
        graph = helper.make_graph(nodes, "g", inputs, [value], stored)
        made = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )
        made.graph.output[0].type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(made).graph.output[0]
        inferred.type.tensor_type.shape.SetInParent()
        made.graph.output[0].CopyFrom(inferred)
        return made


def _residual(s, x):
    h = s.relu(s.dense(x))
    for _ in range(s.rng.integers(1, 4)):
        inner = s.relu(s.dense(h)) if s.rng.random() < 0.5 else s.dense(h)
        h = s.add(s.some("Add", "Sub", "Sum"), [h, s.dense(inner, s.width[h])])
        h = s.relu(h) if s.rng.random() < 0.5 else h
    return s.dense(h, 1)


def _dense(s, x):
    parts = [x]
    for _ in range(s.rng.integers(1, 4)):
        joined = s.add("Concat", parts, sum(s.width[p] for p in parts), axis=1)
        parts.append(s.relu(s.dense(joined)))
    joined = s.add("Concat", parts, sum(s.width[p] for p in parts), axis=-1)
    return s.dense(joined, 1)


def _dueling(s, x):
    h = s.relu(s.dense(x))
    value, gains = s.dense(h, 1), s.dense(s.relu(s.dense(h)), 4)
    mean = s.add("ReduceMean", [gains, s.constant([1], np.int64)], 1, keepdims=1)
    gains = s.add("Sub", [gains, mean])
    own = s.add("Slice", [gains, *(s.constant([k], np.int64) for k in (2, 3, 1))], 1)
    return s.add("Add", [value, own])


def _leaky(s, x):
    h = x
    for _ in range(s.rng.integers(1, 4)):
        z = s.dense(h)
        kind = s.rng.integers(4)
        if kind == 0:
            h = s.add("LeakyRelu", z, alpha=float(s.rng.uniform(-0.5, 1.5)))
        elif kind == 1:
            h = s.add("PRelu", [z, s.normal(s.width[z])])
        elif kind == 2:
            positive = s.add(s.some("Greater", "GreaterOrEqual"), [z, s.constant(0.0)])
            scaled = s.add("Mul", [z, s.constant(0.2)])
            h = s.add("Where", [positive, z, scaled])
        else:
            negative = s.add(s.some("Less", "LessOrEqual"), [z, s.constant(0.0)])
            if s.rng.random() < 0.5:
                negative = s.add("Not", negative)
            h = s.add("Mul", [s.add("Cast", negative, to=1), z])
    return s.dense(h, 1)


def _clip(s, x):
    h = x
    for _ in range(s.rng.integers(1, 4)):
        z = s.dense(h)
        low, high = sorted(s.rng.normal(size=2))
        kind = s.rng.integers(5)
        if kind == 0:
            h = s.add("Clip", [z, s.constant(low), s.constant(high)])
        elif kind == 1:
            h = (
                s.add("Clip", [z, s.constant(low)])
                if low < 0
                else s.add("Clip", [z, "", s.constant(high)])
            )
        elif kind == 2:
            h = s.add("HardSigmoid", z, alpha=float(s.rng.uniform(0.1, 1)), beta=0.4)
        elif kind == 3:
            h = s.add("Clip", [s.relu(z), s.constant(0.0), s.constant(0.6)])
        else:
            h = s.add("Shrink", z, lambd=0.3, bias=0.3)
    return s.dense(h, 1)


def _extremes(s, x):
    h = x
    for _ in range(s.rng.integers(1, 3)):
        width = int(s.rng.integers(2, 5))
        kind = s.rng.integers(5)
        if kind == 0:
            parts = [s.dense(h, width) for _ in range(s.rng.integers(2, 4))]
            h = s.add(s.some("Max", "Min"), parts)
        elif kind == 1:
            h = s.add("Abs", s.dense(h, width))
        elif kind == 2:
            h = s.add(s.some("Max", "Min"), [s.dense(h, width), s.normal(width)])
        elif kind == 3:
            axes = s.constant([1], np.int64)
            h = s.add(s.some("ReduceMax", "ReduceMin"), [s.dense(h, 5), axes], 1)
        else:
            split = s.add("Split", s.dense(h, 2 * width), width, 2, axis=1, num_outputs=2)
            h = s.add("Max", split)  # maxout
    h = s.add("ReduceL1", [s.dense(h), s.constant([1], np.int64)], 1) if s.rng.random() < 0.2 else h
    return s.dense(h, 1)


def _images(s, x):
    channels, size = int(s.rng.integers(1, 3)), 4
    h = s.dense(x, channels * size * size)
    h = s.add("Reshape", [h, s.constant([-1, channels, size, size], np.int64)])
    pads = [int(p) for p in s.rng.integers(0, 2, 4)]
    if s.rng.random() < 0.7:
        kernel = s.normal(2, channels, 2, 2, scale=0.5)
        h = s.add(
            "Conv", [h, kernel, s.normal(2)], pads=pads, strides=[1, int(s.rng.integers(1, 3))]
        )
        h = s.relu(h) if s.rng.random() < 0.7 else h
        channels = 2
    if s.rng.random() < 0.3:
        h = s.add("Pad", [h, s.constant([0, 0, 1, 0, 0, 0, 0, 1], np.int64)])
    if s.rng.random() < 0.5:
        kind = {"kernel_shape": [2, 2], "strides": s.some([1, 1], [2, 1]), "pads": pads}
        kind["ceil_mode"] = int(s.rng.integers(2))
        if s.rng.random() < 0.5:
            h = s.add("MaxPool", h, **kind)
        else:
            h = s.add("AveragePool", h, **kind, count_include_pad=int(s.rng.integers(2)))
    if s.rng.random() < 0.3:
        values = [s.constant(s.rng.uniform(0.5, 1.5, channels)) for _ in range(4)]
        h = s.add("BatchNormalization", [h, *values])
    h = s.add(s.some("GlobalAveragePool", "GlobalMaxPool"), h)
    return s.dense(s.add("Flatten", h, channels), 1)


def _normalised(s, x):
    width = s.width[x]
    h = s.add("Sub", [x, s.normal(width)])
    h = s.add("Div", [h, s.constant(s.rng.uniform(0.5, 2, width))])
    h = s.dense(h)
    for _ in range(s.rng.integers(1, 3)):
        values = [s.normal(s.width[h]) for _ in range(3)]
        values.append(s.constant(s.rng.uniform(0.1, 2, s.width[h])))
        h = s.add("BatchNormalization", [h, *values], epsilon=1e-3)
        h = s.dense(s.relu(h))
    q = s.dense(h, 1)
    q = s.add("Mul", [s.constant(3.0), q])
    q = s.add("Neg", s.add("Add", [q, s.constant(-1.5)]))
    return s.add("Squeeze", [q, s.constant([1], np.int64)]) if s.rng.random() < 0.5 else q


PLAIN: dict[str, Callable] = {
    "residual": _residual,
    "dense": _dense,
    "dueling": _dueling,
    "leaky": _leaky,
    "clip": _clip,
    "extremes": _extremes,
    "images": _images,
    "normalised": _normalised,
}


def _encoded(s, state):
    """Anything of the state: smooth activations, normalisation, attention."""
    h = s.dense(state)
    for _ in range(s.rng.integers(1, 3)):
        h = s.add(s.some("Tanh", "Sigmoid", "Softplus", "Erf"), h)
        if s.rng.random() < 0.5:
            width = s.width[h]
            h = s.add("LayerNormalization", [h, s.normal(width), s.normal(width)])
        h = s.dense(h)
    if s.rng.random() < 0.3:
        weights = s.add("Softmax", s.dense(h, s.width[h]), axis=-1)
        h = s.add("Mul", [h, weights])
    return h


def _two_inputs(s, action, state):
    h = s.add("Concat", [state, action], s.width[state] + s.width[action], axis=1)
    h = s.relu(s.dense(h))
    return s.dense(s.add("Add", [s.relu(s.dense(h, 3)), s.dense(action, 3)]), 1)


def _deep_state(s, action, state):
    h = _encoded(s, state)
    joined = s.add("Concat", [action, h], s.width[action] + s.width[h], axis=1)
    z = s.relu(s.dense(joined))
    return s.dense(s.add("Add", [s.add("LeakyRelu", s.dense(z, 3)), s.dense(h, 3)]), 1)


def _gated(s, action, state):
    h = _encoded(s, state)
    gate = s.add("Sigmoid", s.dense(h, s.width[action]))
    z = s.dense(s.add("Mul", [action, gate]), 4)
    z = s.relu(s.add("Add", [z, s.dense(h, 4)]))
    scale = s.add("Tanh", s.dense(h, 4))
    return s.dense(s.add(s.some("Mul", "Add"), [scale, s.add("Abs", z)]), 1)


def _weights_of_state(s, action, state):
    h, n, k = _encoded(s, state), s.width[action], int(s.rng.integers(2, 5))
    matrix = s.add("Reshape", [s.dense(h, n * k), s.constant([-1, n, k], np.int64)])
    row = s.add("Unsqueeze", [action, s.constant([1], np.int64)])
    z = s.add("Squeeze", [s.add("MatMul", [row, matrix], k), s.constant([1], np.int64)], k)
    z = s.relu(s.add("Add", [z, s.dense(h, k)]))
    return s.dense(z, 1)


def _chosen_by_state(s, action, state):
    h = _encoded(s, state)
    first = s.add("Slice", [h, *(s.constant([i], np.int64) for i in (0, 1, 1))], 1)
    positive = s.add("Greater", [first, s.constant(0.0)])
    z = s.add("Where", [positive, s.dense(action, 4), s.dense(action, 4)], 4)
    best = s.add("ArgMax", h, axis=1, keepdims=1)
    best = s.add("Mod", [best, s.constant([[4]], np.int64)])
    one = s.add("GatherElements", [s.relu(z), best], 1, axis=1)
    return s.add("Add", [s.dense(s.relu(z), 1), one])


def _per_arm(s, action, state):
    h, n = _encoded(s, state), s.width[action]
    arms = s.add("Reshape", [s.dense(h, n * 3), s.constant([-1, n, 3], np.int64)])
    column = s.add("Unsqueeze", [action, s.constant([2], np.int64)])
    taken = s.add("Mul", [column, arms])
    pooled = s.add("ReduceSum", [taken, s.constant([1], np.int64)], 3, keepdims=0)
    return s.dense(s.relu(s.dense(pooled)), 1)


BY_STATE: dict[str, Callable] = {
    "two inputs": _two_inputs,
    "deep state": _deep_state,
    "gated": _gated,
    "weights of the state": _weights_of_state,
    "chosen by the state": _chosen_by_state,
    "arms": _per_arm,
}

_LINKS = ("Sigmoid", "Tanh", "Exp", "Softplus")


@dataclass
class Drawn:
    """A model, what is read of it, and what onnxruntime says."""

    model: onnx.ModelProto
    n_actions: int
    state_dim: int
    _session: onnxruntime.InferenceSession | None = field(default=None, repr=False)

    def run(self, **inputs):
        """Return the output for each row, by onnxruntime in float32, one row after another."""
        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(
                self.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        rows = len(next(iter(inputs.values())))
        found = [
            self._session.run(
                None, {k: np.asarray(v[i : i + 1], np.float32) for k, v in inputs.items()}
            )[0]
            for i in range(rows)
        ]
        return np.array(found, dtype=np.float64).reshape(rows)


def drawn_network(kind: str, rng, n_inputs: int = 5) -> tuple[Network, Callable]:
    """Return a network of one output, and its values (rows,) by onnxruntime."""
    sketch = Sketch(rng, {"x": n_inputs})
    output = PLAIN[kind](sketch, "x")
    if rng.random() < 0.2:
        output = sketch.add(sketch.some(*_LINKS), output)
    drawn = Drawn(sketch.model(output), n_inputs, 0)
    return read_onnx(drawn.model), lambda x: drawn.run(x=x)


def drawn_value(
    kind: str, rng, n_actions: int = 5, state_dim: int = 3
) -> tuple[ActionValue, Callable]:
    """Return an action value, and the values (rows,) of states and actions by onnxruntime.

    Of the kinds of `drawn_network` they are of one input, [action, state] or [state, action].
    """
    if kind in PLAIN:
        sketch = Sketch(rng, {"x": n_actions + state_dim})
        output = PLAIN[kind](sketch, "x")
        first = bool(rng.integers(2))
        drawn = Drawn(sketch.model(output), n_actions, state_dim)
        order = ("action", "state") if first else ("state", "action")
        value = onnx_value(drawn.model, n_actions, inputs=order)

        def values(states, actions):
            parts = [actions, states] if first else [states, actions]
            return drawn.run(x=np.concatenate(parts, axis=1))

        return value, values
    names = {"action": n_actions, "state": state_dim}
    if rng.random() < 0.5:
        names = dict(reversed(names.items()))
    sketch = Sketch(rng, names)
    output = BY_STATE[kind](sketch, "action", "state")
    if rng.random() < 0.2:
        output = sketch.add(sketch.some(*_LINKS), output)
    drawn = Drawn(sketch.model(output), n_actions, state_dim)
    value = onnx_value(drawn.model, n_actions)
    return value, lambda states, actions: drawn.run(state=states, action=actions)


def agree(value: ActionValue | Network, given, expected) -> None:
    """Assert that values without the link are those of onnxruntime, to 1e-5 of their size."""
    expected = np.asarray(expected)
    found = np.asarray(linked(value.link, given))
    scale = np.maximum(1.0, np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    beyond = found > np.finfo(np.float32).max  # an exponential of single precision is infinite
    np.testing.assert_allclose(
        np.where(beyond, np.inf, found), expected, rtol=1e-5, atol=1e-5 * scale
    )
