"""What a solver of your own left in your model, checked as ``solve_model`` checks its points."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pyomo.environ as pyo

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import (
    InfeasibleRowError,
    LinearModel,
    compile_with_rows,
)
from milp_rl.formulations.native import NativeModel, native_model, native_ranges
from milp_rl.formulations.pyomo import EmbeddedNetwork, input_ranges
from milp_rl.formulations.solved import Solved
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.contradictions import shown
from milp_rl.solvers.models.embedded import (
    Embedded,
    network_faults,
    values_of,
    violations_of,
)
from milp_rl.solvers.models.rows import check_rows, spread
from milp_rl.solvers.models.solve import load
from milp_rl.solvers.options import TOLERANCE

_WHOLE = 1e-5  # what solvers take for an integer, at their own settings


def check_solution(model: Any, *, tolerance: float = TOLERANCE) -> list[str]:
    """Check the solution in a model that you solved yourself.

    With integers rounded to whole numbers, every linear row and bound is to hold, a linear
    objective is to be what the solver says, every embedded network's outputs are to be those of
    the forward pass, and every space's own check is to accept its action. Nothing is said of
    optimality: that is the solver's word.

    Parameters
    ----------
    model
        A Pyomo model with values in its variables, or a ``gurobipy.Model`` or
        ``pyscipopt.Model`` after ``optimize()``.
    tolerance
        What a network's output may be off by, as a part of its range, and the objective, as a
        part of the most that one variable decides on. Rows are judged by
        :mod:`milp_rl.solvers.models.rows`, times ``tolerance / 1e-6``.

    Returns
    -------
    list of str
        What is wrong and by how much; empty if the solution is what it says it is.

    Raises
    ------
    ValueError
        If the model has no solution, a Pyomo model is not linear, or the tolerance is not
        positive.

    Warns
    -----
    UserWarning
        If a gurobipy or PySCIPOpt model has constraints that are not linear rows (quadratic,
        indicator, SOS, ...): they are not checked.

    Examples
    --------
    >>> import milp_rl as mr
    >>> import pyomo.environ as pyo
    >>> model = pyo.ConcreteModel()
    >>> model.space, model.q = pyo.Block(), pyo.Block()
    >>> actions = mr.BudgetTopK(2, 1).add_to(model.space)
    >>> network = mr.Network.from_arrays([[[1.0, 2.0]], [[1.0]]], [[0.0], [0.0]])
    >>> value = mr.add_network(model.q, network, actions)
    >>> model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    >>> result = mr.solve_model(model)
    >>> mr.check_solution(model)
    []
    >>> value.set_value(3.0)
    >>> mr.check_solution(model)[-1]
    'output 0 of the network on q is 3.0, the forward pass gives 2.0'
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    native = native_model(model)
    if native is not None:
        return _check_native(native, tolerance)
    if not hasattr(model, "component_data_objects"):
        raise ValueError(
            f"the model must be one of Pyomo, gurobipy or PySCIPOpt, got {type(model).__name__}"
        )
    return _check_pyomo(model, tolerance)


def _check_pyomo(model: Any, tolerance: float) -> list[str]:
    embedded = Embedded.of(model)
    with_value = [
        variable
        for variable in model.component_data_objects(pyo.Var, active=True, sort=True)
        if not variable.fixed and variable.value is not None
    ]
    try:
        compiled, variables, constraints = compile_with_rows(model, with_value)
    except InfeasibleRowError as error:
        return [str(error)]
    actions = [action for *_, given in embedded.spaces for action in given]
    unset = [variable.name for variable in (*variables, *actions) if variable.value is None]
    if unset:
        raise ValueError(
            f"the variable {unset[0]} has no value; solve the model before its solution is checked"
        )
    before = np.array([variable.value for variable in variables], dtype=np.float64)
    x, found = _rounded(compiled, before, [v.name for v in variables], tolerance)
    found.extend(_rows(compiled, x, [constraint.name for constraint in constraints], tolerance))
    try:
        load(variables, x)
        for block, network in embedded.networks:
            _, low, high = input_ranges(network.inputs, fixed=True)
            found.extend(_changes(f"the network on {block.name}", network, low, high))
        found.extend(embedded.network_faults(tolerance))
        for block, space, given in embedded.spaces:
            found.extend(_space_faults(f"on {block.name}", space, values_of(given)))
    finally:
        load(variables, before)
    return found


def _check_native(native: NativeModel, tolerance: float) -> list[str]:
    solved = native.solved()
    if solved.unread:
        warnings.warn(
            f"{len(solved.unread)} constraints are not linear rows and are not checked"
            f" (the first: {solved.unread[0]})",
            stacklevel=3,
        )
    variables = solved.variables
    x, found = _rounded(solved.model, solved.x, [native.name(v) for v in variables], tolerance)
    found.extend(_rows(solved.model, x, solved.rows, tolerance))
    found.extend(_objective_faults(solved, x, tolerance))
    value_of = {native.key(v): value for v, value in zip(variables, x.tolist(), strict=True)}

    def value(entry: Any) -> float:
        constant, terms = native.terms(entry)
        return float(constant + sum(c * value_of[native.key(v)] for v, c in terms))

    for number, part in enumerate(native.embedded):
        if not isinstance(part, EmbeddedNetwork):
            space, actions = part
            action = np.array([value(entry) for entry in actions])
            found.extend(_space_faults(f"(number {number} added)", space, action))
            continue
        name = f"the network (number {number} added)"
        low, high = native_ranges(native, part.inputs)
        found.extend(_changes(name, part, low, high))
        inputs, outputs = (
            np.array([value(entry) for entry in entries]) for entries in (part.inputs, part.outputs)
        )
        found.extend(network_faults(name, part, inputs, outputs, tolerance))
    return found


def _objective_faults(solved: Solved, x: FloatArray, tolerance: float) -> list[str]:
    """Compare the objective value that a solver claims with that of the whole integers."""
    if solved.value is None:
        return []
    terms = solved.model.objective * x
    true = math.fsum([solved.model.offset, *terms])
    allowed = tolerance * spread(solved.model, x) + 1e-12 * float(np.abs(terms).sum())
    if abs(solved.value - true) <= allowed + 1e-12 * abs(solved.value):
        return []
    return [f"the solver's objective value is {solved.value!r}, that of its solution {true!r}"]


def _changes(name: str, network: EmbeddedNetwork, low: FloatArray, high: FloatArray) -> list[str]:
    return [f"{name} was written for other inputs: {text}" for text in network.changes(low, high)]


def _space_faults(place: str, space: ActionSpace, action: FloatArray) -> list[str]:
    kind = type(space).__name__
    return [
        f"the action {shown(space, action)} is not in the space {kind} {place}: {text}"
        for text in violations_of(space, action)
    ]


def _rounded(
    compiled: LinearModel, x: FloatArray, names: list[str], tolerance: float
) -> tuple[FloatArray, list[str]]:
    """Round integers; say which were not whole, and what is out of its bounds."""
    whole = np.where(compiled.integer, np.rint(x), x)
    found = [
        f"the integer variable {names[j]} is {x[j].item()!r}"
        for j in np.flatnonzero(np.abs(whole - x) > _WHOLE)
    ]
    low, high = compiled.column_lower, compiled.column_upper
    excess = np.maximum(low - whole, whole - high)
    size = np.maximum(1.0, np.minimum(np.abs(whole), 1e3))
    found.extend(
        f"the variable {names[j]} is {whole[j].item()!r}, outside its bounds"
        f" ({low[j]:.9g}, {high[j]:.9g})"
        for j in np.flatnonzero(~(excess <= tolerance * size))
    )
    return whole, found


def _rows(compiled: LinearModel, x: FloatArray, names: list[str], tolerance: float) -> list[str]:
    return check_rows(compiled, x).texts(compiled, names, tolerance / TOLERANCE)
