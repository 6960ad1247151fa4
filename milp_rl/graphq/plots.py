"""Pictures of dependency graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from milp_rl.graphq.edges import Edge

_UP, _DOWN, _MISSED, _WRONG = "#1f77b4", "#c2565b", "#b0b0b0", "#e8a33d"
_MOST_NAMES = 40


def draw_edges(
    interventions: Sequence[str],
    variables: Sequence[str],
    weights: Mapping[Edge, float],
    truth: Set[Edge] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw interventions on the left and variables on the right.

    Edges are as wide as their weights, blue if they raise the variable, red if they lower it;
    influences between variables are arcs on the right. Against the true edges, those that are
    missing are dotted grey and those that are not there are orange.

    Parameters
    ----------
    interventions, variables
        Names, all distinct.
    weights
        The weight of every edge.
    truth
        The true edges, over the same names.
    axes
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.
    """
    names = interventions, variables
    if axes is None:
        height = min(2.0 + 0.28 * max(map(len, names)), 16.0)
        _, axes = plt.subplots(figsize=(8.0, height), layout="constrained")
    place = {
        name: (float(side), float(y))
        for side, column in enumerate(names)
        for name, y in zip(column, np.linspace(1.0, 0.0, len(column)), strict=True)
    }
    arcs = 1.06 + 0.018 * max((len(name) for name in variables), default=0)
    largest = max(map(abs, weights.values()), default=1.0)
    known = weights.keys() if truth is None else truth
    for edge, weight in weights.items():
        color = (_UP if weight > 0 else _DOWN) if edge in known else _WRONG
        _draw(axes, place, arcs, edge, color, 0.4 + 2.2 * abs(weight) / largest, "-")
    for edge in known - weights.keys():
        _draw(axes, place, arcs, edge, _MISSED, 1.0, ":")
    for side, column in enumerate(names):
        where = np.array([place[name] for name in column]).reshape(-1, 2)
        axes.scatter(where[:, 0], where[:, 1], s=28, color="#333333", zorder=3)
        if len(column) <= _MOST_NAMES:
            for name, (x, y) in zip(column, where, strict=True):
                aligned = "right" if side == 0 else "left"
                shift = -0.03 if side == 0 else 0.03
                axes.text(x + shift, y, name, ha=aligned, va="center", fontsize=8)
    entries = [("raises", _UP), ("lowers", _DOWN)]
    if truth is not None:
        entries += [("missed", _MISSED), ("not in the truth", _WRONG)]
    handles = [Line2D([], [], color=color, ls="-", label=text) for text, color in entries]
    axes.legend(handles=handles, loc="upper center", ncols=4, frameon=False, fontsize=8)
    axes.set(xlim=(-0.55, arcs + 0.4), ylim=(-0.05, 1.12))
    axes.set_axis_off()
    return axes


def _draw(
    axes: Axes,
    place: dict[str, tuple[float, float]],
    arcs: float,
    edge: Edge,
    color: str,
    width: float,
    line: str,
) -> None:
    (x0, y0), (x1, y1) = place[edge[0]], place[edge[1]]
    if x0 == x1:  # between variables: an arc to the right of the names
        t = np.linspace(0.0, np.pi, 30)
        x = arcs + (0.08 + 0.28 * abs(y1 - y0)) * np.sin(t)
        y = (y0 + y1) / 2 + (y0 - y1) / 2 * np.cos(t)
        axes.plot(x, y, color=color, linewidth=width, linestyle=line, alpha=0.7)
        axes.plot(x[-1], y[-1], marker="<", color=color, markersize=4)
    else:
        axes.plot([x0, x1], [y0, y1], color=color, linewidth=width, linestyle=line, alpha=0.7)
