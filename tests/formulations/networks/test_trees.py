"""Tree ensembles against scikit-learn's own predictions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn import ensemble, linear_model, tree

from milp_rl.formulations.networks.link import linked
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.networks.trees_columns import largest_below
from milp_rl.formulations.networks.trees_reader import read_trees

MODELS = {
    "tree": lambda seed: tree.DecisionTreeRegressor(max_depth=6, random_state=seed),
    "extra tree": lambda seed: tree.ExtraTreeRegressor(max_depth=6, random_state=seed),
    "forest": lambda seed: ensemble.RandomForestRegressor(
        n_estimators=8, max_depth=5, random_state=seed
    ),
    "extra trees": lambda seed: ensemble.ExtraTreesRegressor(
        n_estimators=8, max_depth=5, random_state=seed
    ),
    "boosting": lambda seed: ensemble.GradientBoostingRegressor(
        n_estimators=12, max_depth=3, random_state=seed
    ),
    "boosting from zero": lambda seed: ensemble.GradientBoostingRegressor(
        n_estimators=12, max_depth=3, init="zero", loss="huber", random_state=seed
    ),
    "histogram boosting": lambda seed: ensemble.HistGradientBoostingRegressor(
        max_iter=12, max_leaf_nodes=8, min_samples_leaf=3, random_state=seed
    ),
}


def _data(rng: np.random.Generator, n: int = 300, width: int = 6) -> tuple[Any, Any]:
    """Two binary inputs, an integer one, the others continuous."""
    x = rng.normal(size=(n, width))
    x[:, :2] = x[:, :2] > 0
    x[:, 2] = rng.integers(0, 5, n)
    y = np.sin(x @ rng.normal(size=width)) + x[:, 0] * x[:, 3] + rng.normal(size=n) / 10
    return x, y


def _boundaries(model: TreeEnsemble, x: Any, rng: np.random.Generator) -> Any:
    """Replace an entry per row by a number at a threshold, or just beside it, also in float32."""
    inner = np.flatnonzero(model.feature >= 0)
    rows = np.repeat(x, 5, axis=0)
    for row in rows:
        node = rng.choice(inner)
        at = model.threshold[node]
        near = np.float32(at)
        row[model.feature[node]] = rng.choice(
            [
                at,
                np.nextafter(at, np.inf),
                near,
                np.nextafter(near, np.float32(np.inf)),
                np.nextafter(near, np.float32(-np.inf)),
            ]
        )
    return rows


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_scikit_learn(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = _data(rng)
    model = MODELS[kind](seed).fit(x, y)
    trees = read_trees(model)
    assert trees is not None
    for points in (x, rng.normal(size=(500, 6)) * 3, _boundaries(trees, x, rng)):
        np.testing.assert_allclose(
            trees.forward(points)[:, 0], model.predict(points), rtol=1e-12, atol=1e-12
        )
    assert trees.forward(x[0]).shape == (1,)
    assert trees.largest >= np.abs(trees.forward(x) - trees.base).max()


@pytest.mark.parametrize("kind", MODELS)
def test_a_state_leaves_a_function_of_the_action(kind: str) -> None:
    rng = np.random.default_rng(1)
    x, y = _data(rng)
    trees = read_trees(MODELS[kind](0).fit(x, y))
    assert trees is not None
    actions = np.array(list(itertools.product((0, 1), (0, 1), range(5))), dtype=float)
    for state in (*x[:20, 3:], *_boundaries(trees, x, rng)[:100, 3:]):
        own = trees.at_state(state)
        assert own.n_inputs == 3
        whole = np.concatenate([actions, np.tile(state, (len(actions), 1))], axis=1)
        np.testing.assert_allclose(
            own.forward(actions), trees.forward(whole), rtol=1e-12, atol=1e-12
        )
        over = own.restricted([0, 0, 0], [1, 1, 4], np.ones(3, dtype=bool))
        np.testing.assert_allclose(
            over.forward(actions), trees.forward(whole), rtol=1e-12, atol=1e-12
        )
        inner = over.feature >= 0
        assert len(over.feature) <= len(own.feature) <= len(trees.feature)
        assert set(over.threshold[inner]) <= {0.0, 1.0, 2.0, 3.0}
        sides = over.children[inner]
        assert (sides[:, 0] != sides[:, 1]).all()


def test_equal_subtrees_are_collapsed() -> None:
    # x0 <= 0.5 decides nothing: both sides are x1 <= 0.5 with leaves 1 and 2.
    trees = TreeEnsemble(
        np.array([0, 1, 1, -1, -1, -1, -1]),
        np.full(7, 0.5),
        np.array([[1, 2], [3, 4], [5, 6], [0, 0], [0, 0], [0, 0], [0, 0]]),
        np.array([0, 0, 0, 1.0, 2.0, 1.0, 2.0]),
        np.array([0]),
        2,
        3.0,
    )
    merged = trees.restricted([0, 0], [1, 1])
    assert sorted(merged.feature) == [-1, -1, 1]
    assert merged.forward([[0, 0], [1, 1]])[:, 0].tolist() == [4.0, 5.0]
    constant = trees.restricted([0, 0], [1, 0])
    assert constant.n_trees == 0
    assert constant.base == 4.0
    assert constant.forward([[1, 0]])[0, 0] == 4.0
    assert trees.negated().forward([[0, 1]])[0, 0] == -5.0


def test_thresholds_of_rounded_inputs_are_exact() -> None:
    rng = np.random.default_rng(0)
    wanted = np.concatenate(
        [rng.normal(size=200) * 10.0 ** rng.integers(-40, 38, 200), [0.0, -0.0, 0.1, 1e300, -1e300]]
    )

    def rounded(x: Any) -> Any:
        return x.astype(np.float32)

    def scaled(x: Any) -> Any:
        return (rounded(x) - np.float32(0.3)) * np.float32(1.7)

    with np.errstate(over="ignore"):
        for function in (rounded, scaled):
            for strictly in (False, True):
                found = largest_below(function, wanted, strictly=strictly)
                above = np.nextafter(found, np.inf)
                at, next_one = (function(v).astype(np.float64) for v in (found, above))
                if strictly:
                    assert (at < wanted).all()
                    assert (next_one >= wanted).all()
                else:
                    assert (at <= wanted).all()
                    assert (next_one > wanted).all()


def test_several_outputs_are_chosen_from() -> None:
    rng = np.random.default_rng(2)
    x, y = _data(rng)
    model = ensemble.RandomForestRegressor(4, max_depth=4, random_state=0)
    model.fit(x, np.stack([y, -y * x[:, 0]], axis=1))
    with pytest.raises(NetworkError, match="2 outputs; choose one with output=0 to 1"):
        read_trees(model)
    for i in range(2):
        trees = read_trees(model, output=i)
        assert trees is not None
        np.testing.assert_allclose(trees.forward(x)[:, 0], model.predict(x)[:, i], rtol=1e-12)


def test_losses_with_a_logarithm_have_a_link() -> None:
    rng = np.random.default_rng(4)
    x, y = _data(rng)
    for loss in ("poisson", "gamma"):
        model = ensemble.HistGradientBoostingRegressor(max_iter=5, loss=loss, min_samples_leaf=3)
        trees = read_trees(model.fit(x, np.abs(y) + 0.1))
        assert trees is not None
        values = linked(trees.link, trees.forward(x)[:, 0])
        np.testing.assert_allclose(values, model.predict(x), rtol=1e-12)
        assert trees.at_state(x[0, 3:]).link == "exp"


def test_the_state_may_come_first() -> None:
    rng = np.random.default_rng(5)
    x, y = _data(rng)
    model = ensemble.RandomForestRegressor(3, max_depth=4, random_state=0).fit(x, y)
    trees = read_trees(model, inputs=("state", "action"), n_actions=2)
    assert trees is not None
    turned = np.concatenate([x[:, 4:], x[:, :4]], axis=1)  # actions are the last two
    np.testing.assert_allclose(trees.forward(turned)[:, 0], model.predict(x), rtol=1e-12)
    with pytest.raises(NetworkError, match="needs the number of actions"):
        read_trees(model, inputs=("state", "action"))


def test_what_is_no_sum_of_trees_is_refused() -> None:
    rng = np.random.default_rng(3)
    x, y = _data(rng)
    x[:, 2] = np.abs(x[:, 2])
    categories = ensemble.HistGradientBoostingRegressor(
        max_iter=3, categorical_features=[2], min_samples_leaf=3
    )
    with pytest.raises(NetworkError, match=r"takes inputs \[2\] for categories"):
        read_trees(categories.fit(x, x[:, 2] % 2 + 0 * y))
    begun = ensemble.GradientBoostingRegressor(n_estimators=2, init=linear_model.Ridge())
    with pytest.raises(NetworkError, match="begins with a Ridge"):
        read_trees(begun.fit(x, y))
    with pytest.raises(NetworkError, match="RandomForestRegressor is not fitted"):
        read_trees(ensemble.RandomForestRegressor())
    with pytest.raises(NetworkError, match="RandomForestClassifier is not supported"):
        read_trees(ensemble.RandomForestClassifier(2).fit(x, y > 0))
    assert read_trees(linear_model.Ridge()) is None


def test_wrong_trees_are_refused() -> None:
    def build(**changes: Any) -> TreeEnsemble:
        parts: dict[str, Any] = {
            "feature": [0, -1, -1],
            "threshold": [0.5, 0, 0],
            "children": [[1, 2], [0, 0], [0, 0]],
            "value": [0, 1.0, 2.0],
            "roots": [0],
            "n_inputs": 1,
        }
        return TreeEnsemble(**(parts | changes))

    assert build().forward([[0.5], [0.6]])[:, 0].tolist() == [1.0, 2.0]
    for changes, message in (
        ({"children": [[1, 0], [0, 0], [0, 0]]}, "form a cycle"),
        ({"children": [[1, 3], [0, 0], [0, 0]]}, "out of 0 to 2"),
        ({"feature": [1, -1, -1]}, "compares input 1"),
        ({"value": [0, np.nan, 2.0]}, "1 leaf values are not finite"),
        ({"threshold": [np.nan, 0, 0]}, "is NaN"),
        ({"base": np.inf}, "base value"),
        ({"value": [0, 1.0]}, "got shapes"),
    ):
        with pytest.raises(NetworkError, match=message):
            build(**changes)
    with pytest.raises(ValueError, match="take 1 inputs"):
        build().forward([[0, 0]])
    with pytest.raises(ValueError, match="leaves no action inputs"):
        build().at_state([0.0])
