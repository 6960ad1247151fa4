"""The command ``doctor``: what is installed, and whether each solver solves an example."""

from __future__ import annotations

import re
import time
from importlib import metadata
from typing import Any, get_args

import numpy as np
import typer

from milp_rl.cli.terminal import FAILURES, echo
from milp_rl.solvers.errors import SolverUnavailableError
from milp_rl.solvers.names import SolverName
from milp_rl.solvers.versions import machine, solver_version, version

_NOT_OF_USERS = ("all", "benchmarks", "docs", "lint", "test")
_N, _K, _TOLERANCE = 8, 3, 1e-6


def doctor() -> None:
    """Show versions, extras, licences and compiled loops, and solve an example by each solver.

    Exit status: 0 if every solver that is installed finds the best action, 1 if not.
    """
    required = _requirements()
    echo(f"milp-rl {version('milp-rl')}: {machine()}")
    echo(f"packages: {_versions(required.pop('', []))}")
    for extra, packages in required.items():
        missing = [package for package in packages if version(package) is None]
        echo(
            f"extra {extra}: missing {', '.join(missing)}"
            if missing
            else f"extra {extra}: {_versions(packages)}"
        )
    failed = [name for name in get_args(SolverName) if not _solves(name)]
    echo(f"compiled loops: {_loops()}")
    if failed:
        echo(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


def _requirements() -> dict[str, list[str]]:
    """Return the packages of the core, by no name, and of each extra by its name."""
    found: dict[str, list[str]] = {"": []}
    for line in metadata.requires("milp-rl") or []:
        name, of = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        extra = "" if of is None else of[1]
        if name is not None and name[0] != "milp-rl" and extra not in _NOT_OF_USERS:
            found.setdefault(extra, []).append(name[0])
    return found


def _versions(packages: list[str]) -> str:
    return ", ".join(f"{package} {version(package) or 'missing'}" for package in packages)


def _solves(name: SolverName) -> bool:
    """Solve an example whose best action is known; show how, and return whether it was right."""
    from milp_rl.argmax_solver import ArgmaxSolver
    from milp_rl.formulations.networks.network import Network
    from milp_rl.formulations.spaces.budget import BudgetTopK

    rng = np.random.default_rng(0)
    weights, bias, last = rng.normal(size=(6, _N)), rng.normal(size=6), rng.normal(size=(1, 6))
    network, space = Network.from_arrays([weights, last], [bias, [0.0]]), BudgetTopK(_N, _K)
    known = solver_version(name)
    shown = f"solver {name}{'' if known is None else f' {known}'}"
    begin = time.perf_counter()
    try:
        result = ArgmaxSolver(network, space, solver=name).solve([])
    except SolverUnavailableError as error:
        echo(f"{shown}: {error}")
        return known is None
    except FAILURES as error:
        echo(f"{shown}: {type(error).__name__}: {error}")
        return False
    seconds = time.perf_counter() - begin
    actions = (np.arange(2**_N)[:, None] >> np.arange(_N)) & 1
    feasible = actions[actions.sum(axis=1) <= _K]
    best = float((np.maximum(feasible @ weights.T + bias, 0) @ last.T).max())
    right = result.status == "optimal" and abs(result.value - best) <= _TOLERANCE
    outcome = "" if right else f", but {best:.9g} is the best"
    licence = f"; licence until {_licence()}" if name == "gurobi" else ""
    echo(
        f"{shown}: {result.status}, value {result.value:.9g}{outcome}, in {seconds:.2f} s with its"
        f" setup{licence}"
    )
    return right


def _licence() -> str:
    """Return the day on which Gurobi's licence ends."""
    import gurobipy

    with gurobipy.Env(params={"OutputFlag": 0}) as env, gurobipy.Model(env=env) as model:
        day = str(model.LicenseExpiration)
    return "further notice" if day.startswith("9999") else f"{day[:4]}-{day[4:6]}-{day[6:]}"


def _loops() -> str:
    """Describe what is compiled: the loops of the kernels, after a solve that uses some."""
    from milp_rl.formulations.kernels import oracles, relaxation

    functions: list[Any] = [
        value
        for module in (oracles, relaxation)
        for value in vars(module).values()
        if getattr(value, "__module__", "") == module.__name__ and hasattr(value, "py_func")
    ]
    if not functions:
        return "none, numba is turned off (NUMBA_DISABLE_JIT)"
    hits = sum(sum(function.stats.cache_hits.values()) for function in functions)
    misses = sum(sum(function.stats.cache_misses.values()) for function in functions)
    return (
        f"{hits} of this solve were compiled before, {misses} had to be compiled now; kept in"
        f" {functions[0].stats.cache_path}"
    )
