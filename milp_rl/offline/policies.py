r"""Policies learnt from logged weeks: behaviour cloning, AWR and CQL.

All see a window of a patient's last weeks through a bidirectional LSTM with attention. Advantage-
weighted regression (Peng, Kumar, Zhang and Levine 2019, arXiv 1910.00177) imitates the logged
actions, each with the weight

.. math:: \min(\exp((R - V) / \beta), w_{max}),

R the discounted return that followed, V its prediction from the window, in units of the standard
deviation of R - V; behaviour cloning is AWR with equal weights. Conservative Q-learning (Kumar,
Zhou, Tucker and Levine, NeurIPS 2020) learns Q by temporal differences and presses down the values
of actions that were not taken,

.. math:: \alpha \, E[\log \sum_a \exp Q(s, a) - Q(s, a_{logged})].

The fairness penalty of AWR and behaviour cloning is over demographic groups g, with :math:`s_g` the
mean probability of a level in a group, s everyone's, and :math:`n_g`, n the mean needs:

.. math:: \sum_g (s_g - s)^2 \quad \text{(demographic parity)}, \qquad
          \sum_g (s_g - s \, n_g / n)^2 \quad \text{(shares in proportion to need)}.

Where groups differ in need the two contradict each other: what closes one gap opens the other.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from milp_rl.envs.care_management import FEATURES, SOCIAL_NEED, RewardWeights
from milp_rl.envs.factored_actions import FactoredActionSpace
from milp_rl.formulations.arrays import FloatArray
from milp_rl.offline.care.data import CareData
from milp_rl.offline.losses import conservative_loss

Method = Literal["awr", "bc", "cql"]
Parity = Literal["demographic", "proportional"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolicyConfig:
    """Parameters of :func:`train_policy`.

    Parameters
    ----------
    method
        ``"awr"``, ``"bc"`` (behaviour cloning) or ``"cql"``.
    window
        Weeks seen, at least 1.
    hidden
        Width of the LSTM, in each direction.
    discount
        Discount factor of returns, in [0, 1).
    beta, largest_weight
        AWR's temperature and largest weight.
    conservatism, temperature
        CQL's alpha; its policy is the softmax of Q, in units of its spread over actions, divided by
        the temperature.
    fairness, fairness_factor, fairness_level
        Weight of the fairness penalty, and the level it is about.
    parity, fairness_need
        Which penalty, ``"demographic"`` or ``"proportional"``, and the feature that is need.
    learning_rate, batch_size, epochs, patience
        AdamW's step size; training ends when the validation loss has not fallen for ``patience``
        epochs, and the best weights are kept.
    validation_share
        Share of the patients held out for that.
    rewards
        Weights of the reward.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    method: Method = "awr"
    window: int = 4
    hidden: int = 32
    discount: float = 0.6
    beta: float = 0.4
    largest_weight: float = 20.0
    conservatism: float = 1.0
    temperature: float = 0.5
    fairness: float = 0.0
    fairness_factor: str = "modality"
    fairness_level: str = "Home Visit"
    parity: Parity = "demographic"
    fairness_need: str = "clinical_risk"
    learning_rate: float = 3e-3
    batch_size: int = 1024
    epochs: int = 30
    patience: int = 3
    validation_share: float = 0.15
    rewards: RewardWeights = field(default_factory=RewardWeights)

    def __post_init__(self) -> None:
        if self.method not in ("awr", "bc", "cql"):
            raise ValueError(f"method must be 'awr', 'bc' or 'cql', got {self.method!r}")
        if self.parity not in ("demographic", "proportional"):
            raise ValueError(f"parity must be 'demographic' or 'proportional', got {self.parity!r}")
        if self.fairness_need not in (*FEATURES, SOCIAL_NEED):
            known = ", ".join((*FEATURES, SOCIAL_NEED))
            raise ValueError(f"fairness_need must be one of {known}, got {self.fairness_need!r}")
        for name in ("window", "hidden", "batch_size", "epochs", "patience"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be an integer of at least 1")
        for name in ("beta", "largest_weight", "temperature", "learning_rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("conservatism", "fairness"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be nonnegative, got {getattr(self, name)}")
        if self.method == "cql" and self.fairness:
            raise ValueError(
                f"fairness is a penalty of imitation ('awr', 'bc'), not of 'cql': {self.fairness}"
            )
        for name in ("discount", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


class WindowNetwork(nn.Module):
    """A bidirectional LSTM over weeks, pooled by attention.

    Parameters
    ----------
    n_features, n_outputs
        Number of features per week, and of outputs.
    hidden
        Width in each direction.
    """

    def __init__(self, n_features: int, n_outputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_features, hidden, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * hidden, 1)
        self.head = nn.Sequential(
            nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, n_outputs)
        )

    def forward(self, windows: Tensor, present: Tensor) -> Tensor:
        """Return the outputs, shape (batch, n_outputs).

        Parameters
        ----------
        windows
            Shape (batch, weeks, n_features), the latest week last.
        present
            Which weeks exist, boolean, shape (batch, weeks); the last always does.
        """
        features, _ = self.lstm(windows * present[..., None])
        scores = self.attention(features)[..., 0].masked_fill(~present, -torch.inf)
        pooled = (torch.softmax(scores, dim=1)[..., None] * features).sum(dim=1)
        outputs: Tensor = self.head(pooled)
        return outputs


def make_windows(data: CareData, weeks: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the last weeks before each decision.

    Features are the five, the social needs, and of the week before whether contact succeeded (0.5
    if that is not documented) and whether that is documented.

    Returns
    -------
    tuple of numpy.ndarray
        Shape (N, weeks, 8), the latest last; and which weeks exist, shape (N, weeks).
    """
    contact = data.frame["contact_success"].to_numpy(dtype=np.float64)
    first = data.frame["week"].to_numpy() == 0
    before = np.where(first, np.nan, np.roll(contact, 1))
    known = ~np.isnan(before)
    rows = np.column_stack([data.states, np.where(known, before, 0.5), known]).astype(np.float32)
    week = data.frame["week"].to_numpy()
    lags = np.arange(weeks)[::-1]
    present = week[:, None] >= lags
    index = np.maximum(np.arange(len(rows))[:, None] - lags, 0)
    return rows[index] * present[..., None], present


class WindowPolicy:
    """A trained policy over the valid actions.

    Parameters
    ----------
    network
        Windows to logits (or Q-values).
    config
        How it was trained.
    space
        Its actions.
    """

    def __init__(
        self, network: WindowNetwork, config: PolicyConfig, space: FactoredActionSpace
    ) -> None:
        self.network = network
        self.config = config
        self.space = space

    def outputs(self, data: CareData) -> FloatArray:
        """Return logits, or Q-values of CQL, shape (N, n_actions)."""
        windows, present = make_windows(data, self.config.window)
        device = next(self.network.parameters()).device
        parts = []
        with torch.no_grad():
            for rows in np.array_split(np.arange(len(windows)), max(1, len(windows) // 4096)):
                w, p = (torch.from_numpy(x[rows]).to(device) for x in (windows, present))
                parts.append(self.network(w, p).double().cpu().numpy())
        return np.concatenate(parts)

    def probabilities(self, data: CareData) -> FloatArray:
        """Return the probabilities of the actions before each row, shape (N, n_actions)."""
        outputs = self.outputs(data)
        if self.config.method == "cql":
            spread = outputs.std(axis=1, keepdims=True) + 1e-12
            outputs = (outputs - outputs.mean(axis=1, keepdims=True)) / spread
            outputs = outputs / self.config.temperature
        e = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))


def train_policy(
    data: CareData, config: PolicyConfig | None = None, *, seed: int = 0, device: str | None = None
) -> WindowPolicy:
    """Train a policy on logged weeks.

    Parameters
    ----------
    data
        The weeks.
    config
        Parameters; by default AWR with the defaults.
    seed
        Seed of weights, batches and the patients held out.
    device
        ``"cuda"`` or ``"cpu"``; by default a GPU if there is one.
    """
    c = PolicyConfig() if config is None else config
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    rng = np.random.default_rng([seed, 11])
    patients = data.patients
    n_held = max(1, round(c.validation_share * (int(patients.max()) + 1)))
    held = np.isin(patients, rng.permutation(int(patients.max()) + 1)[:n_held])
    windows, present = make_windows(data, c.window)
    rewards = data.rewards(c.rewards)
    t = _Tensors(
        torch.from_numpy(windows).to(where),
        torch.from_numpy(present).to(where),
        torch.from_numpy(data.actions).to(where),
        torch.from_numpy(_returns(rewards, patients, c.discount)).float().to(where),
        torch.from_numpy(rewards).float().to(where),
        torch.from_numpy(np.unique(data.groups, return_inverse=True)[1]).to(where),
        torch.tensor(data.frame[c.fairness_need].to_numpy(dtype=np.float32)).to(where),
    )
    follows = np.append(patients[1:] == patients[:-1], False)
    fit = _Fit(c, t, np.flatnonzero(~held), np.flatnonzero(held), rng, where, seed)
    if c.method == "cql":
        network = fit.run(data.space.n_actions, _cql_loss(c, t, torch.from_numpy(follows)))
    else:
        weights = torch.ones(len(rewards), device=where)
        if c.method == "awr":
            value = fit.run(1, _value_loss(t))
            with torch.no_grad():
                weights = _advantage_weights(t.returns - _all(value, t)[:, 0], c)
        level = torch.from_numpy(data.space.has_level(c.fairness_factor, c.fairness_level))
        loss = _imitation_loss(c, t, weights, level.to(where))
        network = fit.run(data.space.n_actions, loss)
    return WindowPolicy(network, c, data.space)


@dataclass(frozen=True)
class _Tensors:
    windows: Tensor
    present: Tensor
    actions: Tensor
    returns: Tensor
    rewards: Tensor
    groups: Tensor
    need: Tensor


Loss = Callable[[WindowNetwork, WindowNetwork, Tensor], Tensor]


@dataclass(frozen=True)
class _Fit:
    """Minimises a loss of batches of rows, with early stopping."""

    config: PolicyConfig
    tensors: _Tensors
    train: NDArray[np.intp]
    held: NDArray[np.intp]
    rng: np.random.Generator
    device: torch.device
    seed: int

    def run(self, n_outputs: int, loss: Loss) -> WindowNetwork:
        c = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = WindowNetwork(self.tensors.windows.shape[2], n_outputs, c.hidden)
        network = network.to(self.device)
        target = copy.deepcopy(network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=c.learning_rate)
        held = torch.from_numpy(self.held).to(self.device)
        best, best_weights, waited = np.inf, copy.deepcopy(network.state_dict()), 0
        for epoch in range(c.epochs):
            order = torch.from_numpy(self.rng.permutation(self.train)).to(self.device)
            for rows in torch.split(order, c.batch_size):
                value = loss(network, target, rows)
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
            with torch.no_grad():
                parts = [loss(network, target, rows) for rows in torch.split(held, 4096)]
                found = float(torch.stack(parts).mean())
            target.load_state_dict(network.state_dict())
            log.info("epoch %d: validation loss %.5f", epoch, found)
            waited = 0 if found < best else waited + 1
            if found < best:
                best, best_weights = found, copy.deepcopy(network.state_dict())
            if waited >= c.patience:
                break
        network.load_state_dict(best_weights)
        return network


def _value_loss(t: _Tensors) -> Loss:
    def loss(network: WindowNetwork, _: WindowNetwork, rows: Tensor) -> Tensor:
        values = network(t.windows[rows], t.present[rows])[:, 0]
        return nn.functional.mse_loss(values, t.returns[rows])

    return loss


def _advantage_weights(advantage: Tensor, c: PolicyConfig) -> Tensor:
    """Return AWR's weights, of mean 1, shape (N,)."""
    scaled = advantage / (advantage.std() * c.beta)
    weights = torch.exp(scaled).clamp(max=c.largest_weight)
    return weights / weights.mean()


def _imitation_loss(c: PolicyConfig, t: _Tensors, weights: Tensor, level: Tensor) -> Loss:
    def loss(network: WindowNetwork, _: WindowNetwork, rows: Tensor) -> Tensor:
        logits = network(t.windows[rows], t.present[rows])
        imitation = nn.functional.cross_entropy(logits, t.actions[rows], reduction="none")
        value = (weights[rows] * imitation).mean()
        if c.fairness:
            share = torch.softmax(logits, dim=1)[:, level].sum(dim=1)
            value = value + c.fairness * _unfairness(share, t.groups[rows], t.need[rows], c.parity)
        return value

    return loss


def _unfairness(share: Tensor, groups: Tensor, need: Tensor, parity: Parity) -> Tensor:
    """Return the penalty of shares, shape (batch,)."""
    gaps = []
    for group in torch.unique(groups):
        inside = groups == group
        due = share.mean()
        if parity == "proportional":
            due = due * need[inside].mean() / need.mean()
        gaps.append(share[inside].mean() - due)
    return torch.stack(gaps).square().sum()


def _cql_loss(c: PolicyConfig, t: _Tensors, follows: Tensor) -> Loss:
    follows = follows.to(t.rewards.device)

    def loss(network: WindowNetwork, target: WindowNetwork, rows: Tensor) -> Tensor:
        q = network(t.windows[rows], t.present[rows])
        taken = q.gather(1, t.actions[rows][:, None])[:, 0]
        following = torch.clamp(rows + 1, max=len(t.rewards) - 1)
        with torch.no_grad():
            w, p = t.windows[following], t.present[following]
            best = network(w, p).argmax(dim=1, keepdim=True)  # double Q-learning
            ahead = target(w, p).gather(1, best)[:, 0] * follows[rows]
        error = nn.functional.mse_loss(taken, t.rewards[rows] + c.discount * ahead)
        return error + c.conservatism * conservative_loss(q, taken)

    return loss


def _all(network: WindowNetwork, t: _Tensors) -> Tensor:
    windows, present = torch.split(t.windows, 4096), torch.split(t.present, 4096)
    return torch.cat([network(w, p) for w, p in zip(windows, present, strict=True)])


def _returns(rewards: ArrayLike, patients: NDArray[np.intp], discount: float) -> FloatArray:
    """Return the discounted sum of rewards from each row to the patient's last."""
    returns = np.array(rewards, dtype=np.float64)
    for i in range(len(returns) - 2, -1, -1):
        if patients[i] == patients[i + 1]:
            returns[i] += discount * returns[i + 1]
    return returns
