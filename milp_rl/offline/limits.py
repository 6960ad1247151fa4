"""Limits that many patients share: sums over patients, and parity between groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import BoolArray, FloatArray


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
        Which actions have the level, shape (A,), boolean or 0 and 1.
    groups
        The group of each patient, shape (N,), none missing.
    tolerance
        Largest difference between a group's share and everyone's, nonnegative.

    Returns
    -------
    list of Limit
        Two per group.

    Raises
    ------
    ValueError
        If the tolerance is negative, a level is neither 0 nor 1, or a group is missing.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be nonnegative, got {tolerance}")
    labels = group_labels(groups)
    has = level_mask(level).astype(np.float64)
    limits = []
    for group in each_group(labels):
        inside = labels == group
        factor = inside / inside.sum() - 1.0 / len(labels)
        for sign, side in ((1.0, "above"), (-1.0, "below")):
            limits.append(Limit(f"{name}: {group} {side} all", sign * has, tolerance, factor))
    return limits


def group_labels(groups: ArrayLike, n: int | None = None) -> NDArray[Any]:
    """Return the group of each row; raise ``ValueError`` if one is missing, or there are not n."""
    labels = np.asarray(groups)
    if labels.ndim != 1 or (n is not None and len(labels) != n):
        wanted = "of one dimension" if n is None else f"of shape ({n},)"
        raise ValueError(f"groups must be {wanted}, got the shape {labels.shape}")
    missing = np.flatnonzero(pd.isna(labels))
    if len(missing):
        raise ValueError(
            f"the group of row {missing[0]} is missing ({len(missing)} of {len(labels)} are): give"
            " these rows a group of their own, such as 'unknown', or leave them out"
        )
    return labels


def each_group(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the groups in order; raise ``ValueError`` if they are not of one kind."""
    try:
        return np.unique(labels)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in labels.tolist()})
        raise ValueError(
            f"groups must be of one kind, all texts or all numbers, got {' and '.join(kinds)}"
        ) from error


def level_mask(level: ArrayLike, n: int | None = None) -> BoolArray:
    """Return which actions have a level; raise ``ValueError`` unless all are 0 or 1, and n."""
    has = np.asarray(level)
    if has.ndim != 1 or (n is not None and len(has) != n):
        wanted = "of one dimension" if n is None else f"of shape ({n},)"
        raise ValueError(f"level must be {wanted}, got the shape {has.shape}")
    wrong = np.flatnonzero(~np.isin(has, (0, 1)))
    if len(wrong):
        raise ValueError(
            f"level must say of each action whether it has the level, 0 or 1: entry {wrong[0]} is"
            f" {has[wrong[0]]}"
        )
    return np.asarray(has == 1)
