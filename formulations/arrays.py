"""The arrays that everything here is made of, and their checks at the public edge."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]
ActionArray = NDArray[np.int8 | np.int64 | np.float64]
"""Actions: int8 where all variables are binary, int64 where all are integer, else float64."""


def unmasked(values: ArrayLike, name: str) -> ArrayLike:
    """Return numbers, or raise ``ValueError`` where some are masked or complex."""
    rows = values if isinstance(values, list | tuple) else ()
    if np.ma.is_masked(values) or any(np.ma.is_masked(row) for row in rows):
        raise ValueError(f"some of {name} is masked; every entry must be known")
    if np.iscomplexobj(values):
        raise ValueError(f"{name} must be of real numbers, got {values!r}")
    return values


def check_vector(values: ArrayLike, name: str) -> FloatArray:
    """Return ``values`` as a one-dimensional finite float64 array, or raise ``ValueError``."""
    vector = np.asarray(unmasked(values, name), dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {vector.shape}")
    bad = np.flatnonzero(~np.isfinite(vector))
    if len(bad):
        raise ValueError(f"{name}[{bad[0]}] is {vector[bad[0]]}; every entry must be finite")
    return vector


def check_states(states: ArrayLike, width: int) -> FloatArray:
    """Return ``states`` as a finite float64 array of shape (n, width), or raise ``ValueError``."""
    s = np.asarray(unmasked(states, "states"), dtype=np.float64)
    if s.ndim != 2 or s.shape[1] != width:
        raise ValueError(f"states must have shape (n, {width}), got {s.shape}")
    if not np.isfinite(s).all():
        row, i = np.argwhere(~np.isfinite(s))[0]
        raise ValueError(f"state[{i}] is {s[row, i]}, but states must be finite")
    return s
