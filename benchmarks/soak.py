"""A soak: many argmaxes in one process, by every method, printing the resident memory.

Networks change as in a training loop; the methods take turns. Memory has to stay flat.
"""

from __future__ import annotations

import argparse
import gc

import numpy as np
import torch
from memory import resident

import milp_rl as mr

METHODS = ("auto", "branch_and_bound", "enumeration", "highs", "gurobi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--solves", type=int, default=100_000)
    parser.add_argument("--reports", type=int, default=10)
    arguments = parser.parse_args()
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    budget, box = mr.BudgetTopK(12, 3), mr.Box([-1, -1], [1, 1], matrix=[[1, 1]], right=[1])
    networks = [mr.QNetwork(4, 12, (6, 6), generator=generator) for _ in range(2)]
    small = mr.QNetwork(4, 2, (6, 6), generator=generator)
    solvers = [mr.ArgmaxSolver(networks[0], budget, solver=method) for method in METHODS]
    solvers.append(mr.ArgmaxSolver(small, box))
    done, batch = 0, 20
    while done < arguments.solves:
        for k, solver in enumerate(solvers):
            results = solver.solve_batch(rng.random((batch, 4)), workers=1)
            assert all(result.status == "optimal" for result in results)
            done += batch
            if k < len(METHODS):
                solver.update(networks[rng.integers(2)])
            step = arguments.solves // arguments.reports
            if done % step < batch:
                gc.collect()
                print(f"{done:7d} argmaxes, {resident():.1f} MB", flush=True)


if __name__ == "__main__":
    main()
