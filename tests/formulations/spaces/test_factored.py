import itertools

import numpy as np
import pytest

from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.factored import FactoredValidity
from milp_rl.formulations.spaces.oracles.assignment import assignable
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.testing import relaxed_max

HOW = {"how": ["call", "visit"], "who": ["nurse", "doctor", "peer"]}
CARE = {
    "modality": ["Phone", "Text/SMS", "Video", "Home Visit"],
    "provider": ["RN", "Social Worker", "Care Coordinator", "CHW", "MD"],
    "goal": ["Chronic Disease Management", "Care Coordination", "Behavioral Health", "SDoH"],
    "urgency": ["Routine", "Semi-urgent", "Urgent"],
}


def expected(space: FactoredValidity) -> set[tuple[int, ...]]:
    """All actions by the definition: a product of combinations, filtered by the caps."""
    choices: list = list(space.combinations) + ([None] if space.optional else [])
    factors = list(space.factors)
    found = set()
    for taken in itertools.product(choices, repeat=space.n_decision_makers):
        if all(
            sum(c is not None and c[factors.index(factor)] == level for c in taken) <= cap
            for factor, limits in space.caps.items()
            for level, cap in limits.items()
        ):
            found.add(tuple(space.encode(taken).tolist()))
    return found


@pytest.mark.parametrize(
    ("options", "exact"),
    [
        ({}, True),
        ({"optional": True}, True),
        ({"forbidden": [("visit", "peer"), ("call", "doctor")]}, True),
        ({"allowed": [("visit", "doctor")], "optional": True}, True),
        ({"n_decision_makers": 2}, True),
        ({"n_decision_makers": 2, "caps": {"how": {"visit": 1}}}, True),
        ({"n_decision_makers": 2, "caps": {"how": {"visit": 1}}, "optional": True}, True),
        (
            {
                "n_decision_makers": 2,
                "caps": {"how": {"visit": 1, "call": 1}, "who": {"peer": 0, "nurse": 1}},
                "forbidden": [("visit", "nurse")],
            },
            False,
        ),
        (
            {
                "n_decision_makers": 2,
                "caps": {"how": {"call": 1}, "who": {"nurse": 1}},
                "allowed": [("call", "nurse"), ("visit", "doctor")],
                "optional": True,
            },
            False,
        ),
    ],
)
def test_the_contract_is_kept(options, exact, check_space):
    space = FactoredValidity(HOW, **options)
    assert space.exact == exact
    feasible = check_space(space, support_draws=2000)
    assert {tuple(a) for a in feasible.tolist()} == expected(space)


def test_three_decision_makers_share_one_visit(check_space):
    space = FactoredValidity(
        {"how": ["call", "visit"], "when": ["now", "later"]},
        forbidden=[("call", "now")],
        n_decision_makers=3,
        caps={"how": {"visit": 1}},
    )
    assert space.exact
    feasible = check_space(space)
    assert {tuple(a) for a in feasible.tolist()} == expected(space)


def test_names_go_in_and_come_out():
    space = FactoredValidity(HOW, n_decision_makers=2, optional=True)
    action = space.encode([("visit", "peer"), None])
    np.testing.assert_array_equal(action, [0, 1, 0, 0, 1, 0, 0, 0, 0, 0])
    assert space.decode(action) == [("visit", "peer"), None]
    with pytest.raises(ValueError, match="decision-maker 0 has no single level per factor"):
        space.decode([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])


def test_violations_speak_in_names():
    space = FactoredValidity(
        HOW, forbidden=[("visit", "peer")], n_decision_makers=2, caps={"how": {"visit": 1}}
    )
    visits = space.encode([("visit", "nurse"), ("visit", "doctor")])
    assert space.violations(visits) == ["how 'visit' is used 2 times, at most 1 allowed"]
    invalid = space.encode([("visit", "peer"), ("call", "nurse")])
    assert space.violations(invalid) == [
        "decision-maker 0: how 'visit', who 'peer' is not a valid combination"
    ]
    none = space.encode([("call", "nurse"), None])
    assert space.violations(none) == [
        "decision-maker 1 has 0 levels of 'how', 0 levels of 'who'; exactly 1 is allowed"
    ]


@pytest.mark.parametrize("n_decision_makers", [1, 20])
def test_care_management_at_its_size(n_decision_makers):
    """240 combinations of which 97 are valid; home visits are scarce."""
    rng = np.random.default_rng(0)
    valid = np.zeros(240, dtype=bool)
    valid[rng.permutation(240)[:97]] = True
    space = FactoredValidity(
        CARE,
        allowed=valid.reshape(4, 5, 4, 3),
        n_decision_makers=n_decision_makers,
        caps={"modality": {"Home Visit": 3}},
    )
    assert len(space.combinations) == 97
    assert space.n_actions == 16 * n_decision_makers
    samples = space.sample(rng, 5)
    assert not any(space.violations(a) for a in samples)
    c = rng.normal(size=(4, space.n_actions))
    best = space.linear_max(c)
    assert np.all(samples @ c.T <= best + 1e-9)
    np.testing.assert_allclose(best, relaxed_max(space, c, Pins()), rtol=1e-4)
    assert ActionSpace.from_dict(space.to_dict()) == space


def test_building_a_decision_step_by_step_stays_within_the_caps():
    space = FactoredValidity(
        HOW, n_decision_makers=2, caps={"how": {"call": 1}, "who": {"peer": 0}}
    )
    action = np.zeros(10, dtype=np.int8)
    assert set(space.extensions(action)) == {0, 1, 2, 3, 5, 6, 7, 8}
    action[0] = 1  # the first one calls, so the second one must visit
    assert 5 not in space.extensions(action)
    while len(more := space.extensions(action)):
        action[more[0]] = 1
    assert space.violations(action) == []


@pytest.mark.parametrize("seed", range(30))
def test_limited_resources_are_shared_out_exactly(seed):
    rng = np.random.default_rng(seed)
    people, options, resources = rng.integers(1, 5), rng.integers(1, 5), rng.integers(1, 3)
    may = rng.random((people, options)) < 0.6
    may[~may.any(axis=1), 0] = True
    uses = (rng.random((options, resources)) < 0.6).astype(np.int8)
    limits = rng.integers(0, 3, resources)
    expected = any(
        (uses[list(taken)].sum(axis=0) <= limits).all()
        for taken in itertools.product(*(np.flatnonzero(row) for row in may))
    )
    assert assignable(may, uses, limits.tolist()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": {}}, "at least one factor"),
        ({"factors": {"how": ["call", "call"]}}, "levels of 'how' must be distinct"),
        ({"allowed": [("call", "priest")]}, "'who' has no level 'priest'"),
        ({"allowed": ["call"]}, "a combination has one level for each"),
        ({"allowed": np.ones((3, 2), dtype=bool)}, r"allowed must have shape \(2, 3\)"),
        ({"allowed": []}, "no combination is valid"),
        ({"allowed": [], "forbidden": []}, "not both"),
        ({"n_decision_makers": 0}, "n_decision_makers must be at least 1, got 0"),
        ({"caps": {"when": {}}}, "no factor 'when'"),
        ({"caps": {"how": {"fax": 1}}}, "'how' has no level 'fax'"),
        ({"caps": {"how": {"call": -1}}}, "the cap on 'call' must be at least 0"),
        ({"caps": {"how": {"call": 0, "visit": 0}}}, "no feasible action: the caps"),
    ],
)
def test_wrong_parameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FactoredValidity(**{"factors": HOW} | options)
