"""Weeks logged and read again, and values learnt from them, against value iteration."""

import numpy as np
import pytest

from milp_rl.baselines.engagement import RandomCalls
from milp_rl.envs.engagement import Beneficiaries, Engagement, Programme
from milp_rl.evaluation.ope import estimate
from milp_rl.offline.engagement.data import CallLog, play_weeks
from milp_rl.offline.engagement.fitted_q import fit_call_values, learnt_calls

DISCOUNT = 0.9


@pytest.fixture(scope="module")
def played():
    """Twelve women of two clusters who are always seen and never rest; four are called a week."""
    programme = Programme(
        passive=[[0.1, 0.9], [0.3, 0.5]],
        active=[[0.6, 0.95], [0.6, 0.8]],
        capacity=[[4]],
        speaks=[[1]],
        budget=4,
        familiar_bonus=0.0,
        seen=1.0,
        rest=0,
    )
    zeros = np.zeros(12, dtype=int)
    women = Beneficiaries(np.arange(12) % 2, zeros, np.ones((12, 1)), zeros, zeros - 1)
    env = Engagement(programme, women, horizon=40)
    return env, *play_weeks(env, RandomCalls(env, seed=0), 40, seed=1)


def test_what_a_call_is_worth_is_learnt(played):
    env, log, _ = played
    found = fit_call_values(log, 4 / 12, discount=DISCOUNT)
    p, rho = env.programme, env.programme.reach
    for c in range(2):
        values = np.zeros(2)
        for _ in range(400):
            after = [(p.passive[c], p.active[c])[a] for a in range(2)]
            idle, call = (
                up + DISCOUNT * (values[0] + up * (values[1] - values[0])) for up in after
            )
            values = idle + np.maximum(rho * (call - idle) - found.price, 0.0)
        np.testing.assert_allclose(found.advantage([0.0, 1.0], [c, c]), call - idle, atol=0.15)
    state, _ = env.reset(seed=0)
    assert learnt_calls(env, found).act(state).sum() == 4


def test_weeks_are_written_and_read(played, tmp_path):
    _, log, joint = played
    log.write(tmp_path / "weeks.csv.gz")
    again = CallLog.read(tmp_path / "weeks.csv.gz")
    assert again.digest() == log.digest()
    assert len(joint) == 40 * 40
    shuffled = CallLog(log.frame.sample(frac=1.0, random_state=0))
    assert shuffled.digest() == log.digest()


def test_weeks_are_logged_decisions(played):
    _, log, _ = played
    called = log.frame["called"].to_numpy()
    assert log.propensities()[called == 1].mean() == pytest.approx(4 / 12, abs=0.01)
    always = np.column_stack([np.zeros(len(called)), np.ones(len(called))])
    found = estimate(log.decisions(always), "wis", per="decision")
    direct = log.column("next_belief")[called == 1].mean()
    assert found.value == pytest.approx(direct, abs=1e-6)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("belief", 1.5, "column 'belief', row 3: 1.5 is not between 0 and 1"),
        ("called", 2, "column 'called', row 3: 2 is not 0 or 1"),
        ("week", 9, "is not 0, 1, ... in order"),
    ],
)
def test_wrong_rows_are_named(played, column, value, message):
    frame = played[1].frame.head(100).copy()
    frame.loc[3, column] = value
    with pytest.raises(ValueError, match=message):
        CallLog(frame)


def test_clusters_without_calls_are_refused(played):
    frame = played[1].frame.copy()
    frame.loc[frame["cluster"] == 1, ["reach", "called"]] = 0
    with pytest.raises(ValueError, match="cluster 1 has 0 calls"):
        fit_call_values(CallLog(frame), 0.3)
