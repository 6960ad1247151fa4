"""Programs and the command `milp-rl` as a user runs them, in forks of one process.

What they import takes seconds, so one process imports it and forks for each: still a process of its
own, with its own output, folder and status. It does not end as a process does, though: what has to
be right at the end, such as solves that were left, is tested in processes of their own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import NoReturn

COMMAND = Path(sys.executable).with_name("milp-rl")
# torch._dynamo is what the first optimizer imports. onnxruntime is not here: a fork of a process
# that has it waits at its end for threads that the fork has not.
PRELOADED = ("milp_rl.comparison.report", "milp_rl.envs", "sklearn", "torch._dynamo")


def python(
    script: Path, *arguments: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script with arguments in a folder, with ``env`` for its environment."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        command = [str(script), *map(str, arguments)]
        request = [command, str(cwd), dict(os.environ if env is None else env), *files]
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, status, *(Path(f).read_text() for f in files))


def milp_rl(
    *arguments: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command with arguments in a folder, with ``env`` for its environment."""
    return python(COMMAND, *arguments, cwd=cwd, env=env)


@cache
def _server() -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    # -P: this folder has a folder milp_rl.
    server = subprocess.Popen([sys.executable, "-P", __file__], text=True, **pipes)
    atexit.register(server.communicate)  # which ends it
    return server


def _serve() -> None:
    """Fork for each request; answer with the status of the fork."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # or each fork would copy what its collector looks through
    for line in sys.stdin:
        fork = os.fork()
        if not fork:
            _run(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]), flush=True)


def _run(
    command: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str
) -> NoReturn:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate((os.devnull, stdout, stderr)):
        new = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(new, descriptor)
        os.close(new)
    sys.argv = command
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [str(Path(command[0]).parent), *filter(None, paths), *sys.path]
    status = _status_of(command[0])
    threading._shutdown()  # the end of a process, but for taking apart what was imported
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


def _status_of(script: str) -> int:
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return left.code or 0
        print(left.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve()
