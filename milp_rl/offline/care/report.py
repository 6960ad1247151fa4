"""``milp-rl care report``: train on logged care, judge, audit, and allocate, on one page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from milp_rl.envs.care_management import CareManagement, RewardWeights, care_actions
from milp_rl.evaluation.ope import compare, estimate, outcome_model
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.files import check_settings, locked, write_atomically, write_json
from milp_rl.offline.allocation import Limit, allocate, allocate_greedily, parity_limits
from milp_rl.offline.audit import (
    conservatism_curve,
    estimate_propensities,
    fairness_curve,
    logged_decisions,
    mediation,
    parity_audit,
    parity_gap,
    proportional_gap,
    reward_grid,
    sensitivity,
    subgroup_values,
    window_grid,
)
from milp_rl.offline.care import charts
from milp_rl.offline.care.confounding import confounding_effect
from milp_rl.offline.care.data import CareData, generate_care_management
from milp_rl.offline.policies import PolicyConfig, WindowPolicy, train_policy
from milp_rl.reports.document import Section, save_figure, to_html, to_markdown

HOURS = {"Phone": 0.5, "Text/SMS": 0.2, "Video": 0.7, "Home Visit": 2.0}
PENALTY = 100.0
ALPHA = 0.1
_TEST_SHARE = 0.3
_LEVEL = ("modality", "Home Visit")

log = logging.getLogger(__name__)


def write_care_report(
    folder: str | Path,
    *,
    data: CareData | None = None,
    n_patients: int = 1000,
    n_weeks: int = 52,
    seed: int = 0,
    epochs: int = 30,
    grids: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Run everything on logged weeks and write one HTML page, with its tables and charts.

    Seven in ten patients train the policies, the others judge them. On simulated data the true
    values are shown too.

    Parameters
    ----------
    folder
        For ``report.html``, ``report.md``, one CSV file per table and one PNG file per chart; of
        one data set and one choice of seed and epochs.
    data
        Weeks of one's own; by default simulated ones, which are written too.
    n_patients, n_weeks, seed
        Size and seed of the simulation; the seed is also that of training and bootstraps.
    epochs
        Largest number of training epochs.
    grids
        Whether to run the grids over windows and reward weights, and of confounding: most of the
        work.
    progress
        Told what is being done.

    Returns
    -------
    pathlib.Path
        The HTML file.

    Raises
    ------
    ValueError
        If the data cannot be used, or the folder has the report of other data or settings.
    RuntimeError
        If another run is writing to the folder.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    settings = {
        "data": "simulated" if data is None else data.digest(),
        "patients": n_patients if data is None else None,
        "weeks": n_weeks if data is None else None,
        "seed": seed,
        "epochs": epochs,
    }
    with locked(folder):
        check_settings(Path(folder, "settings.json"), settings)
        write_json(Path(folder, "settings.json"), settings)
        return _write(Path(folder), data, n_patients, n_weeks, seed, epochs, grids, progress)


def _write(
    out: Path,
    data: CareData | None,
    n_patients: int,
    n_weeks: int,
    seed: int,
    epochs: int,
    grids: bool,
    progress: Callable[[str], None] | None,
) -> Path:
    say = progress or log.info
    simulated = data is None
    say("data")
    if data is None:
        data = generate_care_management(n_patients, n_weeks, seed)
        data.write(out / "data.parquet")
    everyone = data.with_valid(care_actions() if simulated else data.space)
    say("propensities")
    weeks = estimate_propensities(everyone)
    order = np.random.default_rng([seed, 14]).permutation(int(weeks.patients.max()) + 1)
    n_test = max(2, round(_TEST_SHARE * len(order)))
    train, test = weeks.of_patients(order[n_test:]), weeks.of_patients(order[:n_test])
    train.refuse_rare(whose=f"the {len(order) - n_test} training")
    page = _Page(out)
    page.add("The data", _about(weeks))

    say("policies")
    base = PolicyConfig(epochs=epochs)
    policies = {
        "behaviour cloning": train_policy(train, replace(base, method="bc"), seed=seed),
        "AWR": train_policy(train, base, seed=seed),
        "AWR, fair": train_policy(train, replace(base, fairness=PENALTY), seed=seed),
        "AWR, proportional": train_policy(
            train, replace(base, fairness=PENALTY, parity="proportional"), seed=seed
        ),
        "CQL": train_policy(train, replace(base, method="cql", conservatism=ALPHA), seed=seed),
    }
    say("outcome model")
    features = test.space.one_hot(np.arange(test.space.n_actions))
    observed = logged_decisions(test, np.full((len(test.frame), len(features)), 1 / len(features)))
    q = outcome_model(observed, features, seed=seed)
    targets = {name: policy.probabilities(test) for name, policy in policies.items()}

    say("values")
    values = _values(test, targets, q, simulated=simulated, seed=seed)
    page.add(
        "Values of the policies",
        values,
        charts.values_chart(values),
        "Mean reward of a week had the policy decided it, on patients that it was not trained on."
        f" Propensities are estimated. CQL has alpha {ALPHA:g}.",
    )
    raw = RewardWeights(1.0, 0.0, 0.0)
    uniform = np.full((len(test.frame), len(features)), 1 / len(features))
    q_raw = outcome_model(logged_decisions(test, uniform, raw), features, seed=seed)
    page.add(
        "Values by raw rewards",
        _values(test, targets, q_raw, simulated=simulated, seed=seed, weights=raw),
        text=f"The reward that is raw counts acute events alone: it is not zero in"
        f" {100 * float((test.rewards(raw) != 0).mean()):.2g}% of the weeks. The shaped one, of all"
        " other tables, adds engagement and intermediate outcomes, and is not zero in"
        f" {100 * float((test.rewards() != 0).mean()):.2g}%.",
    )
    if simulated:
        known = everyone.of_patients(order[:n_test])
        page.add(
            "Propensities as a check",
            _values(known, targets, q, simulated=True, seed=seed),
            text="The same, with the propensities that the simulator knows of its usual care.",
        )
    awr, cql = (logged_decisions(test, targets[name]) for name in ("AWR", "CQL"))
    names = ["dm", "is", "snips", "dr", "wdr", "trajectory_is", "wpdis"]
    page.add(
        "Estimators, for CQL",
        compare(cql, names, q=q, seed=seed),
        text="CQL is farthest from usual care. Estimators of a trajectory sum up the discounted"
        " rewards of all weeks; the product of all their ratios leaves next to no effective"
        " sample.",
    )
    table = sensitivity(awr, q, seed=seed)
    page.add("Sensitivity", table, charts.sensitivity_chart(table))
    table = subgroup_values(awr, q, test.groups, seed=seed)
    page.add("Subgroups", table, charts.subgroup_chart(table))

    say("fairness")
    level = test.space.has_level(*_LEVEL)
    need = test.frame[base.fairness_need].to_numpy(dtype=np.float64)
    shares = {
        "AWR": targets["AWR"],
        "AWR, fair": targets["AWR, fair"],
        "AWR, proportional": targets["AWR, proportional"],
        "behaviour cloning": targets["behaviour cloning"],
    }
    audits = {name: parity_audit(p, level, test.groups, need) for name, p in shares.items()}
    gaps = {
        name: f"{name} {100 * parity_gap(p, level, test.groups):.1f} and"
        f" {100 * proportional_gap(p, level, test.groups, need):.1f}"
        for name, p in shares.items()
    }
    ratios = {
        name: f"{name} {t['share per need'].min() / t['share per need'].max():.2f}"
        for name, t in audits.items()
    }
    page.add(
        "Parity of home visits",
        pd.concat([t.assign(policy=name) for name, t in audits.items()]),
        charts.parity_chart(audits, "home visits"),
        "Largest gap between groups in shares, and in shares above what need asks for, percentage"
        f" points: {', '.join(gaps.values())}. Least share per need over the largest:"
        f" {', '.join(ratios.values())}. Need is clinical risk. Groups differ in need: a penalty"
        " that makes shares equal moves them away from need, and the other way round.",
    )
    curve = fairness_curve(train, test, q, base=base, seed=seed)
    page.add(
        "Fairness and value",
        curve,
        charts.fairness_chart(curve),
        "Each penalty by its weight: what it does to both gaps, and to the value.",
    )
    sweep = conservatism_curve(train, test, q, base=base, seed=seed)
    page.add(
        "Conservatism of CQL",
        sweep,
        charts.conservatism_chart(sweep),
        f"All other tables have alpha {ALPHA:g}. Agreement: mean probability of what was done.",
    )
    group = str(test.frame.groupby("race_ethnicity")["social_need"].mean().idxmax())
    effects = mediation(test, targets["AWR"][:, level].sum(axis=1), group, seed=seed)
    page.add(
        "Mediation by social needs",
        effects,
        charts.mediation_chart(effects, f"share of home visits, {group} against all others"),
        "Of AWR's decisions, for the group of the largest social needs.",
    )
    outcomes = [
        mediation(test, test.frame[name].to_numpy(dtype=float), group, seed=seed).assign(
            outcome=name
        )
        for name in ("acute_event", "appointment_kept", "medication_fill")
    ]
    outcomes.append(mediation(test, test.rewards(), group, seed=seed).assign(outcome="reward"))
    page.add(
        "Mediation of outcomes by social needs",
        pd.concat(outcomes)[["outcome", "effect", "value", "low", "high"]],
        text=f"Of what happened under usual care, {group} against all others.",
    )
    if simulated and grids:
        say("confounding")
        page.add(
            "Unmeasured confounding",
            confounding_effect(seed=seed),
            text="Usual care with twice the home visits, valued while clinicians see a part of risk"
            " that is not in the data. No estimator sees it.",
        )
    if grids:
        say("windows")
        table = window_grid(train, test, q, base=base, seed=seed)
        page.add("Windows", table, charts.window_chart(table))
        say("reward weights")
        table = reward_grid(train, test, q, base=base, seed=seed)
        page.add("Reward weights", table, charts.reward_chart(table))
    if not set(test.space.factors["modality"]) <= set(HOURS):
        return page.write()  # nobody has said how many hours these modalities take
    say("population")
    table = population_table(policies["CQL"], test, seed=seed)
    page.add(
        "Decisions for a population",
        table,
        charts.population_chart(table),
        "One action, or none, for every patient of a week, by what CQL's values say it gains over"
        " the mean action: each provider has one hour for 25 patients, one patient in 50 gets a"
        " home visit, and the groups' shares of home visits are within two percentage points of"
        " everyone's.",
    )
    return page.write()


def population_table(
    policy: WindowPolicy, data: CareData, sizes: tuple[int, ...] = (50, 200, 1000), *, seed: int = 0
) -> pd.DataFrame:
    """Allocate actions to populations of several sizes, exactly, greedily, and each for itself."""
    space = data.space
    values = policy.outputs(data)
    hours = np.array([HOURS[name] for name in space.factors["modality"]])[space.levels[:, 0]]
    home = space.has_level(*_LEVEL)
    rows = []
    for size in sizes:
        drawn = np.random.default_rng([seed, size]).choice(len(values), size, replace=True)
        q = values[drawn] - values[drawn].mean(axis=1, keepdims=True)
        limits = [
            Limit(f"hours of {name}", hours * space.has_level("provider", name), size / 25)
            for name in space.factors["provider"]
        ]
        limits.append(Limit("home visits", home.astype(float), size / 50))
        limits += parity_limits("home visits", home, data.groups[drawn], 0.02)
        exact = allocate(q, limits, optional=True)
        methods = {
            "exact": exact,
            "best alone, repaired": allocate_greedily(q, limits, optional=True),
            "best alone": allocate_greedily(q, limits, optional=True, repair=False),
        }
        rows += [
            {
                "patients": size,
                "method": method,
                "value": found.value,
                "share of exact": found.value / exact.value,
                "proven gap": found.gap if method == "exact" else np.nan,
                "limits broken": len(found.violations),
                "seconds": found.seconds,
            }
            for method, found in methods.items()
        ]
    return pd.DataFrame(rows)


class _Page:
    """The sections of the report, and their files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sections: list[Section] = []

    def add(
        self, heading: str, table: pd.DataFrame, chart: Figure | None = None, text: str = ""
    ) -> None:
        name = heading.lower().replace(",", "").replace(" ", "-")
        write_atomically(self._folder / f"{name}.csv", table.to_csv(index=False).encode())
        if chart is not None:
            save_figure(chart, self._folder / f"{name}.png")
        written = table.map(_written).set_index(table.columns[0])
        drawn = () if chart is None else (f"{name}.png",)
        self._sections.append(Section(heading, text, written, drawn))

    def write(self) -> Path:
        title = "Care management"
        text = to_markdown(title, self._sections)
        write_atomically(self._folder / "report.md", text.encode())
        path = self._folder / "report.html"
        write_atomically(path, to_html(title, self._sections, self._folder).encode())
        return path


def _written(value: object) -> object:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4g}"
    return value


def _about(data: CareData) -> pd.DataFrame:
    frame = data.frame
    rows = {
        "patients": float(frame["patient"].nunique()),
        "patient-weeks": float(len(frame)),
        "actions that occur": float(data.space.n_actions),
        "of combinations": float(data.space.n_combinations),
        "weeks with a raw reward": float((frame["acute_event"] != 0).mean()),
        "weeks with a shaped reward": float((data.rewards() != 0).mean()),
        "contacts not documented": float(frame["contact_success"].isna().mean()),
        "mean shaped reward": float(data.rewards().mean()),
    }
    return pd.DataFrame({"what": list(rows), "number": list(rows.values())})


def _values(
    test: CareData,
    targets: dict[str, FloatArray],
    q: FloatArray,
    *,
    simulated: bool,
    seed: int,
    weights: RewardWeights | None = None,
) -> pd.DataFrame:
    patients = pd.Series(test.rewards(weights)).groupby(test.patients).mean().to_numpy()
    mean, error = float(patients.mean()), float(patients.std(ddof=1) / np.sqrt(len(patients)))
    first = {"policy": "behaviour (observed)", "value": mean}
    first |= {"low": mean - 1.96 * error, "high": mean + 1.96 * error}
    rows: list[dict[str, object]] = [{**first, "effective sample size": 1.0, "warning": ""}]
    for name, target in targets.items():
        found = estimate(logged_decisions(test, target, weights), "dr", q=q, seed=seed)
        rows.append(
            {
                "policy": name,
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "effective sample size": found.effective_sample_size,
                "warning": found.warning,
            }
        )
    table = pd.DataFrame(rows)
    if simulated:
        env = CareManagement(weights=weights)
        truth = env.expected_rewards(test.states)
        known = [env.behaviour(test.states), *targets.values()]
        table["true value"] = [float((p * truth).sum(axis=1).mean()) for p in known]
    return table
