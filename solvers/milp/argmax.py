"""The argmax as a mixed-integer linear program, for any MILP solver, with certified results."""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import dataclass, replace
from functools import cached_property

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
from milp_rl.formulations.spaces.contradictions import shown
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.bounded import BoundedArgmax
from milp_rl.solvers.certify import ArgmaxProblem, certify, leeway
from milp_rl.solvers.errors import CertificationError
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.milp.solver import MilpSolution, MilpSolver
from milp_rl.solvers.options import SolveOptions, late
from milp_rl.solvers.protocol import Answer, Starts
from milp_rl.solvers.ranges import Ranges
from milp_rl.solvers.result import Status

logger = logging.getLogger(__name__)

_SEEDS = 5  # of the solver, tried while its answer is wrong
_MAX_CUTS = 50  # of actions, in one solve
_UNITS_PER_SPREAD = 100.0  # of the objective: absolute tolerances of 1e-6 are 1e-8 of the spread


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

    Raises
    ------
    ValueError
        If a name is unknown or a number out of range.
    """

    formulation: Formulation = "bigm"
    partitions: int = 2
    bounds: Strength = "linear"
    one_sided: bool = True

    def __post_init__(self) -> None:
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
        run = MilpRun(
            problem,
            compact,
            self._ranges,
            reach,
            self.solver,
            options,
            first,
            self.incumbents,
            begin,
        )
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


class MilpRun:
    """One solve with its repairs: tighter tolerances, other seeds, cuts of tolerance violations.

    A MILP solver accepts binaries within 1e-6 of an integer; times a big-M, that is a value which
    no action has. The rounded action is re-evaluated, so such a violation only shows as a bound
    that stays above the value: then the model is solved again at the tightest tolerances, and after
    that with the point's action cut off, until bound and value meet (continuous actions, which
    cannot be cut off, are polished by a linear program; a gap that is left is reported). An answer
    that is proven wrong is solved for again, first at the tightest tolerances, then on other paths
    through the search. The objective is scaled to the spread of the values, so that tolerances are
    relative to it.
    """

    def __init__(
        self,
        problem: ArgmaxProblem,
        compact: CompactModel | TreeModel,
        ranges: Ranges,
        reach: float,
        solver: MilpSolver,
        options: SolveOptions,
        start: ActionArray | None,
        incumbents: Incumbents,
        begin: float,
    ) -> None:
        self.problem = problem
        self.incumbents = incumbents
        self.compact = compact
        self.ranges = ranges
        self.solver = solver
        self.options = options
        self.nodes = 0
        self.message = ""
        self.bound = math.inf
        self.action: ActionArray | None = None
        self.value = -math.inf
        self.deadline = options.deadline(begin)
        if start is not None:
            self._offer(start)
        values = problem.sample_values
        known = self.value if start is not None else float(values.max(initial=0.0))
        spread = problem.spread(known) / _UNITS_PER_SPREAD
        self.unit = next((u for u in (spread, reach / _UNITS_PER_SPREAD) if u > 0), 1.0)
        # A relative gap is one of the values, with their constant; else the solver works without.
        self.constant = compact.model.offset
        left = compact.model.offset + problem.offset if options.gap else 0.0
        self.model = replace(
            compact.model,
            objective=compact.model.objective / self.unit,
            offset=left / self.unit,
        )

    def solve(self) -> Status:
        """Fill in action, value and bound; return a status."""
        solution = self._attempt(self.model, tight=False)
        wrong = self._contradictions(solution)
        if wrong or self._unproven(solution):
            logger.debug("solving again with tight tolerances: %s", wrong or "value < bound")
            solution = self._solve_tightly()
        if self._unproven(solution) and self.problem.space.continuous.any():
            self._polish(solution)
            return solution.status
        return self._cut_off(solution)

    def _solve_tightly(self) -> MilpSolution:
        """Solve at the tightest tolerances, with other random seeds while the answer is wrong."""
        for seed in range(_SEEDS):
            solution = self._attempt(self.model, tight=True, seed=seed)
            wrong = self._contradictions(solution)
            if not wrong:
                return solution
            logger.warning(
                "%s gave a wrong answer (%s), which was noticed and is not used: %s",
                self.solver.name,
                solution.message,
                "; ".join(wrong),
            )
        raise CertificationError(
            f"{self.solver.name} gave a wrong answer ({solution.message}), whatever its"
            f" random seed: {'; '.join(wrong)}"
        )

    def _cut_off(self, solution: MilpSolution) -> Status:
        """Cut off the actions of tolerance violations until bound and value meet."""
        model = self.model
        for _ in range(_MAX_CUTS):
            if not self._unproven(solution) or solution.x is None:
                break
            model = without(model, self._rounded(solution.x), self.problem.space.integer)
            solution = self._attempt(model, tight=True)
            if solution.status == "infeasible":  # every other action is cut off
                self.bound = self.value
            elif solution.x is not None and (wrong := self._contradictions(solution, cut=True)):
                raise CertificationError(
                    f"{self.solver.name} gave a wrong answer: {'; '.join(wrong)}"
                )
        return solution.status

    def _polish(self, solution: MilpSolution) -> None:
        """Find the best action for the solution's integers, a linear program."""
        if solution.x is None:
            return
        polished = self.solver.solve(
            self.model.fixed(np.rint(solution.x)), self.options, tight=True
        )
        if polished.x is not None:
            action = self._rounded(polished.x)
            if not self.problem.space.violations(action):
                self._offer(action)

    def _attempt(self, model: LinearModel, *, tight: bool, seed: int = 0) -> MilpSolution:
        options = replace(self.options, absolute_gap=self.options.absolute_gap / self.unit)
        if math.isfinite(self.deadline):
            left = max(self.deadline - time.perf_counter(), 1e-3)
            options = replace(options, time_limit=left)
        start = None
        if self.action is not None:
            start = self.compact.complete(self.ranges.columns(self.action))
            start = np.append(start, np.full(model.n_columns - len(start), np.nan))  # of cuts
        solution = self.solver.solve(model, options, start=start, tight=tight, seed=seed)
        bound = (solution.bound - model.offset) * self.unit + self.constant
        solution = replace(solution, bound=bound)
        self.nodes += solution.nodes
        self.message = solution.message
        if not math.isnan(solution.bound):
            self.bound = max(solution.bound, self.value)
        return solution

    def _contradictions(self, solution: MilpSolution, cut: bool = False) -> list[str]:
        """Certify a solution, of a model with actions cut off or without; keep its action."""
        space = self.problem.space
        if solution.status == "infeasible":
            sample = self.problem.sample
            known = [self.action] if self.action is not None else []
            if not known and sample is not None:
                known = list(sample[:1])
            return [f"called infeasible, but {shown(space, a)} is feasible" for a in known]
        if solution.x is None:
            return []
        action = self._rounded(solution.x)
        bound = max(solution.bound, self.value) if cut else solution.bound
        wrong = certify(self.problem, action, bound, self.incumbents)
        if not wrong and self._value_above(bound):
            wrong = [
                f"an action of value {self.value + self.problem.offset!r} exceeds the claimed bound"
                f" {bound + self.problem.offset!r}"
            ]
        if not wrong:
            self._offer(action)
        return wrong

    def _value_above(self, bound: float) -> bool:
        """Whether the best action known contradicts a bound."""
        if self.action is None:
            return False
        limit = bound + self.problem.tolerance(self.value)
        return bool(self.value > limit + leeway(self.problem, self.action[None])[0])

    def _unproven(self, solution: MilpSolution) -> bool:
        """Whether the solver calls its solution optimal, but the action's value is below it."""
        if solution.status != "optimal":
            return False
        return self.bound > self.problem.target(self.value, self.options)

    def _rounded(self, x: FloatArray) -> ActionArray:
        return self.problem.space.rounded(self.ranges.action(x))

    def _offer(self, action: ActionArray) -> None:
        value = self.problem.value(action)
        if value > self.value:
            self.action, self.value = action, value


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
