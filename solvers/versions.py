"""Versions of what solves, and the machine that it runs on, for whoever reads a time."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = {"highs": "highspy", "gurobi": "gurobipy", "scip": "pyscipopt"}
"""What MILP solvers come in; the others come in milp-rl."""


def version(package: str) -> str | None:
    """Return the version of an installed package, or ``None``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def solver_version(name: str) -> str | None:
    """Return the version of a solver by its name, ``None`` if it is not installed."""
    return version(PACKAGES.get(name, "milp-rl"))


@cache
def machine() -> str:
    """Describe the machine: processor, number of processors, memory, system and Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {os.cpu_count()} processors, {memory:.0f} GiB of memory,"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
