from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milp_rl.experiments.charts import reward_chart
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
    assert "not above that of:\n\n- capacity, J = 4, B = 2: myopic\n" in text
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


def with_episodes(folder: Path) -> Path:
    """Add episodes to the run, and where greedy building on the same network is not optimal."""
    results = pd.read_csv(folder / "results.csv", keep_default_na=False, na_values=[""])
    exact = results["method"] == "sequoia"
    greedy = results[exact].assign(method="iterative_dqn_published", way="greedy building")
    alike = results["J"] == 4
    more = {"states_visited": 10, "greedy_loss": 0.02, "greedy_largest_loss": 0.3}
    results = results.assign(way="enumeration", cpu_ms_per_decision=0.25)
    for name, value in more.items():
        results[name] = np.where(exact, np.where(alike, 0.0, value), np.nan)
    results["greedy_lower"] = np.where(exact, np.where(alike, 0.0, 0.4), np.nan)
    pd.concat([results, greedy]).to_csv(folder / "results.csv", index=False)
    rows = []
    for domain, arms, seeds, gain in (("path", 20, [0, 1], 0.5), ("capacity", 4, [0], 0.0)):
        for seed in seeds:
            for episode in range(6):
                reward = 5.0 + seed + episode
                key = {"domain": domain, "J": arms, "B": 2, "seed": seed, "episode": episode}
                less = gain + 0.1 * (-1) ** episode * bool(gain)
                own = {"sequoia": reward, "iterative_dqn_published": reward - less}
                rows.append(key | own)
    pd.DataFrame(rows).to_csv(folder / "episodes.csv", index=False)
    return folder


def test_report_says_where_the_exact_argmax_pays_and_where_not(run, tmp_path):
    write_report([with_episodes(run)], tmp_path / "report")
    found = pd.read_csv(tmp_path / "report" / "differences.csv").set_index("domain")
    assert found["method"].tolist() == ["iterative_dqn_published"] * 2
    assert found.loc["path", "mean"] == pytest.approx(0.5)
    assert found.loc["path", "episodes"] == 12
    # a standard deviation of 0.1 * sqrt(6 / 5) and 12 episodes; t with 10 degrees of freedom
    half = 2.228 * 0.1 * np.sqrt(6 / 5 / 12)
    assert found.loc["path", "over_episodes"] == pytest.approx(half, rel=1e-3)
    text = (tmp_path / "report" / "report.md").read_text()
    assert (
        f"path, J = 20, B = 2: SEQUOIA: the exact argmax pays, +0.500 ± {half:.3f} a step, as"
        " greedy building is not optimal in 40.0% of the states and loses 2.00%." in text
    )
    assert "\n- capacity, J = 4, B = 2: SEQUOIA: both decide alike" in text
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<li>capacity, J = 4, B = 2: SEQUOIA: both decide alike" in page
    interval = f"[+{0.5 - half:.3f}, +{0.5 + half:.3f}]"
    row = next(line for line in text.splitlines() if interval in line)
    assert "iterative DQN, as published" in row
    assert "greedy building" in row


def test_runs_of_several_folders_are_paired_by_episode(run, tmp_path):
    with_episodes(run)
    episodes = pd.read_csv(run / "episodes.csv")
    other = write(tmp_path / "other", {("path", 20, seed, "dnc"): 1.0 for seed in (0, 1)})
    renamed = episodes.drop(columns="iterative_dqn_published").rename(columns={"sequoia": "dnc"})
    renamed["dnc"] -= 2.0
    renamed[renamed["domain"] == "path"].to_csv(other / "episodes.csv", index=False)
    write_report([run, other], tmp_path / "report")
    found = pd.read_csv(tmp_path / "report" / "differences.csv").set_index("method")
    assert found.loc["dnc", ["mean", "seeds", "episodes"]].tolist() == [2.0, 2, 12]


@pytest.mark.parametrize(
    ("methods", "rotated"),
    [
        (["null", "random", "dqn_gradient", "dqn_cem", "dqn_exact"], 30),
        (["null", "random", "sequoia"], 0),
        (["null", "random", "myopic", "iterative_myopic", "iterative_dqn", "sequoia"], 30),
    ],
)
def test_names_below_bars_do_not_meet(methods, rotated):
    rewards = pd.DataFrame({"method": methods, "reward": 1.0, "error": 0.1})
    figure = reward_chart(rewards, ("pendulum", 1, 1))
    figure.draw_without_rendering()
    names = figure.axes[0].get_xticklabels()
    assert {name.get_rotation() for name in names} == {rotated}
    if rotated:  # parallel at 30 degrees: what counts is the height
        return
    boxes = [name.get_window_extent() for name in names]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
