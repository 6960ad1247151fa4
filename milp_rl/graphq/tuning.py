"""Tuning the parameters of Graph-Q with Optuna."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from milp_rl.envs.known_model import KnownModelEnv
from milp_rl.experiments.tuning import BEST, STUDY, Search, run_search
from milp_rl.extras import needs
from milp_rl.graphq.agent import GraphDQN, GraphDQNConfig

with needs("experiments"):
    import optuna

__all__ = ["BEST", "STUDY", "search_of", "suggest", "tune"]


def suggest(trial: optuna.trial.BaseTrial, base: GraphDQNConfig) -> GraphDQNConfig:
    """Return the parameters that a trial is to try."""
    return replace(
        base,
        channels=trial.suggest_categorical("channels", [8, 16, 32]),
        layers=trial.suggest_int("layers", 1, 3),
        embedding=trial.suggest_categorical("embedding", [2, 8, 16]),
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        pretrain_learning_rate=trial.suggest_float("pretrain_learning_rate", 5e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        sync_every=trial.suggest_categorical("sync_every", [100, 300, 1000]),
        addition_weight=trial.suggest_float("addition_weight", 0.3, 3.0, log=True),
    )


def tune(
    env: KnownModelEnv,
    folder: str | Path,
    *,
    n_trials: int = 50,
    jobs: int = 1,
    base: GraphDQNConfig | None = None,
    validate_every: int = 10,
    validation_episodes: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> optuna.Study:
    """Search for the parameters of Graph-Q of highest validation reward.

    Parameters
    ----------
    env
        The environment (unwrapped).
    folder, n_trials, jobs, progress
        As for :func:`milp_rl.experiments.tuning.run_search`.
    base
        Parameters that are not searched, such as the number of episodes.
    validate_every, validation_episodes, seed
        As for :class:`milp_rl.experiments.tuning.Search`.

    Raises
    ------
    ValueError
        If a number is out of range, or the folder has a study of something else.
    RuntimeError
        If another search is writing to the folder.
    """
    search = search_of(
        env,
        base=base,
        validate_every=validate_every,
        validation_episodes=validation_episodes,
        seed=seed,
    )
    return run_search(search, folder, n_trials=n_trials, jobs=jobs, progress=progress)


def search_of(env: KnownModelEnv, *, base: GraphDQNConfig | None = None, **options: Any) -> Search:
    """Return the search of :func:`tune`, with its arguments."""
    return Search(
        name="graphq",
        learner=GraphDQN,
        base=GraphDQNConfig() if base is None else base,
        suggest=suggest,
        make=lambda: env,
        environment=repr(env.action_space_block()),
        **options,
    )
