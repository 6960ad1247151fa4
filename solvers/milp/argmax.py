"""The argmax as a mixed-integer linear program, for any MILP solver, with certified results."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np
from scipy import sparse

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.bounds import (
    Bounds,
    check_strength,
)
from milp_rl.formulations.milp.compact import (
    CompactModel,
    check_formulation,
    compact_model,
)
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.milp.trees import TreeModel
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.bounded import BoundedArgmax
from milp_rl.solvers.certify import ArgmaxProblem
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.milp.run import Attempt, MilpRun, Written, objective_unit
from milp_rl.solvers.milp.solver import MilpSolver
from milp_rl.solvers.names import Engine
from milp_rl.solvers.options import SolveOptions, late
from milp_rl.solvers.protocol import Answer, Starts
from milp_rl.solvers.ranges import Ranges
from milp_rl.solvers.result import Status


@dataclass(frozen=True)
class MilpOptions:
    """How the network is written as a MILP.

    Parameters
    ----------
    formulation
        ``"bigm"`` or ``"partition"``.
    partitions
        Number of groups per neuron for ``"partition"``.
    bounds
        ``"interval"``, ``"linear"`` or ``"lp"``.
    one_sided
        Drop the constraints of the last hidden layer that maximisation makes redundant.
    engine
        What writes it: ``"compact"`` (:mod:`milp_rl.formulations.milp.compact`), or ``"pyomo"``
        (:mod:`milp_rl.solvers.milp.pyomo_argmax`).

    Raises
    ------
    ValueError
        If a name is unknown or a number out of range.
    """

    formulation: Formulation = "bigm"
    partitions: int = 2
    bounds: Strength = "linear"
    one_sided: bool = True
    engine: Engine = "compact"

    def __post_init__(self) -> None:
        known = get_args(Engine)
        if self.engine not in known:
            names = " or ".join(map(repr, known))
            raise ValueError(f"engine must be {names}, got {self.engine!r}")
        check_formulation(self.formulation, self.partitions)
        check_strength(self.bounds)


class MilpArgmax(BoundedArgmax):
    r"""The argmax by a MILP solver.

    .. math:: \max \Big\{ b_K + \sum_{j < K} W_{Kj} h_j : a \in A,\; h_0 = a,\;
              h_k = \max\Big(0, b_k + \sum_{j < k} W_{kj} h_j\Big) \Big\}

    The space is compiled once, when first needed; for a state, the bounds are propagated, and the
    network's rows are written with the neurons that the bounds leave unstable
    (:func:`~milp_rl.formulations.milp.compact.compact_model`).

    Parameters
    ----------
    value
        Q(state, action), or a network of one output whose inputs are [action, state].
    space
        The feasible set.
    solver
        A MILP solver.
    options
        How the network is written.
    incumbents
        What is known of the space.

    Examples
    --------
    >>> import milp_rl as mr
    >>> network = mr.Network.from_arrays([[[-1.0, 1.0, 1.0]], [[1.0]]], [[-1.0], [0.0]])
    >>> result = mr.argmax(network, [], mr.BudgetTopK(3, 2), solver="highs")
    >>> result.status, result.action, result.value
    ('optimal', array([0, 1, 1], dtype=int8), 1.0)
    """

    parallel = "threads"

    def __init__(
        self,
        value: ActionValue | Network,
        space: ActionSpace,
        solver: MilpSolver,
        options: MilpOptions | None = None,
        incumbents: Incumbents | None = None,
    ) -> None:
        self.solver = solver
        self.name = solver.name
        self.options = options or MilpOptions()
        self._ranges = Ranges(space)
        self.strength = self.options.bounds
        super().__init__(value, space, incumbents)

    @cached_property
    def _base(self) -> LinearModel:
        """The compiled space."""
        return self._ranges.model(self.space.linear_model)

    @property
    def milp_solver(self) -> MilpSolver:
        """The one that it was given."""
        return self.solver

    def for_thread(self) -> MilpArgmax:
        """Return a copy for another thread, with a solver of its own."""
        assert self._base  # compiled once for all threads
        other = copy.copy(self)
        other.solver = type(self.solver)()
        return other

    def over(self, space: ActionSpace, incumbents: Incumbents | None = None) -> MilpArgmax:
        """Return a solver of the same kind and value for another space of the same variables."""
        return type(self)(self.value, space, self.solver, self.options, incumbents)

    def _solve(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[Answer]:
        answers = []
        for i in range(networks.n_states):  # one after another, each with a limit of its own
            own = slice(i, i + 1)
            answers += super()._solve(networks[i], options, starts[own], pins[own])
        return answers

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
        (problem,) = problems
        deadline = options.deadline(begin)
        first = self._first_action(problem, networks, starts[0], deadline)
        highest, unstable = float(bounds.output_upper[0, 0]), int(bounds.unstable[0])
        if first is not None and highest <= problem.target(problem.value(first), options):
            seconds = time.perf_counter() - begin
            message = "proven by the bounds of the network alone"
            return [Answer(problem, first, highest, seconds, 0, unstable, message)]
        if late(deadline):
            seconds, message = time.perf_counter() - begin, "stopped at the limit before the model"
            status: Status = "no_solution"
            return [Answer(problem, first, highest, seconds, 0, unstable, message, status)]
        compact = compact_model(
            self._ranges.network(problem.network),
            bounds.lower,
            bounds.upper,
            self._base.held(problem.pins.one, problem.pins.zero),
            formulation=self.options.formulation,
            partitions=self.options.partitions,
            one_sided=self.options.one_sided,
        )
        reach = float((bounds.output_upper - bounds.output_lower)[0, 0])
        unit = objective_unit(problem, None if first is None else problem.value(first), reach)
        written = CompactWritten(compact, problem, self._ranges, unit, self.solver, options.gap)
        run = MilpRun(problem, written, options, first, self.incumbents, begin)
        status = run.solve()
        seconds, bound = time.perf_counter() - begin, min(run.bound, highest)
        answer = Answer(
            problem, run.action, bound, seconds, run.nodes, unstable, run.message, status
        )
        return [answer]

    def _first_action(
        self,
        problem: ArgmaxProblem,
        networks: ActionNetworks,
        start: ActionArray | None,
        deadline: float,
    ) -> ActionArray | None:
        """Return the best that greedy building and one-swap search find, also from the start."""
        built = self.incumbents.build(networks, deadline, problem.pins[None])
        candidates = [action for action in (*built, start) if action is not None]
        if not candidates:
            return None
        climbed = [self.incumbents.climb(problem, action, deadline) for action in candidates]
        return max(climbed, key=lambda pair: pair[1])[0]


class CompactWritten(Written):
    """A network or trees over a space, as columns and rows that are passed whole.

    Parameters
    ----------
    compact
        The rows; its objective is scaled, so that tolerances are relative to the values' spread.
    problem
        What they state.
    ranges
        Units of the columns.
    unit
        What one unit of the objective stands for (:func:`.objective_unit`).
    solver
        Solves them.
    gap
        The relative gap asked for: it is one of the values with their constant, else the solver
        works without.
    """

    def __init__(
        self,
        compact: CompactModel | TreeModel,
        problem: ArgmaxProblem,
        ranges: Ranges,
        unit: float,
        solver: MilpSolver,
        gap: float,
    ) -> None:
        self.name = solver.name
        self._space = problem.space
        self._compact = compact
        self._ranges = ranges
        self._unit = unit
        self._solver = solver
        self._constant = compact.model.offset
        left = compact.model.offset + problem.offset if gap else 0.0
        self._model = replace(
            compact.model, objective=compact.model.objective / unit, offset=left / unit
        )

    def attempt(
        self,
        options: SolveOptions,
        *,
        start: ActionArray | None = None,
        cuts: Sequence[ActionArray] = (),
        tight: bool = False,
        seed: int = 0,
    ) -> Attempt:
        """Solve it; see :class:`.Written`."""
        model = self._model
        for cut in cuts:
            model = without(model, cut, self._space.integer)
        first = None
        if start is not None:
            first = self._compact.complete(self._ranges.columns(start))
            first = np.append(first, np.full(model.n_columns - len(first), np.nan))  # of cuts
        options = replace(options, absolute_gap=options.absolute_gap / self._unit)
        found = self._solver.solve(model, options, start=first, tight=tight, seed=seed)
        bound = (found.bound - model.offset) * self._unit + self._constant
        action = None if found.x is None else self._rounded(found.x)
        return Attempt(found.status, action, bound, found.nodes, found.message, found.x)

    def polished(self, solution: FloatArray, options: SolveOptions) -> ActionArray | None:
        """Return the best action with the integers of a solution, a linear program."""
        found = self._solver.solve(self._model.fixed(np.rint(solution)), options, tight=True)
        return None if found.x is None else self._rounded(found.x)

    def _rounded(self, x: FloatArray) -> ActionArray:
        return self._space.rounded(self._ranges.action(x))


def without(model: LinearModel, action: ActionArray, integer: BoolArray) -> LinearModel:
    r"""Cut off one action of whole numbers: at least one variable must differ.

    An integer variable has a binary each for being larger and smaller, :math:`u_i` and :math:`d_i`,
    where its bounds l and h leave that:

    .. math:: x_i \ge l_i + (a_i + 1 - l_i) u_i, \quad x_i \le h_i - (h_i - a_i + 1) d_i, \quad
              \sum_{i: a_i = 0} x_i + \sum_{i: a_i = 1} (1 - x_i) + \sum_i (u_i + d_i) \ge 1,

    the first two sums over binary variables.

    Parameters
    ----------
    model
        The first columns are the action's.
    action
        Without continuous variables.
    integer
        Which of its variables are not binary.
    """
    n, a = len(action), action.astype(np.float64)
    low, high = model.column_lower[:n], model.column_upper[:n]
    larger, smaller = np.flatnonzero(integer & (a < high)), np.flatnonzero(integer & (a > low))
    extra = len(larger) + len(smaller)
    differs = np.concatenate([np.zeros(model.n_columns), np.ones(extra)])
    differs[:n] = np.where(integer, 0.0, np.where(a == 1, -1.0, 1.0))
    rows = np.zeros((extra, model.n_columns + extra))
    each = np.arange(extra)
    moved = np.concatenate([larger, smaller])
    up = each < len(larger)
    rows[each, moved] = np.where(up, 1.0, -1.0)
    reach = np.where(up, a[moved] + 1.0 - low[moved], high[moved] - a[moved] + 1.0)
    rows[each, model.n_columns + each] = -reach
    wide = sparse.hstack([model.matrix, sparse.csr_array((model.n_rows, extra))])
    return LinearModel(
        np.append(model.objective, np.zeros(extra)),
        model.offset,
        sparse.csr_array(sparse.vstack([wide, sparse.csr_array(np.vstack([rows, differs]))])),
        np.concatenate(
            [model.row_lower, np.where(up, low[moved], -high[moved]), [1.0 - a[~integer].sum()]]
        ),
        np.append(model.row_upper, np.full(extra + 1, np.inf)),
        np.append(model.column_lower, np.zeros(extra)),
        np.append(model.column_upper, np.ones(extra)),
        np.append(model.integer, np.ones(extra, dtype=bool)),
    )
