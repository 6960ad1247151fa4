r"""An allocation problem as arrays, passed over in chunks of patients.

What limit r counts of patient i with action a is :math:`f_{\phi(r) i} u_{ra}`, a factor of the
patient times a use of the action. Sums over patients therefore need only the table
:math:`G_{fa} = \sum_i f_i x_{ia}`, one row per distinct factor, and reduced values at prices
:math:`\lambda` only the tariff :math:`T_{fa} = \sum_{r: \phi(r) = f} \lambda_r u_{ra}`: both are
matrix products. Besides ``q`` and the factors, a pass holds about 20 MB.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import FloatArray, IntArray, unmasked
from milp_rl.offline.limits import Limit

TOLERANCE = 1e-7
_CHUNK = 400_000  # choices: a few arrays of them fit the cache of a core
_SUM_ERROR = 128 * 2.0**-53  # of a pairwise sum of up to 2^32 terms, relative to that of sizes


@dataclass(frozen=True, eq=False)
class AllocationProblem:
    """Arrays of an allocation problem; with ``optional`` the last action is to do nothing.

    Parameters
    ----------
    q
        Values, shape (N, A), ``-inf`` for what a patient cannot have.
    use
        What each limit counts of each action, shape (R, A).
    factors
        Distinct factors of patients, each of shape (N,), None for ones.
    factor_of
        Number of each limit's factor, shape (R,).
    most
        Shape (R,).
    names
        Of the limits.
    weight
        How many patients each one stands for, shape (N,), None for one: a sample has more.
    optional
        Whether the last action is to do nothing.
    """

    q: FloatArray
    use: FloatArray
    factors: tuple[FloatArray | None, ...]
    factor_of: IntArray
    most: FloatArray
    names: tuple[str, ...]
    weight: FloatArray | None = None
    optional: bool = False

    @classmethod
    def checked(cls, q: ArrayLike, limits: Sequence[Limit], *, optional: bool) -> AllocationProblem:
        """Return the problem, or raise ``ValueError`` that names what is wrong."""
        if isinstance(limits, Limit) or not isinstance(limits, Iterable):
            what = "one Limit" if isinstance(limits, Limit) else type(limits).__name__
            raise ValueError(f"limits must be a list of Limit, which may be empty, got {what}")
        limits = list(limits)
        values = _checked_values(q, optional=optional)
        patients, choices = (q.index, q.columns) if isinstance(q, pd.DataFrame) else (None, None)
        n, n_actions = values.shape
        use, most = np.zeros((len(limits), n_actions)), np.zeros(len(limits))
        factors: list[FloatArray | None] = []
        given: dict[int, int] = {}
        factor_of = np.zeros(len(limits), dtype=np.intp)
        for r, limit in enumerate(limits):
            of = f"limit {limit.name!r}:"
            own = _numbers(_in_order(limit.use, choices, f"{of} use"), f"{of} use")
            if own.shape != (n_actions,) or not np.isfinite(own).all():
                raise ValueError(f"{of} use must be {n_actions} finite numbers")
            sum_ = _numbers(limit.most, f"{of} most")
            if sum_.shape or not np.isfinite(sum_):
                raise ValueError(f"{of} most must be a finite number, got {limit.most}")
            use[r], most[r] = own, sum_
            key = id(limit.patient_factor)
            if key not in given:
                given[key] = len(factors)
                factors.append(_checked_factor(limit, n, patients))
            factor_of[r] = given[key]
        if optional:
            values = np.column_stack([values, np.zeros(n)])
            use = np.column_stack([use, np.zeros(len(limits))])
        names = tuple(limit.name for limit in limits)
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise ValueError(
                f"two limits are called {twice[0]!r}: give each a name of its own, by which is said"
                " what is used of it"
            )
        return cls(values, use, tuple(factors), factor_of, most, names, None, optional)

    @cached_property
    def scale(self) -> FloatArray:
        """The most that one patient counts in each limit, shape (R,); 1 where that is 0."""
        sizes = [1.0 if f is None else float(np.abs(f).max()) for f in self.factors]
        counted = np.array([sizes[f] for f in self.factor_of]) * np.abs(self.use).max(axis=1)
        return np.where(counted > 0, counted, 1.0)

    @cached_property
    def unit(self) -> float:
        """Mean difference between the best and the worst action of a patient, 1 if that is 0."""
        q = self.q[:: max(1, len(self.q) // 20_000)]
        spread = q.max(axis=1) - np.where(np.isfinite(q), q, np.inf).min(axis=1)
        return float(spread.mean()) or 1.0

    def sample(self, patients: IntArray, weight: FloatArray) -> AllocationProblem:
        """Return the problem of some patients, each of whom stands for ``weight`` of them."""
        factors = tuple(None if f is None else f[patients] for f in self.factors)
        q = self.q[patients]
        return AllocationProblem(
            q, self.use, factors, self.factor_of, self.most, self.names, weight, self.optional
        )

    def chunks(self) -> Iterator[slice]:
        """Yield slices of patients."""
        n, n_actions = self.q.shape
        size = max(1, _CHUNK // n_actions)
        for start in range(0, n, size):
            yield slice(start, min(start + size, n))

    def factor(self, patients: slice | IntArray) -> FloatArray:
        """Return the factors of some patients, shape (number of factors, patients)."""
        n = len(self.q[patients])
        rows = [np.ones(n) if f is None else f[patients] for f in self.factors]
        return np.array(rows).reshape(len(rows), n)

    def tariff(self, prices: FloatArray) -> FloatArray:
        """Return what a unit of each factor pays for each action, shape (factors, A)."""
        table = np.zeros((len(self.factors), self.use.shape[1]))
        np.add.at(table, self.factor_of, prices[:, None] * self.use)
        return table

    def reduced(self, patients: slice | IntArray, tariff: FloatArray) -> FloatArray:
        """Return values less what is paid, shape (patients, A)."""
        paid: FloatArray = self.factor(patients).T @ tariff
        return np.subtract(self.q[patients], paid, out=paid)

    def counted(self, table: FloatArray) -> FloatArray:
        """Return what each limit counts, from the table G, shape (R,)."""
        return np.asarray((self.use * table[self.factor_of]).sum(axis=1))

    def bound(self, prices: FloatArray, *, valued: bool = True) -> float:
        r"""Return the Lagrangian bound at nonnegative prices, rounding errors included.

        With ``valued=False`` that of the problem without values: below 0, it proves that no
        allocation keeps the limits, not even one of fractions.
        """
        tariff = self.tariff(prices)
        sizes = np.zeros_like(tariff)
        np.add.at(sizes, self.factor_of, prices[:, None] * np.abs(self.use))
        paid = sizes.max(axis=1)
        tops, entries, summed = [], [], [float(prices @ np.abs(self.most))]
        for patients in self.chunks():
            reduced = self.reduced(patients, tariff)
            q = self.q[patients]
            finite = np.isfinite(q)
            if not valued:
                reduced[finite] -= q[finite]
            top = reduced.max(axis=1)
            tops.append(float(top.sum()))
            summed.append(float(np.abs(top).sum()))
            largest = np.abs(q, where=finite, out=np.zeros(q.shape)).max(axis=1)
            entries.append(float(largest.sum() + (paid @ np.abs(self.factor(patients))).sum()))
        each = 2 * (len(self.most) + len(self.factors) + 4) * 2.0**-53
        margin = each * math.fsum(entries) + _SUM_ERROR * math.fsum(summed)
        return float(prices @ self.most) + math.fsum(tops) + margin

    def used(self, actions: IntArray) -> FloatArray:
        """Return what an allocation uses of each limit, shape (R,)."""
        n_actions = self.use.shape[1]
        table = np.zeros((len(self.factors), n_actions))
        for rows in self.chunks():
            for f, factor in enumerate(self.factors):
                weights = None if factor is None else factor[rows]
                table[f] += np.bincount(actions[rows], weights, minlength=n_actions)
        return self.counted(table)

    def used_by(self, patients: IntArray, actions: IntArray) -> FloatArray:
        """Return what limits count of single choices, shape (R, choices)."""
        return np.asarray(self.factor(patients)[self.factor_of] * self.use[:, actions])

    def value(self, actions: IntArray) -> float:
        """Return the total value of an allocation."""
        return math.fsum(
            float(np.take_along_axis(self.q[rows], actions[rows, None], axis=1).sum())
            for rows in self.chunks()
        )

    def excess(self, actions: IntArray) -> FloatArray:
        """Return by how much each limit is exceeded, 0 within the tolerance, shape (R,)."""
        over = self.used(actions) - self.most
        return np.asarray(np.where(over > TOLERANCE * (1 + np.abs(self.most)), over, 0.0))


def _checked_values(q: ArrayLike, *, optional: bool) -> FloatArray:
    values = _numbers(q, "q")
    if values.ndim != 2 or not values.size:
        raise ValueError(f"q must be a table (patients, actions), got shape {values.shape}")
    wrong = np.isnan(values)
    wrong |= values == np.inf
    if wrong.any():
        i, a = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise ValueError(
            f"q must be a table of numbers, but it is {values[i, a]} for patient {i}, action {a};"
            " -inf stands for an action that a patient cannot have"
        )
    nothing = (values == -np.inf).all(axis=1)
    if nothing.any() and not optional:
        raise ValueError(
            f"q must be finite for some action of each patient, but it is -inf for all of patient"
            f" {int(nothing.argmax())}; with optional=True there may be such"
        )
    return values


def _numbers(values: Any, name: str) -> FloatArray:
    """Return an array or a table as float64; raise ``ValueError`` if something is no number."""
    unmasked(values, name)
    labelled = isinstance(values, pd.DataFrame | pd.Series)
    given: Any = values if labelled else np.asarray(values)
    parts = [(name, given)]
    if isinstance(given, pd.DataFrame):
        parts = [(f"{name}, column {label!r},", own) for label, own in given.items()]
    for what, part in parts:
        if not pd.api.types.is_numeric_dtype(part.dtype):
            for entry in np.asarray(part, dtype=object).ravel().tolist():
                if not isinstance(entry, numbers.Number):
                    raise ValueError(f"{what} must be of numbers, got {entry!r}")
    if labelled:
        return np.asarray(given.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.asarray(given, dtype=np.float64)


def _in_order(values: Any, labels: pd.Index[Any] | None, name: str) -> Any:
    """Return the entries of a labelled series in the order of the labels of ``q``, if it has any.

    Those of an array, or of a series that only counts its entries, are in that order.
    """
    if labels is None or not isinstance(values, pd.Series) or values.index.equals(labels):
        return values
    own = values.index
    if own.is_unique and labels.is_unique and len(own) == len(labels) and own.isin(labels).all():
        return values.reindex(labels)
    if own.equals(pd.RangeIndex(len(own))):
        return values
    raise ValueError(
        f"{name} is labelled {', '.join(map(repr, own[:3]))} ..., and q"
        f" {', '.join(map(repr, labels[:3]))} ...: give both the same labels, or an array in the"
        " order of q"
    )


def _checked_factor(limit: Limit, n: int, patients: pd.Index[Any] | None) -> FloatArray | None:
    if limit.patient_factor is None:
        return None
    name = f"limit {limit.name!r}: patient_factor"
    factor = _numbers(_in_order(limit.patient_factor, patients, name), name)
    if factor.shape != (n,):
        raise ValueError(f"limit {limit.name!r}: patient_factor must have {n} numbers")
    wrong = ~np.isfinite(factor)
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"limit {limit.name!r}: patient_factor must be finite, but it is {factor[i]} for"
            f" patient {i}"
        )
    return factor
