"""Train learners on domains for equal steps and play the same 50 episodes with each.

A row for each domain, learner and seed goes to results.csv; those that are there are skipped, so
that a run that was stopped goes on. `python -m benchmarks.learners --domain assortment --seed 0`
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch

from milp_rl.evaluation import evaluate

from . import records
from .building import SamplesOnly
from .domains import DOMAINS, Random
from .learners import LEARNERS, UNTRAINED

RESULTS = Path(__file__).parent / "results.csv"
SEEDS = range(1_000_000, 1_000_050)
"""Of the episodes played: the same for all, and none that was trained on."""
PACKAGES = ("torch", "gymnasium", "stable-baselines3", "sb3-contrib", "pyRDDLGym", "or-gymnasium")


def run(
    name: str, learner: str, seed: int, steps: int, settings: dict[str, Any], *, model: bool = False
) -> dict[str, Any]:
    """Train one learner, play, and return its row."""
    domain = DOMAINS[name]
    env = domain.make()
    started = time.process_time()
    if learner == "random":
        policy: Any = Random(env, seed)
    elif learner == "heuristic":
        policy = domain.heuristic(env)
    else:
        policy = LEARNERS[learner](
            env if model else SamplesOnly(env), domain, steps, seed, settings
        )
    seconds = time.process_time() - started
    played = evaluate(domain.make(), {learner: policy}, seeds=SEEDS)
    returns = played["reward"] * domain.horizon
    return {
        "mean": round(returns.mean(), 4),
        "standard_error": round(returns.sem(), 4),
        "episodes": len(returns),
        "cpu_seconds": round(seconds, 1),
        "ms_per_decision": round(played["ms_per_decision"].mean(), 3),
        "settings": json.dumps(settings) if settings else "",
        "versions": versions(),
    }


def measure(
    results: Path,
    name: str,
    shown: str,
    learner: str,
    seed: int,
    steps: int,
    settings: dict[str, Any],
    *,
    model: bool = False,
) -> None:
    """Add the row of a training, by the name that is shown, unless it is there."""
    key = {"domain": name, "learner": shown, "seed": seed, "steps": steps}
    if not records.has(results, **key):
        row = key | run(name, learner, seed, steps, settings, model=model)
        records.add(results, row)
        print(f"{name} {shown} {seed}: {row['mean']} ({row['cpu_seconds']} s)", flush=True)


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    learners = [*UNTRAINED, *LEARNERS]
    parser.add_argument("--domain", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--learner", nargs="+", choices=learners, default=learners)
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10_000, help="of the environment")
    parser.add_argument("--name", help="of the rows, instead of the learner's, for other settings")
    parser.add_argument(
        "--set", nargs="+", type=setting, default=[], metavar="FIELD=JSON", help="of DQNConfig"
    )
    parser.add_argument(
        "--model", action="store_true", help="let milp-rl use the model, where there is one"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = itertools.product(arguments.seed, arguments.domain, arguments.learner)
    for seed, name, learner in names:
        seed = 0 if learner == "heuristic" else seed  # it draws nothing
        steps = 0 if learner in UNTRAINED else arguments.steps
        shown = arguments.name or (f"{learner}-model" if arguments.model else learner)
        settings, model = dict(arguments.set), arguments.model
        measure(arguments.results, name, shown, learner, seed, steps, settings, model=model)


if __name__ == "__main__":
    main()
