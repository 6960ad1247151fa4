"""Policies of service calls to mothers, and a weekly plan for millions.

``--compare N ...``: every policy on programmes of N women; SEQUOIA is trained ``--sequoia``
episodes, with argmaxes whose gap follows the error of their values (those that it plays are exact).
A row of engagement.csv is a policy on one programme: the mean share of the women who listen over 40
weeks, as `milp-rl engagement simulate` has it, and SEQUOIA's training. Programmes that are in the
file are not run again. ``--plan N ...``: a week's calls to one woman in a hundred, by Whittle
indices, in engagement_plan.csv: times of `plan_calls` alone, the peak memory of the process with
the women in it; each size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from milp_rl.baselines.engagement import cluster_indices, index_of
from milp_rl.envs.engagement import Engagement, draw_engagement
from milp_rl.offline.engagement.plan import plan_calls, plan_violations
from milp_rl.offline.engagement.report import (
    config_of_calls,
    play,
    policies_of,
    summarise,
    train_sequoia,
)

FOLDER = Path(__file__).parent
FILE = FOLDER / "engagement.csv"


def compare(n: int, seed: int, sequoia: int, episodes: int) -> pd.DataFrame:
    """Return a row for each policy of one programme."""
    torch.set_num_threads(1)
    env = Engagement(*draw_engagement(n, seed=seed))
    found = policies_of(env, seed=seed)
    seconds = np.nan
    if sequoia:
        config = config_of_calls(sequoia)
        started = time.process_time()
        found["SEQUOIA"] = train_sequoia(env, config, seed=seed)
        seconds = round(time.process_time() - started, 1)
    weeks = play(env, found, episodes, seed=seed).assign(seed=seed)
    table = summarise(weeks).drop(columns="ms")
    table.insert(0, "women", n)
    table.insert(1, "seed", seed)
    table["training episodes"] = np.where(table["policy"] == "SEQUOIA", sequoia, 0)
    table["training (processor s)"] = np.where(table["policy"] == "SEQUOIA", seconds, 0.0)
    return table.round(5)


def plan(n: int, seed: int = 0) -> dict[str, object]:
    """Plan a week of one population, in this process."""
    callers = max(3, n // 7_000)
    budget = n // 100
    programme, women = draw_engagement(
        n,
        n_callers=callers,
        calls_per_slot=max(1, round(0.6 * budget / callers)),
        budget=budget,
        n_clusters=40,
        seed=seed,
    )
    rng = np.random.default_rng([seed, 1])
    belief = np.where(rng.random(n) < 0.5, 1.0, rng.random(n))
    worth = index_of(cluster_indices(programme), belief, women.cluster)
    plan_calls(*draw_engagement(200, seed=0), np.ones(200))  # what is loaded once
    on_the_wall, processor = time.perf_counter(), time.process_time()
    found = plan_calls(programme, women, worth)
    on_the_wall, processor = time.perf_counter() - on_the_wall, time.process_time() - processor
    return {
        "women": n,
        "callers": callers,
        "calls": len(found),
        "seconds": round(on_the_wall, 1),
        "processor seconds": round(processor, 1),
        "peak memory (MB)": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "gap": f"{found.gap:.1e}",
        "violations": len(plan_violations(programme, women, found)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compare", type=int, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sequoia", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--plan", type=int, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=FILE)
    arguments = parser.parse_args()
    rows = []
    for n in arguments.plan:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(plan, (n,)))
        print(rows[-1], flush=True)
        path = arguments.out.with_name("engagement_plan.csv")
        pd.DataFrame(rows).to_csv(path, index=False)
    for n in arguments.compare:
        for seed in arguments.seeds:
            done = pd.read_csv(arguments.out) if arguments.out.exists() else pd.DataFrame()
            if len(done) and ((done["women"] == n) & (done["seed"] == seed)).any():
                continue
            table = compare(n, seed, arguments.sequoia, arguments.episodes)
            print(table.to_string(index=False), flush=True)
            done = pd.read_csv(arguments.out) if arguments.out.exists() else pd.DataFrame()
            both = pd.concat([done, table]).sort_values(["women", "seed"], kind="stable")
            both.to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
