"""Wrong files of a user: one line that names the file and the place, and a documented status."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import milp_rl as mr
from milp_rl.cli.main import app

TOML = "domains = ['capacity']\nsizes = [[5, 2]]\nseeds = [0]\n"
TRAIN = ("train", "milp_rl.envs:make_bandit", "--steps", "10", "--out", "out", "--config")
READERS = {
    "space.json": ("argmax", "q.onnx", "--state", "states.csv", "--space"),
    "states.csv": ("argmax", "q.onnx", "--space", "space.json", "--state"),
    "q.onnx": ("argmax", "--space", "space.json", "--state", "states.csv"),
    "proof.npz": ("check", "--network", "q.onnx"),
    "small.toml": ("experiment", "run", "--dry-run", "--backend", "slurm"),
    "dqn.toml": TRAIN,
    "dqn.json": TRAIN,
    "care.csv": ("care", "report", "out", "--data"),
    "sepsis.csv": ("sepsis", "run", "out", "--data"),
    "calls.csv": ("engagement", "simulate", "out", "--logged"),
    "care.parquet": ("care", "report", "out", "--data"),
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with good files of each kind, in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("milp_rl.cli.terminal._output", io.StringIO())
    network = mr.QNetwork(2, 6, (6, 6), generator=torch.Generator().manual_seed(0))
    network.to_onnx(tmp_path / "q.onnx")
    space = mr.BudgetTopK(6, 2)
    space.to_json(tmp_path / "space.json")
    np.savetxt("states.csv", np.ones((2, 2)), delimiter=",")
    Path("small.toml").write_text(TOML)
    Path("dqn.toml").write_text("n_step = 3\n")
    Path("dqn.json").write_text('{\n "n_step": 3\n}')
    solver = mr.ArgmaxSolver(network, space)
    solver.prove([1.0, 1.0], solver.solve([1.0, 1.0])).save("proof.npz")
    return tmp_path


def run(*arguments):
    """Run a command in this process; its output in one line."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if not isinstance(done.exception, SystemExit | None):
        raise done.exception
    return done.exit_code, re.sub(r"\s+", " ", done.output.replace("│", " ")).strip()


@pytest.mark.parametrize("name", READERS)
def test_no_file_that_is_damaged_ends_in_a_traceback(files, name):
    path = files / name
    good = path.read_bytes() if path.exists() else b"a,b\n1,2\n"
    damaged = {
        "empty": b"",
        "half": good[: len(good) // 2],
        "binary": bytes(range(256)) * 4,
        "utf16": good.decode("latin-1").encode("utf-16"),
        "latin1": b"\xe9" + good,
    }
    for what, content in damaged.items():
        path.write_bytes(content)
        code, said = run(*READERS[name], name)
        if what == "half" or (what, name) == ("empty", "dqn.toml"):
            assert code in (0, 1), (what, said)  # may be a whole file, of another content
            continue
        assert code == 1, (what, said)
        assert re.match(rf"error: {re.escape(name)}( |,|:)", said), (what, said)


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_and_a_folder_are_wrong_usage(files, name):
    code, said = run(*READERS[name], f"no-{name}")
    assert code == 2
    assert "does not exist" in said
    Path(f"folder-{name}").mkdir()
    code, said = run(*READERS[name], f"folder-{name}")
    assert code == 2
    assert "is a directory" in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "small.toml",
            TOML + "epsiodes = 3\n",
            ", line 4: unknown key 'epsiodes'; is it 'episodes'?",
        ),
        ("small.toml", TOML + "episodes = '3'\n", ", line 4: episodes must be an integer"),
        ("small.toml", TOML.replace("[0]", "[0"), ", line 4, column 1: not TOML: unclosed array"),
        ("dqn.toml", "gap = 0.0\nn_stp = 3\n", ", line 2: unknown parameter 'n_stp'"),
        ("dqn.json", '{"gap": 0.0,\n "n_step": "3"}', ", line 2: n_step must be an integer"),
        ("dqn.json", "[3]", " must hold an object of parameters"),
        ("space.json", '{"type": "BudgetTopK",\n "k" 2}', ", line 2, column 6: not JSON"),
        ("space.json", '{"type": "Budgettopk"}', "unknown action space 'Budgettopk'; is it"),
        (
            "space.json",
            json.dumps({"type": "Union", "members": [{"type": "BudgetTopK", "n": 3}]}),
            ": members[0]: unknown parameter 'n' of BudgetTopK",
        ),
        ("states.csv", "1,2\n1,x\n", ", line 2, column 2: 'x' is not a finite number"),
        ("states.csv", "1,2,3\n", ", line 1: a state of 3 values, network and space leave 2"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_place(files, name, content, message):
    Path(name).write_text(content)
    code, said = run(*READERS[name], name)
    assert code == 1
    assert f"error: {name}" in said
    assert message in said


def test_a_proof_of_no_feasible_set_is_named(files):
    parts = dict(np.load("proof.npz"))
    np.savez("other.npz", **{**parts, "space": np.array('{"type": "Odd"}')})
    code, said = run(*READERS["proof.npz"], "other.npz")
    assert code == 1
    assert "error: other.npz: the proof's feasible set: unknown action space 'Odd'" in said
