"""The search for a proof over binary actions, with the bounds and branching of branch and bound.

What a part is divided by, slopes and multipliers are those of branch and bound, whose oracles know
the feasible set best; bounds of parts are the checker's alone, so that what is closed is closed for
good. Dual values of the rows are of a linear program, where those that the check finds do not do.
"""

from __future__ import annotations

import math

import numpy as np

from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.proofs.check import Checker
from milp_rl.proofs.programs import row_duals
from milp_rl.proofs.proof import EMPTY, VIOLATION
from milp_rl.proofs.relaxation import Parts
from milp_rl.proofs.tree import (
    Node,
    check_only_rounded,
    expand_all,
    preorder,
    short_stored,
    stored,
)
from milp_rl.solvers.branch_and_bound.branching import Branching, branchings, choose, divide
from milp_rl.solvers.branch_and_bound.node_bounds import NodeBounds
from milp_rl.solvers.branch_and_bound.nodes import Maximum, Nodes

_TOGETHER = 64  # nodes
_STEPS = 12  # of slopes and multipliers


class BinarySearch:
    """The search of one proof; parameters as for :class:`.tree.Search`."""

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

    def run(self) -> tuple[list[int], list[Node]]:
        """Return the tree in preorder and its leaves; errors as of :meth:`.tree.Search.run`."""
        root = Node()
        whole = Nodes.roots(self.start, self.checker.space.n_actions)
        expand_all((root, whole), self._expand, _TOGETHER, self.deadline)
        return preorder(root)

    def _expand(self, taken: list[tuple[Node, Nodes]]) -> list[tuple[Node, Nodes]]:
        """Close nodes or divide them; return the parts that they are divided into."""
        tree = [node for node, _ in taken]
        names = vars(taken[0][1])
        nodes = Nodes(*(np.concatenate([getattr(own, name) for _, own in taken]) for name in names))
        parts = self._parts(nodes)
        ranges = self.checker.network.ranges(parts, self.checker.root)
        nodes.low[:], nodes.high[:] = ranges.low, ranges.high
        targets = np.full(len(nodes), self.target)
        maximum = self.bounds.maximize(nodes, targets, steps=_STEPS)
        decided = np.all(nodes.one | nodes.zero, axis=1)  # all neurons are known: nothing to relax
        slopes = short_stored(np.clip(nodes.alpha, 0.0, 1.0))
        multipliers = short_stored(np.where(decided[:, None], 0.0, nodes.beta))
        network = self.checker.network
        c, constant = network.output(ranges, slopes, multipliers)
        proven = network.highest(c, constant, parts, ranges, None)
        open_ = np.zeros(len(nodes), dtype=bool)
        for i, node in enumerate(tree):
            if ranges.empty[i]:
                node.reason = EMPTY
                continue
            if proven[i] > self.target and self.checker.violated(parts.low[i], parts.high[i]):
                node.reason = VIOLATION
                continue
            if proven[i] > self.target and not decided[i] and len(self.checker.rows.matrix) > 1:
                duals = row_duals(self.checker.rows, c[i, 0], parts.low[i], parts.high[i])
                if duals is not None:
                    own = slice(i, i + 1)
                    duals = stored(duals)
                    found = network.highest(
                        c[own], constant[own], parts.at(own), ranges.at(own), duals[None]
                    )[0]
                    if found < proven[i]:
                        proven[i], node.duals = found, duals
            if decided[i] and proven[i] > self.target:
                node.duals = None
                check_only_rounded(
                    self.checker, nodes.one[i].astype(np.float64), float(proven[i]), self.target
                )
            if decided[i] or proven[i] <= self.target:
                node.slopes, node.multipliers = slopes[i], multipliers[i]
                self.highest = max(self.highest, float(proven[i]))
                continue
            node.duals = None
            open_[i] = True
        if not open_.any():
            return []
        nodes.bound[:] = proven
        left = [node for node, divided in zip(tree, open_, strict=True) if divided]
        return self._divide(left, nodes[open_], maximum.at(open_))

    def _divide(self, tree: list[Node], nodes: Nodes, maximum: Maximum) -> list[tuple[Node, Nodes]]:
        """Divide nodes where strong branching says."""
        targets = np.full(len(nodes), self.target)
        chosen = [
            own if own.actions or own.neurons else Branching((int(np.argmin(held)),), ())
            for own, held in zip(
                branchings(nodes, maximum, self.bounds, targets),
                nodes.one | nodes.zero,
                strict=True,
            )  # only rounding is left where there is nothing that a bound depends on
        ]
        children, candidates = divide(nodes, chosen)
        count = len(candidates.of)
        tried = self.bounds.maximize(children, np.full(2 * count, self.target), steps=1)
        kept, candidates = choose(
            candidates, tried.bound, np.full(count, self.target), of_each_kind=True
        )
        children, count = children[kept], len(candidates.of)
        ranges = self.checker.network.ranges(self._parts(children), self.checker.root)
        children.low[:], children.high[:] = ranges.low, ranges.high
        tried = self.bounds.maximize(children, np.full(2 * count, self.target), steps=1)
        tried.bound[ranges.empty] = -np.inf
        best, _ = choose(candidates, tried.bound, np.full(count, self.target))
        found = []
        for pair in np.flatnonzero(best[:count]):
            parent = int(candidates.of[pair])
            node = tree[parent]
            held = np.concatenate([children.one[pair], children.split[pair] > 0])
            before = np.concatenate([nodes.one[parent], nodes.split[parent] > 0])
            at, n = int(np.flatnonzero(held & ~before)[0]), self.checker.space.n_actions
            # Auxiliary columns come between the actions and the neurons.
            node.split = at if at < n else at - n + len(self.checker.rows.whole)
            node.first, node.second = Node(), Node()
            for child, row in ((node.first, pair), (node.second, count + pair)):
                found.append((child, children[np.array([row])]))
        return found

    def _parts(self, nodes: Nodes) -> Parts:
        rows, n = self.checker.rows, self.checker.space.n_actions
        low, high = (np.tile(side, (len(nodes), 1)) for side in (rows.column_low, rows.column_high))
        low[:, :n] = np.where(nodes.one, 1.0, low[:, :n])
        high[:, :n] = np.where(nodes.zero, 0.0, high[:, :n])
        return Parts(low, high, nodes.split)
