"""Differences between methods on the same instances and episodes, with 95% intervals.

All methods face the same luck in an episode, so that the difference of their rewards there varies
less than either. There are two intervals, for two questions. Over episodes: on these instances and
with these trained networks, is one better than the other? Over seeds: would it be so on another
instance, trained anew? The second holds the noise of episodes and trainings too, and needs two
seeds at least; with few it is wide, since the quantile of Student's distribution is then large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

_LEVEL = 0.975


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences.

    Attributes
    ----------
    mean
        Over episodes of each seed, then over seeds.
    over_episodes, over_seeds
        Half the widths of 95% intervals; NaN where there are too few to tell.
    seeds, episodes
        How many, the latter in all.
    """

    mean: float
    over_episodes: float
    over_seeds: float
    seeds: int
    episodes: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval over episodes is above or below zero, else 0."""
        clear = abs(self.mean) > self.over_episodes
        return int(np.sign(self.mean)) if clear else 0


def paired(rows: pd.DataFrame, one: str, other: str) -> Difference | None:
    """Return the difference of two methods' rewards, one minus other, in one setting.

    Parameters
    ----------
    rows
        Episodes of one setting, as in ``episodes.csv``: columns ``seed``, ``episode`` and a reward
        for each method.
    one, other
        Methods.

    Returns
    -------
    Difference or None
        ``None`` where they have no episode in common.
    """
    if one not in rows or other not in rows:
        return None
    difference = (rows[one] - rows[other]).dropna()
    if not len(difference):
        return None
    by_seed = difference.groupby(rows.loc[difference.index, "seed"])
    means, sizes = by_seed.mean(), by_seed.size()
    free = int((sizes - 1).sum())
    episodes = seeds = float("nan")
    if sizes.min() > 1:
        error = float(np.sqrt((by_seed.var() / sizes).sum())) / len(means)
        episodes = float(stats.t.ppf(_LEVEL, free)) * error
    if len(means) > 1:
        quantile = float(stats.t.ppf(_LEVEL, len(means) - 1))
        seeds = quantile * float(means.std()) / float(np.sqrt(len(means)))
    return Difference(float(means.mean()), episodes, seeds, len(means), len(difference))
