"""Learning from logged transitions, against enumeration and formulas written out again."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import milp_rl as mr
from milp_rl.dqn import FlatDQN
from milp_rl.dqn.choosers import chooser_of
from milp_rl.envs import CombinatorialNavigation, make_bandit
from milp_rl.envs.navigation import log_navigation
from milp_rl.envs.transitions import Transitions, collect_transitions
from milp_rl.offline import OfflineConfig, fit
from milp_rl.offline.additive import AdditiveQNetwork, BernoulliPolicy, fit_policy
from milp_rl.offline.learners import ConservativeLearner, ImplicitLearner
from milp_rl.offline.support import LoggedSets, SupportedSets, hamming_ball

N = 5
SPACE = mr.BudgetTopK(N, 3) & mr.Capacity([2, 1, 2, 1, 1], [3, 2])
ACTIONS = SPACE.enumerate()
COLUMNS = ("states", "actions", "rewards", "next_states", "terminated")
PLAIN = mr.DQNConfig(
    architecture="concat",
    normalise=False,
    hidden=(8,),
    batch_size=16,
    pretrain_epochs=0,
    discount=0.5,
    weight_decay=0.0,
    sync_every=20,
)


def capped(state):
    """At most as many actions as the state says."""
    return SPACE & mr.BudgetTopK(N, 1 + int(state[0] > 0))


@pytest.fixture
def logged():
    """One step of a bandit that pays by two products of actions and the state."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(300, 3))
    spaces = [capped(state) for state in states]
    actions = np.concatenate([space.sample(rng, 1) for space in spaces]).astype(float)
    rewards = states[:, 1] * actions[:, 0] - actions[:, 1] * actions[:, 2] + actions[:, 3]
    return Transitions(states, actions, rewards, states, np.ones(300, bool), feasible=capped)


def learner_of(kind, logged, config, network=None, feasible=SPACE):
    network = mr.QNetwork(3, N, (8,)) if network is None else network
    sets = LoggedSets(feasible, logged.states[0])
    rng = np.random.default_rng(1)
    return kind(network, sets, config, PLAIN, chooser_of(SPACE, PLAIN), logged, rng)


def every_value(network, state, space):
    actions = torch.from_numpy(space.enumerate()).float()
    with torch.no_grad():
        return network.q(torch.as_tensor(state).float().expand(len(actions), -1), actions)


@pytest.mark.parametrize("feasible", [SPACE, capped])
def test_the_conservative_loss_has_the_largest_value_of_every_state(logged, feasible):
    config = OfflineConfig(method="cql", conservatism=2.0)
    learner = learner_of(ConservativeLearner, logged, config, feasible=feasible)
    states = logged.states[:20].astype(np.float32)
    actions = torch.from_numpy(logged.actions[:20]).float()
    taken, extra = learner._values(torch.from_numpy(states), actions, np.random.default_rng(0))
    spaces = [feasible if feasible is SPACE else feasible(state) for state in states]
    pairs = zip(states, spaces, strict=True)
    best = [float(every_value(learner.network, s, space).max()) for s, space in pairs]
    expected = 2.0 * (np.mean(best) - float(taken.detach().mean()))
    assert float(extra.detach()) == pytest.approx(expected, abs=1e-5)
    assert float(extra.detach()) > 0


def test_its_gradient_is_that_of_the_values_pressed_down_and_up(logged):
    learner = learner_of(ConservativeLearner, logged, OfflineConfig(method="cql"))
    network, state = learner.network, torch.from_numpy(logged.states[:1]).float()
    action = torch.from_numpy(logged.actions[:1]).float()
    best = ACTIONS[int(every_value(network, state[0], SPACE).argmax())]
    _, extra = learner._values(state, action, np.random.default_rng(0))
    extra.backward()
    found = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    (network.q(state, torch.from_numpy(best[None]).float()) - network.q(state, action)).backward()
    for gradient, parameter in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.parametrize("pressed", ["delayed", "sampled"])
def test_the_other_conservative_losses_are_at_most_that(logged, pressed):
    exact = learner_of(ConservativeLearner, logged, OfflineConfig(method="cql"))
    other = learner_of(
        ConservativeLearner, logged, OfflineConfig(method="cql", pressed=pressed), exact.network
    )
    for parameter in exact.network.parameters():  # away from the target network
        parameter.data += 0.3 * torch.randn(parameter.shape)
    exact.greedy.renew()
    states = torch.from_numpy(logged.states[:50]).float()
    actions = torch.from_numpy(logged.actions[:50]).float()
    rng = np.random.default_rng(0)
    losses = [float(each._values(states, actions, rng)[1].detach()) for each in (exact, other)]
    assert losses[1] < losses[0]
    if pressed == "delayed":
        assert losses[1] >= 0


def test_implicit_q_learning_by_its_formulas(logged):
    config = OfflineConfig(method="iql", expectile=0.9, updates=1)
    learner = learner_of(ImplicitLearner, logged, config)
    learner.run()
    before = {k: v.clone() for k, v in learner.value.state_dict().items()}
    rows = np.arange(8)
    batch = learner.replay.sample(np.random.default_rng(0), 8)
    with torch.no_grad():
        v = [float(learner.v(torch.from_numpy(s[None]))) for s in batch.next_states]
    expected = [batch.rewards[i] + batch.bootstrap[i] * v[i] for i in rows]
    np.testing.assert_allclose(learner.targets(batch, 0.0).numpy(), expected, rtol=1e-6)
    states, actions = torch.from_numpy(batch.states), torch.from_numpy(batch.actions)
    u = learner.target.q(states, actions).detach() - learner.v(states)
    loss = sum((0.9 if x > 0 else 0.1) * x**2 for x in u) / len(u)
    gradients = torch.autograd.grad(loss, list(learner.value.parameters()))
    optimizer = torch.optim.SGD(learner.value.parameters(), lr=0.1)
    learner._value_optimizer = optimizer
    learner._values(states, actions, np.random.default_rng(0))
    names = [name for name, _ in learner.value.named_parameters()]
    for name, gradient in zip(names, gradients, strict=True):
        after = learner.value.state_dict()[name]
        torch.testing.assert_close(after, before[name] - 0.1 * gradient)


def test_the_expectile_is_between_the_mean_and_the_best_logged_value():
    rng = np.random.default_rng(0)
    actions = np.eye(N)[rng.integers(N, size=400)]
    rewards = actions @ np.arange(N)  # 0 to 4, alike
    states = np.zeros((400, 1))
    t = Transitions(states, actions, rewards, states, np.ones(400, bool), feasible=SPACE)
    level = {}
    for tau in (0.5, 0.9):
        config = OfflineConfig(method="iql", expectile=tau, updates=300)
        dqn = replace(PLAIN, learning_rate=0.01)
        network = mr.QNetwork(1, N, (16,), generator=torch.Generator().manual_seed(0))
        sets = LoggedSets(SPACE, states[0])
        chooser = chooser_of(SPACE, dqn)
        learner = ImplicitLearner(network, sets, config, dqn, chooser, t, rng)
        learner.run()
        with torch.no_grad():
            level[tau] = float(learner.v(torch.zeros(1, 1)))
    counts = actions.sum(axis=0)
    grid = np.linspace(0, 4, 4001)
    for tau, found in level.items():
        u = np.arange(N) - grid[:, None]
        loss = (counts * np.where(u > 0, tau, 1 - tau) * u**2).sum(axis=1)
        assert found == pytest.approx(grid[loss.argmin()], abs=0.15)


@pytest.mark.parametrize("method", ["dqn", "cql", "iql"])
def test_what_is_learnt_is_good_and_feasible(logged, method):
    dqn = mr.DQNConfig(
        architecture="concat", hidden=(16,), pretrain_epochs=0, learning_rate=0.01, weight_decay=0.0
    )
    updates = 60 if method == "cql" else 300
    config = OfflineConfig(method=method, updates=updates, conservatism=0.01)
    policy = fit(logged, config=config, dqn=dqn, seed=0)
    states = logged.states[:60]
    lost = []
    for state, action in zip(states, policy.actions(states), strict=True):
        space = capped(state)
        assert not space.violations(action)
        a = space.enumerate().astype(float)
        paid = state[1] * a[:, 0] - a[:, 1] * a[:, 2] + a[:, 3]
        own = state[1] * action[0] - action[1] * action[2] + action[3]
        lost.append(paid.max() - own)
        values = every_value(policy.network, state.astype(np.float32), space)
        mine = policy.network.q(
            torch.from_numpy(state[None]).float(), torch.from_numpy(action[None]).float()
        )
        assert float(mine.detach()) >= float(values.max()) - 1e-4
    assert np.mean(lost) < (0.2 if method == "cql" else 0.1)


@pytest.mark.parametrize("method", ["cql", "iql"])
def test_decisions_do_not_depend_on_the_unit_of_rewards(logged, method):
    config = OfflineConfig(method=method, updates=20)
    dqn = replace(PLAIN, normalise=True, solver="enumeration")
    large = replace(logged, rewards=1024.0 * logged.rewards)
    one, two = (fit(t, SPACE, config, dqn=dqn) for t in (logged, large))
    np.testing.assert_array_equal(one.actions(logged.states), two.actions(logged.states))


def trained_behaviour():
    rng = np.random.default_rng(3)
    states = rng.normal(size=(200, 3))
    odds = states @ rng.normal(size=(3, N)) - 0.5
    actions = (rng.random((200, N)) < 1 / (1 + np.exp(-odds))).astype(float)
    return fit_policy(states, actions, hidden=(8,), epochs=30, learning_rate=0.03), states


def test_support_is_what_a_list_of_likelihoods_says():
    behaviour, states = trained_behaviour()
    sets = SupportedSets(LoggedSets(SPACE, states[0]), behaviour, log_ratio=1.5)
    near = SupportedSets(LoggedSets(SPACE, states[0]), behaviour, distance=1)
    smaller = 0
    for state in states[:20]:
        x = torch.from_numpy(state[None]).float().expand(len(ACTIONS), -1)
        with torch.no_grad():
            odds = behaviour.body(x[:1])[0]
            p = torch.sigmoid(odds)
            chances = [
                np.prod([float(q if on else 1 - q) for q, on in zip(p, a, strict=True)])
                for a in ACTIONS
            ]
            likelihoods = behaviour.q(x, torch.from_numpy(ACTIONS).float())
        np.testing.assert_allclose(likelihoods.exp().numpy(), chances, rtol=1e-4)
        mode = ACTIONS[int(np.argmax(chances))]
        np.testing.assert_array_equal(sets.modes(state[None])[0], mode)
        wanted = {
            tuple(a)
            for a, c in zip(ACTIONS, chances, strict=True)
            if np.log(c) >= np.log(max(chances)) - 1.5
        }
        assert {tuple(a) for a in sets.in_state(state).enumerate()} == wanted
        smaller += len(wanted) < len(ACTIONS)
        wanted = {tuple(a) for a in ACTIONS if (a != mode).sum() <= 1}
        assert {tuple(a) for a in near.in_state(state).enumerate()} == wanted
    assert smaller


def test_a_hamming_ball_around_what_may_be_infeasible():
    for centre, distance in itertools.product(([1, 1, 1, 1, 1], [0, 1, 0, 0, 1]), (0, 1, 3)):
        found = (
            hamming_ball(SPACE, centre, distance).enumerate()
            if distance or centre[0] == 0
            else None
        )
        wanted = [a.tolist() for a in ACTIONS if (a != centre).sum() <= distance]
        if wanted:
            assert found is not None
            assert sorted(found.tolist()) == sorted(wanted)


def test_decisions_keep_to_the_support_that_the_share_asks_for(logged):
    config = OfflineConfig(method="dqn", updates=3, support="likelihood", support_share=0.7)
    policy = fit(logged, config=config, dqn=PLAIN)
    inside = [
        not space.violations(action)
        for space, action in zip(policy.sets.in_states(logged.states), logged.actions, strict=True)
    ]
    assert np.mean(inside) == pytest.approx(0.7, abs=0.02)
    for state in logged.states[:12]:
        space = policy.action_space_block(state)
        values = every_value(policy.network, state.astype(np.float32), space)
        action = policy.act(state)
        assert not space.violations(action)
        assert not capped(state).violations(action)
        i = [a.tolist() for a in space.enumerate()].index(action.tolist())
        assert float(values[i]) >= float(values.max()) - 1e-4


def test_cloning_takes_the_most_likely_feasible_action(logged):
    policy = fit(logged, config=OfflineConfig(method="bc", behaviour_epochs=5))
    assert isinstance(policy.network, BernoulliPolicy)
    for state in logged.states[:20]:
        space = capped(state)
        values = every_value(policy.network, state.astype(np.float32), space)
        best = space.enumerate()[int(values.argmax())]
        np.testing.assert_array_equal(policy.act(state), best)


def test_regression_prefers_what_was_better_than_usual(logged):
    config = OfflineConfig(method="iql", updates=200, extraction="regression", behaviour_epochs=20)
    dqn = mr.DQNConfig(
        architecture="concat", hidden=(16,), pretrain_epochs=0, learning_rate=0.01, weight_decay=0.0
    )
    imitated = fit(logged, config=OfflineConfig(method="bc", behaviour_epochs=20))
    weighted = fit(logged, config=config, dqn=dqn)

    def paid(policy):
        a = policy.actions(logged.states).astype(float)
        return (logged.states[:, 1] * a[:, 0] - a[:, 1] * a[:, 2] + a[:, 3]).mean()

    assert paid(weighted) > paid(imitated) + 0.1


def test_an_additive_value_is_what_it_says(logged):
    network = AdditiveQNetwork(3, N, generator=torch.Generator().manual_seed(0))
    network.body.standardize(logged.states)
    network.shift(2.0)
    state = logged.states[0]
    result = mr.argmax(network, state, SPACE)
    values = every_value(network, state, SPACE)
    assert result.status == "optimal"
    assert result.value == pytest.approx(float(values.max()), abs=1e-5)
    ones = torch.eye(N)
    x = torch.from_numpy(state[None]).float()
    with torch.no_grad():
        base = float(network.q(x, torch.zeros(1, N)))
        each = network.q(x.expand(N, -1), ones).numpy() - base
        whole = float(network.q(x, torch.ones(1, N)))
    assert whole == pytest.approx(base + each.sum(), abs=1e-5)


def test_an_agent_learns_from_its_environments_log():
    env = make_bandit("budget", 6, 2, seed=0)
    logged = collect_transitions(env, 60, np.random.default_rng(0))
    assert logged.feasible == env.action_space_block()
    agent = mr.DQNAgent(env, mr.DQNConfig(head=(8,), pretrain_epochs=9, episodes=2), seed=0)
    before = [p.detach().clone() for p in agent.network.parameters()]
    policy = agent.fit(logged, OfflineConfig(method="dqn", updates=20))
    assert policy.network is agent.network
    pairs = zip(before, agent.network.parameters(), strict=True)
    assert not any(torch.equal(old, new) for old, new in pairs)
    for state in logged.states[:10]:
        np.testing.assert_array_equal(agent.act(state), policy.act(state))
    assert agent.num_timesteps == 0
    agent.train()  # goes on: no pretraining
    assert agent.episode == 2
    assert len(agent.learner.replay) == 60 + 2 * env.horizon
    with pytest.raises(ValueError, match=r"row 0.*not feasible: 6 actions"):
        agent.fit(Transitions(logged.states, np.ones((60, 6)), logged.rewards, logged.states))


def test_steps_of_a_log_are_no_steps_of_the_environment(tmp_path):
    env = make_bandit("budget", 6, 2, seed=0)
    logged = collect_transitions(env, 60, np.random.default_rng(0))
    config = mr.DQNConfig(head=(8,), encoder=(8,), pretrain_epochs=1, random_steps=30)
    agent = mr.DQNAgent(env, config, seed=0)
    agent.fit(logged, OfflineConfig(updates=2))
    agent.learn(20, checkpoint=tmp_path / "run.pt")
    assert (agent.num_timesteps, agent.step) == (20, 20)
    assert mr.DQNAgent.load(tmp_path / "run.pt", env).num_timesteps == 20


def test_networks_and_arms_that_do_not_fit_a_log_are_refused(logged):
    config = OfflineConfig(updates=1)
    with pytest.raises(ValueError, match="takes 2 state features and 5 actions"):
        fit(logged, config=config, network=mr.QNetwork(2, N, (4,)))
    with pytest.raises(ValueError, match="arms have 7 state features"):
        fit(logged, config=config, arms=mr.envs.Arms(N, shared_features=2))
    module = torch.nn.Linear(3 + N, 1)
    assert fit(logged, config=config, network=module).network.module is module
    ends = np.ones((300, 1))
    with pytest.raises(ValueError, match=r"terminated must have shape \(300,\)"):
        Transitions(logged.states, logged.actions, logged.rewards, logged.states, ends)


def test_a_long_log_is_not_evaluated_at_once(logged):
    sizes = []

    class Watched(mr.QNetwork):
        def q(self, state, action):
            sizes.append(len(state))
            return super().q(state, action)

    network = Watched(3, N, (4,))
    rows = np.arange(9000) % 300
    long = Transitions(*(getattr(logged, name)[rows] for name in COLUMNS), feasible=SPACE)
    learner = learner_of(ImplicitLearner, long, OfflineConfig(updates=1), network)
    values = learner.logged_values()
    assert max(sizes) < 5000
    states, actions = (torch.from_numpy(x[rows]).float() for x in (logged.states, logged.actions))
    with torch.no_grad():
        np.testing.assert_allclose(values, mr.QNetwork.q(network, states, actions), atol=1e-6)


def test_the_standard_dqn_keeps_to_the_support_too():
    env = make_bandit("budget", 5, 2, seed=0)
    logged = collect_transitions(env, 60, np.random.default_rng(0))
    agent = FlatDQN(env, mr.DQNConfig(pretrain_epochs=0), seed=0)
    config = OfflineConfig(method="dqn", updates=5, support="hamming", support_distance=1)
    policy = agent.fit(logged, config)
    for state in logged.states[:10]:
        own = policy.action_space_block(state).enumerate()
        values = every_value(policy.network, state, policy.action_space_block(state))
        assert policy.act(state).tolist() == own[int(values.argmax())].tolist()


def test_the_same_seed_learns_the_same():
    env = CombinatorialNavigation(dimensions=2, pits=0)
    logged = log_navigation(env, 50, np.random.default_rng(0))
    config = OfflineConfig(method="iql", updates=10, support="hamming", behaviour_epochs=3)
    one, two = (fit(logged, env.action_space_block(), config, dqn=PLAIN, seed=4) for _ in range(2))
    for p, q in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(p, q)


def test_what_does_not_fit_is_refused(logged):
    t = Transitions(logged.states, logged.actions, logged.rewards, logged.next_states)
    with pytest.raises(ValueError, match="without a feasible set"):
        fit(t)
    with pytest.raises(ValueError, match="have 5 variables, the feasible set 4"):
        fit(t, mr.BudgetTopK(4, 2))
    with pytest.raises(ValueError, match="must be an action space"):
        fit(t, lambda state: 3)
    doubled = Transitions(t.states, 2 * t.actions, t.rewards, t.next_states)
    with pytest.raises(ValueError, match="binary actions"):
        fit(doubled, mr.Box([0] * N, [4] * N, integer=range(N)), OfflineConfig(method="bc"))
    for wrong in ({"expectile": 1.0}, {"support": "knn"}, {"updates": 0}, {"support_share": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            OfflineConfig(**wrong)


def test_a_feature_that_was_never_seen_to_change_is_not_blown_up(logged):
    states = np.column_stack([logged.states, np.full(300, 0.1)])
    assert states[:, 3].std() > 0  # of rounding
    policy = fit_policy(states, logged.actions, hidden=(4,), epochs=1)
    odds = policy.log_odds(np.array([[0, 0, 0, 0.1], [0, 0, 0, 0.2]]))
    assert np.abs(odds[0] - odds[1]).max() < 1.0


@pytest.mark.parametrize(
    ("action", "said"),
    [([-1, 1, 1, 0, 0], r"action\[0\] is -1"), ([0.5, 0, 0, 0, 0], r"action\[0\] is 0.5")],
)
@pytest.mark.parametrize("feasible", [mr.BudgetTopK(N, 3), capped])
def test_a_logged_action_that_is_not_zero_or_one_is_refused_with_its_row(
    logged, feasible, action, said
):
    actions = logged.actions.copy()
    actions[7] = action
    with pytest.raises(ValueError, match=f"row 7 of the log: {said}"):
        fit(replace(logged, actions=actions), feasible, OfflineConfig(updates=1))


def test_logged_orders_are_whole_numbers():
    box = mr.Box([0, 0], [3, 2], integer=[0], binary=[])
    states, actions = np.zeros((4, 1)), np.array([[1, 0.5], [3, 2], [1.5, 0], [0, 0]])
    with pytest.raises(ValueError, match=r"row 2 of the log: action\[0\] is 1.5"):
        fit(Transitions(states, actions, np.zeros(4), states), box, OfflineConfig(updates=1))


@pytest.mark.parametrize("ends", [["False"] * 3, [0.0, np.nan, 1.0], [0, 2, 1], [None] * 3])
def test_an_end_is_true_or_false(ends):
    states = np.zeros((3, 2))
    with pytest.raises(ValueError, match="terminated must be true or false, or 1 or 0: row"):
        Transitions(states, states, np.zeros(3), states, ends)
    objects = np.array([np.bool_(0), np.int64(1), 0.0], dtype=object)
    for known in ([0, 1, 0], [False, True, False], np.array([0.0, 1.0, 0.0]), objects):
        found = Transitions(states, states, np.zeros(3), states, known).terminated
        assert found.tolist() == [False, True, False]


def test_a_masked_table_is_refused():
    states = np.ma.array(np.zeros((3, 2)), mask=[[0, 0], [1, 0], [0, 0]])
    with pytest.raises(ValueError, match="some of states is masked"):
        Transitions(states, np.zeros((3, 2)), np.zeros(3), np.zeros((3, 2)))


def test_choices_are_logged_as_binary_variables():
    states = np.zeros((3, 2))
    logged = Transitions(states, [[0], [1], [1]], np.zeros(3), states)
    with pytest.raises(ValueError, match="set 4: a choice among several is that many variables"):
        fit(logged, mr.BudgetTopK(4, 1, exactly=True), OfflineConfig(updates=1))


def test_features_that_float32_cannot_hold_are_refused(logged):
    def moved(by):
        columns = (logged.states + by, logged.actions, logged.rewards, logged.next_states + by)
        return Transitions(*columns, logged.terminated)

    config = OfflineConfig(method="iql", updates=5)
    near = fit(moved(1e4), SPACE, config, dqn=PLAIN)
    assert not SPACE.violations(near.act(logged.states[0] + 1e4))
    with pytest.raises(ValueError, match=r"feature 0 of the logged states .* Subtract a number"):
        fit(moved(1e8), SPACE, config, dqn=PLAIN)
    empty = np.zeros((300, 0))
    none = Transitions(empty, logged.actions, logged.rewards, empty, logged.terminated)
    with pytest.raises(ValueError, match="states have no features"):
        fit(none, SPACE, config, dqn=PLAIN)


def test_seeds_are_integers_of_any_kind(logged):
    config = OfflineConfig(method="iql", updates=3)
    one, two = (fit(logged, SPACE, config, seed=seed) for seed in (4, np.int64(4)))
    for p, q in zip(one.network.parameters(), two.network.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        fit(logged, SPACE, config, seed=-1)


def test_actions_are_scaled_by_their_bounds():
    rng = np.random.default_rng(0)
    space = mr.Box([0.0, -20.0], [1000.0, 5.0], integer=[0, 1])
    actions, states = space.sample(rng, 100), rng.normal(size=(100, 2))
    ends = np.ones(100, bool)
    logged = Transitions(states, actions, actions[:, 0] / 10.0, states, ends, feasible=space)
    policy = fit(logged, config=OfflineConfig(method="dqn", updates=5))
    assert policy.network.action_reach.tolist() == [1000.0, 20.0]
