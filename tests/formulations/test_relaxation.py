"""The linear relaxation against the network itself, with layers that skip."""

from fractions import Fraction

import numpy as np
import pytest

from milp_rl.formulations.bounds import BoundPropagator, box_maximum
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.relaxation import ACTION, Lines, Relaxation, polyak_steps


def skipping(rng, n=4, widths=(6, 5, 4)):
    """A network in which every layer takes the action and all layers before."""
    chain = Network.from_arrays(
        [rng.normal(size=(b, a)) for a, b in zip((n, *widths), (*widths, 1), strict=True)],
        [rng.normal(size=b) for b in (*widths, 1)],
    )
    relaxation = Relaxation(chain, n)
    for d, layer in enumerate(chain.layers):
        sources = [ACTION, *range(d)]
        relaxation.inputs[d] = [
            (k, rng.normal(size=(len(layer.bias), n if k == ACTION else widths[k])))
            for k in sources
        ]
    return relaxation.folded(np.zeros((1, 0)))


def evaluate(relaxation, x):
    z, h = [], {ACTION: x}
    for d in range(len(relaxation.inputs)):
        total = relaxation.bias(d, np.zeros(1, dtype=int))
        total = total + sum(h[k] @ w.T for k, w in relaxation.inputs[d])
        z.append(total)
        h[d] = np.maximum(total, 0.0)
    return z


@pytest.mark.parametrize("seed", range(5))
def test_the_affine_function_is_nowhere_below_a_network_with_skips(seed):
    rng = np.random.default_rng(seed)
    relaxation = skipping(rng)
    x = rng.uniform(-1, 1, size=(4000, 4))
    z = evaluate(relaxation, x)
    hidden = np.concatenate(z[:-1], axis=1)
    low, high = hidden.min(axis=0)[None] - 0.1, hidden.max(axis=0)[None] + 0.1
    lines = Lines.over(low, high).with_slopes(rng.random(low.shape))
    a, constant, p = relaxation.backward(relaxation.rows(3), np.zeros(1, dtype=int), lines)
    above = x @ a[0, 0] + constant[0, 0] + relaxation.bias(3, np.zeros(1, dtype=int))
    assert p.shape == (1, 1, 15)
    assert (above >= z[-1][:, 0] - 1e-9).all()
    assert (above - z[-1][:, 0]).min() < np.ptp(z[-1])  # and says something


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
    bounds = BoundPropagator(network, n, box_maximum(np.zeros(n), np.ones(n))).at(np.zeros((1, 0)))
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
