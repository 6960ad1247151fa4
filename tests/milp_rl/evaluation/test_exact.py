import itertools

import numpy as np
import pytest

from milp_rl.baselines import MyopicPolicy, NullPolicy, RandomPolicy
from milp_rl.envs import DOMAINS, make_bandit
from milp_rl.evaluation import JointMDP, evaluate


def chance_of(env, state, action, target) -> float:
    up = env.up_probability(action)
    chance = 1.0
    for j, (s, t) in enumerate(zip(state, target, strict=True)):
        chance *= (t == min(s + 1, 3)) * up[j] + (t == max(s - 1, 0)) * (1 - up[j])
    return chance


@pytest.mark.parametrize("domain", DOMAINS)
def test_optimum_is_that_of_the_full_transition_matrix(domain):
    env = make_bandit(domain, 3, 1, horizon=5, seed=2)
    states = list(itertools.product(range(4), repeat=3))
    actions = env.action_space_block().enumerate()
    matrix = np.array(
        [[[chance_of(env, s, a, t) for t in states] for s in states] for a in actions]
    )
    rewards = np.array([[env.expected_reward(s, a) for s in states] for a in actions])
    np.testing.assert_allclose(matrix.sum(axis=2), 1)
    values = np.zeros(len(states))
    for _ in range(5):
        values = (rewards + matrix @ values).max(axis=0)
    mdp = JointMDP(env)
    assert [tuple(s) for s in mdp.states] == states
    assert mdp.optimum([[0, 1, 0]]) == pytest.approx(values[states.index((0, 1, 0))] / 5)
    starts = mdp.start_probabilities()
    assert starts.sum() == pytest.approx(1)
    assert starts[states.index((0, 1, 1))] == pytest.approx(0.8 * 0.2 * 0.2)
    assert mdp.optimum() == pytest.approx(starts @ values / 5)


def test_value_of_a_policy_is_what_episodes_average_to():
    env = make_bandit("capacity", 4, 2, horizon=10, seed=1)
    mdp = JointMDP(env)
    policies = {"null": NullPolicy(env.action_space_block()), "myopic": MyopicPolicy(env)}
    played = evaluate(env, policies, seeds=range(500)).groupby("policy")["reward"]
    for name, policy in policies.items():
        error = played.sem()[name]
        assert abs(played.mean()[name] - mdp.value(policy)) < 3 * error
        assert mdp.value(policy) <= mdp.optimum()


def test_discounted_policy_is_nearly_optimal_for_long_episodes():
    env = make_bandit("scheduling", 4, 2, horizon=60, seed=1)
    mdp = JointMDP(env)
    policy = mdp.discounted_policy(0.99)
    assert 0.99 * mdp.optimum() < mdp.value(policy) <= mdp.optimum() + 1e-9
    assert mdp.value(policy) > mdp.value(MyopicPolicy(env))
    one_step = mdp.discounted_policy(0.0)
    for state in mdp.states[::17]:
        best = env.expected_reward(state, MyopicPolicy(env).act(state))
        assert env.expected_reward(state, one_step.act(state)) == pytest.approx(best)


def test_large_bandits_are_refused():
    with pytest.raises(ValueError, match="16384 joint states"):
        JointMDP(make_bandit("budget", 7, 2, seed=0))


def test_infeasible_policies_are_refused():
    env = make_bandit("budget", 4, 2, seed=0)

    class Greedy:
        def act(self, state):
            return np.ones(4, dtype=np.int8)

    with pytest.raises(ValueError, match="is not feasible"):
        JointMDP(env).value(Greedy())


def test_no_policy_beats_the_optimum():
    for seed in range(3):
        mdp = JointMDP(make_bandit("path", 5, 2, seed=seed))
        policies = [RandomPolicy(mdp.env.action_space_block(), seed=0), mdp.discounted_policy()]
        assert all(mdp.value(p) <= mdp.optimum() + 1e-9 for p in policies)
