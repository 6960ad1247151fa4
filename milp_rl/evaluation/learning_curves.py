"""Learning curves: how good a learner was after so many steps, of one run or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milp_rl.reports.document import new_figure

EVALUATIONS = "evaluations.csv"
Spread = Literal["error", "deviation", "range"]
Run = pd.DataFrame | str | Path
_COLORS = ("#1f5a91", "#e8a33d", "#3f9b6f", "#c2565b", "#8a6fb0", "#4fb3bf", "#7a5c46", "#9d9d9d")
_SPREADS = {"error": "standard error", "deviation": "standard deviation", "range": "range"}


def learning_curve(
    runs: Sequence[Run], *, x: str = "step", y: str = "return", spread: Spread = "error"
) -> pd.DataFrame:
    """Return the mean of several runs, and how far they are spread.

    Between the points of a run its values are interpolated, as runs need not have been looked at
    after the same steps; beyond them it plays no part.

    Parameters
    ----------
    runs
        Tables with the columns ``x`` and ``y``: as frames, CSV files, or folders with an
        ``evaluations.csv``, such as those of ``milp-rl train``.
    x, y
        The columns.
    spread
        ``"error"``, the standard error of the mean; ``"deviation"``, the standard deviation; or
        ``"range"``, from the lowest to the highest.

    Returns
    -------
    pandas.DataFrame
        Columns ``x``, ``mean``, ``low``, ``high`` and ``runs``, their number; a row per point of
        any run. With a single run at a point, ``low`` and ``high`` are the mean.

    Raises
    ------
    ValueError
        If there is no run, one has no points or lacks a column, or the spread is unknown.
    """
    if spread not in _SPREADS:
        raise ValueError(f"spread must be one of {', '.join(_SPREADS)}, got {spread!r}")
    if not runs:
        raise ValueError("a learning curve needs at least one run")
    tables = [_read(run, x, y) for run in runs]
    points = np.unique(np.concatenate([table[x].to_numpy(dtype=float) for table in tables]))
    values = np.array(
        [np.interp(points, t[x], t[y], left=np.nan, right=np.nan) for t in tables], dtype=float
    )
    count = np.isfinite(values).sum(axis=0)
    mean = np.nanmean(values, axis=0)
    if spread == "range":
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    else:
        deviation = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
        half = deviation / np.sqrt(count) if spread == "error" else deviation
        low, high = mean - half, mean + half
    return pd.DataFrame({x: points, "mean": mean, "low": low, "high": high, "runs": count})


def plot_learning_curves(
    runs: Mapping[str, Sequence[Run]],
    *,
    x: str = "step",
    y: str = "return",
    spread: Spread = "error",
    lines: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Draw the learning curves of one learner or of several, each with its spread over runs.

    Parameters
    ----------
    runs
        The runs of each learner, by its name in the legend, as for :func:`learning_curve`.
    x, y, spread
        As there.
    lines
        Values of what does not learn, by name, such as a heuristic: drawn as dashed lines.
    title
        Written above the chart.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, to be saved with ``savefig`` as PNG, SVG or PDF; pyplot and its global state are
        not touched.

    Raises
    ------
    ValueError
        If there is nothing to draw; otherwise as for :func:`learning_curve`.
    """
    if not runs:
        raise ValueError("there is nothing to draw: give at least one learner")
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    most = 1
    for i, (name, its) in enumerate(runs.items()):
        curve = learning_curve(its, x=x, y=y, spread=spread)
        most = max(most, len(its))
        draw_curve(axes, curve, x, color=_COLORS[i % len(_COLORS)], label=name)
    for i, (name, value) in enumerate((lines or {}).items(), start=len(runs)):
        style: dict[str, Any] = {"linestyle": "--", "linewidth": 1, "label": name}
        axes.axhline(value, color=_COLORS[i % len(_COLORS)], **style)
    words = {"step": "steps of the environment", "episode": "training episodes"}
    axes.set_xlabel(words.get(x, x))
    axes.set_ylabel(f"{y}\n(mean and {_SPREADS[spread]} of {most} runs)" if most > 1 else y)
    axes.set_title(title)
    finish_curves(axes)
    return figure


def draw_curve(axes: Axes, curve: pd.DataFrame, x: str, *, color: str, label: str) -> None:
    """Draw one :func:`learning_curve`: a line, and a band where there are several runs."""
    one = len(curve) == 1  # a point has no line
    axes.plot(
        curve[x], curve["mean"], color=color, label=label, linewidth=2, marker="o" if one else None
    )
    if (curve["runs"] > 1).any():
        axes.fill_between(
            curve[x], curve["low"], curve["high"], color=color, alpha=0.15, linewidth=0
        )


def finish_curves(axes: Axes) -> None:
    """Leave out the frame's upper and right side, and put the legend beside the curves."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)


def _read(run: Run, x: str, y: str) -> pd.DataFrame:
    name = "a run" if isinstance(run, pd.DataFrame) else str(run)
    if not isinstance(run, pd.DataFrame):
        path = Path(run)
        run = pd.read_csv(path / EVALUATIONS if path.is_dir() else path)
    missing = [column for column in (x, y) if column not in run.columns]
    if missing:
        raise ValueError(
            f"{name} has no column {', '.join(missing)}; it has {', '.join(map(str, run.columns))}"
        )
    table = run[[x, y]].dropna().sort_values(x)
    if table.empty:
        raise ValueError(f"{name} has no points yet")
    return table
