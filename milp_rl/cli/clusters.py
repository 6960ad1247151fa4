"""Options of the commands that run tasks on processes, clusters or Slurm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from milp_rl.cli.terminal import echo
from milp_rl.clusters.slurm import SlurmJob
from milp_rl.clusters.workers import Backend, Workers

_SLURM = "Slurm: of a job"

JobsOption = Annotated[
    int,
    typer.Option(
        help="Processes at a time, -1: one per processor; with Slurm jobs, -1: as many as needed."
    ),
]
BackendOption = Annotated[Backend, typer.Option(help="Processes here, a cluster, or Slurm.")]
AddressOption = Annotated[
    str | None, typer.Option(help="Dask scheduler or Ray head; default: start one here.")
]
PartitionOption = Annotated[
    str | None, typer.Option(help="As sbatch has it.", rich_help_panel=_SLURM)
]
AccountOption = Annotated[
    str | None, typer.Option(help="As sbatch has it.", rich_help_panel=_SLURM)
]
TimeOption = Annotated[
    str | None,
    typer.Option(
        help="Longest time, such as 8:00:00; default: the partition's.", rich_help_panel=_SLURM
    ),
]
MemOption = Annotated[
    str | None,
    typer.Option(help="Memory, such as 8G; default: 4G per processor.", rich_help_panel=_SLURM),
]
CPUsOption = Annotated[
    int | None,
    typer.Option(
        "--cpus-per-task",
        help="Processors, each for a process; default: 1.",
        rich_help_panel=_SLURM,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the script of a job, and run nothing.", rich_help_panel=_SLURM
    ),
]


def chosen_workers(
    jobs: int,
    backend: Backend,
    address: str | None,
    partition: str | None,
    account: str | None,
    time: str | None,
    mem: str | None,
    cpus_per_task: int | None,
) -> Workers:
    """Return what the options ask for.

    Raises
    ------
    ValueError
        If an option is wrong, or of another backend.
    """
    asked = {
        "partition": partition,
        "account": account,
        "time": time,
        "mem": mem,
        "cpus-per-task": cpus_per_task,
    }
    given = [f"--{name}" for name, value in asked.items() if value is not None]
    if given and backend != "slurm":
        raise ValueError(f"{', '.join(given)} are for --backend slurm, not {backend}")
    job = SlurmJob(partition, account, time, mem, 1 if cpus_per_task is None else cpus_per_task)
    return Workers(jobs, backend, address, job if backend == "slurm" else None)


def show_script(workers: Workers, folder: Path) -> None:
    """Print the script of a job; raise ``ValueError`` if no job of Slurm is asked for."""
    if workers.slurm is None:
        raise ValueError("--dry-run is for --backend slurm")
    echo(workers.slurm.script(folder).rstrip())
