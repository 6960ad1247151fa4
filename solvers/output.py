"""Standard output kept for a program's own lines, whatever a solver's library writes there."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def keep_stdout() -> TextIO:
    """Return a stream to standard output, and send what else is written there to standard error.

    For programs whose output other programs read. From then on neither ``print``, nor a library
    that writes to file descriptor 1, nor a process started here reaches standard output. There is
    no way back, since C libraries may write only at exit what was printed earlier.
    """
    if sys.stdout is None:  # closed by who started the program
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
    sys.stdout.flush()
    kept = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    os.dup2(sys.stderr.fileno(), 1)
    sys.stdout = sys.stderr
    return kept
