"""One of six actions for each of many people, under 20 shared limits, by `allocate`.

Values and limits are drawn: five limits of slots, one of hours with a factor of each person, one of
a budget, one that an action is taken at least so often, and parity of two actions between six
regions, the smallest of which has 0.5% of the people. The time is that of `allocate` alone, on the
wall and of the processor; the memory is the peak of the process, q and the limits included. Each
size runs in a process of its own. "kept" is a sum over people of every limit, by other code. Writes
allocation.csv beside this file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd

from milp_rl.formulations.arrays import FloatArray
from milp_rl.offline import Limit, allocate, parity_limits


def population(n: int, seed: int) -> tuple[FloatArray, list[Limit]]:
    """Return values, people by actions, and the limits."""
    rng = np.random.default_rng(seed)
    q = 0.3 * rng.normal(size=(n, 6)) + rng.random((n, 1)) * np.linspace(0.0, 2.0, 6)
    q[:, 0] = 0.0
    limits = [Limit(f"slots {k}", np.eye(6)[k], 0.12 * n) for k in range(1, 6)]
    limits.append(Limit("hours", np.linspace(0, 1, 6), 0.25 * n, rng.gamma(2.0, 0.5, n)))
    limits.append(Limit("budget", np.array([0, 1, 2, 4, 6, 9.0]), 2.2 * n))
    limits.append(Limit("at least", -np.eye(6)[1], -float(int(0.08 * n))))
    regions = rng.choice(6, n, p=[0.4, 0.3, 0.15, 0.1, 0.045, 0.005])
    return q, limits + parity_limits("intensive", np.arange(6) >= 4, regions, 0.01)


def measure(n: int, gap: float, seed: int) -> dict[str, object]:
    """Allocate to one population, in this process."""
    q, limits = population(n, seed)
    allocate(*population(100, seed))  # what is loaded once
    on_the_wall, processor = time.perf_counter(), time.process_time()
    found = allocate(q, limits, gap=gap)
    on_the_wall, processor = time.perf_counter() - on_the_wall, time.process_time() - processor
    kept = all(
        float((limit.use[found.actions] * (1 if f is None else f)).sum())
        <= limit.most + 1e-7 * (1 + abs(limit.most))
        for limit in limits
        for f in [limit.patient_factor]
    )
    return {
        "people": n,
        "limits": len(limits),
        "seconds": round(on_the_wall, 2),
        "processor seconds": round(processor, 2),
        "peak memory (MB)": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "gap": f"{found.gap:.1e}",
        "kept": kept,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--people", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000, 2_200_000]
    )
    parser.add_argument("--gap", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    for n in arguments.people:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (n, arguments.gap, arguments.seed)))
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(Path(__file__).with_name("allocation.csv"), index=False)


if __name__ == "__main__":
    main()
