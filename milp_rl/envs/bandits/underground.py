"""The whole London Underground, 302 stations, and parts of it around one of them."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import networkx as nx

SOURCE = "Green Park"
"""Station around which parts are cut."""


@cache
def _edges() -> tuple[tuple[str, str], ...]:
    source = files("milp_rl.envs").joinpath("data/underground.json")
    pairs = json.loads(source.read_text(encoding="utf-8"))["edges"]
    return tuple((u, v) for u, v in pairs)


def whole_underground() -> Any:
    """Return the stations of all zones and the pairs joined by a line, as a ``networkx.Graph``.

    With the Docklands Light Railway, 302 stations and 349 edges; facts after the public list of
    stations on Wikimedia Commons, as that has them: with Shoreditch, closed in 2006, and without
    what was opened since. :func:`milp_rl.london_underground` has the lines of zone 1.
    """
    return nx.Graph(_edges(), name="London Underground")


def stations_around(n_stations: int, source: str = SOURCE) -> list[str]:
    """Return the stations of fewest stops from one, that one first, by name where stops are equal.

    Parameters
    ----------
    n_stations
        How many, at least 1.
    source
        A station.

    Raises
    ------
    ValueError
        If there are fewer stations, or none of that name.

    Examples
    --------
    >>> from milp_rl.envs.bandits.underground import stations_around
    >>> stations_around(4, "Chesham")
    ['Chesham', 'Chalfont & Latimer', 'Amersham', 'Chorleywood']
    """
    graph = whole_underground()
    if source not in graph:
        raise ValueError(f"the Underground has no station {source!r}")
    if not 1 <= n_stations <= len(graph):
        raise ValueError(f"the Underground has {len(graph)} stations, asked for {n_stations}")
    stops = nx.single_source_shortest_path_length(graph, source)
    return sorted(stops, key=lambda station: (stops[station], station))[:n_stations]
