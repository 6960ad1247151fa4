r"""A network inside your own Pyomo model: OMLT's formulations, fed with our bounds.

:func:`add_to_pyomo` builds an ``OmltBlock`` with OMLT's big-M or partition formulation. OMLT
derives its big-Ms by interval arithmetic; here, each neuron gets the bounds of
:mod:`milp_rl.formulations.bounds` instead, which know the action constraints, and neurons that
these prove on or off have their binary fixed.

By default the loop of the solvers does not pass here: it writes the same formulations with
:mod:`milp_rl.formulations.milp.compact`, which is some thirty times faster to build.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import NDArray
from pyomo.contrib.fbbt.fbbt import compute_bounds_on_expr
from pyomo.core.expr.visitor import identify_variables
from pyomo.repn import generate_standard_repn

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.bounds import (
    BoundPropagator,
    Bounds,
    LinearMax,
    box_maximum,
)
from milp_rl.formulations.milp.compact import check_formulation
from milp_rl.formulations.milp.linear_model import LinearModel, compile_pyomo
from milp_rl.formulations.model_checks import check_domain
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue
from milp_rl.formulations.networks.chain import Chain, chained
from milp_rl.formulations.networks.network import INPUT, Network
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.omlt import OmltNetwork, omlt_definition
from milp_rl.formulations.pyomo_blocks import block_for
from milp_rl.formulations.spaces.base import ActionSpace


@dataclass(eq=False)
class EmbeddedNetwork:
    """What :func:`.add_network` wrote on a block, kept so that a solution can be checked.

    Parameters
    ----------
    network
        The whole network, action value or tree ensemble.
    inputs
        Variables, expressions or numbers, one per input.
    outputs
        The output variables.
    bounds
        The bounds used.
    one_sided
        Whether outputs are only right where the model maximises them.
    lower, upper
        Range of each input when the network was added, shape (n_inputs,); a number's is itself.
    space
        The space in which the bounds hold, if one was given.
    options
        Further arguments that the rows were written with.
    """

    network: Network | ActionValue | TreeEnsemble
    inputs: list[Any]
    outputs: list[Any]
    bounds: Bounds
    one_sided: bool
    lower: FloatArray
    upper: FloatArray
    space: ActionSpace | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def changes(self, lower: FloatArray, upper: FloatArray) -> list[str]:
        """Say which inputs are no longer within what the network's rows were written for.

        Parameters
        ----------
        lower, upper
            Range of each input now, shape (n_inputs,).
        """
        margin = 1e-9 * (1.0 + np.abs(self.lower) + np.abs(self.upper))
        found = []
        for i in np.flatnonzero((lower < self.lower - margin) | (upper > self.upper + margin)):
            now, then = (
                f"{low:.9g}" if low == high else f"between {low:.9g} and {high:.9g}"
                for low, high in ((lower[i], upper[i]), (self.lower[i], self.upper[i]))
            )
            found.append(f"input {i} ({self.inputs[i]}) is {now} and was {then}")
        return found


def add_to_pyomo(
    block: Any,
    network: Network | ActionValue,
    inputs: Sequence[Any],
    *,
    formulation: Formulation = "bigm",
    partitions: int = 2,
    bounds: Strength = "linear",
    space: ActionSpace | None = None,
    one_sided: bool = False,
) -> Any:
    """Add ``network(inputs)`` to a Pyomo block.

    Parameters
    ----------
    network
        A network; or an action value, whose inputs after the action are numbers, parameters or
        fixed variables.
    block, inputs, formulation, partitions, bounds, space, one_sided
        As in :func:`milp_rl.formulations.embedding.add_network`.

    Returns
    -------
    pyomo.core.base.var.VarData or list
        The output variable; a list of them if the network has several outputs.

    Raises
    ------
    ValueError
        If the number of inputs is wrong, an input has no finite bounds or a value outside them,
        or an option is wrong.
    InfeasibleSetError
        If the space is found to be empty.
    """
    entries = list(inputs)
    if len(entries) != network.n_inputs:
        raise ValueError(f"the network takes {network.n_inputs} inputs, got {len(entries)}")
    check_formulation(formulation, partitions)
    n = network.n_inputs if isinstance(network, Network) else network.n_actions
    variable, lower, upper = input_ranges(entries, numbers=range(n, network.n_inputs))
    if space is not None and not variable[: space.n_actions].all():
        raise ValueError("with a space, the first inputs must be its action variables")
    if not variable.any():
        raise ValueError("all inputs are numbers; evaluate network.forward(inputs) instead")
    inner = of_variables(network, variable, lower)
    if one_sided and inner.n_outputs != 1:
        raise ValueError("one_sided needs a network with one output")
    low, high = lower[variable], upper[variable]
    propagator = BoundPropagator(
        len(low),
        oracle(space, low, high),
        box=(low, high),
        strength=bounds,
        model=set_model(space, low, high) if bounds == "lp" else None,
    )
    known = propagator.at(ActionNetworks.of(inner))
    chain = chained(inner, low)
    own = block_for(block, "embedded_network")
    written = OmltNetwork.write(
        own,
        omlt_definition(chain.network, low, high),
        _with_carried(known, chain, low, high),
        formulation=formulation,
        partitions=partitions,
        maximised=chain.network.output.weight[0] if one_sided else None,
    )
    written.fix_proven()
    used = [entry for entry, is_variable in zip(entries, variable, strict=True) if is_variable]

    own.link = pyo.Constraint(range(len(used)), rule=lambda _, i: written.inputs[i] == used[i])
    outputs = written.outputs
    for i, output in enumerate(outputs):
        output.setlb(float(known.output_lower[0, i]))
        output.setub(float(known.output_upper[0, i]))
    options = {
        "formulation": formulation,
        "partitions": partitions,
        "bounds": bounds,
        "one_sided": one_sided,
    }
    own.milp_rl_network = EmbeddedNetwork(
        network, entries, outputs, known, one_sided, lower, upper, space, options
    )
    return outputs[0] if len(outputs) == 1 else outputs


def of_variables(
    network: Network | ActionValue, variable: NDArray[np.bool_], numbers: FloatArray
) -> Network:
    """Return the network as a function of the inputs that are variables."""
    if isinstance(network, Network):
        return network.with_inputs_fixed(variable, numbers[~variable])
    n = network.n_actions
    if not variable[:n].all() or variable[n:].any():
        raise ValueError(
            f"of the {network.n_inputs} inputs, the first {n} are the action and must be variables;"
            " the others are the state, in which the network is not piecewise linear, and must be"
            " numbers (Pyomo: or parameters, or fixed variables)"
        )
    return network.at_state(numbers[n:])


def input_ranges(
    entries: list[Any], fixed: bool = False, numbers: Container[int] = ()
) -> tuple[NDArray[np.bool_], FloatArray, FloatArray]:
    """Split inputs into variables and numbers, with the range of each.

    A fixed variable keeps its bounds for a range, so that it can be freed again; with ``fixed``,
    its range is its value. At the positions ``numbers``, a fixed variable is a number.
    """
    variable = np.zeros(len(entries), dtype=bool)
    low, high = np.zeros(len(entries)), np.zeros(len(entries))
    for i, entry in enumerate(entries):
        known = is_number(entry) or (i in numbers and is_fixed(entry))
        variable[i] = not known
        if known or (fixed and is_fixed(entry)):
            number = pyo.value(entry, exception=False)
            if number is None or not math.isfinite(number):
                name = f" ({entry})" if hasattr(entry, "is_potentially_variable") else ""
                raise ValueError(f"input {i}{name} is {number}; every number must be finite")
            low[i] = high[i] = number
        else:
            low[i], high[i] = _range(i, entry)
    return variable, low, high


def is_number(entry: Any) -> bool:
    """Whether an input is a number or an expression of Pyomo's parameters."""
    return not hasattr(entry, "is_potentially_variable") or not entry.is_potentially_variable()


def is_fixed(entry: Any) -> bool:
    """Whether an input is a fixed variable of Pyomo."""
    return hasattr(entry, "is_variable_type") and entry.is_variable_type() and entry.fixed


def _range(i: int, entry: Any) -> tuple[float, float]:
    """Return the finite range of a variable or a linear expression."""
    for part in identify_variables(entry, include_fixed=True):
        check_domain(part)
        if part.fixed and (part.value is None or not math.isfinite(part.value)):
            raise ValueError(
                f"input {i} ({entry}): the variable {part.name} is fixed to {part.value}"
            )
    if entry.is_variable_type():
        range_ = entry.bounds
    else:
        terms = generate_standard_repn(entry, compute_values=True)
        if not np.isfinite([terms.constant, *terms.linear_coefs]).all():
            raise ValueError(f"input {i} ({entry}) has a number that is not finite")
        range_ = compute_bounds_on_expr(entry)
    if range_[0] is None or range_[1] is None or not all(map(math.isfinite, range_)):
        raise ValueError(
            f"input {i} ({entry}) has bounds {tuple(range_)}; give it finite bounds, which the"
            " big-M constants are derived from"
        )
    if is_fixed(entry):
        number = entry.value
        if not range_[0] - 1e-9 <= number <= range_[1] + 1e-9:
            raise ValueError(
                f"input {i} ({entry}) is fixed to {number}, outside its bounds {tuple(range_)}"
            )
    return float(range_[0]), float(range_[1])


def _with_carried(bounds: Bounds, chain: Chain, low: FloatArray, high: FloatArray) -> Bounds:
    """Return the bounds of a chain's neurons: those carried from earlier layers are never off."""
    lowers, uppers = [], []
    for own_low, own_high, (source, column) in zip(
        bounds.lower, bounds.upper, chain.carried, strict=True
    ):
        low_carried, high_carried = np.zeros((1, len(source))), np.zeros((1, len(source)))
        for k in np.unique(source):
            at = source == k
            i = column[at]
            if k == INPUT:
                high_carried[:, at] = high[i] - low[i]
            else:
                low_carried[:, at] = np.maximum(bounds.lower[k][:, i], 0.0)
                high_carried[:, at] = np.maximum(bounds.upper[k][:, i], 0.0)
        lowers.append(np.concatenate([own_low, low_carried], axis=1))
        uppers.append(np.concatenate([own_high, high_carried], axis=1))
    return replace(bounds, lower=tuple(lowers), upper=tuple(uppers))


def oracle(space: ActionSpace | None, low: FloatArray, high: FloatArray) -> LinearMax:
    """Oracle of the space times the box of the other inputs."""
    if space is None:
        return box_maximum(low, high)
    n = space.n_actions
    rest = box_maximum(low[n:], high[n:])

    return lambda c: np.asarray(space.linear_max(c[:, :n]) + rest(c[:, n:]))


def set_model(space: ActionSpace | None, low: FloatArray, high: FloatArray) -> LinearModel:
    """Compile the space times the box of the other inputs, the inputs leading."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(len(low)), bounds=lambda _, i: (float(low[i]), float(high[i])))
    if space is not None:
        model.space = pyo.Block()
        space.constrain(model.space, [model.x[i] for i in range(space.n_actions)])
    return compile_pyomo(model, list(model.x.values()))[0]
