"""Reading, checking and writing tables of logged decisions."""

from __future__ import annotations

import io
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from milp_rl.formulations.files import write_atomically


@dataclass(frozen=True, eq=False)
class LoggedTable:
    """A checked table, and its files.

    Parameters
    ----------
    frame
        The table; what is stored is what :meth:`_checked` returns.
    """

    frame: pd.DataFrame

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", self._checked(self.frame))

    @staticmethod
    @abstractmethod
    def _checked(frame: pd.DataFrame) -> pd.DataFrame:
        """Return the known columns in order, or raise ``ValueError``."""

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a parquet or CSV file, by its ending.

        Raises
        ------
        ValueError
            If the file cannot be read or is not such a table.
        """
        return cls(_read(path))

    def write(self, path: str | Path) -> None:
        """Write a parquet or CSV file, by its ending, whole or not at all."""
        buffer = io.BytesIO()
        if Path(path).suffix == ".csv":
            self.frame.to_csv(buffer, index=False)
        else:
            self.frame.to_parquet(buffer, index=False)
        write_atomically(path, buffer.getvalue())


def _read(path: str | Path) -> pd.DataFrame:
    file = Path(path)
    try:
        return pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    except FileNotFoundError:
        raise
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise ValueError(f"{file} cannot be read: {error}") from error


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
