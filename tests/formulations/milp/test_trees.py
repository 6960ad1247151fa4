"""The model over leaves against enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.milp.trees import tree_model
from milp_rl.formulations.networks.trees import TreeEnsemble, joined
from milp_rl.formulations.networks.trees_leaves import leaves_of


def drawn(
    rng: np.random.Generator, upper: Any, *, n_trees: int = 4, depth: int = 4, leaf: float = 0.2
) -> TreeEnsemble:
    """Trees with thresholds in and out of the range of the inputs, some splits repeated."""

    def grow(level: int) -> int:
        at = len(nodes)
        nodes.append([-1, 0.0, 0, 0, float(rng.normal())])
        if level < depth and (level == 0 or rng.random() > leaf):
            f = int(rng.integers(len(upper)))
            threshold = float(rng.choice([rng.uniform(-0.5, upper[f] + 0.5), rng.integers(0, 3)]))
            nodes[at][:2] = [f, threshold]
            nodes[at][2:4] = [grow(level + 1), grow(level + 1)]
        return at

    parts = []
    for _ in range(n_trees):
        nodes: list[list[Any]] = []
        grow(0)
        f, t, left, right, v = (np.array(column) for column in zip(*nodes, strict=True))
        children = np.stack([left, right], axis=1)
        parts.append(TreeEnsemble(f, t, children, v, np.zeros(1, dtype=int), len(upper)))
    return joined(parts, float(rng.normal()))


def box(upper: Any, *, integer: Any = True, lower: Any = 0.0) -> LinearModel:
    n = len(upper)
    return LinearModel(
        np.zeros(n),
        0.0,
        sparse.csr_array((0, n)),
        np.zeros(0),
        np.zeros(0),
        np.broadcast_to(np.asarray(lower, dtype=float), (n,)),
        np.asarray(upper, dtype=float),
        np.broadcast_to(np.asarray(integer), (n,)),
    )


def maximum(model: LinearModel) -> tuple[float, Any]:
    found = milp(
        -model.objective,
        constraints=LinearConstraint(model.matrix, model.row_lower, model.row_upper),
        bounds=Bounds(model.column_lower, model.column_upper),
        integrality=model.integer.astype(int),
    )
    assert found.success
    return model.offset - found.fun, found.x


def points_of(upper: Any) -> Any:
    ranges = [range(int(u) + 1) for u in upper]
    return np.array(list(itertools.product(*ranges)), dtype=float)


@pytest.mark.parametrize("upper", [[1] * 7, [3, 1, 4, 1], [6, 5]], ids=str)
def test_every_point_has_its_value_and_the_maximum_is_right(upper: list[int]) -> None:
    points = points_of(upper)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        trees = drawn(rng, upper, n_trees=int(rng.integers(1, 6)))
        written = tree_model(trees, box(upper))
        model, values = written.model, trees.forward(points)[:, 0]
        for point, value in zip(points[:60], values[:60], strict=True):
            x = written.complete(point)
            assert model.objective @ x + model.offset == pytest.approx(value, abs=1e-9)
            rows = model.matrix @ x
            assert (rows >= model.row_lower - 1e-9).all()
            assert (rows <= model.row_upper + 1e-9).all()
            assert (x >= model.column_lower).all()
            assert (x <= model.column_upper).all()
        best, x = maximum(model)
        assert best == pytest.approx(values.max(), abs=1e-6)
        assert trees.forward(np.rint(x[: len(upper)]))[0] == pytest.approx(best, abs=1e-6)
        least, _ = maximum(tree_model(trees.negated(), box(upper)).model)
        assert -least == pytest.approx(values.min(), abs=1e-6)
        assert written.lowest - 1e-9 <= values.min() <= values.max() <= written.highest + 1e-9


def test_the_relaxation_of_one_tree_is_its_convex_hull() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        upper = [1] * 6
        trees = drawn(rng, upper, n_trees=1, depth=5)
        model = tree_model(trees, box(upper)).model
        slope = rng.normal(size=6)
        points = points_of(upper)
        objective = model.objective.copy()
        objective[:6] += slope
        rows = [
            (model.matrix[keep], side[keep] * sign, sign)
            for side, sign in ((model.row_upper, 1.0), (model.row_lower, -1.0))
            if (keep := np.isfinite(side)).any()
        ]
        matrix = sparse.vstack([sign * part for part, _, sign in rows]) if rows else None
        right = np.concatenate([side for _, side, _ in rows]) if rows else None
        bounds = np.stack([model.column_lower, model.column_upper], axis=1)
        found = linprog(-objective, A_ub=matrix, b_ub=right, bounds=bounds)
        wanted = (trees.forward(points)[:, 0] + points @ slope).max()
        assert model.offset - found.fun == pytest.approx(wanted, abs=1e-7)


def test_what_the_set_says_is_kept() -> None:
    rng = np.random.default_rng(0)
    trees = drawn(rng, [1] * 6, n_trees=5)
    base = box([1] * 8)  # two columns of the set's own follow the inputs
    row = np.zeros((1, 8))
    row[0, :6], row[0, 7] = 1.0, 2.0
    base = LinearModel(
        base.objective,
        0.0,
        sparse.csr_array(row),
        np.array([-np.inf]),
        np.array([3.0]),
        base.column_lower,
        base.column_upper,
        base.integer,
    )
    points = points_of([1] * 6)
    values = trees.forward(points[points.sum(axis=1) <= 3])[:, 0]
    assert maximum(tree_model(trees, base).model)[0] == pytest.approx(values.max(), abs=1e-6)


def test_trees_of_the_same_shape_are_added_and_stumps_need_no_rows() -> None:
    rng = np.random.default_rng(1)
    stump = TreeEnsemble([0, -1, -1], [0.5, 0, 0], [[1, 2], [0, 0], [0, 0]], [0, 1, 3], [0], 2)
    other = TreeEnsemble([1, -1, -1], [0.5, 0, 0], [[1, 2], [0, 0], [0, 0]], [0, 5, 4], [0], 2)
    trees = joined([stump, stump, other, stump], 1.0)
    written = tree_model(trees, box([1, 1]))
    assert written.leaves.n_trees == 2
    assert written.model.n_columns == 2
    assert written.model.n_rows == 0
    assert written.model.objective.tolist() == [6.0, -1.0]
    assert written.model.offset == 9.0
    big = drawn(rng, [1] * 5)
    twice = leaves_of(joined([big, big]).restricted([0] * 5, [1] * 5, np.ones(5, dtype=bool)))
    once = leaves_of(big.restricted([0] * 5, [1] * 5, np.ones(5, dtype=bool)))
    assert len(twice.value) == len(once.value)
    np.testing.assert_allclose(twice.value, 2 * once.value)
    constant = tree_model(trees.restricted([0, 0], [0, 0]), box([1, 1])).model
    assert constant.n_columns == 2
    assert constant.offset == 9.0


def test_continuous_inputs_are_refused_where_they_are_compared() -> None:
    rng = np.random.default_rng(2)
    trees = drawn(rng, [1, 1])
    with pytest.raises(ValueError, match="compare input 0, which is continuous"):
        tree_model(trees, box([1, 1], integer=[False, True]))
    with pytest.raises(ValueError, match=r"compare input 1, .* or has no bounds"):
        tree_model(trees, box([1, np.inf]))
    fixed = tree_model(trees, box([0.3, 1], integer=[False, True], lower=[0.3, 0]))
    points = np.array([[0.3, 0], [0.3, 1]])
    assert maximum(fixed.model)[0] == pytest.approx(trees.forward(points).max(), abs=1e-6)
