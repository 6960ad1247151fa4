"""The course of learning: what a method predicts, by epoch, beside what its policy is worth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from milp_rl.envs.sepsis import OUTCOME, true_value
from milp_rl.offline.care.charts import plain_axes
from milp_rl.offline.sepsis.data import SepsisData
from milp_rl.offline.sepsis.iql import Evaluate
from milp_rl.offline.sepsis.models import Behaviour
from milp_rl.offline.sepsis.networks import QPolicy
from milp_rl.offline.sepsis.value import greedy, intervals, logged_stays

_LINES = {"predicted": "#c2565b", "true value": "black", "WDR": "#1f5a91", "FQE": "#3f9b6f"}


def watching(validation: SepsisData, behaviour: Behaviour, rollouts: int, seed: int) -> Evaluate:
    """Return what to look at in the course of training.

    Parameters
    ----------
    validation
        Stays to evaluate on.
    behaviour
        The estimated policy of usual care.
    rollouts
        Episodes in the simulator for the true value; 0 for data that are not simulated.
    seed
        Seed of rollouts and bootstraps.
    """
    probabilities = behaviour.probabilities(validation.features)

    def evaluate(policy: QPolicy) -> dict[str, float]:
        act = greedy(policy)
        logged = logged_stays(validation, act(validation.features), probabilities)
        wdr = intervals(logged, ("wdr",), n_bootstraps=200, seed=seed)["wdr"]
        row = {"WDR": wdr.value, "WDR low": wdr.low, "WDR high": wdr.high}
        row["effective sample size"] = wdr.effective_sample_size
        if rollouts:
            row["true value"] = true_value(act, rollouts, seed=seed)[0]
        return row

    return evaluate


def choices(course: pd.DataFrame) -> pd.DataFrame:
    """Return what three ways of choosing an epoch take, by model, in the mean over seeds.

    Parameters
    ----------
    course
        The epochs that were looked at: ``seed``, ``model``, ``epoch``, ``total``, ``predicted``,
        ``FQE low`` and, if known, ``true value``.
    """
    rows = []
    for (seed, model), own in course.groupby(["seed", "model"], sort=False):
        taken = {
            "value on validation": int(own["FQE low"].to_numpy().argmax()),
            "validation loss": int(own["total"].to_numpy().argmin()),
            "last epoch": int(own["epoch"].to_numpy().argmax()),
        }
        known = ["predicted", *(["true value"] if "true value" in own else [])]
        for how, at in taken.items():
            row = {name: float(own[name].to_numpy()[at]) for name in known}
            epoch = int(own["epoch"].to_numpy()[at]) + 1
            rows.append({"model": model, "chosen by": how, "seed": seed, "epoch": epoch, **row})
    table = pd.DataFrame(rows).groupby(["model", "chosen by"], sort=False).mean()
    return table.drop(columns="seed").reset_index()


def said(course: pd.DataFrame) -> str:
    """Say in words what the last epochs show."""
    last = choices(course).query("`chosen by` == 'last epoch'").set_index("model")
    above = last[last["predicted"] > OUTCOME].index
    text = (
        "By epoch: the return that the network predicts for its decisions at admission, and what"
        " these decisions are worth, by WDR and FQE on validation stays"
        f"{' and in the simulator' if 'true value' in course else ''}. No return is above"
        f" {OUTCOME:g}."
    )
    if len(above):
        text += f" In the last epoch more than that is predicted by {', '.join(map(str, above))}."
    if "true value" in last:
        gap = (last["predicted"] - last["true value"]).sort_values(ascending=False)
        model = gap.index[0]
        text += (
            f" The largest over-estimation in the last epoch is that of {model}: predicted"
            f" {last['predicted'][model]:.2f}, true {last['true value'][model]:.2f}."
        )
    return text


def course_chart(course: pd.DataFrame) -> Figure:
    """Draw predicted, true, WDR and FQE by epoch, a panel for each model."""
    models = list(dict.fromkeys(course["model"]))
    figure, grid = plain_axes(3.6 * len(models), 3.8, len(models))
    lowest = float(np.nanmin([course[name].min() for name in _LINES if name in course]))
    highest = float(np.nanmax([course[name].max() for name in _LINES if name in course]))
    for axes, model in zip(grid, models, strict=True):
        mean = course[course["model"] == model].groupby("epoch").mean(numeric_only=True)
        for name, color in _LINES.items():
            if name in mean:
                axes.plot(mean.index + 1, mean[name], color=color, label=name, lw=2)
        axes.fill_between(
            mean.index + 1, mean["FQE low"], mean["FQE high"], color=_LINES["FQE"], alpha=0.15
        )
        axes.axhline(OUTCOME, color="#9d9d9d", ls="--", lw=1)
        axes.set_title(model)
        axes.set(xlabel="epoch", ylim=(min(lowest, 0.0) - 1, max(highest, OUTCOME) + 1))
    grid[0].set_ylabel("discounted return")
    grid[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
