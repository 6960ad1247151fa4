"""The rows as tables of the documentation: `python -m benchmarks.learners.table` writes them there.

A page has `<!-- table: NAME -->` before each of its tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from . import records
from .__main__ import RESULTS
from .sweep import RESULTS as SWEEP
from .transfer import RESULTS as TRANSFER

PAGE = Path(__file__).parents[2] / "docs" / "learners.md"
STEPS = 10_000
SEEDS = 3
LAST = "milp-rl, last weights"  # `--set average_decay=0`, the only ones before there were averages
ORDER = ["random", "heuristic", "ppo", "ppo-scores", "maskable-ppo", "dnc", "milp-rl", LAST]
TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(?:\|.*\n)*")


def returns(rows: pd.DataFrame) -> str:
    """Return a line for each domain, with the return of each learner."""
    return _table(rows[_equal(rows)], _shown)


def seconds(rows: pd.DataFrame) -> str:
    """Return a line for each domain, with the processor seconds of each training."""
    trained = rows[_equal(rows) & (rows["steps"] == STEPS)]
    return _table(trained, lambda own: f"{own['cpu_seconds'].mean():.0f}")


def other(rows: pd.DataFrame) -> str:
    """Return a line for each learner that was trained for other steps, or otherwise."""
    found = rows[~_equal(rows)]
    lines = ["| domain | learner | steps | return | seconds |", "|---|---|---|---|---|"]
    for (domain, learner, steps), own in found.groupby(["domain", "learner", "steps"], sort=False):
        spent = own["cpu_seconds"].mean()
        lines.append(f"| {domain} | {learner} | {steps:,} | {_shown(own)} | {spent:.0f} |")
    return "\n".join(lines) + "\n"


def transfer(rows: pd.DataFrame) -> str:
    """Return a line for each domain, with what a network from 20 arms has of one trained there."""
    lines = ["| domain | trained with 20 arms | trained there | share |", "|---|---|---|---|"]
    for domain, own in rows.groupby("domain", sort=False):
        by = dict(iter(own.groupby("learner")))
        taken = by.pop("trained with 20 arms", None)
        there = next(iter(by.values()), None)
        share = ""
        if taken is not None and there is not None:
            share = f"{100 * taken['mean'].mean() / there['mean'].mean():.1f}%"
        lines.append(f"| {domain} | {_shown(taken)} | {_shown(there)} | {share} |")
    return "\n".join(lines) + "\n"


def sweep(rows: pd.DataFrame, untrained: pd.DataFrame) -> str:
    """Return a line for each setting: its return in each domain, and how near it is to the best.

    That is the mean over domains of the return above random, as a share of what the best setting
    has there. Settings that were not run in all domains are left out.
    """
    means = rows.groupby(["learner", "domain"])["mean"].mean().unstack().dropna()
    drawn = untrained[untrained["learner"] == "random"].groupby("domain")["mean"].mean()
    gain = means - drawn[means.columns]
    share = (gain / gain.max()).mean(axis=1).sort_values(ascending=False)
    seeds = rows.groupby("learner")["seed"].nunique()
    spent = rows.groupby("learner")["cpu_seconds"].mean()
    head = ["setting", "share", "seconds", *means.columns]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for setting, near in share.items():
        cells = [f"{value:.1f}" for value in means.loc[setting]]
        few = f" ({seeds[setting]})" if seeds[setting] < SEEDS else ""
        lines.append(
            f"| `{setting}`{few} | {100 * near:.1f}% | {spent[setting]:.0f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """Return a page with its tables as of now."""
    results, taken = records.read(RESULTS), records.read(TRANSFER)
    tables = {
        "returns": returns(results),
        "seconds": seconds(results),
        "other": other(results),
        "transfer": transfer(taken),
        "sweep": sweep(records.read(SWEEP), results),
    }
    return TABLE.sub(lambda found: found[1] + tables[found[2]], page)


def _equal(rows: pd.DataFrame) -> pd.Series[bool]:
    """Mark the learners as they are, after equal steps or none."""
    return rows["learner"].isin(ORDER) & rows["steps"].isin([0, STEPS])


def _table(rows: pd.DataFrame, cell: Callable[[pd.DataFrame], str]) -> str:
    learners = [name for name in ORDER if (rows["learner"] == name).any()]
    lines = [f"| domain | {' | '.join(learners)} |", "|---" * (len(learners) + 1) + "|"]
    for domain in dict.fromkeys(rows["domain"]):
        own = rows[rows["domain"] == domain]
        cells = [own[own["learner"] == name] for name in learners]
        shown = [cell(part) if len(part) else "" for part in cells]
        lines.append(f"| {domain} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _shown(rows: pd.DataFrame | None) -> str:
    """Return mean and standard error: over seeds, or of one seed over its episodes."""
    if rows is None or not len(rows):
        return ""
    mean, error = rows["mean"].mean(), rows["mean"].sem()
    if len(rows) == 1:
        error = rows["standard_error"].iloc[0]
    digits = 0 if abs(mean) >= 1000 else 1
    few = len(rows) < SEEDS and (rows["steps"] > 0).all()
    mark = f" ({len(rows)})" if few else ""
    return f"{mean:.{digits}f} ± {error:.{digits}f}{mark}"


def main() -> None:
    PAGE.write_text(written(PAGE.read_text()))


if __name__ == "__main__":
    main()
