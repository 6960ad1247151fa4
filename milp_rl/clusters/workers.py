"""What runs tasks, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from milp_rl.clusters.slurm import SlurmJob

Backend = Literal["loky", "dask", "ray", "slurm"]


@dataclass(frozen=True)
class Workers:
    """What runs tasks.

    Parameters
    ----------
    jobs
        Tasks at the same time, each in its own process with one thread; -1 for as many as there
        are processors. With ``"slurm"``, jobs at the same time; -1 for as many as tasks need.
    backend
        ``"loky"``: processes on this machine; ``"dask"`` and ``"ray"``: a cluster; ``"slurm"``:
        jobs of Slurm, in which Dask workers run.
    address
        Address of the Dask scheduler or Ray head; by default a local cluster of ``jobs`` workers is
        started.
    slurm
        What each job asks for, for ``"slurm"``.

    Raises
    ------
    ValueError
        If an argument is wrong, or is one of another backend.
    """

    jobs: int = 1
    backend: Backend = "loky"
    address: str | None = None
    slurm: SlurmJob | None = None

    def __post_init__(self) -> None:
        if self.jobs != -1 and self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, or -1, got {self.jobs}")
        if self.backend not in ("loky", "dask", "ray", "slurm"):
            raise ValueError(
                f"backend must be 'loky', 'dask', 'ray' or 'slurm', got {self.backend!r}"
            )
        if self.address is not None and self.backend not in ("dask", "ray"):
            raise ValueError(
                f"an address is for the backends 'dask' and 'ray', not {self.backend!r}"
            )
        if self.slurm is not None and self.backend != "slurm":
            raise ValueError(f"jobs of Slurm are for the backend 'slurm', not {self.backend!r}")
