"""A network inside your own gurobipy model, written by the same rows as the solvers' loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.bounds import BoundPropagator, box_maximum
from milp_rl.formulations.milp.compact import compact_model
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue
from milp_rl.formulations.networks.network import Network


def is_gurobi_model(model: Any) -> bool:
    """Whether ``model`` is gurobipy's, without importing it."""
    return any(kind.__module__.startswith("gurobipy") for kind in type(model).__mro__)


def add_to_gurobi(
    model: Any,
    network: Network | ActionValue,
    inputs: Sequence[Any],
    *,
    formulation: Formulation = "bigm",
    partitions: int = 2,
    bounds: Strength = "linear",
    one_sided: bool = False,
) -> Any:
    r"""Add ``network(inputs)`` to a gurobipy model.

    The rows are those of :func:`milp_rl.formulations.milp.compact.compact_model`, in which only
    neurons with :math:`l < 0 < u` have variables: with big-M, for :math:`y = \max(0, Px + p)`,

    .. math:: y \ge Px + p, \quad y \ge 0, \quad y \le Px + p - l (1 - q), \quad y \le u q,
              \quad q \in \{0, 1\}.

    Parameters
    ----------
    model
        A ``gurobipy.Model``.
    network
        A network; or an action value, whose inputs after the action are numbers.
    inputs
        One entry per input of the network: variables or linear expressions of the model, all with
        finite bounds, or numbers.
    formulation, partitions, bounds, one_sided
        As in :func:`milp_rl.formulations.embedding.add_network`.

    Returns
    -------
    gurobipy.Var or list
        The output variable; a list of them if the network has several outputs.

    Raises
    ------
    ValueError
        If the number of inputs is wrong, or one has no finite bounds.

    Examples
    --------
    >>> import gurobipy as gp
    >>> import milp_rl as mr
    >>> weights = [[[1.0, 1.0], [1.0, -1.0]], [[1.0, 1.0]]]  # relu(a + b - 1) + relu(a - b)
    >>> network = mr.Network.from_arrays(weights, [[-1.0, 0.0], [0.0]])
    >>> model = gp.Model(env=gp.Env(params={"OutputFlag": 0}))
    >>> arms = model.addVars(2, vtype="B")
    >>> budget = model.addConstr(arms.sum() <= 1)
    >>> model.setObjective(mr.add_network(model, network, arms.values()), gp.GRB.MAXIMIZE)
    >>> model.optimize()
    >>> round(model.ObjVal, 6), [round(arm.X) for arm in arms.values()]
    (1.0, [1, 0])
    """
    if len(inputs) != network.n_inputs:
        raise ValueError(f"the network takes {network.n_inputs} inputs, got {len(inputs)}")
    if isinstance(network, ActionValue):
        n = network.n_actions
        if any(variables_of(entry) for entry in inputs[n:]):
            raise ValueError(
                f"of the {network.n_inputs} inputs, the first {n} are the action; the others are"
                " the state, in which the network is not piecewise linear, and must be numbers"
            )
        network, inputs = network.at_state([float(entry) for entry in inputs[n:]]), inputs[:n]
    model.update()
    ranges = [input_range(i, entry) for i, entry in enumerate(inputs)]
    low, high = (np.array(side) for side in zip(*ranges, strict=True))
    n = len(low)
    x = model.addMVar(n, lb=low, ub=high)
    for i, entry in enumerate(inputs):
        model.addConstr(x[i] == entry)
    base = box_model(low, high)
    propagator = BoundPropagator(
        n,
        box_maximum(low, high),
        box=(low, high),
        strength=bounds,
        model=base if bounds == "lp" else None,
    )
    known = propagator.at(ActionNetworks.of(network))
    compact = compact_model(
        network,
        known.lower,
        known.upper,
        base,
        formulation=formulation,
        partitions=partitions,
        one_sided=one_sided,
    )
    columns = add_columns(model, x, compact.model)
    outputs = model.addMVar(network.n_outputs, lb=known.output_lower[0], ub=known.output_upper[0])
    model.addConstr(outputs == compact.output_weight @ columns + compact.output_bias)
    model.update()
    found = outputs.tolist()
    return found[0] if len(found) == 1 else found


def box_model(low: FloatArray, high: FloatArray) -> LinearModel:
    """Return the model of a box, of continuous columns and without rows."""
    n = len(low)
    none = np.zeros(0)
    return LinearModel(
        np.zeros(n), 0.0, sparse.csr_array((0, n)), none, none, low, high, np.zeros(n, dtype=bool)
    )


def add_columns(model: Any, x: Any, written: LinearModel) -> Any:
    """Add the columns of a linear model that follow ``x``, and its rows; return all columns."""
    n, columns = x.shape[0], x
    if written.n_columns > n:
        kinds = np.where(written.integer[n:], "B", "C")
        own = model.addMVar(
            written.n_columns - n,
            lb=written.column_lower[n:],
            ub=written.column_upper[n:],
            vtype=kinds,
        )
        columns = type(x).fromlist([*x.tolist(), *own.tolist()])
    for side, sense in ((written.row_upper, "<"), (written.row_lower, ">")):
        rows = np.flatnonzero(np.isfinite(side))
        if len(rows):
            model.addMConstr(written.matrix[rows], columns, sense, side[rows])
    return columns


def variables_of(entry: Any) -> list[Any]:
    """Return the variables of an input."""
    if hasattr(entry, "LB"):
        return [entry]
    return [entry.getVar(k) for k in range(entry.size())] if hasattr(entry, "getConstant") else []


def input_range(i: int, entry: Any) -> tuple[float, float]:
    """Return the range of a variable, a linear expression or a number."""
    for variable in variables_of(entry):
        if variable.VType in ("S", "N"):
            raise ValueError(
                f"input {i}: the variable {variable.VarName} is semi-continuous, 0 or between its"
                " bounds; a network's rows take an interval: use a binary for whether it is 0"
            )
    if hasattr(entry, "LB"):
        low, high = float(entry.LB), float(entry.UB)
    elif hasattr(entry, "getConstant"):
        low = high = float(entry.getConstant())
        for k in range(entry.size()):
            variable, c = entry.getVar(k), float(entry.getCoeff(k))
            ends = (c * float(variable.LB), c * float(variable.UB)) if c else (0.0, 0.0)
            low, high = low + min(ends), high + max(ends)
    else:
        low = high = float(entry)
    if not (math.isfinite(low) and math.isfinite(high) and max(abs(low), abs(high)) < 1e20):
        raise ValueError(
            f"input {i} has bounds ({low:g}, {high:g}); give it finite bounds, which the big-M"
            " constants are derived from"
        )
    return low, high
