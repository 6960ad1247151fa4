"""The ground actions of an RDDL domain as the variables of an action vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, IntArray


@dataclass(frozen=True)
class GroundActions:
    """The ground actions of a domain, in the order of the action vector.

    A boolean, integer or real one is a variable; one whose values are objects is a binary variable
    for each object, of which exactly one is 1.

    Parameters
    ----------
    variables
        The variables of each action fluent, shape (ground actions, 1 or objects).
    shape
        Numbers of objects of the parameters of each action fluent.
    of_objects
        The action fluents whose values are objects.
    binary, whole
        Which variables are binary; which are binary or integer; shape (n_actions,).
    names
        The variables.
    by_arm
        Whether all action fluents have parameters of the same types, and the variables of the same
        objects are side by side.
    """

    variables: Mapping[str, IntArray]
    shape: Mapping[str, tuple[int, ...]]
    of_objects: frozenset[str]
    binary: BoolArray
    whole: BoolArray
    names: tuple[str, ...]
    by_arm: bool

    @property
    def choices(self) -> list[list[int]]:
        """The variables of each ground action whose values are objects."""
        return [row for name in sorted(self.of_objects) for row in self.variables[name].tolist()]

    def of(self, name: str, objects: tuple[int, ...]) -> IntArray:
        """Return the variables of a ground action."""
        number = 0
        for i, size in zip(objects, self.shape[name], strict=True):
            number = number * size + i
        found: IntArray = self.variables[name][number]
        return found

    def fluent_of(self, variable: int) -> str:
        """Return the action fluent of a variable."""
        return next(name for name, own in self.variables.items() if variable in own)

    def values(self, name: str, action: ActionArray) -> NDArray[Any]:
        """Return the values of an action fluent in an action vector, objects by number."""
        own = action[self.variables[name]]
        found = own.argmax(axis=1) if name in self.of_objects else own[:, 0]
        return found.reshape(self.shape[name])


def ground_actions(model: Any) -> GroundActions:
    """Return the ground actions of a ``RDDLLiftedModel``."""
    fluents = list(model.action_ranges)
    types = [tuple(model.variable_params[name]) for name in fluents]
    by_arm = bool(types[0]) and len(set(types)) == 1
    shape = {name: tuple(model.object_counts(model.variable_params[name])) for name in fluents}
    objects = {name: model.type_to_objects.get(model.action_ranges[name]) for name in fluents}
    widths = {name: len(among) if among else 1 for name, among in objects.items()}
    stride, start = sum(widths.values()), 0
    variables: dict[str, IntArray] = {}
    for name in fluents:
        size, width = int(np.prod(shape[name], dtype=int)), widths[name]
        if by_arm:
            variables[name] = start + stride * np.arange(size)[:, None] + np.arange(width)
            start += width
        else:
            variables[name] = start + np.arange(size * width).reshape(size, width)
            start += size * width
    n = sum(own.size for own in variables.values())
    names, kinds = [""] * n, np.empty(n, dtype=object)
    for name, own in variables.items():
        kinds[own] = "bool" if objects[name] else model.action_ranges[name]
        for row, cell in zip(own, np.ndindex(*shape[name]), strict=True):
            ground = ground_name(model, name, cell)
            for variable, value in zip(row, objects[name] or [""], strict=True):
                names[variable] = f"{ground} = {value}" if value else ground
    return GroundActions(
        variables,
        shape,
        frozenset(name for name, among in objects.items() if among),
        kinds == "bool",
        kinds != "real",
        tuple(names),
        by_arm,
    )


def ground_name(model: Any, name: str, objects: Sequence[int]) -> str:
    """Return a ground fluent as RDDL writes it, such as ``reboot(c1)``."""
    types = model.variable_params[name]
    shown = [model.type_to_objects[kind][i] for kind, i in zip(types, objects, strict=True)]
    return f"{name}({', '.join(shown)})" if shown else name
