from __future__ import annotations

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.baselines import CrossEntropyArgmax, GradientAscentArgmax, argmax_gaps

HEURISTICS = (GradientAscentArgmax, CrossEntropyArgmax)
SPACES = {
    "box": mr.Box([-1, -2, 0], [1, 2, 3]),
    "constrained": mr.Box([-1] * 3, [1] * 3, matrix=[[1, 1, 1], [1, -1, 0]], right=[0.5, 0.2]),
}


@pytest.mark.parametrize("kind", HEURISTICS)
@pytest.mark.parametrize("name", SPACES)
def test_actions_are_feasible_and_below_the_exact_maximum(kind, name, random_network):
    rng = np.random.default_rng(0)
    space, network = SPACES[name], random_network(rng, 5, (16, 16))
    states = rng.random((20, 2))
    heuristic = kind(network, space)
    actions = heuristic.actions(states)
    assert not any(space.violations(a) for a in actions)
    gaps = argmax_gaps(network, space, states, actions)
    assert (gaps >= -2e-6).all()
    drawn = space.sample(rng, 20)
    assert gaps.mean() < argmax_gaps(network, space, states, drawn).mean() / 3
    np.testing.assert_array_equal(actions[3:4], heuristic.actions(states[3:4]))


@pytest.mark.parametrize("kind", HEURISTICS)
def test_linear_networks_are_solved_and_updates_used(kind):
    space = mr.Box([-1, -1], [1, 1])
    up = mr.Network.from_arrays([[[1.0, -2.0, 0.5]]], [[0.0]])
    heuristic = kind(up, space)
    assert argmax_gaps(up, space, [[0.3]], heuristic.actions([[0.3]])) == pytest.approx(0, abs=0.05)
    heuristic.update(up.negated())
    assert heuristic.actions([[0.3]])[0] == pytest.approx([-1, 1], abs=0.05)
    assert len(heuristic.actions([[0.3], [0.1]])) == 2


def test_gradient_ascent_may_stop_at_a_local_maximum():
    """A valley at 0.3, a low peak left of it and a high one to the right; it starts at 0."""
    network = mr.Network.from_arrays([[[1.0], [-1.0]], [[3.0, 0.5]]], [[-0.3, 0.3], [0.0]])
    space, nowhere = mr.Box([-1], [1]), np.zeros((1, 0))
    stuck = GradientAscentArgmax(network, space, starts=1).actions(nowhere)
    assert stuck[0, 0] == pytest.approx(-1)
    assert argmax_gaps(network, space, nowhere, stuck)[0] == pytest.approx(2.1 - 0.65)
    assert mr.argmax(network, [], space).action[0] == pytest.approx(1)


def test_projections_are_feasible_and_nearest():
    space = SPACES["constrained"]
    points = np.random.default_rng(0).normal(scale=2, size=(200, 3))
    projected = space.project(points)
    assert not any(space.violations(x) for x in projected)
    inside = np.array([not space.violations(p) for p in points])
    np.testing.assert_allclose(projected[inside], points[inside], atol=1e-9)
    distance = np.linalg.norm(projected - points, axis=1)
    for other in space.sample(np.random.default_rng(1), 200):
        assert (distance <= np.linalg.norm(other - points, axis=1) + 0.05).all()
    with pytest.raises(ValueError, match="binary"):
        mr.Box([0], [1], binary=[0]).project([[0.5]])


def test_other_spaces_and_wrong_options_are_refused():
    network = mr.QNetwork(1, 3)
    for space in (mr.BudgetTopK(3, 1), mr.BudgetTopK(2, 1) * mr.Box([0], [1])):
        with pytest.raises(ValueError, match="needs a Box of continuous variables"):
            GradientAscentArgmax(network, space)
    space = SPACES["box"]
    with pytest.raises(ValueError, match="at least 1"):
        GradientAscentArgmax(network, space, steps=0)
    with pytest.raises(ValueError, match="elites"):
        CrossEntropyArgmax(network, space, elites=65)
