"""The benchmark of the argmax runs, and its exact methods agree on a trained network."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_every_method_solves_a_trained_network(tmp_path):
    pytest.importorskip("gurobipy")
    subprocess.run(
        [
            sys.executable,
            BENCHMARKS / "argmax.py",
            *("--only", "trained capacity J=20 16-32", "--seconds", "0.5", "--full"),
            *("--out", tmp_path),
        ],
        check=True,
        capture_output=True,
    )
    table = pd.read_csv(tmp_path / "argmax.csv")
    ours = table[~table["method"].str.contains("published|OMLT")]
    assert len(ours) == 16
    assert ours["exact"].all()
    assert ours["worst shortfall"].max() < 1e-5
    assert (tmp_path / "argmax.png").stat().st_size > 10_000
