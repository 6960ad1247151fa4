"""The memory of each method: resident megabytes of a process before and after many argmaxes.

Every method runs in a process of its own. Writes memory.csv beside this file.
"""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
from methods import ours, published_style
from problems import trained

PAGE = 4096 / 2**20


def resident() -> float:
    """Megabytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def measure(case: tuple[str, int, int], method: str, n_solves: int) -> dict[str, object]:
    """Solve many states in this process, whose memory is then its own."""
    domain, n_arms, budget = case
    problem = trained(domain, n_arms, budget, (16, 32))
    at_first = resident()
    solve = (
        published_style(problem) if method == "published style" else ours(problem, solver=method)
    )
    solve(problem.states[:2], 1e3)
    loaded = resident()
    rng = np.random.default_rng(0)
    held = []
    for _ in range(2):
        for _ in range(n_solves // 2):
            solve(rng.integers(0, 4, size=(1, problem.states.shape[1])).astype(float), 1e3)
        held.append(resident())
    return {
        "problem": problem.name,
        "method": method,
        "before (MB)": at_first,
        "loaded": loaded - at_first,
        "after half": held[0] - at_first,
        "after all": held[1] - at_first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--solves", type=int, default=1000)
    arguments = parser.parse_args()
    rows = []
    for case in (("capacity", 20, 5), ("scheduling", 100, 20)):
        for method in ("auto", "branch_and_bound", "highs", "gurobi", "published style"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (case, method, arguments.solves)))
    table = pd.DataFrame(rows)
    table.to_csv(Path(__file__).parent / "memory.csv", index=False)
    print(f"{arguments.solves} argmaxes")
    print(table.round(1).to_string(index=False))


if __name__ == "__main__":
    main()
