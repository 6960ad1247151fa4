"""The time of a decision against the number of interventions: Graph-Q, exact argmax, greedy.

All networks are fitted to one-step rewards of the same 2,000 random steps (hidden 16-32 for the
plain ones, the package's default). Times are of one state alone and of 32 states together, per
state. Writes graphq.csv and graphq.png.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import milp_rl as mr
from milp_rl.baselines import GreedyArgmax
from milp_rl.dqn import DQNConfig
from milp_rl.graphq import GraphDQN, GraphDQNConfig, make_interventions

HERE = Path(__file__).parent
PRESETS = ["5x5", "8x8", "10x10", "20x20", "50x35", "100x60", "200x110"]
EXACT = "exact argmax"
STYLES = {
    "Graph-Q, greedy": ("#3f9b6f", "-"),
    "Graph-Q, beam of 4": ("#8fc9a8", "-"),
    "greedy on the Q-network": ("#7fb2d9", "-"),
    EXACT: ("#1f5a91", "-"),
}


def methods(
    preset: str, seconds: float, epochs: int
) -> tuple[Any, dict[str, Callable[[Any], Any]]]:
    """Return states, and for each method a function that decides in a batch of them."""
    env = make_interventions(preset, seed=0)
    common = {"episodes": 0, "pretrain_epochs": epochs, "expected_rewards": False}
    graph = GraphDQN(env, GraphDQNConfig(**common), seed=0).train()
    plain = mr.DQNAgent(env, like(common), seed=0).train()
    space = env.action_space_block()
    solver = mr.ArgmaxSolver(plain.network, space, time_limit=seconds)
    greedy = GreedyArgmax(plain.network, space)
    exact = lambda states: solver.solve_batch(states, workers=1)  # noqa: E731
    found = {
        "Graph-Q, greedy": graph.policy().actions,
        "Graph-Q, beam of 4": graph.policy(width=4).actions,
        "greedy on the Q-network": greedy.actions,
        EXACT: exact,
    }
    rng = np.random.default_rng(1)
    return env.sample_next(env.start_states(rng, 64), space.sample(rng, 64), rng), found


def like(common: dict[str, Any]) -> DQNConfig:
    fitted = GraphDQNConfig()
    names = ["random_steps", "pretrain_batch_size", "pretrain_learning_rate_decay"]
    return DQNConfig(**common, **{n: getattr(fitted, n) for n in names}, weight_decay=0.03)


def per_state(decide: Callable[[Any], Any], batches: list[Any], limit: float) -> float:
    """Return seconds per state, over batches until the limit is spent."""
    started, n = time.perf_counter(), 0
    for batch in batches:
        decide(batch)
        n += len(batch)
        if time.perf_counter() - started > limit:
            break
    return (time.perf_counter() - started) / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--seconds", type=float, default=10.0, help="time limit of one argmax")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the random steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for preset in tqdm(arguments.presets):
        states, found = methods(preset, arguments.seconds, arguments.epochs)
        for method, decide in found.items():
            decide(states[32:34])  # caches
            limit = 6 * arguments.seconds
            alone = per_state(decide, [states[[i]] for i in range(32)], limit)
            row = {"preset": preset, "method": method, "alone (ms)": 1e3 * alone}
            if method != EXACT or alone < arguments.seconds / 2:
                row["32 together (ms)"] = 1e3 * per_state(decide, [states[:32]], limit)
            if method == EXACT:
                solved = [decide(states[[i]])[0].status == "optimal" for i in range(4)]
                row["solved"] = f"{sum(solved)} of 4"
            rows.append(row)
    table = pd.DataFrame(rows)
    exact = table[table["method"] == EXACT].set_index("preset")["alone (ms)"]
    table["times faster than exact"] = table["preset"].map(exact) / table["alone (ms)"]
    table.to_csv(HERE / "graphq.csv", index=False)
    print(table.round(2).to_string(index=False))
    plot(table)


def plot(table: pd.DataFrame) -> None:
    figure, axes = plt.subplots(figsize=(6.6, 4.0), layout="constrained")
    sizes = [int(preset.split("x")[0]) for preset in table["preset"]]
    for method, (color, line) in STYLES.items():
        rows = table[table["method"] == method]
        x = [int(preset.split("x")[0]) for preset in rows["preset"]]
        axes.plot(x, rows["alone (ms)"], color=color, ls=line, marker="o", label=method)
        axes.plot(x, rows["32 together (ms)"], color=color, ls=":", marker=".")
    axes.plot([], [], color="#888888", ls=":", label="32 states together")
    axes.set(xscale="log", yscale="log", xlabel="interventions", ylabel="milliseconds per decision")
    axes.set_xticks(sorted(set(sizes)), [str(size) for size in sorted(set(sizes))])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "graphq.png", dpi=150)


if __name__ == "__main__":
    main()
