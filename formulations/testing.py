"""The conformance test of action spaces, for blocks of your own too.

:func:`check_action_space` is to an :class:`ActionSpace` what scikit-learn's ``check_estimator``
is to an estimator: it raises an ``AssertionError`` that says what a block gets wrong.
"""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.highs import new_highs, pass_model, run
from milp_rl.formulations.milp.linear_model import compile_pyomo
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins

MOST_ACTIONS = 12

_MOST_VECTORS = 4096
_POINTS = 60
_CLEAR = 1e-4  # of a continuous action, from the edge of the set


def check_action_space(
    space: ActionSpace, *, seed: int = 0, support_draws: int = 0
) -> NDArray[np.int8 | np.int64] | FloatArray:
    """Check all that an action space promises, on a small instance.

    The model that ``constrain`` writes is compared with ``violations``, ``linear_max`` with the
    true maxima under random fixings, and sampling, extensions, enumeration, the round trip through
    JSON and pickle, and the refusal of wrong actions are tried. A binary space is compared with all
    of its binary vectors, one of whole numbers with all of those up to one beyond its bounds; one
    with continuous variables with random points.

    Parameters
    ----------
    space
        With at most 12 variables, if they are binary; with at most 4096 vectors of whole numbers
        up to one beyond its bounds, if some are integer and none continuous.
    seed
        Of everything random.
    support_draws
        If positive, that many samples must show every feasible action of a binary space.

    Returns
    -------
    numpy.ndarray
        The feasible actions of a space without continuous variables, in ascending order, shape
        (count, n_actions), to be compared with an independent statement of the constraint; sampled
        ones otherwise.

    Raises
    ------
    AssertionError
        If something is wrong, saying what.
    ValueError
        If the space has too many variables.
    """
    rng = np.random.default_rng(seed)
    if space.continuous.any():
        return _check_continuous(space, rng)
    if not space.binary:
        return _check_integer(space, rng)
    if space.n_actions > MOST_ACTIONS:
        raise ValueError(
            f"the check lists all binary vectors: give it an instance of at most {MOST_ACTIONS}"
            f" variables, not {space.n_actions}"
        )
    everything = all_actions(space.n_actions)
    feasible = np.array([not space.violations(a) for a in everything])
    _check_model(space, everything, feasible)
    _expect(
        np.array_equal(space.feasible(everything), feasible), "feasible and violations disagree"
    )
    _expect(space.feasible(everything[:0]).shape == (0,), "feasible says of no actions: nothing")
    reference = everything[feasible]
    _check_down_closed(space, reference)
    _check_linear_max(space, reference, rng)
    _check_sample(space, reference, seed, support_draws)
    _check_extensions(space, everything, reference, rng)
    _check_enumerate(space, reference)
    _check_round_trip(space, everything, feasible)
    _check_rejections(space)
    return np.asarray(reference)


def all_actions(n: int) -> NDArray[np.int8]:
    """Return all 2^n binary vectors, in binary order."""
    return np.array(list(itertools.product((0, 1), repeat=n)), dtype=np.int8).reshape(-1, n)


def _expect(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _refuses(call: Callable[[], Any], word: str, what: str) -> None:
    """Expect a ``ValueError`` whose message has the word."""
    try:
        call()
    except ValueError as error:
        _expect(word in str(error), f"{what}: the ValueError should say {word!r}, it is: {error}")
    else:
        raise AssertionError(f"{what}: a ValueError is expected, nothing was raised")


def _rows(actions: NDArray[Any]) -> set[tuple[int, ...]]:
    return set(map(tuple, actions.tolist()))


def _written(action: NDArray[Any]) -> str:
    return str(action.tolist())


class _Model:
    """The space's model, which says whether it accepts an action."""

    def __init__(self, space: ActionSpace) -> None:
        model = pyo.ConcreteModel()
        variables = space.add_to(model)
        _expect(len(variables) == space.n_actions, "add_to returns n_actions variables")
        for i, variable in enumerate(variables):
            kinds = bool(space.continuous[i]), bool(space.integer[i]), variable.is_binary()
            _expect(
                sum(kinds) == 1 and variable.is_continuous() == kinds[0],
                f"variable {i} is binary in the model, `integer` or `continuous`, and one of them",
            )
        self.compiled, _ = compile_pyomo(model, variables)
        self._columns = np.arange(space.n_actions, dtype=np.int32)
        self._highs = new_highs()
        pass_model(self._highs, self.compiled)

    def accepts(self, action: NDArray[Any]) -> bool:
        values, n = action.astype(float), len(action)
        bounds = self.compiled.column_lower[:n], self.compiled.column_upper[:n]
        if (values < bounds[0]).any() or (values > bounds[1]).any():
            return False
        self._highs.changeColsBounds(len(values), self._columns, values, values)
        status = run(self._highs)
        return bool(status != highspy.HighsModelStatus.kInfeasible)


def _check_accepted(
    space: ActionSpace, everything: NDArray[Any], feasible: NDArray[np.bool_]
) -> _Model:
    """Check that the model, which is returned, accepts what `violations` finds nothing in."""
    model = _Model(space)
    for action, expected in zip(everything, feasible, strict=True):
        accepted = model.accepts(action)
        _expect(
            accepted == expected,
            f"{_written(action)}: the model says {'feasible' if accepted else 'infeasible'},"
            f" violations says {space.violations(action)}",
        )
    return model


def _check_model(
    space: ActionSpace, everything: NDArray[np.int8], feasible: NDArray[np.bool_]
) -> None:
    """`add_to` accepts an action if and only if `violations` is empty."""
    model = _check_accepted(space, everything, feasible)
    outer = pyo.ConcreteModel()  # the space also constrains variables that live elsewhere
    outer.own = pyo.Var(range(space.n_actions), domain=pyo.Binary)
    outer.sub = pyo.Block()
    given = list(outer.own.values())
    returned = space.add_to(outer.sub, given)
    _expect(
        [id(v) for v in returned] == [id(v) for v in given], "add_to returns the variables given"
    )
    inner, _ = compile_pyomo(outer, given)
    sizes = [(m.n_rows, m.n_columns) for m in (inner, model.compiled)]
    _expect(
        sizes[0] == sizes[1],
        f"the model of variables given has {sizes[0]} rows and columns, that of its own {sizes[1]}",
    )
    _refuses(
        lambda: space.add_to(pyo.ConcreteModel(), given[1:]), "variables", "a variable too few"
    )


def _check_down_closed(space: ActionSpace, reference: NDArray[np.int8]) -> None:
    if not space.down_closed:
        return
    rows = _rows(reference)
    for action in reference:
        for i in np.flatnonzero(action):
            smaller = action.copy()
            smaller[i] = 0
            _expect(
                tuple(smaller.tolist()) in rows,
                f"down_closed is true, but {_written(action)} is feasible without being so"
                f" without action {i}",
            )


def _maxima(
    reference: NDArray[np.int8],
    coefficients: FloatArray,
    one: NDArray[np.bool_],
    zero: NDArray[np.bool_],
) -> FloatArray:
    """Return the true maxima over the listed actions that agree with the fixings."""
    result = np.full(len(coefficients), -np.inf)
    for b, c in enumerate(coefficients):
        agrees = (reference[:, one[b]] == 1).all(axis=1) & (reference[:, zero[b]] == 0).all(axis=1)
        if agrees.any():
            result[b] = (reference[agrees] @ c).max()
    return result


def _check_linear_max(
    space: ActionSpace, reference: NDArray[np.int8], rng: np.random.Generator
) -> None:
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
        _check_bounds(space, coefficients, one, zero, true)
        nonempty = np.isfinite(true)
        points = space.maximizers(coefficients, Pins(one, zero))
        _expect(points.shape == coefficients.shape, "maximizers has the shape of its objectives")
        _expect(((points >= 0) & (points <= 1)).all(), "maximizers lie between 0 and 1")
        kept = (points[nonempty][ones[nonempty]] == 1).all() and (
            points[nonempty][zeros[nonempty]] == 0
        ).all()
        _expect(kept, "maximizers keep what is held at one or zero")
        if space.exact:
            reached = np.einsum("bn,bn->b", coefficients, points)[nonempty]
            _expect(
                np.allclose(reached, true[nonempty], rtol=0, atol=1e-9),
                "exact is true, but maximizers do not attain the maximum",
            )
            _expect(
                all(not space.violations(x) for x in points[nonempty]),
                "exact is true, but a maximizer is not feasible",
            )
    _expect(
        space.linear_max(np.zeros((0, n))).shape == (0,), "linear_max of no objectives is empty"
    )
    _expect(
        space.maximizers(np.zeros((0, n))).shape == (0, n), "maximizers of no objectives are none"
    )
    for wrong in (np.zeros(n), np.zeros((2, n + 1))):
        _refuses(lambda c=wrong: space.linear_max(c), "coefficients", f"shape {wrong.shape}")  # type: ignore[misc]
    _refuses(
        lambda: space.linear_max(np.zeros((2, n)), Pins(one=np.zeros((3, n), dtype=bool))),
        "pins.one",
        "three masks",
    )


def _check_bounds(
    space: ActionSpace,
    coefficients: FloatArray,
    one: NDArray[np.bool_],
    zero: NDArray[np.bool_],
    true: FloatArray,
) -> None:
    keep = coefficients.copy()
    bound = space.linear_max(coefficients, Pins(one, zero))
    _expect(np.array_equal(coefficients, keep), "linear_max leaves its objectives as they are")
    _expect(bound.shape == true.shape, f"linear_max has shape {true.shape}, not {bound.shape}")
    _expect(not np.isnan(bound).any(), "linear_max is NaN")
    below = np.flatnonzero(~(bound >= true - 1e-9))
    if len(below):
        b = below[0]
        raise AssertionError(
            f"linear_max is below the true maximum: {bound[b]!r} < {true[b]!r} for"
            f" {_written(coefficients[b])}, held at one"
            f" {np.flatnonzero(np.broadcast_to(one, keep.shape)[b]).tolist()}, at zero"
            f" {np.flatnonzero(np.broadcast_to(zero, keep.shape)[b]).tolist()}"
        )
    if space.exact:
        equal = np.isclose(bound, true, rtol=0, atol=1e-9)  # infinities included
        _expect(equal.all(), "exact is true, but linear_max is above the true maximum")
    default = relaxed_max(space, coefficients, Pins(one, zero))
    _expect(
        (default >= true - 1e-9).all(),
        "the linear relaxation of the model is below the true maximum",
    )
    if not one.any() and not zero.any():
        _expect(
            np.allclose(bound, space.linear_max(coefficients), rtol=1e-7, atol=1e-9),
            "linear_max depends on whether empty masks are given",
        )


def relaxed_max(space: ActionSpace, coefficients: FloatArray, pins: Pins) -> FloatArray:
    """Bound by the linear relaxation of the block, as a block without an oracle of its own does."""
    return ActionSpace._linear_max(space, coefficients, pins.checked(coefficients.shape))


def _check_sample(
    space: ActionSpace, reference: NDArray[np.int8], seed: int, support_draws: int
) -> None:
    if not len(reference):
        _refuses(lambda: space.sample(np.random.default_rng(seed)), "no feasible", "an empty space")
        return
    rows, n = _rows(reference), space.n_actions
    for maximal in (False, True):
        drawn = space.sample(np.random.default_rng(seed), 30, maximal=maximal)
        _expect(drawn.shape == (30, n), f"sample has shape (30, {n}), not {drawn.shape}")
        _expect(drawn.dtype == np.int8, f"samples are int8, not {drawn.dtype}")
        _expect(_rows(drawn) <= rows, "a sample is not feasible")
        again = space.sample(np.random.default_rng(seed), 30, maximal=maximal)
        _expect(np.array_equal(drawn, again), "the same generator gives other samples")
        for action in drawn if maximal else ():
            _expect(
                (reference >= action).all(axis=1).sum() == 1,
                f"the maximal sample {_written(action)} is contained in a larger feasible action",
            )
    none = space.sample(np.random.default_rng(seed), 0)
    _expect(none.shape == (0, n), f"no samples have shape (0, {n}), not {none.shape}")
    if support_draws:
        drawn = space.sample(np.random.default_rng(seed), support_draws)
        _expect(_rows(drawn) == rows, "some feasible actions are never drawn")


def _check_extensions(
    space: ActionSpace,
    everything: NDArray[np.int8],
    reference: NDArray[np.int8],
    rng: np.random.Generator,
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
        _expect(np.array_equal(action, keep), "extensions leaves the action as it is")
        _expect(np.issubdtype(found.dtype, np.integer), "extensions are indices")
        _expect(
            sorted(found.tolist()) == expected,
            f"extensions of {_written(action)} are {expected}, not {sorted(found.tolist())}",
        )
        completable = bool((reference >= action).all(axis=1).any())
        _expect(
            space.completable(action) == completable,
            f"completable of {_written(action)} is {completable}",
        )
    masks, feasible = space.extension_masks(picks)
    for action, mask, is_feasible in zip(picks, masks, feasible, strict=True):
        same = np.array_equal(np.flatnonzero(mask), np.sort(space.extensions(action)))
        _expect(same, f"extension_masks and extensions of {_written(action)} differ")
        _expect(
            bool(is_feasible) == (tuple(action.tolist()) in rows),
            f"extension_masks is wrong on whether {_written(action)} is feasible",
        )


def _check_enumerate(space: ActionSpace, reference: NDArray[np.int8]) -> None:
    listed = space.enumerate()
    _expect(
        listed.shape == reference.shape and _rows(listed) == _rows(reference),
        f"enumerate lists {len(listed)} actions, of which {len(_rows(listed) & _rows(reference))}"
        f" are among the {len(reference)} feasible ones",
    )
    _expect(listed.dtype == space.dtype, f"listed actions are {space.dtype}, not {listed.dtype}")
    count = space.count()
    _expect(count <= space.count_bound, f"count_bound is {space.count_bound}, below {count}")
    _expect(count == len(reference), f"count is {count}, there are {len(reference)} actions")
    if len(reference):
        _refuses(lambda: space.enumerate(len(reference) - 1), "more than", "a limit too small")


def _check_round_trip(
    space: ActionSpace, points: NDArray[Any], feasible: NDArray[np.bool_]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "space.json")
        space.to_json(path)
        copies = {
            "to_dict": ActionSpace.from_dict(
                json.loads(json.dumps(space.to_dict(), allow_nan=False))
            ),
            "to_json": ActionSpace.from_json(path),
            "pickle": pickle.loads(pickle.dumps(space)),
            "deepcopy": copy.deepcopy(space),
        }
    coefficients = np.random.default_rng(0).normal(size=(5, space.n_actions))
    for name, other in copies.items():
        _expect(type(other) is type(space), f"{name} changes the type")
        _expect(other == space, f"{name} gives another space")
        _expect(hash(other) == hash(space), f"{name} changes the hash")
        _expect(repr(other) == repr(space), f"{name} changes repr")
        same = np.allclose(
            other.linear_max(coefficients), space.linear_max(coefficients), rtol=1e-7, atol=1e-9
        )
        _expect(same, f"{name} changes linear_max")
        checked = [not other.violations(a) for a in points]
        _expect(checked == feasible.tolist(), f"{name} changes violations")


def _check_rejections(space: ActionSpace) -> None:
    n = space.n_actions
    for value in (2, -1, 0.5, float("nan")):
        wrong = np.zeros(n)
        wrong[-1] = value
        for method in (space.violations, space.extensions, space.completable):
            _refuses(lambda m=method, a=wrong: m(a), "0 or 1", f"{method.__name__} of {value}")  # type: ignore[misc]
    for shape in ((n + 1,), (n - 1,), (1, n)):
        for method in (space.violations, space.extensions):
            _refuses(
                lambda m=method, s=shape: m(np.zeros(s)),  # type: ignore[misc]
                "shape",
                f"{method.__name__} of shape {shape}",
            )


def _check_integer(space: ActionSpace, rng: np.random.Generator) -> NDArray[np.int64]:
    """Check a space of whole numbers, some not binary, against all vectors near its bounds."""
    n, lower, upper = space.n_actions, space.lower, space.upper
    for name, bound in (("lower", lower), ("upper", upper)):
        whole = bound.shape == (n,) and bool((bound == np.rint(bound)).all())
        _expect(whole, f"{name} is whole where variables are")
    ends = zip(lower - space.integer, upper + space.integer, space.integer, strict=True)
    ranges = [np.arange(low, high + 1) if own else np.arange(2) for low, high, own in ends]
    if np.prod([float(len(own)) for own in ranges]) > _MOST_VECTORS:
        raise ValueError(
            f"the check lists all vectors: give it an instance of at most {_MOST_VECTORS} whole"
            " vectors up to one beyond the bounds"
        )
    everything = np.array(list(itertools.product(*ranges)), dtype=np.int64)
    feasible = np.array([not space.violations(a) for a in everything])
    _check_accepted(space, everything, feasible)
    _expect(
        np.array_equal(space.feasible(everything), feasible), "feasible and violations disagree"
    )
    reference = everything[feasible]
    drawn = np.concatenate([rng.normal(size=(20, n)), np.eye(n), -np.eye(n), np.zeros((1, n))])
    none = np.zeros(n, dtype=bool)
    for rate in (0.0, 0.3, 0.3):
        one = (rng.random(drawn.shape) < rate) & ~space.integer
        for ones, zeros in ((one, none), (none, one), (one, ~one & (rng.random(n) < rate))):
            held = np.broadcast_to(zeros, drawn.shape) & ~space.integer
            _check_bounds(space, drawn, ones, held, _maxima(reference, drawn, one & ones, held))
    points = space.maximizers(drawn)
    _expect(points.shape == drawn.shape, "maximizers has the shape of its objectives")
    within = (points >= lower - _CLEAR) & (points <= upper + _CLEAR)
    _expect(within.all(), "maximizers lie within the bounds")
    if space.exact and len(reference):
        reached, true = (drawn * points).sum(axis=1), (drawn @ reference.T).max(axis=1)
        _expect(np.allclose(reached, true, rtol=0, atol=1e-9), "exact is true, but not attained")
        _expect(not any(space.violations(x) for x in points), "an exact maximizer is not feasible")
    if len(reference):
        samples = space.sample(np.random.default_rng(0), 30)
        again = space.sample(np.random.default_rng(0), 30)
        _expect(samples.shape == (30, n), f"sample has shape (30, {n}), not {samples.shape}")
        _expect(samples.dtype == np.int64, f"samples are int64, not {samples.dtype}")
        _expect(_rows(samples) <= _rows(reference), "a sample is not feasible")
        _expect(np.array_equal(samples, again), "the same generator gives other samples")
    else:
        _refuses(lambda: space.sample(rng), "no feasible", "an empty space")
    _check_enumerate(space, reference)
    _check_round_trip(space, everything, feasible)
    wrong = lower.copy()
    for value in (0.5, np.nan, np.inf):
        wrong[int(np.flatnonzero(space.integer)[0])] = value
        _refuses(lambda: space.violations(wrong), "whole number", f"violations of {value}")
    _refuses(lambda: space.violations(np.zeros(n + 1)), "shape", "a variable too many")
    _refuses(lambda: space.extensions(reference[0]), "integer", "building of whole numbers")
    return np.asarray(reference)


def _check_continuous(space: ActionSpace, rng: np.random.Generator) -> FloatArray:
    """Check a space with continuous variables at random points."""
    n, lower, upper = space.n_actions, space.lower, space.upper
    for name, bound in (("lower", lower), ("upper", upper)):
        _expect(bound.shape == (n,) and bool(np.isfinite(bound).all()), f"{name} is finite")
    drawn = np.asarray(space.sample(np.random.default_rng(0), _POINTS), dtype=np.float64)
    again = space.sample(np.random.default_rng(0), _POINTS)
    _expect(np.array_equal(drawn, again), "the same generator gives other samples")
    _expect(drawn.shape == (_POINTS, n), f"sample has shape ({_POINTS}, {n}), not {drawn.shape}")
    for action in drawn:
        found = space.violations(action)
        _expect(not found, f"the sample {_written(action)} is not feasible: {found}")
    low, high = np.where(space.integer, lower - 1, 0.0), np.where(space.integer, upper + 1, 1.0)
    moved = np.where(
        space.continuous,
        drawn + rng.normal(size=drawn.shape) * (upper - lower),
        rng.integers(low.astype(int), high.astype(int) + 1, drawn.shape),
    )
    points = np.concatenate([drawn, moved])
    model = _Model(space)
    for action in points:
        # Away from the edge, where tolerances decide.
        nudges = _CLEAR * np.where(space.continuous, rng.choice([-1.0, 1.0], (8, n)), 0.0)
        tried = [action, *(action + nudges)]
        checks = {not space.violations(point) for point in tried}
        if len(checks) == 1:
            accepted = model.accepts(action)
            _expect(
                accepted in checks,
                f"{_written(action)}: the model says {'feasible' if accepted else 'infeasible'},"
                f" violations says {space.violations(action)}",
            )
    coefficients = np.concatenate([rng.normal(size=(20, n)), np.eye(n), -np.eye(n)])
    true = (coefficients @ drawn.T).max(axis=1)
    for bound in (space.linear_max(coefficients), relaxed_max(space, coefficients, Pins())):
        _expect(bound.shape == true.shape and not np.isnan(bound).any(), "linear_max is a number")
        low = np.flatnonzero(bound < true - 1e-6 * (1 + np.abs(true)))
        _expect(not len(low), f"linear_max is below the value of a sample for rows {low.tolist()}")
    feasible = np.array([not space.violations(a) for a in points])
    _check_round_trip(space, points, feasible)
    wrong = drawn[0].copy()
    wrong[int(np.flatnonzero(space.continuous)[0])] = np.nan
    _refuses(lambda: space.violations(wrong), "finite", "violations of NaN")
    _refuses(lambda: space.violations(np.zeros(n + 1)), "shape", "a variable too many")
    for method in (space.enumerate, lambda: space.extensions(drawn[0])):
        _refuses(method, "continuous", "a list of continuous actions")
    return drawn
