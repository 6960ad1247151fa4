"""Running tasks: in processes of this machine, on a Dask or Ray cluster, or in jobs of Slurm.

A task writes its own result, in a folder that all machines share. Whatever runs it, it has one
thread, and an error of it says which task it is of.
"""

from __future__ import annotations

import platform
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import joblib
import torch
from threadpoolctl import threadpool_limits

from milp_rl.clusters.slurm import SlurmJob, keep_jobs, slurm_cluster
from milp_rl.clusters.workers import Workers
from milp_rl.extras import needs
from milp_rl.formulations.files import LOCK
from milp_rl.solvers.processes import safe_path

Run = Callable[..., Any]

_SAME = ("milp-rl", "numpy", "scipy", "torch", "highspy", "numba", "gymnasium", "scikit-learn")
_CHECK_SECONDS = 20.0


def run_tasks(
    run: Run, tasks: Mapping[str, tuple[Any, ...]], folder: str | Path, workers: Workers
) -> None:
    """Run tasks in parallel; the first error stops them.

    Parameters
    ----------
    run
        Called with the arguments of each task; it and they have to be picklable. What it returns is
        dropped.
    tasks
        Arguments by the name of the task.
    folder
        Where tasks write, locked by the caller (:func:`milp_rl.formulations.files.locked`). On a
        cluster, all machines share it.
    workers
        What runs them.

    Raises
    ------
    ImportError
        If the backend is not installed.
    RuntimeError
        If a machine of a cluster does not share the folder or has other versions, or workers die.
    Exception
        What a task raises, with a note of its name.
    """
    if not tasks:
        return
    place = Path(folder).resolve()
    with safe_path():
        if workers.backend == "loky":
            with joblib.parallel_config("loky"):
                joblib.Parallel(n_jobs=workers.jobs, batch_size=1)(
                    joblib.delayed(_named)(name, run, task) for name, task in tasks.items()
                )
        elif workers.backend == "ray":
            with _ray(workers):
                joblib.Parallel(n_jobs=workers.jobs, batch_size=1)(
                    joblib.delayed(_far)(name, run, task, place, _versions())
                    for name, task in tasks.items()
                )
        else:
            _on_dask(run, tasks, place, workers)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let numerical libraries use one thread, as processes beside each other should."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def _named(name: str, run: Run, task: tuple[Any, ...]) -> None:
    """Run a task; an error of it gets its name and the machine as a note."""
    try:
        with _one_thread():
            run(*task)
    except Exception as error:
        error.add_note(f"in {name} on {socket.gethostname()}")
        raise


def _far(
    name: str, run: Run, task: tuple[Any, ...], folder: Path, versions: Mapping[str, str]
) -> None:
    """Run a task on a machine of a cluster, if it is as the caller's is."""
    host = socket.gethostname()
    if not (folder / LOCK).exists():
        raise RuntimeError(
            f"{host} does not see {folder}: give a folder that all machines of the cluster share"
        )
    own = _versions()
    differ = [f"{key} {own[key]}, not {versions[key]}" for key in own if own[key] != versions[key]]
    if differ:
        raise RuntimeError(
            f"{host} has {', '.join(differ)}: give the workers the environment that the command"
            " runs in"
        )
    _named(name, run, task)


def _versions() -> dict[str, str]:
    return {"Python": platform.python_version(), **{name: version(name) for name in _SAME}}


def _on_dask(
    run: Run, tasks: Mapping[str, tuple[Any, ...]], folder: Path, workers: Workers
) -> None:
    """Run tasks through Dask, each under its name, which is what Dask calls it in errors."""
    with _client(len(tasks), folder, workers) as (client, keep):
        from distributed import KilledWorker, wait

        # Another run of the same scheduler may have a task of the same name.
        keys = {f"{name} {uuid.uuid4().hex[:8]}": name for name in tasks}
        versions = _versions()
        waiting = {
            client.submit(_far, name, run, tasks[name], folder, versions, key=key, pure=False)
            for key, name in keys.items()
        }
        looked = monotonic()
        while waiting:
            done: set[Any] = set()
            with suppress(TimeoutError):
                done = wait(list(waiting), _CHECK_SECONDS, "FIRST_COMPLETED").done
            for future in done:
                waiting.discard(future)
                try:
                    future.result()
                except KilledWorker as error:
                    raise RuntimeError(
                        f"{keys[error.task]}: its worker was killed {error.allowed_failures + 1}"
                        " times, for its memory or its time: ask for more; what is finished is kept"
                    ) from error
                future.release()  # or it would be run again if its worker left
            if monotonic() - looked >= _CHECK_SECONDS:
                keep(len(waiting))
                looked = monotonic()


@contextmanager
def _client(
    n_tasks: int, folder: Path, workers: Workers
) -> Iterator[tuple[Any, Callable[[int], None]]]:
    """Give a client of a Dask cluster, and what to call now and then to keep the cluster up."""
    with needs("dask"):
        import dask
        from distributed import Client
    # A worker is given no task to hold while another is free.
    with dask.config.set({"distributed.scheduler.worker-saturation": 1.0}):
        if workers.backend == "slurm":
            job = workers.slurm or SlurmJob()
            needed = -(-n_tasks // job.cpus_per_task)
            jobs = needed if workers.jobs == -1 else min(workers.jobs, needed)
            with slurm_cluster(job, jobs, folder) as cluster, Client(cluster) as client:
                yield client, keep_jobs(cluster, client)
        elif workers.address is not None:
            with Client(workers.address) as client:
                yield client, lambda left: None
        else:
            own = {"n_workers": None if workers.jobs == -1 else workers.jobs}
            with Client(**own, threads_per_worker=1, dashboard_address=None) as client:
                yield client, lambda left: None


@contextmanager
def _ray(workers: Workers) -> Iterator[None]:
    """Make joblib use Ray."""
    with needs("ray"):
        import ray
        from ray.util.joblib import register_ray
    here = workers.address is None and workers.jobs != -1
    ray.init(address=workers.address, num_cpus=workers.jobs if here else None)
    register_ray()
    try:
        with joblib.parallel_config("ray"):
            yield
    finally:
        ray.shutdown()
