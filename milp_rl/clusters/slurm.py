"""Jobs of Slurm in which Dask workers run, through dask-jobqueue.

What is not asked for here (a network interface, further directives) is taken from Dask's own
settings, ``jobqueue.slurm`` in ``~/.config/dask/jobqueue.yaml``.
"""

from __future__ import annotations

import logging
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milp_rl.extras import needs

LOGS = "slurm"
_ADDRESS = "tcp://SCHEDULER:PORT"
_NAME = "milp-rl"
_MEMORY = re.compile(r"([1-9][0-9]*)([KMGT]?)")
_GIBIBYTES = 4
_IN_VAIN = 3
_OWN = "jobqueue.slurm"  # where Dask has its own settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlurmJob:
    """What one job asks for, by the names of ``sbatch``.

    Parameters
    ----------
    partition, account
        As ``sbatch`` has them; by default Slurm's.
    time
        Longest time of a job, such as ``"8:00:00"``; by default the partition's. A job that ends is
        submitted again while tasks are left.
    mem
        Memory of a job, such as ``"8G"`` (``K``, ``M``, ``G`` or ``T``, powers of 1024; ``M`` if
        there is none); by default 4 GiB per processor.
    cpus_per_task
        Processors of a job, at least 1: so many tasks run in it at a time.

    Raises
    ------
    ValueError
        If the memory or the number of processors is none.

    Examples
    --------
    >>> SlurmJob(partition="long", cpus_per_task=2).memory
    '8G'
    """

    partition: str | None = None
    account: str | None = None
    time: str | None = None
    mem: str | None = None
    cpus_per_task: int = 1

    def __post_init__(self) -> None:
        if self.cpus_per_task < 1:
            raise ValueError(f"cpus-per-task must be at least 1, got {self.cpus_per_task}")
        if not _MEMORY.fullmatch(self.memory):
            raise ValueError(f"mem must be a whole number and K, M, G or T, got {self.mem!r}")

    @property
    def memory(self) -> str:
        """Memory of a job as ``sbatch`` has it."""
        return f"{_GIBIBYTES * self.cpus_per_task}G" if self.mem is None else self.mem

    def script(self, folder: str | Path) -> str:
        """Return the script that is submitted for a job, but for the address it connects to.

        Parameters
        ----------
        folder
            Of the results; what jobs write goes to ``slurm/`` in it.

        Raises
        ------
        ImportError
            If dask-jobqueue is not installed.
        """
        _, job = _jobqueue()
        options = self._options(_NAME, Path(folder).resolve() / LOGS)
        return str(job(_ADDRESS, name=_NAME, **options).job_script())

    def _options(self, name: str, logs: Path) -> dict[str, Any]:
        """Return the options as dask-jobqueue has them."""
        from dask import config

        found = _MEMORY.fullmatch(self.memory)
        assert found is not None
        return {
            "job_name": name,
            "queue": self.partition,
            "account": self.account,
            "walltime": self.time or "",
            "job_directives_skip": [] if self.time else ["#SBATCH -t "],
            "job_mem": self.memory,
            "memory": f"{found[1]}{found[2] or 'M'}iB",
            "cores": self.cpus_per_task,
            "processes": self.cpus_per_task,
            "python": shlex.quote(sys.executable),
            "job_script_prologue": [
                *config.get(f"{_OWN}.job-script-prologue", []),
                "export PYTHONSAFEPATH=1",
            ],
            "job_extra_directives": [
                *config.get(f"{_OWN}.job-extra-directives", []),
                f'--output="{logs}/%x-%j.log"',
            ],
        }


@contextmanager
def slurm_cluster(job: SlurmJob, jobs: int, folder: Path) -> Iterator[Any]:
    """Start a Dask scheduler here, and workers in so many jobs, which are cancelled in the end.

    Parameters
    ----------
    job
        What each asks for.
    jobs
        How many.
    folder
        Of the results, which all machines share.

    Raises
    ------
    ImportError
        If dask-jobqueue is not installed.
    RuntimeError
        If there is no Slurm, or it would refuse such a job.
    """
    cluster_class, _ = _jobqueue()
    logs = folder / LOGS
    logs.mkdir(exist_ok=True)
    _accepted(job.script(folder))
    name = f"{_NAME}-{uuid.uuid4().hex[:8]}"
    from dask import config

    options = job._options(name, logs)
    scheduler = {**config.get(f"{_OWN}.scheduler-options", {}), "dashboard_address": ":0"}
    with cluster_class(scheduler_options=scheduler, **options) as cluster:
        cluster.scale(jobs=jobs)
        log.info("%d jobs of Slurm, named %s", jobs, name)
        yield cluster


def keep_jobs(cluster: Any, client: Any) -> Callable[[int], None]:
    """Return what submits lost jobs again, and gives back those that have nothing left to do.

    It is called now and then with the number of tasks that are not finished. It raises
    ``RuntimeError`` if jobs end without having worked.
    """
    name, submitted = cluster.job_name, len(cluster.worker_spec)
    worked: set[str] = set()
    in_vain = 0

    def keep(left: int) -> None:
        nonlocal in_vain
        alive = _alive(name)
        if alive is None:
            return
        at = {address: one["name"] for address, one in client.scheduler_info()["workers"].items()}
        ids = {key: job.job_id for key, job in list(cluster.workers.items())}
        worked.update(ids[key] for key in ids if _of(key, at.values()))
        busy = {address: keys for address, keys in client.processing().items() if keys}
        if sum(map(len, busy.values())) >= left:  # no task waits
            for key in [k for k in ids if not _of(k, [at[a] for a in busy if a in at])]:
                cluster.worker_spec.pop(key, None)
        for key, number in ids.items():
            if number in alive or key not in cluster.worker_spec:
                continue
            log.info("job %s has ended", number)
            in_vain += number not in worked
            if in_vain >= max(_IN_VAIN, submitted):
                raise RuntimeError(
                    f"{in_vain} jobs of Slurm ended before they did anything, the last is"
                    f" {number}: see its log, *-{number}.log in {LOGS}/ of the results"
                )
            cluster.workers.pop(key, None)
        cluster.scale(len(cluster.worker_spec))  # submits what it names and no worker is of

    return keep


def _of(job: str, workers: Any) -> bool:
    """Return whether one of the workers is of a job; those of several processes have a number."""
    return any(name == job or str(name).startswith(f"{job}-") for name in workers)


def _alive(name: str) -> set[str] | None:
    """Return the ids of jobs that wait or run, or ``None`` if Slurm does not answer."""
    command = ["squeue", "--noheader", "--format=%A", f"--name={name}"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        log.warning("squeue: %s", found.stderr.strip())
        return None
    return set(found.stdout.split())


def _accepted(script: str) -> None:
    """Raise ``RuntimeError`` if Slurm would refuse a job."""
    try:
        found = subprocess.run(
            ["sbatch", "--test-only"], input=script, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise RuntimeError(
            "there is no sbatch here: run this where jobs of Slurm are submitted; a dry run needs"
            " none"
        ) from error
    if found.returncode:
        raise RuntimeError(f"Slurm refuses such a job: {' '.join(found.stderr.split())}")


def _jobqueue() -> tuple[Any, Any]:
    """Return the classes of a cluster and of a job."""
    interrupted = signal.getsignal(signal.SIGINT)
    with needs("slurm"):
        from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    if interrupted is not None:  # importing it makes Ctrl-C end with status 0
        signal.signal(signal.SIGINT, interrupted)
    return SLURMCluster, SLURMJob
