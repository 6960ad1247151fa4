"""Time one argmax of wide networks, of continuous boxes and of thousands of actions.

Each case runs in a process of its own on one thread; the first argmax is made from scratch, the
others by the solver that is kept. The networks over 1,000 and 10,000 actions are fitted for 300
steps to values that saturate in the chosen actions' gains; those of 256-256 have their initial
weights. Writes scale.csv.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import milp_rl as mr

HERE = Path(__file__).parent
WIDE = (256, 256)
CASES = ("14 choose 5", "20 choose 5", "box of 6", "1000 choose 50", "10000 choose 500")
STATES = 5


def fitted(n: int, k: int) -> mr.QNetwork:
    """Fit a network to values that saturate in what is chosen."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    network = mr.QNetwork(n, n, (16, 32), generator=generator)
    gains = torch.tensor(rng.random(n), dtype=torch.float32)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(300):
        states = torch.tensor(rng.integers(0, 4, (64, n)) / 3.0, dtype=torch.float32)
        actions = torch.zeros(64, n)
        actions.scatter_(1, torch.rand(64, n, generator=generator).argsort(1)[:, :k], 1.0)
        wanted = torch.tanh((actions * gains * (1 - states)).sum(1) * 4 / k) * k / 10
        loss = ((network(torch.cat([actions, states], 1)).squeeze() - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def problem(case: str) -> tuple[mr.QNetwork, mr.ActionSpace, np.ndarray]:
    """Return network, space and states of a case."""
    if case == "box of 6":
        network = mr.QNetwork(17, 6, WIDE, generator=torch.Generator().manual_seed(0))
        return network, mr.Box([-1.0] * 6, [1.0] * 6), _states(17)
    n, k = (int(word) for word in case.split(" choose "))
    if n <= 20:
        network = mr.QNetwork(17, n, WIDE, generator=torch.Generator().manual_seed(1))
        return network, mr.BudgetTopK(n, k), _states(17)
    states = np.random.default_rng(1).integers(0, 4, (STATES + 1, n)) / 3.0
    return fitted(n, k), mr.BudgetTopK(n, k), states


def _states(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(STATES + 1, size))


def measure(case: str) -> dict[str, object]:
    """Solve a case; times are of the processor, as the process has one thread."""
    network, space, states = problem(case)
    mr.argmax(mr.QNetwork(1, 2, (2,)), [0.0], mr.BudgetTopK(2, 1))  # imports what is needed
    begin, clock = time.perf_counter(), time.process_time()
    first = mr.argmax(network, states[0], space)
    scratch = time.perf_counter() - begin, time.process_time() - clock
    solver = mr.ArgmaxSolver(network, space)
    solver.solve(states[0])
    clock = time.process_time()
    results = [solver.solve(state) for state in states[1:]]
    seconds = (time.process_time() - clock) / len(results)
    return {
        "case": case,
        "way": ", ".join(sorted({r.solver for r in results})),
        "optimal": sum(r.status == "optimal" for r in (first, *results)),
        "of": len(states),
        "from scratch (s)": scratch[0],
        "from scratch (processor s)": scratch[1],
        "one state (processor s)": seconds,
        "nodes": float(np.mean([r.nodes for r in results])),
        "peak memory (MB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, help="measure one, print it as JSON")
    parser.add_argument("--out", type=Path, default=HERE / "scale.csv")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case)))
        return
    rows = []
    for case in CASES:
        command = [sys.executable, __file__, "--case", case]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        pd.DataFrame(rows).to_csv(arguments.out, index=False)
    print(pd.DataFrame(rows).round(3).to_string())


if __name__ == "__main__":
    main()
