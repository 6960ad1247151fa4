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
from milp_rl.formulations.networks.layering import Group, Layering
from milp_rl.formulations.networks.link import Link
from milp_rl.formulations.networks.network import INPUT, Activation, Network, NetworkError
from milp_rl.formulations.networks.repetition import Repetition

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


class Lowering(Repetition):
    """Groups of neurons, and the operators that make them.

    Parameters
    ----------
    width
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
        super().__init__(most, repeated)
        self.width = width
        self.prune = prune
        self._groups: list[Group] = []
        self._rectified: WeakKeyDictionary[Affine, Affine] = WeakKeyDictionary()

    def again(self) -> None:
        """Start over, with the decisions that were made and the arrays that no state changes."""
        super().again()
        self._groups = []
        self._rectified = WeakKeyDictionary()

    def constant(self, values: ArrayLike) -> Affine:
        """Return a tensor of constants that are the same in all states."""
        return Affine(self.fixed(values))

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
        self._groups.append(self._group(x.coefficients, x.constant, kept))
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
        for depth, layer in enumerate(found := self._layers(output)):
            kind: Activation = "linear" if depth == len(found) - 1 else "relu"
            layers.append(layer.at(0, depth, before, kind))
            before = layer.width
        return Network(tuple(layers), link)

    def networks(self, output: Affine, states: int) -> ActionNetworks:
        """Return the networks of a batch of states with these outputs."""
        return ActionNetworks(self._layers(output), self.width, states)

    def _layers(self, output: Affine) -> tuple[ActionLayer, ...]:
        everything = np.ones(output.size, dtype=bool)
        last = self._group(output.coefficients, output.constant, everything)
        return Layering(self, [*self._groups, last], self.width, self.prune).layers()

    def _group(
        self, coefficients: Mapping[int, Block], constant: FloatArray, kept: BoolArray
    ) -> Group:
        """Return some entries of a tensor as a group."""
        weights: dict[int, Block] = {}
        for source, own in coefficients.items():
            if not (kept.all() or isinstance(own, Sparse)):
                self.reserve(own.size)
            weights[source] = self.computed(lambda c: blocks.rows_of(c, kept), own)
        bias = self.computed(lambda c: c.reshape(len(c), -1)[:, kept], constant)
        self.hold(sum(block.nbytes for block in weights.values()))
        return Group(weights, bias)


def balanced(function: Callable[[Affine, Affine], Affine], parts: Sequence[Affine]) -> Affine:
    """Reduce tensors in pairs, with the depth of a tournament."""
    parts = list(parts)
    while len(parts) > 2:
        pairs = [reduce(function, parts[i : i + 2]) for i in range(0, len(parts), 2)]
        parts = pairs
    return reduce(function, parts)
