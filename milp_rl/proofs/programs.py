r"""Slopes, multipliers and dual values of a part, from the linear program of its relaxation.

Over a part of a feasible set the relaxed network is a linear program: pre-activations z are affine
in what they take in, and every output h lies between the two lines of its neuron,

.. math:: \max \; w h \quad \text{s.t.} \quad r \le A x \le R, \; z = W h' + b, \;
          h \ge 0, \; h \ge z, \; h \le s z + t, \; z_j \ge 0 \text{ or } \le 0 \text{ if held}.

Its dual values are what a proof needs (Salman et al. 2019, arXiv 1902.08722): a lower slope
is the share that :math:`h \ge z` has of the prices of its lower lines; multipliers are the prices
of what is held, and dual values those of the rows. A part without any point is given prices of a
program whose rows may be exceeded at a cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.network import INPUT
from milp_rl.proofs.relaxation import Network64, Signs
from milp_rl.proofs.rows import Rows

_COSTS = (1e3, 1e6, 1e9)  # of exceeding a row, in units of the bound


@dataclass(frozen=True, eq=False)
class Prices:
    """What a program has found.

    Parameters
    ----------
    slopes, multipliers
        Of the neurons.
    duals
        Of the rows of the set.
    x
        The best point of the relaxation, (columns,).
    gaps
        By how much each neuron's output is off there, times its price.
    """

    slopes: FloatArray
    multipliers: FloatArray
    duals: FloatArray
    x: FloatArray
    gaps: FloatArray


class Programs:
    """The linear programs of one network and feasible set; columns are x, z, h and an excess."""

    def __init__(self, network: Network64) -> None:
        self.network, rows = network, network.rows
        count, h = len(rows.whole), network.neurons
        self.columns, self.neurons = count, h
        self.top, self.bottom = np.isfinite(rows.high), np.isfinite(rows.low)
        own = np.concatenate([rows.matrix[self.top], -rows.matrix[self.bottom]])
        self.set_rows = sparse.csr_array(np.hstack([own, np.zeros((len(own), 2 * h))]))
        self.set_sides = np.concatenate([rows.high[self.top], -rows.low[self.bottom]])
        passed = np.zeros((h + 1, count + 2 * h))
        bias = np.zeros(h)
        ends = [*network.layers, slice(h, h + 1)]
        for depth, layer in enumerate(ends):
            for source, weight in network.weights[depth]:
                first = 0 if source == INPUT else count + h + network.layers[source].start
                own = weight if depth < len(network.layers) else weight[:1]
                passed[layer, first : first + own.shape[1]] = own
            if depth < len(network.layers):
                bias[layer] = network.bias[depth][0]
        passed[:h, count : count + h] -= np.eye(h)
        self.passed, self.bias, self.objective = sparse.csr_array(passed[:h]), -bias, passed[h]
        self.offset = float(network.bias[-1][0][0])
        identity = sparse.eye_array(h, format="csr")
        none = sparse.csr_array((h, count))
        self.z = sparse.hstack([none, identity, 0 * identity], format="csr")
        self.h = sparse.hstack([none, 0 * identity, identity], format="csr")

    def solve(
        self,
        bounds: tuple[FloatArray, FloatArray],
        ranges: tuple[FloatArray, FloatArray],
        split: Signs,
        target: float,
    ) -> Prices | None:
        """Solve the program of a part, ``None`` if that fails.

        Parameters
        ----------
        bounds
            Of the columns.
        ranges
            Of the neurons, as held.
        split
            1 and -1 for neurons on and off.
        target
            What is to be proven.
        """
        low, high = ranges
        chord, on = (low < 0) & (high > 0), low >= 0
        free = np.flatnonzero(chord)
        slope = high[free] / (high[free] - low[free])
        held = np.flatnonzero(split)
        turned = sparse.diags_array(-split[held].astype(np.float64))
        rows = [
            self.set_rows,
            turned @ self.z[held],
            self.z[free] - self.h[free],
            self.h[free] - sparse.diags_array(slope) @ self.z[free],
        ]
        parts = np.cumsum([0, *(part.shape[0] for part in rows)])
        sides = np.concatenate(
            [self.set_sides, np.zeros(len(held) + len(free)), -slope * low[free]]
        )
        matrix = sparse.vstack(rows, format="csr")
        active = np.flatnonzero(on)
        equal = sparse.vstack([self.passed, self.h[active] - self.z[active]], format="csr")
        right = np.concatenate([self.bias, np.zeros(len(active))])
        lower = np.concatenate(
            [bounds[0], np.full(self.neurons, -np.inf), np.where(on, -np.inf, 0.0)]
        )
        upper = np.concatenate(
            [bounds[1], np.full(self.neurons, np.inf), np.where(on | chord, np.inf, 0.0)]
        )
        limits = np.column_stack([lower, upper])
        found = _solution(-self.objective, matrix, sides, limits, equal, right)
        if found.status == 2:  # no point: some rows may be exceeded at a cost
            none = sparse.csr_array((equal.shape[0], 1), dtype=np.float64)
            exceeded = np.where(np.arange(matrix.shape[0]) < parts[2], -1.0, 0.0)[:, None]
            for cost in _COSTS:
                found = _solution(
                    np.append(-self.objective, cost * max(1.0, abs(target))),
                    sparse.hstack([matrix, sparse.csr_array(exceeded)], format="csr"),
                    sides,
                    np.vstack([limits, [[0.0, np.inf]]]),
                    sparse.hstack([equal, none], format="csr"),
                    right,
                )
                if found.status != 0 or self.offset - found.fun < target:
                    break
        if found.status != 0:
            return None
        prices = -found.ineqlin.marginals
        slopes = np.where(high > -low, 1.0, 0.0)
        above = prices[parts[2] : parts[3]]
        first = self.columns + self.neurons
        total = above + np.maximum(found.lower.marginals[first : first + self.neurons][free], 0.0)
        slopes[free] = np.where(total > 0, above / np.where(total > 0, total, 1.0), slopes[free])
        multipliers = np.zeros(self.neurons)
        multipliers[held] = split[held] * np.maximum(prices[parts[1] : parts[2]], 0.0)
        duals = np.zeros(len(self.top))
        count = int(self.top.sum())
        duals[self.top] += prices[:count]
        duals[self.bottom] -= prices[count : parts[1]]
        x, z, h = np.split(found.x[: first + self.neurons], [self.columns, first])
        gaps = np.zeros(self.neurons)
        gaps[free] = np.abs(h - np.maximum(z, 0.0))[free] * (total + prices[parts[3] :])
        return Prices(np.clip(slopes, 0.0, 1.0), multipliers, duals, x, gaps)


def _solution(
    c: FloatArray, matrix: Any, sides: FloatArray, limits: Any, equal: Any = None, right: Any = None
) -> Any:
    """Minimise ``c @ x`` over rows that are at most their sides, equal rows, and limits of x."""
    return linprog(c, A_ub=matrix, b_ub=sides, A_eq=equal, b_eq=right, bounds=limits)


def row_duals(rows: Rows, c: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray | None:
    """Return the dual values of ``max c @ x`` over rows and bounds, ``None`` if there are none."""
    top, bottom = np.isfinite(rows.high), np.isfinite(rows.low)
    objective = np.zeros(len(rows.whole))
    objective[: len(c)] = -c
    found = _solution(
        objective,
        np.concatenate([rows.matrix[top], -rows.matrix[bottom]]),
        np.concatenate([rows.high[top], -rows.low[bottom]]),
        np.column_stack([low, high]),
    )
    if found.status != 0:
        return None
    above, below = np.split(-found.ineqlin.marginals, [int(top.sum())])
    duals = np.zeros(len(top))
    duals[top] += above
    duals[bottom] -= below
    return duals
