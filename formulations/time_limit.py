"""A time limit for what takes long before a search has begun: listing, drawing, compiling.

Searches look at their own clock. What they call to set themselves up goes deep into the spaces, and
has its limit from the thread that it runs in.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_local = threading.local()


class LateError(Exception):
    """The time limit passed before something was set up."""


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Limit what is called in this thread to a moment of ``time.perf_counter``; limits nest.

    Examples
    --------
    >>> import time
    >>> from milp_rl.formulations.time_limit import is_late, until
    >>> with until(time.perf_counter() - 1.0):
    ...     is_late()
    True
    >>> is_late()
    False
    """
    outer = _deadline()
    _local.deadline = min(outer, deadline)
    try:
        yield
    finally:
        _local.deadline = outer


def seconds_left() -> float:
    """Return how long there is until the limit, infinite where there is none."""
    return _deadline() - time.perf_counter()


def is_late() -> bool:
    """Whether the limit has passed."""
    return seconds_left() <= 0.0


def check_time() -> None:
    """Raise :class:`LateError` if the limit has passed."""
    if is_late():
        raise LateError


def _deadline() -> float:
    return getattr(_local, "deadline", math.inf)
