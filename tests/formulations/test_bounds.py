import numpy as np
import pytest

from milp_rl.formulations import bounds as bounds_module
from milp_rl.formulations.bounds import BoundPropagator, InfeasibleSetError, box_maximum
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks, NetworkValue
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces import BudgetTopK

STRENGTHS = ("interval", "linear", "lp")


def pre_activations(network, x):
    """Every layer's values before its activation, output included."""
    found = []
    for layer in network.layers:
        before = x @ layer.weight.T + layer.bias
        found.append(before)
        x = np.maximum(before, 0)
    return found


def networks(network, n, states):
    return NetworkValue(network, n).at_states(np.asarray(states, dtype=float))


def propagators(space):
    return {
        strength: BoundPropagator(
            space.n_actions,
            space.linear_max,
            strength=strength,
            model=space.linear_model,
        )
        for strength in STRENGTHS
    }


@pytest.mark.parametrize("seed", range(25))
def test_bounds_contain_every_feasible_action_and_tighten_with_strength(
    seed, random_network, trained_network
):
    rng = np.random.default_rng(seed)
    n, state_dim = int(rng.integers(3, 9)), int(rng.integers(1, 4))
    hidden = tuple(int(h) for h in rng.integers(2, 10, size=rng.integers(1, 4)))
    make = trained_network if seed % 3 == 0 else random_network
    network = make(rng, n + state_dim, hidden)
    space = BudgetTopK(n, int(rng.integers(1, n)), exactly=bool(rng.integers(2)))
    if not space.exactly:
        space = space & BudgetTopK(n, n, costs=rng.uniform(0.5, 2, n), budget=n / 2)
    actions = space.enumerate()
    states = rng.normal(size=(3, state_dim))
    at_states = networks(network, n, states)
    found = {name: p.at(at_states) for name, p in propagators(space).items()}
    for i, state in enumerate(states):
        true = pre_activations(network.at_state(state), actions.astype(float))
        for bounds in found.values():
            lows = [*bounds.lower, bounds.output_lower]
            highs = [*bounds.upper, bounds.output_upper]
            for low, high, values in zip(lows, highs, true, strict=True):
                assert np.all(values >= low[i])
                assert np.all(values <= high[i])
    for loose, tight in (("interval", "linear"), ("linear", "lp")):
        a, b = found[loose], found[tight]
        for low_a, low_b in zip(a.lower, b.lower, strict=True):
            assert np.all(low_b >= low_a)
        for high_a, high_b in zip(a.upper, b.upper, strict=True):
            assert np.all(high_b <= high_a)
        assert np.all(b.output_upper <= a.output_upper)
        assert np.all(b.output_lower >= a.output_lower)
        assert np.all(b.unstable <= a.unstable)


def test_linear_bounds_know_the_budget():
    """Ten arms of weight 1 and a budget of 2: the row reaches 2, not 10."""
    network = Network.from_arrays([np.ones((1, 10)), [[1.0]]], [[-3.0], [0.0]])
    space = BudgetTopK(10, 2)
    found = propagators(space)
    empty = networks(network, 10, np.zeros((1, 0)))
    assert found["interval"].at(empty).upper[0][0, 0] == pytest.approx(7.0)
    bounds = found["linear"].at(empty)
    assert bounds.upper[0][0, 0] == pytest.approx(-1.0)
    assert bounds.unstable.tolist() == [0]
    assert bounds.output_upper[0, 0] == pytest.approx(0.0, abs=1e-8)


def test_unstable_neurons_are_counted_per_state():
    network = Network.from_arrays([[[1.0, 1.0]], [[1.0]]], [[0.0], [0.0]])
    propagator = BoundPropagator(1, BudgetTopK(1, 1).linear_max)
    three, two = networks(network, 1, [[-2.0], [-0.5], [2.0]]), networks(network, 1, [[-2], [-0.5]])
    assert propagator.at(three).unstable.tolist() == [0, 1, 0]
    assert propagator.at(two).at(1).unstable.tolist() == [1]


def test_a_batch_gives_the_bounds_of_each_state(random_network):
    rng = np.random.default_rng(0)
    network = random_network(rng, 9, (6, 6))
    propagator = BoundPropagator(6, BudgetTopK(6, 2).linear_max)
    states = rng.normal(size=(5, 3))
    together = propagator.at(networks(network, 6, states))
    for i, state in enumerate(states):
        alone = propagator.at(networks(network, 6, state[None]))
        np.testing.assert_allclose(together.output_upper[i], alone.output_upper[0])
        np.testing.assert_allclose(together.lower[1][i], alone.lower[1][0])


def test_another_network_is_bounded_afresh(random_network):
    rng = np.random.default_rng(1)
    first, second = random_network(rng, 6, (5,)), random_network(rng, 6, (5,))
    propagator = BoundPropagator(4, BudgetTopK(4, 2).linear_max)
    fresh = BoundPropagator(4, BudgetTopK(4, 2).linear_max)
    states = rng.normal(size=(2, 2))
    propagator.at(networks(first, 4, states))
    known, new = propagator.at(networks(second, 4, states)), fresh.at(networks(second, 4, states))
    np.testing.assert_array_equal(known.output_upper, new.output_upper)


def test_networks_that_no_action_enters_are_bounded_again():
    constant = ActionNetworks((ActionLayer((), np.array([[0.2]])),), n_actions=1, n_states=1)
    propagator = propagators(BudgetTopK(1, 1))["linear"]
    for _ in range(2):  # the second time, something is known of the first
        assert propagator.at(constant).output_upper == pytest.approx(0.2)


def test_box_maximum_is_exact_at_the_corners():
    low, high = np.array([-1.0, 0.0, 2.0]), np.array([1.0, 3.0, 2.0])
    c = np.array([[1.0, -1.0, 1.0], [-2.0, 2.0, -1.0]])
    np.testing.assert_allclose(box_maximum(low, high)(c), [1 + 0 + 2, 2 + 6 - 2])


def test_wrong_arguments_are_named(random_network):
    network = random_network(np.random.default_rng(0), 5, (3,))
    space = BudgetTopK(3, 1)
    with pytest.raises(ValueError, match="'interval', 'linear' or 'lp', got 'crown'"):
        BoundPropagator(3, space.linear_max, strength="crown")
    with pytest.raises(ValueError, match="3 actions but the networks take 4"):
        BoundPropagator(3, space.linear_max).at(networks(network, 4, np.zeros((1, 1))))
    with pytest.raises(InfeasibleSetError, match="no feasible action"):
        BoundPropagator(3, lambda c: np.full(len(c), -np.inf))


def test_bounds_in_parts_are_the_same(random_network, monkeypatch):
    rng = np.random.default_rng(8)
    network, space = random_network(rng, 12, (7, 6)), BudgetTopK(9, 3)
    states = rng.normal(size=(5, 3))
    whole = BoundPropagator(9, space.linear_max).at(networks(network, 9, states))
    monkeypatch.setattr(bounds_module, "_ENTRIES", 40)  # two variables, or one state, at a time
    parts = BoundPropagator(9, space.linear_max).at(networks(network, 9, states))
    pairs = [(whole.output_lower, parts.output_lower), (whole.output_upper, parts.output_upper)]
    pairs += [*zip(whole.lower, parts.lower, strict=True)]
    pairs += [*zip(whole.upper, parts.upper, strict=True), (whole.rounding, parts.rounding)]
    for a, b in pairs:
        assert b == pytest.approx(a, rel=1e-12)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_ranges_of_many_variables_are_those_they_are_given(
    strength, random_network, monkeypatch
):
    monkeypatch.setattr(bounds_module, "_MOST_RANGES", 0)
    rng = np.random.default_rng(9)
    network, space = random_network(rng, 9, (7, 6)), BudgetTopK(9, 3)
    asked = []

    def linear_max(c):
        asked.append(len(c))
        return space.linear_max(c)

    propagator = BoundPropagator(
        9,
        linear_max,
        box=(space.lower, space.upper),
        strength=strength,
        model=space.linear_model,
    )
    bounds = propagator.at(networks(network, 9, np.zeros((2, 0))))
    first = 14 if strength != "interval" else 0  # both signs of the first layer's rows
    assert asked[:1] == [first][: len(asked)]
    true = pre_activations(network, space.enumerate().astype(float))
    lows, highs = [*bounds.lower, bounds.output_lower], [*bounds.upper, bounds.output_upper]
    for low, high, values in zip(lows, highs, true, strict=True):
        assert (values >= low[0]).all()
        assert (values <= high[0]).all()
