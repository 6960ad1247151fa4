"""Solve your own Pyomo model that contains our blocks, with the same checks as an argmax."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyomo.environ as pyo

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import (
    InfeasibleRowError,
    LinearModel,
    compile_with_rows,
)
from milp_rl.solvers.log import Log, log_of
from milp_rl.solvers.milp.gurobi import GurobiSolver
from milp_rl.solvers.milp.highs import HighsSolver
from milp_rl.solvers.milp.scip import ScipSolver
from milp_rl.solvers.milp.solver import MilpSolver
from milp_rl.solvers.models.embedded import Embedded
from milp_rl.solvers.models.rows import HARDLY, RowCheck, check_rows
from milp_rl.solvers.models.whole import Faults, WholeSearch
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import Status

Start = bool | Mapping[Any, float] | Iterable[tuple[Any, float]]
"""What a solve begins with: nothing, the values of the variables, or some of these."""


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
        ``|bound - value| / |value|``, as it is.
    status
        As in :class:`~milp_rl.solvers.result.ArgmaxResult`, or ``"unbounded"``.
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
    start: Start = False,
    verbose: bool | Log = False,
) -> ModelResult:
    r"""Solve a mixed-integer linear Pyomo model and load the solution into its variables.

    .. math:: \max \text{ or } \min \; \{ c x + c_0 : r \le M x \le R,\; l \le x \le u,\;
              x_j \text{ integer for some } j \}

    What is loaded has whole integers and meets every bound and row of the model itself
    (:mod:`milp_rl.solvers.models.rows` says within what); every network that ``add_network`` wrote
    is evaluated at its inputs, and every action space that ``add_to`` wrote checks its action. A
    point that fails is repaired (its integers held and a linear program solved, tighter tolerances,
    the integer that violates branched on, :mod:`milp_rl.solvers.models.whole`) or refused.
    ``"optimal"`` means that bound and value differ by at most the asked gap, or by 1e-6 of the most
    that one variable decides on: no constant in the objective plays a part.

    Rows of a network whose numbers (mutable ``Param``) or ranges have changed since they were
    written are written anew before.

    Parameters
    ----------
    model
        A Pyomo model with one active objective.
    solver
        ``"highs"``, ``"gurobi"`` or ``"scip"``.
    gap, absolute_gap, time_limit, threads
        As in :class:`~milp_rl.solvers.options.SolveOptions`.
    start
        Begin with the values that the variables have (true), or with those of pairs of a variable
        and its value, or of Pyomo's ``ComponentMap``. Its integers are held and the rest is solved
        for, which takes no more than 1000 nodes: the actions alone will do. If that gives a point
        that holds, the result is no worse than it; if not, the start is ignored.
    verbose
        Show the lines that the solver writes: true, on standard error; or a function of one line,
        such as a logger's ``info``. Their numbers are those of the model as the solver gets it, a
        maximisation whose objective and columns are scaled.

    Raises
    ------
    ValueError
        If the model is not mixed-integer linear or has no single objective, a number in it is not
        finite, or a domain has gaps; it names the component.
    CertificationError
        If no point can be found that holds, naming the row and the excess; the variables are left
        as they were.
    ContradictionError
        If every row holds, and a space's own check says otherwise.
    SolverUnavailableError
        If the solver is missing or its licence is too small.

    Examples
    --------
    At least one of two visits, the second only in a network's favour:

    >>> import milp_rl as mr
    >>> import pyomo.environ as pyo
    >>> model = pyo.ConcreteModel()
    >>> model.visit = pyo.Var([0, 1], domain=pyo.Binary)
    >>> model.some = pyo.Constraint(expr=model.visit[0] + model.visit[1] >= 1)
    >>> network = mr.Network.from_arrays([[[-1.0, 2.0]], [[1.0]]], [[-0.5], [0.0]])
    >>> model.q = pyo.Block()
    >>> value = mr.add_network(model.q, network, [model.visit[0], model.visit[1]])
    >>> model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    >>> result = mr.solve_model(model)
    >>> result.status, round(result.value, 6), [round(model.visit[i].value) for i in (0, 1)]
    ('optimal', 1.5, [0, 1])
    """
    begin = time.perf_counter()
    options = SolveOptions(gap, absolute_gap, time_limit, threads, log=log_of(verbose))
    objectives = list(model.component_data_objects(pyo.Objective, active=True))
    if len(objectives) != 1:
        raise ValueError(f"the model needs one active objective, it has {len(objectives)}")
    sign = 1.0 if objectives[0].sense == pyo.maximize else -1.0
    embedded = Embedded.of(model).up_to_date()
    columns = [
        v for v in model.component_data_objects(pyo.Var, active=True, sort=True) if not v.fixed
    ]
    backend = milp_solver(solver)

    def without_solution(status: Status, bound: float, nodes: int, message: str) -> ModelResult:
        seconds = time.perf_counter() - begin
        return ModelResult(
            math.nan, sign * bound, math.inf, status, seconds, solver, nodes, message
        )

    try:
        compiled, variables, constraints = compile_with_rows(model, columns)
    except InfeasibleRowError as error:
        return without_solution("infeasible", -math.inf, 0, str(error))

    names = [constraint.name for constraint in constraints]

    def check(x: FloatArray) -> Faults:
        load(variables, x)
        return faults_at(check_rows(compiled, x), compiled, names, embedded)

    before = [v.value for v in variables]
    begin_with = _start(start, variables)
    search = WholeSearch(compiled, backend, options, check, start=begin_with)
    try:
        status = search.solve()
        if status == "unbounded":
            status = _feasibility(compiled, backend, options, check)
    finally:
        for variable, old in zip(variables, before, strict=True):
            variable.set_value(old, skip_validation=True)
    if search.x is None or status not in ("optimal", "feasible"):
        bound = {"infeasible": -math.inf, "unbounded": math.inf}.get(status, search.bound)
        return without_solution(status, bound + search.level, search.nodes, search.message)
    load(variables, search.x)
    value = float(pyo.value(objectives[0]))
    short = search.bound - search.value
    return ModelResult(
        value,
        value + sign * short,
        short / abs(value) if value else math.inf if short else 0.0,
        status,
        time.perf_counter() - begin,
        solver,
        search.nodes,
        search.message,
    )


def _feasibility(
    compiled: LinearModel,
    backend: MilpSolver,
    options: SolveOptions,
    check: Callable[[FloatArray], Faults],
) -> Status:
    """Tell whether a model whose relaxation is unbounded is so itself: whether it has a point."""
    nothing = np.zeros(compiled.n_columns)
    search = WholeSearch(replace(compiled, objective=nothing), backend, options, check)
    status = search.solve()
    return "unbounded" if status == "optimal" else status


def _start(start: Start, variables: list[Any]) -> FloatArray | None:
    """Return the values to begin with, NaN where there is none."""
    if isinstance(start, bool):
        if not start:
            return None
        own = [variable.value for variable in variables]
        return np.array([math.nan if value is None else value for value in own], dtype=np.float64)
    found = np.full(len(variables), math.nan)
    position = {id(variable): j for j, variable in enumerate(variables)}
    for variable, value in start.items() if isinstance(start, Mapping) else start:
        if not hasattr(variable, "is_variable_type") or not variable.is_variable_type():
            raise ValueError(f"start has {variable}, which is no variable of Pyomo")
        if id(variable) not in position and not variable.fixed:
            raise ValueError(f"start has {variable.name}, which is no variable of this model")
        if not math.isfinite(value):
            raise ValueError(f"start has the value {value} for {variable.name}")
        if not variable.fixed:
            found[position[id(variable)]] = value
    return found


def load(variables: list[Any], x: FloatArray) -> None:
    """Give Pyomo variables their values."""
    for variable, value in zip(variables, x.tolist(), strict=True):
        variable.set_value(value, skip_validation=True)


def faults_at(
    rows: RowCheck, compiled: LinearModel, names: list[str], embedded: Embedded
) -> Faults:
    """Say what contradicts the loaded point: the model's rows, its networks, its spaces."""
    found = rows.texts(compiled, names)
    contradictions = embedded.contradictions()
    if contradictions and not found:
        found = rows.texts(compiled, names, HARDLY)
    return Faults([*found, *contradictions], inherent=bool(contradictions) and not found)
