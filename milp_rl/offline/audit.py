"""What to ask of a learned policy: is its value robust, for whom, and is it fair.

Every function returns a table; :mod:`milp_rl.offline.care.charts` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from milp_rl.envs.care_management import RewardWeights
from milp_rl.evaluation.ope import LoggedDecisions, estimate, propensity_model
from milp_rl.formulations.arrays import FloatArray
from milp_rl.offline.care.data import CareData
from milp_rl.offline.limits import each_group, group_labels, level_mask
from milp_rl.offline.policies import Parity, PolicyConfig, WindowPolicy, train_policy

_BOOTSTRAPS = 400


def logged_decisions(
    data: CareData, target: FloatArray, rewards: RewardWeights | None = None
) -> LoggedDecisions:
    """Return a table's weeks with a target policy, shape (N, n_actions), for evaluation.

    Raises
    ------
    ValueError
        If the table has no propensities.
    """
    if data.propensities is None:
        raise ValueError(
            "the table has no column 'propensity': milp_rl.offline.audit.estimate_propensities adds"
            " one"
        )
    return LoggedDecisions(
        data.states.astype(np.float64),
        data.actions,
        data.rewards(rewards),
        data.propensities,
        target,
        data.frame["patient"].to_numpy(),
        data.frame["week"].to_numpy(),
    )


def estimate_propensities(data: CareData) -> CareData:
    """Return a table with the propensities that cross-fitted logistic regression estimates.

    They take the place of those that are logged: what a simulator knows of its own usual care is a
    check, not what anyone's data have.
    """
    probabilities = propensity_model(data.states, data.actions, data.patients)
    taken = probabilities[np.arange(len(probabilities)), data.actions]
    return replace(data, frame=data.frame.assign(propensity=taken))


def sensitivity(
    logged: LoggedDecisions,
    q: FloatArray,
    *,
    biases: Sequence[float] = (-0.1, -0.05, 0.0, 0.05, 0.1),
    noises: Sequence[float] = (0.0, 0.1, 0.25, 0.5),
    truncations: Sequence[float | None] = (None, 20.0, 10.0, 5.0, 2.0),
    seed: int = 0,
) -> pd.DataFrame:
    """Estimate the doubly robust value with one thing wrong at a time.

    Parameters
    ----------
    logged, q
        The decisions and their outcome model.
    biases
        Added to the outcome model.
    noises
        Standard deviation of errors of the propensities' logarithms.
    truncations
        Largest ratios.
    seed
        Seed of the errors.
    """
    rng = np.random.default_rng([seed, 12])
    rows: list[tuple[str, float, LoggedDecisions, FloatArray, float | None]] = []
    for bias in biases:
        rows.append(("outcome model's bias", bias, logged, q + bias, None))
    for noise in noises:
        errors = np.empty(len(logged))  # each row's own, wherever it stands
        errors[logged.order(trajectories=False)] = np.exp(noise * rng.normal(size=len(logged)))
        wrong = replace(logged, propensities=np.clip(logged.propensities * errors, 1e-9, 1.0))
        rows.append(("propensities' noise", noise, wrong, q, None))
    for truncation in truncations:
        limit = np.inf if truncation is None else truncation
        rows.append(("truncation of ratios", limit, logged, q, truncation))
    return pd.DataFrame(
        [
            {"what": what, "by": by, **_row(decisions, model, truncation, seed)}
            for what, by, decisions, model, truncation in rows
        ]
    )


def subgroup_values(
    logged: LoggedDecisions, q: FloatArray, groups: ArrayLike, *, seed: int = 0
) -> pd.DataFrame:
    """Estimate the doubly robust value in each group, beside what was observed there.

    Raises
    ------
    ValueError
        If a group is missing.
    """
    labels = group_labels(groups, len(logged))
    rows = []
    for group in each_group(labels):
        inside = labels == group
        part = logged.rows(inside)
        rows.append(
            {
                "group": group,
                "patients": part.n_trajectories,
                "observed": float(part.rewards.mean()),
                **_row(part, q[inside], None, seed),
            }
        )
    return pd.DataFrame(rows)


def parity_audit(
    target: FloatArray, level: ArrayLike, groups: ArrayLike, need: ArrayLike
) -> pd.DataFrame:
    """Compare a level's share between groups, as it is and in proportion to need.

    Parameters
    ----------
    target
        Probabilities of actions, shape (N, A).
    level
        Which actions have the level, shape (A,), boolean or 0 and 1.
    groups, need
        Group and need of each row, shape (N,), no group missing; need nonnegative.

    Returns
    -------
    pandas.DataFrame
        One row per group: the mean probability of the level, its difference to everyone's
        (demographic parity), mean need, and share divided by need (need-proportional parity).

    Raises
    ------
    ValueError
        If a level is neither 0 nor 1, or a group is missing.
    """
    share = _shares(target, level)
    labels = group_labels(groups, len(target))
    frame = pd.DataFrame({"group": labels, "share": share, "need": np.asarray(need)})
    table = frame.groupby("group").mean().reset_index()
    table.insert(2, "difference", table["share"] - share.mean())
    table["share per need"] = table["share"] / table["need"]
    return table


def parity_gap(target: FloatArray, level: ArrayLike, groups: ArrayLike) -> float:
    """Return the largest difference between two groups' shares of a level; see parity_audit."""
    share = pd.Series(_shares(target, level)).groupby(group_labels(groups, len(target))).mean()
    return float(share.max() - share.min())


def _shares(target: FloatArray, level: ArrayLike) -> FloatArray:
    """Return the probability of a level in each row, shape (N,)."""
    return np.asarray(target[:, level_mask(level, target.shape[1])].sum(axis=1))


def proportional_gap(
    target: FloatArray, level: ArrayLike, groups: ArrayLike, need: ArrayLike
) -> float:
    """Return the largest difference between two groups in shares above what need asks for.

    What need asks for is everyone's share times the group's mean need over everyone's: 0 if shares
    are in proportion to need.
    """
    table = parity_audit(target, level, groups, need)
    share = float(_shares(target, level).mean())
    above = table["share"] - share * table["need"] / float(np.asarray(need).mean())
    return float(above.max() - above.min())


def mediation(
    data: CareData, outcome: ArrayLike, group: str, *, n_bootstraps: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Split a group's difference in an outcome into what goes through social needs and the rest.

    Linear mediation (Baron and Kenny 1986): the total effect is the difference of means, the direct
    one what is left with the same social needs, the indirect one their difference.

    Parameters
    ----------
    data
        The weeks.
    outcome
        Shape (N,).
    group
        The group compared with all others.
    n_bootstraps, seed
        Bootstrap samples of the confidence intervals, over patients, and their seed.
    """
    member = (data.groups == group).astype(float)
    if not 0 < member.mean() < 1:
        raise ValueError(f"nobody, or everybody, is {group!r}")
    patients = data.patients
    columns = np.column_stack([member, data.states[:, -1], np.asarray(outcome, dtype=float)])
    counts = np.bincount(patients).astype(float)
    means = np.stack([np.bincount(patients, c) / counts for c in columns.T], axis=1)

    def effects(rows: FloatArray) -> tuple[float, float, float]:
        g, mediator, y = rows.T
        total = float(y[g > 0.5].mean() - y[g < 0.5].mean())
        design = np.column_stack([np.ones(len(g)), g, mediator])
        direct = float(np.linalg.lstsq(design, y, rcond=None)[0][1])
        return total, direct, total - direct

    rng = np.random.default_rng([seed, 13])
    samples: list[tuple[float, float, float]] = []
    while len(samples) < n_bootstraps:
        rows = means[rng.integers(len(means), size=len(means))]
        if 0 < rows[:, 0].mean() < 1:
            samples.append(effects(rows))
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    names = ["total", "direct", "through social needs"]
    return pd.DataFrame({"effect": names, "value": effects(means), "low": low, "high": high})


def fairness_curve(
    train: CareData,
    test: CareData,
    q: FloatArray,
    weights: Sequence[float] = (0.0, 1.0, 10.0, 100.0),
    *,
    base: PolicyConfig | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Train AWR with each weight of both fairness penalties; return gaps of both and values.

    ``parity gap`` is :func:`parity_gap`, ``proportional gap`` is :func:`proportional_gap` by
    ``base.fairness_need``. ``q`` is the outcome model of the test patients, shape (N, n_actions).
    """
    config = PolicyConfig() if base is None else base
    need = test.frame[config.fairness_need].to_numpy(dtype=np.float64)
    level = test.space.has_level(config.fairness_factor, config.fairness_level)
    parities: tuple[Parity, ...] = ("demographic", "proportional")
    rows: list[dict[str, object]] = []
    for weight in weights:
        for parity in parities:
            if weight == 0 and rows:  # no penalty is the same whichever it is
                continue
            policy = train_policy(train, replace(config, fairness=weight, parity=parity), seed=seed)
            target = policy.probabilities(test)
            rows.append(
                {
                    "parity": parity if weight else "none",
                    "penalty": weight,
                    "parity gap": parity_gap(target, level, test.groups),
                    "proportional gap": proportional_gap(target, level, test.groups, need),
                    **_value(test, policy, target, config.rewards, q, seed),
                }
            )
    return pd.DataFrame(rows)


def conservatism_curve(
    train: CareData,
    test: CareData,
    q: FloatArray,
    weights: Sequence[float] = (0.0, 0.03, 0.1, 0.3, 1.0),
    *,
    base: PolicyConfig | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Train CQL with each alpha; return values, and how far decisions are from usual care.

    ``agreement`` is the mean probability of what was done (``q``: see fairness_curve).
    """
    config = replace(PolicyConfig() if base is None else base, method="cql", fairness=0.0)
    rows = []
    for weight in weights:
        policy = train_policy(train, replace(config, conservatism=weight), seed=seed)
        target = policy.probabilities(test)
        agreement = float(target[np.arange(len(target)), test.actions].mean())
        value = _value(test, policy, target, config.rewards, q, seed)
        rows.append({"conservatism": weight, **value, "agreement": agreement})
    return pd.DataFrame(rows)


def window_grid(
    train: CareData,
    test: CareData,
    q: FloatArray,
    windows: Sequence[int] = (2, 4, 6, 8),
    *,
    base: PolicyConfig | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Train AWR on windows of different length; return values (``q``: see fairness_curve)."""
    config = PolicyConfig() if base is None else base
    rows = []
    for window in windows:
        policy = train_policy(train, replace(config, window=window), seed=seed)
        value = _value(test, policy, policy.probabilities(test), config.rewards, q, seed)
        rows.append({"window": window, **value})
    return pd.DataFrame(rows)


def reward_grid(
    train: CareData,
    test: CareData,
    q: FloatArray,
    engagement: Sequence[float] = (0.0, 0.15, 0.3, 0.6),
    intermediate: Sequence[float] = (0.0, 0.25, 0.5, 1.0),
    *,
    base: PolicyConfig | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Train AWR on each pair of reward weights; value all by the standard weights."""
    config = PolicyConfig() if base is None else base
    rows = []
    for e in engagement:
        for i in intermediate:
            shaped = replace(config, rewards=RewardWeights(1.0, e, i))
            policy = train_policy(train, shaped, seed=seed)
            value = _value(test, policy, policy.probabilities(test), config.rewards, q, seed)
            rows.append({"engagement": e, "intermediate": i, **value})
    return pd.DataFrame(rows)


def _row(
    logged: LoggedDecisions, q: FloatArray, truncation: float | None, seed: int
) -> dict[str, float | str]:
    found = estimate(logged, "dr", q=q, truncation=truncation, n_bootstraps=_BOOTSTRAPS, seed=seed)
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "effective sample size": found.effective_sample_size,
        "warning": found.warning,
    }


def _value(
    test: CareData,
    policy: WindowPolicy,
    target: FloatArray,
    rewards: RewardWeights,
    q: FloatArray,
    seed: int,
) -> dict[str, float | str]:
    """Value a policy on other patients; both must know the same actions."""
    if policy.space.levels.tolist() != test.space.levels.tolist():
        raise ValueError("training and test patients must have the same valid actions")
    return _row(logged_decisions(test, target, rewards), q, None, seed)
