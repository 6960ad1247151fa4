"""What the core does without: a package that is missing is said by the name of its extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Name the extra that has the package for whose want an import inside fails.

    Parameters
    ----------
    extra
        A name under ``[project.optional-dependencies]`` in ``pyproject.toml``.

    Raises
    ------
    ModuleNotFoundError
        With the missing package and what to install.

    Examples
    --------
    >>> with needs("learn"):
    ...     import json
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "milp_rl"}:
            raise
        raise ModuleNotFoundError(
            f'{package} is not installed: pip install "milp-rl[{extra}]"', name=error.name
        ) from error
