"""The command line as a user runs it."""

import subprocess
import time

import pandas as pd
import pytest
import torch

from tests.forks import COMMAND, milp_rl

CONFIG = """
domains = ["capacity"]
sizes = [[5, 2]]
seeds = [0]
methods = ["null", "myopic", "sequoia"]
episodes = 3
[dqn]
episodes = 2
pretrain_epochs = 5
pretrain_states = 20
pretrain_replay = 40
"""


def test_an_experiment_is_run_and_reported(tmp_path):
    (tmp_path / "try.toml").write_text(CONFIG)
    run = milp_rl("experiment", "run", "try.toml", "--jobs", "1", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [line.split()[4] for line in run.stdout.splitlines()[1:]] == [
        "sequoia",
        "null",
        "myopic",
    ]
    assert "100%" in run.stderr
    assert (tmp_path / "runs" / "try" / "results.parquet").exists()
    report = milp_rl("experiment", "report", "runs/try", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    page = tmp_path / report.stdout.strip()
    assert page == tmp_path / "runs" / "try" / "report" / "report.html"
    assert "Gain of SEQUOIA" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("experiment", "run", "wrong.toml"), "unknown domain 'queue'"),
        (("experiment", "run", "try.toml", "--jobs", "0"), "jobs must be at least 1"),
        (("experiment", "report", "."), "has no results.csv"),
    ],
)
def test_errors_are_one_line_and_a_status(tmp_path, arguments, message):
    (tmp_path / "try.toml").write_text(CONFIG)
    (tmp_path / "wrong.toml").write_text(CONFIG.replace("capacity", "queue"))
    run = milp_rl(*arguments, cwd=tmp_path)
    assert run.returncode == 1
    assert message in run.stderr.replace("\n", " ")
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_care_management_is_reported_on_one_page(tmp_path):
    options = ["--patients", "250", "--weeks", "26", "--epochs", "2"]
    run = milp_rl("care", "report", "care", *options, "--no-grids", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    page = (tmp_path / run.stdout.strip()).read_text()
    for heading in ("Values of the policies", "Sensitivity", "Parity", "population"):
        assert heading in page
    values = pd.read_csv(tmp_path / "care" / "values-of-the-policies.csv")
    assert ((values["low"] < values["true value"]) & (values["true value"] < values["high"])).any()
    own = milp_rl("care", "report", "own", "--data", "care/values.csv", cwd=tmp_path)
    assert own.returncode == 2
    assert "does not exist" in own.stderr


@pytest.mark.slow
def test_graphq_is_tuned(tmp_path):
    options = ["--preset", "5x5", "--trials", "1", "--episodes", "1", "--output", "tuned"]
    run = milp_rl("tune", "graphq", *options, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "channels = " in run.stdout
    assert (tmp_path / "tuned" / "history.png").exists()


BANDIT = ["milp_rl.envs:milp_rl/Bandit-v0", "--seed", "3", "--evaluate-every", "20", "--out", "run"]
for _argument in ("domain=capacity", "n_arms=4", "budget=2", "horizon=7", "seed=1"):
    BANDIT += ["--env-arg", _argument]
for _parameter in ("encoder=[4]", "head=[6]", "pretrain_epochs=2", "solver=enumeration"):
    BANDIT += ["--set", _parameter]


def test_a_learner_is_trained(tmp_path):
    run = milp_rl("train", *BANDIT, "--steps", "20", "--evaluation-episodes", "2", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("mean return ")
    assert run.stdout.endswith("run/report.html\n")
    assert len(run.stdout.splitlines()) == 1
    assert "pretraining" in run.stderr
    assert (tmp_path / "run" / "report.html").exists()


def steps_in(checkpoint):
    """The steps done in a run; 0 before it has a file."""
    return torch.load(checkpoint, weights_only=True)["step"] if checkpoint.exists() else 0


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    options = ["train", *BANDIT, "--steps", "120", "--checkpoint-every", "5"]
    assert milp_rl(*options, cwd=whole).returncode == 0
    checkpoint = broken / "run" / "checkpoint.pt"
    with subprocess.Popen([COMMAND, *options], cwd=broken, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not steps_in(checkpoint):
            time.sleep(0.05)
        process.kill()
    assert 0 < steps_in(checkpoint) < 120
    assert milp_rl(*options, cwd=broken).returncode == 0
    ends = [torch.load(f / "run" / "checkpoint.pt", weights_only=True) for f in (whole, broken)]
    one, two = (end["learner"]["network"] for end in ends)
    assert all(torch.equal(one[name], two[name]) for name in one)
    curves = [(f / "run" / "evaluations.csv").read_text() for f in (whole, broken)]
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_errors_of_training_are_one_line(tmp_path):
    run = milp_rl("train", "Cartpole-v1", "--steps", "20", "--out", "run", cwd=tmp_path)
    assert run.returncode == 1
    assert run.stdout == ""
    assert "Did you mean: `CartPole`?" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
