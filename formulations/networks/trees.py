r"""Ensembles of decision trees: random forests and boosted trees as arrays.

The value of a tree ensemble is a constant plus a leaf of each tree,

.. math:: Q(x) = b + \sum_t v_{t, \ell_t(x)},

where :math:`\ell_t(x)` is found from the root of tree t by going left where :math:`x_f \le \theta`
and right where :math:`x_f > \theta`. Comparisons are of float64 numbers: a library that rounds its
inputs first, or scales them, or compares otherwise, compares as this does with other thresholds,
since all of that is monotone
(:mod:`milp_rl.formulations.networks.trees_columns`).
:func:`milp_rl.formulations.networks.trees_reader.read_trees` makes an ensemble of a scikit-learn
model or an ONNX file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray, check_vector
from milp_rl.formulations.networks.link import Link
from milp_rl.formulations.networks.network import NetworkError

_ENTRIES = 2_000_000  # pairs of a row and a tree that are evaluated at a time


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """A sum of decision trees with one output; inputs are [action, state].

    Parameters
    ----------
    feature
        The input that each node compares, -1 for a leaf, shape (nodes,).
    threshold
        Of each node, not NaN, shape (nodes,): ``x <= threshold`` goes left. A leaf's is not used.
    children
        Left and right child of each node, shape (nodes, 2); a leaf's are not used. Nodes may be
        shared by several parents.
    value
        Of each leaf, finite, shape (nodes,); another node's is not used.
    roots
        Of the trees, shape (trees,).
    n_inputs
        Number of inputs, at least 1.
    base
        Constant, finite.
    link
        What is applied to the sum (:mod:`milp_rl.formulations.networks.link`); everything here is
        without it.

    Raises
    ------
    NetworkError
        If a shape is wrong, an index out of range, a number not finite, or the nodes form a cycle.
    """

    feature: IntArray
    threshold: FloatArray
    children: IntArray
    value: FloatArray
    roots: IntArray
    n_inputs: int
    base: float = 0.0
    link: Link = "identity"

    def __repr__(self) -> str:
        ends = "" if self.link == "identity" else f", then {self.link}"
        nodes = len(self.feature)
        return f"TreeEnsemble({self.n_inputs} inputs, {self.n_trees} trees, {nodes} nodes{ends})"

    def __post_init__(self) -> None:
        feature = np.array(self.feature, dtype=np.intp)
        children = np.array(self.children, dtype=np.intp).reshape(-1, 2)
        threshold = np.array(self.threshold, dtype=np.float64)
        value = np.array(self.value, dtype=np.float64)
        roots = np.array(self.roots, dtype=np.intp)
        n = len(feature)
        shapes = [a.shape for a in (feature, threshold, value, children[:, 0])]
        if shapes != [(n,)] * 4 or roots.ndim != 1 or self.n_inputs < 1:
            raise NetworkError(
                "trees need a feature, a threshold, a value and two children for every node, roots"
                f" and at least one input; got shapes {shapes}, {roots.shape} and"
                f" {self.n_inputs} inputs"
            )
        leaf = feature < 0
        if (feature >= self.n_inputs).any():
            raise NetworkError(
                f"a tree compares input {int(feature.max())}, but there are {self.n_inputs} inputs"
            )
        if np.isnan(threshold[~leaf]).any():
            raise NetworkError("a threshold is NaN")
        for name, numbers in (("leaf value", value[leaf]), ("base value", np.array([self.base]))):
            if not np.isfinite(numbers).all():
                wrong = numbers[~np.isfinite(numbers)]
                raise NetworkError(f"{len(wrong)} {name}s are not finite, the first is {wrong[0]}")
        # Leaves lead to themselves, so that a pass takes as many steps as the deepest tree has.
        children[leaf] = np.flatnonzero(leaf)[:, None]
        feature[leaf], threshold[leaf], value[~leaf] = -1, 0.0, 0.0
        for indices in (children, roots):
            if indices.size and not 0 <= indices.min() <= indices.max() < n:
                raise NetworkError(f"a tree refers to a node out of 0 to {n - 1}")
        for name, array in (
            ("feature", feature),
            ("threshold", threshold),
            ("children", children),
            ("value", value),
            ("roots", roots),
        ):
            object.__setattr__(self, name, array)
        object.__setattr__(self, "base", float(self.base))
        _ = self.levels

    @property
    def n_outputs(self) -> int:
        """Number of outputs, 1."""
        return 1

    @property
    def layers(self) -> tuple[()]:
        """Layers of neurons: there are none."""
        return ()

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.roots)

    @cached_property
    def levels(self) -> list[IntArray]:
        """The nodes at each distance from a root, without repetition.

        Raises
        ------
        NetworkError
            If the nodes form a cycle.
        """
        return _levels(self.feature, self.children, self.roots)

    @property
    def largest(self) -> float:
        """Bound on the absolute value of the sum of leaves, without the constant."""
        reached = np.zeros(len(self.feature))
        for level in reversed(self.levels):
            inner = self.feature[level] >= 0
            below = reached[self.children[level]].max(axis=1, initial=0.0)
            reached[level] = np.where(inner, below, np.abs(self.value[level]))
        return float(reached[self.roots].sum())

    def forward(self, x: ArrayLike) -> FloatArray:
        """Evaluate the ensemble; sums are in float64.

        Parameters
        ----------
        x
            Inputs, finite, shape (..., n_inputs).

        Returns
        -------
        numpy.ndarray
            Shape (..., 1).
        """
        inputs = np.asarray(x, dtype=np.float64)
        if inputs.shape[-1:] != (self.n_inputs,):
            raise ValueError(f"the trees take {self.n_inputs} inputs, got shape {inputs.shape}")
        rows = inputs.reshape(-1, self.n_inputs)
        values = np.full(len(rows), self.base)
        size = max(_ENTRIES // max(self.n_trees, 1), 1)
        for i in range(0, len(rows) if self.n_trees else 0, size):
            own = rows[i : i + size]
            each = np.arange(len(own))[:, None]
            node = np.broadcast_to(self.roots, (len(own), self.n_trees))
            for _ in self.levels[1:]:
                right = own[each, self.feature[node]] > self.threshold[node]
                node = self.children[node, right.astype(np.intp)]
            values[i : i + size] += self.value[node].sum(axis=1)
        return values.reshape(*inputs.shape[:-1], 1)

    def at_state(self, state: ArrayLike) -> TreeEnsemble:
        """Fix the trailing inputs to ``state``: what they decide is pruned.

        Parameters
        ----------
        state
            Shape (state_dim,), finite; the inputs are [action, state].

        Returns
        -------
        TreeEnsemble
            As a function of the action alone, with ``n_inputs - state_dim`` inputs.
        """
        s = check_vector(state, "state")
        n_actions = self.n_inputs - len(s)
        if n_actions < 1:
            raise ValueError(
                f"a state of {len(s)} values leaves no action inputs: the trees take"
                f" {self.n_inputs} inputs, [action, state]"
            )
        free = np.full(n_actions, np.inf)
        fixed = self.restricted(np.concatenate([-free, s]), np.concatenate([free, s]))
        return fixed.leading(n_actions)

    def leading(self, n: int) -> TreeEnsemble:
        """Return the ensemble over its first ``n`` inputs, which are all that it compares."""
        return replace(self, n_inputs=n)

    def restricted(
        self, lower: ArrayLike, upper: ArrayLike, integer: BoolArray | None = None
    ) -> TreeEnsemble:
        """Return the ensemble over a box: without the splits that it decides.

        Splits with equal subtrees are left out as well, equal nodes are kept once, and trees that
        are a leaf are added to the constant.

        Parameters
        ----------
        lower, upper
            Bounds of the inputs, shape (n_inputs,).
        integer
            Which inputs are integer, shape (n_inputs,); their thresholds are rounded down.
        """
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        threshold = self.threshold
        if integer is not None:
            threshold = np.where(integer[self.feature], np.floor(threshold), threshold)
        inner = self.feature >= 0
        left = inner & (high[self.feature] <= threshold)
        right = inner & (low[self.feature] > threshold) & ~left
        each = np.arange(len(self.feature))
        ends = np.where(left, self.children[:, 0], np.where(right, self.children[:, 1], each))
        while True:
            further = ends[ends]
            if np.array_equal(further, ends):
                break
            ends = further
        return self._kept(threshold, ends[self.children], ends[self.roots], self.base)._merged()

    def _merged(self) -> TreeEnsemble:
        """Keep equal nodes once, and no split whose sides are equal; every node is reached."""
        height = np.zeros(len(self.feature), dtype=np.intp)
        for level in reversed(self.levels):
            inner = level[self.feature[level] >= 0]
            height[inner] = 1 + height[self.children[inner]].max(axis=1)
        same = np.arange(len(self.feature))  # of each node, the one that is kept for it
        splits = _codes(self.feature, _codes(self.threshold))
        for h in range(int(height.max(initial=-1)) + 1):
            own = np.flatnonzero(height == h)
            if h == 0:
                keys = _codes(self.value[own])
            else:
                pair = same[self.children[own]]
                equal = pair[:, 0] == pair[:, 1]
                same[own[equal]] = pair[equal, 0]
                own, pair = own[~equal], pair[~equal]
                keys = _codes(splits[own], _codes(pair[:, 0], pair[:, 1]))
            _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
            same[own] = own[first][inverse]
        roots = same[self.roots]
        constant = self.feature[roots] < 0
        base = self.base + float(self.value[roots[constant]].sum())
        return self._kept(self.threshold, same[self.children], roots[~constant], base)

    def _kept(
        self, threshold: FloatArray, children: IntArray, roots: IntArray, base: float
    ) -> TreeEnsemble:
        """Return the ensemble with other links, without the nodes that no tree reaches."""
        kept = np.zeros(len(self.feature), dtype=bool)
        for level in _levels(self.feature, children, roots):
            kept[level] = True
        number = np.cumsum(kept) - 1
        return TreeEnsemble(
            self.feature[kept],
            threshold[kept],
            number[children[kept]],
            self.value[kept],
            number[roots],
            self.n_inputs,
            base,
            self.link,
        )

    def reordered(self, order: IntArray) -> TreeEnsemble:
        """Return the ensemble whose input i is this one's input ``order[i]``."""
        feature = np.where(self.feature < 0, -1, np.argsort(order)[self.feature])
        return replace(self, feature=feature)

    def negated(self) -> TreeEnsemble:
        """Return the ensemble whose values are the negatives of these, without the link."""
        return replace(self, value=-self.value, base=-self.base, link="identity")


def _levels(feature: IntArray, children: IntArray, roots: IntArray) -> list[IntArray]:
    """Return the nodes at each distance from a root, without repetition."""
    found, level = [], np.unique(roots)
    while len(level):
        found.append(level)
        if len(found) > len(feature):
            raise NetworkError("the nodes of a tree form a cycle")
        level = np.unique(children[level[feature[level] >= 0]])
    return found


def joined(parts: Sequence[TreeEnsemble], base: float = 0.0) -> TreeEnsemble:
    """Return the sum of at least one ensemble over the same inputs, and a constant."""
    starts = np.cumsum([0, *(len(part.feature) for part in parts)])
    return TreeEnsemble(
        np.concatenate([part.feature for part in parts]),
        np.concatenate([part.threshold for part in parts]),
        np.concatenate([part.children + at for part, at in zip(parts, starts, strict=False)]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.roots + at for part, at in zip(parts, starts, strict=False)]),
        parts[0].n_inputs,
        base + sum(part.base for part in parts),
    )


def _codes(*keys: NDArray[np.float64] | IntArray) -> IntArray:
    """Return numbers that are equal where all keys are, shape (nodes,)."""
    code = np.zeros(len(keys[0]), dtype=np.intp)
    for key in keys:
        numbers = np.unique(key, return_inverse=True)[1]
        code = code * (int(numbers.max(initial=0)) + 1) + numbers
    return code
