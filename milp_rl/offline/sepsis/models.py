"""The models compared on sepsis, and how each is judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from milp_rl.envs.sepsis import ACTIONS, FEATURES, true_value
from milp_rl.evaluation.outcome_models import predict_all
from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.suggestions import unknown
from milp_rl.offline.sepsis.data import SepsisData
from milp_rl.offline.sepsis.iql import Evaluate, IQLConfig, predicted_return, train_q
from milp_rl.offline.sepsis.networks import QPolicy
from milp_rl.offline.sepsis.value import (
    Values,
    greedy,
    intervals,
    logged_stays,
)

PRESSURES, LACTATES = np.linspace(45, 90, 10), np.linspace(0.8, 6.0, 10)
_RHO = 0.7
ACTION_FEATURES = np.concatenate([np.eye(9), ACTIONS.levels], axis=1)
_USED, _LEAST_ACTIONS, _LEAST_ENTROPY = 0.005, 7, 1.5

MODELS: dict[str, dict[str, Any]] = {
    "IQL, multi-task": {},
    "IQL, Kostrikov et al.": {"method": "iql"},
    "IQL, no further tasks": {"pressure_weight": 0.0, "lactate_weight": 0.0},
    "IQL, no entropy bonus": {"entropy_weight": 0.0},
    "Double DQN": {"method": "double_dqn"},
    "Dueling + CQL": {"method": "dueling_cql"},
}
REGRESSIONS = ("linear fitted Q", "boosted fitted Q", "behaviour cloning")


@dataclass(frozen=True, eq=False)
class Behaviour:
    """Usual care, estimated by logistic regression."""

    model: Any

    @classmethod
    def fit(cls, data: SepsisData) -> Behaviour:
        """Fit a multinomial logistic regression of the actions on the features."""
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        return cls(model.fit(data.features, data.actions))

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Return the probabilities of the nine actions, shape (n, 9), none below 1e-3."""
        table = np.full((len(features), 9), 1e-3)
        table[:, self.model.classes_] += self.model.predict_proba(features)
        return np.asarray(table / table.sum(axis=1, keepdims=True))

    def calibration(self, data: SepsisData, bins: int = 10) -> pd.DataFrame:
        """Compare predicted with observed shares, over all actions, by bins of prediction."""
        predicted = self.probabilities(data.features)
        taken = np.eye(9)[data.actions]
        edges = np.quantile(predicted, np.linspace(0, 1, bins + 1))
        which = np.clip(np.searchsorted(edges, predicted.ravel(), side="right") - 1, 0, bins - 1)
        frame = pd.DataFrame(
            {"bin": which, "predicted": predicted.ravel(), "observed": taken.ravel()}
        )
        return frame.groupby("bin").mean().reset_index()


def fitted_q_iteration(
    data: SepsisData,
    kind: Literal["linear", "boosted"],
    *,
    discount: float = 0.99,
    iterations: int = 18,
    seed: int = 0,
) -> Values:
    """Fit Q by repeated regressions on r + gamma max Q (Ernst, Geurts and Wehenkel, JMLR 2005).

    Parameters
    ----------
    data
        Logged steps.
    kind
        A ridge regression for each action, or boosted trees on features and action.
    discount, iterations, seed
        Gamma, regressions (the horizon is 18), and seed of the trees.
    """
    x, actions, goes_on = data.features, data.actions, data.goes_on
    following = np.concatenate([x[1:], x[:1]])
    ahead = np.zeros(len(x))
    values: Values
    for _ in range(iterations):
        wanted = data.rewards + discount * goes_on * ahead
        if kind == "linear":
            ridge = make_pipeline(StandardScaler(), Ridge(1.0))
            one = [clone(ridge).fit(x[actions == a], wanted[actions == a]) for a in range(9)]
            values = _per_action(one)
        else:
            trees = HistGradientBoostingRegressor(
                max_iter=60, learning_rate=0.15, min_samples_leaf=50, random_state=seed
            )
            trees.fit(np.concatenate([x, ACTION_FEATURES[actions]], axis=1), wanted)
            values = JointValues(trees)
        ahead = values(following).max(axis=1)
    return values


def _per_action(models: list[Any]) -> Values:
    return lambda x: np.stack([model.predict(x) for model in models], axis=1)


@dataclass(frozen=True, eq=False)
class JointValues:
    """Values of the nine actions by one regression on features and action.

    Parameters
    ----------
    model
        Fitted; its inputs are [features, one-hot action, levels of vasopressor and fluid]. A tree
        model can be put into a MILP of one's own (:func:`milp_rl.add_network`).
    """

    model: Any

    def __call__(self, features: FloatArray) -> FloatArray:
        """Return the values, shape (n, 9)."""
        return predict_all(self.model, features, ACTION_FEATURES)


def train_model(
    name: str,
    train: SepsisData,
    validation: SepsisData,
    *,
    seed: int = 0,
    log_file: str | Path | None = None,
    evaluate: Evaluate | None = None,
    **changes: Any,
) -> Values:
    """Train a model by its name in :data:`MODELS` or :data:`REGRESSIONS`.

    Parameters
    ----------
    name
        The model.
    train, validation, seed, log_file, evaluate
        As for :func:`milp_rl.offline.sepsis.iql.train_q`.
    **changes
        Parameters of :class:`milp_rl.offline.sepsis.iql.IQLConfig`.
    """
    if name == "linear fitted Q":
        return fitted_q_iteration(train, "linear")
    if name == "boosted fitted Q":
        return fitted_q_iteration(train, "boosted", seed=seed)
    if name == "behaviour cloning":
        return Behaviour.fit(train).probabilities
    if name not in MODELS:
        raise ValueError(unknown("model", name, [*MODELS, *REGRESSIONS]))
    config = IQLConfig(**{**MODELS[name], **changes})
    return train_q(train, validation, config, seed=seed, log_file=log_file, evaluate=evaluate)


def response(values: Values, data: SepsisData, n: int = 400) -> pd.DataFrame:
    """Return mean preferred doses while pressure, or lactate, is set and the rest left as it is.

    Returns
    -------
    pandas.DataFrame
        ``what``, ``at``, and ``level``: vasopressor as pressure falls, fluid as lactate rises.
    """
    base = data.features[:: max(1, len(data.frame) // n)]
    rows = []
    for what, column, factor, grid in (
        ("vasopressor by pressure", "mean_blood_pressure", 0, PRESSURES),
        ("fluid by lactate", "lactate", 1, LACTATES),
    ):
        for at in grid:
            x = base.copy()
            x[:, FEATURES.index(column)] = at
            level = ACTIONS.levels[values(x).argmax(axis=1), factor].mean()
            rows.append({"what": what, "at": at, "level": level})
    return pd.DataFrame(rows)


def diversity(actions: IntArray) -> dict[str, Any]:
    """Return how many actions are used, each in more than 1 step of 200, and their entropy."""
    shares = np.bincount(actions, minlength=9) / len(actions)
    used = shares[shares > 0]
    return {
        "actions used": int((shares > _USED).sum()),
        "entropy": float(-(used * np.log(used)).sum()),
    }


def clinical_tests(
    values: Values, data: SepsisData, *, actions: IntArray | None = None
) -> dict[str, Any]:
    """Judge a model clinically.

    More vasopressor as pressure falls and more fluid as lactate rises (rank correlations of at
    least 0.7 in size), and diversity: seven to nine actions used, with an entropy above 1.5.

    Parameters
    ----------
    values
        The model.
    data
        Steps.
    actions
        What was done in them; by default the best actions by the model.

    Returns
    -------
    dict
        The two correlations, actions used, entropy, and how many of the three tests are passed.
    """
    table = response(values, data)
    found = {}
    for what, rows in table.groupby("what"):
        constant = rows["level"].nunique() == 1
        found[str(what)] = 0.0 if constant else float(spearmanr(rows["at"], rows["level"])[0])
    done = values(data.features).argmax(axis=1) if actions is None else actions
    spread = diversity(done)
    pressure, lactate = found["vasopressor by pressure"], found["fluid by lactate"]
    diverse = spread["actions used"] >= _LEAST_ACTIONS and spread["entropy"] > _LEAST_ENTROPY
    passed = int(pressure <= -_RHO) + int(lactate >= _RHO) + int(diverse)
    return {
        "rank, pressure": pressure,
        "rank, lactate": lactate,
        "clinical tests": passed,
        **spread,
    }


def judge(
    values: Values,
    test: SepsisData,
    behaviour: Behaviour,
    *,
    is_q: bool = True,
    n_rollouts: int = 4000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return everything that is reported of a model.

    Parameters
    ----------
    values
        The model.
    test
        Stays that it was not trained on, the latest ones.
    behaviour
        The estimated policy of usual care.
    is_q
        Whether the values are of returns, so that over-estimation can be shown.
    n_rollouts
        Episodes in the simulator for the true value; 0 for data that are not simulated.
    seed
        Seed of rollouts and bootstraps.
    """
    act = greedy(values)
    row: dict[str, Any] = {
        **off_policy_value(act(test.features), test, behaviour, seed=seed),
        **clinical_tests(values, test),
        "agreement": float((values(test.features).argmax(axis=1) == test.actions).mean()),
    }
    if isinstance(values, QPolicy):
        row["predicted return"] = predicted_return(values, test)
    elif is_q:
        first = test.frame["step"].to_numpy() == 0
        row["predicted return"] = float(values(test.features)[first].max(axis=1).mean())
    if n_rollouts:
        mean, error, survival = true_value(act, n_rollouts, seed=seed)
        row |= {"true value": mean, "true error": error, "survival": survival}
    return row


def off_policy_value(
    target: FloatArray, test: SepsisData, behaviour: Behaviour, *, seed: int = 0
) -> dict[str, Any]:
    """Estimate the return of a policy, with intervals.

    Returns
    -------
    dict
        Weighted doubly robust value (``WDR``), with ``low``, ``high``, ``effective sample size``
        and ``warning``; and by fitted Q evaluation (``FQE``) and double reinforcement learning with
        state-action weights (``DRL``), each with its bounds and warning. Q and the weights are
        linear in features of the state and the doses.
    """
    logged = logged_stays(test, target, behaviour.probabilities(test.features))
    row: dict[str, Any] = {}
    for name, one in intervals(logged, ("wdr", "fqe", "drl"), seed=seed).items():
        prefix = "" if name == "wdr" else f"{name.upper()} "
        row |= {name.upper(): one.value, f"{prefix}low": one.low, f"{prefix}high": one.high}
        row[f"{prefix}warning"] = one.warning
        if name == "wdr":
            row["effective sample size"] = one.effective_sample_size
    return row


def action_shares(values: Values, test: SepsisData) -> NDArray[np.float64]:
    """Return how often each action is best, vasopressor by fluid, shape (3, 3)."""
    best = values(test.features).argmax(axis=1)
    return (np.bincount(best, minlength=9) / len(best)).reshape(3, 3)
