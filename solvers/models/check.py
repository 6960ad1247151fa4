"""What a solver of your own left in your model, checked as ``solve_model`` checks its points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import (
    InfeasibleRowError,
    LinearModel,
    compile_with_rows,
)
from milp_rl.formulations.native import NativeModel, input_range, native_model
from milp_rl.formulations.pyomo import EmbeddedNetwork
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.contradictions import shown
from milp_rl.solvers.models.embedded import (
    Embedded,
    network_faults,
    values_of,
    violations_of,
)
from milp_rl.solvers.models.rows import check_rows
from milp_rl.solvers.models.solve import load
from milp_rl.solvers.options import TOLERANCE

_WHOLE = 1e-5  # what solvers take for an integer, at their own settings


def check_solution(model: Any, *, tolerance: float = TOLERANCE) -> list[str]:
    """Check the solution in a model that you solved yourself.

    With integers rounded to whole numbers, every linear row and bound is to hold, every embedded
    network's outputs are to be those of the forward pass, and every space's own check is to
    accept its action. Nothing is said of optimality: that is the solver's word.

    Parameters
    ----------
    model
        A Pyomo model with values in its variables, or a ``gurobipy.Model`` or
        ``pyscipopt.Model`` after ``optimize()``. Of these, rows that are not linear are not
        checked.
    tolerance
        What a network's output may be off by, as a part of its range. Rows are judged by
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
    embedded = Embedded.of(model)
    columns = list(model.component_data_objects(pyo.Var, active=True, sort=True))
    unset = [variable.name for variable in columns if variable.value is None]
    if unset:
        raise ValueError(
            f"the variable {unset[0]} has no value; solve the model before its solution is checked"
        )
    free = [variable for variable in columns if not variable.fixed]
    try:
        compiled, variables, constraints = compile_with_rows(model, free)
    except InfeasibleRowError as error:
        return [str(error)]
    before = np.array([variable.value for variable in variables], dtype=np.float64)
    x, found = _rounded(compiled, before, [v.name for v in variables], tolerance)
    found.extend(_rows(compiled, x, [constraint.name for constraint in constraints], tolerance))
    try:
        load(variables, x)
        found.extend(embedded.network_faults(tolerance))
        for block, space, actions in embedded.spaces:
            found.extend(_space_faults(f"on {block.name}", space, values_of(actions)))
    finally:
        load(variables, before)
    return found


def _check_native(native: NativeModel, tolerance: float) -> list[str]:
    compiled, variables, names = native.compiled()
    claimed = native.values(variables)
    x, found = _rounded(compiled, claimed, [native.name(v) for v in variables], tolerance)
    found.extend(_rows(compiled, x, names, tolerance))
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
        ranges = [input_range(native, i, entry) for i, entry in enumerate(part.inputs)]
        low, high = (np.array(side) for side in zip(*ranges, strict=True))
        found.extend(f"{name} was written for another range: {t}" for t in part.changes(low, high))
        inputs, outputs = (
            np.array([value(entry) for entry in entries]) for entries in (part.inputs, part.outputs)
        )
        found.extend(network_faults(name, part, inputs, outputs, tolerance))
    return found


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
