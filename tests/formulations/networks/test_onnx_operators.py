"""Every operator that is read, in the forms that exporters write, against onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_reader import read_onnx
from milp_rl.formulations.networks.onnx_walk import OPERATORS

RNG = np.random.default_rng(2)


def node(op, inputs, output, domain="", **attributes):
    return helper.make_node(op, inputs.split(), [*output.split()], domain=domain, **attributes)


def ints(*values):
    return np.array(values, dtype=np.int64)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def positive(*shape):
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


def check(nodes, constants, shape, opset=18, dtype=TensorProto.FLOAT):
    """Read a graph from ``x`` to ``y``, compare at random inputs, and return the network."""
    graph = helper.make_graph(
        [n for n in nodes if n is not None],
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 2)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    made.graph.output[0].type.tensor_type.shape.SetInParent()
    network = read_onnx(made)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    del made.graph.output[0].type.tensor_type.shape.dim[:]
    made.graph.output[0].type.tensor_type.ClearField("shape")
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    rng, seen = np.random.default_rng(5), []
    for _ in range(12):
        x = rng.normal(size=[1 if isinstance(d, str) else d for d in shape]).astype(np.float32)
        (y,) = session.run(None, {"x": x})
        seen.append(y.reshape(-1))
        found = network.forward(x.reshape(-1))
        np.testing.assert_allclose(found, y.reshape(-1), rtol=1e-5, atol=1e-5)
    assert np.ptp(seen, axis=0).max() > 0, "the outputs never change: nothing was tested"
    return network


# Operator, other inputs, attributes, shape of the data, opset.
CASES = {
    "Add": ("Add", {"c": normal(1, 4)}, {}, ("b", 4)),
    "Sub": ("Sub", {"c": normal(4)}, {}, ("b", 4)),
    "Mul": ("Mul", {"c": normal(1)}, {}, ("b", 4)),
    "Div": ("Div", {"c": positive(4)}, {}, ("b", 4)),
    "Neg": ("Neg", {}, {}, ("b", 4)),
    "Identity": ("Identity", {}, {}, ("b", 4)),
    "Dropout": ("Dropout", {"r": np.float32(0.5)}, {}, ("b", 4)),
    "CastLike": ("CastLike", {"c": normal(1)}, {}, ("b", 4)),
    "MatMul of matrices": ("MatMul", {"c": normal(4, 5)}, {}, (1, 3, 4)),
    "MatMul of stacks": ("MatMul", {"c": normal(3, 4, 5)}, {}, (1, 3, 2, 4)),
    "MatMul of a vector": ("MatMul", {"c": normal(4)}, {}, ("b", 4)),
    "Gemm": ("Gemm", {"c": normal(3, 4), "d": normal(3)}, {"transB": 1, "alpha": 2.0}, ("b", 4)),
    "Einsum": ("Einsum", {"c": normal(4, 3, 2)}, {"equation": "bi,ijk->bkj"}, ("b", 4)),
    "Einsum that is implicit": ("Einsum", {"c": normal(4, 3)}, {"equation": "zi,ij"}, ("b", 4)),
    "Einsum of one": ("Einsum", {}, {"equation": "bij->bj"}, (1, 3, 4)),
    "Conv": ("Conv", {"w": normal(3, 2, 2, 2), "d": normal(3)}, {}, ("b", 2, 4, 5)),
    "Conv with groups": (
        "Conv",
        {"w": normal(4, 1, 3, 2)},
        {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]},
        ("b", 2, 5, 5),
    ),
    "Conv that keeps the size": (
        "Conv",
        {"w": normal(2, 1, 3)},
        {"auto_pad": "SAME_UPPER"},
        (1, 1, 7),
    ),
    "Conv padded below": (
        "Conv",
        {"w": normal(2, 1, 2)},
        {"auto_pad": "SAME_LOWER", "strides": [2]},
        (1, 1, 7),
    ),
    "Conv of volumes": ("Conv", {"w": normal(2, 1, 2, 2, 2)}, {}, (1, 1, 3, 3, 3)),
    "BatchNormalization": (
        "BatchNormalization",
        {"s": normal(3), "b": normal(3), "m": normal(3), "v": positive(3)},
        {"epsilon": 0.01},
        ("b", 3, 2, 2),
    ),
    "BatchNormalization of rows": (
        "BatchNormalization",
        {"s": normal(3), "b": normal(3), "m": normal(3), "v": positive(3)},
        {},
        ("b", 3),
    ),
    "AveragePool": ("AveragePool", {}, {"kernel_shape": [2, 3], "strides": [2, 1]}, (1, 2, 5, 5)),
    "AveragePool with padding": (
        "AveragePool",
        {},
        {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 2], "ceil_mode": 1},
        (1, 2, 5, 4),
    ),
    "AveragePool that counts padding": (
        "AveragePool",
        {},
        {
            "kernel_shape": [3],
            "pads": [1, 1],
            "strides": [2],
            "ceil_mode": 1,
            "count_include_pad": 1,
        },
        (1, 2, 6),
    ),
    "GlobalAveragePool": ("GlobalAveragePool", {}, {}, (1, 2, 3, 3)),
    "MaxPool": ("MaxPool", {}, {"kernel_shape": [2, 2]}, (1, 2, 4, 4)),
    "MaxPool that overlaps": (
        "MaxPool",
        {},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1]},
        (1, 1, 5, 5),
    ),
    "MaxPool with ceiling": (
        "MaxPool",
        {},
        {"kernel_shape": [3], "strides": [2], "ceil_mode": 1, "dilations": [2]},
        (1, 2, 8),
    ),
    "GlobalMaxPool": ("GlobalMaxPool", {}, {}, (1, 2, 3, 3)),
    "ReduceSum": ("ReduceSum", {"a": ints(-1)}, {"keepdims": 0}, ("b", 3, 4)),
    "ReduceMean": ("ReduceMean", {"a": ints(1, 2)}, {}, ("b", 3, 4)),
    "ReduceMean of all": ("ReduceMean", {}, {"keepdims": 0}, (1, 4)),
    "ReduceMax": ("ReduceMax", {"a": ints(1)}, {"keepdims": 0}, ("b", 3, 4)),
    "ReduceMin": ("ReduceMin", {"a": ints(-1)}, {}, ("b", 5)),
    "ReduceL1": ("ReduceL1", {"a": ints(1)}, {}, ("b", 4)),
    "Relu": ("Relu", {}, {}, ("b", 4)),
    "ThresholdedRelu": ("ThresholdedRelu", {}, {"alpha": 0.0}, ("b", 4)),
    "LeakyRelu": ("LeakyRelu", {}, {"alpha": 0.3}, ("b", 4)),
    "LeakyRelu that is steep": ("LeakyRelu", {}, {"alpha": 1.7}, ("b", 4)),
    "PRelu": ("PRelu", {"s": normal(3, 1, 1)}, {}, ("b", 3, 2, 2)),
    "Abs": ("Abs", {}, {}, ("b", 4)),
    "Clip": ("Clip", {"l": np.float32(-0.5), "h": np.float32(0.7)}, {}, ("b", 4)),
    "Clip from below": ("Clip", {"l": np.float32(0.2)}, {}, ("b", 4)),
    "Clip at infinity": ("Clip", {"l": np.float32(-0.2), "h": np.float32(np.inf)}, {}, ("b", 4)),
    "HardSigmoid": ("HardSigmoid", {}, {"alpha": 0.3, "beta": 0.4}, ("b", 4)),
    "Shrink": ("Shrink", {}, {"lambd": 0.3, "bias": 0.3}, ("b", 4)),
    "Max": ("Max", {"c": 0.5 * normal(4), "d": np.float32([-0.2])}, {}, ("b", 4)),
    "Min": ("Min", {"c": normal(1, 4)}, {}, ("b", 4)),
    "Sum": ("Sum", {"c": normal(1, 4), "d": normal(4)}, {}, ("b", 4)),
    "Mean": ("Mean", {"c": normal(1, 4), "d": normal(4)}, {}, ("b", 4)),
    "Reshape": ("Reshape", {"s": ints(0, 2, -1)}, {}, ("b", 4)),
    "Flatten": ("Flatten", {}, {"axis": 2}, (1, 2, 3, 2)),
    "Squeeze": ("Squeeze", {"a": ints(1, -1)}, {}, ("b", 1, 3, 1)),
    "Unsqueeze": ("Unsqueeze", {"a": ints(1, -1)}, {}, ("b", 3)),
    "Transpose": ("Transpose", {}, {"perm": [2, 0, 1]}, (1, 2, 3)),
    "Transpose in reverse": ("Transpose", {}, {}, (1, 2, 3)),
    "Slice": ("Slice", {"s": ints(1), "e": ints(100), "a": ints(1), "p": ints(2)}, {}, ("b", 6)),
    "Slice in reverse": (
        "Slice",
        {"s": ints(-1), "e": ints(-(2**62)), "a": ints(-1), "p": ints(-2)},
        {},
        ("b", 6),
    ),
    "Gather": ("Gather", {"i": ints(2, -1, 0)}, {"axis": 1}, ("b", 4)),
    "Gather of a matrix": ("Gather", {"i": np.array([[0, 1], [2, 2]])}, {"axis": 2}, (1, 2, 3)),
    "GatherElements": ("GatherElements", {"i": np.array([[2, -1, 0]])}, {"axis": 1}, ("b", 4)),
    "GatherND": ("GatherND", {"i": np.array([[0, 1], [0, 0]])}, {}, (1, 2, 3)),
    "Expand": ("Expand", {"s": ints(2, 1, 4)}, {}, ("b", 4)),
    "Tile": ("Tile", {"r": ints(1, 2)}, {}, ("b", 3)),
    "Pad": ("Pad", {"p": ints(0, 1, 0, 2), "v": np.float32(0.5)}, {}, ("b", 3)),
    "Pad along an axis": (
        "Pad",
        {"p": ints(2, -1), "v": np.float32(0), "a": ints(1)},
        {},
        ("b", 3),
    ),
    "Pad that reflects": ("Pad", {"p": ints(0, 2, 0, 1)}, {"mode": "reflect"}, ("b", 4)),
    "DepthToSpace": ("DepthToSpace", {}, {"blocksize": 2}, (1, 8, 2, 2)),
    "DepthToSpace by columns": ("DepthToSpace", {}, {"blocksize": 2, "mode": "CRD"}, (1, 8, 2, 2)),
    "SpaceToDepth": ("SpaceToDepth", {}, {"blocksize": 2}, (1, 2, 4, 4)),
    "Scaler": ("Scaler", {}, {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 2.0, 1.0]}, ("b", 3)),
    "LinearRegressor": (
        "LinearRegressor",
        {},
        {"coefficients": [1.0, 2.0, 3.0, -1.0, 0.5, 0.25], "intercepts": [0.5, -1.0], "targets": 2},
        ("b", 3),
    ),
}


@pytest.mark.parametrize("before", [False, True], ids=["of inputs", "of neurons"])
@pytest.mark.parametrize("name", CASES)
def test_operator(name, before):
    op, constants, attributes, shape = CASES[name]
    domain = "ai.onnx.ml" if op in ("Scaler", "LinearRegressor") else ""
    constants = {f"_{key}": value for key, value in constants.items()}
    nodes = [
        node("Abs", "x", "h") if before else None,
        node("Sub", "h _third", "z") if before else None,
        node(op, " ".join(["z" if before else "x", *constants]), "a", domain, **attributes),
        node("Sub", "a _third", "y"),
    ]
    check(nodes, {**constants, "_third": np.float32(0.3)}, shape)


@pytest.mark.parametrize("opset", [7, 9, 10, 12])
def test_older_forms_with_attributes(opset):
    slicing = (
        node("Slice", "p", "s", starts=[1], ends=[-1], axes=[1])
        if opset < 10
        else node("Slice", "p st en ax", "s")
    )
    clip = node("Clip", "r", "c", min=-0.5, max=0.5) if opset < 11 else node("Clip", "r lo hi", "c")
    padding = (
        node("Pad", "x", "p", pads=[0, 1, 0, 2], value=0.5)
        if opset < 11
        else node("Pad", "x pads half", "p")
    )
    nodes = [
        padding,
        slicing,
        node("Unsqueeze", "s", "u", axes=[1]),
        node("ReduceSum", "u", "r1", axes=[1], keepdims=1),
        node("Squeeze", "r1", "q", axes=[1]),
        node("Split", "q", "r q2", axis=1, split=[2, 3]),
        node("ReduceMax", "q2", "best", axes=[1]),
        clip,
        node("Add", "c best", "y"),
    ]
    constants = {
        "st": ints(1),
        "en": ints(-1),
        "ax": ints(1),
        "lo": np.float32(-0.5),
        "hi": np.float32(0.5),
        "pads": ints(0, 1, 0, 2),
        "half": np.float32(0.5),
    }
    check(nodes, constants if opset >= 10 else {}, ("b", 4), opset)


def test_shapes_that_the_graph_computes():
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "batch", axis=0),
        node("Unsqueeze", "batch axis", "b1"),
        node("Concat", "b1 rest", "target", axis=0),
        node("Reshape", "x target", "r"),
        node("Shape", "r", "of", start=1),
        node("ConstantOfShape", "of", "zeros"),
        node("Max", "r zeros", "m"),
        node("Size", "m", "size"),
        node("Cast", "size", "sf", to=TensorProto.FLOAT),
        node("Div", "m sf", "d"),
        node("Range", "zero two one", "range"),
        node("Gather", "d range", "y", axis=1),
    ]
    constants = {
        "zero": np.int64(0),
        "one": np.int64(1),
        "two": np.int64(2),
        "axis": ints(0),
        "rest": ints(2, -1),
    }
    check(nodes, constants, ("b", 6))


@pytest.mark.parametrize("op", ["Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_choices_as_torch_writes_them(op):
    tail = {"z": np.float32(0), "c": np.float32(0.4), "a": np.float32(0.1), "k": np.float32(0.36)}
    leaky = [node(op, "x z", "w"), node("Mul", "x a", "b"), node("Where", "w x b", "y")]
    assert check(leaky, tail, ("b", 3)).n_outputs == 3
    switched = [node(op, "z x", "w"), node("Mul", "x a", "b"), node("Where", "w b x", "y")]
    check(switched, tail, ("b", 3))
    threshold = [  # x where x > 0.4, and a line through the same point elsewhere
        node(op, "x c", "w"),
        node("Mul", "x a", "b0"),
        node("Add", "b0 k", "b"),
        node("Where", "w x b", "y"),
    ]
    check(threshold, tail, ("b", 3))
    masked = [
        node(op, "x z", "w"),
        node("Not", "w", "n"),
        node("Cast", "n", "m", to=1),
        node("Mul", "m x", "y"),
    ]
    check(masked, tail, ("b", 3))


def test_choices_by_constants():
    nodes = [
        node("Relu", "x", "h"),
        node("Where", "mask h x", "w"),
        node("Where", "mask c w", "y"),
    ]
    mask = np.array([True, False, True])
    check(nodes, {"mask": np.roll(mask, 1), "c": normal(3)}, ("b", 3))


def test_choices_that_jump_are_refused():
    nodes = [node("Greater", "x z", "w"), node("Where", "w x one", "y", name="jump")]
    with pytest.raises(NetworkError, match=r"node 'jump': .* jump there"):
        check(nodes, {"z": np.float32(0), "one": np.float32(1)}, ("b", 3))


def test_neurons_that_are_known_or_not_needed_are_left_out():
    nodes = [
        node("MatMul", "x W", "a"),
        node("Pad", "a pads", "p"),  # constants among them
        node("Relu", "p", "h"),
        node("Slice", "h s e ax", "part"),  # and some that nothing needs
        node("ReduceSum", "part ax", "y"),
    ]
    constants = {
        "W": normal(3, 4),
        "pads": ints(0, 2, 0, 0),
        "s": ints(0),
        "e": ints(4),
        "ax": ints(1),
    }
    network = check(nodes, constants, ("b", 3))
    assert [len(layer.bias) for layer in network.layers] == [2, 1]


def test_parallel_branches_are_one_layer_and_skips_are_real():
    nodes = [
        *(node("MatMul", f"x W{i}", f"a{i}") for i in range(3)),
        *(node("Relu", f"a{i}", f"h{i}") for i in range(3)),
        node("Concat", "h0 h1 h2", "y", axis=1),
    ]
    network = check(nodes, {f"W{i}": normal(3, 2) for i in range(3)}, ("b", 3))
    assert network.is_chain
    assert [len(layer.bias) for layer in network.layers] == [6, 6]
    nodes = [
        node("Relu", "x", "h"),
        node("MatMul", "h W", "a"),
        node("Relu", "a", "g"),
        node("Add", "h g", "y"),
    ]
    network = check(nodes, {"W": normal(3, 3)}, ("b", 3))
    assert [source for source, _ in network.layers[-1].skips] == [0]


def test_a_chain_keeps_its_neurons():
    weight = normal(3, 4)
    weight[:, 1] = 0
    nodes = [node("MatMul", "x W", "a"), node("Relu", "a", "h"), node("MatMul", "h V", "y")]
    network = check(
        nodes, {"W": weight, "V": np.zeros((4, 1), "f4") + np.eye(4, 1, -2, "f4")}, ("b", 3)
    )
    assert (network.layers[0].weight == weight.T).all()


def test_pools_take_few_neurons():
    nodes = [node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[1, 1])]
    network = check(nodes, {}, (1, 1, 8, 8))
    assert sum(len(layer.bias) for layer in network.hidden) <= 4 * 64


def test_every_operator_is_tried():
    tried = {op for op, *_ in CASES.values()} | {
        *("Constant", "Cast", "Split", "Concat", "Shape", "Size", "ConstantOfShape", "Range"),
        *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Where"),
    }
    assert set(OPERATORS) <= tried
