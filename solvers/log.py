"""Lines about a solve, on request: what the solver writes, and how far a search is."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

Log = Callable[[str], None]
"""Takes one line, without its end."""
_SECONDS_PER_LINE = 1.0
_logger = logging.getLogger("milp_rl.solvers")


class Lines:
    """Text in pieces, passed on as whole lines that are not empty.

    Solvers call this from their own threads, in which nothing may be raised: what taking a line
    raises is kept, nothing is passed on any more, and :meth:`end` raises it.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._rest = ""
        self._error: Exception | None = None

    def write(self, text: str) -> None:
        """Take a piece of text."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip() and self._error is None:
                try:
                    self._log(line.rstrip())
                except Exception as error:
                    self._error = error

    def end(self) -> None:
        """Pass on what is left."""
        self.write("\n")
        if self._error is not None:
            raise self._error


class Progress:
    """A line about how far a search is, at most one a second.

    Parameters
    ----------
    log
        Gets the lines; without, there are none.
    """

    def __init__(self, log: Log | None) -> None:
        self._log = log
        self._begin = self._last = time.perf_counter()

    def report(self, describe: Callable[[], str]) -> None:
        """Pass on what describes the search now, if it is time for a line."""
        if self._log is None:
            return
        now = time.perf_counter()
        if now - self._last >= _SECONDS_PER_LINE:
            self._last = now
            self._log(f"after {now - self._begin:.0f} s: {describe()}")


def to_stderr(line: str) -> None:
    """Write a line to standard error, at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def log_of(verbose: bool | Log) -> Log | None:
    """Return where lines go: nowhere, to standard error, or to a function.

    Instead of nowhere they go to the logger ``milp_rl.solvers``, at the level ``DEBUG``, if it is
    on: so the solves of a training can be read too, whose solvers nobody hands a function.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(verbose, bool):
        logged = _logger.debug if _logger.isEnabledFor(logging.DEBUG) else None
        return to_stderr if verbose else logged
    if not callable(verbose):
        raise ValueError(
            f"verbose must be true, false or a function of one line of text, got {verbose!r}"
        )
    return verbose
