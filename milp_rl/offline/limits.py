"""Limits that many patients share: sums over patients, and parity between groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import FloatArray


@dataclass(frozen=True)
class Limit:
    """What all patients together may use of something.

    Parameters
    ----------
    name
        Name for messages.
    use
        What each action uses, shape (A,), finite; negative where at least something is to be used.
    most
        Limit of the sum over patients, finite.
    patient_factor
        Factor of each patient's use, shape (N,), finite; by default 1. Limits that share one array
        cost less than limits with copies of it.
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
