"""Files of states: CSV with one state per row, read strictly: what is in doubt is an error."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.files import read_text

_MISSING = ("na", "n/a", "nan", "null", "none", "nil", "inf", "infinity", "true", "false")
_DOUBT = "; say whether the first row is a header (--header or --no-header)"


def read_states(
    path: str | Path, *, header: bool | None = None, width: int | None = None
) -> FloatArray:
    """Read states, one per row, from a CSV file.

    Parameters
    ----------
    path
        The file, in UTF-8.
    header
        Whether the first row holds names. By default it does if every entry of it starts with a
        letter and cannot be a mistyped or missing number.
    width
        How many values a state must have; by default as many as the first.

    Returns
    -------
    numpy.ndarray
        States, float64, shape (states, state_dim).

    Raises
    ------
    ValueError
        If there are no states, they differ in length, an entry is not a finite number, or it is
        not clear what the first row is; with the line and column.
    """
    lines = _csv_rows(path)
    if header is None and lines:
        header = _has_names(path, lines)
    if header:
        lines = lines[1:]
    if not lines:
        raise ValueError(f"{path} has no states")
    wanted = "the first has" if width is None else "network and space leave"
    width = len(lines[0][1]) if width is None else width
    for line, row in lines:
        if len(row) != width:
            raise ValueError(
                f"{path}, line {line}: a state of {len(row)} values, {wanted} {width}"
                f"{_unseparated(row)}"
            )
        for column, entry in enumerate(row, start=1):
            if not (_is_number(entry) and math.isfinite(float(entry))):
                doubt = "" if line > lines[0][0] or header is not None else _DOUBT
                raise ValueError(
                    f"{path}, line {line}, column {column}: {entry!r} is not a finite number"
                    f"{_unseparated(row) or doubt}"
                )
    return np.array([[float(entry) for entry in row] for _, row in lines])


def _unseparated(row: list[str]) -> str:
    """Say it if a row seems to be separated otherwise."""
    other = next((sign for sign in ";\t|" if any(sign in entry for entry in row)), None)
    return "" if other is None else f": separate values by commas, not by {other!r}"


def _csv_rows(path: str | Path) -> list[tuple[int, list[str]]]:
    """Return the rows that are not empty, each with the line it ends on."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV: {error}") from error


def _has_names(path: str | Path, lines: list[tuple[int, list[str]]]) -> bool:
    """Whether the first row holds names; raise ``ValueError`` if that is not clear."""
    first = lines[0][1]
    if all(map(_is_name, first)):
        return True
    counted = len(first) > 1 and first == [str(i) for i in range(len(first))]
    if counted and not all(entry.strip("- ").isdigit() for _, row in lines for entry in row):
        raise ValueError(
            f"{path}, line {lines[0][0]}: {','.join(first)} may be the numbers of the columns or a"
            f" state{_DOUBT}"
        )
    return False


def _is_name(text: str) -> bool:
    """Whether a text is a name: no number, not even a mistyped one, and not what is missing."""
    word = text.strip().lower()
    mistyped = word.translate(str.maketrans("oil", "011"))
    return word[:1].isalpha() and word not in _MISSING and not _is_number(mistyped)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text
