import sqlite3
import tomllib
from dataclasses import replace

import pandas as pd
import pytest

from milp_rl.graphq import GraphDQNConfig, make_interventions
from milp_rl.graphq.tuning import tune

BASE = GraphDQNConfig(
    random_steps=60,
    pretrain_epochs=1,
    episodes=2,
    batch_size=4,
    updates_per_step=1,
    expected_rewards=False,
)
SHORT = {"base": BASE, "validate_every": 1, "validation_episodes": 2}


@pytest.fixture
def env():
    return make_interventions("5x5", seed=0, horizon=5)


def test_a_study_is_resumed_and_reported(env, tmp_path):
    first = tune(env, tmp_path, n_trials=2, **SHORT)
    assert len(first.trials) == 2
    study = tune(env, tmp_path, n_trials=4, jobs=2, **SHORT)
    assert len(study.trials) == 4
    best = tomllib.loads((tmp_path / "best.toml").read_text())
    assert study.best_params.items() <= best.items()
    base = SHORT["base"]
    assert replace(base, **study.best_params) == GraphDQNConfig(**best, episodes=base.episodes)
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 4
    for name in ("history.png", "importance.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_trials_of_a_killed_search_do_not_count(env, tmp_path):
    tune(env, tmp_path, n_trials=1, **SHORT)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE trials SET state = 'RUNNING'")
    study = tune(env, tmp_path, n_trials=1, **SHORT)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]


def test_the_same_seed_tries_the_same(env, tmp_path):
    one, two = (tune(env, tmp_path / name, n_trials=2, seed=3, **SHORT) for name in "ab")
    assert [t.params for t in one.trials] == [t.params for t in two.trials]
    assert [t.value for t in one.trials] == [t.value for t in two.trials]


def test_other_studies_are_not_mixed_in(env, tmp_path):
    tune(env, tmp_path, n_trials=1, **SHORT)
    other = {**SHORT, "base": replace(BASE, episodes=3)}
    with pytest.raises(ValueError, match="another environment, other parameters"):
        tune(env, tmp_path, n_trials=1, **other)
    with pytest.raises(ValueError, match="at least 1"):
        tune(env, tmp_path, n_trials=0, **SHORT)
