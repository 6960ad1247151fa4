"""Logged care management: a generator, and the schema of anyone's own data.

A row is a patient's week. The columns are in :data:`COLUMNS`; data of one's own need the same,
apart from the optional ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from milp_rl.envs.care_management import (
    FACTORS,
    FEATURES,
    OUTCOMES,
    SOCIAL_NEED,
    CareManagement,
    RewardWeights,
)
from milp_rl.envs.factored_actions import FactoredActionSpace
from milp_rl.envs.sampling import draw_each
from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.offline.tables import LoggedTable, in_order, refuse, refuse_missing_columns

GROUP = "race_ethnicity"
GROUPS = {"White": 0.45, "Black": 0.25, "Hispanic": 0.22, "Asian or other": 0.08}
_SOCIAL_NEED = {"White": 0.33, "Black": 0.5, "Hispanic": 0.48, "Asian or other": 0.38}
_UNDOCUMENTED = 0.08

COLUMNS = {
    "patient": "who, any value",
    "week": "0, 1, ... without gaps for each patient",
    **dict.fromkeys(FEATURES, "in [0, 1]"),
    SOCIAL_NEED: "in [0, 1], constant for a patient",
    GROUP: "any value, constant for a patient",
    **{name: f"one of {', '.join(levels)}" for name, levels in FACTORS.items()},
    **dict.fromkeys(OUTCOMES, "0 or 1"),
    "propensity": "optional: the probability of the action when it was taken, in (0, 1]",
}
_OPTIONAL = ("propensity",)
_MAY_MISS = ("contact_success",)


@dataclass(frozen=True, eq=False)
class CareData(LoggedTable):
    """A checked table of patients' weeks, and arrays made from it.

    Parameters
    ----------
    frame
        See :data:`COLUMNS`; rows in any order. They are sorted by patient and week: arrays made
        from the table, or given with it, have the order of :attr:`frame`. A contact may be missing
        (not documented); nothing else may.

    Raises
    ------
    ValueError
        If a column is missing or a value is wrong: says which column and which row.
    """

    @staticmethod
    def _checked(frame: pd.DataFrame) -> pd.DataFrame:
        return _checked(frame)

    @cached_property
    def space(self) -> FactoredActionSpace:
        """The actions, valid if they occur."""
        return FactoredActionSpace.from_data(FACTORS, self.frame)

    @cached_property
    def actions(self) -> IntArray:
        """Number of each row's action in :attr:`space`."""
        return self.space.encode(self.frame)

    @property
    def states(self) -> NDArray[np.float32]:
        """The five features and the social needs, shape (N, 6)."""
        return self.frame[[*FEATURES, SOCIAL_NEED]].to_numpy(dtype=np.float32)

    @property
    def patients(self) -> IntArray:
        """Position of each row's patient, 0, 1, ..."""
        return np.asarray(pd.factorize(self.frame["patient"])[0])

    @property
    def groups(self) -> NDArray[np.str_]:
        """Demographic group of each row."""
        return self.frame[GROUP].to_numpy(dtype=str)

    @property
    def propensities(self) -> FloatArray | None:
        """Logged probabilities of the actions, if there are any."""
        if "propensity" not in self.frame:
            return None
        return self.frame["propensity"].to_numpy(dtype=np.float64)

    def rewards(self, weights: RewardWeights | None = None) -> FloatArray:
        """Return shaped rewards; a contact that is not documented counts as the mean of the rest.

        Parameters
        ----------
        weights
            Weights of the parts; by default 1, 0.3 and 0.5.
        """
        outcomes = self.frame[list(OUTCOMES)].astype(float)
        outcomes["contact_success"] = outcomes["contact_success"].fillna(
            outcomes["contact_success"].mean()
        )
        return (RewardWeights() if weights is None else weights).of(outcomes.to_numpy())

    def of_patients(self, patients: IntArray) -> CareData:
        """Return the rows of some patients, by position."""
        return CareData(self.frame[np.isin(self.patients, patients)].reset_index(drop=True))


def generate_care_management(
    n_patients: int = 1000, n_weeks: int = 52, seed: int = 0, *, undocumented: float = _UNDOCUMENTED
) -> CareData:
    """Simulate usual care and log it, with its propensities.

    Groups differ in their social needs, and through them in risk and engagement; usual care does
    not look at the group. About one contact in twelve is not documented.

    Parameters
    ----------
    n_patients, n_weeks
        Size, each at least 1. All 97 actions occur in the default size.
    seed
        Seed of everything.
    undocumented
        Share of contacts that are missing, in [0, 1).
    """
    if n_patients < 1 or n_weeks < 1 or not 0 <= undocumented < 1:
        raise ValueError(
            "n_patients and n_weeks must be at least 1 and undocumented in [0, 1), got"
            f" {n_patients}, {n_weeks} and {undocumented}"
        )
    env, rng = CareManagement(n_weeks), np.random.default_rng(seed)
    names = np.array(list(GROUPS))
    groups = rng.choice(names, n_patients, p=list(GROUPS.values()))
    centre = np.array([_SOCIAL_NEED[name] for name in names])[
        [list(names).index(group) for group in groups]
    ]
    state = env.enrol(np.clip(rng.normal(centre, 0.18), 0.0, 1.0), rng)
    everyone = np.arange(n_patients)
    table, weeks = env.actions.table(), []
    for week in range(n_weeks):
        probabilities = env.behaviour(state)
        drawn = draw_each(probabilities, rng)
        levels = tuple(env.actions.levels[drawn].T)
        following, outcomes = env.outcomes(state, levels, rng.random((n_patients, env.luck_dim)))
        rows = pd.DataFrame({"patient": everyone, "week": week})
        rows[[*FEATURES, SOCIAL_NEED]] = state
        rows[GROUP] = groups
        rows[list(FACTORS)] = table.iloc[drawn].to_numpy()
        rows[list(OUTCOMES)] = outcomes.astype(float)
        rows.loc[rng.random(n_patients) < undocumented, "contact_success"] = np.nan
        rows["propensity"] = probabilities[everyone, drawn]
        weeks.append(rows)
        state = following
    frame = pd.concat(weeks).sort_values(["patient", "week"], ignore_index=True)
    return CareData(frame)


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the known columns in order, sorted by patient and week, or raise ``ValueError``."""
    needed = {name: what for name, what in COLUMNS.items() if name not in _OPTIONAL}
    refuse_missing_columns(frame, needed)
    known = frame[[name for name in COLUMNS if name in frame]]
    for name in known:
        refuse(known, str(name), known[name].isna() & (name not in _MAY_MISS), "is missing")
    for name in (*FEATURES, SOCIAL_NEED):
        values = pd.to_numeric(known[name], errors="coerce")
        refuse(known, name, ~values.between(0, 1), "is not in [0, 1]")
    for name, levels in FACTORS.items():
        refuse(known, name, ~known[name].isin(levels), f"is not one of {', '.join(levels)}")
    for name in OUTCOMES:
        refuse(known, name, ~known[name].isin([0, 1]) & known[name].notna(), "is not 0 or 1")
    if "propensity" in known:
        values = pd.to_numeric(known["propensity"], errors="coerce")
        refuse(known, "propensity", ~((values > 0) & (values <= 1)), "is not in (0, 1]")
    by_patient = known.groupby("patient", sort=False)
    for name in (SOCIAL_NEED, GROUP):
        refuse(known, name, known[name] != by_patient[name].transform("first"), "is not constant")
    return in_order(known, "patient", "week")
