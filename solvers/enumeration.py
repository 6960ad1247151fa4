"""The exact argmax by evaluating every feasible action: for small sets, and as a yardstick.

All actions are valued in float32 first, and those that its rounding leaves in question once more
in float64.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.contradictions import check_listed
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.protocol import Answer, Argmax, Starts

_BATCH_ENTRIES = 100_000  # of a layer, few enough to stay in the cache
_KEPT_ENTRIES = 20_000_000
_FLOAT64_PER_FLOAT32 = float(np.finfo(np.float64).eps / np.finfo(np.float32).eps)
_FLOAT32 = (1e-25, 1e25)  # sizes that float32 keeps its precision for


RoughArray = NDArray[Any]  # float32, or float64


class EnumerationArgmax(Argmax):
    r"""Every feasible action, listed once and evaluated for each state.

    .. math:: \max_{a \in A} Q(a, s) = \max \{ Q(a_1, s), \dots, Q(a_m, s) \}, \qquad
              A = \{a_1, \dots, a_m\}

    Parameters
    ----------
    network
        Scalar output; inputs [action, state].
    space
        The feasible set.
    incumbents
        What is known of the space.
    limit
        Largest number of actions to list.

    Raises
    ------
    ValueError
        If the space has more than ``limit`` feasible actions.
    ContradictionError
        If the space lists an action that its own check refuses, or leaves one out.

    Examples
    --------
    >>> import milp_rl as mr
    >>> network = mr.Network.from_arrays([[[-1.0, 1.0, 1.0]], [[1.0]]], [[-1.0], [0.0]])
    >>> result = mr.argmax(network, [], mr.BudgetTopK(3, 2), solver="enumeration")
    >>> result.action, result.value, result.message
    (array([0, 1, 1], dtype=int8), 1.0, 'evaluated all 7 feasible actions')
    """

    name = "enumeration"
    parallel = "threads"

    def __init__(
        self,
        network: Network,
        space: ActionSpace,
        incumbents: Incumbents | None = None,
        *,
        limit: int = 1_000_000,
    ) -> None:
        self._actions: ActionArray = space.enumerate(limit)
        super().__init__(network, space, incumbents)
        check_listed(space, self._actions, self.incumbents.sample)

    def __len__(self) -> int:
        return len(self._actions)

    def update(self, network: Network) -> None:
        """Replace the network."""
        super().update(network)
        widest = max(len(layer.bias) for layer in network.layers)
        self._batch = max(_BATCH_ENTRIES // widest, 1)
        sizes = [np.abs(layer.weight[layer.weight != 0]) for layer in network.layers]
        sizes += [np.cumprod([size.max(initial=1.0) for size in sizes])]
        narrow = all(((s > _FLOAT32[0]) & (s < _FLOAT32[1])).all() for s in sizes)
        self._dtype: type[np.float32 | np.float64] = np.float32 if narrow else np.float64
        self._weights = [layer.weight.astype(self._dtype) for layer in network.layers]
        self._weights[0] = self._weights[0][:, : self.space.n_actions]
        self._products: RoughArray | None = None  # the actions' part of the first layer
        if len(self._actions) * len(self._weights[0]) <= _KEPT_ENTRIES:
            self._products = self._multiplied(slice(None))

    def _solve(self, states: FloatArray, options: SolveOptions, starts: Starts) -> list[Answer]:
        return [self._best(state) for state in states]

    def _best(self, state: FloatArray) -> Answer:
        """Return the best feasible action, the first of equals."""
        begin, n = time.perf_counter(), len(self._actions)
        problem = self._problem(state)
        if not n:
            return Answer.empty(problem, begin, "empty set")
        network = problem.network
        with np.errstate(over="ignore", invalid="ignore"):
            rough = self._rough_values(network)
        error = _rounding(network, float(np.finfo(self._dtype).eps))
        # Not below, so that a network that overflows float32 is valued in float64 altogether.
        candidates = np.flatnonzero(~(rough < rough.max() - 2 * error))
        values = network.forward(self._actions[candidates])[:, 0]
        best = int(np.argmax(values))
        action = self._actions[candidates[best]].copy()
        # The spread of these is the true one.
        ends = self._actions[[candidates[best], int(np.argmin(rough))]]
        rounding = error if self._dtype is np.float64 else error * _FLOAT64_PER_FLOAT32
        problem = replace(problem, sample=ends, rounding=rounding)
        bound = max(problem.value(action), float(values[best]))
        seconds = time.perf_counter() - begin
        message = f"evaluated all {n} feasible actions"
        return Answer(problem, action, bound, seconds, n, message=message, exhaustive=True)

    def _rough_values(self, network: Network) -> RoughArray:
        """Value every action, in float32 where the network's weights allow that."""
        values = np.empty(len(self._actions), dtype=self._dtype)
        biases = [layer.bias.astype(self._dtype) for layer in network.layers]
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

    def _multiplied(self, rows: slice) -> RoughArray:
        actions: RoughArray = self._actions[rows].astype(self._dtype)
        return np.asarray(actions @ self._weights[0].T)


def _rounding(network: Network, unit: float) -> float:
    """Bound the error of a value in an arithmetic, whatever the action: sums of absolute terms."""
    size = np.ones(network.n_inputs)
    operations = 0
    for layer in network.layers:
        size = np.abs(layer.weight) @ size + np.abs(layer.bias)
        operations += layer.weight.shape[1] + 2
    return float(size[0]) * operations * unit
