"""Batches of branch-and-bound nodes, and the relaxed maxima of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.spaces.pins import Pins


@dataclass(eq=False)
class Nodes:
    """A batch of nodes, one per row of every array; hidden neurons of all layers side by side.

    Parameters
    ----------
    state
        Which state of the batch a node belongs to.
    one, zero
        Actions held at one and at zero, shape (nodes, n_actions).
    low, high
        Bounds of the pre-activations, shape (nodes, neurons); of split neurons as if not split.
    split
        1 for a neuron split on, -1 for one split off, otherwise 0.
    alpha, beta
        Lower slopes, and multipliers of the splits with the sign of the split.
    x, z, h
        Running averages of maximisers and of the pre-activations and outputs that the relaxed
        network gives them: where the linear program of the node has its optimum.
    bound
        Upper bound on the value.
    probed
        The excess of the bound over the target when single actions were last probed.
    """

    state: IntArray
    one: BoolArray
    zero: BoolArray
    low: FloatArray
    high: FloatArray
    split: NDArray[np.int8]
    alpha: NDArray[np.float32]
    beta: FloatArray
    x: NDArray[np.float32]
    z: FloatArray
    h: FloatArray
    bound: FloatArray
    probed: FloatArray

    @classmethod
    def roots(cls, bounds: Bounds, n_actions: int, pins: Pins | None = None) -> Self:
        """Return one node per state, with what the pins hold."""
        n = len(bounds.output_upper)
        low = np.concatenate([np.zeros((n, 0)), *bounds.lower], axis=1)
        high = np.concatenate([np.zeros((n, 0)), *bounds.upper], axis=1)
        neurons = low.shape[1]
        held = (pins or Pins()).checked((n, n_actions))
        none = np.zeros((n, n_actions), dtype=bool)
        return cls(
            np.arange(n),
            none.copy() if held.one is None else held.one.copy(),
            none if held.zero is None else held.zero.copy(),
            low,
            high,
            np.zeros((n, neurons), dtype=np.int8),
            (high > -low).astype(np.float32),
            np.zeros((n, neurons)),
            np.full((n, n_actions), np.nan, dtype=np.float32),
            np.zeros((n, neurons)),
            np.zeros((n, neurons)),
            bounds.output_upper[:, 0].copy(),
            np.full(n, np.inf),
        )

    def __len__(self) -> int:
        return len(self.state)

    @property
    def pins(self) -> Pins:
        """The actions held at one and at zero."""
        return Pins(self.one, self.zero)

    def __getitem__(self, rows: IntArray | BoolArray) -> Self:
        """Return copies of some rows."""
        return type(self)(*(values[rows] for values in vars(self).values()))

    def put(self, rows: IntArray, nodes: Nodes) -> None:
        """Overwrite some rows."""
        for name, values in vars(self).items():
            values[rows] = getattr(nodes, name)

    def resized(self, n: int) -> Self:
        """Return ``n`` rows, of which the first are these."""
        return self[np.arange(n) % max(len(self), 1)]


@dataclass(eq=False)
class Maximum:
    """The relaxed maximum of each of a batch of nodes.

    Parameters
    ----------
    bound
        Upper bound on the node's value, ``-inf`` where the node is empty.
    coefficients
        The linear function of the action whose maximum it is, shape (nodes, n_actions).
    constant
        What is added to its maximum.
    x
        A maximiser, shape (nodes, n_actions).
    p
        Coefficient of each neuron's output, shape (nodes, neurons).
    """

    bound: FloatArray
    coefficients: FloatArray
    constant: FloatArray
    x: FloatArray
    p: FloatArray

    @classmethod
    def unknown(cls, nodes: Nodes) -> Maximum:
        """Return maxima that nothing is known of."""
        n = len(nodes)
        return cls(
            np.full(n, np.inf),
            np.zeros(nodes.one.shape),
            np.zeros(n),
            np.zeros(nodes.one.shape),
            np.zeros(nodes.low.shape),
        )

    def at(self, rows: BoolArray) -> Maximum:
        """Return those of some nodes."""
        return Maximum(*(values[rows] for values in vars(self).values()))
