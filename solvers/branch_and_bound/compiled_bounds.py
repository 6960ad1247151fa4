"""The bounds of nodes by compiled loops, where the space's oracle and the network suit them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.interruption import in_threads
from milp_rl.formulations.kernels.description import CompiledOracle
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.relaxation import AT_LIMIT
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.solvers.branch_and_bound.node_bounds import (
    AVERAGE,
    LARGEST_MULTIPLIER,
    MANY,
    STEP_LENGTH,
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

    def maximize(self, nodes: Nodes, targets: FloatArray, *, steps: int = STEPS) -> Maximum:
        """Bound the value of each node and improve its slopes and multipliers in place."""
        found = Maximum.unknown(nodes)

        def bound(part: slice) -> None:
            self._kernels.maximize(
                self._arrays,
                self._oracle,
                self._sizes,
                self._output_size,
                self._relaxation.neuron_gammas,
                0 if late(self._deadline) else steps,
                AVERAGE,
                LARGEST_MULTIPLIER,
                AT_LIMIT,
                STEP_LENGTH,
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

        self._for_all(len(nodes), bound)
        return found

    def tighten(self, nodes: Nodes) -> BoolArray:
        """Tighten the bounds of undecided neurons in place; return which nodes are empty."""
        empty = np.zeros(len(nodes), dtype=bool)

        def tighten(part: slice) -> None:
            if late(self._deadline):
                return
            self._kernels.tighten(
                self._arrays,
                self._oracle,
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

        self._for_all(len(nodes), tighten)
        return empty

    def probe(
        self, nodes: Nodes, maximum: Maximum, targets: FloatArray, due: BoolArray
    ) -> tuple[FloatArray, BoolArray]:
        """Hold the actions without which a node is bounded by its target, in place."""
        free = (~(nodes.one | nodes.zero)).sum(axis=1)
        excluded, number = np.full(len(nodes), -np.inf), np.zeros(len(nodes), dtype=np.int64)
        self._kernels.probe(
            self._oracle,
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
