"""Solving many states on all cores, with the same answers whatever the number of workers.

HiGHS, Gurobi and numpy's larger operations release the interpreter lock, so MILPs and enumerations
run in threads. Branch and bound, which is many small array operations, runs in processes; its
states are always grouped by the same number, since it searches a group together, and processes are
only brought in for work that outlasts their start. If one of them dies, what they had is solved
here.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import parent_process

import joblib
import numpy as np
from joblib.externals.loky.process_executor import TerminatedWorkerError

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.interruption import in_threads
from milp_rl.formulations.networks.action_value import ActionValue
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.processes import safe_path
from milp_rl.solvers.protocol import Argmax, Starts
from milp_rl.solvers.result import ArgmaxResult

_GROUP = 32
_SECONDS_WORTH_PROCESSES = 2.0
logger = logging.getLogger(__name__)
_known: dict[str, tuple[str, Argmax]] = {}  # in a worker: value's version and backend by owner


class BatchSolver:
    """Solves batches of states with one backend; keeps what its workers need to know.

    Parameters
    ----------
    backend
        Solves one state, or a group of them.
    """

    def __init__(self, backend: Argmax) -> None:
        self.backend = backend
        self._owner = uuid.uuid4().hex
        self._pickled: bytes | None = None
        self._guard = threading.Lock()
        self._solving = 0

    def __getstate__(self) -> dict[str, Argmax]:
        return {"backend": self.backend}

    def __setstate__(self, state: dict[str, Argmax]) -> None:
        BatchSolver.__init__(self, state["backend"])

    def update(self, value: ActionValue) -> None:
        """Replace the backend's action value.

        Raises
        ------
        RuntimeError
            If another thread is solving, which would see both.
        """
        with self._guard:
            if self._solving:
                raise RuntimeError(
                    "update() while another thread solves with this solver: wait for it, or give"
                    " each thread a copy of its own (copy.deepcopy)"
                )
            self.backend.update(value)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._guard:
            self._solving += 1
        try:
            yield
        finally:
            with self._guard:
                self._solving -= 1

    def solve_one(
        self, state: FloatArray, options: SolveOptions, start: ActionArray | None
    ) -> ArgmaxResult:
        """Solve for one state, shape (state_dim,)."""
        with self._in_use():
            return self.backend.solve_one(state, options, start)

    def solve(
        self,
        states: FloatArray,
        options: SolveOptions,
        starts: Starts,
        workers: int | None,
    ) -> list[ArgmaxResult]:
        """Solve for every state, in order.

        Parameters
        ----------
        states
            Shape (batch, state_dim).
        options
            Limits of each solve; branch and bound takes a time limit for 32 states together.
        starts
            A feasible action to start from for each state, or ``None`` for it.
        workers
            Threads or processes; ``None``: as many as there are cores, or one in a process that
            is itself a worker.
        """
        if workers is None:
            workers = 1 if parent_process() is not None else joblib.cpu_count()
        with self._in_use():
            if self.backend.parallel == "threads":
                return self._in_threads(states, options, starts, min(workers, len(states)))
            return self._in_groups(states, options, starts, workers)

    def _in_threads(
        self, states: FloatArray, options: SolveOptions, starts: Starts, workers: int
    ) -> list[ArgmaxResult]:
        backend = self.backend
        if workers <= 1:
            return backend.solve(states, options, starts)
        copies = [backend, *(backend.for_thread() for _ in range(workers - 1))]

        def share(k: int) -> list[ArgmaxResult]:
            own = slice(k, None, workers)
            return copies[k].solve(states[own], options, starts[own])

        shares = in_threads([partial(share, k) for k in range(workers)])
        return [shares[i % workers][i // workers] for i in range(len(states))]

    def _in_groups(
        self, states: FloatArray, options: SolveOptions, starts: Starts, workers: int
    ) -> list[ArgmaxResult]:
        groups = [slice(i, i + _GROUP) for i in range(0, len(states), _GROUP)]
        results: list[ArgmaxResult] = []
        begin = time.perf_counter()
        for done, group in enumerate(groups):
            results += self.backend.solve(states[group], options, starts[group])
            left = len(groups) - done - 1
            expected = (time.perf_counter() - begin) / (done + 1) * left
            if workers > 1 and left > 1 and expected > _SECONDS_WORTH_PROCESSES:
                return results + self._in_processes(
                    states, options, starts, groups[done + 1 :], workers
                )
        return results

    def _in_processes(
        self,
        states: FloatArray,
        options: SolveOptions,
        starts: Starts,
        groups: list[slice],
        workers: int,
    ) -> list[ArgmaxResult]:
        if self._pickled is None:
            self._pickled = pickle.dumps(self.backend)
        task = joblib.delayed(_solve_group)
        try:
            with safe_path():
                parts = joblib.Parallel(n_jobs=workers)(
                    task(
                        self._owner,
                        self.backend.version,
                        self._pickled,
                        self.backend.value,
                        np.ascontiguousarray(states[group]),
                        options,
                        starts[group],
                    )
                    for group in groups
                )
        except TerminatedWorkerError as error:  # out of memory, or killed by hand
            logger.warning("a worker process died (%s); solving in this one", error)
            solve = self.backend.solve
            parts = [solve(states[group], options, starts[group]) for group in groups]
        return [result for part in parts for result in part]


def _solve_group(
    owner: str,
    version: str,
    pickled: bytes,
    value: ActionValue,
    states: FloatArray,
    options: SolveOptions,
    starts: Starts,
) -> list[ArgmaxResult]:
    """Solve a group in a worker process, which keeps the last backend it was given."""
    known, backend = _known.get(owner, ("", None))
    if backend is None:
        _known.clear()
        backend = pickle.loads(pickled)
    if known != version:
        backend.update(value)
        _known[owner] = (version, backend)
    return backend.solve(states, options, starts)
