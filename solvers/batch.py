"""Solving many states on all cores, with the same answers whatever the number of workers.

HiGHS, Gurobi and numpy's larger operations release the interpreter lock, so MILPs and enumerations
run in threads. Branch and bound, which is many small array operations, runs in processes; its
states are always grouped by the same number, since it searches a group together, and processes are
only brought in for work that outlasts their start. If one of them dies, what they had is solved
here. States whose calls give them other spaces are grouped by these.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import parent_process
from typing import TypeVar

import joblib
import numpy as np
from joblib.externals.loky.process_executor import TerminatedWorkerError

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.interruption import in_threads
from milp_rl.formulations.networks.action_value import ActionValue
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.auto import LISTED_AT_ONCE
from milp_rl.solvers.backends import Backends
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.processes import safe_path
from milp_rl.solvers.protocol import Argmax, Starts
from milp_rl.solvers.result import ArgmaxResult

_GROUP = 32
_SECONDS_WORTH_PROCESSES = 2.0
_Space = TypeVar("_Space", bound=ActionSpace | None)
logger = logging.getLogger(__name__)
_known: dict[str, tuple[str, Backends]] = {}  # in a worker: value's version, backends by owner


@dataclass(frozen=True, eq=False)
class Batch:
    """States, and what is asked for each of them.

    Parameters
    ----------
    states
        Shape (batch, state_dim).
    options
        Limits of each solve; branch and bound takes a time limit for 32 states together.
    starts
        A feasible action to start from for each state, or ``None`` for it.
    pins
        Binary actions held at one or zero, a row per state.
    spaces
        The space of each state where it is not the solver's own, ``None`` where it is; altogether
        ``None`` for all of them.
    """

    states: FloatArray
    options: SolveOptions
    starts: Starts
    pins: Pins = field(default_factory=Pins)
    spaces: Sequence[ActionSpace | None] | None = None

    def __len__(self) -> int:
        return len(self.states)

    def rows(self, rows: IntArray) -> Batch:
        """Return some of the states."""
        spaces = None if self.spaces is None else [self.spaces[i] for i in rows]
        starts = [self.starts[i] for i in rows]
        states = np.ascontiguousarray(self.states[rows])
        return replace(self, states=states, starts=starts, pins=self.pins[rows], spaces=spaces)

    def with_masks_for_spaces(self, own: ActionSpace) -> Batch:
        """Return the same, with a mask instead of a space that leaves out variables of ``own``.

        Not of a set so small that it is listed, nor where a variable that is left out is required,
        which leaves the set empty.
        """
        found: dict[int, BoolArray] = {}
        one = self.pins.one
        required = None if one is None else np.broadcast_to(one, (len(self), own.n_actions))
        for row, space in enumerate(self.spaces or []):
            mask = None if space is None or space is own else own.left_out_by(space)
            if space is None or mask is None or space.count_bound <= LISTED_AT_ONCE:
                continue
            if required is None or not (mask & required[row]).any():
                found[row] = mask
        if not found:
            return self
        masks = np.zeros((len(self), own.n_actions), dtype=bool)
        masks[list(found)] = list(found.values())
        kept = [None if row in found else space for row, space in enumerate(self.spaces or [])]
        pins = self.pins.and_zero(masks, masks.shape)
        return replace(self, pins=pins, spaces=kept if any(kept) else None)

    def groups(self) -> list[IntArray]:
        """Return the states that share a space, in the order of the first of each."""
        if self.spaces is None:
            return [np.arange(len(self))]
        return list(rows_of(self.spaces).values())

    def solved_by(self, backend: Argmax) -> list[ArgmaxResult]:
        """Return the results, all states having the backend's space."""
        return backend.solve(self.states, self.options, self.starts, self.pins)

    @property
    def space(self) -> ActionSpace | None:
        """The space that all states share."""
        return self.spaces[0] if self.spaces else None


def rows_of(spaces: Sequence[_Space]) -> dict[_Space, IntArray]:
    """Return the rows that have each space, or an equal one, in the order of the first of each."""
    found: dict[_Space, list[int]] = {}
    known: dict[int, list[int]] = {}  # as comparing spaces takes longer
    for row, space in enumerate(spaces):
        if id(space) not in known:
            known[id(space)] = found.setdefault(space, [])
        known[id(space)].append(row)
    return {space: np.array(rows) for space, rows in found.items()}


class BatchSolver:
    """Solves batches of states with one solver's backends; keeps what workers need to know.

    Parameters
    ----------
    backends
        Solve one state, or a group of them that share a space.
    """

    def __init__(self, backends: Backends) -> None:
        self.backends = backends
        self._owner = uuid.uuid4().hex
        self._pickled: bytes | None = None
        self._guard = threading.Lock()
        self._solving = 0

    @property
    def backend(self) -> Argmax:
        """That of the solver's own space."""
        return self.backends.own

    def __getstate__(self) -> dict[str, Backends]:
        return {"backends": self.backends}

    def __setstate__(self, state: dict[str, Backends]) -> None:
        BatchSolver.__init__(self, state["backends"])

    def update(self, value: ActionValue) -> None:
        """Replace the backends' action value.

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
            self.backends.update(value)

    @contextmanager
    def in_use(self) -> Iterator[Backends]:
        """Give the backends, whose action value stays as it is until the end."""
        with self._guard:
            self._solving += 1
        try:
            yield self.backends
        finally:
            with self._guard:
                self._solving -= 1

    def solve_one(self, batch: Batch) -> ArgmaxResult:
        """Solve for the one state of a batch."""
        with self.in_use():
            batch = batch.with_masks_for_spaces(self.backend.space)
            return batch.solved_by(self.backends.over(batch.space))[0]

    def solve(self, batch: Batch, workers: int | None) -> list[ArgmaxResult]:
        """Solve for every state, in order.

        Parameters
        ----------
        batch
            The states.
        workers
            Threads or processes; ``None``: as many as there are cores, or one in a process that
            is itself a worker.
        """
        if workers is None:
            workers = 1 if parent_process() is not None else joblib.cpu_count()
        with self.in_use():
            batch = batch.with_masks_for_spaces(self.backend.space)
            if self.backend.parallel == "threads":
                return self._in_threads(batch, min(workers, len(batch)))
            return self._in_groups(batch, workers)

    def _in_threads(self, batch: Batch, workers: int) -> list[ArgmaxResult]:
        def share(k: int) -> list[tuple[int, ArgmaxResult]]:
            own = np.arange(k, len(batch), workers)
            part, solved = batch.rows(own), []
            for rows in part.groups():
                group = part.rows(rows)
                backend = self.backends.over(group.space)
                results = group.solved_by(backend if k == 0 else backend.for_thread())
                solved += list(zip(own[rows].tolist(), results, strict=True))
            return solved

        if workers <= 1:
            shares = [share(0)] if workers else []
        else:
            shares = in_threads([partial(share, k) for k in range(workers)])
        return _in_order(pair for solved in shares for pair in solved)

    def _in_groups(self, batch: Batch, workers: int) -> list[ArgmaxResult]:
        groups = [
            rows[i : i + _GROUP] for rows in batch.groups() for i in range(0, len(rows), _GROUP)
        ]
        solved: list[tuple[int, ArgmaxResult]] = []
        begin = time.perf_counter()
        for done, rows in enumerate(groups):
            group = batch.rows(rows)
            results = group.solved_by(self.backends.over(group.space))
            solved += zip(rows.tolist(), results, strict=True)
            left = groups[done + 1 :]
            expected = (time.perf_counter() - begin) / (done + 1) * len(left)
            if workers > 1 and len(left) > 1 and expected > _SECONDS_WORTH_PROCESSES:
                parts = self._in_processes([batch.rows(own) for own in left], workers)
                for own, results in zip(left, parts, strict=True):
                    solved += zip(own.tolist(), results, strict=True)
                break
        return _in_order(solved)

    def _in_processes(self, groups: list[Batch], workers: int) -> list[list[ArgmaxResult]]:
        if self._pickled is None:
            self._pickled = pickle.dumps(self.backends)
        task = joblib.delayed(_solve_group)
        own = self.backend
        silent = [replace(g, options=replace(g.options, log=None)) for g in groups]  # over there
        try:
            with safe_path():
                parts: list[list[ArgmaxResult]] = joblib.Parallel(n_jobs=workers)(
                    task(self._owner, own.version, self._pickled, own.value, group)
                    for group in silent
                )
                return parts
        except TerminatedWorkerError as error:  # out of memory, or killed by hand
            logger.warning("a worker process died (%s); solving in this one", error)
            return [group.solved_by(self.backends.over(group.space)) for group in groups]


def _in_order(solved: Iterable[tuple[int, ArgmaxResult]]) -> list[ArgmaxResult]:
    return [result for _, result in sorted(solved, key=lambda pair: pair[0])]


def _solve_group(
    owner: str, version: str, pickled: bytes, value: ActionValue, group: Batch
) -> list[ArgmaxResult]:
    """Solve a group in a worker process, which keeps the last backends it was given."""
    known, backends = _known.get(owner, ("", None))
    if backends is None:
        _known.clear()
        backends = pickle.loads(pickled)
    if known != version:
        backends.update(value)
        _known[owner] = (version, backends)
    return group.solved_by(backends.over(group.space))
