"""The exact argmax by evaluating every feasible action: for small sets, and as a yardstick."""

from __future__ import annotations

import time

import numpy as np

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import ArgmaxResult, SolveOptions

_BATCH = 65_536


class EnumerationArgmax:
    """Every feasible action, listed once and evaluated for each state.

    Parameters
    ----------
    network
        Scalar output; inputs [action, state].
    space
        The feasible set.
    limit
        Largest number of actions to list.

    Raises
    ------
    ValueError
        If the space has more than ``limit`` feasible actions.
    """

    name = "enumeration"

    def __init__(self, network: Network, space: ActionSpace, limit: int = 1_000_000) -> None:
        self.network = network
        self.space = space
        self._actions: ActionArray = space.enumerate(limit)

    def update(self, network: Network) -> None:
        """Replace the network."""
        self.network = network

    def solve(
        self, state: FloatArray, options: SolveOptions, start: ActionArray | None = None
    ) -> ArgmaxResult:
        """Return the best feasible action, the first of equals; ``start`` is not needed."""
        begin = time.perf_counter()
        if not len(self._actions):
            return ArgmaxResult(
                None, np.nan, -np.inf, np.inf, "infeasible", 0.0, self.name, message="empty set"
            )
        network = self.network.at_state(state)
        values = np.concatenate(
            [
                network.forward(self._actions[i : i + _BATCH])[:, 0]
                for i in range(0, len(self._actions), _BATCH)
            ]
        )
        best = int(np.argmax(values))
        value = float(values[best])
        return ArgmaxResult(
            self._actions[best].copy(),
            value,
            value,
            0.0,
            "optimal",
            time.perf_counter() - begin,
            self.name,
            nodes=len(values),
            message=f"evaluated all {len(values)} feasible actions",
        )
