"""Policies of service calls: indices against value iteration, decisions against enumeration."""

import numpy as np
import pytest

from milp_rl.baselines.engagement import (
    RandomCalls,
    RoundRobin,
    WhittleTopK,
    cluster_indices,
    myopic_calls,
    whittle_calls,
)
from milp_rl.baselines.whittle import indexable
from milp_rl.envs.engagement import Beneficiaries, Engagement, Programme, draw_engagement


def gains(programme, cluster, subsidy, discount):
    """What a call gains over the subsidy, by value iteration on the observed chain."""
    called = programme.passive + programme.reach * (programme.active - programme.passive)
    values = np.zeros(2)
    for _ in range(600):
        q = []
        for up, paid in ((programme.passive[cluster], subsidy), (called[cluster], 0.0)):
            q.append(paid + up + discount * ((1 - up) * values[0] + up * values[1]))
        values = np.maximum(*q)
    return q[1] - q[0]


def test_indices_are_subsidies_of_indifference():
    programme, _ = draw_engagement(16, seed=2)
    indices = cluster_indices(programme, discount=0.95)
    for c in range(programme.n_clusters):
        for state in range(2):
            gain = gains(programme, c, indices[c, state], 0.95)[state]
            assert gain == pytest.approx(0.0, abs=1e-8)


def returns(move, now, discount):
    """Whether a larger subsidy makes a state acted on again, by value iteration at many of them."""
    subsidies = np.linspace(-4, 4, 801)[:, None]
    values = np.zeros((801, now.shape[1]))
    for _ in range(250):
        rest, act = (now[a] + discount * values @ move[a].T for a in range(2))
        values = np.maximum(rest + subsidies, act)
    acted = act > rest + subsidies + 1e-9
    return bool((acted[1:] & ~acted[:-1]).any())


def test_indexability_is_that_of_a_sweep_of_subsidies():
    rng = np.random.default_rng(0)
    move = rng.dirichlet([0.15] * 3, size=(2, 300, 3))
    now = rng.random((2, 300, 3)) ** 4
    found = indexable(move, now, 0.9)
    wrong, right = np.flatnonzero(~found), np.flatnonzero(found)
    assert any(returns(move[:, j], now[:, j], 0.9) for j in wrong[:5])
    assert not any(returns(move[:, j], now[:, j], 0.9) for j in right[:20])


def rival():
    """Two women, one place that both could take, and one that only the first can."""
    programme = Programme(
        passive=[[0.1, 0.9], [0.1, 0.8]],
        active=[[0.8, 0.95], [0.7, 0.9]],
        capacity=[[1, 1]],
        speaks=[[1]],
        budget=2,
        familiar_bonus=0.0,
    )
    women = Beneficiaries([0, 1], [0, 0], [[1, 1], [1, 0]], [0, 0], [-1, -1])
    return Engagement(programme, women, horizon=3)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_myopic_calls_are_the_best_of_all(seed):
    programme, women = draw_engagement(5, budget=2, n_callers=2, seed=seed)
    env = Engagement(programme, women)
    policy = myopic_calls(env)
    for state in env.informative_states(np.random.default_rng(seed), 3):
        every = env.action_space_block(state).enumerate()
        best = env.expected_reward(state, every).max()
        assert env.expected_reward(state, policy.act(state)) == pytest.approx(best, abs=1e-9)


def test_the_matching_finds_a_place_for_both():
    env = rival()
    state = np.zeros(4, dtype=np.float32)
    for policy in (myopic_calls(env), whittle_calls(env), WhittleTopK(env)):
        assert [(i, slot) for i, _, slot in env.calls(policy.act(state))] == [
            (0, "slot 1"),
            (1, "slot 0"),
        ]


def test_top_k_spends_calls_on_whom_nobody_can_call():
    programme, women = draw_engagement(12, budget=1, n_callers=2, seed=0)
    free = np.array(women.free)
    worst = int(np.argmax(cluster_indices(programme)[women.cluster, 0]))
    free[worst] = False
    women = Beneficiaries(women.cluster, women.language, free, women.shared, women.familiar)
    env = Engagement(programme, women)
    state = np.zeros(24, dtype=np.float32)
    state[0::2] = 1.0
    state[2 * worst] = 0.0
    assert WhittleTopK(env).act(state).sum() == 0
    assert whittle_calls(env).act(state).sum() == 1


def test_round_robin_calls_everyone_before_anyone_twice():
    programme, women = draw_engagement(6, budget=2, n_callers=3, seed=0)
    free = np.ones_like(women.free)
    women = Beneficiaries(women.cluster, [0] * 6, free, women.shared, [-1] * 6)
    env = Engagement(programme, women)
    policy, seen = RoundRobin(env), []
    state, _ = env.reset(seed=0)
    for _ in range(6):
        action = policy.act(state)
        seen.append(sorted(i for i, _, _ in env.calls(action)))
        state, *_ = env.step(action)
    assert seen == [[0, 1], [2, 3], [4, 5]] * 2


def test_random_calls_leave_no_call_unused():
    programme, women = draw_engagement(20, seed=0)
    env = Engagement(programme, women)
    policy = RandomCalls(env, seed=0)
    state, _ = env.reset(seed=0)
    for _ in range(5):
        action = policy.act(state)
        assert action.sum() == programme.budget
        state, *_ = env.step(action)


def test_clusters_without_an_index_are_refused(monkeypatch):
    programme, women = draw_engagement(8, seed=0)
    monkeypatch.setattr(
        "milp_rl.baselines.engagement.indexable", lambda *_: np.array([True] * 3 + [False] * 5)
    )
    with pytest.raises(ValueError, match="cluster 3 is not indexable"):
        whittle_calls(Engagement(programme, women))
