"""What unmeasured confounding does to every estimator, on simulated care.

Clinicians see more than what is logged. With a strength c of
:func:`~milp_rl.offline.care.data.generate_care_management`, the risk that usual care and outcomes
follow is the logged one plus 0.2 c u, u standard normal, constant for a patient and not in the
data: sicker patients get more care and do worse, and no estimator can tell that from the care.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from milp_rl.envs.care_management import CareManagement, care_actions
from milp_rl.evaluation.ope import LoggedDecisions, compare, outcome_model, propensity_model
from milp_rl.formulations.arrays import FloatArray
from milp_rl.offline.care.data import simulate_care

ESTIMATORS = ("dm", "is", "snips", "dr", "wdr")


def intensive(states: FloatArray) -> FloatArray:
    """Return a policy to value: usual care with twice the home visits, shape (N, 97)."""
    env = CareManagement()
    home = env.actions.has_level("modality", "Home Visit")
    probabilities = env.behaviour(states) * np.where(home, 2.0, 1.0)
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def confounding_effect(
    strengths: Sequence[float] = (0.0, 1.0, 2.0),
    *,
    n_patients: int = 200,
    n_weeks: int = 15,
    seed: int = 0,
    n_bootstraps: int = 200,
) -> pd.DataFrame:
    """Value :func:`intensive` by every estimator per decision, with confounding of each strength.

    Returns
    -------
    pandas.DataFrame
        A row for each strength, kind of propensities (estimated from what is logged, or those of
        the simulator, which know what is not) and estimator: value, interval, true value, bias, and
        whether the interval holds.
    """
    env, space = CareManagement(), care_actions()
    rows = []
    for strength in strengths:
        data, hidden = simulate_care(
            n_patients, n_weeks, seed, undocumented=0.0, confounding=strength
        )
        states = data.states.astype(np.float64)
        target = intensive(states)
        truth = float((target * env.expected_rewards(hidden)).sum(axis=1).mean())
        actions = space.encode(data.frame)
        estimated = propensity_model(data.states, actions, data.patients)
        taken = estimated[np.arange(len(actions)), actions]
        known = data.propensities
        assert known is not None
        logged = LoggedDecisions(
            states,
            actions,
            data.rewards(),
            taken,
            target,
            data.patients,
            data.frame["week"].to_numpy(),
        )
        q = outcome_model(logged, space.one_hot(np.arange(97)), folds=2, seed=seed)
        for kind, propensities in (("estimated", taken), ("simulator's", known)):
            logged = replace(logged, propensities=propensities)
            found = compare(logged, list(ESTIMATORS), q=q, n_bootstraps=n_bootstraps, seed=seed)
            found = found[["estimator", "value", "low", "high"]].assign(**{"true value": truth})
            found["bias"] = found["value"] - truth
            found["holds"] = (found["low"] <= truth) & (truth <= found["high"])
            found.insert(0, "propensities", kind)
            found.insert(0, "strength", strength)
            rows.append(found)
    return pd.concat(rows, ignore_index=True)
