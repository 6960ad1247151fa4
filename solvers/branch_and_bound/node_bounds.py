"""Bounds of branch-and-bound nodes: the relaxed network, its multipliers and its variable fixing.

A node holds actions at one or zero and neurons on or off. Its bound is the linear relaxation of
the network (:mod:`milp_rl.formulations.relaxation`) under what it holds, maximised over the
feasible set by the space's oracle ``linear_max``; slopes and multipliers are improved by Polyak
steps towards the incumbent.
"""

from __future__ import annotations

import math

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.networks.action_value import ActionNetworks, times
from milp_rl.formulations.networks.network import INPUT
from milp_rl.formulations.relaxation import (
    AT_LIMIT,
    Lines,
    Relaxation,
    of_groups,
    polyak_steps,
    slope_gradients,
)
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.branch_and_bound.nodes import Maximum, Nodes
from milp_rl.solvers.options import late

LARGEST_MULTIPLIER = 100.0  # in units of a neuron's coefficient: larger ones add rounding only
STEPS = 6  # Polyak steps of slopes and multipliers per bound, a backward and forward pass each
STEP_LENGTH = 0.3  # of Polyak's, which aims at the incumbent: below what a node can reach
MANY = 0.3  # part of the free actions held by probing for which it is worth to start over
_ENTRIES = 500_000  # of the coefficients that are made between two looks at the clock
_PROBED_ENTRIES = 8_000_000  # of the coefficients for all probes of a node
AVERAGE = 0.2  # weight of the newest maximiser in the running average


class NodeBounds:
    """The bounds of nodes, for one network, space and batch of states.

    Parameters
    ----------
    networks
        Of the states, one output each.
    space
        The feasible set.
    bounds
        Of the neurons at these states; every node is within them.
    deadline
        When to improve bounds no further; they are valid all the same.
    """

    def __init__(
        self,
        networks: ActionNetworks,
        space: ActionSpace,
        bounds: Bounds,
        deadline: float = math.inf,
    ) -> None:
        self.space = space
        self._deadline = deadline
        self._relaxation = Relaxation(networks)
        self.layers = self._relaxation.layers
        reach = np.maximum(np.abs(space.lower), np.abs(space.upper))
        none = np.zeros((networks.n_states, 0))
        sizes, own = self._relaxation.all_sizes(
            reach, np.concatenate([none, *bounds.upper], axis=1)
        )
        self._sizes, self._output_size = sizes, own[:, 0]

    def values(self, actions: ActionArray, states: IntArray) -> FloatArray:
        """Return the values of actions at states, shape (actions,)."""
        return self._relaxation.values(actions.astype(np.float64), states)

    def maximize(self, nodes: Nodes, targets: FloatArray, *, steps: int = STEPS) -> Maximum:
        """Bound the value of each node and improve its slopes and multipliers in place.

        Parameters
        ----------
        nodes
            Their ``alpha``, ``beta``, ``x``, ``z`` and ``h`` are updated.
        targets
            A node is pruned where its bound is not above its target.
        steps
            Steps of the slopes and multipliers.
        """
        n, found = len(nodes), Maximum.unknown(nodes)
        relaxation, depth = self._relaxation, len(self.layers)
        lines = Lines.over(nodes.low, nodes.high, nodes.split)
        alpha, beta = nodes.alpha.astype(np.float64), nodes.beta.copy()
        live = np.arange(n)
        for step in range(steps + 1):
            own = lines if len(live) == n else lines.at(live)
            own = own.with_slopes(alpha[live])
            state = nodes.state[live]
            rows, constant, p = (
                part[:, 0]
                for part in relaxation.backward(
                    relaxation.rows(depth, state), state, own, beta[live]
                )
            )
            constant += relaxation.bias(depth, state)[..., 0]
            bound = constant + self.space.linear_max(rows, nodes.pins[live])
            better = bound < found.bound[live]
            at = live[better]
            found.bound[at], found.constant[at] = bound[better], constant[better]
            found.coefficients[at], found.p[at] = rows[better], p[better]
            nodes.alpha[at], nodes.beta[at] = alpha[at], beta[at]
            above = bound > targets[live]
            if not above.any() or (step and late(self._deadline)):
                break
            if not above.all():
                live, better, own = live[above], better[above], own.at(above)
                bound, rows, p = bound[above], rows[above], p[above]
            x = self.space.maximizers(rows, nodes.pins[live])
            found.x[live[better]] = x[better]
            z, h = relaxation.forward(x, nodes.state[live], p, own)
            _average(nodes, live, x, z, h)
            if step == steps or not p.size:
                break
            live = live[_step(alpha, beta, live, own, p, z, bound - targets[live])]
            if not len(live):
                break
        margin = relaxation.margins(
            depth,
            self._sizes[nodes.state],
            self._output_size[nodes.state],
            np.abs(found.p) + np.abs(nodes.beta),
        )
        found.bound += margin
        found.constant += margin
        return found

    def tighten(self, nodes: Nodes) -> BoolArray:
        """Tighten the bounds of undecided neurons in place, layer by layer.

        Of the last hidden layer those alone that raise the output.

        Returns
        -------
        numpy.ndarray
            Which nodes are found to have no action.
        """
        empty = np.zeros(len(nodes), dtype=bool)
        size = max(_ENTRIES // (2 * self.space.n_actions), 1)
        for depth, layer in enumerate(self.layers):
            low, high, split = nodes.low[:, layer], nodes.high[:, layer], nodes.split[:, layer]
            wanted = (low < 0) & (high > 0) & (split == 0)
            if depth == len(self.layers) - 1:
                wanted &= self._raising(nodes.state)
            node, row = np.nonzero(wanted)
            for i in range(0, len(node), size):
                if late(self._deadline):
                    break
                part = slice(i, i + size)
                self._tighten_rows(nodes, depth, node[part], row[part], empty)
        off, on = nodes.split < 0, nodes.split > 0
        contradiction = (nodes.low > nodes.high) | (on & (nodes.high < 0)) | (off & (nodes.low > 0))
        return np.asarray(empty | contradiction.any(axis=1))

    def _raising(self, state: IntArray) -> BoolArray:
        """Mark the neurons of the last hidden layer that raise the output, shape (nodes, width).

        The others are bounded by a line through the origin, whose slope is improved: their bounds
        play no part in it.
        """
        last = len(self.layers) - 1
        for source, weight in self._relaxation.inputs[last + 1]:
            if source == last:
                return np.asarray(of_groups(weight, state)[:, 0] > 0)
        return np.zeros((1, 1), dtype=bool)

    def _tighten_rows(
        self, nodes: Nodes, depth: int, node: IntArray, row: IntArray, empty: BoolArray
    ) -> None:
        """Tighten neurons ``row`` of a layer in nodes ``node``; mark the empty nodes."""
        relaxation, layer = self._relaxation, self.layers[depth]
        low, high, state = nodes.low[:, layer], nodes.high[:, layer], nodes.state[node]
        rows = relaxation.row_of_both_signs(depth, row, state)
        size = self._sizes[state, layer.start + row][:, None]
        if depth:
            before = slice(0, layer.start)
            lines = Lines.over(
                nodes.low[:, before], nodes.high[:, before], nodes.split[:, before]
            ).at(node)
            both, constant, p = relaxation.backward(rows, state, lines)
            constant += relaxation.margins(depth, self._sizes[state, before], size, np.abs(p))
        else:
            both, constant = rows[INPUT], relaxation.rounding(depth, size)
        pins = nodes.pins[np.repeat(node, 2)]
        reach = self.space.linear_max(both.reshape(2 * len(node), -1), pins)
        reach = reach.reshape(-1, 2)
        empty[node[np.isneginf(reach).any(axis=1)]] = True
        reach = reach + constant
        bias = relaxation.bias(depth, state)
        bias = bias[row] if bias.ndim == 1 else bias[np.arange(len(node)), row]
        high[node, row] = np.minimum(high[node, row], reach[:, 0] + bias)
        low[node, row] = np.maximum(low[node, row], bias - reach[:, 1])

    def probe(
        self, nodes: Nodes, maximum: Maximum, targets: FloatArray, due: BoolArray
    ) -> tuple[FloatArray, BoolArray]:
        """Hold the actions without which a node is bounded by its target, in place.

        Every free action is turned the other way than in the maximiser, and the oracle asked for
        the maximum that is left; where there are very many of them, those of the largest
        coefficients.

        Parameters
        ----------
        nodes
            ``one`` and ``zero`` are updated.
        maximum
            Theirs.
        targets
            Target of each node.
        due
            The nodes to probe.

        Returns
        -------
        tuple of numpy.ndarray
            The highest bound of what was excluded from each node, and where a good part of the
            free actions could be held.
        """
        free = ~(nodes.one | nodes.zero) & due[:, None]
        excluded, number = np.full(len(nodes), -np.inf), np.zeros(len(nodes), dtype=int)
        node, action = _probed(free, maximum.coefficients)
        size = max(_ENTRIES // free.shape[1], 1)
        for i in range(0, len(node), size):
            if late(self._deadline):
                break
            own, turned = node[i : i + size], action[i : i + size]
            held, other = self._hold(nodes, maximum, targets, own, turned)
            np.maximum.at(excluded, own[held], other[held])
            number += np.bincount(own[held], minlength=len(nodes))
        return excluded, number >= np.maximum(MANY * free.sum(axis=1), 1)

    def _hold(
        self,
        nodes: Nodes,
        maximum: Maximum,
        targets: FloatArray,
        node: IntArray,
        action: IntArray,
    ) -> tuple[BoolArray, FloatArray]:
        """Hold one action of a node each if it must be; return whether, and the other bound."""
        each = np.arange(len(node))
        one, zero = nodes.one[node], nodes.zero[node]
        taken = maximum.x[node, action] > 0.5
        zero[each[taken], action[taken]] = True
        one[each[~taken], action[~taken]] = True
        other = self.space.linear_max(maximum.coefficients[node], Pins(one, zero))
        other = maximum.constant[node] + other
        held = np.asarray(other <= targets[node])
        nodes.one[node[held & taken], action[held & taken]] = True
        nodes.zero[node[held & ~taken], action[held & ~taken]] = True
        return held, other

    def influence(self, nodes: Nodes, doubt: FloatArray) -> FloatArray:
        """Return by how far each action moves the neurons in doubt, in units of the value.

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
        relaxation, state = self._relaxation, nodes.state
        moved = np.zeros((len(nodes), relaxation.neurons))  # of each neuron's output
        actions = np.zeros((len(nodes), relaxation.n_actions))
        for d in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[d]
            own = np.where(undecided[:, layer], doubt[:, layer] / width[:, layer], 0.0)
            own += moved[:, layer] * slope[:, layer]
            for source, weight in relaxation.absolute[d]:
                target = actions if source == INPUT else moved[:, self.layers[source]]
                target += times(own, weight, state)
        return actions


def _probed(free: BoolArray, coefficients: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the free actions to probe, and their nodes."""
    most = max(_PROBED_ENTRIES // free.shape[1], 1)
    if free.shape[1] > most:
        size = np.where(free, np.abs(coefficients), -1.0)
        largest = np.argpartition(-size, most - 1, axis=1)[:, :most]
        among = np.zeros_like(free)
        np.put_along_axis(among, largest, True, axis=1)
        free = free & among
    node, action = np.nonzero(free)
    return node, action


def _average(nodes: Nodes, live: IntArray, x: FloatArray, z: FloatArray, h: FloatArray) -> None:
    """Take a maximiser into the running averages of nodes, in place."""
    fresh = np.isnan(nodes.x[live, :1])
    for name, new in (("x", x), ("z", z), ("h", h)):
        average = getattr(nodes, name)
        old = average[live]
        average[live] = np.where(fresh, new, old + AVERAGE * (new - old))


def _step(
    alpha: FloatArray,
    beta: FloatArray,
    live: IntArray,
    lines: Lines,
    p: FloatArray,
    z: FloatArray,
    excess: FloatArray,
) -> BoolArray:
    """Move slopes and multipliers by a part of Polyak's length, in place; return which did move.

    What their limits hold is left out, as in :func:`slope_gradients`. Multipliers are measured in
    units of the neuron's coefficient, which gives both kinds of variables the same scale.
    """
    unit = np.abs(p)
    unit = np.maximum(unit, unit.mean(axis=1, keepdims=True))
    assert lines.split is not None
    down_alpha = slope_gradients(lines, p, z, alpha[live])
    down_beta = np.where(lines.split != 0, z * unit, 0.0)
    down_beta[(np.abs(beta[live]) <= AT_LIMIT * unit) & (down_beta * lines.split > 0)] = 0.0
    step = polyak_steps(STEP_LENGTH * excess, down_alpha, down_beta)
    slopes = np.clip(alpha[live] - step * down_alpha, 0.0, 1.0)
    most = LARGEST_MULTIPLIER * unit
    multipliers = np.clip(beta[live] - step * down_beta * unit, -most, most)
    on, off = np.maximum(multipliers, 0.0), np.minimum(multipliers, 0.0)
    multipliers = np.where(lines.split > 0, on, off) * (lines.split != 0)
    moved = (slopes != alpha[live]).any(axis=1) | (multipliers != beta[live]).any(axis=1)
    alpha[live], beta[live] = slopes, multipliers
    return np.asarray(moved)
