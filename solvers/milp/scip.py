"""SCIP through PySCIPOpt, for comparisons: an extra, ``pip install "milp-rl[scip]"``."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.interruption import interruptible
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.scip import add_columns, rows_of
from milp_rl.solvers.errors import SolverUnavailableError
from milp_rl.solvers.log import Lines, Log
from milp_rl.solvers.milp.solver import MilpSolution
from milp_rl.solvers.options import SolveOptions, late
from milp_rl.solvers.result import Status

_LOOK = 0.2  # seconds between looks for new lines
_STOPPED = ("timelimit", "nodelimit", "totalnodelimit", "gaplimit", "userinterrupt", "memlimit")


class ScipSolver:
    """SCIP; every solve builds its model anew, as SCIP's interface wants it.

    Without presolve: SCIP 10.0's loses the optimum of some partition models of ReLU networks
    (``tests/solvers/milp/test_scip.py`` keeps one).

    Raises
    ------
    SolverUnavailableError
        If PySCIPOpt is not installed.
    """

    name = "scip"

    def __init__(self) -> None:
        try:
            import pyscipopt
        except ImportError as error:
            raise SolverUnavailableError(
                "SCIP is not installed; run `pip install milp-rl[scip]` or choose solver='highs'"
            ) from error
        self._scip = pyscipopt
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ScipSolver], tuple[()]]:
        return ScipSolver, ()

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
        deadline = options.deadline(time.perf_counter())
        with self._lock:
            try:
                loaded, x = self._load(model, deadline)
            except TimeoutError:
                return MilpSolution("no_solution", None, math.inf, message="timelimit")
            parameters: dict[str, Any] = {
                "limits/gap": options.gap,
                "limits/absgap": options.absolute_gap,
                "parallel/maxnthreads": options.threads,
                "misc/catchctrlc": False,
                "presolving/maxrounds": 0,
                "randomization/randomseedshift": seed,
            }
            if options.time_limit is not None:
                parameters["limits/time"] = max(deadline - time.perf_counter(), 0.0)
            if options.node_limit is not None:
                parameters["limits/nodes"] = options.node_limit
            if tight:
                parameters |= {"numerics/feastol": 1e-9, "numerics/dualfeastol": 1e-9}
            loaded.setParams(parameters)
            if start is not None and np.isfinite(start).all():
                solution = loaded.createSol()
                for variable, value in zip(x, start.tolist(), strict=True):
                    loaded.setSolVal(solution, variable, value)
                loaded.addSol(solution)
            solve = getattr(loaded, "optimizeNogil", loaded.optimize)  # older ones hold the lock
            with _logged(loaded, options.log):
                interruptible(solve, loaded.interruptSolve)
            return self._read(loaded, x)

    def _load(self, model: LinearModel, deadline: float) -> tuple[Any, list[Any]]:
        """Write a model, which may take long; ``TimeoutError`` if the deadline passes."""
        loaded = self._scip.Model()
        loaded.hideOutput()

        x = add_columns(loaded, model)
        for row in rows_of(model, x):
            if late(deadline):
                raise TimeoutError
            loaded.addCons(row)
        objective = self._scip.quicksum(
            float(c) * variable for c, variable in zip(model.objective, x, strict=True) if c
        )
        loaded.setObjective(objective + model.offset, "maximize")
        return loaded, x

    def _read(self, loaded: Any, x: list[Any]) -> MilpSolution:
        code, nodes = loaded.getStatus(), int(loaded.getNTotalNodes())
        if code == "infeasible":
            return MilpSolution("infeasible", None, -math.inf, nodes, code)
        if code in ("unbounded", "inforunbd"):
            return MilpSolution("unbounded", None, math.inf, nodes, code)
        bound = float(loaded.getDualbound())
        bound = math.inf if bound >= loaded.infinity() else bound
        if code != "optimal" and code not in _STOPPED:
            return MilpSolution("error", None, math.inf, nodes, code)
        if not loaded.getNSols():
            return MilpSolution("no_solution", None, bound, nodes, code)
        best = loaded.getBestSol()
        values = np.array([loaded.getSolVal(best, variable) for variable in x])
        # SCIP's own word for a solve that a gap limit ended; the argmax compares bound and value.
        status: Status = "optimal" if code in ("optimal", "gaplimit") else "feasible"
        return MilpSolution(status, values, bound, nodes, code)


@contextmanager
def _logged(loaded: Any, log: Log | None) -> Iterator[None]:
    """Pass on what SCIP writes; it takes a file for that alone, which is read as it grows."""
    if log is None:
        yield
        return
    lines, ended = Lines(log), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scip.log"
        loaded.setLogfile(str(path))
        with path.open(errors="replace") as written:

            def follow() -> None:
                while not ended.wait(_LOOK):
                    lines.write(written.read())

            follower = threading.Thread(target=follow, daemon=True)
            follower.start()
            try:
                yield
            finally:
                loaded.setLogfile(None)
                ended.set()
                follower.join()
                lines.write(written.read())
                lines.end()
