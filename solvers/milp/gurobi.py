"""Gurobi through gurobipy: one environment, kept alive between solves.

The licence that comes with ``pip install gurobipy`` solves models of at most 2,000 variables and
2,000 linear constraints; a larger model raises :class:`SolverUnavailableError`.
"""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.interruption import interruptible
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.solvers.errors import SolverUnavailableError
from milp_rl.solvers.log import Lines, Log
from milp_rl.solvers.milp.solver import MilpSolution
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import Status

PIP_LICENCE_LIMIT = 2000
_SIZE_LIMIT_EXCEEDED = 10010
_NO_LICENCE = 10009


class GurobiSolver:
    """One Gurobi environment.

    Raises
    ------
    SolverUnavailableError
        If gurobipy is not installed or finds no valid licence.
    """

    name = "gurobi"

    def __init__(self) -> None:
        try:
            import gurobipy
        except ImportError as error:
            raise SolverUnavailableError(
                "Gurobi is not installed; run `pip install milp-rl[gurobi]`"
                " or choose solver='highs'"
            ) from error
        self._gurobipy = gurobipy
        self._lock = threading.Lock()  # an environment serves one thread at a time
        try:
            self._env = gurobipy.Env(params={"OutputFlag": 0})
        except gurobipy.GurobiError as error:
            raise explained(error, 0, 0) from error

    def __reduce__(self) -> tuple[type[GurobiSolver], tuple[()]]:
        return GurobiSolver, ()

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
        try:
            with self._lock, self._gurobipy.Model(env=self._env) as loaded:
                return self._solve(loaded, model, options, start, tight, seed)
        except self._gurobipy.GurobiError as error:
            raise explained(error, model.n_columns, model.n_rows) from error

    def _solve(
        self,
        loaded: Any,
        model: LinearModel,
        options: SolveOptions,
        start: FloatArray | None,
        tight: bool,
        seed: int,
    ) -> MilpSolution:
        grb = self._gurobipy.GRB
        loaded.Params.Seed = seed
        loaded.Params.Threads = options.threads
        loaded.Params.MIPGap = options.gap
        loaded.Params.MIPGapAbs = max(options.absolute_gap, 1e-9)
        if options.time_limit is not None:
            loaded.Params.TimeLimit = options.time_limit
        if options.node_limit is not None:
            loaded.Params.NodeLimit = options.node_limit
        if tight:
            loaded.Params.IntFeasTol = 1e-9
            loaded.Params.FeasibilityTol = 1e-9
            loaded.Params.OptimalityTol = 1e-9
            loaded.Params.IntegralityFocus = 1
        x = loaded.addMVar(
            model.n_columns,
            lb=model.column_lower,
            ub=model.column_upper,
            obj=model.objective,
            vtype=np.where(model.integer, grb.INTEGER, grb.CONTINUOUS),
        )
        loaded.ModelSense = grb.MAXIMIZE
        loaded.ObjCon = model.offset
        equal = model.row_lower == model.row_upper
        above = ~equal & np.isfinite(model.row_upper)
        below = ~equal & np.isfinite(model.row_lower)
        for rows, sense, right in (
            (equal, "=", model.row_upper),
            (above, "<", model.row_upper),
            (below, ">", model.row_lower),
        ):
            if rows.any():
                loaded.addMConstr(model.matrix[rows], x, sense, right[rows])
        if start is not None:
            x.Start = np.where(np.isfinite(start), start, grb.UNDEFINED)
        if options.log is None:
            interruptible(loaded.optimize, loaded.terminate)
        else:
            self._logged(loaded, options.log)
        if loaded.Status == grb.INTERRUPTED:  # Gurobi takes Ctrl-C for itself
            raise KeyboardInterrupt
        return self._read(loaded, x)

    def _logged(self, loaded: Any, log: Log) -> None:
        """Optimise, and pass on what Gurobi writes."""
        callback, lines = self._gurobipy.GRB.Callback, Lines(log)

        def take(model: Any, where: int) -> None:
            if where == callback.MESSAGE:
                lines.write(model.cbGet(callback.MSG_STRING))

        def optimize() -> None:
            thread = threading.get_ident()

            def from_elsewhere(record: logging.LogRecord) -> bool:
                return record.thread != thread

            logger = logging.getLogger("gurobipy")  # which gets the same lines, at level INFO
            logger.addFilter(from_elsewhere)
            try:
                loaded.Params.LogToConsole = 0
                loaded.Params.OutputFlag = 1
                loaded.optimize(take)
            finally:
                logger.removeFilter(from_elsewhere)

        interruptible(optimize, loaded.terminate)
        lines.end()

    def _read(self, loaded: Any, x: Any) -> MilpSolution:
        grb = self._gurobipy.GRB
        code = loaded.Status
        names = {getattr(grb.Status, n): n for n in dir(grb.Status) if n.isupper()}
        message = names.get(code, str(code))
        if code == grb.INF_OR_UNBD:
            loaded.Params.DualReductions = 0
            loaded.optimize()
            return self._read(loaded, x)
        nodes = int(loaded.NodeCount)
        if code == grb.INFEASIBLE:
            return MilpSolution("infeasible", None, -math.inf, nodes, message)
        if code == grb.UNBOUNDED:
            return MilpSolution("unbounded", None, math.inf, nodes, message)
        stopped = (grb.TIME_LIMIT, grb.NODE_LIMIT, grb.INTERRUPTED, grb.SUBOPTIMAL)
        if code != grb.OPTIMAL and code not in stopped:
            return MilpSolution("error", None, math.inf, nodes, message)
        bound = float(loaded.ObjBound)
        if loaded.SolCount == 0:
            return MilpSolution("no_solution", None, bound, nodes, message)
        status: Status = "optimal" if code == grb.OPTIMAL else "feasible"
        return MilpSolution(status, x.X, bound, nodes, message)


def explained(error: Any, n_variables: int, n_constraints: int) -> Exception:
    """Return what to raise for an error of gurobipy, met with a model of this size."""
    if error.errno == _SIZE_LIMIT_EXCEEDED:
        return SolverUnavailableError(
            f"the model has {n_variables} variables and {n_constraints} constraints, more"
            f" than this Gurobi licence allows (the licence that pip installs:"
            f" {PIP_LICENCE_LIMIT} variables, {PIP_LICENCE_LIMIT} linear constraints);"
            " use a full licence or solver='highs'"
        )
    if error.errno == _NO_LICENCE:
        return SolverUnavailableError(
            f"Gurobi finds no valid licence ({error}); install one or choose solver='highs'"
        )
    return RuntimeError(f"Gurobi failed: {error}")
