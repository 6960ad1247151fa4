"""What the decisions that Graph-Q builds leave to the optimum of their own network.

For each number of interventions and each seed (of the instance and of the training) a network is
trained: 2,000 random steps, 20 passes of pretraining, 5 episodes. In states after one random step,
decisions are built greedily and by a beam of 4, and the best one is found with proof: by
enumeration where there are at most 30,000 decisions, else as a MILP by HiGHS. Where the time limit
ends that, the best decision known stands for the best one, and the bound says what that can be at
most. Rows of graphq_exact.csv with the same interventions, channels and seed are replaced. Means
are over states.
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
from milp_rl.graphq import GraphDQN, GraphDQNConfig, GraphQValue, make_interventions

HERE = Path(__file__).parent
PRESETS = {10: "10x10", 20: "20x20", 50: "50x35"}
KEYS = ["interventions", "channels", "seed"]
MOST_LISTED = 30_000


def measure(n: int, channels: int, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    env = make_interventions(PRESETS[n], seed=seed)
    config = GraphDQNConfig(
        pretrain_epochs=arguments.epochs, episodes=arguments.episodes, channels=channels
    )
    began = time.perf_counter()
    agent = GraphDQN(env, config, seed=seed).train()
    trained = time.perf_counter() - began
    space, value = env.action_space_block(), GraphQValue(agent.network)
    rng = np.random.default_rng(1)
    count = arguments.states
    states = env.sample_next(env.start_states(rng, count), space.sample(rng, count), rng)
    inputs = states.astype(np.float64)
    greedy, beam = agent.policy(), agent.policy(width=4)
    built, wide = greedy.actions(states), beam.actions(states)
    began = time.perf_counter()
    for state in states:
        greedy.act(state)
    builder_ms = 1e3 * (time.perf_counter() - began) / count
    decisions = space.count()
    solver = mr.ArgmaxSolver(
        value,
        space,
        solver="enumeration" if decisions <= MOST_LISTED else "highs",
        time_limit=arguments.seconds,
    )
    began = time.perf_counter()
    results = [solver.solve(s, start=a) for s, a in zip(inputs, wide, strict=True)]
    exact_ms = 1e3 * (time.perf_counter() - began) / count
    proven = np.array([r.status == "optimal" for r in results])
    best, bound = np.array([(r.value, r.bound) for r in results]).T
    tolerance = np.array([r.tolerance for r in results])
    of = {"builder": built, "beam of 4": wide}
    values = {name: value.values(inputs, actions.astype(float)) for name, actions in of.items()}
    best = np.maximum(best, values["builder"])
    random = np.array([value.values(inputs, space.sample(rng, count)) for _ in range(64)])
    below = {name: best - own > tolerance for name, own in values.items()}
    gap = best - values["builder"]
    return {
        "interventions": n,
        "channels": channels,
        "seed": seed,
        "decisions": decisions,
        "neurons": sum(layer.width for layer in value.at_states(inputs[:1]).hidden),
        "training (s)": trained,
        "states": count,
        "random": random.mean(),
        "builder": values["builder"].mean(),
        "beam of 4": values["beam of 4"].mean(),
        "best": best.mean(),
        "bound": bound.mean(),
        "gap": gap.mean(),
        "gap (%)": 100 * (gap / np.abs(best)).mean(),
        "largest gap (%)": 100 * (gap / np.abs(best)).max(),
        "gap of the beam (%)": 100 * ((best - values["beam of 4"]) / np.abs(best)).mean(),
        "bound above best (%)": 100 * (np.maximum(bound - best, 0.0) / np.abs(best)).mean(),
        "proven": proven.sum(),
        "builder optimal": (proven & ~below["builder"]).sum(),
        "beam optimal": (proven & ~below["beam of 4"]).sum(),
        "builder not optimal": below["builder"].sum(),
        "beam not optimal": below["beam of 4"].sum(),
        "solver": results[0].solver,
        "time limit (s)": arguments.seconds,
        "builder (ms)": builder_ms,
        "exact (ms)": exact_ms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interventions", nargs="+", type=int, default=[10, 20, 50])
    parser.add_argument("--channels", nargs="+", type=int, default=[8, 16], help="16: the default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--states", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit of one argmax")
    parser.add_argument("--epochs", type=int, default=20, help="passes of pretraining")
    parser.add_argument("--episodes", type=int, default=5, help="episodes of training")
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.out / "graphq_exact.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=KEYS)
    runs = [
        (n, channels, seed)
        for n in arguments.interventions
        for channels in arguments.channels
        for seed in arguments.seeds
    ]
    for run in tqdm(runs):
        row = pd.DataFrame([measure(*run, arguments)])
        table = pd.concat([row, table]).drop_duplicates(KEYS).sort_values(KEYS)
        table.round(9).to_csv(path, index=False, float_format="%.6g")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
