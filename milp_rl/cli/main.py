"""The command ``milp-rl``."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from milp_rl.cli import commands, doctor, engagement, training, tune
from milp_rl.cli.clusters import (
    AccountOption,
    AddressOption,
    BackendOption,
    CPUsOption,
    DryRunOption,
    JobsOption,
    MemOption,
    PartitionOption,
    TimeOption,
    chosen_workers,
    show_script,
)
from milp_rl.cli.terminal import Command, bar, console, echo
from milp_rl.solvers.versions import version

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Exact argmax for RL.")
for _command in (commands.argmax, commands.check, commands.info, commands.export, commands.compare):
    app.command(cls=Command)(_command)
app.command(cls=Command)(doctor.doctor)
app.command(cls=Command)(training.train)
app.command(cls=Command)(training.curves)
experiment = typer.Typer(no_args_is_help=True, help="Run experiments and report on them.")
app.add_typer(experiment, name="experiment")
tuning = typer.Typer(no_args_is_help=True, help="Search for good parameters.")
app.add_typer(tuning, name="tune")
tuning.command(cls=Command)(tune.dqn)
tuning.command(cls=Command)(tune.graphq)
care = typer.Typer(no_args_is_help=True, help="Care management from logged weeks.")
app.add_typer(care, name="care")
sepsis = typer.Typer(no_args_is_help=True, help="Sepsis care from logged steps.")
app.add_typer(sepsis, name="sepsis")
calls = typer.Typer(no_args_is_help=True, help="Service calls to mothers: plans and policies.")
app.add_typer(calls, name="engagement")
calls.command(cls=Command)(engagement.draw)
calls.command(cls=Command)(engagement.plan)
calls.command(cls=Command)(engagement.simulate)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"milp-rl {version('milp-rl')}")
        raise typer.Exit


@app.callback()
def main_options(
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Log what happens, with what solvers write."),
    ] = False,
    shown: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Solve, train, evaluate and report."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING)
    if verbose:
        logging.getLogger("milp_rl.solvers").setLevel(logging.DEBUG)


@experiment.command(cls=Command)
def run(
    config: Annotated[
        Path, typer.Argument(help="TOML file, see configs/.", exists=True, dir_okay=False)
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results; default runs/CONFIG.")
    ] = None,
    jobs: JobsOption = -1,
    backend: BackendOption = "loky",
    address: AddressOption = None,
    partition: PartitionOption = None,
    account: AccountOption = None,
    time: TimeOption = None,
    mem: MemOption = None,
    cpus_per_task: CPUsOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Train and evaluate all cells of an experiment, on from what is finished already."""
    from milp_rl.experiments import ExperimentConfig, run_experiment

    folder = Path("runs") / config.stem if output is None else output
    shown_bar = bar()
    workers = chosen_workers(jobs, backend, address, partition, account, time, mem, cpus_per_task)
    settings = ExperimentConfig.from_toml(config)
    n_cells = len(settings.cells())
    if dry_run:
        show_script(workers, folder)
        return
    with shown_bar:
        task = shown_bar.add_task(f"{n_cells} cells", total=None)
        results = run_experiment(
            settings,
            folder,
            jobs=workers.jobs,
            backend=workers.backend,
            address=workers.address,
            slurm=workers.slurm,
            progress=lambda done, total: shown_bar.update(task, completed=done, total=total),
        )
    shown = results[["domain", "J", "B", "seed", "method", "reward_mean", "reward_se"]]
    echo(shown.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    console.print(f"wrote {folder / 'results.csv'}, results.parquet and curves.csv")


@experiment.command(cls=Command)
def report(
    folders: Annotated[list[Path], typer.Argument(help="Output folders of runs.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the report; default FOLDER/report.")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Experiments",
) -> None:
    """Write charts and tables of one or several runs."""
    from milp_rl.experiments import write_report

    folder = folders[0] / "report" if output is None else output
    path = write_report(folders, folder, heading=title)
    echo(str(path))


@care.command("report", cls=Command)
def care_report(
    folder: Annotated[Path, typer.Argument(help="Folder for the report.", file_okay=False)],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your own weeks, parquet or CSV; default: simulated ones.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    patients: Annotated[int, typer.Option(help="Simulated patients.")] = 1000,
    weeks: Annotated[int, typer.Option(help="Simulated weeks.")] = 52,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    epochs: Annotated[int, typer.Option(help="Largest number of training epochs.")] = 30,
    grids: Annotated[bool, typer.Option(help="Windows and reward weights too.")] = True,
) -> None:
    """Train, evaluate, audit and allocate; one HTML page with all tables and charts."""
    from milp_rl.offline.care.data import CareData
    from milp_rl.offline.care.report import write_care_report

    own = None if data is None else CareData.read(data)
    with console.status("") as status:
        path = write_care_report(
            folder,
            data=own,
            n_patients=patients,
            n_weeks=weeks,
            seed=seed,
            epochs=epochs,
            grids=grids,
            progress=status.update,
        )
    echo(str(path))


@sepsis.command("run", cls=Command)
def sepsis_run(
    folder: Annotated[Path, typer.Argument(help="Folder for the results.", file_okay=False)],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your own steps, parquet or CSV; default: simulated ones.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0.")] = 3,
    stays: Annotated[int, typer.Option(help="Simulated stays.")] = 3000,
    epochs: Annotated[int, typer.Option(help="Largest number of training epochs.")] = 100,
    jobs: JobsOption = 1,
    backend: BackendOption = "loky",
    address: AddressOption = None,
    partition: PartitionOption = None,
    account: AccountOption = None,
    time: TimeOption = None,
    mem: MemOption = None,
    cpus_per_task: CPUsOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Train and judge all models, on from the seeds that are done already."""
    from milp_rl.offline.sepsis.data import SepsisData
    from milp_rl.offline.sepsis.report import run_sepsis

    workers = chosen_workers(jobs, backend, address, partition, account, time, mem, cpus_per_task)
    if dry_run:
        show_script(workers, folder)
        return
    own = None if data is None else SepsisData.read(data)
    with console.status("") as status:
        results = run_sepsis(
            folder,
            data=own,
            seeds=range(seeds),
            n_stays=stays,
            epochs=epochs,
            jobs=workers.jobs,
            backend=workers.backend,
            address=workers.address,
            slurm=workers.slurm,
            progress=status.update,
        )
    echo(results.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


@sepsis.command("report", cls=Command)
def sepsis_report(
    folder: Annotated[Path, typer.Argument(help="Folder of `milp-rl sepsis run`.")],
) -> None:
    """Write charts and tables of a run."""
    from milp_rl.offline.sepsis.report import write_sepsis_report

    path = write_sepsis_report(folder)
    echo(str(path))


def main() -> None:
    """Run the command."""
    # As after Ctrl-C: what runs cleans up, and takes its processes with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    app()
