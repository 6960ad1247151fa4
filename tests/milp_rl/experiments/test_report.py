from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milp_rl.experiments.report import gain_table, read_results, write_report


def write(folder: Path, rewards: dict[tuple[str, int, int, str], float]) -> Path:
    rows = [
        {
            "domain": domain,
            "J": n_arms,
            "B": 2,
            "seed": seed,
            "method": method,
            "reward_mean": reward,
            "reward_se": 0.3,
            "ms_per_decision": 1.0,
            "episodes": 4,
            "exact_reward": reward if n_arms == 4 else None,
            "exact_optimum": 8.0 if n_arms == 4 else None,
            "training_episodes": 5 if method == "sequoia" else None,
            "training_seconds": 60.0 if method == "sequoia" else None,
            "argmax_seconds": 30.0 if method == "sequoia" else None,
            "argmax_lookups": 100 if method == "sequoia" else None,
            "argmax_solves": 25 if method == "sequoia" else None,
            "cache_hits": 75 if method == "sequoia" else None,
        }
        for (domain, n_arms, seed, method), reward in rewards.items()
    ]
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    curve = {"domain": "path", "J": 20, "B": 2, "seed": 0, "method": "sequoia"}
    points = [{**curve, "episode": e, "reward": 5.0 + e} for e in range(4)]
    pd.DataFrame(points).to_csv(folder / "curves.csv", index=False)
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    rewards = {
        ("path", 20, 0, "null"): 1.0,
        ("path", 20, 0, "myopic"): 4.0,
        ("path", 20, 0, "sequoia"): 5.0,
        ("path", 20, 1, "null"): 3.0,
        ("path", 20, 1, "myopic"): 6.0,
        ("path", 20, 1, "sequoia"): 7.0,
        ("capacity", 4, 0, "null"): 1.0,
        ("capacity", 4, 0, "myopic"): 8.0,
        ("capacity", 4, 0, "sequoia"): 7.6,
    }
    return write(tmp_path / "run", rewards)


def test_gains_are_relative_to_each_method(run, tmp_path):
    write_report([run], tmp_path / "report")
    gains = pd.read_csv(tmp_path / "report" / "gains.csv", index_col=0)
    assert gains.loc["path, J = 20, B = 2", "null"] == pytest.approx(6 / 2 - 1)
    assert gains.loc["path, J = 20, B = 2", "myopic"] == pytest.approx(6 / 5 - 1)
    assert gains.loc["capacity, J = 4, B = 2", "myopic"] == pytest.approx(7.6 / 8 - 1)
    assert gains.loc["mean", "mean without null"] == pytest.approx((0.2 - 0.05) / 2)


def test_report_says_where_sequoia_is_not_ahead(run, tmp_path):
    write_report([run], tmp_path / "report", heading="Two domains")
    text = (tmp_path / "report" / "report.md").read_text()
    assert text.startswith("# Two domains\n")
    assert "not above that of: myopic in capacity, J = 4, B = 2." in text
    assert "6.00 ± 0.21" in text  # two seeds: 0.3 * sqrt(2) / 2
    assert "95.0%" in text  # of the exact optimum
    assert "75%" in text  # cache hits


def test_report_has_charts_for_every_setting_and_curves_where_known(run, tmp_path):
    page = write_report([run], tmp_path / "report")
    charts = {path.name for path in (tmp_path / "report").glob("*.png")}
    assert charts == {
        "overview.png",
        "rewards-path-J20-B2.png",
        "curves-path-J20-B2.png",
        "rewards-capacity-J4-B2.png",
    }
    assert page.read_text().count('src="data:image/png;base64,') == 4


def test_several_runs_make_one_report(run, tmp_path):
    other = write(tmp_path / "other", {("scheduling", 20, 0, "sequoia"): 3.0})
    results = read_results([run, other]).cells
    assert set(results["domain"]) == {"path", "capacity", "scheduling"}
    assert "null" in set(results["method"])
    write_report([run, other], tmp_path / "report")
    assert (tmp_path / "report" / "rewards-scheduling-J20-B2.png").exists()
    with pytest.raises(ValueError, match="the same cell: path, 20, 2, 0, null"):
        write_report([run, run], tmp_path / "twice")


def test_run_without_sequoia_has_no_gains(tmp_path):
    run = write(tmp_path / "run", {("path", 20, 0, "myopic"): 3.0})
    write_report([run], tmp_path / "report")
    assert not (tmp_path / "report" / "gains.csv").exists()
    assert gain_table({}).empty


def test_error_of_one_seed_is_its_own(tmp_path):
    run = write(tmp_path / "run", {("path", 20, 0, "sequoia"): 3.0})
    write_report([run], tmp_path / "report")
    assert "3.00 ± 0.30" in (tmp_path / "report" / "report.md").read_text()
    assert np.isclose(read_results([run]).cells["reward_se"], 0.3).all()


def test_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no results.csv"):
        write_report([tmp_path], tmp_path / "report")
