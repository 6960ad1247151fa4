"""One solve of an argmax by a MILP solver, with its repairs, however the problem is written."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.spaces.contradictions import shown
from milp_rl.solvers.certify import ArgmaxProblem, certify, leeway
from milp_rl.solvers.errors import CertificationError
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import Status

logger = logging.getLogger(__name__)

_SEEDS = 5  # of the solver, tried while its answer is wrong
_MAX_CUTS = 50  # of actions, in one solve
_UNITS_PER_SPREAD = 100.0  # of the objective: absolute tolerances of 1e-6 are 1e-8 of the spread


@dataclass(frozen=True, eq=False)
class Attempt:
    """What a MILP solver says of a problem, in the problem's own units.

    Parameters
    ----------
    status
        ``"optimal"`` means within the requested gap, as the solver has it.
    action
        The solution's, rounded; ``None`` without solution.
    bound
        Upper bound on the optimal value, without the problem's offset.
    nodes, message
        As in :class:`~milp_rl.solvers.milp.solver.MilpSolution`.
    solution
        The solution itself, as :meth:`.Written.polished` takes it.
    """

    status: Status
    action: ActionArray | None
    bound: float
    nodes: int = 0
    message: str = ""
    solution: Any = None


class Written(ABC):
    """The problem of one state as a MILP solver has it, which can be solved several times.

    Attributes
    ----------
    name
        Of the solver.
    can_cut
        Whether actions can be cut off.
    """

    name: str
    can_cut: bool = True

    @abstractmethod
    def attempt(
        self,
        options: SolveOptions,
        *,
        start: ActionArray | None = None,
        cuts: Sequence[ActionArray] = (),
        tight: bool = False,
        seed: int = 0,
    ) -> Attempt:
        """Solve it.

        Parameters
        ----------
        options
            Limits.
        start
            A feasible action to start from.
        cuts
            Actions of whole numbers that are cut off.
        tight
            Use the tightest tolerances the solver has.
        seed
            Of the solver's own random decisions.
        """

    @abstractmethod
    def polished(self, solution: Any, options: SolveOptions) -> ActionArray | None:
        """Return the best action with the integers of a solution, a linear program."""


def objective_unit(problem: ArgmaxProblem, value: float | None, reach: float) -> float:
    """Return what one unit of a MILP's objective is to stand for.

    Parameters
    ----------
    problem
        The problem.
    value
        That of a known action, if there is one.
    reach
        How far the bounds of the network's output are apart.
    """
    known = float(problem.sample_values.max(initial=0.0)) if value is None else value
    spread = problem.spread(known) / _UNITS_PER_SPREAD
    return next((unit for unit in (spread, reach / _UNITS_PER_SPREAD) if unit > 0), 1.0)


class MilpRun:
    """One solve with its repairs: tighter tolerances, other seeds, cuts of tolerance violations.

    A MILP solver accepts binaries within 1e-6 of an integer; times a big-M, that is a value which
    no action has. The rounded action is re-evaluated, so such a violation only shows as a bound
    that stays above the value: then the problem is solved again at the tightest tolerances, and
    after that with the point's action cut off, until bound and value meet (continuous actions,
    which cannot be cut off, are polished by a linear program; a gap that is left is reported). An
    answer that is proven wrong is solved for again, first at the tightest tolerances, then on other
    paths through the search.

    Parameters
    ----------
    problem
        What is solved.
    written
        The same for the solver.
    options
        Limits.
    start
        A feasible action.
    incumbents
        What is known of the space.
    begin
        When the clock started.
    """

    def __init__(
        self,
        problem: ArgmaxProblem,
        written: Written,
        options: SolveOptions,
        start: ActionArray | None,
        incumbents: Incumbents,
        begin: float,
    ) -> None:
        self.problem = problem
        self.written = written
        self.incumbents = incumbents
        self.options = options
        self.nodes = 0
        self.message = ""
        self.bound = math.inf
        self.action: ActionArray | None = None
        self.value = -math.inf
        self.deadline = options.deadline(begin)
        if start is not None:
            self._offer(start)

    def solve(self) -> Status:
        """Fill in action, value and bound; return a status."""
        attempt = self._attempt()
        wrong = self._contradictions(attempt)
        if wrong or self._unproven(attempt):
            logger.debug("solving again with tight tolerances: %s", wrong or "value < bound")
            attempt = self._solve_tightly()
        if self._unproven(attempt) and self.problem.space.continuous.any():
            self._polish(attempt)
            return attempt.status
        return self._cut_off(attempt)

    def _solve_tightly(self) -> Attempt:
        """Solve at the tightest tolerances, with other random seeds while the answer is wrong."""
        for seed in range(_SEEDS):
            attempt = self._attempt(tight=True, seed=seed)
            wrong = self._contradictions(attempt)
            if not wrong:
                return attempt
            logger.warning(
                "%s gave a wrong answer (%s), which was noticed and is not used: %s",
                self.written.name,
                attempt.message,
                "; ".join(wrong),
            )
        raise CertificationError(
            f"{self.written.name} gave a wrong answer ({attempt.message}), whatever its"
            f" random seed: {'; '.join(wrong)}"
        )

    def _cut_off(self, attempt: Attempt) -> Status:
        """Cut off the actions of tolerance violations until bound and value meet."""
        cuts: list[ActionArray] = []
        for _ in range(_MAX_CUTS if self.written.can_cut else 0):
            if not self._unproven(attempt) or attempt.action is None:
                break
            cuts.append(attempt.action)
            attempt = self._attempt(cuts=cuts, tight=True)
            if attempt.status == "infeasible":  # every other action is cut off
                self.bound = self.value
            elif attempt.action is not None and (wrong := self._contradictions(attempt, cut=True)):
                raise CertificationError(
                    f"{self.written.name} gave a wrong answer: {'; '.join(wrong)}"
                )
        return attempt.status

    def _polish(self, attempt: Attempt) -> None:
        """Find the best action for the solution's integers."""
        if attempt.solution is None:
            return
        action = self.written.polished(attempt.solution, self.options)
        if action is not None and not self.problem.space.violations(action):
            self._offer(action)

    def _attempt(
        self, *, cuts: Sequence[ActionArray] = (), tight: bool = False, seed: int = 0
    ) -> Attempt:
        options = self.options
        if math.isfinite(self.deadline):
            left = max(self.deadline - time.perf_counter(), 1e-3)
            options = replace(options, time_limit=left)
        attempt = self.written.attempt(
            options, start=self.action, cuts=cuts, tight=tight, seed=seed
        )
        self.nodes += attempt.nodes
        self.message = attempt.message
        if not math.isnan(attempt.bound):
            self.bound = max(attempt.bound, self.value)
        return attempt

    def _contradictions(self, attempt: Attempt, cut: bool = False) -> list[str]:
        """Certify an answer, with actions cut off or without; keep its action."""
        space = self.problem.space
        if attempt.status == "infeasible":
            sample = self.problem.sample
            known = [self.action] if self.action is not None else []
            if not known and sample is not None:
                known = list(sample[:1])
            return [f"called infeasible, but {shown(space, a)} is feasible" for a in known]
        if attempt.action is None:
            return []
        bound = max(attempt.bound, self.value) if cut else attempt.bound
        wrong = certify(self.problem, attempt.action, bound, self.incumbents)
        if not wrong and self._value_above(bound):
            wrong = [
                f"an action of value {self.value + self.problem.offset!r} exceeds the claimed bound"
                f" {bound + self.problem.offset!r}"
            ]
        if not wrong:
            self._offer(attempt.action)
        return wrong

    def _value_above(self, bound: float) -> bool:
        """Whether the best action known contradicts a bound."""
        if self.action is None:
            return False
        limit = bound + self.problem.tolerance(self.value)
        return bool(self.value > limit + leeway(self.problem, self.action[None])[0])

    def _unproven(self, attempt: Attempt) -> bool:
        """Whether the solver calls its solution optimal, but the action's value is below it."""
        if attempt.status != "optimal":
            return False
        return self.bound > self.problem.target(self.value, self.options)

    def _offer(self, action: ActionArray) -> None:
        value = self.problem.value(action)
        if value > self.value:
            self.action, self.value = action, value
