import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import milp_rl as mr
from milp_rl.formulations.spaces.sequential import SequentialBuilder, valued_by

SPACES = {
    "budget": mr.BudgetTopK(7, 3),
    "exactly": mr.BudgetTopK(7, 3, exactly=True),
    "costs": mr.BudgetTopK(6, 4, costs=[1, 2, 3, 4, 5, 6], budget=8),
    "capacity": mr.Capacity(costs=[2, 3, 4, 5, 2, 3], capacities=[6, 5]),
    "factored": mr.FactoredValidity(
        {"drug": ["a", "b"], "dose": ["low", "high"]}, forbidden=[("b", "high")]
    ),
    "both": mr.BudgetTopK(6, 2) & mr.Capacity(costs=[2, 3, 4, 5, 2, 3], capacities=[6, 5]),
}


def quadratic(space, n, seed):
    """Values with interactions, for n builds, as `values(rows, actions)` and for all actions."""
    rng = np.random.default_rng(seed)
    size = space.n_actions
    linear, pairs = rng.normal(size=(n, size)), rng.normal(size=(n, size, size))

    def values(rows, actions):
        a = actions.astype(float)
        return np.einsum("bi,bi->b", linear[rows], a) + np.einsum("bi,bij,bj->b", a, pairs[rows], a)

    return values


@pytest.mark.parametrize("name", SPACES)
def test_every_way_of_building_gives_feasible_actions(name):
    space = SPACES[name]
    expand = valued_by(quadratic(space, 20, 0))
    rng = np.random.default_rng(0)
    for builder in (
        SequentialBuilder(space),
        SequentialBuilder(space, width=3),
        SequentialBuilder(space, epsilon=0.5),
        SequentialBuilder(space, temperature=2.0),
        SequentialBuilder(space, epsilon=1.0, temperature=1.0),
    ):
        actions = builder.build(expand, 20, rng)
        assert actions.shape == (20, space.n_actions)
        assert not any(space.violations(a) for a in actions)


@pytest.mark.parametrize("name", SPACES)
def test_a_wide_beam_finds_the_best_action(name):
    space = SPACES[name]
    values = quadratic(space, 10, 1)
    found = SequentialBuilder(space, width=2**space.n_actions).build(valued_by(values), 10)
    everything = space.enumerate()
    for row in range(10):
        best = values(np.full(len(everything), row), everything).max()
        assert values(np.array([row]), found[[row]])[0] == pytest.approx(best)


@given(seed=st.integers(0, 10_000), name=st.sampled_from(["budget", "costs", "capacity"]))
@settings(max_examples=30, deadline=None)
def test_greedy_stops_where_no_addition_is_better(seed, name):
    space = SPACES[name]
    values = quadratic(space, 1, seed)
    action = SequentialBuilder(space).build(valued_by(values), 1)[0]
    row = np.zeros(1, dtype=np.intp)
    reached = values(row, action[None])[0]
    for i in space.extensions(action):
        grown = action.copy()
        grown[i] = 1
        assert values(row, grown[None])[0] <= reached


def test_a_beam_finds_a_pair_that_greedy_does_not():
    space = mr.BudgetTopK(4, 2)

    def values(rows, actions):  # 2 and 3 are best together, and worth little alone
        return actions @ np.array([1.0, 0.9, 0.5, 0.4]) + 5.0 * actions[:, 2] * actions[:, 3]

    expand = valued_by(values)
    np.testing.assert_array_equal(SequentialBuilder(space).build(expand, 1)[0], [1, 1, 0, 0])
    beam = SequentialBuilder(space, width=4).build(expand, 1)[0]
    np.testing.assert_array_equal(beam, [0, 0, 1, 1])


def test_softmax_draws_in_proportion():
    space = mr.BudgetTopK(2, 1)
    weights = np.array([1.0, 2.0, 5.0])  # of stopping at once, of action 0, of action 1

    def expand(rows, actions, allowed):
        return np.full(len(rows), np.log(weights[0])), np.tile(np.log(weights[1:]), (len(rows), 1))

    builder = SequentialBuilder(space, temperature=1.0)
    actions = builder.build(expand, 20_000, np.random.default_rng(0))
    shares = [(actions.sum(axis=1) == 0).mean(), *actions.mean(axis=0)]
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.02)


def test_epsilon_one_is_uniform_over_additions_and_stopping():
    space = mr.BudgetTopK(3, 1)
    builder = SequentialBuilder(space, epsilon=1.0)
    expand = valued_by(quadratic(space, 20_000, 0))
    actions = builder.build(expand, 20_000, np.random.default_rng(0))
    shares = [(actions.sum(axis=1) == 0).mean(), *actions.mean(axis=0)]
    np.testing.assert_allclose(shares, 0.25, atol=0.02)


def test_the_same_seed_gives_the_same_actions():
    space = SPACES["capacity"]
    expand = valued_by(quadratic(space, 50, 0))
    builder = SequentialBuilder(space, temperature=1.0)
    first, second = (builder.build(expand, 50, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("width", [1, 3])
def test_says_so_if_nothing_can_be_built(width):
    space = mr.BudgetTopK(3, 2, exactly=True) & mr.BudgetTopK(3, 1)
    with pytest.raises(RuntimeError, match="no feasible action can be built"):
        SequentialBuilder(space, width=width).build(valued_by(quadratic(space, 2, 0)), 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1"),
        ({"epsilon": 1.5}, "epsilon must be in"),
        ({"temperature": -1.0}, "temperature must be nonnegative"),
        ({"width": 2, "epsilon": 0.1}, "a beam is not sampled"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SequentialBuilder(mr.BudgetTopK(3, 1), **options)


def test_sampling_needs_a_generator():
    space = mr.BudgetTopK(3, 1)
    with pytest.raises(ValueError, match="needs a random generator"):
        SequentialBuilder(space, epsilon=0.1).build(valued_by(quadratic(space, 1, 0)), 1)
