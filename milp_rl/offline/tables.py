"""Reading, checking and writing tables of logged decisions."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import io
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from milp_rl.extras import needs
from milp_rl.formulations.files import read_text, write_atomically
from milp_rl.formulations.suggestions import closest

_EXACT = tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1)  # in reading numbers
_TO_THE_LAST_DIGIT = {} if _EXACT else {"float_precision": "round_trip"}
_MISSING = {"NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "NULL", "null", "None"}  # of numbers


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
            If the file cannot be read or is not such a table: says where.
        """
        frame = read_table(path)
        with places_in(path):
            return cls(frame) if schema is None else cls._with_schema(schema.apply(frame), schema)

    @classmethod
    def _with_schema(cls, frame: pd.DataFrame, schema: Schema) -> Self:
        if schema.factors is not None or schema.valid is not None:
            raise ValueError(f"{cls.__name__} has its own factors: a schema may not change them")
        return cls(frame)

    def digest(self) -> str:
        """Hash the table, to tell whether another one is the same, whatever file it was in."""
        frame = _in_full(self.frame)
        rows = pd.util.hash_pandas_object(frame, index=False, categorize=False).to_numpy()
        names = "\n".join(map(str, self.frame.columns))
        return hashlib.sha256(names.encode() + rows.tobytes()).hexdigest()

    def write(self, path: str | Path) -> None:
        """Write a parquet or CSV file (also ``.csv.gz``), by its ending, whole or not at all."""
        buffer = io.BytesIO()
        if (packing := _csv_packing(Path(path))) is not None:
            _in_full(self.frame).to_csv(buffer, index=False, compression=packing)
        else:
            self.frame.to_parquet(buffer, index=False)
        write_atomically(path, buffer.getvalue())


class CellError(ValueError):
    """A cell of a table that is wrong.

    Parameters
    ----------
    column, row
        Where, as the table names them.
    said
        What is wrong with it; a ``{}`` stands for ``other``.
    other
        Another row that has to do with it.
    """

    def __init__(self, column: str, row: Any, said: str, other: Any = None) -> None:
        super().__init__(f"column {column!r}, row {row}: {said.replace('{}', f'row {other}')}")
        self.column, self.row, self.said, self.other = column, row, said, other


@contextmanager
def places_in(path: str | Path) -> Iterator[None]:
    """Name the file in errors about its table, and in a CSV file the line instead of the row."""
    try:
        yield
    except CellError as error:
        lines = _lines(Path(path), error.row, error.other)
        if lines is None:
            raise ValueError(f"{path}: {error}") from error
        said = error.said.replace("{}", f"line {lines[1]}")
        raise ValueError(f"{path}, line {lines[0]}, column {error.column!r}: {said}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _lines(path: Path, *rows: Any) -> list[int | None] | None:
    """Return the lines of rows of a CSV file, or ``None`` if it is none or they have no numbers."""
    if not all(row is None or isinstance(row, int | np.integer) for row in rows):
        return None
    if (packing := _csv_packing(path)) is None:
        return None
    opened = gzip.open if packing == "gzip" else Path.open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        first, found = 1, {}
        number = -1  # of the row; that of the header
        for entries in reader:
            if len(entries) > 1 or any(entry.strip() for entry in entries):
                if number in rows:
                    found[number] = first
                number += 1
            first = reader.line_num + 1
    return [found.get(row) for row in rows]


def read_table(path: str | Path, **options: Any) -> pd.DataFrame:
    """Read a parquet or CSV file (also ``.csv.gz``), by its ending.

    Parameters
    ----------
    path
        The file.
    **options
        Of :func:`pandas.read_csv`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read: says why and, of a CSV file, on which line.
    """
    file = Path(path)
    packing = _csv_packing(file)
    if file.is_dir():
        raise ValueError(f"{file} is a folder: give a file")
    try:
        if packing is None:
            return pd.read_parquet(file)
        # What stands for a missing number may be a text of its own: a group called "None".
        own = {"keep_default_na": False, "na_values": [""], **_TO_THE_LAST_DIGIT, **options}
        frame: pd.DataFrame = pd.read_csv(file, compression=packing, **own)
        for name in frame:
            frame[name] = _numbers_if_else_missing(frame[name])
        return frame
    except FileNotFoundError:
        raise
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{file} is empty: it should begin with the names of columns") from error
    except Exception as error:  # pandas and pyarrow raise many kinds
        if packing == "infer":
            read_text(file)  # says it if it is no text, or not in UTF-8, and where
        raise _unread(file, str(error)) from error


def _numbers_if_else_missing(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column as numbers where all of its texts stand for a missing one."""
    if not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)):
        return column
    kept = column[~column.isin(_MISSING)]
    numbers = pd.to_numeric(kept, errors="coerce")
    if not len(kept) or numbers[kept.notna()].isna().any():
        return column
    return numbers.reindex(column.index)


def _in_full(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with numbers and texts as they are read back from CSV."""

    def widened(column: pd.Series[Any]) -> pd.Series[Any]:
        kind = column.dtype
        if isinstance(kind, pd.CategoricalDtype):
            column = column.astype(kind.categories.dtype)
        if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
            return column
        if pd.api.types.is_integer_dtype(column):
            return column if column.isna().any() else column.astype(np.int64)
        return column.astype(np.float64)

    return frame.assign(**{str(name): widened(frame[name]) for name in frame})


def _unread(file: Path, said: str) -> ValueError:
    """Return an error with the line that a message of pandas has."""
    if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", said):
        wanted, line, n = found.groups()
        return ValueError(f"{file}, line {line}: {n} entries, but {wanted} columns are named")
    if found := re.search(r"EOF inside string starting at row (\d+)", said):
        line = str(int(found[1]) + 1)
        return ValueError(f"{file}, line {line}: a quote that begins there is not closed")
    return ValueError(f"{file} cannot be read: {said}")


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
        twice = expected[i] and value == known[when].iloc[i - 1]
        what = f"{when} {value!r} twice, first in {{}}" if twice else f"no {when} {expected[i]}"
        raise CellError(
            when,
            _plain(known.index[i]),
            f"{value!r} is not 0, 1, ... in order: {who} {name!r} has {what}",
            _plain(known.index[i - 1]) if twice else None,
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
        value, row = _plain(frame[column].iloc[i]), _plain(frame.index[i])
        rows = f" ({wrong.sum()} such rows)" if wrong.sum() > 1 else ""
        raise CellError(column, row, f"{'nothing' if value is None else repr(value)} {what}{rows}")


def with_numbers(frame: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Return the table with numbers in some columns, all of which are texts once one entry is.

    Raises
    ------
    ValueError
        If an entry is no number: says where.
    """
    read = {}
    for name in columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            values = pd.to_numeric(frame[name], errors="coerce")
            refuse(frame, name, values.isna() & frame[name].notna(), "is not a number")
            read[name] = values
    return frame.assign(**read)


def refuse_missing_columns(frame: pd.DataFrame, columns: dict[str, str]) -> None:
    """Raise ``ValueError`` if a column is missing; ``columns`` says what each should hold."""
    missing = [name for name in columns if name not in frame]
    if missing:
        name, there = missing[0], list(map(str, frame.columns))
        others = [other for other in there if other not in columns]
        asked = f": is it {other!r}?" if (other := closest(name, others)) else ""
        if len(there) == 1 and re.search(r"[;\t|]", there[0]):
            asked = f": the only one is {there[0]!r}; separate by commas"
        raise ValueError(f"column {name!r} is missing ({columns[name]}){asked}")
    if not len(frame):
        raise ValueError("the table has no rows")
