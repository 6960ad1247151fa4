"""Limits of a solve, and when two values count as equal."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field

from milp_rl.formulations.kernels.description import CompiledOracle
from milp_rl.formulations.time_limit import seconds_left, until
from milp_rl.solvers.log import Log

_LOOPS = "milp_rl.formulations.kernels.oracles"  # that all of them import
_SEARCH = "milp_rl.solvers.branch_and_bound.kernels"
SECONDS_TO_FETCH = 5.0
"""Of a time limit, within which kept loops of searches are fetched: it takes a second or two."""

TOLERANCE = 1e-6
"""Values that differ by at most this part of the spread of the objective count as equal."""


@dataclass(frozen=True)
class SolveOptions:
    """Limits of one solve.

    Parameters
    ----------
    gap
        Relative gap at which to stop, (bound - value) / |value|, at least 0.
    absolute_gap
        Absolute gap at which to stop, at least 0; the solve stops at whichever comes first.
    time_limit
        Seconds, positive; ``None`` for none.
    threads
        Threads per solve, at least 1.
    node_limit
        Branch-and-bound nodes, at least 1; ``None`` for no limit.
    log
        Gets the lines that the solver writes; without, it writes none.
    once
        Whether nothing like it is solved again: then loops are compiled, or fetched as they were
        compiled before, only for a search that takes long.
    stall_limit
        Nodes of the native search from which it ends if the second half of them has hardly brought
        its bound down; ``None`` to go on.
    """

    gap: float = 0.0
    absolute_gap: float = 0.0
    time_limit: float | None = None
    threads: int = 1
    node_limit: int | None = None
    log: Log | None = field(default=None, compare=False)
    once: bool = False
    stall_limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("gap", "absolute_gap"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a nonnegative number, got {value!r}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit must be positive seconds or None, got {self.time_limit}")
        if not (isinstance(self.threads, int) and self.threads >= 1):
            raise ValueError(f"threads must be an integer of at least 1, got {self.threads!r}")
        limit = self.node_limit
        if limit is not None and not (isinstance(limit, int) and limit >= 1):
            raise ValueError(f"node_limit must be an integer of at least 1 or None, got {limit!r}")

    @property
    def loops(self) -> bool:
        """Whether lists may be evaluated by compiled loops, which no time limit waits for."""
        fetched = self.time_limit is None or _LOOPS in sys.modules
        return fetched and not self.once

    def loops_of(self, oracle: CompiledOracle | None) -> CompiledOracle | None:
        """Return an oracle if a search may begin in compiled loops with it, else ``None``."""
        with until(self.deadline(time.perf_counter())):
            return None if self.once else in_time(oracle)

    def deadline(self, begin: float) -> float:
        """Return when a solve that began then is to end, infinite without a time limit."""
        return math.inf if self.time_limit is None else begin + self.time_limit


def in_time(oracle: CompiledOracle | None) -> CompiledOracle | None:
    """Return an oracle if the time limit leaves time for the loops of a search with it.

    They are compiled for each kind of oracle. Those that a search of this process had are there;
    others are fetched from where they are kept, or compiled, if that is a small part of the limit.
    """
    if oracle is None or (_SEARCH not in sys.modules and seconds_left() < SECONDS_TO_FETCH):
        return None
    from milp_rl.solvers.branch_and_bound import kernels

    return oracle if kernels.are_in_time(type(oracle)) else None


def late(deadline: float) -> bool:
    """Whether a deadline has passed."""
    return time.perf_counter() >= deadline
