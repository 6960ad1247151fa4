r"""Exact argmax over numbers and whole numbers in a box: spatial branch and bound, in batches.

A node is a box of actions. Its bound is the smaller of two: the linear relaxation of the network
over it (:mod:`milp_rl.formulations.relaxation`), whose slopes below and whose multipliers on the
linear constraints are improved by Polyak steps towards the incumbent, and the mean value form

.. math:: Q(x) \le Q(c) + \sum_i r_i \max(|\underline{g}_i|, |\overline{g}_i|)

around the centre c, with half widths r and bounds g on the partial derivatives. Where a derivative
keeps its sign over the node and the variable is in no constraint, the node shrinks to that side.
The nodes are halved where derivatives vary most, integer and binary variables between two whole
numbers, whose range the constraints shorten; as a ReLU network is piecewise linear, a small node is
soon one piece, over which the bound is exact, or a single action. Neurons are not split: with
multipliers on their sides it took four to seven times the parts (six variables and 16-32 neurons,
three networks, by hand), as the bounds of the second layer do not see the cut.

The states of a batch are searched side by side: each round takes the most promising nodes of every
state, as many for each, and bounds all their halves in a few array operations. This suits few
variables, and wide networks; over a network of some 50 neurons, with eight variables or more, a
mixed-integer program is the better choice. After 100,000 nodes, over wide networks 4,000 for each
neuron, or when the nodes that are left fill 1 GB, a state is left with the gap it has.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.bounds import Bounds, interval
from milp_rl.formulations.networks.action_value import (
    ActionNetworks,
    ActionValue,
)
from milp_rl.formulations.networks.network import INPUT, Network
from milp_rl.formulations.relaxation import (
    Lines,
    Relaxation,
    polyak_steps,
    slope_gradients,
)
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.spaces.region import Region
from milp_rl.solvers.bounded import BoundedArgmax
from milp_rl.solvers.certify import ArgmaxProblem
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.log import Progress
from milp_rl.solvers.options import SolveOptions, late
from milp_rl.solvers.protocol import Answer, Starts
from milp_rl.solvers.result import Status

_NODES_PER_ROUND = 32  # per state
_EASY_NODES = 200  # per state, up to which a bound takes one pass and no Polyak step
_STEPS = 3  # passes per bound, with a Polyak step between them, once a state needs more nodes
_MOST_NODES, _MOST_PER_NEURON = 100_000, 4_000  # of a state: the larger number
_MOST_BYTES = 1_000_000_000  # of the nodes that are left, of all states


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Nodes: boxes of actions.

    Each belongs to a state, has a bound and a variable to halve it at, and the lower slopes of the
    hidden neurons and the multipliers of the constraints that the bound was found with. Neurons
    whose phase is 1 are on all over the node, those of -1 off.
    """

    lower: FloatArray
    upper: FloatArray
    state: IntArray
    bound: FloatArray
    split: IntArray
    slopes: FloatArray
    multipliers: FloatArray
    phase: NDArray[np.int8]

    def __getitem__(self, rows: NDArray[np.bool_] | IntArray) -> _Boxes:
        return _Boxes(*(column[rows] for column in vars(self).values()))

    def joined(self, other: _Boxes) -> _Boxes:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Boxes(*(np.concatenate(pair) for pair in pairs))


class SpatialArgmax(BoundedArgmax):
    r"""Exact argmax over a :class:`.Box`, or another space without auxiliary variables.

    .. math:: \max \{ Q(x, s) : l \le x \le u,\; M x \le r,\;
              x_i \in \mathbb{Z} \text{ for whole } i \}

    Parameters
    ----------
    value
        Q(state, action), or a network of one output whose inputs are [action, state].
    space
        The feasible set.
    incumbents
        What is known of the space.

    Raises
    ------
    ValueError
        If the block of the space has auxiliary variables.

    Examples
    --------
    The tent ``1 - |x - 0.25|`` over [-1, 1]:

    >>> import milp_rl as mr
    >>> weights = [[[1.0], [-1.0]], [[-1.0, -1.0]]]
    >>> tent = mr.Network.from_arrays(weights, [[-0.25, 0.25], [1.0]])
    >>> result = mr.argmax(tent, [], mr.Box([-1.0], [1.0]), solver="branch_and_bound")
    >>> result.status, result.action, result.value
    ('optimal', array([0.25]), 1.0)
    """

    name = "branch_and_bound"

    def __init__(
        self, value: ActionValue | Network, space: ActionSpace, incumbents: Incumbents | None = None
    ) -> None:
        region = Region.of(space)
        if region is None:
            raise ValueError(
                "branch and bound takes a space of binary variables, or one without auxiliary"
                f" variables, such as a Box; this {type(space).__name__} has {space.domains} and"
                f" {space.linear_model.n_columns - space.n_actions} auxiliary ones: use"
                " solver='highs', 'gurobi' or 'scip'"
            )
        self._region = region
        super().__init__(value, space, incumbents)

    def _search(
        self,
        networks: ActionNetworks,
        problems: list[ArgmaxProblem],
        bounds: Bounds,
        options: SolveOptions,
        starts: Starts,
        pins: Pins,
        begin: float,
    ) -> list[Answer]:
        search = _Search(networks, self._region, problems, options, bounds, self.incumbents)
        for firsts in (self.incumbents.build(networks, pins=pins), starts):
            for i, first in enumerate(firsts):
                if first is not None:
                    search.offer(first[None].astype(float), np.array([i]))
        search.begin(pins)
        deadline = options.deadline(begin)
        progress = Progress(options.log)
        while not late(deadline) and search.halve():
            progress.report(search.describe)
        seconds = (time.perf_counter() - begin) / len(problems)
        return [self._answer(search, i, options, seconds) for i in range(len(problems))]

    def _answer(self, search: _Search, i: int, options: SolveOptions, seconds: float) -> Answer:
        problem, bound, nodes = search.problems[i], search.bound_of(i), int(search.nodes[i])
        if not search.known[i]:
            status: Status = "no_solution" if search.is_open(i) else "infeasible"
            return Answer(problem, None, bound, seconds, nodes, status=status)
        action = search.action[i].astype(self.space.dtype)
        message = f"divided the box into {nodes} parts"
        if not problem.finished(problem.value(action), bound, options):
            message = f"stopped at the limit after it had {message}"
            if search.filled >= 1.0:
                message += " (there is no room for more)"
            elif search.limit <= nodes and search.limit != options.node_limit:
                message += f" (its own limit is {search.limit})"
        return Answer(problem, action, bound, seconds, nodes, message=message)


class _Search:
    """The open nodes and incumbents of a batch of states."""

    def __init__(
        self,
        networks: ActionNetworks,
        region: Region,
        problems: list[ArgmaxProblem],
        options: SolveOptions,
        bounds: Bounds,
        incumbents: Incumbents,
    ) -> None:
        count = networks.n_states
        self.region, self.problems, self.options = region, problems, options
        self._incumbents = incumbents
        # Points within a Box of continuous variables need no check.
        self._checked = bool(region.whole.any()) or not isinstance(incumbents.space, Box)
        self._relaxation = relaxation = Relaxation(networks)
        self._plain = _shares_two_layers(relaxation)
        none = np.zeros((count, 0))
        self._bytes_each = (
            9 * relaxation.neurons + 16 * networks.n_actions + 8 * len(region.right) + 24
        )
        self.limit = max(_MOST_NODES, _MOST_PER_NEURON * relaxation.neurons)  # of nodes of a state
        if options.node_limit is not None:
            self.limit = min(self.limit, options.node_limit)
        self._low = np.concatenate([none, *bounds.lower], axis=1)
        self._high = np.concatenate([none, *bounds.upper], axis=1)
        self._sizes, own = relaxation.all_sizes(region.reach, self._high)
        self._output_size = own[:, 0]
        self.action = np.full((count, networks.n_actions), np.nan)
        self.value = np.full(count, -np.inf)
        # The bounds up to which nodes need not be searched.
        self.target = np.full(count, -np.inf)
        self.pruned = np.full(count, -np.inf)  # the largest bound that was not searched further
        self.nodes = np.zeros(count, dtype=int)

    def begin(self, pins: Pins) -> None:
        """Bound the whole set, of each state within its pins."""
        count = len(self.value)
        lower, upper = (np.tile(s, (count, 1)) for s in (self.region.lower, self.region.upper))
        if pins.one is not None:
            lower = np.where(pins.one, 1.0, lower)
        if pins.zero is not None:
            upper = np.where(pins.zero, 0.0, upper)
        self._open = self._bounded(
            lower,
            upper,
            np.arange(count),
            np.full((count, self._relaxation.neurons), np.nan),
            np.zeros((count, len(self.region.right))),
            (self._low >= 0).astype(np.int8) - (self._high <= 0),
        )

    def describe(self) -> str:
        """Say how far the searches are."""
        text = f"{self.nodes.sum()} parts, {len(self._open.state)} open"
        if len(self.problems) > 1:
            left = len(np.unique(self._open.state))
            return f"{left} of {len(self.problems)} states left, {text}"
        value, bound = (x + self.problems[0].offset for x in (self.value[0], self.bound_of(0)))
        return f"{text}, value {value:.9g}, bound {bound:.9g}"

    @property
    def known(self) -> NDArray[np.bool_]:
        """The states of which a feasible action is known."""
        return np.asarray(np.isfinite(self.value))

    @property
    def filled(self) -> float:
        """The share of the room for nodes that is taken."""
        return float(len(self._open.state) * self._bytes_each / _MOST_BYTES)

    def is_open(self, i: int) -> bool:
        """Whether nodes of a state are left."""
        return bool((self._open.state == i).any())

    def bound_of(self, i: int) -> float:
        """Return the proven bound of a state."""
        own = self._open.bound[self._open.state == i]
        return float(max(self.pruned[i], self.value[i], own.max(initial=-np.inf)))

    def offer(self, actions: FloatArray, state: IntArray) -> None:
        """Take actions as incumbents where they are better."""
        values = self._relaxation.values(actions, state)
        better = np.flatnonzero(values > self.value[state])
        if self._checked:
            better = self._feasible(actions, state, better[np.argsort(-values[better])])
        order = better[np.lexsort((-values[better], state[better]))]
        better = order[np.unique(state[order], return_index=True)[1]]
        self.action[state[better]] = actions[better]
        self.value[state[better]] = values[better]
        for i in state[better]:
            self.target[i] = self.problems[i].target(float(self.value[i]), self.options)

    def _feasible(self, actions: FloatArray, state: IntArray, rows: IntArray) -> IntArray:
        """Return the first of some rows, for each state, that the space's own check accepts."""
        found: dict[int, int] = {}
        for row in rows.tolist():
            own, action = int(state[row]), actions[row].astype(self._incumbents.space.dtype)
            if own not in found and self._incumbents.feasible(action):
                found[own] = row
        return np.array(list(found.values()), dtype=np.intp)

    def halve(self) -> bool:
        """Halve the most promising nodes of every state; false if none is left."""
        self._open = nodes = self._kept(self._open)
        # The best nodes of each state, by their rank in it.
        order = np.lexsort((-nodes.bound, nodes.state))
        firsts = np.searchsorted(nodes.state[order], nodes.state[order])
        chosen = np.arange(len(order)) - firsts < _NODES_PER_ROUND
        chosen &= self.nodes[nodes.state[order]] < self.limit
        if self.filled >= 1.0:
            return False
        if self.filled >= 0.5 and chosen.any():  # one state at a time, the nearest to its end
            states, counts = np.unique(nodes.state, return_counts=True)
            going_on = np.isin(states, nodes.state[order[chosen]])
            chosen &= nodes.state[order] == states[going_on][counts[going_on].argmin()]
        taken, left = nodes[order[chosen]], nodes[order[~chosen]]
        if not len(taken.state):
            return False
        each = np.arange(len(taken.state))
        middle = (taken.lower[each, taken.split] + taken.upper[each, taken.split]) / 2
        lower, upper = taken.lower.copy(), taken.upper.copy()
        whole = self.region.whole[taken.split]
        upper[each, taken.split] = np.where(whole, np.floor(middle), middle)
        lower[each, taken.split] = np.where(whole, np.floor(middle) + 1.0, middle)
        halves = self._bounded(
            np.concatenate([taken.lower, lower]),
            np.concatenate([upper, taken.upper]),
            *(
                np.concatenate([c, c])
                for c in (taken.state, taken.slopes, taken.multipliers, taken.phase)
            ),
        )
        self._open = left.joined(halves)
        return True

    def _kept(self, nodes: _Boxes) -> _Boxes:
        """Prune what cannot be better than the incumbents by more than the gap."""
        pruned = nodes.bound <= self.target[nodes.state]
        np.maximum.at(self.pruned, nodes.state[pruned], nodes.bound[pruned])
        return nodes[~pruned]

    def _bounded(
        self,
        lower: FloatArray,
        upper: FloatArray,
        state: IntArray,
        slopes: FloatArray,
        multipliers: FloatArray,
        phase: NDArray[np.int8],
    ) -> _Boxes:
        """Bound boxes, shrink them, and try what looks best in them."""
        np.add.at(self.nodes, state, 1)
        lower, upper = self.region.tightened(lower, upper)
        inside = self.region.reached(lower, upper)
        inside[inside] = self.region.nonempty(lower[inside], upper[inside])
        lower, upper, state = lower[inside], upper[inside], state[inside]
        slopes, multipliers, phase = slopes[inside], multipliers[inside], phase[inside]
        centre, radius = (lower + upper) / 2, (upper - lower) / 2
        low, high = self._neurons(centre, radius, state, phase)
        phase = (low >= 0).astype(np.int8) - (high <= 0)
        steepest_down, steepest_up, steepest = self._derivatives(low, high, state)
        reach = np.maximum(np.abs(steepest_down), np.abs(steepest_up))
        bound = self._relaxation.values(centre, state) + (radius * reach).sum(axis=1)
        top = len(self._relaxation.layers)
        size = self._output_size[state]
        margin = self._relaxation.margins(top, self._sizes[state], size, steepest)
        bound += margin
        self._try(centre, lower, upper, state)
        relaxed, slopes, multipliers = self._relaxed(
            lower, upper, state, Lines.over(low, high), slopes, multipliers
        )
        bound = np.minimum(bound, relaxed)
        free = self.region.free
        rises, falls = free & (steepest_down >= 0), free & (steepest_up <= 0)
        lower = np.where(rises, upper, lower)
        upper = np.where(falls & ~rises, lower, upper)
        single = (lower == upper).all(axis=1)
        if single.any():  # one action is left: its value is the bound
            self._settle(lower[single], state[single], bound[single], margin[single])
        varies = (upper - lower) * (steepest_up - steepest_down)
        widest = np.where(varies.any(axis=1), varies.argmax(axis=1), (upper - lower).argmax(axis=1))
        nodes = _Boxes(lower, upper, state, bound, widest, slopes, multipliers, phase)
        return nodes[~single]

    def _settle(
        self, actions: FloatArray, state: IntArray, bound: FloatArray, margin: FloatArray
    ) -> None:
        """Take nodes of a single action each into account, where it is feasible."""
        self._try(actions, actions, actions, state)
        bound = np.minimum(bound, self._relaxation.values(actions, state) + margin)
        above = np.flatnonzero(bound > self.target[state])
        refused = np.zeros(len(state), dtype=bool)
        for i in above if self._checked else ():
            refused[i] = not len(self._feasible(actions, state, above[above == i]))
        np.maximum.at(self.pruned, state[~refused], bound[~refused])

    def _try(
        self, points: FloatArray, lower: FloatArray, upper: FloatArray, state: IntArray
    ) -> None:
        """Offer points of boxes, moved to feasible ones."""
        x, met = self.region.feasible_points(points, lower, upper, self.action[state])
        self.offer(x[met], state[met])

    def _relaxed(
        self,
        lower: FloatArray,
        upper: FloatArray,
        state: IntArray,
        lines: Lines,
        slopes: FloatArray,
        multipliers: FloatArray,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        r"""Bound boxes by the relaxed network; return the last slopes and multipliers, too.

        With the affine function :math:`g x + c` above the network, the maximum over the box under
        the constraints :math:`Mx \le r` is for every :math:`\lambda \ge 0` at most

        .. math:: c + \lambda r + \max_{l \le x \le u} (g - \lambda M) x.
        """
        relaxation, rows = self._relaxation, self.region
        depth = len(relaxation.layers)
        best = np.full(len(state), np.inf)
        hard = self.nodes.max() > _EASY_NODES
        known = lines.unstable & np.isfinite(slopes) & hard
        slopes = np.where(known, slopes, lines.lower)
        for left in range(_STEPS if hard else 1, 0, -1):
            own = lines.with_slopes(slopes)
            a, constant, p = (
                part[:, 0]
                for part in relaxation.backward(relaxation.rows(depth, state), state, own)
            )
            maxima, corner = rows.maxima(a - multipliers @ rows.matrix, lower, upper)
            bound = maxima + constant + multipliers @ rows.right
            bound += relaxation.bias(depth, state)[..., 0]
            size = self._output_size[state] + multipliers @ rows.sizes
            bound += relaxation.margins(depth, self._sizes[state], size, np.abs(p))
            best = np.minimum(best, bound)
            self._try(corner, lower, upper, state)
            goal = np.where(self.known, self.target, np.inf)[state]
            excess = bound - goal
            if left == 1 or not (excess > 0).any():
                break
            z, _ = relaxation.forward(corner, state, p, own)
            room = rows.right - corner @ rows.matrix.T
            slopes, multipliers = _moved(own, p, z, slopes, multipliers, room, excess)
            multipliers = rows.sensible(multipliers, a, upper - lower)
        return best, slopes, multipliers

    def _neurons(
        self, centre: FloatArray, radius: FloatArray, state: IntArray, phase: NDArray[np.int8]
    ) -> tuple[FloatArray, FloatArray]:
        """Bound the pre-activations of hidden neurons over boxes, (boxes, neurons).

        Those of which the phase is known get bounds that say no more than that.
        """
        relaxation = self._relaxation
        lows = np.where(phase == 0, self._low[state], np.where(phase > 0, 0.0, -1.0))
        highs = np.where(phase == 0, self._high[state], np.where(phase > 0, 1.0, 0.0))
        for depth, part in enumerate(relaxation.layers):
            if depth == 1 and self._plain:
                self._second_layer(centre, radius, state, phase, lows, highs)
                continue
            before = slice(0, part.start)
            box, neuron = np.nonzero(phase[:, part] == 0)
            if not len(box):
                continue
            at = part.start + neuron
            states = state[box]
            size = self._sizes[states, at][:, None]
            rows = relaxation.row_of_both_signs(depth, neuron, states)
            if depth == 0:
                a, constant = rows[INPUT], relaxation.rounding(0, size)
            else:
                lines = Lines.over(lows[:, before], highs[:, before]).at(box)
                a, constant, p = relaxation.backward(rows, states, lines)
                sizes = self._sizes[states, before]
                constant += relaxation.margins(depth, sizes, size, np.abs(p))
            reach = constant + np.matmul(a, centre[box][..., None])[..., 0]
            reach += np.matmul(np.abs(a), radius[box][..., None])[..., 0]
            bias = relaxation.bias(depth, states)
            bias = bias[neuron] if bias.ndim == 1 else bias[np.arange(len(box)), neuron]
            lows[box, at] = np.maximum(lows[box, at], bias - reach[:, 1])
            highs[box, at] = np.minimum(highs[box, at], bias + reach[:, 0])
        return lows, highs

    def _second_layer(
        self,
        centre: FloatArray,
        radius: FloatArray,
        state: IntArray,
        phase: NDArray[np.int8],
        lows: FloatArray,
        highs: FloatArray,
    ) -> None:
        r"""Tighten the bounds of the second layer in place, of all its neurons by matrix products.

        With U and L the lines above and below the neurons of the first as functions of the action,
        which are the same for all rows, above a row w of it lies

        .. math:: \sum_j w_j^+ U_j + w_j^- L_j = w (U + L) / 2 + |w| (U - L) / 2,

        and below it the same with the other sign of the second part.
        """
        relaxation = self._relaxation
        first, second = relaxation.layers[:2]
        lines = Lines.over(lows[:, first], highs[:, first])
        (_, weight), bias = relaxation.inputs[0][0], relaxation.bias(0, state)
        above, below = (
            np.concatenate([slope[..., None] * weight, (slope * bias + constant)[..., None]], 2)
            for slope, constant in ((lines.upper, lines.intercept), (lines.lower, 0.0))
        )
        n, rows = weight.shape[1], dict(relaxation.inputs[1])
        absolute = dict(relaxation.absolute[1])[0]
        # (neurons of the first layer, boxes and coefficients)
        between, apart = (
            part.transpose(1, 0, 2).reshape(len(weight), -1) / 2
            for part in (above + below, above - below)
        )
        middle, half = rows[0] @ between, absolute @ apart
        sizes = self._sizes[state]
        margin = relaxation.rounding(1, sizes[:, second])
        margin += (sizes[:, first] * relaxation.neuron_gammas[first]) @ absolute.T
        ends = []
        for found, sign in ((middle + half, 1.0), (middle - half, -1.0)):
            found = found.reshape(len(absolute), len(state), n + 1).transpose(1, 0, 2)
            a = found[..., :n] + rows.get(INPUT, 0.0)
            end = found[..., n] + np.einsum("brn,bn->br", a, centre)
            end += sign * (np.einsum("brn,bn->br", np.abs(a), radius) + margin)
            ends.append(end + relaxation.bias(1, state))
        unknown = phase[:, second] == 0
        highs[:, second] = np.where(
            unknown, np.minimum(highs[:, second], ends[0]), highs[:, second]
        )
        lows[:, second] = np.where(unknown, np.maximum(lows[:, second], ends[1]), lows[:, second])

    def _derivatives(
        self, low: FloatArray, high: FloatArray, state: IntArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Bound the partial derivatives over boxes.

        Returns
        -------
        tuple of numpy.ndarray
            Bounds of those by the actions from below and above, (boxes, n_actions), and of the
            absolute values of those by the outputs of neurons, (boxes, neurons).
        """
        relaxation, boxes = self._relaxation, len(state)
        steepest = np.zeros((boxes, relaxation.neurons))
        top = len(relaxation.layers)
        bounds = {
            source: (np.repeat(rows, boxes // len(rows), axis=0)[:, 0],) * 2
            for source, rows in relaxation.rows(top, state).items()
        }
        for depth in range(top - 1, -1, -1):
            if depth not in bounds:
                continue
            part = relaxation.layers[depth]
            on, possible = low[:, part] >= 0, high[:, part] > 0
            down, up = bounds.pop(depth)
            steepest[:, part] = np.maximum(np.abs(down), np.abs(up))
            down = np.where(down < 0, down * possible, down * on)
            up = np.where(up > 0, up * possible, up * on)
            for source, weight in relaxation.inputs[depth]:
                turned = weight.T if weight.ndim == 2 else weight[state].transpose(0, 2, 1)
                least, most = interval(turned, down, up)
                known = bounds.get(source, (0.0, 0.0))
                bounds[source] = (known[0] + least, known[1] + most)
        none = np.zeros((boxes, relaxation.n_actions))
        return *bounds.get(INPUT, (none, none)), steepest


def _shares_two_layers(relaxation: Relaxation) -> bool:
    """Whether the first layer takes the action alone, the second the first, in all states alike."""
    if len(relaxation.layers) < 2:
        return False
    first, second = relaxation.inputs[:2]
    shared = all(weight.ndim == 2 for _, weight in (*first, *second))
    return shared and [source for source, _ in first] == [INPUT] and 0 in dict(second)


def _moved(
    lines: Lines,
    p: FloatArray,
    z: FloatArray,
    slopes: FloatArray,
    multipliers: FloatArray,
    room: FloatArray,
    excess: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Take a Polyak step of slopes and multipliers; what their limits hold is left out."""
    by_slope = slope_gradients(lines, p, z, slopes)
    by_multiplier = np.where((multipliers <= 0) & (room > 0), 0.0, room)
    step = polyak_steps(excess, by_slope, by_multiplier)
    return (
        np.clip(slopes - step * by_slope, 0.0, 1.0),
        np.maximum(multipliers - step * by_multiplier, 0.0),
    )
