"""Searching for the parameters of a learner with Optuna: pruned, in parallel, resumable."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import joblib
import matplotlib.pyplot as plt
import torch
from threadpoolctl import threadpool_limits

from milp_rl.dqn import Callback, DQNAgent, DQNConfig, Validation
from milp_rl.extras import needs
from milp_rl.formulations.files import locked, write_atomically
from milp_rl.reports.document import save_figure
from milp_rl.reports.progress import watched
from milp_rl.solvers.processes import safe_path

with needs("experiments"):
    import optuna
    from optuna.storages import RDBStorage
    from optuna.study import MaxTrialsCallback
    from optuna.trial import TrialState

STUDY, BEST = "study.db", "best.toml"
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)
_COUNTED = (*_DONE, TrialState.RUNNING)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and how a trial is judged: by its highest validation reward."""

    name: str
    """Of the study."""

    learner: type[DQNAgent]
    """What is trained."""

    base: DQNConfig
    """Parameters that are not searched, such as the number of episodes."""

    suggest: Callable[[optuna.trial.BaseTrial, Any], DQNConfig]
    """Returns the parameters that a trial is to try, from it and ``base``."""

    make: Callable[[], gym.Env[Any, Any]]
    """Returns the environment; called in each process."""

    environment: Any
    """What the environment is, for JSON: a study goes on in the same one only."""

    validate_every: int = 10
    """As ``every`` of :class:`milp_rl.dqn.Validation`.

    After each a trial may be pruned, by the median of the trials before.
    """

    validation_episodes: int = 20
    """As ``episodes`` there."""

    seed: int = 0
    """Seed of the search and of every training."""


class _Pruning(Callback):
    """Reports validation rewards to a trial, and stops it where it falls behind the others."""

    def __init__(self, trial: optuna.Trial, validation: Validation) -> None:
        self._trial = trial
        self._validation = validation
        self._reported: set[int] = set()

    def on_episode_end(self, agent: DQNAgent, record: dict[str, Any]) -> None:
        """Report what is new."""
        for episode, reward in self._validation.rewards.items():
            if episode not in self._reported:
                self._reported.add(episode)
                self._trial.report(reward, episode)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def run_search(
    search: Search,
    folder: str | Path,
    *,
    n_trials: int = 50,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> optuna.Study:
    """Search for the parameters of highest validation reward.

    The study is a SQLite file: a search that is stopped goes on where it was. With ``jobs=1`` the
    result is the same in every run.

    Parameters
    ----------
    search
        What is searched.
    folder
        For ``study.db``, ``best.toml``, ``trials.csv``, ``history.png`` and ``importance.png``.
    n_trials
        Trials in all, those of earlier runs in the folder among them.
    jobs
        Trials at a time, each in its own process with one thread; -1: one per processor.
    progress
        Called every second or so with the number of trials done and wanted.

    Raises
    ------
    ValueError
        If a number is out of range, or the folder has a study of something else.
    RuntimeError
        If another search is writing to the folder.
    """
    if n_trials < 1 or (jobs != -1 and jobs < 1):
        raise ValueError(f"n_trials and jobs must be at least 1, got {n_trials} and {jobs}")
    out = Path(folder)
    with locked(out):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = _study(search, out)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):  # of a search that was killed
            study.tell(trial.number, state=TrialState.FAIL)
        about = {
            "base": asdict(search.base),
            "environment": search.environment,
            "seed": search.seed,
        }
        about = json.loads(json.dumps(about))  # as the study gives it back
        if not study.user_attrs:
            study.set_user_attr("about", about)
        elif study.user_attrs["about"] != about:
            raise ValueError(
                f"{out / STUDY} is a study of another environment, other parameters or another"
                " seed; delete it or give another folder"
            )
        workers = min(joblib.cpu_count() if jobs == -1 else jobs, n_trials)

        def report() -> None:
            if progress is not None:
                progress(len(study.get_trials(deepcopy=False, states=_DONE)), n_trials)

        with watched(report), safe_path():
            joblib.Parallel(n_jobs=workers)(
                joblib.delayed(_work)(search, out, n_trials) for _ in range(workers)
            )
        _report(search, study, out)
        return study


def _study(search: Search, folder: Path) -> optuna.Study:
    storage = RDBStorage(
        f"sqlite:///{folder / STUDY}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    known = optuna.get_all_study_names(storage)
    if known and search.name not in known:
        raise ValueError(f"{folder / STUDY} is a study of {', '.join(known)}; give another folder")
    done = len(optuna.load_study(study_name=search.name, storage=storage).trials) if known else 0
    return optuna.create_study(
        study_name=search.name,
        storage=storage,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=search.seed + done, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    )


def _work(search: Search, folder: Path, n_trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _study(search, folder)
    if len(study.get_trials(states=_COUNTED)) >= n_trials:
        return
    env = search.make()

    def objective(trial: optuna.Trial) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            validation = Validation(
                env, scratch, every=search.validate_every, episodes=search.validation_episodes
            )
            agent = search.learner(env, search.suggest(trial, search.base), seed=search.seed)
            agent.train([validation, _Pruning(trial, validation)])
            return max(validation.rewards.values())

    torch.set_num_threads(1)
    with threadpool_limits(1):
        study.optimize(objective, callbacks=[MaxTrialsCallback(n_trials, states=_COUNTED)])


def _report(search: Search, study: optuna.Study, folder: Path) -> None:
    """Write the best parameters, the table of trials and the plots."""
    from optuna.visualization import matplotlib as plots

    best: Mapping[str, Any] = study.best_params
    config = search.suggest(optuna.trial.FixedTrial(dict(best)), search.base)
    lines = [f"# validation reward {study.best_value:.4f}, trial {study.best_trial.number}"]
    lines += [_as_toml((name, getattr(config, name))) for name in best]
    default = type(config)()
    given = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in best}
    given = {
        name: value
        for name, value in given.items()
        if name != "episodes" and value is not None and value != getattr(default, name)
    }
    if given:
        lines += ["# not searched, but the same in all trials", *map(_as_toml, given.items())]
    write_atomically(folder / BEST, ("\n".join(lines) + "\n").encode())
    trials = study.trials_dataframe(attrs=("number", "value", "state", "params"))
    write_atomically(folder / "trials.csv", trials.to_csv(index=False).encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        _save(plots.plot_optimization_history(study), folder / "history.png")
        complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
        if len({trial.value for trial in complete}) > 1:
            _save(plots.plot_param_importances(study), folder / "importance.png")
    log.info("best validation reward %.4f with %s", study.best_value, dict(best))


def _as_toml(item: tuple[str, Any]) -> str:
    return f"{item[0]} = {json.dumps(item[1])}"


def _save(axes: Any, path: Path) -> None:
    axes.figure.tight_layout()
    save_figure(axes.figure, path)
    plt.close(axes.figure)


def suggest_dqn(trial: optuna.trial.BaseTrial, base: DQNConfig) -> DQNConfig:
    """Return parameters of :class:`milp_rl.dqn.DQNAgent` that a trial is to try.

    Of the network the widths that follow the action, on which the time of an argmax depends.
    """
    concat = base.architecture == "concat"
    name, widths = (
        ("hidden", ["16-32", "32-32", "64-32"]) if concat else ("head", ["16", "32", "64"])
    )
    changes: dict[str, Any] = {
        name: tuple(map(int, trial.suggest_categorical(name, widths).split("-"))),
        "discount": trial.suggest_categorical("discount", [0.9, 0.95, 0.99]),
        "n_step": trial.suggest_categorical("n_step", [1, 3, 5]),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 5e-3, log=True),
        "updates_per_step": trial.suggest_categorical("updates_per_step", [1, 2, 6]),
        "sync_every": trial.suggest_categorical("sync_every", [100, 300, 1000]),
        "epsilon_decay": trial.suggest_float("epsilon_decay", 200.0, 5000.0, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 0.3, log=True),
        "double": trial.suggest_categorical("double", [False, True]),
    }
    return replace(base, **changes)
