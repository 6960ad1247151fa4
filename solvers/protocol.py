"""What every solver of an argmax implements, and the one place that makes its results."""

from __future__ import annotations

import math
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.bounds import BoundPropagator, box_maximum
from milp_rl.formulations.kernels.description import CompiledOracle, Loops
from milp_rl.formulations.networks.action_value import (
    ActionNetworks,
    ActionValue,
    as_action_value,
)
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.contradictions import shown
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import LateError, until
from milp_rl.solvers.certify import ArgmaxProblem, certify
from milp_rl.solvers.errors import CertificationError
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.milp.solver import MilpSolver
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import ArgmaxResult, Status, relative_gap

Starts = Sequence[ActionArray | None]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver found for one state, before it is certified.

    Parameters
    ----------
    problem
        What was solved.
    action
        The best action found, or ``None``.
    bound
        Upper bound on the optimal value, without the problem's offset.
    seconds
        Wall-clock time.
    nodes, unstable, message
        As in :class:`~milp_rl.solvers.result.ArgmaxResult`.
    status
        Why there is no action.
    exhaustive
        Whether every feasible action was valued: then there is no other one to look for.
    """

    problem: ArgmaxProblem
    action: ActionArray | None
    bound: float
    seconds: float
    nodes: int = 0
    unstable: int = -1
    message: str = ""
    status: Status = "no_solution"
    exhaustive: bool = False

    @classmethod
    def empty(cls, problem: ArgmaxProblem, begin: float, message: str) -> Answer:
        """Return the answer that there is no feasible action."""
        seconds = time.perf_counter() - begin
        return cls(problem, None, -math.inf, seconds, message=message, status="infeasible")


class Argmax(ABC):
    """One (action value, space) pair, set up once and solved for many states.

    Parameters
    ----------
    value
        Q(state, action), or a network of one output whose inputs are [action, state].
    space
        The feasible set.
    incumbents
        What is known of the space; shared by the solvers of an ``auto``.
    """

    name: str
    """Of the solver, as results say it."""
    parallel: Literal["threads", "processes"] = "processes"
    """How a batch is spread: threads for what releases the interpreter lock."""

    def __init__(
        self, value: ActionValue | Network, space: ActionSpace, incumbents: Incumbents | None = None
    ) -> None:
        self.space = space
        self.incumbents = incumbents or Incumbents(space)
        self.update(value)

    def update(self, value: ActionValue | Network) -> None:
        """Replace the action value; what is known of the space is kept.

        Raises
        ------
        ValueError
            If it is of binary actions, as one of trees is, and the space has others.
        """
        new = as_action_value(value, self.space.n_actions)
        if new.binary and not self.space.binary:
            i = int(np.argmax(self.space.continuous | self.space.integer))
            kind, why = "continuous", "no solver tells a threshold from the next larger number"
            if not self.space.continuous[i]:
                kind, why = "integer", "add_network writes them over integers into a model of yours"
            raise ValueError(
                f"action {i} is {kind}; the argmax of trees is for binary actions: {why}"
            )
        self.value = new
        self.version = uuid.uuid4().hex  # of the value, also where the solver is copied to

    @property
    def milp_solver(self) -> MilpSolver | None:
        """The MILP solver that is used, if one is."""
        return None

    def for_thread(self) -> Argmax:
        """Return what can be used in another thread at the same time."""
        return self

    def prepare(self) -> None:  # noqa: B027
        """Make ready what a solve with a short time limit does without; nothing, for most."""

    def solve(
        self,
        states: FloatArray,
        options: SolveOptions,
        starts: Starts | None = None,
        pins: Pins | None = None,
    ) -> list[ArgmaxResult]:
        """Solve for several states.

        Parameters
        ----------
        states
            Shape (batch, state_dim).
        options
            Limits of each solve; searches that take the states together take the time limit for
            all of them.
        starts
            A feasible action to start from for each state, or ``None`` for it.
        pins
            Binary actions held at one or zero, of all states or in each, shape (n_actions,) or
            (batch, n_actions).

        Raises
        ------
        ValueError
            If a start is not feasible.
        CertificationError
            If an answer is contradicted by a feasible action.
        ContradictionError
            If the space's own methods disagree.
        """
        begin = time.perf_counter()
        held = (pins or Pins()).checked((len(states), self.space.n_actions))
        firsts = self._checked(starts, len(states), held)
        if not len(states):
            return []
        networks = self.value.at_states(states)
        networks = networks[0] if len(states) == 1 else networks
        with until(options.deadline(begin)):
            try:
                return self.results(networks, options, firsts, held)
            except LateError:
                return self._set_up_too_late(networks, options, firsts, held, begin)

    def _set_up_too_late(
        self,
        networks: ActionNetworks,
        options: SolveOptions,
        starts: Starts,
        pins: Pins,
        begin: float,
    ) -> list[ArgmaxResult]:
        """Return the best known actions and interval bounds: the search has not begun."""
        box = (self.space.lower, self.space.upper)
        oracle = box_maximum(*box)
        bounds = BoundPropagator(self.space.n_actions, oracle, box=box, strength="interval")
        upper = bounds.at(networks.centred, pins).output_upper
        results = []
        for i, start in enumerate(starts):
            problem = self._problem(networks, i, pins)
            known = [] if problem.sample is None else list(problem.sample)
            known += [] if start is None else [start]
            best = max(known, key=problem.value, default=None)
            seconds = (time.perf_counter() - begin) / len(starts)
            message = "the time limit passed before the search began"
            answer = Answer(problem, best, float(upper[i, 0]), seconds, message=message)
            results.append(self._result(answer, options))
        return results

    def over(self, space: ActionSpace, incumbents: Incumbents | None = None) -> Argmax:
        """Return a solver of the same kind and value for another space of the same variables."""
        return type(self)(self.value, space, incumbents)

    def ranked(
        self,
        networks: ActionNetworks,
        options: SolveOptions,
        n: int,
        difference: int = 1,
        pins: Pins | None = None,
    ) -> list[ArgmaxResult]:
        """Return the n best actions of one state in order, each certified.

        Parameters
        ----------
        networks
            Of one state.
        options
            Limits: the time limit is for all, the others are for each.
        n
            How many.
        difference
            In how many variables an action differs at least from all better ones.
        pins
            Binary actions held at one or zero, a row as :meth:`.Pins.checked` gives it.

        Returns
        -------
        list of ArgmaxResult
            The bound of each is on all actions that differ so from those before it. Fewer than n
            where there are no more; if a limit came first, the last one is without action.

        Raises
        ------
        ValueError
            If a variable of the space is not binary.
        CertificationError
            If an answer is contradicted by a feasible action.
        """
        from milp_rl.solvers.ranked import one_after_another

        self.space.require_binary("ranked by this solver")
        return one_after_another(self, networks, options, n, difference, pins)

    def _checked(self, starts: Starts | None, n: int, pins: Pins) -> Starts:
        """Return a feasible start, or ``None``, for each of n states."""
        firsts = starts if starts is not None else [None] * n
        for i, start in enumerate(firsts):
            if start is not None and (found := self.space.violations(start)):
                raise ValueError(f"the start is not feasible: {'; '.join(found)}")
            if start is not None and not pins[i].allows(start):
                raise ValueError(
                    f"the start {shown(self.space, start)} is not within the masks ({pins[i]})"
                )
        if self.space.binary:
            return firsts
        # Up to 1e-6 outside the bounds and rows they count as feasible.
        lower, upper = self.space.lower, self.space.upper
        kind = self.space.dtype
        settled: list[ActionArray | None] = list(firsts)
        for i, start in enumerate(firsts):
            if start is not None:
                within: ActionArray = start.clip(lower, upper).astype(kind)
                moved, met = self.space.settled(within[None])
                settled[i] = moved[0] if met[0] else None
        return settled

    def results(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[ArgmaxResult]:
        """Solve for the networks of one or more states, from feasible starts; certify the answers.

        The value that the solver was set up with plays no part. Pins have a row per state, as
        :meth:`.Pins.checked` gives them.
        """
        return [self._result(a, options) for a in self._solve(networks, options, starts, pins)]

    def solve_one(
        self,
        state: FloatArray,
        options: SolveOptions,
        start: ActionArray | None = None,
        pins: Pins | None = None,
    ) -> ArgmaxResult:
        """Solve for one state, shape (state_dim,)."""
        return self.solve(state[None], options, [start], pins)[0]

    @abstractmethod
    def _solve(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[Answer]:
        """Search for the best action of every state."""

    def _problem(
        self,
        networks: ActionNetworks,
        state: int,
        pins: Pins,
        rounding: float = 0.0,
        loops: CompiledOracle | None = None,
    ) -> ArgmaxProblem:
        """Return the problem of a state."""
        return ArgmaxProblem(
            networks.centred.at(state),
            self.space,
            float(networks.constants[state]),
            self.incumbents.sample_within(pins[state]),
            rounding,
            pins[state],
            None if loops is None else Loops(loops, networks.centred.flat, state),
        )

    def _result(self, answer: Answer, options: SolveOptions) -> ArgmaxResult:
        """Certify an answer."""
        problem, action = answer.problem, answer.action
        if action is None:
            message = answer.message
            if answer.status == "infeasible":
                within = "" if problem.pins.empty else f" within the masks ({problem.pins})"
                if problem.sample is not None and len(problem.sample):
                    known = shown(self.space, problem.sample[0])
                    raise CertificationError(
                        f"{self.name} calls the set{within} empty, but {known} is feasible"
                    )
                if within:
                    message = f"no feasible action is{within}"
            return ArgmaxResult(
                None,
                math.nan,
                answer.bound + problem.offset,
                math.inf,
                answer.status,
                answer.seconds,
                self.name,
                answer.nodes,
                answer.unstable,
                message,
            )
        inner = problem.value(action)
        bound = max(answer.bound, inner)
        if answer.exhaustive:
            text = self.incumbents.refusal(action) or problem.outside_pins(action)
            wrong = [f"the action is not feasible: {text}"] if text else []
        else:
            wrong = certify(problem, action, answer.bound, self.incumbents)
        if wrong:
            raise CertificationError(f"{self.name} gave a wrong answer: {'; '.join(wrong)}")
        proven = bound - inner <= problem.allowed(inner, options)
        message = answer.message
        if not proven and problem.finished(inner, bound, options):
            message += (
                f"; float64 rounds the values of this network by up to {problem.rounding:.2g}, more"
                f" than 1e-6 of their spread, {problem.spread(inner):.2g}"
            )
        value = inner + problem.offset
        shifted = max(bound + problem.offset, value)
        return ArgmaxResult(
            action,
            value,
            shifted,
            relative_gap(value, shifted),
            "optimal" if proven else "feasible",
            answer.seconds,
            self.name,
            answer.nodes,
            answer.unstable,
            message,
            problem.tolerance(inner),
        )
