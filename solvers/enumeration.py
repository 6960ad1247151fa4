"""The exact argmax by evaluating every feasible action: for small sets, and as a yardstick."""

from __future__ import annotations

import time

import numpy as np

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import ArgmaxResult, SolveOptions

_BATCH_ENTRIES = 100_000  # of a layer, few enough to stay in the cache
_KEPT_ENTRIES = 20_000_000


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
        self.space = space
        self._actions: ActionArray = space.enumerate(limit)
        self.update(network)

    def __len__(self) -> int:
        return len(self._actions)

    def twin(self) -> EnumerationArgmax:
        """Return what can be used in another thread: the same, since solving changes nothing."""
        return self

    def update(self, network: Network) -> None:
        """Replace the network."""
        self.network = network
        widest = max(len(layer.bias) for layer in network.layers)
        self._batch = max(_BATCH_ENTRIES // widest, 1)
        first = network.layers[0]
        self._products: FloatArray | None = None  # the actions' part of the first layer
        if len(self._actions) * len(first.bias) <= _KEPT_ENTRIES:
            self._products = self._multiplied(slice(None))

    def solve(
        self, state: FloatArray, options: SolveOptions, start: ActionArray | None = None
    ) -> ArgmaxResult:
        """Return the best feasible action, the first of equals; ``start`` is not needed."""
        begin = time.perf_counter()
        n = len(self._actions)
        if not n:
            return ArgmaxResult(
                None, np.nan, -np.inf, np.inf, "infeasible", 0.0, self.name, message="empty set"
            )
        values = np.empty(n)
        network = self.network.at_state(state)
        for i in range(0, n, self._batch):
            rows = slice(i, i + self._batch)
            products = self._products
            y = self._multiplied(rows) if products is None else products[rows].copy()
            y += network.layers[0].bias
            for layer in network.layers[1:]:
                y = np.maximum(y, 0.0, out=y) @ layer.weight.T
                y += layer.bias
            values[rows] = y[:, 0]
        best = int(np.argmax(values))
        action = self._actions[best].copy()
        value = float(network.forward(action)[0])
        return ArgmaxResult(
            action,
            value,
            max(value, float(values[best])),
            0.0,
            "optimal",
            time.perf_counter() - begin,
            self.name,
            nodes=n,
            message=f"evaluated all {n} feasible actions",
        )

    def _multiplied(self, rows: slice) -> FloatArray:
        weight = self.network.layers[0].weight[:, : self.space.n_actions]
        return np.asarray(self._actions[rows] @ weight.T)
