r"""Networks that are any function of the state, and linear in the action.

.. math:: Q(s, a) = V(s) + \sum_j a_j u_j(s)

With V free it is the factored value of Tang, Makar, Sjoding, Doshi-Velez and Wiens, "Leveraging
factored action spaces for efficient offline reinforcement learning in healthcare" (NeurIPS 2022),
for binary factors. With :math:`V = -\sum_j \log(1 + e^{u_j})` it is the log-likelihood of an action
whose entries are independent given the state, of log-odds u: a behaviour model
(:class:`BernoulliPolicy`). Their best actions are linear programs over the feasible set, exact like
any other argmax.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, silu, softplus

from milp_rl.dqn.normalised import deviations
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks
from milp_rl.formulations.networks.action_value import ActionValue as Value
from milp_rl.formulations.networks.network import INPUT
from milp_rl.qnetwork import ActionValue, checked_dimension, new_linear


class StateNetwork(nn.Module):
    """Functions of the state: standardized features, hidden layers with SiLU, linear outputs.

    Parameters
    ----------
    state_dim, outputs
        Number of features, at least 0, and of outputs, at least 1.
    hidden
        Widths of the hidden layers.
    generator
        Source of the initial weights, on the CPU; torch's global one if None.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        state_dim: int,
        outputs: int,
        hidden: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = [state_dim, *(checked_dimension("hidden", width, 1) for width in hidden)]
        pairs = zip(widths, [*widths[1:], outputs], strict=True)
        self.layers = nn.ModuleList(new_linear(a, b, generator) for a, b in pairs)
        self.register_buffer("mean", torch.zeros(state_dim))
        self.register_buffer("scale", torch.ones(state_dim))

    def standardize(self, states: FloatArray) -> None:
        """Take over mean and scale of the features of states, shape (n, state_dim)."""
        scale = deviations(states)
        self.mean.copy_(torch.from_numpy(states.mean(axis=0)))
        self.scale.copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))

    def forward(self, state: Tensor) -> Tensor:
        """Return the outputs, shape (batch, outputs)."""
        h = (state - self.mean) / self.scale
        for layer in self.layers[:-1]:
            h = silu(layer(h))
        y: Tensor = self.layers[-1](h)
        return y


class Additive(ActionValue):
    """A value that is linear in the action at every state; the base of both."""

    _levels: ClassVar[int] = 0  # outputs of the body beside one for each action

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.state_dim = checked_dimension("state_dim", state_dim, 0)
        self.action_dim = checked_dimension("action_dim", action_dim, 1)
        outputs = action_dim + self._levels
        self.body = StateNetwork(state_dim, outputs, hidden, generator=generator)

    def parts(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return V, shape (batch,), and u, shape (batch, n_actions), of states."""
        raise NotImplementedError

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Evaluate batches of both, shape (batch,)."""
        level, slopes = self.parts(state)
        return level + (slopes * action).sum(dim=-1)

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Return Q(state, action), shape (batch,), float32."""
        values: Tensor = self(state.float(), action.float())
        return values

    def action_value(self) -> Value:
        """Return its networks in the action, in float64, with the weights as they are now."""
        return _AdditiveValue(copy.deepcopy(self).double())


class _AdditiveValue(Value):
    def __init__(self, network: Additive) -> None:
        self.n_actions, self.state_dim = network.action_dim, network.state_dim
        self._network = network

    def at_states(self, states: FloatArray) -> ActionNetworks:
        with torch.no_grad():
            level, slopes = self._network.parts(torch.from_numpy(np.ascontiguousarray(states)))
        layer = ActionLayer(((INPUT, slopes[:, None].numpy()),), level[:, None].numpy())
        return ActionNetworks((layer,), self.n_actions, len(states))


class AdditiveQNetwork(Additive):
    """A value with one term for each action variable.

    Parameters
    ----------
    state_dim, action_dim
        Number of state features, at least 0, and of action variables, at least 1.
    hidden
        Widths of the hidden layers, which all terms share.
    generator
        Source of the initial weights, on the CPU; torch's global one if None.

    Examples
    --------
    >>> import torch, milp_rl as mr
    >>> network = AdditiveQNetwork(3, 5, generator=torch.Generator().manual_seed(0))
    >>> mr.argmax(network, [0.1, 0.2, 0.3], mr.BudgetTopK(5, 2)).status
    'optimal'
    """

    _levels = 1  # V

    def parts(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return V and u."""
        outputs = self.body(state)
        return outputs[:, -1], outputs[:, :-1]

    def shift(self, amount: float) -> None:
        """Add ``amount`` to every value."""
        last = self.body.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias[-1] += amount


class BernoulliPolicy(Additive):
    r"""Entries of an action that are independent given the state, and their log-likelihood.

    .. math:: \log \pi(a | s) = \sum_j a_j u_j(s) - \log(1 + e^{u_j(s)})

    Of a feasible set that leaves actions out, it is the likelihood before that; where it is
    largest, and which actions have at least some share of that, does not depend on it.

    Parameters
    ----------
    state_dim, action_dim
        Number of state features, at least 0, and of binary action variables, at least 1.
    hidden
        Widths of the hidden layers.
    generator
        Source of the initial weights, on the CPU; torch's global one if None.
    """

    def parts(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the constant and the log-odds."""
        odds = self.body(state)
        return -softplus(odds).sum(dim=-1), odds

    def log_odds(self, states: FloatArray) -> FloatArray:
        """Return the log-odds of each entry, shape (n, n_actions)."""
        with torch.no_grad():
            return np.asarray(self.body(torch.as_tensor(states).float()).double().numpy())

    def shift(self, amount: float) -> None:
        """Refuse: a likelihood has its level."""
        raise ValueError("a log-likelihood cannot be shifted")


def fit_policy(
    states: FloatArray,
    actions: FloatArray,
    *,
    weights: FloatArray | None = None,
    hidden: Sequence[int] = (64, 64),
    epochs: int = 50,
    patience: int = 5,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    held_out: float = 0.1,
    seed: int = 0,
) -> BernoulliPolicy:
    r"""Fit a factored policy to actions: maximum likelihood, or weighted regression.

    Descends :math:`-w \log \pi(a | s)`; with :math:`w = e^{\beta (Q - V)}` that is the extraction
    of implicit Q-learning (Kostrikov, Nair and Levine, ICLR 2022, equation 7).

    Parameters
    ----------
    states, actions
        Shapes (n, state_dim) and (n, n_actions), actions binary.
    weights
        Shape (n,), not negative; by default all one.
    hidden
        Widths of the hidden layers.
    epochs, patience
        Passes at most, and how many without a better loss on what is held out end training; the
        best weights are kept.
    learning_rate, batch_size
        Adam's step size, rows in one update.
    held_out
        Share of the rows held out, in [0, 1).
    seed
        Seed of weights and batches.

    Raises
    ------
    ValueError
        If an action is not binary.
    """
    if not np.isin(actions, (0.0, 1.0)).all():
        raise ValueError("behaviour models are of binary actions; these have other values")
    generator = torch.Generator().manual_seed(seed)
    policy = BernoulliPolicy(states.shape[1], actions.shape[1], hidden, generator=generator)
    policy.body.standardize(states)
    x, wanted = torch.from_numpy(states).float(), torch.from_numpy(actions).float()
    each = torch.ones(len(x)) if weights is None else torch.from_numpy(weights).float()
    rng = np.random.default_rng([seed, 51])
    order = torch.from_numpy(rng.permutation(len(x)))
    count = min(int(held_out * len(x)), len(x) - 1)
    held, own = order[:count], order[count:]

    def loss(rows: Tensor) -> Tensor:
        found = binary_cross_entropy_with_logits(
            policy.body(x[rows]), wanted[rows], reduction="none"
        ).sum(dim=1)
        return (each[rows] * found).mean()

    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    best, kept, waited = np.inf, copy.deepcopy(policy.state_dict()), 0
    for _ in range(epochs):
        for rows in torch.split(own[torch.from_numpy(rng.permutation(len(own)))], batch_size):
            optimizer.zero_grad()
            loss(rows).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if not count:
            continue
        with torch.no_grad():
            found = float(loss(held))
        waited = 0 if found < best else waited + 1
        if found < best:
            best, kept = found, copy.deepcopy(policy.state_dict())
        if waited == patience:
            break
    if count:
        policy.load_state_dict(kept)
    return policy
