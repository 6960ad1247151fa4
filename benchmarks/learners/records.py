"""A row for each domain, learner and seed, in a file that runs add to and never lose."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from milp_rl.formulations.files import write_atomically

KEY = ["domain", "learner", "seed", "steps"]


def read(path: Path) -> pd.DataFrame:
    """Return the rows that there are."""
    if not path.exists():
        return pd.DataFrame(columns=KEY)
    return pd.read_csv(path, dtype={"domain": str, "learner": str})


def has(path: Path, **key: Any) -> bool:
    """Whether there is a row of a key."""
    rows = read(path)
    return bool(len(rows)) and bool((rows[KEY] == pd.Series(key)[KEY]).all(axis=1).any())


def add(path: Path, row: dict[str, Any]) -> None:
    """Add a row, also where another process adds one at the same time."""
    with _locked(path.parent):
        rows = pd.DataFrame([*read(path).to_dict("records"), row])
        text = io.StringIO()
        rows.sort_values(KEY, kind="stable").to_csv(text, index=False)
        write_atomically(path, text.getvalue().encode())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
