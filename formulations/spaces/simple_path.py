"""The simple path block: chosen arcs are a path from a source to a target."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import networkx as nx
import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.checks import MOST_VARIABLES
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.graphs import check_labels, read_graph, read_label
from milp_rl.formulations.spaces.listing import check_limit
from milp_rl.formulations.spaces.oracles.paths import (
    SearchLimitError,
    longest_in_order,
    path_by_nearest,
    path_through,
    paths_and_cycles,
)
from milp_rl.formulations.spaces.pins import Pins

_STEPS = 100  # of a search for a path through given arcs, before it is cut off
_WALK = 100  # times as many steps as there are nodes: of a random walk to the target


class SimplePath(ActionSpace):
    r"""Chosen arcs are a path from a source to a target that visits no node twice.

    There is a variable :math:`x_{uv}` for each arc of a directed graph, in the graph's order
    (:attr:`arcs`). With :math:`\delta^+` the arcs that leave a node and :math:`\delta^-` those that
    enter it,

    .. math:: x(\delta^+(s)) = x(\delta^-(t)) = 1, \quad x(\delta^-(s)) = x(\delta^+(t)) = 0, \quad
              x(\delta^-(v)) = x(\delta^+(v)) \le 1 \; (v \ne s, t),

    which is all that an acyclic graph needs. Where there are cycles, one unit of a flow f from the
    source ends at each node that is visited, which none on a separate cycle gets (Gavish and
    Graves, "The travelling salesman problem and related problems", MIT Operations Research Center,
    working paper OR 078-78, 1978). With n nodes,

    .. math:: f(\delta^-(v)) - f(\delta^+(v)) = x(\delta^-(v)) \; (v \ne s), \qquad
              0 \le f_{uv} \le (n - 1) x_{uv} .

    ``linear_max`` is exact, also under pins, where the graph is acyclic: a longest path in a
    topological order. Otherwise it is a relaxation, the best path together with disjoint cycles (an
    assignment problem); it is the maximum where no cycle has positive weight and no arc is held at
    one. To maximise over simple paths in general is NP-hard.

    Parameters
    ----------
    graph
        A networkx ``DiGraph``; attributes are ignored. Labels are strings, integers, or tuples of
        these.
    source, target
        Different nodes: where the path starts and ends.

    Raises
    ------
    ValueError
        If the graph is not directed, the source or the target is not in it, or no path joins them.

    Examples
    --------
    >>> import milp_rl as mr
    >>> import networkx as nx
    >>> graph = nx.DiGraph([("s", "a"), ("s", "b"), ("a", "b"), ("b", "a"), ("a", "t"), ("b", "t")])
    >>> space = mr.SimplePath(graph, "s", "t")
    >>> space.arcs
    [('s', 'a'), ('s', 'b'), ('a', 'b'), ('a', 't'), ('b', 'a'), ('b', 't')]
    >>> [space.decode(action) for action in space.enumerate()]
    [['s', 'a', 'b', 't'], ['s', 'a', 't'], ['s', 'b', 'a', 't'], ['s', 'b', 't']]
    >>> space.linear_max([[-1.0, -4.0, -1.0, -5.0, -1.0, -2.0]])  # lengths 1, 4, 1, 5, 1, 2
    array([-4.])
    >>> space.violations(space.encode(["s", "a", "b"]))
    ["the arcs from 's' end at 'b', not at 't'"]
    """

    def __init__(self, graph: Any, source: Hashable, target: Hashable) -> None:
        if not graph.is_directed() or graph.is_multigraph():
            raise ValueError(
                "the graph must be directed and without parallel arcs, a networkx.DiGraph; of an"
                " undirected one graph.to_directed() has both directions"
            )
        for name, node in (("source", source), ("target", target)):
            if node not in graph:
                raise ValueError(f"the {name} {node!r} is not a node of the graph")
        if source == target:
            raise ValueError(f"source and target must differ, both are {source!r}")
        check_labels(graph)
        self.source, self.target = source, target
        self.graph: Any = nx.DiGraph()
        self.graph.add_nodes_from(graph.nodes)
        self.graph.add_edges_from((u, v) for u, v in graph.edges if u != v)
        self.arcs: list[tuple[Any, Any]] = list(self.graph.edges)
        if len(self.arcs) > MOST_VARIABLES:
            raise ValueError(f"the graph has {len(self.arcs):,} arcs, at most {MOST_VARIABLES:,}")

        # What may be on a path: from the source, to the target.
        useful: Any = self.graph.copy()
        useful.remove_edges_from([*self.graph.in_edges(source), *self.graph.out_edges(target)])
        inside = (nx.descendants(useful, source) | {source}) & (
            nx.ancestors(useful, target) | {target}
        )
        if target not in inside:
            raise ValueError(f"no feasible action: no path leads from {source!r} to {target!r}")
        useful = useful.subgraph(inside)
        self._acyclic = bool(nx.is_directed_acyclic_graph(useful))
        order = nx.topological_sort(useful) if self._acyclic else self.graph.nodes
        middle = [v for v in order if v in inside and v not in (source, target)]
        self._labels: list[Any] = [source, *middle, target]
        number = {label: i for i, label in enumerate(self._labels)}
        self._useful = np.array([useful.has_edge(u, v) for u, v in self.arcs], dtype=bool)
        self._columns: IntArray = np.flatnonzero(self._useful)
        self._ends: IntArray = np.array(
            [(number[u], number[v]) for u, v in (self.arcs[k] for k in self._columns)]
        ).reshape(-1, 2)
        self._arc_of = {pair: k for k, pair in enumerate(map(tuple, self._ends.tolist()))}
        self._successors: list[list[int]] = [[] for _ in self._labels]
        self._predecessors: list[list[int]] = [[] for _ in self._labels]
        for u, v in self._ends.tolist():
            self._successors[u].append(v)
            self._predecessors[v].append(u)

    @property
    def n_actions(self) -> int:
        """Number of arcs."""
        return len(self.arcs)

    @property
    def exact(self) -> bool:
        """True where no cycle can be met between source and target."""
        return self._acyclic

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "type": "SimplePath",
            "labels": list(self.graph.nodes),
            "edges": [list(arc) for arc in self.arcs],
            "source": self.source,
            "target": self.target,
        }

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> Self:
        rest = dict(parameters)
        graph = read_graph(True, rest.pop("labels"), rest.pop("edges"))
        ends = {name: read_label(rest.pop(name)) for name in ("source", "target")}
        return cls(graph, **ends, **rest)

    def encode(self, path: Sequence[Any]) -> ActionArray:
        """Return the action of a sequence of nodes; raises ``ValueError`` if two are not joined."""
        action = np.zeros(self.n_actions, dtype=np.int8)
        place = {arc: k for k, arc in enumerate(self.arcs)}
        for arc in pairwise(path):
            if arc not in place:
                raise ValueError(f"the graph has no arc from {arc[0]!r} to {arc[1]!r}")
            action[place[arc]] = 1
        return action

    def decode(self, action: ArrayLike) -> list[Any]:
        """Return the nodes of the path in order.

        Raises
        ------
        ValueError
            If the action is no path from the source to the target.
        """
        found = self.violations(action)
        if found:
            raise ValueError(f"the action is no path: {'; '.join(found)}")
        return self._walk(self.check_action(action))[0]

    def _walk(self, a: ActionArray) -> tuple[list[Any], bool]:
        """Follow the chosen arcs from the source; return the nodes and whether one comes again."""
        after = {self.arcs[k][0]: self.arcs[k][1] for k in np.flatnonzero(a)}
        path = [self.source]
        while path[-1] in after:
            path.append(after[path[-1]])
            if path.count(path[-1]) > 1:
                return path, True
        return path, False

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write the balance of every node and, where there are cycles, a flow to all of them."""
        n = len(self._labels)
        never = [a for a, may in zip(actions, self._useful, strict=True) if not may]
        if never:
            block.never = pyo.Constraint(expr=pyo.quicksum(never) <= 0)
        x = [actions[k] for k in self._columns]
        leaving = [np.flatnonzero(self._ends[:, 0] == v).tolist() for v in range(n)]
        entering = [np.flatnonzero(self._ends[:, 1] == v).tolist() for v in range(n)]
        block.visit = pyo.ConstraintList()
        block.visit.add(_total(x, leaving[0]) == 1)
        block.visit.add(_total(x, entering[-1]) == 1)
        for v in range(1, n - 1):
            block.visit.add(_total(x, entering[v]) == _total(x, leaving[v]))
            if not self._acyclic:
                block.visit.add(_total(x, entering[v]) <= 1)
        if self._acyclic:
            return
        block.flow = pyo.Var(range(len(x)), bounds=(0, n - 1))
        block.carried = pyo.ConstraintList()
        for k, variable in enumerate(x):
            block.carried.add(block.flow[k] <= (n - 1) * variable)
        for v in range(1, n):
            brought = _total(block.flow, entering[v]) - _total(block.flow, leaving[v])
            block.carried.add(brought == _total(x, entering[v]))

    def violations(self, action: ArrayLike) -> list[str]:
        """Count the arcs at every node and follow them from the source."""
        a = self.check_action(action)
        chosen = [self.arcs[k] for k in np.flatnonzero(a)]
        found = []
        for side, word in ((0, "leave"), (1, "enter")):
            counts: dict[Any, int] = {}
            for arc in chosen:
                counts[arc[side]] = counts.get(arc[side], 0) + 1
            found += [
                f"{k} arcs {word} {node!r}, at most 1 may" for node, k in counts.items() if k > 1
            ]
        if found:
            return found
        path, again = self._walk(a)
        if again:
            found.append(f"the arcs from {self.source!r} return to {path[-1]!r}")
        elif path[-1] != self.target:
            found.append(
                f"the arcs from {self.source!r} end at {path[-1]!r}, not at {self.target!r}"
            )
        apart = [arc for arc in chosen if arc not in set(pairwise(path))]
        if apart:
            found.append(f"the arcs {apart} are not on the path from {self.source!r}")
        return found

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Count the arcs at every node and follow them, for many actions."""
        x = actions[:, self._columns].astype(np.float32)
        found = ~actions[:, ~self._useful].any(axis=1)
        n = len(self._labels)
        for side in self._ends.T:
            found &= (x @ np.eye(n, dtype=np.float32)[side] <= 1).all(axis=1)
        after = np.tile(np.arange(n), (len(actions), 1))
        row, arc = np.nonzero(x)
        after[row, self._ends[arc, 0]] = self._ends[arc, 1]
        node, steps = np.zeros(len(actions), dtype=np.intp), np.zeros(len(actions))
        for _ in range(n):
            following = after[np.arange(len(actions)), node]
            steps += following != node
            node = following
        return np.asarray(found & (node == n - 1) & (steps == x.sum(axis=1)))

    def _open(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell by the arcs at the ends of the one decided last."""
        last = decided - 1
        new = actions[:, last] == 1
        if not self._useful[last]:
            return np.asarray(~new)
        found = np.ones(len(actions), dtype=bool)
        for v in self._ends[np.searchsorted(self._columns, last)].tolist():
            (leaving, out_open), (entering, in_open) = (
                (actions[:, own].sum(axis=1), own[-1] > last if len(own) else False)
                for own in (self._columns[self._ends[:, side] == v] for side in (0, 1))
            )
            found &= (leaving <= 1) & (entering <= 1)
            if not out_open:
                found &= (leaving == 1) if v == 0 else (leaving >= entering) | (v == self._last)
            if not in_open:
                found &= (entering == 1) if v == self._last else (entering >= leaving) | (v == 0)
        return np.asarray(found)

    @property
    def _last(self) -> int:
        return len(self._labels) - 1

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Find longest paths in topological order, or paths with cycles."""
        return self._best(c, pins)[0]

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the path, or the path with cycles, behind ``linear_max``."""
        return self._best(c, pins)[1].astype(np.float64)

    def _best(self, c: FloatArray, pins: Pins) -> tuple[FloatArray, BoolArray]:
        weights = c[:, self._columns]
        allowed: BoolArray = np.ones(weights.shape, dtype=bool)
        held: BoolArray = np.zeros(weights.shape, dtype=bool)
        possible: BoolArray = np.ones(len(c), dtype=bool)
        if pins.zero is not None:
            allowed = ~pins.zero[:, self._columns]
        if pins.one is not None:
            held = pins.one[:, self._columns]
            possible = np.asarray(~pins.one[:, ~self._useful].any(axis=1))
        if self._acyclic:
            value, arcs = longest_in_order(weights, allowed, held, self._incoming)
        else:
            value, arcs = paths_and_cycles(
                np.where(allowed, weights, -np.inf), self._ends, len(self._labels), held
            )
        chosen = np.zeros(c.shape, dtype=bool)
        chosen[:, self._columns] = arcs
        return np.where(possible, value, -np.inf), chosen

    @cached_property
    def _incoming(self) -> list[tuple[IntArray, IntArray]]:
        """The arcs that enter each node but the source, and their tails."""
        entering = [np.flatnonzero(self._ends[:, 1] == v) for v in range(1, len(self._labels))]
        return [(arcs, self._ends[arcs, 0]) for arcs in entering]

    def completable(self, action: ArrayLike) -> bool:
        """Whether some path takes all chosen arcs; false also where a search is cut off."""
        return self._is_completable(self.check_action(action))

    def _is_completable(self, a: ActionArray) -> bool:
        """Look for a path through the nearest chosen arcs first, from either end, then any."""
        if a[~self._useful].any():
            return False
        chosen = self._ends[a[self._columns] == 1]
        forced = dict(chosen.tolist())
        if len(forced) < len(chosen) or len(set(forced.values())) < len(chosen):
            return False
        if path_by_nearest(self._successors, 0, self._last, forced):
            return True
        backward = {v: u for u, v in forced.items()}
        if path_by_nearest(self._predecessors, self._last, 0, backward):
            return True
        try:
            return path_through(self._successors, 0, self._last, forced, _STEPS) is not None
        except SearchLimitError:
            return False

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the arcs that are on a path with all chosen ones.

        Where there are cycles, that is hard to decide in general: of more than a dozen nodes, an
        arc may be left out because a search for a path through it was cut off.
        """
        a = self.check_action(action)
        if not self._is_completable(a):
            return np.array([], dtype=np.intp)
        tails, heads = (set(self._ends[a[self._columns] == 1, side].tolist()) for side in (0, 1))
        found = []
        for k, (u, v) in zip(self._columns.tolist(), self._ends.tolist(), strict=True):
            if u not in tails and v not in heads:
                a[k] = 1
                if self._is_completable(a):  # what is added is found completable again
                    found.append(k)
                a[k] = 0
        return np.array(found, dtype=np.intp)

    def _sample_one(self, rng: np.random.Generator, maximal: bool) -> ActionArray:
        """Walk at random to the target and erase loops; a walk that takes long is guided."""
        path = [0]
        for _ in range(_WALK * len(self._labels)):
            following = self._successors[path[-1]]
            node = following[rng.integers(len(following))]
            if node in path:
                del path[path.index(node) + 1 :]
            else:
                path.append(node)
            if node == self._last:
                break
        else:
            shuffled = [rng.permutation(own).tolist() for own in self._successors]
            path = path_through(shuffled, 0, self._last, {}, self._last + 1) or []
        return self._action(path)

    def _action(self, path: Sequence[int]) -> ActionArray:
        action = np.zeros(self.n_actions, dtype=np.int8)
        action[self._columns[[self._arc_of[arc] for arc in pairwise(path)]]] = 1
        return action

    @property
    def counts_quickly(self) -> bool:
        """True where the graph is acyclic."""
        return self._acyclic

    def count(self, limit: int = 100_000) -> int:
        """Count the paths, node by node where the graph is acyclic."""
        if not self._acyclic:
            return super().count(limit)
        paths = [1] + [0] * self._last
        for v, (_, tails) in enumerate(self._incoming, start=1):
            paths[v] = sum(paths[u] for u in tails.tolist())
        return paths[-1]

    def enumerate(self, limit: int = 100_000) -> ActionArray:
        """List every path, by depth-first search."""
        if self._acyclic:
            check_limit(self.count(), limit)
        found = []
        for path in self._paths():
            found.append(self._action(path))
            check_limit(len(found), limit)
        return np.array(found, dtype=np.int8).reshape(len(found), self.n_actions)

    def _paths(self) -> Iterator[list[int]]:
        """Yield the simple paths to the target, entering no node that does not lead there."""
        path, visited = [0], {0}
        stack = [iter(self._successors[0])]
        while stack:
            node = next((w for w in stack[-1] if w not in visited and self._leads(w, visited)), -1)
            if node < 0:
                stack.pop()
                visited.discard(path.pop())
            elif node == self._last:
                yield [*path, node]
            else:
                path.append(node)
                visited.add(node)
                stack.append(iter(self._successors[node]))

    def _leads(self, node: int, visited: set[int]) -> bool:
        """Whether the target can be reached from a node without visiting any node again."""
        if self._acyclic:
            return True
        seen, waiting = {node}, [node]
        while waiting:
            for w in self._successors[waiting.pop()]:
                if w == self._last:
                    return True
                if w not in seen and w not in visited:
                    seen.add(w)
                    waiting.append(w)
        return node == self._last


def _total(variables: Any, keys: Sequence[int]) -> Any:
    return pyo.quicksum(variables[k] for k in keys)
