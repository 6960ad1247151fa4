"""What solvers take and give, and the one place where an argmax is certified.

A solver's word is not taken for it. :func:`certify` accepts an action only if it is feasible by
the space's own check, values it by the network's forward pass, and looks for a contradiction: a
feasible action, be it the returned one, the start, any neighbour one flip or one swap away (for
continuous actions: points on the way to other actions), or one of a fixed random sample of the
space, whose value exceeds the bound that the solver claims.
:func:`check_bounds` looks in the same way for a feasible action that leaves the neuron bounds which
the model was built with, as it would with a wrong ``linear_max`` in a block of your own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.linear_model import LinearModel
from milp_rl.formulations.network import FloatArray, Network

Status = Literal["optimal", "feasible", "infeasible", "no_solution", "error"]

TOLERANCE = 1e-6
"""Values that differ by at most this, relative to ``max(1, |value|)``, count as equal."""

_SAMPLE_SIZE = 256
_SAMPLE_SECONDS = 0.05
_SHARES = (0.5, 0.1, 0.01, 0.001)


class CertificationError(RuntimeError):
    """A solver's answer contradicts the network or the space, also when solved more tightly."""


class SolverUnavailableError(RuntimeError):
    """A solver is not installed, has no licence, or its licence is too small for the model."""


@dataclass(frozen=True)
class SolveOptions:
    """Limits of one solve.

    Parameters
    ----------
    gap
        Relative gap at which to stop, (bound - value) / |value|, at least 0.
    absolute_gap
        Absolute gap at which to stop, at least 0; the solve stops at whichever comes first.
    time_limit
        Seconds, positive; ``None`` for none.
    threads
        Threads a solve, at least 1.
    node_limit
        Branch-and-bound nodes, at least 1; ``None`` for no limit.
    """

    gap: float = 0.0
    absolute_gap: float = 0.0
    time_limit: float | None = None
    threads: int = 1
    node_limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("gap", "absolute_gap"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a nonnegative number, got {value!r}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit must be positive seconds or None, got {self.time_limit}")
        if not (isinstance(self.threads, int) and self.threads >= 1):
            raise ValueError(f"threads must be an integer of at least 1, got {self.threads!r}")
        limit = self.node_limit
        if limit is not None and not (isinstance(limit, int) and limit >= 1):
            raise ValueError(f"node_limit must be an integer of at least 1 or None, got {limit!r}")

    def closed(self, value: float, bound: float) -> bool:
        """Whether ``bound - value`` is within the requested gap (or the tolerance)."""
        return bound - value <= self._allowed(value)

    def target(self, value: float) -> float:
        """Return a bound that is :meth:`closed`, with what rounding may add."""
        return value + 0.999 * self._allowed(value)

    def _allowed(self, value: float) -> float:
        return max(self.gap * abs(value), self.absolute_gap, tolerance(value))


def tolerance(value: float) -> float:
    """Return the absolute difference below which two values count as equal."""
    return TOLERANCE * max(1.0, abs(value))


@dataclass(frozen=True, eq=False)
class MilpSolution:
    """What a MILP solver says of a :class:`LinearModel`.

    Parameters
    ----------
    status
        ``"optimal"`` means within the requested gap.
    x
        Column values of the best solution found, or ``None``.
    bound
        Upper bound on the maximum; infinite if there is none.
    nodes
        Branch-and-bound nodes.
    message
        The solver's own word for its status.
    """

    status: Status
    x: FloatArray | None
    bound: float
    nodes: int = 0
    message: str = ""


class MilpSolver(Protocol):
    """A persistent MILP solver; a solve's result does not depend on earlier ones."""

    name: str

    def solve(
        self,
        model: LinearModel,
        options: SolveOptions,
        *,
        start: FloatArray | None = None,
        tight: bool = False,
        seed: int = 0,
    ) -> MilpSolution:
        """Maximise ``model``.

        Parameters
        ----------
        model
            The problem.
        options
            Limits.
        start
            Column values to start from, NaN where unknown.
        tight
            Use the tightest tolerances the solver has.
        seed
            Of the solver's own random decisions: another one takes another path.
        """
        ...


@dataclass(frozen=True, eq=False)
class ArgmaxResult:
    """A certified answer to ``max Q(state, action)`` over a feasible set.

    Parameters
    ----------
    action
        Shape (n_actions,), int8, or float64 if variables of the space are continuous; ``None`` if
        none was found.
    value
        The network's value of ``action``, recomputed by a forward pass in float64; NaN without
        action.
    bound
        Proven bound on the optimal value: no feasible action is better than this.
    gap
        ``|bound - value| / |value|``; 0 within the tolerance, infinite without action.
    status
        ``"optimal"``: within the requested gap. ``"feasible"``: stopped before, with a valid
        bound. ``"infeasible"``: the set is empty. ``"no_solution"``: stopped before any action
        was found. ``"error"``: the solver failed.
    seconds
        Wall-clock time of this solve.
    solver
        The solver that answered.
    nodes
        Branch-and-bound nodes (actions evaluated, for enumeration).
    unstable
        Neurons proven neither on nor off, those that need a binary variable; -1 if not computed.
    message
        What the solver said, or why it was chosen or stopped.
    """

    action: ActionArray | None
    value: float
    bound: float
    gap: float
    status: Status
    seconds: float
    solver: str
    nodes: int = 0
    unstable: int = -1
    message: str = ""

    @property
    def chosen(self) -> list[int]:
        """Indices of the actions set to one."""
        return [] if self.action is None else np.flatnonzero(self.action).tolist()


def relative_gap(value: float, bound: float) -> float:
    """Return ``|bound - value| / |value|``, 0 within the tolerance."""
    difference = abs(bound - value)
    if difference <= tolerance(value):
        return 0.0
    return difference / abs(value) if value else math.inf


@dataclass(frozen=True, eq=False)
class ArgmaxProblem:
    """Maximise a scalar network, a function of the action alone, over a space.

    Parameters
    ----------
    network
        With the state folded in (:meth:`Network.at_state`), one output.
    space
        The feasible set.
    """

    network: Network
    space: ActionSpace = field(repr=False)

    def value(self, action: ArrayLike) -> float:
        """Value of one action by a forward pass in float64."""
        return float(self.network.forward(np.asarray(action, dtype=np.float64))[0])


def certify(
    problem: ArgmaxProblem,
    action: ActionArray,
    bound: float,
    sample: ActionArray | None = None,
    feasible: Callable[[ActionArray], bool] | None = None,
) -> list[str]:
    """Check a claimed solution without the solver.

    Parameters
    ----------
    problem
        What was solved.
    action
        The action claimed feasible.
    bound
        The claimed bound on the optimal value.
    sample
        Feasible actions to test the bound with, shape (any, n_actions).
    feasible
        Remembers what ``violations`` said of other actions.

    Returns
    -------
    list of str
        What contradicts the claim; empty if nothing does.
    """
    violations = problem.space.violations(action)
    if violations:
        return [f"the action is not feasible: {text}" for text in violations]
    value = problem.value(action)
    if math.isnan(bound) or value > bound + tolerance(value):
        return [f"the action's value {value!r} exceeds the claimed bound {bound!r}"]
    limit = bound + tolerance(bound)
    if problem.space.binary:
        others = neighbourhood(action, np.flatnonzero(neighbour_values(problem, action) > limit))
    else:
        others = np.zeros((0, len(action))) if sample is None else sample
        others = on_the_way(problem.space, action, others)
        others = others[problem.network.forward(others)[:, 0] > limit]
    if sample is not None and len(sample):
        above = problem.network.forward(sample)[:, 0] > limit
        others = np.concatenate([others, sample[above]])
    for other in others:
        if feasible(other) if feasible else not problem.space.violations(other):
            return [
                f"the feasible action {np.flatnonzero(other).tolist()} has value"
                f" {problem.value(other)!r}, above the claimed bound {bound!r}"
            ]
    return []


def draw_sample(space: ActionSpace) -> ActionArray:
    """Draw the feasible actions that every answer for the space is tested with, once for all.

    Returns
    -------
    numpy.ndarray
        Shape (any, n_actions); few where drawing takes long, none from an empty space.
    """
    if space.test_sample is None:
        space.test_sample = _drawn(space)
    return space.test_sample


def _drawn(space: ActionSpace) -> ActionArray:
    rng = np.random.default_rng(0)
    rows: list[ActionArray] = []
    deadline = time.perf_counter() + _SAMPLE_SECONDS
    try:
        while len(rows) < _SAMPLE_SIZE and time.perf_counter() < deadline:
            rows.extend(space.sample(rng, maximal=bool(len(rows) % 2)))
    except ValueError:  # nothing feasible to sample
        rows = []
    feasible = [row for row in rows if not space.violations(row)]
    return np.asarray(np.reshape(feasible, (-1, space.n_actions))).astype(space.dtype)


def check_bounds(problem: ArgmaxProblem, bounds: Bounds, sample: ActionArray) -> None:
    """Check that feasible actions keep within the neuron bounds of one state.

    Raises
    ------
    CertificationError
        If one does not, naming the neuron.
    """
    hidden = sample.astype(np.float64)
    for depth, layer in enumerate(problem.network.hidden):
        before = hidden @ layer.weight.T + layer.bias
        low, high = bounds.lower[depth][0], bounds.upper[depth][0]
        margin = 1e-6 * (1.0 + np.abs(before))
        wrong = np.argwhere((before < low - margin) | (before > high + margin))
        if len(wrong):
            row, neuron = (int(i) for i in wrong[0])
            raise CertificationError(
                f"the feasible action {np.flatnonzero(sample[row]).tolist()} gives neuron {neuron}"
                f" of hidden layer {depth} the pre-activation {before[row, neuron]!r}, outside its"
                f" bounds [{low[neuron]!r}, {high[neuron]!r}]; is `linear_max` of"
                f" {type(problem.space).__name__} an upper bound?"
            )
        hidden = np.maximum(before, 0.0)


def on_the_way(space: ActionSpace, action: ActionArray, others: ActionArray) -> ActionArray:
    """Move an action's continuous variables some of the way towards those of other actions."""
    moves = np.where(space.continuous, others - action, 0.0)
    return np.concatenate([action + share * moves for share in _SHARES])


def neighbourhood(action: ActionArray, rows: NDArray[np.intp]) -> ActionArray:
    """Return actions one flip or one swap away, shape (rows, n_actions).

    Parameters
    ----------
    action
        Binary vector.
    rows
        Which: the flips in order, then for each one in turn its swaps with the zeros.
    """
    n = len(action)
    ones, zeros = np.flatnonzero(action), np.flatnonzero(action == 0)
    found = np.repeat(action[None], len(rows), axis=0)
    flips, swaps = np.flatnonzero(rows < n), np.flatnonzero(rows >= n)
    found[flips, rows[flips]] = 1 - found[flips, rows[flips]]
    if len(swaps):
        one, zero = np.divmod(rows[swaps] - n, len(zeros))
        found[swaps, ones[one]] = 0
        found[swaps, zeros[zero]] = 1
    return found


def neighbour_values(problem: ArgmaxProblem, action: ActionArray) -> FloatArray:
    """Value all actions one flip or one swap away, in the order of :func:`neighbourhood`."""
    first, *rest = problem.network.layers
    columns = first.weight.T  # what each action adds to the first layer
    here = columns[action == 1].sum(axis=0) + first.bias
    ones, zeros = columns[action == 1], columns[action == 0]
    flips = here + np.where(action[:, None] == 1, -columns, columns)
    swaps = (here - ones)[:, None] + zeros
    y = np.concatenate([flips, swaps.reshape(-1, len(here))])
    for layer in rest:
        y = np.maximum(y, 0.0, out=y) @ layer.weight.T
        y += layer.bias
    return np.asarray(y[:, 0])
