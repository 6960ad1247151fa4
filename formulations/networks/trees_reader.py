"""Turning what a user has, a scikit-learn model or an ONNX file, into a `TreeEnsemble`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milp_rl.formulations.networks.onnx_file import load_model
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.networks.trees_onnx import has_trees, read_onnx_trees
from milp_rl.formulations.networks.trees_sklearn import is_sklearn_trees, read_sklearn_trees


def read_trees(
    source: Any,
    *,
    inputs: Sequence[str] | Mapping[str, str] | None = None,
    output: int | None = None,
) -> TreeEnsemble | None:
    """Return the tree ensemble that ``source`` describes, ``None`` if it is something else.

    Parameters
    ----------
    source
        A :class:`TreeEnsemble` (returned as it is); a fitted tree model of scikit-learn; or an
        ONNX model, its path or its bytes: ``TreeEnsembleRegressor`` (ai.onnx.ml 1 to 4), as
        LightGBM and XGBoost export them, or ``TreeEnsemble`` (5). Values of scikit-learn's models
        are those of ``predict``; those of an ONNX model in float32 are summed in float64 here.
    inputs
        For an ONNX model with two inputs: ``("action", "state")`` or ``("state", "action")`` by
        their order in the graph, or ``{"action": name, "state": name}``.
    output
        Which one to take of several outputs.

    Raises
    ------
    NetworkError
        If it is a tree model, but not one that is supported; the message says why.
    FileNotFoundError
        If a path leads nowhere.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.tree import DecisionTreeRegressor
    >>> model = DecisionTreeRegressor().fit([[0.0, 1.0], [1.0, 1.0]], [2.0, 3.0])
    >>> read_trees(model).at_state([1.0]).forward([[0.0], [1.0]])[:, 0].tolist()
    [2.0, 3.0]
    """
    if isinstance(source, TreeEnsemble):
        return source
    if isinstance(source, str | Path | bytes) or type(source).__name__ == "ModelProto":
        model = load_model(source)
        return read_onnx_trees(model, inputs=inputs, output=output) if has_trees(model) else None
    return read_sklearn_trees(source, output=output) if is_sklearn_trees(source) else None
