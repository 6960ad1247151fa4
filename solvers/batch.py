"""Solving many states on all cores, with the same answers whatever the number of workers.

HiGHS, Gurobi and numpy's larger operations release the interpreter lock, so MILPs and enumerations
run in threads. Branch and bound, which is many small array operations, runs in processes; its
states are always grouped by the same number, since it searches a group together, and processes are
only brought in for work that outlasts their start. If one of them dies, what they had is solved
here.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import parent_process

import joblib
import numpy as np
from joblib.externals.loky.process_executor import TerminatedWorkerError

from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import SolveOptions
from milp_rl.solvers.processes import safe_path
from milp_rl.solvers.protocol import Argmax, Starts
from milp_rl.solvers.result import ArgmaxResult

_GROUP = 32
_SECONDS_WORTH_PROCESSES = 2.0
logger = logging.getLogger(__name__)
_numbers = itertools.count()
_known: dict[tuple[int, int], tuple[int, Argmax]] = {}  # in a worker: backends by owner


class BatchSolver:
    """Solves batches of states with one backend; keeps what its workers need to know.

    Parameters
    ----------
    backend
        Solves one state, or a group of them.
    """

    def __init__(self, backend: Argmax) -> None:
        self.backend = backend
        self._owner = (os.getpid(), next(_numbers))
        self._version = 0
        self._pickled: bytes | None = None

    def update(self, network: Network) -> None:
        """Replace the backend's network."""
        self.backend.update(network)
        self._version += 1

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

        with ThreadPoolExecutor(workers) as pool:
            shares = list(pool.map(share, range(workers)))
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
                        self._version,
                        self._pickled,
                        self.backend.network,
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
    owner: tuple[int, int],
    version: int,
    pickled: bytes,
    network: Network,
    states: FloatArray,
    options: SolveOptions,
    starts: Starts,
) -> list[ArgmaxResult]:
    """Solve a group in a worker process, which keeps the last backend it was given."""
    known, backend = _known.get(owner, (-1, None))
    if backend is None:
        _known.clear()
        backend = pickle.loads(pickled)
    if known != version:
        backend.update(network)
        _known[owner] = (version, backend)
    return backend.solve(states, options, starts)
