r"""Bounds of a ReLU network over parts of a feasible set, rigorously.

In a part, variables have bounds of their own and neurons are held on (:math:`z \ge 0`) or off
(:math:`z \le 0`). A neuron with :math:`l \le z \le u` has

.. math:: \alpha z \le \max(0, z) \le s z + t, \qquad 0 \le \alpha, s \le 1, \quad
          t \ge \max(-s l, u - s u),

so a function :math:`p h` of outputs is at most :math:`g z + p^+ t` with
:math:`g = p^+ s + p^- \alpha + \beta`, where :math:`\beta z \ge 0` as the neuron is held. Replacing
z by the layer before, and so on down to the actions, leaves a linear function of these, whose
maximum the rows of the set bound. Any float64 numbers will do for g and for the coefficients of
each layer: what they are off by, times the largest absolute value of what they multiply, is added
to the constant. (Zhang et al. 2018, arXiv 1811.00866; Wang et al. 2021, arXiv 2103.06624.)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.networks.network import INPUT, Network
from milp_rl.proofs.arithmetic import Arithmetic, Numbers, float_above
from milp_rl.proofs.rows import Rows

Signs = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts of a feasible set: bounds of the variables, and 1 and -1 for neurons on and off."""

    low: FloatArray
    high: FloatArray
    split: Signs

    def __len__(self) -> int:
        return len(self.low)

    def at(self, rows: Any) -> Parts:
        """Return some of them."""
        return Parts(self.low[rows], self.high[rows], self.split[rows])


@dataclass(frozen=True, eq=False)
class Ranges:
    """Bounds of the neurons before ReLU in each part, as held, and which parts they show empty."""

    low: FloatArray
    high: FloatArray
    empty: BoolArray

    def at(self, rows: Any) -> Ranges:
        """Return those of some parts."""
        return Ranges(self.low[rows], self.high[rows], self.empty[rows])

    def within(self, split: Signs) -> Ranges:
        """Return those of parts whose neurons are held so."""
        low = np.where(split > 0, np.maximum(self.low, 0.0), self.low)
        high = np.where(split < 0, np.minimum(self.high, 0.0), self.high)
        return Ranges(low, high, self.empty | (low > high).any(axis=1))


class Network64:
    """A network at a state, as the arithmetic has it; ``sign`` -1 for its negative."""

    def __init__(
        self, network: Network, state: FloatArray, sign: float, arithmetic: Arithmetic, rows: Rows
    ) -> None:
        self.arithmetic, self.rows = arithmetic, rows
        self.n_actions = network.n_inputs - len(state)
        self.weights: list[list[tuple[int, Numbers]]] = []
        self.bias: list[tuple[Numbers, Numbers]] = []
        given = arithmetic.of(state)
        top = len(network.layers) - 1
        for depth, layer in enumerate(network.layers):
            turned = sign if depth == top else 1.0
            terms, wrong, own = [arithmetic.of(turned * layer.bias)], [], []
            for source, weight in network.inputs(depth):
                exact = arithmetic.of(turned * weight)
                if source == INPUT:
                    if len(state):
                        folded, more = arithmetic.product(exact[:, self.n_actions :], given)
                        terms.append(folded)
                        wrong.append(more)
                    exact = exact[:, : self.n_actions]
                own.append((source, exact))
            bias, more = arithmetic.sum(*terms)
            self.weights.append(own)
            self.bias.append((bias, arithmetic.up(more, *wrong)))
        ends = np.cumsum([0, *(len(layer.bias) for layer in network.hidden)]).tolist()
        self.layers = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.neurons = ends[-1]

    def ranges(self, parts: Parts, known: Ranges | None = None) -> Ranges:
        """Bound every neuron in every part; ``known`` are ranges of one part around all of them."""
        shape = (len(parts), self.neurons)
        low, high = np.full(shape, -np.inf), np.full(shape, np.inf)
        if known is not None:
            low[:], high[:] = known.low[0], known.high[0]
        empty = self.rows.contradicted(parts.low, parts.high, self.arithmetic)
        for depth, layer in enumerate(self.layers):
            open_ = (low[:, layer] < 0) & (high[:, layer] > 0)
            wanted = np.flatnonzero(open_.any(axis=0))
            if len(wanted):
                at = layer.start + wanted
                both: dict[int, Numbers] = {}
                for source, weight in self.weights[depth]:
                    both[source] = np.concatenate([weight[wanted], -weight[wanted]])[None]
                lower_slopes = np.where(high > -low, 1.0, 0.0)
                c, constant = self._above(both, low, high, lower_slopes, None)
                bias, wrong = (values[wanted] for values in self.bias[depth])
                own = self.arithmetic.up(
                    constant, np.concatenate([bias, -bias]), np.concatenate([wrong, wrong])
                )
                both_open = np.concatenate([open_[:, wanted], open_[:, wanted]], axis=1)
                found = np.full(both_open.shape, np.inf)
                part, row = np.nonzero(both_open)
                found[part, row] = self._highest(
                    c[part, row][:, None], own[part, row][:, None], parts.at(part), None
                )[:, 0]
                # What is no number, as sums overflowed, bounds nothing.
                high[:, at] = np.fmin(high[:, at], found[:, : len(at)])
                low[:, at] = np.fmax(low[:, at], -found[:, len(at) :])
            held = parts.split[:, layer]
            low[:, layer] = np.where(held > 0, np.maximum(low[:, layer], 0.0), low[:, layer])
            high[:, layer] = np.where(held < 0, np.minimum(high[:, layer], 0.0), high[:, layer])
            empty |= (low[:, layer] > high[:, layer]).any(axis=1)
        return Ranges(low, high, empty)

    def bounds(
        self,
        parts: Parts,
        ranges: Ranges,
        slopes: FloatArray,
        multipliers: FloatArray,
        duals: FloatArray | None = None,
    ) -> FloatArray:
        """Bound the output in every part, shape (parts,)."""
        return self.highest(*self.output(ranges, slopes, multipliers), parts, ranges, duals)

    def highest(
        self,
        c: Numbers,
        constant: Numbers,
        parts: Parts,
        ranges: Ranges,
        duals: FloatArray | None,
    ) -> FloatArray:
        """Bound the function of :meth:`output` in every part, shape (parts,)."""
        found = self._highest(c, constant, parts, duals)[:, 0]
        finite = np.isfinite(ranges.low).all(axis=1) & np.isfinite(ranges.high).all(axis=1)
        return np.where(finite & ~np.isnan(found), found, np.inf)

    def output(
        self, ranges: Ranges, slopes: FloatArray, multipliers: FloatArray
    ) -> tuple[Numbers, Numbers]:
        """Return a linear function of the action above the output: coefficients and constant."""
        top = len(self.layers)
        rows = {source: weight[None, :1] for source, weight in self.weights[top]}
        c, constant = self._above(rows, ranges.low, ranges.high, slopes, multipliers)
        bias, wrong = self.bias[top]
        return c, self.arithmetic.up(constant, bias[:1], wrong[:1])

    def _highest(
        self, c: Numbers, constant: Numbers, parts: Parts, duals: FloatArray | None
    ) -> FloatArray:
        """Bound linear functions over parts, (parts, functions)."""
        most = self.rows.maxima(c, parts.low, parts.high, self.arithmetic, duals)
        return float_above(self.arithmetic.up(most, constant))

    def _above(
        self,
        rows: Mapping[int, Numbers],
        low: FloatArray,
        high: FloatArray,
        slopes: FloatArray,
        multipliers: FloatArray | None,
    ) -> tuple[Numbers, Numbers]:
        """Return linear functions of the action above functions of outputs of layers.

        These are given by source, (1 or parts, rows, width) each; what is returned are coefficients
        and constants, (parts, rows, n_actions) and (parts, rows).
        """
        ar, left, count = self.arithmetic, dict(rows), len(low)
        constant = ar.of(np.zeros((count, 1)))
        for d in range(max(left), -1, -1):
            if d not in left:
                continue
            layer = self.layers[d]
            p = left.pop(d)
            own, top = low[:, layer], high[:, layer]
            chord = (own < 0) & (top > 0)
            on = (own >= 0).astype(np.float64)
            upper = np.where(chord, top / np.where(chord, top - own, 1.0), on)
            lower = np.where(chord, slopes[:, layer], upper)
            s, lo, hi = ar.of(upper), ar.of(own), ar.of(top)
            t = np.maximum(ar.up_times(-s, lo), ar.up(hi, ar.up_times(-s, hi)))
            t = np.where(chord, t, ar.of(np.zeros(1)))
            positive, negative = np.maximum(p, 0), np.minimum(p, 0)
            intercept = ar.up_sum(ar.up_times(positive, t[:, None]))
            first, wrong = ar.times(positive, s[:, None])
            second, more = ar.times(negative, ar.of(lower)[:, None])
            terms = [first, second]
            if multipliers is not None:
                terms.append(ar.of(multipliers[:, layer])[:, None])
            g, most = ar.sum(*terms)
            size = np.maximum(np.abs(lo), np.abs(hi))[:, None]
            lost = ar.up_sum(ar.up_times(ar.up(wrong, more, most), size))
            bias, off = self.bias[d]
            added, wrong = ar.product(g, bias[:, None])
            astray, more = ar.product(np.abs(g), off[:, None])
            pieces = [intercept, lost, added[..., 0], wrong[..., 0], astray[..., 0], more[..., 0]]
            for source, weight in self.weights[d]:
                passed, wrong = ar.product(g, weight)
                if source in left:
                    passed, more = ar.sum(left[source], passed)
                    wrong = ar.up(wrong, more)
                left[source] = passed
                pieces.append(ar.up_sum(ar.up_times(wrong, self._reach(source, high))))
            constant = ar.up(constant, *pieces)
        none = ar.of(np.zeros((1, constant.shape[1], self.n_actions)))
        c = left.get(INPUT, none)
        return np.broadcast_to(c, (count, *c.shape[1:])), constant

    def _reach(self, source: int, high: FloatArray) -> Numbers:
        """Return the largest outputs of a layer, (parts, 1, width), or those of actions."""
        if source == INPUT:
            return self.arithmetic.of(self.rows.reach[: self.n_actions])
        return self.arithmetic.of(np.maximum(high[:, None, self.layers[source]], 0.0))
