"""Logged sepsis care: a generator, the schema of anyone's own data, and splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from milp_rl.envs.sampling import draw_each
from milp_rl.envs.sepsis import ACTIONS, FEATURES, SepsisCohort
from milp_rl.envs.transitions import Transitions
from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.offline.tables import (
    LoggedTable,
    in_order,
    refuse,
    refuse_missing_columns,
    with_numbers,
)

Split = Literal["temporal", "random"]
COLUMNS = {
    "stay": "who, any value",
    "admission": "when the stay began, a number, constant for a stay",
    "step": "0, 1, ... without gaps for each stay",
    **dict.fromkeys(FEATURES, "a finite number"),
    "vasopressor": "0, 1 or 2",
    "fluid": "0, 1 or 2",
    "reward": "a finite number",
    "propensity": "optional: the probability of the action when it was taken, in (0, 1]",
}
SHARES = (0.7, 0.15, 0.15)


@dataclass(frozen=True, eq=False)
class SepsisData(LoggedTable):
    """A checked table of patients' steps of four hours.

    Parameters
    ----------
    frame
        See :data:`COLUMNS`; rows in any order. They are sorted by stay and step: arrays made from
        the table, or given with it, have the order of :attr:`frame`. A stay ends with its last row.

    Raises
    ------
    ValueError
        If a column is missing or a value is wrong: says which column and which row.
    """

    def _checked(self, frame: pd.DataFrame) -> pd.DataFrame:
        return _checked(frame)

    @property
    def features(self) -> FloatArray:
        """Shape (N, 41)."""
        return self.frame[list(FEATURES)].to_numpy(dtype=np.float64)

    @property
    def actions(self) -> IntArray:
        """Numbers 0..8: vasopressor level times three plus fluid level, shape (N,)."""
        return (3 * self.frame["vasopressor"] + self.frame["fluid"]).to_numpy(dtype=np.intp)

    @property
    def rewards(self) -> FloatArray:
        """Shape (N,)."""
        return self.frame["reward"].to_numpy(dtype=np.float64)

    @property
    def stays(self) -> IntArray:
        """Position of each row's stay."""
        return np.asarray(pd.factorize(self.frame["stay"])[0])

    @property
    def goes_on(self) -> BoolArray:
        """Whether the stay goes on in the next row."""
        stays = self.stays
        return np.append(stays[1:] == stays[:-1], False)

    def transitions(self) -> Transitions:
        """Return the steps as transitions, for :func:`milp_rl.offline.fit` and Minari.

        Actions are one-hot, shape (N, 9), and any of the nine is feasible; what follows the last
        step of a stay, which is terminated, is written as that step's own features.
        """
        x = self.features
        following = np.where(self.goes_on[:, None], np.roll(x, -1, axis=0), x)
        return Transitions(
            x,
            np.eye(ACTIONS.n_actions)[self.actions],
            self.rewards,
            following,
            ~self.goes_on,
            variables=FEATURES,
            feasible=BudgetTopK(ACTIONS.n_actions, 1, exactly=True),
        )

    def split(
        self, by: Split = "temporal", *, shares: tuple[float, ...] = SHARES, seed: int = 0
    ) -> tuple[SepsisData, ...]:
        """Split by stays, earliest admissions first, or at random.

        Parameters
        ----------
        by
            ``"temporal"``: every stay of a part is admitted before all of the next part, so that
            nothing of the future is learnt from; ``"random"`` to show the difference.
        shares
            Shares of the stays in each part, summing to 1.
        seed
            Seed of the random split.
        """
        if abs(sum(shares) - 1) > 1e-9 or min(shares) <= 0:
            raise ValueError(f"shares must be positive and sum to 1, got {shares}")
        admitted = self.frame.groupby("stay", sort=False)["admission"].first()
        if by == "temporal":
            order = admitted.sort_values(kind="stable").index
        elif by == "random":
            order = admitted.index[np.random.default_rng(seed).permutation(len(admitted))]
        else:
            raise ValueError(f"by must be 'temporal' or 'random', got {by!r}")
        ends = np.round(np.cumsum(shares) * len(order)).astype(int)
        starts = np.concatenate([[0], ends[:-1]])
        return tuple(
            SepsisData(self.frame[self.frame["stay"].isin(order[start:end])])
            for start, end in zip(starts, ends, strict=True)
        )


def generate_sepsis(n_stays: int = 3000, seed: int = 0) -> SepsisData:
    """Simulate usual care and log it, with its propensities; the protocol drifts over time."""
    if n_stays < 1:
        raise ValueError(f"n_stays must be at least 1, got {n_stays}")
    rng = np.random.default_rng([seed, 22])
    cohort = SepsisCohort(n_stays, rng)
    parts = []
    while not cohort.done.all():
        features, probabilities = cohort.features(), cohort.usual_care()
        drawn = draw_each(probabilities, rng)
        here = ~cohort.done
        step = cohort.step_number
        rewards = cohort.step(drawn)
        rows = pd.DataFrame(features[here], columns=list(FEATURES))
        rows.insert(0, "stay", np.flatnonzero(here))
        rows.insert(1, "admission", cohort.admission[here])
        rows.insert(2, "step", step)
        rows[["vasopressor", "fluid"]] = ACTIONS.levels[drawn[here]]
        rows["reward"] = rewards[here]
        rows["propensity"] = probabilities[here, drawn[here]]
        parts.append(rows)
    return SepsisData(pd.concat(parts))


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    refuse_missing_columns(frame, {k: v for k, v in COLUMNS.items() if k != "propensity"})
    known = frame[[name for name in COLUMNS if name in frame]]
    refuse(known, "stay", known["stay"].isna(), "is missing")
    numbers = [str(name) for name in known if name != "stay"]
    known = with_numbers(known, numbers)
    for name in numbers:
        refuse(known, name, ~np.isfinite(known[name]), "is not a finite number")
    for name in ("vasopressor", "fluid"):
        refuse(known, name, ~known[name].isin([0, 1, 2]), "is not 0, 1 or 2")
    if "propensity" in known:
        wrong = ~((known["propensity"] > 0) & (known["propensity"] <= 1))
        refuse(known, "propensity", wrong, "is not in (0, 1]")
    first = known.groupby("stay", sort=False)["admission"].transform("first")
    refuse(known, "admission", known["admission"] != first, "is not constant")
    return in_order(known, "stay", "step")
