"""The report of experiments: charts, and tables as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from milp_rl.experiments.charts import (
    Setting,
    curve_chart,
    label,
    overview_chart,
    reward_chart,
    time_chart,
    title,
)
from milp_rl.experiments.exactness import exactness_section, method_table
from milp_rl.experiments.methods import BASELINES, LEARNERS
from milp_rl.experiments.paired import paired
from milp_rl.experiments.runner import EPISODES, RESULTS
from milp_rl.formulations.files import write_atomically
from milp_rl.reports.document import Section, save_figure, to_html, to_markdown

REFERENCE = "sequoia"
KEYS = ["domain", "J", "B", "seed", "method"]
_LATER = {
    "cpu_ms_per_decision": np.nan,
    "way": None,
    "training_steps": np.nan,
    "training_cpu_seconds": np.nan,
}
"""Columns that results of earlier versions do not have."""
_TRAINING = {
    "training_episodes": "episodes",
    "training_seconds": "seconds",
    "argmax_seconds": "of it in argmaxes",
    "argmax_lookups": "argmaxes asked for",
    "argmax_solves": "solved",
    "cache_hits": "found in the cache",
}


@dataclass(frozen=True)
class Results:
    """What one or several runs have written.

    Attributes
    ----------
    cells
        A row for each cell, as in ``results.csv``.
    curves
        Validation rewards, as in ``curves.csv``.
    episodes
        Rewards of episodes by setting, as in ``episodes.csv``; a run of an earlier version has
        none.
    """

    cells: pd.DataFrame
    curves: pd.DataFrame
    episodes: dict[Setting, pd.DataFrame]


def read_results(folders: Sequence[str | Path]) -> Results:
    """Read the results, learning curves and episodes of one or several runs.

    Raises
    ------
    ValueError
        If a folder has no results, or two have the same cell.
    """
    results, curves, episodes = [], [], []
    for folder in map(Path, folders):
        if not (folder / RESULTS).exists():
            raise ValueError(f"{folder} has no {RESULTS}: no run has been finished there")
        # "null" is the name of a policy, not a missing value
        results.append(pd.read_csv(folder / RESULTS, keep_default_na=False, na_values=[""]))
        if (folder / "curves.csv").exists():
            curves.append(pd.read_csv(folder / "curves.csv"))
        if (folder / EPISODES).exists():
            episodes.append(pd.read_csv(folder / EPISODES))
    table = pd.concat(results, ignore_index=True)
    twice = table[table.duplicated(KEYS)]
    if len(twice):
        cell = ", ".join(str(value) for value in twice.iloc[0][KEYS])
        raise ValueError(f"two of the runs have the same cell: {cell}")
    table = table.assign(**{name: no for name, no in _LATER.items() if name not in table})
    none = pd.DataFrame(columns=[*KEYS, "episode", "reward"])
    played = {}
    if episodes:
        for key, rows in pd.concat(episodes).groupby(["domain", "J", "B"], sort=False):
            # of several runs, each has the columns of its methods
            by_episode = rows.groupby(["seed", "episode"], as_index=False).first()
            domain, n_arms, budget = key
            played[str(domain), int(str(n_arms)), int(str(budget))] = by_episode
    return Results(table, pd.concat(curves, ignore_index=True) if curves else none, played)


def write_report(
    folders: Sequence[str | Path], output: str | Path, *, heading: str = "Experiments"
) -> Path:
    """Write ``report.md``, ``report.html``, ``gains.csv``, ``differences.csv`` and charts.

    Parameters
    ----------
    folders
        Output folders of runs, with different cells.
    output
        Folder for the report; made if it does not exist.
    heading
        Title of the report.

    Returns
    -------
    pathlib.Path
        The HTML file, which holds its charts.

    Raises
    ------
    ValueError
        If a folder has no results, or two have the same cell.
    """
    read = read_results(folders)
    results, curves = read.cells, read.curves
    out = Path(output)
    out.mkdir(parents=True, exist_ok=True)
    rewards = _rewards(results)
    gains = gain_table(rewards)
    save_figure(overview_chart(rewards), out / "overview.png")
    sections = [
        Section(
            "Rewards",
            "Mean over the steps of an episode of the expected reward of the step, the measure of"
            " Xu, Wilder, Khalil and Tambe (ICLR 2025); of the reward itself where an environment"
            " does not know its model. All methods face the same luck.",
            charts=("overview.png",),
        ),
        Section("", table=_reward_table(rewards)),
    ]
    if len(gains):
        write_atomically(out / "gains.csv", gains.to_csv().encode())
        verdict, points = _verdict(rewards)
        sections.append(Section("Gain of SEQUOIA", verdict, _percent(gains), points=points))
    differences = difference_table(rewards, read.episodes)
    if len(differences):
        write_atomically(out / "differences.csv", differences.to_csv(index=False).encode())
    exactness = exactness_section(results, read.episodes)
    if exactness is not None:
        sections.append(exactness)
    if results["exact_optimum"].notna().any():
        sections.append(_exact_section(results))
    sections += _cost_sections(results)
    for domain, rows in results.groupby("domain", sort=False):
        times = rows.pivot_table("ms_per_decision", "J", "method")
        if len(times) > 1:
            name = f"times-{domain}.png"
            save_figure(time_chart(times[_ordered(times.columns)], str(domain)), out / name)
            sections.append(Section("", charts=(name,)))
    for setting, table in rewards.items():
        name = "{}-J{}-B{}".format(*setting)
        charts = [f"rewards-{name}.png"]
        save_figure(reward_chart(table, setting), out / charts[0])
        curve = curves[_is(curves, setting)]
        if len(curve):
            charts.append(f"curves-{name}.png")
            save_figure(curve_chart(curve, table, setting), out / charts[1])
        shown, own = title(setting), results[_is(results, setting)]
        methods = _ordered(table["method"])
        whole = method_table(table, own, read.episodes.get(setting), REFERENCE, methods)
        text = _PAIRED if setting in read.episodes and REFERENCE in methods else ""
        section = Section(shown[0].upper() + shown[1:], text, whole, tuple(charts))
        sections.append(section)
    write_atomically(out / "report.md", to_markdown(heading, sections).encode())
    path = out / "report.html"
    write_atomically(path, to_html(heading, sections, out).encode())
    return path


_PAIRED = (
    "Differences are paired: the same instances and episodes. The interval over episodes is about"
    " these instances and trained networks; the one over seeds, about others like them (by"
    " Student's distribution, wide where seeds are few). Milliseconds of a decision are processor"
    " time, decisions remembered included; a training's seconds, with its validations. Steps are"
    " those played; the model's transitions in replay come on top."
)


def difference_table(
    rewards: Mapping[Setting, pd.DataFrame], episodes: Mapping[Setting, pd.DataFrame]
) -> pd.DataFrame:
    """Return SEQUOIA's reward minus each other method's, paired, with half widths of intervals."""
    rows = []
    for setting, table in rewards.items():
        for method in table["method"]:
            if setting not in episodes or method == REFERENCE:
                continue
            found = paired(episodes[setting], REFERENCE, str(method))
            if found is not None:
                domain, n_arms, budget = setting
                where = {"domain": domain, "J": n_arms, "B": budget, "method": method}
                rows.append(where | asdict(found))
    return pd.DataFrame(rows)


def gain_table(rewards: dict[Setting, pd.DataFrame]) -> pd.DataFrame:
    """Return how much more reward SEQUOIA has than each other method, as a share of the other's.

    One row per domain and size with SEQUOIA, and one with the mean over these; one column per
    method, and one with the mean over the others but the null policy.
    """
    rows = {}
    for setting, table in rewards.items():
        reward = table.set_index("method")["reward"]
        if REFERENCE in reward:
            rows[title(setting)] = reward[REFERENCE] / reward.drop(REFERENCE) - 1.0
    if not rows:
        return pd.DataFrame()
    gains = pd.DataFrame(rows).T
    gains = gains[_ordered(gains.columns)]
    gains["mean without null"] = gains.drop(columns="null", errors="ignore").mean(axis=1)
    gains.loc["mean"] = gains.mean()
    return gains


def _rewards(results: pd.DataFrame) -> dict[Setting, pd.DataFrame]:
    """Average over seeds in each setting; the errors of seeds are independent."""
    found = {}
    for key, rows in results.groupby(["domain", "J", "B"], sort=False):
        by_method = rows.groupby("method", sort=False)
        table = pd.DataFrame(
            {
                "reward": by_method["reward_mean"].mean(),
                "error": by_method["reward_se"].apply(lambda e: float(np.sqrt((e**2).sum())))
                / by_method.size(),
                "spread": by_method["reward_mean"].sem(),
                "seeds": by_method.size(),
            }
        ).reset_index()
        table = table.set_index("method").loc[_ordered(table["method"])].reset_index()
        domain, n_arms, budget = key
        found[str(domain), int(str(n_arms)), int(str(budget))] = table
    return dict(sorted(found.items(), key=lambda item: item[0][1]))


def _reward_table(rewards: dict[Setting, pd.DataFrame]) -> pd.DataFrame:
    rows = {}
    for setting, table in rewards.items():
        row = {"seeds": str(table["seeds"].max())}
        for method, reward, error in table[["method", "reward", "error"]].itertuples(index=False):
            digits = 2 if abs(reward) >= 1 or not error else 4
            row[label(method)] = f"{reward:.{digits}f} ± {error:.{digits}f}"
        rows[title(setting)] = row
    table = pd.DataFrame(rows).T.fillna("")
    methods = {method for table in rewards.values() for method in table["method"]}
    return table[["seeds", *map(label, _ordered(methods))]]


def _ordered(methods: Iterable[Any]) -> list[str]:
    """Return methods in the order in which they are shown everywhere."""
    found = set(map(str, methods))
    known = [method for method in [*BASELINES, *LEARNERS] if method in found]
    return [*known, *sorted(found - set(known))]


def _percent(gains: pd.DataFrame) -> pd.DataFrame:
    written = gains.map(lambda value: "" if np.isnan(value) else f"{100 * value:+.1f}%")
    return written.rename(columns=label)


def _verdict(rewards: dict[Setting, pd.DataFrame]) -> tuple[str, tuple[str, ...]]:
    """Say where SEQUOIA is not above every other method, in words and points."""
    points = []
    for setting, table in rewards.items():
        reward = table.set_index("method")["reward"]
        if REFERENCE not in reward:
            continue
        others = reward.drop(REFERENCE)
        ahead = others[others >= reward[REFERENCE]]
        if len(ahead):
            points.append(f"{title(setting)}: {', '.join(label(str(m)) for m in ahead.index)}")
    if not points:
        return "SEQUOIA's mean reward is above that of every other method in every setting.", ()
    return "SEQUOIA's mean reward is not above that of:", tuple(points)


def _exact_section(results: pd.DataFrame) -> Section:
    small = results[results["exact_optimum"].notna() & results["exact_reward"].notna()].copy()
    small["share"] = small["exact_reward"] / small["exact_optimum"]
    small["instance"] = [
        title((domain, n_arms, budget))
        for domain, n_arms, budget in small[["domain", "J", "B"]].itertuples(index=False)
    ]
    table = small.pivot_table("share", "instance", "method", "mean", sort=False)
    table = table[_ordered(table.columns)].rename(columns=label)
    table["smallest of SEQUOIA"] = (
        small[small["method"] == REFERENCE].groupby("instance")["share"].min()
    )
    return Section(
        "Share of the exact optimum",
        "By value iteration over the joint chain, from the evaluation's start states, mean over"
        " seeds. The optimum knows which step of the episode it is in; the policies do not.",
        table.map(lambda value: "" if np.isnan(value) else f"{100 * value:.1f}%"),
    )


def _cost_sections(results: pd.DataFrame) -> list[Section]:
    """Return what decisions and training took, mean over seeds."""
    named = results.assign(
        instance=[
            title((domain, n_arms, budget))
            for domain, n_arms, budget in results[["domain", "J", "B"]].itertuples(index=False)
        ],
    )
    decisions = named.pivot_table("ms_per_decision", "instance", "method", sort=False)
    decisions = decisions[_ordered(decisions.columns)].rename(columns=label)
    sections = [
        Section(
            "Milliseconds per decision",
            "Wall-clock, one thread, mean over seeds.",
            decisions.map(lambda value: "" if np.isnan(value) else f"{value:.2f}"),
        )
    ]
    trained = named[named["training_seconds"].notna()]
    if len(trained):
        trained = trained.assign(argmax_gap=trained.get("argmax_gap", np.nan))
        mean = trained.groupby(["instance", "method"], sort=False)[
            [*_TRAINING, "argmax_gap"]
        ].mean()
        table = pd.DataFrame({text: mean[name] for name, text in _TRAINING.items()})
        table = table.map(lambda value: f"{value:,.0f}")
        table["known already"] = [
            f"{share:.0%}" for share in mean["cache_hits"] / mean["argmax_lookups"]
        ]
        if mean["argmax_gap"].notna().any():
            table["gap to the exact argmax"] = [
                "" if np.isnan(gap) else f"{gap:.2g}" for gap in mean["argmax_gap"]
            ]
        table.index = pd.Index([f"{instance}: {label(method)}" for instance, method in mean.index])
        sections.append(Section("Training", "Mean over seeds.", table))
    return sections


def _is(frame: pd.DataFrame, setting: Setting) -> pd.Series[bool]:
    domain, n_arms, budget = setting
    return (frame["domain"] == domain) & (frame["J"] == n_arms) & (frame["B"] == budget)
