"""Ready sizes of synthetic interventions, and one that reads like a clinic."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np

from milp_rl.formulations.spaces.factored import FactoredValidity
from milp_rl.graphq.instance import InterventionsInstance

DRUGS = ("none of these", "ACE inhibitor", "beta blocker", "statin", "metformin", "SSRI")
INTENSITIES = ("low", "medium", "high")
FREQUENCIES = ("monthly", "weekly", "daily")
CLINICS = ("cardiology", "endocrinology", "primary care")
OUTCOMES = (
    "blood pressure control",
    "heart failure stability",
    "cholesterol control",
    "glucose control",
    "kidney function",
    "mood",
    "sleep",
    "adherence",
    "energy",
    "independence",
)
_DRUG_TARGETS = {
    "ACE inhibitor": (0, 1, 4),
    "beta blocker": (0, 1, 6),
    "statin": (2, 1),
    "metformin": (3, 4),
    "SSRI": (5, 6),
}


def clinical_instance(*, horizon: int = 20, seed: int) -> InterventionsInstance:
    """Draw three clinics that each choose a drug, an intensity and a frequency of contact.

    One clinic's choice is one valid combination, or none; at most one clinic may treat at high
    intensity. What a drug does depends on the intensity (a pair of interventions); frequent
    contact helps adherence, mood and independence; high intensity costs sleep and energy.

    Parameters
    ----------
    horizon
        Steps per episode.
    seed
        Seed of the strengths.
    """
    rng = np.random.default_rng(seed)
    factors = {"drug": DRUGS, "intensity": INTENSITIES, "frequency": FREQUENCIES}
    forbidden = [("none of these", "high", f) for f in FREQUENCIES]
    forbidden += [("SSRI", "high", "daily"), ("metformin", "high", "monthly")]
    block = FactoredValidity(
        factors,
        forbidden=forbidden,
        n_decision_makers=len(CLINICS),
        caps={"intensity": {"high": 1}},
        optional=True,
    )
    levels = [*DRUGS, *INTENSITIES, *FREQUENCIES]
    m, width = len(OUTCOMES), len(levels)
    effects = np.zeros((m, width * len(CLINICS)))
    pairs, pair_effects = [], []
    for c in range(len(CLINICS)):
        at = {level: c * width + i for i, level in enumerate(levels)}
        skill = rng.uniform(0.7, 1.1)
        for drug, targets in _DRUG_TARGETS.items():
            for rank, k in enumerate(targets):
                effects[k, at[drug]] = skill * rng.uniform(0.25, 0.45) / (1 + 0.5 * rank)
            for intensity, boost in (("medium", 0.3), ("high", 0.6)):
                pairs.append((at[drug], at[intensity]))
                column = np.zeros(m)
                column[targets[0]] = skill * boost * rng.uniform(0.8, 1.2)
                pair_effects.append(column)
        for frequency, help_ in (("weekly", 0.25), ("daily", 0.45)):
            effects[[7, 5, 9], at[frequency]] = help_ * rng.uniform(0.7, 1.1, 3)
        effects[[6, 8], at["high"]] = -rng.uniform(0.2, 0.4, 2)
    influences = np.zeros((m, m))
    for j, k, weight in ((7, 0, 0.2), (7, 3, 0.2), (6, 8, 0.2), (5, 7, 0.2), (8, 9, 0.25)):
        influences[k, j] = weight
    influences[4, 0] = influences[1, 0] = 0.15
    np.fill_diagonal(influences, 0.5)
    costs = np.tile([0.0, *[0.05] * 5, 0.02, 0.04, 0.08, 0.02, 0.05, 0.12], len(CLINICS))
    names = [
        f"{clinic}: {factor} {level}"
        for clinic, (factor, group) in itertools.product(CLINICS, factors.items())
        for level in group
    ]
    return InterventionsInstance(
        effects=effects,
        pairs=np.array(pairs),
        pair_effects=np.array(pair_effects).T,
        influences=influences,
        base=rng.uniform(0.1, 0.3, m),
        weights=np.array([1.0, 1.0, 0.7, 1.0, 0.8, 0.8, 0.0, 0.0, 0.0, 1.2]),
        costs=costs,
        noise=0.3,
        relapse=0.1,
        period=0,
        horizon=horizon,
        block=block,
        interventions=tuple(names),
        variables=OUTCOMES,
    )


def _sized(n: int, budget: int, **options: int) -> Callable[..., InterventionsInstance]:
    return partial(InterventionsInstance.generate, n, budget, **options)


PRESETS: dict[str, Callable[..., InterventionsInstance]] = {
    "5x5": _sized(5, 2),
    "8x8": _sized(8, 4),
    "10x10": _sized(10, 5),
    "10x10 seasonal": _sized(10, 5, period=12),
    "20x20": _sized(20, 5),
    "50x35": _sized(50, 10),
    "100x60": _sized(100, 20),
    "200x110": _sized(200, 40),
    "clinical": clinical_instance,
}
