"""Files that ask for more than they hold, reach outside their folder, or were changed."""

import os
import resource
import subprocess
import sys
import textwrap
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from milp_rl.formulations.networks.lowering import Lowering
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_file import external_files
from milp_rl.formulations.networks.onnx_graph import nodes_for, stored_constants, taken
from milp_rl.formulations.networks.onnx_reader import read_onnx
from milp_rl.formulations.networks.onnx_walk import Walk, is_known

RNG = np.random.default_rng(3)
W43 = RNG.normal(size=(4, 3)).astype(np.float32)
B4 = RNG.normal(size=4).astype(np.float32)


def evaluated_constants(graph, most):
    """Evaluate the constants that the nodes of the data take."""
    outputs = {value.name for value in graph.output}
    nodes = nodes_for(graph, outputs)
    stored = stored_constants(graph, outputs.union(*(taken(node) for _, node in nodes)))
    names, folded, rest = set(stored), [], outputs
    for where, node in nodes:
        if is_known(node) and all(name in names for name in node.input if name):
            folded.append((where, node))
            names.update(node.output)
        else:
            rest = rest.union(taken(node))
    walk = Walk(Lowering(1, most=most), stored, folded, sorted(rest), most)
    walk.run()
    walk.refusals.check()
    return {k: v for k, v in walk.values.items() if isinstance(v, np.ndarray)}


def model(nodes, constants=(), shape=("b", 3), *, opset=18):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(constants).items()],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    graph.output[0].type.tensor_type.shape.SetInParent()
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op, inputs, output, name="", **attributes):
    return helper.make_node(op, inputs.split(), [output], name, **attributes)


def peak_of_reading(path):
    """Read a file in a process of its own; return what it printed and its largest memory, MB."""
    code = f"""
    import resource, sys
    from milp_rl.formulations.networks.onnx_reader import read_onnx
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        print(read_onnx({str(path)!r}).n_outputs)
    except ValueError as error:
        print(error)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33)),
    )
    said, peak = run.stdout.rsplit("\n", 2)[:2]
    return said, int(peak)


@pytest.mark.parametrize(
    "made",
    [
        model([node("Relu", "x", "y")], shape=(1, 60_000)),
        model([node("Relu", "x", "y")], shape=(1, 10**12)),
        model([node("Add", "x b", "y")], {"b": np.float32(1)}, (1, 60_000)),
        model(
            [node("MatMul", "x u", "h"), node("Relu", "h", "y")], {"u": np.ones((3, 60_000), "f4")}
        ),
        model(
            [node("MatMul", "x u", "h"), node("MatMul", "h v", "y")],
            {"u": np.ones((60_000, 1), "f4"), "v": np.ones((1, 60_000), "f4")},
            (1, 60_000),
        ),
        model(
            [node("MatMul", "x w", "h0")]
            + [
                node("Relu" if i % 2 else "Add", f"h{i}" + " b" * (1 - i % 2), f"h{i + 1}")
                for i in range(999)
            ]
            + [node("Relu", "h999", "y")],
            {"w": np.ones((3, 600), "f4"), "b": np.ones(600, "f4")},
        ),
    ],
    ids=["identity", "width", "bias", "last relu", "product", "many identities"],
)
def test_a_small_file_cannot_ask_for_much_memory(made, tmp_path):
    path = tmp_path / "q.onnx"
    onnx.save(made, path)
    said, peak = peak_of_reading(path)
    assert "a file of this size" in said
    assert peak < 400


def test_casts_and_identities_of_weights_take_time_and_memory_once(tmp_path):
    big = np.ones((1000, 1000), "f4")
    casts = [
        node("Cast", f"w{i}", f"w{i + 1}", to=TensorProto.DOUBLE if i % 2 else TensorProto.FLOAT)
        for i in range(400)
    ]
    path = tmp_path / "casts.onnx"
    onnx.save(model([*casts, node("MatMul", "x w400", "y")], {"w0": big}, (1, 1000)), path)
    said, peak = peak_of_reading(path)
    assert said == "1000"
    assert peak < 200
    identities = [node("Identity", f"w{i}", f"w{i + 1}") for i in range(20_000)]
    identities += [node("Identity", f"h{i}", f"h{i + 1}") for i in range(20_000)]
    made = model(
        [node("Identity", "x", "h0"), *identities, node("MatMul", "h20000 w20000", "y")],
        {"w0": W43.T},
    )
    start = time.monotonic()
    network = read_onnx(made)
    assert time.monotonic() - start < 10  # half an hour where every node searches all the others
    np.testing.assert_allclose(network.forward(np.ones(3)), W43 @ np.ones(3), atol=1e-6)


def test_biases_one_after_another_do_not_copy_the_weights():
    nodes = [node("MatMul", "x w", "h0")]
    nodes += [node("Add", f"h{i} b", f"h{i + 1}") for i in range(5000)]
    made = model(
        [*nodes, node("Identity", "h5000", "y")],
        {"w": np.ones((1000, 500), "f4"), "b": np.float32(1)},
        (1, 1000),
    )
    start = time.monotonic()
    network = read_onnx(made)
    assert time.monotonic() - start < 10
    assert (network.layers[-1].bias == 5000).all()


def test_constants_that_nothing_uses_are_not_evaluated():
    nodes = [node("Reshape", "w s", "never"), node("MatMul", "x w", "y")]
    assert read_onnx(model(nodes, {"w": W43.T, "s": np.array([7])})).n_outputs == 4


@pytest.mark.parametrize("target", [[0, 4], [1, 0], [0]])
@pytest.mark.parametrize("last", [True, False])
def test_reshapes_to_nothing_are_refused(target, last):
    nodes = [node("MatMul", "x w", "h"), node("Reshape", "h s", "r", name="n", allowzero=1)]
    nodes.append(node("Identity" if last else "Relu", "r", "y"))
    with pytest.raises(NetworkError, match=r"node 'n': .*no entries"):
        read_onnx(model(nodes, {"w": W43.T, "s": np.array(target)}, (1, 3)))


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (10**12, 0), (0, 10**12)])
def test_weights_without_entries_are_refused(shape):
    with pytest.raises(NetworkError, match=r"node 'n'.*no entries"):
        read_onnx(
            model([node("Gemm", "x w", "y", name="n", transB=1)], {"w": np.ones(shape, "f4")})
        )


def test_shapes_of_weights_that_are_not_there():
    made = model([node("MatMul", "x w", "y")], {"w": W43.T})
    for dims in ([10**6, 10**6], [2**62, 4], [-1, 4], [2**40, 2**40]):
        made.graph.initializer[0].ClearField("dims")
        made.graph.initializer[0].dims.extend(dims)
        with pytest.raises(NetworkError):
            read_onnx(made)


def test_two_weights_of_one_name_and_operators_of_ones_own():
    made = model([node("MatMul", "x w", "y")], {"w": W43.T})
    made.graph.initializer.append(numpy_helper.from_array(2 * W43.T, "w"))
    with pytest.raises(NetworkError, match=r"not unique|two initializers"):
        read_onnx(made)
    made = model([node("Relu", "x", "y")])
    made.functions.append(
        helper.make_function(
            "", "Relu", ["a"], ["b"], [node("Neg", "a", "b")], [helper.make_opsetid("", 18)]
        )
    )
    with pytest.raises(NetworkError, match="Relu"):
        read_onnx(made)


def test_cycles_are_refused():
    nodes = [node("Relu", "b", "a"), node("Relu", "a", "b"), node("Identity", "b", "y")]
    with pytest.raises(NetworkError):
        read_onnx(model(nodes))


class TestExternalWeights:
    @pytest.fixture
    def folder(self, tmp_path):
        """A model in a folder, and its weights in a file that is named per test."""
        place = tmp_path / "model"
        place.mkdir()
        made = model([node("MatMul", "x w", "y")], {"w": np.ascontiguousarray(W43.T)})
        onnx.save_model(
            made, place / "q.onnx", save_as_external_data=True, location="q.data", size_threshold=0
        )
        return place

    @staticmethod
    def change(folder, **entries):
        made = onnx.load(folder / "q.onnx", load_external_data=False)
        for key, value in entries.items():
            found = [e for e in made.graph.initializer[0].external_data if e.key == key]
            entry = found[0] if found else made.graph.initializer[0].external_data.add(key=key)
            entry.value = value
        onnx.save(made, folder / "q.onnx")
        return folder / "q.onnx"

    def test_in_the_same_folder_they_are_read(self, folder):
        network = read_onnx(folder / "q.onnx")
        np.testing.assert_allclose(network.forward(np.ones(3)), W43 @ np.ones(3), atol=1e-6)
        assert external_files(folder / "q.onnx") == ["q.data"]

    def test_outside_the_folder_they_are_not(self, folder):
        (folder / "q.data").rename(folder.parent / "secret")
        for name in (
            "../secret",
            str(folder.parent / "secret"),
            "./../secret",
            "nothing/../../secret",
        ):
            with pytest.raises(NetworkError, match="outside its folder"):
                read_onnx(self.change(folder, location=name))
        (folder / "link").symlink_to(folder.parent / "secret")
        with pytest.raises(NetworkError, match="outside its folder"):
            read_onnx(self.change(folder, location="link"))

    def test_what_is_no_file_is_not_waited_for(self, folder):
        os.mkfifo(folder / "pipe")
        with pytest.raises(NetworkError, match="not in its folder"):
            read_onnx(self.change(folder, location="pipe"))

    @pytest.mark.parametrize(
        "entries",
        [
            {"offset": "8"},
            {"offset": "-1"},
            {"offset": "9" * 40},
            {"length": "8"},
            {"length": "many"},
            {"length": str(2**50)},
            {"location": ""},
        ],
    )
    def test_a_wrong_place_in_the_file(self, folder, entries):
        with pytest.raises(NetworkError):
            read_onnx(self.change(folder, **entries))

    def test_one_file_read_many_times(self, folder):
        data = np.ones((2000, 2000), "f4")
        (folder / "q.data").write_bytes(data.tobytes())
        made = model([node("Relu", "x", "y")])
        for i in range(100):
            tensor = made.graph.initializer.add(name=f"w{i}", dims=data.shape, data_type=1)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="q.data")
        onnx.save(made, folder / "q.onnx")
        said, peak = peak_of_reading(folder / "q.onnx")
        assert "far more than its files have" in said
        assert peak < 100

    def test_constants_of_nodes_are_not_read_from_the_current_folder(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        made = onnx.load("q.onnx", load_external_data=False)
        tensor = made.graph.initializer.pop()
        made.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        with pytest.raises(NetworkError, match="give the path"):
            read_onnx(made.SerializeToString())
        (folder / "sub").mkdir()
        onnx.save(made, folder / "sub" / "q.onnx")
        with pytest.raises(NetworkError, match="not in its folder"):
            read_onnx(folder / "sub" / "q.onnx")


CONSTANT_OPS = {
    "Identity": st.just({}),
    "Cast": st.builds(lambda to: {"to": to}, st.sampled_from([1, 3, 6, 7, 9, 10, 11])),
    "Transpose": st.one_of(st.just({}), st.permutations([0, 1]).map(lambda p: {"perm": list(p)})),
    "Flatten": st.integers(-3, 3).map(lambda axis: {"axis": axis}),
    "Reshape": st.sampled_from([[-1], [0, -1], [2, 3], [3, 2], [0, 0], [1, -1, 2], [4], [-1, -1]]),
    "Squeeze": st.sampled_from([None, [0], [-1], [1]]),
    "Unsqueeze": st.sampled_from([[0], [-1], [0, 2], [1, 1], [9]]),
}


@settings(deadline=None, max_examples=150)
@given(
    steps=st.lists(
        st.sampled_from(sorted(CONSTANT_OPS)).flatmap(
            lambda op: st.tuples(st.just(op), CONSTANT_OPS[op])
        ),
        max_size=4,
    ),
    seed=st.integers(0, 1000),
)
def test_constants_are_what_the_reference_makes_of_them(steps, seed):
    rng = np.random.default_rng(seed)
    start = rng.normal(size=rng.choice([1, 2, 3], rng.integers(0, 3))) * 100
    constants = {"c0": start.astype(np.float32)}
    nodes = []
    for i, (op, argument) in enumerate(steps):
        given_list = isinstance(argument, list)
        if given_list:
            constants[f"a{i}"] = np.array(argument)
        attributes = argument if isinstance(argument, dict) else {}
        nodes.append(node(op, f"c{i}" + f" a{i}" * given_list, f"c{i + 1}", **attributes))
    made = model([*nodes, node("Add", f"x c{len(steps)}", "y")], constants)
    try:
        found = evaluated_constants(made.graph, 2**20)[f"c{len(steps)}"]
    except NetworkError:
        found = None
    made.graph.output[0].name = f"c{len(steps)}"
    del made.graph.node[-1]
    try:
        (expected,) = ReferenceEvaluator(made).run(None, {"x": np.ones((1, 3), "f4")})
    except Exception:
        expected = None
    if found is not None and expected is not None:
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
    else:
        assert found is None  # what the reference cannot do is refused


@st.composite
def changes(draw):
    """A change of a valid model: dims, types, attributes, names, data, nodes."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(
                    [
                        "dim",
                        "type",
                        "input",
                        "attribute",
                        "name",
                        "data",
                        "drop",
                        "repeat",
                        "op",
                        "io",
                    ]
                ),
                st.integers(0, 1000),
                st.sampled_from([-1, 0, 1, 2, 3, 4, 7, 12, 10**6, 2**40, 2**62]),
            ),
            min_size=1,
            max_size=3,
        )
    )


def changed(made, kind, which, number):
    graph = made.graph
    if kind == "dim":
        tensor = graph.initializer[which % len(graph.initializer)]
        if len(tensor.dims):
            tensor.dims[which % len(tensor.dims)] = number
    elif kind == "type":
        graph.initializer[which % len(graph.initializer)].data_type = number % 24
    elif kind == "input":
        graph.input[0].type.tensor_type.shape.dim[which % 2].dim_value = number
    elif kind == "attribute":
        of = [a for n in graph.node for a in n.attribute]
        if of:
            of[which % len(of)].i = number
    elif kind == "name" and graph.node:
        at = graph.node[which % len(graph.node)]
        at.input[0] = ("x", "h0", "h1", "w0", "b", "s", "", "none")[number % 8]
    elif kind == "data":
        tensor = graph.initializer[which % len(graph.initializer)]
        tensor.raw_data = tensor.raw_data[: which % (len(tensor.raw_data) + 1)]
    elif kind == "drop" and graph.node:
        del graph.node[which % len(graph.node)]
    elif kind == "repeat" and graph.node:
        graph.node.append(graph.node[which % len(graph.node)])
    elif kind == "op" and graph.node:
        at = graph.node[which % len(graph.node)]
        at.op_type = ("Relu", "Gemm", "Add", "Cast", "Flatten", "ConstantOfShape", "Sub")[
            number % 7
        ]
    elif kind == "io":
        graph.output[0].name = ("y", "x", "h0", "w0", "none")[number % 5]


@settings(deadline=None, max_examples=300)
@given(changes=changes())
def test_a_changed_model_gives_a_network_error_or_the_right_network(changes):
    nodes = [
        node("Flatten", "x", "h0", axis=1),
        node("Gemm", "h0 w0 b", "h1", transB=1),
        node("Relu", "h1", "h2"),
        node("Reshape", "h2 s", "h3"),
        node("Cast", "w1", "w2", to=TensorProto.FLOAT),
        node("MatMul", "h3 w2", "y"),
    ]
    constants = {"w0": W43, "b": B4, "s": np.array([-1, 4]), "w1": RNG.normal(size=(4, 2))}
    made = model(nodes, constants, (1, 3))
    for change in changes:
        changed(made, *change)
    try:
        network = read_onnx(made)
    except NetworkError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(made.SerializeToString(), options)
        (entry,) = session.get_inputs()
        shape = [d if isinstance(d, int) and d > 0 else 1 for d in entry.shape]
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        (y,) = session.run(None, {entry.name: x})
    except Exception:  # no valid model, or dimensions that only a run shows to be wrong
        return
    rows = network.forward(x.reshape(-1, network.n_inputs))
    np.testing.assert_allclose(rows, y.reshape(rows.shape), rtol=1e-4, atol=1e-4)
