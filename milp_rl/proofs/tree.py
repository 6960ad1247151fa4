"""The search for a proof: a tree whose every leaf the checker itself bounds by the target.

A part is closed by what the check would compute of it; slopes, multipliers and dual values come
from a linear program. A part that stays open is divided where that lowers the bounds of both its
halves most, of a few variables and neurons that are tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.proofs.check import Checker, halves
from milp_rl.proofs.programs import Prices, Programs
from milp_rl.proofs.proof import BOUND, EMPTY, VIOLATION
from milp_rl.proofs.relaxation import Parts, Ranges

_TOGETHER = 16  # parts
_TRIED = 8  # variables, and as many neurons, of each part
_LITTLE = 0.01  # of what is to be proven
_LEAF = -1
_BITS = 7  # of slopes and multipliers


class NotProvenError(RuntimeError):
    """An answer that could not be proven within the limits."""


@dataclass
class Node:
    """A node of the tree: what it is divided by and its parts, or what closes it."""

    part: Parts | None = None  # as long as it is open,
    ranges: Ranges | None = None  # with its neurons' ranges
    at: int = _LEAF  # what it is a part by,
    parent: Node | None = None  # and of,
    prices: Prices | None = None  # what its program gives,
    numbers: list[FloatArray] = field(default_factory=list)  # as stored,
    bound: float = math.inf  # and the bound with them
    split: int = _LEAF
    first: Node | None = None
    second: Node | None = None
    reason: int = BOUND
    slopes: FloatArray | None = None
    multipliers: FloatArray | None = None
    duals: FloatArray | None = None


class Search:
    """The search of one proof.

    Parameters
    ----------
    checker
        Of the network, the feasible set and the state, in float64.
    target
        The bound to prove of what the checker maximises.
    deadline
        Of ``time.perf_counter``.
    """

    def __init__(self, checker: Checker, target: float, deadline: float) -> None:
        self.checker, self.target, self.deadline = checker, target, deadline
        self.network, self.rows = checker.network, checker.rows
        self.programs = Programs(checker.network)
        divided = self.rows.whole.copy()
        divided[: checker.space.n_actions] = True
        self.divided = np.flatnonzero(divided)
        self.highest = -math.inf

    def run(self) -> tuple[list[int], list[Node]]:
        """Return the tree in preorder and its leaves.

        Raises
        ------
        NotProvenError
            If the deadline ends, or a part within the set is above the target.
        """
        root = Node(self.checker.whole, self.checker.root)
        expand_all(root, self._expand, _TOGETHER, self.deadline)
        return preorder(root)

    def _expand(self, nodes: list[Node]) -> list[Node]:
        """Close nodes or divide them; return the parts that they are divided into."""
        parts = joined([node.part for node in nodes if node.part is not None])
        ranges = stacked([node.ranges for node in nodes if node.ranges is not None])
        tried: list[Node] = []
        for i, node in enumerate(nodes):
            if ranges.empty[i]:
                node.reason, node.part = EMPTY, None
            elif self.checker.violated(parts.low[i], parts.high[i]):
                node.reason, node.part = VIOLATION, None
            elif not self._closed(node):
                tried += self._candidates(node)
        return self._divided(nodes, tried)

    def _price(self, node: Node) -> None:
        """Solve the program of a part and bound it by what that gives."""
        part, ranges = node.part, node.ranges
        assert part is not None
        assert ranges is not None
        slopes = np.where(ranges.high > -ranges.low, 1.0, 0.0)
        node.numbers = [slopes, 0.0 * slopes, np.zeros((1, len(self.rows.matrix)))]
        node.prices = self.programs.solve(
            (part.low[0], part.high[0]),
            (ranges.low[0], ranges.high[0]),
            part.split[0],
            self.target,
        )
        if node.prices is not None:
            own = (node.prices.slopes, node.prices.multipliers, node.prices.duals)
            node.numbers = [stored(each)[None] for each in own]
        node.bound = float(self.network.bounds(part, ranges, *node.numbers)[0])

    def _closed(self, node: Node) -> bool:
        """Close a part if it is bounded by the target, by short numbers if these will do."""
        if not node.numbers:
            self._price(node)
        part, ranges = node.part, node.ranges
        assert part is not None
        assert ranges is not None
        if node.bound > self.target:
            n = self.checker.space.n_actions
            if (part.low < part.high).any() or self._unstable(part, ranges).any():
                return False
            check_only_rounded(self.checker, part.low[0, :n], node.bound, self.target)
        short = [short_stored(each) for each in node.numbers[:2]]
        none = 0.0 * node.numbers[2]
        for numbers in ([*short, none], [*short, node.numbers[2]], node.numbers):
            bound = float(self.network.bounds(part, ranges, *numbers)[0])
            if bound <= max(self.target, node.bound):
                node.slopes, node.multipliers, node.duals = (own[0] for own in numbers)
                break
        node.part, self.highest = None, max(self.highest, bound)
        return True

    def _candidates(self, node: Node) -> list[Node]:
        """Return the parts of a division at a variable and of one at a neuron.

        The variable is told by bounds with the ranges and prices of the node, the neuron by what
        its relaxation costs.
        """
        part, ranges, prices = node.part, node.ranges, node.prices
        assert part is not None
        assert ranges is not None
        width = (part.high - part.low)[0, self.divided]
        reach = np.maximum(self.rows.reach[self.divided], 1e-300)
        unstable = self._unstable(part, ranges)
        off, gaps = 1e-3 * width / reach, np.minimum(-ranges.low[0], ranges.high[0])
        if prices is not None:
            x = prices.x[self.divided]
            off = off + np.where(self.rows.whole[self.divided], np.abs(x - np.rint(x)), 0.0)
            gaps = prices.gaps + 1e-9 * gaps
        columns, neurons = _largest(off, width > 0), _largest(gaps, unstable)
        found = []
        if len(columns):
            numbers = self.divided[columns].tolist()
            children = joined([half for at in numbers for half in self._halves(part, at)])
            near = ranges.at(np.zeros(len(children), dtype=np.intp))
            copied = [np.repeat(own, len(children), axis=0) for own in node.numbers]
            bounds = self.network.bounds(children, near, *copied)
            found.append(numbers[int(np.argmax(self._gains(bounds, node.bound)))])
        if len(neurons):
            found.append(len(self.rows.whole) + int(neurons[0]))
        return [Node(half, at=at, parent=node) for at in found for half in self._halves(part, at)]

    @staticmethod
    def _unstable(part: Parts, ranges: Ranges) -> BoolArray:
        """Mark the neurons of a part that can be divided."""
        return np.asarray((ranges.low[0] < 0) & (ranges.high[0] > 0) & (part.split[0] == 0))

    def _divided(self, nodes: list[Node], tried: list[Node]) -> list[Node]:
        """Divide nodes, each where its parts have the lowest bounds; return these."""
        if not tried:
            return []
        parts = joined([child.part for child in tried if child.part is not None])
        ranges = self.network.ranges(parts, self.checker.root)
        for i, child in enumerate(tried):
            child.ranges = ranges.at([i])
            if ranges.empty[i]:
                child.bound = -math.inf
            else:
                self._price(child)
        found: list[Node] = []
        for node in nodes:
            own = [child for child in tried if child.parent is node]
            if not own:
                continue
            gains = self._gains(np.array([child.bound for child in own]), node.bound)
            best = 2 * int(np.argmax(gains))
            node.first, node.second = own[best : best + 2]
            node.split = node.first.at
            node.part, node.ranges, node.prices, node.numbers = None, None, None, []
            found += [node.first, node.second]
        for child in found:
            child.parent = None
        return found

    def _gains(self, bounds: FloatArray, bound: float) -> FloatArray:
        """Return how good divisions are, of the bounds of their two parts each.

        The product of what the two are better by, as shares of what is to be proven.
        """
        size = max(bound - self.target, 1e-300)
        gains = np.clip((bound - bounds.reshape(-1, 2)) / size, 0.0, 1.0)
        return np.asarray(np.prod(_LITTLE + gains, axis=1))

    def _halves(self, part: Parts, at: int) -> list[Parts]:
        own = halves(part.low[0], part.high[0], part.split[0], at, self.rows)
        return [Parts(low[None], high[None], split[None]) for low, high, split in own]


_T = TypeVar("_T")


def expand_all(
    root: _T, expand: Callable[[list[_T]], list[_T]], together: int, deadline: float
) -> None:
    """Expand a part and those that it is divided into, the newest first, some at a time.

    Raises
    ------
    NotProvenError
        If the deadline ends.
    """
    waiting = [root]
    while waiting:
        if time.perf_counter() > deadline:
            raise NotProvenError(f"the time ended with {len(waiting)} parts to be proven")
        taken = waiting[-together:]
        del waiting[-together:]
        waiting += expand(taken)


def check_only_rounded(checker: Checker, action: FloatArray, bound: float, target: float) -> None:
    """Raise unless it is for rounding alone that an action's bound is above the target.

    Its value is then not shown to be above; the bound that the proof states is.
    """
    least = checker.least_value(action)
    if not (np.isfinite(bound) and least <= target):
        raise NotProvenError(
            f"the value of the feasible action {action.tolist()} is from {least} to {bound}, above"
            f" the {target} that is to be proven"
        )


def _largest(values: FloatArray, allowed: BoolArray) -> IntArray:
    """Return where the largest allowed values are, a few."""
    found = np.flatnonzero(allowed)
    return found[np.argsort(-values[found], kind="stable")[:_TRIED]]


def preorder(root: Node) -> tuple[list[int], list[Node]]:
    """Return what the nodes of a tree are divided by, in preorder, and its leaves."""
    splits: list[int] = []
    leaves: list[Node] = []
    stack = [root]
    while stack:
        node = stack.pop()
        splits.append(node.split)
        if node.first is None or node.second is None:
            leaves.append(node)
        else:
            stack += [node.second, node.first]
    return splits, leaves


def joined(parts: list[Parts]) -> Parts:
    """Return parts as one."""
    low, high = (np.concatenate([getattr(p, k) for p in parts]) for k in ("low", "high"))
    return Parts(low, high, np.concatenate([p.split for p in parts]))


def stacked(ranges: list[Ranges]) -> Ranges:
    """Return ranges of several parts as one."""
    low, high = (np.concatenate([getattr(r, k) for r in ranges]) for k in ("low", "high"))
    return Ranges(low, high, np.concatenate([r.empty for r in ranges]))


def stored(values: FloatArray) -> FloatArray:
    """Round to what a proof stores."""
    return values.astype(np.float32).astype(np.float64)


def short_stored(values: FloatArray) -> FloatArray:
    """Round to a few bits: any slopes and multipliers will do, and short ones make small files."""
    fraction, exponent = np.frexp(values)
    return stored(np.ldexp(np.rint(fraction * 2.0**_BITS), exponent - _BITS))
