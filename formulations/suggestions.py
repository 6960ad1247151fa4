"""What is said of a name that is not known, and of arguments that do not fit."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any


def unknown(kind: str, name: Any, known: Iterable[str], *, of: str = "") -> str:
    """Return that a name is not known, and the one that is like it, or else all.

    >>> from milp_rl.formulations.suggestions import unknown
    >>> unknown("domain", "capcity", ["budget", "capacity"])
    "unknown domain 'capcity'; is it 'capacity'?"
    >>> unknown("domain", 3, ["budget", "capacity"])
    'unknown domain 3; known are budget, capacity'
    """
    names = list(known)
    said = f"unknown {kind} {name!r}" + (of and f" of {of}")
    if (alike := closest(name, names)) is None:
        return f"{said}; known are {', '.join(names)}"
    return f"{said}; is it {alike!r}?"


def closest(name: Any, known: Iterable[str]) -> str | None:
    """Return the name that is most like another, if one is.

    >>> from milp_rl.formulations.suggestions import closest
    >>> closest("budgettopk", ["Box", "BudgetTopK"])
    'BudgetTopK'
    """
    by_lowered = {other.lower(): other for other in known}
    found = difflib.get_close_matches(str(name).lower(), by_lowered, n=1, cutoff=0.7)
    return by_lowered[found[0]] if found else None


def misfit(make: Callable[..., Any], error: TypeError) -> str:
    """Return what a call by names had wrong, as who wrote the names reads it.

    >>> from milp_rl.formulations.suggestions import misfit
    >>> def box(lower, upper): ...
    >>> try:
    ...     box(lower=0, uper=1)
    ... except TypeError as error:
    ...     misfit(box, error)
    "unknown parameter 'uper' of box; is it 'upper'?"
    """
    said = str(error)
    name = make.__name__
    if found := re.search(r"unexpected keyword argument '(\w+)'", said):
        known = inspect.signature(make).parameters
        return unknown("parameter", found[1], known, of=name)
    if found := re.search(r"missing \d+ required .*arguments?: (.*)", said):
        return f"{name} needs {found[1]}"
    return f"wrong parameters for {name}: {said}"


def named_in(message: str, names: Collection[str]) -> str | None:
    """Return the first of some names that a message has.

    >>> from milp_rl.formulations.suggestions import named_in
    >>> named_in("episodes must be at least 0", {"seed", "episodes"})
    'episodes'
    """
    return next((word for word in re.findall(r"\w+", message) if word in names), None)
