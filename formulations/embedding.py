"""A network inside your own model: one verb for Pyomo, gurobipy and PySCIPOpt.

Rows of networks are written by :mod:`milp_rl.formulations.pyomo` and
:mod:`milp_rl.formulations.native_embedding`, those of trees by
:mod:`milp_rl.formulations.tree_embedding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import pyomo.environ as pyo

from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.native import native_model
from milp_rl.formulations.native_embedding import add_to_native
from milp_rl.formulations.networks.action_value import ActionValue, NetworkValue
from milp_rl.formulations.networks.conversion import read_network, to_action_value
from milp_rl.formulations.networks.network import Network, NetworkError
from milp_rl.formulations.networks.trees_reader import read_trees
from milp_rl.formulations.networks.trees_value import TreeValue
from milp_rl.formulations.pyomo import add_to_pyomo, is_fixed, is_number
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.tree_embedding import add_trees


def add_network(
    block: Any,
    network: Any,
    inputs: Sequence[Any],
    *,
    formulation: Formulation = "bigm",
    partitions: int = 2,
    bounds: Strength = "linear",
    space: ActionSpace | None = None,
    one_sided: bool = False,
) -> Any:
    r"""Add ``network(inputs)`` to a Pyomo block, a gurobipy model or a PySCIPOpt model.

    The block's output variables equal the network's outputs wherever the constraints that it adds
    hold. With big-M, these are for each hidden neuron of pre-activation :math:`z = Wx + b`, known
    to lie between :math:`l` and :math:`u`,

    .. math:: y \ge z, \quad y \ge 0, \quad y \le z - l (1 - q), \quad y \le u q,
              \quad q \in \{0, 1\};

    with ``"partition"`` those of :mod:`milp_rl.formulations.milp.partition`.

    Parameters
    ----------
    block
        A Pyomo block or model; or a ``gurobipy.Model`` or ``pyscipopt.Model``, with its variables
        and linear expressions as inputs. An empty block gets the rows itself; a model, or a block
        with components, a new block ``embedded_network`` for each network.
    network
        Whatever ``milp_rl.argmax`` takes: a :class:`Network`, a torch module, an ONNX file, a
        scikit-learn regressor, an ``Ensemble``, trees, an ``ActionValue``. For trees, of the
        following options only ``space`` plays a part, which is checked.
    inputs
        One entry per input of the network, [action, state] where it tells the two apart:
        variables or linear expressions, all with finite bounds, or numbers. Inputs that trees
        compare are integer. Where the network is not piecewise linear in the state, that is
        numbers. In Pyomo, numbers may be mutable parameters, and inputs of either kind fixed
        variables: when they have changed, ``solve_model`` has the rows written anew.
    formulation
        ``"bigm"`` (Lomuscio and Maganti 2017, arXiv 1706.07351; OMLT's ``ReluBigMFormulation``) or
        ``"partition"`` (Tsay et al. 2021, arXiv 2102.04373; OMLT's ``ReluPartitionFormulation``).
    partitions
        Number of groups per neuron for ``"partition"``.
    bounds
        ``"interval"``, ``"linear"`` or ``"lp"``.
    space
        If the first ``space.n_actions`` inputs are an action that the model constrains to this
        space, the bounds use it; they are then only valid there.
    one_sided
        Leave out what is redundant when the model does nothing but maximise the (one) output;
        wrong in any other use.

    Returns
    -------
    pyomo.core.base.var.VarData, gurobipy.Var, pyscipopt.Variable or list
        The output variable; a list of them if the network has several outputs.

    Raises
    ------
    ValueError
        If the number of inputs is wrong, an input has no finite bounds or a value outside them,
        an option is wrong, or the network ends in a function that is not linear.
    NetworkError
        If the network cannot be read.
    InfeasibleSetError
        If the space is found to be empty.

    Examples
    --------
    >>> import milp_rl as mr
    >>> import pyomo.environ as pyo
    >>> weights = [[[1.0, 1.0], [1.0, -1.0]], [[1.0, 1.0]]]  # relu(a + b - 1) + relu(a - b)
    >>> network = mr.Network.from_arrays(weights, [[-1.0, 0.0], [0.0]])
    >>> space = mr.BudgetTopK(2, 1)
    >>> model = pyo.ConcreteModel()
    >>> model.space, model.q = pyo.Block(), pyo.Block()
    >>> actions = space.add_to(model.space)
    >>> value = mr.add_network(model.q, network, actions, space=space)
    >>> model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    >>> result = mr.solve_model(model)
    >>> result.status, round(result.value, 6), [round(pyo.value(a)) for a in actions]
    ('optimal', 1.0, [1, 0])
    """
    entries = list(inputs)
    trees = network.trees if isinstance(network, TreeValue) else read_trees(network)
    if trees is not None:
        return add_trees(block, trees, entries, space)
    value = _read(network, entries, space)
    if value.link != "identity":
        before = "value = milp_rl.to_action_value(network, n_actions); value.link = 'identity'"
        if isinstance(value, Network):
            before = "dataclasses.replace(milp_rl.to_network(network), link='identity')"
        raise ValueError(
            f"the network ends in {value.link}, which is not linear; embed what is before it, which"
            f" is largest where the network is: {before}"
        )
    options: dict[str, Any] = {
        "formulation": formulation,
        "partitions": partitions,
        "bounds": bounds,
        "one_sided": one_sided,
    }
    native = native_model(block)
    if native is not None:
        return add_to_native(native, value, entries, space=space, **options)
    return add_to_pyomo(block, value, entries, space=space, **options)


def rewrite(block: Any) -> None:
    """Write the rows of the network on a Pyomo block anew, for what its inputs are now.

    The output variables stay, with whatever the model says of them: the rows that were written
    before are deactivated, and the outputs equal those of new rows on ``block.rewritten``.

    Parameters
    ----------
    block
        That which has the network's rows.

    Raises
    ------
    ValueError
        As :func:`add_network` does.
    """
    known = block.milp_rl_network
    new = pyo.Block(concrete=True)
    if "trees" in known.options:
        add_trees(new, known.options["trees"], known.inputs, known.space)
    else:
        add_to_pyomo(new, known.network, known.inputs, space=known.space, **known.options)
    written = new.milp_rl_network
    del new.milp_rl_network  # one network, not two
    for name in ("omlt", "link", "trees"):
        if block.component(name) is not None:
            block.component(name).deactivate()
    if block.component("rewritten") is not None:
        block.del_component("rewritten")
    block.rewritten = new
    pairs = list(zip(known.outputs, written.outputs, strict=True))
    new.same = pyo.Constraint(range(len(pairs)), rule=lambda _, i: pairs[i][0] == pairs[i][1])
    for old, now in pairs:
        old.setlb(now.lb)
        old.setub(now.ub)
    block.milp_rl_network = replace(
        written, outputs=known.outputs, inputs=known.inputs, options=known.options
    )


def _read(source: Any, entries: list[Any], space: ActionSpace | None) -> Network | ActionValue:
    """Return a source as a network in all inputs, or else in the action.

    That is what the space says, or all before the numbers at the end.
    """
    if isinstance(source, NetworkValue):
        return source.network
    if isinstance(source, ActionValue):
        return source
    try:
        return read_network(source)
    except NetworkError:
        n = len(entries) if space is None else space.n_actions
        while space is None and n and _is_number(entries[n - 1]):
            n -= 1
        if n in (0, len(entries)):
            raise
        return to_action_value(source, n, state_dim=len(entries) - n)


def _is_number(entry: Any) -> bool:
    """Whether an input has a value of its own: a number, a parameter or a fixed variable."""
    if not hasattr(entry, "is_potentially_variable"):
        return isinstance(entry, Real)
    return is_number(entry) or is_fixed(entry)
