"""Reading, checking and writing tables of logged decisions."""

from __future__ import annotations

import hashlib
import io
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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
        frame = self.frame  # rows are named by the index, if it tells them apart
        named = frame if frame.index.is_unique else frame.reset_index(drop=True)
        object.__setattr__(self, "frame", self._checked(named))

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

    def digest(self) -> str:
        """Hash the table, to tell whether another one is the same."""
        rows = pd.util.hash_pandas_object(self.frame, index=False).to_numpy()
        names = "\n".join(map(str, self.frame.columns))
        return hashlib.sha256(names.encode() + rows.tobytes()).hexdigest()

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


def in_order(frame: pd.DataFrame, who: str, when: str) -> pd.DataFrame:
    """Return the rows by ``who`` and ``when``, numbered anew.

    Raises
    ------
    ValueError
        If ``when`` is not 0, 1, ... without gaps for each: says where it is twice or missing.
    """
    known = frame.sort_values([who, when], kind="stable")
    expected = known.groupby(who, sort=False).cumcount().to_numpy()
    wrong = known[when].to_numpy() != expected
    if wrong.any():
        i = int(np.argmax(wrong))
        value, name = (_plain(known[column].iloc[i]) for column in (when, who))
        what = f"no {when} {expected[i]}"
        if expected[i] and value == known[when].iloc[i - 1]:
            what = f"{when} {value!r} twice, in rows {known.index[i - 1]} and {known.index[i]}"
        raise ValueError(
            f"column {when!r}, row {known.index[i]}: {value!r} is not 0, 1, ... in order:"
            f" {who} {name!r} has {what}"
        )
    return known.reset_index(drop=True)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def refuse(frame: pd.DataFrame, column: str, wrong: pd.Series[bool], what: str) -> None:
    """Raise ``ValueError`` with column, row and value if anything is wrong.

    ``wrong`` has the rows of ``frame``, in its order; a row is named by the frame's index.
    """
    if wrong.any():
        i = int(np.argmax(wrong.to_numpy()))
        value, row = _plain(frame[column].iloc[i]), frame.index[i]
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
