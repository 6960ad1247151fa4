"""Solve your own Pyomo model that contains our blocks, with the same checks as an argmax."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyomo.environ as pyo

from milp_rl.formulations.linear_model import LinearModel, compile_pyomo
from milp_rl.formulations.network import FloatArray
from milp_rl.solvers.base import (
    CertificationError,
    MilpSolution,
    MilpSolver,
    SolveOptions,
    Status,
    relative_gap,
    tolerance,
)
from milp_rl.solvers.gurobi import GurobiSolver
from milp_rl.solvers.highs import HighsSolver
from milp_rl.solvers.scip import ScipSolver


def milp_solver(name: str) -> MilpSolver:
    """Return a new solver by its name, ``"highs"``, ``"gurobi"`` or ``"scip"``."""
    if name == "highs":
        return HighsSolver()
    if name == "gurobi":
        return GurobiSolver()
    if name == "scip":
        return ScipSolver()
    raise ValueError(f"the MILP solver must be 'highs', 'gurobi' or 'scip', got {name!r}")


@dataclass(frozen=True)
class ModelResult:
    """How a model was solved; the solution itself is in the model's variables.

    Parameters
    ----------
    value
        Objective value of the solution, in the model's own sense; NaN without solution.
    bound
        Proven bound on the optimal value.
    gap
        ``|bound - value| / |value|``.
    status
        As in :class:`~milp_rl.solvers.base.ArgmaxResult`.
    seconds
        Wall-clock time.
    solver
        Name of the solver.
    nodes
        Branch-and-bound nodes.
    message
        The solver's own word for its status.
    """

    value: float
    bound: float
    gap: float
    status: Status
    seconds: float
    solver: str
    nodes: int = 0
    message: str = ""


def solve_model(
    model: Any,
    *,
    solver: Literal["highs", "gurobi", "scip"] = "highs",
    gap: float = 0.0,
    absolute_gap: float = 0.0,
    time_limit: float | None = None,
    threads: int = 1,
) -> ModelResult:
    """Solve a mixed-integer linear Pyomo model and load the solution into its variables.

    Every network that ``add_network`` wrote is evaluated at the solution's inputs, and every
    action space that ``add_to`` wrote checks its action; where they disagree with the solver, the
    model is solved again at the tightest tolerances with the integers fixed to whole numbers.

    Parameters
    ----------
    model
        A Pyomo model with one active objective.
    solver
        ``"highs"``, ``"gurobi"`` or ``"scip"``.
    gap, absolute_gap, time_limit, threads
        As in :class:`~milp_rl.solvers.base.SolveOptions`.

    Raises
    ------
    ValueError
        If the model is not mixed-integer linear or has no single objective.
    CertificationError
        If the solution still contradicts a network or a space; the variables are left as they
        were.
    SolverUnavailableError
        If the solver is missing or its licence is too small.
    """
    begin = time.perf_counter()
    options = SolveOptions(gap, absolute_gap, time_limit, threads)
    objectives = list(model.component_data_objects(pyo.Objective, active=True))
    if len(objectives) != 1:
        raise ValueError(f"the model needs one active objective, it has {len(objectives)}")
    sign = 1.0 if objectives[0].sense == pyo.maximize else -1.0
    columns = [
        v for v in model.component_data_objects(pyo.Var, active=True, sort=True) if not v.fixed
    ]
    compiled, variables = compile_pyomo(model, columns)
    backend = milp_solver(solver)
    solution = backend.solve(compiled, options)
    if solution.x is not None:
        before = [v.value for v in variables]
        _load(variables, compiled, solution.x)
        if _complaints(model):
            solution = _polished(backend, compiled, options)
            if solution.x is not None:
                _load(variables, compiled, solution.x)
            complaints = _complaints(model) if solution.x is not None else [solution.message]
            if complaints:
                for variable, value in zip(variables, before, strict=True):
                    variable.set_value(value, skip_validation=True)
                raise CertificationError(f"{solver} gave a wrong answer: {'; '.join(complaints)}")
    seconds = time.perf_counter() - begin
    if solution.x is None:
        return ModelResult(
            math.nan,
            sign * solution.bound,
            math.inf,
            solution.status,
            seconds,
            solver,
            solution.nodes,
            solution.message,
        )
    value = sign * float(pyo.value(objectives[0]))
    bound = max(solution.bound, value)
    return ModelResult(
        sign * value,
        sign * bound,
        relative_gap(value, bound),
        "optimal" if options.closed(value, bound) else "feasible",
        seconds,
        solver,
        solution.nodes,
        solution.message,
    )


def _polished(backend: MilpSolver, compiled: LinearModel, options: SolveOptions) -> MilpSolution:
    """Solve at the tightest tolerances, then again with the integers fixed."""
    solution = backend.solve(compiled, options, tight=True)
    if solution.x is None:
        return solution
    whole = np.rint(solution.x)
    fixed = replace(
        compiled,
        column_lower=np.where(compiled.integer, whole, compiled.column_lower),
        column_upper=np.where(compiled.integer, whole, compiled.column_upper),
    )
    polished = backend.solve(fixed, options, tight=True)
    return replace(solution, x=polished.x, nodes=solution.nodes + polished.nodes)


def _load(variables: list[Any], compiled: LinearModel, x: FloatArray) -> None:
    values = np.where(compiled.integer, np.rint(x), x) + 0.0  # no negative zeros
    for variable, value in zip(variables, values, strict=True):
        variable.set_value(float(value), skip_validation=True)


def _complaints(model: Any) -> list[str]:
    """Compare the loaded solution with every embedded network and space."""
    found = []
    for block in model.block_data_objects(active=True):
        embedded = getattr(block, "milp_rl_network", None)
        if embedded is not None:
            inputs = np.array([pyo.value(entry) for entry in embedded.inputs])
            true = embedded.network.forward(inputs)
            claimed = np.array([pyo.value(output) for output in embedded.outputs])
            excess = claimed - true if embedded.one_sided else np.abs(claimed - true)
            for i in np.flatnonzero(excess > 10 * np.array([tolerance(t) for t in true])):
                found.append(
                    f"output {i} of the network on {block.name} is {claimed[i]!r}, the forward"
                    f" pass gives {true[i]!r}"
                )
        space, actions = getattr(block, "milp_rl_space", (None, ()))
        if space is not None:
            action = np.array([pyo.value(a) for a in actions])
            found.extend(f"{block.name}: {text}" for text in space.violations(action))
    return found
