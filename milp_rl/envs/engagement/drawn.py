"""Programmes and women that are drawn.

Of mMitra's women about 40% gradually stop listening ("Using ML to boost engagement with a maternal
and child health program in India", Google AI blog, August 2022); of those drawn here 38%, unless
they are called.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from milp_rl.envs.engagement.programme import Beneficiaries, Programme
from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray

DROPOUT = 0.38
"""Share of women who no longer listen after :data:`WEEKS` without calls."""
WEEKS = 40
SLOTS = ("morning", "noon", "evening", "weekend")
LANGUAGES = ("Hindi", "Marathi", "Gujarati")

_KINDS = (
    # stays listening, returns; what an answered call adds to either: ranges of each
    ((0.96, 0.99), (0.02, 0.05), (0.0, 0.01), (0.35, 0.55)),  # lasting: a return pays for long
    ((0.55, 0.75), (0.25, 0.40), (0.15, 0.25), (0.25, 0.35)),  # restless: gains soon lost
    ((0.85, 0.92), (0.02, 0.06), (0.05, 0.08), (0.15, 0.30)),  # fading
    ((0.80, 0.90), (0.02, 0.04), (0.01, 0.03), (0.02, 0.08)),  # hard to move
)
_LANGUAGE_SHARES = (0.6, 0.25, 0.15)
_FREE = (0.3, 0.25, 0.6, 0.5)  # of women; callers' shifts are the other way round
_SHIFTS = ((0, 1), (0, 1, 3), (1, 2), (0, 2, 3))


def draw_engagement(
    n: int,
    *,
    n_callers: int | None = None,
    calls_per_slot: int = 1,
    budget: int | None = None,
    n_clusters: int = 8,
    seed: int,
) -> tuple[Programme, Beneficiaries]:
    """Draw a programme and its women; the same arguments give the same ones.

    Women are free in the evening more than by day, callers work by day more than in the evening.
    The clusters' chances of staying and returning are shifted together, in log-odds, so that 38% of
    the women no longer listen after 40 weeks without calls.

    Parameters
    ----------
    n
        Number of women, at least 1.
    n_callers
        Number of callers, at least 1; by default one for 15 women, at least 3.
    calls_per_slot
        Calls that a caller has time for in a slot of the shift.
    budget
        Largest number of calls in a week; by default one for 10 women, at least 2.
    n_clusters
        Number of clusters.
    seed
        Seed of the generator.

    Returns
    -------
    tuple
        The programme and the women.

    Examples
    --------
    >>> from milp_rl.envs.engagement import listening_without_calls
    >>> programme, women = draw_engagement(20, seed=0)
    >>> round(1 - float(listening_without_calls(programme, women.cluster, 40)[-1]), 6)
    0.38
    """
    rng = np.random.default_rng(seed)
    callers = max(3, n // 15) if n_callers is None else n_callers
    if n < 1 or callers < 1 or n_clusters < 1:
        raise ValueError("women, callers and clusters must be at least 1")
    kinds = np.array([_KINDS[c % len(_KINDS)] for c in range(n_clusters)])
    drawn = kinds[..., 0] + rng.random(kinds.shape[:2]) * (kinds[..., 1] - kinds[..., 0])
    capacity = np.zeros((callers, len(SLOTS)), dtype=np.int64)
    speaks = np.zeros((callers, len(LANGUAGES)), dtype=bool)
    for k in range(callers):
        capacity[k, list(_SHIFTS[k % len(_SHIFTS)])] = calls_per_slot
        speaks[k, 0 if k == 0 else rng.choice(len(LANGUAGES), p=_LANGUAGE_SHARES)] = True
        speaks[k, k % len(LANGUAGES)] = True
    cluster = rng.permutation(np.arange(n) % n_clusters)
    language = rng.choice(len(LANGUAGES), n, p=_LANGUAGE_SHARES)
    women = Beneficiaries(
        cluster,
        language,
        _draw_free(rng, n),
        rng.random(n) < 0.4,
        _draw_familiar(rng, language, speaks),
    )
    allowed = max(2, n // 10) if budget is None else budget
    return _calibrated(drawn, women, capacity, speaks, allowed), women


def _calibrated(
    drawn: FloatArray,
    women: Beneficiaries,
    capacity: IntArray,
    speaks: BoolArray,
    budget: int,
) -> Programme:
    """Return the programme whose passive chances are shifted to the share that drops out."""
    stays, returns, kept, won = drawn.T
    rows = np.column_stack([returns, stays])

    def programme(shift: float) -> Programme:
        passive = expit(logit(rows) + shift)
        active = np.minimum(passive + np.column_stack([won, kept]), 0.999)
        return Programme(
            passive,
            np.maximum(active, passive),
            capacity,
            speaks,
            budget,
            slots=SLOTS,
            languages=LANGUAGES,
        )

    women_in = np.bincount(women.cluster, minlength=len(drawn)) / len(women)

    def excess(shift: float) -> float:
        tried, listening = programme(shift), np.ones(len(drawn))
        for _ in range(WEEKS):
            listening = tried.next_belief(listening, np.arange(len(drawn)))
        return float(women_in @ listening) - (1 - DROPOUT)

    return programme(float(brentq(excess, -8.0, 8.0, xtol=1e-13)))


def _draw_free(rng: np.random.Generator, n: int) -> BoolArray:
    free: BoolArray = rng.random((n, len(SLOTS))) < np.array(_FREE)
    nowhere = np.flatnonzero(~free.any(axis=1))
    free[nowhere, rng.choice(len(SLOTS), len(nowhere), p=np.array(_FREE) / sum(_FREE))] = True
    return free


def _draw_familiar(rng: np.random.Generator, language: IntArray, speaks: BoolArray) -> IntArray:
    """Let 60% of the women know a caller of their language."""
    familiar = np.full(len(language), -1, dtype=np.intp)
    for spoken in range(speaks.shape[1]):
        able = np.flatnonzero(speaks[:, spoken])
        own = np.flatnonzero((language == spoken) & (rng.random(len(language)) < 0.6))
        if len(able):
            familiar[own] = rng.choice(able, len(own))
    return familiar
