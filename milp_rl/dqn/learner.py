"""The Q-network, its replay buffer and its update rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from milp_rl.dqn.cached_argmax import CachedArgmax, Chooser, ExactChooser, StateArray
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.replay import Batch, PrioritizedReplay
from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.heuristics.continuous import CrossEntropyArgmax, GradientAscentArgmax
from milp_rl.heuristics.greedy import GreedyArgmax
from milp_rl.qnetwork import ActionValue

_LEVEL_SAMPLES = 256
_MEAN_RATE = 0.01
_PARTS = ("network", "target", "optimizer", "replay", "greedy", "target_greedy")


class QLearner:
    r"""Q-learning with exact next actions, from prioritized replay.

    A batch is drawn and the Huber loss of the temporal differences

    .. math:: r + \gamma\, Q_{target}(s', a') - Q(s, a), \qquad a' = \arg\max_{a' \in A} Q(s', a')

    is descended, where the maximiser is that of the target network or, in double DQN, of the
    network that learns. With n-step returns r is the discounted sum of n rewards, s' the state
    after them, and the factor on its value is :math:`\gamma^n`. The hinge loss, and what spares
    argmaxes, are those of CAQL, see :class:`milp_rl.dqn.DQNConfig`.

    Parameters
    ----------
    network
        The Q-network that learns.
    space
        The feasible set A.
    config
        Parameters.
    chooser
        Makes what finds the best actions of a network.

    Attributes
    ----------
    network, target
        The Q-network that learns, and the one that values next actions.
    replay
        The transitions.
    greedy, target_greedy
        Their argmaxes.
    mean_error, mean_value
        Running means of the sizes of temporal differences and of values.
    """

    def __init__(
        self,
        network: ActionValue,
        space: ActionSpace,
        config: DQNConfig,
        chooser: Callable[[ActionValue], Chooser],
    ) -> None:
        c = self.config = config
        self._new_chooser = chooser
        self.network = network
        self.target = copy.deepcopy(network)
        self.optimizer = self._new_optimizer()
        self.replay = PrioritizedReplay(
            c.buffer_size,
            network.state_dim,
            space.n_actions,
            c.priority_exponent,
            c.importance_exponent,
        )
        self.greedy = self.new_argmax(self.network)
        self.target_greedy = self.new_argmax(self.target)
        self.mean_error = self.mean_value = 0.0

    def new_argmax(self, network: ActionValue) -> CachedArgmax:
        """Return the best actions of a network, remembered."""
        return CachedArgmax(network, self._new_chooser(network), self.config.cache_size)

    def fit(
        self,
        states: Tensor,
        actions: Tensor,
        wanted: Tensor,
        learning_rate: float,
        rng: np.random.Generator,
    ) -> float:
        """Take one least-squares step towards given values; return the loss."""
        values, extra_loss = self._values(states, actions, rng)
        loss = nn.functional.mse_loss(values, wanted)
        self._descend(loss + extra_loss, learning_rate)
        return float(loss.detach())

    def begin(self) -> None:
        """Begin Q-learning at the current weights, with a new optimizer."""
        self.optimizer = self._new_optimizer()
        self._sync_target()

    def update(self, rng: np.random.Generator, learning_rate: float, gap: float) -> float:
        """Take one step on a batch from the buffer; return the loss."""
        batch = self.replay.sample(rng, self.config.batch_size)
        states, actions = torch.from_numpy(batch.states), torch.from_numpy(batch.actions)
        values, extra_loss = self._values(states, actions, rng)
        errors = values - self._targets(batch, gap, values.detach().numpy())
        if self.config.loss == "hinge":
            losses = values + self.config.hinge_weight * nn.functional.relu(-errors) ** 2
        else:
            losses = nn.functional.huber_loss(errors, torch.zeros_like(errors), reduction="none")
        loss = (torch.from_numpy(batch.weights) * losses).mean()
        self._descend(loss + extra_loss, learning_rate)
        sizes = errors.detach().double().abs().numpy()
        self.replay.update(batch.index, sizes)
        self.mean_error += _MEAN_RATE * (float(sizes.mean()) - self.mean_error)
        largest = float(values.detach().abs().mean())
        self.mean_value += _MEAN_RATE * (largest - self.mean_value)
        return float(loss.detach())

    def update_target(self, step: int, rng: np.random.Generator, gap: float) -> None:
        """Update the target network, if it is due after this step of the environment."""
        if self.config.target_update == "soft":
            with torch.no_grad():
                pairs = zip(self.target.parameters(), self.network.parameters(), strict=True)
                for old, new in pairs:
                    old.lerp_(new, self.config.tau)
            self.target_greedy.renew()
        elif step % self.config.sync_every == 0:
            self._sync_target()
            if self.config.level_targets:
                batch = self.replay.sample(rng, _LEVEL_SAMPLES)
                states, actions = torch.from_numpy(batch.states), torch.from_numpy(batch.actions)
                with torch.no_grad():
                    values = self.network.q(states, actions)
                self.shift_level(float((self._targets(batch, gap) - values).mean()))

    def shift_level(self, amount: float) -> None:
        """Add ``amount`` to every value of the network."""
        self.network.shift(amount)
        self.greedy.renew()

    def state_dict(self) -> dict[str, Any]:
        """Return everything a checkpoint needs."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return {**parts, "means": [self.mean_error, self.mean_value]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.mean_error, self.mean_value = state["means"]

    def _targets(self, batch: Batch, gap: float, values: FloatArray | None = None) -> Tensor:
        """Return targets; where filtering shows a value to reach its target, a bound on it."""
        c = self.config
        chooser = self.greedy if c.double else self.target_greedy
        targets = batch.rewards.copy()
        going_on = np.flatnonzero(batch.bootstrap)
        if c.dual_filtering and values is not None and len(going_on):
            bounds = self.target_greedy.bounds(batch.next_states[going_on])
            highest = targets[going_on] + batch.bootstrap[going_on] * bounds
            reached = values[going_on] >= highest
            targets[going_on[reached]] = highest[reached]
            going_on = going_on[~reached]
        if len(going_on):
            following = batch.next_states[going_on]
            centres, cluster = _clusters(following, c.cluster_radius)
            actions = chooser.actions(following[centres], gap)[cluster].astype(np.float32)
            with torch.no_grad():
                best = self.target.q(torch.from_numpy(following), torch.from_numpy(actions))
            targets[going_on] += batch.bootstrap[going_on] * best.numpy()
        return torch.from_numpy(targets)

    def _values(
        self, states: Tensor, actions: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor | float]:
        """Return Q(s, a), and what is descended beside the loss of the values: nothing here."""
        return self.network.q(states, actions), 0.0

    def _descend(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_value_(self.network.parameters(), self.config.clip_value)
        self.optimizer.step()
        self.greedy.renew()

    def _sync_target(self) -> None:
        self.target.load_state_dict(self.network.state_dict())
        self.target_greedy.renew()

    def _new_optimizer(self) -> torch.optim.Optimizer:
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        biases = [p for p in self.network.parameters() if p.ndim == 1]
        decay = self.config.weight_decay  # not of biases: the last carries the level of the values
        return torch.optim.AdamW(  # eps and amsgrad as in the authors' code
            [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}],
            eps=1.5e-4,
            amsgrad=True,
            fused=True,
        )


def _clusters(states: StateArray, radius: float | None) -> tuple[IntArray, IntArray]:
    """Return the rows that are centres, and for each row the position of its centre in them."""
    n = len(states)
    if radius is None:
        return np.arange(n), np.arange(n)
    centres: list[int] = []
    cluster = np.zeros(n, dtype=np.intp)
    for i in range(n):
        distances = np.linalg.norm(states[centres] - states[i], axis=1) if centres else np.ones(0)
        if len(distances) and distances.min() <= radius:
            cluster[i] = distances.argmin()
        else:
            cluster[i] = len(centres)
            centres.append(i)
    return np.array(centres, dtype=np.intp), cluster


def chooser_of(space: ActionSpace, config: DQNConfig) -> Callable[[ActionValue], Chooser]:
    """Return what finds best actions as a configuration asks for."""
    c = config
    heuristics: dict[str, Callable[[ActionValue, ActionSpace], Chooser]] = {
        "greedy": GreedyArgmax,
        "gradient": GradientAscentArgmax,
        "cross_entropy": CrossEntropyArgmax,
    }
    if c.argmax in heuristics:
        return lambda network: heuristics[c.argmax](network, space)
    return lambda network: ExactChooser(
        network,
        space,
        solver=c.solver,
        formulation=c.formulation,
        bounds=c.bounds,
        time_limit=c.time_limit,
    )
