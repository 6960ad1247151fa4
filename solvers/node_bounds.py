r"""Bounds of branch-and-bound nodes: the relaxed network, its multipliers and its variable fixing.

A node holds actions at one or zero and neurons on or off. Its bound is the backward linear
relaxation of the network, in which every undecided ReLU is replaced by

.. math:: \alpha z \le \mathrm{ReLU}(z) \le \tfrac{u}{u-l}(z-l), \qquad 0 \le \alpha \le 1,

and a neuron split on or off by :math:`z` or 0 from above, together with its constraint
:math:`z \ge 0` or :math:`z \le 0`, priced by a multiplier :math:`\beta`. Substituted backward to
the actions, all this is one linear function, maximised over the feasible set by its oracle
``linear_max``: the bound is valid for every choice of the slopes and multipliers (Wang et al.
2021, arXiv 2103.06624, section 3; there the set is a box). They are improved by subgradient steps
of Polyak's length towards the incumbent. The subgradient is exact and costs one forward pass: at
the maximiser :math:`a^*` of the linear function, with :math:`z` the pre-activations that the
relaxed network gives it, the bound changes by :math:`z_j` a unit of :math:`\beta_j`, and by
:math:`p_j z_j` a unit of :math:`\alpha_j` where :math:`p_j < 0` is the coefficient of the
neuron's output.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.actions.base import ActionSpace, BoolArray
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.nodes import IntArray, Maximum, Nodes

_MARGIN = 1e-9
_LARGEST = 100.0
_STEPS = 3
_MUCH = 0.3  # part of the free actions held for which it is worth to start over
_AVERAGE = 0.2  # weight of the newest maximiser in the running average


class NodeBounds:
    """The bounds of nodes, for one network, space and batch of states.

    Parameters
    ----------
    network
        Scalar output; inputs [action, state].
    space
        The feasible set.
    states
        Shape (states, state_dim).
    """

    def __init__(self, network: Network, space: ActionSpace, states: FloatArray) -> None:
        self.space = space
        n = space.n_actions
        first = network.layers[0]
        self._weights = [first.weight[:, :n], *(layer.weight for layer in network.layers[1:])]
        self._biases = [layer.bias for layer in network.layers]
        self._first_bias = first.bias + states @ first.weight[:, n:].T
        ends = np.cumsum([0, *(len(layer.bias) for layer in network.hidden)])
        self.layers = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]

    def maximize(self, nodes: Nodes, targets: FloatArray, *, steps: int = _STEPS) -> Maximum:
        """Bound the value of each node and improve its slopes and multipliers in place.

        Parameters
        ----------
        nodes
            Their ``alpha``, ``beta``, ``x``, ``z`` and ``h`` are updated.
        targets
            A node is done with where its bound is not above its target.
        steps
            Steps of the slopes and multipliers.
        """
        n, n_actions = len(nodes), self.space.n_actions
        found = Maximum(
            np.full(n, np.inf),
            np.zeros((n, n_actions)),
            np.zeros(n),
            np.zeros((n, n_actions)),
            np.zeros_like(nodes.low),
        )
        lines = _Lines.over(nodes)
        alpha, beta = nodes.alpha.astype(np.float64), nodes.beta.copy()
        live = np.arange(n)
        for step in range(steps + 1):
            own = lines if len(live) == n else lines.at(live)
            own = own.with_slopes(alpha[live])
            rows = np.repeat(self._weights[-1], len(live), axis=0)
            c, constant, p = self._backward(
                rows, len(self.layers), nodes.state[live], own, beta[live]
            )
            constant += self._bias(len(self.layers), nodes.state[live])[..., 0]
            bound = _sum(constant, self.space.linear_max(c, nodes.one[live], nodes.zero[live]))
            better = bound < found.bound[live]
            at = live[better]
            found.bound[at], found.constant[at] = bound[better], constant[better]
            found.coefficients[at], found.p[at] = c[better], p[better]
            nodes.alpha[at], nodes.beta[at] = alpha[at], beta[at]
            above = bound > targets[live]
            if not above.any():
                break
            if not above.all():
                live, better, own = live[above], better[above], own.at(above)
                bound, c, p = bound[above], c[above], p[above]
            x = self.space.maximizers(c, nodes.one[live], nodes.zero[live])
            found.x[live[better]] = x[better]
            z, h = self._forward(x, nodes.state[live], p, own)
            fresh = np.isnan(nodes.x[live, :1])
            for name, new in (("x", x), ("z", z), ("h", h)):
                average = getattr(nodes, name)
                old = average[live]
                average[live] = np.where(fresh, new, old + _AVERAGE * (new - old))
            if step < steps and p.size:
                _step(alpha, beta, live, own, p, z, bound - targets[live])
        return found

    def tighten(self, nodes: Nodes) -> BoolArray:
        """Tighten the bounds of undecided neurons in place, layer by layer.

        Returns
        -------
        numpy.ndarray
            Which nodes are found to have no action.
        """
        empty = np.zeros(len(nodes), dtype=bool)
        for depth, layer in enumerate(self.layers):
            low, high, split = nodes.low[:, layer], nodes.high[:, layer], nodes.split[:, layer]
            node, row = np.nonzero((low < 0) & (high > 0) & (split == 0))
            if not len(node):
                continue
            weight = self._weights[depth][row]
            both, of = np.concatenate([weight, -weight]), np.tile(node, 2)
            constant = np.zeros(len(both))
            if depth:
                lines = _Lines.over(nodes).at(of)
                both, constant, _ = self._backward(both, depth, nodes.state[of], lines)
            reach = _sum(constant, self.space.linear_max(both, nodes.one[of], nodes.zero[of]))
            above, below = reach[: len(node)], reach[len(node) :]
            empty[node[np.isneginf(above) | np.isneginf(below)]] = True
            bias = self._bias(depth, nodes.state[node])
            bias = bias[row] if bias.ndim == 1 else bias[np.arange(len(node)), row]
            high[node, row] = np.minimum(high[node, row], _sum(above, bias))
            low[node, row] = np.maximum(low[node, row], -_sum(below, -bias))
        off, on = nodes.split < 0, nodes.split > 0
        contradiction = (nodes.low > nodes.high) | (on & (nodes.high < 0)) | (off & (nodes.low > 0))
        return np.asarray(empty | contradiction.any(axis=1))

    def fix(
        self, nodes: Nodes, maximum: Maximum, targets: FloatArray, wanted: BoolArray
    ) -> tuple[FloatArray, BoolArray]:
        """Hold the actions without which a node is bounded by its target, in place.

        Every free action is turned the other way than in the maximiser, and the oracle asked for
        the maximum that is left.

        Parameters
        ----------
        nodes
            ``one`` and ``zero`` are updated.
        maximum
            Theirs.
        targets
            Target of each node.
        wanted
            The nodes to try.

        Returns
        -------
        tuple of numpy.ndarray
            The highest bound of what was excluded from each node, and where a good part of the
            free actions could be held.
        """
        free = ~(nodes.one | nodes.zero) & wanted[:, None]
        node, action = np.nonzero(free)
        excluded, much = np.full(len(nodes), -np.inf), np.zeros(len(nodes), dtype=bool)
        if not len(node):
            return excluded, much
        each = np.arange(len(node))
        one, zero = nodes.one[node], nodes.zero[node]
        taken = maximum.x[node, action] > 0.5
        zero[each[taken], action[taken]] = True
        one[each[~taken], action[~taken]] = True
        other = self.space.linear_max(maximum.coefficients[node], one, zero)
        other = _sum(maximum.constant[node], other)
        held = other <= targets[node]
        nodes.one[node[held & taken], action[held & taken]] = True
        nodes.zero[node[held & ~taken], action[held & ~taken]] = True
        np.maximum.at(excluded, node[held], other[held])
        number = np.bincount(node[held], minlength=len(nodes))
        much = number >= np.maximum(_MUCH * free.sum(axis=1), 1)
        return excluded, much

    def _backward(
        self,
        rows: FloatArray,
        depth: int,
        state: IntArray,
        lines: _Lines,
        beta: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Replace ``rows @ (inputs of layer depth)`` by linear functions above it.

        Returns
        -------
        tuple of numpy.ndarray
            Their coefficients, their constants, and the coefficients of the neurons' outputs.
        """
        constant = np.zeros(len(rows))
        outputs = []
        for d in range(depth - 1, -1, -1):
            layer = self.layers[d]
            outputs.append(rows)
            positive, negative = np.maximum(rows, 0.0), np.minimum(rows, 0.0)
            constant += np.einsum("pj,pj->p", positive, lines.intercept[:, layer])
            rows = positive * lines.upper[:, layer] + negative * lines.lower[:, layer]
            if beta is not None:
                rows += beta[:, layer]
            bias = self._bias(d, state)
            constant += rows @ bias if bias.ndim == 1 else np.einsum("pj,pj->p", rows, bias)
            rows = rows @ self._weights[d]
        return rows, constant, np.concatenate(outputs[::-1], axis=1) if outputs else rows[:, :0]

    def _forward(
        self, x: FloatArray, state: IntArray, p: FloatArray, lines: _Lines
    ) -> tuple[FloatArray, FloatArray]:
        """Return the pre-activations and outputs that the relaxed network gives actions."""
        inputs, before, after = x, [], []
        for d, layer in enumerate(self.layers):
            z = inputs @ self._weights[d].T + self._bias(d, state)
            above = lines.upper[:, layer] * z + lines.intercept[:, layer]
            inputs = np.where(p[:, layer] > 0, above, lines.lower[:, layer] * z)
            before.append(z)
            after.append(inputs)
        none = np.zeros((len(x), 0))
        return np.concatenate([none, *before], axis=1), np.concatenate([none, *after], axis=1)

    def _bias(self, depth: int, state: IntArray) -> FloatArray:
        return self._biases[depth] if depth else self._first_bias[state]

    def influence(self, nodes: Nodes, doubt: FloatArray) -> FloatArray:
        """Return how much each action moves the neurons in doubt, in units of the value.

        Parameters
        ----------
        nodes
            Where.
        doubt
            What each neuron's relaxation adds to the bound, shape (nodes, neurons).
        """
        undecided = (nodes.low < 0) & (nodes.high > 0) & (nodes.split == 0)
        width = np.where(undecided, nodes.high - nodes.low, 1.0)
        slope = np.where(undecided, nodes.high / width, (nodes.high > 0) & (nodes.split >= 0))
        moved = np.zeros((len(nodes), self._weights[-1].shape[1]))
        for d in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[d]
            own = np.where(undecided[:, layer], doubt[:, layer] / width[:, layer], 0.0)
            moved = (own + moved * slope[:, layer]) @ np.abs(self._weights[d])
        return moved


@dataclass(eq=False)
class _Lines:
    """The lines above and below every neuron's ReLU, shape (rows, neurons)."""

    upper: FloatArray
    intercept: FloatArray
    lower: FloatArray
    undecided: BoolArray
    split: NDArray[np.int8]

    @classmethod
    def over(cls, nodes: Nodes) -> _Lines:
        """Return those of nodes, the lower slopes 0 or 1, whichever leaves less room."""
        low, high, split = nodes.low, nodes.high, nodes.split
        undecided, on = (low < 0) & (high > 0), low >= 0
        chord = undecided & (split == 0)
        upper = np.where(undecided, split > 0, on).astype(np.float64)
        np.divide(high, high - low, out=upper, where=chord)
        intercept = np.where(chord, -upper * low, 0.0)
        lower = np.where(undecided, high > -low, on).astype(np.float64)
        return cls(upper, intercept, lower, undecided, split)

    def at(self, rows: IntArray | BoolArray) -> _Lines:
        return _Lines(*(values[rows] for values in vars(self).values()))

    def with_slopes(self, alpha: FloatArray) -> _Lines:
        """Return the lines with other lower slopes where those are free."""
        lower = np.where(self.undecided, alpha, self.lower)
        return _Lines(self.upper, self.intercept, lower, self.undecided, self.split)


def _step(
    alpha: FloatArray,
    beta: FloatArray,
    live: IntArray,
    lines: _Lines,
    p: FloatArray,
    z: FloatArray,
    excess: FloatArray,
) -> None:
    """Move slopes and multipliers by a step of Polyak's length, in place.

    Multipliers are measured in units of the neuron's coefficient, which gives both kinds of
    variables the same scale.
    """
    unit = np.abs(p)
    unit = np.maximum(unit, unit.mean(axis=1, keepdims=True))
    down_alpha = np.where(lines.undecided & (p < 0), p * z, 0.0)
    down_beta = np.where(lines.split != 0, z * unit, 0.0)
    length = (down_alpha**2).sum(axis=1) + (down_beta**2).sum(axis=1)
    usable = (length > 0) & np.isfinite(excess)  # without an incumbent there is no target
    step = np.divide(excess, length, out=np.zeros_like(length), where=usable)[:, None]
    alpha[live] = np.clip(alpha[live] - step * down_alpha, 0.0, 1.0)
    most = _LARGEST * unit  # larger ones would only add rounding
    moved = np.clip(beta[live] - step * down_beta * unit, -most, most)
    beta[live] = np.where(lines.split > 0, np.maximum(moved, 0.0), np.minimum(moved, 0.0))
    beta[live] *= lines.split != 0


def _sum(constant: FloatArray, reach: FloatArray) -> FloatArray:
    """Add two parts of a bound, and what covers the rounding of float64 in them."""
    size = 1.0 + np.abs(constant) + np.abs(reach)
    return np.asarray(constant + reach + np.where(np.isfinite(size), _MARGIN * size, 0.0))
