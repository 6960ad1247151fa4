"""How often do intervals of off-policy evaluation hold the true value? On 20 simulated data sets.

As in the sepsis report, usual care is estimated on the earlier stays and 450 later ones judge a
policy. Three policies are trained once, on other stays: one that doubts nothing (implicit
Q-learning, its best action 19 times in 20), the same mixed half and half with usual care, and a bad
one (linear fitted Q). Each estimator has the logged propensities, or estimated ones. Writes
ope_coverage.csv; takes about ten minutes of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from tqdm import tqdm

from milp_rl.envs.sepsis import true_value
from milp_rl.evaluation.ope import LoggedDecisions, estimate, fitted_q
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.files import write_atomically
from milp_rl.offline.sepsis.data import generate_sepsis
from milp_rl.offline.sepsis.models import ACTION_FEATURES, Behaviour, train_model
from milp_rl.offline.sepsis.value import DISCOUNT, greedy, intervals, logged_stays

HERE = Path(__file__).parent
TRAINED_ON = 10_000


Act = Callable[[FloatArray], FloatArray]


def policies(epochs: int = 10) -> dict[str, Act]:
    """Return the three target policies, of features (n, 41) to probabilities (n, 9)."""
    train, validation, _ = generate_sepsis(3000, TRAINED_ON).split()
    iql = greedy(train_model("IQL, multi-task", train, validation, epochs=epochs))
    usual = Behaviour.fit(train).probabilities
    return {
        "IQL, greedy": iql,
        "IQL, half": lambda x: 0.5 * iql(x) + 0.5 * usual(x),
        "linear fitted Q, greedy": greedy(train_model("linear fitted Q", train, validation)),
    }


def boosted_q(logged: LoggedDecisions, seed: int = 0) -> FloatArray:
    """Return Q of the target policy by fitted Q evaluation with boosted trees, shape (N, 9)."""
    model = HistGradientBoostingRegressor(
        max_iter=40, learning_rate=0.15, min_samples_leaf=50, random_state=seed
    )
    return fitted_q(logged, ACTION_FEATURES, iterations=18, model=model, seed=seed)


def rows_of(name: str, act: Act, seed: int, *, boosted: bool) -> list[dict[str, object]]:
    """Estimate one policy's value on one data set in every way."""
    train, _, test = generate_sepsis(3000, seed).split()
    target = act(test.features)
    taken = test.frame["propensity"].to_numpy()
    logged_probabilities = np.repeat(taken[:, None], 9, axis=1)
    estimated: FloatArray = Behaviour.fit(train).probabilities(test.features)
    rows = []
    for kind, probabilities in (("logged", logged_probabilities), ("estimated", estimated)):
        logged = logged_stays(test, target, probabilities)
        found = intervals(logged, seed=seed)
        for name_of in ("is", "wis", "pdis"):
            found[name_of] = estimate(logged, name_of, per="trajectory", discount=DISCOUNT)
        if boosted and kind == "estimated":
            q = boosted_q(logged, seed)
            found["wdr, boosted q"] = estimate(logged, "trajectory_wdr", q=q, discount=DISCOUNT)
        for estimator, one in found.items():
            rows.append(
                {
                    "policy": name,
                    "propensities": kind,
                    "estimator": estimator,
                    "seed": seed,
                    "value": one.value,
                    "low": one.low,
                    "high": one.high,
                    "share": one.effective_sample_size,
                    "warned": bool(one.warning),
                }
            )
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each policy, kind of propensities and estimator."""
    t = table.assign(
        held=(table["low"] <= table["truth"]) & (table["truth"] <= table["high"]),
        width=table["high"] - table["low"],
        error=table["value"] - table["truth"],
    )
    keys = ["policy", "propensities", "estimator"]
    found = t.groupby(keys, sort=False).agg(
        held=("held", "sum"),
        of=("held", "count"),
        width=("width", "mean"),
        bias=("error", "mean"),
        effective_sample=("share", "mean"),
        warned=("warned", "sum"),
        truth=("truth", "first"),
    )
    return found.round(4).reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--output", type=Path, default=HERE / "ope_coverage.csv")
    arguments = parser.parse_args()
    rows, truths = [], {}
    for name, act in policies().items():
        truths[name] = true_value(act, 40_000, seed=TRAINED_ON)[0]
        for seed in tqdm(range(arguments.sets), desc=name):
            rows += rows_of(name, act, seed, boosted=name == "IQL, greedy")
    table = pd.DataFrame(rows)
    table["truth"] = table["policy"].map(truths)
    text = summary(table).to_csv(index=False)
    write_atomically(arguments.output, text.encode())


if __name__ == "__main__":
    main()
