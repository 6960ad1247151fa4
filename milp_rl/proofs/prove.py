"""Make a proof of an answer: a tree whose every leaf the checker itself bounds by the target.

The search takes branchings, slopes and multipliers from branch and bound, but bounds of parts from
the checker alone, so that what it closes is closed for good.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.proofs.arithmetic import Rounded
from milp_rl.proofs.check import Checker, network_at
from milp_rl.proofs.proof import BOUND, EMPTY, VIOLATION, Proof, Sense, network_hash, space_text
from milp_rl.proofs.relaxation import Parts
from milp_rl.solvers.branch_and_bound.branching import branchings, choose, divide
from milp_rl.solvers.branch_and_bound.node_bounds import NodeBounds
from milp_rl.solvers.branch_and_bound.nodes import Maximum, Nodes

_TOGETHER = 64  # nodes
_STEPS = 12  # of slopes and multipliers
_LEAF = -1
_BITS = 7  # of slopes and multipliers


class NotProvenError(RuntimeError):
    """An answer that could not be proven within the limits."""


@dataclass
class _Node:
    """A node of the tree: what it is divided by and its parts, or what closes it."""

    split: int = _LEAF
    first: _Node | None = None
    second: _Node | None = None
    reason: int = BOUND
    slopes: FloatArray | None = None
    multipliers: FloatArray | None = None


def prove(
    value: ActionValue,
    space: ActionSpace,
    state: FloatArray,
    action: ActionArray,
    target: float,
    *,
    sense: Sense = "maximize",
    deadline: float = math.inf,
) -> Proof:
    """Prove that no feasible action is above the target.

    Parameters
    ----------
    value
        Q, not its negative.
    space, state
        Of binary actions.
    action
        A feasible action, whose value is stated.
    target
        The bound to prove, in the given sense.

    Raises
    ------
    ValueError
        If there are no proofs for the network or the space.
    NotProvenError
        If the deadline ends, or a part within the set is above the target.
    """
    network, left = network_at(value, state)
    sign = -1.0 if sense == "minimize" else 1.0
    checker = Checker(network, space, left, sign, Rounded())
    folded = ActionNetworks.of(network.at_state(left) if len(left) else network)
    search = _Search(checker, folded if sign > 0 else folded.negated(), sign * target, deadline)
    splits, leaves, bound = search.run()
    neurons = checker.network.neurons
    none = np.zeros(neurons)
    proof = Proof(
        network=network_hash(network),
        space=space_text(space.to_dict()),
        sense=sense,
        state=np.array(state, dtype=np.float64),
        action=action.astype(np.int8),
        value=sign * checker.least_value(action),
        bound=sign * bound,
        splits=np.array(splits, dtype=np.int32),
        slopes=_table([none if leaf.slopes is None else leaf.slopes for leaf in leaves], neurons),
        multipliers=_table(
            [none if leaf.multipliers is None else leaf.multipliers for leaf in leaves], neurons
        ),
        reasons=np.array([leaf.reason for leaf in leaves], dtype=np.int8),
    )
    checker.check_value(proof.action, sign * proof.value)
    checker.check_tree(proof, sign * proof.bound)
    return proof


def _table(
    rows: list[FloatArray], neurons: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(rows, dtype=np.float32).reshape(len(rows), neurons)


def _short(values: FloatArray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Round to a few bits: any slopes and multipliers will do, and short ones make small files."""
    fraction, exponent = np.frexp(values)
    short = np.ldexp(np.rint(fraction * 2.0**_BITS), exponent - _BITS)
    return np.asarray(short, dtype=np.float32)


class _Search:
    def __init__(
        self, checker: Checker, networks: ActionNetworks, target: float, deadline: float
    ) -> None:
        self.checker, self.target, self.deadline = checker, target, deadline
        root = checker.root
        layers = checker.network.layers
        self.start = Bounds(
            tuple(root.low[:, layer] for layer in layers),
            tuple(root.high[:, layer] for layer in layers),
            np.full((1, 1), -np.inf),
            np.full((1, 1), np.inf),
            np.zeros(1),
        )
        self.bounds = NodeBounds(networks, checker.space, self.start)
        self.offset = float(networks.layers[-1].bias.ravel()[0])
        self.highest = -math.inf

    def run(self) -> tuple[list[int], list[_Node], float]:
        """Return the tree in preorder, its leaves, and the highest bound of a leaf."""
        root = _Node()
        nodes = Nodes.roots(self.start, self.checker.space.n_actions)
        waiting = [(root, nodes)]
        while waiting:
            if time.perf_counter() > self.deadline:
                raise NotProvenError(f"the time ended with {len(waiting)} parts to be proven")
            taken = waiting[-_TOGETHER:]
            del waiting[-_TOGETHER:]
            together = Nodes(
                *(np.concatenate([getattr(own, name) for _, own in taken]) for name in vars(nodes))
            )
            waiting += self._expand([node for node, _ in taken], together)
        splits: list[int] = []
        leaves: list[_Node] = []
        stack = [root]
        while stack:
            node = stack.pop()
            splits.append(node.split)
            if node.first is None or node.second is None:
                leaves.append(node)
            else:
                stack += [node.second, node.first]
        return splits, leaves, self.highest

    def _expand(self, tree: list[_Node], nodes: Nodes) -> list[tuple[_Node, Nodes]]:
        """Close nodes or divide them; return the parts that they are divided into."""
        parts = Parts(nodes.one, nodes.zero, nodes.split)
        ranges = self.checker.network.ranges(parts, self.checker.root)
        nodes.low[:], nodes.high[:] = ranges.low, ranges.high
        targets = np.full(len(nodes), self.target)
        maximum = self.bounds.maximize(nodes, targets, steps=_STEPS)
        slopes = _short(np.clip(nodes.alpha, 0.0, 1.0))
        decided = np.all(nodes.one | nodes.zero, axis=1)  # all neurons are known: nothing to relax
        multipliers = _short(np.where(decided[:, None], 0.0, nodes.beta))
        proven = self.checker.network.bounds(
            parts, ranges, slopes.astype(np.float64), multipliers.astype(np.float64)
        )
        open_ = np.zeros(len(nodes), dtype=bool)
        for i, node in enumerate(tree):
            if ranges.empty[i]:
                node.reason = EMPTY
            elif proven[i] <= self.target:
                node.slopes, node.multipliers = slopes[i], multipliers[i]
                self.highest = max(self.highest, float(proven[i]))
            elif self.checker.violated(nodes.one[i], nodes.zero[i]):
                node.reason = VIOLATION
            elif decided[i]:
                raise NotProvenError(
                    f"the feasible action {np.flatnonzero(nodes.one[i]).tolist()} is bounded by"
                    f" {proven[i]} only, above the {self.target} that is to be proven"
                )
            else:
                open_[i] = True
        if not open_.any():
            return []
        nodes.bound[:] = proven
        left = [node for node, divided in zip(tree, open_, strict=True) if divided]
        return self._divide(left, nodes[open_], maximum.at(open_))

    def _divide(
        self, tree: list[_Node], nodes: Nodes, maximum: Maximum
    ) -> list[tuple[_Node, Nodes]]:
        """Divide nodes where strong branching says."""
        targets = np.full(len(nodes), self.target)
        chosen = branchings(nodes, maximum, self.bounds, targets)
        children, candidates = divide(nodes, chosen)
        count = len(candidates.of)
        tried = self.bounds.maximize(children, np.full(2 * count, self.target), steps=1)
        kept, candidates = choose(
            candidates, tried.bound, np.full(count, self.target), of_each_kind=True
        )
        children, count = children[kept], len(candidates.of)
        ranges = self.checker.network.ranges(
            Parts(children.one, children.zero, children.split), self.checker.root
        )
        children.low[:], children.high[:] = ranges.low, ranges.high
        tried = self.bounds.maximize(children, np.full(2 * count, self.target), steps=1)
        tried.bound[ranges.empty] = -np.inf
        best, _ = choose(candidates, tried.bound, np.full(count, self.target))
        found = []
        for at in np.flatnonzero(best[:count]):
            parent = int(candidates.of[at])
            node = tree[parent]
            held = np.concatenate([children.one[at], children.split[at] > 0])
            before = np.concatenate([nodes.one[parent], nodes.split[parent] > 0])
            node.split = int(np.flatnonzero(held & ~before)[0])
            node.first, node.second = _Node(), _Node()
            for child, row in ((node.first, at), (node.second, count + at)):
                found.append((child, children[np.array([row])]))
        return found
