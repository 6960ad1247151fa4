r"""Native exact argmax over continuous actions in a box: spatial branch and bound, in batches.

A node is a box of actions. Its bound is the smaller of two: the backward linear relaxation of the
network over it (CROWN, as in :mod:`milp_rl.formulations.bounds`), whose slopes below and whose
multipliers on the linear constraints are improved by Polyak steps towards the incumbent, and the
mean value form

.. math:: Q(x) \le Q(c) + \sum_i r_i \max(|\underline{g}_i|, |\overline{g}_i|)

around the centre c, with half widths r and bounds g on the partial derivatives. Where a derivative
keeps its sign over the node and the variable is in no constraint, the node shrinks to that side.
The nodes are halved where derivatives vary most; as a ReLU network is piecewise linear, a small
node is soon one piece, over which the bound is exact.

The states of a batch are searched side by side: each round takes the most promising nodes of every
state, as many for each, and bounds all their halves in a few array operations. This suits few
variables; with more than about six, or under constraints that hold with equality, a mixed-integer
program is the better choice. After 100,000 nodes a state is left with the gap it has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.actions.box import Box, box_maxima
from milp_rl.formulations.bounds import interval, relaxation, substituted
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import (
    ArgmaxProblem,
    ArgmaxResult,
    CertificationError,
    SolveOptions,
    certify,
    relative_gap,
)
from milp_rl.solvers.branch_and_bound import BranchAndBoundArgmax
from milp_rl.solvers.incumbents import Incumbents

IntArray = NDArray[np.intp]

_NODES_A_ROUND = 32
_MARGIN = 1e-9
_STEPS = 8  # of a node's bound,
_EASY_NODES = 200  # once a state needs more than these
_MOST_NODES = 100_000  # of a state, where there is no smaller limit


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Nodes: boxes of actions.

    Each belongs to a state, has a bound and a variable to halve it at, and the lower slopes of the
    hidden neurons and the multipliers of the constraints that the bound was found with.
    """

    lower: FloatArray
    upper: FloatArray
    state: IntArray
    bound: FloatArray
    split: IntArray
    slopes: FloatArray
    multipliers: FloatArray

    def __getitem__(self, rows: NDArray[np.bool_] | IntArray) -> _Boxes:
        return _Boxes(*(column[rows] for column in vars(self).values()))

    def joined(self, other: _Boxes) -> _Boxes:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Boxes(*(np.concatenate(pair) for pair in pairs))


class BoxSearchArgmax:
    """Exact argmax over a :class:`Box` of continuous variables by spatial branch and bound.

    Parameters
    ----------
    network
        Scalar output; inputs [action, state].
    space
        The feasible set.

    Raises
    ------
    ValueError
        If a variable of the space is binary, or the space is not a single box.
    """

    name = "branch_and_bound"

    def __init__(self, network: Network, space: ActionSpace) -> None:
        if not isinstance(space, Box) or not space.continuous.all():
            raise ValueError(
                "branch and bound takes a space of binary variables, or one Box of continuous ones;"
                f" this {type(space).__name__} has {int(space.continuous.sum())} continuous of"
                f" {space.n_actions} variables: use solver='highs' or 'gurobi'"
            )
        self.network = network
        self.space = space
        self._incumbents = Incumbents(space)
        self._sample = self._incumbents.sample

    def update(self, network: Network) -> None:
        """Replace the network."""
        self.network = network

    def solve(
        self, state: FloatArray, options: SolveOptions, start: ActionArray | None = None
    ) -> ArgmaxResult:
        """Solve for one state; see :meth:`solve_batch`."""
        return self.solve_batch(state[None], options, [start])[0]

    def solve_batch(
        self,
        states: FloatArray,
        options: SolveOptions,
        starts: Sequence[ActionArray | None] | None = None,
    ) -> list[ArgmaxResult]:
        """Solve for several states together; see ``BranchAndBoundArgmax.solve_batch``."""
        begin = time.perf_counter()
        if not len(states):
            return []
        search = _Search(self.network, self.space, states, options)
        search.offer(
            self._incumbents.build(self.network, states).astype(float), np.arange(len(states))
        )
        for i, start in enumerate(starts or ()):
            if start is not None:
                if violations := self.space.violations(start):
                    raise ValueError(f"the start is not feasible: {'; '.join(violations)}")
                search.offer(start[None].astype(float), np.array([i]))
        deadline = begin + (options.time_limit or math.inf)
        while time.perf_counter() < deadline and search.halve():
            pass
        seconds = (time.perf_counter() - begin) / len(states)
        return [self._result(search, i, states[i], options, seconds) for i in range(len(states))]

    def _result(
        self, search: _Search, i: int, state: FloatArray, options: SolveOptions, seconds: float
    ) -> ArgmaxResult:
        problem = ArgmaxProblem(self.network.at_state(state), self.space)
        action = search.action[i]
        value = problem.value(action)
        bound = max(search.bound_of(i), value)
        if complaints := certify(problem, action, bound, self._sample):
            raise CertificationError(f"box search gave a wrong answer: {'; '.join(complaints)}")
        nodes = int(search.nodes[i])
        status = options.closed(value, bound)
        message = f"divided the box into {nodes} parts"
        return ArgmaxResult(
            action,
            value,
            bound,
            relative_gap(value, bound),
            "optimal" if status else "feasible",
            seconds,
            self.name,
            nodes,
            message=message if status else f"stopped at the limit after it had {message}",
        )


class _Search:
    """The open nodes and incumbents of a batch of states."""

    def __init__(
        self, network: Network, space: Box, states: FloatArray, options: SolveOptions
    ) -> None:
        n, count = space.n_actions, len(states)
        self.network, self.space, self.states, self.options = network, space, states, options
        first = network.layers[0]
        self._weight = first.weight[:, :n]
        self._bias = first.bias + states @ first.weight[:, n:].T
        self._free = ~space.matrix.any(axis=0)  # variables in no constraint
        assert space.anchor is not None
        self.action = np.tile(space.anchor, (count, 1))
        self.value = self._values(self.action, np.arange(count))
        self.closed = np.full(count, -np.inf)  # the largest bound that was not searched further
        self.nodes = np.zeros(count, dtype=int)
        neurons = sum(len(layer.bias) for layer in network.hidden)
        self._open = self._bounded(
            np.tile(space.lower, (count, 1)),
            np.tile(space.upper, (count, 1)),
            np.arange(count),
            np.full((count, neurons), np.nan),
            np.zeros((count, len(space.right))),
        )

    def bound_of(self, i: int) -> float:
        """Return the proven bound of a state."""
        own = self._open.bound[self._open.state == i]
        return float(max(self.closed[i], own.max(initial=-np.inf)))

    def offer(self, actions: FloatArray, state: IntArray) -> None:
        """Take actions as incumbents where they are better."""
        values = self._values(actions, state)
        order = np.lexsort((-values, state))
        leaders = order[np.unique(state[order], return_index=True)[1]]
        better = leaders[values[leaders] > self.value[state[leaders]]]
        self.action[state[better]] = actions[better]
        self.value[state[better]] = values[better]

    def halve(self) -> bool:
        """Halve the most promising nodes of every state; false if none is left."""
        limit = min(self.options.node_limit or _MOST_NODES, _MOST_NODES)
        nodes = self._kept(self._open)
        # The best nodes of each state, by their rank in it.
        order = np.lexsort((-nodes.bound, nodes.state))
        firsts = np.searchsorted(nodes.state[order], nodes.state[order])
        chosen = np.arange(len(order)) - firsts < _NODES_A_ROUND
        chosen &= self.nodes[nodes.state[order]] < limit
        taken, left = nodes[order[chosen]], nodes[order[~chosen]]
        if not len(taken.state):
            self._open = nodes
            return False
        each = np.arange(len(taken.state))
        middle = (taken.lower[each, taken.split] + taken.upper[each, taken.split]) / 2
        lower, upper = taken.lower.copy(), taken.upper.copy()
        lower[each, taken.split] = upper[each, taken.split] = middle
        halves = self._bounded(
            np.concatenate([taken.lower, lower]),
            np.concatenate([upper, taken.upper]),
            *(np.concatenate([c, c]) for c in (taken.state, taken.slopes, taken.multipliers)),
        )
        self._open = left.joined(halves)
        return True

    def _kept(self, nodes: _Boxes) -> _Boxes:
        """Leave out what cannot be better than the incumbents by more than the gap."""
        closed = nodes.bound <= self._targets()[nodes.state]
        np.maximum.at(self.closed, nodes.state[closed], nodes.bound[closed])
        return nodes[~closed]

    def _targets(self) -> FloatArray:
        """Return the bound below which a node of each state need not be searched."""
        return np.array([self.options.target(value) for value in self.value.tolist()])

    def _bounded(
        self,
        lower: FloatArray,
        upper: FloatArray,
        state: IntArray,
        slopes: FloatArray,
        multipliers: FloatArray,
    ) -> _Boxes:
        """Bound boxes, shrink them, and try what looks best in them."""
        space = self.space
        np.add.at(self.nodes, state, 1)
        if len(space.right):  # boxes beyond a constraint are empty
            positive, negative = np.maximum(space.matrix, 0.0), np.minimum(space.matrix, 0.0)
            least = lower @ positive.T + upper @ negative.T
            inside = (least <= space.right + _MARGIN * (1 + np.abs(space.right))).all(axis=1)
            lower, upper, state = lower[inside], upper[inside], state[inside]
            slopes, multipliers = slopes[inside], multipliers[inside]
        centre, radius = (lower + upper) / 2, (upper - lower) / 2
        lows, highs = self._neurons(centre, radius, self._bias[state])
        steepest_down, steepest_up = self._derivatives(lows, highs, len(state))
        reach = np.maximum(np.abs(steepest_down), np.abs(steepest_up))
        bound = self._values(centre, state) + (radius * reach).sum(axis=1)
        self.offer(space.pulled_in(centre, self.action[state]), state)
        relaxation = _Relaxation(
            self.network, space, self._weight, self._bias[state], lows, highs, lower, upper
        )
        hard = self.nodes.max() > _EASY_NODES
        slopes = relaxation.start(slopes if hard else np.full_like(slopes, np.nan))
        for left in range(_STEPS if hard else 1, 0, -1):
            relaxed, corner, change = relaxation.bound(slopes, multipliers)
            bound = np.minimum(bound, relaxed)
            self.offer(space.pulled_in(corner, self.action[state]), state)
            excess = relaxed - self._targets()[state]
            if left == 1 or not (excess > 0).any():
                break
            slopes, multipliers = relaxation.moved(slopes, multipliers, change, excess)
        bound += _MARGIN * (1 + np.abs(bound))
        rises, falls = self._free & (steepest_down >= 0), self._free & (steepest_up <= 0)
        lower = np.where(rises, upper, lower)
        upper = np.where(falls & ~rises, lower, upper)
        varies = (upper - lower) * (steepest_up - steepest_down)
        widest = np.where(varies.any(axis=1), varies.argmax(axis=1), (upper - lower).argmax(axis=1))
        return _Boxes(lower, upper, state, bound, widest, slopes, multipliers)

    def _neurons(
        self, centre: FloatArray, radius: FloatArray, bias: FloatArray
    ) -> tuple[list[FloatArray], list[FloatArray]]:
        """Bound the pre-activations of every hidden layer over boxes."""
        network, n = self.network, self.space.n_actions
        lows: list[FloatArray] = []
        highs: list[FloatArray] = []
        for depth, layer in enumerate(network.hidden):
            if depth == 0:
                middle = centre @ self._weight.T + bias
                spread = radius @ np.abs(self._weight).T
                low, high = middle - spread, middle + spread
            else:
                low, high = interval(
                    layer.weight, np.maximum(lows[-1], 0), np.maximum(highs[-1], 0)
                )
                rows = np.concatenate([layer.weight, -layer.weight])
                a, constant = substituted(network, rows, bias, lows, highs, n)
                reach = constant + np.einsum("srn,sn->sr", a, centre)
                reach += np.einsum("srn,sn->sr", np.abs(a), radius)
                width = len(layer.bias)
                low = np.maximum(low, -reach[:, width:]) + layer.bias
                high = np.minimum(high, reach[:, :width]) + layer.bias
            lows.append(low - _MARGIN * (1 + np.abs(low)))
            highs.append(high + _MARGIN * (1 + np.abs(high)))
        return lows, highs

    def _derivatives(
        self, lows: list[FloatArray], highs: list[FloatArray], boxes: int
    ) -> tuple[FloatArray, FloatArray]:
        """Bound the partial derivatives by the actions over boxes, each (boxes, n_actions)."""
        weight = self.network.output.weight if lows else self._weight
        down = up = np.repeat(weight, boxes, axis=0)
        for depth in range(len(lows) - 1, -1, -1):
            on, possible = lows[depth] >= 0, highs[depth] > 0
            down = np.where(down < 0, down * possible, down * on)
            up = np.where(up > 0, up * possible, up * on)
            inner = self.network.layers[depth].weight if depth else self._weight
            down, up = interval(inner.T, down, up)
        return down, up

    def _values(self, actions: FloatArray, state: IntArray) -> FloatArray:
        y = actions @ self._weight.T + self._bias[state]
        for layer in self.network.layers[1:]:
            y = np.maximum(y, 0.0) @ layer.weight.T + layer.bias
        return np.asarray(y[:, 0])


class _Relaxation:
    r"""The output's bound over boxes as a function of lower slopes and multipliers.

    With the lower slopes :math:`\alpha` the network is at most an affine function
    :math:`g(\alpha) x + c(\alpha)`, so that the maximum over the box under the constraints
    :math:`Mx \le r` is for every :math:`\lambda \ge 0` at most

    .. math:: c(\alpha) + \lambda r + \max_{l \le x \le u} (g(\alpha) - \lambda M) x,

    which is convex in :math:`\lambda`; at the maximiser x its derivative by a slope is the
    neuron's coefficient times its pre-activation in the relaxed network.
    """

    def __init__(
        self,
        network: Network,
        space: Box,
        first_weight: FloatArray,
        first_bias: FloatArray,
        lows: list[FloatArray],
        highs: list[FloatArray],
        lower: FloatArray,
        upper: FloatArray,
    ) -> None:
        self._network, self._space = network, space
        self._weights = [first_weight, *(layer.weight for layer in network.layers[1:])]
        self._biases = [first_bias, *(layer.bias for layer in network.layers[1:])]
        self._lines = [relaxation(low, high) for low, high in zip(lows, highs, strict=True)]
        unstable = [(low < 0) & (high > 0) for low, high in zip(lows, highs, strict=True)]
        self._unstable = np.concatenate([np.zeros((len(lower), 0), dtype=bool), *unstable], axis=1)
        self._lower, self._upper = lower, upper
        ends = np.cumsum([0, *(low.shape[1] for low in lows)]).tolist()
        self._parts = [slice(a, b) for a, b in pairwise(ends)]

    def start(self, slopes: FloatArray) -> FloatArray:
        """Return slopes to begin with: those of a node before, where it has any."""
        standard = np.concatenate(
            [np.zeros((len(slopes), 0)), *(line[2] for line in self._lines)], axis=1
        )
        return np.where(self._unstable & np.isfinite(slopes), slopes, standard)

    def bound(
        self, slopes: FloatArray, multipliers: FloatArray
    ) -> tuple[FloatArray, FloatArray, tuple[FloatArray, FloatArray]]:
        """Return bounds, the corners behind them, and derivatives by slopes and multipliers."""
        space, depth = self._space, len(self._lines)
        a = np.repeat(self._weights[depth], len(slopes), axis=0)
        constant = np.broadcast_to(self._biases[depth], (len(slopes), 1))[:, 0].copy()
        before: list[FloatArray] = []
        for k in range(depth - 1, -1, -1):
            steep, intercept, _ = self._lines[k]
            before.insert(0, a)
            positive = np.maximum(a, 0.0)
            constant += (positive * intercept).sum(axis=1)
            a = positive * steep + np.minimum(a, 0.0) * slopes[:, self._parts[k]]
            constant += (a * self._biases[k]).sum(axis=1)
            a = a @ self._weights[k]
        priced = a - multipliers @ space.matrix
        best, corner = box_maxima(priced, self._lower, self._upper, space.matrix, space.right)
        best += constant + multipliers @ space.right
        by_slope = np.zeros_like(slopes)
        hidden = corner
        for k in range(depth):
            steep, intercept, _ = self._lines[k]
            own, part = before[k], self._parts[k]
            pre = hidden @ self._weights[k].T + self._biases[k]
            by_slope[:, part] = np.minimum(own, 0.0) * pre
            hidden = np.where(own > 0, steep * pre + intercept, slopes[:, part] * pre)
        by_slope[~self._unstable] = 0.0
        return best, corner, (by_slope, space.right - corner @ space.matrix.T)

    @staticmethod
    def moved(
        slopes: FloatArray,
        multipliers: FloatArray,
        change: tuple[FloatArray, FloatArray],
        excess: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Take a Polyak step against the derivatives: it would remove the excess if linear."""
        by_slope, by_multiplier = change
        # What the limits of slopes and multipliers do not let move is left out.
        stuck = ((slopes <= 0) & (by_slope > 0)) | ((slopes >= 1) & (by_slope < 0))
        by_slope = np.where(stuck, 0.0, by_slope)
        by_multiplier = np.where((multipliers <= 0) & (by_multiplier > 0), 0.0, by_multiplier)
        squared = (by_slope**2).sum(axis=1) + (by_multiplier**2).sum(axis=1)
        step = np.where(squared > 0, np.maximum(excess, 0.0) / np.maximum(squared, 1e-300), 0.0)
        return (
            np.clip(slopes - step[:, None] * by_slope, 0.0, 1.0),
            np.maximum(multipliers - step[:, None] * by_multiplier, 0.0),
        )


def branch_and_bound(
    network: Network, space: ActionSpace
) -> BranchAndBoundArgmax | BoxSearchArgmax:
    """Return the native search for a space of binary variables, or a box of continuous ones.

    Raises
    ------
    ValueError
        If the space has continuous variables, but is not a :class:`Box` of nothing else.
    """
    return BranchAndBoundArgmax(network, space) if space.binary else BoxSearchArgmax(network, space)
