"""Logged care management: a generator, and the schema of anyone's own data.

A row is a patient's week. The columns are in :data:`COLUMNS`; data of one's own need the same,
apart from the optional ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from milp_rl.envs.transitions import Transitions
from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.offline.tables import (
    LoggedTable,
    Schema,
    in_order,
    refuse,
    refuse_missing_columns,
    with_numbers,
)

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
_RARE_SHOWN = 5  # actions in a message


@dataclass(frozen=True, eq=False)
class CareData(LoggedTable):
    """A checked table of patients' weeks, and arrays made from it.

    Parameters
    ----------
    frame
        See :data:`COLUMNS`; rows in any order. They are sorted by patient and week: arrays made
        from the table, or given with it, have the order of :attr:`frame`. A contact may be missing
        (not documented); nothing else may.
    factors
        Levels of each factor of the actions, by default those of the simulator.
    valid
        Valid combinations, one row each, a column per factor; by default those that occur.

    Raises
    ------
    ValueError
        If a column is missing or a value is wrong: says which column and which row; if a
        combination occurs that is not valid.
    """

    factors: Mapping[str, Sequence[str]] = field(default_factory=lambda: dict(FACTORS))
    valid: pd.DataFrame | None = None

    def _checked(self, frame: pd.DataFrame) -> pd.DataFrame:
        if set(self.factors) != set(FACTORS):
            raise ValueError(f"factors must be {', '.join(FACTORS)}, got {', '.join(self.factors)}")
        known = _checked(frame, self.factors)
        if self.valid is not None:
            self._refuse_invalid(known)
        return known

    def _refuse_invalid(self, known: pd.DataFrame) -> None:
        """Raise ``ValueError`` with the action that is not valid and how often it occurs."""
        names = list(self.factors)
        assert self.valid is not None
        refuse_missing_columns(self.valid, dict.fromkeys(names, "of valid combinations"))
        allowed = set(self.valid[names].itertuples(index=False, name=None))
        counts = known[names].value_counts()
        wrong = [action for action in counts.index if action not in allowed]
        if wrong:
            raise ValueError(
                f"action ({', '.join(wrong[0])}) is not among the {len(allowed)} valid"
                f" combinations, and occurs {counts[wrong[0]]} times"
                f" ({len(wrong)} such actions)"
            )

    @classmethod
    def _with_schema(cls, frame: pd.DataFrame, schema: Schema) -> CareData:
        return cls(frame, FACTORS if schema.factors is None else schema.factors, schema.valid)

    @cached_property
    def space(self) -> FactoredActionSpace:
        """The actions: those given as valid, or those that occur."""
        seen = self.frame if self.valid is None else self.valid
        return FactoredActionSpace.from_data(self.factors, seen)

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

    def transitions(self, weights: RewardWeights | None = None) -> Transitions:
        """Return the weeks as transitions, for :func:`milp_rl.offline.fit` and Minari.

        Actions are the one-hot levels of :meth:`FactoredActionSpace.block`, which is the feasible
        set. What follows a patient's last week is not logged, so that it is left out.
        """
        patients = self.patients
        on = np.append(patients[1:] == patients[:-1], False)
        states = self.states.astype(np.float64)
        return Transitions(
            states[on],
            self.space.one_hot(self.actions)[on].astype(np.float64),
            self.rewards(weights)[on],
            np.roll(states, -1, axis=0)[on],
            np.zeros(int(on.sum()), dtype=bool),
            variables=(*FEATURES, SOCIAL_NEED),
            feasible=self.space.block(),
        )

    def of_patients(self, patients: IntArray) -> CareData:
        """Return the rows of some patients, by position."""
        rows = self.frame[np.isin(self.patients, patients)].reset_index(drop=True)
        return replace(self, frame=rows)

    def with_valid(self, space: FactoredActionSpace) -> CareData:
        """Return the table with the actions of a space as the valid ones."""
        return replace(self, valid=space.table())

    def refuse_rare(self, least: int = 1, *, whose: str = "these") -> None:
        """Raise ``ValueError`` if a valid action occurs fewer than ``least`` times.

        Says which actions, how often they occur and would have to, and about how many patients
        that takes, where an action occurs at all.
        """
        counts = np.bincount(self.actions, minlength=self.space.n_actions)
        rare = np.flatnonzero(counts < least)
        if not len(rare):
            return
        rare = rare[counts[rare].argsort(kind="stable")]
        names = [f"({', '.join(action)})" for action in self.space.decode(rare[:_RARE_SHOWN])]
        shown = [f"{name} {counts[i]}" for name, i in zip(names, rare, strict=False)][1:]
        if len(rare) > _RARE_SHOWN:
            shown.append(f"and {len(rare) - _RARE_SHOWN} more")
        n_patients, times = self.frame["patient"].nunique(), int(counts[rare[0]])
        enough = f"more than {n_patients} patients are needed, as nobody has it"
        if times:
            enough = f"about {-(-n_patients * least // times)} patients would have it so often"
        raise ValueError(
            f"action {names[0]} occurs {times} times among {whose} patients, at least {least} are"
            f" needed{'; likewise ' if shown else ''}{', '.join(shown)}: {enough}; give more"
            " patients, or valid combinations without what is rare"
        )


def generate_care_management(
    n_patients: int = 1000,
    n_weeks: int = 52,
    seed: int = 0,
    *,
    undocumented: float = _UNDOCUMENTED,
    confounding: float = 0.0,
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
    confounding
        Strength of unmeasured confounding, at least 0: the risk that usual care and outcomes follow
        is the logged one plus 0.2 times this times a standard normal number of the patient, in
        [0, 1]. Propensities are those of usual care, which knows it.
    """
    return simulate_care(
        n_patients, n_weeks, seed, undocumented=undocumented, confounding=confounding
    )[0]


def simulate_care(
    n_patients: int,
    n_weeks: int,
    seed: int,
    *,
    undocumented: float = _UNDOCUMENTED,
    confounding: float = 0.0,
) -> tuple[CareData, NDArray[np.float32]]:
    """Return what :func:`generate_care_management` does, and the states with the true risk."""
    if n_patients < 1 or n_weeks < 1 or not 0 <= undocumented < 1:
        raise ValueError(
            "n_patients and n_weeks must be at least 1 and undocumented in [0, 1), got"
            f" {n_patients}, {n_weeks} and {undocumented}"
        )
    if not 0 <= confounding < np.inf:
        raise ValueError(f"confounding must be nonnegative, got {confounding}")
    env, rng = CareManagement(n_weeks), np.random.default_rng(seed)
    unseen = 0.2 * confounding * np.random.default_rng([seed, 15]).standard_normal(n_patients)
    names = np.array(list(GROUPS))
    groups = rng.choice(names, n_patients, p=list(GROUPS.values()))
    centre = np.array([_SOCIAL_NEED[name] for name in names])[
        [list(names).index(group) for group in groups]
    ]
    state = env.enrol(np.clip(rng.normal(centre, 0.18), 0.0, 1.0), rng)
    everyone = np.arange(n_patients)
    table, weeks, hidden = env.actions.table(), [], []
    for week in range(n_weeks):
        true = state.copy()
        true[:, 0] = np.clip(state[:, 0] + unseen, 0.0, 1.0)
        probabilities = env.behaviour(true)
        drawn = draw_each(probabilities, rng)
        levels = tuple(env.actions.levels[drawn].T)
        following, outcomes = env.outcomes(true, levels, rng.random((n_patients, env.luck_dim)))
        rows = pd.DataFrame({"patient": everyone, "week": week})
        rows[[*FEATURES, SOCIAL_NEED]] = state
        rows[GROUP] = groups
        rows[list(FACTORS)] = table.iloc[drawn].to_numpy()
        rows[list(OUTCOMES)] = outcomes.astype(float)
        rows.loc[rng.random(n_patients) < undocumented, "contact_success"] = np.nan
        rows["propensity"] = probabilities[everyone, drawn]
        weeks.append(rows)
        hidden.append(true)
        state = following
        state[:, 0] = np.clip(following[:, 0] - (true[:, 0] - weeks[-1][FEATURES[0]]), 0.0, 1.0)
    frame = pd.concat(weeks, ignore_index=True)
    order = frame.sort_values(["patient", "week"]).index
    return CareData(frame.loc[order].reset_index(drop=True)), np.concatenate(hidden)[order]


def _checked(frame: pd.DataFrame, factors: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the known columns in order, sorted by patient and week, or raise ``ValueError``."""
    needed = {name: what for name, what in COLUMNS.items() if name not in _OPTIONAL}
    refuse_missing_columns(frame, needed)
    known = frame[[name for name in COLUMNS if name in frame]]
    for name in known:
        refuse(known, str(name), known[name].isna() & (name not in _MAY_MISS), "is missing")
    texts = ("patient", GROUP, *factors)
    known = with_numbers(known, (str(name) for name in known if name not in texts))
    for name in (*FEATURES, SOCIAL_NEED):
        refuse(known, name, ~known[name].between(0, 1), "is not in [0, 1]")
    for name, levels in factors.items():
        refuse(known, name, ~known[name].isin(levels), f"is not one of {', '.join(levels)}")
    for name in OUTCOMES:
        refuse(known, name, ~known[name].isin([0, 1]) & known[name].notna(), "is not 0 or 1")
    if "propensity" in known:
        values = known["propensity"]
        refuse(known, "propensity", ~((values > 0) & (values <= 1)), "is not in (0, 1]")
    by_patient = known.groupby("patient", sort=False)
    for name in (SOCIAL_NEED, GROUP):
        refuse(known, name, known[name] != by_patient[name].transform("first"), "is not constant")
    return in_order(known, "patient", "week")
