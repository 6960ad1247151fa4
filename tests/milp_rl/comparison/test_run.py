"""What a comparison goes on with, and what its processes import."""

import json
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import torch

import milp_rl as mr
from milp_rl.comparison.instances import Instance, find_instances
from milp_rl.comparison.methods import Method
from milp_rl.comparison.report import kinds_table, readable, summary_table
from milp_rl.comparison.run import compare
from milp_rl.formulations.files import locked

LIMIT = 3.0  # seconds
METHODS = [Method("branch_and_bound"), Method("enumeration")]


@pytest.fixture
def instance(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_network(folder, 0)
    mr.BudgetTopK(6, 2).to_json(folder / "space.json")
    np.savetxt(folder / "states.csv", np.random.default_rng(0).random((2, 2)), delimiter=",")
    return folder


def write_network(folder, seed):
    network = mr.QNetwork(2, 6, (4,), generator=torch.Generator().manual_seed(seed))
    network.to_onnx(folder / "q.onnx")


def test_rows_of_another_network_space_or_states_are_not_gone_on_with(tmp_path, instance):
    rows = compare(find_instances(instance), [*METHODS, *METHODS], tmp_path / "out")
    assert len(rows) == 4  # no method twice
    before = {path: path.read_text() for path in (tmp_path / "out" / "rows").iterdir()}
    for change in (
        lambda: mr.BudgetTopK(6, 3).to_json(instance / "space.json"),
        lambda: (instance / "states.csv").write_text("1,2\n3,4\n"),
        lambda: write_network(instance, 1),
    ):
        kept = {path: path.read_bytes() for path in instance.iterdir()}
        change()
        with pytest.raises(ValueError, match=r"made with other settings.*instance was"):
            compare(find_instances(instance), METHODS, tmp_path / "out")
        for path, data in kept.items():
            path.write_bytes(data)
    assert compare(find_instances(instance), METHODS, tmp_path / "out") == rows
    assert before == {path: path.read_text() for path in (tmp_path / "out" / "rows").iterdir()}
    with pytest.raises(ValueError, match="gap was"):
        compare(find_instances(instance), METHODS, tmp_path / "out", gap=0.5)


def test_rows_of_an_unknown_run_are_not_gone_on_with(tmp_path, instance):
    compare(find_instances(instance), METHODS[:1], tmp_path / "out")
    (tmp_path / "out" / "rows" / "in.json").unlink()
    with pytest.raises(ValueError, match="has rows, but no"):
        compare(find_instances(instance), METHODS, tmp_path / "out")


def test_two_comparisons_do_not_write_into_one_folder(tmp_path, instance):
    with locked(tmp_path / "out"), pytest.raises(RuntimeError, match="out is in use by process"):
        compare(find_instances(instance), METHODS, tmp_path / "out")
    found, refused = [], []

    def run():
        try:
            found.append(compare(find_instances(instance), METHODS, tmp_path / "out"))
        except RuntimeError as error:
            refused.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found
    assert len(found) + len(refused) == 3
    files = (tmp_path / "out" / "rows").glob("*.jsonl")
    assert [len(path.read_text().splitlines()) for path in files] == [2, 2]


def test_two_instances_of_one_name_are_refused(tmp_path, instance):
    twice = [*find_instances(instance), Instance("in", tmp_path, 1)]
    with pytest.raises(ValueError, match="different names"):
        compare(twice, METHODS, tmp_path / "out")


@pytest.mark.parametrize(
    "limits",
    [
        {"time_limit": np.inf},
        {"grace": 0.0},
        {"time_limit": np.nan},
        {"memory_limit": 1e300},
        {"gap": -1.0},
    ],
)
def test_limits_that_are_none_are_refused(tmp_path, instance, limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        compare(find_instances(instance), METHODS, tmp_path / "out", **limits)


EVIL = """
from pathlib import Path
Path("ran.txt").write_text(__name__)
"""


def test_processes_import_nothing_from_the_current_folder(tmp_path, instance, monkeypatch):
    """Neither those of a comparison nor those of joblib."""
    for name in ("csv", "pickle", "numpy", "resource", "highspy"):
        (tmp_path / f"{name}.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    rows = compare(find_instances("in"), METHODS, "out")
    assert [row["status"] for row in rows] == ["optimal"] * 4
    code = """
import joblib, os, sys
from milp_rl.solvers.processes import safe_path
with safe_path():
    print(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-i) for i in range(3)))
print(os.environ.get("PYTHONSAFEPATH"))
"""
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.stdout == "[0, 1, 2]\nNone\n", run.stderr
    assert not (tmp_path / "ran.txt").exists()


def test_a_module_is_found_where_the_caller_finds_it(tmp_path, instance, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "own_block.py").write_text(
        "import milp_rl as mr\nclass Own(mr.BudgetTopK):\n    def to_dict(self):\n"
        "        return {**super().to_dict(), 'type': 'Own'}\n"
    )
    data = {**mr.BudgetTopK(6, 2).to_dict(), "type": "Own"}
    (instance / "space.json").write_text(json.dumps(data))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    rows = compare(find_instances(instance), METHODS, tmp_path / "out", imports=["own_block"])
    assert [row["status"] for row in rows] == ["optimal"] * 4


UNRULY = """
import os, signal, sys, time

class Unruly:
    def __init__(self, *arguments):
        self.backend = new_backend(*arguments)

    def solve_one(self, state, options):
        print("a solver that prints")
        os.write(1, b"and its library\\n")
        if state[0] == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        if state[0] == 2:
            time.sleep(1000)
        return self.backend.solve_one(state, options)

worker = sys.modules["__main__"]
new_backend, worker.new_backend = worker.new_backend, Unruly
"""


def test_a_solver_that_prints_crashes_or_hangs_costs_its_state(tmp_path, instance, monkeypatch):
    (tmp_path / "unruly.py").write_text(UNRULY)
    monkeypatch.syspath_prepend(tmp_path)
    np.savetxt(instance / "states.csv", [[0, 0.5], [1, 0.5], [2, 0.5]], delimiter=",")
    limits = {"time_limit": LIMIT, "grace": 0.1}
    found = find_instances(instance)
    rows = compare(found, METHODS[1:], tmp_path / "out", imports=["unruly"], **limits)
    assert [row["status"] for row in rows] == ["optimal", "killed", "stuck"]
    assert rows[1]["message"].startswith("ended by SIGSEGV")
    assert "was killed" in rows[2]["message"]
    table = summary_table(rows, LIMIT).loc["enumeration"]
    assert table["par2_seconds"] == pytest.approx((rows[0]["seconds"] + 4 * LIMIT) / 3)


def row(instance, state, method, seconds, status="optimal", kind="BudgetTopK"):
    numbers = {"value": 1.0, "bound": 1.0, "gap": 0.0, "tolerance": 1e-6, "nodes": 1234567}
    where = {"instance": instance, "kind": kind, "state": state, "method": method}
    return {**where, **numbers, "seconds": seconds, "status": status}


def test_the_summary_counts_penalties_and_the_virtual_best():
    rows = [
        row("a", 0, "x", 1.0),
        row("a", 0, "y", 3.0),
        row("b", 0, "x", np.nan, "killed", "Capacity"),
        row("b", 0, "y", 2.0, kind="Capacity"),
    ]
    table = summary_table(rows, 10.0)
    assert table["solved"].to_dict() == {"x": 1, "y": 2, "virtual best": 2}
    assert table["fastest"].to_dict() == {"x": 1, "y": 1, "virtual best": 2}
    assert table["mean_seconds"].to_dict() == {"x": 5.5, "y": 2.5, "virtual best": 1.5}
    assert table["par2_seconds"].to_dict() == {"x": 10.5, "y": 2.5, "virtual best": 1.5}
    shown = readable(table)
    assert shown.loc["x", "PAR-2, ms"] == "10,500"
    assert shown.loc["x", "mean nodes"] == "1,234,567"
    kinds = kinds_table(pd.DataFrame(rows), 10.0)
    assert list(kinds.index) == ["BudgetTopK", "Capacity"]
    assert kinds.loc["Capacity", "x"].startswith("0 of 1")
    assert kinds.loc["BudgetTopK", "x"] == "1 of 1; 1,000 ms"
