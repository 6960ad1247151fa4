r"""Implicit Q-learning in two forms, and Q-learning baselines, from logged decisions.

Kostrikov, Nair and Levine, "Offline reinforcement learning with implicit Q-learning" (ICLR 2022):
V is the tau-expectile of Q over logged actions, Q is fitted to r + gamma V(s'), and no action that
was not logged is ever valued by a maximum.

``"iql"`` is theirs: networks of their own for Q, V and a policy, V fitted to the Q of a target
network, and the policy by advantage-weighted regression,

.. math:: L_V &= E[L_2^\tau(Q_{target}(s, a) - V(s))], \quad
          L_Q = E[(r + \gamma V(s') - Q(s, a))^2], \\
          L_\pi &= -E[\min(e^{\beta (Q_{target}(s, a) - V(s))}, 100) \log \pi(a | s)].

``"iql_multitask"`` has one trunk with heads for Q, V and, as further tasks, the next blood pressure
and lactate, no target network, an entropy bonus, and decides by the largest Q:

.. math:: L = L_Q + L_V + 0.1 L_{BP} + 0.1 L_{lactate} - 0.3 H(\mathrm{softmax}(Q / 3)).

Double DQN and dueling CQL have the same trunk. Of the networks of all epochs that one is kept whose
policy has the highest lower bound of its value on validation stays, by fitted Q evaluation: a
temporal-difference loss against a moving target is least where nothing is learnt yet.
"""

from __future__ import annotations

import copy
import csv
import io
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from milp_rl.dqn.checkpoint import read_tensors
from milp_rl.envs.sepsis import ACTIONS, FEATURES
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.files import write_atomically
from milp_rl.formulations.suggestions import unknown
from milp_rl.offline.losses import conservative_loss, expectile_loss
from milp_rl.offline.sepsis.data import SepsisData
from milp_rl.offline.sepsis.networks import HeadsNetwork, QPolicy, SeparateNetwork
from milp_rl.offline.sepsis.value import fitted_value, greedy
from milp_rl.reports.tensorboard import summary_writer

Method = Literal["iql_multitask", "iql", "double_dqn", "dueling_cql"]
Selection = Literal["value", "loss"]
Evaluate = Callable[[QPolicy], dict[str, float]]
_TASKS = (FEATURES.index("mean_blood_pressure"), FEATURES.index("lactate"))

_FORMAT = "milp_rl.iql/2"
_LARGEST_WEIGHT = 100.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IQLConfig:
    """Parameters of :func:`train_q`; the defaults are the published ones.

    Parameters
    ----------
    method
        ``"iql_multitask"``, ``"iql"`` (Kostrikov et al.), ``"double_dqn"`` or ``"dueling_cql"``.
    hidden
        Widths of the trunk, each with LayerNorm and GELU.
    expectile
        Tau, in (0, 1).
    discount
        Gamma, in [0, 1).
    pressure_weight, lactate_weight
        Weights of the losses of the further tasks of ``"iql_multitask"``; 0 leaves them out.
    entropy_weight, temperature
        Weight of its entropy bonus, and temperature of the policy softmax(Q / temperature).
    inverse_temperature
        Beta of the advantage-weighted regression of ``"iql"``, per unit of return.
    conservatism
        CQL's alpha.
    learning_rate, batch_size, clip_norm
        AdamW's step size, rows per batch, and largest norm of the gradient.
    selection, evaluate_every
        ``"value"``: the network is kept whose policy has the highest lower bound of its value on
        validation stays, looked at every so many epochs. ``"loss"``: the one of the smallest
        validation loss, which rewards not learning; to show what that does.
    epochs, patience
        Training ends when that has not improved for ``patience`` epochs.
    tau
        Rate at which the target network follows, of all but ``"iql_multitask"``.
    """

    method: Method = "iql_multitask"
    hidden: tuple[int, ...] = (256, 256, 128)
    expectile: float = 0.7
    discount: float = 0.99
    pressure_weight: float = 0.1
    lactate_weight: float = 0.1
    entropy_weight: float = 0.3
    temperature: float = 3.0
    inverse_temperature: float = 1.0
    conservatism: float = 1.0
    learning_rate: float = 3e-4
    batch_size: int = 1024
    clip_norm: float = 1.0
    selection: Selection = "value"
    evaluate_every: int = 5
    epochs: int = 100
    patience: int = 30
    tau: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        methods = ("iql_multitask", "iql", "double_dqn", "dueling_cql")
        if self.method not in methods:
            raise ValueError(unknown("method", self.method, methods))
        if self.selection not in ("value", "loss"):
            raise ValueError(f"selection must be 'value' or 'loss', got {self.selection!r}")
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
        for name in ("temperature", "inverse_temperature", "learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("batch_size", "epochs", "patience", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def train_q(
    train: SepsisData,
    validation: SepsisData,
    config: IQLConfig | None = None,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    log_file: str | Path | None = None,
    tensorboard: str | Path | None = None,
    evaluate: Evaluate | None = None,
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
    evaluate
        What else to write of a policy every ``evaluate_every`` epochs, by name; it chooses nothing.
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
        kind = SeparateNetwork if c.method == "iql" else HeadsNetwork
        network = kind(len(FEATURES), ACTIONS.n_actions, c.hidden).to(where)
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
    losses_of = _LOSSES[c.method]
    policy = QPolicy(network, mean, scale, dueling=c.method == "dueling_cql")
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
            if c.method == "iql_multitask":  # it has no use for a target network
                continue
            with torch.no_grad():
                pairs = zip(target.parameters(), network.parameters(), strict=True)
                for old, new in pairs:
                    old.lerp_(new, c.tau)
        with torch.no_grad():
            found = {k: float(v) for k, v in losses_of(network, target, check, c).items()}
        rows.append({"epoch": epoch, **found, "total": sum(found.values())})
        looked_at = (epoch + 1) % c.evaluate_every == 0 or epoch + 1 == c.epochs
        if looked_at and c.selection == "value":
            rows[-1] |= validation_value(policy, validation)
        if looked_at and evaluate is not None:
            rows[-1] |= evaluate(policy)
        if writer is not None:
            for name, value in rows[-1].items():
                writer.add_scalar(f"validation/{name}", value, epoch)
        if log_file is not None:
            _write_csv(Path(log_file), rows)
        worth = rows[-1]["total"] if c.selection == "loss" else -rows[-1].get("FQE low", -np.inf)
        waited = 0 if worth < best else waited + 1
        if waited == 0:
            best, best_weights = worth, copy.deepcopy(network.state_dict())
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
    log.info("%s: %d epochs, best by %s: %.4f", c.method, len(rows), c.selection, best)
    if writer is not None:
        writer.close()
    network.load_state_dict(best_weights)
    policy.course = rows
    return policy


def validation_value(policy: QPolicy, validation: SepsisData) -> dict[str, float]:
    """Return the value of a policy's decisions by fitted Q evaluation, and what it predicts.

    The interval is that of :func:`milp_rl.evaluation.marginalised.bootstrapped_fqe`. It needs no
    propensities.
    """
    target = greedy(policy)(validation.features)
    found = fitted_value(validation, target)
    return {
        "predicted": predicted_return(policy, validation),
        "FQE": found.value,
        "FQE low": found.low,
        "FQE high": found.high,
    }


def predicted_return(policy: QPolicy, data: SepsisData) -> float:
    """Return the mean Q of the decisions at admission."""
    first = data.features[data.frame["step"].to_numpy() == 0]
    q = policy.q_values(first)
    return float(q[np.arange(len(q)), policy(first).argmax(axis=1)].mean())


def _read(path: Path, setup: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint, as data only: no code in it is run."""
    content = read_tensors(path)
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
    network: nn.Module, target: nn.Module, batch: list[Tensor], c: IQLConfig
) -> dict[str, Tensor]:
    """Return the losses of Kostrikov et al., equations 5, 6 and 7."""
    x, actions, rewards, following, on, _ = batch
    q, v, logits = network(x)
    taken = q.gather(1, actions[:, None])[:, 0]
    with torch.no_grad():
        ahead = rewards + c.discount * on * network(following)[1]
        advantage = target(x)[0].gather(1, actions[:, None])[:, 0] - v
        weights = torch.exp(c.inverse_temperature * advantage).clamp(max=_LARGEST_WEIGHT)
        reached = advantage + v
    imitation = nn.functional.cross_entropy(logits, actions, reduction="none")
    return {
        "q": nn.functional.mse_loss(taken, ahead),
        "v": expectile_loss(reached - v, c.expectile),
        "policy": (weights * imitation).mean(),
    }


def _multitask_losses(
    network: nn.Module, target: nn.Module, batch: list[Tensor], c: IQLConfig
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
    network: nn.Module, target: nn.Module, batch: list[Tensor], c: IQLConfig
) -> dict[str, Tensor]:
    x, actions, rewards, following, on, _ = batch
    dueling = c.method == "dueling_cql"
    q = _q(network, x, dueling=dueling)
    taken = q.gather(1, actions[:, None])[:, 0]
    with torch.no_grad():
        best = _q(network, following, dueling=dueling).argmax(dim=1, keepdim=True)
        ahead = _q(target, following, dueling=dueling).gather(1, best)[:, 0]
    losses = {"q": nn.functional.mse_loss(taken, rewards + c.discount * on * ahead)}
    if dueling:
        losses["conservatism"] = c.conservatism * conservative_loss(q, taken)
    return losses


def _q(network: nn.Module, x: Tensor, *, dueling: bool) -> Tensor:
    q, v, _ = network(x)
    values: Tensor = v[:, None] + q - q.mean(dim=1, keepdim=True) if dueling else q
    return values


_LOSSES = {
    "iql": _iql_losses,
    "iql_multitask": _multitask_losses,
    "double_dqn": _td_losses,
    "dueling_cql": _td_losses,
}


def _write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
