import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from milp_rl.formulations.networks.piecewise import relu_pieces, sigmoid_chord_error, sigmoid_points


@given(
    low=st.floats(-40, 40),
    width=st.floats(1e-3, 80),
    error=st.sampled_from([1e-2, 1e-3, 1e-5]),
)
def test_chords_of_the_sigmoid_stay_within_the_error(low, width, error):
    points = sigmoid_points(low, low + width, error)
    assert points[0] == low
    assert points[-1] == low + width
    assert (np.diff(points) > 0).all()
    z = np.linspace(low, low + width, 5001)
    largest = np.abs(np.interp(z, points, expit(points)) - expit(z)).max()
    stated = sigmoid_chord_error(points)
    assert largest <= stated + 1e-12
    assert stated <= error


def test_stated_error_is_attained():
    points = np.array([-6.0, -2.0, 0.0, 1.0, 5.0])
    z = np.linspace(-6, 5, 1_000_001)
    largest = np.abs(np.interp(z, points, expit(points)) - expit(z)).max()
    assert sigmoid_chord_error(points) == pytest.approx(largest, rel=1e-6)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.integers(0, 1000))
def test_relu_pieces_interpolate(values, seed):
    rng = np.random.default_rng(seed)
    points = np.cumsum(rng.uniform(0.1, 2, size=len(values)))
    weights = relu_pieces(points, values)
    z = np.linspace(points[0], points[-1], 101)
    network = values[0] + np.maximum(z[:, None] - points[:-1], 0) @ weights
    np.testing.assert_allclose(network, np.interp(z, points, values), atol=1e-9)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="low < high"):
        sigmoid_points(1, 1, 0.1)
    with pytest.raises(ValueError, match="low < high"):
        sigmoid_points(0, np.inf, 0.1)
    with pytest.raises(ValueError, match="at least"):
        sigmoid_points(0, 1, 0)
    with pytest.raises(ValueError, match="inflection"):
        sigmoid_chord_error([-1, 1])
