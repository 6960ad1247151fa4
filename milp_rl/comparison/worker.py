"""The process that solves an instance by one method: ``python -P -m milp_rl.comparison.worker``.

It reads a request from standard input, limits its own memory, and writes a line per state, the
row of the comparison as JSON, as soon as the state is solved. With ``-P`` nothing is imported from
the current folder.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

from milp_rl.comparison.instances import NETWORK, SPACE, STATES
from milp_rl.comparison.states import read_states
from milp_rl.formulations.networks.action_value import ActionValue
from milp_rl.formulations.networks.conversion import to_action_value
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.solvers.backends import new_backend
from milp_rl.solvers.errors import SolverUnavailableError
from milp_rl.solvers.log import log_of
from milp_rl.solvers.milp.argmax import MilpOptions
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.output import keep_stdout
from milp_rl.solvers.protocol import Argmax

READY = "ready\n"
"""What the process writes once it has imported what it needs, and the clock runs."""
_FIELDS = ("status", "value", "bound", "gap", "tolerance", "nodes", "seconds", "message")


def failed(status: str, message: str, seconds: float = math.nan) -> dict[str, Any]:
    """Return the row of a state that has no result."""
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
    """Solve what standard input asks for; write a line per state."""
    output = keep_stdout()
    request = json.loads(sys.stdin.read())
    if request["verbose"]:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("milp_rl.solvers").setLevel(logging.DEBUG)
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
    choice = {key: value for key, value in request["method"].items() if value is not None}
    name, written = choice.pop("solver"), MilpOptions(**choice)
    options = SolveOptions(
        request["gap"], time_limit=request["time_limit"], log=log_of(verbose=False)
    )
    backend: Argmax | None = None
    output.write(READY)
    output.flush()
    for state in states[request["first"] :]:
        begin = time.perf_counter()
        try:
            if backend is None:
                backend = new_backend(_value(folder, space, len(state)), space, name, written)
            result = backend.solve_one(state, options)
            row = {field: getattr(result, field) for field in _FIELDS}
        except MemoryError:
            row = failed("memory", f"more than {request['memory_limit']} GiB")
        except SolverUnavailableError as error:
            row = failed("unavailable", str(error))
        except (ValueError, RuntimeError) as error:
            row = failed("error", str(error), time.perf_counter() - begin)
        output.write(json.dumps(row) + "\n")
        output.flush()


def _value(folder: Path, space: ActionSpace, state_dim: int) -> ActionValue:
    value = to_action_value(folder / NETWORK, space.n_actions)
    if value.state_dim != state_dim:
        raise ValueError(
            f"{NETWORK} takes {value.n_inputs} inputs; {space.n_actions} actions and states of"
            f" {state_dim} values do not fit"
        )
    return value


if __name__ == "__main__":
    _work()
