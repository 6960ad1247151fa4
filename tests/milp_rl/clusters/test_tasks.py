import socket

import pytest

from milp_rl.clusters import tasks as module
from milp_rl.clusters.tasks import run_tasks
from milp_rl.clusters.workers import Workers
from milp_rl.formulations.files import locked


def fails(number: int) -> None:
    raise ValueError(f"number {number} is not taken")


def test_an_error_says_which_task_it_is_of(tmp_path):
    with pytest.raises(ValueError, match="number 3 is not taken") as error:
        run_tasks(fails, {"the third": (3,)}, tmp_path, Workers())
    assert error.value.__notes__ == [f"in the third on {socket.gethostname()}"]


def test_machines_of_a_cluster_have_to_share_the_folder_and_the_versions(tmp_path):
    ran: list[int] = []
    with pytest.raises(RuntimeError, match=r"does not see .* all machines of the cluster share"):
        module._far("one", ran.append, (1,), tmp_path, module._versions())
    with locked(tmp_path):
        other = {**module._versions(), "torch": "0.1"}
        with pytest.raises(RuntimeError, match=r"has torch .*, not 0\.1: give the workers"):
            module._far("one", ran.append, (1,), tmp_path, other)
        assert ran == []
        module._far("one", ran.append, (1,), tmp_path, module._versions())
    assert ran == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "jobs must be at least 1, or -1, got 0"),
        ({"backend": "pbs"}, "backend must be 'loky', 'dask', 'ray' or 'slurm', got 'pbs'"),
        ({"address": "tcp://localhost:1"}, "an address is for"),
    ],
)
def test_wrong_workers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Workers(**options)


@pytest.mark.slow
def test_a_dask_cluster_says_whose_worker_died_and_whose_error_it_is(tmp_path):
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")

    def dies() -> None:
        import os

        os._exit(1)

    def times_out() -> None:
        raise TimeoutError("of the task, not of the wait for it")

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(1, threads_per_worker=1, dashboard_address=None) as cluster,
        locked(tmp_path),
    ):
        there = Workers(backend="dask", address=cluster.scheduler_address)
        with pytest.raises(TimeoutError, match="of the task") as error:
            run_tasks(times_out, {"slow": ()}, tmp_path, there)
        assert error.value.__notes__ == [f"in slow on {socket.gethostname()}"]
        with pytest.raises(RuntimeError, match="large: its worker was killed 1 times"):
            run_tasks(dies, {"large": ()}, tmp_path, there)
