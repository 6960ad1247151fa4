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


def same(shown, value, name):
    digits = len(shown.partition(".")[2].strip())
    assert float(shown) == pytest.approx(value, abs=0.5001 * 10.0**-digits), name


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
            same(shown, own[method], (domain, method))


WAYS = [f"{e}, {s}, bigm" for e, s in (("compact", "highs"), ("compact", "gurobi"))]
WAYS += [f"pyomo, {solver}, bigm" for solver in ("highs", "gurobi", "scip")]


def test_the_times_of_the_three_ways_shown_are_those_measured():
    table = pd.read_csv(BENCHMARKS / "engines.csv")
    assert (table["optimal"] == table["states"]).all()
    assert table["difference"].max() <= 1e-6
    text = (ROOT / "docs" / "engines.md").read_text()
    rows = re.findall(r"^\| ([\w ]+) \|((?: [\d.]+ \|){7})$", text, re.MULTILINE)
    assert len(rows) == table["problem"].nunique() == 4
    for domain, cells in rows:
        own = table[table["problem"] == f"trained {domain} J=20 16-32"].set_index("way")
        measured = [*own.loc[["default", *WAYS], "ms"], own.loc[WAYS[2], "first (ms)"]]
        for shown, value in zip(cells.split("|"), measured, strict=False):
            same(shown, value, domain)


def graphq_gaps(n, channels):
    """The cells of a row on what Graph-Q's builder leaves to the optimum of its own network."""
    table = pd.read_csv(BENCHMARKS / "graphq_exact.csv")
    own = table[(table["interventions"] == n) & (table["channels"] == channels)]
    assert len(own) == 3  # seeds
    weights = own["states"] / own["states"].sum()
    states = own["states"].sum()
    return [
        weights @ own["gap (%)"],
        own["largest gap (%)"].max(),
        weights @ own["gap of the beam (%)"],
        f"{own['builder not optimal'].sum():.0f} of {states}",
        f"{own['proven'].sum()} of {states}",
        weights @ own["bound above best (%)"],
        weights @ own["exact (ms)"] / 1e3,
    ]


def test_the_gaps_of_graph_q_shown_are_those_measured():
    text = (ROOT / "docs" / "graphq.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (8|16) \|(.+)\|$", text, re.MULTILINE)
    assert [(int(n), int(c)) for n, c, _ in rows] == [(n, c) for n in (10, 20, 50) for c in (8, 16)]
    for n, channels, cells in rows:
        measured = graphq_gaps(int(n), int(channels))
        for shown, value in zip(cells.split("|"), measured, strict=True):
            if isinstance(value, str):
                assert shown.strip() == value
            else:
                digits = len(shown.partition(".")[2].strip())
                assert float(shown) == pytest.approx(value, abs=0.5001 * 10.0**-digits)


@pytest.mark.slow
def test_the_gaps_of_graph_q_are_measured(tmp_path):
    command = [sys.executable, BENCHMARKS / "graphq_exact.py", "--interventions", "10"]
    options = ["--channels", "4", "--seeds", "0", "--states", "3", "--epochs", "2"]
    run = [*command, *options, "--episodes", "1", "--out", tmp_path]
    subprocess.run(run, check=True, capture_output=True)
    (row,) = pd.read_csv(tmp_path / "graphq_exact.csv").to_dict("records")
    assert row["proven"] == row["states"] == 3
    assert row["random"] < row["builder"] <= row["best"] == pytest.approx(row["bound"])
    assert row["builder optimal"] + row["builder not optimal"] == 3


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


def test_the_coverage_of_intervals_shown_is_that_measured():
    table = pd.read_csv(BENCHMARKS / "ope_coverage.csv")
    text = (ROOT / "docs" / "offline.md").read_text()
    names = [
        "is",
        "wis",
        "wpdis",
        "wdr",
        "mis",
        "drl",
        "bootstrapped_fqe",
        "high_confidence_bounds",
    ]
    short = {"bootstrapped_fqe": "fqe", "high_confidence_bounds": "bounds"}
    rows = table[table["propensities"] == "estimated"]
    for name in names:
        own = rows[rows["estimator"] == short.get(name, name)]
        cells = [
            f"{row.held} of {row.of}, {row.width:.1f}, {100 * row.effective_sample:.1f}%"
            for row in own.itertuples()
        ]
        line = next(one for one in text.splitlines() if one.startswith("|") and f"`{name}`" in one)
        assert line.endswith("| " + " | ".join(cells) + " |")
    logged = table[(table["propensities"] == "logged") & (table["estimator"] == "wdr")]
    shown = "{}, {} and {} times of 20".format(*logged["held"])
    assert shown in text


def test_the_rewards_of_both_timings_shown_are_those_measured():
    table = pd.read_csv(BENCHMARKS / "performative_timing.csv")
    text = (ROOT / "docs" / "continuous.md").read_text()
    for policy, own in table.groupby("policy"):
        cells = [
            ", ".join(f"{reward:.4f}" for reward in own[own["timing"] == timing]["reward"])
            for timing in ("immediate", "previous")
        ]
        assert f"| {policy} | {' | '.join(cells)} |" in text


def test_the_returns_of_offline_learners_shown_are_those_measured():
    table = pd.read_csv(BENCHMARKS / "offline.csv")
    text = (ROOT / "docs" / "offline.md").read_text()
    rows = re.findall(r"^\| (4|10) \| ([\w ,]+) \| (\d) \|(.+)\|$", text, re.MULTILINE)
    assert len(rows) == len(table.groupby(["dimensions", "learner"]))
    for dimensions, learner, seeds, cells in rows:
        own = table[(table["dimensions"] == int(dimensions)) & (table["learner"] == learner)]
        assert len(own) == int(seeds)
        corner, cell, goal = (part.strip() for part in cells.split("|"))
        shown = dict(zip(("from the corner", "from random cells"), (corner, cell), strict=True))
        for column, value in shown.items():
            mean, _, error = value.partition(" ± ")
            assert float(mean) == pytest.approx(own[column].mean(), abs=0.0501)
            if error:
                assert float(error) == pytest.approx(own[column].sem(), abs=0.0501)
        assert float(goal.rstrip("%")) == pytest.approx(100 * own["at the goal"].mean(), abs=0.501)


METHODS = (
    *("default, 32 states together", "default, one state", "branch and bound"),
    *("highs, bigm, linear bounds", "gurobi, bigm, linear bounds"),
    *("published style, gap 2%", "published style, gap 0", "OMLT default"),
)
"""Of the table of all single argmaxes, column by column."""
LETTERS = {"E": "enumeration", "B": "branch and bound", "H": "highs"}


def test_all_times_of_single_argmaxes_shown_are_those_measured():
    table = pd.read_csv(BENCHMARKS / "argmax.csv").set_index(["problem", "method"])
    text = (BENCHMARKS / "RESULTS.md").read_text()
    rows = re.findall(r"^\| ((?:trained|random) [^|]+) \|((?:[^|\n]+\|){9})$", text, re.MULTILINE)
    assert len(rows) == table.index.get_level_values(0).nunique()
    for problem, cells in rows:
        for cell, method in zip(cells.split("|"), METHODS, strict=False):
            number, *way = cell.replace(">", "").replace(",", "").split()
            own = table.loc[(problem, method)]
            same(number, own["ms"], (problem, method))
            stopped = own["note"] == "stopped at the time limit"
            assert stopped == (">" in cell), (problem, method)
            if way:
                assert ", ".join(LETTERS[letter] for letter in way) == own["way"]


def test_times_of_wide_networks_and_many_actions_shown_are_those_measured():
    table = pd.read_csv(BENCHMARKS / "scale.csv").set_index("case")
    assert (table["optimal"] == table["of"]).all()
    text = (BENCHMARKS / "RESULTS.md").read_text()
    columns = ("from scratch (processor s)", "one state (processor s)", "peak memory (MB)")
    row = r"^\| (?:256-256, )?([\d,]+ choose \d+) \| ([\w ]+) \|((?: [\d.]+ \|){3})$"
    rows = re.findall(row, text, re.MULTILINE)
    assert len(rows) == len(table) == 4
    for case, way, cells in rows:
        own = table.loc[case.replace(",", "")]
        assert way == own["way"].replace("_", " ")
        for shown, column in zip(cells.split("|"), columns, strict=False):
            same(shown, own[column], (case, column))


def test_sizes_and_times_of_proofs_shown_are_those_measured():
    table = pd.read_csv(BENCHMARKS / "proofs.csv")
    ratio = table["check_ms"] / table["solve_ms"]
    text = " ".join((ROOT / "docs" / "proofs.md").read_text().split())
    shown = (
        f"files of at most {table['kilobytes_max'].max():.1f} kB, checked in {ratio.min():.1f} to"
        f" {ratio.max():.0f} times the time that branch and bound took, in less than 10 times on"
        f" {(ratio < 10).sum()} of {len(table)} problems"
    )
    assert shown in text
    assert f"up to {table['prove_ms'].max() / 1e3:.1f} seconds" in text
