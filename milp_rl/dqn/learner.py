r"""Q-learning with exact argmaxes on one page: acting, remembering, targets, update.

A network learns :math:`Q(s, a)` for actions a in a combinatorial set A, which may depend on s. In
each step of the environment an action is chosen, epsilon-greedily; the step is put into a
prioritized buffer; and batches from the buffer are fitted to targets that look one step, or n,
ahead:

.. math:: Q(s, a) \to r + \gamma^n\, Q_{target}(s', a'), \qquad
          a' = \arg\max_{a' \in A(s')} Q_{target}(s', a').

Every argmax is a search over A (:mod:`milp_rl.dqn.choosers`), remembered for as long as the network
does not change (:mod:`milp_rl.dqn.cached_argmax`).

Xu, Wilder, Khalil and Tambe, "Reinforcement learning with combinatorial actions for coupled
restless bandits", ICLR 2025 (arXiv 2503.01919), section 4.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from milp_rl.dqn.cached_argmax import CachedArgmax
from milp_rl.dqn.choosers import Chooser
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.normalised import NormalisedQNetwork
from milp_rl.dqn.replay import Batch, PrioritizedReplay, Step
from milp_rl.envs.fixed_set import drawn_in
from milp_rl.envs.known_model import StateArray
from milp_rl.envs.state_sets import StateSets
from milp_rl.formulations.arrays import ActionArray, FloatArray, IntArray
from milp_rl.qnetwork import ActionValue

_LEVEL_SAMPLES = 256
_MEAN_RATE = 0.01
_LATE = 4  # how much more the last weights count in their average
_PARTS = (
    "network",
    "averaged",
    "target",
    "optimizer",
    "replay",
    "greedy",
    "averaged_greedy",
    "target_greedy",
)


class QLearner:
    """A Q-network that learns, its target network and its replay buffer.

    It does not know the environment: :class:`milp_rl.dqn.DQNAgent` plays, and tells it.

    Parameters
    ----------
    network
        The Q-network that learns, or takes up the averages of its weights.
    feasible
        The feasible set A, that of all states, or of each.
    config
        Parameters.
    chooser
        Makes what finds the best actions of a network.

    Attributes
    ----------
    network, averaged, target
        The Q-network that learns, the policy's, whose weights are averages of its weights, and the
        one that values next actions, an earlier one of the policy's.
    replay
        The transitions.
    greedy, averaged_greedy, target_greedy
        Their argmaxes.
    mean_error, mean_value
        Running means of the sizes of temporal differences and of values, in :attr:`unit`.
    """

    def __init__(
        self,
        network: ActionValue,
        feasible: StateSets,
        config: DQNConfig,
        chooser: Callable[[ActionValue], Chooser],
    ) -> None:
        c = self.config = config
        self.feasible = feasible
        self.new_chooser = chooser
        self.averaged = network
        self.network = copy.deepcopy(network) if c.average_decay else network
        self.target = copy.deepcopy(network)
        self.optimizer = self._new_optimizer()
        self.replay = PrioritizedReplay(
            c.buffer_size,
            network.state_dim,
            feasible.space.n_actions,
            c.priority_exponent,
            c.importance_exponent,
        )
        self.greedy = self.new_argmax(self.network)
        self.averaged_greedy = self.new_argmax(network) if c.average_decay else self.greedy
        self.target_greedy = self.new_argmax(self.target)
        self.mean_error = self.mean_value = 0.0
        self.steps_averaged = 0
        # The steps of each lane whose n-step transitions are not complete.
        self._recent: defaultdict[int, deque[Step]] = defaultdict(deque)

    # Acting ---------------------------------------------------------------------------------

    def explore(
        self, states: StateArray, step: int, episode: int, rng: np.random.Generator
    ) -> list[ActionArray]:
        """Choose the greedy action, or with probability epsilon a random maximal one.

        In each of the states of one step, or of several environments side by side: the step of the
        first is given, the others' follow it.
        """
        actions: list[ActionArray] = [np.empty(0)] * len(states)
        greedy = []
        for i, state in enumerate(states):
            if rng.random() < self.epsilon(step + i):
                space = self.feasible.in_state(state)
                actions[i] = drawn_in(space, state, rng, maximal=True)
            else:
                greedy.append(i)
        if greedy:
            found = self.greedy.actions(states[greedy], self.gap(episode))
            for i, action in zip(greedy, found, strict=True):
                actions[i] = action
        return actions

    def epsilon(self, step: int) -> float:
        """Return the probability of a random action after this many steps."""
        c = self.config
        decayed = math.exp(-step / c.epsilon_decay)
        return c.epsilon_end + (c.epsilon_start - c.epsilon_end) * decayed

    def gap(self, episode: int) -> float:
        """Return the relative gap of the argmaxes in an episode."""
        c = self.config
        gap = c.gap
        if c.early_gap is not None and 2 * episode < c.episodes:
            gap = c.early_gap
        if c.dynamic_tolerance is not None and self.mean_value > 0:
            relative_error = self.mean_error / self.mean_value
            tolerance = c.dynamic_tolerance * relative_error * c.dynamic_tolerance_decay**episode
            if tolerance > 0:  # in powers of two, since a smaller gap makes known answers useless
                gap = max(gap, 2.0 ** math.floor(math.log2(tolerance)))
        return float(gap)

    # Remembering ----------------------------------------------------------------------------

    def remember(self, step: Step, lane: int = 0) -> None:
        """Put the n-step transition that a step completes into the replay buffer.

        At the end of an episode, the shorter ones that begin at the last steps too. Steps of
        environments that are played side by side are told apart by their lane.
        """
        c, recent = self.config, self._recent[lane]
        recent.append(step)
        while recent and (step.last or len(recent) == c.n_step):
            total = sum(c.discount**i * past.reward for i, past in enumerate(recent))
            bootstrap = 0.0 if step.terminated else c.discount ** len(recent)
            state, action, *_ = recent.popleft()
            self.replay.add(state[None], action[None], [total], step.next_state[None], [bootstrap])

    # Targets --------------------------------------------------------------------------------

    def targets(self, batch: Batch, gap: float, values: FloatArray | None = None) -> Tensor:
        """Return what the values of a batch are fitted to, shape (batch,).

        Parameters
        ----------
        batch
            The transitions.
        gap
            Relative gap of the argmaxes.
        values
            Q(s, a) of the batch; with dual filtering, the target of a value that is shown to reach
            it is a bound on it.
        """
        c, targets = self.config, batch.rewards.copy()
        rows = np.flatnonzero(batch.bootstrap)  # in the others, the episode terminated
        if c.dual_filtering and values is not None and len(rows):
            rows = self._dual_filter(batch, rows, values, targets)
        if len(rows):
            states = batch.next_states[rows]
            if c.cluster_radius is None:
                actions = self._next_actions(states, gap)
            else:
                actions = self._clustered_actions(states, gap, c.cluster_radius)
            with torch.no_grad():
                following = torch.from_numpy(actions.astype(np.float32))
                best = self.target.q(torch.from_numpy(states), following).numpy()
            targets[rows] += batch.bootstrap[rows] * best
        return torch.from_numpy(targets)

    def _next_actions(self, states: StateArray, gap: float) -> ActionArray:
        """Return the best next actions: the target network's, or in double DQN the learning one's.

        Van Hasselt, Guez and Silver, "Deep reinforcement learning with double Q-learning", AAAI
        2016.
        """
        chooser = self.greedy if self.config.double else self.target_greedy
        return chooser.actions(states, gap)

    def _clustered_actions(self, states: StateArray, gap: float, radius: float) -> ActionArray:
        """Return next actions, solved for at the centres of clusters only.

        A state within the radius of an earlier centre of the same feasible set takes over its
        action; any other is a centre itself. After the clustering of Ryu et al., "CAQL: Continuous
        action Q-learning", ICLR 2020.
        """
        centres: list[int] = []
        spaces = self.feasible.in_states(states)
        cluster = np.zeros(len(states), dtype=np.intp)
        for i, state in enumerate(states):
            distances = np.linalg.norm(states[centres] - state, axis=1)
            if spaces is not None:
                distances[[spaces[j] is not spaces[i] for j in centres]] = np.inf
            if centres and distances.min() <= radius:
                cluster[i] = distances.argmin()
            else:
                cluster[i] = len(centres)
                centres.append(i)
        return self._next_actions(states[centres], gap)[cluster]

    def _dual_filter(
        self, batch: Batch, rows: IntArray, values: FloatArray, targets: NDArray[np.float32]
    ) -> IntArray:
        r"""Return the rows whose argmaxes must be solved; write the targets of the others.

        With an upper bound :math:`U(s') \ge \max_{a'} Q_{target}(s', a')`, a value that is at least
        :math:`r + \gamma^n U(s')` is not below its target, and the hinge loss is the same whatever
        that is (the dual filtering of CAQL).
        """
        bounds = self.target_greedy.bounds(batch.next_states[rows])
        highest = targets[rows] + batch.bootstrap[rows] * bounds
        reached = values[rows] >= highest
        targets[rows[reached]] = highest[reached]
        return rows[~reached]

    # Update ---------------------------------------------------------------------------------

    def learn(self, step: int, episode: int, rng: np.random.Generator) -> list[float]:
        """Learn after a step of the environment; return the losses of the updates.

        Nothing is learnt before the buffer holds a batch.
        """
        c = self.config
        if len(self.replay) < c.batch_size:
            return []
        rate = c.learning_rate * c.learning_rate_decay**episode
        losses = [self.update(rng, rate, self.gap(episode)) for _ in range(c.updates_per_step)]
        self.update_target(step, rng, self.gap(episode))
        self.update_average()
        return losses

    def update(self, rng: np.random.Generator, learning_rate: float, gap: float) -> float:
        r"""Take one step on a batch from the buffer; return the loss.

        With :math:`\delta = Q(s, a) - target`, of every critic, and w the importance weights, the
        mean is descended of :math:`w\, huber(\delta)`, or with the hinge loss, h its weight, of
        :math:`w (Q(s, a) + h \max(-\delta, 0)^2)`.
        """
        batch = self.replay.sample(rng, self.config.batch_size)
        states, actions = torch.from_numpy(batch.states), torch.from_numpy(batch.actions)
        values, extra_loss = self._values(states, actions, rng)
        unit = self.unit
        least = values.detach().amin(dim=0).numpy()
        errors = (values - self.targets(batch, gap, least)) / unit
        if self.config.loss == "hinge":
            losses = values / unit + self.config.hinge_weight * nn.functional.relu(-errors) ** 2
        else:
            losses = nn.functional.huber_loss(errors, torch.zeros_like(errors), reduction="none")
        loss = (torch.from_numpy(batch.weights) * losses).mean()
        self._descend(loss + extra_loss, learning_rate)
        sizes = errors.detach().double().abs().mean(dim=0).numpy()
        self.replay.update(batch.index, sizes)
        self.mean_error += _MEAN_RATE * (float(sizes.mean()) - self.mean_error)
        largest = float(values.detach().abs().mean()) / unit
        self.mean_value += _MEAN_RATE * (largest - self.mean_value)
        return float(loss.detach())

    def update_target(self, step: int, rng: np.random.Generator, gap: float) -> None:
        """Update the target network, if it is due after this step of the environment."""
        if self.config.target_update == "soft":
            _follow(self.target, self.network, self.config.tau)
            self.target_greedy.renew()
        elif step % self.config.sync_every == 0:
            self._sync_target()
            if self.config.level_targets and self.config.loss == "huber":
                batch = self.replay.sample(rng, _LEVEL_SAMPLES)
                states, actions = torch.from_numpy(batch.states), torch.from_numpy(batch.actions)
                with torch.no_grad():
                    values = self.network.q(states, actions)
                self.shift_level(float((self.targets(batch, gap) - values).mean()))

    def update_average(self) -> None:
        """Take the weights into their average, over about the last quarter of the steps at first.

        After n steps the rate is :math:`4 / (n + 3)`, until that is below the decay's (Shamir and
        Zhang, "Stochastic gradient descent for non-smooth optimization", ICML 2013, section 4).
        """
        if self.config.average_decay:
            self.steps_averaged += 1
            rate = max(1 - self.config.average_decay, _LATE / (self.steps_averaged + _LATE - 1))
            _follow(self.averaged, self.network, rate)
            self.averaged_greedy.renew()

    def _values(
        self, states: Tensor, actions: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor | float]:
        """Return Q(s, a) of every critic, and what is descended beside their loss: nothing here."""
        return self.network.each(states, actions), 0.0

    @property
    def unit(self) -> float:
        """The size of the values that losses are relative to, in units of the rewards."""
        return self.network.unit if isinstance(self.network, NormalisedQNetwork) else 1.0

    def _descend(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_value_(self.network.parameters(), self.config.clip_value)
        self.optimizer.step()
        self.greedy.renew()

    def _sync_target(self) -> None:
        self.target.load_state_dict(self.averaged.state_dict())
        self.target_greedy.renew()

    # Around the page: pretraining, beginnings, checkpoints --------------------------------------

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
        loss = ((values - wanted) / self.unit).square().mean()
        self._descend(loss + extra_loss, learning_rate)
        return float(loss.detach())

    def begin(self) -> None:
        """Begin Q-learning at the current weights, with a new optimizer."""
        self.optimizer = self._new_optimizer()
        self.begin_average()
        self._sync_target()

    def begin_average(self) -> None:
        """Let the policy's weights be those that there are now."""
        if self.config.average_decay:
            self.steps_averaged = 0
            self.averaged.load_state_dict(self.network.state_dict())
            self.averaged_greedy.renew()

    def go_on_from_average(self) -> None:
        """Let the weights be the policy's, which were set or trained by themselves."""
        if self.config.average_decay:
            self.network.load_state_dict(self.averaged.state_dict())
            self.steps_averaged = 0
            self.averaged_greedy.renew()
        self.greedy.renew()

    def begin_episode(self, played: Iterable[Step] = (), lane: int = 0) -> None:
        """Begin an episode, or go on with one whose steps so far are remembered already."""
        self._recent[lane] = deque(deque(played, maxlen=self.config.n_step - 1))

    def shift_level(self, amount: float) -> None:
        """Add ``amount`` to every value of the network."""
        self.network.shift(amount)
        self.greedy.renew()

    def new_argmax(self, network: ActionValue, feasible: StateSets | None = None) -> CachedArgmax:
        """Return the best actions of a network, remembered; in another environment's sets."""
        sets = self.feasible if feasible is None else feasible
        return CachedArgmax(network, self.new_chooser(network), self.config.cache_size, sets)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a checkpoint needs."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        counts = {"steps averaged": self.steps_averaged}
        return {**parts, **counts, "means": [self.mean_error, self.mean_value]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.mean_error, self.mean_value = state["means"]
        self.steps_averaged = state["steps averaged"]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        biases = [p for p in self.network.parameters() if p.ndim <= 1]
        decay = self.config.weight_decay  # not of biases: the last carries the level of the values
        return torch.optim.AdamW(  # eps and amsgrad as in the authors' code
            [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}],
            eps=1.5e-4,
            amsgrad=True,
            fused=True,
        )


def _follow(average: nn.Module, network: nn.Module, rate: float) -> None:
    """Move the weights of one network towards those of another of its kind."""
    with torch.no_grad():
        for old, new in zip(average.parameters(), network.parameters(), strict=True):
            old.lerp_(new, rate)
        for kept, present in zip(average.buffers(), network.buffers(), strict=True):
            kept.copy_(present)
