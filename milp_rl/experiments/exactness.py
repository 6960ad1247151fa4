"""Where the exact argmax pays, and where it ties: the same networks, maximised and built upon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from milp_rl.experiments.charts import Setting, label, title
from milp_rl.experiments.paired import Difference, paired
from milp_rl.reports.document import Section

ON_THE_SAME_NETWORK = {"sequoia": "iterative_dqn_published", "sequoia_arms": "greedy_on_arms"}
"""What is greedy on the network that an exact method trained."""
_SELDOM = 0.02  # of the states


def exactness_section(
    results: pd.DataFrame, episodes: Mapping[Setting, pd.DataFrame]
) -> Section | None:
    """Return a table and what it says, or ``None`` where greedy building was not looked at.

    Parameters
    ----------
    results
        Rows of ``results.csv``.
    episodes
        Rows of ``episodes.csv`` by setting.
    """
    if "greedy_lower" not in results or results["greedy_lower"].isna().all():
        return None
    rows, words = {}, []
    for (domain, n_arms, budget, method), cells in results.groupby(
        ["domain", "J", "B", "method"], sort=False
    ):
        cells = cells[cells["greedy_lower"].notna()]
        greedy = ON_THE_SAME_NETWORK.get(str(method))
        if not len(cells):
            continue
        setting = str(domain), int(str(n_arms)), int(str(budget))
        gain = None
        if greedy is not None and setting in episodes:
            gain = paired(episodes[setting], str(method), greedy)
        name = f"{title(setting)}: {label(str(method))}"
        rows[name] = {
            "instances": str(len(cells)),
            "states visited": f"{cells['states_visited'].sum():,.0f}",
            "greedy not optimal": f"{cells['greedy_lower'].mean():.1%}",
            "in each instance": ", ".join(f"{share:.1%}" for share in cells["greedy_lower"]),
            "mean loss": f"{cells['greedy_loss'].mean():.2%}",
            "largest loss": f"{cells['greedy_largest_loss'].max():.1%}",
            "reward, exact minus greedy": "" if gain is None else shown(gain),
        }
        if gain is not None:
            words.append(f"{name}: {_words(gain, cells)}")
    text = (
        "The states are those that the exact policy visited in its evaluation. Greedy building is"
        " not optimal where its action has a lower value under the same network (by more than 1e-6"
        " of the spread of Q); its loss is a share of what the optimum is above the mean of random"
        " actions that spend the budget, mean over all states. Rewards: both play the same network"
        " in the same episodes, with the 95% interval over episodes."
    )
    table = pd.DataFrame(rows).T
    return Section("Where the exact argmax pays", text, table, points=tuple(words))


def shown(difference: Difference) -> str:
    """Return a difference with its interval over episodes."""
    return f"{difference.mean:+.3f} ± {difference.over_episodes:.3f}"


def _words(gain: Difference, cells: pd.DataFrame) -> str:
    lower, loss = cells["greedy_lower"].mean(), cells["greedy_loss"].mean()
    often = f"greedy building is not optimal in {lower:.1%} of the states and loses {loss:.2%}"
    if gain.sign > 0:
        return f"the exact argmax pays, {shown(gain)} a step, as {often}."
    if gain.sign < 0:
        return (
            f"the exact argmax earns less, {shown(gain)} a step, although {often}: the network's"
            " values are not the true ones, and a higher one is not always a better decision."
        )
    if not lower:
        return "both decide alike: greedy building finds the optimum in every state visited."
    if lower <= _SELDOM:
        return f"a tie, as {often}: on this network the two seldom differ."
    return (
        f"a tie, although {often}: the decisions that differ are worth the same in the domain, or"
        " the network's values are too rough to tell them apart."
    )


def method_table(
    table: pd.DataFrame,
    results: pd.DataFrame,
    episodes: pd.DataFrame | None,
    reference: str,
    methods: Sequence[str],
) -> pd.DataFrame:
    """Return a row for each method of one setting: rewards, differences, times.

    Parameters
    ----------
    table
        Columns ``method``, ``reward``, ``error`` (over episodes), ``spread`` (over seeds) and
        ``seeds``.
    results, episodes
        Rows of ``results.csv`` and ``episodes.csv`` of the setting.
    reference
        The method that the others are compared with.
    methods
        In the order of the rows.
    """
    by_name = table.set_index("method")
    rows = {}
    for method in methods:
        own, cells = by_name.loc[method], results[results["method"] == method]
        row = {
            "seeds": f"{own['seeds']:.0f}",
            "reward": f"{own['reward']:.3f}",
            "error over episodes": f"{own['error']:.3f}",
            "error over seeds": _number(own["spread"], 3),
        }
        gap = None
        if episodes is not None and method != reference:
            gap = paired(episodes, reference, method)
        name = label(reference)
        row[f"{name} minus this"] = "" if gap is None else f"{gap.mean:+.3f}"
        row["95% over episodes"] = "" if gap is None else _interval(gap.mean, gap.over_episodes)
        row["95% over seeds"] = "" if gap is None else _interval(gap.mean, gap.over_seeds)
        row["ms a decision"] = _mean(cells, "cpu_ms_per_decision", 2)
        row["by"] = _ways(cells)
        row["training, processor s"] = _mean(cells, "training_cpu_seconds", 0)
        row["steps"] = _mean(cells, "training_steps", 0)
        rows[label(method)] = row
    whole = pd.DataFrame(rows).T
    return whole.loc[:, (whole != "").any()]  # runs of earlier versions do not have all


def _ways(cells: pd.DataFrame) -> str:
    """Return what found the decisions: the same in all seeds, or all that occur."""
    ways = [str(way) for way in cells["way"].dropna().unique()]
    if len(ways) <= 1:
        return "".join(ways)
    names = [part.split(" (")[0] for way in ways for part in way.split(", ")]
    return ", ".join(dict.fromkeys(names))


def _mean(cells: pd.DataFrame, column: str, digits: int) -> str:
    known = cells[column].dropna()
    return f"{known.mean():,.{digits}f}" if len(known) else ""


def _number(value: Any, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _interval(mean: float, half: float) -> str:
    return "" if np.isnan(half) else f"[{mean - half:+.3f}, {mean + half:+.3f}]"
