"""The command ``train``, and what it shares with ``tune``: environments and parameters by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import Progress, TaskID

from milp_rl.cli.commands import Imports, import_modules
from milp_rl.cli.terminal import bar, echo

if TYPE_CHECKING:
    from milp_rl.experiments.training import TrainingRun

Spread = Literal["error", "deviation", "range"]
Environment = Annotated[
    str,
    typer.Argument(
        help="Gymnasium's name, MODULE:NAME to import a module first, or MODULE:FUNCTION."
    ),
]
EnvironmentArguments = Annotated[
    list[str] | None,
    typer.Option("--env-arg", help="name=value for what makes it; may be repeated."),
]
SpaceFile = Annotated[
    Path | None,
    typer.Option(
        "--space",
        help="JSON file of the feasible set; default: the environment's, or all actions.",
        exists=True,
        dir_okay=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="JSON or TOML file of parameters.", exists=True, dir_okay=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="name=value, a parameter such as n_step=3; may be repeated."),
]


def train(
    environment: Environment,
    steps: Annotated[int, typer.Option(help="Steps in all, random and earlier ones included.")],
    output: Annotated[
        Path, typer.Option("--output", "--out", help="Folder for the run, which is gone on with.")
    ],
    space: SpaceFile = None,
    env_args: EnvironmentArguments = None,
    agent: Annotated[str, typer.Option(help="dqn, flat_dqn or graphq.")] = "dqn",
    config: ConfigFile = None,
    settings: Settings = None,
    seed: Annotated[int, typer.Option(help="Seed of everything.", min=0)] = 0,
    seconds: Annotated[float | None, typer.Option(help="Stop after so long; go on later.")] = None,
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations.", min=1)] = 1000,
    evaluation_episodes: Annotated[int, typer.Option(help="Episodes in each.", min=1)] = 20,
    patience: Annotated[
        int | None,
        typer.Option(help="Stop after so many evaluations without a better one.", min=1),
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 500,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files in FOLDER/tensorboard.")
    ] = False,
    imports: Imports = None,
) -> None:
    """Train a learner on an environment, with evaluations, checkpoints and a report.

    The same command goes on with a run that was killed, or that had fewer steps.
    """
    from milp_rl.experiments.training import TrainingRun, run_training

    import_modules(imports)
    run = TrainingRun(
        environment=environment,
        arguments=named_values(env_args, "--env-arg"),
        space=read_space(space),
        agent=agent,
        parameters=read_parameters(config, settings),
        seed=seed,
        evaluate_every=evaluate_every,
        evaluation_episodes=evaluation_episodes,
        patience=patience,
    )
    check_parameters(run, config, settings)
    with bar() as shown:
        trained = run_training(
            run,
            output,
            steps=steps,
            seconds=seconds,
            checkpoint_every=checkpoint_every,
            tensorboard=tensorboard,
            progress=shown_phases(shown),
        )
    ended = ", stopped before" if trained.stopped else ""
    echo(
        f"mean return {trained.mean:.6g} ± {trained.error:.2g} in {evaluation_episodes} new"
        f" episodes (network of step {trained.step}); {trained.steps} steps{ended},"
        f" {trained.episodes} episodes, {trained.seconds:.1f} s of training; {trained.report}"
    )


def curves(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of `milp-rl train`.", exists=True, file_okay=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "--out", help="File .png, .svg or .pdf.")
    ] = Path("curves.png"),
    spread: Annotated[Spread, typer.Option(help="Of runs that differ by their seeds.")] = "error",
) -> None:
    """Draw the learning curves of runs, those that differ by their seeds as one."""
    from milp_rl.experiments.curves import write_curves

    write_curves(runs, output, spread=spread)
    echo(str(output))


def shown_phases(shown: Progress) -> Callable[[str, int, int | None], None]:
    """Return what shows how far each phase of a training is, a bar each."""
    tasks: dict[str, TaskID] = {}

    def show(phase: str, done: int, total: int | None) -> None:
        if phase not in tasks:
            tasks[phase] = shown.add_task(phase, total=total)
        shown.update(tasks[phase], completed=done)

    return show


def read_space(path: Path | None) -> Any:
    """Return the feasible set in a file, if there is one."""
    from milp_rl.formulations.spaces.base import ActionSpace

    return None if path is None else ActionSpace.from_json(path)


def read_parameters(path: Path | None, settings: Sequence[str] | None) -> dict[str, Any]:
    """Return the parameters of a file, and of the command line, which take precedence."""
    from milp_rl.formulations.files import read_json, read_toml

    known: Any = {}
    if path is not None and path.suffix == ".toml":
        known = read_toml(path)
    elif path is not None:
        known = read_json(path)
    if not isinstance(known, dict):
        raise ValueError(f"{path} must hold an object of parameters by name")
    return {**known, **named_values(settings, "--set")}


def check_parameters(run: TrainingRun, path: Path | None, settings: Sequence[str] | None) -> None:
    """Raise ``ValueError`` for a wrong parameter, with its place in the file, if it is in one."""
    from milp_rl.formulations.files import place_of_key
    from milp_rl.formulations.suggestions import named_in

    try:
        run.config()
    except ValueError as error:
        key = named_in(str(error), run.parameters)
        if path is None or key is None or key in named_values(settings, "--set"):
            raise
        raise ValueError(f"{place_of_key(path, key)}: {error}") from error


def named_values(texts: Sequence[str] | None, option: str) -> dict[str, Any]:
    """Return the values in texts such as ``n_step=3``, as JSON reads them, otherwise as text."""
    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"{option} takes name=value, got {text!r}")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values
