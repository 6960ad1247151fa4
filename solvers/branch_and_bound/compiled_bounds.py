"""The bounds of nodes by compiled loops, where the space's oracle and the network suit them."""

from __future__ import annotations

import math

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.kernels.description import CompiledOracle
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.solvers.branch_and_bound.node_bounds import (
    AVERAGE,
    LARGEST_MULTIPLIER,
    MANY,
    STEPS,
    NodeBounds,
)
from milp_rl.solvers.branch_and_bound.nodes import Maximum, Nodes
from milp_rl.solvers.options import late

_WORK = 2_000_000  # multiplications between two looks at the clock


def bounds_of_nodes(
    networks: ActionNetworks,
    space: ActionSpace,
    bounds: Bounds,
    deadline: float = math.inf,
    loops: CompiledOracle | None = None,
) -> NodeBounds:
    """Return what bounds nodes, by compiled loops where the space's oracle for these is given."""
    if loops is None:
        return NodeBounds(networks, space, bounds, deadline)
    return CompiledNodeBounds(networks, space, bounds, deadline, oracle=loops)


class CompiledNodeBounds(NodeBounds):
    """The same bounds, a node after the other.

    Parameters
    ----------
    networks, space, bounds, deadline
        As for :class:`.NodeBounds`.
    oracle
        That of the space.
    """

    def __init__(
        self,
        networks: ActionNetworks,
        space: ActionSpace,
        bounds: Bounds,
        deadline: float = math.inf,
        *,
        oracle: CompiledOracle,
    ) -> None:
        from milp_rl.solvers.branch_and_bound import kernels

        super().__init__(networks, space, bounds, deadline)
        self._kernels = kernels
        self._oracle = oracle
        self._arrays = networks.flat
        # So many nodes at a time that the deadline is kept.
        products = len(self._arrays.weights) // max(networks.n_states, 1) + space.n_actions
        self._at_once = max(_WORK // (products * (1 + self._relaxation.neurons)), 1)

    def maximize(self, nodes: Nodes, targets: FloatArray, *, steps: int = STEPS) -> Maximum:
        """Bound the value of each node and improve its slopes and multipliers in place."""
        found = Maximum.unknown(nodes)
        for part in self._parts(len(nodes)):
            if late(self._deadline):
                steps = 0
            self._kernels.maximize(
                self._arrays,
                *self._oracle.arguments,
                self._sizes,
                self._output_size,
                self._relaxation.neuron_gammas,
                steps,
                AVERAGE,
                LARGEST_MULTIPLIER,
                targets[part],
                nodes.state[part],
                nodes.one[part],
                nodes.zero[part],
                nodes.low[part],
                nodes.high[part],
                nodes.split[part],
                nodes.alpha[part],
                nodes.beta[part],
                nodes.x[part],
                nodes.z[part],
                nodes.h[part],
                found.bound[part],
                found.coefficients[part],
                found.constant[part],
                found.x[part],
                found.p[part],
            )
        return found

    def tighten(self, nodes: Nodes) -> BoolArray:
        """Tighten the bounds of undecided neurons in place; return which nodes are empty."""
        empty = np.zeros(len(nodes), dtype=bool)
        for part in self._parts(len(nodes)):
            if late(self._deadline):
                break
            self._kernels.tighten(
                self._arrays,
                *self._oracle.arguments,
                self._sizes,
                self._relaxation.neuron_gammas,
                nodes.state[part],
                nodes.one[part],
                nodes.zero[part],
                nodes.low[part],
                nodes.high[part],
                nodes.split[part],
                empty[part],
            )
        return empty

    def probe(
        self, nodes: Nodes, maximum: Maximum, targets: FloatArray, due: BoolArray
    ) -> tuple[FloatArray, BoolArray]:
        """Hold the actions without which a node is bounded by its target, in place."""
        free = (~(nodes.one | nodes.zero)).sum(axis=1)
        excluded, number = np.full(len(nodes), -np.inf), np.zeros(len(nodes), dtype=np.int64)
        self._kernels.probe(
            *self._oracle.arguments,
            maximum.coefficients,
            maximum.constant,
            targets,
            due,
            nodes.one,
            nodes.zero,
            excluded,
            number,
        )
        return excluded, number >= np.maximum(MANY * np.where(due, free, 0), 1)

    def influence(self, nodes: Nodes, doubt: FloatArray) -> FloatArray:
        """Return by how far each action moves the neurons in doubt, in units of the value."""
        found = np.empty(nodes.one.shape)
        self._kernels.influence(
            self._arrays, nodes.state, nodes.low, nodes.high, nodes.split, doubt, found
        )
        return found

    def _parts(self, n: int) -> list[slice]:
        return [slice(i, i + self._at_once) for i in range(0, n, self._at_once)]
