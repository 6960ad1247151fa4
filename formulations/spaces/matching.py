"""The matching block: pairs of two sides, everybody in at most one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.checks import MOST_VARIABLES, check_binary, check_integer, check_texts
from milp_rl.formulations.kernels.description import CompiledOracle, MatchingOracle
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.listing import subsets_bound
from milp_rl.formulations.spaces.oracles.matching import (
    matching_number,
    maximum_matchings,
    pairs_in_matchings,
)
from milp_rl.formulations.spaces.pins import Pins

_MOST_IN_LOOPS = 32  # pairs


class Matching(ActionSpace):
    r"""Pairs of two sides, each in at most one pair: a bipartite matching.

    The variable :math:`x_{ij}` says whether i of the left side is paired with j of the right; the
    action is the matrix, row by row. With the eligible pairs E,

    .. math:: \sum_j x_{ij} \le 1, \quad \sum_i x_{ij} \le 1, \quad x_{ij} = 0 \; (ij \notin E),
              \quad p \le \sum_{ij} x_{ij} \le P .

    ``linear_max`` is exact, also under pins: an assignment problem (Kuhn, "The Hungarian method for
    the assignment problem", Naval Research Logistics Quarterly 2, 1955), solved by
    ``scipy.optimize.linear_sum_assignment``, with dummies where the number of pairs binds.

    Parameters
    ----------
    eligible
        Which pairs are allowed, boolean, shape (left, right).
    min_pairs
        Least number of pairs, at least 0.
    max_pairs
        Largest number of pairs; ``None`` for no limit of its own.
    left, right
        Names of the two sides for :meth:`decode`, distinct; ``None`` for their numbers.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is out of range or there are not ``min_pairs`` pairs to match.

    Examples
    --------
    >>> import milp_rl as mr
    >>> nurses, patients = ["Ada", "Ben"], ["x", "y", "z"]
    >>> space = mr.Matching([[1, 1, 0], [0, 1, 1]], left=nurses, right=patients)
    >>> space.linear_max([[1.0, 3.0, 9.0, 9.0, 2.5, 1.0]])  # Ada cannot visit z, nor Ben x
    array([4.])
    >>> space.decode(space.maximizers([[1.0, 3.0, 9.0, 9.0, 2.5, 1.0]])[0])
    [('Ada', 'y'), ('Ben', 'z')]
    >>> space.violations([0, 1, 0, 0, 1, 0])
    ["right 'y' is in 2 pairs, at most 1 allowed"]
    """

    def __init__(
        self,
        eligible: ArrayLike,
        min_pairs: int = 0,
        max_pairs: int | None = None,
        *,
        left: Iterable[str] | None = None,
        right: Iterable[str] | None = None,
    ) -> None:
        self.eligible = check_binary(eligible, "eligible", 2)
        shape = self.eligible.shape
        if not 0 < math.prod(shape) <= MOST_VARIABLES:
            raise ValueError(
                f"eligible has shape {shape}: 1 to {MOST_VARIABLES:,} pairs can be had"
            )
        self.min_pairs = check_integer(min_pairs, "min_pairs")
        self.max_pairs = None if max_pairs is None else check_integer(max_pairs, "max_pairs")
        self.left = _names(left, "left", shape[0])
        self.right = _names(right, "right", shape[1])
        self._complete = bool(self.eligible.all())
        self._most = min(shape) if self._complete else matching_number(self.eligible)
        if self.max_pairs is not None:
            self._most = min(self._most, self.max_pairs)
        if self.min_pairs > self._most:
            raise ValueError(
                f"no feasible action: at least {self.min_pairs} pairs are asked for, at most"
                f" {self._most} can be matched"
            )

    @property
    def n_actions(self) -> int:
        """Number of pairs, eligible or not."""
        return int(self.eligible.size)

    @property
    def exact(self) -> bool:
        """Always true."""
        return True

    @property
    def compiled_oracle(self) -> CompiledOracle | None:
        """The same matchings, where they are small enough to be found by exchanges."""
        return self._compiled_oracle if self._most <= _MOST_IN_LOOPS else None

    @cached_property
    def _compiled_oracle(self) -> CompiledOracle:
        head = [*self.eligible.shape, self.min_pairs, self._most]
        return MatchingOracle(np.concatenate([head, self.eligible.ravel()]).astype(int))

    def left_out_by(self, other: ActionSpace) -> BoolArray | None:
        """Return the pairs that are eligible here alone."""
        if not isinstance(other, Matching) or type(other) is not type(self):
            return None
        same = other.eligible.shape == self.eligible.shape
        same = same and (other.min_pairs, other.max_pairs) == (self.min_pairs, self.max_pairs)
        if not same or (other.eligible & ~self.eligible).any():
            return None
        return np.asarray(self.eligible & ~other.eligible).ravel()

    @property
    def down_closed(self) -> bool:
        """True without a least number of pairs."""
        return self.min_pairs == 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "type": "Matching",
            "eligible": self.eligible.astype(int).tolist(),
            "min_pairs": self.min_pairs,
            "max_pairs": self.max_pairs,
            "left": self.left,
            "right": self.right,
        }

    def encode(self, pairs: Iterable[Sequence[Any]]) -> ActionArray:
        """Return the action that matches the pairs given, by names where the sides have them."""
        action = np.zeros(self.eligible.shape, dtype=np.int8)
        for pair in pairs:
            if len(pair) != 2:
                raise ValueError(f"a pair has two entries, got {pair!r}")
            i = _place(pair[0], self.left, "left", 0, action)
            action[i, _place(pair[1], self.right, "right", 1, action)] = 1
        return action.reshape(-1)

    def decode(self, action: ArrayLike) -> list[tuple[Any, Any]]:
        """Return the pairs, by names where the sides have them."""
        return [
            (i if self.left is None else self.left[i], j if self.right is None else self.right[j])
            for i, j in np.argwhere(self._matrix(action)).tolist()
        ]

    def _matrix(self, action: ArrayLike) -> ActionArray:
        matrix: ActionArray = self.check_action(action).reshape(self.eligible.shape)
        return matrix

    def limits(self) -> dict[str, ActionSpace]:
        """Return the space for one pair more, where their number is limited."""
        if self.max_pairs is None or self.max_pairs >= min(self.eligible.shape):
            return {}
        return {"max_pairs": self._with(max_pairs=self.max_pairs + 1)}

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write a row for each of both sides, and the number of pairs where nothing implies it."""
        n, m = self.eligible.shape
        never = [a for a, may in zip(actions, self.eligible.flat, strict=True) if not may]
        if never:
            block.never = pyo.Constraint(expr=pyo.quicksum(never) <= 0)
        block.side = pyo.ConstraintList()
        lines = [[int(i * m + j) for j in np.flatnonzero(self.eligible[i])] for i in range(n)]
        columns = [[int(i * m + j) for i in np.flatnonzero(self.eligible[:, j])] for j in range(m)]
        for own, everybody in ((lines, n), (columns, m)):
            for line in own:
                total = pyo.quicksum(actions[k] for k in line)
                if self.min_pairs == everybody:
                    block.side.add(total == 1)
                elif len(line) > 1:
                    block.side.add(total <= 1)
        pairs = pyo.quicksum(a for a, may in zip(actions, self.eligible.flat, strict=True) if may)
        if 0 < self.min_pairs < min(n, m):
            block.least = pyo.Constraint(expr=pairs >= self.min_pairs)
        if self.max_pairs is not None and self.max_pairs < min(n, m) and self.eligible.any():
            block.most = pyo.Constraint(expr=pairs <= self.max_pairs)

    def violations(self, action: ArrayLike) -> list[str]:
        """Count the pairs of each of both sides, the pairs that may not be, and all."""
        x = self._matrix(action)
        found = []
        for side, names, counts in (
            ("left", self.left, x.sum(axis=1)),
            ("right", self.right, x.sum(axis=0)),
        ):
            found += [
                f"{side} {i if names is None else repr(names[i])} is in {counts[i]} pairs,"
                " at most 1 allowed"
                for i in np.flatnonzero(counts > 1).tolist()
            ]
        if (wrong := x.reshape(-1) * self._never).any():
            found += [f"{pair} is not eligible" for pair in self.decode(wrong)]
        pairs = int(x.sum())
        if pairs < self.min_pairs:
            found.append(f"{pairs} pairs, at least {self.min_pairs} are needed")
        if self.max_pairs is not None and pairs > self.max_pairs:
            found.append(f"{pairs} pairs, at most {self.max_pairs} allowed")
        return found

    @property
    def _never(self) -> ActionArray:
        return (~self.eligible).reshape(-1).astype(np.int8)

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Count for many actions."""
        x = actions.reshape(len(actions), *self.eligible.shape)
        pairs = x.sum(axis=(1, 2))
        most = min(self.eligible.shape) if self.max_pairs is None else self.max_pairs
        found = (x.sum(axis=1) <= 1).all(axis=1) & (x.sum(axis=2) <= 1).all(axis=1)
        found &= (pairs >= self.min_pairs) & (pairs <= most)
        return np.asarray(found & (actions @ self._never == 0))

    def _open(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell by the pair that was decided last, and whether enough pairs can still be had."""
        n, m = self.eligible.shape
        i, j = divmod(decided - 1, m)
        x = actions.reshape(len(actions), n, m)
        new = x[:, i, j] == 1
        found = ~new | ((x[:, i].sum(axis=1) <= 1) & (x[:, :, j].sum(axis=1) <= 1))
        if not self.eligible[i, j]:
            found &= ~new
        pairs = x.sum(axis=(1, 2))
        if self.max_pairs is not None:
            found &= pairs <= self.max_pairs
        if self.min_pairs:
            free = x[:, :, j + 1 :].sum(axis=1) == 0
            later = (x[:, i].sum(axis=1) == 0) & (free & self.eligible[i, j + 1 :]).any(axis=1)
            found &= pairs + later + (n - 1 - i) >= self.min_pairs
        return np.asarray(found)

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Solve the assignment problems."""
        pairs, found = self._best(c, pins)
        return np.where(found, (c * pairs).sum(axis=1), -np.inf)

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the matchings behind ``linear_max``."""
        return self._best(c, pins)[0].astype(np.float64)

    def _best(self, c: FloatArray, pins: Pins) -> tuple[BoolArray, BoolArray]:
        shape = (len(c), *self.eligible.shape)
        eligible = self.eligible
        if pins.zero is not None:
            eligible = eligible & ~pins.zero.reshape(shape)
        held = None if pins.one is None else pins.one.reshape(shape)
        pairs, found = maximum_matchings(
            c.reshape(shape), eligible, self.min_pairs, self._most, held
        )
        return pairs.reshape(c.shape), found

    def completable(self, action: ArrayLike) -> bool:
        """Whether the pairs are in one matching that is large enough."""
        return self._is_completable(self._matrix(action))

    def _is_completable(self, x: ActionArray) -> bool:
        if (x.sum(axis=0) > 1).any() or (x.sum(axis=1) > 1).any() or x[~self.eligible].any():
            return False
        missing = self.min_pairs - int(x.sum())
        if x.sum() > self._most or missing <= 0:
            return bool(x.sum() <= self._most)
        return matching_number(self._unmatched(x)) >= missing

    def _unmatched(self, x: ActionArray) -> BoolArray:
        """Return the eligible pairs of those who are in none."""
        free = (x.sum(axis=1) == 0)[:, None] & (x.sum(axis=0) == 0)
        return np.asarray(self.eligible & free)

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the pairs that are in a large enough matching with those of the action."""
        x = self._matrix(action)
        if not self._is_completable(x) or x.sum() >= self._most:
            return np.array([], dtype=np.intp)
        missing = self.min_pairs - int(x.sum())
        unmatched = self._unmatched(x)
        return np.flatnonzero(
            unmatched if missing <= 0 or self._complete else pairs_in_matchings(unmatched, missing)
        )

    def extension_masks(self, actions: ActionArray) -> tuple[BoolArray, BoolArray]:
        """Return the additions of many actions, by counting where any pair can be completed."""
        if not (self._complete or self.down_closed):
            return super().extension_masks(actions)
        x = actions.reshape(len(actions), *self.eligible.shape)
        left, right = x.sum(axis=2), x.sum(axis=1)
        fits = (left <= 1).all(axis=1) & (right <= 1).all(axis=1) & (actions @ self._never == 0)
        pairs = left.sum(axis=1)
        growing = fits & (pairs < self._most)
        masks = (left == 0)[:, :, None] & (right == 0)[:, None] & self.eligible
        masks &= growing[:, None, None]
        enough = fits & (pairs <= self._most) & (pairs >= self.min_pairs)
        return masks.reshape(actions.shape), np.asarray(enough)

    def sample(self, rng: np.random.Generator, n: int = 1, *, maximal: bool = False) -> ActionArray:
        """Draw a number of pairs, then the best matching of that size for random weights.

        Where all pairs are eligible they are uniform given their number.
        """
        low = self._most if maximal else self.min_pairs
        sizes = rng.integers(low, self._most + 1, size=n)
        drawn = np.zeros((n, *self.eligible.shape), dtype=np.int8)
        for x, size in zip(drawn, sizes.tolist(), strict=True):
            if self._complete:
                left, right = (rng.permutation(side)[:size] for side in x.shape)
                x[left, right] = 1
            else:
                weights = rng.random((1, *x.shape))
                x[:] = maximum_matchings(weights, self.eligible, size, size)[0][0]
        return drawn.reshape(n, self.n_actions)

    def _choosable(self) -> list[int]:
        """Return the eligible pairs."""
        return np.flatnonzero(self.eligible).tolist()

    @property
    def count_bound(self) -> float:
        """The number of sets of eligible pairs of a size that is allowed."""
        return subsets_bound(int(self.eligible.sum()), self.min_pairs, self._most)

    @property
    def counts_quickly(self) -> bool:
        """True where all pairs are eligible, by a closed form."""
        return self._complete or super().counts_quickly

    def count(self, limit: int = 100_000) -> int:
        """Count the matchings, in closed form where all pairs are eligible."""
        if not self._complete:
            return super().count(limit)
        n, m = self.eligible.shape
        sizes = range(self.min_pairs, self._most + 1)
        return sum(math.comb(n, k) * math.comb(m, k) * math.factorial(k) for k in sizes)


def _names(values: Iterable[str] | None, name: str, number: int) -> list[str] | None:
    if values is None:
        return None
    names = check_texts(values, name)
    if len(names) != number or len(set(names)) < number:
        raise ValueError(f"{name} must be {number} distinct names, got {names}")
    return names


def _place(label: Any, names: list[str] | None, side: str, axis: int, action: ActionArray) -> int:
    """Return the number of one of a side, given by its name or, without names, by it."""
    if names is not None:
        if label not in names:
            raise ValueError(f"{side} has no {label!r}; it has {names}")
        return names.index(label)
    return check_integer(label, side, 0, action.shape[axis] - 1)
