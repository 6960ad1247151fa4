"""The commands ``tune dqn`` and ``tune graphq``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from milp_rl.cli.commands import Imports, import_modules
from milp_rl.cli.terminal import bar, console, echo
from milp_rl.cli.training import (
    ConfigFile,
    Environment,
    EnvironmentArguments,
    Settings,
    SpaceFile,
    check_parameters,
    named_values,
    read_parameters,
    read_space,
)

Trials = Annotated[int, typer.Option(help="Trials in all, earlier ones included.")]
Jobs = Annotated[int, typer.Option(help="Trials at a time; -1: one per processor.")]
Episodes = Annotated[int, typer.Option(help="Training episodes of a trial.")]


def dqn(
    environment: Environment,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "--out", help="Folder for the study, which is resumed if it is there."
        ),
    ] = Path("runs/tune-dqn"),
    space: SpaceFile = None,
    env_args: EnvironmentArguments = None,
    config: ConfigFile = None,
    settings: Settings = None,
    trials: Trials = 50,
    jobs: Jobs = 1,
    episodes: Episodes = 50,
    validate_every: Annotated[int, typer.Option(help="Episodes between validations.")] = 10,
    validation_episodes: Annotated[int, typer.Option(help="Episodes in each.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of search and training.")] = 0,
    imports: Imports = None,
) -> None:
    """Tune the learner with Optuna: pruned trials, in parallel, on from what is done already.

    `milp-rl train ENVIRONMENT --config OUTPUT/best.toml` trains with what was found.
    """
    from milp_rl.dqn import DQNAgent
    from milp_rl.experiments.training import TrainingRun
    from milp_rl.experiments.tuning import Search, suggest_dqn

    import_modules(imports)
    parameters = read_parameters(config, settings)
    run = TrainingRun(
        environment=environment,
        arguments=named_values(env_args, "--env-arg"),
        space=read_space(space),
        parameters={**parameters, "episodes": episodes},
    )
    check_parameters(run, config, settings)
    search = Search(
        name="dqn",
        learner=DQNAgent,
        base=run.config(),
        suggest=suggest_dqn,
        make=run.make,
        environment=run.settings(),
        validate_every=validate_every,
        validation_episodes=validation_episodes,
        seed=seed,
    )
    run.make().close()  # says what is wrong before the search begins
    _search(search, output, trials, jobs)


def graphq(
    output: Annotated[
        Path, typer.Option(help="Folder for the study, which is resumed if it is there.")
    ] = Path("runs/tune-graphq"),
    preset: Annotated[str, typer.Option(help="Synthetic interventions to learn.")] = "10x10",
    trials: Trials = 50,
    jobs: Jobs = 1,
    episodes: Episodes = 50,
    seed: Annotated[int, typer.Option(help="Seed of instance, search and training.")] = 0,
) -> None:
    """Tune Graph-Q with Optuna: pruned trials, in parallel, on from what is done already."""
    from milp_rl.graphq import GraphDQNConfig, make_interventions
    from milp_rl.graphq.tuning import search_of

    env = make_interventions(preset, seed=seed)
    base = GraphDQNConfig(episodes=episodes, expected_rewards=False)
    _search(search_of(env, base=base, seed=seed), output, trials, jobs)


def _search(search: Any, output: Path, trials: int, jobs: int) -> None:
    from milp_rl.experiments.tuning import BEST, run_search

    with bar() as shown:
        task = shown.add_task(f"{trials} trials", total=trials)
        study = run_search(
            search,
            output,
            n_trials=trials,
            jobs=jobs,
            progress=lambda done, total: shown.update(task, completed=done),
        )
    echo((output / BEST).read_text().rstrip())
    n_pruned = sum(trial.state.name == "PRUNED" for trial in study.trials)
    console.print(f"{len(study.trials)} trials, {n_pruned} pruned; everything is in {output}")
