"""The benchmarks run, and their exact methods agree."""

from pathlib import Path

import pandas as pd
import pytest

from tests.forks import python

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_the_gaps_of_graph_q_are_measured(tmp_path):
    options = ["--interventions", "10", "--channels", "4", "--seeds", "0", "--states", "3"]
    options += ["--epochs", "2", "--episodes", "1", "--out", tmp_path]
    run = python(BENCHMARKS / "graphq_exact.py", *options, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    (row,) = pd.read_csv(tmp_path / "graphq_exact.csv").to_dict("records")
    assert row["proven"] == row["states"] == 3
    assert row["random"] < row["builder"] <= row["best"] == pytest.approx(row["bound"])
    assert row["builder optimal"] + row["builder not optimal"] == 3


@pytest.mark.slow
def test_every_method_solves_a_trained_network(tmp_path):
    pytest.importorskip("gurobipy")
    options = ["--only", "trained capacity J=20 16-32", "--seconds", "0.5", "--full"]
    run = python(BENCHMARKS / "argmax.py", *options, "--out", tmp_path, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    table = pd.read_csv(tmp_path / "argmax.csv")
    ours = table[~table["method"].str.contains("published|OMLT")]
    assert len(ours) == 16
    assert ours["exact"].all()
    assert ours["worst shortfall"].max() < 1e-5
    assert (tmp_path / "argmax.png").stat().st_size > 10_000
