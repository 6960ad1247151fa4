"""The linear relaxation against the network itself, with layers that skip."""

from fractions import Fraction

import numpy as np
import pytest

from milp_rl.formulations.bounds import BoundPropagator, box_maximum
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks
from milp_rl.formulations.networks.network import INPUT, Network
from milp_rl.formulations.relaxation import Lines, Relaxation, polyak_steps
from milp_rl.formulations.spaces import BudgetTopK


def skipping(rng, n=4, widths=(6, 5, 4), states=1):
    """Networks in which every layer takes the action and all layers before."""
    layers = []
    for d, width in enumerate((*widths, 1)):
        inputs = tuple(
            (k, rng.normal(size=(states, width, n if k == INPUT else widths[k])))
            for k in (INPUT, *range(d))
        )
        layers.append(ActionLayer(inputs, rng.normal(size=(states, width))))
    return ActionNetworks(tuple(layers), n, states)


def evaluate(networks, x, state):
    z, h = [], {INPUT: x}
    for d, layer in enumerate(networks.layers):
        total = layer.bias[state] + sum(h[k] @ w[state].T for k, w in layer.inputs)
        z.append(total)
        h[d] = np.maximum(total, 0.0)
    return z


@pytest.mark.parametrize("seed", range(5))
def test_the_affine_function_is_nowhere_below_networks_with_skips(seed):
    rng = np.random.default_rng(seed)
    networks = skipping(rng, states=3)
    relaxation = Relaxation(networks)
    x = rng.uniform(-1, 1, size=(4000, 4))
    state = np.array([2, 0, 1, 2])
    before = [evaluate(networks, x, s) for s in range(3)]
    hidden = [np.concatenate(z[:-1], axis=1) for z in before]
    low = np.stack([hidden[s].min(axis=0) - 0.1 for s in state])
    high = np.stack([hidden[s].max(axis=0) + 0.1 for s in state])
    lines = Lines.over(low, high).with_slopes(rng.random(low.shape))
    a, constant, p = relaxation.backward(relaxation.rows(3, state), state, lines)
    assert p.shape == (4, 1, 15)
    for i, s in enumerate(state):
        above = x @ a[i, 0] + constant[i, 0] + relaxation.bias(3, state)[i]
        assert (above >= before[s][-1][:, 0] - 1e-9).all()
        assert (above - before[s][-1][:, 0]).min() < np.ptp(before[s][-1])  # and says something


@pytest.mark.parametrize("strength", ["interval", "linear", "lp"])
@pytest.mark.parametrize("states", [1, 3])
def test_bounds_hold_for_networks_that_differ_from_state_to_state(states, strength):
    rng = np.random.default_rng(states)
    networks, space = skipping(rng, 6, (5, 4), states=states), BudgetTopK(6, 3)
    actions = space.enumerate().astype(float)
    model = space.linear_model
    found = BoundPropagator(6, space.linear_max, strength=strength, model=model).at(networks)
    for s in range(states):
        z = evaluate(networks, actions, s)
        lows, highs = [*found.lower, found.output_lower], [*found.upper, found.output_upper]
        for low, high, values in zip(lows, highs, z, strict=True):
            assert (values >= low[s]).all()
            assert (values <= high[s]).all()
        assert networks.at(s).forward(actions)[:, 0] == pytest.approx(z[-1][:, 0])
        here = np.full(len(actions), s)
        assert networks.values(actions, here) == pytest.approx(z[-1][:, 0])


@pytest.mark.parametrize("exponent", [0, 6, 12])
def test_margins_cover_what_float64_loses(exponent):
    """Weights that cancel to nearly nothing: the bound holds in exact arithmetic, too."""
    rng = np.random.default_rng(exponent)
    n, width = 6, 40
    first = rng.normal(size=(width, n))
    huge = 10.0**exponent * rng.normal(size=width)
    second = np.concatenate([huge, -huge])[None]
    network = Network.from_arrays(
        [np.concatenate([first, first + 1e-9 * rng.normal(size=first.shape)]), second],
        [np.concatenate([np.full(width, 9.0)] * 2), [0.0]],
    )
    box = box_maximum(np.zeros(n), np.ones(n))
    bounds = BoundPropagator(n, box).at(ActionNetworks.of(network))
    exact = []
    for x in rng.integers(0, 2, size=(40, n)):
        hidden = [
            max(
                Fraction(0),
                sum(Fraction(float(w)) * int(v) for w, v in zip(row, x, strict=True)) + 9,
            )
            for row in network.layers[0].weight
        ]
        exact.append(sum(Fraction(float(w)) * h for w, h in zip(second[0], hidden, strict=True)))
    assert max(exact) <= Fraction(float(bounds.output_upper[0, 0]))
    assert min(exact) >= Fraction(float(bounds.output_lower[0, 0]))
    assert bounds.rounding[0] <= 1e-10 * np.abs(second).sum() * 20


def test_a_step_of_polyaks_length_removes_the_excess_of_a_linear_bound():
    gradient = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    step = polyak_steps(np.array([5.0, 5.0, np.inf]), gradient)
    np.testing.assert_allclose((step * gradient**2).sum(axis=1), [5.0, 0.0, 0.0])
