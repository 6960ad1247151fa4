"""Comparing ways to solve an argmax: every state of every instance, in processes of their own.

An instance is a folder with ``q.onnx``, ``space.json`` and ``states.csv``. A way is a solver, with
formulation and bounds if it is for MILPs. Each way solves the states of an instance one after
another in one process, which is limited in memory and replaced if it dies or overstays; what it has
solved is written at once, so that a comparison that is stopped goes on where it was.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import importlib
import itertools
import json
import math
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.files import check_settings, locked, write_atomically, write_json
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.networks.onnx_file import external_files
from milp_rl.formulations.networks.onnx_reader import read_onnx
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.solvers.backends import new_backend
from milp_rl.solvers.errors import SolverUnavailableError
from milp_rl.solvers.milp.argmax import MilpOptions
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.output import keep_stdout
from milp_rl.solvers.protocol import Argmax

NETWORK, SPACE, STATES = "q.onnx", "space.json", "states.csv"
ROWS, SETTINGS = "rows", "settings.json"
MILP_SOLVERS = ("highs", "gurobi", "scip")
SOLVERS = (*MILP_SOLVERS, "branch_and_bound", "enumeration", "auto")

_MISSING = ("na", "n/a", "nan", "null", "none", "nil", "inf", "infinity", "true", "false")
_DOUBT = "; say whether the first row is a header (--header or --no-header)"
_MOST = 1e6  # seconds, GiB
_GRACE = 60.0  # seconds beyond the time limit before a process is taken for stuck


@dataclass(frozen=True)
class Way:
    """One way to solve.

    Parameters
    ----------
    solver
        Name of a solver.
    formulation, bounds
        ``None`` for a solver that has no use for them.
    """

    solver: str
    formulation: str | None = None
    bounds: str | None = None

    @property
    def name(self) -> str:
        """Its name in tables and files."""
        return "-".join(part for part in (self.solver, self.formulation, self.bounds) if part)


@dataclass(frozen=True)
class Instance:
    """A folder of an instance, checked."""

    name: str
    folder: Path
    n_states: int
    header: bool | None = None

    def digest(self) -> str:
        """Hash what is solved: the network, the space and the states."""
        total = hashlib.sha256(str(self.header).encode())
        for name in (NETWORK, *external_files(self.folder / NETWORK), SPACE, STATES):
            total.update(hashlib.sha256((self.folder / name).read_bytes()).digest())
        return total.hexdigest()


def ways(solvers: Sequence[str], formulations: Sequence[str], bounds: Sequence[str]) -> list[Way]:
    """Combine: formulations and bounds vary for the MILP solvers only.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    for kind, given, known in (
        ("solver", solvers, SOLVERS),
        ("formulation", formulations, ("bigm", "partition")),
        ("bounds", bounds, ("interval", "linear", "lp")),
    ):
        for name in given:
            if name not in known:
                raise ValueError(f"unknown {kind} {name!r}; known are {', '.join(known)}")
    found = []
    for solver in solvers:
        if solver in MILP_SOLVERS:
            pairs = itertools.product(formulations, bounds)
            found += [Way(solver, formulation, strength) for formulation, strength in pairs]
        else:
            found.append(Way(solver))
    return found


def find_instances(folder: str | Path, *, header: bool | None = None) -> list[Instance]:
    """Find the instances in a folder: itself, or its subfolders, in the order of their names.

    Parameters
    ----------
    folder
        Where to look.
    header
        Of the files of states, see :func:`read_states`.

    Raises
    ------
    ValueError
        If there is none, or one is incomplete or cannot be read.
    """
    root = Path(folder)
    places = [path.parent for path in sorted(root.glob(f"*/{NETWORK}"))]
    if (root / NETWORK).exists():
        places = [root]
    if not places:
        raise ValueError(f"{root} has no instance: a folder with {NETWORK}, {SPACE} and {STATES}")
    found = []
    for place in places:
        for name in (SPACE, STATES):
            if not (place / name).exists():
                raise ValueError(f"the instance {place} has no {name}")
        states = read_states(place / STATES, header=header)
        found.append(Instance(place.resolve().name, place, len(states), header))
    return found


def read_states(path: str | Path, *, header: bool | None = None) -> FloatArray:
    """Read states, a row each, from a CSV file.

    Parameters
    ----------
    path
        The file, in UTF-8.
    header
        Whether the first row holds names. Without, it does if every entry of it starts with a
        letter and cannot be a mistyped or missing number.

    Raises
    ------
    ValueError
        If there are no states, they differ in length, an entry is not a finite number, or it is
        not clear what the first row is; with the line and column.
    """
    lines = _csv_rows(path)
    if header is None and lines:
        header = _has_names(path, lines)
    if header:
        lines = lines[1:]
    if not lines:
        raise ValueError(f"{path} has no states")
    width = len(lines[0][1])
    for line, row in lines:
        if len(row) != width:
            raise ValueError(
                f"{path}, line {line}: a state of {len(row)} values, the first has {width}"
            )
        for column, entry in enumerate(row, start=1):
            if not (_is_number(entry) and math.isfinite(float(entry))):
                doubt = "" if line > lines[0][0] or header is not None else _DOUBT
                raise ValueError(
                    f"{path}, line {line}, column {column}: {entry!r} is not a finite number{doubt}"
                )
    return np.array([[float(entry) for entry in row] for _, row in lines])


def _csv_rows(path: str | Path) -> list[tuple[int, list[str]]]:
    """Return the rows that are not empty, each with the line it ends on."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, row) for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error


def _has_names(path: str | Path, lines: list[tuple[int, list[str]]]) -> bool:
    """Whether the first row holds names; raise ``ValueError`` if that is not clear."""
    first = lines[0][1]
    if all(map(_is_name, first)):
        return True
    counted = len(first) > 1 and first == [str(i) for i in range(len(first))]
    if counted and not all(entry.strip("- ").isdigit() for _, row in lines for entry in row):
        raise ValueError(
            f"{path}, line {lines[0][0]}: {','.join(first)} may be the numbers of the columns or a"
            f" state{_DOUBT}"
        )
    return False


def _is_name(text: str) -> bool:
    """Whether a text is a name: no number, not even a mistyped one, and not what is missing."""
    word = text.strip().lower()
    mistyped = word.translate(str.maketrans("oil", "011"))
    return word[:1].isalpha() and word not in _MISSING and not _is_number(mistyped)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text


def compare(
    instances: Sequence[Instance],
    to_try: Sequence[Way],
    output: str | Path,
    *,
    gap: float = 0.0,
    time_limit: float = 60.0,
    memory_limit: float = 8.0,
    jobs: int = 1,
    imports: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Solve every state of every instance in every way, on from what is done already.

    Parameters
    ----------
    instances, to_try
        What to solve, and how.
    output
        Folder for the rows, one file an instance and way.
    gap
        Relative gap at which a state counts as solved.
    time_limit
        Seconds a state.
    memory_limit
        GiB of address space a process.
    jobs
        Processes at a time; with more than one, times are those of a busy machine.
    imports
        Modules to import first, such as that of a block of your own.
    progress
        Called with the states done and all states.

    Returns
    -------
    list of dict
        A row a state and way: ``instance``, ``state``, ``way``, ``solver``, ``formulation``,
        ``bounds``, ``status`` (that of the result, or ``"memory"``, ``"killed"``, ``"stuck"``,
        ``"unavailable"``, ``"error"``), ``value``, ``bound``, ``gap``, ``nodes``, ``seconds`` and
        ``message``.

    Raises
    ------
    ValueError
        If rows in ``output`` were made with other limits, or of other instances of these names.
    RuntimeError
        If another comparison is writing to ``output``.
    """
    for name, value in (("time_limit", time_limit), ("memory_limit", memory_limit)):
        if not 0 < value < _MOST:
            raise ValueError(f"{name} must be positive and at most {_MOST:g}, got {value}")
    if not 0 <= gap < math.inf:
        raise ValueError(f"gap must be a nonnegative number, got {gap}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    names = [instance.name for instance in instances]
    if len(set(names)) < len(names):
        raise ValueError(f"instances need different names, got {', '.join(names)}")
    settings = {"gap": gap, "time_limit": time_limit, "memory_limit": memory_limit}
    with locked(output):
        return _run(
            instances, list(dict.fromkeys(to_try)), Path(output), settings, jobs, imports, progress
        )


def _run(
    instances: Sequence[Instance],
    to_try: Sequence[Way],
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
    tasks = [_Task(i, way, folder, settings, tuple(imports)) for i in instances for way in to_try]
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
    """An instance and a way, and the file of its rows."""

    def __init__(
        self,
        instance: Instance,
        way: Way,
        folder: Path,
        settings: dict[str, float],
        imports: tuple[str, ...],
    ) -> None:
        self.instance, self.way, self.settings, self.imports = instance, way, settings, imports
        self._path = folder / f"{instance.name}--{way.name}.jsonl"
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
            "way": self.way.name,
            **asdict(self.way),
        }

    def _solved(self, first: int) -> Iterable[dict[str, Any]]:
        """Yield rows from state ``first`` until the process ends; the last may say how it did."""
        request = {
            "folder": str(self.instance.folder),
            "header": self.instance.header,
            "way": asdict(self.way),
            "first": first,
            "imports": self.imports,
            "path": [entry for entry in sys.path if entry],
            **self.settings,
        }
        # Safe path: nothing is imported from the current folder.
        command = [sys.executable, "-P", "-m", "milp_rl.comparison.run"]
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
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        reader.start()
        solved, stuck = 0, threading.Event()

        def give_up() -> None:
            stuck.set()
            process.kill()

        while True:
            timer = threading.Timer(self.settings["time_limit"] + _GRACE, give_up)
            timer.start()
            line = process.stdout.readline()
            timer.cancel()
            if not line.endswith("\n"):
                break
            yield json.loads(line)
            solved += 1
        code = process.wait()
        reader.join()
        if self._stopped or first + solved == self.instance.n_states:
            return
        message = errors[-1].strip() if errors else f"exit status {code}"
        if stuck.is_set():
            yield _failed("stuck", "did not stop at the time limit")
        else:
            yield _failed("killed" if code < 0 else "error", message)


def _network(folder: Path, space: ActionSpace, state_dim: int) -> Network:
    network = read_onnx(folder / NETWORK)
    if network.n_outputs != 1 or network.n_inputs != space.n_actions + state_dim:
        raise ValueError(
            f"{NETWORK} takes {network.n_inputs} inputs and has {network.n_outputs} outputs;"
            f" {space.n_actions} actions and states of {state_dim} values do not fit"
        )
    return network


def _failed(status: str, message: str, seconds: float = math.nan) -> dict[str, Any]:
    return {
        "status": status,
        "value": math.nan,
        "bound": math.nan,
        "gap": math.inf,
        "tolerance": math.nan,
        "nodes": 0,
        "seconds": seconds,
        "message": message,
    }


def _work() -> None:
    """Solve what standard input asks for; write a line a state."""
    output = keep_stdout()
    request = json.loads(sys.stdin.read())
    memory, most = int(request["memory_limit"] * 2**30), resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = memory if most == resource.RLIM_INFINITY else min(memory, most)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    if request["imports"]:  # found where the caller finds them, after everything else
        sys.path += [entry for entry in request["path"] if entry not in sys.path]
    for module in request["imports"]:
        importlib.import_module(module)
    folder = Path(request["folder"])
    space = ActionSpace.from_json(folder / SPACE)
    states = read_states(folder / STATES, header=request["header"])
    choice = {key: value for key, value in request["way"].items() if value is not None}
    name, written = choice.pop("solver"), MilpOptions(**choice)
    options = SolveOptions(request["gap"], time_limit=request["time_limit"])
    backend: Argmax | None = None
    for state in states[request["first"] :]:
        begin = time.perf_counter()
        try:
            if backend is None:
                backend = new_backend(_network(folder, space, len(state)), space, name, written)
            result = backend.solve_one(state, options)
            row = {
                key: getattr(result, key)
                for key in (
                    "status",
                    "value",
                    "bound",
                    "gap",
                    "tolerance",
                    "nodes",
                    "seconds",
                    "message",
                )
            }
        except MemoryError:
            row = _failed("memory", f"more than {request['memory_limit']} GiB")
        except SolverUnavailableError as error:
            row = _failed("unavailable", str(error))
        except (ValueError, RuntimeError) as error:
            row = _failed("error", str(error), time.perf_counter() - begin)
        output.write(json.dumps(row) + "\n")
        output.flush()


if __name__ == "__main__":
    _work()
