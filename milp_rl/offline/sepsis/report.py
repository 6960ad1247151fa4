"""``milp-rl sepsis run`` and ``report``: train all models on several seeds and judge them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from milp_rl.clusters.slurm import SlurmJob
from milp_rl.clusters.tasks import run_tasks
from milp_rl.clusters.workers import Backend, Workers
from milp_rl.envs.sepsis import ACTIONS, true_value
from milp_rl.formulations.files import check_settings, locked, write_atomically, write_json
from milp_rl.offline.care.charts import plain_axes, values_chart
from milp_rl.offline.sepsis.course import choices, course_chart, said, watching
from milp_rl.offline.sepsis.data import SepsisData, generate_sepsis
from milp_rl.offline.sepsis.models import (
    MODELS,
    REGRESSIONS,
    Behaviour,
    action_shares,
    clinical_tests,
    judge,
    response,
    train_model,
)
from milp_rl.offline.sepsis.networks import QPolicy
from milp_rl.offline.sepsis.value import Values
from milp_rl.reports.document import Section, save_figure, to_html, to_markdown

CLINICIANS, RANDOM_SPLIT = "clinicians", "IQL, random split"
_TABLES = ("models", "response", "actions", "calibration", "course")
_SETTINGS = "settings.json"
_ROLLOUTS = 4000
_DISCOUNT = 0.99
_IN_A_ROW = 5  # charts of a model

log = logging.getLogger(__name__)


def run_sepsis(
    folder: str | Path,
    *,
    data: SepsisData | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    n_stays: int = 3000,
    epochs: int = 100,
    jobs: int = 1,
    backend: Backend = "loky",
    address: str | None = None,
    slurm: SlurmJob | None = None,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Train and judge every model for each seed that is not done yet.

    Parameters
    ----------
    folder
        For ``seed-N/*.csv``; seeds whose tables are there are not run again. All seeds in it are
        of the same data and settings.
    data
        Steps of one's own; by default simulated ones, drawn anew for each seed.
    seeds
        Seeds of simulation and training.
    n_stays
        Simulated stays.
    epochs
        Largest number of training epochs.
    jobs, backend, address, slurm
        What runs the seeds, see :class:`milp_rl.clusters.workers.Workers`; by default one after
        the other in this process.
    progress
        Told what is being done in this process.

    Returns
    -------
    pandas.DataFrame
        One row per seed and model, also written as ``results.csv``.

    Raises
    ------
    ValueError
        If there are no seeds, or one in the folder was run on other data or with other settings.
    ImportError
        If the backend is not installed.
    RuntimeError
        If another run is writing to the folder, or a cluster does not work.
    """
    workers = Workers(jobs, backend, address, slurm)
    if not len(seeds) or epochs < 1 or n_stays < 1:
        raise ValueError(
            f"seeds, epochs and stays must be at least 1, got {len(seeds)}, {epochs} and {n_stays}"
        )
    out = Path(folder)
    settings = {
        "data": "simulated" if data is None else data.digest(),
        "stays": n_stays if data is None else None,
        "epochs": epochs,
    }
    with locked(out):
        for path in sorted(out.glob(f"seed-*/{_SETTINGS}")):
            check_settings(path, settings)
        # The settings are written last: where they are missing, tables are not all of one run.
        files = [_SETTINGS, *(f"{name}.csv" for name in _TABLES)]
        places = {seed: out.resolve() / f"seed-{seed}" for seed in seeds}
        told = progress if workers == Workers() else None  # it may not go into another process
        tasks = {
            place.name: (place, data, seed, n_stays, epochs, settings, told)
            for seed, place in places.items()
            if not all((place / name).exists() for name in files)
        }
        run_tasks(_write_seed, tasks, out, workers)
        parts = [pd.read_csv(places[n] / "models.csv").assign(seed=n) for n in seeds]
        results = pd.concat(parts, ignore_index=True)
        write_atomically(out / "results.csv", results.to_csv(index=False).encode())
        return results


def _write_seed(
    place: Path,
    data: SepsisData | None,
    seed: int,
    n_stays: int,
    epochs: int,
    settings: dict[str, Any],
    progress: Callable[[str], None] | None,
) -> None:
    place.mkdir(parents=True, exist_ok=True)
    tables = _run_seed(data, seed, n_stays, epochs, progress or log.info)
    for name in _TABLES:
        text = tables[name].to_csv(index=False)
        write_atomically(place / f"{name}.csv", text.encode())
    write_json(place / _SETTINGS, settings)


def _run_seed(
    data: SepsisData | None, seed: int, n_stays: int, epochs: int, say: Callable[[str], None]
) -> dict[str, pd.DataFrame]:
    rollouts = _ROLLOUTS if data is None else 0
    say(f"seed {seed}: data")
    steps = generate_sepsis(n_stays, seed) if data is None else data
    train, validation, test = steps.split()
    behaviour = Behaviour.fit(train)
    rows = [_clinicians(test, behaviour, rollouts, seed)]
    responses, actions, courses = [], [], []
    watched = watching(validation, behaviour, rollouts // 2, seed)
    for name in [*MODELS, *REGRESSIONS, RANDOM_SPLIT]:
        say(f"seed {seed}: {name}")
        changes: dict[str, Any] = {}
        if name in MODELS:  # the whole course is shown
            changes = {"epochs": epochs, "patience": epochs, "evaluate": watched}
        elif name == RANDOM_SPLIT:
            changes = {"epochs": epochs}
        judged, by = test, behaviour
        if name == RANDOM_SPLIT:
            learn, check, judged = steps.split("random", seed=seed)
            by = Behaviour.fit(learn)
            values = train_model("IQL, multi-task", learn, check, seed=seed, **changes)
        else:
            values = train_model(name, train, validation, seed=seed, **changes)
        if name in MODELS and isinstance(values, QPolicy):
            seen = pd.DataFrame(values.course).dropna(subset="predicted")
            courses.append(seen.assign(model=name))
        is_q = name != "behaviour cloning"
        row = judge(values, judged, by, is_q=is_q, n_rollouts=rollouts, seed=seed)
        rows.append({"model": name, **row})
        responses.append(response(values, test).assign(model=name))
        actions.append(_actions(values, test).assign(model=name))
    return {
        "models": pd.DataFrame(rows),
        "response": pd.concat(responses),
        "actions": pd.concat(actions),
        "calibration": behaviour.calibration(test),
        "course": pd.concat(courses),
    }


def _clinicians(test: SepsisData, behaviour: Behaviour, rollouts: int, seed: int) -> dict[str, Any]:
    discounted = test.rewards * _DISCOUNT ** test.frame["step"].to_numpy()
    returns = np.bincount(test.stays, discounted)
    mean, error = float(returns.mean()), float(returns.std(ddof=1) / np.sqrt(len(returns)))
    row: dict[str, Any] = {
        "model": CLINICIANS,
        "WDR": mean,
        "low": mean - 1.96 * error,
        "high": mean + 1.96 * error,
        **clinical_tests(behaviour.probabilities, test, actions=test.actions),
        "agreement": 1.0,
    }
    if rollouts:
        value, error, survival = true_value(None, rollouts, seed=seed)
        row |= {"true value": value, "true error": error, "survival": survival}
    return row


def _actions(values: Values, test: SepsisData) -> pd.DataFrame:
    shares = action_shares(values, test)
    return pd.DataFrame(
        [
            {"vasopressor": v, "fluid": f, "share": shares[i, j]}
            for i, v in enumerate(ACTIONS.factors["vasopressor"])
            for j, f in enumerate(ACTIONS.factors["fluid"])
        ]
    )


def write_sepsis_report(folder: str | Path) -> Path:
    """Write ``report.md``, ``report.html`` and charts from what :func:`run_sepsis` left.

    Raises
    ------
    ValueError
        If there is nothing to report.
    """
    out = Path(folder)
    if not (out / "results.csv").exists():
        raise ValueError(f"{out} has no results.csv: run `milp-rl sepsis run {out}` first")
    results = pd.read_csv(out / "results.csv")
    order = [CLINICIANS, *MODELS, *REGRESSIONS, RANDOM_SPLIT]
    warned = results["warning"].fillna("") != ""
    counted = results.assign(**{"WDR warned of": np.where(warned, 1.0, 0.0)})
    mean = counted.groupby("model").mean(numeric_only=True).loc[order].drop(columns="seed")
    seeds = list(results["seed"].unique())
    read = {
        name: pd.concat(
            [pd.read_csv(out / f"seed-{n}" / f"{name}.csv").assign(seed=n) for n in seeds],
            ignore_index=True,
        )
        for name in ("response", "actions", "calibration", "course")
    }
    charts = {
        "values": values_chart(
            mean.reset_index().rename(columns={"model": "policy", "WDR": "value"}),
            "discounted return (weighted doubly robust, 95% interval)",
        ),
        "response": _response_chart(read["response"], order),
        "actions": _actions_chart(read["actions"], order),
        "calibration": _calibration_chart(read["calibration"].drop(columns="seed")),
        "course": course_chart(read["course"]),
    }
    played = "; true value: by playing the policy in the simulator."
    if "true value" not in results:
        played = "."
    sections = [
        Section(
            "Models",
            f"Means over {results['seed'].nunique()} seeds, on the last 15% of admissions. WDR:"
            " weighted doubly robust estimate of the discounted return, with the mean of its 95%"
            " intervals, and in how many seeds they are warned of, as the effective sample is below"
            " 5% of the stays; FQE and DRL: fitted Q evaluation and double reinforcement learning"
            f"{played} Networks are those of the highest"
            " lower bound of FQE on validation stays. Clinical tests: more vasopressor at lower"
            " pressure, more fluid at higher lactate, and diversity (7 to 9 actions, entropy above"
            " 1.5).",
            _text(mean),
            ("values.png",),
        )
    ]
    if "true value" in results:
        sections += [_verdict(results), _coverage(results)]
    sections += [
        Section(
            "Course of learning",
            said(read["course"]),
            choices(read["course"]).round(3).set_index("model"),
            ("course.png",),
        ),
        Section(
            "Clinical response",
            "Mean preferred dose while pressure, or lactate, is set and the rest left as it is.",
            charts=("response.png",),
        ),
        Section("Actions used", "Share of each action, %.", charts=("actions.png",)),
        Section("Calibration of the estimated behaviour policy", charts=("calibration.png",)),
    ]
    for name, chart in charts.items():
        save_figure(chart, out / f"{name}.png")
    title = "Sepsis"
    write_atomically(out / "report.md", to_markdown(title, sections).encode())
    path = out / "report.html"
    write_atomically(path, to_html(title, sections, out).encode())
    return path


def _verdict(results: pd.DataFrame) -> Section:
    """Say which of the things that should hold do, by seed."""
    rows = []
    for seed, of_seed in results.groupby("seed"):
        by_model = of_seed.set_index("model")
        ours = by_model.loc["IQL, multi-task"]
        value = ours["true value"]
        rows.append(
            {
                "seed": seed,
                "not below clinicians": value >= by_model.loc[CLINICIANS, "true value"],
                "not below Double DQN": value >= by_model.loc["Double DQN", "true value"],
                "clinical tests": f"{ours['clinical tests']:.0f} of 3",
                "actions used": f"{ours['actions used']:.0f}",
                "entropy": f"{ours['entropy']:.2f}",
                "true value in the WDR interval": ours["low"] <= value <= ours["high"],
            }
        )
    table = pd.DataFrame(rows).set_index("seed")
    return Section("IQL, multi-task, seed by seed", table=table)


def _coverage(results: pd.DataFrame) -> Section:
    """Say how often the estimates of all models can be relied on."""
    models = results[results["model"] != CLINICIANS]
    truth = models["true value"]
    held = {}
    for name, low, high in (
        ("WDR", "low", "high"),
        ("FQE", "FQE low", "FQE high"),
        ("DRL", "DRL low", "DRL high"),
    ):
        held[name] = (models[low] <= truth) & (truth <= models[high])
    table = pd.DataFrame(held).groupby(models["model"]).sum().astype(int)
    table["of"] = models.groupby("model").size()
    counts = ", ".join(f"{name} {int(one.sum())} of {len(models)}" for name, one in held.items())
    share = models["effective sample size"].mean()
    text = (
        f"How often the 95% intervals hold the true value: {counts}. The effective sample of WDR is"
        f" {share:.1%} of the stays of the test data on average: where it is a few stays, a"
        " bootstrap knows too little of the weights' tails, and the intervals are too narrow."
    )
    return Section("What the intervals hold", text, table)


def _response_chart(table: pd.DataFrame, order: list[str]) -> Figure:
    kinds = list(dict.fromkeys(table["what"]))
    figure, grid = plain_axes(11.5, 4.2, len(kinds))
    for axes, kind in zip(grid, kinds, strict=True):
        rows = table[table["what"] == kind]
        for model in [m for m in order if m in set(rows["model"])]:
            line = rows[rows["model"] == model].groupby("at")["level"].mean()
            bold = model == "IQL, multi-task"
            axes.plot(line.index, line, label=model, lw=2.5 if bold else 1.2)
        axes.set(xlabel=kind.split(" by ")[1], ylabel=f"mean level of {kind.split(' by ')[0]}")
    grid[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _actions_chart(table: pd.DataFrame, order: list[str]) -> Figure:
    models = [m for m in order if m in set(table["model"])]
    columns = min(_IN_A_ROW, len(models))
    lines = -(-len(models) // columns)
    figure, grid = plain_axes(2.2 * columns, 2.3 * lines, columns, lines)
    doses = ACTIONS.factors["vasopressor"]
    for axes in grid[len(models) :]:
        axes.set_axis_off()
    for axes, model in zip(grid, models, strict=False):
        rows = table[table["model"] == model]
        shares = rows.pivot_table(values="share", index="vasopressor", columns="fluid")
        shares = shares.loc[doses, doses]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=0.6, origin="lower")
        for (i, j), share in np.ndenumerate(shares.to_numpy()):
            on = "white" if share > 0.35 else "black"
            axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=on)
        axes.set_xticks(range(3), doses, fontsize=7)
        axes.set_yticks(range(3), doses, fontsize=7)
        axes.set_title(model, fontsize=8)
        axes.set_xlabel("fluid", fontsize=7)
    for axes in grid[::columns]:
        axes.set_ylabel("vasopressor", fontsize=7)
    return figure


def _calibration_chart(table: pd.DataFrame) -> Figure:
    mean = table.groupby("bin").mean()
    figure, (axes,) = plain_axes(4.0, 3.6)
    axes.plot(mean["predicted"], mean["observed"], marker="o", color="#1f5a91")
    top = float(mean.to_numpy().max())
    axes.plot([0, top], [0, top], color="#9d9d9d", ls="--", lw=1)
    axes.set(xlabel="predicted probability", ylabel="observed share")
    return figure


def _text(mean: pd.DataFrame) -> pd.DataFrame:
    return mean.map(lambda v: "" if np.isnan(v) else f"{v:.3g}")
