from __future__ import annotations

import itertools
import time

import numpy as np
import pyomo.environ as pyo
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

import milp_rl as mr
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins


def true_maxima(space: mr.Box, coefficients):
    found = []
    for c in coefficients:
        solution = milp(
            -c,
            integrality=~space.continuous,
            bounds=Bounds(space.lower, space.upper),
            constraints=LinearConstraint(space.matrix, -np.inf, space.right),
        )
        found.append(-solution.fun)
    return np.array(found)


def random_box(rng, n, constraints, binary=()):
    lower, upper = -rng.random(n), rng.random(n)
    lower[list(binary)], upper[list(binary)] = 0, 1
    matrix = rng.standard_normal((constraints, n))
    right = 0.5 * rng.random(constraints) + np.maximum(matrix[:, list(binary)], 0).sum(axis=1)
    return mr.Box(lower, upper, matrix=matrix, right=right, binary=binary)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("constraints", [0, 1, 3])
def test_linear_max_bounds_and_is_exact_where_it_says_so(seed, constraints):
    rng = np.random.default_rng(seed)
    space = random_box(rng, 4, constraints)
    coefficients = np.concatenate([rng.standard_normal((30, 4)), np.eye(4), np.zeros((1, 4))])
    true = true_maxima(space, coefficients)
    bound = space.linear_max(coefficients)
    assert (bound >= true - 1e-9).all()
    assert space.exact == (constraints <= 1)
    if space.exact:
        np.testing.assert_allclose(bound, true, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_binary_variables_and_fixings(seed):
    rng = np.random.default_rng(seed)
    space = random_box(rng, 4, 2, binary=[1, 3])
    assert space.continuous.tolist() == [True, False, True, False]
    coefficients = rng.standard_normal((20, 4))
    assert (space.linear_max(coefficients) >= true_maxima(space, coefficients) - 1e-9).all()
    one, zero = np.array([0, 1, 0, 0]), np.array([0, 0, 0, 1])
    fixed = space.linear_max(coefficients, Pins(one, zero))
    within = mr.Box(
        [space.lower[0], 1, space.lower[2], 0],
        [space.upper[0], 1, space.upper[2], 0],
        matrix=space.matrix,
        right=space.right,
    )
    np.testing.assert_allclose(fixed, within.linear_max(coefficients))


@pytest.mark.parametrize("binary", [(), (2,)])
def test_samples_are_feasible_and_spread(binary):
    rng = np.random.default_rng(0)
    space = random_box(rng, 3, 2, binary)
    drawn = space.sample(rng, 300)
    assert drawn.dtype == np.float64
    assert not any(space.violations(x) for x in drawn)
    assert (drawn.std(axis=0) > 0.05).all()
    again = random_box(np.random.default_rng(0), 3, 2, binary)
    first, second = (s.sample(np.random.default_rng(1), 5) for s in (space, again))
    np.testing.assert_array_equal(first, second)


def test_the_model_and_the_check_accept_the_same_actions():
    space = mr.Box([-1, 0, 0], [1, 2, 1], matrix=[[1, 1, 0], [0, -1, 2]], right=[1, 1], binary=[2])
    grid = itertools.product(np.linspace(-1.5, 1.5, 7), np.linspace(-0.5, 2.5, 7), (0, 1))
    model = pyo.ConcreteModel()
    model.own = pyo.Var(range(3))  # without bounds of their own
    space.add_to(model, list(model.own.values()))
    for x in grid:
        for i, value in enumerate(x):
            model.own[i].value = value
        rows = model.component_data_objects(pyo.Constraint, active=True)
        accepted = all(
            (row.lb is None or pyo.value(row.body) >= row.lb - 1e-9)
            and (row.ub is None or pyo.value(row.body) <= row.ub + 1e-9)
            for row in rows
        )
        assert accepted == (not space.violations(x)), x


def test_violations_say_what_and_by_how_much():
    space = mr.Box([-1, -1], [1, 1], matrix=[[1, 1]], right=[0.5])
    assert space.violations([0.25, 0.25]) == []
    assert space.violations([1.5, -1]) == ["x[0] = 1.5 is outside [-1, 1] by 0.5"]
    assert space.violations([1, 1]) == ["constraint 0: 2 exceeds 0.5 by 1.5"]
    with pytest.raises(ValueError, match=r"action\[1\] is nan, but this variable is finite"):
        space.violations([0, np.nan])
    with pytest.raises(ValueError, match=r"action\[0\] is 0.5, but this variable is 0 or 1"):
        mr.Box([0, 0], [1, 1], binary=[0]).violations([0.5, 0.5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], [1, 2]), "same length"),
        (([0, 3], [1, 2]), r"lower\[1\] = 3 is above upper\[1\] = 2"),
        (([0], [np.inf]), "finite"),
        (([], []), "at least 1"),
    ],
)
def test_wrong_bounds(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.Box(*arguments)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"matrix": [[1.0]]}, "together"),
        ({"matrix": [[1.0, 2.0]], "right": [1.0]}, "matrix must be finite, of shape"),
        ({"matrix": [[1.0]], "right": [-1.0]}, "no feasible action"),
        ({"binary": [1]}, "indices"),
        ({"binary": [0]}, "bounds of the binary variable 0"),
    ],
)
def test_wrong_constraints(keywords, message):
    with pytest.raises(ValueError, match=message):
        mr.Box([0.0], [2.0], **keywords)


def test_boxes_join_into_one_box():
    a = mr.Box([-1, -1], [1, 1], matrix=[[1, 1]], right=[1])
    b = mr.Box([0, -2], [2, 0.5])
    both = a & b
    assert isinstance(both, mr.Box)
    assert both == mr.Box([0, -1], [1, 0.5], matrix=[[1, 1]], right=[1])
    beside = a * b
    assert isinstance(beside, mr.Box)
    assert beside.n_actions == 4
    assert beside.matrix.tolist() == [[1, 1, 0, 0]]


def test_a_product_of_binary_spaces(check_space):
    first, second = mr.BudgetTopK(3, 2), mr.BudgetTopK(4, 2, exactly=True)
    feasible = check_space(first * second, support_draws=2000)
    assert len(feasible) == first.count() * second.count()
    assert (first * second).exact
    assert (first * second * first).n_actions == 10
    with pytest.raises(TypeError):
        first * 2


def test_binary_and_continuous_variables_with_a_coupling():
    """Two visits of four, each at most an hour, and only where there is a visit."""
    visits = mr.BudgetTopK(4, 2) * mr.Box([0] * 4, [1] * 4)
    only_visited = np.hstack([-np.eye(4), np.eye(4)])
    space = visits & mr.Box([0] * 8, [1] * 8, matrix=only_visited, right=[0] * 4, binary=range(4))
    assert space.continuous.tolist() == [False] * 4 + [True] * 4
    rng = np.random.default_rng(0)
    drawn = space.sample(rng, 50)
    assert not any(space.violations(x) for x in drawn)
    assert (drawn[:, 4:] <= drawn[:, :4] + 1e-6).all()
    assert ActionSpace.from_dict(space.to_dict()) == space
    assert any("constraint" in text for text in space.violations([0] * 4 + [0.5] * 4))
    best = space.linear_max([[0.0] * 4 + [1.0, 2.0, 3.0, 4.0]])
    assert best[0] >= 7.0
    for use in (space.enumerate, lambda: space.extensions(drawn[0])):
        with pytest.raises(ValueError, match="4 continuous variables"):
            use()


def test_a_box_over_binary_actions_only_constrains_them(check_space):
    weights = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    space = mr.BudgetTopK(5, 3) & mr.Box([0] * 5, [1] * 5, matrix=[weights], right=[7])
    assert space.binary
    feasible = check_space(space)
    assert (feasible @ weights <= 7).all()
    assert len(feasible) == 16


@pytest.mark.parametrize(
    "space",
    [
        mr.Box([-1, 0], [1, 3]),
        mr.Box([-1, 0, 0], [1, 2, 1], matrix=[[1, 1, 0], [0, -1, 2]], right=[1, 1], binary=[2]),
        mr.BudgetTopK(3, 2) * mr.Box([-1], [1], matrix=[[2]], right=[1]),
        (mr.BudgetTopK(2, 1) * mr.Box([0, 0], [2, 2]))
        & mr.Box([0] * 4, [2] * 4, matrix=[[0, 0, 1, 1], [-1, 0, 1, 0]], right=[3, 1]),
        mr.Box([0] * 4, [1] * 4, binary=range(4), matrix=[[1, 2, 1, 0]], right=[1]),
        mr.Box([0] * 3, [1] * 3, binary=range(3), matrix=[[-1, 0, -1]], right=[-1]),
    ],
)
def test_conformance(check_space, space):
    check_space(space)


def test_an_empty_interval_of_a_binary_variable_is_refused():
    with pytest.raises(ValueError, match="no feasible action"):
        mr.Box([0.3, 0], [0.7, 1], binary=[0, 1])


@pytest.mark.parametrize(
    ("keywords", "closed"),
    [
        ({}, True),
        ({"matrix": [[1, 2, 0]], "right": [2]}, True),
        ({"matrix": [[1, -1, 0]], "right": [0]}, False),
    ],
)
def test_a_binary_box_is_down_closed_where_only_upper_limits_bind(keywords, closed):
    space = mr.Box([0] * 3, [1, 1, 0], binary=range(3), **keywords)
    assert space.down_closed is closed
    feasible = {tuple(a) for a in space.enumerate().tolist()}
    fewer = {(*a[:i], 0, *a[i + 1 :]) for a in feasible for i in range(3)}
    assert (fewer <= feasible) is closed
    assert not mr.Box([1, 0], [1, 1], binary=range(2)).down_closed
    assert not mr.Box([0, 0], [1, 1]).down_closed


@pytest.mark.filterwarnings("error")
def test_a_wide_box_pulls_points_in_without_a_warning():
    box = mr.Box([-1e9] * 2, [1e9] * 2, matrix=[[1.0, 1.0]], right=[1e9])
    points = np.array([[1e9, 1e9], [0.0, 0.0], [-1e9, 0.0]])
    pulled = box.pulled_in(points, np.zeros(2))
    assert pulled == pytest.approx(np.array([[5e8, 5e8], [0.0, 0.0], [-1e9, 0.0]]))


def test_what_exceeds_a_constraint_by_little_is_not_listed():
    space = mr.Box([0, 0], [1, 1], matrix=[[1, 1]], right=[2 - 4e-5], binary=[0, 1])
    assert space.violations([1, 1])
    assert space.enumerate().tolist() == [[0, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize("seed", range(4))
def test_additions_under_one_constraint_are_those_that_can_be_completed(seed):
    rng = np.random.default_rng(seed)
    n = 6
    lower, upper = np.zeros(n), np.ones(n)
    lower[0], upper[1] = seed % 2, (seed // 2) % 2
    row = rng.normal(size=n)
    right = float(row @ rng.integers(0, 2, n)) + lower @ np.abs(row)
    space = mr.Box(lower, upper, matrix=[row], right=[right], binary=range(n))
    listed = space.enumerate()
    assert 0 < len(listed) < 2**n
    for action in rng.integers(0, 2, (30, n)).astype(np.int8):
        wanted = []
        for i in np.flatnonzero(action == 0):
            larger = action.copy()
            larger[i] = 1
            if (listed >= larger).all(axis=1).any():
                wanted.append(i)
        assert space.extensions(action).tolist() == wanted
    drawn = space.sample(rng, 50)
    assert space.feasible(drawn).all()


def market_split(rows: int, n: int) -> mr.Box:
    """Return equalities of binary variables, of which even one solution is hard to find."""
    matrix = np.random.default_rng(0).integers(0, 100, size=(rows, n)).astype(float)
    half = np.floor(matrix.sum(axis=1) / 2)
    both = np.concatenate([half, -half])
    return mr.Box(
        [0] * n, [1] * n, matrix=np.vstack([matrix, -matrix]), right=both, binary=range(n)
    )


def test_a_box_is_made_at_once_whether_or_not_a_point_of_it_is_found():
    started = time.perf_counter()
    box = market_split(5, 40)
    assert time.perf_counter() - started < 5.0
    network = mr.QNetwork(0, 40, (8,))
    started = time.perf_counter()
    result = mr.argmax(network, [], box, solver="highs", time_limit=2.0)
    assert result.status == "no_solution"
    assert time.perf_counter() - started < 8.0  # two, and what a busy machine adds


@pytest.mark.parametrize("integer", [[], [0, 1]])
def test_two_boxes_without_a_common_point_make_an_empty_intersection(integer):
    low = mr.Box([0, 0], [5, 5], matrix=[[1, 1]], right=[1], integer=integer)
    for other in (mr.Box([2, 2], [5, 5], integer=integer), mr.Box([0, 1], [0.5, 1])):
        both = low & other
        empty = mr.argmax(mr.QNetwork(0, 2, (4,)), [], both).status == "infeasible"
        assert empty == (other.lower.min() > 1)


@pytest.mark.parametrize(
    ("smallest", "make"),
    [
        (
            1e-6,
            lambda unit: mr.Box(
                [0] * 3, [1] * 3, matrix=[[4 * unit] * 3], right=[5 * unit], binary=range(3)
            ),
        ),
        (1e-9, lambda unit: mr.Capacity([unit, 2 * unit, 3 * unit], [4 * unit])),
        (1e-9, lambda unit: mr.BudgetTopK(3, 3, costs=[unit, 2 * unit, 3 * unit], budget=4 * unit)),
    ],
)
def test_units_of_the_size_of_tolerances_are_refused(smallest, make):
    for unit in (smallest, smallest / 10):
        with pytest.raises(ValueError, match="of the size of what is allowed for rounding: give"):
            make(unit)
    for unit in (1.0, 100 * smallest):
        for solver in ("auto", "highs", "scip"):
            network = mr.Network.from_arrays([[[3.0, 2.0, 2.5]]], [[0.0]])
            result = mr.argmax(network, [], make(unit), solver=solver)
            assert result.value == max(network.forward(make(1.0).enumerate())[:, 0])


def test_small_coefficients_that_matter_or_never_bind_are_taken():
    network = mr.Network.from_arrays([[[1.0]]], [[0.0]])
    wide = mr.Box([0], [1e7], matrix=[[1e-7]], right=[0.5])
    assert mr.argmax(network, [], wide).value == pytest.approx(5e6)
    free = mr.BudgetTopK(3, 2, costs=[1e-7, 0, 0], budget=1.0)
    assert free.count() == 7


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_bounds_of_any_precision_are_finite(kind):
    mr.Box(np.zeros(2, kind), np.ones(2, kind))
    with pytest.raises(ValueError, match=r"upper\[0\] is inf; every entry must be finite"):
        mr.Box(np.zeros(2, kind), np.array([np.inf, 1.0], kind))
