"""Learners from logged decisions, in navigation with many directions at once.

Each seed logs 10,000 steps of one who goes to a random neighbouring cell nine times out of ten
(:func:`milp_rl.envs.navigation.log_navigation`), every learner learns from these, and its decisions
are played: once from the corner where the logged episodes began, and from 20 random cells. Returns
are sums of rewards. Rows of offline.csv that are there already are not measured again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import milp_rl as mr
from milp_rl.dqn.normalised import NormalisedQNetwork
from milp_rl.envs import CombinatorialNavigation
from milp_rl.envs.navigation import GOAL_REWARD, log_navigation
from milp_rl.envs.transitions import Transitions
from milp_rl.offline import OfflineConfig, fit
from milp_rl.offline.additive import AdditiveQNetwork

HERE = Path(__file__).parent
KEYS = ["dimensions", "pits", "learner", "seed"]
SCENARIOS = {"10": (10, 5), "4": (4, 20)}
DISCOUNT = 0.9  # as in the authors' code
LEARNERS: dict[str, dict[str, Any]] = {
    "behaviour cloning": {"method": "bc"},
    "factored DQN": {"method": "dqn", "factored": True},
    "IQL, regression": {"method": "iql", "extraction": "regression"},
    "IQL, exact argmax": {"method": "iql"},
    "IQL, exact argmax, support": {"method": "iql", "support": "likelihood"},
    "DQN": {"method": "dqn"},
    "CQL, sampled": {"method": "cql", "pressed": "sampled"},
    "CQL, delayed maximum": {"method": "cql", "pressed": "delayed"},
    "CQL, exact maximum": {"method": "cql"},
}

# An exact argmax of 4 million actions for every state of every batch takes too long.
LEFT_OUT = {("10", "CQL, exact maximum")}


class Straight:
    """Goes straight to the goal, whatever lies between."""

    def __init__(self, env: CombinatorialNavigation) -> None:
        self.env = env

    def act(self, state: Any) -> Any:
        return self.env.towards(state, self.env.goal)


class Around:
    """Goes straight, but for a pit: then one dimension waits that leads past it."""

    def __init__(self, env: CombinatorialNavigation) -> None:
        self.env = env

    def act(self, state: Any) -> Any:
        env, other = self.env, self.env.goal
        straight = state + np.sign(other - state)
        if not env.ends(straight) or (straight == other).all():
            return env.towards(state, other)
        for lagging in range(env.dimensions):  # let one dimension wait
            cell = straight.copy()
            cell[lagging] = state[lagging]
            if not env.ends(cell) and (cell != state).any():
                return env.towards(state, cell)
        return env.towards(state, other)


def learnt(
    name: str, env: CombinatorialNavigation, logged: Transitions, seed: int, updates: int
) -> Any:
    options = dict(LEARNERS[name])
    dqn = mr.DQNConfig(
        discount=DISCOUNT, pretrain_epochs=0, weight_decay=0.01, learning_rate=1e-3, batch_size=64
    )
    network = None
    if options.pop("factored", False):
        generator = torch.Generator().manual_seed(seed)
        sizes = env.dimensions, 2 * env.dimensions
        network = NormalisedQNetwork(AdditiveQNetwork(*sizes, generator=generator))
        network.normalise(logged.states, logged.rewards, env.arm_layout)
    config = OfflineConfig(updates=updates, **options)
    return fit(
        logged,
        env.action_space_block(),
        config,
        dqn=dqn,
        network=network,
        arms=env.arm_layout,
        seed=seed,
    )


def played(env: CombinatorialNavigation, policy: Any, start: Any) -> tuple[float, str]:
    state, _ = env.reset(options={"state": start})
    total, reward, over = 0.0, 0.0, False
    while not over:
        state, reward, terminated, truncated, _ = env.step(policy.act(state))
        total += reward
        over = terminated or truncated
    ended = "goal" if reward == GOAL_REWARD else "pit"
    return total, ended if terminated else "no end"


def measure(dimensions: int, pits: int, name: str, seed: int, updates: int) -> dict[str, Any]:
    env = CombinatorialNavigation(dimensions, pits=pits)
    logged = log_navigation(env, 10_000, np.random.default_rng([seed, 1]))
    rng = np.random.default_rng(7)
    drawn = rng.integers(0, env.size, (400, dimensions))
    starts = [cell for cell in drawn if not env.ends(cell)][:20]
    began = time.perf_counter()
    if name in ("straight", "around pits"):
        policy: Any = Straight(env) if name == "straight" else Around(env)
    else:
        policy = learnt(name, env, logged, seed, updates)
    seconds = time.perf_counter() - began
    first, ended = played(env, policy, np.zeros(dimensions))
    others = [played(env, policy, start) for start in starts]
    ends = [end for _, end in others]
    return {
        "dimensions": dimensions,
        "pits": pits,
        "learner": name,
        "seed": seed,
        "updates": 0 if name in ("straight", "around pits", "behaviour cloning") else updates,
        "from the corner": first,
        "corner ended": ended,
        "from random cells": np.mean([total for total, _ in others]),
        "at the goal": ends.count("goal") / len(ends),
        "in a pit": ends.count("pit") / len(ends),
        "training (s)": seconds,
        "playing (s)": time.perf_counter() - began - seconds,
        "logged in a pit": float(np.mean(logged.rewards < -env.dimensions * env.size)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    names = ["straight", "around pits", *LEARNERS]
    parser.add_argument("--learners", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.out / "offline.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=KEYS)
    done = set(table[KEYS].itertuples(index=False, name=None))
    runs = [
        (*SCENARIOS[scenario], name, seed)
        for seed in arguments.seeds
        for name in arguments.learners
        for scenario in arguments.scenarios
        if (scenario, name) not in LEFT_OUT
    ]
    for run in tqdm([run for run in runs if run not in done]):
        row = pd.DataFrame([measure(*run, arguments.updates)])
        table = pd.concat([table, row]) if len(table) else row
        table.round(6).to_csv(path, index=False)
    groups = table.groupby(["dimensions", "pits", "learner"])
    columns = ["from the corner", "from random cells", "at the goal", "in a pit", "training (s)"]
    means, errors = groups[columns].mean(), groups[columns].sem()
    print(means.join(errors, rsuffix=" (error)").round(2).to_string())


if __name__ == "__main__":
    main()
