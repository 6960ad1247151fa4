"""The standard DQN over all combinations: one output of the network for each feasible action."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from milp_rl.dqn.agent import DQNAgent
from milp_rl.dqn.learner import QLearner
from milp_rl.envs.fixed_set import FixedSet
from milp_rl.envs.known_model import StateArray
from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.qnetwork import ActionValue, QNetwork
from milp_rl.solvers.batch import rows_of

_MOST_ACTIONS = 20_000


class CombinationNetwork(ActionValue):
    """A ReLU network of the state with one output for each of the listed actions.

    Parameters
    ----------
    state_dim
        Length of a state.
    actions
        The actions, all different, shape (count, n_actions), zeros and ones.
    hidden
        Widths of the hidden layers.
    generator
        Source of the initial weights.
    """

    def __init__(
        self,
        state_dim: int,
        actions: ActionArray,
        hidden: Sequence[int],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.state_dim, self.action_dim = state_dim, actions.shape[1]
        self.actions = actions
        self._positions = {action.tobytes(): i for i, action in enumerate(actions)}
        # The layers of a Q-network of the state alone, with more than one output.
        layers = list(QNetwork(0, state_dim, hidden, generator=generator).layers)[:-1]
        output = QNetwork(0, hidden[-1], (len(actions),), generator=generator).layers[0]
        self.layers = nn.Sequential(*layers, output)

    def forward(self, states: Tensor) -> Tensor:
        """Return the values of all actions, shape (batch, count)."""
        values: Tensor = self.layers(states)
        return values

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the values of listed actions, shape (batch,)."""
        keys = action.numpy().astype(np.int8)
        index = torch.tensor([self._positions[key.tobytes()] for key in keys])
        values: Tensor = self(state).gather(1, index[:, None])[:, 0]
        return values

    def shift(self, amount: float) -> None:
        """Add ``amount`` to every value."""
        output = self.layers[-1]
        assert isinstance(output, nn.Linear)
        with torch.no_grad():
            output.bias.add_(amount)


class _Largest:
    """The feasible action of largest output."""

    def __init__(self, network: ActionValue) -> None:
        self._network = network

    def update(self, network: ActionValue) -> None:
        """Take over the network."""
        self._network = network

    def choose(
        self,
        states: StateArray,
        starts: Sequence[ActionArray | None],
        gap: float,
        spaces: Sequence[ActionSpace] | None = None,
    ) -> list[ActionArray]:
        """Return an action for each state."""
        network = self._network
        assert isinstance(network, CombinationNetwork)
        with torch.no_grad():
            values = network(torch.from_numpy(states)).numpy()
        if spaces is not None:
            for space, rows in rows_of(spaces).items():
                feasible = space.feasible(network.actions)
                values[rows] = np.where(feasible, values[rows], -np.inf)
        return list(network.actions[values.argmax(axis=1)])


class FlatDQN(DQNAgent):
    """A DQN that knows nothing of what actions are made of; for small feasible sets only.

    It is trained as :class:`~milp_rl.dqn.DQNAgent` is, with the same parameters, of which those of
    the argmax play no part. It can be pretrained on random play (``random_steps``) only, as the
    data of a model has infeasible actions too.

    Raises
    ------
    ValueError
        If there are more than 20,000 feasible actions, the feasible set is another in some state,
        pretraining has no random steps, or a network is given.
    """

    _kind_of_set = FixedSet  # the actions are listed once

    def _new_learner(self) -> QLearner:
        c = self.config
        if self._own is not None:
            raise ValueError("this DQN makes its own network, with an output per feasible action")
        if c.pretrain_epochs and not self.random_steps:
            raise ValueError("this DQN pretrains on random play only: set random_steps")
        actions = self.space.enumerate(_MOST_ACTIONS)
        network = CombinationNetwork(
            self.state_dim, actions, c.hidden, generator=torch.Generator().manual_seed(self.seed)
        )
        return QLearner(network, self._feasible, c, _Largest)
