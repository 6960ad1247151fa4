"""The argmax as a mixed-integer linear program, for any MILP solver, with certified results."""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import replace

import numpy as np
from scipy import sparse

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.bounds import (
    BoundPropagator,
    Bounds,
    InfeasibleSetError,
    check_strength,
)
from milp_rl.formulations.compact import (
    CompactModel,
    check_formulation,
    compact_model,
)
from milp_rl.formulations.linear_model import LinearModel
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import (
    ArgmaxProblem,
    ArgmaxResult,
    CertificationError,
    MilpSolution,
    MilpSolver,
    SolveOptions,
    certify,
    check_bounds,
    relative_gap,
    tolerance,
)
from milp_rl.solvers.incumbents import Incumbents

logger = logging.getLogger(__name__)

_SEEDS = 5
_MAX_CUTS = 50


class MilpArgmax:
    """One (network, space) pair, loaded once and solved for many states.

    The space is compiled once; for a state, the bounds are propagated, and the network's rows
    are written with the neurons that the bounds leave unstable.

    Parameters
    ----------
    network
        Scalar output; inputs [action, state].
    space
        The feasible set.
    solver
        A MILP solver.
    formulation
        ``"bigm"`` or ``"partition"``.
    partitions
        Number of groups a neuron for ``"partition"``.
    bounds
        ``"interval"``, ``"linear"`` or ``"lp"``.
    one_sided
        Drop the constraints of the last hidden layer that maximisation makes redundant.
    """

    def __init__(
        self,
        network: Network,
        space: ActionSpace,
        solver: MilpSolver,
        *,
        formulation: Formulation = "bigm",
        partitions: int = 2,
        bounds: Strength = "linear",
        one_sided: bool = True,
    ) -> None:
        check_formulation(formulation, partitions)
        check_strength(bounds)
        self.network = network
        self.space = space
        self.solver = solver
        self.formulation = formulation
        self.partitions = partitions
        self.one_sided = one_sided
        self._base = space.linear_model
        self._incumbents = Incumbents(space)
        self._sample = self._incumbents.sample
        self._strength: Strength = bounds
        self._propagator: BoundPropagator | None = None

    @property
    def name(self) -> str:
        """Name of the solver."""
        return self.solver.name

    def update(self, network: Network) -> None:
        """Replace the network; the space stays loaded."""
        self.network = network
        if self._propagator is not None:
            self._propagator.update(network)

    def twin(self) -> MilpArgmax:
        """Return a copy for another thread, with a solver of its own."""
        twin = copy.copy(self)
        twin.solver = type(self.solver)()
        return twin

    def bounds(self, state: FloatArray) -> Bounds:
        """Bound the neurons for one state.

        Raises
        ------
        InfeasibleSetError
            If the space is empty.
        """
        if self._propagator is None:
            self._propagator = BoundPropagator(
                self.network,
                self.space.n_actions,
                self.space.linear_max,
                strength=self._strength,
                model=self._base,
            )
        return self._propagator.at(state[None])

    def solve(
        self, state: FloatArray, options: SolveOptions, start: ActionArray | None = None
    ) -> ArgmaxResult:
        """Solve for one state.

        Parameters
        ----------
        state
            Shape (state_dim,).
        options
            Gap, time limit, threads.
        start
            A feasible action to start from.

        Raises
        ------
        CertificationError
            If the solver's answer is contradicted also at its tightest tolerances.
        """
        begin = time.perf_counter()
        problem = ArgmaxProblem(self.network.at_state(state), self.space)
        try:
            bounds = self.bounds(state)
        except InfeasibleSetError as error:
            if len(self._sample):
                raise CertificationError(
                    f"linear_max of {type(self.space).__name__} says that the set is empty, but"
                    f" {np.flatnonzero(self._sample[0]).tolist()} is feasible"
                ) from error
            return self._without_action("infeasible", -math.inf, begin, str(error))
        check_bounds(problem, bounds, self._sample)
        start = self._first_action(problem, state, start)
        highest = float(bounds.output_upper[0, 0])
        if start is not None and options.closed(value := problem.value(start), highest):
            return self._without_solving(problem, start, max(highest, value), bounds, begin)
        compact = compact_model(
            problem.network,
            bounds.lower,
            bounds.upper,
            self._base,
            formulation=self.formulation,
            partitions=self.partitions,
            one_sided=self.one_sided,
        )
        scale = float((bounds.output_upper - bounds.output_lower)[0, 0])
        run = _Run(problem, compact, scale, self.solver, options, start, self._sample)
        status = run.solve()
        seconds = time.perf_counter() - begin
        unstable = int(bounds.unstable[0])
        if run.action is None:
            return replace(
                self._without_action(status, run.bound, begin, run.message),
                nodes=run.nodes,
                unstable=unstable,
            )
        bound = max(min(run.bound, highest), run.value)
        return ArgmaxResult(
            run.action,
            run.value,
            bound,
            relative_gap(run.value, bound),
            "optimal" if options.closed(run.value, bound) else "feasible",
            seconds,
            self.name,
            run.nodes,
            unstable,
            run.message,
        )

    def _first_action(
        self, problem: ArgmaxProblem, state: FloatArray, start: ActionArray | None
    ) -> ActionArray | None:
        """Return the best that greedy building and one-swap search find, also from the start."""
        candidates = list(self._incumbents.build(self.network, state[None]))
        if start is not None:
            if violations := self.space.violations(start):
                raise ValueError(f"the start is not feasible: {'; '.join(violations)}")
            candidates.append(start)
        if not candidates:
            return None
        climbed = [self._incumbents.climb(problem, action) for action in candidates]
        return max(climbed, key=lambda pair: pair[1])[0]

    def _without_solving(
        self,
        problem: ArgmaxProblem,
        action: ActionArray,
        bound: float,
        bounds: Bounds,
        begin: float,
    ) -> ArgmaxResult:
        """Return an action that the bounds alone prove optimal."""
        if complaints := certify(problem, action, bound, self._sample):
            raise CertificationError("; ".join(complaints))
        value = problem.value(action)
        return ArgmaxResult(
            action,
            value,
            bound,
            relative_gap(value, bound),
            "optimal",
            time.perf_counter() - begin,
            self.name,
            unstable=int(bounds.unstable[0]),
            message="proven by the bounds of the network alone",
        )

    def _without_action(
        self, status: str, bound: float, begin: float, message: str
    ) -> ArgmaxResult:
        known = status if status in ("infeasible", "no_solution") else "error"
        return ArgmaxResult(
            None,
            math.nan,
            bound,
            math.inf,
            known,  # type: ignore[arg-type]
            time.perf_counter() - begin,
            self.name,
            message=message,
        )


class _Run:
    """One solve with its repairs: tighter tolerances, other seeds, cuts against cheating points.

    A MILP solver accepts binaries within 1e-6 of an integer; times a big-M, that is a value which
    no action has. The rounded action is re-evaluated, so such a point only shows as a bound that
    stays above the value: then the model is solved again at the tightest tolerances, and after
    that with the point's action cut off, until bound and value meet (continuous actions, which
    cannot be cut off, are polished by a linear program; a gap that is left is reported). An answer
    that is proven wrong is solved for again, first at the tightest tolerances, then on other paths
    through the search. The objective is scaled to the range of the network's output, so that
    tolerances are relative to it.
    """

    def __init__(
        self,
        problem: ArgmaxProblem,
        compact: CompactModel,
        scale: float,
        solver: MilpSolver,
        options: SolveOptions,
        start: ActionArray | None,
        sample: ActionArray,
    ) -> None:
        self.problem = problem
        self.sample = sample
        self.compact = compact
        self.scale = scale if scale > 0 else 1.0
        self.model = replace(
            compact.model,
            objective=compact.model.objective / self.scale,
            offset=compact.model.offset / self.scale,
        )
        self.solver = solver
        self.options = options
        self.nodes = 0
        self.message = ""
        self.bound = math.inf
        self.action: ActionArray | None = None
        self.value = -math.inf
        self.deadline = (
            None if options.time_limit is None else time.perf_counter() + options.time_limit
        )
        if start is not None:
            self._offer(start)

    def solve(self) -> str:
        """Fill in action, value and bound; return a status."""
        solution = self._attempt(self.model, tight=False)
        complaints = self._complaints(solution)
        if complaints or self._cheated(solution):
            logger.debug("solving again with tight tolerances: %s", complaints or "value < bound")
            for seed in range(_SEEDS):
                solution = self._attempt(self.model, tight=True, seed=seed)
                complaints = self._complaints(solution)
                if not complaints:
                    break
                logger.warning(
                    "%s gave a wrong answer (%s), which was noticed and is not used: %s",
                    self.solver.name,
                    solution.message,
                    "; ".join(complaints),
                )
            else:
                raise CertificationError(
                    f"{self.solver.name} gave a wrong answer ({solution.message}), whatever its"
                    f" random seed: {'; '.join(complaints)}"
                )
        model = self.model
        if self._cheated(solution) and not self.problem.space.binary:
            self._polish(solution)
            return solution.status
        for _ in range(_MAX_CUTS):
            if not self._cheated(solution) or solution.x is None:
                break
            model = _without(model, self._rounded(solution.x))
            solution = self._attempt(model, tight=True)
            if solution.status == "infeasible":  # every other action is cut off
                self.bound = self.value
            elif solution.x is not None and (complaints := self._complaints(solution, cut=True)):
                raise CertificationError(
                    f"{self.solver.name} gave a wrong answer: {'; '.join(complaints)}"
                )
        return solution.status

    def _polish(self, solution: MilpSolution) -> None:
        """Find the best action for the solution's integers, a linear program."""
        if solution.x is None:
            return
        model, whole = self.model, np.rint(solution.x)
        fixed = replace(
            model,
            column_lower=np.where(model.integer, whole, model.column_lower),
            column_upper=np.where(model.integer, whole, model.column_upper),
        )
        polished = self.solver.solve(fixed, self.options, tight=True)
        if polished.x is not None:
            action = self._rounded(polished.x)
            if not self.problem.space.violations(action):
                self._offer(action)

    def _attempt(self, model: LinearModel, *, tight: bool, seed: int = 0) -> MilpSolution:
        options = replace(self.options, absolute_gap=self.options.absolute_gap / self.scale)
        if self.deadline is not None:
            left = max(self.deadline - time.perf_counter(), 1e-3)
            options = replace(options, time_limit=left)
        start = None if self.action is None else self.compact.complete(self.action)
        solution = self.solver.solve(model, options, start=start, tight=tight, seed=seed)
        solution = replace(solution, bound=solution.bound * self.scale)
        self.nodes += solution.nodes
        self.message = solution.message
        if not math.isnan(solution.bound):
            self.bound = max(solution.bound, self.value)
        return solution

    def _complaints(self, solution: MilpSolution, cut: bool = False) -> list[str]:
        """Certify a solution, of a model with actions cut off or without; keep its action."""
        if solution.status == "infeasible":
            known = [self.action] if self.action is not None else list(self.sample[:1])
            return [
                f"called infeasible, but {np.flatnonzero(a).tolist()} is feasible" for a in known
            ]
        if solution.x is None:
            return []
        action = self._rounded(solution.x)
        bound = max(solution.bound, self.value) if cut else solution.bound
        complaints = certify(self.problem, action, bound, self.sample)
        if not complaints and self.value > bound + tolerance(self.value):
            complaints = [f"an action of value {self.value!r} exceeds the claimed bound {bound!r}"]
        if not complaints:
            self._offer(action)
        return complaints

    def _cheated(self, solution: MilpSolution) -> bool:
        """Whether the solver calls its solution optimal, but the action's value is below it."""
        return solution.status == "optimal" and not self.options.closed(self.value, self.bound)

    def _rounded(self, x: FloatArray) -> ActionArray:
        space = self.problem.space
        action = x[: space.n_actions]
        if space.binary:
            return np.rint(action).astype(np.int8)
        return np.clip(
            np.where(space.continuous, action, np.rint(action)), space.lower, space.upper
        )

    def _offer(self, action: ActionArray) -> None:
        value = self.problem.value(action)
        if value > self.value:
            self.action, self.value = action, value


def _without(model: LinearModel, action: ActionArray) -> LinearModel:
    """Cut off one action: at least one bit must differ."""
    row = np.zeros((1, model.n_columns))
    row[0, : len(action)] = np.where(action == 1, -1.0, 1.0)
    return replace(
        model,
        matrix=sparse.csr_array(sparse.vstack([model.matrix, sparse.csr_array(row)])),
        row_lower=np.append(model.row_lower, 1.0 - action.sum()),
        row_upper=np.append(model.row_upper, np.inf),
    )
