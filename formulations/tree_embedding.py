"""A tree ensemble inside your own model, by the rows over its leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.core.expr.visitor import identify_variables
from pyomo.repn import generate_standard_repn

from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.milp.trees import TreeModel, tree_model
from milp_rl.formulations.native import (
    NativeModel,
    add_linear_model,
    is_whole,
    native_model,
    native_ranges,
    with_outputs,
)
from milp_rl.formulations.native_embedding import box_model
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.pyomo import EmbeddedNetwork, input_ranges, is_fixed
from milp_rl.formulations.pyomo_blocks import block_for
from milp_rl.formulations.spaces.base import ActionSpace


def add_trees(
    block: Any, trees: TreeEnsemble, inputs: Sequence[Any], space: ActionSpace | None = None
) -> Any:
    """Add ``trees(inputs)`` to a Pyomo block, a gurobipy model or a PySCIPOpt model.

    Parameters
    ----------
    block
        An empty Pyomo block, a ``gurobipy.Model`` or a ``pyscipopt.Model``.
    trees
        The ensemble.
    inputs
        One entry per input: variables or linear expressions with finite bounds, or numbers.
        Those that the trees compare, given the numbers, are integer.
    space
        If given, the first inputs are an action that the model constrains to it, which is checked
        when the model is solved.

    Returns
    -------
    pyomo.core.base.var.VarData, gurobipy.Var or pyscipopt.Variable
        The output variable.

    Raises
    ------
    ValueError
        If the number of inputs is wrong, an input has no finite bounds, or is compared and not
        integer, or the ensemble applies a function to the sum of its trees.
    """
    native = native_model(block)
    if native is not None:
        return _add_to_native(native, trees, list(inputs), space)
    entries = list(inputs)
    _check(trees, entries)
    settled = [i for i, entry in enumerate(entries) if is_fixed(entry) and not entry.is_integer()]
    variable, lower, upper = input_ranges(entries, numbers=settled)
    if not variable.any():
        raise ValueError("all inputs are numbers; evaluate trees.forward(inputs) instead")
    integer = np.array([v and _whole(entry) for v, entry in zip(variable, entries, strict=True)])
    written = _written(trees, lower, upper, integer)
    model, n = written.model, trees.n_inputs
    block = block_for(block, "embedded_network")
    own = block.trees = pyo.Block()
    own.extra = pyo.Var(
        range(n, model.n_columns),
        domain=lambda _, j: pyo.Binary if model.integer[j] else pyo.NonNegativeReals,
        bounds=(0, 1),
    )
    columns = [*entries, *own.extra.values()]
    own.rows = pyo.ConstraintList()
    matrix = model.matrix
    for i in range(model.n_rows):
        at = slice(matrix.indptr[i], matrix.indptr[i + 1])
        terms = zip(matrix.data[at].tolist(), matrix.indices[at].tolist(), strict=True)
        body = sum(c * columns[j] for c, j in terms)
        low, high = (float(side[i]) for side in (model.row_lower, model.row_upper))
        own.rows.add(
            pyo.inequality(low, body, high)
            if low > -np.inf and high < np.inf
            else body <= high
            if high < np.inf
            else body >= low
        )
    own.output = pyo.Var(bounds=(written.lowest, written.highest))
    value = sum(float(model.objective[j]) * columns[j] for j in np.flatnonzero(model.objective))
    own.value = pyo.Constraint(expr=own.output == value + model.offset)
    block.milp_rl_network = _embedded(
        trees, written, integer, entries, own.output, lower, upper, space
    )
    return own.output


def _add_to_native(
    native: NativeModel, trees: TreeEnsemble, entries: list[Any], space: ActionSpace | None
) -> Any:
    _check(trees, entries)
    low, high = native_ranges(native, entries)
    integer = np.array([is_whole(native, entry) for entry in entries])
    written = _written(trees, low, high, integer)
    ends = np.array([written.lowest]), np.array([written.highest])
    bias = np.array([written.model.offset])
    full = with_outputs(written.model, written.model.objective[None], bias, *ends)
    output = add_linear_model(native, full, entries)[-1]
    native.embedded.append(_embedded(trees, written, integer, entries, output, low, high, space))
    return output


def _embedded(
    trees: TreeEnsemble,
    written: TreeModel,
    integer: BoolArray,
    entries: list[Any],
    output: Any,
    lower: FloatArray,
    upper: FloatArray,
    space: ActionSpace | None,
) -> EmbeddedNetwork:
    ends = (np.full((1, 1), written.lowest), np.full((1, 1), written.highest))
    bounds = Bounds((), (), *ends, np.zeros(1))
    known = _between(trees, integer)
    return EmbeddedNetwork(
        known, entries, [output], bounds, False, lower, upper, space, {"trees": trees}
    )


def _check(trees: TreeEnsemble, entries: list[Any]) -> None:
    if trees.link != "identity":
        raise ValueError(
            f"the trees' sum goes through {trees.link}, which is not linear; use the sum itself,"
            " dataclasses.replace(trees, link='identity')"
        )
    if len(entries) != trees.n_inputs:
        raise ValueError(f"the trees take {trees.n_inputs} inputs, got {len(entries)}")


def _written(
    trees: TreeEnsemble, low: FloatArray, high: FloatArray, integer: BoolArray
) -> TreeModel:
    return tree_model(trees, replace(box_model(low, high), integer=integer))


def _between(trees: TreeEnsemble, integer: BoolArray) -> TreeEnsemble:
    """Return the ensemble with thresholds of integer inputs half-way between two integers.

    What a solver gives for an integer is within a tolerance of it, on either side.
    """
    whole = integer[trees.feature]
    return replace(
        trees, threshold=np.where(whole, np.floor(trees.threshold) + 0.5, trees.threshold)
    )


def _whole(entry: Any) -> bool:
    """Whether a Pyomo variable or linear expression has integer values."""
    if not all(part.is_integer() for part in identify_variables(entry, include_fixed=True)):
        return False
    terms = generate_standard_repn(entry, compute_values=True)
    return _integers([terms.constant, *terms.linear_coefs])


def _integers(numbers: list[float]) -> bool:
    return all(float(number).is_integer() for number in numbers)
