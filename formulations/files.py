"""Files: written whole or not at all, folders of one process and one run, strict JSON."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
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


def read_json(path: str | Path) -> Any:
    """Read a JSON file strictly: no NaN, no infinity, no key twice.

    Raises
    ------
    ValueError
        If the file is not such JSON, naming it.
    """
    try:
        return json.loads(
            Path(path).read_text(encoding="utf-8-sig"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_without_repetition,
        )
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    except ValueError as error:  # not JSON, not UTF-8, or refused
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


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
