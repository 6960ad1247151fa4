"""The benchmark runs, its exact methods agree, and the documentation shows its times."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
COLUMNS = (
    "default, 32 states together",
    "default, one state",
    "published style, gap 2%",
    "OMLT default",
)
"""Of the tables in the documentation, as the CSV file names them."""


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_the_times_shown_are_those_measured(page):
    measured = pd.read_csv(BENCHMARKS / "argmax.csv").pivot_table("ms", "problem", "method")
    rows = re.findall(
        r"^\| ([\w ]+), (\d+) arms \|(.+)\|$", (ROOT / page).read_text(), re.MULTILINE
    )
    assert len(rows) >= 5
    for domain, arms, cells in rows:
        own = measured.loc[f"trained {domain} J={arms} 16-32"]
        for shown, method in zip(cells.split("|"), COLUMNS, strict=True):
            digits = len(shown.partition(".")[2].strip())
            assert float(shown) == pytest.approx(own[method], abs=0.5001 * 10.0**-digits), (
                domain,
                method,
            )


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
