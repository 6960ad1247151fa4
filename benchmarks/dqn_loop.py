"""Time the DQN loop: two episodes of `preset="paper"` with our argmax and with published style's.

The same agent, seed and problem (capacity, 20 arms, budget 5) twice: once with the library's
solver, once with a gurobipy model from scratch for every argmax, M = 1e5, gap 2%. Writes
dqn_loop.csv beside this file.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from methods import published_action
from problems import Problem

import milp_rl as mr
from milp_rl.dqn import choosers
from milp_rl.envs import make_bandit


class PublishedArgmax:
    """Stands in for ArgmaxSolver: every state by a gurobipy model from scratch."""

    def __init__(self, network: Any, space: mr.ActionSpace, **_: Any) -> None:
        self.space = space
        self.update(network)

    def update(self, network: Any) -> None:
        self.network = mr.to_network(network)

    def solve_batch(self, states: np.ndarray, **_: Any) -> list[mr.ArgmaxResult]:
        n = self.space.n_actions
        problem = Problem("", "", n, (), self.network, self.space, states, states)
        actions = [published_action(problem, state) for state in np.asarray(states, dtype=float)]
        nan = float("nan")
        return [
            mr.ArgmaxResult(a.astype(np.int8), nan, nan, nan, "optimal", nan, "published")
            for a in actions
        ]


def run(domain: str, episodes: int, **changes: Any) -> dict[str, float]:
    """Train for some episodes; return the seconds of the parts."""
    env = make_bandit(domain, 20, 5, seed=0)
    agent = mr.DQNAgent(env, mr.DQNConfig.paper(episodes=episodes, **changes), seed=0)
    begin = time.perf_counter()
    agent.train()
    seconds = time.perf_counter() - begin
    solves = agent.learner.greedy.solves + agent.learner.target_greedy.solves
    argmax = agent.learner.greedy.seconds + agent.learner.target_greedy.seconds
    pretraining = agent.pretrain_seconds
    return {
        "episodes (s)": seconds - pretraining,
        "of it argmaxes (s)": argmax,
        "argmaxes solved": solves,
        "ms per argmax": 1e3 * argmax / solves,
        "pretraining (s)": pretraining,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--domains", nargs="+", default=["capacity", "scheduling", "path"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for domain in arguments.domains:
        run(domain, 1, pretrain_epochs=1)  # imports and caches
        ours = run(domain, arguments.episodes)
        with patch.object(choosers, "ArgmaxSolver", PublishedArgmax):
            published = run(domain, arguments.episodes)
        ratio = published["episodes (s)"] / ours["episodes (s)"]
        rows.append({"domain": domain, "method": "milp-rl", **ours, "times faster": ratio})
        rows.append(
            {"domain": domain, "method": "published style", **published, "times faster": 1.0}
        )
    table = pd.DataFrame(rows)
    table.to_csv(Path(__file__).parent / "dqn_loop.csv", index=False)
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
