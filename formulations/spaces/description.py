"""Spaces from their JSON-ready descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self, TypeVar

from milp_rl.formulations.checks import shown
from milp_rl.formulations.suggestions import misfit, named_in, unknown


class Described(Protocol):
    """A class that is built from parameters, as its subclasses are."""

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> Self: ...


T = TypeVar("T", bound=Described)

_DEEPEST = 50
_MEMBER = re.compile(r"members\[(\d+)\]: ")


def described(base: type[T], data: Mapping[str, Any]) -> T:
    """Return the space that a description names among the subclasses of ``base``.

    Raises
    ------
    ValueError
        If the type is unknown or a parameter is missing or wrong.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("type"), str):
        raise ValueError(
            f'an action space is an object with a "type" that names its class, got {shown(data)}'
        )
    kinds = {kind.__name__: kind for kind in _subclasses(base)}
    if data["type"] not in kinds:
        said = unknown("action space", data["type"], sorted(kinds))
        raise ValueError(f"{said} (a class of your own must be imported first: --import)")
    kind = kinds[data["type"]]
    parameters = {key: value for key, value in data.items() if key != "type"}
    _check_depth(parameters)
    try:
        return kind._from_parameters(parameters)
    except KeyError as error:
        raise ValueError(f"wrong parameters for {data['type']}: no {error}") from error
    except TypeError as error:
        raise ValueError(misfit(kind, error)) from error
    except (AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise ValueError(f"wrong parameters for {data['type']}: {error}") from error


def steps_to(message: str, data: Any) -> list[str | int]:
    """Return the keys and numbers that lead to what a message of :func:`described` is about.

    >>> from milp_rl.formulations.spaces.description import steps_to
    >>> data = {"type": "Union", "members": [{"type": "Capacity", "costs": [1, -1]}]}
    >>> steps_to("members[0]: costs[1] is -1; costs must not be negative", data)
    ['members', 0, 'costs', 1]
    """
    steps: list[str | int] = []
    while (found := _MEMBER.match(message)) and isinstance(data, Mapping):
        steps += ["members", int(found[1])]
        members = data.get("members")
        data = members[int(found[1])] if isinstance(members, list) else None
        message = message[found.end() :]
    key = named_in(message, data) if isinstance(data, Mapping) else None
    if key is not None:
        entry = re.search(rf"\b{re.escape(key)}\[([\d, ]+)\]", message)
        steps += [key, *(int(number) for number in re.findall(r"\d+", entry[1] if entry else ""))]
    return steps


def _check_depth(parameters: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for members of members of members, without end."""
    level: list[Any] = [parameters]
    for _ in range(_DEEPEST):
        members = [data["members"] for data in level if isinstance(data.get("members"), list)]
        level = [data for own in members for data in own if isinstance(data, Mapping)]
        if not level:
            return
    raise ValueError(f"members are nested more than {_DEEPEST} deep")


def _subclasses(kind: type[T]) -> Iterator[type[T]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)
