"""DNC: a continuous proto-action, and simulated annealing over its discrete neighbours.

Akkerman, Luy, van Heeswijk and Schiffer, "Dynamic neighborhood construction for structured large
discrete action spaces" (arXiv 2305.19891): a Gaussian actor gives a proto-action, which is scaled
to the action's ranges and rounded; the search walks through neighbours by their values under a
critic of (state, action). Actor and critic learn from each step by its temporal difference (Q
actor-critic). As published: tanh means with a standard deviation of 0.5, two hidden layers of 128,
one update per step by SGD with step sizes 0.001 and 0.01, gradients clipped to norm 1, acceptance
from 0.9 cooled by 0.225, cooling of K by 0.25.

Otherwise than published, for its good or since it is needed here: states and rewards are normalised
as for PPO, by running moments of states and of discounted sums of rewards; the rounded action is
made feasible by falling score; and neighbours are all feasible ones that differ in one item or
exchange two, at most 200 drawn at random, since under a budget that is spent nothing can be added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from milp_rl.formulations.spaces.base import ActionSpace

from .building import built

DISCOUNT = 0.99
DEVIATION = 0.5
MOST_NEIGHBOURS = 200
STEPS = 5  # in the values of integer variables
ACCEPTANCE, ACCEPTANCE_COOLING, COOLING = 0.9, 0.225, 0.25

Values = Callable[[NDArray[Any]], NDArray[Any]]


def neighbours(space: ActionSpace, action: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Return feasible actions next to one, shape (at most 200, n_actions)."""
    unit = np.eye(space.n_actions, dtype=action.dtype)
    if not space.binary:
        moves = np.concatenate([step * unit for step in range(1, STEPS + 1)])
        near = np.concatenate([action + moves, action - moves])
        near = np.unique(np.clip(near, space.lower, space.upper).astype(action.dtype), axis=0)
        return near[(near != action).any(axis=1)]
    chosen, free = np.flatnonzero(action), np.flatnonzero(action == 0)
    out, new = (grid.ravel() for grid in np.meshgrid(chosen, free, indexing="ij"))
    swaps = action + unit[new] - unit[out]
    near = np.concatenate([action + unit[free], action - unit[chosen], swaps])
    if len(near) > MOST_NEIGHBOURS:
        near = near[rng.choice(len(near), MOST_NEIGHBOURS, replace=False)]
    return near[space.feasible(near)]


def anneal(
    space: ActionSpace, start: NDArray[Any], values: Values, rng: np.random.Generator
) -> NDArray[Any]:
    """Search the neighbours of an action for one of high value."""
    base, best, best_value = start, start, float(values(start[None])[0])
    k = first = max(int(0.1 * 2 * space.n_actions), 4)
    accepted, kept = ACCEPTANCE, np.empty((0, space.n_actions), dtype=start.dtype)
    while k > 0:
        near = np.concatenate([neighbours(space, base, rng), base[None]])
        found = values(near)
        order = np.argsort(-found, kind="stable")[:k]
        kept = np.concatenate([kept, near[order]])
        top, own = float(found[order[0]]), float(found[-1])
        if top > own:
            if top > best_value:
                best, best_value = near[order[0]], top
            base = near[order[0]]
        elif accepted > 0 and rng.random() < np.exp(-(own - top) / accepted):
            accepted -= ACCEPTANCE_COOLING
            base = near[order[0]]
        else:
            row = int(rng.integers(len(kept)))
            base, kept = kept[row], np.delete(kept, row, axis=0)
        k -= max(int(COOLING * first), 1)
    return best


class DNC:
    """The actor, the critic and the search."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        self.block = env.get_wrapper_attr("action_space_block")
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        state_dim, n = env.observation_space.shape[0], env.action_space.shape[0]
        self.actor = nn.Sequential(*_layers(state_dim, n), nn.Tanh())
        self.critic = nn.Sequential(*_layers(state_dim + n, 1))
        self.optimizer = torch.optim.SGD(
            [
                {"params": self.actor.parameters(), "lr": 1e-3},
                {"params": self.critic.parameters(), "lr": 1e-2},
            ]
        )
        self.states, self.returns = _Moments(state_dim), _Moments(1)

    def act(self, state: Any) -> NDArray[Any]:
        """Return the action that is found from the mean of the actor."""
        return self.choose(state, deviation=0.0)[0]

    def choose(self, state: Any, deviation: float) -> tuple[NDArray[Any], torch.Tensor]:
        """Return an action, and the proto-action that it was found from."""
        space, s = self.block(state), self._seen(state)
        with torch.no_grad():
            mean = self.actor(s)
            proto = mean + deviation * torch.from_numpy(self.rng.normal(size=mean.shape)).float()

            def values(actions: NDArray[Any]) -> NDArray[Any]:
                a = torch.from_numpy(_scaled(space, actions))
                return self.critic(torch.cat([s.expand(len(a), -1), a], dim=1))[:, 0].numpy()

            start = built(space, proto.double().numpy())
            return anneal(space, start, values, self.rng), proto

    def learn(self, state: Any, action: Any, proto: torch.Tensor, target: torch.Tensor) -> None:
        """Descend the temporal difference, and raise what was better than expected."""
        s = self._seen(state)
        a = torch.from_numpy(_scaled(self.block(state), action))
        error = target - self.critic(torch.cat([s, a]))[0]
        likely = -((proto - self.actor(s)) ** 2).sum() / (2 * DEVIATION**2)
        loss = nn.functional.huber_loss(error, torch.zeros(())) - error.detach() * likely
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*self.actor.parameters(), *self.critic.parameters()], 1.0)
        self.optimizer.step()

    def value(self, state: Any, action: Any) -> torch.Tensor:
        with torch.no_grad():
            a = torch.from_numpy(_scaled(self.block(state), action))
            return self.critic(torch.cat([self._seen(state), a]))[0]

    def _seen(self, state: Any) -> torch.Tensor:
        return torch.from_numpy(self.states.normalised(state)).float()


def train_dnc(env: gym.Env, steps: int, seed: int) -> DNC:
    """Train for so many steps of the environment."""
    agent = DNC(env, seed)
    state, _ = env.reset(seed=seed)
    agent.states.add(state)
    action, proto = agent.choose(state, DEVIATION)
    summed = 0.0
    for _ in range(steps):
        after, reward, terminated, truncated, _ = env.step(action)
        agent.states.add(after)
        summed = DISCOUNT * summed + float(reward)
        agent.returns.add([summed])
        scaled = float(reward / agent.returns.deviation[0])
        next_action, next_proto = agent.choose(after, DEVIATION)
        ahead = 0.0 if terminated else agent.value(after, next_action)
        agent.learn(state, action, proto, torch.as_tensor(scaled + DISCOUNT * ahead))
        state, action, proto = after, next_action, next_proto
        if terminated or truncated:
            state, _ = env.reset()
            summed = 0.0
            action, proto = agent.choose(state, DEVIATION)
    return agent


class _Moments:
    """Running mean and standard deviation."""

    def __init__(self, n: int) -> None:
        self.n, self.mean, self.squares = 0, np.zeros(n), np.zeros(n)

    def add(self, x: Any) -> None:
        self.n += 1
        off = np.asarray(x, dtype=np.float64) - self.mean
        self.mean = self.mean + off / self.n
        self.squares = self.squares + off * (x - self.mean)

    @property
    def deviation(self) -> NDArray[Any]:
        spread = np.sqrt(self.squares / max(self.n, 1))
        return np.where(spread > 1e-8, spread, 1.0)

    def normalised(self, x: Any) -> NDArray[Any]:
        return np.clip((np.asarray(x, dtype=np.float64) - self.mean) / self.deviation, -10, 10)


def _layers(inputs: int, outputs: int) -> list[nn.Module]:
    widths = nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
    return [*widths, nn.Linear(128, outputs)]


def _scaled(space: ActionSpace, actions: NDArray[Any]) -> NDArray[np.float32]:
    """Return actions in [0, 1]."""
    spread = np.maximum(space.upper - space.lower, 1e-9)
    return ((actions - space.lower) / spread).astype(np.float32)
