"""Charts of evaluations."""

from __future__ import annotations

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_rewards(summary: pd.DataFrame, title: str = "") -> Figure:
    """Draw the mean reward of each policy with its standard error.

    Parameters
    ----------
    summary
        From :func:`milp_rl.evaluation.summarize`.
    title
        Written above the chart.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, to be saved with ``savefig``; pyplot and its global state are not touched.
    """
    figure = Figure(figsize=(1.6 + 1.1 * len(summary), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bars = axes.bar(
        summary["policy"],
        summary["mean"],
        yerr=summary["standard_error"].fillna(0.0),
        capsize=4,
        color="#4c78a8",
        width=0.7,
    )
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.margins(y=0.12)
    axes.set_ylabel("expected reward per step\n(mean ± standard error)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
