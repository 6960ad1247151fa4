r"""The leaves of a tree ensemble as conjunctions of comparisons.

A leaf is reached where some comparisons :math:`x_f \le \theta` hold and others do not. Trees that
differ in the values of their leaves alone are added, so that many small trees over few inputs,
which is what boosting leaves after the state has pruned it, become few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.trees import TreeEnsemble

_MOST_ENTRIES = 500_000_000  # of the table of leaves and comparisons, one byte each


@dataclass(frozen=True, eq=False)
class Leaves:
    """The leaves of an ensemble, tree by tree.

    Parameters
    ----------
    feature, threshold
        The comparisons, ordered by input and then by threshold, shape (comparisons,).
    sign
        Of each leaf and comparison: 1 if it has to hold, -1 if it must not, 0 if it plays no part,
        shape (leaves, comparisons). What follows from others over the same input is said as well.
    tree
        Of each leaf, ascending, shape (leaves,).
    value
        Shape (leaves,).
    base
        Constant.
    """

    feature: IntArray
    threshold: FloatArray
    sign: NDArray[np.int8]
    tree: IntArray
    value: FloatArray
    base: float

    @property
    def n_trees(self) -> int:
        """Number of trees, none of which has one leaf alone."""
        return int(self.tree.max(initial=-1)) + 1

    def reached(self, x: FloatArray) -> BoolArray:
        """Return which leaves an input leads to, shape (leaves,)."""
        holds = np.where(x[self.feature] <= self.threshold, 1, -1)
        return np.asarray((self.sign * holds >= 0).all(axis=1))


def leaves_of(trees: TreeEnsemble) -> Leaves:
    """Return the leaves of an ensemble.

    Parameters
    ----------
    trees
        Pruned (:meth:`TreeEnsemble.restricted`).

    Raises
    ------
    NetworkError
        If there are so many that their table takes more than 500 MB.
    """
    inner = np.flatnonzero(trees.feature >= 0)
    pairs = np.stack([trees.feature[inner].astype(np.float64), trees.threshold[inner]], axis=1)
    found, number = np.unique(pairs, axis=0, return_inverse=True)
    feature, threshold = found[:, 0].astype(np.intp), found[:, 1]
    comparison = np.zeros(len(trees.feature), dtype=np.intp)
    comparison[inner] = number.reshape(-1)
    each = np.arange(len(feature))
    same = feature[:, None] == feature
    implied = (same & (each >= each[:, None]), same & (each <= each[:, None]))
    node, tree = trees.roots, np.arange(trees.n_trees)
    sign = np.zeros((len(node), len(feature)), dtype=np.int8)
    done: list[tuple[IntArray, IntArray, NDArray[np.int8]]] = []
    while len(node) or not done:
        leaf = trees.feature[node] < 0
        done.append((node[leaf], tree[leaf], sign[leaf]))
        node, tree, sign = node[~leaf], tree[~leaf], sign[~leaf]
        at = comparison[node]
        known = sign[np.arange(len(node)), at]
        parts = []
        for side, (holds, closure) in enumerate(zip((1, -1), implied, strict=True)):
            open_ = known != -holds
            own = np.where(closure[at[open_]], np.int8(holds), sign[open_])
            parts.append((trees.children[node[open_], side], tree[open_], own))
        node, tree, sign = (np.concatenate(part) for part in zip(*parts, strict=True))
        if (len(node) + sum(len(part[0]) for part in done)) * len(feature) > _MOST_ENTRIES:
            raise NetworkError(
                f"the trees have more than {len(node)} leaves over {len(feature)} comparisons,"
                " more than can be written as a table"
            )
    ends, tree, sign = (np.concatenate(part) for part in zip(*done, strict=True))
    order = np.argsort(tree, kind="stable")
    return _added(
        Leaves(feature, threshold, sign[order], tree[order], trees.value[ends[order]], trees.base)
    )


def _added(leaves: Leaves) -> Leaves:
    """Add up trees whose leaves have the same comparisons."""
    starts = np.searchsorted(leaves.tree, np.arange(leaves.n_trees + 1))
    slots: dict[bytes, int] = {}
    kept: list[slice] = []
    values: list[FloatArray] = []
    base = leaves.base
    for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        own = slice(first, last)
        if last - first == 1:
            base += float(leaves.value[first])
            continue
        slot = slots.setdefault(leaves.sign[own].tobytes(), len(kept))
        if slot == len(kept):
            kept.append(own)
            values.append(leaves.value[own].copy())
        else:
            values[slot] += leaves.value[own]
    none = np.zeros(0, dtype=np.intp)
    at = np.concatenate([none, *(np.arange(own.start, own.stop) for own in kept)])
    tree = np.repeat(np.arange(len(kept)), [len(v) for v in values])
    value = np.concatenate([np.zeros(0), *values])
    return Leaves(leaves.feature, leaves.threshold, leaves.sign[at], tree, value, base)
