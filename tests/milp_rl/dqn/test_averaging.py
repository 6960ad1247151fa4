"""The policy of averaged weights, beside the network that learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from milp_rl.dqn import Callback, DQNAgent, DQNConfig, EvaluationCallback
from milp_rl.envs import make_bandit
from milp_rl.qnetwork import QNetwork

SMALL = DQNConfig(
    encoder=(8,), head=(6,), batch_size=8, pretrain_epochs=2, pretrain_states=20, pretrain_actions=2
)


def bandit():
    return make_bandit("budget", 6, 2, seed=0)


def flat(network) -> np.ndarray:
    return np.concatenate([p.detach().double().numpy().ravel() for p in network.parameters()])


class Trace(Callback):
    """Keeps the weights that learn after every step."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []

    def on_step(self, agent: DQNAgent) -> None:
        self.weights.append(flat(agent.learner.network))


def trained(steps: int = 60, **changes):
    agent, trace = DQNAgent(bandit(), replace(SMALL, **changes), seed=0), Trace()
    return agent.learn(steps, callbacks=[trace]), np.array(trace.weights)


def test_the_first_averages_weigh_later_steps_more():
    # A rate of 4 / (n + 3) gives step k of n the weight 4 k (k + 1) (k + 2) / (n ... (n + 3)).
    agent, weights = trained()
    k, n = np.arange(1, len(weights) + 1), len(weights)
    shares = 4 * k * (k + 1) * (k + 2) / (n * (n + 1) * (n + 2) * (n + 3))
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(flat(agent.network), shares @ weights, rtol=1e-4, atol=1e-5)


def test_later_averages_decay():
    agent, weights = trained(average_decay=0.9)
    first = 37  # the last step with a rate of at least 0.1
    k = np.arange(1, first + 1)
    begun = 4 * k * (k + 1) * (k + 2) / (first * (first + 1) * (first + 2) * (first + 3))
    mean = begun @ weights[:first]
    for row in weights[first:]:
        mean = 0.9 * mean + 0.1 * row
    np.testing.assert_allclose(flat(agent.network), mean, rtol=1e-4, atol=1e-5)


def test_without_averages_all_is_by_the_last_weights():
    plain, last = trained(average_decay=0.0)
    np.testing.assert_array_equal(flat(plain.network), last[-1])
    assert plain.network is plain.learner.network
    assert plain.learner.averaged_greedy is plain.learner.greedy


def test_actions_are_those_of_the_averages_as_they_are_now():
    agent = DQNAgent(bandit(), replace(SMALL, average_decay=0.5), seed=0).learn(30)
    other = DQNAgent(bandit(), SMALL, seed=5)
    states = np.random.default_rng(0).integers(0, 4, (30, 6)).astype(np.float32)
    listed = agent.space.enumerate()

    def check() -> None:
        for state in states:
            several = torch.from_numpy(np.tile(state, (len(listed), 1)))
            values = agent.network.q(several, torch.from_numpy(listed).float())
            np.testing.assert_array_equal(agent.act(state), listed[int(values.argmax())])

    check()
    agent.learner.network.load_state_dict(other.network.state_dict())
    check()  # what learns plays no part
    before = [agent.act(state) for state in states]
    for _ in range(20):
        agent.learner.update_average()
    check()
    assert any((agent.act(s) != a).any() for s, a in zip(states, before, strict=True))


def test_evaluations_and_files_are_those_of_the_averages(tmp_path):
    evaluation = EvaluationCallback(bandit(), every=60, episodes=3)
    agent = DQNAgent(bandit(), SMALL, seed=0).learn(60, callbacks=[evaluation])
    for name, value in evaluation.best_weights().items():
        assert torch.equal(value, agent.network.state_dict()[name])
    agent.save(tmp_path / "agent.pt")
    again = DQNAgent.load(tmp_path / "agent.pt", bandit())
    np.testing.assert_array_equal(flat(again.network), flat(agent.network))
    np.testing.assert_array_equal(flat(again.learner.network), flat(agent.learner.network))
    further = [a.learn(90) for a in (agent, again)]
    np.testing.assert_array_equal(*(flat(a.network) for a in further))


def test_a_network_of_ones_own_takes_up_the_averages():
    own = QNetwork(6, 6, (8,), generator=torch.Generator().manual_seed(0))
    agent = DQNAgent(bandit(), SMALL, network=own, seed=0)
    trace = Trace()
    agent.learn(40, callbacks=[trace])
    assert agent.network is own
    assert (flat(own) != trace.weights[-1]).any()
    assert (flat(own) != trace.weights[0]).any()


def test_training_goes_on_from_weights_that_are_put_in():
    other, _ = trained(30)
    agent, _ = trained(30, average_decay=0.99)
    agent.use(other.network.state_dict())
    for network in (agent.network, agent.learner.network):
        np.testing.assert_array_equal(flat(network), flat(other.network))
    trace = Trace()
    agent.learn(31, callbacks=[trace])
    np.testing.assert_allclose(flat(agent.network), trace.weights[0], rtol=1e-6)
