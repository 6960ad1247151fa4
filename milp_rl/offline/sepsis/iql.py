r"""Implicit Q-learning with multi-task heads, and Q-learning baselines, from logged decisions.

Kostrikov, Nair and Levine, "Offline reinforcement learning with implicit Q-learning" (ICLR 2022):
V is the tau-expectile of Q over logged actions, Q is fitted to r + gamma V(s'), and no action that
was not logged is ever valued by a maximum. One trunk carries heads for Q, V and, as further tasks,
the next blood pressure and lactate:

.. math:: L = L_Q + L_V + 0.1 L_{BP} + 0.1 L_{lactate} - 0.3 H(\mathrm{softmax}(Q / 3)).

Double DQN and dueling CQL have the same trunk.
"""

from __future__ import annotations

import copy
import csv
import io
import itertools
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from milp_rl.envs.sepsis import ACTIONS, FEATURES
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.files import write_atomically
from milp_rl.offline.losses import conservative_loss, expectile_loss
from milp_rl.offline.sepsis.data import SepsisData
from milp_rl.reports.tensorboard import summary_writer

Method = Literal["iql", "double_dqn", "dueling_cql"]
_TASKS = (FEATURES.index("mean_blood_pressure"), FEATURES.index("lactate"))

_FORMAT = "milp_rl.iql/1"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IQLConfig:
    """Parameters of :func:`train_q`; the defaults are the published ones.

    Parameters
    ----------
    method
        ``"iql"``, ``"double_dqn"`` or ``"dueling_cql"``.
    hidden
        Widths of the trunk, each with LayerNorm and GELU.
    expectile
        Tau, in (0, 1).
    discount
        Gamma, in [0, 1).
    pressure_weight, lactate_weight
        Weights of the losses of the further tasks; 0 leaves them out.
    entropy_weight, temperature
        Weight of the entropy bonus, and temperature of its policy softmax(Q / temperature).
    conservatism
        CQL's alpha.
    learning_rate, batch_size, clip_norm
        AdamW's step size, rows per batch, and largest norm of the gradient.
    epochs, patience
        Training ends when the validation loss has not fallen for ``patience`` epochs.
    tau
        Rate at which the target network of the baselines follows.
    """

    method: Method = "iql"
    hidden: tuple[int, ...] = (256, 256, 128)
    expectile: float = 0.7
    discount: float = 0.99
    pressure_weight: float = 0.1
    lactate_weight: float = 0.1
    entropy_weight: float = 0.3
    temperature: float = 3.0
    conservatism: float = 1.0
    learning_rate: float = 3e-4
    batch_size: int = 1024
    clip_norm: float = 1.0
    epochs: int = 100
    patience: int = 10
    tau: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.method not in ("iql", "double_dqn", "dueling_cql"):
            raise ValueError(f"unknown method {self.method!r}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden}")
        for name in ("expectile", "tau"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)}")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount must be in [0, 1), got {self.discount}")
        for name in ("pressure_weight", "lactate_weight", "entropy_weight", "conservatism"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be nonnegative, got {getattr(self, name)}")
        for name in ("temperature", "learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


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
        layers: list[nn.Module] = []
        widths = (n_features, *hidden)
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU()]
        self.trunk = nn.Sequential(*layers)
        self.q = nn.Linear(hidden[-1], n_actions)
        self.v = nn.Linear(hidden[-1], 1)
        self.tasks = nn.Linear(hidden[-1], 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Q, shape (batch, n_actions), V, shape (batch,), and both tasks, (batch, 2)."""
        h = self.trunk(x)
        return self.q(h), self.v(h)[:, 0], self.tasks(h)


class QPolicy:
    """A trained Q-function of the 41 features, with its standardization.

    Parameters
    ----------
    network
        The network, on standardized features.
    mean, scale
        Mean and scale of the features, shape (41,).
    dueling
        Whether Q is V plus the centred advantages that the Q-head gives.
    """

    def __init__(
        self, network: HeadsNetwork, mean: FloatArray, scale: FloatArray, *, dueling: bool
    ) -> None:
        self.network = network
        self.mean = mean
        self.scale = scale
        self.dueling = dueling

    def q_values(self, features: FloatArray) -> FloatArray:
        """Return Q, shape (n, 9)."""
        x = torch.from_numpy((np.asarray(features) - self.mean) / self.scale).float()
        device = next(self.network.parameters()).device
        with torch.no_grad():
            return _q(self.network, x.to(device), dueling=self.dueling)[0].double().cpu().numpy()


def train_q(
    train: SepsisData,
    validation: SepsisData,
    config: IQLConfig | None = None,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    log_file: str | Path | None = None,
    tensorboard: str | Path | None = None,
    device: str | None = None,
) -> QPolicy:
    """Train a Q-function on logged steps.

    Parameters
    ----------
    train, validation
        What is learnt from, and what early stopping looks at.
    config
        Parameters; by default IQL with the published ones.
    seed
        Seed of weights and batches.
    checkpoint
        A file to write everything to after each epoch. If it exists, training goes on from it, to
        the same weights as without the interruption.
    log_file
        A CSV file for the losses of every head by epoch, written whole after each.
    tensorboard
        A folder for the same losses as TensorBoard has them (extra ``tensorboard``).
    device
        ``"cuda"`` or ``"cpu"``; by default a GPU if there is one.

    Raises
    ------
    ValueError
        If the checkpoint is damaged, or of another configuration, seed or data.
    """
    c = IQLConfig() if config is None else config
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    mean = train.features.mean(axis=0)
    scale = train.features.std(axis=0) + 1e-6
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = HeadsNetwork(len(FEATURES), ACTIONS.n_actions, c.hidden).to(where)
    target = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=c.learning_rate)
    learn, check = (_tensors(d, mean, scale, where) for d in (train, validation))
    rng = np.random.default_rng([seed, 23])
    best, best_weights, waited = np.inf, copy.deepcopy(network.state_dict()), 0
    rows: list[dict[str, float]] = []
    setup = {**asdict(c), "seed": seed, "mean": mean.tolist(), "rows": len(train.frame)}
    if checkpoint is not None and Path(checkpoint).exists():
        stored = _read(Path(checkpoint), setup)
        network.load_state_dict(stored["network"])
        target.load_state_dict(stored["target"])
        optimizer.load_state_dict(stored["optimizer"])
        rng.bit_generator.state = stored["rng"]
        rows, best_weights = stored["history"], stored["best_weights"]
        best, waited = stored["best"], stored["waited"]
    writer = None if tensorboard is None else summary_writer(tensorboard)
    losses_of = _iql_losses if c.method == "iql" else _td_losses
    while len(rows) < c.epochs and waited < c.patience:
        epoch = len(rows)
        order = torch.from_numpy(rng.permutation(len(train.frame))).to(where)
        for batch in torch.split(order, c.batch_size):
            losses = losses_of(network, target, [x[batch] for x in learn], c)
            total: Tensor = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), c.clip_norm)
            optimizer.step()
            if c.method == "iql":  # it has no use for a target network
                continue
            with torch.no_grad():
                pairs = zip(target.parameters(), network.parameters(), strict=True)
                for old, new in pairs:
                    old.lerp_(new, c.tau)
        with torch.no_grad():
            found = {k: float(v) for k, v in losses_of(network, target, check, c).items()}
        rows.append({"epoch": epoch, **found, "total": sum(found.values())})
        if writer is not None:
            for name, value in rows[-1].items():
                writer.add_scalar(f"validation/{name}", value, epoch)
        if log_file is not None:
            _write_csv(Path(log_file), rows)
        waited = 0 if rows[-1]["total"] < best else waited + 1
        if waited == 0:
            best, best_weights = rows[-1]["total"], copy.deepcopy(network.state_dict())
        if checkpoint is not None:
            content = {
                "format": _FORMAT,
                "setup": setup,
                "network": network.state_dict(),
                "target": target.state_dict(),
                "optimizer": optimizer.state_dict(),
                "rng": rng.bit_generator.state,
                "history": rows,
                "best": best,
                "best_weights": best_weights,
                "waited": waited,
            }
            buffer = io.BytesIO()
            torch.save(content, buffer)
            write_atomically(Path(checkpoint), buffer.getvalue())
    log.info("%s: %d epochs, validation loss %.4f", c.method, len(rows), best)
    if writer is not None:
        writer.close()
    network.load_state_dict(best_weights)
    return QPolicy(network, mean, scale, dueling=c.method == "dueling_cql")


def _read(path: Path, setup: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint, as data only: no code in it is run."""
    try:
        content = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(f"{path} is not a checkpoint, or damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this version ({_FORMAT})")
    different = sorted(k for k in setup if content["setup"].get(k) != setup[k])
    if different:
        raise ValueError(f"{path} belongs to another run: {', '.join(different)} differ")
    return content


def _tensors(
    data: SepsisData, mean: FloatArray, scale: FloatArray, where: torch.device
) -> list[Tensor]:
    """Return features, actions, rewards, next features, whether there are any, and next tasks."""
    x = (data.features - mean) / scale
    following = np.concatenate([x[1:], x[:1]])
    tasks = following[:, list(_TASKS)]
    columns = (x, data.rewards, following, data.goes_on.astype(float), tasks)
    x_, rewards, next_, on, tasks_ = (torch.tensor(c).float().to(where) for c in columns)
    return [x_, torch.tensor(data.actions).to(where), rewards, next_, on, tasks_]


def _iql_losses(
    network: HeadsNetwork, target: HeadsNetwork, batch: list[Tensor], c: IQLConfig
) -> dict[str, Tensor]:
    x, actions, rewards, following, on, wanted = batch
    q, v, tasks = network(x)
    taken = q.gather(1, actions[:, None])[:, 0]
    with torch.no_grad():
        ahead = rewards + c.discount * on * network(following)[1]
    policy = torch.softmax(q / c.temperature, dim=1)
    entropy = -(policy * torch.log(policy + 1e-12)).sum(dim=1).mean()
    pressure, lactate = (on[:, None] * (tasks - wanted).square()).mean(dim=0)
    return {
        "q": nn.functional.mse_loss(taken, ahead),
        "v": expectile_loss(taken.detach() - v, c.expectile),
        "pressure": c.pressure_weight * pressure,
        "lactate": c.lactate_weight * lactate,
        "entropy": -c.entropy_weight * entropy,
    }


def _td_losses(
    network: HeadsNetwork, target: HeadsNetwork, batch: list[Tensor], c: IQLConfig
) -> dict[str, Tensor]:
    x, actions, rewards, following, on, _ = batch
    dueling = c.method == "dueling_cql"
    q, _ = _q(network, x, dueling=dueling)
    taken = q.gather(1, actions[:, None])[:, 0]
    with torch.no_grad():
        best = _q(network, following, dueling=dueling)[0].argmax(dim=1, keepdim=True)
        ahead = _q(target, following, dueling=dueling)[0].gather(1, best)[:, 0]
    losses = {"q": nn.functional.mse_loss(taken, rewards + c.discount * on * ahead)}
    if dueling:
        losses["conservatism"] = c.conservatism * conservative_loss(q, taken)
    return losses


def _q(network: HeadsNetwork, x: Tensor, *, dueling: bool) -> tuple[Tensor, Tensor]:
    q, v, _ = network(x)
    return (v[:, None] + q - q.mean(dim=1, keepdim=True) if dueling else q), v


def _write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
