r"""A tree ensemble as rows of a linear model, over the leaves of its trees.

Misic, "Optimization of tree ensembles" (Operations Research 68(5), 2020), equations 2: with
:math:`z_{t\ell}` for leaf :math:`\ell` of tree t and :math:`y_c` for the comparison
:math:`c: x_f \le \theta`,

.. math:: \max \; b + \sum_{t, \ell} v_{t\ell} z_{t\ell}, \qquad \sum_\ell z_{t\ell} = 1,
          \qquad \sum_{\ell \in L_t(c)} z_{t\ell} \le y_c,
          \qquad \sum_{\ell \in R_t(c)} z_{t\ell} \le 1 - y_c, \qquad z \ge 0,

where :math:`L_t(c)` are the leaves of tree t that only inputs with c reach, and :math:`R_t(c)`
those that only inputs without it reach, at whichever nodes of the tree c is compared. Leaves are
continuous: where all y are 0 or 1, they are as well. For a binary input, :math:`y_c = 1 - x_f`;
an integer one has a binary for each threshold, :math:`y_{f1} \le y_{f2} \le \dots`, with

.. math:: l + \sum_k d_k (1 - y_{fk}) \le x_f \le u - \sum_k e_k y_{fk},

where the steps d and e lead from the lower bound to each threshold plus 1, and from each threshold
to the next and to the upper bound. A tree with one split is a linear term, without rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.networks.trees_leaves import Leaves, leaves_of


@dataclass(frozen=True, eq=False)
class TreeModel:
    """A linear model of a set and a tree ensemble over it.

    Parameters
    ----------
    model
        The set's columns first (inputs leading), then the comparisons' of inputs that are not
        binary, then the leaves'. The objective is the ensemble.
    leaves
        What was written; trees of one split have no columns.
    n_inputs
        Number of inputs.
    literal
        The column of each comparison, -1 for that of a binary input, shape (comparisons,).
    columns
        The column of each leaf, -1 for those of trees of one split, shape (leaves,).
    highest, lowest
        Bounds of the ensemble: the best, and the worst, leaf of each tree.
    """

    model: LinearModel
    leaves: Leaves
    n_inputs: int
    literal: IntArray
    columns: IntArray
    highest: float
    lowest: float

    def complete(self, action: ArrayLike) -> FloatArray:
        """Extend an action to all columns.

        Returns
        -------
        numpy.ndarray
            Shape (columns,); NaN for the set's own auxiliary columns, which only a solver can
            fill in.
        """
        a = np.asarray(action, dtype=np.float64)
        x = np.full(self.model.n_columns, np.nan)
        x[: self.n_inputs] = a
        own = self.literal >= 0
        holds = a[self.leaves.feature] <= self.leaves.threshold
        x[self.literal[own]] = holds[own]
        kept = self.columns >= 0
        x[self.columns[kept]] = self.leaves.reached(a)[kept]
        return x


def tree_model(trees: TreeEnsemble, base: LinearModel) -> TreeModel:
    """Write a tree ensemble over the set ``base``.

    Parameters
    ----------
    trees
        A function of the actions alone (see :meth:`TreeEnsemble.at_state`).
    base
        The compiled set; its first columns are the ensemble's inputs, those that the trees compare
        integer and bounded.

    Raises
    ------
    ValueError
        If the trees compare a continuous input, or one without bounds: of the points at a
        threshold and just above it no solver can tell which is which.
    """
    n = trees.n_inputs
    integer = base.integer[:n]
    lower = np.where(integer, np.ceil(base.column_lower[:n]), base.column_lower[:n])
    upper = np.where(integer, np.floor(base.column_upper[:n]), base.column_upper[:n])
    over = trees.restricted(lower, upper, integer)
    check_inputs(over, integer & np.isfinite(lower) & np.isfinite(upper))
    return _written(leaves_of(over), base, lower, upper)


def check_inputs(trees: TreeEnsemble, allowed: BoolArray) -> None:
    """Raise ``ValueError`` if the trees compare an input that is not allowed."""
    used = np.unique(trees.feature[trees.feature >= 0])
    wrong = used[~allowed[used]]
    if len(wrong):
        raise ValueError(
            f"the trees compare input {wrong[0]}, which is continuous or has no bounds; an exact"
            " model of trees takes binary and bounded integer inputs alone, as no solver tells a"
            " threshold from the next larger number: fix it, or let it be integer"
        )


class _Rows:
    """Sparse rows while they are collected."""

    def __init__(self) -> None:
        self.entries: list[tuple[IntArray, IntArray, FloatArray]] = []
        self.lower: list[FloatArray] = []
        self.upper: list[FloatArray] = []
        self.count = 0

    def add(self, n: int, lower: FloatArray | float, upper: FloatArray | float) -> int:
        """Add ``n`` rows without entries; return the number of the first."""
        first, self.count = self.count, self.count + n
        self.lower.append(np.broadcast_to(np.asarray(lower, dtype=np.float64), (n,)))
        self.upper.append(np.broadcast_to(np.asarray(upper, dtype=np.float64), (n,)))
        return first

    def put(self, rows: IntArray, columns: IntArray, values: FloatArray | float) -> None:
        """Add entries."""
        self.entries.append((rows, columns, np.broadcast_to(values, rows.shape)))


def _written(leaves: Leaves, base: LinearModel, low: FloatArray, high: FloatArray) -> TreeModel:
    feature = leaves.feature
    own = high[feature] - low[feature] > 1  # comparisons that need a binary
    literal = np.full(len(feature), -1)
    literal[own] = base.n_columns + np.arange(int(own.sum()))
    # Each comparison as constant + slope * column.
    column = np.where(own, literal, feature)
    constant, slope = np.where(own, 0.0, high[feature]), np.where(own, 1.0, -1.0)

    sizes = np.bincount(leaves.tree, minlength=leaves.n_trees)
    linear = sizes[leaves.tree] == 2
    columns = np.full(len(leaves.tree), -1)
    columns[~linear] = base.n_columns + int(own.sum()) + np.arange(int((~linear).sum()))
    n_columns = base.n_columns + int(own.sum()) + int((~linear).sum())

    objective = np.zeros(n_columns)
    objective[columns[~linear]] = leaves.value[~linear]
    left, right = np.flatnonzero(linear).reshape(-1, 2).T
    sides = leaves.sign[left] * leaves.sign[right]
    at = np.argmin(sides, axis=1) if sides.size else left  # the one that tells them apart
    gain = (leaves.value[left] - leaves.value[right]) * leaves.sign[left, at]
    np.add.at(objective, column[at], gain * slope[at])
    without = np.where(leaves.sign[left, at] > 0, leaves.value[right], leaves.value[left])
    offset = leaves.base + float((without + gain * constant[at]).sum())

    rows = _Rows()
    _link(rows, leaves, own, literal, low, high)
    _choose(rows, leaves, columns, column, constant, slope)
    entries = [np.concatenate(part) for part in zip(*rows.entries, strict=True)]
    more = sparse.csr_array((entries[2], (entries[0], entries[1])), shape=(rows.count, n_columns))
    matrix = sparse.csr_array(
        (base.matrix.data, base.matrix.indices, base.matrix.indptr), shape=(base.n_rows, n_columns)
    )
    extra = n_columns - base.n_columns
    model = LinearModel(
        objective,
        offset,
        sparse.csr_array(sparse.vstack([matrix, more], format="csr")),
        np.concatenate([base.row_lower, *rows.lower]),
        np.concatenate([base.row_upper, *rows.upper]),
        np.concatenate([base.column_lower, np.zeros(extra)]),
        np.concatenate([base.column_upper, np.ones(extra)]),
        np.concatenate([base.integer, np.arange(extra) < int(own.sum())]),
    )
    best, worst = np.full(leaves.n_trees, -np.inf), np.full(leaves.n_trees, np.inf)
    np.maximum.at(best, leaves.tree, leaves.value)
    np.minimum.at(worst, leaves.tree, leaves.value)
    highest, lowest = (leaves.base + float(ends.sum()) for ends in (best, worst))
    return TreeModel(model, leaves, len(low), literal, columns, highest, lowest)


def _choose(
    rows: _Rows,
    leaves: Leaves,
    columns: IntArray,
    column: IntArray,
    constant: FloatArray,
    slope: FloatArray,
) -> None:
    """Write that each tree has one leaf, and what each comparison excludes."""
    kept = np.flatnonzero(columns >= 0)
    trees, tree = np.unique(leaves.tree[kept], return_inverse=True)
    first = rows.add(len(trees), 1.0, 1.0)
    rows.put(first + tree, columns[kept], 1.0)
    for holds in (1, -1):
        of, at = np.nonzero(leaves.sign[kept] == holds)
        key, row, size = np.unique(
            tree[of] * len(column) + at, return_inverse=True, return_counts=True
        )
        at = key % max(len(column), 1)
        # Equal sums at two thresholds of an input: one of the rows follows from the other.
        same = (np.diff(key) == 1) & (np.diff(size) == 0) & (np.diff(leaves.feature[at]) == 0)
        wanted = np.ones(len(key), dtype=bool)
        wanted[np.flatnonzero(same) + (1 if holds > 0 else 0)] = False
        number = np.cumsum(wanted) - 1
        literal = at[wanted]
        # The leaves' sum is at most the literal, constant + slope * column, or one minus it.
        right = constant[literal] if holds > 0 else 1.0 - constant[literal]
        first = rows.add(len(literal), -np.inf, right)
        rows.put(first + number[row[wanted[row]]], columns[kept[of[wanted[row]]]], 1.0)
        rows.put(first + np.arange(len(literal)), column[literal], -holds * slope[literal])


def _link(
    rows: _Rows,
    leaves: Leaves,
    own: BoolArray,
    literal: IntArray,
    low: FloatArray,
    high: FloatArray,
) -> None:
    """Write what the binaries of an integer input say of it."""
    for f in np.unique(leaves.feature[own]):
        mine = np.flatnonzero(leaves.feature == f)  # thresholds ascending
        at, y = leaves.threshold[mine], literal[mine]
        order = rows.add(len(mine) - 1, -np.inf, 0.0)
        each = order + np.arange(len(mine) - 1)
        rows.put(each, y[:-1], 1.0)
        rows.put(each, y[1:], -1.0)
        steps = np.diff(at, append=high[f])
        first = rows.add(1, -np.inf, high[f])
        rows.put(np.full(len(y) + 1, first), np.append(y, f), np.append(steps, 1.0))
        steps = np.diff(at, prepend=low[f] - 1.0)
        first = rows.add(1, low[f] + steps.sum(), np.inf)
        rows.put(np.full(len(y) + 1, first), np.append(y, f), np.append(steps, 1.0))
