"""Loading a :class:`LinearModel` into highspy."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import highspy
import numpy as np

from milp_rl.formulations.milp.linear_model import LinearModel

_pool_lock = threading.Lock()
_RELIABLE: dict[str, Any] = {
    "presolve": "off",
    "mip_pool_soft_limit": 1,
    "mip_heuristic_run_feasibility_jump": False,  # costs more than it finds; since HiGHS 1.11
}


class _SilentCore(highspy.Highs.__mro__[1]):  # type: ignore[misc]  # HiGHS without its Python half
    def __init__(self) -> None:
        super().__init__()
        self.setOptionValue("output_flag", False)


class _SilentHighs(highspy.Highs, _SilentCore):  # type: ignore[misc]
    """HiGHS whose output is off before ``Highs.__init__`` goes on to what prints the licence.

    HiGHS 1.16 writes it to standard output when its callbacks are set, at the end of
    ``Highs.__init__``. By its place in the order of bases, :class:`_SilentCore` comes before that.
    """

    stopping = False

    def stop_where_asked(self) -> None:
        """Look for :attr:`stopping`, which another thread sets, while HiGHS solves."""
        self.cbMipInterrupt += self._look
        self.cbSimplexInterrupt += self._look

    def write_to(self, write: Callable[[str], None]) -> None:
        """Pass on what HiGHS writes, in pieces, instead of keeping silent."""
        self.setOptionValue("log_to_console", False)
        self.setOptionValue("output_flag", True)
        self.setOptionValue("log_file", os.devnull)  # without, HiGHS 1.10 composes no lines
        self.cbLogging += lambda event: write(event.message)

    def _look(self, event: Any) -> None:
        if self.stopping:
            event.interrupt()

    def stop(self) -> None:
        """Make the solve that is going on end soon."""
        self.stopping = True


def silent_highs() -> highspy.Highs:
    """Return a single-threaded HiGHS instance that writes nothing, otherwise as HiGHS has it."""
    highs = _SilentHighs()
    highs.setOptionValue("threads", 1)
    return highs


@cache
def reliable_options() -> Mapping[str, Any]:
    """Return the options with which HiGHS's optima can be relied on, of those that it has.

    :func:`new_highs` says why.
    """
    highs, ok = silent_highs(), highspy.HighsStatus.kOk
    known = {
        name: value for name, value in _RELIABLE.items() if highs.getOptionValue(name)[0] == ok
    }
    return MappingProxyType(known)


def new_highs() -> highspy.Highs:
    """Return a silent, single-threaded HiGHS instance, set up so that its optima can be relied on.

    HiGHS 1.10 to 1.15.1 report a worse solution as optimal for some models of ReLU networks, up to
    one in 300 of those of a trained Q-network: with OMLT's partition formulation because presolve
    aggregates variables, with ours, presolve off, because a cut removes the optimum. Without
    presolve and with (next to) no cut pool that is down to about one in ten thousand, which the
    argmax notices and solves again (:mod:`milp_rl.solvers.milp.run`). HiGHS 1.16.0 is
    right on the kept models of the first two kinds; on that of the third it is wrong with these
    options, and right with its own (docs/reliability.md; ``tests/solvers/milp/test_highs.py``).
    The models of the argmax are small and lose nothing by these options.
    """
    highs = silent_highs()
    for name, value in reliable_options().items():
        highs.setOptionValue(name, value)
    return highs


def pass_model(highs: highspy.Highs, model: LinearModel) -> None:
    """Load ``model`` as a maximisation problem, replacing what was loaded."""
    lp = highspy.HighsLp()
    lp.num_col_ = model.n_columns
    lp.num_row_ = model.n_rows
    lp.sense_ = highspy.ObjSense.kMaximize
    lp.offset_ = model.offset
    lp.col_cost_ = model.objective
    lp.col_lower_ = model.column_lower
    lp.col_upper_ = model.column_upper
    lp.row_lower_ = model.row_lower
    lp.row_upper_ = model.row_upper
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = model.matrix.indptr.astype(np.int32)
    lp.a_matrix_.index_ = model.matrix.indices.astype(np.int32)
    lp.a_matrix_.value_ = model.matrix.data
    if model.integer.any():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[int(flag)] for flag in model.integer]
    highs.passModel(lp)


def run(highs: highspy.Highs) -> highspy.HighsModelStatus:
    """Solve the loaded model and return its status.

    HiGHS shares its threads in the process and refuses to run with another number of threads
    than the run before, be it of this library or not; the pool is then built anew.
    """
    highs.run()
    if highs.getModelStatus() == highspy.HighsModelStatus.kNotset:
        with _pool_lock:  # another thread may have built the pool meanwhile
            highs.run()
            if highs.getModelStatus() == highspy.HighsModelStatus.kNotset:
                highs.resetGlobalScheduler(True)
                highs.run()
    status: highspy.HighsModelStatus = highs.getModelStatus()
    return status
