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
widened by what float64 may lose in them (:mod:`milp_rl.formulations.relaxation`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.kernels.description import CompiledOracle
from milp_rl.formulations.milp.compact import compact_model
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.names import Strength
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.networks.network import INPUT
from milp_rl.formulations.relaxation import Lines, Relaxation
from milp_rl.formulations.spaces.oracles.lp import LinearOracle
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import is_late

LinearMax = Callable[..., FloatArray]
"""Bound ``max C @ x`` over a set from above: (batch, n) -> (batch,); given pins, under them."""

_RANGES_TOGETHER = 64
_MOST_RANGES = 1000  # variables whose own ranges are asked from the oracle, if they are known
_ENTRIES = 4_000_000  # of the coefficients that are made at a time
_WIDEST = 128  # neurons of a layer; the products of wider ones are faster in numpy than in loops


class InfeasibleSetError(ValueError):
    """A set of actions found to be empty."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Pre-activation bounds of every hidden neuron, and bounds of the outputs.

    Parameters
    ----------
    lower, upper
        One array per hidden layer, shape (states, width).
    output_lower, output_upper
        Shape (states, n_outputs).
    rounding
        What float64 may lose of a bound of the outputs, and was added to them, shape (states,).
    """

    lower: tuple[FloatArray, ...]
    upper: tuple[FloatArray, ...]
    output_lower: FloatArray
    output_upper: FloatArray
    rounding: FloatArray

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
            self.rounding[pick],
        )


@dataclass(frozen=True, eq=False)
class _Shared:
    """What is known of networks that share their first weight: that, and its rows' ranges."""

    first: FloatArray
    relaxation: Relaxation
    ranges: list[FloatArray]


class BoundPropagator:
    r"""Bounds of networks over one set of actions, for many states.

    For a row :math:`w` of the first layer with bias :math:`b`, over the feasible set :math:`A`,

    .. math:: -\max_{a \in A} (-w a) + b \;\le\; w a + b \;\le\; \max_{a \in A} w a + b,

    and for a later layer the same of the affine functions of the action below and above its
    pre-activations (the module's docstring has them). The maxima of the first layer do not depend
    on the state where its weights do not, and are then computed once.

    Parameters
    ----------
    n_actions
        Number of action variables.
    linear_max
        Oracle of the set over the actions, e.g. ``space.linear_max`` or :func:`box_maximum`.
    box
        Lower and upper bounds of the action variables, shape (n_actions,) each. Without them, or
        of up to 1,000 variables, the oracle is asked for the range of each: that is tighter, but
        takes two of its maxima per variable.
    strength
        ``"interval"``, ``"linear"`` or ``"lp"``.
    model
        The compiled set (first ``n_actions`` columns the actions); needed for ``"lp"``.

    Raises
    ------
    ValueError
        If there is no such strength, ``"lp"`` has no model, or the network has fewer inputs than
        the set has actions.
    InfeasibleSetError
        If the set is found to be empty.

    Examples
    --------
    A neuron that is on for two of three actions is off wherever at most one may be taken:

    >>> import numpy as np
    >>> import milp_rl as mr
    >>> from milp_rl.formulations.bounds import BoundPropagator, box_maximum
    >>> from milp_rl.formulations.networks.action_value import ActionNetworks
    >>> network = mr.Network.from_arrays([[[1.0, 1.0, 1.0]], [[1.0]]], [[-1.5], [0.0]])
    >>> networks = ActionNetworks.of(network)
    >>> box = BoundPropagator(3, box_maximum(np.zeros(3), np.ones(3))).at(networks)
    >>> box.upper[0].round(6), box.unstable
    (array([[1.5]]), array([1]))
    >>> budget = BoundPropagator(3, mr.BudgetTopK(3, 1).linear_max).at(networks)
    >>> budget.upper[0].round(6), budget.unstable
    (array([[-0.5]]), array([0]))
    """

    def __init__(
        self,
        n_actions: int,
        linear_max: LinearMax,
        *,
        box: tuple[FloatArray, FloatArray] | None = None,
        strength: Strength = "linear",
        model: LinearModel | None = None,
    ) -> None:
        check_strength(strength)
        if strength == "lp" and model is None:
            raise ValueError("bounds 'lp' need the compiled set")
        self.n_actions = n_actions
        self.strength = strength
        self._linear_max = linear_max
        self._model = model
        if box is None or n_actions <= _MOST_RANGES:
            box = self._ranges(box)
        self._box_lower, self._box_upper = box
        self._largest = np.maximum(np.abs(self._box_lower), np.abs(self._box_upper))
        self._shared: _Shared | None = None

    def at(
        self,
        networks: ActionNetworks,
        pins: Pins | None = None,
        loops: CompiledOracle | None = None,
    ) -> Bounds:
        """Compute the bounds for a batch of states.

        Parameters
        ----------
        networks
            Of the states.
        pins
            Binary actions held at one or zero, in each state; the ranges of the first layer are
            then those over the whole set, within what an interval has under the pins.
        loops
            The oracle for compiled loops, which then make bounds of strength ``"linear"``.

        Raises
        ------
        ValueError
            If the networks take another number of actions.
        InfeasibleSetError
            If the set is found to be empty, for one of the states at least.
        """
        if networks.n_actions != self.n_actions:
            raise ValueError(
                f"the set has {self.n_actions} actions but the networks take {networks.n_actions}"
            )
        size = max(_ENTRIES // (2 * networks.widest * self.n_actions), 1)
        count = networks.n_states
        held = (pins or Pins()).checked((count, self.n_actions))
        if count <= size:
            return self._at(networks, held, loops)
        rows = [slice(i, i + size) for i in range(0, count, size)]
        return _joined([self._at(networks.rows(own), held[own], loops) for own in rows])

    def _at(self, networks: ActionNetworks, pins: Pins, loops: CompiledOracle | None) -> Bounds:
        if loops is not None and self.strength == "linear":
            return self._propagate_in_loops(networks, pins, loops)
        bounds = self._propagate(networks, pins, None)
        return self._propagate(networks, pins, bounds) if self.strength == "lp" else bounds

    def _ranges(self, box: tuple[FloatArray, FloatArray] | None) -> tuple[FloatArray, FloatArray]:
        """Ask the oracle for the range of each variable, some variables at a time.

        Once the time limit has passed, the others keep those of the box, if there is one.
        """
        n = self.n_actions
        size = min(max(_ENTRIES // (2 * n), 1), _RANGES_TOGETHER)
        low, high = np.empty(n), np.empty(n)
        for i in range(0, n, size):
            if box is not None and is_late():
                low[i:], high[i:] = box[0][i:], box[1][i:]
                break
            own = np.arange(i, min(i + size, n))
            unit = np.zeros((len(own), n))
            unit[np.arange(len(own)), own] = 1.0
            reach = self._reach(np.concatenate([unit, -unit]))
            low[own], high[own] = -reach[len(own) :], reach[: len(own)]
        return low, high

    def _relaxation(self, networks: ActionNetworks) -> tuple[Relaxation, list[FloatArray]]:
        """Return the relaxation, and the ranges of the rows that states share, if it is known."""
        known = self._shared
        first = networks.layers[0].inputs
        if known is not None and first and known.first is first[0][1]:
            self._shared = replace(known, relaxation=known.relaxation.with_values_of(networks))
            return self._shared.relaxation, known.ranges
        relaxation = Relaxation(networks)
        weight = first[0][1] if first else np.zeros((networks.layers[0].width, self.n_actions))
        ranges = list(interval(weight, self._box_lower, self._box_upper))
        late = is_late()
        if self.strength != "interval" and not late:
            flat = weight.reshape(-1, self.n_actions)
            support = self._reach(np.concatenate([flat, -flat]))
            most, least = support[: len(flat)], -support[len(flat) :]
            shape = ranges[0].shape
            ranges = [
                np.maximum(ranges[0], least.reshape(shape)),
                np.minimum(ranges[1], most.reshape(shape)),
            ]
        if weight.ndim == 2 and not late:
            self._shared = _Shared(weight, relaxation, ranges)
        return relaxation, ranges

    def _box(self, pins: Pins) -> tuple[FloatArray, FloatArray]:
        """Return the box of the variables under pins, shapes (states or 1, n_actions)."""
        low, high = self._box_lower[None], self._box_upper[None]
        if pins.zero is not None:
            low, high = (np.where(pins.zero, 0.0, side) for side in (low, high))
        if pins.one is not None:
            low = np.where(pins.one, 1.0, low)
            if (high < low - 0.5).any():
                raise InfeasibleSetError("the set has no action with what is held at one")
            high = np.maximum(low, high)
        return low, high

    def _propagate(self, networks: ActionNetworks, pins: Pins, known: Bounds | None) -> Bounds:
        """Bound layer after layer; ``known`` bounds are tightened by linear programming."""
        relaxation, ranges = self._relaxation(networks)
        count = networks.n_states
        box = self._box(pins)
        if not pins.empty:
            weight = relaxation.inputs[0][0][1] if relaxation.inputs[0] else None
            within = ranges if weight is None else interval(weight, *box)
            ranges = [np.maximum(ranges[0], within[0]), np.minimum(ranges[1], within[1])]
        states = np.arange(count)
        lows, highs = (np.zeros((count, relaxation.neurons)) for _ in range(2))
        sizes = np.zeros((count, relaxation.neurons))
        errors = np.zeros((count, relaxation.neurons))
        parts = [*relaxation.layers, slice(relaxation.neurons, None)]
        for depth, part in enumerate(parts):
            before = slice(0, part.start)
            own = relaxation.sizes(self._largest, highs[:, before], depth)
            margin = relaxation.rounding(depth, own)
            if depth == 0:
                bias = relaxation.bias(depth, states)
                low, high = ranges[0] + bias - margin, ranges[1] + bias + margin
            else:
                low, high = interval_of_layer(relaxation, states, box, lows, highs, depth)
                low, high = low - margin, high + margin
            if depth and self.strength != "interval" and not is_late():
                lines = Lines.over(lows[:, before], highs[:, before])
                rows = relaxation.rows_of_both_signs(depth, states)
                a, constant, p = relaxation.backward(rows, states, lines)
                held = pins[np.repeat(states, a.shape[1])]
                reach = self._reach(a.reshape(-1, self.n_actions), held)
                reach = constant + reach.reshape(constant.shape)
                width = own.shape[1]
                weights = np.abs(p).reshape(count, 2, width, -1).max(axis=1)
                margin = relaxation.margins(depth, sizes[:, before], own, weights)
                bias = relaxation.bias(depth, states)
                high = np.minimum(high, reach[:, :width] + bias + margin)
                low = np.maximum(low, -reach[:, width:] + bias - margin)
            if known is not None:
                low = np.maximum(low, (*known.lower, known.output_lower)[depth])
                high = np.minimum(high, (*known.upper, known.output_upper)[depth])
                error = relaxation.forward_error(depth, own, errors)
                if depth > 0:
                    self._tighten_by_lp(networks, pins, depth, lows, highs, low, high, error)
                if depth < len(relaxation.layers):
                    errors[:, part] = error
            if depth < len(relaxation.layers):
                lows[:, part], highs[:, part], sizes[:, part] = low, high, own
        lowers = tuple(lows[:, part] for part in relaxation.layers)
        uppers = tuple(highs[:, part] for part in relaxation.layers)
        return Bounds(lowers, uppers, low, high, margin.max(axis=1))

    def _propagate_in_loops(
        self, networks: ActionNetworks, pins: Pins, oracle: CompiledOracle
    ) -> Bounds:
        """Bound layer after layer in compiled loops, the same as :meth:`_propagate`."""
        from milp_rl.formulations.kernels.relaxation import neuron_bounds

        relaxation, ranges = self._relaxation(networks)
        count, n = networks.n_states, self.n_actions
        low, high, sizes = (np.zeros((count, relaxation.neurons)) for _ in range(3))
        found = np.zeros((count, 3))
        nonempty = neuron_bounds(
            networks.flat,
            oracle,
            *pins.masks((count, n)),
            not pins.empty,
            np.atleast_2d(ranges[0]),
            np.atleast_2d(ranges[1]),
            self._box_lower,
            self._box_upper,
            low,
            high,
            sizes,
            found,
        )
        if not nonempty:
            raise InfeasibleSetError("the set has no feasible action")
        lowers = tuple(low[:, part] for part in relaxation.layers)
        uppers = tuple(high[:, part] for part in relaxation.layers)
        return Bounds(lowers, uppers, found[:, :1], found[:, 1:2], found[:, 2])

    def _reach(self, coefficients: FloatArray, pins: Pins | None = None) -> FloatArray:
        if pins is None or pins.empty:
            return _nonempty(self._linear_max(coefficients))
        return _nonempty(self._linear_max(coefficients, pins))

    def _tighten_by_lp(
        self,
        networks: ActionNetworks,
        pins: Pins,
        depth: int,
        lows: FloatArray,
        highs: FloatArray,
        low: FloatArray,
        high: FloatArray,
        error: FloatArray,
    ) -> None:
        """Tighten ``low`` and ``high`` in place by linear programming, state by state.

        The maxima are those of a network without rounding, whose coefficients were rounded when
        its rows were put together: ``error``, which is that of a forward pass, covers each.
        """
        assert self._model is not None
        layers = networks.layers[: depth + 1]
        truncated = ActionNetworks(layers, networks.n_actions, networks.n_states)
        is_output = depth == len(networks.hidden)
        for i in range(networks.n_states):
            wanted = np.flatnonzero((low[i] < 0) & (high[i] > 0))
            if is_output:
                wanted = np.arange(len(low[i]))
            if not len(wanted):
                continue
            network = truncated.at(i)
            ends = np.cumsum([0, *(len(layer.bias) for layer in network.hidden)]).tolist()
            parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
            compact = compact_model(
                network,
                [lows[i, part] for part in parts],
                [highs[i, part] for part in parts],
                self._model.held(pins[i].one, pins[i].zero),
            )
            rows, constant = compact.output_weight[wanted], compact.output_bias[wanted]
            oracle = LinearOracle(compact.model, compact.model.n_columns)
            best = _nonempty(oracle.maxima(np.concatenate([rows, -rows])))
            half = len(wanted)
            margin = 2.0 * error[i, wanted]
            high[i, wanted] = np.minimum(high[i, wanted], constant + best[:half] + margin)
            low[i, wanted] = np.maximum(low[i, wanted], constant - best[half:] - margin)


def suits_loops(networks: ActionNetworks) -> bool:
    """Whether compiled loops are made for such networks: narrow ones of one output."""
    return bool(networks.hidden) and networks.widest <= _WIDEST and networks.layers[-1].width == 1


def check_strength(strength: str) -> None:
    """Raise ``ValueError`` if there are no such bounds."""
    if strength not in ("interval", "linear", "lp"):
        raise ValueError(f"bounds must be 'interval', 'linear' or 'lp', got {strength!r}")


def box_maximum(lower: FloatArray, upper: FloatArray) -> LinearMax:
    """Return the oracle of the box ``lower <= x <= upper``."""

    def linear_max(c: FloatArray) -> FloatArray:
        return np.asarray(np.maximum(c, 0.0) @ upper + np.minimum(c, 0.0) @ lower)

    return linear_max


def _joined(parts: list[Bounds]) -> Bounds:
    """Put the bounds of several batches of states one after the other."""
    return Bounds(
        tuple(np.concatenate(own) for own in zip(*(part.lower for part in parts), strict=True)),
        tuple(np.concatenate(own) for own in zip(*(part.upper for part in parts), strict=True)),
        np.concatenate([part.output_lower for part in parts]),
        np.concatenate([part.output_upper for part in parts]),
        np.concatenate([part.rounding for part in parts]),
    )


def _nonempty(maxima: FloatArray) -> FloatArray:
    if np.isneginf(maxima).any():
        raise InfeasibleSetError("the set has no feasible action")
    return maxima


def interval(
    weight: FloatArray, low: FloatArray, high: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the range of ``weight @ x`` over boxes [low, high].

    Parameters
    ----------
    weight
        Shape (rows, n), or (boxes, rows, n).
    low, high
        Shape (n,), or (boxes, n) or (1, n).

    Returns
    -------
    tuple of numpy.ndarray
        Shape (rows,) or (boxes, rows).
    """
    positive, negative = np.maximum(weight, 0.0), np.minimum(weight, 0.0)
    if weight.ndim == 2:
        positive, negative = positive.T, negative.T
        return low @ positive + high @ negative, high @ positive + low @ negative
    least, most = low[..., None], high[..., None]
    return (
        np.asarray((positive @ least + negative @ most)[..., 0]),
        np.asarray((positive @ most + negative @ least)[..., 0]),
    )


def interval_of_layer(
    relaxation: Relaxation,
    states: IntArray,
    box: tuple[FloatArray, FloatArray],
    lows: FloatArray,
    highs: FloatArray,
    depth: int,
) -> tuple[FloatArray, FloatArray]:
    """Return the range of a layer by intervals alone.

    Parameters
    ----------
    relaxation, states
        Of which networks.
    box
        Ranges of the action variables, shapes (n_actions,), or (states or 1, n_actions).
    lows, highs
        Bounds of the pre-activations of the layers before, (states, neurons).
    depth
        The layer.
    """
    low = high = relaxation.bias(depth, states)
    for source, weight in relaxation.inputs[depth]:
        if source == INPUT:
            least, most = box
        else:
            part = relaxation.layers[source]
            least, most = np.maximum(lows[:, part], 0), np.maximum(highs[:, part], 0)
        below, above = interval(weight, least, most)
        low, high = low + below, high + above
    return low, high
