import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milp_rl.baselines import IterativeDQNPolicy
from milp_rl.envs import make_bandit
from milp_rl.evaluation import JointMDP, evaluate
from milp_rl.experiments import ExperimentConfig, run_experiment, write_report
from milp_rl.qnetwork import QNetwork

SMALL = Path(__file__).parent / "small.toml"
MEASURED = [
    *("ms_per_decision", "cpu_ms_per_decision"),
    *("training_seconds", "training_cpu_seconds", "argmax_seconds"),
]


def reproducible(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "results.csv", keep_default_na=False, na_values=[""])
    return table.drop(columns=MEASURED)


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return ExperimentConfig.from_toml(SMALL)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run_experiment(config, folder, jobs=2)
    return folder


def test_results_have_a_row_for_each_cell(config, finished):
    results = pd.read_csv(finished / "results.csv", keep_default_na=False, na_values=[""])
    assert len(results) == len(config.cells()) == len(list((finished / "cells").iterdir()))
    assert set(results["method"]) == set(config.methods)
    assert results[["reward_mean", "reward_se", "ms_per_decision"]].notna().all(axis=None)
    trained = results["method"].isin(["iterative_dqn", "sequoia", "double"])
    counts = ["training_seconds", "argmax_lookups", "argmax_solves", "cache_hits"]
    assert (results[counts].notna().all(axis=1) == trained).all()
    lookups = results["argmax_solves"] + results["cache_hits"]
    assert (lookups == results["argmax_lookups"])[trained].all()
    assert (results.loc[trained, "training_episodes"] == 5).all()
    pd.testing.assert_frame_equal(results, pd.read_parquet(finished / "results.parquet"))


def test_small_instances_have_their_exact_optimum(finished):
    results = reproducible(finished)
    assert results["exact_optimum"].notna().all()
    assert (results["exact_reward"].dropna() <= results["exact_optimum"].max() + 1e-9).all()
    whittle = results[(results["method"] == "whittle") & (results["seed"] == 0)].iloc[0]
    env = make_bandit("budget", 4, 1, horizon=6, seed=0)
    assert whittle["exact_optimum"] <= JointMDP(env).optimum([[1, 1, 1, 1]])
    assert whittle["exact_reward"] > 0.9 * whittle["exact_optimum"]


def test_curves_have_every_validation(finished):
    curves = pd.read_csv(finished / "curves.csv")
    one = curves[(curves["domain"] == "capacity") & (curves["method"] == "sequoia")]
    assert one[one["seed"] == 0]["episode"].tolist() == [0, 2, 4, 5]
    folder = finished / "training" / "capacity-J4-B1-seed0-sequoia"
    network = QNetwork.from_onnx(folder / "network.onnx")
    assert (network.state_dim, network.action_dim) == (4, 4)
    assert not (folder / "checkpoint.pt").exists()


def test_greedy_building_is_played_on_the_network_that_was_trained(config, finished, tmp_path):
    network = finished / "training" / "capacity-J4-B1-seed0-sequoia" / "network.onnx"
    env = make_bandit("capacity", 4, 1, horizon=6, seed=0)
    policy = IterativeDQNPolicy(QNetwork.from_onnx(network), env.action_space_block())
    starts = env.start_states(np.random.default_rng([10_000, 0]), 4)
    wanted = evaluate(env, {"": policy}, seeds=range(4), start_states=starts)["reward"]
    episodes = pd.read_csv(finished / "episodes.csv")
    own = episodes[episodes["domain"] == "capacity"]
    np.testing.assert_allclose(own["iterative_dqn_published"], wanted, atol=2e-6)
    results = reproducible(finished).set_index(["domain", "method"])
    assert results.loc[("capacity", "sequoia"), "way"] == "enumeration"
    assert results.loc[("capacity", "iterative_dqn_published"), "way"] == "greedy building"
    mean = own["sequoia"].mean()
    assert results.loc[("capacity", "sequoia"), "reward_mean"] == pytest.approx(mean, abs=1e-5)

    one = replace(config, domains=["capacity"], methods=["sequoia", "iterative_dqn_published"])
    cell = Path("cells") / "capacity-J4-B1-seed0-sequoia.json"
    (tmp_path / "cells").mkdir()
    shutil.copy(finished / cell, tmp_path / cell)  # but not the network
    with pytest.raises(ValueError, match=r"best.pt is missing, which .*-iterative_dqn_published"):
        run_experiment(one, tmp_path)


def test_finished_cells_are_not_run_again(config, finished):
    cells = sorted((finished / "cells").iterdir())
    before = [path.stat().st_mtime_ns for path in cells]
    cells[3].unlink()
    run_experiment(config, finished)
    after = [path.stat().st_mtime_ns for path in cells]
    assert [old == new for old, new in zip(before, after, strict=True)].count(False) == 1
    assert before[3] != after[3]


def test_more_seeds_add_to_a_run(config, finished, tmp_path):
    one = replace(config, methods=["null", "sequoia"], domains=["budget"])
    run_experiment(one, tmp_path)
    two = run_experiment(replace(one, seeds=[0, 1]), tmp_path)
    assert len(two) == 4
    both = reproducible(finished).merge(reproducible(tmp_path), how="inner")
    assert len(both) == 2  # the same numbers, whatever else is run beside them


def test_interventions_are_an_experiment_too(tmp_path):
    learner = {"random_steps": 40, "pretrain_epochs": 2, "episodes": 2, "batch_size": 4}
    config = ExperimentConfig(
        domains=["interventions"],
        sizes=[(4, 2), (6, 2)],
        seeds=[0],
        methods=["null", "iterative_myopic", "flat_dqn", "graphq", "graphq_beam", "sequoia"],
        horizon=6,
        episodes=2,
        validate_every=2,
        validation_episodes=2,
        dqn={**learner, "expected_rewards": False},
    )
    results = run_experiment(config, tmp_path, jobs=2)
    assert len(results) == 12
    assert (results["reward_mean"] > 0).all()
    path = write_report([tmp_path], tmp_path / "report")
    assert "Graph-Q, beam" in path.read_text()
    assert (tmp_path / "report" / "times-interventions.png").exists()


def test_results_of_other_settings_are_not_mixed_in(config, finished):
    with pytest.raises(ValueError, match=r"other settings \(horizon differ\)"):
        run_experiment(replace(config, horizon=7), finished)
    with pytest.raises(ValueError, match=r"other settings \(dqn differ\)"):
        run_experiment(replace(config, dqn={**config.dqn, "batch_size": 5}), finished)


def test_damaged_results_are_refused(config, tmp_path):
    one = replace(config, methods=["null"], domains=["budget"])
    run_experiment(one, tmp_path)
    (cell,) = (tmp_path / "cells").iterdir()
    cell.write_text(cell.read_text()[:-20])
    with pytest.raises(ValueError, match="is damaged"):
        run_experiment(one, tmp_path)


def test_progress_goes_from_nothing_to_all(config, tmp_path):
    seen = []
    one = replace(config, methods=["null", "myopic"], domains=["budget"])
    run_experiment(one, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 8)
    assert seen[-1] == (8, 8)


def test_wrong_arguments_are_refused(config, tmp_path):
    with pytest.raises(ValueError, match="jobs must be"):
        run_experiment(config, tmp_path, jobs=0)
    with pytest.raises(ValueError, match="backend must be"):
        run_experiment(config, tmp_path, backend="pbs")
    with pytest.raises(ValueError, match="an address is for"):
        run_experiment(config, tmp_path, address="tcp://localhost:1")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_results(config, finished, tmp_path):
    command = [
        sys.executable,
        "-c",
        "from milp_rl.cli.main import main; main()",
        "experiment",
        "run",
    ]
    command += [str(SMALL), "--output", str(tmp_path), "--jobs", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as run:
        while run.poll() is None and len(list(tmp_path.rglob("*"))) < 16:
            time.sleep(0.02)
        assert run.poll() is None
        os.killpg(run.pid, signal.SIGKILL)
    run_experiment(config, tmp_path)
    pd.testing.assert_frame_equal(reproducible(tmp_path), reproducible(finished))
    for path in finished.rglob("validation.csv"):
        assert (tmp_path / path.relative_to(finished)).read_text() == path.read_text()


@pytest.mark.slow
def test_a_dask_cluster_of_two_workers_gives_the_same_results(config, finished, tmp_path):
    distributed = pytest.importorskip("distributed")
    few = replace(config, methods=["myopic", "sequoia"])
    run_experiment(few, tmp_path / "own", jobs=2, backend="dask")
    here = {"processes": False, "protocol": "tcp"}  # as another process would be reached
    with distributed.LocalCluster(
        1, threads_per_worker=1, dashboard_address=None, **here
    ) as cluster:
        run_experiment(few, tmp_path / "given", backend="dask", address=cluster.scheduler_address)
    for folder in ("own", "given"):
        both = reproducible(finished).merge(reproducible(tmp_path / folder), how="inner")
        assert len(both) == 4


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_results(config, finished, tmp_path):
    pytest.importorskip("ray")
    few = replace(config, methods=["myopic", "sequoia"])
    run_experiment(few, tmp_path, jobs=2, backend="ray")
    assert len(reproducible(finished).merge(reproducible(tmp_path), how="inner")) == 4


def test_cells_say_what_they_were_run_with(finished):
    path = finished / "cells" / "budget-J4-B1-seed0-double.json"
    content = json.loads(path.read_text())
    assert content["settings"]["dqn"]["double"] is True
    assert content["row"]["method"] == "double"
