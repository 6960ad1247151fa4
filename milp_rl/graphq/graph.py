"""Which intervention moves which variable, and which variables move each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.axes import Axes

from milp_rl.envs.transitions import Transitions
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.files import read_text, write_atomically
from milp_rl.graphq.edges import Edge, Interaction
from milp_rl.graphq.estimation import Estimation, estimate_edges
from milp_rl.graphq.plots import draw_edges


@dataclass(frozen=True)
class Scores:
    """How well the edges of one graph are those of another, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class DependencyGraph:
    """A weighted graph of interventions and state variables.

    Parameters
    ----------
    interventions, variables
        Names, all distinct.
    effects
        How each intervention moves each variable, shape (variables, interventions), signed; zero
        where there is no edge.
    influences
        How each variable moves each other one, shape (variables, variables): row k is what moves
        variable k. The diagonal, which is no edge, must be zero.
    interactions
        Pairs of interventions that act together.

    Raises
    ------
    ValueError
        If names, shapes or values do not fit.
    """

    interventions: tuple[str, ...]
    variables: tuple[str, ...]
    effects: FloatArray
    influences: FloatArray
    interactions: tuple[Interaction, ...] = ()

    def __post_init__(self) -> None:
        for name in ("interventions", "variables"):
            object.__setattr__(self, name, tuple(str(value) for value in getattr(self, name)))
        names = [*self.interventions, *self.variables]
        if len(set(names)) < len(names):
            raise ValueError("the names of interventions and variables must all be distinct")
        m, n = len(self.variables), len(self.interventions)
        for name, shape in (("effects", (m, n)), ("influences", (m, m))):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite, of shape {shape}, got {values.shape}")
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        if np.diagonal(self.influences).any():
            raise ValueError("a variable's influence on itself is no edge: the diagonal must be 0")
        object.__setattr__(self, "interactions", tuple(self.interactions))
        for pair in self.interactions:
            if not (0 <= pair.first < pair.second < n and 0 <= pair.variable < m):
                raise ValueError(f"not an interaction of {n} interventions: {pair}")

    @classmethod
    def estimate(
        cls, transitions: Transitions, method: Estimation = "lasso", **options: Any
    ) -> DependencyGraph:
        """Estimate the graph from transitions by sparse regression with stability selection.

        See :func:`milp_rl.graphq.estimation.estimate_edges`, which has the options.
        """
        found = estimate_edges(transitions, method, **options)
        return cls(
            transitions.interventions,
            transitions.variables,
            found.effects,
            found.influences,
            found.interactions,
        )

    @classmethod
    def complete(cls, interventions: Sequence[str], variables: Sequence[str]) -> DependencyGraph:
        """Return the graph in which everything moves every variable, with equal weights."""
        m, n = len(variables), len(interventions)
        influences = (1.0 - np.eye(m)) / max(m, 1)
        return cls(tuple(interventions), tuple(variables), np.full((m, n), 1.0 / n), influences)

    @property
    def edges(self) -> set[Edge]:
        """Edges by names: intervention to variable, and variable to variable."""
        return set(self.weights)

    @property
    def weights(self) -> dict[Edge, float]:
        """The weight of every edge.

        An interaction is an edge from each of its interventions to the variable, with its weight
        where the intervention has no effect on the variable of its own.
        """
        found: dict[Edge, float] = {}
        for pair in self.interactions:
            for i in (pair.first, pair.second):
                found[self.interventions[i], self.variables[pair.variable]] = pair.weight
        for k, i in np.argwhere(self.effects):
            found[self.interventions[i], self.variables[k]] = float(self.effects[k, i])
        for k, j in np.argwhere(self.influences):
            found[self.variables[j], self.variables[k]] = float(self.influences[k, j])
        return found

    def scores(self, truth: DependencyGraph) -> Scores:
        """Compare the edges, without their weights, with those of the true graph.

        Raises
        ------
        ValueError
            If the two graphs are about different names.
        """
        if (self.interventions, self.variables) != (truth.interventions, truth.variables):
            raise ValueError("the graphs have different interventions or variables")
        found, true = self.edges, truth.edges
        right = len(found & true)
        precision = right / len(found) if found else 1.0
        recall = right / len(true) if true else 1.0
        total = len(found) + len(true)
        return Scores(precision, recall, 2 * right / total if total else 1.0)

    def to_networkx(self) -> nx.DiGraph[Any]:
        """Return the graph as networkx has it.

        Nodes have a ``kind``, ``"intervention"``, ``"variable"`` or ``"interaction"``, and an
        ``index``; edges a ``weight``. An interaction is a node of its own, with edges of weight 1
        from its two interventions and one to the variable.
        """
        graph: nx.DiGraph[Any] = nx.DiGraph()
        for kind, names in (("intervention", self.interventions), ("variable", self.variables)):
            for index, name in enumerate(names):
                graph.add_node(name, kind=kind, index=index)
        for k, i in np.argwhere(self.effects):
            weight = float(self.effects[k, i])
            graph.add_edge(self.interventions[i], self.variables[k], weight=weight)
        for k, j in np.argwhere(self.influences):
            weight = float(self.influences[k, j])
            graph.add_edge(self.variables[j], self.variables[k], weight=weight)
        for index, pair in enumerate(self.interactions):
            node = f"interaction {index}"
            graph.add_node(node, kind="interaction", index=index)
            for i in (pair.first, pair.second):
                graph.add_edge(self.interventions[i], node, weight=1.0)
            graph.add_edge(node, self.variables[pair.variable], weight=float(pair.weight))
        return graph

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph[Any]) -> DependencyGraph:
        """Read a graph like those of :meth:`to_networkx`.

        Raises
        ------
        ValueError
            If nodes or edges lack their attributes, or join kinds that cannot be joined.
        """
        by_kind: dict[str, list[str]] = {"intervention": [], "variable": [], "interaction": []}
        nodes: list[tuple[str, dict[str, Any]]] = list(graph.nodes(data=True))
        for name, data in sorted(nodes, key=lambda node: node[1].get("index", 0)):
            if data.get("kind") not in by_kind:
                raise ValueError(f"node {name!r} must have a kind, one of {', '.join(by_kind)}")
            by_kind[data["kind"]].append(name)
        interventions, variables = by_kind["intervention"], by_kind["variable"]
        effects = np.zeros((len(variables), len(interventions)))
        influences = np.zeros((len(variables), len(variables)))
        parts = set(by_kind["interaction"])
        edges: list[tuple[str, str, dict[str, Any]]] = list(graph.edges(data=True))
        for source, end, data in edges:
            if "weight" not in data:
                raise ValueError(f"the edge from {source!r} to {end!r} has no weight")
            if source in parts or end in parts:
                continue
            if end not in variables:
                raise ValueError(f"the edge from {source!r} to {end!r} must end at a variable")
            table, names = (
                (effects, interventions) if source in interventions else (influences, variables)
            )
            table[variables.index(end), names.index(source)] = data["weight"]
        interactions = []
        for node in by_kind["interaction"]:
            pair = sorted(interventions.index(i) for i in graph.predecessors(node))
            ends = list(graph.successors(node))
            if len(pair) != 2 or len(ends) != 1 or ends[0] not in variables:
                raise ValueError(f"{node!r} must join two interventions and move one variable")
            weight = float(graph.edges[node, ends[0]]["weight"])
            interactions.append(Interaction(pair[0], pair[1], variables.index(ends[0]), weight))
        return cls(tuple(interventions), tuple(variables), effects, influences, tuple(interactions))

    def plot(self, axes: Axes | None = None, truth: DependencyGraph | None = None) -> Axes:
        """Draw interventions on the left and variables on the right.

        Parameters
        ----------
        axes
            Where to draw; by default a new figure.
        truth
            The true graph, over the same names: edges of it that are missing are dotted grey, edges
            that it does not have are orange.

        Returns
        -------
        matplotlib.axes.Axes
            The axes drawn on.
        """
        known = None if truth is None else truth.edges
        return draw_edges(self.interventions, self.variables, self.weights, known, axes)

    def graphml(self) -> str:
        """Return the graph as GraphML."""
        return "\n".join(nx.generate_graphml(self.to_networkx())) + "\n"

    @classmethod
    def parse_graphml(cls, text: str) -> DependencyGraph:
        """Read what :meth:`graphml` returns.

        Raises
        ------
        ValueError
            If the text is not GraphML or not such a graph.
        """
        try:
            graph: Any = nx.parse_graphml(text)
        except (SyntaxError, nx.NetworkXException, StopIteration) as error:
            raise ValueError(f"not GraphML: {error}") from error
        return cls.from_networkx(graph)

    def to_graphml(self, path: str | Path) -> None:
        """Write a GraphML file, whole or not at all."""
        write_atomically(path, self.graphml().encode())

    @classmethod
    def from_graphml(cls, path: str | Path) -> DependencyGraph:
        """Read a file written by :meth:`to_graphml`.

        Raises
        ------
        ValueError
            If the file is not GraphML or not such a graph.
        """
        text = read_text(path)
        try:
            return cls.parse_graphml(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
