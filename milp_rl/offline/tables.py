"""Reading, checking and writing tables of logged decisions."""

from __future__ import annotations

import hashlib
import importlib
import io
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from milp_rl.extras import needs
from milp_rl.formulations.files import write_atomically


@dataclass(frozen=True, eq=False)
class Schema:
    """How a table of one's own says what the columns here say.

    Parameters
    ----------
    columns
        Its column for a column here: ``{"patient": "member_id"}``. Columns that have the same name
        need not be in it.
    levels
        For a column here, the value here of each value there: ``{"modality": {"tel": "Phone"}}``.
        Values that are not in it stay as they are.
    factors
        Levels of each factor of the actions, where they are not the default ones.
    valid
        Valid combinations, one row each, a column per factor, in the words here; by default those
        that occur.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    factors: Mapping[str, Sequence[str]] | None = None
    valid: pd.DataFrame | None = None

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the columns and values here.

        Raises
        ------
        ValueError
            If it lacks a column that the schema names.
        """
        for ours, theirs in self.columns.items():
            if theirs not in frame:
                known = ", ".join(map(str, frame.columns))
                raise ValueError(
                    f"the schema says that {ours!r} is column {theirs!r}: the table has {known}"
                )
        replaced = [ours for ours, theirs in self.columns.items() if theirs != ours]
        found = frame.drop(columns=[name for name in replaced if name in frame])
        found = found.rename(columns={theirs: ours for ours, theirs in self.columns.items()})
        for column, values in self.levels.items():
            if column not in found:
                raise ValueError(f"the schema has levels of {column!r}, which the table lacks")
            before = found[column]
            after = before.map(values).where(before.isin(list(values)), before)
            found[column] = after.infer_objects()
        return found


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

    @abstractmethod
    def _checked(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the known columns in order, or raise ``ValueError``."""

    @classmethod
    def read(cls, path: str | Path, *, schema: Schema | None = None) -> Self:
        """Read a parquet or CSV file (also ``.csv.gz``), by its ending.

        Parameters
        ----------
        path
            The file.
        schema
            What its columns and values are called, where they are called otherwise.

        Raises
        ------
        ValueError
            If the file cannot be read or is not such a table.
        """
        frame = _read(path)
        return cls(frame) if schema is None else cls._with_schema(schema.apply(frame), schema)

    @classmethod
    def _with_schema(cls, frame: pd.DataFrame, schema: Schema) -> Self:
        if schema.factors is not None or schema.valid is not None:
            raise ValueError(f"{cls.__name__} has its own factors: a schema may not change them")
        return cls(frame)

    def digest(self) -> str:
        """Hash the table, to tell whether another one is the same."""
        rows = pd.util.hash_pandas_object(self.frame, index=False).to_numpy()
        names = "\n".join(map(str, self.frame.columns))
        return hashlib.sha256(names.encode() + rows.tobytes()).hexdigest()

    def write(self, path: str | Path) -> None:
        """Write a parquet or CSV file (also ``.csv.gz``), by its ending, whole or not at all."""
        buffer = io.BytesIO()
        if (packing := _csv_packing(Path(path))) is not None:
            self.frame.to_csv(buffer, index=False, compression=packing)
        else:
            self.frame.to_parquet(buffer, index=False)
        write_atomically(path, buffer.getvalue())


def _read(path: str | Path) -> pd.DataFrame:
    file = Path(path)
    packing = _csv_packing(file)
    try:
        if packing is not None:
            return pd.read_csv(file, compression=packing)
        return pd.read_parquet(file)
    except FileNotFoundError:
        raise
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise ValueError(f"{file} cannot be read: {error}") from error


def _csv_packing(path: Path) -> Literal["infer", "gzip"] | None:
    """Return how a CSV file is packed, or ``None`` if it is none, but parquet."""
    if path.name.endswith(".csv.gz"):
        return "gzip"
    if path.suffix == ".csv":
        return "infer"
    with needs("offline"):
        importlib.import_module("pyarrow")
    return None


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
