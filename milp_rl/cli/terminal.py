"""What the commands show in a terminal: their output, progress bars, and errors in one line."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TextIO, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from typer.core import TyperCommand

from milp_rl.solvers.output import keep_stdout

console = Console(stderr=True)
log = logging.getLogger(__name__)

FAILURES = (ValueError, OSError, ImportError, RuntimeError, MemoryError, OverflowError)
"""What may go wrong with files, settings and limits; anything else is a bug, with a traceback."""

_OPTIONS = {"inputs": "--inputs", "output": "--network-output", "space": "--space FILE.json"}
"""What messages call arguments of functions, and what they are as options."""

_T = TypeVar("_T")
_output: TextIO | None = None  # standard output, once a command runs


class Command(TyperCommand):
    """A command whose output can be piped, and whose failures are one line.

    Only :func:`echo` writes to standard output.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command, its arguments read."""
        global _output
        _output = _output or keep_stdout()
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except FAILURES as error:
            fail(error)


def echo(text: str | Table) -> None:
    """Write a line, or a table, to standard output."""
    if isinstance(text, Table):
        Console(file=_output).print(text)
    else:
        typer.echo(text, file=_output)


def tracked(items: Iterable[_T], what: str, total: int) -> Iterator[_T]:
    """Yield items, with a progress bar for several of them."""
    with bar() as shown:
        shown.disable = total < 2
        yield from shown.track(items, total=total, description=what)


def bar() -> Progress:
    """Return a progress bar."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("left"),
        console=console,
    )


def fail(error: Exception) -> NoReturn:
    """Print an error in a line and leave with status 1; with ``--verbose``, where it came from."""
    log.info("an error", exc_info=error)
    said = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        said = f"{error.filename}: {error.strerror.lower()}"
    text = ", ".join([said, *getattr(error, "__notes__", [])])
    named = [option for word, option in _OPTIONS.items() if f"{word}=" in text]
    if named:
        text += f" (here: {', '.join(named)})"
    if isinstance(error, MemoryError):
        text = f"out of memory: {text}"
    if isinstance(error, RecursionError):
        text = f"something is nested too deeply: {text}"
    line = " ".join(f"error: {text}".split())
    console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1) from error
