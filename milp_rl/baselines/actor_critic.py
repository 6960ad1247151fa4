"""An actor of continuous proto-actions, a critic, and a search between them: DNC, Wolpertinger.

A Gaussian actor gives a proto-action, a search of :mod:`milp_rl.heuristics.neighbourhood` finds a
feasible action near it of high value under a critic of (state, action), and both learn from each
step by its temporal difference (Q actor-critic), as in Akkerman, Luy, van Heeswijk and Schiffer,
"Dynamic neighborhood construction for structured large discrete action spaces" (arXiv 2305.19891),
where the search by nearest neighbours (Dulac-Arnold et al., "Deep reinforcement learning in large
discrete action spaces", arXiv 1512.07679) is compared with the same actor and critic. As published:
tanh means with a standard deviation of 0.5, two hidden layers of 128, one update per step by SGD
with step sizes 0.001 and 0.01, gradients clipped to norm 1.

Otherwise than published, for its good or since it is needed here: states and rewards are normalised
as for PPO, by running moments of states and of discounted sums of rewards; the rounded action is
made feasible by falling score; rewards are expected ones where the environment knows its model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from milp_rl.envs.known_model import model_of
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.heuristics.neighbourhood import Nearest, annealed, shares
from milp_rl.heuristics.scores import by_scores


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """Parameters of :class:`ActorCritic`.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    search: Literal["annealing", "nearest"] = "annealing"
    """Between proto-action and action: ``"annealing"`` (DNC) or ``"nearest"`` (Wolpertinger)."""

    steps: int = 10_000
    """Steps of the environment, at least 0."""

    nearest: int = 20
    """Actions that ``"nearest"`` has the critic value, at least 1."""

    discount: float = 0.99
    """Discount factor gamma, in [0, 1)."""

    deviation: float = 0.5
    """Standard deviation of proto-actions while learning, positive."""

    def __post_init__(self) -> None:
        if self.search not in ("annealing", "nearest"):
            raise ValueError(f"search must be 'annealing' or 'nearest', got {self.search!r}")
        for name, least in (("steps", 0), ("nearest", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if not (isinstance(self.discount, int | float) and 0 <= self.discount < 1):
            raise ValueError(f"discount must be in [0, 1), got {self.discount!r}")
        if not (isinstance(self.deviation, int | float) and 0 < self.deviation < np.inf):
            raise ValueError(f"deviation must be positive, got {self.deviation!r}")


class ActorCritic:
    """The actor, the critic and the search.

    Parameters
    ----------
    env
        An environment whose states and actions are vectors, with ``action_space_block(state)``.
    config
        Parameters; by default those of the class.
    seed
        Seed of weights, exploration, search and episodes, at least 0.

    Examples
    --------
    >>> from milp_rl.baselines.actor_critic import ActorCritic, ActorCriticConfig
    >>> from milp_rl.envs import make_bandit
    >>> env = make_bandit("budget", 6, 2, seed=0)  # at most 2 of 6 arms
    >>> policy = ActorCritic(env, ActorCriticConfig(steps=20), seed=0).train()
    >>> state, _ = env.reset(seed=1)
    >>> env.action_space_block(state).violations(policy.act(state))
    []
    """

    def __init__(
        self, env: gym.Env[Any, Any], config: ActorCriticConfig | None = None, *, seed: int = 0
    ) -> None:
        self.env = env
        self.config = ActorCriticConfig() if config is None else config
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self._block: Callable[[Any], ActionSpace] = env.get_wrapper_attr("action_space_block")
        self._nearest: Nearest | None = None
        observed, acted = env.observation_space.shape, env.action_space.shape
        if observed is None or acted is None or len(observed) != 1 or len(acted) != 1:
            raise ValueError(f"states and actions must be vectors, got {observed} and {acted}")
        state_dim, n = observed[0], acted[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = nn.Sequential(*_layers(state_dim, n), nn.Tanh())
            self.critic = nn.Sequential(*_layers(state_dim + n, 1))
        self.optimizer = torch.optim.SGD(
            [
                {"params": self.actor.parameters(), "lr": 1e-3},
                {"params": self.critic.parameters(), "lr": 1e-2},
            ]
        )
        self._states, self._returns = _Moments(state_dim), _Moments(1)

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the action that is found from the mean of the actor."""
        return self._choose(state, deviation=0.0)[0]

    def train(self) -> ActorCritic:
        """Play and learn for ``config.steps`` steps; return itself."""
        env, c = self.env, self.config
        expected = getattr(model_of(env), "expected_reward", None)
        state = np.array(env.reset(seed=self.seed)[0])
        self._states.add(state)
        action, proto = self._choose(state, c.deviation)
        summed = 0.0
        for _ in range(c.steps):
            observed, sampled, terminated, truncated, _ = env.step(action.copy())
            after = np.array(observed)  # it may write the next one into the same array
            reward = float(sampled if expected is None else expected(state, action))
            self._states.add(after)
            summed = c.discount * summed + reward
            self._returns.add([summed])
            scaled = reward / float(self._returns.deviation[0])
            next_action, next_proto = self._choose(after, c.deviation)
            ahead = 0.0 if terminated else self._value(after, next_action)
            self._learn(state, action, proto, scaled + c.discount * ahead)
            state, action, proto = after, next_action, next_proto
            if terminated or truncated:
                state = np.array(env.reset()[0])
                summed = 0.0
                action, proto = self._choose(state, c.deviation)
        return self

    def _choose(self, state: ArrayLike, deviation: float) -> tuple[ActionArray, Tensor]:
        """Return an action, and the proto-action that it was found from."""
        space, s = self._block(state), self._seen(state)
        with torch.no_grad():
            mean = self.actor(s)
            proto = mean + deviation * torch.from_numpy(self.rng.normal(size=mean.shape)).float()
            wanted = proto.double().numpy()

            def values(actions: ActionArray) -> FloatArray:
                a = _shares(space, actions)
                found = self.critic(torch.cat([s.expand(len(a), -1), a], dim=1))[:, 0]
                return np.asarray(found.numpy(), dtype=np.float64)

            if self.config.search == "annealing":
                return annealed(space, by_scores(space, wanted), values, self.rng), proto
            if self._nearest is None or self._nearest.space != space:
                self._nearest = Nearest(space, self.config.nearest)
            near = self._nearest.actions(wanted, self.rng)
            return near[int(values(near).argmax())], proto

    def _learn(self, state: ArrayLike, action: ActionArray, proto: Tensor, target: float) -> None:
        """Descend the temporal difference, and raise what was better than expected."""
        s = self._seen(state)
        error = target - self.critic(torch.cat([s, _shares(self._block(state), action)]))[0]
        likely = -((proto - self.actor(s)) ** 2).sum() / (2 * self.config.deviation**2)
        loss = nn.functional.huber_loss(error, torch.zeros(())) - error.detach() * likely
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*self.actor.parameters(), *self.critic.parameters()], 1.0)
        self.optimizer.step()

    def _value(self, state: ArrayLike, action: ActionArray) -> float:
        with torch.no_grad():
            a = _shares(self._block(state), action)
            return float(self.critic(torch.cat([self._seen(state), a]))[0])

    def _seen(self, state: ArrayLike) -> Tensor:
        return torch.from_numpy(self._states.normalised(state)).float()


class _Moments:
    """Running mean and standard deviation."""

    def __init__(self, n: int) -> None:
        self.n, self.mean, self.squares = 0, np.zeros(n), np.zeros(n)

    def add(self, x: ArrayLike) -> None:
        self.n += 1
        row = np.asarray(x, dtype=np.float64)
        off = row - self.mean
        self.mean = self.mean + off / self.n
        self.squares = self.squares + off * (row - self.mean)

    @property
    def deviation(self) -> FloatArray:
        spread = np.sqrt(self.squares / max(self.n, 1))
        return np.where(spread > 1e-8, spread, 1.0)

    def normalised(self, x: ArrayLike) -> FloatArray:
        return np.clip((np.asarray(x, dtype=np.float64) - self.mean) / self.deviation, -10, 10)


def _layers(inputs: int, outputs: int) -> list[nn.Module]:
    widths = nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
    return [*widths, nn.Linear(128, outputs)]


def _shares(space: ActionSpace, actions: ActionArray) -> Tensor:
    return torch.from_numpy(shares(space, actions)).float()
