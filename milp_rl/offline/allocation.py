r"""One action for each of many patients, to the largest total value, under shared limits.

With :math:`x_{ia}` the choice of action a for patient i, and coupling rows r whose coefficients are
a patient's factor times an action's,

.. math:: \max \sum_{ia} q_{ia} x_{ia}, \quad \sum_a x_{ia} = 1, \quad
          \sum_{ia} p_{ri} u_{ra} x_{ia} \le b_r, \quad x \text{ binary}.

With prices :math:`\lambda \ge 0` on the rows the patients come apart (Lagrangian relaxation), and

.. math:: L(\lambda) = \lambda^T b + \sum_i \max_a (q_{ia} - \sum_r \lambda_r p_{ri} u_{ra})

bounds the optimum from above, whatever a solver says. Newton steps on a smoothed L give nearly
optimal prices (:mod:`milp_rl.offline.prices`); the linear program over the choices that nearly tie
at them gives exact ones, and a small mixed-integer program an allocation
(:mod:`milp_rl.offline.restricted`). Only where its gap to L is not small enough, a mixed-integer
program follows over all choices whose reduced value could still matter (reduced-cost fixing).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.time_limit import is_late, until
from milp_rl.offline.allocation_problem import TOLERANCE, AllocationProblem
from milp_rl.offline.limits import Limit, parity_limits
from milp_rl.offline.prices import SharedPrices, contradiction, shared_prices
from milp_rl.offline.restricted import (
    Choices,
    Relaxed,
    nearest_choices,
    relax,
    rounded,
    settle,
    within,
)

__all__ = [
    "Allocation",
    "InfeasibleAllocationError",
    "Limit",
    "allocate",
    "allocate_greedily",
    "parity_limits",
]

_CHOICES = 3_000  # in the first linear program
_PENALTY = 1e3  # of breaking a limit by what one patient counts, in mean differences of values
_ROUNDS = 8
_PATIENTS = 30  # in the first mixed-integer program
_NODES = 200
_SECONDS = 0.5  # that the first always has


class InfeasibleAllocationError(ValueError):
    """No choice of actions keeps all limits."""


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
        Seconds for all of it. Prices are taken as they are then, and the first mixed-integer
        program, a small one, always has half a second; what had begun on all patients is finished.
        The gap reached is in the result.

    Raises
    ------
    InfeasibleAllocationError
        If the limits cannot be kept: says which.
    TimeoutError
        If no allocation was found within ``time_limit``.
    ValueError
        If shapes do not fit, or numbers are not finite: says of which patient and action.

    Notes
    -----
    Time and memory grow linearly in N. Besides ``q`` and the factors of patients, which are not
    copied where they are float64, and ``q`` once more with ``optional``, it holds some integers per
    patient and about 50 MB. Where a few patients weigh as much as all others together, as in a
    small group under parity, the best split of shares may be far from any allocation, and the
    mixed-integer programs long: ``time_limit`` ends them.

    Examples
    --------
    >>> import numpy as np
    >>> q = np.random.default_rng(0).random((100_000, 3))
    >>> beds = Limit("beds", np.array([0.0, 1.0, 2.0]), 50_000)
    >>> plan = allocate(q, [beds])
    >>> plan.gap <= 1e-3, plan.used["beds"] <= 50_000
    (True, True)
    """
    started = time.perf_counter()
    if not gap >= 0:
        raise ValueError(f"gap must be nonnegative, got {gap}")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit must be positive, or None, got {time_limit}")
    deadline = np.inf if time_limit is None else started + time_limit
    p = AllocationProblem.checked(q, limits, optional=optional)
    alone = rounded(p, SharedPrices(np.zeros(len(p.most)), 0.0))
    if not p.excess(alone).any():
        return _result(p, alone, p.value(alone), started, 0, optional=optional)
    with until(deadline - _SECONDS):
        proof = _priced(p, gap)
    chosen, bound, n_choices = _first(p, proof, gap, deadline)
    lowest = p.value(chosen)
    if bound - lowest > max(gap * abs(lowest), 1e-11 * (abs(bound) + abs(lowest))):
        # A choice that loses more than this by the prices is in no allocation better than the
        # incumbent; that is from their own bound, also where another one is lower.
        loss = proof.bound - lowest + TOLERANCE * (1 + abs(proof.bound))
        kept = within(p, proof.prices, chosen, loss)
        n_choices = len(kept.patients)
        allowed = 0.5 * gap * abs(lowest)
        left = max(deadline - time.perf_counter(), 0.0)
        better, dual, _ = settle(p, chosen, kept, gap=allowed, time_limit=left)
        if better is not None and p.value(better) > lowest:
            chosen = better
        bound = min(bound, dual)
    return _result(p, chosen, bound, started, n_choices, optional=optional)


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
    p = AllocationProblem.checked(q, limits, optional=optional)
    best = p.q.argmax(axis=1)
    bound = float(p.q.max(axis=1).sum())
    if repair:
        best, _ = _undone(p, best)
    return _result(p, best, bound, started, 0, optional=optional)


@dataclass(frozen=True, eq=False)
class _Proof:
    """Prices, the bound they prove, and the linear program that comes with them."""

    prices: FloatArray
    bound: float
    base: IntArray
    choices: Choices
    relaxed: Relaxed


def _priced(p: AllocationProblem, gap: float) -> _Proof:
    """Return optimal prices, by linear programs over ever more choices."""
    n_actions = p.q.shape[1]
    everything = p.q.size <= _CHOICES
    if not everything and (found := contradiction(p)) is not None:
        raise InfeasibleAllocationError(_why_not(p, found[1], found[0]))
    nothing = SharedPrices(np.zeros(len(p.most)), 0.0)
    at = nothing if everything else shared_prices(p)
    base = rounded(p, at)
    prices, bound = at.prices, p.bound(at.prices)
    choices = nearest_choices(p, prices, base, _CHOICES)
    penalty = _PENALTY
    relaxed = relax(p, base, choices, penalty)
    for k in range(_ROUNDS):
        new = p.bound(relaxed.prices)
        if new < bound:
            prices, bound = relaxed.prices, new
        if relaxed.broken.any():
            if p.bound(relaxed.prices, valued=False) < 0:
                raise InfeasibleAllocationError(_why_not(p, relaxed.broken, relaxed.prices))
            penalty = min(10 * penalty, 1e4 * _PENALTY)
        elif everything or bound - relaxed.value <= 0.1 * gap * abs(relaxed.value):
            break
        if is_late():
            break
        if not everything:
            more = nearest_choices(p, relaxed.prices, base, _CHOICES << k)
            codes = np.concatenate([choices.codes(n_actions), more.codes(n_actions)])
            choices = Choices.of(codes, n_actions)
        relaxed = relax(p, base, choices, penalty)
    return _Proof(prices, bound, base, choices, relaxed)


def _first(
    p: AllocationProblem, proof: _Proof, gap: float, deadline: float
) -> tuple[IntArray, float, int]:
    """Return an allocation near the linear program's solution, a bound, and choices in question.

    The mixed-integer programs are of ever more choices until one has a solution; that of all
    choices gives a bound too.
    """
    choices, shares = proof.choices, proof.relaxed.shares
    actions, whole = proof.base.copy(), shares > 1 - 1e-7
    actions[choices.patients[whole]] = choices.actions[whole]
    if whole.sum() == len(np.unique(choices.patients)) and not p.excess(actions).any():
        return actions, proof.bound, 0
    allowed = 0.25 * gap * abs(proof.relaxed.value)
    first = in_question = _most_open(p, proof, actions)
    everyone = within(p, proof.prices, actions, np.inf) if p.q.size <= _CHOICES else None
    everything = everyone is not None and len(everyone.patients) == len(in_question.patients)
    size = 4 * _PATIENTS
    while True:
        nodes = None if everything else _NODES
        left = deadline - time.perf_counter()
        if in_question is first:
            left = max(left, _SECONDS)
        elif left <= 0:
            raise TimeoutError("no allocation was found within time_limit; allow more")
        found, dual, ended = settle(
            p, actions, in_question, gap=allowed, nodes=nodes, time_limit=left
        )
        if found is not None:
            bound = min(proof.bound, dual) if everything else proof.bound
            return found, bound, len(in_question.patients)
        if everything:
            break
        size *= 8
        in_question, everything = nearest_choices(p, proof.prices, actions, size), size >= p.q.size
    if not ended:
        raise TimeoutError("no allocation was found within time_limit; allow more")
    raise InfeasibleAllocationError(_why_not(p, proof.relaxed.broken, proof.relaxed.prices))


def _most_open(p: AllocationProblem, proof: _Proof, actions: IntArray) -> Choices:
    """Return the choices of patients with split shares and of those whose best nearly tie."""
    choices = proof.choices
    free, first = np.unique(choices.patients, return_index=True)
    reduced = p.reduced(choices.patients, p.tariff(proof.relaxed.prices))
    reduced = reduced[np.arange(len(reduced)), choices.actions]
    best = np.maximum.reduceat(reduced, first)
    count = np.diff(np.append(first, len(reduced)))
    loss = np.repeat(best, count) - reduced
    taken = actions[choices.patients] == choices.actions
    loss[taken] = np.inf
    loss = np.minimum.reduceat(loss, first)
    split = np.maximum.reduceat(proof.relaxed.shares, first) <= 1 - 1e-7
    loss[split] = -np.inf
    near = np.zeros(len(free), dtype=bool)
    near[np.argsort(loss, kind="stable")[: _PATIENTS + int(split.sum())]] = True
    kept = np.repeat(near, count)
    return Choices(choices.patients[kept], choices.actions[kept])


def _undone(p: AllocationProblem, actions: IntArray) -> tuple[IntArray, bool]:
    """Change the actions that lose least for what they free, until the limits are kept."""
    fixed = actions.copy()
    everyone, factor = np.arange(len(fixed)), p.factor(slice(None))[p.factor_of]
    for _ in range(10 * len(fixed)):
        over = p.excess(fixed)
        if not over.any():
            return fixed, True
        # What each change would take off the excess, over all limits, in units of the limit.
        unit = np.maximum(np.abs(p.most), 1e-6)
        saved = np.zeros(p.q.shape)
        for r in np.flatnonzero(over):
            less = factor[r][:, None] * (p.use[r][fixed][:, None] - p.use[r][None])
            saved += np.minimum(less, over[r]) / unit[r]
        used = p.used(fixed)
        for r in np.flatnonzero(over == 0):
            more = factor[r][:, None] * (p.use[r][None] - p.use[r][fixed][:, None])
            saved[more > p.most[r] - used[r] + TOLERANCE] = 0.0
        lost = p.q[everyone, fixed][:, None] - p.q
        price = np.where(saved > 1e-12, (lost + 1e-9) / np.maximum(saved, 1e-12), np.inf)
        i, a = np.unravel_index(int(price.argmin()), price.shape)
        if not np.isfinite(price[i, a]):
            return fixed, False
        fixed[i] = a
    return fixed, False


def _why_not(p: AllocationProblem, broken: FloatArray, prices: FloatArray) -> str:
    """Say which limits cannot be kept together, from the relaxation with broken limits."""
    least = 1e-7 * p.scale
    said = [
        f"{name!r} by {by:.3g}"
        for name, by, unit in zip(p.names, broken, least, strict=True)
        if by > unit
    ]
    priced = prices * p.scale
    others = [
        repr(p.names[r])
        for r in np.flatnonzero(priced > 1e-6 * priced.max(initial=0.0))
        if broken[r] <= least[r]
    ]
    kept = f", where {', '.join(others)} {'is' if len(others) == 1 else 'are'} kept" * bool(others)
    return (
        "no allocation keeps the limits:"
        f" {'; '.join(said) + kept if said else 'only fractional ones do'};"
        f" let them allow more{'' if p.optional else ', or set optional=True'}"
    )


def _result(
    p: AllocationProblem,
    actions: IntArray,
    bound: float,
    started: float,
    n_choices: int,
    *,
    optional: bool,
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
