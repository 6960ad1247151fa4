"""The three ways from a trained Q-network to its best action, side by side.

They are: the default, which needs no MILP solver; the MILP that `engine="compact"` writes as rows
for every state; and the path through an ONNX file, OMLT and Pyomo, `engine="pyomo"`, whose model
stays loaded. Each is set up once for a network and solves the same states one after another, all
to gap 0; "first (ms)" is the first solve with all that is set up then, of another state. The ways
have to agree on every value; "difference" is the largest to the first way's, relative to its mean
value. Writes engines.csv beside this file; rows of a problem that is measured again are replaced.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from problems import DOMAINS, Problem, trained
from tqdm import tqdm

import milp_rl as mr

HERE = Path(__file__).parent
LIMIT = 60.0  # seconds of one argmax


def ways() -> dict[str, dict[str, str]]:
    """Options of each way, by its name."""
    found: dict[str, dict[str, str]] = {"default": {}}
    for engine, solvers in (
        ("compact", ("highs", "gurobi")),
        ("pyomo", ("highs", "gurobi", "scip")),
    ):
        for solver in solvers:
            for formulation in ("bigm", "partition"):
                options = {"solver": solver, "engine": engine, "formulation": formulation}
                found[f"{engine}, {solver}, {formulation}"] = options
    return found


def measure(problem: Problem, way: str, states: int) -> tuple[dict[str, object], np.ndarray]:
    """Time one way on one problem; return a row and the values found."""
    began = time.perf_counter()
    solver = mr.ArgmaxSolver(problem.network, problem.space, time_limit=LIMIT, **ways()[way])
    solver.solve(problem.warm_up[0])
    first = time.perf_counter() - began
    began = time.perf_counter()
    results = [solver.solve(state) for state in problem.states[:states]]
    seconds = time.perf_counter() - began
    row = {
        "problem": problem.name,
        "way": way,
        "states": states,
        "first (ms)": 1e3 * first,
        "ms": 1e3 * seconds / states,
        "optimal": sum(result.status == "optimal" for result in results),
        "nodes": np.mean([result.nodes for result in results]),
        "solved by": results[0].solver,
    }
    return row, np.array([result.value for result in results])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domains", nargs="+", default=DOMAINS)
    parser.add_argument("--states", type=int, default=10)
    parser.add_argument("--ways", nargs="+", default=list(ways()))
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.out / "engines.csv"
    for domain in arguments.domains:
        problem = trained(domain, 20, 5, (16, 32))
        rows, values = [], []
        for way in tqdm(arguments.ways, domain):
            row, found = measure(problem, way, arguments.states)
            values.append(found)
            row["difference"] = np.abs(found - values[0]).max() / np.abs(values[0]).mean()
            if row["difference"] > 1e-6:
                raise RuntimeError(f"{way} disagrees on {problem.name}: {row}")
            rows.append(row)
        own = pd.DataFrame(rows)
        if path.exists():
            table = pd.read_csv(path)
            own = pd.concat([table[table["problem"] != problem.name], own])
        own.to_csv(path, index=False, float_format="%.6g")
    print(pd.read_csv(path).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
