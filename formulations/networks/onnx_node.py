"""What an operator of an ONNX graph is given: its operands, its attributes, its name.

An operand is an array where it is a constant of the graph, :class:`Affine` where it depends on the
network's input or is a number that the state decides, :class:`Condition` where it compares, and
:class:`PerState` where the state decides on something else than floating-point numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.lowering import Affine, Lowering
from milp_rl.formulations.networks.network import NetworkError

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Condition:
    """Whether the entries of a tensor are positive; nothing is known at 0."""

    difference: Affine


class PerState:
    """Integers or truth values that the state decides.

    Parameters
    ----------
    values
        Shape (states, *shape).
    fixed
        Those of every state where they were the same in all that were tried.
    """

    def __init__(self, values: NDArray[Any], fixed: NDArray[Any] | None) -> None:
        self._values, self.fixed = values, fixed
        self.asked = False

    @property
    def values(self) -> NDArray[Any]:
        """Values per state; that they were asked for is noted."""
        self.asked = True
        return self._values

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self._values.shape[1:]


Value = NDArray[Any] | Affine | Condition | PerState


@dataclass(frozen=True, eq=False)
class Node:
    """A node with what it is given.

    Parameters
    ----------
    op
        Operator type.
    names
        Of the operands.
    inputs
        Operands, None where one is left out.
    attributes
        By name.
    lowering
        Where neurons go.
    outputs
        Number of outputs.
    batch
        Samples that the graph's constants speak of, of which one is read.
    """

    op: str
    names: Sequence[str]
    inputs: Sequence[Value | None]
    attributes: dict[str, Any]
    lowering: Lowering
    outputs: int = 1
    batch: int = 1

    def has(self, i: int) -> bool:
        """Whether there is an operand with this number."""
        return i < len(self.inputs) and self.inputs[i] is not None

    @property
    def is_constant(self) -> bool:
        """Whether all operands are constants of the graph."""
        return all(x is None or isinstance(x, np.ndarray) for x in self.inputs)

    def value(self, i: int) -> Value:
        """Return an operand."""
        found = self.inputs[i] if i < len(self.inputs) else None
        if found is None:
            raise NetworkError(f"has no operand at position {i}")
        return found

    def affine(self, i: int) -> Affine:
        """Return an operand as floating-point numbers, finite where they are constants."""
        found = self.value(i)
        if isinstance(found, Affine):
            return found
        if isinstance(found, np.ndarray):
            return self.lowering.constant(self.floats(i))
        raise NetworkError(
            f"calculates with {self.names[i]!r}, which holds no floating-point numbers"
        )

    def known(self, i: int) -> FloatArray:
        """Return an operand that does not depend on the input, shape (states, *shape)."""
        found = self.affine(i)
        if found.coefficients:
            raise NetworkError(
                f"multiplies or divides by {self.names[i]!r}, which depends on the input as well"
            )
        return found.constant

    def is_known(self, i: int) -> bool:
        """Whether an operand is numbers that do not depend on the input."""
        found = self.value(i)
        return not (found.coefficients if isinstance(found, Affine) else _is_condition(found))

    def floats(self, i: int, *, finite: bool = True) -> FloatArray:
        """Return an operand that is a constant of the graph, as float64."""
        found = self.value(i)
        if not isinstance(found, np.ndarray):
            raise NetworkError(f"needs constants of the graph as {self.names[i]!r}")
        if found.dtype.name not in _FLOATS:
            raise NetworkError(
                f"{self.names[i]!r} is of type {found.dtype}, not of floating-point numbers"
            )
        if not found.size:
            raise NetworkError(f"{self.names[i]!r} has no entries, its shape is {found.shape}")
        values = found.astype(np.float64)
        if np.isnan(values).any() or (finite and not np.isfinite(values).all()):
            number = int((~np.isfinite(values)).sum())
            raise NetworkError(f"{number} entries of {self.names[i]!r} are not finite")
        self.lowering.reserve(values.size)
        return values

    def fixed(self, i: int) -> NDArray[Any]:
        """Return an operand that must be the same constants in all states: a shape, axes."""
        found = self.value(i)
        if isinstance(found, np.ndarray):
            return found
        if isinstance(found, PerState) and found.fixed is not None:
            return found.fixed
        raise NetworkError(
            f"takes a shape, axes or the like from {self.names[i]!r}, which is not constant"
        )

    def ints(self, i: int) -> list[int]:
        """Return an operand that is a list of constant integers."""
        return [int(value) for value in self.fixed(i).reshape(-1)]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        found = self.attributes.get(name, default)
        return found.decode() if isinstance(found, bytes) else found

    def shape(self, i: int = 0) -> tuple[int, ...]:
        """Return the shape of an operand."""
        found = self.value(i)
        if isinstance(found, Condition):
            return found.difference.shape
        if isinstance(found, PerState):
            return found.shape
        return tuple(found.shape)

    def moved(self, function: Callable[[NDArray[Any]], NDArray[Any]], i: int = 0) -> Value:
        """Apply a function of (states, columns, *shape) that moves entries to an operand."""
        found = self.value(i)
        if isinstance(found, np.ndarray):
            return np.asarray(function(found[None, None])[0, 0])
        if isinstance(found, PerState):
            fixed = found.fixed
            return PerState(
                function(found.values[:, None])[:, 0],
                None if fixed is None else function(fixed[None, None])[0, 0],
            )
        if isinstance(found, Condition):
            return Condition(self.lowering.linear(found.difference, function, moves=True))
        return self.lowering.linear(found, function, moves=True)

    def fits(self, shape: Sequence[int]) -> None:
        """Raise ``NetworkError`` if a tensor of this shape takes more memory than it may."""
        if any(size < 0 for size in shape):
            raise NetworkError(f"{tuple(shape)} is no shape")
        if not math.prod(shape):
            raise NetworkError(f"makes a tensor of shape {tuple(shape)}, which has no entries")
        self.lowering.reserve(math.prod(shape))


def axis_of(axis: int, ndim: int) -> int:
    """Return an axis counted from the first."""
    if not -ndim <= axis < ndim:
        raise NetworkError(f"there is no axis {axis} in a tensor of {ndim}")
    return axis % ndim


def _is_condition(value: Value) -> bool:
    return isinstance(value, Condition)
