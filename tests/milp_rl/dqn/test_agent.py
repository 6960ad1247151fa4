import hashlib
import subprocess
import sys
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from milp_rl.baselines import GreedyArgmax, MyopicPolicy, RandomPolicy
from milp_rl.dqn import Callback, DQNAgent, DQNConfig, ProgressBar, pretraining
from milp_rl.dqn.choosers import chooser_of
from milp_rl.dqn.learner import QLearner
from milp_rl.dqn.pretraining import one_step_data
from milp_rl.envs import CapacityBandit, CapacityInstance, make_bandit
from milp_rl.envs.fixed_set import FixedSet
from milp_rl.evaluation import JointMDP, evaluate
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.qnetwork import QNetwork

SMALL = DQNConfig(
    hidden=(8, 8),
    episodes=3,
    batch_size=8,
    sync_every=10,
    pretrain_epochs=3,
    pretrain_states=10,
    pretrain_actions=2,
    pretrain_replay=20,
    solver="enumeration",
)


def bandit(n_arms: int = 4, n_workers: int = 2, seed: int = 0) -> CapacityBandit:
    return CapacityBandit(CapacityInstance.generate(n_arms, n_workers, horizon=6, seed=seed))


def parameters(agent: DQNAgent) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in agent.network.parameters()])


def test_same_seed_same_weights_and_solver_does_not_matter():
    first = parameters(DQNAgent(bandit(), SMALL, seed=1).train())
    torch.manual_seed(99)  # global randomness plays no part
    np.testing.assert_array_equal(first, parameters(DQNAgent(bandit(), SMALL, seed=1).train()))
    highs = DQNAgent(bandit(), replace(SMALL, solver="highs"), seed=1).train()
    np.testing.assert_array_equal(first, parameters(highs))
    assert (first != parameters(DQNAgent(bandit(), SMALL, seed=2).train())).any()


@pytest.mark.slow
def test_same_weights_in_another_process():
    code = (
        "import hashlib; from milp_rl.dqn import *; from milp_rl.envs import *;"
        "e = CapacityBandit(CapacityInstance.generate(4, 2, horizon=6, seed=0));"
        f"a = DQNAgent(e, DQNConfig(**{vars(SMALL)!r}), seed=1).train();"
        "b = b''.join(p.detach().numpy().tobytes() for p in a.network.parameters());"
        "print(hashlib.sha256(b).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = parameters(DQNAgent(bandit(), SMALL, seed=1).train()).tobytes()
    assert out.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_act_is_the_brute_force_argmax():
    agent = DQNAgent(bandit(), replace(SMALL, solver="highs"), seed=0).train()
    actions = torch.tensor(agent.space.enumerate()).float()
    for state in np.random.default_rng(0).integers(0, 4, (25, 4)):
        action = agent.act(state)
        assert agent.space.violations(action) == []
        with torch.no_grad():
            values = agent.network.q(torch.tensor(state).float(), actions)
            value = agent.network.q(torch.tensor(state).float(), torch.tensor(action).float())
        assert float(value) == pytest.approx(float(values.max()), rel=1e-5)


def test_act_refuses_a_state_that_is_not_finite():
    with pytest.raises(ValueError, match=r"state\[0\] is nan"):
        DQNAgent(bandit(), SMALL).act([np.nan, 0, 0, 0])


# The update ---------------------------------------------------------------------------------


def fixed(env: gym.Env[Any, Any]) -> FixedSet:
    return FixedSet(env, env.reset(seed=0)[0], "The test")


def learner(**changes: Any) -> QLearner:
    """A learner whose target differs from its network, with transitions of every kind."""
    config = replace(SMALL, batch_size=64, **changes)
    network = QNetwork(
        4, SPACE.n_actions, config.hidden, generator=torch.Generator().manual_seed(0)
    )
    result = QLearner(network, fixed(bandit()), config, chooser_of(SPACE, config))
    with torch.no_grad():
        for parameter in result.target.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=GENERATOR.manual_seed(1)))
    result.target_greedy.renew()
    rng = np.random.default_rng(0)
    states, following = rng.integers(0, 4, (2, 30, 4))
    rewards, bootstrap = rng.normal(size=30), config.discount * (rng.random(30) > 0.3)
    result.replay.add(states, SPACE.sample(rng, 30), rewards, following, bootstrap)
    return result


GENERATOR = torch.Generator()
SPACE = bandit().action_space_block()


@pytest.mark.parametrize("double", [False, True])
def test_step_is_that_of_the_loss_against_brute_force_targets(double):
    mine, plain = learner(double=double), learner(double=double)
    loss = mine.update(np.random.default_rng(5), 1e-2, 0.0)

    batch = plain.replay.sample(np.random.default_rng(5), 64)
    actions = torch.tensor(SPACE.enumerate()).float()
    targets = []
    with torch.no_grad():
        for i in range(64):
            s = torch.tensor(batch.next_states[i])
            valued = plain.target.q(s, actions)
            chosen = (plain.network.q(s, actions) if double else valued).argmax()
            targets.append(batch.rewards[i] + batch.bootstrap[i] * float(valued[chosen]))
    values = plain.network.q(torch.tensor(batch.states), torch.tensor(batch.actions))
    errors = (values - torch.tensor(targets, dtype=torch.float32)).abs()
    huber = torch.where(errors < 1, errors**2 / 2, errors - 0.5)
    expected = (torch.tensor(batch.weights) * huber).mean()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    for group in plain.optimizer.param_groups:
        group["lr"] = 1e-2
    expected.backward()
    plain.optimizer.step()
    for a, b in zip(mine.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", ["huber", "hinge"])
def test_losses_are_in_the_unit_and_renew_priorities_and_means(loss, monkeypatch):
    monkeypatch.setattr(QLearner, "unit", 4.0)
    mine, plain = (learner(loss=loss, hinge_weight=1.7, discount=0.9) for _ in range(2))

    def with_extra(states, actions, rng):
        values = mine.network.each(states, actions)
        return values, 0.7 * values.mean()

    monkeypatch.setattr(mine, "_values", with_extra)
    found = mine.update(np.random.default_rng(5), 1e-2, 0.0)
    batch = plain.replay.sample(np.random.default_rng(5), 64)
    actions = torch.tensor(SPACE.enumerate()).float()
    values = plain.network.q(torch.tensor(batch.states), torch.tensor(batch.actions))
    losses, errors = [], []
    for i in range(64):
        with torch.no_grad():
            ahead = plain.target.q(torch.tensor(batch.next_states[i]), actions).max()
        error = (values[i] - float(batch.rewards[i] + batch.bootstrap[i] * ahead)) / 4.0
        errors.append(abs(float(error.detach())))
        if loss == "hinge":
            one = values[i] / 4.0 + (1.7 * error**2 if error < 0 else 0.0)
        else:
            one = error**2 / 2 if abs(error) < 1 else abs(error) - 0.5
        losses.append(float(batch.weights[i]) * one)
    expected = sum(losses) / 64
    assert found == pytest.approx(float(expected.detach()), rel=1e-4)
    for group in plain.optimizer.param_groups:
        group["lr"] = 1e-2
    (expected + 0.7 * values.mean()).backward()
    nn.utils.clip_grad_value_(plain.network.parameters(), plain.config.clip_value)
    plain.optimizer.step()
    for a, b in zip(mine.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    priorities = mine.replay.state_dict()["priorities"].numpy()
    wanted = (np.array(errors) + 1e-6) ** mine.config.priority_exponent
    np.testing.assert_allclose(priorities[batch.index], wanted, rtol=1e-4)
    assert mine.mean_error == pytest.approx(0.01 * np.mean(errors), rel=1e-4)
    size = float(values.detach().abs().mean()) / 4.0
    assert mine.mean_value == pytest.approx(0.01 * size, rel=1e-4)


def test_gradients_are_clipped_by_value():
    it = learner(clip_value=1e-3)
    it.update(np.random.default_rng(5), 1e-2, 0.0)
    largest = max(float(p.grad.abs().max()) for p in it.network.parameters() if p.grad is not None)
    assert largest == pytest.approx(1e-3)


def test_some_batches_are_terminated_and_double_differs():
    assert not learner().replay.sample(np.random.default_rng(5), 64).bootstrap.all()
    losses = [learner(double=d).update(np.random.default_rng(5), 1e-2, 0.0) for d in (False, True)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("decay", [0.0, 0.999])
def test_hard_update_copies_the_averaged_weights_when_due(decay):
    it = learner(level_targets=False, average_decay=decay)
    with torch.no_grad():
        for parameter in it.network.parameters():
            parameter.add_(0.1)
    old = it.target.state_dict()["layers.0.weight"].clone()
    it.update_target(9, np.random.default_rng(0), 0.0)
    torch.testing.assert_close(it.target.state_dict()["layers.0.weight"], old)
    it.update_target(10, np.random.default_rng(0), 0.0)
    wanted = zip(
        it.target.parameters(), it.averaged.parameters(), it.network.parameters(), strict=True
    )
    for a, b, c in wanted:
        assert torch.equal(a, b)
        assert torch.equal(b, c) == (decay == 0)


def test_soft_update_moves_by_tau():
    it = learner(target_update="soft", tau=0.25)
    new = it.network.state_dict()["layers.0.weight"]
    old = it.target.state_dict()["layers.0.weight"].clone()
    it.update_target(1, np.random.default_rng(0), 0.0)
    torch.testing.assert_close(it.target.state_dict()["layers.0.weight"], 0.75 * old + 0.25 * new)


def test_levelling_centres_the_errors_and_keeps_the_policy():
    it = learner(level_targets=True)
    rows = np.random.default_rng(2).integers(0, 4, (20, 4)).astype(np.float32)
    before = it.greedy.actions(rows)
    it.update_target(10, np.random.default_rng(0), 0.0)
    np.testing.assert_array_equal(it.greedy.actions(rows), before)
    batch = it.replay.sample(np.random.default_rng(0), 256)
    with torch.no_grad():
        values = it.network.q(torch.tensor(batch.states), torch.tensor(batch.actions))
        following = torch.tensor(it.target_greedy.actions(batch.next_states)).float()
        next_values = it.target.q(torch.tensor(batch.next_states), following)
    targets = batch.rewards + batch.bootstrap * next_values.numpy()
    assert abs(float(np.mean(targets - values.numpy()))) < 1e-4


def test_the_hinge_loss_is_not_levelled():
    it = learner(level_targets=True, loss="hinge", average_decay=0.0)
    before = {name: w.clone() for name, w in it.network.state_dict().items()}
    it.update_target(10, np.random.default_rng(0), 0.0)
    assert all(torch.equal(w, before[name]) for name, w in it.network.state_dict().items())


# The phases -----------------------------------------------------------------------------------


def test_one_step_data_covers_every_single_action():
    env = bandit()
    space = env.action_space_block()
    states, actions, rewards, feasible = one_step_data(
        env, fixed(env), np.random.default_rng(0), 5, 4
    )
    n_states = 2 + 2 * 4 + 5
    assert len(states) == n_states * (2 * 4 + 2 + 4)
    np.testing.assert_allclose(rewards, env.expected_reward(states, actions), rtol=1e-6)
    for state in np.unique(states, axis=0):
        tried = {tuple(a) for a in actions[(states == state).all(axis=1)]}
        for i in range(4):
            assert {tuple(np.eye(4)[i]), tuple(1 - np.eye(4)[i])} <= tried
        assert {(0,) * 4, (1,) * 4} <= tried
        assert sum(not space.violations(np.array(a)) for a in tried) >= 2
    assert len(states[feasible]) == n_states * 4
    assert not any(space.violations(a) for a in actions[feasible])


def test_of_many_single_actions_each_state_tries_some(monkeypatch):
    env = bandit()
    n_states = 2 + 2 * 4 + 5
    most = n_states * 4 * (2 * 2 + 2)  # entries of two actions on, the same off, none and all
    monkeypatch.setattr(pretraining, "_MOST_ENTRIES", most)
    monkeypatch.setattr(pretraining, "_ENTRIES_AT_ONCE", 40)
    states, actions, rewards, feasible = one_step_data(
        env, fixed(env), np.random.default_rng(0), 5, 4
    )
    assert actions[: feasible.start].size == most
    np.testing.assert_allclose(rewards, env.expected_reward(states, actions), rtol=1e-6)
    tried = set()
    for rows in actions[: feasible.start].reshape(n_states, 6, 4):
        np.testing.assert_array_equal(rows[:2], 1 - rows[2:4])
        assert rows.sum(axis=1).tolist() == [1, 1, 3, 3, 0, 4]
        assert len(np.unique(rows[:2], axis=0)) == 2
        tried |= set(rows[:2].argmax(axis=1))
    assert tried == {0, 1, 2, 3}


def test_pretraining_learns_one_step_rewards():
    config = replace(
        SMALL,
        hidden=(16, 32),
        pretrain_epochs=20,
        pretrain_states=300,
        episodes=0,
        pretrain_batch_size=64,
    )
    env = bandit()
    agent = DQNAgent(env, config, seed=0).train()
    rng = np.random.default_rng(1)
    states, actions = rng.integers(0, 4, (500, 4)), agent.space.sample(rng, 500)
    rewards = env.expected_reward(states, actions)
    with torch.no_grad():
        values = agent.network.q(torch.tensor(states).float(), torch.tensor(actions).float())
    assert np.mean((values.numpy() - rewards) ** 2) < 0.1 * rewards.var()
    assert len(agent.learner.replay) == 20


class Watch(Callback):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.epsilons: list[float] = []

    def on_train_begin(self, agent):
        self.events.append("begin")

    def on_pretrain_epoch(self, agent, loss):
        self.events.append("epoch")

    def on_step(self, agent):
        self.events.append("step")
        self.epsilons.append(agent.epsilon)

    def on_episode_end(self, agent, record):
        self.events.append("episode")
        assert record is agent.history[-1]

    def on_train_end(self, agent):
        self.events.append("end")


def test_callbacks_see_every_phase(capsys):
    watch = Watch()
    agent = DQNAgent(bandit(), SMALL, seed=0).train([watch, ProgressBar()])
    steps = ["step"] * 5 + ["episode", "step"]
    assert watch.events == ["begin", *["epoch"] * 3, *steps * 3, "end"]
    assert watch.epsilons[0] == pytest.approx(0.02 + 0.28 * np.exp(-1 / 500))
    assert [row["episode"] for row in agent.history] == [0, 1, 2]
    printed = capsys.readouterr().err
    assert "pretraining" in printed
    assert "episodes" in printed
    assert "100%" in printed


def test_threads_are_given_back():
    threads = torch.get_num_threads()
    DQNAgent(bandit(), SMALL).train()
    assert torch.get_num_threads() == threads


def test_argmaxes_are_reused_between_hard_updates():
    agent = DQNAgent(bandit(), replace(SMALL, episodes=10), seed=0).train()
    row = agent.history[-1]
    assert row["target_lookups"] >= 60 * SMALL.updates_per_step * SMALL.batch_size
    assert row["target_solves"] < row["target_lookups"] / 4


class Corridor(gym.Env[Any, Any]):
    """No model. Action [0, 1] moves right, anything else left; the right end pays and ends."""

    observation_space = gym.spaces.Box(0, 3, (1,), np.float32)
    action_space = gym.spaces.MultiBinary(2)

    def action_space_block(self, state):
        return BudgetTopK(2, 1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.t = 1, 0
        return np.array([1.0], dtype=np.float32), {}

    def step(self, action):
        self.t += 1
        self.at = min(max(self.at + (1 if action[1] else -1), 0), 3)
        ended = self.at == 3
        observation = np.array([self.at], dtype=np.float32)
        return observation, float(ended), ended, self.t >= 12, {}


CORRIDOR = DQNConfig(
    episodes=60,
    discount=0.8,
    learning_rate=3e-3,
    epsilon_decay=150.0,
    sync_every=20,
    pretrain_epochs=0,
    solver="enumeration",
)


def test_learns_without_a_model_and_does_not_look_beyond_the_end():
    agent = DQNAgent(Corridor(), replace(CORRIDOR, episodes=150), seed=0).train()
    right = torch.tensor([0.0, 1.0])
    for at, value in ((0, 0.64), (1, 0.8), (2, 1.0)):
        assert agent.act([at]).tolist() == [0, 1]
        with torch.no_grad():
            q = float(agent.network.q(torch.tensor([float(at)]), right))
        assert q == pytest.approx(value, abs=0.15)


@pytest.mark.parametrize("n_step", [1, 3, 100])
def test_n_step_transitions_sum_rewards_up_to_the_end(n_step):
    config = replace(CORRIDOR, episodes=40, n_step=n_step, epsilon_start=1.0, epsilon_end=1.0)
    env = Corridor()
    agent = DQNAgent(env, config, seed=0)
    steps: list[tuple[float, float, bool, bool]] = []  # state, next state, terminated, done
    original = env.step

    def step(action):
        before = env.at
        result = original(action)
        steps.append((before, result[0][0], result[2], result[2] or result[3]))
        return result

    env.step = step
    agent.train()
    expected = []
    for i in range(len(steps)):
        window = [steps[i]]
        while len(window) < n_step and not window[-1][3]:
            window.append(steps[i + len(window)])
        reward = sum(0.8**k * float(w[2]) for k, w in enumerate(window))
        bootstrap = 0.0 if window[-1][2] else 0.8 ** len(window)
        expected.append((steps[i][0], reward, window[-1][1], bootstrap))
    stored = agent.learner.replay.state_dict()
    columns = ("states", "rewards", "next_states", "bootstrap")
    found = np.column_stack([stored[name].numpy() for name in columns])
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-6)
    assert any(e[2] for e in steps)
    assert any(e[3] and not e[2] for e in steps)


def test_environments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="pretrain_epochs=0"):
        DQNAgent(Corridor(), DQNConfig(random_steps=0))
    actions = gym.spaces.Box(-np.inf, np.inf, (1,))
    unbounded = gym.wrappers.TransformAction(gym.make("Pendulum-v1"), lambda a: a, actions)
    with pytest.raises(ValueError, match="must be bounded"):
        DQNAgent(unbounded)


def test_one_step_data_of_budgets_covers_swaps():
    env = make_bandit("budget", 8, 3, seed=0)
    states, actions, rewards, feasible = one_step_data(
        env, fixed(env), np.random.default_rng(0), 5, 4
    )
    drawn = actions[feasible]
    copies = drawn[len(drawn) // 2 :]
    originals = drawn[: len(drawn) // 2]
    changed = (originals != copies).sum(axis=1)
    assert set(changed) == {0, 2}  # nothing to swap if none is chosen
    np.testing.assert_array_equal(originals.sum(axis=1), copies.sum(axis=1))
    assert (changed == 2).all(where=originals.sum(axis=1) > 0)
    np.testing.assert_allclose(rewards, env.expected_reward(states, actions), rtol=1e-6)


@pytest.mark.slow
def test_beats_myopic_and_random_and_comes_close_to_the_optimum():
    env = CapacityBandit(CapacityInstance.generate(5, 2, horizon=20, seed=4))
    config = DQNConfig(episodes=30, solver="enumeration")
    agent = DQNAgent(env, config, seed=0).train()
    policies = {
        "myopic": MyopicPolicy(env),
        "random": RandomPolicy(agent.space, seed=0),
        "sequoia": agent,
    }
    rewards = evaluate(env, policies).groupby("policy")["reward"].mean()
    assert rewards["sequoia"] > 1.1 * max(rewards["myopic"], rewards["random"])
    starts = [env.reset(seed=seed)[0] for seed in range(50)]
    assert rewards["sequoia"] > 0.93 * JointMDP(env).optimum(starts)


def test_iterative_dqn_trains_without_a_solver():
    env = make_bandit("path", 8, 3, horizon=6, seed=1)
    agent = DQNAgent(env, replace(SMALL, argmax="greedy", solver="highs"), seed=0).train()
    for state in np.random.default_rng(0).integers(0, 4, size=(20, 8)):
        greedy = GreedyArgmax(agent.network, agent.space).actions(state[None])[0]
        np.testing.assert_array_equal(agent.act(state), greedy)


def test_use_takes_over_the_weights_of_another_network():
    env = bandit()
    agent, other = DQNAgent(env, SMALL, seed=0), DQNAgent(env, SMALL, seed=1)
    state = np.array([0, 1, 2, 3])
    agent.act(state)
    agent.use(other.network.state_dict())
    np.testing.assert_array_equal(agent.act(state), other.act(state))
    for a, b in zip(agent.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_exploration_and_gaps_are_those_of_the_formulas():
    one = learner(
        epsilon_start=0.9, epsilon_end=0.1, epsilon_decay=50, early_gap=0.02, gap=0.001, episodes=10
    )
    for step in (0, 25, 200):
        assert one.epsilon(step) == pytest.approx(0.1 + 0.8 * np.exp(-step / 50))
    assert [one.gap(episode) for episode in (0, 4, 5, 9)] == [0.02, 0.02, 0.001, 0.001]
    two = learner(dynamic_tolerance=0.4, dynamic_tolerance_decay=0.5, gap=0.0)
    assert two.gap(0) == 0.0  # no value is known yet
    two.mean_error, two.mean_value = 3.0, 4.0
    # 0.4 * (3 / 4) * 0.5 ** episode, down to a power of two
    assert [two.gap(episode) for episode in (0, 1, 3)] == [0.25, 0.125, 0.03125]
