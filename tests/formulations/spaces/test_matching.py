import itertools

import networkx as nx
import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.spaces.pins import Pins


def matchings(eligible, least, most):
    """All sets of pairs, by trying every number of them."""
    pairs = np.argwhere(eligible).tolist()
    for size in range(least, min(most, min(eligible.shape)) + 1):
        for chosen in itertools.combinations(pairs, size):
            if all(len({pair[side] for pair in chosen}) == size for side in (0, 1)):
                yield chosen


@pytest.mark.parametrize("seed", range(12))
def test_random_matchings_keep_the_contract(seed, check_space):
    rng = np.random.default_rng(seed)
    shape = [(2, 5), (3, 4), (4, 2), (1, 4)][seed % 4]
    eligible = rng.random(shape) < [1.0, 0.8, 0.6][seed % 3]
    eligible[np.arange(min(shape)), np.arange(min(shape))] = True
    least = int(rng.integers(0, min(shape) + 1))
    most = None if seed % 2 else int(rng.integers(least, min(shape) + 1))
    space = mr.Matching(eligible, least, most)
    feasible = check_space(space, seed=seed, support_draws=3000 if seed < 4 else 0)
    expected = {
        tuple(space.encode(chosen).tolist())
        for chosen in matchings(eligible, least, shape[0] if most is None else most)
    }
    assert {tuple(a) for a in feasible.tolist()} == expected


@pytest.mark.parametrize("least", [0, 18, 20])
def test_large_matchings_of_a_size_are_those_of_min_cost_flow(least):
    """Independently by network simplex on integer weights."""
    rng = np.random.default_rng(least)
    n, m, most = 20, 25, 20 if least == 20 else 19
    eligible = rng.random((n, m)) < 0.4
    weights = rng.integers(-9, 6, (n, m))
    space = mr.Matching(eligible, least, most)
    best = -np.inf
    for size in range(least, most + 1) if least else [*range(20)]:
        graph = nx.DiGraph()
        graph.add_node("s", demand=-size)
        graph.add_node("t", demand=size)
        for i in range(n):
            graph.add_edge("s", ("l", i), capacity=1, weight=0)
        for j in range(m):
            graph.add_edge(("r", j), "t", capacity=1, weight=0)
        for i, j in np.argwhere(eligible).tolist():
            graph.add_edge(("l", i), ("r", j), capacity=1, weight=-int(weights[i, j]))
        best = max(best, -nx.min_cost_flow_cost(graph))
    c = weights.reshape(1, -1).astype(float)
    assert space.linear_max(c) == best
    assert space.violations(space.maximizers(c)[0]) == []


@pytest.mark.parametrize("complete", [True, False])
def test_a_matching_is_built_up_to_a_largest_one(complete):
    rng = np.random.default_rng(0)
    eligible = np.eye(12, dtype=bool) | (rng.random((12, 12)) < (2 if complete else 0.15))
    space = mr.Matching(eligible, min_pairs=12)
    for _ in range(5):
        action = np.zeros(space.n_actions, dtype=np.int8)
        while len(more := space.extensions(action)):
            masks, _ = space.extension_masks(action[None])
            assert np.flatnonzero(masks[0]).tolist() == more.tolist()
            action[rng.choice(more)] = 1
        assert space.violations(action) == []


def test_pairs_have_names():
    space = mr.Matching(np.ones((2, 2)), left=["Ada", "Ben"], right=["x", "y"])
    action = space.encode([("Ben", "x")])
    assert action.tolist() == [0, 0, 1, 0]
    assert space.decode(action) == [("Ben", "x")]
    assert mr.Matching(np.ones((2, 2))).decode(action) == [(1, 0)]
    with pytest.raises(ValueError, match="left has no 'Cleo'; it has"):
        space.encode([("Cleo", "x")])


def test_violations_say_what_is_wrong():
    space = mr.Matching([[1, 1, 0], [1, 1, 1]], min_pairs=1, max_pairs=1, right=["x", "y", "z"])
    assert space.violations([1, 1, 0, 0, 0, 0]) == [
        "left 0 is in 2 pairs, at most 1 allowed",
        "2 pairs, at most 1 allowed",
    ]
    assert space.violations([0, 0, 1, 0, 0, 0]) == ["(0, 'z') is not eligible"]
    assert space.violations(np.zeros(6)) == ["0 pairs, at least 1 are needed"]


def test_pins_that_exclude_each_other_leave_nothing():
    space = mr.Matching(np.ones((2, 3)))
    c = np.ones((4, 6))
    one, zero = np.zeros((4, 6), dtype=bool), np.zeros((4, 6), dtype=bool)
    one[0, :2] = True  # two pairs of one
    one[1, [0, 3]] = True
    one[2, 0] = zero[2, 0] = True
    one[3, [0, 4]] = True
    assert space.linear_max(c, Pins(one, zero)).tolist() == [-np.inf, -np.inf, -np.inf, 2.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eligible": [1, 0]}, "eligible must have 2 dimensions"),
        ({"eligible": [[0.5, 1]]}, "eligible must be boolean or 0 and 1"),
        ({"eligible": np.ones((0, 3))}, "shape \\(0, 3\\)"),
        ({"min_pairs": 3}, "at least 3 pairs are asked for, at most 2 can be matched"),
        ({"min_pairs": 2, "max_pairs": 1}, "at least 2 pairs .* at most 1"),
        ({"max_pairs": -1}, "max_pairs must be at least 0"),
        ({"left": ["a"]}, "left must be 2 distinct names"),
        ({"right": ["a", "a"]}, "right must be 2 distinct names"),
    ],
)
def test_wrong_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.Matching(**{"eligible": [[1, 1], [1, 1]]} | arguments)
