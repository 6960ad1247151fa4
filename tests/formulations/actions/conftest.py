"""`check_space`: what every action space must satisfy, checked against all 2^n actions."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import highspy
import numpy as np
import pyomo.environ as pyo
import pytest
from numpy.typing import NDArray

from milp_rl.formulations.actions.base import ActionSpace
from milp_rl.formulations.highs_model import new_highs, pass_model
from milp_rl.formulations.linear_model import compile_pyomo

Actions = NDArray[np.int8]
CheckSpace = Callable[..., Actions]


@pytest.fixture
def check_space(tmp_path: Path) -> CheckSpace:
    """Return a function that checks a space and returns its feasible actions.

    ``check_space(space, seed=0, support_draws=0)``: ``space`` has at most 12 actions; with
    ``support_draws``, that many samples must show every feasible action. The returned array,
    shape (count, n_actions), holds the feasible actions in binary order, so that a test can
    compare them with an independent statement of the constraint.
    """

    def check(space: ActionSpace, seed: int = 0, support_draws: int = 0) -> Actions:
        assert space.n_actions <= 12
        rng = np.random.default_rng(seed)
        everything = all_actions(space.n_actions)
        feasible = np.array([not space.violations(a) for a in everything])
        _check_model(space, everything, feasible)
        reference = everything[feasible]
        _check_down_closed(space, reference)
        _check_linear_max(space, reference, rng)
        _check_sample(space, reference, seed, support_draws)
        _check_extensions(space, everything, reference, rng)
        _check_enumerate(space, reference)
        _check_round_trip(space, everything, feasible, tmp_path / "space.json")
        _check_rejections(space)
        return reference

    return check


def all_actions(n: int) -> Actions:
    """Return all 2^n binary vectors, in binary order."""
    return np.array(list(itertools.product((0, 1), repeat=n)), dtype=np.int8).reshape(-1, n)


def _rows(actions: Actions) -> set[tuple[int, ...]]:
    return set(map(tuple, actions.tolist()))


def _check_model(space: ActionSpace, everything: Actions, feasible: NDArray[np.bool_]) -> None:
    """`add_to` accepts an action, held in the compiled block, if and only if `violations` does."""
    n = space.n_actions
    model = pyo.ConcreteModel()
    variables = space.add_to(model)
    assert len(variables) == n
    assert all(v.is_binary() for v in variables)
    compiled, _ = compile_pyomo(model, variables)
    highs = new_highs()
    pass_model(highs, compiled)
    columns = np.arange(n, dtype=np.int32)
    for action, expected in zip(everything, feasible, strict=True):
        values = action.astype(float)
        highs.changeColsBounds(n, columns, values, values)
        highs.run()
        status = highs.getModelStatus()
        assert status in (
            highspy.HighsModelStatus.kOptimal,
            highspy.HighsModelStatus.kInfeasible,
            highspy.HighsModelStatus.kModelEmpty,
        ), status
        accepted = status != highspy.HighsModelStatus.kInfeasible
        assert accepted == expected, (
            f"{action}: the block says {'feasible' if accepted else 'infeasible'},"
            f" violations says {space.violations(action)}"
        )

    outer = pyo.ConcreteModel()  # the space also constrains variables that live elsewhere
    outer.own = pyo.Var(range(n), domain=pyo.Binary)
    outer.sub = pyo.Block()
    given = list(outer.own.values())
    assert [id(v) for v in space.add_to(outer.sub, given)] == [id(v) for v in given]
    inner, _ = compile_pyomo(outer, given)
    assert (inner.n_rows, inner.n_columns) == (compiled.n_rows, compiled.n_columns)
    with pytest.raises(ValueError, match="variables"):
        space.add_to(pyo.ConcreteModel(), given[1:])


def _check_down_closed(space: ActionSpace, reference: Actions) -> None:
    if space.down_closed:
        rows = _rows(reference)
        for action in reference:
            for i in np.flatnonzero(action):
                smaller = action.copy()
                smaller[i] = 0
                assert tuple(smaller.tolist()) in rows


def _maxima(
    reference: Actions,
    coefficients: NDArray[np.float64],
    one: NDArray[np.bool_],
    zero: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return the true maxima over the listed actions that agree with the fixings."""
    result = np.full(len(coefficients), -np.inf)
    for b, c in enumerate(coefficients):
        agrees = (reference[:, one[b]] == 1).all(axis=1) & (reference[:, zero[b]] == 0).all(axis=1)
        if agrees.any():
            result[b] = (reference[agrees] @ c).max()
    return result


def _check_linear_max(space: ActionSpace, reference: Actions, rng: np.random.Generator) -> None:
    """`linear_max`, and the default by linear relaxation, against the enumerated set."""
    n = space.n_actions
    batch = 24
    coefficients = np.vstack(
        [
            rng.normal(size=(batch - 8, n)),
            rng.integers(-2, 3, size=(4, n)).astype(float),  # ties and zeros
            -rng.random((2, n)),
            np.zeros((1, n)),
            np.ones((1, n)),
        ]
    )
    none = np.zeros(n, dtype=bool)
    few = rng.random(n) < 0.2
    fixings = [(none, none), (few, none), (none, ~few), (few, ~few), (none, few), (few, few)]
    for rate in (0.1, 0.3):
        one = rng.random((batch, n)) < rate
        fixings += [(one, none), (none, one), (one, ~one & (rng.random((batch, n)) < rate))]
    for one, zero in fixings:
        ones, zeros = (np.broadcast_to(mask, coefficients.shape) for mask in (one, zero))
        true = _maxima(reference, coefficients, ones, zeros)
        keep = coefficients.copy()
        bound = space.linear_max(coefficients, one, zero)
        np.testing.assert_array_equal(coefficients, keep)
        assert bound.shape == (batch,)
        assert not np.isnan(bound).any()
        assert (bound >= true - 1e-9).all(), "linear_max is below the true maximum"
        nonempty = np.isfinite(true)
        points = space.maximizers(coefficients, one, zero)
        assert points.shape == coefficients.shape
        assert ((points >= 0) & (points <= 1)).all()
        assert (points[nonempty][ones[nonempty]] == 1).all()
        assert (points[nonempty][zeros[nonempty]] == 0).all()
        if space.exact:
            np.testing.assert_allclose(bound, true, rtol=0, atol=1e-9)
            reached = np.einsum("bn,bn->b", coefficients, points)
            np.testing.assert_allclose(reached[nonempty], true[nonempty], rtol=0, atol=1e-9)
            assert all(not space.violations(x) for x in points[nonempty])
        default = ActionSpace.linear_max(space, coefficients, one, zero)
        assert default.shape == (batch,)
        assert (default >= true - 1e-9).all(), "the linear relaxation is below the true maximum"
        if not one.any() and not zero.any():
            np.testing.assert_array_equal(bound, space.linear_max(coefficients))
    assert space.linear_max(np.zeros((0, n))).shape == (0,)
    for wrong in (np.zeros(n), np.zeros((2, n + 1))):
        with pytest.raises(ValueError, match="coefficients"):
            space.linear_max(wrong)
    with pytest.raises(ValueError, match="fixed_one"):
        space.linear_max(np.zeros((2, n)), np.zeros((3, n)))


def _check_sample(space: ActionSpace, reference: Actions, seed: int, support_draws: int) -> None:
    if not len(reference):
        with pytest.raises(ValueError, match="no feasible"):
            space.sample(np.random.default_rng(seed))
        return
    rows = _rows(reference)
    for maximal in (False, True):
        drawn = space.sample(np.random.default_rng(seed), 30, maximal=maximal)
        assert drawn.shape == (30, space.n_actions)
        assert drawn.dtype == np.int8
        assert _rows(drawn) <= rows
        again = space.sample(np.random.default_rng(seed), 30, maximal=maximal)
        np.testing.assert_array_equal(drawn, again)
        if maximal:
            for action in drawn:
                supersets = (reference >= action).all(axis=1).sum()
                assert supersets == 1, f"{action} is contained in a larger feasible action"
    assert space.sample(np.random.default_rng(seed), 0).shape == (0, space.n_actions)
    if support_draws:
        drawn = space.sample(np.random.default_rng(seed), support_draws)
        assert _rows(drawn) == rows, "some feasible actions are never drawn"


def _check_extensions(
    space: ActionSpace, everything: Actions, reference: Actions, rng: np.random.Generator
) -> None:
    rows = _rows(reference)
    picks = everything[rng.integers(len(everything), size=30)]
    if len(reference):
        inside = reference[rng.integers(len(reference), size=30)]
        part = inside * (rng.random(inside.shape) < 0.6).astype(np.int8)
        picks = np.vstack([everything[:1], picks, inside, part])
    for action in picks:
        expected = []
        for i in np.flatnonzero(action == 0):
            larger = action.copy()
            larger[i] = 1
            if space.down_closed:
                good = tuple(larger.tolist()) in rows
            else:
                good = bool((reference >= larger).all(axis=1).any())
            if good:
                expected.append(int(i))
        keep = action.copy()
        found = space.extensions(action)
        np.testing.assert_array_equal(action, keep)
        assert np.issubdtype(found.dtype, np.integer)
        assert sorted(found.tolist()) == expected, action
        assert space.completable(action) == bool((reference >= action).all(axis=1).any())
    masks, feasible = space.extension_masks(picks)
    for action, mask, is_feasible in zip(picks, masks, feasible, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(mask), space.extensions(action))
        assert bool(is_feasible) == (tuple(action.tolist()) in rows)


def _check_enumerate(space: ActionSpace, reference: Actions) -> None:
    listed = space.enumerate()
    assert listed.shape == reference.shape
    assert listed.dtype == np.int8
    assert _rows(listed) == _rows(reference)
    assert space.count() == len(reference)
    if len(reference):
        with pytest.raises(ValueError, match="more than"):
            space.enumerate(len(reference) - 1)


def _check_round_trip(
    space: ActionSpace, everything: Actions, feasible: NDArray[np.bool_], path: Path
) -> None:
    space.to_json(path)
    copies = [
        ActionSpace.from_dict(json.loads(json.dumps(space.to_dict(), allow_nan=False))),
        ActionSpace.from_json(path),
        pickle.loads(pickle.dumps(space)),
        copy.deepcopy(space),
    ]
    coefficients = np.random.default_rng(0).normal(size=(5, space.n_actions))
    for other in copies:
        assert type(other) is type(space)
        assert other == space
        assert hash(other) == hash(space)
        assert other.to_dict() == space.to_dict()
        assert repr(other) == repr(space)
        np.testing.assert_array_equal(
            other.linear_max(coefficients), space.linear_max(coefficients)
        )
    rebuilt = copies[0]
    assert [not rebuilt.violations(a) for a in everything] == feasible.tolist()


def _check_rejections(space: ActionSpace) -> None:
    n = space.n_actions
    for value in (2, -1, 0.5, float("nan")):
        wrong = np.zeros(n)
        wrong[-1] = value
        for method in (space.violations, space.extensions, space.completable):
            with pytest.raises(ValueError, match="0 or 1"):
                method(wrong)
    for shape in ((n + 1,), (n - 1,), (1, n)):
        for method in (space.violations, space.extensions):
            with pytest.raises(ValueError, match="shape"):
                method(np.zeros(shape))
