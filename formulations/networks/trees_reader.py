"""Turning what a user has, a scikit-learn model or an ONNX file, into a `TreeEnsemble`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_file import load_model
from milp_rl.formulations.networks.onnx_graph import Inputs, Output, read_graph
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.networks.trees_onnx import has_trees, read_onnx_trees
from milp_rl.formulations.networks.trees_sklearn import is_sklearn_trees, read_sklearn_trees


def read_trees(
    source: Any,
    *,
    n_actions: int | None = None,
    inputs: Inputs = None,
    output: Output = None,
) -> TreeEnsemble | None:
    """Return the tree ensemble that ``source`` describes, ``None`` if it is something else.

    Parameters
    ----------
    source
        A :class:`TreeEnsemble` (returned as it is); a fitted tree model of scikit-learn; or an
        ONNX model, its path or its bytes: ``TreeEnsembleRegressor`` (ai.onnx.ml 1 to 4), as
        LightGBM and XGBoost export them, or ``TreeEnsemble`` (5). Values of scikit-learn's models
        are those of ``predict``; those of an ONNX model in float32 are summed in float64 here.
    n_actions
        Number of action variables; needed where one input holds [state, action].
    inputs
        As for :func:`milp_rl.to_action_value`; the ensemble's are [action, state].
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
    >>> from milp_rl.formulations.networks.trees_reader import read_trees
    >>> model = DecisionTreeRegressor().fit([[0.0, 1.0], [1.0, 1.0]], [2.0, 3.0])
    >>> read_trees(model).at_state([1.0]).forward([[0.0], [1.0]])[:, 0].tolist()
    [2.0, 3.0]
    """
    if isinstance(source, TreeEnsemble):
        return source
    if isinstance(source, str | Path | bytes) or type(source).__name__ == "ModelProto":
        model = source if type(source).__name__ == "ModelProto" else load_model(source)
        if not has_trees(model):
            return None
        graph = read_graph(load_model(model), inputs, output)
        return _action_first(read_onnx_trees(graph), graph.state_first, n_actions)
    if not is_sklearn_trees(source):
        return None
    if not (output is None or isinstance(output, int)):
        raise NetworkError(f"the outputs have no names; give the position of {output!r}")
    state_first = inputs is not None and tuple(inputs) == ("state", "action")
    return _action_first(read_sklearn_trees(source, output=output), state_first, n_actions)


def _action_first(trees: TreeEnsemble, state_first: bool, n_actions: int | None) -> TreeEnsemble:
    if not state_first:
        return trees
    if n_actions is None:
        raise NetworkError(
            'inputs=("state", "action") of one input needs the number of actions: use'
            " to_action_value(source, n_actions, inputs=...)"
        )
    return trees.reordered(np.roll(np.arange(trees.n_inputs), n_actions))
