"""What intersections and products of spaces share: members, their checks, their description."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import pyomo.environ as pyo

from milp_rl.formulations.arrays import ActionArray, BoolArray
from milp_rl.formulations.checks import check_list, shown
from milp_rl.formulations.spaces.base import ActionSpace


class Composite(ActionSpace):
    """A space made of members, each over some of its variables.

    Parameters
    ----------
    members
        One or more spaces; members of the same kind are taken apart.
    """

    def __init__(self, members: Iterable[ActionSpace]) -> None:
        flat: list[ActionSpace] = []
        for member in members:
            if not isinstance(member, ActionSpace):
                raise ValueError(f"members must be action spaces, got {shown(member)}")
            flat.extend(member.members if isinstance(member, type(self)) else [member])
        if not flat:
            raise ValueError(f"{type(self).__name__} needs at least one space")
        self.members: tuple[ActionSpace, ...] = tuple(flat)

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
        return {"type": type(self).__name__, "members": members}

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> Self:
        given = check_list(parameters["members"], "members")
        members = [ActionSpace.from_dict(member) for member in given]
        return cls(**{**parameters, "members": members})

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write each member's constraints on a sub-block ``block.member[i]``."""
        block.member = pyo.Block(range(len(self.members)))
        for i, (member, part) in enumerate(self.parts()):
            member.constrain(block.member[i], actions[part])

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check many actions, by one member after another."""
        found = np.ones(len(actions), dtype=bool)
        for member, part in self.parts():
            found[found] = member.feasible(actions[found][:, part])
        return found
