"""The networks that a learner makes: their units, their critics, which of them it takes."""

import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

import milp_rl as mr
from milp_rl.dqn import Critics, DQNAgent, DQNConfig, ModuleValue, NormalisedQNetwork
from milp_rl.envs import Arms, make_bandit

SHORT = DQNConfig(
    episodes=2, random_steps=40, pretrain_epochs=2, batch_size=8, encoder=(8,), head=(6,)
)
SPACE = mr.BudgetTopK(5, 2)


class Machines(gym.Env):
    """Five machines, each with a load of any size and a light; at most two are served."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (11,), np.float32)
    action_space = gym.spaces.MultiBinary(5)
    arm_layout = Arms(5, arm_features=2, shared_features=1)

    def __init__(self, unit: float = 1.0) -> None:
        self.unit = unit

    def action_space_block(self, state):
        return SPACE

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.loads = 0, self.np_random.normal(300.0, 50.0, 5)
        return self._state(), {}

    def _state(self):
        lights = (self.loads > 300.0).astype(float)
        return np.append(np.stack([self.loads, lights], axis=1), self.time).astype(np.float32)

    def step(self, action):
        reward = float(np.round(self.loads) @ action) / 8.0
        self.loads = np.where(action == 1, self.np_random.normal(300.0, 50.0, 5), self.loads + 1.0)
        self.time += 1
        return self._state(), self.unit * reward, False, self.time == 10, {}


def drawn(architecture, seed=0, **more):
    config = replace(SHORT, architecture=architecture, **more)
    network = DQNAgent(Machines(), config, seed=seed).network
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(40, 11)) * 50 + 300
    states[:, 1:10:2] = rng.integers(0, 2, (40, 5))
    states[:, 10] = 7.0
    return network, states, rng.normal(size=40) * 20 + 1000


@pytest.mark.parametrize("architecture", ["concat", "arms", "equivariant"])
def test_values_are_in_units_of_the_rewards_whoever_evaluates_them(architecture):
    network, states, rewards = drawn(architecture)
    network.normalise(states, rewards, Machines.arm_layout)
    loads = states[:, 0:10:2]
    centred = states.copy()
    centred[:, 0:10:2] = (loads - loads.mean()) / loads.std()  # not the lights
    centred[:, 10] = 0.0  # the constant
    rng = np.random.default_rng(1)
    actions = rng.integers(0, 2, (40, 5)).astype(float)
    inner = mr.to_action_value(network.inner, 5, state_dim=11)
    expected = rewards.std() * inner.values(centred, actions)
    value = mr.to_action_value(network, 5, state_dim=11)
    np.testing.assert_allclose(value.values(states, actions), expected, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        q = network.q(torch.from_numpy(states).float(), torch.from_numpy(actions).float())
    np.testing.assert_allclose(q, expected, rtol=1e-4, atol=1e-3)
    best = mr.argmax(network, states[0], SPACE)
    every = SPACE.enumerate().astype(float)
    largest = value.values(np.tile(states[0], (len(every), 1)), every).max()
    assert best.value == pytest.approx(largest, abs=1e-8 * network.unit)


@pytest.mark.parametrize("architecture", ["concat", "arms"])
def test_an_exported_network_is_in_the_same_units(architecture, tmp_path):
    network, states, rewards = drawn(architecture)
    network.normalise(states, rewards, Machines.arm_layout)
    network.to_onnx(tmp_path / "q.onnx")
    read, own = (mr.argmax(q, states[0], SPACE) for q in (tmp_path / "q.onnx", network))
    assert read.value == pytest.approx(own.value, rel=1e-5)


@pytest.mark.parametrize("more", [{}, {"critics": 2, "double": True}, {"loss": "hinge"}])
def test_the_unit_of_the_rewards_changes_nothing_that_is_learnt(more):
    config = replace(SHORT, **more)
    agents = [DQNAgent(Machines(unit), config, seed=0).train() for unit in (1.0, 2.0**30)]
    small, large = (agent.network for agent in agents)
    for one, other in zip(small.inner.parameters(), large.inner.parameters(), strict=True):
        assert torch.equal(one, other)
    assert large.unit == 2.0**30 * small.unit
    assert small.unit == pytest.approx(np.std(agents[0].random_play.rewards), rel=1e-6)


@pytest.mark.parametrize("architecture", ["concat", "arms"])
def test_values_of_actions_of_any_range_whoever_evaluates_them(architecture, tmp_path):
    network, states, rewards = drawn(architecture)
    lower, upper = np.array([-2.0, 0, 5, 0, 3]), np.array([4.0, 30, 6, 1, 3])
    network.normalise(states, rewards, Machines.arm_layout, (lower, upper))
    plain, *_ = drawn(architecture)
    plain.normalise(states, rewards, Machines.arm_layout)
    space = mr.Box(lower, upper, integer=range(5))
    actions = space.enumerate().astype(float)
    scaled = (actions - [0, 0, 5, 0, 3]) / [4.0, 30, 1, 1, 1]
    state = states[0]
    value = mr.to_action_value(plain, 5, state_dim=11)
    expected = value.values(np.tile(state, (len(actions), 1)), scaled)
    with torch.no_grad():
        tiled = torch.from_numpy(state).float().repeat(len(actions), 1)
        q = network.q(tiled, torch.from_numpy(actions).float())
    np.testing.assert_allclose(q, expected, rtol=1e-4, atol=1e-3)
    network.to_onnx(tmp_path / "q.onnx")
    for q in (network, tmp_path / "q.onnx"):
        best = mr.argmax(q, state, space)
        assert best.status == "optimal"
        assert best.value == pytest.approx(expected.max(), rel=1e-5)


class Doses(gym.Env):
    """Two doses, best near two fifths of the largest."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, largest: float) -> None:
        self.largest = largest
        self.action_space = gym.spaces.Box(0.0, largest, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        parts = np.asarray(action, dtype=np.float64) / self.largest
        self.time += 1
        reward = -float(((parts - 0.4) ** 2).sum())
        state = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return state, reward, False, self.time == 10, {}


def test_the_range_of_the_actions_changes_nothing_that_is_learnt():
    config = replace(SHORT, episodes=1)
    agents = [DQNAgent(Doses(largest), config, seed=0).train() for largest in (1.0, 2.0**10)]
    small, large = (agent.network for agent in agents)
    for one, other in zip(small.inner.parameters(), large.inner.parameters(), strict=True):
        assert torch.equal(one, other)
    assert large.action_reach.tolist() == [2.0**10] * 2


def test_weights_of_before_actions_were_scaled_are_read():
    network, states, rewards = drawn("arms")
    network.normalise(states, rewards, Machines.arm_layout, (np.full(5, -1.0), np.full(5, 9.0)))
    old = {name: part for name, part in network.state_dict().items() if "action" not in name}
    assert len(old) == len(network.state_dict()) - 2
    other, *_ = drawn("arms", seed=1)
    other.normalise(states, rewards, Machines.arm_layout, (np.full(5, 0.0), np.full(5, 7.0)))
    other.load_state_dict(old)
    assert other.action_origin.tolist() == [0.0] * 5
    assert other.action_reach.tolist() == [1.0] * 5
    assert torch.equal(other.centre, network.centre)


def test_what_is_constant_but_for_rounding_is_not_blown_up():
    network = NormalisedQNetwork(mr.QNetwork(3, 2))
    states = np.tile([0.1, 1e6 + 0.1, 1e-42], (1000, 1))
    assert states.std(axis=0).all()  # of rounding
    network.normalise(states, np.full(1000, -0.1))
    assert network.spread.tolist() == [1.0, 1.0, 1.0]
    assert network.centre.tolist() == pytest.approx([0.1, 1e6 + 0.1, 0.0])
    assert network.unit == pytest.approx(0.1)
    network.normalise(states, np.zeros(1000))
    assert network.unit == 1.0
    states[:, 1] += np.arange(1000) % 2
    network.normalise(states, 1e5 + np.arange(1000) % 2)  # little, but float32 has it
    assert network.spread.tolist() == [1.0, 0.5, 1.0]
    assert network.unit == 0.5


def test_a_soft_target_comes_to_be_the_network_whose_weights_are_used():
    config = replace(SHORT, target_update="soft", tau=1.0, episodes=1)
    agent = DQNAgent(Machines(), config, seed=0).train()
    agent.use(DQNAgent(Machines(unit=8.0), config, seed=1).train().network.state_dict())
    agent.learner.update_target(1, agent.rng, 0.0)
    assert agent.learner.target.unit == agent.network.unit


def test_a_network_of_ones_own_keeps_its_units():
    first = DQNAgent(Machines(), SHORT, seed=0).train().network
    before = [first.centre.clone(), first.spread.clone(), first.unit]
    again = DQNAgent(Machines(unit=8.0), SHORT, network=first, seed=1).train()
    assert again.network is first
    assert torch.equal(first.centre, before[0])
    assert torch.equal(first.spread, before[1])
    assert first.unit == before[2]


@pytest.mark.parametrize("kind", [NormalisedQNetwork, lambda module: Critics([module])])
def test_modules_of_ones_own_have_to_be_wrapped(kind):
    module = torch.nn.Linear(5, 1)
    with pytest.raises(ValueError, match="got Linear: wrap"):
        kind(module)
    state, action = torch.rand(4, 2), torch.ones(4, 3)
    expected = module(torch.cat([action, state], dim=1))[:, 0]
    wrapped = kind(ModuleValue(module, 2, 3))
    assert torch.allclose(wrapped.q(state, action), expected)


def test_what_cannot_be_normalised_by_is_refused():
    network = NormalisedQNetwork(mr.QNetwork(3, 2))
    with pytest.raises(ValueError, match="finite"):
        network.normalise([[1.0, np.nan, 0.0]], [1.0])
    for states, rewards in (([[1.0, 2.0]], [1.0]), (np.ones((2, 3)), [1.0]), ([], [])):
        with pytest.raises(ValueError, match=r"shape \(samples, 3\)"):
            network.normalise(states, rewards)
    for bounds in (([0.0], [1.0]), ([0.0, -np.inf], [1.0, 1.0])):
        with pytest.raises(ValueError, match=r"bounds must be two finite arrays of shape \(2,\)"):
            network.normalise(np.ones((2, 3)), [1.0, 2.0], bounds=bounds)
    assert network.unit == 1.0  # nothing was taken over


@pytest.mark.parametrize("reduce", ["min", "mean"])
@pytest.mark.parametrize("architecture", ["concat", "arms"])
def test_several_critics_are_one_network_to_the_argmax(architecture, reduce):
    config = replace(
        SHORT, architecture=architecture, critics=3, critics_reduce=reduce, normalise=False
    )
    network = DQNAgent(Machines(), config).network
    state = np.random.default_rng(0).normal(size=11)
    every = SPACE.enumerate()
    rows = torch.from_numpy(np.tile(state, (len(every), 1))).float()
    with torch.no_grad():
        values = [member.q(rows, torch.from_numpy(every)).numpy() for member in network.members]
    expected = getattr(np, reduce)(values, axis=0).max()
    assert mr.argmax(network, state, SPACE).value == pytest.approx(expected, abs=1e-5)


def test_a_training_without_data_says_that_nothing_is_normalised():
    config = replace(SHORT, episodes=1, random_steps=0, pretrain_epochs=0)
    with pytest.warns(UserWarning, match=r"not normalised.*Set random_steps, such as 1000") as told:
        DQNAgent(Machines(), config, seed=0).train()
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DQNAgent(Machines(), replace(config, normalise=False), seed=0).train()
        DQNAgent(Machines(), replace(config, random_steps=10), seed=0).train()


def test_every_critic_learns_by_itself():
    agent = DQNAgent(Machines(), replace(SHORT, critics=2))
    before = [p.clone() for p in agent.network.parameters()]
    agent.train()
    moved = [not torch.equal(p, q) for p, q in zip(before, agent.network.parameters(), strict=True)]
    assert all(moved)
    first, second = agent.network.inner.members
    assert not torch.equal(first.value.weight, second.value.weight)


def test_a_resumed_run_has_the_same_weights(tmp_path):
    config = replace(SHORT, critics=2)
    whole = DQNAgent(Machines(), config, seed=1).train()
    DQNAgent(Machines(), config, seed=1).learn(53, checkpoint=tmp_path / "run.pt")
    resumed = DQNAgent(Machines(), config, seed=1).train(checkpoint=tmp_path / "run.pt")
    own, other = (agent.network.state_dict() for agent in (whole, resumed))
    assert all(torch.equal(own[name], other[name]) for name in own)
    loaded = DQNAgent.load(tmp_path / "run.pt", Machines())
    state, _ = Machines().reset(seed=0)
    np.testing.assert_array_equal(loaded.act(state), whole.act(state))


def test_arms_are_taken_from_the_environment():
    network = DQNAgent(Machines(), replace(SHORT, normalise=False)).network
    assert isinstance(network, mr.ArmQNetwork)
    assert (network.arm_features, network.shared_features) == (2, 1)
    plain = DQNAgent(make_bandit("multiple_interventions", 6, 2, seed=0), SHORT).network
    assert isinstance(plain, NormalisedQNetwork)
    assert (plain.inner.arm_features, plain.inner.shared_features) == (0, 6)
    published = DQNAgent(Machines(), DQNConfig.paper(random_steps=5)).network
    assert isinstance(published, mr.QNetwork)


def test_arms_that_do_not_fit_are_refused():
    class Wrong(Machines):
        arm_layout = Arms(5, arm_features=2)

    with pytest.raises(ValueError, match="arms have 10 state features and 5 actions"):
        DQNAgent(Wrong(), SHORT)
    Wrong.arm_layout = {"arms": 5}
    with pytest.raises(ValueError, match=r"must be a milp_rl.*got dict: {'arms': 5}"):
        DQNAgent(Wrong(), SHORT)
    env = make_bandit("multiple_interventions", 6, 2, seed=0)
    with pytest.raises(ValueError, match="needs arms that have features"):
        DQNAgent(env, replace(SHORT, architecture="equivariant"))
    with pytest.raises(ValueError, match="same numbers"):
        Critics([mr.QNetwork(3, 4), mr.QNetwork(4, 4)])
    with pytest.raises(ValueError, match="'min' or 'mean', got 'max'"):
        Critics([mr.QNetwork(3, 4)], "max")


@pytest.mark.parametrize("layout", ["arm", "feature"])
def test_a_normalised_network_goes_over_to_more_arms(layout):
    """An arm beside copies of itself is worth what it was: the mean of the others is the same."""
    generator = torch.Generator().manual_seed(3)
    inner = mr.ArmQNetwork(
        3, 2, 1, layout=layout, context="mean", identity=False, generator=generator
    )
    arms, rng = Arms(3, 2, 1, layout=layout), np.random.default_rng(0)
    network = NormalisedQNetwork(inner)
    states, rewards = rng.normal(5, [3, 3, 3, 3, 3, 3, 1], (50, 7)), rng.normal(size=50) * 9
    network.normalise(states, rewards, arms, (np.full(3, -1.0), np.full(3, 3.0)))
    features, shared = rng.normal(5, 3, (3, 2)), [0.4]

    def value(net, rows, action):
        own = rows.ravel() if layout == "arm" else rows.T.ravel()
        state = torch.tensor(np.append(own, shared)[None], dtype=torch.float32)
        with torch.no_grad():
            return float(net.q(state, torch.tensor([action])))

    found = value(network.for_arms(6), np.tile(features, (2, 1)), [0, 1, 1, 0, 0, 0])
    assert found == pytest.approx(value(network, features, [0, 1, 1]), rel=1e-4)
    assert network.for_arms(6).unit == network.unit != 1.0
    assert network.for_arms(6).action_reach.tolist() == [3.0] * 6
    network.normalise(states, rewards, arms, (np.zeros(3), np.array([1.0, 1.0, 2.0])))
    with pytest.raises(ValueError, match="normalised for each arm by itself"):
        network.for_arms(6)


def test_a_network_that_knows_its_arms_does_not_go_over_to_others():
    with pytest.raises(ValueError, match="only a network with context='mean'"):
        NormalisedQNetwork(mr.ArmQNetwork(3, 1)).for_arms(4)
    with pytest.raises(ValueError, match="not QNetwork, has for_arms"):
        NormalisedQNetwork(mr.QNetwork(3, 3)).for_arms(4)
    equivariant = mr.ArmQNetwork(3, 1, context="mean", identity=False)
    network = NormalisedQNetwork(equivariant)
    network.normalise(np.random.default_rng(0).normal(0, [1, 2, 3], (9, 3)), np.arange(9.0))
    with pytest.raises(ValueError, match="each arm by itself"):
        network.for_arms(4)


def test_networks_that_are_not_trained_as_they_were_meant_are_refused():
    one = mr.QNetwork(11, 5, (6,))
    with pytest.raises(ValueError, match=r"critics=2 networks .* network=milp_rl.dqn.Critics"):
        DQNAgent(Machines(), replace(SHORT, critics=2), network=one)
    two = Critics([one, mr.QNetwork(11, 5, (6,))])
    assert len(DQNAgent(Machines(), replace(SHORT, critics=2), network=two).network.members) == 2
    with pytest.raises(ValueError, match=r"the class QNetwork; make one: QNetwork\(\.\.\.\)"):
        DQNAgent(Machines(), SHORT, network=mr.QNetwork)
    with pytest.raises(ValueError, match=r"got Ensemble; milp_rl.dqn.Critics trains several"):
        DQNAgent(Machines(), SHORT, network=mr.Ensemble((one, one)))


@pytest.mark.parametrize("size", [1e-42, 1e-31])
def test_rewards_that_float32_cannot_tell_apart_are_refused(size):
    network = NormalisedQNetwork(mr.QNetwork(11, 5, (6,)))
    rewards = size * np.array([1.0, -1.0])
    with pytest.raises(ValueError, match="float32 needs 1e-30 at least; give them in larger"):
        network.normalise(np.zeros((2, 11)), rewards)
    network.normalise(np.zeros((2, 11)), 10 * rewards + 1.0)
    assert network.unit > 0
