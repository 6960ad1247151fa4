"""Time one argmax over a continuous box: the default, HiGHS and Gurobi, from scratch.

Networks have random weights of He's variance, biases of a tenth; boxes are [-1, 1] to the number of
variables, with one equality on their sum in the last problem. Wall-clock seconds on one thread;
what is not proven in the limit counts as the limit, and its gap is written. Writes boxes.csv, whose
rows are not made again. `python -m benchmarks.boxes`
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd

import milp_rl as mr
from milp_rl.formulations.files import write_atomically

FILE = Path(__file__).with_suffix(".csv")
LIMIT = 30.0
SEEDS = (0, 1, 2)
SOLVERS = ("auto", "highs", "gurobi")
PROBLEMS = {
    "4 variables, 64-64": (4, (64, 64), False),
    "6 variables, 16-32": (6, (16, 32), False),
    "8 variables, 16-32": (8, (16, 32), False),
    "10 variables, 16-32": (10, (16, 32), False),
    "6 variables, 64-64": (6, (64, 64), False),
    "6 variables, 128-128": (6, (128, 128), False),
    "6 variables, 64-64, their sum is 2": (6, (64, 64), True),
}


def problem(name: str, seed: int) -> tuple[mr.Network, mr.Box]:
    """Return network and box of a problem."""
    n, hidden, equal = PROBLEMS[name]
    rng, sizes = np.random.default_rng(seed), (n, *hidden, 1)
    weights = [rng.normal(size=(b, a)) * np.sqrt(2 / a) for a, b in itertools.pairwise(sizes)]
    biases = [0.1 * rng.normal(size=b) for b in sizes[1:]]
    network = mr.Network.from_arrays(weights, biases)
    if not equal:
        return network, mr.Box([-1.0] * n, [1.0] * n)
    return network, mr.Box([-1.0] * n, [1.0] * n, matrix=[[1] * n, [-1] * n], right=[2, -2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--out", type=Path, default=FILE)
    arguments = parser.parse_args()
    rows = pd.read_csv(arguments.out).to_dict("records") if arguments.out.exists() else []
    done = {(row["problem"], row["seed"], row["solver"]) for row in rows}
    for solver in SOLVERS:  # imports and compiled loops are not counted
        network, box = problem("6 variables, 16-32", 99)
        mr.argmax(network, [], box, solver=solver)
    for name, seed, solver in itertools.product(arguments.problems, SEEDS, SOLVERS):
        if (name, seed, solver) in done:
            continue
        network, box = problem(name, seed)
        begin = time.perf_counter()
        result = mr.argmax(network, [], box, solver=solver, time_limit=LIMIT)
        row = {
            "problem": name,
            "seed": seed,
            "solver": solver,
            "way": result.solver,
            "seconds": time.perf_counter() - begin,
            "status": result.status,
            "gap": result.gap,
            "nodes": result.nodes,
            "value": result.value,
        }
        rows.append(row)
        write_atomically(arguments.out, pd.DataFrame(rows).to_csv(index=False).encode())
        print(f"{name} {seed} {solver}: {row['status']} {row['seconds']:.2f} s", flush=True)


if __name__ == "__main__":
    main()
