import itertools
from decimal import Decimal

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import milp_rl as mr
from milp_rl.envs.care_management import FACTORS, CareManagement, care_actions
from milp_rl.envs.factored_actions import FactoredActionSpace
from milp_rl.offline.allocation import (
    InfeasibleAllocationError,
    Limit,
    allocate,
    allocate_greedily,
    parity_limits,
)
from milp_rl.offline.population import embed_population, q_table


def brute_force(q, limits, *, optional):
    """The best allocation by looking at all, None if there is none."""
    n, n_actions = q.shape
    best = None
    for actions in itertools.product(range(-1 if optional else 0, n_actions), repeat=n):
        value = sum(q[i, a] for i, a in enumerate(actions) if a >= 0)
        ok = all(
            sum(
                (1.0 if limit.patient_factor is None else limit.patient_factor[i]) * limit.use[a]
                for i, a in enumerate(actions)
                if a >= 0
            )
            <= limit.most + 1e-7
            for limit in limits
        )
        if ok and np.isfinite(value) and (best is None or value > best):
            best = value
    return best


@given(seed=st.integers(0, 100_000), optional=st.booleans(), parity=st.booleans())
@settings(max_examples=60, deadline=None)
def test_allocations_are_the_best(seed, optional, parity):
    rng = np.random.default_rng(seed)
    n, n_actions = 4, 4
    q = rng.normal(size=(n, n_actions)) + (1.0 if optional else 0.0)
    q[rng.random(q.shape) < 0.1] = -np.inf
    q[:, 0] = np.maximum(q[:, 0], -5.0)
    limits = [
        Limit("hours", rng.random(n_actions), rng.uniform(0.5, 2.5)),
        Limit("visits", (rng.random(n_actions) < 0.5).astype(float), float(rng.integers(1, 4))),
    ]
    if parity:
        limits += parity_limits("visits", limits[1].use, ["a", "a", "b", "b"], 0.3)
    wanted = brute_force(q, limits, optional=optional)
    if wanted is None:
        with pytest.raises(InfeasibleAllocationError, match="no allocation keeps the limits"):
            allocate(q, limits, optional=optional, gap=0.0)
        return
    found = allocate(q, limits, optional=optional, gap=0.0)
    assert found.value == pytest.approx(wanted, abs=1e-6)
    assert found.bound >= wanted - 1e-6
    assert not found.violations
    greedy = allocate_greedily(q, limits, optional=optional)
    assert greedy.violations or greedy.value <= found.value + 1e-6


def care(n, seed=0):
    env, rng = CareManagement(), np.random.default_rng(seed)
    states = env.start_states(rng, n)
    hours = np.array([0.3, 0.1, 0.5, 1.5])[env.actions.levels[:, 0]]
    home = env.actions.has_level("modality", "Home Visit")
    limits = [
        Limit(f"hours of {p}", hours * env.actions.has_level("provider", p), 0.08 * n)
        for p in FACTORS["provider"]
    ]
    limits.append(Limit("home visits", home.astype(float), 0.05 * n))
    limits += parity_limits("home visits", home, rng.choice(list("abcd"), n), 0.02)
    return env.expected_rewards(states), limits


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_populations_are_solved_with_a_proven_gap(n):
    q, limits = care(n)
    found = allocate(q, limits, gap=1e-3)
    assert found.gap <= 1e-3
    assert not found.violations
    for limit in limits:  # by hand
        factor = np.ones(n) if limit.patient_factor is None else limit.patient_factor
        assert (factor * limit.use[found.actions]).sum() <= limit.most + 1e-6
    alone = allocate_greedily(q, limits, repair=False)
    assert alone.violations
    assert alone.value > found.value


def test_the_bound_is_no_solvers_word():
    q, limits = care(300)
    tight = allocate(q, limits, gap=0.0)
    loose = allocate(q, limits, gap=0.02)
    assert loose.bound >= tight.value - 1e-7
    assert loose.value >= (1 - 0.02) * tight.value


def test_repairing_keeps_plain_limits():
    q, limits = care(100)
    plain = [limit for limit in limits if limit.patient_factor is None]
    repaired = allocate_greedily(q, plain)
    assert not repaired.violations
    assert repaired.value <= allocate(q, plain, gap=0.0).value + 1e-9


def test_impossible_limits_are_named():
    q = np.zeros((3, 2))
    with pytest.raises(InfeasibleAllocationError, match="'nurses' by 1"):
        allocate(q, [Limit("nurses", np.ones(2), 2.0)])
    assert (
        allocate(q + 1, [Limit("nurses", np.ones(2), 2.0)], optional=True).actions >= 0
    ).sum() == 2


@pytest.mark.parametrize(
    ("q", "limits", "message"),
    [
        (np.zeros(3), [], "q must be a table"),
        (np.zeros((0, 3)), [], r"got shape \(0, 3\)"),
        ([[0, 1], [2, np.nan]], [], "nan for patient 1, action 1"),
        ([[0, 1], [np.inf, 0]], [], "inf for patient 1, action 0"),
        ([[0, 1], [-np.inf, -np.inf]], [], "-inf for all of patient 1"),
        (np.zeros((2, 2)), [Limit("x", np.ones(2), np.inf)], "'x': most must be a finite number"),
        (np.zeros((2, 2)), [Limit("x", np.array([0, np.nan]), 1.0)], "limit 'x': use must be 2"),
        (
            np.zeros((2, 2)),
            [Limit("x", np.ones(2), 1.0, np.array([1.0, np.nan]))],
            "limit 'x': patient_factor must be finite, but it is nan for patient 1",
        ),
        (np.zeros((2, 2)), [Limit("x", np.ones(3), 1.0)], "limit 'x': use must be 2"),
        (np.zeros((2, 2)), [Limit("x", np.ones(2), 1.0, np.ones(3))], "patient_factor must have 2"),
    ],
)
def test_wrong_arguments_are_refused(q, limits, message):
    with pytest.raises(ValueError, match=message):
        allocate(q, limits)


def test_a_patient_who_can_have_nothing_gets_nothing_where_that_is_an_option():
    q = np.array([[1.0, 3.0], [-np.inf, -np.inf], [2.0, 1.0]])
    for limits in ([], [Limit("home", np.array([0.0, 1.0]), 1.0)]):
        assert allocate(q, limits, optional=True).actions.tolist() == [1, -1, 0]


SMALL = FactoredActionSpace(
    {"modality": ["phone", "home"], "provider": ["nurse", "worker"]},
    [("phone", "nurse"), ("phone", "worker"), ("home", "worker")],
)


def test_copies_of_a_network_in_one_model_are_the_table():
    network = mr.QNetwork(2, 4, (6, 5), generator=torch.Generator().manual_seed(0))
    states = np.random.default_rng(0).random((4, 2))
    model = pyo.ConcreteModel()
    model.population = pyo.Block()
    caps = {"modality": {"home": 1}, "provider": {"worker": 2}}
    actions, values = embed_population(model.population, network, states, SMALL, caps=caps)
    model.objective = pyo.Objective(expr=sum(values), sense=pyo.maximize)
    result = mr.solve_model(model, solver="highs")
    table = q_table(network, states, SMALL)
    limits = [
        Limit("home", SMALL.has_level("modality", "home").astype(float), 1),
        Limit("worker", SMALL.has_level("provider", "worker").astype(float), 2),
    ]
    found = allocate(table, limits, gap=0.0)
    assert result.value == pytest.approx(found.value, abs=1e-5)
    chosen = np.array([[round(pyo.value(v)) for v in row] for row in actions])
    np.testing.assert_array_equal(chosen, SMALL.one_hot(found.actions))


def test_factored_validity_composes_with_a_capacity_on_hours():
    space, n = SMALL, 3
    hours = np.tile([0.5, 2.0, 0.0, 0.0], n)
    block = space.block(n) & mr.BudgetTopK(n * 4, n * 4, costs=hours, budget=3.5)
    network = mr.QNetwork(0, n * 4, (8,), generator=torch.Generator().manual_seed(1))
    best = mr.argmax(network, [], block)
    everything = block.enumerate()
    values = network.q(torch.zeros(len(everything), 0), torch.from_numpy(everything))
    assert best.value == pytest.approx(values.max().item(), abs=1e-5)
    assert best.action.reshape(n, 4)[:, 1].sum() <= 1  # at most one home visit fits


def test_wrong_networks_are_refused():
    network = mr.QNetwork(3, 16, (4,))
    with pytest.raises(ValueError, match="19 inputs, but 16 levels and 2 features"):
        q_table(network, np.zeros((2, 2)), care_actions())


def test_two_limits_of_one_name_are_refused():
    limits = [Limit("visits", np.ones(2), 3), Limit("beds", np.ones(2), 3)]
    q = np.arange(8.0).reshape(4, 2)
    assert set(allocate(q, limits, optional=True).used) == {"visits", "beds"}
    with pytest.raises(ValueError, match="two limits are called 'visits'"):
        allocate(q, [*limits, Limit("visits", np.array([1.0, -1.0]), 3)], optional=True)


def test_a_loose_gap_bounds_what_is_best_too():
    """Values near 0 and a relaxation far from them: what fixing leaves out must not be better."""
    q = np.array([[-61.7, -59.7, -73.7], [6, 8, 29], [0, 23, 9], [26, 28, 8], [5, 27, 27]])
    hours, use = np.array([23.0, 56, 31, 48, 20]), np.array([0.0, 1, 2])
    limits = [Limit("at most", use, 88.0, hours), Limit("at least", -use, -85.0, hours)]
    assert brute_force(q, limits, optional=False) == pytest.approx(0.3)
    assert allocate(q, limits, gap=0.2).bound >= 0.3 - 1e-9
    rng = np.random.default_rng(0)
    for k in range(300):
        n = int(rng.integers(4, 7))
        q = rng.integers(0, 30, (n, 3)).astype(float)
        hours = rng.integers(10, 60, n).astype(float)
        used = float(hours @ use[rng.integers(0, 3, n)])
        limits = [
            Limit("at most", use, used + rng.integers(4), hours),
            Limit("at least", -use, -used, hours),
        ]
        best = brute_force(q, limits, optional=False)
        q[0] -= best + rng.normal()
        gap = (0.2, 0.5, 1.0, 3.0)[k % 4]
        plan = allocate(q, limits, gap=gap)
        best = brute_force(q, limits, optional=False)
        assert plan.violations == []
        assert plan.value - 1e-9 <= best <= plan.bound + 1e-6


def test_labels_are_heeded():
    q = pd.DataFrame([[1.0, 2.0], [1.0, 5.0]], columns=["none", "visit"], index=["p1", "p2"])
    hours = pd.Series({"visit": 1.0, "none": 0.0})
    far = pd.Series({"p2": 9.0, "p1": 1.0})
    assert allocate(q, [Limit("hours", hours, 0)]).actions.tolist() == [0, 0]
    assert allocate(q, [Limit("hours", hours, 1, far)]).actions.tolist() == [1, 0]
    assert allocate(q, [Limit("hours", pd.Series([0.0, 1.0]), 1)]).actions.tolist() == [0, 1]
    plain = q.astype(object), np.array([Limit("hours", [False, True], Decimal(1))], dtype=object)
    assert allocate(*plain).actions.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"'hours': use is labelled 'a', 'b' .*, and q 'none'"):
        allocate(q, [Limit("hours", pd.Series({"a": 0.0, "b": 1.0}), 1)])


@pytest.mark.parametrize(
    ("q", "limits", "said"),
    [
        (np.ma.masked_array(np.ones((2, 2)), [[0, 1], [0, 0]]), [], "some of q is masked"),
        ([["1", "2"]], [], "q must be of numbers, got '1'"),
        (pd.DataFrame({"id": ["P0"], "a": [1.0]}), [], "q, column 'id', must be of .* got 'P0'"),
        (
            np.ones((2, 2)),
            [Limit("b", pd.Series(["0", "1"]), 1)],
            "use must be of numbers, got '0'",
        ),
        (pd.DataFrame({"a": pd.array([1, None], "Int64")}), [], "nan for patient 1, action 0"),
        (np.ones((2, 2)), None, "limits must be a list of Limit, .* got NoneType"),
        (np.ones((2, 2)), Limit("b", np.ones(2), 1), "must be a list of Limit, .* got one Limit"),
        (np.ones((2, 2)), [Limit("b", ["x", 1], 1)], "limit 'b': use must be of numbers, got 'x'"),
        (np.ones((2, 2)), [Limit("b", np.ones(2), "5")], "'b': most must be of numbers, got '5'"),
        (np.ones((2, 2)), [Limit("b", np.ones(2), None)], "'b': most must be of numbers, got None"),
        (np.ones((2, 2)), [Limit("b", np.ones(2), 1, ["x", 1])], "'b': patient_factor .* got 'x'"),
    ],
)
def test_what_are_no_numbers_is_named(q, limits, said):
    with pytest.raises(ValueError, match=said):
        allocate(q, limits)


def test_more_small_words():
    with pytest.raises(ValueError, match="time_limit must be positive, or None, got -1"):
        allocate(np.ones((2, 2)), [], time_limit=-1)
    with pytest.raises(ValueError, match=r"groups must be of one kind, .* int and str"):
        parity_limits("visits", [0, 1], np.array(["a", 1], dtype=object), 0.1)
    use = np.array([0.0, 1.0])
    limits = [Limit("most", use, 0), Limit("least", -use, -1)]
    with pytest.raises(InfeasibleAllocationError, match=r"let them allow more$"):
        allocate(np.ones((2, 2)), limits, optional=True)
