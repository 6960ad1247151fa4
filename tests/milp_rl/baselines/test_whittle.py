import numpy as np
import pytest

from milp_rl.baselines import WhittlePolicy, whittle_indices
from milp_rl.envs import BudgetBandit, BudgetInstance, make_bandit
from milp_rl.evaluation import JointMDP


def single_arm_values(rewards, up, discount, subsidy):
    """Value iteration for one arm; returns the value of leaving it alone and of acting."""
    n = len(rewards)
    values = np.zeros(n)
    for _ in range(300):
        above, below = np.minimum(np.arange(n) + 1, n - 1), np.maximum(np.arange(n) - 1, 0)
        q = [
            subsidy * (1 - acted)
            + p * (rewards[above] + discount * values[above])
            + (1 - p) * (rewards[below] + discount * values[below])
            for acted, p in enumerate(up)
        ]
        values = np.maximum(*q)
    return q


def test_index_is_the_subsidy_of_indifference():
    rng = np.random.default_rng(0)
    instance = BudgetInstance.generate(6, 2, seed=1)
    rewards = np.concatenate([instance.rewards, rng.uniform(0, 3, size=(3, 4))])
    acting = np.concatenate([instance.acting, rng.uniform(0.5, 1, size=3)])
    passive = np.concatenate([instance.passive, rng.uniform(0, 0.5, size=3)])
    indices = whittle_indices(rewards, acting, passive, 0.9)
    for j in range(len(rewards)):
        for state in range(4):
            q = single_arm_values(rewards[j], (passive[j], acting[j]), 0.9, indices[j, state])
            assert q[0][state] == pytest.approx(q[1][state], abs=1e-6)


def test_index_without_a_future_is_the_one_step_gain():
    env = make_bandit("budget", 5, 2, seed=0)
    indices = whittle_indices(
        env.instance.rewards, env.instance.acting, env.instance.passive, discount=0.0
    )
    for state in range(4):
        gains = env.action_gains(np.full(5, state))
        np.testing.assert_allclose(indices[:, state], gains, atol=1e-9)


def test_whittle_is_near_the_optimum_of_small_bandits():
    for seed in range(5):
        env = make_bandit("budget", 5, 2, seed=seed)
        mdp = JointMDP(env)
        assert mdp.value(WhittlePolicy(env)) > 0.97 * mdp.optimum()


def test_whittle_acts_on_at_most_the_budget():
    env = make_bandit("budget", 30, 7, seed=0)
    policy = WhittlePolicy(env)
    for state in np.random.default_rng(0).integers(0, 4, size=(50, 30)):
        assert not env.action_space_block().violations(policy.act(state))


def test_whittle_leaves_arms_alone_that_acting_makes_worse():
    instance = BudgetInstance(
        rewards=[[0.0, 1.0], [1.0, 0.0]], acting=[0.9, 0.9], passive=[0.1, 0.1], budget=2
    )
    assert WhittlePolicy(BudgetBandit(instance)).act([0, 0]).tolist() == [1, 0]


@pytest.mark.parametrize("domain", ["capacity", "path", "scheduling", "multiple_interventions"])
def test_whittle_is_refused_where_more_than_a_budget_couples_the_arms(domain):
    with pytest.raises(ValueError, match="nothing but a budget"):
        WhittlePolicy(make_bandit(domain, 6, 2, seed=0))


def test_whittle_refuses_long_chains_and_wrong_discounts():
    with pytest.raises(ValueError, match="at most 10"):
        whittle_indices(np.zeros((1, 11)), [0.5], [0.5])
    with pytest.raises(ValueError, match="discount"):
        whittle_indices(np.zeros((1, 2)), [0.5], [0.5], 1.0)
