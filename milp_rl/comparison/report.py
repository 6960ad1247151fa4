"""The report of a comparison of solvers: tables, performance and data profiles, box plots.

The rows come from :mod:`milp_rl.comparison.run`. Performance profiles are those of Dolan and Moré,
"Benchmarking optimization software with performance profiles" (Mathematical Programming 91, 2002),
data profiles those of Moré and Wild, "Benchmarking derivative-free optimization algorithms" (SIAM
Journal on Optimization 20, 2009), with seconds as the budget.
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

VIRTUAL_BEST = "virtual best"
"""What a method would be that takes, in each state, the fastest of those compared."""

_KEY = ["instance", "state"]
_SOLVED = ["optimal", "infeasible"]
_LINES = ("-", "--", ":")  # ten colours each
_WHOLE = 100.0


def with_virtual_best(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows and, as those of one more method, the fastest solved one of each state.

    Where no method solved a state, its first row stands.
    """
    solved = rows["status"].isin(_SOLVED)
    order = rows.assign(unsolved=~solved).sort_values(["unsolved", "seconds"], kind="stable")
    best = order.drop_duplicates(_KEY).drop(columns="unsolved").sort_values(_KEY)
    return pd.concat([rows, best.assign(method=VIRTUAL_BEST)], ignore_index=True)


def summary_table(rows: pd.DataFrame | Sequence[dict[str, Any]], time_limit: float) -> pd.DataFrame:
    """Return one row per method, and one of the virtual best.

    Parameters
    ----------
    rows
        As :func:`milp_rl.comparison.run.compare` returns them.
    time_limit
        Seconds that an unsolved state counts.

    Returns
    -------
    pandas.DataFrame
        Indexed by method: ``states``, ``solved`` (proven within the gap), ``fastest`` (states that
        it solved in the least time), ``mean_seconds``, ``shifted_geometric_mean`` of the seconds,
        ``par2_seconds`` (the mean with twice the time limit for what is unsolved, crashed and
        killed included), ``mean_nodes``, ``largest_gap`` (of what has an action),
        ``disagreements``: states in which the method calls a value optimal that is below
        another's, beyond the solvers' tolerance.
    """
    rows = pd.DataFrame(rows)
    solved = rows["status"].isin(_SOLVED)
    times = rows["seconds"].where(solved)
    counted = rows.assign(
        solved=solved,
        fastest=times == times.groupby([rows[key] for key in _KEY]).transform("min"),
        counted=np.where(solved, rows["seconds"], time_limit),
        penalised=np.where(solved, rows["seconds"], 2 * time_limit),
        wrong=solved & _below_another(rows),
    )
    groups = with_virtual_best(counted).groupby("method", sort=False)
    return pd.DataFrame(
        {
            "states": groups.size(),
            "solved": groups["solved"].sum(),
            "fastest": groups["fastest"].sum(),
            "mean_seconds": groups["counted"].mean(),
            "shifted_geometric_mean": groups["counted"].apply(_shifted_geometric_mean),
            "par2_seconds": groups["penalised"].mean(),
            "mean_nodes": groups["nodes"].mean(),
            "largest_gap": groups["gap"].apply(lambda g: g[np.isfinite(g)].max()),
            "disagreements": groups["wrong"].sum(),
        }
    )


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of :func:`summary_table` as text: times in milliseconds, three digits."""
    solved = zip(table["solved"], table["states"], strict=True)
    return pd.DataFrame(
        {
            "solved": [f"{int(a)} of {int(b)}" for a, b in solved],
            "fastest": [str(int(count)) for count in table["fastest"]],
            "mean ms": _milliseconds(table["mean_seconds"]),
            "shifted geometric mean, ms": _milliseconds(table["shifted_geometric_mean"]),
            "PAR-2, ms": _milliseconds(table["par2_seconds"]),
            "mean nodes": [_digits(nodes) for nodes in table["mean_nodes"]],
            "largest gap": ["" if np.isnan(g) else f"{g:.2g}" for g in table["largest_gap"]],
            "disagreements": [str(int(count)) for count in table["disagreements"]],
        },
        index=table.index,
    )


def kinds_table(rows: pd.DataFrame, time_limit: float) -> pd.DataFrame:
    """Return, per kind of feasible set and method, how many are solved and the mean time."""
    parts = {}
    for kind, own in rows.groupby("kind", sort=False):
        table = readable(summary_table(own, time_limit))
        parts[str(kind)] = table["solved"] + "; " + table["shifted geometric mean, ms"] + " ms"
    return pd.DataFrame(parts).T.rename_axis("kind").fillna("")


def _shifted_geometric_mean(seconds: pd.Series[float]) -> float:
    return float(np.exp(np.log(seconds + SHIFT).mean()) - SHIFT)


def _below_another(rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether another method found an action above what this one has proven."""
    best = rows.groupby(_KEY)["value"].transform("max")
    return best - rows["bound"] > 2 * rows["tolerance"]


def profile_chart(rows: pd.DataFrame) -> Figure:
    """Draw performance profiles: states solved within a multiple of the fastest method's time."""
    solved = rows[rows["status"].isin(_SOLVED)]
    fastest = solved.groupby(_KEY)["seconds"].transform("min")
    return _profiles(
        rows,
        solved.assign(cost=solved["seconds"] / fastest),
        "time, as a multiple of the fastest method's",
    )


def data_profile_chart(rows: pd.DataFrame) -> Figure:
    """Draw data profiles: states solved within a time, with the virtual best of all methods."""
    every = with_virtual_best(rows)
    solved = every[every["status"].isin(_SOLVED)]
    return _profiles(every, solved.assign(cost=1e3 * solved["seconds"]), "milliseconds")


def _profiles(rows: pd.DataFrame, solved: pd.DataFrame, label: str) -> Figure:
    """Draw, per method, the share of states whose cost is at most that on the horizontal axis."""
    total = len(rows.drop_duplicates(_KEY))
    figure = new_figure(6.8, 4.0)
    axes = figure.add_subplot()
    least, largest = (solved["cost"].min(), solved["cost"].max()) if len(solved) else (1.0, 1.0)
    for i, method in enumerate(dict.fromkeys(rows["method"])):
        own = np.sort(solved.loc[solved["method"] == method, "cost"].to_numpy())
        share = np.arange(1, len(own) + 1) / total
        x = np.concatenate([[least], own, [largest]])
        y = np.concatenate([[0.0], share, share[-1:] if len(own) else [0.0]])
        virtual = method == VIRTUAL_BEST
        how: dict[str, Any] = {"color": "black", "linewidth": 1.0} if virtual else {}
        line = ":" if virtual else _LINES[i // 10 % len(_LINES)]
        axes.step(x, y, where="post", label=str(method), linestyle=line, **how)
    axes.set(xscale="log", xlabel=label, ylabel="share of states solved", ylim=(0, 1.03))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return figure


def time_chart(rows: pd.DataFrame) -> Figure:
    """Draw the times of solved states as boxes, one per method."""
    names = [str(method) for method in dict.fromkeys(rows["method"])]
    solved = rows[rows["status"].isin(_SOLVED)]
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
    save_figure(data_profile_chart(frame), out / "data-profile.png")
    save_figure(time_chart(frame), out / "times.png")
    failed = frame[~frame["status"].isin(_SOLVED)]
    versions = frame[["solver", "version"]].drop_duplicates()
    used = ", ".join(f"{name} {number}" for name, number in versions.itertuples(index=False))
    sections = [
        Section(
            "Methods",
            f"{frame['instance'].nunique()} instances, {len(frame.drop_duplicates(_KEY))} states."
            f" What is not solved counts the time limit of {time_limit:g} s, in PAR-2 twice that."
            f" The geometric mean is shifted by {1e3 * SHIFT:g} ms. The virtual best takes, in each"
            " state, the fastest method. A disagreement is a value called optimal that is below"
            " another method's.",
            readable(table),
        ),
        Section("Where", f"{used}. {'; '.join(frame['machine'].unique())}."),
        Section(
            "Kinds of feasible sets",
            "States solved, and the shifted geometric mean of the times.",
            kinds_table(frame, time_limit),
        ),
        Section("Performance profile", charts=("profile.png",)),
        Section("Data profile", charts=("data-profile.png",)),
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
    return [_digits(1e3 * value) for value in seconds]


def _digits(value: float) -> str:
    """Write a number with three digits, or whole, never with an exponent for a large one."""
    return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.3g}"
