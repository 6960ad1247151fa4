"""Files: written whole or not at all, folders of one process and one run, read with their places.

What a file has wrong is said with its name, and with line and column where there are such.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import socket
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

LOCK = ".lock"


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to a temporary file beside ``path`` and rename it over ``path``.

    Raises
    ------
    OSError
        If the folder is missing or not writable; ``path`` is then as it was before.
    """
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keep a folder for this process, so that no two runs write into it at a time.

    The lock ends with the process, however that ends; the file ``.lock`` stays.

    Parameters
    ----------
    folder
        Made if it does not exist.

    Raises
    ------
    RuntimeError
        If another run holds it, saying which.
    """
    import fcntl  # not on Windows

    path = Path(folder, LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise RuntimeError(
                f"{path.parent} is in use by {holder}: wait until it ends, or give another folder"
            ) from error
        except OSError as error:
            raise OSError(f"{path} cannot be locked ({error}); give a folder elsewhere") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def check_settings(path: str | Path, settings: Mapping[str, Any]) -> None:
    """Check that results were made with the same settings; raise ``ValueError`` if not.

    Parameters
    ----------
    path
        JSON file of the settings, beside the results. If it does not exist, nothing is checked.
    settings
        As JSON has them.
    """
    file = Path(path)
    if not file.exists():
        return
    known = read_json(file)
    if not isinstance(known, dict):
        raise ValueError(f"{file} is damaged: it holds no settings; give another folder")
    missing = "nothing"
    differ = [
        f"{key} was {known.get(key, missing)}, now {settings.get(key, missing)}"
        for key in {**settings, **known}
        if known.get(key, missing) != settings.get(key, missing)
    ]
    if differ:
        raise ValueError(
            f"{file.parent} was made with other settings ({'; '.join(differ)}); delete it, or give"
            " another folder"
        )


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON; the file appears whole or not at all."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def read_text(path: str | Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a folder, or not in UTF-8: says where, and what it seems to be.
    """
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"{path} is a folder: give a file")
    data = file.read_bytes()
    for name, marks in _MARKS.items():
        if data.startswith(marks):
            raise ValueError(f"{path} is in {name}: save it as UTF-8")
    if b"\0" in data:
        raise ValueError(f"{path} is binary data, or in UTF-16: give a text file in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start].decode(), error.object[error.start]
        line, column = _place(before, len(before))
        raise ValueError(
            f"{path}, line {line}, column {column}: the byte {byte:#04x} is not UTF-8: save the"
            " file as UTF-8"
        ) from error


def read_json(path: str | Path) -> Any:
    """Read a JSON file strictly: no NaN, no infinity, no key twice.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not such JSON, with line and column where that has a place.
    """
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path} is empty: it should hold JSON")
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, object_pairs_hook=_without_repetition
        )
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path}, {place}: not JSON: {_lowered(error.msg)}") from error
    except _NoNumberError as error:
        line, column = _place(text, _constant(text, error.name))
        raise ValueError(
            f"{path}, line {line}, column {column}: {error.name} is not a number of JSON"
        ) from error
    except ValueError as error:  # a key twice, a number without end
        raise ValueError(f"{path}: {error}") from error


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not TOML, with line and column.
    """
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    except tomllib.TOMLDecodeError as error:
        said = _TOML_PLACE.fullmatch(str(error))
        assert said is not None  # each message of tomllib ends with the place
        line, column = said["line"], said["column"]
        if line is None:
            line, column = map(str, _place(text, len(text)))
        what = _lowered(said["what"])
        raise ValueError(f"{path}, line {line}, column {column}: not TOML: {what}") from error


def place_of_key(path: str | Path, *keys: str | int) -> str:
    """Return a file, with the line on which a key is set, if that is written as in most files.

    Parameters
    ----------
    path
        A TOML or, by its ending, a JSON file.
    *keys
        The key, after the tables that it is in; of JSON, the keys of objects and the numbers of
        entries of lists that lead to a value, which need not all be there.
    """
    if Path(path).suffix == ".json":
        text = read_text(path)
        at = _position(text, keys)
        return str(path) if at is None else f"{path}, line {_place(text, at)[0]}"
    table: tuple[str, ...] = ()
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if header := re.match(r"\s*\[+([^\[\]]+)\]", line):
            found = keys == (table := _bare(header[1]))
        else:
            key = re.match(r"\s*([\w.\s\"'-]+?)\s*=", line)
            found = key is not None and keys == (*table, *_bare(key[1]))
        if found:
            return f"{path}, line {number}"
    return str(path)


_TOML_PLACE = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL
)
_MARKS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


class _NoNumberError(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not a number of JSON")
        self.name = name


def _place(text: str, position: int) -> tuple[int, int]:
    """Return line and column, from 1, of what follows a number of characters."""
    before = text[:position]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _constant(text: str, name: str) -> int:
    """Return the position of NaN or an infinity outside of texts."""
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|-?\w+', text):
        if found[0] == name:
            return found.start()
    raise AssertionError(name)


def _position(text: str, keys: Sequence[str | int]) -> int | None:
    """Return where in JSON the last of the keys is set that is there; ``None`` if the first isn't.

    A key of an object is where its name is, an entry of a list where it begins.
    """
    decoder, at, found = json.JSONDecoder(), _skipped(text, 0), None
    for key in keys:
        if text[at] != ("{" if isinstance(key, str) else "["):
            return found
        at = _skipped(text, at + 1)
        number = 0
        while text[at] not in "]}":
            begin, name = at, number
            if isinstance(key, str):
                name, at = decoder.raw_decode(text, at)
                at = _skipped(text, _skipped(text, at) + 1)  # the colon
            if name == key:
                found = begin
                break
            at = _skipped(text, decoder.raw_decode(text, at)[1])
            at, number = _skipped(text, at + (text[at] == ",")), number + 1
        else:
            return found
    return found


def _skipped(text: str, at: int) -> int:
    """Return the position of what follows white space."""
    while text[at : at + 1].isspace():
        at += 1
    return at


def _bare(key: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in key.split("."))


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(" at")


def _refuse_constant(name: str) -> NoReturn:
    raise _NoNumberError(name)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
