"""Coefficients of many affine expressions over one source, dense or sparse.

A block of a tensor of some shape over a source of some width is an array (states, width, *shape),
1 state where all share it, or, where most coefficients are zero, a :class:`Sparse` matrix that all
states share: convolutions and poolings of neurons that have just been made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray

_DENSE = 0.2  # share of entries from which on a matrix is no longer kept sparse
_SMALL = 2**16  # entries that are never worth a sparse matrix


@dataclass(frozen=True, eq=False)
class Sparse:
    """Coefficients as a matrix (entries of the tensor in row-major order, width of the source)."""

    matrix: Any
    entries: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that it stands for."""
        return (1, int(self.matrix.shape[1]), *self.entries)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return int(self.matrix.data.nbytes + self.matrix.indices.nbytes)

    def __len__(self) -> int:
        return 1


Block = FloatArray | Sparse


def unit(width: int, columns: IntArray, rows: IntArray, shape: tuple[int, ...]) -> Block:
    """Return the block in which some entries are one variable each."""
    size = math.prod(shape)
    if size * width <= _SMALL:
        dense = np.zeros((1, width, size))
        dense[0, columns, rows] = 1.0
        return dense.reshape(1, width, *shape)
    ones = np.ones(len(rows))
    return Sparse(sparse.csr_matrix((ones, (rows, columns)), shape=(size, width)), shape)


def _kept(matrix: Any, entries: tuple[int, ...]) -> Block:
    """Return a matrix as a block, dense if it is small or has few zeros."""
    if isinstance(matrix, np.ndarray):
        return np.ascontiguousarray(matrix.T).reshape(1, matrix.shape[1], *entries)
    size = matrix.shape[0] * matrix.shape[1]
    if size <= _SMALL or matrix.nnz > _DENSE * size:
        return _kept(matrix.toarray(), entries)
    return Sparse(matrix.tocsr(), entries)


def entries(block: Block) -> int:
    """Return how many numbers a block stores."""
    return int(block.matrix.nnz) if isinstance(block, Sparse) else block.size


def dense(block: Block) -> FloatArray:
    """Return the array that a block stands for."""
    if not isinstance(block, Sparse):
        return block
    full = block.matrix.toarray().T
    return np.ascontiguousarray(full).reshape(1, full.shape[0], *block.entries)


def moved(block: Block, function: Callable[[Any], Any]) -> Block:
    """Apply a function of (states, columns, *shape) that moves, repeats or leaves out entries."""
    if not isinstance(block, Sparse):
        return np.asarray(function(block))
    size = math.prod(block.entries)
    numbers = np.arange(1, size + 1).reshape(1, 1, *block.entries)
    places = np.asarray(function(numbers))[0, 0]  # 0 where there is no entry
    flat = places.reshape(-1)
    if not (flat > 0).all():
        zero = sparse.csr_matrix((1, block.matrix.shape[1]))
        return _kept(sparse.vstack([zero, block.matrix], "csr")[flat], places.shape)
    return _kept(block.matrix[flat - 1], places.shape)


def times(block: Block, matrix: Any, shape: tuple[int, ...]) -> Block:
    """Multiply a sparse block from the left by the matrix of a linear function."""
    assert isinstance(block, Sparse)
    return _kept(matrix @ block.matrix, shape)


def scaled(block: Block, factor: FloatArray, shape: tuple[int, ...]) -> Block:
    """Multiply entries by constants (states, *shape), both broadcast to the shape."""
    factor = raised(factor, 1, len(shape))
    if isinstance(block, Sparse) and len(factor) == 1:
        spread = spread_to(block, shape)
        if isinstance(spread, Sparse):
            diagonal = np.broadcast_to(factor[0], shape).reshape(-1)
            return _kept(sparse.diags_array(diagonal) @ spread.matrix, shape)
        block = spread
    return raised(dense(block), 2, len(shape)) * factor[:, None]


def added(a: Block, b: Block, sign: float) -> Block:
    """Return ``a + sign * b`` of blocks of one shape."""
    if isinstance(a, Sparse) and isinstance(b, Sparse):
        return _kept(a.matrix + sign * b.matrix, a.entries)
    x, y = dense(a), dense(b)
    return x + y if sign == 1 else x - y


def negative(block: Block) -> Block:
    """Return the negative."""
    if isinstance(block, Sparse):
        return Sparse(-block.matrix, block.entries)
    return -block


def spread_to(block: Block, shape: tuple[int, ...]) -> Block:
    """Broadcast to a shape."""
    if block.shape[2:] == shape:
        return block

    def spread(a: Any) -> Any:
        return np.broadcast_to(raised(a, 2, len(shape)), (*a.shape[:2], *shape)).copy()

    return moved(block, spread)


def concatenated(
    blocks: Sequence[Block | None], shapes: Sequence[tuple[int, ...]], axis: int
) -> Block:
    """Join blocks along an axis of their tensors, None for zeros."""
    present = [block for block in blocks if block is not None]
    width, states = present[0].shape[1], max(map(len, present))
    if any(isinstance(block, Sparse) for block in present) and states == 1:
        starts = np.cumsum([0, *map(math.prod, shapes)])
        places = np.concatenate(
            [
                np.arange(start, start + math.prod(shape)).reshape(shape)
                for start, shape in zip(starts[:-1], shapes, strict=True)
            ],
            axis=axis,
        )
        matrices = [
            sparse.csr_matrix((math.prod(shape), width)) if block is None else matrix_of(block)
            for block, shape in zip(blocks, shapes, strict=True)
        ]
        return _kept(sparse.vstack(matrices, "csr")[places.reshape(-1)], places.shape)
    full = [
        np.zeros((states, width, *shape))
        if block is None
        else np.broadcast_to(dense(block), (states, width, *shape))
        for block, shape in zip(blocks, shapes, strict=True)
    ]
    return np.concatenate(full, axis=axis + 2)


def matrix_of(block: Block) -> Any:
    """Return the matrix (entries, width) of a block that all states share."""
    if isinstance(block, Sparse):
        return block.matrix
    return sparse.csr_matrix(block.reshape(block.shape[1], -1).T)


def is_zero(block: Block) -> bool:
    """Whether all coefficients are zero."""
    return not (block.matrix.data.any() if isinstance(block, Sparse) else block.any())


def varying(block: Block) -> BoolArray:
    """Return which entries, in row-major order, have a coefficient that is not zero."""
    if isinstance(block, Sparse):
        return np.asarray(np.asarray(abs(block.matrix).sum(axis=1)).reshape(-1) != 0)
    return np.asarray((block.reshape(*block.shape[:2], -1) != 0).any(axis=(0, 1)))


def used(block: Block, rows: BoolArray) -> BoolArray:
    """Return which variables of the source some of the entries, of a flat tensor, depend on."""
    if isinstance(block, Sparse):
        own = block.matrix if rows.all() else block.matrix[rows]
        return np.asarray(np.asarray(abs(own).sum(axis=0)).reshape(-1) != 0)
    own = block if rows.all() else block[:, :, rows]
    return np.asarray((own != 0).any(axis=(0, 2)))


def rows_of(block: Block, kept: BoolArray) -> Block:
    """Return some entries, in row-major order, as those of a flat tensor."""
    if isinstance(block, Sparse):
        matrix = block.matrix if kept.all() else block.matrix[kept]
        return Sparse(matrix, (matrix.shape[0],))
    flat = block.reshape(*block.shape[:2], -1)
    return flat if kept.all() else flat[..., kept]


def weight(block: Block, columns: BoolArray, rows: BoolArray) -> FloatArray:
    """Return the weights (states, rows, columns) of a flat tensor."""
    if isinstance(block, Sparse):
        matrix = block.matrix if rows.all() else block.matrix[rows]
        return np.asarray((matrix if columns.all() else matrix[:, columns]).toarray())[None]
    if not (rows.all() and columns.all()):
        block = block[:, columns][:, :, rows]
    return np.swapaxes(block, 1, 2)


def raised(array: FloatArray, lead: int, ndim: int) -> FloatArray:
    """Give the shape after the leading axes as many axes as broadcasting asks for."""
    missing = ndim - (array.ndim - lead)
    return array.reshape(*array.shape[:lead], *(1,) * missing, *array.shape[lead:])
