"""Reading, checking and writing tables of logged decisions."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd

from milp_rl.formulations.files import write_atomically


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a parquet or CSV file, by its ending; raises ``ValueError`` if it cannot be read."""
    file = Path(path)
    try:
        return pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    except FileNotFoundError:
        raise
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise ValueError(f"{file} cannot be read: {error}") from error


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a parquet or CSV file, by its ending, whole or not at all."""
    buffer = io.BytesIO()
    if Path(path).suffix == ".csv":
        frame.to_csv(buffer, index=False)
    else:
        frame.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())


def refuse(frame: pd.DataFrame, column: str, wrong: pd.Series[bool], what: str) -> None:
    """Raise ``ValueError`` with column, row and value if anything is wrong."""
    if wrong.any():
        row = wrong.index[int(np.argmax(wrong.to_numpy()))]
        value = frame[column][row]
        value = value.item() if isinstance(value, np.generic) else value
        raise ValueError(
            f"column {column!r}, row {row}: {value!r} {what} ({int(wrong.sum())} such rows)"
        )


def refuse_missing_columns(frame: pd.DataFrame, columns: dict[str, str]) -> None:
    """Raise ``ValueError`` if a column is missing; ``columns`` says what each should hold."""
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(f"column {missing[0]!r} is missing ({columns[missing[0]]})")
    if not len(frame):
        raise ValueError("the table has no rows")
