"""``milp-rl engagement`` as a user runs it."""

import io
import json
import re

import pandas as pd
import pytest
from typer.testing import CliRunner

from milp_rl.cli.main import app

PLAN = ["engagement", "plan", "women.csv", "--callers", "callers.csv", "--clusters"]
PLAN += ["clusters.csv", "--output", "calls.csv"]


@pytest.fixture(autouse=True)
def output(monkeypatch):
    monkeypatch.setattr("milp_rl.cli.terminal._output", io.StringIO())


@pytest.fixture
def tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--beneficiaries", "300", "--callers", "4", "--calls", "3"]
    assert CliRunner().invoke(app, ["engagement", "draw", ".", *options]).exit_code == 0
    return tmp_path


@pytest.mark.parametrize("by", ["whittle", "myopic"])
def test_a_week_is_planned(tables, by):
    run = CliRunner().invoke(app, [*PLAN, "--budget", "15", "--by", by])
    assert run.exit_code == 0, run.output
    calls, women = pd.read_csv("calls.csv"), pd.read_csv("women.csv").set_index("beneficiary")
    staff = pd.read_csv("callers.csv").set_index("caller")
    assert len(calls) == 15
    assert calls["beneficiary"].is_unique
    for (caller, slot), own in calls.groupby(["caller", "slot"]):
        assert len(own) <= staff.loc[caller, slot]
        for i in own["beneficiary"]:
            assert slot in women.loc[i, "free"].split(";")
            assert women.loc[i, "language"] in staff.loc[caller, "languages"].split(";")
            assert not women.loc[i, "weeks_since_call"] <= 2
    said = json.loads((tables / "calls.json").read_text())
    assert said["value"] <= said["bound"]
    assert said["gap"] < 0.02


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("language", "Tamil", "women.csv, line 9, column 'language': 'Tamil' is not one of"),
        (
            "free",
            "midnight",
            "women.csv, line 9, column 'free': 'midnight' has other slots than morning",
        ),
        ("familiar", "Ada", "women.csv, line 9, column 'familiar': 'Ada' is not one of"),
        ("belief", "high", "women.csv, line 9, column 'belief': 'high' is not a number"),
        ("shared", "no", "women.csv, line 9, column 'shared': 'no' is not a number"),
        ("belief", 3.0, "women.csv, line 9, column 'belief': 3.0 is not between"),
    ],
)
def test_wrong_tables_are_named(tables, column, value, message):
    women = pd.read_csv("women.csv").astype(object)
    women.loc[7, column] = value
    women.to_csv("women.csv", index=False)
    run = CliRunner().invoke(app, PLAN)
    assert run.exit_code == 1
    assert message in re.sub(r"\s+", " ", run.output)


def test_policies_are_compared_on_one_page(tmp_path, monkeypatch):
    monkeypatch.setattr("milp_rl.offline.engagement.report._LOGGED_EPISODES", 4)
    options = ["--beneficiaries", "40", "--seeds", "1", "--episodes", "2", "--sequoia", "0"]
    run = CliRunner().invoke(app, ["engagement", "simulate", str(tmp_path / "out"), *options])
    assert run.exit_code == 0, run.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert re.search(r"Without calls \d+% no longer listen", page)
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index("policy")
    assert table.loc["no calls", "calls per week"] == 0
    assert table.loc["Whittle, matched", "gain"] > table.loc["random", "gain"] > 0
    weeks = pd.read_csv(tmp_path / "out" / "weeks.csv")
    assert set(weeks["week"]) == set(range(1, 41))
    assert (tmp_path / "out" / "logged.csv.gz").exists()
    first = (tmp_path / "out" / "results.csv").read_bytes()
    (tmp_path / "out" / "results.csv").unlink()
    monkeypatch.setattr("milp_rl.offline.engagement.report.play", None)  # what is done stays done
    again = CliRunner().invoke(app, ["engagement", "simulate", str(tmp_path / "out"), *options])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "out" / "results.csv").read_bytes() == first
