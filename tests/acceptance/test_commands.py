"""The commands about single networks, as a user runs them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
import typer

import milp_rl as mr
from milp_rl.cli import doctor
from milp_rl.formulations.milp.highs import new_highs
from milp_rl.solvers.milp.highs import HighsSolver
from tests.forks import COMMAND, milp_rl

OWN_BLOCK = """
import pyomo.environ as pyo
import milp_rl as mr

class OddOnes(mr.ActionSpace):
    n_actions = 6
    def constrain(self, block, actions):
        block.half = pyo.Var(bounds=(0, 2), domain=pyo.Integers)
        block.odd = pyo.Constraint(expr=pyo.quicksum(actions) == 2 * block.half + 1)
    def violations(self, action):
        return [] if self.check_action(action).sum() % 2 else ["even"]
    def to_dict(self):
        return {"type": "OddOnes"}
"""


def write_instance(folder, space, seed=0, n_states=3, hidden=(6, 6)):
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    network = mr.QNetwork(2, space.n_actions, hidden, generator=generator)
    network.to_onnx(folder / "q.onnx")
    space.to_json(folder / "space.json")
    states = np.random.default_rng(seed).random((n_states, 2))
    np.savetxt(folder / "states.csv", states, delimiter=",", header="severity,load", comments="")
    return network, states


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instance")
    space = mr.BudgetTopK(6, 2)
    network, states = write_instance(folder, space)
    return folder, network, space, states


def test_argmax_prints_the_optimum_of_each_state(files):
    folder, network, space, states = files
    arguments = ("argmax", "q.onnx", "--space", "space.json", "--state", "states.csv")
    run = milp_rl(*arguments, "--json", cwd=folder)
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    expected = mr.ArgmaxSolver(network, space, solver="enumeration").solve_batch(states)
    assert [row["action"] for row in rows] == [result.action.tolist() for result in expected]
    assert [row["status"] for row in rows] == ["optimal"] * 3
    text = milp_rl(*arguments, "--solver", "highs", "--minimize", cwd=folder)
    assert text.returncode == 0
    assert text.stdout.count("optimal, value") == 3
    assert "(highs)" in text.stdout
    shown = milp_rl("-v", *arguments, "--json", "--solver", "highs", cwd=folder)
    assert [json.loads(line)["action"] for line in shown.stdout.splitlines()] == [
        row["action"] for row in rows
    ]
    assert "DEBUG:milp_rl.solvers:Solving report" in shown.stderr
    assert shown.stderr.count("optimal by highs: value") == 3


def test_exit_codes_tell_what_happened(files, tmp_path):
    folder, *_ = files
    arguments = ("argmax", folder / "q.onnx", "--state", folder / "states.csv")
    empty = mr.BudgetTopK(6, 1, exactly=True) & mr.BudgetTopK(6, 2, exactly=True)
    empty.to_json(tmp_path / "empty.json")
    run = milp_rl(*arguments, "--space", "empty.json", cwd=tmp_path)
    assert run.returncode == 4
    assert "infeasible" in run.stdout
    write_instance(tmp_path, mr.BudgetTopK(40, 15), hidden=(64, 64), n_states=1)
    hard = ("argmax", "q.onnx", "--space", "space.json", "--state", "states.csv")
    run = milp_rl(*hard, "--solver", "highs", "--time-limit", "0.05", cwd=tmp_path)
    assert run.returncode == 3, run.stdout
    assert "feasible" in run.stdout
    (tmp_path / "text.json").write_text("no json")
    (tmp_path / "wide.csv").write_text("1,2,3\n")
    (tmp_path / "words.csv").write_text("1,2\n3,many\n")
    for wrong, message in (
        (("--space", "text.json"), "text.json, line 1, column 1: not JSON"),
        (("--space", folder / "space.json", "--state", "wide.csv"), "wide.csv, line 1: a state of"),
        (("--space", folder / "space.json", "--state", "words.csv"), "line 2, column 2: 'many'"),
        (("--space", "space.json"), "takes 8 inputs, which are not 40 actions and a state"),
    ):
        run = milp_rl(*arguments, *wrong, cwd=tmp_path)
        assert run.returncode == 1
        assert message in run.stderr.replace("\n", " ")
        assert run.stdout == ""
    assert milp_rl("argmax", "missing.onnx", cwd=tmp_path).returncode == 2
    wrong = milp_rl(*arguments, "--space", folder / "space.json", "--solver", "cplex", cwd=tmp_path)
    assert wrong.returncode == 2


def test_info_shows_layers_and_unstable_neurons(files):
    folder, *_ = files
    run = milp_rl("info", "q.onnx", "--space", "space.json", "--state", "states.csv", cwd=folder)
    assert run.returncode == 0, run.stderr
    assert "6 actions, 2 state features, 12 hidden neurons, 91 parameters" in run.stdout
    assert all(word in run.stdout for word in ("interval", "linear", "lp", "relu"))
    whole = milp_rl("info", "q.onnx", cwd=folder).stdout
    assert "8 inputs, 1 outputs, 12 hidden neurons, 103 parameters" in whole
    (folder / "broken.onnx").write_bytes(b"no network")
    broken = milp_rl("info", "broken.onnx", cwd=folder)
    assert broken.returncode == 1
    assert "Traceback" not in broken.stderr


@pytest.mark.parametrize("ending", ["mps", "lp"])
def test_exported_models_have_the_same_optimum(files, tmp_path, ending):
    folder, network, space, states = files
    names = (folder / "q.onnx", "--space", folder / "space.json", "--state", folder / "states.csv")
    output = ("--output", f"models/m.{ending}", "--formulation", "partition")
    run = milp_rl("export", *names, *output, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    for i, state in enumerate(states):
        highs = new_highs()
        highs.readModel(str(tmp_path / "models" / f"m-{i}.{ending}"))
        highs.run()
        expected = mr.argmax(network, state, space).value
        assert highs.getInfo().objective_function_value == pytest.approx(expected, abs=1e-6)
        names_written = {highs.getColName(k)[1] for k in range(highs.getNumCol())}
        assert names_written >= {f"a{k}" for k in range(6)}
    wrong = milp_rl("export", *names, "--output", "model.txt", cwd=tmp_path)
    assert wrong.returncode == 1
    assert ".mps or .lp" in wrong.stderr


def test_a_comparison_has_rows_for_all_and_goes_on_where_it_was(tmp_path):
    write_instance(tmp_path / "in" / "budget", mr.BudgetTopK(6, 2))
    write_instance(tmp_path / "in" / "capacity", mr.Capacity([1, 2, 3] * 2, [4, 2]), seed=1)
    arguments = ["compare", "in", "--output", "out", "--solver", "gurobi"]
    arguments += ["--solver", "branch_and_bound"]
    run = milp_rl(*arguments, "--models", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    table = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("method")
    assert set(table.index) == {
        "gurobi-bigm-linear",
        "gurobi-partition-linear",
        "branch_and_bound",
        "virtual best",
    }
    assert (table["solved"] == 6).all()
    assert (table["disagreements"] == 0).all()
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    assert len(rows) == 3 * 6
    spread = rows.groupby(["instance", "state"])["value"].agg(lambda v: v.max() - v.min())
    assert (spread < 1e-6).all()
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png") == 3
    assert f"gurobi {metadata.version('gurobipy')}" in page
    assert "BudgetTopK" in page
    assert "6 of 6" in run.stdout
    for ending in ("mps", "lp"):
        assert len(list((tmp_path / "out" / "models").glob(f"*.{ending}"))) == 2 * 3 * 2
    first = sorted((tmp_path / "out" / "rows").iterdir())[0]
    lines = first.read_text().splitlines(keepends=True)
    first.write_text(lines[0] + lines[1][:20])  # as if it had been killed while writing
    again = milp_rl(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert first.read_text().splitlines(keepends=True)[0] == lines[0]
    assert len(pd.read_csv(tmp_path / "out" / "results.csv")) == 18
    other = milp_rl(*arguments, "--gap", "0.1", cwd=tmp_path)
    assert other.returncode == 1
    assert "gap was 0.0, now 0.1" in " ".join(other.stderr.split())


def test_limits_and_failures_become_rows(tmp_path):
    write_instance(tmp_path / "hard", mr.BudgetTopK(40, 15), hidden=(64, 64), n_states=2)
    run = milp_rl(
        *("compare", "hard", "--output", "out", "--time-limit", "0.3", "--formulation", "bigm"),
        *("--solver", "highs", "--solver", "enumeration"),
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    rows = pd.read_csv(tmp_path / "out" / "results.csv").set_index("method")
    assert (rows.loc["highs-bigm-linear", "status"] == "feasible").all()
    assert (rows.loc["highs-bigm-linear", "bound"] >= rows.loc["highs-bigm-linear", "value"]).all()
    assert rows.loc["enumeration", "message"].str.contains("more than").all()
    assert (rows.loc["enumeration", "status"] == "error").all()
    little = milp_rl(
        *("compare", "hard", "--output", "little", "--memory-limit", "0.2"),
        *("--solver", "highs", "--formulation", "bigm"),
        cwd=tmp_path,
    )
    assert little.returncode == 0, little.stderr
    statuses = set(pd.read_csv(tmp_path / "little" / "results.csv")["status"])
    assert statuses <= {"memory", "error", "killed"}


def test_a_block_of_ones_own_is_imported_first(tmp_path):
    (tmp_path / "odd.py").write_text(OWN_BLOCK)
    sys.path.insert(0, str(tmp_path))
    try:
        from odd import OddOnes  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    write_instance(tmp_path, OddOnes())
    arguments = ("argmax", "q.onnx", "--space", "space.json", "--state", "states.csv", "--json")
    paths = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    run = milp_rl(*arguments, "--import", "odd", cwd=tmp_path, env=paths)
    assert run.returncode == 0, run.stderr
    assert all(sum(json.loads(line)["action"]) % 2 for line in run.stdout.splitlines())


LOUD = """
import ctypes, os
import milp_rl.solvers.milp.highs as highs

libc, silent = ctypes.CDLL(None), highs.run

def run(*arguments):
    print("loud python")
    libc.printf(b"loud library\\n")
    os.write(1, b"loud descriptor\\n")
    return silent(*arguments)

highs.run = run
run(highs.new_highs())
"""


def test_a_solver_that_prints_does_not_reach_standard_output(files, tmp_path):
    folder, _, _, states = files
    (tmp_path / "loud.py").write_text(LOUD)

    def output(*arguments):
        paths = {**os.environ, "PYTHONPATH": str(tmp_path)}
        run = milp_rl(*arguments, "--import", "loud", cwd=folder, env=paths)
        assert run.returncode == 0, run.stderr
        assert "loud" not in run.stdout
        return run

    problem = ("q.onnx", "--space", "space.json", "--state", "states.csv")
    answers = output("argmax", *problem, "--json", "--solver", "highs")
    assert [json.loads(line)["status"] for line in answers.stdout.splitlines()] == ["optimal"] * 3
    for word in ("python", "library", "descriptor"):
        assert f"loud {word}" in answers.stderr
    assert "unstable neurons" in output("info", "q.onnx", "--space", "space.json").stdout
    exported = output("export", *problem, "--output", str(tmp_path / "model.lp")).stdout
    assert [line.split(":")[0] for line in exported.splitlines()] == [
        str(tmp_path / f"model-{number}.lp") for number in range(len(states))
    ]
    output("compare", ".", "--output", str(tmp_path / "out"), "--solver", "highs")
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    assert set(rows["status"]) == {"optimal"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"highs {metadata.version('highspy')}" in page


def test_help_goes_to_standard_output(tmp_path):
    command = [COMMAND, "argmax", "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "--json" in run.stdout


def test_an_interrupt_leaves_no_process_behind(tmp_path):
    write_instance(tmp_path / "hard", mr.BudgetTopK(40, 15), hidden=(64, 64), n_states=2)
    running = subprocess.Popen(
        [COMMAND, "compare", "hard", "--output", "out", "--solver", "highs"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not children(running.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    workers = children(running.pid)
    assert workers
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode != 0
    time.sleep(0.5)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def test_the_doctor_solves_by_each_solver_and_says_what_is_there(tmp_path):
    shown = milp_rl("doctor", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for name in ("auto", "highs", "gurobi", "branch_and_bound", "enumeration"):
        assert re.search(rf"(?m)^solver {name} [\d.]+: optimal, value ", shown.stdout), name
    assert re.search(r"licence until 20\d\d-\d\d-\d\d", shown.stdout)
    assert f"torch {torch.__version__}" in shown.stdout
    assert "extra ray: missing ray" in shown.stdout or "extra ray: ray" in shown.stdout
    version = milp_rl("--version", cwd=tmp_path).stdout
    assert shown.stdout.startswith(version.strip() + ":")


def test_the_doctor_finds_a_solver_that_fails_or_errs(monkeypatch, capsys):
    def broken(*arguments, **options):
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr(doctor, "SolverName", Literal["highs", "enumeration"])
        patch.setattr(HighsSolver, "solve", broken)
        with pytest.raises(typer.Exit) as left:
            doctor.doctor()
    assert left.value.exit_code == 1
    assert "out of order" in capsys.readouterr().out
    budget = "milp_rl.formulations.spaces.budget.BudgetTopK"
    kept = mr.BudgetTopK
    monkeypatch.setattr(budget, lambda n, k: kept(n, k - 2))  # as if a solver missed the best
    assert not doctor._solves("enumeration")
    assert "is the best" in capsys.readouterr().out
