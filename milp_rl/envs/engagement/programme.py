r"""A programme of weekly voice messages and service calls: how listening moves, and who calls when.

After the studies of mMitra, a programme of ARMMAN for expecting and new mothers in India: a woman
gets an automated voice message a week; a large share of women stop listening, and a few workers can
call only a few of them a week (Mate, Madaan, Taneja, Madhiwalla, Verma, Singh, Hegde, Varakantham
and Tambe, "Field study in deploying restless multi-armed bandits: assisting non-profits in
improving maternal and child health", AAAI 2022; Verma et al., "Restless multi-armed bandits for
maternal and child health: results from decision-focused learning", AAMAS 2023, and "Expanding
impact of mobile health programs: SAHELI for maternal and child care", AI Magazine 44, 2023). As
there, a woman listens or does not, a chain of two states whose probabilities are those of her
cluster, with a call and without. Their data are not public: the numbers here are drawn.

There a plan is the k women of highest index. Here a call needs a caller who speaks her language and
has a call left in a slot in which she has a phone and time, and it may not be answered: less likely
on a phone that she shares, more likely for a caller whom she knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Programme:
    r"""Clusters of beneficiaries, and callers.

    With the belief b that a woman of cluster c listens, she listens next week with probability
    :math:`(1 - b)\, p_{c0} + b\, p_{c1}`, p the passive or, if a call reached her, the active
    probabilities.

    Parameters
    ----------
    passive, active
        Probability that a woman of each cluster listens next week, if she does not and if she does
        now, without a call and after one that reached her, shape (C, 2), in [0, 1].
    capacity
        Calls that each caller has time for in each slot of a week, 0 outside the shift, shape
        (K, S).
    speaks
        Which caller speaks which language, shape (K, L).
    budget
        Largest number of calls in a week; ``None`` for no limit but the callers' time.
    reach, shared_reach
        Probability that a call is answered, on a phone of her own and on one that she shares.
    familiar_bonus
        What is added to that if she knows the caller.
    seen
        Probability that a week's message shows whether she listened; otherwise it did not get
        through.
    rest
        Weeks in which she is not called again after a call.
    slots, languages, callers
        Names; by default numbered.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range.
    """

    passive: FloatArray
    active: FloatArray
    capacity: IntArray
    speaks: BoolArray
    budget: int | None = None
    reach: float = 0.6
    shared_reach: float = 0.35
    familiar_bonus: float = 0.25
    seen: float = 0.75
    rest: int = 2
    slots: Sequence[str] = ()
    languages: Sequence[str] = ()
    callers: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("passive", "active"):
            table = np.array(getattr(self, name), dtype=np.float64)
            if table.ndim != 2 or table.shape[1] != 2 or not len(table):
                raise ValueError(f"{name} must have shape (clusters, 2), got {table.shape}")
            if not ((table >= 0) & (table <= 1)).all():
                raise ValueError(f"{name} must be probabilities")
            _store(self, name, table)
        if self.passive.shape != self.active.shape:
            raise ValueError(
                f"passive is of {len(self.passive)} clusters, active of {len(self.active)}"
            )
        calls = np.asarray(self.capacity)
        if calls.ndim != 2 or not calls.size or not (calls >= 0).all() or (calls % 1).any():
            raise ValueError("capacity must be a table of whole numbers, callers by slots")
        _store(self, "capacity", calls.astype(np.int64))
        speaks = np.asarray(self.speaks)
        if speaks.ndim != 2 or len(speaks) != len(calls) or not np.isin(speaks, (0, 1)).all():
            raise ValueError(
                f"speaks must be zeros and ones, {len(calls)} callers by languages, got shape"
                f" {speaks.shape}"
            )
        _store(self, "speaks", speaks.astype(bool))
        for name in ("reach", "shared_reach", "familiar_bonus", "seen"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if max(self.reach, self.shared_reach) + self.familiar_bonus > 1:
            raise ValueError("reach with familiar_bonus must be at most 1")
        for name, least in (("rest", 0), ("budget", 0)):
            value = getattr(self, name)
            if value is not None and (int(value) != value or value < least):
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
        for name, size in (
            ("slots", calls.shape[1]),
            ("languages", speaks.shape[1]),
            ("callers", len(calls)),
        ):
            names = tuple(getattr(self, name)) or tuple(f"{name[:-1]} {i}" for i in range(size))
            if len(names) != size or len(set(names)) < size:
                raise ValueError(f"{name} must be {size} distinct names, got {names}")
            object.__setattr__(self, name, names)

    @property
    def n_clusters(self) -> int:
        """Number of clusters C."""
        return len(self.passive)

    @property
    def n_callers(self) -> int:
        """Number of callers K."""
        return len(self.capacity)

    @property
    def n_slots(self) -> int:
        """Number of slots S."""
        return int(self.capacity.shape[1])

    def next_belief(
        self, belief: FloatArray, cluster: IntArray, *, called: bool = False
    ) -> FloatArray:
        """Return the probability of listening next week, without a call or after one answered."""
        p = (self.active if called else self.passive)[cluster]
        return np.asarray(p[..., 0] + belief * (p[..., 1] - p[..., 0]))

    def gain(self, belief: FloatArray, cluster: IntArray) -> FloatArray:
        """Return what a call that is answered adds to that probability."""
        after = self.next_belief(belief, cluster, called=True)
        return np.asarray(after - self.next_belief(belief, cluster))


@dataclass(frozen=True, eq=False)
class Beneficiaries:
    """Women in the programme.

    Parameters
    ----------
    cluster, language
        Number of each woman's cluster and language, shape (N,).
    free
        The slots in which she has a phone and time, shape (N, S): of a shared phone, its hours.
    shared
        Whether she shares her phone, shape (N,).
    familiar
        Number of the caller whom she knows, -1 for none, shape (N,).

    Raises
    ------
    ValueError
        If shapes do not fit.
    """

    cluster: IntArray
    language: IntArray
    free: BoolArray
    shared: BoolArray
    familiar: IntArray

    def __post_init__(self) -> None:
        n = len(self.cluster)
        for name, dtype in (
            ("cluster", np.int32),
            ("language", np.int32),
            ("free", np.bool_),
            ("shared", np.bool_),
            ("familiar", np.int32),
        ):
            values = np.asarray(getattr(self, name), dtype=dtype)
            if values.ndim != (2 if name == "free" else 1) or len(values) != n or not n:
                raise ValueError(f"{name} must have {n} rows, at least 1, got {values.shape}")
            _store(self, name, values)

    def __len__(self) -> int:
        return len(self.cluster)

    def check(self, programme: Programme) -> None:
        """Raise ``ValueError`` unless clusters, languages, slots and callers are the programme's.

        Raises
        ------
        ValueError
            With the first row that is wrong.
        """
        if self.free.shape[1] != programme.n_slots:
            raise ValueError(
                f"free has {self.free.shape[1]} slots, the programme {programme.n_slots}"
            )
        for name, least, size in (
            ("cluster", 0, programme.n_clusters),
            ("language", 0, len(programme.languages)),
            ("familiar", -1, programme.n_callers),
        ):
            values = getattr(self, name)
            wrong = (values < least) | (values >= size)
            if wrong.any():
                i = int(wrong.argmax())
                raise ValueError(
                    f"{name} of beneficiary {i} must be {least}..{size - 1}, got {values[i]}"
                )

    def base_reach(self, programme: Programme) -> FloatArray:
        """Return the probability that a caller whom she does not know reaches her, shape (N,)."""
        return np.where(self.shared, programme.shared_reach, programme.reach)

    def pair_reach(self, programme: Programme) -> FloatArray:
        """Return the probability that a call of each caller in each slot is answered.

        Returns
        -------
        numpy.ndarray
            Shape (N, K, S); 0 where the call is impossible: out of shift, in a language that the
            caller does not speak, or in a slot in which she is not free.
        """
        knows = self.familiar[:, None] == np.arange(programme.n_callers)
        each = self.base_reach(programme)[:, None] + programme.familiar_bonus * knows
        possible = programme.speaks[:, self.language].T[:, :, None] & self.free[:, None, :]
        return np.asarray(each[:, :, None] * (possible & (programme.capacity > 0)))


def listening_without_calls(
    programme: Programme, cluster: ArrayLike, weeks: int, belief: float | ArrayLike = 1.0
) -> FloatArray:
    """Return the expected share of women who listen in each week if nobody is called.

    Parameters
    ----------
    programme
        The chains.
    cluster
        Cluster of each woman, shape (N,).
    weeks
        Weeks after the first.
    belief
        Probability that each listens in the first week.

    Returns
    -------
    numpy.ndarray
        Shape (weeks + 1,), the first week included; exact, nothing is drawn.
    """
    c = np.asarray(cluster)
    b = np.broadcast_to(np.asarray(belief, dtype=np.float64), c.shape)
    shares = [float(b.mean())]
    for _ in range(weeks):
        b = programme.next_belief(b, c)
        shares.append(float(b.mean()))
    return np.array(shares)


def _store(owner: Any, name: str, values: NDArray[Any]) -> None:
    values = values.view()
    values.flags.writeable = False
    object.__setattr__(owner, name, values)
