"""Time single argmaxes, side by side with how it is done elsewhere.

Every method solves the same states of every problem (`problems.py`, `methods.py`), one after the
other in one process on one thread, until the states or the seconds for it are used up. All exact
answers must agree. Writes argmax.csv and argmax.png.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from methods import Answer, TooLargeError, all_methods, timed
from problems import Problem, all_problems
from tqdm import tqdm

HERE = Path(__file__).parent
PUBLISHED = "published style, gap 2%"
DEFAULT = "default, 32 states together"
SINGLE = "default, one state"


def measure(problem: Problem, seconds: float, full: bool) -> pd.DataFrame:
    """Time every method on one problem and compare their answers."""
    rows = []
    exact: dict[str, list[float]] = {}
    values: dict[str, list[float]] = {}
    for name, make in all_methods(problem, full):
        try:
            solve = make()
            # What is set up or learnt of the action set once is not timed.
            n_first = len(problem.warm_up) if name in (DEFAULT, SINGLE) else 1
            timed(solve, problem.warm_up[:n_first], seconds)
            if name == DEFAULT:
                time, answers = timed(
                    lambda _, limit, solve=solve: solve(problem.states, limit),
                    problem.states[:1],
                    seconds,
                )
            else:
                time, answers = timed(solve, problem.states, seconds)
        except TooLargeError as error:
            rows.append({"method": name, "note": str(error)[:60]})
            continue
        values[name] = [answer.value for answer in answers]
        proven = [answer.exact for answer in answers]
        if all(proven):
            exact[name] = values[name]
        rows.append(
            {
                "method": name,
                "ms": time * 1e3,
                "states": len(answers),
                "exact": all(proven),
                "way": _ways(answers),
                "note": "" if max(time, 0) < 0.99 * seconds else "stopped at the time limit",
            }
        )
    best = max(exact.values(), key=len, default=[])
    for name, found in exact.items():
        n = min(len(found), len(best))
        np.testing.assert_allclose(found[:n], best[:n], rtol=1e-6, atol=1e-6, err_msg=name)
    table = pd.DataFrame(rows)
    shortfalls = {
        name: max(np.subtract(best[: len(found)], found[: len(best)]), default=np.nan)
        for name, found in values.items()
    }
    table["worst shortfall"] = table["method"].map(shortfalls).clip(lower=0)
    for column, value in (
        ("problem", problem.name),
        ("kind", problem.kind),
        ("domain", problem.domain),
        ("arms", problem.n_arms),
        ("hidden", "-".join(map(str, problem.hidden))),
    ):
        table[column] = value
    return table


def _ways(answers: list[Answer]) -> str:
    """Say which solvers found the answers, the most frequent first."""
    counted = Counter(answer.way for answer in answers if answer.way)
    return ", ".join(way.replace("_", " ") for way, _ in counted.most_common())


def draw(table: pd.DataFrame, folder: Path) -> None:
    """Draw the times of the methods on every problem."""
    wide = table.pivot_table(index="problem", columns="method", values="ms", sort=False)
    methods = [
        w
        for w in (
            DEFAULT,
            "highs, bigm, linear bounds",
            "gurobi, bigm, linear bounds",
            PUBLISHED,
            "published style, gap 0",
            "OMLT default",
        )
        if w in wide
    ]
    figure, axes = plt.subplots(figsize=(9, 0.32 * len(wide) + 1.6), layout="constrained")
    y = np.arange(len(wide))[::-1]
    for method, marker in zip(methods, "osD^v*", strict=False):
        axes.plot(wide[method], y, marker, label=method, alpha=0.8)
    axes.set(xscale="log", xlabel="ms per argmax (log scale)", yticks=y, yticklabels=wide.index)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False)
    figure.savefig(folder / "argmax.png", dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for a method on a problem")
    parser.add_argument("--full", action="store_true", help="each formulation and bound")
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for table and plot")
    parser.add_argument(
        "--instances", type=Path, help="write the problems there, for `milp-rl compare`, and leave"
    )
    arguments = parser.parse_args()
    problems = [p for p in all_problems() if arguments.only in p.name]
    if arguments.instances is not None:
        for problem in problems:
            problem.write(arguments.instances / problem.name.replace(" ", "-"))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "argmax.csv"
    kept = pd.read_csv(file) if file.exists() else pd.DataFrame({"problem": []})
    kept = kept[~kept["problem"].isin([p.name for p in problems])]  # measured before
    order = {p.name: i for i, p in enumerate(all_problems())}
    tables = []
    for problem in tqdm(problems):
        tables.append(measure(problem, arguments.seconds, arguments.full))
        table = pd.concat([kept, *tables], ignore_index=True)
        table = table.sort_values("problem", key=lambda c: c.map(order.get), kind="stable")
        table.to_csv(file, index=False)
    draw(table, arguments.out)
    wide = table.pivot_table(index="problem", columns="method", values="ms", sort=False)
    wide["times faster"] = wide[PUBLISHED] / wide[DEFAULT]
    print(wide.round(2).to_string())


if __name__ == "__main__":
    main()
