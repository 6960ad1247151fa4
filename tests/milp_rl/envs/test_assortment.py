"""Dynamic assortment: choices, dynamics and greedy policy, against formulas and enumeration."""

from __future__ import annotations

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import milp_rl as mr
from milp_rl.baselines.assortment import BestAssortment, DearestItems
from milp_rl.envs import DynamicAssortment, ParallelEpisodes
from milp_rl.evaluation import evaluate

STATIC, HYPE, SATISFACTION, PRICE = slice(0, 2), 2, 3, 4


def revenue(items, offer):
    """The expected revenue of an offer, item by item, in plain Python."""
    worth = {
        i: math.exp(
            0.3 * items[i][0]
            + 0.5 * items[i][1]
            + 0.6 * items[i][HYPE]
            - 0.4 * items[i][SATISFACTION]
            - 0.8 * items[i][PRICE]
        )
        for i in offer
    }
    return sum(worth[i] * items[i][PRICE] for i in offer) / (1 + sum(worth.values()))


def binary(offer, n):
    return np.isin(np.arange(n), offer).astype(np.int8)


@pytest.mark.parametrize("exactly", [True, False])
def test_the_environment_is_one_of_gymnasiums(exactly):
    check_env(DynamicAssortment(6, 2, horizon=5, exactly=exactly), skip_render_check=True)


def test_offers_are_four_of_twenty_for_eighty_customers():
    env = gym.make("milp_rl/DynamicAssortment-v0").unwrapped
    assert env.action_space_block().count() == math.comb(20, 4)
    env.reset(seed=0)
    action = binary([1, 5, 6, 19], 20)
    ended = [env.step(action)[3] for _ in range(80)]
    assert ended == [False] * 79 + [True]
    with pytest.raises(ValueError, match="infeasible"):
        env.step(binary([0, 1, 2], 20))


def test_expected_revenue_is_that_of_the_logit_choice():
    env = DynamicAssortment(7, 3)
    state = env.informative_states(np.random.default_rng(0), 1)[0]
    items = env.items(state)
    offers = [list(o) for k in range(5) for o in itertools.combinations(range(7), k)]
    found = env.expected_reward(state, np.array([binary(o, 7) for o in offers]))
    np.testing.assert_allclose(found, [revenue(items, o) for o in offers], rtol=1e-9)


def test_customers_buy_as_often_as_their_probabilities_say():
    env = DynamicAssortment(5, 3)
    state = env.start_states(np.random.default_rng(1), 1)
    offer = binary([0, 2, 3], 5)
    draws = (np.arange(20_000)[:, None] + 0.5) / 20_000
    moved, rewards = env.transition(state, offer, draws)
    bought = env.items(moved)[..., 5]  # the last purchase
    np.testing.assert_allclose(
        bought.mean(axis=0), env.choice_probabilities(state[0], offer), atol=2e-4
    )
    np.testing.assert_allclose(rewards, bought @ env.prices(state[0]), rtol=1e-6)
    assert rewards.mean() == pytest.approx(env.expected_reward(state[0], offer), rel=1e-3)


def test_hype_and_satisfaction_follow_the_purchases():
    """Against the history kept as a list, over an episode."""
    env = DynamicAssortment(4, 3, horizon=40)
    state, _ = env.reset(seed=3)
    rng = np.random.default_rng(0)
    hype, satisfaction = (env.items(state)[:, column].copy() for column in (HYPE, SATISFACTION))
    fixed = env.items(state)[:, [0, 1, PRICE]]
    history = []
    for step in range(40):
        state, reward, *_ = env.step(env.action_space_block().sample(rng, 1)[0])
        own = np.flatnonzero(env.items(state)[:, 5])
        history.append(int(own[0]) if own.size else None)
        factor = np.ones(4)
        for back, item in enumerate(history[:-6:-1]):
            if item is not None:
                factor[item] += 0.02 if back == 0 else -0.005
        hype *= factor
        if history[-1] is not None:
            satisfaction[history[-1]] *= 1.01
            assert reward == pytest.approx(fixed[history[-1], 2], rel=1e-6)
        items = env.items(state)
        np.testing.assert_allclose(items[:, HYPE], hype, rtol=1e-5)
        np.testing.assert_allclose(items[:, SATISFACTION], satisfaction, rtol=1e-5)
        np.testing.assert_array_equal(items[:, [0, 1, PRICE]], fixed)
        assert state[-1] == pytest.approx((step + 1) / 40)
    assert len(set(history)) > 2


@pytest.mark.parametrize("exactly", [True, False])
def test_the_best_offer_is_that_of_enumeration(exactly):
    env = DynamicAssortment(8, 3, exactly=exactly)
    rng = np.random.default_rng(2)
    policy, fewer = BestAssortment(env), 0
    for state in env.start_states(rng, 20):
        sizes = (3,) if exactly else range(4)
        items = env.items(state)
        best = max(revenue(items, o) for k in sizes for o in itertools.combinations(range(8), k))
        offer = policy.act(state)
        assert env.action_space_block().violations(offer) == []
        assert env.expected_reward(state, offer) == pytest.approx(best, rel=1e-9)
        fewer += offer.sum() < 3
    assert exactly or fewer > 0  # a cheap item may take customers from a dear one


def test_the_best_offer_earns_more_than_the_dearest_items():
    env = DynamicAssortment()
    policies = {"best": BestAssortment(env), "dearest": DearestItems(env)}
    means = evaluate(env, policies, seeds=range(5)).groupby("policy")["reward"].mean()
    assert means["best"] > 1.2 * means["dearest"]


def test_parallel_episodes_are_those_of_the_environment():
    env = DynamicAssortment(5, 2, horizon=6)
    many, actions = ParallelEpisodes(env, 3), np.random.default_rng(0)
    states, _ = many.reset(seed=[4, 5, 6])
    played = env.action_space_block().sample(actions, 6)
    rows = [many.step(np.tile(a, (3, 1)))[:2] for a in played]
    alone, _ = env.reset(seed=5)
    np.testing.assert_array_equal(states[1], alone)
    for a, (next_states, rewards) in zip(played, rows, strict=True):
        state, reward, *_ = env.step(a)
        np.testing.assert_array_equal(next_states[1], state)
        assert rewards[1] == reward


def test_a_state_is_the_items_next_to_each_other_as_the_arm_network_reads_it():
    env = DynamicAssortment(5, 2)
    arms, generator = env.arm_layout, torch.Generator().manual_seed(0)
    network = mr.ArmQNetwork(
        arms.n_arms,
        arms.arm_features,
        arms.shared_features,
        layout=arms.layout,
        context="mean",
        identity=False,
        generator=generator,
    )
    state = env.start_states(np.random.default_rng(0), 1)[0]
    order = np.array([3, 1, 4, 0, 2])
    moved = np.append(env.items(state)[order].ravel(), state[-1]).astype(np.float32)
    offer = binary([0, 3], 5)
    with torch.no_grad():
        q = network.q(
            torch.tensor(np.stack([state, moved])), torch.tensor(np.stack([offer, offer[order]]))
        )
    assert q[0] == pytest.approx(float(q[1]), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_items": 3, "n_offered": 4}, "n_offered from 1 to n_items"),
        ({"price_weight": float("nan")}, "weights must be finite"),
        ({"horizon": 0}, "horizon must be at least 1"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DynamicAssortment(**arguments)


def test_states_that_are_none_are_refused():
    env = DynamicAssortment(4, 2)
    with pytest.raises(ValueError, match="of shape"):
        env.reset(options={"state": np.zeros(3)})
    with pytest.raises(ValueError, match="bounds"):
        env.reset(options={"state": np.full(env.state_dim, 20.0)})
