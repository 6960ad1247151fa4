"""The environments that learners are compared on, each with its heuristic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from milp_rl.baselines import MyopicPolicy
from milp_rl.baselines.assortment import BestAssortment
from milp_rl.envs import DynamicAssortment, make_bandit
from milp_rl.formulations.spaces.base import ActionSpace


class Policy(Protocol):
    def act(self, state: Any) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Domain:
    """An environment by how it is made, and what people in the field would do there."""

    make: Callable[[], gym.Env]
    horizon: int
    heuristic: Callable[[gym.Env], Policy]
    rule: str
    """The heuristic in words."""


class Random:
    """Draws feasible actions to which nothing can be added."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        self.block = env.get_wrapper_attr("action_space_block")
        self.rng = np.random.default_rng(seed)

    def act(self, state: Any) -> NDArray[Any]:
        space: ActionSpace = self.block(state)
        return space.sample(self.rng, 1, maximal=space.binary)[0]


def _bandit(domain: str, n_arms: int, budget: int) -> Domain:
    return Domain(
        lambda: make_bandit(domain, n_arms, budget, seed=0),
        20,
        MyopicPolicy,
        "the best expected reward of the next step, exactly",
    )


def _competition(name: str) -> Domain:
    def make() -> gym.Env:
        from .competition import competition_env

        return competition_env(name)

    def heuristic(env: gym.Env) -> Policy:
        from .competition import COMPETITION

        return COMPETITION[name][-1](env)

    return Domain(make, 40, heuristic, RULES[name])


def _inventory() -> gym.Env:
    from .inventory import Inventory

    return Inventory()


def _timed_inventory() -> gym.Env:
    from .inventory import Timed

    return Timed()


def _mean_demand(env: gym.Env) -> Policy:
    from .inventory import MeanDemand

    return MeanDemand(env)


RULES = {
    "sysadmin20": "reboot those that are down",
    "sysadmin50": "reboot those that are down",
    "life30": "set the cells that add most to those alive in 4 steps without noise",
    "tamarisk16": "eradicate in invaded reaches, most first, then restore empty slots",
    "advising30": "take needed courses whose prerequisites are passed",
    "wildfire72": "put out burning targets, then the burning cells next to most targets",
}

DOMAINS: dict[str, Domain] = {name: _competition(name) for name in RULES}
DOMAINS["assortment"] = Domain(
    DynamicAssortment, 80, BestAssortment, "the best expected revenue of the next customer"
)
DOMAINS["inventory"] = Domain(_inventory, 30, _mean_demand, "order the mean demand of each stage")
DOMAINS["inventory_timed"] = Domain(
    _timed_inventory, 30, _mean_demand, "order the mean demand of each stage"
)
for _n, _b in ((20, 5), (40, 10), (100, 20)):
    for _domain in ("multiple_interventions", "path", "scheduling", "capacity"):
        DOMAINS[f"{_domain}{_n}"] = _bandit(_domain, _n, _b)
