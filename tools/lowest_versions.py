"""Print the lowest version that pyproject.toml allows of each dependency, for pip's --constraint.

``python tools/lowest_versions.py EXTRA,EXTRA,...``
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(requirement: str) -> str:
    """Return ``name==version`` for a requirement with a lower bound, or the pin it has already.

    Raises
    ------
    ValueError
        If it has none: then nothing says what it was tested with.
    """
    found = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?\s*[=>]=\s*([\w.]+)(?:\s*,.*)?", requirement)
    if found is None:
        raise ValueError(f"{requirement!r} has no lower bound")
    return f"{found[1]}=={found[2]}"


def required(project: dict[str, Any], extras: Iterable[str]) -> set[str]:
    """Return the requirements of the project and of extras, those that extras name included."""
    found = set(project["dependencies"])
    for extra in extras:
        for one in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[([\w,]+)\]", one)
            found |= required(project, own[1].split(",")) if own else {one}
    return found


def main() -> None:
    """Print the dependencies of the project and of the extras named."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    for requirement in sorted(required(project, sys.argv[1].split(","))):
        print(lowest(requirement))


if __name__ == "__main__":
    main()
