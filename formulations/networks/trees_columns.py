r"""What a library does to an input before a tree compares it, taken into the threshold.

Rounding to float32, scaling, adding a constant: each is monotone, so that
:math:`g(x) \le \theta` is :math:`x \le \theta'`, or :math:`x \ge \theta'` where g decreases, with
a threshold that is found exactly, by bisection of the float64 numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.networks.network import NetworkError

_FIRST_BIT = np.int64(-(2**63))


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns that trees compare: each is a monotone function of one input.

    Parameters
    ----------
    source
        The input of each column.
    sign
        1 where the function does not decrease, -1 where it does not increase.
    function
        Takes values of inputs and the columns they are for, same shapes.
    dtype
        Of the columns.
    """

    source: IntArray
    sign: FloatArray
    function: Callable[[FloatArray, IntArray], NDArray[Any]]
    dtype: type[np.float32 | np.float64]

    def then(
        self,
        step: Callable[[NDArray[Any], IntArray], NDArray[Any]],
        sign: FloatArray | float = 1.0,
        dtype: type[np.float32 | np.float64] | None = None,
    ) -> Columns:
        """Return the columns after one more step."""
        before = self.function
        return Columns(
            self.source,
            self.sign * sign,
            lambda x, column: step(before(x, column), column),
            dtype or self.dtype,
        )


def concatenated(parts: list[Columns]) -> Columns:
    """Return the columns of several, one after another."""
    starts = np.cumsum([0, *(len(part.source) for part in parts)])

    def function(x: FloatArray, column: IntArray) -> NDArray[Any]:
        found = np.empty(len(x))
        of = np.searchsorted(starts, column, side="right") - 1
        for i, part in enumerate(parts):
            found[of == i] = part.function(x[of == i], column[of == i] - starts[i])
        return found.astype(parts[0].dtype)

    source, sign = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("source", "sign")
    )
    return Columns(source, sign, function, parts[0].dtype)


def _wide(values: Any, width: int, dtype: Any, where: str) -> NDArray[Any]:
    """Return one number per column, of these or of the only one."""
    numbers = np.asarray(values, dtype=dtype).reshape(-1)
    if len(numbers) not in (1, width) or not np.isfinite(numbers).all():
        raise NetworkError(f"{where} needs 1 or {width} finite numbers, got {len(numbers)}")
    return np.broadcast_to(numbers, (width,))


def scaled(data: Columns, attributes: dict[str, Any], where: str) -> Columns:
    """Apply ``(x - offset) * scale``, in float32."""
    width = len(data.source)
    offset = _wide(attributes.get("offset", [0.0]), width, np.float32, where)
    scale = _wide(attributes.get("scale", [1.0]), width, np.float32, where)

    def step(x: NDArray[Any], column: IntArray) -> NDArray[Any]:
        return np.asarray((x.astype(np.float32) - offset[column]) * scale[column])

    return data.then(step, _direction(scale), np.float32)


def arithmetic(
    data: Columns, operator: str, constant: NDArray[Any], first: bool, where: str
) -> Columns:
    """Apply an operator to columns and a constant; ``first`` if the columns come first."""
    c = _wide(constant, len(data.source), data.dtype, where)
    if operator == "Div" and not (first and c.all()):
        raise NetworkError(f"{where} must divide inputs by a constant other than 0")
    operators = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    apply = operators[operator]

    def step(x: NDArray[Any], column: IntArray) -> NDArray[Any]:
        return np.asarray(apply(x, c[column]) if first else apply(c[column], x))

    if operator in ("Mul", "Div"):
        return data.then(step, _direction(c))
    return data.then(step, 1.0 if first or operator == "Add" else -1.0)


def _direction(factor: NDArray[Any]) -> FloatArray:
    return np.where(factor < 0, -1.0, 1.0)


def largest_below(
    function: Callable[[FloatArray], NDArray[np.float64 | np.float32]],
    threshold: FloatArray,
    *,
    strictly: bool = False,
) -> FloatArray:
    r"""Return the largest float64 number whose image is below a threshold.

    For a function that does not decrease, :math:`g(x) \le \theta` is :math:`x \le \theta'`. So
    what a library does to an input before it compares it (rounding it to float32, scaling it)
    goes into the threshold, exactly.

    Parameters
    ----------
    function
        Applied elementwise, does not decrease.
    threshold
        Shape (n,).
    strictly
        For :math:`g(x) < \theta`.

    Returns
    -------
    numpy.ndarray
        Shape (n,); infinite where every number, or none, is below.
    """
    below = np.less if strictly else np.less_equal
    # Of numbers in increasing order, the last one that is below: by bisection of their positions.
    low = np.full(len(threshold), _position(np.array([-np.inf]))[0])
    high = np.full(len(threshold), _position(np.array([np.inf]))[0])
    with np.errstate(over="ignore", invalid="ignore"):
        while (low < high).any():
            middle = (low | high) - ((low ^ high) >> 1)  # their mean rounded up, without overflow
            holds = below(function(_number(middle)).astype(np.float64), threshold)
            low, high = np.where(holds, middle, low), np.where(holds, high, middle - 1)
    return _number(low)


def _position(numbers: FloatArray) -> NDArray[np.int64]:
    """Return integers in the order of the float64 numbers."""
    bits = numbers.view(np.int64)
    return np.where(bits < 0, _FIRST_BIT - bits - 1, bits)


def _number(positions: NDArray[np.int64]) -> FloatArray:
    return np.where(positions < 0, _FIRST_BIT - positions - 1, positions).view(np.float64)
