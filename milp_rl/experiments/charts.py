"""Charts of experiments: rewards of each method, learning curves, and all of them at a glance."""

from __future__ import annotations

import textwrap
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from milp_rl.evaluation.learning_curves import draw_curve, finish_curves, learning_curve
from milp_rl.experiments.methods import CONTINUOUS, DOMAIN_LABELS, LABELS
from milp_rl.reports.document import new_figure

Setting = tuple[str, int, int]  # domain, J, B

COLORS = {
    "null": "#c7c7c7",
    "random": "#9d9d9d",
    "sampling": "#b8a13a",
    "myopic": "#e8a33d",
    "iterative_myopic": "#f2c879",
    "whittle": "#8a6fb0",
    "flat_dqn": "#7a5c46",
    "iterative_dqn_published": "#a9c9e6",
    "iterative_dqn": "#7fb2d9",
    "graphq": "#3f9b6f",
    "graphq_beam": "#8fc9a8",
    "sequoia": "#1f5a91",
    "greedy_on_arms": "#5f8f8f",
    "sequoia_arms": "#12403f",
    "dnc": "#b0566b",
    "wolpertinger": "#d59aa7",
    "no_intervention": "#c7c7c7",
    "naive_updating": "#e8a33d",
    "true_risk": "#b8a13a",
    "oracle": "#8a6fb0",
    "dqn_gradient": "#8fc9a8",
    "dqn_cem": "#8d8ed6",
    "dqn_exact": "#1f5a91",
}
_OTHERS = (
    *("#c2565b", "#4fb3bf", "#d98cb3", "#b5a642", "#6b6b9d"),
    *("#5f9e5a", "#e0b088", "#444444", "#a8d8a0", "#9c4f2f"),
)
_UNIT = "expected reward per step"
_IN_A_ROW = 3


def label(method: str) -> str:
    """Return how a method is written in charts and tables."""
    return LABELS.get(method, method.replace("_", " "))


def title(setting: Setting) -> str:
    """Return how a domain and size are written."""
    domain, n_arms, budget = setting
    name = DOMAIN_LABELS[domain]
    if domain == "performative_risk":
        return f"{name}, {n_arms} patients"
    return name if domain in CONTINUOUS else f"{name}, J = {n_arms}, B = {budget}"


def reward_chart(rewards: pd.DataFrame, setting: Setting) -> Figure:
    """Draw the mean reward of each method with its standard error.

    Parameters
    ----------
    rewards
        Columns ``method``, ``reward`` and ``error``, one row per method.
    setting
        Domain and size, for the title.
    """
    figure = new_figure(1.8 + 0.95 * len(rewards), 3.6)
    axes = figure.add_subplot()
    _bars(axes, rewards)
    _rotate_if_wide(figure, axes)
    axes.set_ylabel(f"{_UNIT}\n(mean ± standard error)")
    axes.set_title(title(setting))
    return figure


def overview_chart(rewards: dict[Setting, pd.DataFrame]) -> Figure:
    """Draw the rewards in all settings: one row of charts per size, one column per domain.

    The sizes of a single domain, and the domains of a single size, are drawn in rows of a few.
    """
    domains = list(dict.fromkeys(domain for domain, _, _ in rewards))
    sizes = list(dict.fromkeys((n_arms, budget) for _, n_arms, budget in rewards))
    methods = list(dict.fromkeys(m for frame in rewards.values() for m in frame["method"]))
    methods.sort(key=lambda method: list(COLORS).index(method) if method in COLORS else len(COLORS))
    rows: list[list[Setting]] = [[(domain, *size) for domain in domains] for size in sizes]
    if min(len(domains), len(sizes)) == 1:
        every = [setting for row in rows for setting in row]
        rows = [every[i : i + _IN_A_ROW] for i in range(0, len(every), _IN_A_ROW)]
    columns, width = len(rows[0]), 1.0 + 3.2 * len(rows[0])
    longest = max(len(label(method)) for method in methods)
    legend_columns = max(int(width / (0.6 + 0.1 * longest)), 1)
    legend_rows = -(-len(methods) // legend_columns)
    figure = new_figure(width, 0.3 + 0.27 * legend_rows + 2.7 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, row in enumerate(rows):
        for j, setting in enumerate(row):
            if setting not in rewards:
                continue
            axes = grid[i, j]
            axes.set_axis_on()
            _bars(axes, rewards[setting], names=False)
            name, _, size = title(setting).partition(", J = ")
            lines = textwrap.wrap(name, 30) + ([f"J = {size}"] if size else [])
            axes.set_title("\n".join(lines))
            if j == 0:
                axes.set_ylabel(_UNIT)
    handles = [_legend_entry(method, methods) for method in methods]
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns, frameon=False)
    return figure


def curve_chart(curves: pd.DataFrame, rewards: pd.DataFrame, setting: Setting) -> Figure:
    """Draw validation rewards against training episodes, with the other methods as lines.

    Parameters
    ----------
    curves
        Columns ``method``, ``seed``, ``episode`` and ``reward``.
    rewards
        As for :func:`reward_chart`.
    setting
        Domain and size, for the title.
    """
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    learners = list(dict.fromkeys(curves["method"]))
    methods = list(rewards["method"])
    for method in learners:
        color = _color(method, methods)
        runs = [run for _, run in curves[curves["method"] == method].groupby("seed")]
        curve = learning_curve(runs, x="episode", y="reward", spread="range")
        draw_curve(axes, curve, "episode", color=color, label=label(method))
    for row in rewards.itertuples():
        if row.method not in learners:
            axes.axhline(
                float(str(row.reward)),
                color=_color(str(row.method), methods),
                linestyle="--",
                linewidth=1,
                label=label(str(row.method)),
            )
    axes.set_xlabel("training episodes")
    axes.set_ylabel(f"{_UNIT}\n(validation; mean and range of seeds)")
    axes.set_title(title(setting))
    finish_curves(axes)
    return figure


def time_chart(times: pd.DataFrame, domain: str) -> Figure:
    """Draw the time of a decision against the size, both logarithmic.

    Parameters
    ----------
    times
        One row per size J, one column per method, in milliseconds.
    domain
        The domain, for the title.
    """
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    methods = [str(method) for method in times.columns]
    for method in methods:
        known = times[method].dropna()
        axes.plot(
            known.index, known, color=_color(method, methods), marker="o", label=label(method)
        )
    axes.set(xscale="log", yscale="log", xlabel="J", ylabel="milliseconds per decision")
    axes.set_xticks(times.index, [str(size) for size in times.index])
    axes.minorticks_off()
    axes.set_title(DOMAIN_LABELS[domain])
    finish_curves(axes)
    return figure


def _legend_entry(method: str, methods: list[str]) -> Patch:
    """Return a legend entry."""
    return Patch(color=_color(method, methods), label=label(method))


def _rotate_if_wide(figure: Figure, axes: Any) -> None:
    """Rotate the names below the bars if two of them would meet."""
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.get_xticklabels()]
    gap = 0.1 * figure.dpi
    if all(left.x1 + gap <= right.x0 for left, right in pairwise(boxes)):
        return
    axes.tick_params(axis="x", labelrotation=30)
    for text in axes.get_xticklabels():
        text.set_horizontalalignment("right")
        text.set_rotation_mode("anchor")


def _bars(axes: Any, rewards: pd.DataFrame, *, names: bool = True) -> None:
    methods = list(rewards["method"])
    bars = axes.bar(
        [label(method) for method in methods],
        rewards["reward"],
        yerr=rewards["error"].fillna(0.0),
        capsize=3,
        color=[_color(method, methods) for method in methods],
        width=0.75,
    )
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    if names:
        digits = 2 if rewards["reward"].abs().max() >= 1 else 4
        axes.bar_label(bars, fmt=f"%.{digits}f", padding=3, fontsize=9)
    else:
        axes.set_xticks([])
        axes.tick_params(axis="y", labelsize=8)


def _color(method: str, methods: list[str]) -> str:
    own = [name for name in methods if name not in COLORS]
    return COLORS[method] if method in COLORS else _OTHERS[own.index(method) % len(_OTHERS)]
