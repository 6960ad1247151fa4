"""Files of states, and what a comparison goes on with."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import milp_rl as mr
from milp_rl.comparison.run import Instance, Way, compare, find_instances, read_states
from milp_rl.formulations.files import locked


def states(tmp_path, text, **options):
    path = tmp_path / "states.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_states(path, **options).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        (b"\xef\xbb\xbf1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("severity,load\n1,2\n", [[1, 2]]),
        (b"\xef\xbb\xbfseverity,load\r\n1,2\r\n", [[1, 2]]),
        ('"blood pressure, mean",x[0]\n1e-3,-2.5\n', [[1e-3, -2.5]]),
        ("\n\n 1 ,2\n\n3,4", [[1, 2], [3, 4]]),
        ("0,1\n1,1\n", [[0, 1], [1, 1]]),
        ("Größe\n7\n", [[7]]),
    ],
)
def test_states_are_read_whole(tmp_path, text, expected):
    assert states(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("1,2x\n3,4\n", "line 1, column 2: '2x'"),
        ("O.5\n1\n2\n", "line 1, column 1: 'O.5'"),
        ("l,2\n3,4\n", "line 1, column 1: 'l'"),
        ("NA,NA\n3,4\n", "line 1, column 1: 'NA'"),
        ("nan,1\n3,4\n", "line 1, column 1: 'nan'"),
        (",severity\n0,4\n", "line 1, column 1: ''"),
        ("severity,2\n3,4\n", "line 1, column 1: 'severity'"),
        ("a,b\n\n3,4\n5,inf\n", "line 4, column 2: 'inf'"),
        ("a,b\n3,4\n5,1_000\n", "line 3, column 2: '1_000'"),
        ("1;2\n3;4\n", "line 1, column 1: '1;2'"),
        ("1,2\n3,4,5\n", "line 2: a state of 3 values, the first has 2"),
        ("0,1,2\n0.5,0.25,1\n", "line 1: 0,1,2 may be the numbers of the columns"),
        ("severity,load\n", "no states"),
        ("", "no states"),
        (b"\xff\xfe1\x00,\x002\x00", "not a CSV file in UTF-8"),
        ("1," + "2" * 200_000, "not a CSV file"),
        ('1,"2\n', "not a CSV file"),
    ],
)
def test_states_in_doubt_are_an_error_with_file_line_and_column(tmp_path, text, where):
    with pytest.raises(ValueError, match=r"states\.csv") as error:
        states(tmp_path, text)
    assert where in str(error.value)


def test_a_header_may_be_asked_for_or_denied(tmp_path):
    assert states(tmp_path, "0,1,2\n0.5,0.25,1\n", header=True) == [[0.5, 0.25, 1]]
    assert states(tmp_path, "0,1,2\n0.5,0.25,1\n", header=False) == [[0, 1, 2], [0.5, 0.25, 1]]
    assert states(tmp_path, ",1\n3,4\n", header=True) == [[3, 4]]
    with pytest.raises(ValueError, match="line 1, column 1: 'severity'"):
        states(tmp_path, "severity,load\n1,2\n", header=False)


WAYS = [Way("branch_and_bound"), Way("enumeration")]


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
    rows = compare(find_instances(instance), [*WAYS, *WAYS], tmp_path / "out")
    assert len(rows) == 4  # no way twice
    before = {path: path.read_text() for path in (tmp_path / "out" / "rows").iterdir()}
    for change in (
        lambda: mr.BudgetTopK(6, 3).to_json(instance / "space.json"),
        lambda: (instance / "states.csv").write_text("1,2\n3,4\n"),
        lambda: write_network(instance, 1),
    ):
        kept = {path: path.read_bytes() for path in instance.iterdir()}
        change()
        with pytest.raises(ValueError, match=r"made with other settings.*instance was"):
            compare(find_instances(instance), WAYS, tmp_path / "out")
        for path, data in kept.items():
            path.write_bytes(data)
    assert compare(find_instances(instance), WAYS, tmp_path / "out") == rows
    assert before == {path: path.read_text() for path in (tmp_path / "out" / "rows").iterdir()}
    with pytest.raises(ValueError, match="gap was"):
        compare(find_instances(instance), WAYS, tmp_path / "out", gap=0.5)


def test_rows_of_an_unknown_run_are_not_gone_on_with(tmp_path, instance):
    compare(find_instances(instance), WAYS[:1], tmp_path / "out")
    (tmp_path / "out" / "rows" / "in.json").unlink()
    with pytest.raises(ValueError, match="has rows, but no"):
        compare(find_instances(instance), WAYS, tmp_path / "out")


def test_two_comparisons_do_not_write_into_one_folder(tmp_path, instance):
    with locked(tmp_path / "out"), pytest.raises(RuntimeError, match="out is in use by process"):
        compare(find_instances(instance), WAYS, tmp_path / "out")
    found, refused = [], []

    def run():
        try:
            found.append(compare(find_instances(instance), WAYS, tmp_path / "out"))
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
        compare(twice, WAYS, tmp_path / "out")


@pytest.mark.parametrize(
    "limits",
    [{"time_limit": np.inf}, {"time_limit": np.nan}, {"memory_limit": 1e300}, {"gap": -1.0}],
)
def test_limits_that_are_none_are_refused(tmp_path, instance, limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        compare(find_instances(instance), WAYS, tmp_path / "out", **limits)


EVIL = """
from pathlib import Path
Path("ran.txt").write_text(__name__)
"""


def test_processes_import_nothing_from_the_current_folder(tmp_path, instance, monkeypatch):
    """Neither those of a comparison nor those of joblib."""
    for name in ("csv", "pickle", "numpy", "resource", "highspy"):
        (tmp_path / f"{name}.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    rows = compare(find_instances("in"), WAYS, "out")
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
    rows = compare(find_instances(instance), WAYS, tmp_path / "out", imports=["own_block"])
    assert [row["status"] for row in rows] == ["optimal"] * 4
