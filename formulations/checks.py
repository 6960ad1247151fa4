"""Checks of parameters from JSON files and from callers: strict types, no silent conversion.

``true`` is no number, 2.0 no integer and ``"no"`` no flag; NumPy's numbers are numbers. Numbers
beyond 1e15 in size are refused: solvers take them for infinite, and float64 counts no further.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

LARGEST = 10**15
LARGEST_SEED = 2**64 - 1  # of torch's generators
MOST_VARIABLES = 10_000_000


def check_integer(value: Any, name: str, lowest: int = 0, highest: int = LARGEST) -> int:
    """Return an integer as ``int``; raise ``ValueError`` for other types or out of range."""
    if not _is_integer(value):
        raise ValueError(f"{name} must be an integer, got {shown(value)}")
    number = operator.index(value)
    if number < lowest:
        raise ValueError(f"{name} must be at least {lowest}, got {shown(number)}")
    if number > highest:
        raise ValueError(f"{name} must be at most {highest}, got {shown(number)}")
    return number


def check_integers(values: Any, name: str, lowest: int = 0, highest: int = LARGEST) -> list[int]:
    """Return a list, or vector, of integers as ``int``s, or raise ``ValueError``."""
    return [
        check_integer(value, f"{name}[{i}]", lowest, highest)
        for i, value in enumerate(check_list(values, name))
    ]


def check_number(value: Any, name: str, lowest: float = -LARGEST) -> float:
    """Return a finite number as ``float``; raise ``ValueError`` if it is none or too low."""
    if not _is_number(value):
        raise ValueError(f"{name} must be a number, got {shown(value)}")
    if not abs(value) <= LARGEST:
        raise ValueError(f"{name} must be finite, at most {LARGEST:g} in size, got {shown(value)}")
    if value < lowest:
        raise ValueError(f"{name} must be at least {lowest:g}, got {shown(value)}")
    return float(value)


def check_unit(values: NDArray[np.float64], smallest: float, what: str, whole: str) -> None:
    """Refuse a row whose terms are all of the size of tolerances.

    Parameters
    ----------
    values
        The terms, at most.
    smallest
        What the largest of them has to be at least.
    what, whole
        What they are, and what has to be multiplied by the same number, for the message.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if 0 < largest < smallest:
        raise ValueError(
            f"{what} are at most {largest:g}, of the size of what is allowed for rounding: give"
            f" {whole} in a smaller unit, such as {1 / largest:.0e} times as much"
        )


def check_flag(value: Any, name: str) -> bool:
    """Return ``True`` or ``False`` as ``bool``; raise ``ValueError`` for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return bool(value)


def check_numbers(values: Any, name: str, ndim: int = 1) -> NDArray[np.float64]:
    """Return numbers as a float64 copy.

    Parameters
    ----------
    values
        An array, or lists of numbers within lists.
    name
        For messages.
    ndim
        Number of dimensions wanted.

    Raises
    ------
    ValueError
        If it has other dimensions or an entry is not a finite number of at most 1e15 in size.
    """
    array = _rectangular(values, name)
    if array.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} dimension{'s' * (ndim > 1)}, got shape {array.shape}"
        )
    if array.dtype.kind == "O" or isinstance(values, list | tuple):
        for value in _leaves(values if isinstance(values, list | tuple) else array.tolist()):
            if not _is_number(value):
                raise ValueError(f"{name} holds {shown(value)}; every entry must be a number")
    elif array.dtype.kind not in "iuf":
        raise ValueError(f"{name} is of type {array.dtype}; every entry must be a number")
    # Half precision cannot hold the limit, nor float64 every whole number that an object may be.
    own = array if array.dtype.kind == "O" else array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        outside = np.argwhere(~(np.abs(own) <= LARGEST))
    if len(outside):
        index = tuple(outside[0].tolist())
        where = ", ".join(map(str, index))
        raise ValueError(
            f"{name}[{where}] is {shown(array[index])}; every entry must be finite, at most"
            f" {LARGEST:g} in size"
        )
    return np.array(array, dtype=np.float64, order="C")


def check_binary(values: Any, name: str, ndim: int = 1) -> NDArray[np.bool_]:
    """Return an array of booleans, or of zeros and ones, as booleans, or raise ``ValueError``."""
    array = _rectangular(values, name)
    if array.ndim != ndim:
        raise ValueError(
            f"{name} must have {ndim} dimension{'s' * (ndim > 1)}, got shape {array.shape}"
        )
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be boolean or 0 and 1")
    return array.astype(bool)


def check_texts(values: Any, name: str) -> list[str]:
    """Return a list of strings, or raise ``ValueError``."""
    found = check_list(values, name)
    for i, value in enumerate(found):
        if not isinstance(value, str):
            raise ValueError(f"{name}[{i}] must be a string, got {shown(value)}")
    return [str(value) for value in found]


def check_list(values: Any, name: str) -> list[Any]:
    """Return what a list, tuple, vector or other series holds, or raise ``ValueError``."""
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise ValueError(f"{name} must be a list, got {shown(values)}")
    return list(values)


def check_mapping(value: Any, name: str) -> Mapping[str, Any]:
    """Return a mapping from strings, or raise ``ValueError``."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} must map names to values, got {shown(value)}")
    return value


def check_fields(record: Any) -> None:
    """Check the fields of a dataclass against their types, as far as these are plain.

    Known are ``bool``, ``int``, ``float`` (an ``int`` will do), ``str``, ``None``, literal strings,
    tuples of one of them, and their unions; other types pass.

    Raises
    ------
    ValueError
        If a field is of another type, or not one of the strings.
    """
    for name, hint in get_type_hints(type(record)).items():
        value = getattr(record, name)
        if not _fits(value, hint):
            raise ValueError(f"{name} must be {_described(hint)}, got {shown(value)}")


def shown(value: Any) -> str:
    """Return a value as messages show it: not all of a long one."""
    try:
        return reprlib.repr(value.item() if isinstance(value, np.generic) else value)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"


def _is_integer(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iu"
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    return isinstance(value, Real) and not isinstance(value, bool)


def _rectangular(values: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{name} must be a list of numbers, rows of one length: {error}"
        ) from error


def _leaves(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        elif isinstance(value, np.ndarray) and value.ndim:
            yield from _leaves(value.tolist())
        else:
            yield value


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        return isinstance(value, tuple) and all(_fits(entry, parts[0]) for entry in value)
    if hint is float:
        return _is_number(value)
    if hint is int:
        return _is_integer(value)
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    return True


def _described(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_described, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        return f"a list, every entry {_described(parts[0])}"
    names = {bool: "true or false", int: "an integer", float: "a number", NoneType: "None"}
    return names.get(hint, "a string")
