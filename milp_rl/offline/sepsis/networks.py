"""Networks of the sepsis learners, and the policies that they make."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from milp_rl.formulations.arrays import FloatArray


class HeadsNetwork(nn.Module):
    """A trunk with heads for Q, V, the next blood pressure and the next lactate.

    Parameters
    ----------
    n_features, n_actions
        Sizes.
    hidden
        Widths of the trunk.
    """

    def __init__(self, n_features: int, n_actions: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.trunk = _trunk(n_features, hidden)
        self.q = nn.Linear(hidden[-1], n_actions)
        self.v = nn.Linear(hidden[-1], 1)
        self.tasks = nn.Linear(hidden[-1], 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Q, shape (batch, n_actions), V, shape (batch,), and both tasks, (batch, 2)."""
        h = self.trunk(x)
        return self.q(h), self.v(h)[:, 0], self.tasks(h)


class SeparateNetwork(nn.Module):
    """Networks of their own for Q, V and the logits of a policy, as Kostrikov et al. have them.

    Parameters
    ----------
    n_features, n_actions, hidden
        As for :class:`HeadsNetwork`; each network has such a trunk.
    """

    def __init__(self, n_features: int, n_actions: int, hidden: tuple[int, ...]) -> None:
        super().__init__()

        def network(outputs: int) -> nn.Sequential:
            return nn.Sequential(_trunk(n_features, hidden), nn.Linear(hidden[-1], outputs))

        self.q, self.v, self.policy = network(n_actions), network(1), network(n_actions)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Q and the policy's logits, shape (batch, n_actions), and V, shape (batch,)."""
        return self.q(x), self.v(x)[:, 0], self.policy(x)


def _trunk(n_features: int, hidden: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((n_features, *hidden)):
        layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU()]
    return nn.Sequential(*layers)


class QPolicy:
    """A trained Q-function of the 41 features, with its standardization.

    Called with features, it returns what its decisions maximise, shape (n, 9): Q, or the logits of
    a policy that was learnt beside it.

    Parameters
    ----------
    network
        The network, on standardized features.
    mean, scale
        Mean and scale of the features, shape (41,).
    dueling
        Whether Q is V plus the centred advantages that the Q-head gives.

    Attributes
    ----------
    course
        What was seen of it in each epoch of its training: losses, and every so often more.
    """

    def __init__(
        self,
        network: HeadsNetwork | SeparateNetwork,
        mean: FloatArray,
        scale: FloatArray,
        *,
        dueling: bool,
    ) -> None:
        self.network = network
        self.mean = mean
        self.scale = scale
        self.dueling = dueling
        self.course: list[dict[str, float]] = []

    def __call__(self, features: FloatArray) -> FloatArray:
        """Return the preferences, shape (n, 9)."""
        if isinstance(self.network, HeadsNetwork):
            return self.q_values(features)
        return self._outputs(features)[2]

    def q_values(self, features: FloatArray) -> FloatArray:
        """Return Q, shape (n, 9)."""
        q, v, _ = self._outputs(features)
        return v[:, None] + q - q.mean(axis=1, keepdims=True) if self.dueling else q

    def _outputs(self, features: FloatArray) -> list[FloatArray]:
        x = torch.from_numpy((np.asarray(features) - self.mean) / self.scale).float()
        device = next(self.network.parameters()).device
        with torch.no_grad():
            return [output.double().cpu().numpy() for output in self.network(x.to(device))]
