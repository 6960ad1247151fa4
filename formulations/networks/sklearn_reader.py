"""Reading scikit-learn's regressors that are ReLU networks, from the fitted estimators.

Estimators are told by the module of their classes: scikit-learn is not imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.link import Link
from milp_rl.formulations.networks.network import Activation, Layer, Network, NetworkError
from milp_rl.formulations.networks.torch_layers import clip_layers

_SUPPORTED = (
    "supported are MLPRegressor with relu or identity, linear models, Pipeline of StandardScaler,"
    " MinMaxScaler, MaxAbsScaler, RobustScaler and one of these, and TransformedTargetRegressor"
    " whose transformer is affine"
)
_TREES = {"BaseDecisionTree", "BaseForest", "BaseGradientBoosting", "BaseHistGradientBoosting"}


def is_sklearn(source: object) -> bool:
    """Whether an object is an estimator of scikit-learn, or of a class made from one."""
    return any(_home(kind) == "sklearn" for kind in type(source).__mro__)


def read_sklearn(estimator: Any) -> Network:
    """Read a fitted regressor.

    Parameters
    ----------
    estimator
        ``MLPRegressor`` (relu or identity), a linear model (``LinearRegression``, ``Ridge``,
        ``Lasso``, ``ElasticNet``, ``SGDRegressor``, ...), a ``Pipeline`` of scalers and one of
        these, or a ``TransformedTargetRegressor`` whose transformer is affine.

    Returns
    -------
    Network
        Inputs are the features, outputs the targets, in the order in which it was fitted.

    Raises
    ------
    NetworkError
        If it is not fitted, or is or contains something else.
    """
    layers, link = _read(estimator)
    return Network(tuple(layers), link)


def _read(estimator: Any) -> tuple[list[Layer], Link]:
    """Return the layers of a regressor, and what is applied to the last one."""
    kinds = {kind.__name__ for kind in type(estimator).__mro__ if _home(kind) == "sklearn"}
    name = type(estimator).__name__
    if "Pipeline" in kinds and _own(estimator, "predict"):
        return _pipeline(estimator)
    if kinds & _TREES:
        raise NetworkError(
            f"{name} is made of trees, which are read on their own only: they need no scaler, fit"
            " them on the inputs as they are"
        )
    if "MLPRegressor" in kinds and _own(estimator, "predict"):
        return _perceptron(estimator)
    if "TransformedTargetRegressor" in kinds and _own(estimator, "predict"):
        return _transformed_target(estimator)
    linear = kinds & {"LinearModel", "BaseSGDRegressor", "PoissonRegressor", "GammaRegressor"}
    if linear and "ClassifierMixin" not in kinds and _own(estimator, "predict"):
        weight = np.atleast_2d(_array(_fitted(estimator, "coef_")))
        layer = Layer(weight, np.broadcast_to(estimator.intercept_, len(weight)), "linear")
        return [layer], "exp" if kinds & {"PoissonRegressor", "GammaRegressor"} else "identity"
    raise NetworkError(f"{name} cannot be read as a network; {_SUPPORTED}")


def _pipeline(pipeline: Any) -> tuple[list[Layer], Link]:
    layers: list[Layer] = []
    *before, (_, last) = pipeline.steps
    for name, step in before:
        if step is not None and step != "passthrough":
            try:
                layers += _transformer(step)
            except NetworkError as error:
                raise NetworkError(f"step {name!r} of the Pipeline: {error}") from error
    own, link = _read(last)
    return layers + own, link


def _perceptron(estimator: Any) -> tuple[list[Layer], Link]:
    weights = _fitted(estimator, "coefs_")
    links: dict[str, Link] = {"identity": "identity", "exp": "exp"}
    hidden, last = estimator.activation, estimator.out_activation_
    if hidden not in ("relu", "identity"):
        raise NetworkError(
            f"the {type(estimator).__name__} has activation {hidden!r}, which is not piecewise"
            " linear; fit it with activation='relu'"
        )
    if last not in links:
        raise NetworkError(f"the {type(estimator).__name__} ends in {last!r}")
    kinds: list[Activation] = ["relu" if hidden == "relu" else "linear"] * (len(weights) - 1)
    layers = [
        Layer(np.asarray(weight).T, np.asarray(bias), kind)
        for weight, bias, kind in zip(
            weights, estimator.intercepts_, [*kinds, "linear"], strict=True
        )
    ]
    return layers, links[last]


def _transformed_target(estimator: Any) -> tuple[list[Layer], Link]:
    inner = _fitted(estimator, "regressor_")
    layers, link = _read(inner)
    if link != "identity":
        raise NetworkError(
            f"the {type(inner).__name__} ends in {link}, which the TransformedTargetRegressor then"
            " transforms; fit it without"
        )
    scale, shift = _affine_map(estimator.transformer_.inverse_transform, len(layers[-1].bias))
    return [*layers, Layer(scale, shift, "linear")], "identity"


def _affine_map(
    transform: Callable[[FloatArray], FloatArray], n: int
) -> tuple[FloatArray, FloatArray]:
    """Return the matrix and offset of a function of n values, after checking that it is affine."""
    shift = _array(transform(np.zeros((1, n))))[0]
    matrix = (_array(transform(np.eye(n))) - shift).T
    rng = np.random.default_rng(0)
    points = rng.normal(size=(256, n)) * 10.0 ** rng.uniform(-3, 3, size=(256, 1))
    with np.errstate(all="ignore"):
        given, expected = _array(transform(points)), points @ matrix.T + shift
        size = np.abs(points) @ np.abs(matrix.T) + np.abs(shift)
        same = given.shape == expected.shape and (np.abs(given - expected) <= 1e-9 * size).all()
    if not same:
        raise NetworkError(
            "the TransformedTargetRegressor has a transformer that is not affine; fit the regressor"
            " on the transformed target, or use a StandardScaler or MinMaxScaler"
        )
    return matrix, shift


def _transformer(step: Any) -> Sequence[Layer]:
    """Return the layers of a scaler."""
    name = type(step).__name__
    if _home(type(step)) != "sklearn":
        raise NetworkError(f"{name} cannot be read as a network; {_SUPPORTED}")
    if name == "Pipeline":
        return [layer for _, part in step.steps for layer in _transformer(part)]
    n = int(_fitted(step, "n_features_in_"))
    scale, shift = np.ones(n), np.zeros(n)
    if name == "MinMaxScaler":
        scale, shift = _array(step.scale_), _array(step.min_)
    elif name in ("StandardScaler", "RobustScaler", "MaxAbsScaler"):
        centre = getattr(step, "mean_" if name == "StandardScaler" else "center_", None)
        if step.scale_ is not None:
            scale = 1 / _array(step.scale_)
        if centre is not None and getattr(step, "with_mean", True):
            shift = -_array(centre) * scale
    else:
        raise NetworkError(f"{name} cannot be read as a network; {_SUPPORTED}")
    layers = [Layer(np.diag(scale), shift, "linear")]
    if getattr(step, "clip", False):
        low, high = getattr(step, "feature_range", (-1.0, 1.0))
        layers += clip_layers(np.full(n, float(low)), np.full(n, float(high)))
    return layers


def _fitted(estimator: Any, attribute: str) -> Any:
    if not hasattr(estimator, attribute):
        raise NetworkError(f"the {type(estimator).__name__} is not fitted; call .fit first")
    return getattr(estimator, attribute)


def _array(values: Any) -> FloatArray:
    dense = values.toarray() if hasattr(values, "toarray") else values
    return np.asarray(dense, dtype=np.float64)


def _own(estimator: Any, method: str) -> bool:
    """Whether a method is scikit-learn's, not one of a class that a user made from it."""
    defined = next(kind for kind in type(estimator).__mro__ if method in vars(kind))
    return _home(defined) == "sklearn"


def _home(kind: type) -> str:
    return kind.__module__.split(".")[0]
