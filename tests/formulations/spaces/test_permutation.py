import itertools
import math

import numpy as np
import pytest

import milp_rl as mr


@pytest.mark.parametrize("seed", range(8))
def test_random_orders_keep_the_contract(seed, check_space):
    rng = np.random.default_rng(seed)
    n = 1 + seed % 3
    allowed = None if seed < 3 else (rng.random((n, n)) < 0.6) | np.eye(n, dtype=bool)
    space = mr.Permutation(n, allowed)
    feasible = check_space(space, seed=seed, support_draws=300)
    expected = {
        tuple(space.encode(order).tolist())
        for order in itertools.permutations(range(n))
        if allowed is None or all(allowed[job, p] for p, job in enumerate(order))
    }
    assert {tuple(a) for a in feasible.tolist()} == expected


def test_all_orders_are_listed_and_counted():
    space = mr.Permutation(5)
    orders = {tuple(space.decode(action)) for action in space.enumerate()}
    assert orders == set(itertools.permutations(range(5)))
    assert space.count() == 120
    assert mr.Permutation(30).count() == math.factorial(30)


def test_samples_are_uniform():
    space = mr.Permutation(3)
    drawn = space.sample(np.random.default_rng(0), 6000)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 6
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000)).all()


def test_an_order_is_read_by_names():
    space = mr.Permutation(3, jobs=["a", "b", "c"])
    assert space.decode(space.encode(["c", "a", "b"])) == ["c", "a", "b"]
    with pytest.raises(ValueError, match="no order: job 'a' has 0 positions, exactly 1 allowed"):
        space.decode(np.zeros(9))
    with pytest.raises(ValueError, match="no order: job 'a' has 0 positions"):
        space.decode(space.encode(["c", "b"]))
    first = mr.Permutation(2, allowed=[[1, 1], [1, 0]])
    assert first.violations([1, 0, 0, 1]) == ["job 1 is not allowed at position 1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"allowed": np.ones((2, 3))}, r"allowed must have shape \(3, 3\), got \(2, 3\)"),
        ({"allowed": [[1, 0, 0]] * 3}, "no feasible action: at least 3 pairs"),
        ({"jobs": ["a", "b"]}, "must be 3 distinct names"),
    ],
)
def test_wrong_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.Permutation(**{"n": 3} | arguments)
