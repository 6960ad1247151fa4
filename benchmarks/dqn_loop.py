"""Time the DQN loop: two episodes of `DQNConfig.paper()` with our argmax and with published style.

The same agent, seed and problem (20 arms, budget 5) twice, on from the same pretrained network:
once with the library's solver, once with a gurobipy model from scratch for every argmax, M = 1e5,
gap 2%. Each domain is a pair of rows of dqn_loop.csv.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
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


def run(domain: str, episodes: int, pretrained: Path | None = None) -> dict[str, Any]:
    """Train for some episodes, on from a checkpoint if there is one; return seconds and ways."""
    env = make_bandit(domain, 20, 5, seed=0)
    changes = {} if pretrained else {"pretrain_epochs": 1}
    agent = mr.DQNAgent(env, mr.DQNConfig.paper(episodes=episodes, **changes), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        own = None if pretrained is None else Path(shutil.copy(pretrained, folder))
        agent.train(checkpoint=own, checkpoint_every=10**9)
    seconds = sum(row["seconds"] for row in agent.history)
    both = agent.learner.greedy, agent.learner.target_greedy
    solves, argmax = (sum(getattr(own, name) for own in both) for name in ("solves", "seconds"))
    ways = sum((own.answered or Counter() for own in both), Counter[str]())
    return {
        "episodes (s)": seconds,
        "of it argmaxes (s)": argmax,
        "argmaxes solved": solves,
        "ms per argmax": 1e3 * argmax / solves,
        "way": ", ".join(f"{way} {count}" for way, count in ways.most_common()),
    }


def measure(domain: str, episodes: int, folder: Path) -> list[dict[str, Any]]:
    """Return the two rows of a domain."""
    run(domain, 1)  # imports and caches
    file = folder / f"{domain}.pt"
    env = make_bandit(domain, 20, 5, seed=0)
    mr.DQNAgent(env, mr.DQNConfig.paper(episodes=0), seed=0).train(checkpoint=file)
    ours = run(domain, episodes, file)
    with patch.object(choosers, "ArgmaxSolver", PublishedArgmax):
        published = run(domain, episodes, file)
    ratio = published["episodes (s)"] / ours["episodes (s)"]
    return [
        {"domain": domain, "method": "milp-rl", **ours, "times faster": ratio},
        {"domain": domain, "method": "published style", **published, "times faster": 1.0},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=2)
    domains = ["multiple_interventions", "path", "scheduling", "capacity"]
    parser.add_argument("--domains", nargs="+", default=domains)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "dqn_loop.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for domain in arguments.domains:
            rows += measure(domain, arguments.episodes, Path(folder))
            pd.DataFrame(rows).to_csv(arguments.out, index=False)
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
