"""Reporting on work that goes on elsewhere, by what it has left so far."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def watched(report: Callable[[], None], seconds: float = 1.0) -> Iterator[None]:
    """Call ``report`` at the beginning, every so many seconds, and at the end."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(seconds):
            report()

    thread = threading.Thread(target=watch, daemon=True)
    report()
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        report()
