"""HiGHS through highspy: embedded, free, kept alive between solves."""

from __future__ import annotations

import math
import threading
from typing import Any

import highspy
import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.interruption import interruptible
from milp_rl.formulations.milp.highs import new_highs, pass_model, run
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.solvers.log import Lines
from milp_rl.solvers.milp.solver import MilpSolution
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import Status

_S = highspy.HighsModelStatus
_STOPPED = (
    _S.kTimeLimit,
    _S.kIterationLimit,
    _S.kSolutionLimit,
    _S.kInterrupt,
    _S.kObjectiveBound,
    _S.kObjectiveTarget,
    _S.kUnknown,
)


class HighsSolver:
    """One HiGHS instance.

    A new model is passed whole, as arrays: with stable neurons left out it has a few dozen
    rows, for which that is faster than changing single coefficients.
    """

    name = "highs"

    def __init__(self) -> None:
        self._highs = _stoppable()
        self._lock = threading.Lock()  # one loaded model at a time

    def __reduce__(self) -> tuple[type[HighsSolver], tuple[()]]:
        return HighsSolver, ()

    def solve(
        self,
        model: LinearModel,
        options: SolveOptions,
        *,
        start: FloatArray | None = None,
        tight: bool = False,
        seed: int = 0,
    ) -> MilpSolution:
        """Maximise ``model``; see :class:`milp_rl.solvers.milp.solver.MilpSolver`."""
        if not model.n_columns:  # HiGHS has no solution for a model without variables
            return MilpSolution("optimal", np.zeros(0), model.offset, message="Empty")
        with self._lock:
            if options.log is None:
                return self._solve(model, options, start, tight, seed)
            silent, lines = self._highs, Lines(options.log)
            self._highs = _stoppable()
            self._highs.write_to(lines.write)
            try:
                return self._solve(model, options, start, tight, seed)
            finally:
                self._highs = silent
                lines.end()

    def _solve(
        self,
        model: LinearModel,
        options: SolveOptions,
        start: FloatArray | None,
        tight: bool,
        seed: int,
    ) -> MilpSolution:
        highs = self._highs
        feasibility = 1e-9 if tight else 1e-7
        for name, value in (
            ("random_seed", seed),
            ("threads", options.threads),
            ("time_limit", options.time_limit or math.inf),
            ("mip_max_nodes", options.node_limit or highspy.kHighsIInf),
            ("mip_rel_gap", options.gap),
            ("mip_abs_gap", max(options.absolute_gap, 1e-9)),
            ("mip_feasibility_tolerance", 1e-9 if tight else 1e-6),
            ("primal_feasibility_tolerance", feasibility),
            ("dual_feasibility_tolerance", feasibility),
        ):
            highs.setOptionValue(name, value)
        pass_model(highs, model)
        if start is not None and np.isfinite(start).all():  # to complete one takes it long
            highs.setSolution(len(start), np.arange(len(start), dtype=np.int32), start)
        highs.stopping = False
        try:
            status = interruptible(lambda: run(highs), highs.stop)
        except BaseException:  # it may go on with this one for a while
            self._highs = _stoppable()
            raise
        return self._read(model, status)

    def _read(self, model: LinearModel, code: highspy.HighsModelStatus) -> MilpSolution:
        highs = self._highs
        info = highs.getInfo()
        message = highs.modelStatusToString(code)
        nodes = max(int(info.mip_node_count), 0)
        has_point = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        x = np.array(highs.getSolution().col_value) if has_point else None
        if model.integer.any():
            bound = info.mip_dual_bound
        else:
            bound = info.objective_function_value if code == _S.kOptimal else math.inf
        status: Status
        if code == _S.kOptimal and x is not None:
            status = "optimal"
        elif code == _S.kInfeasible:
            return MilpSolution("infeasible", None, -math.inf, nodes, message)
        elif code in (_S.kUnbounded, _S.kUnboundedOrInfeasible):
            return MilpSolution("unbounded", None, math.inf, nodes, message)
        elif code in _STOPPED:
            status = "no_solution" if x is None else "feasible"
        else:
            return MilpSolution("error", None, math.inf, nodes, message)
        return MilpSolution(status, x, bound, nodes, message)


def _stoppable() -> Any:
    highs = new_highs()
    highs.stop_where_asked()
    return highs
