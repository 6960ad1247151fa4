"""The problem of one state, and the one place where an answer to it is certified.

A solver's word is not taken for it. :func:`certify` accepts an action only if it is feasible by
the space's own check and by the constraints it writes, and within the pins of the call; values it
by the network's forward pass; and looks for a contradiction: a feasible action within the pins, be
it the returned one, any neighbour one flip or one swap away (of more than 100,000 swaps, a fixed
part), or one of a fixed random sample of the space (for continuous actions: also points on the way
to these, and where ascent along the gradient leads; for integer ones, one up or down), whose value
exceeds the claimed bound.
:func:`check_bounds` looks in the same way for a feasible action that leaves the neuron bounds which
the model was built with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.kernels.description import Loops
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.contradictions import (
    ContradictionError,
    refusal,
    row_distance,
    shown,
)
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.neighbours import SHARES, neighbourhood, neighbours_above, on_the_way
from milp_rl.solvers.options import TOLERANCE, SolveOptions

if TYPE_CHECKING:
    from milp_rl.solvers.incumbents import Incumbents

_RESOLUTION = 4.0  # times the rounding, values closer than that cannot be told apart
_ASCENTS = 4  # of the best points known, for continuous actions,
_ASCENT_STEPS = 3
_LEEWAY = 10.0
_LARGEST_CANDIDATES = 50_000_000  # entries of the neighbours above a bound that are looked at


@dataclass(frozen=True, eq=False)
class ArgmaxProblem:
    """Maximise a scalar network, a function of the action alone, over a space.

    The constant of the output layer is kept apart: searches work without it, so that adding 1e9 to
    Q costs no precision.

    Parameters
    ----------
    network
        With the state folded in (:meth:`Network.at_state`), one output, without its constant.
    space
        The feasible set.
    offset
        That constant.
    sample
        Feasible actions known beforehand, shape (any, n_actions).
    rounding
        What float64 may lose of a value or a bound.
    pins
        Binary actions held at one or zero; the sample is within them.
    loops
        Network and space as compiled loops take them, where they are used.
    """

    network: Network
    space: ActionSpace = field(repr=False)
    offset: float = 0.0
    sample: ActionArray | None = field(default=None, repr=False)
    rounding: float = 0.0
    pins: Pins = field(default_factory=Pins)
    loops: Loops | None = field(default=None, repr=False)

    def outside_pins(self, action: ActionArray) -> str:
        """Say that an action does not keep to the pins; empty if it does."""
        return "" if self.pins.allows(action) else f"not within the masks ({self.pins})"

    def value(self, action: ArrayLike) -> float:
        """Value of one action by a forward pass in float64, without the offset."""
        return float(self.network.forward(np.asarray(action, dtype=np.float64))[0])

    @cached_property
    def sample_values(self) -> FloatArray:
        """Values of the sample, without the offset."""
        if self.sample is None or not len(self.sample):
            return np.zeros(0)
        return np.asarray(self.network.forward(self.sample)[:, 0])

    def spread(self, value: float) -> float:
        """Return how far the values of known feasible actions are apart, ``value`` among them.

        A lower bound on the spread of Q over the feasible set, so that a part of it is never more
        than that part of the true one.
        """
        low, high = self._range
        return max(high, value) - min(low, value)

    @cached_property
    def _range(self) -> tuple[float, float]:
        """Smallest and largest value of the sample."""
        values = self.sample_values
        return float(values.min(initial=math.inf)), float(values.max(initial=-math.inf))

    def tolerance(self, value: float) -> float:
        """Return the difference that counts as none: 1e-6 of the spread of the values.

        Where all known values are equal within the rounding of float64, it is that rounding.
        """
        spread, resolution = self.spread(value), _RESOLUTION * self.rounding
        return TOLERANCE * spread if spread > resolution else resolution

    def allowed(self, value: float, options: SolveOptions) -> float:
        """Return the difference of bound and value at which a solve is done."""
        relative = options.gap * abs(value + self.offset)
        return max(relative, options.absolute_gap, self.tolerance(value))

    def finished(self, value: float, bound: float, options: SolveOptions) -> bool:
        """Whether there is nothing left to search, up to what float64 rounds."""
        return bound - value <= max(self.allowed(value, options), 2.0 * self.rounding)

    def target(self, value: float, options: SolveOptions) -> float:
        """Return the bound at which a part of the set need not be searched."""
        return value + max(0.999 * self.allowed(value, options), 2.0 * self.rounding)


def certify(
    problem: ArgmaxProblem,
    action: ActionArray,
    bound: float,
    incumbents: Incumbents | None = None,
) -> list[str]:
    """Check a claimed solution without the solver.

    Parameters
    ----------
    problem
        What was solved.
    action
        The action claimed feasible.
    bound
        The claimed bound on the optimal value, without the problem's offset.
    incumbents
        Remember what was found of actions.

    Returns
    -------
    list of str
        What contradicts the claim; empty if nothing does.

    Raises
    ------
    ContradictionError
        If the action is feasible by what the space writes as constraints and not by its own
        check, or the other way round.
    """
    space = problem.space
    text = refusal(space, action) if incumbents is None else incumbents.refusal(action)
    text = text or problem.outside_pins(action)
    if not text and not space.met_exactly(action[None])[0]:
        text = "it meets a row only within what is allowed for rounding"
    if text:
        return [f"the action is not feasible: {text}"]
    value = problem.value(action)
    limit = bound + problem.tolerance(value) + problem.rounding
    if math.isnan(bound) or value > limit + leeway(problem, action[None])[0]:
        return [
            f"the action's value {_with_offset(problem, value)} exceeds the claimed bound"
            f" {_with_offset(problem, bound)}"
        ]
    others = _candidates(problem, action, limit)
    for other in others if incumbents is None else incumbents.hopeful(others):
        if incumbents.feasible(other) if incumbents else not space.violations(other):
            return [
                f"the feasible action {shown(space, other)} has value"
                f" {_with_offset(problem, problem.value(other))}, above the claimed bound"
                f" {_with_offset(problem, bound)}"
            ]
    return []


def _with_offset(problem: ArgmaxProblem, value: float) -> str:
    return repr(value + problem.offset)


def _candidates(problem: ArgmaxProblem, action: ActionArray, limit: float) -> ActionArray:
    """Return actions above the limit that may be feasible."""
    sample = problem.sample
    if problem.space.binary:
        others = _few_neighbours(action, *neighbours_above(problem, action, limit))
    else:
        others, values = _ascended(problem, action)
        above = values > limit
        others, values = others[above], values[above]
        return others[values > limit + leeway(problem, others)]
    if sample is not None and len(sample):
        others = np.concatenate([others, sample[problem.sample_values > limit]])
    return others


def _few_neighbours(action: ActionArray, rows: NDArray[np.intp], values: FloatArray) -> ActionArray:
    """Return the flips and the swaps of the highest values, as many as a bounded memory holds."""
    most = max(_LARGEST_CANDIDATES // (2 * len(action)), 1)
    if len(rows) <= most:
        return neighbourhood(action, rows)
    kept = []
    for own in (rows < len(action), rows >= len(action)):
        best = np.argsort(-values[own], kind="stable")[:most]
        kept.append(np.sort(rows[own][best]))
    return neighbourhood(action, np.concatenate(kept))


def leeway(problem: ArgmaxProblem, points: ActionArray) -> FloatArray:
    """Bound what points may gain by being beyond a constraint.

    Continuous actions count as feasible up to 1e-6 beyond; the bound is on those that are not.
    """
    space = problem.space
    model = None if space.binary or not len(points) else space.linear_model
    if model is None or not model.n_rows or model.n_columns > space.n_actions:
        return np.zeros(len(points))
    beyond = np.maximum(row_distance(space, points), 0.0)
    x = np.asarray(points, dtype=np.float64)
    steepest = np.abs(gradients(problem.network, x)).sum(axis=1)
    return np.asarray(_LEEWAY * beyond * steepest)


def _ascended(problem: ArgmaxProblem, action: ActionArray) -> tuple[ActionArray, FloatArray]:
    """Return points on the way from an action to others, and from the best upwards; and values."""
    space = problem.space
    sample = np.zeros((0, len(action))) if problem.sample is None else problem.sample
    near = on_the_way(space, action, sample, problem.pins)
    points = np.concatenate([action[None], near, sample])
    found, values = [points], [problem.network.forward(points)[:, 0]]
    for _ in range(_ASCENT_STEPS if space.continuous.any() else 0):
        points = points[np.argsort(-values[-1], kind="stable")[:_ASCENTS]]
        corners = space.maximizers(gradients(problem.network, points), problem.pins)
        moves = np.where(space.continuous, corners - points, 0.0)
        points = np.concatenate([points + share * moves for share in (0.0, 1.0, *SHARES)])
        found.append(points)
        values.append(problem.network.forward(points)[:, 0])
    return np.concatenate(found), np.concatenate(values)


def gradients(network: Network, points: FloatArray) -> FloatArray:
    """Return the gradient of a scalar network at points, shape (points, n_inputs)."""
    here = np.zeros(len(points), dtype=int)
    return ActionNetworks.of(network).values_and_gradients(np.asarray(points, dtype=float), here)[1]


def check_bounds(problem: ArgmaxProblem, bounds: Bounds) -> None:
    """Check that feasible actions keep within the neuron bounds of one state.

    Raises
    ------
    ContradictionError
        If one does not, naming the neuron: then ``linear_max`` of the space is no upper bound.
    """
    sample = problem.sample
    if sample is None or not len(sample):
        return
    for depth, before in enumerate(problem.network.pre_activations(sample.astype(np.float64))[:-1]):
        low, high = bounds.lower[depth][0], bounds.upper[depth][0]
        margin = 1e-6 * (np.abs(low) + np.abs(high))
        wrong = np.argwhere((before < low - margin) | (before > high + margin))
        if len(wrong):
            row, neuron = (int(i) for i in wrong[0])
            raise ContradictionError(
                f"the feasible action {shown(problem.space, sample[row])} gives neuron {neuron}"
                f" of hidden layer {depth} the pre-activation {before[row, neuron]!r}, outside its"
                f" bounds [{low[neuron]!r}, {high[neuron]!r}]; is `linear_max` of"
                f" {type(problem.space).__name__} an upper bound?"
            )
