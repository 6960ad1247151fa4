"""Comparing methods to solve an argmax: every state of every instance, in processes of their own.

Each method (:mod:`milp_rl.comparison.methods`) solves the states of an instance
(:mod:`milp_rl.comparison.instances`) one after another in one process
(:mod:`milp_rl.comparison.worker`), which is limited in memory and replaced if it dies or overstays.
What it has solved is written at once, so that a comparison that is stopped goes on where it was.
"""

from __future__ import annotations

import glob
import json
import logging
import math
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from milp_rl.comparison.instances import Instance
from milp_rl.comparison.methods import Method
from milp_rl.comparison.worker import READY, failed
from milp_rl.formulations.files import check_settings, locked, write_atomically, write_json
from milp_rl.solvers.versions import machine, solver_version

ROWS, SETTINGS = "rows", "settings.json"

_MOST = 1e6  # seconds, GiB
_STARTUP = 300.0  # seconds in which a process has imported what it needs, on a busy machine
_LINES_KEPT = 20  # of what a process writes to standard error
log = logging.getLogger("milp_rl.solvers.comparison")


def compare(
    instances: Sequence[Instance],
    methods: Sequence[Method],
    output: str | Path,
    *,
    gap: float = 0.0,
    time_limit: float = 60.0,
    grace: float = 60.0,
    memory_limit: float = 8.0,
    jobs: int = 1,
    imports: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Solve every state of every instance by every method, on from what is done already.

    Parameters
    ----------
    instances, methods
        What to solve, and how.
    output
        Folder for the rows, one file per instance and method.
    gap
        Relative gap at which a state counts as solved.
    time_limit
        Seconds per state.
    grace
        Seconds beyond the time limit after which a process is killed; before its first state they
        are also for reading the network and compiling loops.
    memory_limit
        GiB of address space per process.
    jobs
        Processes at a time; with more than one, times are those of a busy machine.
    imports
        Modules to import first, such as that of a block of your own.
    progress
        Called with the states done and all states.

    Returns
    -------
    list of dict
        One row per state and method: ``instance``, ``kind`` (of feasible set), ``state``,
        ``method``, ``solver`` and its ``version``, ``machine``,
        ``formulation``, ``bounds``, ``status`` (that of the result, or ``"memory"``,
        ``"killed"``, ``"stuck"``, ``"unavailable"``, ``"error"``), ``value``, ``bound``,
        ``gap``, ``tolerance``, ``nodes``, ``seconds`` and ``message``.

    Raises
    ------
    ValueError
        If rows in ``output`` were made with other limits, or of other instances of these names.
    RuntimeError
        If another comparison is writing to ``output``.
    """
    limits = {"time_limit": time_limit, "grace": grace, "memory_limit": memory_limit}
    for name, value in limits.items():
        if not 0 < value < _MOST:
            raise ValueError(f"{name} must be positive and at most {_MOST:g}, got {value}")
    if not 0 <= gap < math.inf:
        raise ValueError(f"gap must be a nonnegative number, got {gap}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    names = [instance.name for instance in instances]
    if len(set(names)) < len(names):
        raise ValueError(f"instances need different names, got {', '.join(names)}")
    settings = {"gap": gap, **limits}
    with locked(output):
        return _run(
            instances, list(dict.fromkeys(methods)), Path(output), settings, jobs, imports, progress
        )


def _run(
    instances: Sequence[Instance],
    methods: Sequence[Method],
    output: Path,
    settings: dict[str, float],
    jobs: int,
    imports: Sequence[str],
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    folder = output / ROWS
    folder.mkdir(exist_ok=True)
    about: list[tuple[Path, dict[str, Any], str]] = [(output / SETTINGS, settings, "*")]
    about += [
        (folder / f"{i.name}.json", {"instance": i.digest()}, glob.escape(i.name))
        for i in instances
    ]
    for path, wanted, names in about:
        if not path.exists() and any(folder.glob(f"{names}--*.jsonl")):
            raise ValueError(f"{folder} has rows, but no {path} says of what; give another folder")
        check_settings(path, wanted)
    for path, wanted, _ in about:
        write_json(path, wanted)
    tasks = [
        _Task(i, method, folder, settings, tuple(imports)) for i in instances for method in methods
    ]
    total = sum(task.instance.n_states for task in tasks)
    lock, done = threading.Lock(), sum(len(task.rows()) for task in tasks)

    def count() -> None:
        nonlocal done
        with lock:
            done += 1
            if progress is not None:
                progress(done, total)

    if progress is not None:
        progress(done, total)
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(task.run, count) for task in tasks]
        try:
            for future in running:
                future.result()
        except BaseException:
            for future in running:
                future.cancel()
            for task in tasks:
                task.stop()
            raise
    return [row for task in tasks for row in task.rows()]


class _Task:
    """An instance and a method, and the file of their rows."""

    def __init__(
        self,
        instance: Instance,
        method: Method,
        folder: Path,
        settings: dict[str, float],
        imports: tuple[str, ...],
    ) -> None:
        self.instance, self.method, self.settings, self.imports = (
            instance,
            method,
            settings,
            imports,
        )
        self._path = folder / f"{instance.name}--{method.name}.jsonl"
        self._about = {
            "kind": instance.kind(),
            "version": solver_version(method.solver) or "not installed",
            "machine": machine(),
        }
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows that are written whole."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").split("\n")[:-1]
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError as error:
            raise ValueError(f"{self._path} is damaged ({error}); delete it") from error

    def run(self, count: Callable[[], None]) -> None:
        """Solve what is left, in as many processes as it takes."""
        done = len(self.rows())
        if self._path.exists():  # without a line that was being written
            text = "".join(json.dumps(row) + "\n" for row in self.rows())
            write_atomically(self._path, text.encode())
        while done < self.instance.n_states and not self._stopped:
            for row in self._solved(done):
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**self._labels(done), **row}) + "\n")
                done += 1
                count()

    def stop(self) -> None:
        """Kill the process, if one runs, and start no other."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def _labels(self, state: int) -> dict[str, Any]:
        return {
            "instance": self.instance.name,
            "state": state,
            "method": self.method.name,
            **asdict(self.method),
            **self._about,
        }

    def _solved(self, first: int) -> Iterable[dict[str, Any]]:
        """Yield rows from state ``first`` until the process ends; the last may say how it did."""
        verbose = log.isEnabledFor(logging.DEBUG)
        request = {
            "verbose": verbose,
            "folder": str(self.instance.folder),
            "header": self.instance.header,
            "method": asdict(self.method),
            "first": first,
            "imports": self.imports,
            "path": [entry for entry in sys.path if entry],
            **self.settings,
        }
        # -P: nothing is imported from the current folder.
        command = [sys.executable, "-P", "-m", "milp_rl.comparison.worker"]
        process = self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        errors: deque[str] = deque(maxlen=_LINES_KEPT)

        def read_errors() -> None:
            for text in process.stderr or ():
                errors.append(text)
                if verbose:
                    log.debug("%s: %s", self.method.name, text.rstrip())

        reader = threading.Thread(target=read_errors, daemon=True)
        reader.start()
        solved, stuck = 0, threading.Event()

        def give_up() -> None:
            stuck.set()
            process.kill()

        limit = self.settings["time_limit"] + self.settings["grace"]
        waiting = _STARTUP
        while True:
            timer = threading.Timer(waiting, give_up)
            timer.start()
            line = process.stdout.readline()
            timer.cancel()
            if not line.endswith("\n"):
                break
            if line != READY:
                yield json.loads(line)
                solved += 1
            waiting = limit
        code = process.wait()
        reader.join()
        if self._stopped or first + solved == self.instance.n_states:
            return
        message = errors[-1].strip() if errors else f"exit status {code}"
        if stuck.is_set():
            yield failed("stuck", f"did not answer within {waiting:g} s, and was killed")
        elif code < 0:
            yield failed("killed", f"ended by {signal.Signals(-code).name}: {message}")
        else:
            yield failed("error", message)
