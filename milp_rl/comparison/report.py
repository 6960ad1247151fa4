"""The report of a comparison of solvers: a table, performance profiles and box plots.

The rows come from :mod:`milp_rl.comparison.run`. Profiles are those of Dolan and Moré,
"Benchmarking optimization software with performance profiles" (Mathematical Programming 91, 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milp_rl.extras import needs
from milp_rl.formulations.files import write_atomically

with needs("reports"):
    import pandas as pd
    from matplotlib.figure import Figure

    from milp_rl.reports.document import Section, new_figure, save_figure, to_html, to_markdown

SHIFT = 0.01
"""Shift of the geometric mean of times, in seconds."""

_KEY = ["instance", "state"]
_LINES = ("-", "--", ":")  # ten colours each


def summary_table(rows: pd.DataFrame, time_limit: float) -> pd.DataFrame:
    """Return one row per method.

    Parameters
    ----------
    rows
        As :func:`milp_rl.comparison.run.compare` returns them.
    time_limit
        Seconds that an unsolved state counts.

    Returns
    -------
    pandas.DataFrame
        Indexed by method: ``states``, ``solved`` (proven within the gap), ``mean_seconds``,
        ``shifted_geometric_mean`` of the seconds, ``mean_nodes``, ``largest_gap`` (of what has an
        action), ``disagreements``: states in which the method calls a value optimal that is
        below another's, beyond the solvers' tolerance.
    """
    solved = rows["status"].eq("optimal") | rows["status"].eq("infeasible")
    counted = rows.assign(
        solved=solved,
        counted=np.where(solved, rows["seconds"], time_limit),
        wrong=solved & _below_another(rows),
    )
    groups = counted.groupby("method", sort=False)
    return pd.DataFrame(
        {
            "states": groups.size(),
            "solved": groups["solved"].sum(),
            "mean_seconds": groups["counted"].mean(),
            "shifted_geometric_mean": groups["counted"].apply(
                lambda t: float(np.exp(np.log(t + SHIFT).mean()) - SHIFT)
            ),
            "mean_nodes": groups["nodes"].mean(),
            "largest_gap": groups["gap"].apply(lambda g: g[np.isfinite(g)].max()),
            "disagreements": groups["wrong"].sum(),
        }
    )


def _below_another(rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether another method found an action above what this one has proven."""
    best = rows.groupby(_KEY)["value"].transform("max")
    return best - rows["bound"] > 2 * rows["tolerance"]


def profile_chart(rows: pd.DataFrame) -> Figure:
    """Draw performance profiles: states solved within a multiple of the fastest method's time."""
    solved = rows[rows["status"].isin(["optimal", "infeasible"])]
    fastest = solved.groupby(_KEY)["seconds"].min().rename("fastest")
    ratios = solved.join(fastest, on=_KEY)
    ratios = ratios.assign(ratio=ratios["seconds"] / ratios["fastest"])
    total = len(rows.drop_duplicates(_KEY))
    figure = new_figure(6.8, 4.0)
    axes = figure.add_subplot()
    largest = float(ratios["ratio"].max()) if len(ratios) else 1.0
    for i, method in enumerate(dict.fromkeys(rows["method"])):
        own = np.sort(ratios.loc[ratios["method"] == method, "ratio"].to_numpy())
        share = np.arange(1, len(own) + 1) / total
        x = np.concatenate([[1.0], own, [largest]])
        y = np.concatenate([[0.0], share, share[-1:] if len(own) else [0.0]])
        axes.step(x, y, where="post", label=str(method), linestyle=_LINES[i // 10 % len(_LINES)])
    axes.set(
        xscale="log",
        xlabel="time, as a multiple of the fastest method's",
        ylabel="share of states solved",
        ylim=(0, 1.03),
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return figure


def time_chart(rows: pd.DataFrame) -> Figure:
    """Draw the times of solved states as boxes, one per method."""
    names = [str(method) for method in dict.fromkeys(rows["method"])]
    solved = rows[rows["status"].isin(["optimal", "infeasible"])]
    times = [1e3 * solved.loc[solved["method"] == name, "seconds"].to_numpy() for name in names]
    figure = new_figure(6.8, 1.0 + 0.38 * len(names))
    axes = figure.add_subplot()
    axes.boxplot(times, orientation="horizontal", tick_labels=names, widths=0.6)
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds per solved state")
    if len(solved):
        axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_comparison(
    rows: Sequence[dict[str, Any]], output: str | Path, *, time_limit: float
) -> Path:
    """Write ``results.csv``, ``summary.csv``, charts, ``report.md`` and ``report.html``.

    Parameters
    ----------
    rows
        As :func:`milp_rl.comparison.run.compare` returns them, at least one.
    output
        Folder; made if it does not exist.
    time_limit
        Seconds that an unsolved state counts.

    Returns
    -------
    pathlib.Path
        The HTML file.
    """
    out = Path(output)
    out.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    table = summary_table(frame, time_limit)
    write_atomically(out / "results.csv", frame.to_csv(index=False).encode())
    write_atomically(out / "summary.csv", table.to_csv().encode())
    save_figure(profile_chart(frame), out / "profile.png")
    save_figure(time_chart(frame), out / "times.png")
    shown = pd.DataFrame(
        {
            "solved": [
                f"{int(a)} of {int(b)}"
                for a, b in zip(table["solved"], table["states"], strict=True)
            ],
            "mean ms": _milliseconds(table["mean_seconds"]),
            "shifted geometric mean, ms": _milliseconds(table["shifted_geometric_mean"]),
            "mean nodes": [f"{nodes:,.0f}" for nodes in table["mean_nodes"]],
            "largest gap": ["" if np.isnan(g) else f"{g:.2g}" for g in table["largest_gap"]],
            "disagreements": [str(int(count)) for count in table["disagreements"]],
        },
        index=table.index,
    )
    failed = frame[~frame["status"].isin(["optimal", "infeasible"])]
    sections = [
        Section(
            "Methods",
            f"{frame['instance'].nunique()} instances, {len(frame.drop_duplicates(_KEY))} states."
            f" What is not solved counts the time limit of {time_limit:g} s. The geometric mean is"
            f" shifted by {1e3 * SHIFT:g} ms. A disagreement is a value called optimal that is"
            " below another method's.",
            shown,
        ),
        Section("Performance profile", charts=("profile.png",)),
        Section("Times", charts=("times.png",)),
    ]
    if len(failed):
        counts = failed.groupby(["method", "status"], sort=False)["message"].agg(["size", "first"])
        counts = counts.reset_index().rename(columns={"size": "states", "first": "first message"})
        sections.append(Section("Not solved", table=counts.set_index("method").astype(str)))
    write_atomically(out / "report.md", to_markdown("Comparison of solvers", sections).encode())
    page = out / "report.html"
    write_atomically(page, to_html("Comparison of solvers", sections, out).encode())
    return page


def _milliseconds(seconds: pd.Series[float]) -> list[str]:
    return [f"{1e3 * value:,.3g}" for value in seconds]
