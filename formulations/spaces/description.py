"""Spaces from their JSON-ready descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self, TypeVar


class Described(Protocol):
    """A class that is built from parameters, as its subclasses are."""

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> Self: ...


T = TypeVar("T", bound=Described)

_DEEPEST = 50


def described(base: type[T], data: Mapping[str, Any]) -> T:
    """Return the space that a description names among the subclasses of ``base``.

    Raises
    ------
    ValueError
        If the type is unknown or a parameter is missing or wrong.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("type"), str):
        raise ValueError('an action space needs a "type" naming its class')
    kinds = {kind.__name__: kind for kind in _subclasses(base)}
    if data["type"] not in kinds:
        raise ValueError(
            f"unknown action space {data['type']!r}; known are {', '.join(sorted(kinds))}"
            " (a class of your own must be imported first)"
        )
    kind = kinds[data["type"]]
    parameters = {key: value for key, value in data.items() if key != "type"}
    _check_depth(parameters)
    try:
        return kind._from_parameters(parameters)
    except KeyError as error:
        raise ValueError(f"wrong parameters for {data['type']}: no {error}") from error
    except (TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise ValueError(f"wrong parameters for {data['type']}: {error}") from error


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
