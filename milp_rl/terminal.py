"""What the commands show in a terminal: progress bars, and errors in one line."""

from __future__ import annotations

from typing import NoReturn

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

console = Console(stderr=True)


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
    """Print an error and leave with status 1."""
    console.print(f"error: {error}", style="red", markup=False, highlight=False)
    raise typer.Exit(1) from error
