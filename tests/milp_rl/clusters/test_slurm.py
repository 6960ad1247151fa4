import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from milp_rl.cli import clusters as cli_clusters
from milp_rl.cli import main as cli
from milp_rl.clusters import slurm
from milp_rl.clusters.slurm import SlurmJob, keep_jobs
from milp_rl.clusters.tasks import run_tasks
from milp_rl.clusters.workers import Workers
from milp_rl.formulations.files import locked

SMALL = Path(__file__).parents[1] / "experiments" / "small.toml"
# Importing it is a part of what is tested.
needs_jobqueue = pytest.mark.skipif(
    find_spec("dask_jobqueue") is None, reason="dask-jobqueue is not installed"
)


@needs_jobqueue
def test_the_script_asks_for_what_was_asked(tmp_path):
    job = SlurmJob(partition="long", account="mothers", time="8:00:00", mem="6G", cpus_per_task=3)
    lines = job.script(tmp_path / "a b").splitlines()
    assert lines[0].startswith("#!")
    for line in (
        "#SBATCH -p long",
        "#SBATCH -A mothers",
        "#SBATCH -t 8:00:00",
        "#SBATCH --mem=6G",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=3",
        f'#SBATCH --output="{tmp_path}/a b/slurm/%x-%j.log"',
        "export PYTHONSAFEPATH=1",
    ):
        assert line in lines
    assert lines[-1].startswith(f"{sys.executable} -m distributed.cli.dask_worker ")
    for option in ("--nworkers 3", "--nthreads 1", "--memory-limit 2.00GiB"):  # 6 GiB in three
        assert option in lines[-1]
    assert list(tmp_path.iterdir()) == []


@needs_jobqueue
def test_what_was_not_asked_is_left_to_slurm(tmp_path):
    script = SlurmJob(cpus_per_task=2).script(tmp_path)
    assert "#SBATCH --mem=8G" in script
    for option in ("-p", "-A", "-t"):
        assert f"#SBATCH {option}" not in script
    assert "--memory-limit 1.00GiB" in SlurmJob(mem="1024").script(tmp_path)  # of sbatch, MiB


@needs_jobqueue
def test_ctrl_c_is_what_it_was():
    SlurmJob().script(".")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@needs_jobqueue
def test_a_dry_run_prints_the_script_and_runs_nothing(tmp_path, monkeypatch):
    shown: list[str] = []
    monkeypatch.setattr(cli_clusters, "echo", shown.append)
    options = {"backend": "slurm", "partition": "long", "dry_run": True}
    cli.run(SMALL, tmp_path / "out", **options)
    cli.sepsis_run(tmp_path / "out", mem="2G", **options)
    expected = [SlurmJob(partition="long"), SlurmJob(partition="long", mem="2G")]
    assert shown == [job.script(tmp_path / "out").rstrip() for job in expected]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "1:00", "mem": "2G"}, "--time, --mem are for --backend slurm, not loky"),
        ({"dry_run": True}, "--dry-run is for --backend slurm"),
        ({"backend": "slurm", "mem": "2 gigabytes"}, "mem must be a whole number"),
        ({"backend": "slurm", "cpus_per_task": 0}, "cpus-per-task must be at least 1, got 0"),
        ({"backend": "slurm", "address": "here:1"}, "an address is for the backends"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        cli.run(SMALL, tmp_path, **options)


@needs_jobqueue
def test_without_slurm_one_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        locked(tmp_path),
        pytest.raises(RuntimeError, match="there is no sbatch here"),
    ):
        run_tasks(print, {"one": ()}, tmp_path, Workers(backend="slurm"))


class Cluster:
    """As much of a cluster of jobs as is looked at: what is wanted, and what was submitted."""

    job_name = "some"

    def __init__(self, n: int) -> None:
        self.worker_spec = {f"job-{i}": {} for i in range(n)}
        self.workers: dict[str, SimpleNamespace] = {}
        self.submitted = 0
        self.scale(n)

    def scale(self, n: int) -> None:
        assert n == len(self.worker_spec)
        self.workers = {key: job for key, job in self.workers.items() if key in self.worker_spec}
        for key in self.worker_spec.keys() - self.workers.keys():
            self.submitted += 1
            self.workers[key] = SimpleNamespace(job_id=str(100 + self.submitted))

    def ids(self) -> set[str]:
        return {job.job_id for job in self.workers.values()}


class Client:
    """Says which workers there are, and what each does."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[str, ...]] = {}

    def scheduler_info(self) -> dict[str, dict[str, dict[str, str]]]:
        return {"workers": {f"tcp://{name}": {"name": name} for name in self.tasks}}

    def processing(self) -> dict[str, tuple[str, ...]]:
        return {f"tcp://{name}": tasks for name, tasks in self.tasks.items()}


def test_a_job_that_ended_is_submitted_again_while_tasks_are_left(monkeypatch):
    cluster, client = Cluster(2), Client()
    keep = keep_jobs(cluster, client)
    alive = set(cluster.ids())
    monkeypatch.setattr(slurm, "_alive", lambda name: alive)
    client.tasks = {"job-0-0": ("a",), "job-0-1": ("b",), "job-1-0": ("c",), "job-1-1": ("d",)}
    keep(6)
    assert cluster.submitted == 2
    client.tasks = {"job-1-0": ("c",), "job-1-1": ("d",)}  # the time of a job is over
    kept, lost = cluster.workers["job-1"].job_id, cluster.workers["job-0"].job_id
    alive.discard(lost)
    keep(6)
    assert cluster.submitted == 3
    assert kept in cluster.ids()
    assert lost not in cluster.ids()
    monkeypatch.setattr(slurm, "_alive", lambda name: None)  # Slurm does not answer
    keep(6)
    assert cluster.submitted == 3


def test_jobs_with_nothing_left_to_do_are_given_back(monkeypatch):
    cluster, client = Cluster(3), Client()
    keep = keep_jobs(cluster, client)
    monkeypatch.setattr(slurm, "_alive", lambda name: cluster.ids())
    client.tasks = {"job-0": ("a",), "job-1": ()}  # the third job still waits
    keep(2)
    assert set(cluster.worker_spec) == {"job-0", "job-1", "job-2"}  # a task waits for a worker
    keep(1)
    assert set(cluster.workers) == {"job-0"}
    assert cluster.submitted == 3


def test_jobs_that_never_work_are_not_submitted_for_ever(monkeypatch):
    cluster = Cluster(2)
    keep = keep_jobs(cluster, Client())
    monkeypatch.setattr(slurm, "_alive", lambda name: set())
    keep(5)
    assert cluster.submitted == 4
    with pytest.raises(RuntimeError, match=r"3 jobs of Slurm ended .* see its log, \*-10\d\.log"):
        keep(5)


def slurm_works() -> bool:
    if shutil.which("sbatch") is None:
        return False
    command = ["sbatch", "--test-only", "--wrap", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
@needs_jobqueue
@pytest.mark.skipif(not slurm_works(), reason="there is no Slurm")
def test_tasks_run_in_jobs_of_slurm(tmp_path):

    def write(path: Path) -> None:
        import os

        if path.name == "2":
            raise ValueError("not this one")
        path.write_text(os.environ["SLURM_JOB_ID"])

    workers = Workers(1, "slurm", slurm=SlurmJob(mem="2G", time="10"))
    tasks = {f"task {i}": (tmp_path / str(i),) for i in range(3)}
    with locked(tmp_path), pytest.raises(ValueError, match="not this one") as error:
        run_tasks(write, tasks, tmp_path, workers)
    assert error.value.__notes__[0].startswith("in task 2 on ")
    with locked(tmp_path):
        run_tasks(write, {name: tasks[name] for name in ("task 0", "task 1")}, tmp_path, workers)
    ids = {(tmp_path / str(i)).read_text() for i in range(2)}
    assert len(ids) == 1
    left = subprocess.run(
        ["squeue", "--noheader", "--format=%A %T"], capture_output=True, text=True
    )
    running = [line for line in left.stdout.splitlines() if line.split()[1] != "COMPLETING"]
    assert not ids & {line.split()[0] for line in running}
