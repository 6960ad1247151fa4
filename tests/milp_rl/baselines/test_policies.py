import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milp_rl.baselines import (
    GreedyArgmax,
    IterativeDQNPolicy,
    IterativeMyopicPolicy,
    MyopicPolicy,
    NullPolicy,
    Policy,
    RandomPolicy,
    SamplingPolicy,
)
from milp_rl.envs import DOMAINS, CapacityBandit, CapacityInstance, make_bandit
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.capacity import Capacity
from milp_rl.qnetwork import QNetwork

SPACES = [
    Capacity([2, 3, 4, 2, 6, 5], [5, 4]),
    BudgetTopK(6, 2),
    BudgetTopK(6, 3, exactly=True),
    BudgetTopK(6, 3, costs=[1, 2, 3, 1, 2, 3], budget=4.0),
    Capacity([3, 3, 3, 3, 3, 3], [2, 1]),  # no arm is affordable
]


def q_network(seed: int, n: int = 6) -> QNetwork:
    return QNetwork(n, n, (8, 8), generator=torch.Generator().manual_seed(seed))


class AdditiveReward:
    """The least of an environment that `MyopicPolicy` needs: the state is the gains."""

    def __init__(self, space):
        self.space = space

    def action_space_block(self, state):
        return self.space

    def expected_reward(self, state, action):
        return np.asarray(action) @ np.asarray(state, dtype=float)

    def one_step_network(self, state):
        return Network.from_arrays([np.asarray(state, dtype=float)[None]], [[0.0]])


@pytest.mark.parametrize("space", SPACES, ids=str)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_myopic_is_the_brute_force_maximum_on_every_space(space, seed):
    policy = MyopicPolicy(AdditiveReward(space))
    actions = space.enumerate()
    for gains in np.random.default_rng(seed).normal(size=(4, 6)):
        action = policy.act(gains)
        assert space.violations(action) == []
        assert gains @ action == pytest.approx((actions @ gains).max())


def test_myopic_does_not_depend_on_what_was_solved_before():
    env = AdditiveReward(SPACES[0])
    used = MyopicPolicy(env)
    for gains in np.random.default_rng(0).integers(-1, 2, size=(40, 6)):  # many ties
        np.testing.assert_array_equal(used.act(gains), MyopicPolicy(env).act(gains))


def test_myopic_takes_the_best_expected_next_step():
    env = CapacityBandit(CapacityInstance.generate(8, 3, seed=2))
    policy = MyopicPolicy(env)
    space = env.action_space_block()
    actions = space.enumerate()
    for state in np.random.default_rng(0).integers(0, 4, size=(30, 8)):
        action = policy.act(state)
        assert space.violations(action) == []
        best = env.expected_reward(state, actions).max()
        assert env.expected_reward(state, action) == pytest.approx(best)


@pytest.mark.parametrize("kind", [MyopicPolicy, IterativeMyopicPolicy, SamplingPolicy])
def test_looking_ahead_needs_a_model(kind):
    arguments = {"seed": 0} if kind is SamplingPolicy else {}
    with pytest.raises(ValueError, match="object does not know its model"):
        kind(object(), **arguments)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(6, 2), (20, 5)])
def test_every_policy_plays_every_domain(domain, size):
    env = make_bandit(domain, *size, seed=3)
    space = env.action_space_block()
    rng = np.random.default_rng(0)
    states = rng.integers(0, 4, size=(10, size[0])).astype(np.float32)
    network = QNetwork(size[0], space.n_actions, (8,), generator=torch.Generator().manual_seed(0))
    policies = [
        RandomPolicy(space, seed=0),
        SamplingPolicy(env, 20, seed=0),
        MyopicPolicy(env),
        IterativeMyopicPolicy(env),
        IterativeDQNPolicy(network, space),
    ]
    if not space.violations(np.zeros(space.n_actions)):
        policies.append(NullPolicy(space))
    for state in states:
        actions = [policy.act(state) for policy in policies]
        assert not any(space.violations(action) for action in actions)
        rewards = env.expected_reward(state, np.array(actions))
        assert rewards[2] >= rewards.max() - 1e-6  # none beats the exact one-step optimum


@pytest.mark.parametrize("domain", DOMAINS)
def test_iterative_myopic_takes_the_best_addition_each_time(domain):
    env = make_bandit(domain, 12, 4, seed=1)
    space = env.action_space_block()
    for state in np.random.default_rng(0).integers(0, 4, size=(10, 12)):
        action = np.zeros(space.n_actions, dtype=np.int8)
        while len(additions := space.extensions(action)):
            candidates = np.repeat(action[None], len(additions), axis=0)
            candidates[np.arange(len(additions)), additions] = 1
            rewards = env.expected_reward(state, candidates)
            unfinished = bool(space.violations(action))
            if not unfinished and rewards.max() <= env.expected_reward(state, action):
                break
            action = candidates[rewards.argmax()]
        assert IterativeMyopicPolicy(env).act(state).tolist() == action.tolist()


def test_sampling_follows_its_seed_and_nears_the_myopic_action():
    env = make_bandit("capacity", 8, 3, seed=2)
    state = np.array([2, 2, 1, 0, 2, 1, 0, 2])
    runs = [[SamplingPolicy(env, 5, seed=s).act(state).tolist() for _ in range(3)] for s in (1, 1)]
    assert runs[0] == runs[1]
    few, many = (
        np.mean(
            [
                env.expected_reward(state, SamplingPolicy(env, n, seed=s).act(state))
                for s in range(9)
            ]
        )
        for n in (1, 500)
    )
    maximal = [
        a
        for a in env.action_space_block().enumerate()
        if not len(env.action_space_block().extensions(a))
    ]
    assert few < many
    assert many == pytest.approx(env.expected_reward(state, np.array(maximal)).max())
    with pytest.raises(ValueError, match="n_samples"):
        SamplingPolicy(env, 0, seed=0)


def test_null_does_nothing_where_that_is_feasible():
    assert NullPolicy(SPACES[0]).act(np.zeros(6)).tolist() == [0] * 6
    with pytest.raises(ValueError, match="not feasible"):
        NullPolicy(BudgetTopK(6, 3, exactly=True))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_random_spends_the_budget_and_follows_its_seed(space):
    draws = [RandomPolicy(space, seed=s) for s in (1, 1, 2)]
    first, second, third = ([p.act(np.zeros(6)).tolist() for _ in range(50)] for p in draws)
    assert first == second
    maximal = {tuple(a) for a in space.enumerate() if not len(space.extensions(a))}
    assert {tuple(a) for a in first} <= maximal
    if len(maximal) > 5:
        assert first != third
        assert len({tuple(a) for a in first + third}) > 5


def greedy_by_hand(network: QNetwork, space: ActionSpace, state: np.ndarray) -> list[int]:
    """The same policy, one candidate at a time."""

    def q(action: np.ndarray) -> float:
        with torch.no_grad():
            return float(network.q(torch.tensor(state).float(), torch.tensor(action)))

    action = np.zeros(space.n_actions, dtype=np.int8)
    while True:
        candidates = []
        for i in space.extensions(action):
            candidate = action.copy()
            candidate[i] = 1
            candidates.append(candidate)
        if not candidates:
            return action.tolist()
        best = max(candidates, key=q)
        if q(best) <= q(action) and not space.violations(action):
            return action.tolist()
        action = best


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_iterative_adds_the_best_action_while_that_helps(space):
    rng = np.random.default_rng(0)
    chosen = set()
    for seed in range(15):
        network, state = q_network(seed), rng.integers(0, 4, size=6).astype(np.float64)
        action = IterativeDQNPolicy(network, space).act(state)
        assert space.violations(action) == []
        assert action.tolist() == greedy_by_hand(network, space, state)
        chosen.add(tuple(action))
    assert len(chosen) > 1 or space.count() == 1


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_greedy_actions_of_a_batch_are_those_of_each_state(space):
    argmax = GreedyArgmax(q_network(3), space)
    states = np.random.default_rng(1).integers(0, 4, size=(40, 6))
    alone = [argmax.actions(state[None])[0] for state in states]
    np.testing.assert_array_equal(argmax.actions(states), alone)
    argmax.update(q_network(4))
    np.testing.assert_array_equal(
        argmax.actions(states), GreedyArgmax(q_network(4), space).actions(states)
    )


def test_iterative_refuses_a_state_that_is_not_finite():
    with pytest.raises(ValueError, match=r"state\[1\] is nan"):
        IterativeDQNPolicy(q_network(0), SPACES[0]).act([0, np.nan, 0, 0, 0, 0])


def test_policies_share_one_protocol():
    env = CapacityBandit(CapacityInstance.generate(6, 2, seed=2))
    space = env.action_space_block()
    for policy in (
        NullPolicy(space),
        RandomPolicy(space, seed=0),
        MyopicPolicy(env),
        IterativeDQNPolicy(q_network(0), space),
    ):
        assert isinstance(policy, Policy)
        action = policy.act(env.reset(seed=0)[0])
        assert env.action_space.contains(action)
