import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milp_rl.formulations.spaces import scheduling
from milp_rl.formulations.spaces.oracles import visits as visits_module
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.spaces.scheduling import Scheduling
from milp_rl.formulations.testing import relaxed_max


def published(n_arms: int, n_workers: int, seed: int) -> Scheduling:
    """The domain of Xu et al. 2025: workers with 3 of 5 slots, arms with 2."""
    rng = np.random.default_rng(seed)

    def some(rows, k):
        return np.argsort(rng.random((rows, 5)), axis=1) < k

    return Scheduling(some(n_workers, 3), some(n_arms, 2), needs=2, budget=n_workers)


def feasible_by_trying(space: Scheduling, action) -> bool:
    """Place every need of every chosen arm in a worker-slot, by trying every place."""
    chosen = np.flatnonzero(action)
    if space.budget is not None and len(chosen) > space.budget:
        return False
    free = space.worker_slots.sum(axis=0)

    def place(i):
        if i == len(chosen):
            return True
        slots = np.flatnonzero(space.arm_slots[chosen[i]])
        needed = int(space.needs[chosen[i]])
        for where in itertools.combinations_with_replacement(slots, needed):
            used = np.bincount(where, minlength=len(free))
            if (used <= free).all():
                free[:] -= used
                if place(i + 1):
                    return True
                free[:] += used
        return False

    return place(0)


@pytest.mark.parametrize("seed", range(8))
def test_random_schedules_keep_the_contract(seed, check_space):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    space = Scheduling(
        rng.random((int(rng.integers(1, 4)), 4)) < 0.6,
        rng.random((n, 4)) < 0.5,
        needs=rng.integers(1, 4, n) if seed % 2 else 2,
        budget=None if seed % 3 == 0 else int(rng.integers(0, n + 1)),
    )
    assert space.exact
    feasible = check_space(space, seed=seed)
    listed = {tuple(a) for a in feasible.tolist()}
    for action in itertools.product((0, 1), repeat=n):
        assert (action in listed) == feasible_by_trying(space, action)


def test_many_slots_fall_back_to_a_relaxation(check_space):
    rng = np.random.default_rng(0)
    space = Scheduling(rng.random((2, 12)) < 0.3, rng.random((6, 12)) < 0.2, needs=2, budget=4)
    assert not space.exact
    check_space(space)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_schedule_serves_every_chosen_arm_as_it_needs(seed):
    space = published(12, 4, seed)
    action = space.sample(np.random.default_rng(seed), maximal=True)[0]
    plan = space.schedule(action)
    assert len({(worker, slot) for _, worker, slot in plan}) == len(plan)
    assert all(space.worker_slots[w, t] and space.arm_slots[j, t] for j, w, t in plan)
    served = np.bincount([j for j, _, _ in plan], minlength=12)
    np.testing.assert_array_equal(served, 2 * action)
    assert len(space.extensions(action)) == 0


@pytest.mark.parametrize("needs", [1, 2, 3, [1, 1, 2, 2, 3, 1, 2]])
@pytest.mark.parametrize("budget", [None, 3])
def test_without_listing_the_relaxation_is_a_polymatroid(check_space, monkeypatch, needs, budget):
    monkeypatch.setattr(scheduling, "_MAX_LISTED", 0)
    rng = np.random.default_rng(3)
    space = Scheduling(rng.random((2, 4)) < 0.7, rng.random((7, 4)) < 0.6, needs, budget)
    assert space.exact == (needs == 1)
    check_space(space)
    if budget is None or isinstance(needs, int):
        c = rng.normal(size=(20, 7))
        one = rng.random((20, 7)) < 0.1
        relaxed = relaxed_max(space, c, Pins(one))
        feasible = np.isfinite(relaxed)
        assert np.all(np.isfinite(space.linear_max(c, Pins(one))) <= feasible)
        assert np.all(space.linear_max(c, Pins(one)) <= relaxed + 1e-5)


def test_the_listed_maximum_is_no_larger_than_the_relaxed_one(monkeypatch):
    rng = np.random.default_rng(0)
    slots = np.array([[1, 1, 0, 0]] * 6 + [[0, 1, 1, 0]] * 6 + [[0, 0, 1, 1]] * 6)
    listed = Scheduling([[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 0]], slots)
    c = rng.random((30, 18))
    exact = listed.linear_max(c)
    monkeypatch.setattr(scheduling, "_MAX_LISTED", 0)
    relaxed = Scheduling(listed.worker_slots, slots).linear_max(c)
    assert np.all(relaxed >= exact - 1e-9)
    assert np.any(relaxed > exact + 1e-3)  # nine worker-slots serve four arms, and half of one


def test_every_feasible_action_can_be_drawn(check_space):
    space = Scheduling([[1, 1, 0], [0, 1, 1]], [[1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0]], 1, 2)
    check_space(space, support_draws=2000)


def test_violations_name_the_arms_and_slots_that_are_short():
    space = Scheduling([[1, 1, 1], [0, 0, 1]], [[1, 0, 0], [1, 1, 0], [0, 0, 1]], needs=[1, 2, 2])
    (text,) = space.violations([1, 1, 1])
    assert text == "arms [0, 1] need 3 worker-slots in slots [0, 1], where workers have 2: 1 short"


def test_two_workers_may_serve_an_arm_in_one_slot():
    space = Scheduling([[1], [1]], [[1], [1]], needs=2)
    assert space.schedule([1, 0]) == [(0, 0, 0), (0, 1, 0)]
    assert "2 short" in space.violations([1, 1])[0]


@pytest.mark.parametrize(("n_arms", "n_workers"), [(20, 5), (40, 10), (100, 20)])
def test_the_published_domains_are_bounded_by_their_oracle(n_arms, n_workers):
    space = published(n_arms, n_workers, 0)
    assert space.exact == (n_arms < 40)
    rng = np.random.default_rng(1)
    c = rng.normal(size=(5, n_arms))
    samples = space.sample(rng, 50, maximal=True)
    assert np.all(space.linear_max(c) >= (samples @ c.T).max(axis=0) - 1e-9)
    if space.exact:
        assert np.all(space.linear_max(c) <= relaxed_max(space, c, Pins()) + 1e-5)


def test_an_infeasible_action_has_no_schedule():
    space = Scheduling([[1, 0]], [[1, 0], [0, 1]], needs=1, budget=1)
    with pytest.raises(ValueError, match=r"not feasible: arms \[1\] need 1 .* in slots \[1\]"):
        space.schedule([0, 1])
    assert space.violations([1, 1])[0] == "2 arms chosen, at most 1 allowed"


def schedules(space: Scheduling, action):
    """All that worker by worker and start by start can be, for durations."""
    chosen = np.flatnonzero(action)
    busy = ~space.worker_slots

    def place(i, plan):
        if i == len(chosen):
            yield plan
            return
        j, d = chosen[i], int(space.needs[chosen[i]])
        for w, start in np.ndindex(busy.shape):
            slots = slice(start, start + d)
            fits = start + d <= busy.shape[1] and space.arm_slots[j, slots].all()
            if fits and not busy[w, slots].any():
                busy[w, slots] = True
                yield from place(i + 1, [*plan, (int(j), w, start)])
                busy[w, slots] = False

    return place(0, [])


def visits(seed):
    rng = np.random.default_rng(seed)
    n, slots = int(rng.integers(1, 6)), int(rng.integers(2, 6))
    shifts = rng.random((2, slots)) < 0.8
    return Scheduling(
        shifts[rng.integers(2, size=int(rng.integers(1, 4)))],  # some workers have the same
        rng.random((n, slots)) < 0.8,
        durations=rng.integers(1, 4, n) if seed % 2 else 2,
        budget=None if seed % 3 else int(rng.integers(0, n + 1)),
        preferred=rng.random((n, slots)) < 0.5 if seed % 4 < 2 else None,
    )


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_random_visits_in_one_keep_the_contract(seed, listed, check_space, monkeypatch):
    if not listed:
        monkeypatch.setattr(scheduling, "_MAX_LISTED_VISITS", 0)
        monkeypatch.setattr(visits_module, "_STEPS", 0)  # an integer program at once
    space = visits(seed)
    assert space.exact == listed
    feasible = {tuple(a) for a in check_space(space, seed=seed).tolist()}
    for action in itertools.product((0, 1), repeat=space.n_actions):
        within = space.budget is None or sum(action) <= space.budget
        assert (action in feasible) == (within and any(True for _ in schedules(space, action)))


@pytest.mark.parametrize("seed", range(12))
def test_a_visit_is_by_one_worker_in_consecutive_slots_where_preferred(seed):
    space = visits(seed)
    action = space.sample(np.random.default_rng(seed), maximal=True)[0]
    plan = space.schedule(action)
    assert len({(worker, slot) for _, worker, slot in plan}) == len(plan)
    assert all(space.worker_slots[w, t] and space.arm_slots[j, t] for j, w, t in plan)
    read = space.decode(action)
    assert list(read) == np.flatnonzero(action).tolist()
    for j, own in read.items():
        assert len({worker for worker, _ in own}) == 1
        start = own[0][1]
        assert [slot for _, slot in own] == list(range(start, start + space.needs[j]))
    if space.preferred is not None:
        most = max(
            sum(space.preferred[j, t : t + space.needs[j]].sum() for j, _, t in other)
            for other in schedules(space, action)
        )
        assert sum(space.preferred[j, t] for j, _, t in plan) == most


def test_needs_are_served_where_preferred_too():
    workers, arms = [[1, 1, 1], [1, 0, 0]], [[1, 1, 1], [1, 1, 0]]
    late = [[0, 0, 1], [0, 1, 0]]
    space = Scheduling(workers, arms, needs=1, preferred=late)
    assert [(j, t) for j, _, t in space.schedule([1, 1])] == [(0, 2), (1, 1)]
    early = Scheduling(workers, arms, needs=1, preferred=1 - np.array(late))
    assert all(t not in (2, 1)[j : j + 1] for j, _, t in early.schedule([1, 1]))
    assert space.to_dict() != early.to_dict()
    assert np.array_equal(space.enumerate(), early.enumerate())


def test_visits_of_one_kind_may_begin_together():
    space = Scheduling([[1, 1], [1, 1]], [[1, 1], [1, 1], [1, 1]], durations=2)
    assert space.decode([1, 0, 1]) == {0: [(0, 0), (0, 1)], 2: [(1, 0), (1, 1)]}
    assert space.violations([1, 1, 1]) != []


def test_what_cannot_be_in_one_is_named():
    space = Scheduling([[1, 1, 1, 0], [0, 0, 0, 1]], [[1, 1, 1, 1]] * 3, durations=[2, 2, 4])
    assert space.violations([1, 1, 0]) == [
        "no workers have 2 consecutive slots for each of the arms [0, 1]"
    ]
    assert space.violations([0, 0, 1]) == [
        "no workers have 4 consecutive slots for each of the arms [2]"
    ]
    assert (
        "6 worker-slots in slots [0, 1, 2, 3], where workers have 4"
        in (space.violations([1, 0, 1])[0])
    )
    with pytest.raises(ValueError, match="not feasible: no workers have 2"):
        space.decode([1, 1, 0])


def test_many_visits_are_decided_in_reasonable_time():
    """A search alone takes minutes for some of these."""
    rng = np.random.default_rng(2)
    space = Scheduling(rng.random((5, 10)) < 0.9, rng.random((18, 10)) < 0.95, durations=3)
    some = np.argsort(rng.random((20, 18)), axis=1) < rng.integers(11, 18, (20, 1))
    found = space.feasible(some.astype(np.int8))
    assert found.any()
    assert not found.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"worker_slots": [1, 0]}, "worker_slots must have 2 dimensions"),
        ({"worker_slots": [[1, 0, 1]]}, "worker_slots has 3 slots, arm_slots has 2"),
        ({"arm_slots": [[0.5, 1]]}, "arm_slots must be boolean or 0 and 1"),
        ({"needs": 0}, "needs must be at least 1, got 0"),
        ({"needs": [1, 2, 3]}, "needs must be one integer or 2"),
        ({"needs": 1.5}, "needs must be an integer"),
        ({"budget": -1}, "budget must be at least 0, got -1"),
        ({"needs": 1, "durations": 1}, "give needs or durations, not both"),
        ({"durations": [1, 0]}, r"durations\[1\] must be at least 1, got 0"),
        ({"durations": [1, 2, 3]}, "durations must be one integer or 2"),
        ({"preferred": [[1, 0]]}, r"preferred must have shape \(2, 2\), got \(1, 2\)"),
    ],
)
def test_wrong_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scheduling(**{"worker_slots": [[1, 0]], "arm_slots": [[1, 0], [0, 1]]} | arguments)
