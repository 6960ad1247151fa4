"""A network inside a gurobipy or PySCIPOpt model, by the same rows as in the solvers' loop."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.bounds import BoundPropagator
from milp_rl.formulations.milp.compact import compact_model
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.native import NativeModel, add_linear_model, native_ranges, with_outputs
from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.pyomo import EmbeddedNetwork, of_variables, oracle, set_model
from milp_rl.formulations.spaces.base import ActionSpace


def add_to_native(
    native: NativeModel,
    network: Network | ActionValue,
    inputs: list[Any],
    *,
    formulation: Formulation = "bigm",
    partitions: int = 2,
    bounds: Strength = "linear",
    space: ActionSpace | None = None,
    one_sided: bool = False,
) -> Any:
    r"""Add ``network(inputs)`` to a gurobipy or PySCIPOpt model.

    The rows are those of :func:`milp_rl.formulations.milp.compact.compact_model`, in which only
    neurons with :math:`l < 0 < u` have variables: with big-M, for :math:`y = \max(0, Px + p)`,

    .. math:: y \ge Px + p, \quad y \ge 0, \quad y \le Px + p - l (1 - q), \quad y \le u q,
              \quad q \in \{0, 1\}.

    Parameters
    ----------
    native
        A model as :func:`milp_rl.formulations.native.native_model` gives it.
    network
        A network; or an action value, whose inputs after the action are numbers.
    inputs
        One entry per input of the network: variables or linear expressions of the model, all with
        finite bounds, or numbers.
    formulation, partitions, bounds, space, one_sided
        As in :func:`milp_rl.formulations.embedding.add_network`.

    Returns
    -------
    gurobipy.Var, pyscipopt.Variable or list
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
    >>> space = mr.BudgetTopK(2, 1)
    >>> arms = space.add_to(model)
    >>> value = mr.add_network(model, network, arms, space=space)
    >>> model.setObjective(value, gp.GRB.MAXIMIZE)
    >>> model.optimize()
    >>> round(model.ObjVal, 6), [round(arm.X) for arm in arms], mr.check_solution(model)
    (1.0, [1, 0], [])
    """
    if len(inputs) != network.n_inputs:
        raise ValueError(f"the network takes {network.n_inputs} inputs, got {len(inputs)}")
    lower, upper = native_ranges(native, inputs)
    variable = np.array([bool(native.terms(entry)[1]) for entry in inputs])
    if space is not None and not variable[: space.n_actions].all():
        raise ValueError("with a space, the first inputs must be its action variables")
    if not variable.any():
        raise ValueError("all inputs are numbers; evaluate network.forward(inputs) instead")
    inner = of_variables(network, variable, lower)
    low, high = lower[variable], upper[variable]
    propagator = BoundPropagator(
        len(low),
        oracle(space, low, high),
        box=(low, high),
        strength=bounds,
        model=set_model(space, low, high) if bounds == "lp" else None,
    )
    known = propagator.at(ActionNetworks.of(inner))
    compact = compact_model(
        inner,
        known.lower,
        known.upper,
        box_model(low, high),
        formulation=formulation,
        partitions=partitions,
        one_sided=one_sided,
    )
    written = with_outputs(
        compact.model,
        compact.output_weight,
        compact.output_bias,
        known.output_lower[0],
        known.output_upper[0],
    )
    used = [entry for entry, is_variable in zip(inputs, variable, strict=True) if is_variable]
    outputs = add_linear_model(native, written, used)[-inner.n_outputs :]
    native.embedded.append(
        EmbeddedNetwork(network, inputs, outputs, known, one_sided, lower, upper, space)
    )
    return outputs[0] if len(outputs) == 1 else outputs


def box_model(low: FloatArray, high: FloatArray) -> LinearModel:
    """Return the model of a box, of continuous columns and without rows."""
    n = len(low)
    none = np.zeros(0)
    return LinearModel(
        np.zeros(n), 0.0, sparse.csr_array((0, n)), none, none, low, high, np.zeros(n, dtype=bool)
    )
