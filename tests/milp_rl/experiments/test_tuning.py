import tomllib
from dataclasses import replace

import optuna
import pytest

from milp_rl.dqn import DQNAgent, DQNConfig
from milp_rl.envs import make_bandit
from milp_rl.experiments.tuning import Search, run_search, suggest_dqn

SEARCH = Search(
    name="dqn",
    learner=DQNAgent,
    base=DQNConfig(
        episodes=2,
        architecture="concat",
        batch_size=4,
        pretrain_epochs=1,
        pretrain_states=5,
        solver="enumeration",
    ),
    suggest=suggest_dqn,
    make=lambda: make_bandit("capacity", 4, 2, horizon=5, seed=1),
    environment="a bandit",
    validate_every=1,
    validation_episodes=2,
)


def test_the_learner_is_tuned_and_what_was_found_can_be_used(tmp_path):
    run_search(SEARCH, tmp_path, n_trials=1)
    study = run_search(SEARCH, tmp_path, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    found = tomllib.loads((tmp_path / "best.toml").read_text())
    config = DQNConfig(**found, episodes=SEARCH.base.episodes)  # all but the episodes
    assert config == suggest_dqn(optuna.trial.FixedTrial(study.best_params), SEARCH.base)
    assert found["double"] in (True, False)
    assert len(found["hidden"]) == 2
    with pytest.raises(ValueError, match="is a study of dqn"):
        run_search(replace(SEARCH, name="graphq"), tmp_path, n_trials=1)
