r"""One action for each of many patients, to the largest total value, under shared limits.

With :math:`x_{ia}` the choice of action a for patient i, and coupling rows r whose coefficients are
a patient's factor times an action's,

.. math:: \max \sum_{ia} q_{ia} x_{ia}, \quad \sum_a x_{ia} = 1, \quad
          \sum_{ia} p_{ri} u_{ra} x_{ia} \le b_r, \quad x \text{ binary}.

With prices :math:`\lambda \ge 0` on the rows the patients come apart (Lagrangian relaxation), and

.. math:: L(\lambda) = \lambda^T b + \sum_i \max_a (q_{ia} - \sum_r \lambda_r p_{ri} u_{ra})

bounds the optimum from above, whatever a solver says. The prices are found by column generation on
the linear relaxation; only choices whose reduced value could still matter go into the final
mixed-integer program (reduced-cost fixing), which leaves a few hundred of a hundred thousand.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.milp.highs import pass_model, run, silent_highs
from milp_rl.formulations.milp.linear_model import LinearModel

_TOLERANCE = 1e-7
_ROUNDS = 200


class InfeasibleAllocationError(ValueError):
    """No choice of actions keeps all limits."""


@dataclass(frozen=True)
class Limit:
    """What all patients together may use of something.

    Parameters
    ----------
    name
        Name for messages.
    use
        What each action uses, shape (A,), finite.
    most
        Limit of the sum over patients.
    patient_factor
        Factor of each patient's use, shape (N,); by default 1.
    """

    name: str
    use: FloatArray
    most: float
    patient_factor: FloatArray | None = None


def parity_limits(name: str, level: ArrayLike, groups: ArrayLike, tolerance: float) -> list[Limit]:
    """Return limits that keep the share of a level in each group close to that in all.

    Parameters
    ----------
    name
        Name for messages.
    level
        Which actions have the level, shape (A,), boolean.
    groups
        The group of each patient, shape (N,).
    tolerance
        Largest difference between a group's share and everyone's, nonnegative.

    Returns
    -------
    list of Limit
        Two per group.
    """
    labels = np.asarray(groups)
    if tolerance < 0:
        raise ValueError(f"tolerance must be nonnegative, got {tolerance}")
    has = np.asarray(level, dtype=np.float64)
    limits = []
    for group in np.unique(labels):
        inside = labels == group
        factor = inside / inside.sum() - 1.0 / len(labels)
        for sign, side in ((1.0, "above"), (-1.0, "below")):
            limits.append(Limit(f"{name}: {group} {side} all", sign * has, tolerance, factor))
    return limits


@dataclass(frozen=True, eq=False)
class Allocation:
    """Actions for all patients, and what is proven about them.

    Parameters
    ----------
    actions
        Number of each patient's action, shape (N,); -1 for none.
    value, bound
        The total value, and an upper bound on that of any feasible allocation.
    violations
        Limits that are not kept, with by how much; empty for the exact methods.
    used
        What is used of each limit, by name.
    seconds
        Wall-clock time.
    n_choices
        Choices in the final mixed-integer program.
    """

    actions: IntArray
    value: float
    bound: float
    violations: list[str]
    used: Mapping[str, float]
    seconds: float
    n_choices: int = 0

    @property
    def gap(self) -> float:
        """(bound - value) / |value|."""
        return (self.bound - self.value) / max(abs(self.value), 1e-12)


@dataclass(eq=False)
class _Problem:
    """Arrays of an allocation problem; with ``none`` the last action is to do nothing."""

    q: FloatArray
    use: FloatArray  # rows by actions
    factor: FloatArray  # rows by patients
    most: FloatArray
    names: list[str]

    @classmethod
    def checked(cls, q: ArrayLike, limits: Sequence[Limit], *, optional: bool) -> _Problem:
        values = np.asarray(q, dtype=np.float64)
        if values.ndim != 2 or not values.size or np.isnan(values).any():
            raise ValueError(f"q must be a table (patients, actions), got {values.shape}")
        if (values == np.inf).any() or (values == -np.inf).all(axis=1).any():
            raise ValueError("q must be finite, or -inf for what a patient cannot have")
        n, n_actions = values.shape
        use, factor = np.zeros((len(limits), n_actions)), np.ones((len(limits), n))
        for r, limit in enumerate(limits):
            if np.shape(limit.use) != (n_actions,) or not np.isfinite(limit.use).all():
                raise ValueError(f"limit {limit.name!r}: use must be {n_actions} finite numbers")
            use[r] = limit.use
            if limit.patient_factor is not None:
                if np.shape(limit.patient_factor) != (n,):
                    raise ValueError(f"limit {limit.name!r}: patient_factor must have {n} numbers")
                factor[r] = limit.patient_factor
        if optional:
            values = np.column_stack([values, np.zeros(n)])
            use = np.column_stack([use, np.zeros(len(limits))])
        most = np.array([limit.most for limit in limits], dtype=np.float64)
        return cls(values, use, factor, most, [limit.name for limit in limits])

    def reduced(self, prices: FloatArray) -> FloatArray:
        """Values less what is used, at prices."""
        return np.asarray(self.q - (prices[:, None] * self.factor).T @ self.use)

    def bound(self, prices: FloatArray) -> float:
        """Return the Lagrangian bound at nonnegative prices."""
        return float(prices @ self.most + self.reduced(prices).max(axis=1).sum())

    def used(self, actions: IntArray) -> FloatArray:
        return np.asarray((self.factor * self.use[:, actions]).sum(axis=1))

    def value(self, actions: IntArray) -> float:
        return float(self.q[np.arange(len(actions)), actions].sum())

    def excess(self, actions: IntArray) -> FloatArray:
        over = self.used(actions) - self.most
        return np.asarray(np.where(over > _TOLERANCE * (1 + np.abs(self.most)), over, 0.0))

    def model(
        self, patients: IntArray, actions: IntArray, *, integer: bool, slack: float = 0.0
    ) -> LinearModel:
        """Return the program over some choices; ``slack`` is the price of breaking limits."""
        n, rows, columns = len(self.q), len(self.most), len(patients)
        upper = self.factor[:, patients] * self.use[:, actions]
        choice = sparse.csr_array(
            (np.ones(columns), (patients, np.arange(columns))), shape=(n, columns)
        )
        matrix: Any = sparse.vstack([choice, sparse.csr_array(upper)])
        if slack:
            nothing, unit = sparse.csr_array((n, rows)), -sparse.eye_array(rows)
            matrix = sparse.hstack([matrix, sparse.vstack([nothing, unit])])
        extra = rows if slack else 0
        return LinearModel(
            np.append(self.q[patients, actions], np.full(extra, -slack)),
            0.0,
            sparse.csr_array(matrix),
            np.append(np.ones(n), np.full(rows, -np.inf)),
            np.append(np.ones(n), self.most),
            np.zeros(columns + extra),
            np.append(np.ones(columns), np.full(extra, np.inf)),
            np.append(np.full(columns, integer), np.zeros(extra, dtype=bool)),
        )


def allocate(
    q: ArrayLike,
    limits: Sequence[Limit],
    *,
    optional: bool = False,
    gap: float = 1e-3,
    time_limit: float | None = None,
) -> Allocation:
    """Choose one action for each patient, optimal within a proven gap.

    Parameters
    ----------
    q
        Value of each action for each patient, shape (N, A); ``-inf`` for actions that a patient
        cannot have.
    limits
        What all patients together may use, and parity (:func:`parity_limits`).
    optional
        Whether a patient may get no action, of value 0; it is number -1 in the result.
    gap
        Largest relative gap.
    time_limit
        Seconds for the final program; the gap reached is then in the result.

    Raises
    ------
    InfeasibleAllocationError
        If the limits cannot be kept: says which.
    ValueError
        If shapes do not fit.
    """
    started = time.perf_counter()
    if gap < 0:
        raise ValueError(f"gap must be nonnegative, got {gap}")
    p = _Problem.checked(q, limits, optional=optional)
    prices = _prices(p)
    bound = p.bound(prices)
    reduced = p.reduced(prices)
    incumbent = _repaired(p, reduced.argmax(axis=1))
    slack = reduced.max(axis=1, keepdims=True) - reduced
    if incumbent is None:
        keep = np.isfinite(p.q)
    else:
        lowest = p.value(incumbent)
        if bound - lowest <= gap * abs(lowest):
            return _result(p, incumbent, bound, started, 0, optional=optional)
        # A choice whose slack exceeds this is in no allocation better than the incumbent.
        keep = np.isfinite(p.q) & (slack <= bound - lowest + _TOLERANCE * (1 + abs(bound)))
        keep[np.arange(len(incumbent)), incumbent] = True
    patients, actions = np.nonzero(keep)
    chosen, dual = _solve(p, patients, actions, gap, time_limit)
    if chosen is None:
        if incumbent is None:
            raise InfeasibleAllocationError(_why_not(p))
        chosen = incumbent
    elif incumbent is not None and p.value(incumbent) > p.value(chosen):
        chosen = incumbent
    if (p.excess(chosen) > 0).any():
        raise RuntimeError("the solver's allocation breaks a limit; please report this")
    best = max(p.value(chosen), min(bound, dual))
    return _result(p, chosen, best, started, len(patients), optional=optional)


def allocate_greedily(
    q: ArrayLike, limits: Sequence[Limit], *, optional: bool = False, repair: bool = True
) -> Allocation:
    """Take each patient's best action, then undo the cheapest until the limits are kept.

    The comparison for :func:`allocate`, without any proof: its bound is that without limits.

    Parameters
    ----------
    q, limits, optional
        As for :func:`allocate`.
    repair
        Whether to undo anything: without, the result shows by how much limits are broken.
    """
    started = time.perf_counter()
    p = _Problem.checked(q, limits, optional=optional)
    best = p.q.argmax(axis=1)
    bound = float(p.q.max(axis=1).sum())
    if repair:
        best, _ = _undone(p, best)
    return _result(p, best, bound, started, 0, optional=optional)


def _prices(p: _Problem) -> FloatArray:
    """Return optimal prices of the linear relaxation, by column generation."""
    n, rows = len(p.q), len(p.most)
    if not rows:
        return np.zeros(0)
    spread = np.where(np.isfinite(p.q), p.q, np.nan)
    penalty = 10.0 * (1.0 + float(np.nanmax(spread) - np.nanmin(spread))) * n
    scale = np.abs(p.use).max() or 1.0
    everyone = np.arange(n)
    known = np.zeros(p.q.shape, dtype=bool)
    known[everyone, p.q.argmax(axis=1)] = True
    light = np.where(np.isfinite(p.q), np.abs(p.use).sum(axis=0), np.inf)
    known[everyone, light.argmin(axis=1)] = True
    highs = silent_highs()  # with presolve, which these models without networks need
    prices = np.zeros(rows)
    for _ in range(_ROUNDS):
        patients, actions = np.nonzero(known)
        model = p.model(patients, actions, integer=False, slack=penalty / scale)
        pass_model(highs, model)
        run(highs)
        duals = np.array(highs.getSolution().row_dual)
        prices = np.maximum(duals[n:], 0.0)
        reduced = p.reduced(prices)
        new = reduced.argmax(axis=1)
        better = reduced.max(axis=1) > duals[:n] + 1e-9 * (1 + np.abs(duals[:n]))
        better &= ~known[everyone, new]
        if not better.any():
            break
        known[everyone[better], new[better]] = True
    return prices


def _solve(
    p: _Problem, patients: IntArray, actions: IntArray, gap: float, time_limit: float | None
) -> tuple[IntArray | None, float]:
    """Solve the program over some choices; return the actions, if any, and a bound."""
    highs = silent_highs()
    highs.setOptionValue("mip_rel_gap", 0.5 * gap)
    if time_limit is not None:
        highs.setOptionValue("time_limit", float(time_limit))
    pass_model(highs, p.model(patients, actions, integer=True))
    status = run(highs)
    if status == highspy.HighsModelStatus.kInfeasible:
        return None, -np.inf
    x = np.array(highs.getSolution().col_value)
    if len(x) != len(patients) or highs.getInfo().primal_solution_status != 2:
        return None, np.inf
    chosen = np.full(len(p.q), -1)
    taken = x > 0.5
    chosen[patients[taken]] = actions[taken]
    if (chosen < 0).any() or taken.sum() != len(chosen):
        raise RuntimeError("the solver's allocation is not one action per patient")
    return chosen, float(highs.getInfo().mip_dual_bound)


def _repaired(p: _Problem, actions: IntArray) -> IntArray | None:
    """Return a feasible allocation near a priced one, improved where limits leave room."""
    fixed, feasible = _undone(p, actions)
    if not feasible:
        return None
    order = np.argsort(p.q[np.arange(len(fixed)), fixed] - p.q.max(axis=1), kind="stable")
    for i in order:  # those who lost most first
        used = p.used(fixed)
        room = p.most - used + p.factor[:, i] * p.use[:, fixed[i]]
        fits = (p.factor[:, [i]] * p.use <= room[:, None] + _TOLERANCE).all(axis=0)
        values = np.where(fits, p.q[i], -np.inf)
        if values.max() > p.q[i, fixed[i]]:
            fixed[i] = int(values.argmax())
    return fixed


def _undone(p: _Problem, actions: IntArray) -> tuple[IntArray, bool]:
    """Change the actions that lose least for what they free, until the limits are kept."""
    fixed = actions.copy()
    everyone = np.arange(len(fixed))
    for _ in range(10 * len(fixed)):
        over = p.excess(fixed)
        if not over.any():
            return fixed, True
        # What each change would take off the excess, over all limits, in units of the limit.
        unit = np.maximum(np.abs(p.most), 1e-6)
        saved = np.zeros(p.q.shape)
        for r in np.flatnonzero(over):
            less = p.factor[r][:, None] * (p.use[r][fixed][:, None] - p.use[r][None])
            saved += np.minimum(less, over[r]) / unit[r]
        used = p.used(fixed)
        for r in np.flatnonzero(over == 0):
            more = p.factor[r][:, None] * (p.use[r][None] - p.use[r][fixed][:, None])
            saved[more > p.most[r] - used[r] + _TOLERANCE] = 0.0
        lost = p.q[everyone, fixed][:, None] - p.q
        price = np.where(saved > 1e-12, (lost + 1e-9) / np.maximum(saved, 1e-12), np.inf)
        i, a = np.unravel_index(int(price.argmin()), price.shape)
        if not np.isfinite(price[i, a]):
            return fixed, False
        fixed[i] = a
    return fixed, False


def _why_not(p: _Problem) -> str:
    """Say which limits cannot be kept, from the relaxation with broken limits."""
    patients, actions = np.nonzero(np.isfinite(p.q))
    model = p.model(patients, actions, integer=False, slack=1e6)
    highs = silent_highs()
    pass_model(highs, model)
    run(highs)
    broken = np.array(highs.getSolution().col_value)[len(patients) :]
    said = [f"{name!r} by {by:.3g}" for name, by in zip(p.names, broken, strict=True) if by > 1e-6]
    return (
        f"no allocation keeps the limits: {'; '.join(said) or 'only fractional ones do'};"
        " raise them, or set optional=True"
    )


def _result(
    p: _Problem, actions: IntArray, bound: float, started: float, n_choices: int, *, optional: bool
) -> Allocation:
    used, over, value = p.used(actions), p.excess(actions), p.value(actions)
    violations = [
        f"{p.names[r]}: {used[r]:.4g} used, at most {p.most[r]:.4g}" for r in np.flatnonzero(over)
    ]
    numbers = actions.copy()
    if optional:
        numbers[numbers == p.q.shape[1] - 1] = -1
    return Allocation(
        numbers,
        value,
        bound if over.any() else max(bound, value),  # they may differ by rounding
        violations,
        dict(zip(p.names, used.tolist(), strict=True)),
        time.perf_counter() - started,
        n_choices,
    )
