"""Whether everybody can take an option when some options use what is limited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray


def assignable(options: NDArray[np.bool_], uses: NDArray[np.int8], limits: Sequence[int]) -> bool:
    """Decide whether everybody can be given one of their options within the limits, exactly.

    Parameters
    ----------
    options
        Who may take what, shape (people, options), at least one per person.
    uses
        Which limited resources an option uses one of, 0 or 1, shape (options, resources).
    limits
        The amount of each resource.
    """
    kinds, kind_of = np.unique(uses, axis=0, return_inverse=True)
    kind_of = kind_of.reshape(-1)
    allowed = np.column_stack([options[:, kind_of == k].any(axis=1) for k in range(len(kinds))])
    free = ~kinds.any(axis=1)
    allowed = allowed[~allowed[:, free].any(axis=1)]  # the others need no limited resource
    if (kinds.sum(axis=1) <= 1).all():
        return _by_flow(allowed, kinds, limits)
    return _by_search(allowed, kinds, limits)


def _by_flow(allowed: NDArray[np.bool_], kinds: NDArray[np.int8], limits: Sequence[int]) -> bool:
    """Decide by maximum flow where no option uses two resources."""
    graph: Any = nx.DiGraph()
    graph.add_edge("source", "sink", capacity=0)
    for k, kind in enumerate(kinds):
        if kind.any():
            graph.add_edge(("kind", k), "sink", capacity=int(limits[int(np.argmax(kind))]))
    groups, people = np.unique(allowed, axis=0, return_counts=True)
    for i, (row, number) in enumerate(zip(groups, people.tolist(), strict=True)):
        graph.add_edge("source", i, capacity=number)
        for k in np.flatnonzero(row).tolist():
            graph.add_edge(i, ("kind", k), capacity=number)
    return bool(nx.maximum_flow_value(graph, "source", "sink") == len(allowed))


def _by_search(allowed: NDArray[np.bool_], kinds: NDArray[np.int8], limits: Sequence[int]) -> bool:
    """Decide by search, remembering how far it got with what was left of each resource."""
    rows = allowed[np.lexsort(allowed.T)]
    seen: set[tuple[int, tuple[int, ...]]] = set()
    stack: list[tuple[int, tuple[int, ...]]] = [(0, tuple(limits))]
    while stack:
        state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        i, left = state
        if i == len(rows):
            return True
        for kind in kinds[rows[i]]:
            rest = tuple(n - int(used) for n, used in zip(left, kind, strict=True))
            if min(rest) >= 0:
                stack.append((i + 1, rest))
    return False
