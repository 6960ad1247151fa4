"""Tree ensembles of scikit-learn.

Trees, forests and gradient boosting round their inputs to float32 and compare these with float64
thresholds; histogram gradient boosting compares in float64. All sum in float64.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.link import Link
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.trees import TreeEnsemble, joined
from milp_rl.formulations.networks.trees_columns import largest_below

_SUPPORTED = (
    "DecisionTreeRegressor, ExtraTreeRegressor, RandomForestRegressor, ExtraTreesRegressor,"
    " GradientBoostingRegressor, HistGradientBoostingRegressor"
)
_LINKS: dict[str, Link] = {"IdentityLink": "identity", "LogLink": "exp"}


def is_sklearn_trees(source: object) -> bool:
    """Whether ``source`` is a tree model of scikit-learn, without importing it."""
    if "sklearn" not in sys.modules:
        return False
    from sklearn.ensemble._forest import BaseForest
    from sklearn.ensemble._gb import BaseGradientBoosting
    from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
    from sklearn.tree import BaseDecisionTree

    kinds = (BaseDecisionTree, BaseForest, BaseGradientBoosting, BaseHistGradientBoosting)
    return isinstance(source, kinds)


def read_sklearn_trees(model: Any, *, output: int | None = None) -> TreeEnsemble:
    """Read a fitted tree model of scikit-learn.

    Parameters
    ----------
    model
        A regression tree, forest, gradient boosting or histogram gradient boosting.
    output
        Which one to take of several outputs.

    Returns
    -------
    TreeEnsemble
        Its values are those of ``model.predict``, before the exponential of losses that have it.

    Raises
    ------
    NetworkError
        If the model is not fitted, not a regression, has several outputs and none is chosen, or
        does more than sum trees: splits by category, an initial estimator that is not a constant.
        The message names it.
    """
    from sklearn import ensemble, tree
    from sklearn.utils.validation import check_is_fitted

    name = type(model).__name__
    readers = {
        tree.DecisionTreeRegressor: _tree,
        ensemble.RandomForestRegressor: _forest,
        ensemble.ExtraTreesRegressor: _forest,
        ensemble.GradientBoostingRegressor: _boosting,
        ensemble.HistGradientBoostingRegressor: _histogram_boosting,
    }
    for kind, reader in readers.items():
        if isinstance(model, kind) and type(model).predict is kind.predict:
            try:
                check_is_fitted(model)
            except Exception as error:
                raise NetworkError(f"the {name} is not fitted") from error
            return reader(model, _output(model, output))
    raise NetworkError(f"{name} is not supported; supported are {_SUPPORTED}")


def _output(model: Any, output: int | None) -> int:
    """Return which output to take, 0 of a single one."""
    count = int(getattr(model, "n_outputs_", 1))
    if output is None and count == 1:
        return 0
    if output is None or not 0 <= output < count:
        raise NetworkError(
            f"the {type(model).__name__} has {count} outputs; choose one with output=0 to"
            f" {count - 1}" + ("" if output is None else f", not {output}")
        )
    return output


def _tree(model: Any, output: int, scale: float = 1.0) -> TreeEnsemble:
    own = model.tree_
    return TreeEnsemble(
        np.where(own.children_left < 0, -1, own.feature),
        largest_below(_float32, own.threshold),
        np.stack([own.children_left, own.children_right], axis=1),
        own.value[:, output, 0] * scale,
        np.zeros(1, dtype=np.intp),
        int(model.n_features_in_),
    )


def _forest(model: Any, output: int) -> TreeEnsemble:
    share = 1.0 / len(model.estimators_)
    return joined([_tree(one, output, share) for one in model.estimators_])


def _boosting(model: Any, output: int) -> TreeEnsemble:
    from sklearn.dummy import DummyRegressor

    first = model.init_
    if isinstance(first, DummyRegressor):
        base = float(np.ravel(first.constant_)[0])
    elif first == "zero":
        base = 0.0
    else:
        raise NetworkError(
            f"the GradientBoostingRegressor begins with a {type(first).__name__}; only a constant"
            " is supported, init=None or init='zero'"
        )
    trees = [_tree(one, output, model.learning_rate) for one in model.estimators_[:, 0]]
    return joined(trees, base)


def _histogram_boosting(model: Any, _: int) -> TreeEnsemble:
    link = type(model._loss.link).__name__
    if link not in _LINKS:
        raise NetworkError(
            f"the HistGradientBoostingRegressor of loss {model.loss!r} applies the link {link} to"
            " its sum of trees, which is not supported"
        )
    categories = model.is_categorical_
    if categories is not None and np.any(categories):
        raise NetworkError(
            f"the HistGradientBoostingRegressor takes inputs {np.flatnonzero(categories).tolist()}"
            " for categories; encode them as binary inputs, one per category, instead of"
            " categorical_features"
        )
    trees = []
    for (predictor,) in model._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            TreeEnsemble(
                np.where(leaf, -1, nodes["feature_idx"]),
                nodes["num_threshold"],
                np.stack([nodes["left"], nodes["right"]], axis=1),
                nodes["value"],
                np.zeros(1, dtype=np.intp),
                int(model.n_features_in_),
            )
        )
    return replace(joined(trees, float(model._baseline_prediction[0, 0])), link=_LINKS[link])


def _float32(x: FloatArray) -> Any:
    return x.astype(np.float32)
