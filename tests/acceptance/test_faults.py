"""What may go wrong around a run: killed processes, full disks, damaged files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import milp_rl as mr
from milp_rl.solvers import batch

COMMAND = Path(sys.executable).with_name("milp-rl")
EXPERIMENT = """
domains = ["capacity"]
sizes = [[8, 3]]
seeds = [0, 1]
methods = ["sequoia"]
episodes = 50
[dqn]
episodes = 500
pretrain_epochs = 500
"""


def children(pid):
    """Processes below one, on all levels."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    own = [int(line) for line in found.stdout.split()]
    return own + [below for child in own for below in children(child)]


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_experiment_leaves_no_process_behind(tmp_path, ending):
    (tmp_path / "long.toml").write_text(EXPERIMENT)
    running = subprocess.Popen(
        [COMMAND, "experiment", "run", "long.toml", "--jobs", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    history = tmp_path / "runs" / "long" / "training"
    assert wait_until(lambda: len(list(history.glob("*"))) == 2, 120)
    below = children(running.pid)
    assert below
    running.send_signal(ending)
    running.communicate(timeout=60)
    assert running.returncode != 0
    assert wait_until(lambda: not any(map(alive, below)), 20)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    """Files may have at most 30 kB: the second checkpoint does not fit."""
    script = textwrap.dedent(
        """
        import resource, sys, signal
        import torch
        from milp_rl.formulations.files import write_atomically
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        write_atomically("run.pt", b"x" * 20_000)
        try:
            write_atomically("run.pt", b"y" * 100_000)
        except OSError as error:
            print("OSError", error.errno)
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "OSError" in run.stdout
    assert (tmp_path / "run.pt").read_bytes() == b"x" * 20_000
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.slow
def test_a_killed_worker_costs_time_only(monkeypatch):
    """Branch and bound in processes, of which one is killed in the middle of a batch."""
    monkeypatch.setattr(batch, "_SECONDS_WORTH_PROCESSES", 0.0)
    network = mr.QNetwork(3, 24, (16, 16), generator=torch.Generator().manual_seed(0))
    space = mr.BudgetTopK(24, 4)
    solver = mr.ArgmaxSolver(network, space, solver="branch_and_bound")
    states = np.random.default_rng(0).random((160, 3))

    class Killer:
        """Kills the first worker that there is, from a thread."""

        def __enter__(self):
            import threading

            self.found = False
            self.thread = threading.Thread(target=self.run)
            self.thread.start()
            return self

        def run(self):
            def worker():
                mine = [p for p in children(os.getpid()) if "popen_loky" in _command(p)]
                return mine[0] if mine else None

            if wait_until(lambda: worker() is not None, 60):
                time.sleep(1.0)
                self.found = True
                os.kill(worker(), signal.SIGKILL)

        def __exit__(self, *_):
            self.thread.join()

    with Killer() as killer:
        results = solver.solve_batch(states, workers=2)
    assert killer.found
    assert all(result.status == "optimal" for result in results)
    again = solver.solve_batch(states[:40], workers=2)
    assert all(result.status == "optimal" for result in again)


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_networks_are_refused(tmp_path, share):
    path = tmp_path / "q.onnx"
    mr.QNetwork(2, 4).to_onnx(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(mr.NetworkError):
        mr.to_network(path)


def test_a_network_with_other_weights_than_numbers_is_refused(tmp_path):
    network = mr.QNetwork(2, 4)
    with torch.no_grad():
        network.layers[0].weight[0, 0] = float("nan")
    with pytest.raises(mr.NetworkError, match="not finite"):
        network.to_onnx(tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()
    with pytest.raises(mr.NetworkError, match="not finite"):
        mr.ArgmaxSolver(network, mr.BudgetTopK(4, 2))


def test_badly_scaled_networks_warn():
    good = mr.Network.from_arrays([np.ones((3, 2)), np.ones((1, 3))], [np.zeros(3), np.zeros(1)])
    bad = mr.Network.from_arrays(
        [[[1e-6, 0.0], [1e6, 1.0]], [[1.0, 1.0]]], [np.zeros(2), np.zeros(1)]
    )
    space = mr.BudgetTopK(2, 1)
    with pytest.warns(mr.ScalingWarning, match="differ by a factor of 1e\\+12"):
        mr.ArgmaxSolver(bad, space)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mr.ArgmaxSolver(good, space)
