"""How loops are compiled: once on each machine, and kept beside the source or in a user's cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile a function of scalars, arrays and tuples of these when it is first called.

    It releases the interpreter lock, divides by zero as numpy does, and its indices are not
    checked.
    """
    return cast(_F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def compiled_freely(function: _F) -> _F:
    """Compile like :func:`compiled`, but let sums be added in any order, which is faster."""
    any_order = {"reassoc", "contract", "nsz"}
    how = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=any_order)
    return cast(_F, how(function))
