"""What intersections, unions and products share: members, their checks, their description."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.checks import check_list, check_texts, shown
from milp_rl.formulations.spaces.base import ActionSpace


class Composite(ActionSpace):
    """A space made of members, each over some of its variables.

    Parameters
    ----------
    members
        One or more spaces; without names, members of the same kind are taken apart.
    names
        Names of the members, distinct, for :meth:`decode` and :meth:`member`; ``None`` for one
        without a name, which is called by its class.
    """

    def __init__(
        self, members: Iterable[ActionSpace], names: Iterable[str | None] | None = None
    ) -> None:
        given = list(members)
        called = [None] * len(given) if names is None else check_list(names, "names")
        if len(called) != len(given):
            raise ValueError(f"{len(given)} members need as many names, got {shown(called)}")
        flat: list[ActionSpace] = []
        self._given: list[str | None] = []
        for member, name in zip(given, called, strict=True):
            if not isinstance(member, ActionSpace):
                raise ValueError(f"members must be action spaces, got {shown(member)}")
            if names is None and isinstance(member, type(self)):
                flat.extend(member.members)
                self._given.extend(member._given)
            else:
                flat.append(member)
                self._given.append(None if name is None else check_texts([name], "names")[0])
        if not flat:
            raise ValueError(f"{type(self).__name__} needs at least one space")
        own = [name for name in self._given if name is not None]
        if len(set(own)) < len(own):
            raise ValueError(f"the names of members must be distinct, got {own}")
        self.members: tuple[ActionSpace, ...] = tuple(flat)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members: those given, else the class, with a number from the second on."""
        taken = set(self._given)
        found: list[str] = []
        for member, name in zip(self.members, self._given, strict=True):
            kind, number = type(member).__name__, 1
            while name is None:
                candidate = kind if number == 1 else f"{kind} {number}"
                name = None if candidate in taken else candidate
                number += 1
            taken.add(name)
            found.append(name)
        return tuple(found)

    def member(self, name: str) -> ActionSpace:
        """Return the member of a name; raises ``ValueError`` if there is none."""
        if name not in self.names:
            raise ValueError(f"there is no member {name!r}; there are {list(self.names)}")
        return self.members[self.names.index(name)]

    def decode(self, action: ArrayLike) -> dict[str, Any]:
        """Return what each member makes of the action, or of its part, by the members' names."""
        a = self.check_action(action)
        return {
            name: member.decode(a[part].astype(member.dtype))
            for name, (member, part) in zip(self.names, self.parts(), strict=True)
        }

    def limits(self) -> dict[str, ActionSpace]:
        """Return the space with each limit of each member, by the member's name."""
        found: dict[str, ActionSpace] = {}
        for i, (name, member) in enumerate(zip(self.names, self.members, strict=True)):
            for limit, more in member.limits().items():
                members = [*self.members[:i], more, *self.members[i + 1 :]]
                found[f"{name}: {limit}"] = type(self)(members, self._given)
        return found

    def _rounded(self, point: FloatArray) -> ActionArray:
        """Round a solver's point, each part as its member does."""
        action = super()._rounded(point)
        if self.binary:
            return action
        for member, part in self.parts():
            if isinstance(member, Composite):
                own = np.where(self.continuous[part], point[part], action[part])
                action[part] = member._rounded(own)
        return np.clip(action, self.lower, self.upper).astype(self.dtype)

    @abstractmethod
    def parts(self) -> list[tuple[ActionSpace, slice]]:
        """Return the members and the variables that each is over."""

    @property
    def down_closed(self) -> bool:
        """True if every member is."""
        return all(member.down_closed for member in self.members)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        members = [member.to_dict() for member in self.members]
        data: dict[str, Any] = {"type": type(self).__name__, "members": members}
        if any(name is not None for name in self._given):
            data["names"] = self._given
        return data

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> Self:
        given = check_list(parameters["members"], "members")
        members = [_member(i, member) for i, member in enumerate(given)]
        return cls(**{**parameters, "members": members})

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write each member's constraints on a sub-block ``block.member[i]``."""
        block.member = pyo.Block(range(len(self.members)))
        for i, (member, part) in enumerate(self.parts()):
            member.constrain(block.member[i], actions[part])

    def _written(self, sign: str) -> str:
        """Return the members between signs, or as the class is called where there are names."""
        if all(name is None for name in self._given):
            return sign.join(map(_inner, self.members))
        return f"{type(self).__name__}({list(self.members)!r}, names={self._given!r})"

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check many actions, by one member after another."""
        found = np.ones(len(actions), dtype=bool)
        for member, part in self.parts():
            found[found] = member.feasible(actions[found][:, part])
        return found


def _inner(member: ActionSpace) -> str:
    """Write a member, between brackets if it is written with a sign."""
    signed = isinstance(member, Composite) and all(name is None for name in member._given)
    return f"({member!r})" if signed and len(member.parts()) > 1 else repr(member)


class Overlaid(Composite):
    """A space made of members that are all over its variables."""

    _verb: ClassVar[str]  # for what messages say is done to the members

    def __init__(
        self, members: Iterable[ActionSpace], names: Iterable[str | None] | None = None
    ) -> None:
        super().__init__(members, names)
        sizes = [member.n_actions for member in self.members]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"the spaces to {self._verb} have different numbers of actions: {sizes}"
            )

    @property
    def n_actions(self) -> int:
        """Number of action variables."""
        return self.members[0].n_actions

    def parts(self) -> list[tuple[ActionSpace, slice]]:
        """Return the members, each over all variables."""
        return [(member, slice(None)) for member in self.members]


def _member(i: int, data: Any) -> ActionSpace:
    try:
        return ActionSpace.from_dict(data)
    except ValueError as error:
        raise ValueError(f"members[{i}]: {error}") from error
