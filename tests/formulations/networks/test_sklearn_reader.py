"""Fitted estimators, against what they predict."""

import re
import warnings

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

from milp_rl.formulations.networks.conversion import to_action_value, to_network
from milp_rl.formulations.networks.network import NetworkError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 5)) * [1, 10, 0.1, 3, 1] + [0, 5, 0, -2, 1]
Y = X @ RNG.normal(size=5) + np.maximum(X[:, 0], 0) + 40
Y2 = np.column_stack([Y, np.abs(X[:, 1])])


def perceptron(**options):
    return MLPRegressor(hidden_layer_sizes=(8, 6), max_iter=20, random_state=0, **options)


def fitted(estimator, y=Y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, y)


def shown(estimator):
    """A name that is the same in every process: those of functions have their addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(estimator).split()))


@pytest.mark.parametrize(
    "estimator",
    [
        perceptron(),
        perceptron(activation="identity"),
        LinearRegression(),
        LinearRegression(fit_intercept=False),
        Ridge(),
        Lasso(0.1),
        ElasticNet(),
        HuberRegressor(),
        make_pipeline(StandardScaler(), SGDRegressor(random_state=0)),
        make_pipeline(StandardScaler(), perceptron()),
        make_pipeline(StandardScaler(with_mean=False), LinearRegression()),
        make_pipeline(StandardScaler(with_std=False), perceptron()),
        make_pipeline(MinMaxScaler((-1, 2)), perceptron()),
        make_pipeline(MinMaxScaler(clip=True), perceptron()),
        make_pipeline("passthrough", MaxAbsScaler(), perceptron()),
        make_pipeline(RobustScaler(), perceptron()),
        make_pipeline(RobustScaler(with_centering=False), Ridge()),
        make_pipeline(RobustScaler(with_scaling=False), Ridge()),
        make_pipeline(make_pipeline(StandardScaler(), MinMaxScaler()), make_pipeline(Ridge())),
        TransformedTargetRegressor(perceptron(), transformer=StandardScaler()),
        TransformedTargetRegressor(Ridge(), transformer=MinMaxScaler()),
        TransformedTargetRegressor(Ridge(), func=lambda y: y / 3, inverse_func=lambda y: y * 3),
        make_pipeline(MinMaxScaler(), TransformedTargetRegressor(perceptron())),
    ],
    ids=shown,
)
@pytest.mark.parametrize("many", [False, True])
def test_a_fitted_regressor_gives_what_it_predicts(estimator, many):
    if many and any(name in str(estimator) for name in ("Huber", "SGD")):
        pytest.skip("of one target only")
    fitted(estimator, Y2 if many else Y)
    x = X * 2 - 3  # beyond what it was fitted to, where clipping matters
    network = to_network(estimator)
    expected = estimator.predict(x).reshape(len(x), -1)
    np.testing.assert_allclose(network.forward(x), expected, rtol=1e-9, atol=1e-9)
    for output in range(1 + many):
        value = to_action_value(estimator, 2, output=output)
        assert (value.n_actions, value.state_dim) == (2, 3)
        given = value.values(x[:, 2:], x[:, :2])
        np.testing.assert_allclose(given, expected[:, output], rtol=1e-9, atol=1e-9)


def test_the_state_may_come_first():
    estimator = fitted(perceptron())
    value = to_action_value(estimator, 2, inputs=("state", "action"))
    np.testing.assert_allclose(value.values(X[:, :3], X[:, 3:]), estimator.predict(X))


@pytest.mark.parametrize(
    "estimator",
    [make_pipeline(StandardScaler(), kind()) for kind in (PoissonRegressor, GammaRegressor)],
    ids=shown,
)
def test_an_exponential_at_the_end_is_a_link(estimator):
    network = to_network(fitted(estimator, np.abs(Y) + 1))
    assert network.link == "exp"
    np.testing.assert_allclose(np.exp(network.forward(X))[:, 0], estimator.predict(X))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (perceptron(activation="tanh"), "activation 'tanh'.*activation='relu'"),
        (perceptron(activation="logistic"), "activation 'logistic'"),
        (TweedieRegressor(), "TweedieRegressor cannot be read.*supported are MLPRegressor"),
        (TransformedTargetRegressor(PoissonRegressor()), "PoissonRegressor ends in exp"),
        (make_pipeline(PCA(2), Ridge()), "step 'pca' of the Pipeline: PCA cannot be read"),
        (
            make_pipeline(StandardScaler(), RandomForestRegressor(3)),
            "RandomForestRegressor is made of trees.*no scaler",
        ),
        (TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1), "not affine"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_piecewise_linear_is_refused(estimator, message):
    with pytest.raises(NetworkError, match=message):
        to_network(fitted(estimator, np.abs(Y)))


@pytest.mark.parametrize("estimator", [LogisticRegression(), MLPClassifier(max_iter=5)], ids=shown)
def test_classifiers_are_refused(estimator):
    with pytest.raises(NetworkError, match=r"(Classifier|LogisticRegression) cannot be read"):
        to_network(fitted(estimator, (Y.mean() < Y).astype(int)))


@pytest.mark.parametrize(
    "estimator",
    [
        perceptron(),
        LinearRegression(),
        make_pipeline(StandardScaler(), Ridge()),
        TransformedTargetRegressor(Ridge()),
    ],
    ids=shown,
)
def test_what_is_not_fitted_is_said(estimator):
    with pytest.raises(NetworkError, match=r"is not fitted; call \.fit first"):
        to_network(estimator)


def test_a_class_with_its_own_predict_is_not_mistaken():
    class Doubled(LinearRegression):
        def predict(self, X):
            return 2 * super().predict(X)

    with pytest.raises(NetworkError, match="Doubled cannot be read"):
        to_network(fitted(Doubled()))


def test_one_of_several_outputs_is_asked_for():
    estimator = fitted(Ridge(), Y2)
    with pytest.raises(ValueError, match="one output, the Q-value; got 2: say which with output="):
        to_action_value(estimator, 2)
    with pytest.raises(NetworkError, match="output 2 is not one of the network's 2"):
        to_network(estimator, output=2)
