"""Charts of the care-management report, one for each table."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from milp_rl.reports.document import new_figure

_BLUE, _GREY, _RED, _GREEN = "#1f5a91", "#9d9d9d", "#c2565b", "#3f9b6f"
_VALUE = "value of a decision (doubly robust, 95% interval)"
_LABEL_WIDTH = 40  # characters below an axis that long names leave little of


def values_chart(table: pd.DataFrame, label: str = _VALUE) -> Figure:
    """Draw each policy's estimate with its interval, and the true value where it is known.

    Columns ``policy``, ``value``, ``low``, ``high`` and, if known, ``true value``.
    """
    figure, (axes,) = plain_axes(6.4, 1.2 + 0.42 * len(table))
    _intervals(axes, table, table["policy"])
    if "true value" in table:
        y = np.arange(len(table))
        axes.plot(table["true value"], y, "|", color=_RED, ms=14, mew=2, label="true value")
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel(textwrap.fill(label, _LABEL_WIDTH))
    return figure


def sensitivity_chart(table: pd.DataFrame) -> Figure:
    """Draw the estimates of :func:`milp_rl.offline.audit.sensitivity`."""
    kinds = list(dict.fromkeys(table["what"]))
    figure = new_figure(3.2 * len(kinds), 3.0)
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True), kinds, strict=True):
        rows = table[table["what"] == kind]
        x = np.arange(len(rows))
        errors = np.stack([rows["value"] - rows["low"], rows["high"] - rows["value"]])
        axes.errorbar(x, rows["value"], errors, marker="o", color=_BLUE, capsize=3)
        labels = ["none" if np.isinf(by) else f"{by:g}" for by in rows["by"]]
        axes.set_xticks(x, labels)
        axes.set_xlabel(kind)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("doubly robust value")
    return figure


def subgroup_chart(table: pd.DataFrame) -> Figure:
    """Draw the values of :func:`milp_rl.offline.audit.subgroup_values`."""
    figure, (axes,) = plain_axes(6.4, 1.2 + 0.42 * len(table))
    _intervals(axes, table, table["group"])
    axes.plot(table["observed"], np.arange(len(table)), "o", color=_GREY, label="observed")
    axes.set_xlabel(textwrap.fill(_VALUE, _LABEL_WIDTH))
    axes.legend(frameon=False, fontsize=8)
    return figure


def parity_chart(tables: dict[str, pd.DataFrame], level: str) -> Figure:
    """Draw the shares of :func:`milp_rl.offline.audit.parity_audit` for several policies."""
    figure, (axes,) = plain_axes(6.8, 3.2)
    colors = [_GREY, _BLUE, _GREEN, _RED]
    width = 0.8 / len(tables)
    for i, (name, table) in enumerate(tables.items()):
        x = np.arange(len(table)) + (i - (len(tables) - 1) / 2) * width
        axes.bar(x, 100 * table["share"], width, label=name, color=colors[i % len(colors)])
        axes.set_xticks(np.arange(len(table)), table["group"])
    axes.set_ylabel(f"{level}, % of decisions")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def fairness_chart(table: pd.DataFrame) -> Figure:
    """Draw the trade-off of :func:`milp_rl.offline.audit.fairness_curve`, by both gaps."""
    figure, grid = plain_axes(10.5, 4.2, 2)
    kinds = {"demographic": _BLUE, "proportional": _GREEN}
    for axes, gap in zip(grid, ("parity gap", "proportional gap"), strict=True):
        for parity, color in kinds.items():
            rows = table[table["parity"].isin(["none", parity])]
            errors = np.stack([rows["value"] - rows["low"], rows["high"] - rows["value"]])
            x = 100 * rows[gap]
            axes.errorbar(
                x, rows["value"], errors, marker="o", color=color, capsize=3, label=parity
            )
            for at, value, penalty in zip(x, rows["value"], rows["penalty"], strict=True):
                axes.annotate(
                    f"{penalty:g}",
                    (at, value),
                    color=color,
                    textcoords="offset points",
                    xytext=(6, 6),
                )
        axes.set(xlabel=f"{gap}, percentage points")
        axes.locator_params(axis="x", nbins=4)
    grid[0].set(ylabel="doubly robust value")
    grid[1].legend(frameon=False, title="penalty", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def conservatism_chart(table: pd.DataFrame) -> Figure:
    """Draw the values of :func:`milp_rl.offline.audit.conservatism_curve`."""
    figure, (axes,) = plain_axes(5.4, 3.4)
    x = np.arange(len(table))
    errors = np.stack([table["value"] - table["low"], table["high"] - table["value"]])
    axes.errorbar(x, table["value"], errors, marker="o", color=_BLUE, capsize=3)
    axes.set_xticks(x, [f"{value:g}" for value in table["conservatism"]])
    axes.set(xlabel="alpha of CQL", ylabel="doubly robust value")
    return figure


def mediation_chart(table: pd.DataFrame, what: str) -> Figure:
    """Draw the effects of :func:`milp_rl.offline.audit.mediation`."""
    figure, (axes,) = plain_axes(6.0, 2.2)
    _intervals(axes, table, table["effect"])
    axes.axvline(0.0, color=_GREY, linewidth=1)
    axes.set_xlabel(f"difference in {what}")
    return figure


def window_chart(table: pd.DataFrame) -> Figure:
    """Draw the values of :func:`milp_rl.offline.audit.window_grid`."""
    figure, (axes,) = plain_axes(5.0, 3.0)
    errors = np.stack([table["value"] - table["low"], table["high"] - table["value"]])
    axes.errorbar(table["window"], table["value"], errors, marker="o", color=_BLUE, capsize=3)
    axes.set(xlabel="weeks seen", ylabel="doubly robust value", xticks=table["window"])
    return figure


def reward_chart(table: pd.DataFrame) -> Figure:
    """Draw the values of :func:`milp_rl.offline.audit.reward_grid`."""
    grid = table.pivot_table(values="value", index="engagement", columns="intermediate")
    figure, (axes,) = plain_axes(5.0, 3.6)
    image = axes.imshow(grid, cmap="Blues", origin="lower")
    middle = (grid.to_numpy().min() + grid.to_numpy().max()) / 2
    for (i, j), value in np.ndenumerate(grid.to_numpy()):
        color = "white" if value > middle else "black"
        axes.text(j, i, f"{value:.4f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(grid.shape[1]), [f"{v:g}" for v in grid.columns])
    axes.set_yticks(range(grid.shape[0]), [f"{v:g}" for v in grid.index])
    axes.set(xlabel="weight of intermediate outcomes", ylabel="weight of engagement")
    figure.colorbar(image, label="doubly robust value")
    return figure


def population_chart(table: pd.DataFrame) -> Figure:
    """Draw the value of allocations, as a share of the exact one."""
    figure, (axes,) = plain_axes(6.4, 3.0)
    methods = list(dict.fromkeys(table["method"]))
    sizes = list(dict.fromkeys(table["patients"]))
    width = 0.8 / len(methods)
    for i, (method, color) in enumerate(zip(methods, [_BLUE, _GREEN, _GREY], strict=False)):
        rows = table[table["method"] == method]
        x = np.arange(len(sizes)) + (i - (len(methods) - 1) / 2) * width
        bars = axes.bar(x, 100 * rows["share of exact"], width, label=method, color=color)
        broken = [f"{n} broken" if n else "" for n in rows["limits broken"]]
        axes.bar_label(bars, broken, fontsize=7, color=_RED)
    axes.set_xticks(np.arange(len(sizes)), [f"{size:,} patients" for size in sizes])
    axes.set_ylabel("value, % of the exact")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _intervals(axes: Axes, table: pd.DataFrame, names: pd.Series[str]) -> None:
    y = np.arange(len(table))
    errors = np.stack([table["value"] - table["low"], table["high"] - table["value"]])
    axes.errorbar(table["value"], y, xerr=errors, fmt="s", color=_BLUE, capsize=3)
    axes.set_yticks(y, list(names))
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=5)  # or the numbers run into each other


def plain_axes(
    width: float, height: float, columns: int = 1, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure, in inches, and its axes side by side, row by row."""
    figure = new_figure(width, height)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid
