r"""The backward linear relaxation of a ReLU network, with its slopes, multipliers and rounding.

Every ReLU :math:`h = \max(0, z)` with :math:`l \le z \le u` lies between two lines,

.. math:: \alpha z \le h \le s z + t, \qquad 0 \le \alpha \le 1, \quad
          s = \tfrac{u}{u-l},\; t = -s l,

(:class:`Lines`). Substituted backward from the output, or from the pre-activations of any layer,
to the inputs, they give one affine function of the action that is nowhere below the network's
(CROWN: Zhang et al. 2018, arXiv 1811.00866, section 3). A neuron that is split on or off has
:math:`z` or 0 for its upper line, and its constraint :math:`z \ge 0` or :math:`z \le 0` is priced
by a multiplier :math:`\beta` (Wang et al. 2021, arXiv 2103.06624, section 3). What is left is to
maximise a linear function over the feasible set, which its oracle does.

The bound holds for every choice of slopes :math:`\alpha` and multipliers; :func:`polyak_steps`
moves them against its subgradient, which costs one forward pass (:meth:`Relaxation.forward`): at
the maximiser of the affine function the bound changes by :math:`z_j` per unit of :math:`\beta_j`,
and by :math:`p_j z_j` per unit of :math:`\alpha_j` where :math:`p_j < 0` is the coefficient of the
neuron's output.

Float64 rounds. Replacing the coefficients :math:`r` of a layer's pre-activations by :math:`r W`
loses at most :math:`\gamma\, |r|\, |W|\, \hat h` of a bound on the network, where :math:`\hat h`
are the largest outputs of the layer before and :math:`\gamma` grows with the terms of its sums;
:meth:`Relaxation.margins` adds these up (Higham, "Accuracy and Stability of Numerical Algorithms",
section 3.1), so that a margin is in proportion to what was actually summed, whatever the scale of
the network.

A layer may take input from the action and from any earlier layer: ``inputs[d]`` lists (source,
weight) pairs, where source ``INPUT`` is the action and ``k`` the outputs of hidden layer ``k``.
Weights of shape (states, outputs, width) differ from state to state.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.networks.action_value import ActionNetworks, times_transposed
from milp_rl.formulations.networks.network import INPUT

_UNIT_ROUNDOFF = float(np.finfo(np.float64).eps)
AT_LIMIT = 1e-9  # from the end of its range, within which a slope is at it


@dataclass(frozen=True, eq=False)
class Lines:
    """The lines above and below each neuron's ReLU, shape (groups, neurons).

    Parameters
    ----------
    upper, intercept
        Slope and intercept of the line above.
    lower
        Slope of the line below, through the origin.
    unstable
        Neurons whose pre-activation may have either sign.
    split
        1 where a neuron is held on, -1 where off, else 0.
    """

    upper: FloatArray
    intercept: FloatArray
    lower: FloatArray
    unstable: BoolArray
    split: NDArray[np.int8] | None = None

    @classmethod
    def over(
        cls, low: FloatArray, high: FloatArray, split: NDArray[np.int8] | None = None
    ) -> Lines:
        """Return the lines over [low, high], the lower slopes 0 or 1, whichever leaves less."""
        unstable, on = (low < 0) & (high > 0), low >= 0
        chord = unstable if split is None else unstable & (split == 0)
        upper = (on if split is None else np.where(unstable, split > 0, on)).astype(np.float64)
        np.divide(high, high - low, out=upper, where=chord)
        intercept = np.where(chord, -upper * low, 0.0)
        lower = np.where(unstable, high > -low, on).astype(np.float64)
        return cls(upper, intercept, lower, unstable, split)

    def at(self, rows: IntArray | BoolArray) -> Lines:
        """Return those of some groups."""
        split = None if self.split is None else self.split[rows]
        return Lines(
            self.upper[rows], self.intercept[rows], self.lower[rows], self.unstable[rows], split
        )

    def with_slopes(self, slopes: FloatArray) -> Lines:
        """Return the lines with other lower slopes where neurons are unstable."""
        lower = np.where(self.unstable, slopes, self.lower)
        return Lines(self.upper, self.intercept, lower, self.unstable, self.split)


class Relaxation:
    """The linear relaxation of the networks of a batch of states.

    Parameters
    ----------
    networks
        In the action alone.

    Examples
    --------
    Above ``relu(a + b - 1)`` with its pre-activation in [-1, 1] lies the line ``(a + b) / 2``:

    >>> import numpy as np
    >>> import milp_rl as mr
    >>> from milp_rl.formulations.networks.action_value import ActionNetworks
    >>> from milp_rl.formulations.relaxation import Lines, Relaxation
    >>> network = mr.Network.from_arrays([[[1.0, 1.0]], [[1.0]]], [[-1.0], [0.0]])
    >>> relaxation = Relaxation(ActionNetworks.of(network))
    >>> lines = Lines.over(np.array([[-1.0]]), np.array([[1.0]]))
    >>> state = np.array([0])
    >>> coefficients, constant, _ = relaxation.backward(relaxation.rows(1, state), state, lines)
    >>> coefficients, constant
    (array([[[0.5, 0.5]]]), array([[0.]]))
    """

    def __init__(self, networks: ActionNetworks) -> None:
        self.networks = networks
        self.inputs = [layer.inputs for layer in networks.layers]
        self._biases = [layer.bias for layer in networks.layers]
        ends = np.cumsum([0, *(layer.width for layer in networks.hidden)]).tolist()
        self.layers = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.neurons = ends[-1]
        self.n_actions = networks.n_actions
        self.gammas = layer_gammas(networks)
        widths = [layer.width for layer in networks.hidden]
        self.neuron_gammas = np.repeat(self.gammas[:-1], widths)  # of each neuron

    @cached_property
    def absolute(self) -> list[list[tuple[int, FloatArray]]]:
        """The absolute weights of each layer by source."""
        return [[(k, np.abs(w)) for k, w in own] for own in self.inputs]

    @cached_property
    def _both(self) -> list[list[tuple[int, FloatArray]]]:
        return [[(k, np.concatenate([w, -w], axis=-2)) for k, w in own] for own in self.inputs]

    def with_values_of(self, networks: ActionNetworks) -> Relaxation:
        """Return the relaxation of networks of other states, with what is shared kept."""
        other = Relaxation(networks)
        for name in ("absolute", "_both"):
            if name in self.__dict__ and self._shares(networks):
                other.__dict__[name] = self.__dict__[name]
        return other

    def _shares(self, networks: ActionNetworks) -> bool:
        """Whether the weights are the very ones of this relaxation."""
        pairs = zip(self.inputs, (layer.inputs for layer in networks.layers), strict=True)
        return all(
            len(own) == len(others)
            and all(w is v and w.ndim == 2 for (_, w), (_, v) in zip(own, others, strict=True))
            for own, others in pairs
        )

    def bias(self, depth: int, state: IntArray) -> FloatArray:
        """Return the biases of a layer, shape (width,) or (groups, width)."""
        bias = self._biases[depth]
        return bias if bias.ndim == 1 else bias[state]

    def rows(self, depth: int, state: IntArray) -> dict[int, FloatArray]:
        """Return all rows of a layer by source, (1 or groups, rows, width) each."""
        return {source: of_groups(weight, state) for source, weight in self.inputs[depth]}

    def rows_of_both_signs(self, depth: int, state: IntArray) -> dict[int, FloatArray]:
        """Return all rows of a layer and their negatives, (1 or groups, 2 * rows, width) each."""
        return {source: of_groups(both, state) for source, both in self._both[depth]}

    def row_of_both_signs(
        self, depth: int, neuron: IntArray, state: IntArray
    ) -> dict[int, FloatArray]:
        """Return one row of a layer and its negative for each group, (groups, 2, width) each."""
        found = {}
        for source, weight in self.inputs[depth]:
            row = weight[neuron] if weight.ndim == 2 else weight[state, neuron]
            found[source] = np.stack([row, -row], axis=1)
        return found

    def backward(
        self,
        rows: Mapping[int, FloatArray],
        state: IntArray,
        lines: Lines,
        beta: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Replace functions of hidden outputs by affine functions of the action above them.

        Parameters
        ----------
        rows
            Their coefficients by source, each (groups, rows, width), or (1, rows, width) where all
            groups ask for the same.
        state
            The state of each group.
        lines
            Those of each group, of the layers that ``rows`` speak of and all before.
        beta
            Multipliers of split neurons, shape (groups, neurons).

        Returns
        -------
        tuple of numpy.ndarray
            Coefficients (groups, rows, n_actions), constants (groups, rows), and the coefficients
            p of the neurons' outputs, (groups, rows, neurons of ``lines``).
        """
        left = dict(rows)
        shape = (len(state), next(iter(left.values())).shape[1])
        constant = np.zeros(shape)
        outputs = np.zeros((*shape, lines.upper.shape[1]))
        for d in range(max(left), -1, -1):
            if d not in left:
                continue
            own, part = left.pop(d), self.layers[d]
            outputs[..., part] = own
            positive, negative = np.maximum(own, 0.0), np.minimum(own, 0.0)
            constant += _products(positive, lines.intercept[:, part])
            own = positive * lines.upper[:, None, part]
            own += negative * lines.lower[:, None, part]
            if beta is not None:
                own += beta[:, None, part]
            bias = self.bias(d, state)
            constant += own @ bias if bias.ndim == 1 else _products(own, bias)
            for source, weight in self.inputs[d]:
                passed = _passed(own, weight, state)
                left[source] = left[source] + passed if source in left else passed
        found = left.get(INPUT, np.zeros((1, 1, 1)))  # nothing that the action reaches
        return np.broadcast_to(found, (*shape, self.n_actions)), constant, outputs

    def forward(
        self, x: FloatArray, state: IntArray, p: FloatArray, lines: Lines
    ) -> tuple[FloatArray, FloatArray]:
        """Return the pre-activations and outputs that the relaxed network gives actions.

        Parameters
        ----------
        x
            Shape (groups, n_actions).
        state, lines
            As for :meth:`backward`.
        p
            Coefficients of the neurons' outputs, (groups, neurons): where positive, a neuron's
            output is on its upper line.
        """
        z, h = np.zeros_like(p), np.zeros_like(p)
        for d, part in enumerate(self.layers):
            before = self.bias(d, state)
            for source, weight in self.inputs[d]:
                inputs = x if source == INPUT else h[:, self.layers[source]]
                before = before + times_transposed(inputs, weight, state)
            z[:, part] = before
            above = lines.upper[:, part] * before + lines.intercept[:, part]
            h[:, part] = np.where(p[:, part] > 0, above, lines.lower[:, part] * before)
        return z, h

    def values(self, x: FloatArray, state: IntArray) -> FloatArray:
        """Return the networks' own values of actions, shape (groups,), by a forward pass."""
        return self.networks.values(x, state)

    def sizes(self, reach: FloatArray, high: FloatArray, depth: int) -> FloatArray:
        """Bound the sum of the absolute terms of the pre-activations of a layer.

        Parameters
        ----------
        reach
            Largest absolute value of each action variable, shape (n_actions,).
        high
            Upper bounds of the pre-activations of the layers before, (states, neurons of these).
        depth
            The layer.

        Returns
        -------
        numpy.ndarray
            Shape (states, width).
        """
        count = self.networks.n_states
        states = np.arange(count)
        total = np.broadcast_to(np.abs(self._biases[depth]), (count, self._biases[depth].shape[-1]))
        for source, weight in self.absolute[depth]:
            largest = (
                reach[None] if source == INPUT else np.maximum(high[:, self.layers[source]], 0)
            )
            if weight.ndim == 3:
                largest = np.broadcast_to(largest, (count, largest.shape[1]))
            total = total + times_transposed(largest, weight, states)
        return np.asarray(total)

    def all_sizes(self, reach: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the sizes of all neurons, (states, neurons), and of the outputs.

        Parameters
        ----------
        reach
            As for :meth:`sizes`.
        high
            Upper bounds of the pre-activations, (states, neurons).
        """
        sizes = [self.sizes(reach, high, depth) for depth in range(len(self.layers) + 1)]
        none = np.zeros((self.networks.n_states, 0))
        return np.concatenate([none, *sizes[:-1]], axis=1), sizes[-1]

    def margins(
        self, depth: int, sizes: FloatArray, own: FloatArray, weights: FloatArray
    ) -> FloatArray:
        """Bound the rounding in bounds that :meth:`backward` and an oracle have given.

        Parameters
        ----------
        depth
            The layer that was bounded.
        sizes
            Of the neurons before it (:meth:`sizes`), by group, (groups, neurons).
        own
            The size of what was bounded, (groups,) or (groups, rows).
        weights
            ``abs(p)``, with multipliers ``abs(beta)`` added, (groups, neurons) or
            (groups, rows, neurons).

        Returns
        -------
        numpy.ndarray
            What to add to the bounds, (groups,) or (groups, rows).
        """
        rounded = sizes * self.neuron_gammas[: sizes.shape[1]]
        if weights.ndim == 2:
            total = np.einsum("gn,gn->g", weights, rounded)
        else:
            total = _products(weights, rounded)
        return np.asarray(self.gammas[depth] * own + total)

    def rounding(self, depth: int, sizes: FloatArray) -> FloatArray:
        """Bound the rounding of a layer's sums whose absolute terms add up to ``sizes``."""
        return np.asarray(self.gammas[depth] * sizes)

    def forward_error(self, depth: int, own: FloatArray, errors: FloatArray) -> FloatArray:
        """Bound the rounding of a forward pass up to a layer, shape (states, width).

        Parameters
        ----------
        depth
            The layer.
        own
            Its :meth:`sizes`.
        errors
            What this gave for the layers before, (states, neurons).
        """
        total = self.rounding(depth, own)
        states = np.arange(self.networks.n_states)
        for source, weight in self.absolute[depth]:
            if source != INPUT:
                total = total + times_transposed(errors[:, self.layers[source]], weight, states)
        return np.asarray(total)


def layer_gammas(networks: ActionNetworks) -> list[float]:
    """Return what float64 loses in each layer, per unit of what it sums.

    For terms by output and by input, and some more for the lines, the constants of all layers, and
    the function of the action that is left.
    """
    more = 8 + networks.n_actions + len(networks.layers)
    return [
        2.0 * _UNIT_ROUNDOFF * (more + sum(w.shape[-2] + w.shape[-1] for _, w in layer.inputs))
        for layer in networks.layers
    ]


def of_groups(weight: FloatArray, state: IntArray) -> FloatArray:
    """Return weights with a leading axis: of length 1 where shared, else one for each group."""
    return weight[None] if weight.ndim == 2 else weight[state]


def _passed(own: FloatArray, weight: FloatArray, state: IntArray) -> FloatArray:
    """Multiply (groups, rows, outputs) by the weights of the groups' states."""
    if weight.ndim == 3:
        return np.asarray(np.matmul(own, weight[state]))
    return (own.reshape(-1, len(weight)) @ weight).reshape(*own.shape[:2], weight.shape[1])


def _products(rows: FloatArray, values: FloatArray) -> FloatArray:
    """Multiply (groups or 1, rows, n) by (groups, n): one value for each row and group."""
    if len(rows) == 1:
        return np.asarray(values @ rows[0].T)
    if rows.shape[1] == 1:
        return np.asarray(np.einsum("gn,gn->g", rows[:, 0], values)[:, None])
    return np.asarray(np.matmul(rows, values[..., None])[..., 0])


def slope_gradients(lines: Lines, p: FloatArray, z: FloatArray, slopes: FloatArray) -> FloatArray:
    """Return the change of a bound per unit of each lower slope, zero where a step moves none.

    That is where the slope plays no part, and where it is at the end of its range that the step
    goes to: such parts would only shorten it (Larsson, Patriksson and Stromberg, 1996, "Conditional
    subgradient optimization").
    """
    gradients = np.where(lines.unstable & (p < 0), p * z, 0.0)
    held = np.where(gradients > 0, slopes <= AT_LIMIT, slopes >= 1 - AT_LIMIT)
    return np.where(held, 0.0, gradients)


def polyak_steps(excess: FloatArray, *gradients: FloatArray) -> FloatArray:
    """Return steps of Polyak's length, which would remove the excess if the bound were linear.

    Parameters
    ----------
    excess
        Bound minus target, shape (groups,); no step where it is not positive and finite.
    *gradients
        Parts of the subgradient, each (groups, any).

    Returns
    -------
    numpy.ndarray
        Shape (groups, 1).
    """
    squared = np.zeros(len(excess))
    for gradient in gradients:
        squared += np.einsum("gn,gn->g", gradient, gradient)
    usable = (squared > 0) & (excess > 0) & np.isfinite(excess)
    return np.divide(excess, squared, out=np.zeros_like(squared), where=usable)[:, None]
