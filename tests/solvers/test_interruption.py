"""Signals end solves within two seconds, and the solver can be used afterwards."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, threading, time
import numpy as np, torch
import milp_rl as mr
q = mr.QNetwork(10, 40, hidden=(64, 64), generator=torch.Generator().manual_seed(1))
solver = mr.ArgmaxSolver(q, mr.BudgetTopK(40, 10), {options}, time_limit=60)
state = np.full(10, 0.5)
threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.{signal})).start()
begin = time.perf_counter()
try:
    if {batch}:
        solver.solve_batch(np.tile(state, (6, 1)), workers=2)
    else:
        solver.solve(state)
except KeyboardInterrupt:
    seconds = time.perf_counter() - begin - 1.5
    result = solver.solve(state, time_limit=0.5)
    print("again", result.status, seconds)
"""


PYOMO = 'solver="highs", engine="pyomo"'
SOLVERS = [f'solver="{name}"' for name in ("highs", "gurobi", "scip", "branch_and_bound")]


@pytest.mark.parametrize(
    ("options", "batch"), [(o, b) for o in SOLVERS for b in (False, True)] + [(PYOMO, False)]
)
def test_ctrl_c_stops_the_solver_which_can_be_used_again(options, batch):
    script = SCRIPT.format(options=options, batch=batch, signal="SIGINT")
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    again, status, seconds = done.stdout.splitlines()[-1].split()
    # Pyomo's interface to HiGHS takes no start, and HiGHS may find no action in half a second.
    known = ("feasible", "no_solution") if options == PYOMO else ("feasible",)
    assert again == "again"
    assert status in known
    assert float(seconds) < 2.5  # two, and what a busy machine adds


@pytest.mark.parametrize("solver", ["highs", "gurobi", "scip"])
def test_a_process_that_is_told_to_end_does(solver):
    script = SCRIPT.format(options=f'solver="{solver}"', batch=True, signal="SIGTERM")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGTERM


LEFT = """
import os, signal, sys, threading, time
from milp_rl.formulations.interruption import interruptible

def solve():  # goes on after it was stopped for longer than a call waits for it
    time.sleep(4)
    print("ended", flush=True)

threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    interruptible(solve, lambda: None)
except KeyboardInterrupt:
    print("left", flush=True)
"""


def test_a_process_waits_at_its_end_for_a_solve_that_it_has_left():
    ended = subprocess.run(
        [sys.executable, "-c", LEFT], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.split() == ["left", "ended"]


AFTERWARDS = """
import os, signal, threading, time
import numpy as np, torch
import milp_rl as mr
q = mr.QNetwork(4, 12, hidden=(16, 16), generator=torch.Generator().manual_seed(1))
solver = mr.ArgmaxSolver(q, mr.Capacity([2, 3, 4, 5, 1, 2] * 2, [7, 6, 4]), solver="gurobi")
for _ in range(3):
    solver.solve_batch(np.random.default_rng(0).normal(size=(30, 4)), workers=4)
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    time.sleep(4)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_reaches_python_after_a_batch_that_gurobi_solved_in_threads():
    done = subprocess.run(
        [sys.executable, "-c", AFTERWARDS],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.stdout.splitlines() == ["interrupted"], done.stderr
