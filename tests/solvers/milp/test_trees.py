"""The argmax of trees by every solver, against the trees' values of all feasible actions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn import ensemble, tree

import milp_rl as mr
from milp_rl.argmax_solver import ArgmaxSolver
from milp_rl.formulations.networks import trees_value
from milp_rl.formulations.networks.trees import TreeEnsemble, joined
from milp_rl.formulations.networks.trees_reader import read_trees
from milp_rl.formulations.networks.trees_value import TreeValue
from milp_rl.solvers.errors import CertificationError

SOLVERS = ("highs", "gurobi", "scip", "enumeration", "auto")
LONG = int(os.environ.get("MILP_RL_FUZZ", "0"))


def spaces(rng: np.random.Generator) -> mr.ActionSpace:
    """A space of at most nine actions, of one of the blocks or of two."""
    n = int(rng.integers(1, 8))
    kind = rng.integers(8)
    if kind == 0:
        return mr.BudgetTopK(n, int(rng.integers(0, n + 1)), exactly=bool(rng.integers(2)))
    if kind == 1:
        return mr.BudgetTopK(n, n, costs=rng.integers(1, 6, n), budget=float(2 * n))
    if kind == 2:
        return mr.Capacity(rng.integers(1, 5, n), rng.integers(1, 8, rng.integers(1, 4)))
    if kind == 3:
        workers, arms = rng.random((2, 3)) < 0.7, rng.random((n, 3)) < 0.6
        return mr.Scheduling(workers, arms, needs=int(rng.integers(1, 3)))
    factors = {"how": ["a", "b", "c"], "who": ["d", "e", "f"]}
    if kind == 4:
        return mr.FactoredValidity(factors, forbidden=[("a", "e")], optional=bool(rng.integers(2)))
    if kind == 5:
        return mr.FactoredValidity({"x": ["a", "b"]}, n_decision_makers=2) * mr.BudgetTopK(4, 2)
    if kind == 6:
        return mr.Capacity(rng.integers(1, 5, n), [6, 4]) & mr.BudgetTopK(n, (n + 1) // 2)
    return mr.Box([0] * n, [1] * n, matrix=rng.integers(-2, 4, (1, n)), right=[3], binary=range(n))


def drawn(rng: np.random.Generator, n_actions: int, state_dim: int) -> tuple[TreeEnsemble, Any]:
    """Trees, and a function that gives their values by an outside implementation."""
    n = n_actions + state_dim
    if rng.random() < 0.6:
        x = rng.normal(size=(120, n))
        x[:, :n_actions] = x[:, :n_actions] > 0
        y = np.sin(x @ rng.normal(size=n)) + x[:, 0] * x[:, -1] + 10.0 ** rng.integers(-3, 4)
        model = [
            tree.DecisionTreeRegressor(max_depth=5),
            ensemble.RandomForestRegressor(3, max_depth=4),
            ensemble.GradientBoostingRegressor(n_estimators=8, max_depth=3),
            ensemble.HistGradientBoostingRegressor(max_iter=8, min_samples_leaf=4),
        ][int(rng.integers(4))]
        model.set_params(random_state=int(rng.integers(1000)))
        trees = read_trees(model.fit(x, y))
        assert trees is not None
        return trees, model.predict
    scale = 10.0 ** float(rng.integers(-4, 5))

    def grow(level: int) -> int:
        at = len(nodes)
        nodes.append([-1, 0.0, 0, 0, scale * float(rng.integers(-3, 4))])
        if level < 4 and rng.random() > 0.2:
            f = int(rng.integers(n))
            nodes[at][:2] = [f, float(rng.choice([0.0, 0.5, 1.0, 0.3]))]
            nodes[at][2:4] = [grow(level + 1), grow(level + 1)]
        return at

    parts = []
    for _ in range(int(rng.integers(1, 7))):
        nodes: list[list[Any]] = []
        grow(0)
        f, t, left, right, v = (np.array(column) for column in zip(*nodes, strict=True))
        children = np.stack([left, right], axis=1)
        parts.append(TreeEnsemble(f, t, children, v, np.zeros(1, dtype=int), n))
    trees = joined(parts, scale * float(rng.normal()))
    return trees, lambda x: np.array([_walked(trees, row) for row in x])


def _walked(trees: TreeEnsemble, x: Any) -> float:
    """Return a value by following the nodes one by one."""
    total = trees.base
    for node in trees.roots:
        while trees.feature[node] >= 0:
            right = x[trees.feature[node]] > trees.threshold[node]
            node = trees.children[node, int(right)]
        total += trees.value[node]
    return total


def _check(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = spaces(rng)
    state_dim = int(rng.integers(0, 4))
    trees, outside = drawn(rng, space.n_actions, state_dim)
    value = TreeValue(trees, space.n_actions)
    state = rng.normal(size=state_dim)
    actions = space.enumerate()
    rows = np.concatenate([actions, np.tile(state, (len(actions), 1))], axis=1)
    values = outside(rows.astype(float))
    sense = "maximize" if rng.random() < 0.7 else "minimize"
    best = values.max() if sense == "maximize" else values.min()
    spread = values.max() - values.min()
    allowed = 1e-6 * spread + 1e-12 * np.abs(values).max()
    start = actions[rng.integers(len(actions))] if rng.random() < 0.5 else None
    for solver in SOLVERS:
        result = ArgmaxSolver(value, space, solver=solver, sense=sense).solve(state, start=start)
        assert result.status == "optimal", (seed, solver)
        assert not space.violations(result.action)
        (own,) = outside(np.concatenate([result.action, state])[None].astype(float))
        assert result.value == pytest.approx(own, rel=1e-12, abs=1e-12 * np.abs(values).max())
        assert abs(result.value - best) <= allowed, (seed, solver)
        excess = result.bound - best if sense == "maximize" else best - result.bound
        assert excess >= -allowed, (seed, solver)


@pytest.mark.parametrize("block", range(20))
def test_every_solver_finds_the_best_action(block: int) -> None:
    for seed in range(10 * block, 10 * block + 10):
        _check(seed)


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="the long run: set MILP_RL_FUZZ")
@pytest.mark.parametrize("block", range(100))
def test_every_solver_finds_the_best_action_in_the_long_run(block: int) -> None:
    for seed in range(10_000 + block, 10_000 + LONG, 100):
        _check(seed)


def _fitted(rng: np.random.Generator, n_actions: int, state_dim: int, n_trees: int) -> Any:
    x = rng.normal(size=(2000, n_actions + state_dim))
    x[:, :n_actions] = x[:, :n_actions] > 0.5
    y = np.sin(x @ rng.normal(size=x.shape[1])) + x[:, 0] * x[:, -1] + x[:, 1] * x[:, 2]
    model = ensemble.HistGradientBoostingRegressor(max_iter=n_trees, random_state=0)
    return model.fit(x, y)


def test_solvers_agree_on_sets_that_are_not_listed() -> None:
    rng = np.random.default_rng(0)
    model = _fitted(rng, 20, 4, 30)
    value = TreeValue(read_trees(model), 20)
    space = mr.BudgetTopK(20, 8)
    for state in rng.normal(size=(2, 4)):
        results = [
            ArgmaxSolver(value, space, solver=s).solve(state) for s in ("highs", "gurobi", "auto")
        ]
        assert {r.status for r in results} == {"optimal"}
        values = [r.value for r in results]
        assert max(values) - min(values) <= results[0].tolerance
        assert results[2].solver == "highs"
        assert "does not take trees" in results[2].message
        sample = space.sample(rng, 3000)
        rows = np.concatenate([sample, np.tile(state, (3000, 1))], axis=1)
        assert model.predict(rows).max() <= min(r.bound for r in results) + 1e-9


def test_batches_starts_updates_and_limits() -> None:
    rng = np.random.default_rng(1)
    model = _fitted(rng, 10, 3, 20)
    space = mr.BudgetTopK(10, 4)
    states = rng.normal(size=(6, 3))
    actions = space.enumerate()
    solver = ArgmaxSolver(TreeValue(read_trees(model), 10), space, solver="highs")
    for refit in (False, True):
        if refit:
            model = _fitted(rng, 10, 3, 10)
            solver.update(TreeValue(read_trees(model), 10))
        for state, result in zip(states, solver.solve_batch(states, workers=2), strict=True):
            rows = np.concatenate([actions, np.tile(state, (len(actions), 1))], axis=1)
            assert result.value == pytest.approx(model.predict(rows).max(), abs=1e-6)
    network = mr.to_network(mr.QNetwork(state_dim=3, action_dim=10))
    solver.update(network)  # a network as well
    plain = ArgmaxSolver(network, space).solve(states[0])
    assert solver.solve(states[0]).value == pytest.approx(plain.value, abs=1e-6)
    stopped = ArgmaxSolver(
        TreeValue(read_trees(_fitted(rng, 30, 3, 60)), 30), mr.BudgetTopK(30, 12), solver="highs"
    ).solve(states[0], time_limit=1e-9)
    assert stopped.status in ("feasible", "no_solution")


def test_models_are_taken_as_they_come(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    x, n = rng.normal(size=(300, 8)), 6
    x[:, :n] = x[:, :n] > 0
    y = np.sin(x @ rng.normal(size=8)) + x[:, 0] * x[:, 1] + 2
    space = mr.FactoredValidity(
        {"how": ["a", "b", "c"], "who": ["d", "e", "f"]}, forbidden=[("a", "e")]
    )
    actions, state = space.enumerate(), np.float64(np.float32(rng.normal(size=2)))
    rows = np.concatenate([actions, np.tile(state, (len(actions), 1))], axis=1)
    forest = ensemble.RandomForestRegressor(5, max_depth=5, random_state=0).fit(x, y)
    poisson = ensemble.HistGradientBoostingRegressor(max_iter=8, loss="poisson").fit(x, y)
    path = tmp_path / "forest.onnx"
    kind = FloatTensorType([None, 8])
    path.write_bytes(skl2onnx.to_onnx(forest, initial_types=[("x", kind)]).SerializeToString())
    (stored,) = onnxruntime.InferenceSession(path).run(None, {"x": np.float32(rows)})
    turned = ensemble.RandomForestRegressor(5, max_depth=5, random_state=0)
    turned.fit(np.concatenate([x[:, n:], x[:, :n]], axis=1), y)
    from_state = turned.predict(np.concatenate([rows[:, n:], rows[:, :n]], axis=1))
    cases: list[tuple[Any, Any, dict[str, Any]]] = [
        (forest, forest.predict(rows), {}),
        (poisson, poisson.predict(rows), {}),
        (path, stored[:, 0], {}),
        (turned, from_state, {"inputs": ("state", "action")}),
    ]
    for model, values, options in cases:
        for solver in ("auto", "highs"):
            result = mr.argmax(model, state, space, solver=solver, **options)
            assert result.status == "optimal"
            assert result.value == pytest.approx(values.max(), rel=1e-6)
            assert values[(actions == result.action).all(axis=1)][0] >= values.max() - 1e-6


def test_who_does_not_take_trees_says_so() -> None:
    rng = np.random.default_rng(2)
    value = TreeValue(read_trees(_fitted(rng, 5, 2, 3)), 5)
    with pytest.raises(ValueError, match="branch_and_bound does not take trees; use 'highs'"):
        ArgmaxSolver(value, mr.BudgetTopK(5, 2), solver="branch_and_bound")
    for solver in ("auto", "highs"):
        with pytest.raises(ValueError, match="action 0 is continuous; the argmax of trees"):
            ArgmaxSolver(value, mr.Box([0] * 5, [1] * 5), solver=solver)


def test_a_wrong_network_of_the_trees_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    value = TreeValue(read_trees(_fitted(rng, 8, 2, 10)), 8)
    neurons = trees_value._neurons

    def wrong(trees: TreeEnsemble) -> Any:
        weight, bias, values, slope, base = neurons(trees)
        return weight, bias, values + 0.1, slope, base

    monkeypatch.setattr(trees_value, "_neurons", wrong)
    with pytest.raises(CertificationError):
        ArgmaxSolver(value, mr.BudgetTopK(8, 3), solver="highs").solve([0.3, -0.2])


def test_a_wrong_model_of_the_trees_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from milp_rl.solvers.milp import trees as solver_of_trees

    rng = np.random.default_rng(4)
    value = TreeValue(read_trees(_fitted(rng, 8, 2, 10)), 8)
    written = solver_of_trees.tree_model

    def wrong(trees: TreeEnsemble, base: Any) -> Any:
        found = written(trees, base)
        return replace(found, model=replace(found.model, objective=-found.model.objective))

    monkeypatch.setattr(solver_of_trees, "tree_model", wrong)
    with pytest.raises(CertificationError, match="wrong answer"):
        ArgmaxSolver(value, mr.BudgetTopK(8, 3), solver="highs").solve([0.3, -0.2])
