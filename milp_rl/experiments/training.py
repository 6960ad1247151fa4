"""One training, of any Gymnasium environment, in a folder: what ``milp-rl train`` does."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd

from milp_rl.dqn import (
    Callback,
    CSVLogger,
    DQNAgent,
    DQNConfig,
    EvaluationCallback,
    TensorBoardLogger,
)
from milp_rl.dqn.validation import GreedyEpisodes
from milp_rl.envs import KnownModelEnv
from milp_rl.envs.adaptation import adapted
from milp_rl.evaluation.learning_curves import EVALUATIONS, plot_learning_curves
from milp_rl.experiments.methods import ALGORITHMS, agent_class
from milp_rl.formulations.files import check_settings, locked, write_atomically, write_json
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.suggestions import misfit, unknown
from milp_rl.reports.document import Section, save_figure, to_html, to_markdown

SETTINGS, CHECKPOINT, EPISODES = "settings.json", "checkpoint.pt", "episodes.csv"
BEST, CURVE, REPORT, TENSORBOARD = "best.pt", "learning_curve.png", "report.html", "tensorboard"
NETWORK, SPACE = "q.onnx", "space.json"
_FINAL_SEED = 2_000_000


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What is trained, and how.

    Raises
    ------
    ValueError
        If the agent is unknown.
    """

    environment: str
    """Gymnasium's name of it; ``"module:name"`` imports the module first.

    Or, as ``"module:function"``, what makes one, such as ``"milp_rl.envs:from_rddl"``.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Passed to ``gymnasium.make``, or the function."""

    space: ActionSpace | None = None
    """The feasible set of all states; by default as for :func:`milp_rl.envs.adapted`."""

    agent: str = "dqn"
    """``"dqn"``, ``"flat_dqn"`` or ``"graphq"``."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of its configuration, where they are not the defaults."""

    seed: int = 0
    """Seed of everything."""

    evaluate_every: int = 1000
    """Steps between evaluations, at least 1."""

    evaluation_episodes: int = 20
    """Episodes in each, at least 1."""

    patience: int | None = None
    """Evaluations without a better one after which training is stopped, at least 1."""

    def __post_init__(self) -> None:
        if self.agent not in ALGORITHMS:
            raise ValueError(unknown("agent", self.agent, ALGORITHMS))

    def config(self) -> DQNConfig:
        """Return the agent's configuration.

        Raises
        ------
        ValueError
            If a parameter is unknown or out of range.
        """
        kind = agent_class(self.agent).config_class
        try:
            return kind(**self.parameters)
        except TypeError as error:
            raise ValueError(misfit(kind, error)) from error

    def make(self) -> gym.Env[Any, Any]:
        """Return a new environment.

        Raises
        ------
        ValueError
            If there is none of this name, or it does not take these arguments.
        """
        try:
            make = _function(self.environment) or partial(gym.make, self.environment)
            env: gym.Env[Any, Any] = make(**self.arguments)
        except gym.error.UnregisteredEnv as error:
            module, _, name = self.environment.rpartition(":")
            told = f"If a module of yours registers it, write MODULE:{name}"
            if module:
                told = (
                    f"The module {module} has no function {name}, and registers none of that name"
                )
            raise ValueError(f"{error} {told}") from error
        except (gym.error.Error, TypeError) as error:
            raise ValueError(
                f"{self.environment} cannot be made with the arguments"
                f" {json.dumps(dict(self.arguments), default=str)}: {error}"
            ) from error
        return env if self.space is None else adapted(env, self.space)

    def settings(self) -> dict[str, Any]:
        """Return what a folder's earlier results must have in common with this run, for JSON."""
        return {
            "environment": self.environment,
            "arguments": dict(self.arguments),
            "space": None if self.space is None else self.space.to_dict(),
            "agent": self.agent,
            "seed": self.seed,
            "parameters": dict(self.parameters),  # the checkpoint compares all of them
            "evaluate_every": self.evaluate_every,
            "evaluation_episodes": self.evaluation_episodes,
        }


def _function(name: str) -> Callable[..., Any] | None:
    """Return the function, or class, of a module that a name is of, if it is."""
    module, _, attribute = name.partition(":")
    if not attribute.isidentifier():
        return None
    found: Any = getattr(importlib.import_module(module), attribute, None)
    return found if callable(found) else None


@dataclass(frozen=True)
class Trained:
    """What came of a run.

    Attributes
    ----------
    steps, episodes, seconds
        What was trained, random steps among the steps, and the time of it.
    step
        After how many steps the best network was found.
    mean, error
        Mean return of that network in as many new episodes as an evaluation has, and its standard
        error, NaN of a single episode.
    stopped
        Whether training ended before its budget of steps.
    report
        The page.
    """

    steps: int
    episodes: int
    seconds: float
    step: int
    mean: float
    error: float
    stopped: bool
    report: Path


def run_training(
    run: TrainingRun,
    folder: str | Path,
    *,
    steps: int,
    seconds: float | None = None,
    checkpoint_every: int = 500,
    tensorboard: bool = False,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Trained:
    """Train, evaluate and report, on from where an earlier run in the folder was.

    The folder then has ``checkpoint.pt``, with which a run that was killed ends as if it had not
    been, and one of fewer steps goes on; ``episodes.csv`` and ``evaluations.csv``; ``best.pt``, the
    weights of the best evaluation, and if one feasible set is that of all states ``q.onnx`` and
    ``space.json`` for ``milp-rl argmax``; ``report.html``, ``report.md`` and
    ``learning_curve.png``.

    Parameters
    ----------
    run
        What to train.
    folder
        For the results; made if it does not exist.
    steps, seconds
        The budget, as for :meth:`milp_rl.dqn.DQNAgent.learn`.
    checkpoint_every
        Steps between checkpoints.
    tensorboard
        Whether to write event files too, in a folder in the folder.
    progress
        Called with ``"pretraining"`` or ``"steps"``, the epochs or steps done, and in all.

    Raises
    ------
    ValueError
        If something is unknown or out of range, or the folder has another run.
    RuntimeError
        If another process is writing to the folder.
    """
    out = Path(folder)
    settings = json.loads(json.dumps(run.settings(), default=str))
    with locked(out):
        check_settings(out / SETTINGS, settings)
        agent = agent_class(run.agent)(run.make(), run.config(), seed=run.seed)
        if not steps > agent.random_steps:
            raise ValueError(
                f"steps must be more than the {agent.random_steps} random ones that training begins"
                f" with (random_steps), which count too, got {steps}"
            )
        evaluation = EvaluationCallback(
            _for_evaluation(run),
            every=run.evaluate_every,
            episodes=run.evaluation_episodes,
            patience=run.patience,
            best=out / BEST,
            log=out / EVALUATIONS,
        )
        watching: list[Callback] = [evaluation, CSVLogger(out / EPISODES)]
        if progress is not None:
            watching.append(_Progress(progress))
        if tensorboard:
            watching.append(TensorBoardLogger(out / TENSORBOARD, evaluation))
        first = not (out / SETTINGS).exists()
        write_json(out / SETTINGS, settings)
        try:
            agent.learn(
                steps,
                seconds=seconds,
                callbacks=watching,
                checkpoint=out / CHECKPOINT,
                checkpoint_every=checkpoint_every,
            )
        except ValueError:
            if first and not (out / CHECKPOINT).exists():  # nothing was made with them
                (out / SETTINGS).unlink()
            raise
        return _finish(run, agent, evaluation, out, steps)


class _Progress(Callback):
    """Tells how far the phases are."""

    def __init__(self, tell: Callable[[str, int, int | None], None]) -> None:
        self._tell = tell

    def on_pretrain_epoch(self, agent: DQNAgent, loss: float) -> None:
        """Tell the epochs."""
        self._tell("pretraining", agent.epoch, agent.config.pretrain_epochs)

    def on_step(self, agent: DQNAgent) -> None:
        """Tell the steps."""
        self._tell("steps", agent.num_timesteps, agent.budget.steps)


def _for_evaluation(run: TrainingRun) -> gym.Env[Any, Any]:
    """Return a new environment; one whose episodes can be played at once as it is."""
    env = run.make()
    inner: Any = env
    while isinstance(inner, gym.Wrapper) and _only_checks(inner):
        inner = inner.env
    return inner if isinstance(inner, KnownModelEnv) and run.space is None else env


def _only_checks(wrapper: gym.Wrapper[Any, Any, Any, Any]) -> bool:
    """Whether the steps of a wrapper are those of the environment in it."""
    checks = gym.wrappers.OrderEnforcing | gym.wrappers.PassiveEnvChecker
    return isinstance(wrapper, checks) or type(wrapper).step is gym.Wrapper.step


def _finish(
    run: TrainingRun, agent: DQNAgent, evaluation: EvaluationCallback, out: Path, steps: int
) -> Trained:
    seconds = agent.pretrain_seconds + sum(running.seconds for running in agent.running)
    seconds += sum(row["seconds"] for row in agent.history)
    step = agent.num_timesteps
    if evaluation.rows:
        best = max(evaluation.rows, key=lambda row: row["return"])
        step = int(best["step"])
        agent.use(evaluation.best_weights())
    fresh = GreedyEpisodes(_for_evaluation(run), run.evaluation_episodes, _FINAL_SEED)
    rewards, lengths = fresh.play(agent)
    returns = rewards * lengths
    error = float(returns.std(ddof=1) / np.sqrt(len(returns))) if len(returns) > 1 else np.nan
    trained = Trained(
        agent.num_timesteps,
        agent.episode,
        seconds,
        step,
        float(returns.mean()),
        error,
        agent.num_timesteps < steps,
        out / REPORT,
    )
    export: Any = getattr(agent.network, "to_onnx", None)
    if export is not None and not agent._feasible.varies:
        export(out / NETWORK)
        agent.space.to_json(out / SPACE)
    _write_report(run, trained, evaluation, out)
    return trained


def _write_report(
    run: TrainingRun, trained: Trained, evaluation: EvaluationCallback, out: Path
) -> None:
    title = f"{run.agent} on {run.environment}"
    charts: tuple[str, ...] = ()
    if evaluation.rows:
        figure = plot_learning_curves({run.agent: [evaluation.rows_frame()]}, title=title)
        save_figure(figure, out / CURVE)
        charts = (CURVE,)
    numbers = {
        "mean return": f"{trained.mean:.6g} ± {trained.error:.2g} (standard error)",
        "episodes of that": str(run.evaluation_episodes),
        "network of step": str(trained.step),
        "steps": str(trained.steps),
        "episodes": str(trained.episodes),
        "seconds of training": f"{trained.seconds:.1f}",
        "seed": str(run.seed),
    }
    own = {name: str(value) for name, value in run.parameters.items()}
    sections = [
        Section("", table=pd.DataFrame({"": numbers})),
        Section("Learning curve", "Mean return of the same episodes each time.", charts=charts),
    ]
    if own:
        sections.append(
            Section("Parameters that are not the defaults", table=pd.DataFrame({"": own}))
        )
    write_atomically(out / "report.md", to_markdown(title, sections).encode())
    write_atomically(out / REPORT, to_html(title, sections, out).encode())
