"""Graphs as parameters of spaces: which node labels they have, and reading them from JSON."""

from __future__ import annotations

from typing import Any

import networkx as nx

from milp_rl.formulations.checks import check_flag, check_list, shown


def check_labels(graph: Any) -> None:
    """Raise ``ValueError`` if a node's label would not survive JSON."""
    for node in graph.nodes:
        if not _is_label(node):
            raise ValueError(f"node labels are strings, integers or tuples, got {node!r}")


def read_graph(directed: Any, labels: Any, edges: Any) -> Any:
    """Return the graph that a description gives by its labels and edges.

    Raises
    ------
    ValueError
        If a label is no label or there twice, or an edge does not join two of them.
    """
    graph: Any = nx.DiGraph() if check_flag(directed, "directed") else nx.Graph()
    nodes = [read_label(label) for label in check_list(labels, "labels")]
    graph.add_nodes_from(nodes)
    if len(graph) < len(nodes):
        raise ValueError("labels must be distinct")
    for edge in check_list(edges, "edges"):
        ends = [read_label(label) for label in check_list(edge, "an edge")]
        if len(ends) != 2 or not all(end in graph for end in ends):
            raise ValueError(f"an edge joins two of the labels, got {shown(edge)}")
        graph.add_edge(*ends)
    return graph


def read_label(data: Any) -> Any:
    """Undo JSON's turning tuples into lists; raise ``ValueError`` for what is no label."""
    label = tuple(map(read_label, data)) if isinstance(data, list) else data
    if not _is_label(label):
        raise ValueError(f"node labels are strings, integers or tuples, got {shown(data)}")
    return label


def _is_label(node: Any) -> bool:
    if isinstance(node, tuple):
        return all(map(_is_label, node))
    return isinstance(node, str | int) and not isinstance(node, bool)
