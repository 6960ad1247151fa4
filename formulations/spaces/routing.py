"""The routing block: chosen nodes lie on a closed walk of limited length from a depot."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property
from importlib.resources import files
from itertools import pairwise
from typing import Any, Self

import networkx as nx
import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import shortest_path

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.checks import (
    check_integer,
    check_list,
    check_number,
    check_numbers,
    check_texts,
    shown,
)
from milp_rl.formulations.pyomo_blocks import block_with
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.graphs import check_labels, read_graph, read_label
from milp_rl.formulations.spaces.oracles.tour import (
    insert_cheapest,
    pays_to_compile,
    shortest_closed_walk,
    walk_length,
)
from milp_rl.formulations.spaces.oracles.walk_states import BestWalks, walk_states
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import LateError

_EXACT_IN_SAMPLES = 10
_MOST_UNITS = 200  # that the largest length is divided into
_TOLERANCE = 1e-9
_MOST_NODES = 10_000  # the distances of all pairs are kept


class Routing(ActionSpace):
    r"""Chosen nodes lie on a closed walk of limited length from a depot.

    At most ``budget`` of the nodes on the walk are chosen. The walk starts and ends at the depot,
    moves along edges, may stay put, and may pass a node several times. In the model
    :math:`x_{uv}` counts how often the walk moves from u to v (in an undirected graph at most
    once: of two moves along an edge, one can be turned around). It leaves every node as often as
    it enters it, and a flow f over its moves brings one unit from the depot to every chosen node,
    so that all of them are on one walk. With m the largest number of chosen nodes, lengths
    :math:`w` of edges (1 without ``weight``) and service times :math:`s` of nodes (0 without),

    .. math:: &\sum_u x_{uv} = \sum_u x_{vu}, \quad
              \sum_{uv} w_{uv} x_{uv} + \sum_v s_v a_v \le L, \quad
              f_{uv} \le m\, x_{uv}, \\
              &a_v \le \sum_u x_{uv}, \quad
              \sum_u f_{uv} - \sum_u f_{vu} = a_v \; (v \ne depot).

    The flow is that of Gavish and Graves ("The travelling salesman problem and related problems",
    MIT Operations Research Center, working paper OR 078-78, 1978), on walks instead of tours.

    ``linear_max`` is a relaxation: the best nodes that can be visited at all (with every node held
    at one, in either order); with lengths or service times, at most a fractional knapsack over what
    each node takes at least, its service and the shortest edge to it. In an undirected graph of
    more than 12 nodes it is also at most what a walk of limited length collects, where all walks
    are found by :mod:`.walk_states` (lengths that are not whole numbers are rounded down to a 200th
    of L, service times left out, and the limit on the number of nodes is priced).

    Parameters
    ----------
    graph
        Any networkx graph, directed or not. Labels are strings, integers, or tuples of these.
    depot
        Node where the walk starts and ends.
    max_length
        Largest length L, at least 0: a number of edges, or, with ``weight`` or ``service_times``, a
        number in their unit, which walks may exceed by 1e-9.
    budget
        Largest number of chosen nodes; ``None`` for no limit of its own.
    nodes
        The nodes that the actions stand for, in order; without, all nodes in the graph's order.
    weight
        Attribute of the edges with their lengths or travel times, positive; ``None`` for 1 each.
        Of parallel edges the shortest counts.
    service_times
        What a visit takes of the length, nonnegative: one number, or one for each of ``nodes``.

    Raises
    ------
    ValueError
        If the depot or a node is not in the graph, or a number is out of range.

    Examples
    --------
    >>> import milp_rl as mr
    >>> import networkx as nx
    >>> space = mr.Routing(nx.cycle_graph(6), depot=0, max_length=4)
    >>> space.violations([0, 0, 1, 0, 1, 0])
    ['no closed walk of at most 4 edges from 0 visits [2, 4]']
    >>> space.violations([0, 1, 1, 0, 0, 0])
    []
    >>> space.shortest_route([0, 1, 1, 0, 0, 0])
    [0, 1, 2, 1, 0]
    >>> space.linear_max([[0.0, 1.0, 1.0, 9.0, 1.0, 1.0]])  # node 3 is out of reach
    array([4.])

    With travel times as lengths, and two minutes for each visit:

    >>> graph = nx.Graph()
    >>> graph.add_weighted_edges_from([("base", "a", 5), ("a", "b", 2.5), ("b", "base", 4)], "min")
    >>> timed = mr.Routing(graph, "base", 14, nodes=["a", "b"], weight="min", service_times=2)
    >>> timed.violations([1, 1])
    ["no closed walk of length at most 14, less 4 for service, from 'base' visits ['a', 'b']"]
    >>> timed.decode([0, 1])
    ['base', 'b', 'base']
    """

    def __init__(
        self,
        graph: Any,
        depot: Hashable,
        max_length: float,
        budget: int | None = None,
        nodes: Iterable[Hashable] | None = None,
        *,
        weight: str | None = None,
        service_times: float | ArrayLike | None = None,
    ) -> None:
        if depot not in graph:
            raise ValueError(f"the depot {depot!r} is not a node of the graph")
        if len(graph) > _MOST_NODES:
            raise ValueError(f"the graph has {len(graph)} nodes, at most {_MOST_NODES} can be had")
        self.depot = depot
        self.weight = weight
        self._counted = weight is None and service_times is None
        self.max_length: float = (
            check_integer(max_length, "max_length")
            if self._counted
            else check_number(max_length, "max_length", 0)
        )
        self.budget = None if budget is None else check_integer(budget, "budget")
        self.nodes: list[Any] = list(graph.nodes if nodes is None else nodes)
        missing = [node for node in self.nodes if node not in graph]
        if missing:
            raise ValueError(f"{missing[0]!r} is not a node of the graph")
        if not self.nodes or len(set(self.nodes)) < len(self.nodes):
            raise ValueError("nodes must be distinct, and at least one")
        check_labels(graph)
        kind = nx.DiGraph if graph.is_directed() else nx.Graph
        self.graph: Any = kind()
        self.graph.add_nodes_from(graph.nodes)
        for u, v, attributes in graph.edges(data=True):
            length = 1.0 if weight is None else self._length_of(u, v, attributes.get(weight))
            if u != v and length < self.graph.get_edge_data(u, v, {"length": np.inf})["length"]:
                self.graph.add_edge(u, v, length=length)
        self.service_times = self._checked_service(service_times)

        self._labels: list[Any] = list(self.graph.nodes)
        position = {node: i for i, node in enumerate(self._labels)}
        self._depot = position[depot]
        self._node_of = np.array([position[node] for node in self.nodes])
        lengths: Any = self.graph.edges(data="length")
        self._arcs = {(position[u], position[v]): float(length) for u, v, length in lengths}
        if not self.graph.is_directed():
            self._arcs |= {(v, u): length for (u, v), length in self._arcs.items()}
        self._arcs = dict(sorted(self._arcs.items()))
        ends = np.array(list(self._arcs), dtype=np.int32).reshape(-1, 2)  # as csgraph takes it
        matrix = sparse.csr_array(
            (list(self._arcs.values()), (ends[:, 0], ends[:, 1])), shape=(len(self._labels),) * 2
        )
        self._distance: FloatArray = shortest_path(matrix, method="D")

    def _length_of(self, u: Any, v: Any, given: Any) -> float:
        if given is None:
            raise ValueError(f"the edge from {u!r} to {v!r} has no attribute {self.weight!r}")
        length = check_number(given, f"{self.weight!r} of the edge from {u!r} to {v!r}")
        if not length > 0:
            raise ValueError(
                f"lengths must be positive, {self.weight!r} of the edge from {u!r} to {v!r} is"
                f" {length:g}"
            )
        return length

    def _checked_service(self, given: float | ArrayLike | None) -> FloatArray | None:
        if given is None:
            return None
        times = np.full(self.n_actions, given) if np.ndim(given) == 0 else given
        checked = check_numbers(times, "service_times")
        if len(checked) != self.n_actions or (checked < 0).any():
            raise ValueError(
                f"service_times must be one nonnegative number or {self.n_actions}, got"
                f" {shown(given)}"
            )
        return checked

    @property
    def n_actions(self) -> int:
        """Number of nodes that can be chosen."""
        return len(self.nodes)

    @property
    def down_closed(self) -> bool:
        """Always true."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        data = {
            "type": "Routing",
            "directed": self.graph.is_directed(),
            "labels": self._labels,
            "edges": [list(edge) for edge in self.graph.edges],
            "depot": self.depot,
            "max_length": self.max_length,
            "budget": self.budget,
            "nodes": self.nodes,
        }
        if self.weight is not None:
            lengths = [length for _, _, length in self.graph.edges(data="length")]
            data |= {"weight": self.weight, "lengths": lengths}
        if self.service_times is not None:
            data["service_times"] = self.service_times.tolist()
        return data

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> Self:
        rest = dict(parameters)
        edges = check_list(rest.pop("edges"), "edges")
        graph = read_graph(rest.pop("directed"), rest.pop("labels"), edges)
        if "weight" in rest:
            (weight,) = check_texts([rest["weight"]], "weight")
            lengths = check_list(rest.pop("lengths"), "lengths")
            if len(lengths) != len(edges):
                raise ValueError(f"{len(edges)} edges need as many lengths, got {len(lengths)}")
            for edge, length in zip(edges, lengths, strict=True):
                graph.edges[read_label(edge[0]), read_label(edge[1])][weight] = length
        nodes = [read_label(label) for label in check_list(rest.pop("nodes"), "nodes")]
        return cls(graph, read_label(rest.pop("depot")), nodes=nodes, **rest)

    def limits(self) -> dict[str, ActionSpace]:
        """Return the space for a route one unit longer, and for one node more."""
        found: dict[str, ActionSpace] = {"max_length": self._with(max_length=self.max_length + 1)}
        if self.budget is not None and self.budget < self.n_actions:
            found["budget"] = self._with(budget=self.budget + 1)
        return found

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write the walk as counted moves and a flow; see the class."""
        depot, limit = self._depot, self._limit
        out, back = self._distance[depot], self._distance[:, depot]
        moves = [
            (u, v) for (u, v), length in self._arcs.items() if out[u] + length + back[v] <= limit
        ]
        directed = self.graph.is_directed()
        kind = pyo.NonNegativeIntegers if directed else pyo.Binary
        most = self._cover.k
        block.moves = pyo.Var(moves, domain=kind)
        for move in moves:
            block.moves[move].setub(int(limit / self._arcs[move]) if directed else 1)
        block.flow = pyo.Var(moves, bounds=(0, most))
        block.walk = pyo.ConstraintList()
        for move in moves:
            block.walk.add(block.flow[move] <= most * block.moves[move])
        taken = pyo.quicksum(self._arcs[move] * block.moves[move] for move in moves)
        if self.service_times is not None:
            taken += pyo.quicksum(
                float(s) * a for s, a in zip(self.service_times, actions, strict=True) if s
            )
        if moves or (self.service_times is not None and self.service_times.any()):
            block.walk.add(taken <= self.max_length)
        chosen = dict(zip(self._node_of.tolist(), actions, strict=True))
        incident = _incident(moves)
        for v, (leaving, entering) in incident.items():
            visits = _total(block.moves, entering)
            block.walk.add(visits == _total(block.moves, leaving))
            if v != depot:
                action = chosen.get(v, 0)
                block.walk.add(_total(block.flow, entering) - _total(block.flow, leaving) == action)
                if v in chosen:
                    block.walk.add(action <= visits)
        for v, action in chosen.items():
            if v != depot and v not in incident:
                block.walk.add(action <= 0)
        if self.budget is not None:
            block.budget = pyo.Constraint(expr=pyo.quicksum(actions) <= self.budget)

    def route(self, block: Any) -> list[Any]:
        """Read the walk from the solved block, or model, that was given to :meth:`add_to`.

        Or from that on which :meth:`constrain` wrote.

        Returns
        -------
        list
            Node labels along edges, from the depot to the depot; just the depot if it stays.

        Raises
        ------
        ValueError
            If the block has no solution.
        """
        walk: Any = nx.MultiDiGraph()
        walk.add_node(self._depot)
        for (u, v), variable in block_with(block, self).moves.items():
            if variable.value is None:
                raise ValueError("the block has no solution to read a route from")
            walk.add_edges_from([(u, v)] * round(variable.value))
        connected = walk.subgraph(nx.node_connected_component(walk.to_undirected(), self._depot))
        moved = [v for _, v in nx.eulerian_circuit(connected, source=self._depot)]
        return [self._labels[v] for v in [self._depot, *moved]]

    def decode(self, action: ArrayLike) -> list[Any]:
        """Return a shortest route: node labels from the depot to the depot, along edges.

        Raises
        ------
        ValueError
            If the action is not feasible.
        """
        found = self.violations(action)
        route = None if found else self.shortest_route(action)
        if route is None:
            raise ValueError(f"the action is not feasible: {'; '.join(found)}")
        return route

    def shortest_route(self, action: ArrayLike) -> list[Any] | None:
        """Return a shortest closed walk from the depot through the chosen nodes.

        Returns
        -------
        list or None
            Node labels from the depot to the depot; ``None`` if a node cannot be visited.
        """
        order = self._shortest(self.check_action(action), None)
        if order is None:
            return None
        walk = [self.depot]
        for u, v in pairwise([self._depot, *order, self._depot]):
            path = nx.shortest_path(self.graph, self._labels[u], self._labels[v], weight="length")
            walk.extend(path[1:])
        return walk

    def violations(self, action: ArrayLike) -> list[str]:
        """Look for a shortest closed walk through the chosen nodes in the metric closure."""
        a = self.check_action(action)
        found = []
        if self.budget is not None and a.sum() > self.budget:
            found.append(f"{a.sum()} nodes chosen, at most {self.budget} allowed")
        unreachable = [
            self.nodes[i] for i in np.flatnonzero(a) if not np.isfinite(self._round_trip[i])
        ]
        if unreachable:
            found.append(f"no closed walk from {self.depot!r} visits {unreachable}")
        elif self._shortest(a, self._left(a)) is None:
            chosen = [self.nodes[i] for i in np.flatnonzero(a)]
            found.append(
                f"no closed walk of {self._limit_in_words(a)} from {self.depot!r} visits {chosen}"
            )
        return found

    def _limit_in_words(self, a: ActionArray) -> str:
        if self._counted:
            return f"at most {self.max_length} edges"
        limit = f"length at most {self.max_length:g}"
        if self.service_times is None:
            return limit
        return f"{limit}, less {self.service_times @ a:g} for service,"

    @property
    def _limit(self) -> float:
        """The largest length, with its tolerance."""
        return self.max_length if self._counted else self.max_length + _TOLERANCE

    def _left(self, action: ActionArray) -> float:
        """Return what service leaves of the largest length."""
        if self.service_times is None:
            return self._limit
        return self._limit - float(self.service_times @ action)

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Rule out what is too far, alone or in pairs, and look for a walk through the rest."""
        chosen = actions == 1
        found = ~chosen[:, self._round_trip > self._limit].any(axis=1)
        if self.budget is not None:
            found &= chosen.sum(axis=1) <= self.budget
        x = chosen.astype(np.float64)
        found &= ~(((x @ self._apart) > 0) & chosen).any(axis=1)
        if self._walks is not None:
            found[found] = self._walks.visit(chosen[found])
            if self._walks_suffice:
                return np.asarray(found)
        for i in np.flatnonzero(found):
            found[i] = self._shortest(actions[i], self._left(actions[i])) is not None
        return np.asarray(found)

    @property
    def counts_quickly(self) -> bool:
        """False: each action is the search for a walk."""
        return False

    @property
    def oracle_seconds(self) -> float:
        """That of the walks."""
        return 0.0 if self._walks is None else self._walks.seconds

    def _shortest(self, action: ActionArray, limit: float | None) -> list[int] | None:
        """Order the chosen nodes; with a limit, any walk within it will do."""
        chosen = self._node_of[action == 1]
        return shortest_closed_walk(
            self._distance, self._depot, chosen[chosen != self._depot].tolist(), limit
        )

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Sum the best nodes that can be visited with those held at one, or that a walk has."""
        held = self._with_excluded(c, pins)
        bounds = self._cover._linear_max(c, held)
        if self._walks is not None:
            bounds = np.minimum(bounds, self._walks.bounds(c, pins))
        return bounds

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the best nodes on a walk, or that can be visited with those held at one."""
        if self._walks is not None:
            return self._walks.points(c, pins)
        return self._cover._maximizers(c, self._with_excluded(c, pins))

    def _with_excluded(self, c: FloatArray, pins: Pins) -> Pins:
        """Hold at zero what cannot be visited with what is held at one."""
        excluded = np.broadcast_to(self._round_trip > self._limit, c.shape)
        if pins.one is not None:
            excluded = excluded | (pins.one @ self._apart)
        return pins.and_zero(excluded, c.shape)

    @cached_property
    def _round_trip(self) -> FloatArray:
        """Length of the way to each action's node and back, and its service."""
        node = self._node_of
        there = self._distance[self._depot, node]
        return np.asarray(there + self._distance[node, self._depot] + self._service)

    @cached_property
    def _service(self) -> FloatArray:
        return np.zeros(self.n_actions) if self.service_times is None else self.service_times

    @cached_property
    def _apart(self) -> BoolArray:
        """Pairs of actions whose nodes no walk of length L visits both."""
        node = self._node_of
        out, back = self._distance[self._depot, node], self._distance[node, self._depot]
        between = self._distance[np.ix_(node, node)]
        first = out[:, None] + between + back
        service = self._service[:, None] + self._service
        np.fill_diagonal(service, self._service)
        return np.asarray(np.minimum(first, first.T) + service > self._limit)

    @cached_property
    def _cover(self) -> BudgetTopK:
        """As many nodes as a walk of length L can pass, and the budget allows."""
        if self._counted:
            most = min(self.n_actions, max(int(self.max_length), 1))
        else:
            most = int((np.cumsum(np.sort(self._least)) <= self._limit).sum())
        most = most if self.budget is None else min(most, self.budget)
        if self._counted:
            return BudgetTopK(self.n_actions, most)
        return BudgetTopK(self.n_actions, most, costs=self._least, budget=self.max_length)

    @property
    def _walks(self) -> BestWalks | None:
        """The walks of limited length, where they are found and there is time: see the class."""
        try:
            return self._best_walks
        except LateError:
            return None

    @cached_property
    def _best_walks(self) -> BestWalks | None:
        if self.graph.is_directed() or not pays_to_compile(len(self._labels)):
            return None
        if not BestWalks.is_in_time():
            raise LateError
        lengths = {(u, v): w for (u, v), w in self._arcs.items() if u < v}
        whole = all(w == round(w) for w in lengths.values()) and self._limit < _MOST_UNITS
        unit = 1.0 if whole else max(self._limit, min(lengths.values(), default=1)) / _MOST_UNITS
        edges = [(u, v, math.floor(w / unit)) for (u, v), w in lengths.items()]
        limit = math.floor(self._limit / unit)
        most = self._cover.k
        found = walk_states(len(self._labels), edges, self._depot, limit)
        if found is None:
            return None
        return BestWalks(found, self._node_of, len(self._labels), most, exact=whole)

    @property
    def _walks_suffice(self) -> bool:
        """Whether an action is feasible if some of the walks passes its nodes."""
        return self._walks is not None and self._walks.exact and self.service_times is None

    @cached_property
    def _least(self) -> FloatArray:
        """What each action takes of the length at least: service, and the shortest edge to it."""
        nearest = np.full(len(self._labels), np.inf)
        for (_, v), length in self._arcs.items():
            nearest[v] = min(nearest[v], length)
        nearest[self._depot] = 0.0
        nearest[np.isinf(nearest)] = 0.0  # of what cannot be visited
        return np.asarray(nearest[self._node_of] + self._service)

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the nodes that still fit into a walk."""
        a = self.check_action(action)
        chosen = np.flatnonzero(a)
        order = self._shortest(a, self._left(a))
        if order is None or (self.budget is not None and len(chosen) >= self.budget):
            return np.array([], dtype=np.intp)
        free = np.flatnonzero((a == 0) & (self._round_trip <= self._limit))
        free = free[~self._apart[np.ix_(free, chosen)].any(axis=1)]
        if self._walks is not None:
            larger = np.tile(a == 1, (len(free), 1))
            larger[np.arange(len(free)), free] = True
            bounds = self._walks.bounds(np.zeros(larger.shape), Pins(one=larger))
            free = free[bounds > -np.inf]
            if self._walks_suffice:
                return np.asarray(free)
        fits = [i for i in free if self._fitted(a, int(i), order) is not None]
        return np.array(fits, dtype=np.intp)

    def _fitted(
        self, action: ActionArray, addition: int, order: list[int], exact_up_to: int | None = None
    ) -> list[int] | None:
        """Return an order of the chosen nodes and ``addition`` that fits, or ``None``.

        With more nodes than ``exact_up_to``, only insertion into ``order`` is tried.
        """
        node = int(self._node_of[addition])
        larger = action.copy()
        larger[addition] = 1
        if node == self._depot:
            longer, length = order, walk_length(self._distance, self._depot, order)
        else:
            longer, length = insert_cheapest(self._distance, self._depot, order, node)
        limit = self._left(larger)
        if length <= limit:
            return longer
        if exact_up_to is not None and len(longer) > exact_up_to:
            return None
        return self._shortest(larger, limit)

    def _sample_one(self, rng: np.random.Generator, maximal: bool) -> ActionArray:
        """Add nodes in random order while they fit; without ``maximal``, keep a random number.

        Beyond ten nodes, a node fits where it can be inserted into the walk found so far.
        """
        action = np.zeros(self.n_actions, dtype=np.int8)
        order: list[int] = []
        taken: list[int] = []
        for i in rng.permutation(np.flatnonzero(self._round_trip <= self._limit)).tolist():
            if self.budget is not None and len(taken) >= self.budget:
                break
            if self._apart[i, taken].any():
                continue
            longer = self._fitted(action, i, order, exact_up_to=_EXACT_IN_SAMPLES)
            if longer is not None:
                order = longer
                taken.append(i)
                action[i] = 1
        if not maximal:
            action[taken[rng.integers(len(taken) + 1) :]] = 0
        return action


def _incident(
    moves: Iterable[tuple[int, int]],
) -> dict[int, tuple[list[tuple[int, int]], list[tuple[int, int]]]]:
    """Return the moves that leave and that enter each node."""
    found: dict[int, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
    for u, v in moves:
        found.setdefault(u, ([], []))[0].append((u, v))
        found.setdefault(v, ([], []))[1].append((u, v))
    return found


def _total(variables: Any, keys: Iterable[Any]) -> Any:
    return pyo.quicksum(variables[key] for key in keys)


def london_underground() -> Any:
    """Return the central part of the London Underground as a ``networkx.Graph``.

    The stations of fare zone 1 and the Underground lines between them (the Elizabeth line, the
    Overground and the DLR left out). Every edge has an attribute ``lines``, the list of its lines.
    """
    source = files("milp_rl.formulations.spaces").joinpath("data/london_underground.json")
    lines = json.loads(source.read_text(encoding="utf-8"))["lines"]
    graph: Any = nx.Graph(name="London Underground, zone 1")
    for line, sections in lines.items():
        for section in sections:
            for u, v in pairwise(section):
                if not graph.has_edge(u, v):
                    graph.add_edge(u, v, lines=[])
                if line not in graph[u][v]["lines"]:
                    graph[u][v]["lines"].append(line)
    return graph
