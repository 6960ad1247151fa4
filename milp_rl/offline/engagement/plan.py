r"""A week's calls for up to millions of women: who calls whom when, with a proven gap.

A woman has a value w of an answered call, and gets no call, one from any caller of her language in
slot s, or one from the caller whom she knows in slot s. Callers who speak several languages can be
shared out among languages in slot s exactly if for each set T of languages (Hall's theorem, as for
:class:`~milp_rl.Scheduling`)

.. math:: \text{calls in slot s to women of languages in } T \le
          \sum_{k \text{ speaks one of } T} c_{ks} .

That, and the budget, are the limits of :func:`milp_rl.offline.allocation.allocate`, whose prices
bound the total value from above. What it leaves out, that a caller who is known to many has only so
many calls, makes the bound larger, never wrong. Its allocation is then shared out among callers, in
each slot by a network flow that gives as many women as possible the caller whom they know; the
value is that of the calls as made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from milp_rl.envs.engagement import Beneficiaries, Programme
from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.offline.allocation import allocate
from milp_rl.offline.limits import Limit

_MOST_LANGUAGES = 10
_PASSES = 4
_MOST_CALLERS, _MOST_KNOWN = 40, 2_000_000  # and women times callers: known ones have limits


@dataclass(frozen=True, eq=False)
class CallPlan:
    """A week's calls, and what is proven about them.

    Parameters
    ----------
    women, caller, slot
        Numbers of the woman, the caller and the slot of each call.
    reach
        Probability that each call is answered.
    value, bound
        Total value, and an upper bound on that of any calls that can be made.
    seconds
        Wall-clock time.
    """

    women: IntArray
    caller: IntArray
    slot: IntArray
    reach: FloatArray
    value: float
    bound: float
    seconds: float

    def __len__(self) -> int:
        return len(self.women)

    @property
    def gap(self) -> float:
        """(bound - value) / |value|."""
        return (self.bound - self.value) / max(abs(self.value), 1e-12)


def plan_calls(
    programme: Programme,
    women: Beneficiaries,
    worth: FloatArray,
    *,
    may: BoolArray | None = None,
    gap: float = 1e-3,
    time_limit: float | None = None,
) -> CallPlan:
    """Plan a week's calls.

    Parameters
    ----------
    programme, women
        Who could call whom when.
    worth
        Value of an answered call to each woman, shape (N,), finite: a Whittle index, what a call
        adds to next week's listening, or :meth:`.fitted_q.CallValues.advantage`. Women of no
        positive value are not called.
    may
        Who may be called this week at all, shape (N,); by default everyone.
    gap, time_limit
        Of the allocation, as for :func:`~milp_rl.offline.allocation.allocate`. The gap of the
        result, which is proven, is larger where callers are known to more women than they can call.

    Raises
    ------
    ValueError
        If the women do not fit the programme, a value is not finite, or there are more than 10
        languages.

    Examples
    --------
    >>> from milp_rl.baselines.engagement import cluster_indices
    >>> from milp_rl.envs.engagement import draw_engagement
    >>> programme, women = draw_engagement(
    ...     5_000, n_callers=8, calls_per_slot=30, budget=400, seed=0
    ... )
    >>> plan = plan_calls(programme, women, cluster_indices(programme)[women.cluster, 0])
    >>> len(plan), plan.gap < 0.01, plan_violations(programme, women, plan)
    (400, True, [])
    """
    started = time.perf_counter()
    women.check(programme)
    values = np.asarray(worth, dtype=np.float64)
    if values.shape != (len(women),) or not np.isfinite(values).all():
        raise ValueError(f"worth must be {len(women)} finite numbers, got shape {values.shape}")
    known = _knows(programme, women)
    q = _values(programme, women, values, known, may)
    rows = np.flatnonzero(np.isfinite(q[:, 1:]).any(axis=1))
    if not len(rows):
        nothing = np.zeros(0, dtype=np.intp)
        return CallPlan(nothing, nothing, nothing, np.zeros(0), 0.0, 0.0, 0.0)
    if len(rows) < len(q):
        q = q[rows]
    limits = _limits(programme, women, rows)
    bound, best = np.inf, None
    for _ in range(_PASSES):
        left = None if time_limit is None else time_limit - (time.perf_counter() - started)
        if best is not None and left is not None and left <= 0:
            break
        found = allocate(q, limits, gap=gap / 4, time_limit=left)
        if best is None:  # later tables of values leave out calls that can be made
            bound = found.bound
        made = _as_made(programme, women, rows, found.actions, values)
        if best is None or made.value > best.value:
            best = made
        if bound - best.value <= gap * abs(best.value) or not len(made.missed):
            break
        _keep_to_served(q, women, rows, made, programme.n_slots)
    assert best is not None
    order = np.lexsort((best.women, best.slot, best.caller))
    return CallPlan(
        best.women[order],
        best.caller[order],
        best.slot[order],
        best.reach[order],
        best.value,
        max(bound, best.value),
        time.perf_counter() - started,
    )


@dataclass(frozen=True, eq=False)
class _Made:
    """Calls shared out among callers, and those who should have had the caller whom they know."""

    women: IntArray
    caller: IntArray
    slot: IntArray
    reach: FloatArray
    value: float
    missed: IntArray


def _as_made(
    programme: Programme,
    women: Beneficiaries,
    rows: IntArray,
    actions: IntArray,
    worth: FloatArray,
) -> _Made:
    """Share an allocation out among callers."""
    called = np.flatnonzero(actions > 0)
    slot = (actions[called] - 1) % programme.n_slots
    wants = actions[called] > programme.n_slots
    persons = rows[called]
    caller = _shared_out(programme, women, persons, slot, wants, worth)
    knows = women.familiar[persons] == caller
    reach = women.base_reach(programme)[persons] + programme.familiar_bonus * knows
    value = float((reach * worth[persons]).sum())
    return _Made(persons, caller, slot, reach, value, np.flatnonzero(wants & ~knows))


def _keep_to_served(
    q: FloatArray, women: Beneficiaries, rows: IntArray, made: _Made, n_slots: int
) -> None:
    """Leave callers who were wanted by too many, in a slot, to those whom they call there."""
    familiar = women.familiar[rows]
    served = np.zeros(len(women), dtype=bool)
    served[made.women[women.familiar[made.women] == made.caller]] = True
    for s in range(n_slots):
        here = made.missed[made.slot[made.missed] == s]
        full = np.unique(women.familiar[made.women[here]])
        q[np.isin(familiar, full) & ~served[rows], 1 + n_slots + s] = -np.inf


def plan_violations(
    programme: Programme,
    women: Beneficiaries,
    plan: CallPlan,
    *,
    may: BoolArray | None = None,
) -> list[str]:
    """Check a plan call by call, by other code than made it.

    Returns
    -------
    list of str
        What is wrong; empty for a plan that can be carried out.
    """
    said = []
    persons, calls = np.unique(plan.women, return_counts=True)
    if (calls > 1).any():
        said.append(f"woman {persons[calls > 1][0]} is called {calls[calls > 1][0]} times")
    made = np.zeros_like(programme.capacity)
    np.add.at(made, (plan.caller, plan.slot), 1)
    for k, s in np.argwhere(made > programme.capacity):
        said.append(
            f"{programme.callers[k]!r} has {made[k, s]} calls in {programme.slots[s]!r}, at most"
            f" {programme.capacity[k, s]}"
        )
    speaks = programme.speaks[plan.caller, women.language[plan.women]]
    for fine, what in (
        (speaks, "does not speak her language"),
        (women.free[plan.women, plan.slot], "calls when she is not free"),
        (np.ones(len(plan), dtype=bool) if may is None else may[plan.women], "may not call her"),
    ):
        if not fine.all():
            i = int(np.argmin(fine))
            said.append(f"woman {plan.women[i]}: {programme.callers[plan.caller[i]]!r} {what}")
    if programme.budget is not None and len(plan) > programme.budget:
        said.append(f"{len(plan)} calls, at most {programme.budget} allowed")
    return said


def _knows(programme: Programme, women: Beneficiaries) -> BoolArray:
    """Return which women know a caller of their language."""
    caller = np.maximum(women.familiar, 0)
    return np.asarray((women.familiar >= 0) & programme.speaks[caller, women.language])


def _values(
    programme: Programme,
    women: Beneficiaries,
    worth: FloatArray,
    known: BoolArray,
    may: BoolArray | None,
) -> FloatArray:
    """Return the table of values: no call, anybody in each slot, the known caller in each."""
    slots = programme.n_slots
    able = programme.speaks[:, :, None] & (programme.capacity > 0)[:, None]
    staffed: BoolArray = np.asarray(able.any(axis=0))
    can = worth > 0
    if may is not None:
        can &= may
    base = women.base_reach(programme)
    q = np.full((len(women), 1 + 2 * slots), -np.inf)
    q[:, 0] = 0.0
    caller = np.maximum(women.familiar, 0)
    for s in range(slots):
        free = can & women.free[:, s]
        anybody = free & staffed[women.language, s]
        q[anybody, 1 + s] = base[anybody] * worth[anybody]
        own = free & known & (programme.capacity[caller, s] > 0)
        q[own, 1 + slots + s] = (base[own] + programme.familiar_bonus) * worth[own]
    return q


def _limits(programme: Programme, women: Beneficiaries, rows: IntArray) -> list[Limit]:
    """Return the limits of sets of languages, of the budget and, of few, of known callers."""
    slots = programme.n_slots
    in_slot = np.hstack([np.zeros((slots, 1)), np.eye(slots), np.eye(slots)])
    language = women.language[rows]
    most = len(rows) if programme.budget is None else min(len(rows), programme.budget)
    limits = []
    if programme.budget is not None:
        limits.append(Limit("budget", in_slot.sum(axis=0), float(programme.budget)))
    for chosen, calls in _language_sets(programme):
        factor = np.isin(language, chosen).astype(np.float64)
        name = ", ".join(programme.languages[spoken] for spoken in chosen)
        for s in range(slots):
            if calls[s] < min(most, factor.sum()):
                limits.append(
                    Limit(f"{name}, {programme.slots[s]}", in_slot[s], float(calls[s]), factor)
                )
    few = programme.n_callers <= _MOST_CALLERS
    if few and len(rows) * programme.n_callers <= _MOST_KNOWN:
        familiar = women.familiar[rows]
        for k in range(programme.n_callers):
            factor = (familiar == k).astype(np.float64)
            for s in np.flatnonzero(programme.capacity[k]).tolist():
                if programme.capacity[k, s] < factor.sum():
                    use = np.zeros(1 + 2 * slots)
                    use[1 + slots + s] = 1.0
                    name = f"calls of {programme.callers[k]}, {programme.slots[s]}"
                    limits.append(Limit(name, use, float(programme.capacity[k, s]), factor))
    return limits


def _language_sets(programme: Programme) -> list[tuple[Sequence[int], IntArray]]:
    """Return sets of languages, and the calls in each slot of those who speak one of them.

    Of a set that callers of several languages do not hold together, the limits of its parts say as
    much.
    """
    n = len(programme.languages)
    if n > _MOST_LANGUAGES:
        raise ValueError(f"a plan knows at most {_MOST_LANGUAGES} languages, got {n}")
    speaks = programme.speaks.astype(np.int64)
    found: list[tuple[Sequence[int], IntArray]] = []
    for size in range(1, n + 1):
        for chosen in combinations(range(n), size):
            together = speaks[:, chosen].T @ speaks[:, chosen] > 0
            linked = np.linalg.matrix_power(together.astype(np.int64), size) > 0
            if size == 1 or linked[0].all():
                able = speaks[:, chosen].any(axis=1)
                found.append((chosen, programme.capacity[able].sum(axis=0)))
    return found


def _shared_out(
    programme: Programme,
    women: Beneficiaries,
    persons: IntArray,
    slot: IntArray,
    wants: BoolArray,
    worth: FloatArray,
) -> IntArray:
    """Return the caller of each call: the known one of as many as can be, by value."""
    caller = np.full(len(persons), -1, dtype=np.intp)
    language = women.language[persons]
    familiar = np.where(wants, women.familiar[persons], -1)
    for s in range(programme.n_slots):
        here = np.flatnonzero(slot == s)
        if not len(here):
            continue
        k, spoken = np.nonzero(programme.speaks & (programme.capacity[:, s] > 0)[:, None])
        pairs = {(int(a), int(b)): i for i, (a, b) in enumerate(zip(k, spoken, strict=True))}
        asked = np.zeros(len(k))
        gain = np.zeros(len(k))
        queue: dict[int, IntArray] = {}
        own = here[familiar[here] >= 0]
        for i, rows in _grouped(own, familiar[own] * len(programme.languages) + language[own]):
            pair = pairs[divmod(i, len(programme.languages))]
            by_worth = rows[np.argsort(-worth[persons[rows]], kind="stable")]
            queue[pair] = by_worth
            asked[pair], gain[pair] = len(rows), worth[persons[rows]].mean()
        needed = np.bincount(language[here], minlength=len(programme.languages))
        known, others = _flow(k, spoken, programme.capacity[:, s], needed, asked, gain)
        for pair, rows in queue.items():
            caller[rows[: known[pair]]] = k[pair]
        for own_language in np.flatnonzero(needed):
            left = here[(language[here] == own_language) & (caller[here] < 0)]
            among = spoken == own_language
            caller[left] = np.repeat(k[among], others[among])
    return caller


def _grouped(rows: IntArray, keys: IntArray) -> list[tuple[int, IntArray]]:
    order = np.argsort(keys, kind="stable")
    names, starts = np.unique(keys[order], return_index=True)
    parts = np.split(rows[order], starts[1:])
    return list(zip(names.tolist(), parts, strict=True)) if len(rows) else []


def _flow(
    caller: IntArray,
    language: IntArray,
    capacity: IntArray,
    needed: IntArray,
    asked: FloatArray,
    gain: FloatArray,
) -> tuple[IntArray, IntArray]:
    """Return, for each pair of caller and language, calls to women who know the caller, and others.

    A flow from languages to callers over two arcs for each pair, of which that to women who know
    the caller gains; its linear program has a solution in whole numbers.
    """
    n = len(caller)
    one = np.ones(n)
    each = np.arange(n)
    to_caller = sparse.csr_array((one, (caller, each)), shape=(len(capacity), n))
    of_language = sparse.csr_array((one, (language, each)), shape=(len(needed), n))
    within: Any = sparse.hstack([to_caller, to_caller])
    exactly: Any = sparse.hstack([of_language, of_language])
    found: Any = linprog(
        np.concatenate([-gain, np.zeros(n)]),
        A_ub=within,
        b_ub=capacity.astype(np.float64),
        A_eq=exactly,
        b_eq=needed.astype(np.float64),
        bounds=[(0.0, limit) for limit in [*asked.tolist(), *([None] * n)]],
        method="highs-ds",
    )
    if found.status != 0:
        raise RuntimeError(
            f"the calls of a slot cannot be shared out among callers: {found.message}"
        )
    flow = np.rint(found.x).astype(np.intp)
    return flow[:n], flow[n:]
