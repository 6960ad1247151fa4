"""The bounds of nodes by compiled loops, where the space's oracle and the network suit them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.interruption import in_threads
from milp_rl.formulations.kernels.description import CompiledOracle, Integers, NetworkArrays
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

NodeRows = Any  # Nodes, or their arrays as compiled loops take them
_WORK = 2_000_000  # multiplications between two looks at the clock


def bounds_of_nodes(
    networks: ActionNetworks,
    space: ActionSpace,
    bounds: Bounds,
    deadline: float = math.inf,
    loops: CompiledOracle | None = None,
    threads: int = 1,
) -> NodeBounds:
    """Return what bounds nodes, by compiled loops where the space's oracle for these is given."""
    if loops is None:
        return NodeBounds(networks, space, bounds, deadline)
    return CompiledNodeBounds(networks, space, bounds, deadline, oracle=loops, threads=threads)


class CompiledNodeBounds(NodeBounds):
    """The same bounds, a node after the other.

    Parameters
    ----------
    networks, space, bounds, deadline
        As for :class:`.NodeBounds`.
    oracle
        That of the space.
    threads
        Among which the nodes of a call are divided; the bounds are the same.
    """

    def __init__(
        self,
        networks: ActionNetworks,
        space: ActionSpace,
        bounds: Bounds,
        deadline: float = math.inf,
        *,
        oracle: CompiledOracle,
        threads: int = 1,
    ) -> None:
        from milp_rl.solvers.branch_and_bound import kernels

        super().__init__(networks, space, bounds, deadline)
        self._kernels = kernels
        self._oracle = oracle
        self._threads = threads
        self._arrays = networks.flat
        # So many nodes at a time that the deadline is kept.
        products = len(self._arrays.weights) // max(networks.n_states, 1) + space.n_actions
        self._at_once = max(_WORK // (products * (1 + self._relaxation.neurons)), 1)

    @property
    def networks(self) -> NetworkArrays:
        """What is bounded."""
        return self._arrays

    def maximize(self, nodes: Nodes, targets: FloatArray, *, steps: int = STEPS) -> Maximum:
        """Bound the value of each node and improve its slopes and multipliers in place."""
        found = Maximum.unknown(nodes)
        self.maximize_due(nodes, targets, np.ones(len(nodes), dtype=bool), found, steps)
        return found

    def maximize_due(
        self, nodes: NodeRows, targets: FloatArray, due: BoolArray, found: Maximum, steps: int
    ) -> None:
        """Do the same of the nodes that are due, in place."""

        def bound(part: slice) -> None:
            self._kernels.maximize(
                self._arrays,
                *self._oracle.arguments,
                self._sizes,
                self._output_size,
                self._relaxation.neuron_gammas,
                0 if late(self._deadline) else steps,
                AVERAGE,
                LARGEST_MULTIPLIER,
                targets[part],
                due[part],
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

        self._for_all(len(due), bound)

    def tighten(self, nodes: Nodes) -> BoolArray:
        """Tighten the bounds of undecided neurons in place; return which nodes are empty."""
        empty = np.zeros(len(nodes), dtype=bool)
        self.tighten_due(nodes, np.ones(len(nodes), dtype=bool), empty)
        return empty

    def tighten_due(self, nodes: NodeRows, due: BoolArray, empty: BoolArray) -> None:
        """Do the same of the nodes that are due, and say of these alone which are empty."""
        empty[:] = False

        def tighten(part: slice) -> None:
            if late(self._deadline):
                return
            self._kernels.tighten(
                self._arrays,
                *self._oracle.arguments,
                self._sizes,
                self._relaxation.neuron_gammas,
                due[part],
                nodes.state[part],
                nodes.one[part],
                nodes.zero[part],
                nodes.low[part],
                nodes.high[part],
                nodes.split[part],
                empty[part],
            )

        self._for_all(len(due), tighten)

    def probe(
        self, nodes: Nodes, maximum: Maximum, targets: FloatArray, due: BoolArray
    ) -> tuple[FloatArray, BoolArray]:
        """Hold the actions without which a node is bounded by its target, in place."""
        free = (~(nodes.one | nodes.zero)).sum(axis=1)
        excluded, number = np.full(len(nodes), -np.inf), np.zeros(len(nodes), dtype=np.int64)
        self.probe_due(nodes, maximum, targets, due, excluded, number)
        return excluded, number >= np.maximum(MANY * np.where(due, free, 0), 1)

    def probe_due(
        self,
        nodes: NodeRows,
        maximum: Maximum,
        targets: FloatArray,
        due: BoolArray,
        excluded: FloatArray,
        number: Integers,
    ) -> None:
        """Do the same; write the highest bound of what was excluded and how many are held."""
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

    def influence(self, nodes: Nodes, doubt: FloatArray) -> FloatArray:
        """Return by how far each action moves the neurons in doubt, in units of the value."""
        found = np.empty(nodes.one.shape)
        self.influence_due(nodes, doubt, np.ones(len(nodes), dtype=bool), found)
        return found

    def influence_due(
        self, nodes: NodeRows, doubt: FloatArray, due: BoolArray, found: FloatArray
    ) -> None:
        """Write the same of the nodes that are due."""
        self._kernels.influence(
            self._arrays, due, nodes.state, nodes.low, nodes.high, nodes.split, doubt, found
        )

    def _for_all(self, n: int, work: Callable[[slice], None]) -> None:
        """Do the work of n nodes, some at a time, in several threads if they are asked for."""
        at_once = min(self._at_once, max(-(-n // self._threads), 1))
        parts = [slice(i, i + at_once) for i in range(0, n, at_once)]
        if self._threads == 1 or len(parts) == 1:
            for part in parts:
                work(part)
            return
        shares = [parts[k :: self._threads] for k in range(self._threads)]

        def done(own: list[slice]) -> None:
            for part in own:
                work(part)

        in_threads([partial(done, own) for own in shares if own])
