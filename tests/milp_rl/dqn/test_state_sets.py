"""Learning where the feasible set differs from state to state: every action is in its state's."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import milp_rl as mr
from milp_rl.dqn import Callback, DQNAgent, DQNConfig, Validation
from milp_rl.dqn.choosers import ExactChooser, HeuristicChooser
from milp_rl.envs.feasible_sets import FeasibleSets
from milp_rl.envs.transitions import collect_transitions
from milp_rl.evaluation import evaluate
from milp_rl.graphq import GraphDQN, GraphDQNConfig
from milp_rl.heuristics.greedy import GreedyArgmax

N = 4
PLAIN = DQNConfig(
    hidden=(8,),
    episodes=3,
    batch_size=8,
    pretrain_epochs=1,
    random_steps=20,
    sync_every=10,
    n_step=2,
    epsilon_decay=20,
    solver="enumeration",
)


class Orders(gym.Env[Any, Any]):
    """At most two of the orders that are released and not done yet go in a step.

    A state is the time to each release, and which orders are done. In the state after
    ``reset(seed=0)``, the first that a learner sees, all may go.
    """

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 20, (2 * N,), np.float32)
        self.action_space = gym.spaces.MultiBinary(N)
        self.played: list[tuple[np.ndarray, np.ndarray]] = []

    def action_space_block(self, state):
        may_go = (np.asarray(state[:N]) <= 0) & (np.asarray(state[N:]) < 0.5)
        return mr.Box(np.zeros(N), may_go.astype(float), binary=range(N)) & mr.BudgetTopK(N, 2)

    def _state(self):
        return np.concatenate([np.maximum(self.date - self.t, 0), self.done]).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.date, self.t, self.done = self.np_random.integers(0, 4, N), 0, np.zeros(N)
        self.date *= seed != 0
        return self._state(), {}

    def step(self, action):
        self.played.append((self._state(), np.array(action)))
        reward = float(action @ (1.0 + np.arange(N))) - 0.1 * self.t
        self.done = np.maximum(self.done, action)
        self.t += 1
        return self._state(), reward, bool(self.done.all()), self.t >= 8, {}


def infeasible(pairs):
    """Return the pairs of state and action where the action is not in the state's set."""
    env = Orders()
    return [(s, a) for s, a in pairs if env.action_space_block(s).violations(a)]


@pytest.fixture
def valued(monkeypatch):
    """Every next state and action that a target is made of."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    made = {kind: kind._new_learner for kind in (DQNAgent, GraphDQN)}

    def watched(agent):
        learner = made[type(agent)](agent)
        value = learner.target.q

        def q(states, actions):
            if not torch.is_grad_enabled():
                found.extend(zip(states.numpy().copy(), actions.numpy().copy(), strict=True))
            return value(states, actions)

        monkeypatch.setattr(learner.target, "q", q, raising=False)
        return learner

    for kind in made:
        monkeypatch.setattr(kind, "_new_learner", watched)
    return found


def network_of(seed):
    return mr.QNetwork(2 * N, N, (8,), generator=torch.Generator().manual_seed(seed))


def weights(agent):
    parameters = [p.detach().numpy().ravel() for p in agent.network.parameters()]
    return np.concatenate(parameters).tobytes()


VARIANTS = {
    "exact": PLAIN,
    "branch and bound": replace(PLAIN, solver="branch_and_bound"),
    "highs": replace(PLAIN, solver="highs"),
    "greedy": replace(PLAIN, argmax="greedy"),
    "clusters": replace(PLAIN, cluster_radius=3.0, double=True),
    "dual filtering": replace(PLAIN, loss="hinge", dual_filtering=True),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_every_action_played_or_aimed_at_is_in_the_set_of_its_state(config, valued):
    env = Orders()
    agent = DQNAgent(env, config, seed=0).train()
    assert len({tuple(env.action_space_block(s).members[0].upper) for s, _ in env.played}) > 5
    assert not infeasible(env.played)
    assert len(valued) > 30
    assert not infeasible(valued)
    assert not infeasible((s, agent.act(s)) for s, _ in env.played)


def test_targets_and_greedy_actions_are_the_best_of_the_set_of_each_state():
    agent = DQNAgent(Orders(), replace(PLAIN, n_step=1), seed=0).train()
    batch = agent.learner.replay.sample(np.random.default_rng(0), 60)
    found = agent.learner.targets(batch, 0.0).numpy()
    for i, state in enumerate(batch.next_states):
        actions = agent.env.action_space_block(state).enumerate()
        rows = torch.from_numpy(np.tile(state, (len(actions), 1)))
        with torch.no_grad():
            values = agent.learner.target.q(rows, torch.from_numpy(actions).float()).numpy()
            own = agent.network.q(rows, torch.from_numpy(actions).float()).numpy()
        expected = batch.rewards[i] + batch.bootstrap[i] * values.max()
        assert found[i] == pytest.approx(expected, abs=1e-4)
        chosen = (actions == agent.act(state)).all(axis=1)
        assert own[chosen] == pytest.approx(own.max(), abs=1e-4)


def test_dual_filtering_bounds_hold_in_the_set_of_each_state_and_are_those_of_it_alone():
    env, network = Orders(), network_of(0)
    rng = np.random.default_rng(0)
    states = collect_transitions(env, 30, rng).states.astype(np.float32)
    spaces = [env.action_space_block(state) for state in states]
    chooser = ExactChooser(network, spaces[0], solver="enumeration")
    bounds = chooser.bounds(states, spaces)
    for state, space, bound in zip(states, spaces, bounds, strict=True):
        best = mr.argmax(network, state, space).value
        assert bound >= best - 1e-6
        alone = ExactChooser(network, space, solver="enumeration").bounds(state[None])
        assert bound == pytest.approx(alone[0])


def test_heuristics_build_in_the_set_of_each_state_as_alone():
    env, network = Orders(), network_of(0)
    states = collect_transitions(env, 30, np.random.default_rng(0)).states.astype(np.float32)
    spaces = FeasibleSets(env, env.reset(seed=0)[0], "The test")
    spaces.check_all(states)
    chooser = HeuristicChooser(GreedyArgmax, network, spaces.space)
    actions = chooser.choose(states, [None] * 30, 0.0, spaces.in_states(states))
    for state, action in zip(states, actions, strict=True):
        own = GreedyArgmax(network, env.action_space_block(state))
        np.testing.assert_array_equal(action, own.actions(state[None])[0])


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, agent: DQNAgent) -> None:
        if agent.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("name", "stop"), [("exact", 9), ("greedy", 1), ("clusters", 11)])
def test_a_run_that_was_killed_ends_with_the_same_weights(name, stop, tmp_path):
    config = VARIANTS[name]
    whole = DQNAgent(Orders(), config, seed=0).train()
    file = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        DQNAgent(Orders(), config, seed=0).train([Stop(stop)], checkpoint=file, checkpoint_every=1)
    env = Orders()
    resumed = DQNAgent(env, config, seed=0).train(checkpoint=file)
    assert weights(resumed) == weights(whole)
    assert not infeasible(env.played)
    loaded = DQNAgent.load(file, Orders())
    others = collect_transitions(Orders(), 20, np.random.default_rng(7)).states.astype(np.float32)
    assert not infeasible(zip(others, loaded.learner.greedy.actions(others), strict=True))
    states = [state for state, _ in env.played]
    assert not infeasible((s, loaded.act(s)) for s in states)
    assert [loaded.act(s).tolist() for s in states] == [whole.act(s).tolist() for s in states]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.1, "width": 2}], ids=["greedy", "drawn"])
def test_decisions_on_a_graph_are_built_in_the_set_of_each_state(options, valued, tmp_path):
    config = GraphDQNConfig(
        graph="complete",
        random_steps=20,
        pretrain_epochs=1,
        episodes=3,
        batch_size=8,
        epsilon_decay=5,
        channels=4,
        layers=1,
        **options,
    )
    env, file = Orders(), tmp_path / "run.pt"
    agent = GraphDQN(env, config, seed=0).train()
    assert not infeasible(env.played)
    assert len(valued) > 30
    assert not infeasible(valued)
    assert not infeasible((s, agent.act(s)) for s, _ in env.played)
    with pytest.raises(KeyboardInterrupt):
        GraphDQN(Orders(), config, seed=0).train([Stop(5)], checkpoint=file, checkpoint_every=1)
    assert weights(GraphDQN(Orders(), config, seed=0).train(checkpoint=file)) == weights(agent)
    with pytest.raises(ValueError, match="differs from state to state, and a GraphQPolicy builds"):
        agent.policy()


class Masked(gym.Wrapper[Any, Any, Any, Any]):
    """Taxi, whose own mask of actions becomes a feasible set of one out of six."""

    def __init__(self) -> None:
        super().__init__(gym.make("Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"))
        self.observation_space = gym.spaces.Box(0, 5, (4,), np.float32)
        self.action_space = gym.spaces.MultiBinary(6)
        self.masks: list[tuple[float, ...]] = []

    def _mask(self, state):
        taxi: Any = self.unwrapped
        return taxi.action_mask(taxi.encode(*(int(v) for v in state))).astype(float)

    def action_space_block(self, state):
        one = {"matrix": [[-1] * 6], "right": [-1]}
        return mr.Box(np.zeros(6), self._mask(state), binary=range(6), **one) & mr.BudgetTopK(6, 1)

    def reset(self, **options):
        state, info = self.env.reset(**options)
        return self._seen(state), info

    def _seen(self, state):
        taxi: Any = self.unwrapped
        self.state = np.array(list(taxi.decode(state)), dtype=np.float32)
        return self.state

    def step(self, action):
        mask = self._mask(self.state)
        assert action.sum() == 1
        assert action @ mask == 1
        self.masks.append(tuple(mask))
        state, reward, terminated, truncated, info = self.env.step(int(action.argmax()))
        return self._seen(state), float(reward), terminated, truncated, info


def test_a_wrapper_may_give_the_sets_of_an_environment_of_others():
    env = Masked()
    taken = gym.wrappers.TimeLimit(env, 10)
    agent = DQNAgent(taken, replace(PLAIN, solver="auto", random_steps=40), seed=0).train()
    assert len(set(env.masks)) > 3
    evaluate(taken, {"agent": agent}, seeds=[0])


def test_validation_and_evaluation_play_in_the_set_of_each_state(tmp_path):
    env = Orders()
    plain = DQNAgent(Orders(), PLAIN, seed=0).train()
    validation = Validation(env, tmp_path, every=2, episodes=3)
    agent = DQNAgent(Orders(), PLAIN, seed=0).train([validation])
    assert weights(agent) == weights(plain)
    assert env.played
    assert not infeasible(env.played)
    results = evaluate(Orders(), {"agent": agent}, seeds=range(3))
    assert len(results) == 3


def test_another_number_or_kind_of_variables_is_refused():
    class Fewer(Orders):
        def action_space_block(self, state):
            return mr.BudgetTopK(N - 1 if sum(state[N:]) else N, 2)

    with pytest.raises(ValueError, match=r"has 3 variables, 0 of them continuous in state .* 4"):
        DQNAgent(Fewer(), PLAIN, seed=0).train()

    class Continuous(Orders):
        def action_space_block(self, state):
            return mr.Box(np.zeros(N), np.ones(N), binary=range(N - bool(sum(state[N:]))))

    with pytest.raises(ValueError, match=r"has 4 variables, 1 of them continuous in state"):
        DQNAgent(Continuous(), PLAIN, seed=0).train()


def test_a_set_that_float32_changes_is_refused():
    class Fine(Orders):
        def action_space_block(self, state):
            exact = float(np.asarray(state, dtype=float)[0])
            return mr.BudgetTopK(N, 1 + int(exact == 0.1) + int(exact > 0.11))

        def _state(self):
            return np.concatenate([[0.1 + 0.1 * (self.t % 2)], super()._state()[1:]])

    env = Fine()
    env.observation_space = gym.spaces.Box(0, 20, (2 * N,), np.float64)
    with pytest.raises(ValueError, match=r"as it is learnt from, in float32"):
        DQNAgent(env, PLAIN, seed=0).train()


def test_an_environment_may_change_one_block_in_place():
    class InPlace(Orders):
        def __init__(self) -> None:
            super().__init__()
            self.block = mr.BudgetTopK(N, 1)

        def action_space_block(self, state):
            self.block.k = 1 + int(sum(state[N:]) % 3)
            return self.block

    env = InPlace()
    DQNAgent(env, PLAIN, seed=0).train()
    assert {int(sum(s[N:]) % 3) for s, _ in env.played} == {0, 1, 2}
    assert all(a.sum() <= 1 + sum(s[N:]) % 3 for s, a in env.played)


def test_sets_forgotten_are_asked_for_again(monkeypatch):
    monkeypatch.setattr("milp_rl.envs.feasible_sets._REMEMBERED", 2)
    few = DQNAgent(Orders(), PLAIN, seed=0).train()
    monkeypatch.undo()
    assert weights(few) == weights(DQNAgent(Orders(), PLAIN, seed=0).train())
