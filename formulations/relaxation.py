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
are the largest outputs of the layer before; :meth:`Relaxation.margins` adds these up (Higham,
"Accuracy and Stability of Numerical Algorithms", section 3.1), so that a margin is in proportion
to what was actually summed, whatever the scale of the network.

A layer may take input from the action and from any earlier layer: ``inputs[d]`` lists (source,
weight) pairs, where source ``ACTION`` is the action and ``k`` the outputs of hidden layer ``k``.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.networks.network import Network, folded_bias

ACTION = -1
_UNIT_ROUNDOFF = float(np.finfo(np.float64).eps)


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
    """The linear relaxation of one network over actions, for a batch of states.

    Parameters
    ----------
    network
        Its inputs are [action, state].
    n_actions
        Number of leading inputs that are actions; :meth:`folded` takes the states.

    Examples
    --------
    Above ``relu(a + b - 1)`` with its pre-activation in [-1, 1] lies the line ``(a + b) / 2``:

    >>> import numpy as np
    >>> import milp_rl as mr
    >>> from milp_rl.formulations.relaxation import Lines, Relaxation
    >>> network = mr.Network.from_arrays([[[1.0, 1.0]], [[1.0]]], [[-1.0], [0.0]])
    >>> relaxation = Relaxation(network, 2).folded(np.zeros((1, 0)))
    >>> lines = Lines.over(np.array([[-1.0]]), np.array([[1.0]]))
    >>> rows, state = relaxation.rows(1), np.array([0])
    >>> coefficients, constant, _ = relaxation.backward(rows, state, lines)
    >>> coefficients, constant
    (array([[[0.5, 0.5]]]), array([[0.]]))
    """

    def __init__(self, network: Network, n_actions: int) -> None:
        first = network.layers[0]
        weights = [first.weight[:, :n_actions], *(layer.weight for layer in network.layers[1:])]
        self.inputs = [[(d - 1 if d else ACTION, w)] for d, w in enumerate(weights)]
        self._absolute = [[np.abs(w).T for _, w in own] for own in self.inputs]
        self._both = [[(k, np.concatenate([w, -w])) for k, w in own] for own in self.inputs]
        self._biases = [layer.bias for layer in network.layers]
        self._first = first
        ends = np.cumsum([0, *(len(layer.bias) for layer in network.hidden)]).tolist()
        self.layers = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.neurons = ends[-1]
        self.n_actions = n_actions
        operations = n_actions + sum(w.shape[0] + w.shape[1] + 8 for w in weights)
        self._gamma = 2.0 * operations * _UNIT_ROUNDOFF

    def folded(self, states: FloatArray) -> Relaxation:
        """Return the relaxation at some states, shape (states, state_dim)."""
        at = copy.copy(self)
        first = np.zeros((len(states), len(self._biases[0])))
        for row, state in zip(first, states, strict=True):
            row[:] = folded_bias(self._first.bias, self._first.weight[:, self.n_actions :], state)
        at._biases = [first, *self._biases[1:]]
        return at

    def bias(self, depth: int, state: IntArray) -> FloatArray:
        """Return the biases of a layer, shape (width,) or (groups, width)."""
        bias = self._biases[depth]
        return bias if bias.ndim == 1 else bias[state]

    def rows(self, depth: int) -> dict[int, FloatArray]:
        """Return all rows of a layer as functions of its sources, (1, rows, width) each."""
        return {source: weight[None] for source, weight in self.inputs[depth]}

    def rows_of_both_signs(self, depth: int) -> dict[int, FloatArray]:
        """Return all rows of a layer and their negatives, (1, 2 * rows, width) each."""
        return {source: both[None] for source, both in self._both[depth]}

    def row_of_both_signs(self, depth: int, neuron: IntArray) -> dict[int, FloatArray]:
        """Return one row of a layer and its negative for each group, (groups, 2, width) each."""
        return {
            source: np.stack([weight[neuron], -weight[neuron]], axis=1)
            for source, weight in self.inputs[depth]
        }

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
                passed = (own.reshape(-1, len(weight)) @ weight).reshape(*shape, weight.shape[1])
                left[source] = left[source] + passed if source in left else passed
        found = left.get(ACTION, np.zeros((1, 1, 1)))  # nothing that the action reaches
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
                inputs = x if source == ACTION else h[:, self.layers[source]]
                before = before + inputs @ weight.T
            z[:, part] = before
            above = lines.upper[:, part] * before + lines.intercept[:, part]
            h[:, part] = np.where(p[:, part] > 0, above, lines.lower[:, part] * before)
        return z, h

    def values(self, x: FloatArray, state: IntArray) -> FloatArray:
        """Return the network's own values of actions, shape (groups,), by a forward pass."""
        outputs: list[FloatArray] = []
        for depth, own in enumerate(self.inputs):
            y = self.bias(depth, state)
            for source, weight in own:
                y = y + (x if source == ACTION else outputs[source]) @ weight.T
            outputs.append(np.maximum(y, 0.0))
        return np.asarray(y[:, 0])

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
        total = np.abs(self._biases[depth])
        for (source, _), weight in zip(self.inputs[depth], self._absolute[depth], strict=True):
            largest = reach if source == ACTION else np.maximum(high[:, self.layers[source]], 0.0)
            total = total + largest @ weight
        return np.asarray(np.broadcast_to(total, (len(self._biases[0]), total.shape[-1])))

    def margins(self, sizes: FloatArray, own: FloatArray, weights: FloatArray) -> FloatArray:
        """Bound the rounding in bounds that :meth:`backward` and an oracle have given.

        Parameters
        ----------
        sizes
            Of the neurons (:meth:`sizes`), by group, (groups, neurons).
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
        if weights.ndim == 2:
            total = own + np.einsum("gn,gn->g", weights, sizes)
        else:
            total = own + _products(weights, sizes)
        return np.asarray(self._gamma * total)

    def rounding(self, sizes: FloatArray) -> FloatArray:
        """Bound the rounding of sums whose absolute terms add up to ``sizes``."""
        return np.asarray(self._gamma * sizes)


def _products(rows: FloatArray, values: FloatArray) -> FloatArray:
    """Multiply (groups or 1, rows, n) by (groups, n): one value for each row and group."""
    if len(rows) == 1:
        return np.asarray(values @ rows[0].T)
    if rows.shape[1] == 1:
        return np.asarray(np.einsum("gn,gn->g", rows[:, 0], values)[:, None])
    return np.asarray(np.matmul(rows, values[..., None])[..., 0])


def slope_gradients(lines: Lines, p: FloatArray, z: FloatArray) -> FloatArray:
    """Return the change of a bound per unit of each lower slope, zero where none can move."""
    return np.where(lines.unstable & (p < 0), p * z, 0.0)


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
