r"""Piecewise-linear functions as ReLU networks, and breakpoints for the sigmoid.

A continuous piecewise-linear function on :math:`[x_0, x_m]` with slopes :math:`k_1, ..., k_m` is

.. math:: f(z) = y_0 + k_1 (z - x_0)^+ + \sum_{i=1}^{m-1} (k_{i+1} - k_i) (z - x_i)^+,

so that every formulation, bound and solver for ReLU networks serves for it too: on a binary input
this is the incremental formulation, with big-M constants from constraint-aware bounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from milp_rl.formulations.arrays import FloatArray

_SMALLEST_ERROR = 1e-9  # far above the rounding of a chord


def relu_pieces(points: ArrayLike, values: ArrayLike) -> FloatArray:
    r"""Return the weight of ``relu(z - x)`` for each of the points but the last.

    .. math:: w_1 = k_1, \qquad w_i = k_i - k_{i-1}, \qquad k_i = (y_i - y_{i-1}) / (x_i - x_{i-1})

    Parameters
    ----------
    points
        Breakpoints x, increasing, shape (m + 1,), m at least 1.
    values
        Values there, shape (m + 1,).

    Returns
    -------
    numpy.ndarray
        Shape (m,): ``values[0] + weights @ relu(z - points[:-1])`` is the interpolation on
        ``[points[0], points[-1]]``.

    Examples
    --------
    The tent of height 1 over [0, 2]:

    >>> from milp_rl.formulations.networks.piecewise import relu_pieces
    >>> relu_pieces([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])
    array([ 1., -2.])
    """
    slopes = np.diff(values) / np.diff(points)
    return np.diff(slopes, prepend=0.0)


def sigmoid_points(low: float, high: float, error: float) -> FloatArray:
    """Choose breakpoints between which the chords of the sigmoid are off by at most ``error``.

    Parameters
    ----------
    low, high
        Ends of the interval, finite, ``low < high``.
    error
        Largest difference allowed, at least 1e-9.

    Returns
    -------
    numpy.ndarray
        Increasing, from ``low`` to ``high``, with the inflection point 0 if it is inside.

    Raises
    ------
    ValueError
        If the interval is empty or not finite, or the error is too small.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"need finite ends low < high, got {low} and {high}")
    if not error >= _SMALLEST_ERROR:
        raise ValueError(f"error must be at least {_SMALLEST_ERROR:g}, got {error}")
    ends = [low, *([0.0] if low < 0 < high else []), high]
    points = [low]
    for end in ends[1:]:
        while points[-1] < end:
            points.append(_longest_chord(points[-1], end, error))
    return np.array(points)


def sigmoid_chord_error(points: ArrayLike) -> float:
    r"""Return the largest difference between the sigmoid and its interpolation, exactly.

    On a piece without the inflection point inside, the sigmoid is convex or concave and is
    farthest from its chord where its slope :math:`\sigma (1 - \sigma)` is that of the chord.

    Parameters
    ----------
    points
        Breakpoints, increasing; 0 is among them if it is between the first and the last.

    Raises
    ------
    ValueError
        If a piece has the inflection point inside.
    """
    x = np.asarray(points, dtype=np.float64)
    left, right = x[:-1], x[1:]
    if ((left < 0) & (right > 0)).any():
        raise ValueError("0, the inflection point of the sigmoid, must be a breakpoint")
    slope = (expit(right) - expit(left)) / (right - left)
    larger = (1.0 + np.sqrt(np.maximum(1.0 - 4.0 * slope, 0.0))) / 2.0
    farthest = np.clip(np.where(right > 0, 1.0, -1.0) * logit(larger), left, right)
    chord = expit(left) + slope * (farthest - left)
    return float(np.abs(expit(farthest) - chord).max())


def _longest_chord(start: float, end: float, error: float) -> float:
    """Find by bisection how far a chord from ``start`` may go."""
    if sigmoid_chord_error([start, end]) <= error:
        return end
    good, bad = start, end
    while bad - good > 1e-3 * (bad - start):
        middle = (good + bad) / 2.0
        if sigmoid_chord_error([start, middle]) <= error:
            good = middle
        else:
            bad = middle
    return good
