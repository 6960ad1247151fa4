import io
import logging
import subprocess
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_reader import read_metadata, read_onnx

RNG = np.random.default_rng(7)
W43 = RNG.normal(size=(4, 3)).astype(np.float32)
W24 = RNG.normal(size=(2, 4)).astype(np.float32)
B4 = RNG.normal(size=4).astype(np.float32)
B2 = RNG.normal(size=2).astype(np.float32)


def model(nodes, constants=(), shape=("batch", 3), *, dtype=TensorProto.FLOAT, opset=18, ir=8):
    """A model whose nodes go from ``x`` to ``y``; constants are initializers by name."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, [])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(constants).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    (output,) = graph.output
    output.type.tensor_type.ClearField("shape")
    output.CopyFrom(onnx.shape_inference.infer_shapes(made).graph.output[0])
    output.type.tensor_type.shape.SetInParent()  # the checker wants one, also where it is unknown
    made.graph.output[0].CopyFrom(output)
    return made


def node(op, inputs, output, name="", **attributes):
    return helper.make_node(op, inputs.split(), [output], name, **attributes)


def assert_same_as_onnxruntime(source, shape=None, n=20):
    """Compare on random samples; returns the network."""
    network = read_onnx(source)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    data = source if isinstance(source, bytes) else source.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    dtype = np.float64 if "double" in entry.type else np.float32
    declared = [d if isinstance(d, int) else 1 for d in entry.shape]
    rng = np.random.default_rng(11)
    seen = []
    for _ in range(n):
        x = rng.normal(size=shape or declared).astype(dtype)
        (y,) = session.run(None, {entry.name: x})
        seen.append(y)
        expected = y.reshape(-1, network.n_outputs)
        np.testing.assert_allclose(
            network.forward(x.reshape(-1, network.n_inputs)), expected, rtol=1e-5, atol=1e-5
        )
    assert np.ptp(seen, axis=0).max() > 0, "the outputs never change: nothing was tested"
    return network


def torch_onnx(module, x, *, dynamo, opset, batch=True, names=("x",)):
    """Export quietly; returns the bytes."""
    logging.getLogger("torch.onnx._internal.exporter").setLevel(logging.ERROR)
    inputs = x if isinstance(x, tuple) else (x,)
    options = {"opset_version": opset, "input_names": list(names)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            dim = torch.export.Dim("batch")
            shapes = tuple({0: dim} for _ in inputs) if batch else None
            program = torch.onnx.export(
                module, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False, **options
            )
            return program.model_proto.SerializeToString()
        file = io.BytesIO()
        axes = {name: {0: "batch"} for name in names} if batch else None
        torch.onnx.export(module, inputs, file, dynamo=False, dynamic_axes=axes, **options)
        return file.getvalue()


def sequential():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Identity(),
        nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU()),
        nn.Linear(4, 3),
        nn.Linear(3, 2),
    ).eval()


class TestWhatExportersWrite:
    @pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
    @pytest.mark.parametrize("batch", [True, False])
    @pytest.mark.parametrize("shape", [(1, 6), (1, 2, 3)])
    def test_torchscript_exporter(self, opset, batch, shape):
        data = torch_onnx(sequential(), torch.zeros(shape), dynamo=False, opset=opset, batch=batch)
        assert assert_same_as_onnxruntime(data).n_inputs == 6

    @pytest.mark.parametrize("opset", [18, 23])
    @pytest.mark.parametrize("shape", [(2, 6), (2, 2, 3)])
    def test_dynamo_exporter(self, opset, shape):
        data = torch_onnx(sequential(), torch.zeros(shape), dynamo=True, opset=opset)
        assert assert_same_as_onnxruntime(data).n_inputs == 6

    @pytest.mark.parametrize("dynamo", [True, False])
    def test_without_batch_axis(self, dynamo):
        module = sequential()[1:]
        data = torch_onnx(module, torch.zeros(6), dynamo=dynamo, opset=18, batch=False)
        assert_same_as_onnxruntime(data)

    @pytest.mark.parametrize("dynamo", [True, False])
    def test_double_precision_is_exact(self, dynamo):
        module = sequential().double()
        x = torch.randn(2, 6, dtype=torch.float64)
        network = read_onnx(torch_onnx(module, x, dynamo=dynamo, opset=18))
        np.testing.assert_allclose(network.forward(x), module(x).detach(), atol=1e-14)

    @pytest.mark.parametrize("activation", ["relu", "identity"])
    @pytest.mark.parametrize("outputs", [1, 2])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_scikit_learn(self, activation, outputs, dtype):
        from skl2onnx import to_onnx
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        x = np.random.default_rng(0).normal(size=(40, 3)).astype(dtype)
        targets = np.abs(x[:, 0]) if outputs == 1 else np.abs(x[:, :2])
        regressor = MLPRegressor(
            hidden_layer_sizes=(5, 4), activation=activation, max_iter=30, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            regressor.fit(x, targets)
        exported = to_onnx(regressor, x[:1])
        network = assert_same_as_onnxruntime(exported)
        predicted = regressor.predict(x).reshape(40, outputs)
        np.testing.assert_allclose(network.forward(x), predicted, atol=1e-5)

    def test_keras_form(self):
        nodes = [
            node("MatMul", "x W0", "a"),
            node("Add", "a b0", "b"),
            node("Relu", "b", "c"),
            node("MatMul", "c W1", "d"),
            node("Add", "d b1", "y"),
        ]
        constants = {"W0": W43[:, :1].T, "b0": B4, "W1": W24.T[:, :1], "b1": B2[:1]}
        for shape in (("batch", 1), (5, 1), (1, 1)):
            network = assert_same_as_onnxruntime(model(nodes, constants, shape, opset=9, ir=4))
            assert (network.n_inputs, network.n_outputs) == (1, 1)

    @pytest.mark.parametrize("shape", [("batch", 3), (1, 3)])
    def test_gemm_with_and_without_transposed_weights(self, shape):
        nodes = [
            node("Gemm", "x W0 b0", "a", transB=0, alpha=1.0, beta=1.0),
            node("Relu", "a", "b"),
            node("Gemm", "b W1 b1", "y", transB=1, alpha=1.0, beta=1.0),
        ]
        constants = {"W0": W43.T, "b0": B4, "W1": W24, "b1": B2}
        assert_same_as_onnxruntime(model(nodes, constants, shape, opset=9, ir=4))

    def test_gemm_with_an_input_declared_as_vector(self):
        nodes = [node("Gemm", "x W0 b0", "a", transB=1), node("Relu", "a", "y")]
        network = read_onnx(model(nodes, {"W0": W43, "b0": B4}, (3,)))
        x = RNG.normal(size=3)
        np.testing.assert_allclose(network.forward(x), np.maximum(W43 @ x + B4, 0), atol=1e-6)


class TestForms:
    @pytest.mark.parametrize("bias", [np.float32(0.5), B4[:1], B4, B4[None], B4[None, :1]])
    def test_gemm_factors_and_bias_shapes(self, bias):
        nodes = [node("Gemm", "x W b", "y", alpha=0.5, beta=-3.0, transB=1)]
        assert_same_as_onnxruntime(model(nodes, {"W": W43, "b": bias}))

    def test_gemm_without_bias(self):
        assert_same_as_onnxruntime(model([node("Gemm", "x W", "y", transB=1)], {"W": W43}))
        unnamed = helper.make_node("Gemm", ["x", "W", ""], ["y"], transB=1)
        assert_same_as_onnxruntime(model([unnamed], {"W": W43}))

    @pytest.mark.parametrize("order", ["a b", "b a"])
    @pytest.mark.parametrize("bias", [np.float32(0.5), B4, B4[None], B4[None, None]])
    def test_add_in_either_order(self, order, bias):
        nodes = [node("MatMul", "x W", "a"), node("Add", order, "c"), node("Relu", "c", "y")]
        assert_same_as_onnxruntime(model(nodes, {"W": W43.T, "b": bias}))

    def test_add_before_between_and_after_layers(self):
        nodes = [
            node("Add", "x b3", "a"),
            node("Relu", "a", "b"),
            node("Add", "b b3", "c"),
            node("MatMul", "c W", "d"),
            node("Add", "d b4", "e"),
            node("Add", "b4 e", "f"),
            node("Relu", "f", "g"),
            node("Relu", "g", "h"),
            node("Add", "h b4", "y"),
        ]
        constants = {"W": W43.T, "b3": B4[:3], "b4": B4}
        assert_same_as_onnxruntime(model(nodes, constants))

    @pytest.mark.parametrize("shape", [(3,), (3, 1), ("n", 1)])
    def test_weights_on_the_left_of_a_vector_or_column(self, shape):
        column = len(shape) == 2
        nodes = [
            node("MatMul", "W0 x", "a"),
            node("Add", "a b0", "b"),
            node("Relu", "b", "c"),
            node("MatMul", "W1 c", "d"),
            node("Add", "b1 d", "y"),
        ]
        constants = {"W0": W43, "W1": W24, "b0": B4, "b1": B2}
        if column:
            constants |= {"b0": B4[:, None], "b1": B2[:, None]}
        network = assert_same_as_onnxruntime(
            model(nodes, constants, shape), shape=(3, 1) if column else (3,)
        )
        assert (network.n_inputs, network.n_outputs) == (3, 2)

    def test_column_turned_into_a_row(self):
        nodes = [
            node("MatMul", "W0 x", "a"),
            node("Reshape", "a s", "b"),
            node("Gemm", "b W1", "y", transB=1),
        ]
        constants = {"W0": W43, "W1": W24, "s": np.array([1, -1])}
        assert_same_as_onnxruntime(model(nodes, constants, (3, 1)))

    @pytest.mark.parametrize("target", [[-1, 4], [0, 4], [0, -1], [1, 4], [1, -1], [1, 1, 4]])
    def test_reshape_between_layers(self, target):
        nodes = [
            node("MatMul", "x W0", "a"),
            node("Reshape", "a s", "b"),
            node("Relu", "b", "c"),
            node("MatMul", "c W1", "y"),
        ]
        constants = {"W0": W43.T, "W1": W24.T, "s": np.array(target)}
        assert_same_as_onnxruntime(model(nodes, constants, (1, 3)))

    @pytest.mark.parametrize("last", [("Flatten", {"axis": 0}), ("Reshape", {})])
    def test_reshaped_outputs_are_those_of_one_sample(self, last):
        op, attributes = last
        nodes = [
            node("MatMul", "x W", "a"),
            node(op, "a s" if op == "Reshape" else "a", "b", **attributes),
            node("Identity", "b", "y"),
        ]
        constants = {"W": W43.T} | ({"s": np.array([-1])} if op == "Reshape" else {})
        assert assert_same_as_onnxruntime(model(nodes, constants)).n_outputs == 4

    def test_constants_from_nodes(self):
        nodes = [
            helper.make_node("Constant", [], ["W"], value=numpy_helper.from_array(W43.copy())),
            node("Identity", "W", "W_"),
            node("Transpose", "W_", "WT", perm=[1, 0]),
            helper.make_node("Constant", [], ["b"], value_floats=B4.tolist()),
            helper.make_node("Constant", [], ["half"], value_float=0.5),
            node("Cast", "wide", "w2", to=TensorProto.FLOAT),
            node("MatMul", "x WT", "a"),
            node("Add", "a b", "c"),
            node("Relu", "c", "d"),
            node("Gemm", "d w2", "e", transB=1),
            node("Add", "e half", "y"),
        ]
        assert_same_as_onnxruntime(model(nodes, {"wide": W24.astype(np.float64)}))

    def test_cast_of_the_data(self):
        nodes = [
            node("Cast", "x", "a", to=TensorProto.DOUBLE),
            node("MatMul", "a W", "b"),
            node("Cast", "b", "y", to=TensorProto.FLOAT),
        ]
        assert_same_as_onnxruntime(model(nodes, {"W": W43.T.astype(np.float64)}))

    def test_nodes_that_lead_nowhere_are_left_out(self):
        nodes = [
            node("Sigmoid", "x", "unused"),
            node("MatMul", "x W", "y"),
            node("Softmax", "y", "trailing"),
        ]
        assert_same_as_onnxruntime(model(nodes, {"W": W43.T, "never": B2}))

    def test_initializers_listed_as_inputs_are_not_inputs(self):
        old = model([node("MatMul", "x W", "y")], {"W": W43.T}, opset=9, ir=3)
        old.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [3, 4]))
        assert_same_as_onnxruntime(old)

    def test_networks_without_matrices(self):
        assert assert_same_as_onnxruntime(model([node("Relu", "x", "y")])).n_inputs == 3
        assert assert_same_as_onnxruntime(model([node("Identity", "x", "y")])).n_outputs == 3

    @pytest.mark.parametrize(
        ("nodes", "constants", "shape"),
        [
            ([node("MatMul", "x W", "a"), node("MatMul", "V a", "y")], None, (4, 3)),
            ([node("MatMul", "V x", "a"), node("MatMul", "a R", "y")], None, (4, 1)),
            ([node("MatMul", "V x", "y")], None, (4, 2)),
            ([node("MatMul", "x b", "y")], None, ("b", 4)),
            ([node("Gemm", "x R", "y", transA=1)], None, (1, 3)),
            ([node("Gemm", "V x", "y")], None, (4, 2)),
            ([node("Add", "x c", "y")], None, (4, 3)),
            ([node("Add", "x b", "y")], None, ("b", 1)),
            ([node("ReduceSum", "x", "y", keepdims=0)], None, (4, 3)),
            ([node("ReduceMax", "x", "y", axes=[0])], None, (4, 3)),
        ],
    )
    def test_samples_that_are_taken_together(self, nodes, constants, shape):
        constants = {"W": W43.T[:, :1], "V": W24, "R": B2[None], "b": B4, "c": B4[:, None]}
        network = assert_same_as_onnxruntime(model(nodes, constants, shape, opset=11))
        assert network.n_inputs == np.prod([d for d in shape if d != "b"])

    @pytest.mark.parametrize("target", [[-1, 2], [2, -1], [-1], [4, 1]])
    def test_reshapes_within_a_sample(self, target):
        nodes = [node("MatMul", "x W", "a"), node("Reshape", "a s", "b"), node("Relu", "b", "y")]
        made = model(nodes, {"W": W43.T, "s": np.array(target)})
        assert assert_same_as_onnxruntime(made).n_outputs == 4

    def test_half_precision_weights_are_read_as_they_are(self):
        half = W43.T.astype(np.float16)
        made = model([node("MatMul", "x W", "y")], {"W": half}, dtype=TensorProto.FLOAT16)
        assert (read_onnx(made).layers[0].weight == half.T).all()

    def test_leading_axes_are_batch_axes(self):
        network = read_onnx(model([node("MatMul", "x W", "y")], {"W": W43.T}, (2, 5, 3)))
        assert (network.n_inputs, network.n_outputs) == (3, 4)

    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def test_random_chains(self, data):
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
        width = 3
        nodes, constants = [], {}
        ops = st.lists(st.sampled_from(["Gemm", "MatMul", "Add", "Relu", "Identity", "Flatten"]))
        for i, op in enumerate(data.draw(ops, label="ops")):
            before, after = f"v{i}" if i else "x", f"v{i + 1}"
            out = int(rng.integers(1, 5))
            if op in ("Gemm", "MatMul"):
                transposed = op == "Gemm" and rng.random() < 0.5
                shape = (out, width) if transposed else (width, out)
                constants[f"W{i}"] = rng.normal(size=shape).astype(np.float32)
                attributes = {"transB": int(transposed)} if op == "Gemm" else {}
                nodes.append(node(op, f"{before} W{i}", after, **attributes))
                width = out
            elif op == "Add":
                constants[f"b{i}"] = rng.normal(size=width).astype(np.float32)
                swap = rng.random() < 0.5
                nodes.append(node(op, f"b{i} {before}" if swap else f"{before} b{i}", after))
            else:
                nodes.append(node(op, before, after))
        nodes.append(node("Identity", f"v{len(nodes)}" if nodes else "x", "y"))
        made = model(nodes, constants)
        network = read_onnx(made)
        session = onnxruntime.InferenceSession(made.SerializeToString())
        x = rng.normal(size=(9, 3)).astype(np.float32)
        (y,) = session.run(None, {"x": x})
        scale = max(1.0, float(np.abs(y).max()))
        assert np.abs(network.forward(x) - y).max() <= 1e-5 * scale


class TestRefusals:
    @pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Elu", "Softmax", "LogSoftmax", "Mystery"])
    def test_other_operators_are_named_with_their_node(self, op):
        nodes = [
            node("MatMul", "x W", "a"),
            node(op, "a", "b", name="squash"),
            node("Relu", "b", "y"),
        ]
        made = model(nodes, {"W": W43.T})
        if op == "Mystery":
            made.graph.node[1].domain = "com.example"
            made.opset_import.append(helper.make_opsetid("com.example", 1))
        with pytest.raises(NetworkError, match=rf"{op} node 'squash'.*supported are Abs"):
            read_onnx(made)

    def test_a_node_without_a_name_is_named_by_its_position(self):
        nodes = [node("MatMul", "x W", "a"), node("Tanh", "a", "b"), node("Relu", "b", "y")]
        with pytest.raises(NetworkError, match="Tanh node without a name at position 1"):
            read_onnx(model(nodes, {"W": W43.T}))

    def test_all_that_cannot_be_read_is_named_at_once(self):
        nodes = [
            node("MatMul", "x W", "a", name="first"),
            node("Tanh", "a", "b", name="t"),
            node("MatMul", "b W", "c"),
            node("Sigmoid", "c", "d", name="s"),
            node("Mul", "d a", "e", name="product"),
            node("Erf", "e", "f", name="after"),
            node("Gather", "f i", "g"),
            node("Cast", "a", "h", name="cast", to=7),
            node("Cast", "h", "h2", to=1),
            node("Add", "g h2", "y"),
        ]
        constants = {"W": np.eye(3, dtype=np.float32), "i": np.array([0])}
        with pytest.raises(NetworkError, match="5 nodes") as raised:
            read_onnx(model(nodes, constants))
        for name in ("Tanh node 't'", "'s'", "'product'", "'after'", "'cast'"):
            assert name in str(raised.value)
        assert "'first'" not in str(raised.value)

    def test_operator_of_another_domain(self):
        made = model([node("Gemm", "x W", "y", name="g")], {"W": W43.T})
        made.graph.node[0].domain = "com.example"
        made.opset_import.append(helper.make_opsetid("com.example", 1))
        with pytest.raises(NetworkError, match=r"Gemm node 'g' of com.example"):
            read_onnx(made)

    @pytest.mark.parametrize(
        "nodes",
        [
            [node("MatMul", "x W", "a"), node("Mul", "a x", "y", name="n")],
            [node("MatMul", "x W", "a"), node("MatMul", "a x", "y", name="n")],
            [node("MatMul", "x W", "a"), node("Div", "W a", "y", name="n")],
        ],
    )
    def test_products_of_two_tensors_that_depend_on_the_input(self, nodes):
        with pytest.raises(NetworkError, match=r"node 'n'.* (both|well)"):
            read_onnx(model(nodes, {"W": np.eye(3, dtype=np.float32)}, (3, 3)))

    @pytest.mark.parametrize(
        ("nodes", "constants", "shape", "message"),
        [
            ([node("MatMul", "x W", "y", name="n")], {"W": W24.T}, ("b", 3), "takes 4 inputs"),
            ([node("Cast", "x", "y", name="n", to=7)], {}, ("b", 3), "INT64"),
            ([node("Cast", "x", "y", name="n", to=69)], {}, ("b", 3), "type 69"),
            ([node("ThresholdedRelu", "x", "y", name="n")], {}, ("b", 3), "jumps"),
            ([node("Shrink", "x", "y", name="n")], {}, ("b", 3), "jumps"),
        ],
    )
    def test_forms_without_a_meaning(self, nodes, constants, shape, message):
        with pytest.raises(NetworkError, match=rf"node 'n': .*{message}"):
            read_onnx(model(nodes, constants, shape))

    @pytest.mark.parametrize("target", [[0, 4, 0], [3, -1], [5], [-1, -1]])
    def test_reshapes_that_do_not_fit(self, target):
        nodes = [
            node("MatMul", "x W", "a"),
            node("Reshape", "a s", "b", name="n"),
            node("Relu", "b", "y"),
        ]
        with pytest.raises(NetworkError, match=r"node 'n': .*shape"):
            read_onnx(model(nodes, {"W": W43.T, "s": np.array(target)}))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("where", ["W", "b"])
    def test_weights_that_are_not_finite(self, bad, where):
        constants = {"W": W43.copy(), "b": B4.copy()}
        constants[where].flat[-1] = bad
        with pytest.raises(NetworkError, match=r"Gemm node 'n': .*not finite"):
            read_onnx(model([node("Gemm", "x W b", "y", name="n", transB=1)], constants))

    def test_integer_weights(self):
        made = model([node("MatMul", "x W", "y", name="n")], {"W": W43.T.astype(int)}, dtype=7)
        with pytest.raises(NetworkError, match="'W' is of type int64"):
            read_onnx(made)

    def test_several_inputs_or_outputs(self):
        two = model([node("MatMul", "x W", "y")], {"W": W43.T})
        two.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3]))
        with pytest.raises(NetworkError, match="outputs: 'y', 'x'; choose one with output="):
            read_onnx(two)
        two = model([node("MatMul", "x W", "y")])
        two.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [3, 4]))
        with pytest.raises(NetworkError, match=r"inputs: 'x' of shape .*, 'W'"):
            read_onnx(two)

    def test_an_output_that_does_not_depend_on_the_input(self):
        with pytest.raises(NetworkError, match="does not depend on the input"):
            read_onnx(model([node("Identity", "W", "y")], {"W": W43}))

    def test_random_weights_are_not_constants(self):
        nodes = [
            helper.make_node("RandomNormal", [], ["W"], "r", shape=[3, 4]),
            node("MatMul", "x W", "y", name="n"),
        ]
        with pytest.raises(NetworkError, match="RandomNormal node 'r' is not supported"):
            read_onnx(model(nodes))

    def test_old_opsets_had_other_broadcasting(self):
        made = model([node("Relu", "x", "y")], opset=6, ir=3)
        with pytest.raises(NetworkError, match="opset 6"):
            read_onnx(made)

    def test_unknown_number_of_inputs(self):
        with pytest.raises(NetworkError, match="fixed size"):
            read_onnx(model([node("Relu", "x", "y", name="n")], shape=("b", "n")))


class TestFiles:
    @pytest.fixture
    def good(self):
        made = model([node("Gemm", "x W b", "y", transB=1)], {"W": W43, "b": B4})
        helper.set_model_props(made, {"state_dim": "2", "note": "Größe"})
        return made

    def test_all_kinds_of_sources(self, good, tmp_path):
        path = tmp_path / "m.onnx"
        onnx.save(good, path)
        x = RNG.normal(size=3)
        for source in (path, str(path), path.read_bytes(), good):
            assert (read_onnx(source).forward(x) == read_onnx(good).forward(x)).all()
            assert read_metadata(source) == {"state_dim": "2", "note": "Größe"}

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no\.onnx"):
            read_onnx(tmp_path / "no.onnx")

    def test_folder(self, tmp_path):
        with pytest.raises(NetworkError, match="folder"):
            read_onnx(tmp_path)

    def test_empty_file(self, tmp_path):
        (tmp_path / "e.onnx").touch()
        with pytest.raises(NetworkError, match=r"e\.onnx is empty"):
            read_onnx(tmp_path / "e.onnx")

    def test_every_truncation_is_noticed(self, good):
        good.ClearField("metadata_props")  # cut between two entries, it is still a valid file
        data = good.SerializeToString()
        for size in range(len(data)):
            with pytest.raises(NetworkError):
                read_onnx(data[:size])

    @pytest.mark.parametrize(
        "junk", [b"\x00", b"hello world, this is no network", b"PK\x03\x04" * 50, bytes(1000)]
    )
    def test_other_files(self, junk):
        with pytest.raises(NetworkError, match="not a"):
            read_onnx(junk)

    @settings(deadline=None, max_examples=300)
    @given(position=st.integers(0, 10**6), byte=st.integers(0, 255))
    def test_a_changed_byte_gives_a_network_or_a_network_error(self, position, byte):
        made = model([node("Gemm", "x W b", "y", transB=1)], {"W": W43, "b": B4})
        data = bytearray(made.SerializeToString())
        data[position % len(data)] = byte
        try:
            network = read_onnx(bytes(data))
        except NetworkError:
            return
        assert np.isfinite(network.forward(np.zeros(network.n_inputs))).all()

    def test_weights_shorter_than_their_shape(self, good):
        good.graph.initializer[0].raw_data = b"abc"
        with pytest.raises(NetworkError, match=r"not a valid ONNX model|cannot be read"):
            read_onnx(good)

    def test_external_weights(self, good, tmp_path):
        path = tmp_path / "m.onnx"
        onnx.save_model(good, path, save_as_external_data=True, location="m.data", size_threshold=0)
        expected = W43 @ np.ones(3) + B4
        np.testing.assert_allclose(read_onnx(path).forward(np.ones(3)), expected, atol=1e-6)
        with pytest.raises(NetworkError, match="give the path"):
            read_onnx(path.read_bytes())
        (tmp_path / "m.data").write_bytes(b"abc")
        with pytest.raises(NetworkError, match=r"m.onnx is not a valid ONNX model"):
            read_onnx(path)
        (tmp_path / "m.data").unlink()
        with pytest.raises(NetworkError, match=r"m\.data"):
            read_onnx(path)

    def test_the_model_given_is_not_changed(self, good):
        before = good.SerializeToString(deterministic=True)
        read_onnx(good)
        assert good.SerializeToString(deterministic=True) == before

    def test_other_types(self):
        with pytest.raises(TypeError, match="int"):
            read_onnx(3)

    def test_torch_is_not_imported(self):
        module = "milp_rl.formulations.networks.onnx_reader"
        code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
