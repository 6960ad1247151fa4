"""The learners by name: each is trained for a number of steps and returns its policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

import milp_rl as mr
from milp_rl.baselines.actor_critic import ActorCritic, ActorCriticConfig

from .domains import Domain, Policy

Train = Callable[[gym.Env, Domain, int, int, dict[str, Any]], Policy]


def _milp_rl(
    env: gym.Env, domain: Domain, steps: int, seed: int, settings: dict[str, Any]
) -> Policy:
    """`DQNAgent` with its defaults, but for the settings, which are fields of its configuration."""
    return mr.DQNAgent(env, mr.DQNConfig(**settings), seed=seed).learn(steps)


def _ppo(env: gym.Env, domain: Domain, steps: int, seed: int, settings: dict[str, Any]) -> Policy:
    from .peers import ppo

    return ppo(env, steps, seed, bits=True)


def _scores(
    env: gym.Env, domain: Domain, steps: int, seed: int, settings: dict[str, Any]
) -> Policy:
    from .peers import ppo

    return ppo(env, steps, seed, bits=False)


def _maskable(
    env: gym.Env, domain: Domain, steps: int, seed: int, settings: dict[str, Any]
) -> Policy:
    from .peers import maskable_ppo

    return maskable_ppo(env, steps, seed)


def _dnc(env: gym.Env, domain: Domain, steps: int, seed: int, settings: dict[str, Any]) -> Policy:
    return ActorCritic(env, ActorCriticConfig(steps=steps), seed=seed).train()


LEARNERS: dict[str, Train] = {
    "milp-rl": _milp_rl,
    "ppo": _ppo,
    "ppo-scores": _scores,
    "maskable-ppo": _maskable,
    "dnc": _dnc,
}
UNTRAINED = ("random", "heuristic")
