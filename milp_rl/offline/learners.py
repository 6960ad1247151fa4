r"""Q-learning from logged transitions: the page of the learner, with a buffer that is full.

All are :class:`milp_rl.dqn.learner.QLearner`, whose targets and updates they keep but for one term.
Conservative Q-learning (Kumar, Zhou, Tucker and Levine, NeurIPS 2020) also descends

.. math:: \alpha\, E\big[\max_{a \in A(s)} Q(s, a) - Q(s, a_{logged})\big] ,

whose gradient is that of Q at the maximiser. Implicit Q-learning (Kostrikov, Nair and Levine, ICLR
2022) learns V beside Q and has no maximum in its targets,

.. math:: u = Q_{target}(s, a) - V(s), \qquad \min_V E\big[ |\tau - 1[u < 0]|\, u^2 \big], \qquad
          Q(s, a) \to r + \gamma V(s') .
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from milp_rl.dqn.choosers import Chooser
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.learner import QLearner
from milp_rl.dqn.replay import Batch
from milp_rl.envs.state_sets import StateSets
from milp_rl.envs.transitions import Transitions
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.offline.additive import StateNetwork
from milp_rl.offline.config import OfflineConfig
from milp_rl.offline.losses import conservative_loss, expectile_loss
from milp_rl.qnetwork import ActionValue

_LARGEST_WEIGHT = 100.0
_POOL = 1000  # random actions of one set
_AT_ONCE = 4096  # logged decisions whose values are computed together, so that long logs fit


class OfflineLearner(QLearner):
    """Fitted Q-learning: the targets of DQN, on transitions that are there from the beginning.

    Parameters
    ----------
    network
        The Q-network that learns.
    feasible
        The feasible sets, possibly cut down to a behaviour's support.
    config
        Parameters.
    dqn
        Discount, optimizer, targets and solver; what is about playing and replay is not used.
    chooser
        Makes what finds the best actions of a network.
    transitions
        What is learnt from.
    rng
        Source of randomness.
    """

    def __init__(
        self,
        network: ActionValue,
        feasible: StateSets,
        config: OfflineConfig,
        dqn: DQNConfig,
        chooser: Callable[[ActionValue], Chooser],
        transitions: Transitions,
        rng: np.random.Generator,
    ) -> None:
        self.offline = config
        self.transitions = transitions
        # All transitions are drawn alike: expectiles and penalties are means over the log.
        own = replace(dqn, buffer_size=len(transitions), priority_exponent=0.0, average_decay=0.0)
        super().__init__(network, feasible, own, chooser)
        t = transitions
        assert t.terminated is not None
        self._bootstrap = np.where(t.terminated, 0.0, dqn.discount)
        self.replay.add(t.states, t.actions, t.rewards, t.next_states, self._bootstrap)
        self.rng = rng

    def run(self) -> list[float]:
        """Take the updates; return their losses."""
        self.shift_level(self.level - float(self.logged_values().mean()))
        self.begin()
        losses = []
        for step in range(1, self.offline.updates + 1):
            losses.append(self.update(self.rng, self.config.learning_rate, self.config.gap))
            self.update_target(step, self.rng, self.config.gap)
        return losses

    def logged_values(self) -> FloatArray:
        """Return Q of the logged decisions, shape (n,)."""
        t = self.transitions
        rows = torch.split(_tensor(t.states), _AT_ONCE), torch.split(_tensor(t.actions), _AT_ONCE)
        with torch.no_grad():
            values = [self.network.q(*pair) for pair in zip(*rows, strict=True)]
        return np.asarray(torch.cat(values).double().numpy())

    @cached_property
    def level(self) -> float:
        """Where values begin: that of a single state with the mean reward and share of ends."""
        t = self.transitions
        return float(t.rewards.mean() / (1 - self._bootstrap.mean()))


class ConservativeLearner(OfflineLearner):
    """Conservative Q-learning, on the exact maximum, a delayed one, or random actions."""

    def _values(
        self, states: Tensor, actions: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor | float]:
        """Return Q(s, a) and alpha times what the pressed values are above it, in the unit."""
        values = self.network.each(states, actions)
        taken = (values[0] if len(values) == 1 else self.network.q(states, actions)) / self.unit
        pressed = self.pressed_values(states, rng) / self.unit
        if self.offline.pressed == "delayed":  # else the value pressed would fall without end,
            pressed = torch.maximum(pressed, taken[:, None])
        elif self.offline.pressed == "sampled":  # and so would these
            pressed = torch.cat([pressed, taken[:, None]], dim=1)
            pressed = pressed - math.log(1 + self.offline.samples)
        return values, self.offline.conservatism * conservative_loss(pressed, taken)

    def pressed_values(self, states: Tensor, rng: np.random.Generator) -> Tensor:
        """Return Q of the actions that are pressed down, shape (batch, 1 or samples)."""
        if self.offline.pressed == "sampled":
            return self._sampled_values(states, rng)
        exact = self.offline.pressed == "maximum"
        argmax = self.greedy if exact else self.target_greedy
        best = argmax.actions(states.numpy(), self.config.gap)
        return self.network.q(states, _tensor(best))[:, None]

    def _sampled_values(self, states: Tensor, rng: np.random.Generator) -> Tensor:
        """Return Q of random feasible actions."""
        count, spaces = self.offline.samples, self.feasible.in_states(states.numpy())
        if spaces is None:
            pool = self._drawn
            drawn = pool[rng.integers(len(pool), size=count * len(states))]
        else:
            drawn = np.concatenate([space.sample(rng, count) for space in spaces])
        values = self.network.q(states.repeat_interleave(count, dim=0), _tensor(drawn))
        return values.reshape(len(states), count)

    @cached_property
    def _drawn(self) -> ActionArray:
        """Random actions of the set of all states, drawn once: some spaces draw slowly."""
        return self.feasible.space.sample(self.rng, _POOL)


class ImplicitLearner(OfflineLearner):
    """Implicit Q-learning.

    Attributes
    ----------
    value
        V, the expectile of Q over logged actions.
    """

    value: StateNetwork

    def run(self) -> list[float]:
        """Take the updates; return their losses."""
        seed = int(self.rng.integers(2**31))
        generator = torch.Generator().manual_seed(seed)
        self.value = StateNetwork(
            self.network.state_dim, 1, self.offline.value_hidden, generator=generator
        )
        self.value.standardize(self.transitions.states)
        self._value_optimizer = torch.optim.Adam(
            self.value.parameters(), lr=self.offline.value_learning_rate
        )
        return super().run()

    def v(self, states: Tensor) -> Tensor:
        """Return V(s), shape (batch,)."""
        outputs: Tensor = self.value(states)
        return self.unit * outputs[:, 0] + self.level

    def targets(self, batch: Batch, gap: float, values: FloatArray | None = None) -> Tensor:
        """Return r + gamma V(s'), shape (batch,)."""
        with torch.no_grad():
            following = self.v(torch.from_numpy(batch.next_states))
        return torch.from_numpy(batch.rewards) + torch.from_numpy(batch.bootstrap) * following

    def _values(
        self, states: Tensor, actions: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor | float]:
        """Return Q(s, a), after a step of V towards the expectile of the target network's."""
        with torch.no_grad():
            reached = self.target.q(states, actions)
        self._value_optimizer.zero_grad()
        errors = (reached - self.v(states)) / self.unit
        loss = expectile_loss(errors, self.offline.expectile)
        loss.backward()  # type: ignore[no-untyped-call]
        self._value_optimizer.step()
        return super()._values(states, actions, rng)

    def weights(self) -> FloatArray:
        r"""Return the weights of logged actions in the regression, shape (n,).

        :math:`\min(e^{\beta (Q(s, a) - V(s))}, 100)`, with the difference in units of its standard
        deviation.
        """
        with torch.no_grad():
            v = self.v(_tensor(self.transitions.states)).double().numpy()
        found = self.logged_values() - v
        scaled = self.offline.inverse_temperature * found / max(float(found.std()), 1e-8)
        return np.asarray(np.exp(np.minimum(scaled, np.log(_LARGEST_WEIGHT))))


def _tensor(values: object) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
