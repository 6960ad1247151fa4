"""Tree ensembles of ONNX models against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import skl2onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx.common.data_types import FloatTensorType
from sklearn import ensemble, pipeline, preprocessing

from milp_rl.formulations.networks.link import linked
from milp_rl.formulations.networks.network import Network, NetworkError
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.networks.trees_reader import read_trees

FLOATS = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
WIDTH = 4


def drawn_trees(
    rng: np.random.Generator,
    *,
    modes: list[str],
    n_trees: int = 5,
    depth: int = 4,
    n_targets: int = 1,
) -> dict[str, Any]:
    """Attributes of a TreeEnsembleRegressor, with thresholds that its inputs hit."""
    nodes: dict[str, list[Any]] = {
        name: []
        for name in (
            *("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids"),
        )
    }
    targets: dict[str, list[Any]] = {n: [] for n in ("treeids", "nodeids", "ids", "weights")}
    for t in range(n_trees):
        count = 0

        def grow(level: int, t: int = t) -> int:
            nonlocal count
            number, count = count, count + 1
            at = len(nodes["treeids"])
            leaf = level == depth or (level > 0 and rng.random() < 0.2)
            mode = "LEAF" if leaf else str(rng.choice(modes))
            for name, entry in (
                ("treeids", t),
                ("nodeids", number),
                ("featureids", 0 if leaf else int(rng.integers(WIDTH))),
                ("values", 0.0 if leaf else float(rng.integers(-2, 3)) / 2),
                ("modes", mode),
                ("truenodeids", 0),
                ("falsenodeids", 0),
            ):
                nodes[name].append(entry)
            if leaf:
                for target in range(n_targets):
                    targets["treeids"].append(t)
                    targets["nodeids"].append(number)
                    targets["ids"].append(target)
                    targets["weights"].append(float(np.float32(rng.normal())))
            else:
                nodes["truenodeids"][at] = grow(level + 1)
                nodes["falsenodeids"][at] = grow(level + 1)
            return number

        grow(0)
    found = {f"nodes_{name}": entries for name, entries in nodes.items()}
    found |= {f"target_{name}": entries for name, entries in targets.items()}
    return found | {"n_targets": n_targets, "post_transform": "NONE"}


def model_of(
    nodes: list[onnx.NodeProto],
    *,
    widths: dict[str, int] | None = None,
    kind: int = TensorProto.FLOAT,
    out: int | None = None,
    constants: dict[str, Any] | None = None,
    ml: int = 3,
    n_targets: int = 1,
) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, kind, [None, width])
        for name, width in (widths or {"x": WIDTH}).items()
    ]
    output = helper.make_tensor_value_info("y", out or TensorProto.FLOAT, [None, n_targets])
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "trees", inputs, [output], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", ml)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def regressor(
    attributes: dict[str, Any], source: str = "x", to: str = "y", **more: Any
) -> onnx.NodeProto:
    return helper.make_node(
        "TreeEnsembleRegressor", [source], [to], domain="ai.onnx.ml", **(attributes | more)
    )


def outside(model: onnx.ModelProto, **inputs: Any) -> Any:
    """Return what onnxruntime gives."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, inputs)
    return found


def agree(model: onnx.ModelProto, points: Any, column: int = 0, **choice: Any) -> TreeEnsemble:
    trees = read_trees(model, **choice)
    assert trees is not None
    kind = FLOATS[model.graph.input[0].type.tensor_type.elem_type]
    wanted = outside(model, x=points.astype(kind))[:, column]
    np.testing.assert_allclose(trees.forward(points)[:, 0], wanted, rtol=1e-5, atol=1e-5)
    return trees


def grid(rng: np.random.Generator, n: int = 300) -> Any:
    """Points that lie on thresholds, just beside them, or anywhere."""
    points = rng.integers(-4, 5, (n, WIDTH)) / 2
    near = np.float32(points)
    for side in (np.inf, -np.inf):
        moved = rng.random(points.shape) < 0.2
        near = np.where(moved, np.nextafter(near, np.float32(side)), near)
    return np.where(rng.random((n, WIDTH)) < 0.1, rng.normal(size=(n, WIDTH)), near)


@pytest.mark.parametrize("modes", [[mode] for mode in MODES], ids=MODES)
@pytest.mark.parametrize("kind", FLOATS)
def test_every_mode(modes: list[str], kind: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        attributes = drawn_trees(rng, modes=modes)
        agree(model_of([regressor(attributes)], kind=kind), grid(rng))


def test_mixed_modes_targets_and_aggregates() -> None:
    rng = np.random.default_rng(0)
    for aggregate in ("SUM", "AVERAGE"):
        attributes = drawn_trees(rng, modes=MODES[:4], n_targets=2)
        node = regressor(attributes, aggregate_function=aggregate, base_values=[0.5, -2.0])
        model = model_of([node], n_targets=2)
        for output in range(2):
            agree(model, grid(rng), output, output=output)
        with pytest.raises(NetworkError, match="2 targets; choose one with output=0 to 1"):
            read_trees(model)


def test_double_thresholds() -> None:
    rng = np.random.default_rng(1)
    attributes = drawn_trees(rng, modes=MODES[:2])
    for name in ("nodes_values", "target_weights"):
        exact = np.asarray(attributes.pop(name)) + 0.1
        attributes[f"{name}_as_tensor"] = numpy_helper.from_array(exact)
    points = grid(rng) + 0.1
    agree(model_of([regressor(attributes)], kind=TensorProto.DOUBLE), points)


@pytest.mark.parametrize("scale", [[2.0, 0.7, 3.0, 1e-3], [-2.0, 0.7, -1.0, 0.0]])
def test_what_comes_before_the_trees(scale: list[float]) -> None:
    rng = np.random.default_rng(2)
    attributes = drawn_trees(rng, modes=MODES)
    steps = {
        "Scaler": [
            helper.make_node(
                "Scaler",
                ["x"],
                ["z"],
                domain="ai.onnx.ml",
                offset=[0.1, 0.0, -1.0, 0.0],
                scale=scale,
            )
        ],
        "Mul": [
            helper.make_node("Mul", ["c", "x"], ["s"]),
            helper.make_node("Sub", ["d", "s"], ["z"]),
        ],
        "casts": [
            helper.make_node("Cast", ["x"], ["s"], to=TensorProto.DOUBLE),
            helper.make_node("Reshape", ["s", "shape"], ["r"]),
            helper.make_node("Identity", ["r"], ["i"]),
            helper.make_node("Cast", ["i"], ["z"], to=TensorProto.FLOAT),
        ],
    }
    constants = {"c": np.float32(scale), "d": np.float32([0.3]), "shape": np.array([-1, WIDTH])}
    # Multiples of a half that the first step turns into thresholds, and those beside them.
    points = np.concatenate([grid(rng), grid(rng) / np.where(scale, scale, 1.0) + 0.1])
    for nodes in steps.values():
        chain = [*nodes, regressor(attributes, "z")]
        agree(model_of(chain, constants=constants), points)


def test_a_decreasing_step_in_float64() -> None:
    rng = np.random.default_rng(7)
    attributes = drawn_trees(rng, modes=MODES)
    nodes = [helper.make_node("Mul", ["x", "c"], ["z"]), regressor(attributes, "z")]
    model = model_of(nodes, kind=TensorProto.DOUBLE, constants={"c": np.array([-2.0])})
    agree(model, grid(rng) / 2)


def test_sums_of_ensembles_and_two_inputs() -> None:
    rng = np.random.default_rng(3)
    first, second = (drawn_trees(rng, modes=MODES[:2]) for _ in range(2))
    nodes = [
        helper.make_node("Concat", ["obs", "act"], ["z"], axis=1),
        regressor(first, "z", "f"),
        regressor(second, "z", "g"),
        helper.make_node("Add", ["f", "g"], ["h"]),
        helper.make_node("Add", ["h", "c"], ["y"]),
    ]
    model = model_of(nodes, widths={"obs": 3, "act": 1}, constants={"c": np.float32([1.5])})
    points = grid(rng)
    wanted = outside(model, obs=np.float32(points[:, :3]), act=np.float32(points[:, 3:]))
    choices: list[Any] = [None, ("state", "action"), {"action": "act", "state": "obs"}]
    for inputs in choices:
        trees = read_trees(model, inputs=inputs)
        assert trees is not None
        found = trees.forward(points[:, [3, 0, 1, 2]])
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(NetworkError, match="there is no input 'x'; the inputs are 'obs'"):
        read_trees(model, inputs={"action": "act", "state": "x"})


def test_exports_of_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, WIDTH))
    y = np.sin(x).sum(axis=1)
    for model in (
        ensemble.RandomForestRegressor(5, max_depth=4, random_state=0),
        ensemble.GradientBoostingRegressor(n_estimators=6, random_state=0),
        pipeline.make_pipeline(
            preprocessing.StandardScaler(), ensemble.ExtraTreesRegressor(5, random_state=0)
        ),
    ):
        declared = FloatTensorType([None, WIDTH])
        exported = skl2onnx.convert_sklearn(model.fit(x, y), initial_types=[("x", declared)])
        trees = read_trees(exported.SerializeToString())
        assert trees is not None
        wanted = outside(exported, x=np.float32(x))[:, 0]
        np.testing.assert_allclose(trees.forward(x)[:, 0], wanted, rtol=1e-5, atol=1e-5)


def test_a_monotone_operator_at_the_end_is_the_link() -> None:
    rng = np.random.default_rng(8)
    nodes = [
        regressor(drawn_trees(rng, modes=MODES[:1]), to="z"),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    points = grid(rng)
    trees = read_trees(model_of(nodes))
    assert trees is not None
    assert trees.link == "sigmoid"
    values = linked(trees.link, trees.forward(points))
    wanted = outside(model_of(nodes), x=np.float32(points))
    np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5)


def _tree_ensemble(**changes: Any) -> onnx.NodeProto:
    """Two trees of ai.onnx.ml 5, in the modes LEQ, GT and LT."""
    parts: dict[str, Any] = {
        "tree_roots": [0, 2],
        "nodes_featureids": [0, 1, 3],
        "nodes_splits": numpy_helper.from_array(np.float32([0.5, -0.5, 1.0])),
        "nodes_modes": numpy_helper.from_array(np.uint8([0, 3, 1])),
        "nodes_truenodeids": [0, 1, 3],
        "nodes_trueleafs": [1, 1, 1],
        "nodes_falsenodeids": [1, 2, 4],
        "nodes_falseleafs": [0, 1, 1],
        "leaf_targetids": [0, 0, 0, 0, 0],
        "leaf_weights": numpy_helper.from_array(np.float32([1, 2, 4, 8, 16])),
        "n_targets": 1,
        "aggregate_function": 1,
        "post_transform": 0,
    }
    return helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", **(parts | changes))


def test_the_newest_operator() -> None:
    rng = np.random.default_rng(5)
    trees = agree(model_of([_tree_ensemble()], ml=5), grid(rng))
    at = [[0.5, 0, 0, 0], [0.6, 0, 0, 0], [0.6, -0.5, 0, 1.0]]
    assert trees.forward(at)[:, 0].tolist() == [9.0, 10.0, 20.0]
    agree(model_of([_tree_ensemble(aggregate_function=0)], ml=5), grid(rng))
    member = _tree_ensemble(
        nodes_modes=numpy_helper.from_array(np.uint8([0, 6, 1])),
        membership_values=numpy_helper.from_array(np.float32([1.0, np.nan])),
    )
    with pytest.raises(NetworkError, match="membership of a set"):
        read_trees(model_of([member], ml=5))


def test_what_is_not_supported_is_refused_by_name() -> None:
    rng = np.random.default_rng(6)
    attributes = drawn_trees(rng, modes=MODES[:1])
    for more, message in (
        ({"aggregate_function": "MAX"}, "takes the MAX of its trees"),
        ({"post_transform": "LOGISTIC"}, "post_transform LOGISTIC"),
    ):
        with pytest.raises(NetworkError, match=message):
            read_trees(model_of([regressor(attributes, **more)]))
    after = [regressor(attributes, to="z"), helper.make_node("Sin", ["z"], ["y"])]
    with pytest.raises(NetworkError, match="Sin node without a name at position 1 is not"):
        read_trees(model_of(after))
    before = [helper.make_node("Sin", ["x"], ["z"], name="wave"), regressor(attributes, "z")]
    with pytest.raises(NetworkError, match="Sin node 'wave' is not supported"):
        read_trees(model_of(before))
    nodes = [helper.make_node("Reshape", ["x", "s"], ["z"]), regressor(attributes, "z")]
    for shape in ([-1, 2], [2, -1]):
        with pytest.raises(NetworkError, match="turns rows of 4 inputs into shape"):
            read_trees(model_of(nodes, constants={"s": np.array(shape)}))
    broken = attributes | {"nodes_truenodeids": [99] * len(attributes["nodes_nodeids"])}
    with pytest.raises(NetworkError, match="do not describe trees"):
        read_trees(model_of([regressor(broken)]))
    wide = attributes | {"nodes_featureids": [7] * len(attributes["nodes_nodeids"])}
    with pytest.raises(NetworkError, match="column 7 of 4"):
        read_trees(model_of([regressor(wide)]))
    assert read_trees(model_of([helper.make_node("Relu", ["x"], ["y"])])) is None
    assert read_trees(Network.from_arrays([np.eye(2)], [np.zeros(2)])) is None
