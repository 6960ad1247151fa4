"""Time argmaxes over networks that are pretrained alone, which are rougher than trained ones.

Each network of 16-32 neurons is the published one, fitted to one-step rewards for 60 epochs,
without the training that follows. The states are those of an episode that plays its argmax. The
methods solve each state one after the other, in one process on one thread; all proven answers must
agree. A row of rough.csv is a method on one instance.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import milp_rl as mr
from milp_rl.dqn import DQNAgent, DQNConfig
from milp_rl.envs import make_bandit

HERE = Path(__file__).parent
PROBLEMS = (
    ("capacity", 40, 10),
    ("capacity", 100, 20),
    ("scheduling_published", 100, 20),
    ("multiple_interventions_grouped", 100, 20),
    ("path_underground", 40, 10),
    ("path_underground", 100, 20),
)
METHODS = {
    "default": "auto",
    "branch and bound": "branch_and_bound",
    "HiGHS": "highs",
    "Gurobi": "gurobi",
}
CONFIG = replace(
    DQNConfig.paper(),
    episodes=0,
    pretrain_states=200,
    pretrain_replay=1200,
    pretrain_epochs=60,
    pretrain_batch_size=256,
    pretrain_learning_rate_decay=0.93,
)


def measure(domain: str, n_arms: int, budget: int, seed: int, seconds: float) -> pd.DataFrame:
    """Time every method on the states that one network plays in one instance."""
    env = make_bandit(domain, n_arms, budget, horizon=20, seed=seed)
    agent = DQNAgent(env, CONFIG, seed=seed).train()
    network, space = agent.network, env.action_space_block()
    solvers = {
        name: mr.ArgmaxSolver(network, space, solver=solver) for name, solver in METHODS.items()
    }
    warm_up = env.informative_states(np.random.default_rng(0), 5)[-5:]
    for solver in solvers.values():  # what is compiled or set up once is not timed
        for state in warm_up:
            solver.solve(state)
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    proven: Counter[str] = Counter()
    ways: dict[str, Counter[str]] = {name: Counter() for name in METHODS}
    state, _ = env.reset(seed=1000)
    ended = False
    while not ended:
        values = []
        for name, solver in solvers.items():
            limit = None if name == "default" else seconds
            started = time.perf_counter()
            result = solver.solve(state, time_limit=limit)
            times[name].append(1e3 * (time.perf_counter() - started))
            ways[name][result.solver] += 1
            if result.status == "optimal":
                proven[name] += 1
                values.append(result.value)
            if name == "default":
                action = result.action
        np.testing.assert_allclose(values, values[0], rtol=1e-6, atol=1e-6)
        state, _, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated
    return pd.DataFrame(
        {
            "domain": domain,
            "arms": n_arms,
            "seed": seed,
            "method": name,
            "states": len(own),
            "proven": proven[name],
            "mean ms": np.mean(own),
            "median ms": np.median(own),
            "longest ms": np.max(own),
            "way": ", ".join(f"{way} {count}" for way, count in ways[name].most_common()),
        }
        for name, own in times.items()
    ).round(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=20.0, help="limit of all but the default")
    parser.add_argument("--out", type=Path, default=HERE / "rough.csv")
    parser.add_argument("--problems", type=int, nargs="+", default=list(range(len(PROBLEMS))))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", mr.ScalingWarning)
    tables = []
    cases = [(*PROBLEMS[i], seed) for i in arguments.problems for seed in arguments.seeds]
    for case in tqdm(cases):
        tables.append(measure(*case, arguments.seconds))
        pd.concat(tables).to_csv(arguments.out, index=False)
    print(pd.concat(tables).to_string(index=False))


if __name__ == "__main__":
    main()
