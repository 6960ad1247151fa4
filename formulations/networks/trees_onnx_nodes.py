"""The trees of ONNX operators, as their attributes have them.

``TreeEnsembleRegressor`` (ai.onnx.ml 1 to 4) and ``TreeEnsemble`` (5) of
https://onnx.ai/onnx/operators, in all modes of comparison but membership.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.networks.trees_columns import Columns, largest_below

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


@dataclass(frozen=True, eq=False)
class Nodes:
    """Trees as ONNX has them: nodes compare columns in several modes.

    Parameters
    ----------
    mode
        Number of the mode in ``_MODES`` of each node, -1 for a leaf.
    column, number, children, value, roots, base
        As in :class:`TreeEnsemble`; children where the comparison is true and where it is not.
    """

    mode: IntArray
    column: IntArray
    number: FloatArray
    children: IntArray
    value: FloatArray
    roots: IntArray
    base: float

    def over(self, data: Columns, width: int, where: str) -> TreeEnsemble:
        """Return the ensemble over the inputs, ``width`` of them, that columns are made of."""
        inner = np.flatnonzero(self.mode >= 0)
        mode, column = self.mode[inner], self.column[inner]
        if len(column) and not 0 <= column.min() <= column.max() < len(data.source):
            raise NetworkError(
                f"{where}: a tree compares column {int(column.max())} of {len(data.source)}"
            )
        sign = data.sign[column]

        def function(y: FloatArray) -> Any:
            return data.function(sign * y, column)

        up_to = largest_below(function, self.number[inner])
        below = largest_below(function, self.number[inner], strictly=True)
        # The comparison is `y <= at` or its contrary; of equality there is a second one.
        equality = mode >= 4
        at = np.where((mode == 0) | (mode == 3) | equality, up_to, below)
        swapped = (mode == 2) | (mode == 3) | (mode == 5)
        children = self.children.copy()
        children[inner[swapped]] = children[inner[swapped]][:, ::-1]
        n, extra = len(self.mode), inner[equality]
        second = n + np.arange(len(extra))
        # y <= at ? (y <= below ? no : yes) : no
        more = children[extra][:, ::-1].copy()
        children[extra, 0] = second
        children = np.concatenate([children, more])
        feature, threshold = np.full(n + len(extra), -1), np.zeros(n + len(extra))
        feature[inner], threshold[inner] = data.source[column], at
        feature[n:], threshold[n:] = data.source[column[equality]], below[equality]
        turned = np.concatenate([inner[sign < 0], second[sign[equality] < 0]])
        threshold[turned] = np.nextafter(-threshold[turned], -np.inf)  # y <= at: x >= -at
        children[turned] = children[turned][:, ::-1]
        value = np.concatenate([self.value, np.zeros(len(extra))])
        try:
            return TreeEnsemble(feature, threshold, children, value, self.roots, width, self.base)
        except NetworkError as error:
            raise NetworkError(f"{where}: {error}") from error


def _choice(attributes: dict[str, Any], output: int | None, where: str) -> int:
    count = int(attributes.get("n_targets", 1))
    if output is None and count > 1:
        raise NetworkError(f"{where} has {count} targets; choose one with output=0 to {count - 1}")
    if output is not None and not 0 <= output < count:
        raise NetworkError(f"{where} has {count} targets, there is no output {output}")
    return output or 0


def _numbers(attributes: dict[str, Any], name: str) -> FloatArray:
    """Return an attribute of float32, or of its tensor of float64."""
    tensor = attributes.get(f"{name}_as_tensor")
    values = numpy_helper.to_array(tensor) if tensor is not None else attributes.get(name, [])
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _share(aggregate: str, transform: str, n_trees: int, where: str) -> float:
    """Return the factor of every leaf."""
    if transform != "NONE":
        raise NetworkError(f"{where} has post_transform {transform}; only NONE is supported")
    if aggregate in ("MIN", "MAX") and n_trees > 1:
        raise NetworkError(
            f"{where} takes the {aggregate} of its trees; only SUM and AVERAGE are supported"
        )
    return 1.0 / n_trees if aggregate == "AVERAGE" else 1.0


def regressor_nodes(attributes: dict[str, Any], output: int | None, where: str) -> Nodes:
    """Read the attributes of a TreeEnsembleRegressor."""
    target = _choice(attributes, output, where)
    tree, node = (
        np.asarray(attributes.get(f"nodes_{name}", []), dtype=np.int64)
        for name in ("treeids", "nodeids")
    )
    names = [m.decode() for m in attributes.get("nodes_modes", [])]
    unknown = sorted(set(names) - {*_MODES, "LEAF"})
    if unknown:
        raise NetworkError(f"{where} has nodes of mode {', '.join(unknown)}")
    mode = np.array([_MODES.index(m) if m != "LEAF" else -1 for m in names], dtype=np.intp)
    numbers = {(t, k): i for i, (t, k) in enumerate(zip(tree.tolist(), node.tolist(), strict=True))}
    if len(numbers) < len(mode):
        raise NetworkError(f"{where}: two nodes of a tree have the same number")
    children = np.zeros((len(mode), 2), dtype=np.intp)
    value = np.zeros(len(mode))
    try:
        for side, name in enumerate(("nodes_truenodeids", "nodes_falsenodeids")):
            for i in np.flatnonzero(mode >= 0).tolist():
                children[i, side] = numbers[int(tree[i]), int(attributes[name][i])]
        weights = _numbers(attributes, "target_weights")
        for t, k, of, weight in zip(
            attributes["target_treeids"],
            attributes["target_nodeids"],
            attributes["target_ids"],
            weights.tolist(),
            strict=True,
        ):
            if of == target:
                value[numbers[t, k]] += weight
        column = np.asarray(attributes["nodes_featureids"], dtype=np.intp)
        roots = np.setdiff1d(np.arange(len(mode)), children[mode >= 0])
        number = _numbers(attributes, "nodes_values")
        if not len(mode) == len(column) == len(number) or len(roots) != len(set(tree.tolist())):
            raise NetworkError(f"{where}: its attributes do not describe trees with one root each")
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(f"{where}: its attributes do not describe trees: {error!r}") from error
    aggregate = attributes.get("aggregate_function", b"SUM").decode()
    transform = attributes.get("post_transform", b"NONE").decode()
    share = _share(aggregate, transform, len(roots), where)
    base = _numbers(attributes, "base_values")
    if len(base) > 1 and len(base) != int(attributes.get("n_targets", 1)):
        raise NetworkError(f"{where} has {len(base)} base values")
    constant = float(base[target] if len(base) > 1 else base.sum())
    return Nodes(mode, column, number, children, share * value, roots, constant)


def ensemble_nodes(attributes: dict[str, Any], output: int | None, where: str) -> Nodes:
    """Read the attributes of a TreeEnsemble, of ai.onnx.ml 5."""
    target = _choice(attributes, output, where)
    try:
        codes = numpy_helper.to_array(attributes["nodes_modes"]).astype(np.intp).reshape(-1)
        number = numpy_helper.to_array(attributes["nodes_splits"]).astype(np.float64).reshape(-1)
        weights = numpy_helper.to_array(attributes["leaf_weights"]).astype(np.float64).reshape(-1)
        column, roots, targets, *sides = (
            np.asarray(attributes[name], dtype=np.intp)
            for name in (
                "nodes_featureids",
                "tree_roots",
                "leaf_targetids",
                "nodes_truenodeids",
                "nodes_falsenodeids",
                "nodes_trueleafs",
                "nodes_falseleafs",
            )
        )
        n, leaves = len(codes), len(weights)
        if (codes >= len(_MODES)).any():
            raise NetworkError(f"{where} has nodes that test membership of a set")
        children = np.zeros((n + leaves, 2), dtype=np.intp)
        for side in range(2):
            children[:n, side] = sides[side] + np.where(sides[2 + side] != 0, n, 0)
        mode = np.concatenate([codes, np.full(leaves, -1)])
        column = np.concatenate([column, np.zeros(leaves, dtype=np.intp)])
        number = np.concatenate([number, np.zeros(leaves)])
        value = np.concatenate([np.zeros(n), np.where(targets == target, weights, 0.0)])
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(f"{where}: its attributes do not describe trees: {error!r}") from error
    aggregate = _AGGREGATES[int(attributes.get("aggregate_function", 1))]
    transform = _TRANSFORMS[int(attributes.get("post_transform", 0))]
    share = _share(aggregate, transform, len(roots), where)
    return Nodes(mode, column, number, children, share * value, roots, 0.0)
