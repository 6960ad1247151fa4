"""One Q-network, valuing a factored action of each of many patients, in one Pyomo model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray

from milp_rl.envs.factored_actions import FactoredActionSpace
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.embedding import add_network
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.networks.conversion import to_action_value


def q_table(network: Any, states: ArrayLike, space: FactoredActionSpace) -> FloatArray:
    """Value every valid action for every patient by a network on [one-hot levels, state].

    Parameters
    ----------
    network
        What :func:`milp_rl.argmax` accepts.
    states
        Shape (N, state_dim), finite.
    space
        The actions.

    Returns
    -------
    numpy.ndarray
        Shape (N, n_actions): what :func:`milp_rl.offline.allocation.allocate` takes. A patient's
        few valid actions are enumerated, so the table is exact for any network.
    """
    ir, s, actions = _checked(network, states, space)
    table = np.empty((len(s), len(actions)))
    for a, action in enumerate(actions):
        rows = np.concatenate([np.broadcast_to(action, (len(s), len(action))), s], axis=1)
        table[:, a] = ir.forward(rows)[:, 0]
    return table


def embed_population(
    block: Any,
    network: Any,
    states: ArrayLike,
    space: FactoredActionSpace,
    *,
    formulation: Formulation = "bigm",
    bounds: Strength = "linear",
    **options: Any,
) -> tuple[list[list[Any]], list[Any]]:
    """Add a copy of the network for each patient, all with the same weights, to a Pyomo block.

    For models in which the decisions meet other constraints than :func:`allocate` knows, such as
    those of a roster. Each copy has its patient's state folded in and bounds that know the valid
    combinations.

    Parameters
    ----------
    block
        An empty Pyomo block.
    network
        Takes [one-hot levels, state] to Q: what :func:`milp_rl.argmax` accepts.
    states
        Shape (N, state_dim), finite.
    space
        The actions of each patient.
    formulation, bounds
        As for :func:`milp_rl.add_network`.
    **options
        ``caps`` and ``optional`` of :class:`milp_rl.FactoredValidity`, for all patients together.

    Returns
    -------
    tuple
        For each patient the binary variables of its levels, and the variable of its value.
    """
    ir, s, _ = _checked(network, states, space)
    everyone = space.block(len(s), **options)
    block.decisions = pyo.Block()
    flat = everyone.add_to(block.decisions)
    width = len(flat) // len(s)
    actions = [flat[i * width : (i + 1) * width] for i in range(len(s))]
    one = space.block(optional=bool(options.get("optional", False)))
    block.patient = pyo.Block(range(len(s)))
    values = [
        add_network(
            block.patient[i],
            ir,
            [*actions[i], *s[i].tolist()],
            space=one,
            formulation=formulation,
            bounds=bounds,
        )
        for i in range(len(s))
    ]
    return actions, values


def _checked(
    network: Any, states: ArrayLike, space: FactoredActionSpace
) -> tuple[Any, FloatArray, NDArray[np.int8]]:
    s = np.asarray(states, dtype=np.float64)
    actions = space.one_hot(np.arange(space.n_actions))
    width = actions.shape[1]
    ir = to_action_value(network, width)
    if s.ndim != 2 or not np.isfinite(s).all():
        raise ValueError(f"states must be a finite table, got shape {s.shape}")
    if ir.n_inputs != width + s.shape[1]:
        raise ValueError(
            f"the network has {ir.n_inputs} inputs, but {width} levels and {s.shape[1]} features"
        )
    return ir, s, actions
