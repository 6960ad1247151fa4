"""Searches near a proto-action, against enumeration."""

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.heuristics import neighbourhood
from milp_rl.heuristics.neighbourhood import Nearest, annealed, neighbours
from milp_rl.heuristics.scores import by_scores

SETS = [
    mr.BudgetTopK(5, 2),
    mr.BudgetTopK(5, 2, exactly=True),
    mr.Capacity(costs=[2, 3, 4, 5, 2], capacities=[6, 4]),
    mr.Box([0, 0, 1], [2, 3, 2], integer=range(3)),
]
named = pytest.mark.parametrize("space", SETS, ids=lambda space: repr(space)[:30])


@pytest.mark.parametrize("space", SETS[:3], ids=lambda space: repr(space)[:30])
def test_scores_are_made_feasible_by_taking_the_highest_that_fit(space):
    """Against the order over all feasible actions by their items' scores, highest first."""
    rng = np.random.default_rng(1)
    actions = space.enumerate()
    for _ in range(30):
        scores = rng.uniform(-1, 1, space.n_actions)
        order = np.argsort(-scores)
        wanted = [a for a in actions if (scores[a == 1] > 0).all()] or list(actions)
        best = max(wanted, key=lambda a: tuple(a[order]))
        assert by_scores(space, scores).tolist() == best.tolist()


@named
def test_neighbours_are_all_feasible_actions_one_step_away(space):
    actions = space.enumerate()
    for action in actions[::3]:
        off = np.abs(actions - action)
        if space.binary:
            added = (actions - action).sum(axis=1)
            near = (off.sum(axis=1) == 1) | ((off.sum(axis=1) == 2) & (added == 0))
        else:
            near = (off > 0).sum(axis=1) == 1
        found = neighbours(space, action, np.random.default_rng(0))
        assert {tuple(a) for a in found} == {tuple(a) for a in actions[near]}


@named
def test_annealing_finds_the_best_action_of_a_small_critic(space):
    """Where values are sums over items, from any start."""
    rng, actions = np.random.default_rng(2), space.enumerate()
    for _ in range(10):
        worth = rng.normal(size=space.n_actions)
        start = actions[rng.integers(len(actions))]
        found = annealed(space, start, lambda a, w=worth: a @ w, rng)
        assert space.violations(found) == []
        assert found @ worth == pytest.approx((actions @ worth).max())


def distances(space, actions, proto):
    spread = space.upper - space.lower
    return (((actions - space.lower) / spread - (proto + 1) / 2) ** 2).sum(axis=1)


@named
@pytest.mark.parametrize("most_listed", [30_000, 2])
def test_the_nearest_actions_are_the_nearest_feasible_ones(space, most_listed, monkeypatch):
    """From the list, and by the search where there are too many to list."""
    monkeypatch.setattr(neighbourhood, "MOST_LISTED", most_listed)
    rng, actions = np.random.default_rng(3), space.enumerate()
    nearest, further = Nearest(space, 4), []
    for _ in range(20):
        proto = rng.uniform(-1, 1, space.n_actions)
        near = nearest.actions(proto, rng)
        assert len(np.unique(near, axis=0)) == 4
        assert space.feasible(near).all()
        found = distances(space, near, proto)
        assert (np.diff(found) >= 0).all()
        further.append(found - np.sort(distances(space, actions, proto))[:4])
    assert np.min(further) > -1e-9
    assert np.mean(further) < (1e-9 if most_listed > 2 else 0.02)
