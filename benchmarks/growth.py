"""How the time of an argmax grows with arms, budget, width and depth, on random networks.

Random networks are the hard case. Each point is the mean of a few states, gap 0; a method whose
mean passes the time limit is not tried on larger problems. Writes growth.csv and growth.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from methods import Solve, ours, published_style, timed
from problems import Problem, random_network
from tqdm import tqdm

import milp_rl as mr

HERE = Path(__file__).parent
METHODS: dict[str, Callable[[Problem], Solve]] = {
    "milp-rl, default": lambda p: ours(p),
    "milp-rl, branch and bound": lambda p: ours(p, solver="branch_and_bound"),
    "milp-rl, HiGHS": lambda p: ours(p, solver="highs"),
    "milp-rl, Gurobi": lambda p: ours(p, solver="gurobi"),
    "published style, gap 0": lambda p: published_style(p, 0.0),
}
SWEEPS = {
    "arms (k = 4, hidden 16-16)": [(n, n, 4, (16, 16)) for n in (10, 20, 40, 80)],
    "budget k (40 arms, hidden 16-16)": [(k, 40, k, (16, 16)) for k in (1, 2, 4, 8)],
    "width (20 arms, k = 4, two layers)": [(w, 20, 4, (w, w)) for w in (8, 16, 32, 64, 128)],
    "depth (20 arms, k = 4, width 16)": [(d, 20, 4, (16,) * d) for d in (1, 2, 3, 4)],
}


def problem(n_arms: int, k: int, hidden: tuple[int, ...], n_states: int) -> Problem:
    states = np.random.default_rng(0).integers(0, 4, size=(n_states, n_arms)) / 3.0
    network = random_network(n_arms, n_arms, hidden)
    return Problem(
        "random", "budget", n_arms, hidden, network, mr.BudgetTopK(n_arms, k), states, states
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="time limit of one argmax")
    arguments = parser.parse_args()
    rows = []
    for sweep, points in tqdm(SWEEPS.items()):
        for method, make in METHODS.items():
            for x, n_arms, k, hidden in points:
                case = problem(n_arms, k, hidden, arguments.states)
                solve = make(case)
                solve(case.states[:1], arguments.seconds)
                seconds, _ = timed(solve, case.states, arguments.seconds)
                if seconds > 0.9 * arguments.seconds:
                    break
                rows.append({"sweep": sweep, "method": method, "x": x, "ms": seconds * 1e3})
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "growth.csv", index=False)
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained", sharey=True)
    for axis, (sweep, of_sweep) in zip(axes.flat, table.groupby("sweep", sort=False), strict=True):
        for method, marker in zip(METHODS, "oPsD^", strict=True):
            line = of_sweep[of_sweep["method"] == method]
            axis.plot(line["x"], line["ms"], marker=marker, label=method)
        points = [x for x, *_ in SWEEPS[str(sweep)]]
        axis.set(xscale="log", yscale="log", xlabel=sweep, ylabel="ms per argmax")
        axis.set_xticks(points, [str(x) for x in points])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(HERE / "growth.png", dpi=130)
    print(
        table.pivot_table(index=["sweep", "x"], columns="method", values="ms", sort=False).round(1)
    )


if __name__ == "__main__":
    main()
