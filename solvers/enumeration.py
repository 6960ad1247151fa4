"""The exact argmax by evaluating every feasible action: for small sets, and as a yardstick.

All actions are valued in float32 first, and those that its rounding leaves in question once more
in float64.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

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
        self._weights = [layer.weight.astype(np.float32) for layer in network.layers]
        self._weights[0] = self._weights[0][:, : self.space.n_actions]
        self._products: NDArray[np.float32] | None = None  # the actions' part of the first layer
        if len(self._actions) * len(self._weights[0]) <= _KEPT_ENTRIES:
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
        network = self.network.at_state(state)
        with np.errstate(over="ignore", invalid="ignore"):
            rough = self._rough_values(network)
        error = _rounding(network)
        # Not below, so that a network that overflows float32 is valued in float64 altogether.
        candidates = np.flatnonzero(~(rough < rough.max() - 2 * error))
        values = network.forward(self._actions[candidates])[:, 0]
        best = int(np.argmax(values))
        action = self._actions[candidates[best]].copy()
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

    def _rough_values(self, network: Network) -> NDArray[np.float32]:
        """Value every action in float32."""
        values = np.empty(len(self._actions), dtype=np.float32)
        biases = [layer.bias.astype(np.float32) for layer in network.layers]
        for i in range(0, len(values), self._batch):
            rows = slice(i, i + self._batch)
            products = self._products
            y = self._multiplied(rows) if products is None else products[rows].copy()
            y += biases[0]
            for weight, bias in zip(self._weights[1:], biases[1:], strict=True):
                y = np.maximum(y, 0.0, out=y) @ weight.T
                y += bias
            values[rows] = y[:, 0]
        return values

    def _multiplied(self, rows: slice) -> NDArray[np.float32]:
        return np.asarray(self._actions[rows].astype(np.float32) @ self._weights[0].T)


def _rounding(network: Network) -> float:
    """Bound the error of a value in float32, whatever the action: sums of absolute terms."""
    size = np.ones(network.n_inputs)
    operations = 0
    for layer in network.layers:
        size = np.abs(layer.weight) @ size + np.abs(layer.bias)
        operations += layer.weight.shape[1] + 2
    return float(size[0]) * 1.1 * operations * 2.0**-24
