"""The lines that a solver writes while it solves, on request: to standard error or a function."""

from __future__ import annotations

import sys
from collections.abc import Callable

Log = Callable[[str], None]
"""Takes one line, without its end."""


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


def to_stderr(line: str) -> None:
    """Write a line to standard error, at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def log_of(verbose: bool | Log) -> Log | None:
    """Return where lines go: nowhere, to standard error, or to a function.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(verbose, bool):
        return to_stderr if verbose else None
    if not callable(verbose):
        raise ValueError(
            f"verbose must be true, false or a function of one line of text, got {verbose!r}"
        )
    return verbose
