"""Standard output belongs to the program that uses the library."""

import os
import subprocess
import sys
import textwrap

import pytest

# What uses a solver: argmaxes, alone and in threads and processes, oracles, users' own models.
EVERYTHING = """
    import importlib.util, logging, multiprocessing, pickle, tempfile, threading
    from concurrent.futures import ProcessPoolExecutor

    import numpy as np
    import pyomo.environ as pyo
    from omlt import OmltBlock
    from omlt.neuralnet import ReluPartitionFormulation

    import milp_rl as mr
    from milp_rl.formulations.omlt import omlt_definition
    from milp_rl.formulations.testing import check_action_space
    from milp_rl.offline.allocation import Limit, allocate
    from milp_rl.solvers.export import export_model
    from milp_rl.solvers.models.solve import solve_model

    logging.disable()
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(6, 8)), rng.normal(size=(6, 6)), rng.normal(size=(1, 6))]
    network = mr.Network.from_arrays(weights, [rng.normal(size=len(w)) for w in weights])
    space = mr.BudgetTopK(6, 3) & mr.Capacity([1, 2, 3, 1, 2, 3], [4, 3])
    states = rng.random((2, 2))
    extra = ["scip"] if importlib.util.find_spec("pyscipopt") else []


    def solve(solver, **options):
        made = mr.ArgmaxSolver(network, space, solver=solver, **options)
        return pickle.loads(pickle.dumps(made)).solve_batch(states)


    def model(solver, *, infeasible=False):
        m = pyo.ConcreteModel()
        m.x = pyo.Var(range(8), domain=pyo.Binary)
        m.network = pyo.Block()
        m.objective = pyo.Objective(
            expr=mr.add_network(m.network, network, [m.x[i] for i in range(8)]), sense=pyo.maximize
        )
        m.limit = pyo.Constraint(expr=sum(m.x.values()) <= (-1 if infeasible else 3))
        solve_model(m, solver=solver)


    if __name__ == "__main__":
        for solver in ["auto", "branch_and_bound", "enumeration", "highs", "gurobi", *extra]:
            solve(solver)
            solve(solver, gap=0.5, time_limit=5.0)
        for solver in ["highs", "gurobi", *extra]:
            solve(solver, formulation="partition", bounds="lp")
            solve(solver, engine="pyomo")
            model(solver)
            model(solver, infeasible=True)
        for target in (lambda: solve("highs"), lambda: model("highs")):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(solve, "highs").result()
        m = pyo.ConcreteModel()
        m.network = OmltBlock()
        definition = omlt_definition(network, np.zeros(8), np.ones(8))
        m.network.build_formulation(ReluPartitionFormulation(definition))
        m.objective = pyo.Objective(expr=m.network.outputs[0])
        solve_model(m)
        check_action_space(space)
        check_action_space(mr.Box([-1.0] * 3, [1.0] * 3, matrix=[[1.0] * 3], right=[1.0]))
        allocate(rng.normal(size=(5, 3)), [Limit("hours", np.array([0.0, 1.0, 2.0]), 4.0)])
        with tempfile.TemporaryDirectory() as folder:
            export_model(network, space, states[0], folder + "/model.mps")
"""


def run(code, folder):
    path = folder / "program.py"
    path.write_text(textwrap.dedent(code))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_nothing_the_library_uses_writes_to_it(tmp_path):
    done = run(EVERYTHING, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_output_at_the_same_time_is_not_lost(tmp_path):
    """A solver is constructed quietly without taking standard output from other threads."""
    done = run(
        """
        import threading
        from milp_rl.formulations.milp.highs import new_highs

        def construct():
            while not stop.is_set():
                new_highs()

        stop = threading.Event()
        thread = threading.Thread(target=construct)
        thread.start()
        for number in range(2000):
            print(number, flush=True)
        stop.set()
        thread.join()
        """,
        tmp_path,
    )
    assert done.stdout.split() == [str(number) for number in range(2000)], done.stderr


LOUD = """
    import ctypes, os, subprocess, sys
    from milp_rl.solvers.output import keep_stdout

    libc = ctypes.CDLL(None)
    output = keep_stdout()
    print("python")
    libc.printf(b"buffered by C until exit\\n")
    os.write(1, b"descriptor\\n")
    sys.__stdout__.write("first stdout\\n")
    subprocess.run(["echo", "process"], check=True)
    output.write("answer \\u00e4\\n")
    output.flush()
"""


def test_a_kept_standard_output_has_its_own_lines_only(tmp_path):
    done = run(LOUD, tmp_path)
    assert (done.returncode, done.stdout) == (0, "answer ä\n"), done.stderr
    for loud in ("python", "exit", "descriptor", "first stdout", "process"):
        assert loud in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_not_matter(tmp_path, closed):
    path = tmp_path / "program.py"
    path.write_text(
        "from milp_rl.solvers.output import keep_stdout\n"
        "output = keep_stdout()\nprint('other')\noutput.write('answer\\n')\noutput.flush()\n"
    )
    done = subprocess.run(
        f"'{sys.executable}' '{path}' {closed}", shell=True, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout == ("" if closed.startswith(">") else "answer\n")
