"""Closures of largest weight in a directed graph, by minimum cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray

_ENTRIES_AT_ONCE = 50_000  # of the graph of many objectives
_LARGEST_FLOW = 2**28  # the flows of SciPy are int32


class MaximumClosures:
    """Maximises linear objectives over the closed sets of one graph.

    A set is closed if it has, with a node, what the node requires. A closed set of largest weight
    is the source side of a minimum cut (Picard, "Maximal closure of a graph and applications to
    combinatorial problems", Management Science 22, 1976): the source feeds each node of positive
    weight, each node of negative weight drains into the sink, and arcs to what a node requires are
    not to be cut. Flows are integers: a second flow in the residual graph of the first, scaled up
    to the integers again, leaves an error of the size of float64's.

    Parameters
    ----------
    n
        Number of nodes.
    arcs
        Pairs (node, what it requires), distinct, of different nodes, shape (arcs, 2).
    """

    def __init__(self, n: int, arcs: IntArray) -> None:
        self.n = n
        # Node by node: the source, the sink, then what it requires or is required by.
        nodes = np.arange(n)
        pairs = np.unique(np.concatenate([arcs, arcs[:, ::-1]]).reshape(-1, 2), axis=0)
        tails = np.concatenate([nodes, nodes, pairs[:, 0]])
        heads = np.concatenate([np.full(n, -2), np.full(n, -1), pairs[:, 1]])
        order = np.lexsort((heads, tails))
        self._heads = heads[order]
        self._degrees = np.bincount(tails, minlength=n)
        self._drains = np.flatnonzero(self._heads == -1)
        required = set(map(tuple, arcs.tolist()))
        ends = zip(tails[order].tolist(), self._heads.tolist(), strict=True)
        self._inner = self._heads >= 0
        self._requires = np.array([pair in required for pair in ends])

    def closures(self, weights: FloatArray) -> BoolArray:
        """Return a closed set of largest weight, the smallest such, for each row of weights.

        Parameters
        ----------
        weights
            Shape (batch, n).

        Returns
        -------
        numpy.ndarray
            Shape (batch, n).
        """
        found = np.zeros(weights.shape, dtype=bool)
        rows = np.flatnonzero((weights > 0).any(axis=1))  # of the others the empty set is best
        size = max(1, _ENTRIES_AT_ONCE // len(self._heads))
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            found[some] = self._cut(weights[some])
        return found

    def _cut(self, weights: FloatArray) -> BoolArray:
        """Cut a graph that has one copy of the nodes for each row of weights."""
        batch, n = weights.shape
        # Capacities in units of their sum, so that a copy's flow is at most 1.
        shares = weights / np.abs(weights).sum(axis=1, keepdims=True)
        fed, drained = np.maximum(shares, 0.0), np.maximum(-shares, 0.0)
        inner = np.where(self._requires, np.inf, 0.0)[None].repeat(batch, axis=0)
        inner[:, self._drains] = drained
        most = 1.0
        for _ in range(2):
            unit = most / _LARGEST_FLOW
            fed_units, inner_units = (
                np.minimum(np.floor(capacity / unit), 2 * _LARGEST_FLOW).astype(np.int32)
                for capacity in (fed, inner)
            )
            fed_flow, inner_flow = self._flow(fed_units, inner_units)
            fed = np.maximum(fed - unit * fed_flow, 0.0)
            inner = np.maximum(inner - unit * inner_flow, 0.0)
            most = (n + 1) * unit  # a cut of the units not used is at most so much
        graph = self._graph(fed_units - fed_flow, inner_units - inner_flow)
        graph.eliminate_zeros()
        reached = np.zeros(batch * n + 2, dtype=bool)
        reached[breadth_first_order(graph, 0, return_predecessors=False)] = True
        return reached[2:].reshape(batch, n)

    def _flow(
        self, fed: NDArray[np.int32], inner: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the flow from the source into the nodes, and on the arcs from each node."""
        flow: Any = maximum_flow(self._graph(fed, inner), 0, 1).flow.data
        return flow[: fed.size].reshape(fed.shape), flow[2 * fed.size :].reshape(inner.shape)

    def _graph(self, fed: NDArray[np.int32], inner: NDArray[np.int32]) -> Any:
        """Return the copies as a matrix that has an entry for the reverse of every arc, too."""
        batch, n = fed.shape
        nodes = np.arange(batch * n, dtype=np.int32) + 2
        offsets = np.arange(batch)[:, None] * n + 2
        heads = np.where(self._inner, self._heads + offsets, self._heads + 2).reshape(-1)
        degrees = np.concatenate([[0, batch * n, batch * n], np.tile(self._degrees, batch)])
        data = np.concatenate([fed.reshape(-1), np.zeros_like(nodes), inner.reshape(-1)])
        indices = np.concatenate([nodes, nodes, heads.astype(np.int32)])
        shape = (batch * n + 2, batch * n + 2)
        return csr_array((data, indices, np.cumsum(degrees).astype(np.int32)), shape=shape)
