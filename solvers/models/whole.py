"""The best point of a model whose integers are whole and whose rows hold, with a bound.

A MILP solver calls a point feasible whose integers are whole within 1e-6 and whose rows hold within
as much. With the integers rounded, the rows may be off by any amount: ``y <= 1e8 x`` holds at
x = 1e-7, y = 5. Here, a point counts only if :func:`milp_rl.solvers.models.rows.check_rows` accepts
it with its integers rounded. One that is not accepted, or whose value stays below the bound, is
repaired: the integers are fixed, taken out of the model, and a linear program is solved; the model
is solved again at the tightest tolerances; and then the integer that rounding moved most splits the
model in up to three parts, in which it is below the whole number it was rounded to, at it (and so
taken out), or above. The best of the parts is the answer, the largest of their bounds the bound.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.spaces.contradictions import ContradictionError
from milp_rl.solvers.errors import CertificationError
from milp_rl.solvers.milp.solver import MilpSolution, MilpSolver
from milp_rl.solvers.models.presolve import Scaled, tightened
from milp_rl.solvers.models.rows import HARDLY, check_rows, spread
from milp_rl.solvers.options import TOLERANCE, SolveOptions
from milp_rl.solvers.result import Status

_SEEDS = 5  # of the solver, tried while its answers are disproved
_MAX_PARTS = 1000  # that a model is split into
_START_NODES = 1000  # in which a start is completed
_NEGLIGIBLE = 1e-10  # effect of rounding, up to which rows decide where to split


@dataclass(frozen=True)
class Faults:
    """What contradicts a point.

    Parameters
    ----------
    texts
        What is wrong; empty if nothing is.
    inherent
        Whether every row holds, so that the model contradicts itself and no solver is to blame.
    """

    texts: list[str]
    inherent: bool = False


class DisprovedError(Exception):
    """A solver's answer is disproved by a point that is known."""


@dataclass(order=True)
class Part:
    """The model with its integers between narrower bounds, the one of largest bound first."""

    key: tuple[float, int]
    bound: float = field(compare=False)
    lower: FloatArray = field(compare=False)
    upper: FloatArray = field(compare=False)
    whole: bool = field(compare=False)  # nothing is split off


class WholeSearch:
    """One solve of a model with its repairs.

    Objectives are measured from :attr:`level`, so that a constant plays no part.

    Parameters
    ----------
    model
        The model, to be maximised.
    solver
        A MILP solver.
    options
        Gap, time limit, threads; the relative gap is that of the objective with its constant.
    check
        Says what contradicts a point of whole integers, shape (columns,).
    start
        Values to begin with, shape (columns,), NaN where unknown; what they cannot be completed
        to a point from is ignored.
    """

    def __init__(
        self,
        model: LinearModel,
        solver: MilpSolver,
        options: SolveOptions,
        check: Callable[[FloatArray], Faults],
        *,
        start: FloatArray | None = None,
    ) -> None:
        integer = model.integer
        lower = np.where(integer, np.ceil(model.column_lower - TOLERANCE), model.column_lower)
        upper = np.where(integer, np.floor(model.column_upper + TOLERANCE), model.column_upper)
        self.model = replace(model, column_lower=lower + 0.0, column_upper=upper + 0.0)
        self.scaled = Scaled.of(tightened(self.model))
        self.level = model.offset + float(model.objective @ self.scaled.origin)
        self.solver = solver
        self.options = options
        self.check = check
        self.start = start
        self.deadline = (
            None if options.time_limit is None else time.perf_counter() + options.time_limit
        )
        self._seed = 0
        self.nodes = 0
        self.message = ""
        self.x: FloatArray | None = None
        self.value = -math.inf
        self.bound = math.inf
        sizes = sparse.csc_array(abs(self.model.matrix))
        largest = np.zeros(model.n_columns)
        np.maximum.at(
            largest, np.repeat(np.arange(model.n_columns), np.diff(sizes.indptr)), sizes.data
        )
        self._largest = np.maximum(largest, np.abs(model.objective))

    def solve(self) -> Status:
        """Fill in point, value and bound; return a status.

        Raises
        ------
        CertificationError
            If no point can be repaired, or the solver contradicts a known point whatever its seed.
        """
        if (self.model.column_lower > self.model.column_upper).any():
            self.bound = -math.inf
            self.message = "a variable's bounds leave it no value"
            return "infeasible"
        if self.start is not None:
            self._begin(self.start)
            if self.options.log is not None:
                self.options.log(
                    "the start is ignored: its integers cannot be completed to a solution"
                    if self.x is None
                    else f"the start has value {self.value + self.level:.9g}, to be maximised"
                )
        for seed in range(_SEEDS):
            try:
                return self._search(seed)
            except DisprovedError as error:
                reason = error
        raise CertificationError(
            f"{self.solver.name} gave a wrong answer ({self.message}), whatever its random seed:"
            f" {reason}"
        )

    def closed(self, bound: float) -> bool:
        """Whether the best value is within the asked gap of a bound, or within the tolerance."""
        return self.x is not None and self._closes(self.x, bound)

    def _closes(self, x: FloatArray, bound: float) -> bool:
        value = self._value(x)
        asked = max(self.options.gap * abs(value + self.level), self.options.absolute_gap)
        return bound - value <= max(asked, TOLERANCE * spread(self.model, x))

    def _exceeds(self, part: Part) -> bool:
        """Whether the best point lies in a part and is better than its bound."""
        if self.x is None or not self._contains(part):
            return False
        size = float(np.abs(self.model.objective * (self.x - self.scaled.origin)).sum())
        slack = TOLERANCE * spread(self.model, self.x) + 1e-12 * size  # what float64 rounds
        return self.value > part.bound + slack

    def _begin(self, start: FloatArray) -> None:
        """Complete the start to a first point, holding the integers that it knows."""
        model = self.model
        whole = np.rint(np.where(np.isfinite(start), start, np.nan))
        known = model.integer & (whole >= model.column_lower) & (whole <= model.column_upper)
        lower = np.where(known, whole, model.column_lower)
        upper = np.where(known, whole, model.column_upper)
        part = Part((-math.inf, 0), math.inf, model.column_lower, model.column_upper, True)
        x = np.where(known, whole, 0.0)
        if known[model.integer].all():
            self._polish(part, x)
            return
        fixed, _ = self._fixed(lower, upper)
        if not known.any() or fixed is None:
            return
        solution = self._attempt(fixed, tight=False, node_limit=_START_NODES)
        if solution.x is not None:
            self._polish(part, self._rounded(self._point(lower, upper, solution.x)))

    def _search(self, seed: int) -> Status:
        first = self.model
        self._parts = [Part((-math.inf, 0), math.inf, first.column_lower, first.column_upper, True)]
        self._settled = -math.inf
        self._stopped: Status | None = None
        self._count = 0
        self._seed = seed
        while self._parts and self._stopped is None:
            part = heapq.heappop(self._parts)
            if self.closed(part.bound):
                self._settled = max(self._settled, part.bound)
                continue
            self._explore(part)
        rest = max((part.bound for part in self._parts), default=-math.inf)
        self.bound = max(self._settled, rest, self.value)
        if self.x is not None:
            return "optimal" if self.closed(self.bound) else "feasible"
        return self._stopped or "infeasible"

    def _explore(self, part: Part) -> None:
        """Solve a part, and settle or split it."""
        inherited = part.bound
        for tight in (True,) if self._seed or not part.whole else (False, True):
            model, constant = self._fixed(part.lower, part.upper)
            if model is None:
                return
            warm = None
            if self.start is not None and self.x is not None and self._contains(part):
                kept = self._kept(part.lower, part.upper)
                warm = ((self.x - self.scaled.origin) / self.scaled.unit)[kept]
            solution = self._attempt(model, tight, start=warm)
            if solution.status == "infeasible":
                if self._contains(part):
                    raise DisprovedError("a model with a known feasible point is called infeasible")
                return
            if not math.isnan(solution.bound):
                part.bound = min(part.bound, constant + self.scaled.scale * solution.bound)
            if solution.x is None:
                self._stop(part, solution.status)
                return
            raw = self._point(part.lower, part.upper, solution.x)
            x = self._rounded(raw)
            faults = self.check(x)
            if faults.texts or not (self._closes(x, part.bound) or solution.status == "feasible"):
                self._polish(part, x)
            elif self._value(x) > self.value:
                self._take(x)
            if self._exceeds(part):
                if not tight:
                    part.bound = inherited
                    continue
                raise DisprovedError(
                    f"a feasible point of value {self.value + self.level!r} exceeds the claimed"
                    f" bound {part.bound + self.level!r}"
                )
            if self.closed(part.bound):
                self._settled = max(self._settled, part.bound)
                return
            if solution.status == "feasible":
                self._stop(part, "no_solution")
                return
        self._split(part, raw, x, faults)

    def _stop(self, part: Part, status: Status) -> None:
        heapq.heappush(self._parts, part)
        self._stopped = status

    def _split(self, part: Part, raw: FloatArray, x: FloatArray, faults: Faults) -> None:
        self._count += 1
        column = self._violating(part, raw, x)
        if column is None or self._count > _MAX_PARTS:
            if faults.texts and (self.x is None or column is None):
                raise CertificationError(
                    f"{self.solver.name} gave a wrong answer ({self.message}), and none near it is"
                    f" right: {'; '.join(faults.texts)}"
                )
            self._settled = max(self._settled, part.bound)
            return
        whole = x[column]
        for low, high in (
            (whole + 1, part.upper[column]),
            (part.lower[column], whole - 1),
            (whole, whole),
        ):
            if low <= high:
                lower, upper = part.lower.copy(), part.upper.copy()
                lower[column], upper[column] = low, high
                self._count += 1
                key = (-part.bound, -self._count)
                heapq.heappush(self._parts, Part(key, part.bound, lower, upper, False))

    def _violating(self, part: Part, raw: FloatArray, x: FloatArray) -> int | None:
        """Return the integer column whose rounding moves a row or the objective most."""
        free = self.model.integer & (part.lower < part.upper)
        score = np.where(free, np.abs(raw - x) * self._largest, 0.0)
        if score.max(initial=0.0) > _NEGLIGIBLE:
            return int(score.argmax())
        rows = check_rows(self.model, x)
        violated = rows.violated() if len(rows.violated()) else rows.violated(HARDLY)
        columns = np.unique(self.model.matrix[violated].indices) if len(violated) else violated
        columns = columns[free[columns]]
        if not len(columns):
            return None
        return int(columns[self._largest[columns].argmax()])

    def _polish(self, part: Part, x: FloatArray) -> None:
        """Offer the best point with these integers, by a linear program without them."""
        integer = self.model.integer
        lower, upper = np.where(integer, x, part.lower), np.where(integer, x, part.upper)
        model, _ = self._fixed(lower, upper)
        if model is None:
            return
        if model.n_columns:
            solution = self._attempt(model, tight=True, least=0.1)
            if solution.x is None:
                return
            x = self._rounded(self._point(lower, upper, solution.x))
        faults = self.check(x)
        if faults.inherent:
            raise ContradictionError("; ".join(faults.texts))
        if not faults.texts and self._value(x) > self.value:
            self._take(x)

    def _take(self, x: FloatArray) -> None:
        self.x, self.value = x, self._value(x)

    def _value(self, x: FloatArray) -> float:
        return math.fsum((self.model.objective * (x - self.scaled.origin)).tolist())

    def _contains(self, part: Part) -> bool:
        return self.x is not None and bool(((part.lower <= self.x) & (self.x <= part.upper)).all())

    def _fixed(self, lower: FloatArray, upper: FloatArray) -> tuple[LinearModel | None, float]:
        """Take the integers with one value left out of the scaled model.

        Returns
        -------
        tuple
            The model, ``None`` if a row is left without variables that does not hold, and what the
            integers add to the objective.
        """
        scaled = self.scaled.model
        kept = self._kept(lower, upper)
        value = np.where(kept, 0.0, lower)
        moved = scaled.matrix @ value
        constant = self.scaled.scale * float(scaled.objective @ value)
        matrix = sparse.csr_array(sparse.csc_array(scaled.matrix)[:, kept])
        rows = np.diff(matrix.indptr) > 0
        if not rows.all():
            alone = replace(
                self.model,
                matrix=sparse.csr_array(self.model.matrix[~rows]),
                row_lower=self.model.row_lower[~rows],
                row_upper=self.model.row_upper[~rows],
            )
            if len(check_rows(alone, value).violated()):
                return None, constant
        offset = 0.0 if self.options.gap == 0 else (self.level + constant) / self.scaled.scale
        origin, unit = self.scaled.origin[kept], self.scaled.unit[kept]
        return LinearModel(
            scaled.objective[kept],
            offset,
            sparse.csr_array(matrix[rows]),
            (scaled.row_lower - moved)[rows],
            (scaled.row_upper - moved)[rows],
            (lower[kept] - origin) / unit,
            (upper[kept] - origin) / unit,
            scaled.integer[kept],
        ), constant

    def _kept(self, lower: FloatArray, upper: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(~(self.model.integer & (lower == upper)))

    def _point(self, lower: FloatArray, upper: FloatArray, y: FloatArray) -> FloatArray:
        """Return a solver's point in the model's units, with the integers that were taken out."""
        kept = self._kept(lower, upper)
        x = lower.copy()
        x[kept] = self.scaled.origin[kept] + self.scaled.unit[kept] * y
        return x

    def _rounded(self, x: FloatArray) -> FloatArray:
        whole = np.where(self.model.integer, np.rint(x), x)
        return np.clip(whole, self.model.column_lower, self.model.column_upper) + 0.0

    def _attempt(
        self,
        model: LinearModel,
        tight: bool,
        least: float = 0.0,
        *,
        start: FloatArray | None = None,
        node_limit: int | None = None,
    ) -> MilpSolution:
        options = replace(
            self.options,
            absolute_gap=self.options.absolute_gap / self.scaled.scale,
            node_limit=node_limit or self.options.node_limit,
        )
        if self.deadline is not None and options.time_limit is not None:
            left = max(self.deadline - time.perf_counter(), least * options.time_limit, 1e-3)
            options = replace(options, time_limit=left)
        solution = self.solver.solve(model, options, start=start, tight=tight, seed=self._seed)
        self.nodes += solution.nodes
        self.message = solution.message
        if solution.x is not None and not np.isfinite(solution.x).all():
            return replace(solution, status="error", x=None)
        return replace(solution, bound=solution.bound - model.offset)
