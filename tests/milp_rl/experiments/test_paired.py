"""Paired differences, against textbook tests."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from milp_rl.experiments.paired import paired

RNG = np.random.default_rng(0)
SEEDS, EPISODES = 3, 10
LUCK = RNG.normal(size=SEEDS * EPISODES)
ROWS = pd.DataFrame(
    {
        "seed": np.repeat(range(SEEDS), EPISODES),
        "episode": np.tile(range(EPISODES), SEEDS),
        "one": 5 * LUCK + 0.5,
        "other": 5 * LUCK + RNG.normal(scale=0.3, size=len(LUCK)),
        "constant": 5 * LUCK - 2.0,
    }
)


def test_one_seed_is_a_paired_t_test():
    rows = ROWS[ROWS["seed"] == 0]
    found = paired(rows, "one", "other")
    low, high = stats.ttest_rel(rows["one"], rows["other"]).confidence_interval(0.95)
    assert found.mean - found.over_episodes == pytest.approx(low)
    assert found.mean + found.over_episodes == pytest.approx(high)
    assert np.isnan(found.over_seeds)
    assert (found.seeds, found.episodes) == (1, EPISODES)


def test_the_interval_over_seeds_is_that_of_their_means():
    means = (ROWS["one"] - ROWS["other"]).groupby(ROWS["seed"]).mean()
    found = paired(ROWS, "one", "other")
    low, high = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert found.mean - found.over_seeds == pytest.approx(low)
    assert found.mean + found.over_seeds == pytest.approx(high)
    assert found.sign == 1


def test_luck_that_both_share_does_not_widen_the_interval():
    found = paired(ROWS, "one", "constant")
    assert found.mean == pytest.approx(2.5)
    assert found.over_episodes == pytest.approx(0.0, abs=1e-9)
    assert paired(ROWS, "constant", "one").sign == -1


def test_differences_between_instances_do_not_widen_the_interval_over_episodes():
    shifted = ROWS.assign(one=ROWS["one"] + 3.0 * ROWS["seed"])
    found, before = paired(shifted, "one", "other"), paired(ROWS, "one", "other")
    assert found.over_episodes == pytest.approx(before.over_episodes)
    assert found.over_seeds > 5 * before.over_seeds


def test_only_episodes_that_both_played_count():
    rows = ROWS.assign(other=ROWS["other"].where(ROWS["seed"] == 1))
    found = paired(rows, "one", "other")
    assert (found.seeds, found.episodes) == (1, EPISODES)
    assert paired(ROWS, "one", "nobody") is None
    assert paired(rows[rows["seed"] == 0], "one", "other") is None
