r"""Lowering: writing piecewise-linear functions as ReLU layers with skips.

Every entry of a tensor is kept as an affine expression over *sources*, the network's input and the
groups of ReLU neurons that exist already,

.. math:: t = c + \sum_k C_k h_k, \qquad h_k = \max(0, t_k),

so that an operator that is affine in its one operand is applied to the constant and to each column
of the coefficients, as a batch, by evaluating it as it is; sums of branches add up; and what is
piecewise linear is one more group: :math:`\max(a, b) = b + \max(0, a - b)`. At the end groups
become layers by depth, the longest path from the input, so that parallel branches are one wide
layer and skips are left only where there are any.

An array may have a leading axis of states: then there is an expression per state. What all states
share has length 1 there. A lowering that is to be repeated for other states decides what depends
on numbers once (:meth:`Lowering.decide`), and keeps the arrays that no state changes
(:meth:`Lowering.computed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.networks import blocks
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks
from milp_rl.formulations.networks.blocks import Block, Sparse
from milp_rl.formulations.networks.link import Link
from milp_rl.formulations.networks.network import INPUT, Activation, Layer, Network, NetworkError

_WORK = 64  # times the budget: bytes written in all

Columns = Callable[..., FloatArray]
"""A linear function of an array (states, columns, *shape)."""


@dataclass(frozen=True, eq=False)
class Affine:
    """A tensor whose entries are affine expressions over sources.

    Parameters
    ----------
    constant
        Shape (states, *shape), 1 state where all share it.
    coefficients
        For each source, a block of (states, width of the source, *shape).
    nonnegative
        Whether no entry can be negative; False where that is not known.
    """

    constant: FloatArray
    coefficients: Mapping[int, Block] = field(default_factory=dict)
    nonnegative: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.constant.shape[1:]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class _Group:
    """Neurons: for each source weights (states, width, neurons), and biases (states, neurons)."""

    weights: Mapping[int, Block]
    bias: FloatArray

    @property
    def width(self) -> int:
        return int(self.bias.shape[-1])


class Lowering:
    """Groups of neurons, and the operators that make them.

    Parameters
    ----------
    widths
        Number of inputs of the network.
    prune
        Whether neurons that are constant, or that no output needs, are left out.
    most
        Bytes that arrays may take; None for any.
    repeated
        Whether the lowering is done again, by :meth:`again`.
    """

    def __init__(
        self, width: int, *, prune: bool = True, most: int | None = None, repeated: bool = False
    ) -> None:
        self.width = width
        self.prune = prune
        self.generic = False  # whether constants of states stand for any others
        self._most = most
        self._repeated, self._replayed = repeated, False
        self._decisions: list[Any] = []
        self._kept: list[tuple[tuple[Block, ...], Any] | None] = []
        self._begin()

    def _begin(self) -> None:
        self._groups: list[_Group] = []
        self._rectified: WeakKeyDictionary[Affine, Affine] = WeakKeyDictionary()
        self._decided = self._at = self._written = self._held = 0

    def again(self) -> None:
        """Start over, with the decisions that were made and the arrays that no state changes."""
        self._begin()
        self._replayed, self.generic, self._most = True, False, None

    def decide(self, question: Callable[[], Any]) -> Any:
        """Return the answer, that of the first time where the lowering is repeated."""
        self._decided += 1
        if not self._replayed:
            self._decisions.append(question())
        return self._decisions[self._decided - 1]

    def computed(self, function: Callable[..., Any], *arrays: Block) -> Any:
        """Return ``function(*arrays)``, the same array as before if these are."""
        if not self._repeated:
            return function(*arrays)
        at = self._at
        self._at += 1
        if self._replayed and at < len(self._kept):
            kept = self._kept[at]
            if kept is not None and all(a is b for a, b in zip(kept[0], arrays, strict=True)):
                return kept[1]
        result = function(*arrays)
        shared = all(len(array) == 1 for array in arrays)
        if not self._replayed:
            self._kept.append((arrays, result) if shared else None)
        elif shared:
            self._kept[at] = arrays, result
        return result

    def fixed(self, values: ArrayLike) -> FloatArray:
        """Return constants that are the same in all states, shape (1, *shape)."""
        result: FloatArray = self.computed(lambda: np.asarray(values, dtype=np.float64)[None])
        return result

    def constant(self, values: ArrayLike) -> Affine:
        """Return a tensor of constants that are the same in all states."""
        return Affine(self.fixed(values))

    def reserve(self, entries: int) -> None:
        """Count entries of float64 that are about to be written.

        Raises
        ------
        NetworkError
            If they take more than may be taken.
        """
        if self._most is None:
            return
        taken = self._held + 8 * entries
        self._written += 8 * entries
        if taken > self._most or self._written > _WORK * self._most:
            raise NetworkError(
                f"the network takes {max(taken, self._written // _WORK):,} bytes, but a file of"
                f" this size at most {self._most:,}"
            )

    def inputs(self, numbers: IntArray, shape: tuple[int, ...]) -> Affine:
        """Return a tensor of inputs of the network.

        Parameters
        ----------
        numbers
            Which inputs, in the order of the entries.
        shape
            Of the tensor.
        """
        at = np.arange(len(numbers))
        block = self.computed(lambda: blocks.unit(self.width, numbers, at, shape))
        return Affine(self.fixed(np.zeros(shape)), {INPUT: block})

    def linear(
        self,
        x: Affine,
        function: Columns,
        *operands: FloatArray,
        moves: bool = False,
        matrix: Callable[[], Any] | None = None,
    ) -> Affine:
        """Apply a linear function to each column.

        Parameters
        ----------
        x
            What it is applied to.
        function
            Of an array (states, columns, *shape), linear in each column, and of the operands.
        operands
            Arrays with a leading axis of states.
        moves
            Whether it only moves, repeats or leaves out entries.
        matrix
            Gives its sparse matrix, of entries in row-major order, where that is known.
        """
        constant = self.computed(
            lambda c, *o: function(c[:, None], *o)[:, 0], x.constant, *operands
        )
        shape = constant.shape[1:]
        coefficients: dict[int, Block] = {}
        for source, own in x.coefficients.items():
            if isinstance(own, Sparse) and moves:
                coefficients[source] = self.computed(lambda c: blocks.moved(c, function), own)
            elif isinstance(own, Sparse) and matrix is not None:
                coefficients[source] = self.computed(
                    lambda c: blocks.times(c, matrix(), shape), own
                )
            else:
                if isinstance(own, Sparse):
                    self.reserve(math.prod(own.shape))
                self.reserve(len(constant) * own.shape[1] * math.prod(shape))
                coefficients[source] = self.computed(
                    lambda c, *o: function(blocks.dense(c), *o), own, *operands
                )
        result = Affine(constant, coefficients, moves and x.nonnegative)
        return self.without_zeros(result) if moves and coefficients else result

    def without_zeros(self, x: Affine) -> Affine:
        """Return the tensor without sources that no entry depends on."""
        if not self.prune:
            return x
        kept = self.decide(
            lambda: [k for k, own in x.coefficients.items() if not blocks.is_zero(own)]
        )
        if len(kept) == len(x.coefficients):
            return x
        return Affine(x.constant, {k: x.coefficients[k] for k in kept}, x.nonnegative)

    def add(self, x: Affine, y: Affine, sign: float = 1.0) -> Affine:
        """Return ``x + sign * y``, broadcast."""
        shape = np.broadcast_shapes(x.shape, y.shape)
        self.reserve(math.prod(shape))

        def total(a: FloatArray, b: FloatArray) -> FloatArray:
            a, b = (blocks.raised(c, 1, len(shape)) for c in (a, b))
            return a + b if sign == 1 else a - b

        coefficients: dict[int, Block] = {}
        for source in sorted({*x.coefficients, *y.coefficients}):
            a, b = (
                None if own is None else self._spread(own, shape)
                for own in (x.coefficients.get(source), y.coefficients.get(source))
            )
            if a is None:
                assert b is not None
                coefficients[source] = b if sign == 1 else self.computed(blocks.negative, b)
            elif b is None:
                coefficients[source] = a
            else:
                both = isinstance(a, Sparse) and isinstance(b, Sparse)
                self.reserve(0 if both else max(len(a), len(b)) * a.shape[1] * math.prod(shape))
                coefficients[source] = self.computed(lambda c, d: blocks.added(c, d, sign), a, b)
        return Affine(self.computed(total, x.constant, y.constant), coefficients)

    def _spread(self, own: Block, shape: tuple[int, ...]) -> Block:
        if own.shape[2:] == shape:
            return own
        if not isinstance(own, Sparse):
            self.reserve(own.shape[0] * own.shape[1] * math.prod(shape))
        result: Block = self.computed(lambda c: blocks.spread_to(c, shape), own)
        return result

    def scaled(self, x: Affine, factor: FloatArray) -> Affine:
        """Return the product with constants (states, *shape), broadcast."""
        shape = np.broadcast_shapes(x.shape, factor.shape[1:])
        self.reserve(math.prod(shape))

        def product(a: FloatArray, b: FloatArray) -> FloatArray:
            return blocks.raised(a, 1, len(shape)) * blocks.raised(b, 1, len(shape))

        coefficients = {}
        for source, own in x.coefficients.items():
            if not isinstance(own, Sparse):
                self.reserve(max(len(own), len(factor)) * own.shape[1] * math.prod(shape))
            coefficients[source] = self.computed(
                lambda c, f: blocks.scaled(c, f, shape), own, factor
            )
        return self.without_zeros(Affine(self.computed(product, x.constant, factor), coefficients))

    def negated(self, x: Affine) -> Affine:
        """Return ``-x``."""
        return self.scaled(x, self.fixed(-1.0))

    def concatenated(self, parts: Sequence[Affine], axis: int) -> Affine:
        """Join tensors along an axis, counted from the first."""
        states = max(len(part.constant) for part in parts)
        shapes = [part.shape for part in parts]
        total = sum(part.size for part in parts)
        self.reserve(states * total)

        def joined(*own: FloatArray) -> FloatArray:
            most = max(map(len, own))
            full = [np.broadcast_to(a, (most, *a.shape[1:])) for a in own]
            return np.concatenate(full, axis=axis + 1)

        coefficients: dict[int, Block] = {}
        for source in sorted({k for part in parts for k in part.coefficients}):
            own = [part.coefficients.get(source) for part in parts]
            present = [block for block in own if block is not None]
            if not any(isinstance(block, Sparse) for block in present):
                self.reserve(max(map(len, present)) * present[0].shape[1] * total)
            places = [i for i, block in enumerate(own) if block is not None]

            def joint(*found: Block, places: Sequence[int] = places) -> Block:
                every: list[Block | None] = [None] * len(shapes)
                for i, block in zip(places, found, strict=True):
                    every[i] = block
                return blocks.concatenated(every, shapes, axis)

            coefficients[source] = self.computed(joint, *present)
        constants = self.computed(joined, *(part.constant for part in parts))
        return Affine(constants, coefficients, all(part.nonnegative for part in parts))

    def relu(self, x: Affine) -> Affine:
        """Return ``max(0, x)``, a new group of neurons."""
        if x.nonnegative:
            return x
        if x in self._rectified:
            return self._rectified[x]
        kept = self.decide(lambda: self._varying(x))
        level = self.computed(lambda c: np.maximum(c, 0.0), x.constant)
        if not kept.any():
            return Affine(level, {}, nonnegative=True)
        weights: dict[int, Block] = {}
        for source, own in x.coefficients.items():
            if not (kept.all() or isinstance(own, Sparse)):
                self.reserve(own.size)
            weights[source] = self.computed(lambda c: blocks.rows_of(c, kept), own)
        bias = self.computed(lambda c: c.reshape(len(c), -1)[:, kept], x.constant)
        self._held += sum(w.nbytes for w in weights.values())
        self.reserve(0)
        self._groups.append(_Group(weights, bias))
        width, at = int(kept.sum()), np.flatnonzero(kept)
        own = self.computed(lambda: blocks.unit(width, np.arange(width), at, x.shape))
        if kept.all():
            rest = self.fixed(np.zeros(x.shape))
        else:
            rest = self.computed(lambda c: np.where(kept.reshape(x.shape), 0.0, c), level)
        result = Affine(rest, {len(self._groups) - 1: own}, nonnegative=True)
        self._rectified[x] = result
        return result

    def _varying(self, x: Affine) -> BoolArray:
        if not self.prune:
            return np.full(x.size, bool(x.coefficients))
        kept = np.zeros(x.size, dtype=bool)
        for block in x.coefficients.values():
            kept |= blocks.varying(block)
        return kept

    def maximum(self, x: Affine, y: Affine) -> Affine:
        """Return the larger of two tensors, entry by entry, broadcast."""
        if len(x.coefficients) < len(y.coefficients):
            x, y = y, x
        return self.add(y, self.relu(self.add(x, y, -1.0)))

    def minimum(self, x: Affine, y: Affine) -> Affine:
        """Return the smaller of two tensors, entry by entry, broadcast."""
        if len(x.coefficients) < len(y.coefficients):
            x, y = y, x
        return self.add(y, self.relu(self.add(y, x, -1.0)), -1.0)

    def at_least(self, x: Affine, bound: FloatArray) -> Affine:
        """Return the larger of a tensor and constants that are the same in all states."""
        shape = np.broadcast_shapes(x.shape, bound.shape)
        if x.nonnegative and (bound <= 0).all() and shape == x.shape:
            return x
        return self.maximum(x, self.constant(bound))

    def largest(self, x: Affine, axis: int) -> Affine:
        """Return the maximum along an axis, which goes away, by a tournament."""

        def part(first: int, last: int) -> Affine:
            at = (slice(None),) * (axis + 2) + (slice(first, last),)
            return self.linear(x, lambda a: a[at], moves=True)

        while (count := x.shape[axis]) > 1:
            half = count // 2
            best = self.maximum(part(0, half), part(half, 2 * half))
            x = self.concatenated([best, part(2 * half, count)], axis) if count % 2 else best
        return self.linear(x, lambda a: np.squeeze(a, axis + 2), moves=True)

    def chosen(self, difference: Affine, x: Affine, y: Affine) -> Affine:
        """Return ``x`` where the difference is positive and ``y`` where not, a continuous choice.

        Raises
        ------
        NetworkError
            If ``x - y`` is not a multiple of the difference in every entry.
        """
        gap = self.add(x, y, -1.0)
        ndim = max(len(gap.shape), len(difference.shape))
        sources = sorted({*gap.coefficients, *difference.coefficients})

        def factors(*own: Block) -> FloatArray:
            dots = squares = np.zeros(())
            worst = 0.0
            full = [blocks.raised(blocks.dense(c), 2, ndim) for c in own]
            pairs = list(zip(full[::2], full[1::2], strict=True))
            for a, b in pairs:
                dots, squares = dots + (a * b).sum(axis=1), squares + (b * b).sum(axis=1)
            factor: FloatArray = dots / np.where(squares > 0, squares, 1.0)
            for a, b in pairs:
                worst = max(worst, float(np.abs(a - factor[:, None] * b).max(initial=0.0)))
            size = max(float(np.abs(a).max(initial=0.0)) for a, _ in pairs)
            if not self.generic and worst > 1e-6 * size:
                raise NetworkError(
                    "chooses between two tensors that differ where the choice changes (by other"
                    " than a multiple of what is compared): the output would jump there"
                )
            return factor

        columns: list[Block] = [
            self.computed(lambda c: c[:, None], z.constant) for z in (gap, difference)
        ]
        for source in sources:
            found = [z.coefficients.get(source) for z in (gap, difference)]
            width = next(c.shape[1] for c in found if c is not None)
            for z, own in zip((gap, difference), found, strict=True):
                if own is None:
                    own = self.fixed(np.zeros((width, *z.shape)))
                columns.append(own)
        return self.add(y, self.scaled(self.relu(difference), self.computed(factors, *columns)))

    def network(self, output: Affine, link: Link = "identity") -> Network:
        """Return the network of one state with these outputs, in row-major order."""
        layers, before = [], self.width
        for depth, layer in enumerate(found := self.layers(output)):
            weights = {k: w if w.ndim == 2 else w[0] for k, w in layer.inputs}
            bias = layer.bias if layer.bias.ndim == 1 else layer.bias[0]
            main = weights.pop(depth - 1, None)
            if main is None:
                main = np.zeros((layer.width, before))
            kind: Activation = "linear" if depth == len(found) - 1 else "relu"
            layers.append(Layer(main, bias, kind, tuple(weights.items())))
            before = layer.width
        return Network(tuple(layers), link)

    def networks(self, output: Affine, states: int) -> ActionNetworks:
        """Return the networks of a batch of states with these outputs."""
        return ActionNetworks(self.layers(output), self.width, states)

    def layers(self, output: Affine) -> tuple[ActionLayer, ...]:
        """Return the groups that these outputs need as layers, and the output layer."""
        everything = np.ones(output.size, dtype=bool)
        weights = {
            k: self.computed(lambda c: blocks.rows_of(c, everything), own)
            for k, own in output.coefficients.items()
        }
        bias = self.computed(lambda c: c.reshape(len(c), -1), output.constant)
        groups = [*self._groups, _Group(weights, bias)]
        needed, sources = self.decide(lambda: _needed(groups, self.width, self.prune))
        depths: dict[int, int] = {INPUT: INPUT}
        for number in range(len(self._groups)):
            if needed[number].any():
                depths[number] = 1 + max(depths[k] for k in sources[number])
        last = max(depths.values()) + 1
        depths[len(groups) - 1] = last
        members: dict[int, list[int]] = {INPUT: [INPUT]}
        for number, depth in depths.items():
            if number != INPUT:
                members.setdefault(depth, []).append(number)
        return tuple(
            self._layer(members, depth, groups, needed, sources) for depth in range(last + 1)
        )

    def _layer(
        self,
        members: Mapping[int, list[int]],
        depth: int,
        groups: Sequence[_Group],
        needed: Mapping[int, BoolArray],
        sources: Sequence[Sequence[int]],
    ) -> ActionLayer:
        rows = members[depth]
        inputs = []
        for below in range(depth - 1, INPUT - 1, -1):
            found = {
                (i, j): groups[number].weights[source]
                for i, number in enumerate(rows)
                for j, source in enumerate(members[below])
                if source in sources[number] and source in groups[number].weights
            }
            if found:
                inputs.append((below, self._weight(found, rows, members[below], needed)))
        if not inputs:
            width = sum(int(needed[source].sum()) for source in members[depth - 1])
            height = sum(int(needed[number].sum()) for number in rows)
            inputs.append((depth - 1, self.computed(lambda: np.zeros((height, width)))))

        def biases(*own: FloatArray) -> FloatArray:
            states = max(map(len, own))
            parts = [
                np.broadcast_to(bias, (states, bias.shape[1]))[:, needed[number]]
                for number, bias in zip(rows, own, strict=True)
            ]
            joined = np.concatenate(parts, axis=1)
            return joined[0] if states == 1 else joined

        bias = self.computed(biases, *(groups[number].bias for number in rows))
        return ActionLayer(tuple(inputs), bias)

    def _weight(
        self,
        found: Mapping[tuple[int, int], Block],
        rows: Sequence[int],
        columns: Sequence[int],
        needed: Mapping[int, BoolArray],
    ) -> FloatArray:
        """Return the weight of one layer of those of another, (states,) outputs, inputs."""
        tops = np.cumsum([0, *(needed[number].sum() for number in rows)])
        lefts = np.cumsum([0, *(needed[source].sum() for source in columns)])
        whole = len(rows) == len(columns) == 1

        def joined(*own: Block) -> FloatArray:
            parts = [
                blocks.weight(block, needed[columns[j]], needed[rows[i]])
                for (i, j), block in zip(found, own, strict=True)
            ]
            states = max(map(len, parts))
            if whole:
                return parts[0][0] if states == 1 else parts[0]
            full = np.zeros((states, tops[-1], lefts[-1]))
            for (i, j), part in zip(found, parts, strict=True):
                full[:, tops[i] : tops[i + 1], lefts[j] : lefts[j + 1]] = part
            return full[0] if states == 1 else full

        self.reserve(int(tops[-1] * lefts[-1]))
        weight: FloatArray = self.computed(joined, *found.values())
        self._held += weight.nbytes
        return weight


def _needed(
    groups: Sequence[_Group], width: int, prune: bool
) -> tuple[dict[int, BoolArray], list[list[int]]]:
    """Return which neurons of each group the last needs, and the sources of each."""
    needed = {i: np.zeros(group.width, dtype=bool) for i, group in enumerate(groups)}
    needed[INPUT] = np.ones(width, dtype=bool)
    needed[len(groups) - 1][:] = True
    sources: list[list[int]] = [[] for _ in groups]
    for number in range(len(groups) - 1, -1, -1):
        rows = needed[number]
        for source, weight in groups[number].weights.items():
            if prune:
                used = blocks.used(weight, rows)
            else:
                used = np.full(weight.shape[1], bool(rows.any()))
            if used.any():
                sources[number].append(source)
                needed[source] |= used
        if rows.any() and not sources[number]:
            sources[number].append(INPUT)  # a constant
    return needed, sources


def balanced(function: Callable[[Affine, Affine], Affine], parts: Sequence[Affine]) -> Affine:
    """Reduce tensors in pairs, with the depth of a tournament."""
    parts = list(parts)
    while len(parts) > 2:
        pairs = [reduce(function, parts[i : i + 2]) for i in range(0, len(parts), 2)]
        parts = pairs
    return reduce(function, parts)
