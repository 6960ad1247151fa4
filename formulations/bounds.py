r"""Bounds on every neuron's pre-activation over a feasible set, at three strengths.

``interval``
    Interval arithmetic over the box of the inputs.
``linear``
    Backward linear relaxation (CROWN: Zhang et al. 2018, arXiv 1811.00866, section 3), made
    aware of the action constraints: each unstable ReLU is replaced by its two lines

    .. math:: \alpha z \le \mathrm{ReLU}(z) \le \tfrac{u}{u-l}(z-l), \quad \alpha \in \{0, 1\},

    these are substituted backward to the inputs, and the resulting linear function of the action
    is maximised over the feasible set by its oracle ``linear_max``, not over the unit box.
``lp``
    Optimization-based: each unstable neuron is maximised and minimised by linear programming over
    the relaxation of the set and of all earlier neurons.

Each strength is intersected with the one before, so a stronger one is never looser. Bounds are
widened by a relative 1e-9, which covers the rounding of float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.compact import compact_model
from milp_rl.formulations.linear_model import LinearModel
from milp_rl.formulations.linear_oracle import LinearOracle
from milp_rl.formulations.names import Strength
from milp_rl.formulations.network import FloatArray, Layer, Network

LinearMax = Callable[[FloatArray], FloatArray]
"""Bound ``max C @ x`` over a set from above: (batch, n) -> (batch,)."""

_MARGIN = 1e-9


class InfeasibleSetError(ValueError):
    """A set of actions found to be empty."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Pre-activation bounds of every hidden neuron, and bounds of the outputs.

    Parameters
    ----------
    lower, upper
        One array a hidden layer, shape (states, width).
    output_lower, output_upper
        Shape (states, n_outputs).
    """

    lower: tuple[FloatArray, ...]
    upper: tuple[FloatArray, ...]
    output_lower: FloatArray
    output_upper: FloatArray

    @property
    def unstable(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """Number of neurons proven neither on nor off, shape (states,)."""
        counts = np.zeros(len(self.output_lower), dtype=np.int64)
        for low, high in zip(self.lower, self.upper, strict=True):
            counts += ((low < 0) & (high > 0)).sum(axis=1)
        return counts

    def at(self, state: int) -> Bounds:
        """Return the bounds of one state, still with a leading axis of length 1."""
        pick = slice(state, state + 1)
        return Bounds(
            tuple(a[pick] for a in self.lower),
            tuple(a[pick] for a in self.upper),
            self.output_lower[pick],
            self.output_upper[pick],
        )


class BoundPropagator:
    """Bounds of one network over one set of actions, for many states.

    What does not depend on the state (the range of every first-layer row over the set) is
    computed once.

    Parameters
    ----------
    network
        Its inputs are [action, state].
    n_actions
        Number of leading inputs that are actions.
    linear_max
        Oracle of the set over the actions, e.g. ``space.linear_max`` or :func:`box_maximum`.
    strength
        ``"interval"``, ``"linear"`` or ``"lp"``.
    model
        The compiled set (first ``n_actions`` columns the actions); needed for ``"lp"``.
    """

    def __init__(
        self,
        network: Network,
        n_actions: int,
        linear_max: LinearMax,
        *,
        strength: Strength = "linear",
        model: LinearModel | None = None,
    ) -> None:
        check_strength(strength)
        if strength == "lp" and model is None:
            raise ValueError("bounds 'lp' need the compiled set")
        if not 1 <= n_actions <= network.n_inputs:
            raise ValueError(
                f"the set has {n_actions} actions but the network takes {network.n_inputs} inputs"
            )
        self.n_actions = n_actions
        self.strength = strength
        self._linear_max = linear_max
        self._model = model
        unit = np.eye(n_actions)
        box = self._reach(np.concatenate([unit, -unit]))
        self._box_upper, self._box_lower = box[:n_actions], -box[n_actions:]
        self.update(network)

    def update(self, network: Network) -> None:
        """Replace the network by one of the same number of inputs."""
        self.network = network
        first = network.layers[0]
        weight = first.weight[:, : self.n_actions]
        self._state_weight = first.weight[:, self.n_actions :]
        low, high = interval(weight, self._box_lower[None], self._box_upper[None])
        self._first_lower, self._first_upper = low[0], high[0]
        if self.strength != "interval":
            support = self._reach(np.concatenate([weight, -weight]))
            self._first_upper = np.minimum(self._first_upper, support[: len(weight)])
            self._first_lower = np.maximum(self._first_lower, -support[len(weight) :])

    def at(self, states: ArrayLike) -> Bounds:
        """Compute the bounds for a batch of states, shape (states, state_dim).

        Raises
        ------
        InfeasibleSetError
            If the set is found to be empty.
        """
        s = np.asarray(states, dtype=np.float64)
        if s.ndim != 2 or s.shape[1] != self._state_weight.shape[1]:
            raise ValueError(
                f"states must have shape (batch, {self._state_weight.shape[1]}), got {s.shape}"
            )
        bounds = self._propagate(s, None)
        return self._propagate(s, bounds) if self.strength == "lp" else bounds

    def _propagate(self, s: FloatArray, known: Bounds | None) -> Bounds:
        """Bound layer after layer; ``known`` bounds are tightened by linear programming."""
        layers = self.network.layers
        first_bias = layers[0].bias + s @ self._state_weight.T
        lowers: list[FloatArray] = []
        uppers: list[FloatArray] = []
        for depth, layer in enumerate(layers):
            if depth == 0:
                low, high = self._first_lower + first_bias, self._first_upper + first_bias
            else:
                low, high = interval(
                    layer.weight, np.maximum(lowers[-1], 0), np.maximum(uppers[-1], 0)
                )
                low, high = low + layer.bias, high + layer.bias
                if self.strength != "interval":
                    rows = np.concatenate([layer.weight, -layer.weight])
                    reach = self._backward(rows, first_bias, lowers, uppers)
                    width = len(layer.weight)
                    high = np.minimum(high, reach[:, :width] + layer.bias)
                    low = np.maximum(low, -reach[:, width:] + layer.bias)
            low, high = low - _MARGIN * (1 + np.abs(low)), high + _MARGIN * (1 + np.abs(high))
            if known is not None:
                low = np.maximum(low, (*known.lower, known.output_lower)[depth])
                high = np.minimum(high, (*known.upper, known.output_upper)[depth])
                if depth > 0:
                    self._tighten_by_lp(depth, s, lowers, uppers, low, high)
            lowers.append(low)
            uppers.append(high)
        return Bounds(tuple(lowers[:-1]), tuple(uppers[:-1]), lowers[-1], uppers[-1])

    def _backward(
        self,
        rows: FloatArray,
        first_bias: FloatArray,
        lowers: list[FloatArray],
        uppers: list[FloatArray],
    ) -> FloatArray:
        """Bound ``rows @ (last hidden layer's activations)`` from above, (states, rows)."""
        a, constant = substituted(self.network, rows, first_bias, lowers, uppers, self.n_actions)
        best = self._reach(a.reshape(-1, self.n_actions))
        return np.asarray(constant + best.reshape(constant.shape))

    def _reach(self, coefficients: FloatArray) -> FloatArray:
        return _nonempty(self._linear_max(coefficients))

    def _tighten_by_lp(
        self,
        depth: int,
        states: FloatArray,
        lowers: list[FloatArray],
        uppers: list[FloatArray],
        low: FloatArray,
        high: FloatArray,
    ) -> None:
        """Tighten ``low`` and ``high`` in place by linear programming, state by state."""
        assert self._model is not None
        layer = self.network.layers[depth]
        truncated = Network(
            (*self.network.layers[:depth], Layer(layer.weight, layer.bias, "linear"))
        )
        is_output = depth == len(self.network.layers) - 1
        for i, state in enumerate(states):
            wanted = np.flatnonzero((low[i] < 0) & (high[i] > 0))
            if is_output:
                wanted = np.arange(len(low[i]))
            if not len(wanted):
                continue
            known = Bounds(
                tuple(a[i : i + 1] for a in lowers),
                tuple(a[i : i + 1] for a in uppers),
                low[i : i + 1],
                high[i : i + 1],
            )
            compact = compact_model(
                truncated.at_state(state), known.lower, known.upper, self._model
            )
            rows, constant = compact.output_weight[wanted], compact.output_bias[wanted]
            oracle = LinearOracle(compact.model, compact.model.n_columns)
            best = _nonempty(oracle.maxima(np.concatenate([rows, -rows])))
            half = len(wanted)
            high[i, wanted] = np.minimum(high[i, wanted], constant + best[:half])
            low[i, wanted] = np.maximum(low[i, wanted], constant - best[half:])


def check_strength(strength: str) -> None:
    """Raise ``ValueError`` if there are no such bounds."""
    if strength not in ("interval", "linear", "lp"):
        raise ValueError(f"bounds must be 'interval', 'linear' or 'lp', got {strength!r}")


def relaxation(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return upper slope, upper intercept and lower slope of each ReLU over [low, high]."""
    unstable = (low < 0) & (high > 0)
    on = low >= 0
    width = np.where(unstable, high - low, 1.0)
    upper_slope = np.where(unstable, high / width, on)
    intercept = np.where(unstable, -upper_slope * low, 0.0)
    lower_slope = np.where(unstable, high > -low, on).astype(np.float64)
    return upper_slope, intercept, lower_slope


def substituted(
    network: Network,
    rows: FloatArray,
    first_bias: FloatArray,
    lowers: Sequence[FloatArray],
    uppers: Sequence[FloatArray],
    n_actions: int,
) -> tuple[FloatArray, FloatArray]:
    """Bound functions of a hidden layer's activations by affine functions of the action.

    Parameters
    ----------
    network
        Its inputs are [action, state].
    rows
        Functions of the activations, shape (rows, width).
    first_bias
        The first layer's bias with the state folded in, shape (states, width).
    lowers, uppers
        Pre-activation bounds of the layers up to that one, each (states, width).
    n_actions
        Number of leading inputs that are actions.

    Returns
    -------
    tuple of numpy.ndarray
        Coefficients, shape (states, rows, n_actions), and constants, shape (states, rows), of upper
        bounds.
    """
    a = np.broadcast_to(rows, (len(first_bias), *rows.shape))
    constant = np.zeros(a.shape[:2])
    for depth in range(len(lowers) - 1, -1, -1):
        upper_slope, intercept, lower_slope = relaxation(lowers[depth], uppers[depth])
        positive, negative = np.maximum(a, 0.0), np.minimum(a, 0.0)
        constant += np.einsum("srj,sj->sr", positive, intercept)
        a = positive * upper_slope[:, None, :] + negative * lower_slope[:, None, :]
        if depth == 0:
            constant += np.einsum("srj,sj->sr", a, first_bias)
            a = a @ network.layers[0].weight[:, :n_actions]
        else:
            constant += a @ network.layers[depth].bias
            a = a @ network.layers[depth].weight
    return a, constant


def box_maximum(lower: FloatArray, upper: FloatArray) -> LinearMax:
    """Return the oracle of the box ``lower <= x <= upper``."""

    def linear_max(c: FloatArray) -> FloatArray:
        return np.asarray(np.maximum(c, 0.0) @ upper + np.minimum(c, 0.0) @ lower)

    return linear_max


def _nonempty(maxima: FloatArray) -> FloatArray:
    if np.isneginf(maxima).any():
        raise InfeasibleSetError("the set has no feasible action")
    return maxima


def interval(
    weight: FloatArray, low: FloatArray, high: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the range of ``x @ weight.T`` over the boxes [low, high], shape (states, rows)."""
    positive, negative = np.maximum(weight, 0.0).T, np.minimum(weight, 0.0).T
    return low @ positive + high @ negative, high @ positive + low @ negative
