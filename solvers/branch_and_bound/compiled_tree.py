"""The search trees of a batch of states, with all of a round in compiled loops."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from milp_rl.formulations.arrays import ActionArray, IntArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.solvers.branch_and_bound.branching import Branching
from milp_rl.solvers.branch_and_bound.compiled_bounds import CompiledNodeBounds
from milp_rl.solvers.branch_and_bound.node_bounds import PASSES, STEPS, STEPS_TRIED
from milp_rl.solvers.branch_and_bound.nodes import Maximum, Nodes
from milp_rl.solvers.branch_and_bound.tree import Tree
from milp_rl.solvers.options import late

_MOST_OFFERED = 64  # better actions of a round; of more, the first
_IN_POOL = Branching((), ())  # of an open node: its candidates lie beside it


class CompiledTree(Tree):
    """The same search as a :class:`.Tree`, where the space's oracle and the network suit loops."""

    bounds: CompiledNodeBounds

    def run(self, bounds: Bounds, starts: Sequence[ActionArray | None]) -> None:
        """Search from the neurons' bounds and the starts until all is decided, or a limit."""
        from milp_rl.solvers.branch_and_bound import tree_kernels

        self._kernels = tree_kernels
        n = len(self.searches)
        self._values = np.full(n, -np.inf)
        self._pruned = np.full(n, -np.inf)
        self._nodes = np.zeros(n, dtype=np.int64)
        self._branchings = np.zeros((0, tree_kernels.CANDIDATES), dtype=np.int64)
        super().run(bounds, starts)

    def _offer(self, states: IntArray, actions: ActionArray) -> None:
        super()._offer(states, actions)
        for i in set(states.tolist()):  # closer than that, the loops' values say nothing
            self._values[i] = self.searches[i].value + 2.0 * self.searches[i].problem.rounding

    def expand_roots(self, roots: Nodes) -> None:
        """Bound the roots, prune those that are decided, and open the others."""
        self._nodes += 1
        live = roots.bound > self.targets
        self._pruned[~live] = roots.bound[~live]
        if live.any():
            roots = roots[live]
            self._children = _Children(roots, len(roots), self._kernels)
            self._children.live[:] = True
            self._children.targets[:] = self.targets[roots.state]
            self._bound_and_open(len(roots))
        self._record()

    def branch(self) -> bool:
        """Divide the most promising open nodes; return whether there were any."""
        taken = self._most_promising()
        if not taken:
            return False
        assert self._pool is not None
        kernels, rows = self._kernels, np.array([row for row, _ in taken])
        if len(self._children) < 2 * kernels.CANDIDATES * len(rows):
            size = 2 * kernels.CANDIDATES * len(rows)
            self._children = _Children(self._pool.resized(size), size, kernels)
        own = self._children
        n = kernels.divide(
            kernels.NodeArrays(*vars(self._pool).values()),
            rows,
            self._branchings,
            self.targets,
            own.arrays,
            own.of,
            own.at_neuron,
            own.targets,
        )
        self._unused.extend(rows.tolist())
        children, due, maximum = own.first(2 * n), own.due[: 2 * n], own.maximum
        targets, bounds = own.targets[: 2 * n], own.bounds[: 2 * n]
        of, at_neuron, kept = own.of[:n], own.at_neuron[:n], own.kept[:n]
        kept[:] = due[:] = True
        self.bounds.maximize_due(children, targets, due, maximum, STEPS_TRIED)
        bounds[:] = maximum.bound[: 2 * n]
        kernels.choose(children, of, at_neuron, targets, bounds, True, kept)
        if kernels.doubtful(targets, bounds, kept, due) and not late(self.deadline):
            empty = own.empty[: 2 * n]
            self.bounds.tighten_due(children, due, empty)
            self.bounds.maximize_due(children, targets, due, maximum, STEPS_TRIED)
            kernels.lower(bounds, due, empty, maximum.bound)
        kernels.choose(children, of, at_neuron, targets, bounds, False, kept)
        live = own.live[: 2 * n]
        if kernels.keep(children, kept, bounds, targets, live, self._nodes, self._pruned):
            self._bound_and_open(2 * n)
        self._record()
        return True

    def _record(self) -> None:
        """Hand on what was counted."""
        for search, nodes, pruned in zip(
            self.searches, self._nodes.tolist(), self._pruned.tolist(), strict=True
        ):
            search.nodes, search.pruned = nodes, max(search.pruned, pruned)

    def _bound_and_open(self, n: int) -> None:
        """Bound the live ones of the first children and probe their actions; open them."""
        kernels, own = self._kernels, self._children
        children, maximum, live = own.first(n), own.maximum, own.live[:n]
        due, targets, empty = own.due[:n], own.targets[:n], own.empty[:n]
        due[:], empty[:] = live, False
        excluded, number = np.full(n, -np.inf), np.zeros(n, dtype=np.int64)
        for again in range(PASSES):
            if again:
                if late(self.deadline):
                    break
                self.bounds.tighten_due(children, due, empty)
            self.bounds.maximize_due(children, targets, due, maximum, STEPS)
            better = kernels.settle(
                self.bounds.networks,
                children,
                maximum.bound,
                maximum.x,
                empty,
                due,
                self._values,
                targets,
                live,
                self._pruned,
                own.actions,
                own.offered,
            )
            if better:
                self._look_at(own.actions[:better], children.state[own.offered[:better]])
                targets[:] = self.targets[children.state]
            if not kernels.ready(children, due, targets, live, self._pruned):
                break
            excluded[:], number[:] = -np.inf, 0
            self.bounds.probe_due(children, maximum, targets, due, excluded, number)
            if not kernels.held(children, due, excluded, number, self._pruned):
                break
        self._open_live(n)

    def _look_at(self, actions: ActionArray, states: IntArray) -> None:
        """Offer actions of higher value than the incumbents, if they are feasible."""
        allowed = np.flatnonzero(self.pins[states].allows(actions))
        feasible = [i for i in allowed if self.incumbents.feasible(actions[i])]
        self._offer(states[feasible], actions[feasible])

    def _open_live(self, n: int) -> None:
        """Decide the live children with every action fixed, and put the others into the pool."""
        kernels, own = self._kernels, self._children
        children, live, targets = own.first(n), own.live[:n], own.targets[:n]
        doubt, weighted, score = own.doubt[:n], own.weighted[:n], own.score[:n]
        if kernels.doubts(children, own.maximum.p, live, own.leaf[:n], doubt, weighted):
            leaves = np.flatnonzero(own.leaf[:n])
            self._look_at(children.one[leaves].astype(np.int8), children.state[leaves])
        rows = np.flatnonzero(live)
        if not self.space.exact and self.space.down_closed and len(rows):
            held = children.one[rows].astype(np.int8)
            live[rows] = [self.incumbents.feasible(action) for action in held]
            rows = np.flatnonzero(live)
        if not len(rows):
            return
        self.bounds.influence_due(children, weighted, live, score)
        kernels.branch(
            children, own.maximum.coefficients, live, targets, doubt, score, own.branchings
        )
        places = np.array(self._places(len(rows)))
        assert self._pool is not None
        kernels.copy(children, rows, kernels.NodeArrays(*vars(self._pool).values()), places)
        self._branchings[places] = own.branchings[rows]
        for state, bound, place in zip(
            children.state[rows].tolist(),
            children.bound[rows].tolist(),
            places.tolist(),
            strict=True,
        ):
            entry = (-bound, next(self._ages), place, _IN_POOL)
            heapq.heappush(self.searches[state].open, entry)

    def _places(self, n: int) -> list[int]:
        """Return unused rows of the pool, which grows if there are too few."""
        rows = self._unused_rows(n, self._children.nodes)
        assert self._pool is not None
        missing = len(self._pool) - len(self._branchings)
        if missing > 0:
            self._branchings = np.pad(self._branchings, ((0, missing), (0, 0)))
        return rows


class _Children:
    """Rows to work in: those of a round's children, and what is computed of them."""

    def __init__(self, nodes: Nodes, n: int, kernels: Any) -> None:
        self.nodes = nodes
        self.arrays = kernels.NodeArrays(*vars(nodes).values())
        self.maximum = Maximum.unknown(nodes)
        shape, neurons = nodes.one.shape, nodes.low.shape
        self.targets, self.bounds = np.zeros(n), np.zeros(n)
        self.due, self.live, self.empty, self.leaf = (np.zeros(n, dtype=bool) for _ in range(4))
        self.of, self.at_neuron = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        self.kept = np.zeros(n, dtype=bool)
        self.doubt, self.weighted = np.zeros(neurons), np.zeros(neurons)
        self.score = np.zeros(shape)
        self.actions = np.zeros((_MOST_OFFERED, shape[1]), dtype=np.int8)
        self.offered = np.zeros(_MOST_OFFERED, dtype=np.int64)
        self.branchings = np.zeros((n, kernels.CANDIDATES), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def first(self, n: int) -> Any:
        """Return the arrays of the first rows."""
        return type(self.arrays)(*(array[:n] for array in self.arrays))
