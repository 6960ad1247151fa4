"""The tables of a programme as CSV files: women, callers and clusters in, a week's calls out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from milp_rl.baselines.engagement import DISCOUNT, cluster_indices, index_of
from milp_rl.envs.engagement import Beneficiaries, Programme
from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.files import write_atomically, write_json
from milp_rl.offline.engagement.plan import CallPlan, plan_violations
from milp_rl.offline.tables import (
    places_in,
    read_table,
    refuse,
    refuse_missing_columns,
    with_numbers,
)

Value = Literal["whittle", "myopic"]

_CLUSTERS = {
    "cluster": "its name",
    "returns": "probability to listen next week, of who does not, without a call",
    "stays": "of who does",
    "returns_called": "of who does not, after an answered call",
    "stays_called": "of who does, after an answered call",
}
_CALLERS = {"caller": "the name", "languages": "separated by ;"}
_WOMEN = {
    "beneficiary": "the name or number",
    "cluster": "one of the clusters",
    "language": "her language",
    "free": "slots in which she has a phone and time, separated by ;",
    "shared": "0 or 1, whether she shares the phone",
    "familiar": "a caller whom she knows, or empty",
    "belief": "probability that she listens",
    "weeks_since_call": "whole weeks, or empty",
}


@dataclass(frozen=True, eq=False)
class Roster:
    """A programme and its women, and what is known of them this week.

    Parameters
    ----------
    programme, women
        Who can call whom when.
    names
        Name of each woman, shape (N,).
    belief
        Probability that each listens, shape (N,).
    may
        Who was not called in the last ``programme.rest`` weeks, shape (N,).
    """

    programme: Programme
    women: Beneficiaries
    names: Any
    belief: FloatArray
    may: BoolArray

    @classmethod
    def read(
        cls, women: str | Path, callers: str | Path, clusters: str | Path, **programme: Any
    ) -> Roster:
        """Read the three tables; ``.csv`` or ``.csv.gz``.

        Parameters
        ----------
        women
            Columns ``beneficiary``, ``cluster``, ``language``, ``free`` (slots, separated by ;),
            ``shared`` (0 or 1), ``familiar`` (a caller, or empty), ``belief`` and
            ``weeks_since_call`` (or empty).
        callers
            Columns ``caller``, ``languages`` (separated by ;), and one for each slot: the calls
            that there is time for.
        clusters
            Columns ``cluster``, ``returns``, ``stays``, ``returns_called``, ``stays_called``.
        **programme
            More of :class:`~milp_rl.envs.engagement.Programme`: ``budget``, ``reach``,
            ``shared_reach``, ``familiar_bonus``, ``rest``.

        Raises
        ------
        ValueError
            If a column is missing or a value is wrong: says where.
        """
        chains = read_table(clusters)
        with places_in(clusters):
            refuse_missing_columns(chains, _CLUSTERS)
            shares = [name for name in _CLUSTERS if name != "cluster"]
            chains = with_numbers(chains, shares)
            for name in shares:
                refuse(chains, name, ~chains[name].between(0, 1), "is not between 0 and 1")
        staff = read_table(callers, dtype={"caller": str, "languages": str})
        with places_in(callers):
            refuse_missing_columns(staff, _CALLERS)
            slots = [str(column) for column in staff if column not in _CALLERS]
            if not slots:
                raise ValueError("callers have no slots: give a column with calls for each slot")
            staff = with_numbers(staff, slots)
            for name in slots:
                whole = (staff[name] >= 0) & (staff[name] % 1 == 0)
                refuse(staff, name, ~whole, "is no number of calls")
        spoken = staff["languages"].fillna("").str.split(";")
        languages = sorted({language for own in spoken for language in own if language})
        texts = ("language", "free", "familiar", "cluster")
        people = read_table(women, dtype=dict.fromkeys(texts, "category"))
        with places_in(women):
            refuse_missing_columns(people, _WOMEN)
            people = with_numbers(people, ("belief", "shared", "weeks_since_call"))
            refuse(people, "belief", ~people["belief"].between(0, 1), "is not between 0 and 1")
            refuse(people, "shared", ~people["shared"].isin([0, 1]), "is not 0 or 1")
        found = Programme(
            chains[["returns", "stays"]].to_numpy(),
            chains[["returns_called", "stays_called"]].to_numpy(),
            staff[slots].to_numpy(),
            np.array([[language in own for language in languages] for own in spoken]),
            slots=slots,
            languages=languages,
            callers=staff["caller"].tolist(),
            **programme,
        )
        known = chains["cluster"].astype(str).tolist()
        since = people["weeks_since_call"].to_numpy(dtype=np.float64)
        with places_in(women):
            who = Beneficiaries(
                _numbers(people, "cluster", known),
                _numbers(people, "language", languages),
                _slots(people, slots),
                people["shared"].to_numpy(),
                _numbers(people, "familiar", list(found.callers), missing=True),
            )
        return cls(
            found,
            who,
            people["beneficiary"].to_numpy(),
            people["belief"].to_numpy(dtype=np.float64),
            np.isnan(since) | (since > found.rest),
        )

    def worth(self, by: Value = "whittle", *, discount: float = DISCOUNT) -> FloatArray:
        """Return what an answered call is worth to each woman, shape (N,).

        Parameters
        ----------
        by
            ``"whittle"``, the index of her cluster at her belief, per answered call; ``"myopic"``,
            what a call adds to the probability that she listens next week.
        discount
            Of the indices.

        Raises
        ------
        ValueError
            If a cluster is not indexable, or ``by`` is none of both.
        """
        if by not in get_args(Value):
            raise ValueError(f"by must be 'whittle' or 'myopic', got {by!r}")
        if by == "myopic":
            return self.programme.gain(self.belief, self.women.cluster)
        indices = cluster_indices(self.programme, discount=discount) / self.programme.reach
        return index_of(indices, self.belief, self.women.cluster)

    def write_plan(self, path: str | Path, plan: CallPlan, by: str) -> dict[str, Any]:
        """Write who calls whom when as CSV, and beside it, as JSON, what is proven.

        Raises
        ------
        RuntimeError
            If the calls do not pass the check of single calls.
        """
        wrong = plan_violations(self.programme, self.women, plan, may=self.may)
        if wrong:
            raise RuntimeError(f"the plan is wrong, please report it: {'; '.join(wrong)}")
        table = pd.DataFrame(
            {
                "beneficiary": self.names[plan.women],
                "caller": np.array(self.programme.callers, dtype=object)[plan.caller],
                "slot": np.array(self.programme.slots, dtype=object)[plan.slot],
                "answered": np.round(plan.reach, 6),
            }
        )
        certificate = {
            "women": len(self.women),
            "calls": len(plan),
            "value_by": by,
            "value": plan.value,
            "bound": plan.bound,
            "gap": plan.gap,
            "checked": "each call by language, shift, free slot, rest; each caller's calls; budget",
        }
        write_atomically(path, table.to_csv(index=False).encode())
        write_json(Path(path).with_suffix(".json"), certificate)
        return certificate


def write_tables(
    folder: str | Path, programme: Programme, women: Beneficiaries, *, seed: int
) -> None:
    """Write ``women.csv``, ``callers.csv`` and ``clusters.csv``, of women some of whom listen."""
    out, rng = Path(folder), np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    n = len(women)
    free = np.full(n, "", dtype=object)
    for s, slot in enumerate(programme.slots):
        own = women.free[:, s]
        free[own] = np.where(free[own] == "", slot, free[own] + f";{slot}")
    callers = np.array([*programme.callers, ""], dtype=object)
    belief = np.where(rng.random(n) < 0.5, 1.0, rng.random(n).round(3))
    since = np.where(rng.random(n) < 0.1, rng.integers(1, 6, n), np.nan)
    people = pd.DataFrame(
        {
            "beneficiary": np.arange(n),
            "cluster": women.cluster,
            "language": np.array(programme.languages, dtype=object)[women.language],
            "free": free,
            "shared": women.shared.astype(int),
            "familiar": callers[women.familiar],
            "belief": belief,
            "weeks_since_call": since,
        }
    )
    spoken = [";".join(np.array(programme.languages)[row]) for row in programme.speaks]
    staff = pd.DataFrame({"caller": programme.callers, "languages": spoken})
    staff[list(programme.slots)] = programme.capacity
    chains = pd.DataFrame(
        np.hstack([programme.passive, programme.active]), columns=list(_CLUSTERS)[1:]
    )
    chains.insert(0, "cluster", np.arange(len(chains)))
    for name, table in (("women", people), ("callers", staff), ("clusters", chains)):
        write_atomically(out / f"{name}.csv", table.to_csv(index=False).encode())


def _numbers(
    people: pd.DataFrame, column: str, known: list[str], *, missing: bool = False
) -> IntArray:
    """Return the place of each entry among the known ones; -1 for a missing one."""
    values = people[column].cat
    place = {name: i for i, name in enumerate(known)}
    of_category = np.array([place.get(str(name), -2) for name in values.categories], dtype=np.intp)
    codes = values.codes.to_numpy()
    found = np.where(codes < 0, -1 if missing else -2, np.append(of_category, -2)[codes])
    refuse(people, column, pd.Series(found == -2), f"is not one of {', '.join(known[:10])}")
    return np.asarray(found)


def _slots(people: pd.DataFrame, slots: list[str]) -> BoolArray:
    """Return which slots are named in each row; equal texts are read once."""
    values = people["free"].cat
    table = np.zeros((len(values.categories) + 1, len(slots)), dtype=bool)  # last: none
    wrong = np.zeros(len(values.categories), dtype=bool)
    for i, text in enumerate(values.categories):
        for name in str(text).split(";"):
            wrong[i] |= name not in slots
            if name in slots:
                table[i, slots.index(name)] = True
    codes = values.codes.to_numpy()
    elsewhere = np.isin(codes, np.flatnonzero(wrong))
    refuse(people, "free", pd.Series(elsewhere), f"has other slots than {', '.join(slots)}")
    return np.asarray(table[codes])
