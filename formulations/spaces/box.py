"""The box block: numbers or whole numbers between bounds, under linear constraints."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.checks import (
    LARGEST,
    check_integers,
    check_numbers,
    check_unit,
    shown,
)
from milp_rl.formulations.spaces.base import INTEGRALITY, ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.spaces.polytope import Polytope
from milp_rl.formulations.spaces.rows import within

_TOLERANCE = 1e-6  # by which a constraint or bound may be exceeded, relative to its side if above 1
_LOOSE = 1e-5  # by which partial actions may exceed them: nothing feasible is left out
_DYKSTRA_ROUNDS = 20  # of alternating projections
_SMALLEST_TERM = 10 * _TOLERANCE
_SECONDS = 1.0  # for a feasible point of whole numbers, when a box is made
_INFEASIBLE = 2  # status of scipy's milp


class Box(ActionSpace):
    r"""Variables between bounds, continuous, integer or binary, under linear constraints.

    .. math:: l \le x \le u, \qquad M x \le r, \qquad x_i \in \mathbb{Z} \;\text{for integer}\; i,
              \qquad x_i \in \{0, 1\} \;\text{for binary}\; i

    The feasible set of continuous control with an exact argmax (Ryu, Chow, Anderson,
    Tjandraatmadja and Boutilier, "CAQL: Continuous action Q-learning", ICLR 2020). ``linear_max``
    is the smallest of the maxima under one constraint at a time, each of which has a closed form:
    exact without constraints, and for continuous variables and one constraint.

    Constraints count as met within 1e-6, those of continuous variables relative to the right side
    where that is above 1. What is drawn, and what solvers answer, does not use that where there are
    continuous variables: it is moved into the constraints (:meth:`settled`).

    Parameters
    ----------
    lower, upper
        Finite bounds, shape (n_actions,), ``lower <= upper``.
    matrix, right
        The constraints M and r, shapes (constraints, n_actions) and (constraints,); together or
        neither.
    binary
        Indices of binary variables, whose bounds are then within [0, 1]; by default none.
    integer
        Indices of integer variables: order quantities, doses. Their bounds are moved to whole
        numbers; one between 0 and 1 is binary.

    Raises
    ------
    ValueError
        If a shape is wrong, a number is not finite, bounds cross, a row is in too small a unit, or
        no point is feasible (of whole numbers, as far as a second tells).

    Examples
    --------
    >>> import milp_rl as mr
    >>> space = mr.Box([0, 0], [1, 1], matrix=[[1, 2]], right=[2])
    >>> space.violations([1, 1])
    ['constraint 0: 3 exceeds 2 by 1']
    >>> space.linear_max([[1.0, 1.0]]), space.maximizers([[1.0, 1.0]])
    (array([1.5]), array([[1. , 0.5]]))
    >>> space.project([[1.0, 1.0]])
    array([[0.8, 0.6]])

    Boxes of two goods of which a van takes weights of 3 and 2, and 7 in all:

    >>> orders = mr.Box([0, 0], [5, 5], matrix=[[3, 2]], right=[7], integer=[0, 1])
    >>> orders.count(), orders.violations([2, 1])
    (8, ['constraint 0: 8 exceeds 7 by 1'])
    """

    def __init__(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        *,
        matrix: ArrayLike | None = None,
        right: ArrayLike | None = None,
        binary: Sequence[int] = (),
        integer: Sequence[int] = (),
    ) -> None:
        self._lower, self._upper = check_numbers(lower, "lower"), check_numbers(upper, "upper")
        n = len(self._lower)
        if not n or self._upper.shape != (n,):
            raise ValueError(
                f"lower and upper must have the same length of at least 1, got {n} and"
                f" {len(self._upper)}"
            )
        crossed = np.flatnonzero(self._lower > self._upper)
        if len(crossed):
            i = int(crossed[0])
            raise ValueError(
                f"lower[{i}] = {self._lower[i]:g} is above upper[{i}] = {self._upper[i]:g}"
            )
        if (matrix is None) != (right is None):
            raise ValueError("matrix and right go together: give both or neither")
        self.right = check_numbers([] if right is None else right, "right")
        self.matrix = check_numbers(np.zeros((0, n)) if matrix is None else matrix, "matrix", 2)
        if self.matrix.shape != (len(self.right), n):
            raise ValueError(
                f"matrix must be finite, of shape ({len(self.right)}, {n}), got {self.matrix.shape}"
            )
        zero_one, whole = _indices(binary, "binary", n), _indices(integer, "integer", n)
        if both := sorted({*zero_one.tolist()} & {*whole.tolist()}):
            raise ValueError(f"variable {both[0]} is among both binary and integer")
        outside = zero_one[(self._lower[zero_one] < 0) | (self._upper[zero_one] > 1)]
        if len(outside):
            raise ValueError(f"the bounds of the binary variable {outside[0]} are not in [0, 1]")
        self._continuous = np.ones(n, dtype=bool)
        self._continuous[zero_one] = self._continuous[whole] = False
        self._round_bounds()
        of_whole = ~self.matrix[:, self._continuous].any(axis=1)  # others are scaled by the ranges
        reach = np.maximum(np.abs(self._lower), np.abs(self._upper))
        for k in np.flatnonzero(of_whole):
            what, whole_row = f"the terms of constraint {k}", "the row and its right side"
            check_unit(self.matrix[k] * reach, _SMALLEST_TERM, what, whole_row)
        if self._contradictory():
            raise ValueError("no feasible action: the constraints and bounds contradict each other")

    def _round_bounds(self) -> None:
        """Move bounds of variables that are not continuous inwards to whole numbers."""
        own = ~self._continuous
        low = np.where(own, np.ceil(self._lower - INTEGRALITY) + 0.0, self._lower)
        high = np.where(own, np.floor(self._upper + INTEGRALITY) + 0.0, self._upper)
        crossed = np.flatnonzero(low > high)
        if len(crossed):
            i = int(crossed[0])
            raise ValueError(
                f"no feasible action: there is no whole number between lower[{i}] ="
                f" {self._lower[i]:g} and upper[{i}] = {self._upper[i]:g}"
            )
        self._lower, self._upper = low, high

    @property
    def n_actions(self) -> int:
        """Number of variables."""
        return len(self._lower)

    @property
    def continuous(self) -> BoolArray:
        """Which variables are continuous."""
        return self._continuous

    @property
    def lower(self) -> FloatArray:
        """Lower bounds."""
        return self._lower

    @property
    def upper(self) -> FloatArray:
        """Upper bounds."""
        return self._upper

    @property
    def exact(self) -> bool:
        """True without constraints, and for continuous variables and one constraint."""
        return not len(self.right) or (bool(self._continuous.all()) and len(self.right) == 1)

    @property
    def down_closed(self) -> bool:
        """True for binary variables that may all be zero, under nonnegative coefficients."""
        return self.binary and not self._lower.any() and not (self.matrix < 0).any()

    def _contradictory(self) -> bool:
        """Whether nothing is feasible; what takes long to find out is left to the solvers."""
        if not len(self.right):
            return False
        if self._continuous.all():
            return self.anchor is None
        return bool(self._searched.status == _INFEASIBLE)

    @cached_property
    def _searched(self) -> Any:
        """What a second's search for feasible whole numbers has found."""
        return milp(
            np.zeros(self.n_actions),
            integrality=~self._continuous,
            bounds=Bounds(self._lower, self._upper),
            constraints=LinearConstraint(self.matrix, -np.inf, self.right),
            options={"time_limit": _SECONDS},
        )

    @cached_property
    def anchor(self) -> FloatArray | None:
        """A feasible point far from the constraints, ``None`` if none is known."""
        if len(self.right):
            return self._interior_point()
        return np.where(self._continuous, (self._lower + self._upper) / 2, self._lower)

    def _interior_point(self) -> FloatArray | None:
        """Return the centre of the largest ball (Chebyshev centre), at feasible whole numbers."""
        low, high = self._lower.copy(), self._upper.copy()
        if not self._continuous.all():
            found = self._searched.x
            if found is None:
                return None
            low[~self._continuous] = high[~self._continuous] = np.rint(found[~self._continuous])
        if not self._continuous.any():
            return low
        free = high > low
        norms = np.linalg.norm(self.matrix[:, free], axis=1)
        unit = np.eye(self.n_actions)[free]
        ones = np.ones(len(unit))
        rows = np.vstack([self.matrix, unit, -unit])
        radius = np.concatenate([norms, ones, ones])
        solution = linprog(
            np.append(np.zeros(self.n_actions), -1.0),
            A_ub=np.column_stack([rows, radius]),
            b_ub=np.concatenate([self.right, high[free], -low[free]]),
            bounds=[*zip(low, high, strict=True), (0.0, float((self._upper - self._lower).max()))],
        )
        return None if solution.x is None else np.clip(solution.x[:-1], low, high)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        data: dict[str, Any] = {
            "type": "Box",
            "lower": self._lower.tolist(),
            "upper": self._upper.tolist(),
        }
        if len(self.right):
            data |= {"matrix": self.matrix.tolist(), "right": self.right.tolist()}
        return data | self._whole_numbers

    @property
    def _whole_numbers(self) -> dict[str, list[int]]:
        """The parameters ``binary`` and ``integer`` where there are such variables."""
        binary = ~self._continuous & ~self.integer
        masks = {"binary": binary, "integer": self.integer}
        return {name: np.flatnonzero(own).tolist() for name, own in masks.items() if own.any()}

    def limits(self) -> dict[str, ActionSpace]:
        """Return the space for one unit more on the right of each constraint."""
        more = self.right + np.eye(len(self.right))
        return {f"constraint {i}": self._with(right=more[i].tolist()) for i in range(len(more))}

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write the linear constraints, and bounds that the variables do not have already."""

        def row(_: Any, i: int) -> Any:
            terms = pyo.quicksum(float(m) * a for m, a in zip(self.matrix[i], actions, strict=True))
            return terms <= float(self.right[i])

        # A constraint without coefficients is settled by the constructor; Pyomo refuses it.
        rows = np.flatnonzero(self.matrix.any(axis=1)).tolist()
        block.linear = pyo.Constraint(rows, rule=row)
        block.bounds = pyo.ConstraintList()
        for variable, low, high in zip(actions, self._lower, self._upper, strict=True):
            if variable.lb is None or variable.lb < low:
                block.bounds.add(variable >= float(low))
            if variable.ub is None or variable.ub > high:
                block.bounds.add(variable <= float(high))

    @cached_property
    def _slack(self) -> FloatArray:
        """By how much each constraint may be exceeded, shape (constraints,).

        Sums of whole numbers alone are no less exact for being large.
        """
        size = np.abs(self.right)
        size[~self.matrix[:, self._continuous].any(axis=1)] *= _TOLERANCE
        return np.asarray(_TOLERANCE * np.maximum(1.0, size))

    def violations(self, action: ArrayLike) -> list[str]:
        """Check bounds and constraints."""
        x = np.asarray(self.check_action(action), dtype=np.float64)
        found = self.outside_bounds(x)
        excess = self.matrix @ x - self.right
        for i in np.flatnonzero(excess > self._slack):
            found.append(
                f"constraint {i}: {self.matrix[i] @ x:g} exceeds {self.right[i]:g} by {excess[i]:g}"
            )
        return found

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check bounds and constraints of many actions."""
        sides = (self._lower, self._upper)
        slack = [_TOLERANCE * self._continuous * np.maximum(1.0, np.abs(side)) for side in sides]
        x = np.asarray(actions, dtype=np.float64)
        found, unclear = within(x, self.matrix, self.right, self._slack)
        tight = np.minimum(*slack)  # beyond it, and for what is no number, the check decides
        unclear |= ~((x >= self._lower - tight / 2) & (x <= self._upper + tight / 2)).all(axis=1)
        wrong = self.outside_domains(actions).any(axis=1)
        found[wrong] = unclear[wrong] = False
        for i in np.flatnonzero(unclear):
            found[i] = not self.violations(actions[i])
        return found

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the additions that keep a partial action completable, by a check of them all."""
        if not self.down_closed:
            alone = self.binary and len(self.right) == 1
            return self._under_one(action) if alone else super().extensions(action)
        a = self.check_action(action)
        additions = np.flatnonzero(a == 0)
        larger = np.tile(a, (len(additions), 1))
        larger[np.arange(len(additions)), additions] = 1
        return additions[self.feasible(larger)]

    def _under_one(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the additions that the rest can make up for under the only constraint."""
        a = self.check_action(action)
        row = self.matrix[0]
        least = np.minimum(row * self._lower, row * self._upper)
        rest = row @ a + least @ (a == 0)
        fits = rest - least + row <= self.right[0] + self._slack[0]
        if (a > self._upper).any():
            fits[:] = False
        return np.flatnonzero(fits & (a == 0) & (self._upper > 0))

    def _open(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell by what is decided, and the least that the rest can add to each constraint."""
        if self.down_closed:  # what is open is feasible, by the check itself
            rest = np.asarray(actions).copy()
            rest[:, decided:] = 0
            return self.feasible(rest)
        x = np.asarray(actions, dtype=np.float64)[:, :decided]
        low, high = self._lower[:decided], self._upper[:decided]
        found = ((x >= low - _LOOSE) & (x <= high + _LOOSE)).all(axis=1)
        rest = self.matrix[:, decided:]
        least = np.where(rest > 0, rest * self._lower[decided:], rest * self._upper[decided:])
        room = self.right - least.sum(axis=1)
        loose = _LOOSE * (1.0 + np.abs(self.matrix).sum(axis=1) + np.abs(self.right))
        return np.asarray(found & (x @ self.matrix[:, :decided].T <= room + loose).all(axis=1))

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Maximise under the bounds and each constraint alone; return the smallest."""
        lower, upper = self._held(c, pins)
        found = box_maxima(c, lower, upper, self.matrix, self.right)[0]
        found[(lower > upper).any(axis=1)] = -np.inf
        return found

    def _held(self, c: FloatArray, pins: Pins) -> tuple[FloatArray, FloatArray]:
        """Return the bounds with what is held, (batch, n)."""
        one, zero = pins.one, pins.zero
        lower = np.broadcast_to(self._lower, c.shape)
        upper = np.broadcast_to(self._upper, c.shape)
        if one is not None:
            lower, upper = np.where(one, 1.0, lower), np.where(one, np.minimum(upper, 1.0), upper)
        if zero is not None:
            upper, lower = np.where(zero, 0.0, upper), np.where(zero, np.maximum(lower, 0.0), lower)
        return lower, upper

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the points behind :meth:`linear_max` where that is exact, else by relaxation."""
        if not self.exact:
            return super()._maximizers(c, pins)
        lower, upper = self._held(c, pins)
        return box_maxima(c, lower, upper, self.matrix, self.right)[1]

    def project(self, points: ArrayLike) -> FloatArray:
        """Return feasible actions near points; exactly the nearest ones without constraints.

        Under constraints: 20 rounds of Dykstra's alternating projections, then as far towards the
        :attr:`anchor` as is needed.

        Parameters
        ----------
        points
            Shape (..., n_actions), finite.

        Raises
        ------
        ValueError
            If a variable is binary.
        """
        if not self._continuous.all():
            raise ValueError("only a box without binary variables can be projected on")
        x = np.asarray(points, dtype=np.float64)
        if not len(self.right):
            return np.clip(x, self._lower, self._upper)
        anchor = self.anchor
        assert anchor is not None
        used = self.matrix.any(axis=1)
        pairs = list(zip(self.matrix[used], self.right[used], strict=True))
        corrections = np.zeros((len(pairs) + 1, *x.shape))
        for _ in range(_DYKSTRA_ROUNDS):
            for k, (row, right) in enumerate(pairs):
                moved = x + corrections[k]
                excess = np.maximum(moved @ row - right, 0.0) / (row @ row)
                x = moved - excess[..., None] * row
                corrections[k] = moved - x
            moved = x + corrections[-1]
            x = np.clip(moved, self._lower, self._upper)
            corrections[-1] = moved - x
        return self.pulled_in(x, anchor)

    def pulled_in(self, points: FloatArray, inner: FloatArray) -> FloatArray:
        """Move points towards feasible ones until they meet the constraints.

        Parameters
        ----------
        points
            Within the bounds, shape (..., n_actions).
        inner
            Feasible, broadcast against ``points``.
        """
        return self._polytope.pulled_in(points, inner)

    @cached_property
    def _polytope(self) -> Polytope:
        return Polytope(self._lower, self._upper, self.matrix, self.right)

    def __and__(self, other: ActionSpace) -> ActionSpace:
        """Intersect; two boxes make one, unless nothing is in both."""
        if not isinstance(other, Box) or other.n_actions != self.n_actions:
            return super().__and__(other)
        try:
            return Box(
                np.maximum(self._lower, other._lower),
                np.minimum(self._upper, other._upper),
                matrix=np.concatenate([self.matrix, other.matrix]),
                right=np.concatenate([self.right, other.right]),
                integer=np.flatnonzero(~(self._continuous & other._continuous)).tolist(),
            )
        except ValueError:  # as an intersection of others, it is then empty
            return super().__and__(other)

    def __mul__(self, other: ActionSpace) -> ActionSpace:
        """Put side by side; two boxes make one."""
        if not isinstance(other, Box):
            return super().__mul__(other)
        return Box(
            np.concatenate([self._lower, other._lower]),
            np.concatenate([self._upper, other._upper]),
            matrix=block_diag(self.matrix, other.matrix),
            right=np.concatenate([self.right, other.right]),
            integer=np.flatnonzero(~np.concatenate([self._continuous, other._continuous])).tolist(),
        )

    @property
    def drawn_together(self) -> bool:
        """True for variables of which some are not binary, without constraints."""
        return not (self.binary or len(self.right))

    def sample(self, rng: np.random.Generator, n: int = 1, *, maximal: bool = False) -> ActionArray:
        """Draw actions: uniformly without constraints, else mixtures of random vertices."""
        if self.binary or len(self.right):
            return super().sample(rng, n, maximal=maximal)
        shape = (n, self.n_actions)
        drawn = rng.uniform(self._lower, self._upper, shape)
        if not self._continuous.all():
            own = ~self._continuous
            low, high = self._lower[own].astype(np.int64), self._upper[own].astype(np.int64)
            drawn[:, own] = rng.integers(low, high + 1, (n, len(low)))
        return np.asarray(drawn.astype(self.dtype))


def _indices(values: Sequence[int], name: str, n: int) -> IntArray:
    """Return distinct indices of n variables, or raise ``ValueError``."""
    chosen = np.array(check_integers(values, name, -LARGEST), dtype=np.intp)
    if len(set(chosen.tolist())) < len(chosen) or ((chosen < 0) | (chosen >= n)).any():
        raise ValueError(
            f"{name} must be distinct indices between 0 and {n - 1}, got {shown(values)}"
        )
    return chosen


def box_maxima(
    c: FloatArray, lower: FloatArray, upper: FloatArray, matrix: FloatArray, right: FloatArray
) -> tuple[FloatArray, FloatArray]:
    r"""Bound ``max c @ x`` over boxes under linear constraints from above.

    Under one constraint ``m @ x <= r`` the maximum is, by duality,

    .. math:: \min_{\lambda \ge 0} \lambda r + \max_{l \le x \le u} (c - \lambda m) x,

    a convex, piecewise linear function of the multiplier, which is smallest at zero or at one of
    its breaks :math:`c_i / m_i`.

    Parameters
    ----------
    c, lower, upper
        Shape (boxes, n).
    matrix, right
        The constraints, shapes (constraints, n) and (constraints,).

    Returns
    -------
    tuple of numpy.ndarray
        The smallest of the maxima under no and under each constraint, shape (boxes,), and the
        point behind it, shape (boxes, n), which may violate the other constraints.
    """
    corner = np.where(c > 0, upper, lower)
    best = (c * corner).sum(axis=1)
    reach = np.maximum(np.abs(lower), np.abs(upper))
    gamma = 4.0 * (c.shape[1] + 2) * np.finfo(float).eps
    for row, bound in zip(matrix, right, strict=True):
        # Boxes whose best corner meets the constraint need no multiplier.
        crossed = np.flatnonzero(corner @ row > bound)
        used = np.flatnonzero(row)
        if not len(crossed) or not len(used):
            continue
        own, low, high = c[crossed], lower[crossed], upper[crossed]
        multipliers = np.maximum(own[:, used] / row[used], 0.0)
        priced = own[:, None, :] - multipliers[:, :, None] * row
        corners = np.where(priced > 0, high[:, None], low[:, None])
        values = multipliers * bound + (priced * corners).sum(axis=2)
        # A large multiplier leaves little but rounding of what it cancels.
        summed = np.abs(bound) + reach[crossed] @ np.abs(row)
        values += gamma * multipliers * summed[:, None]
        pick = values.argmin(axis=1)
        each = np.arange(len(crossed))
        smaller = values[each, pick] < best[crossed]
        best[crossed[smaller]] = values[each, pick][smaller]
        # The variable at the break makes up for what the others leave of the constraint.
        point, at = corners[each, pick], used[pick]
        point[each, at] = 0.0
        point[each, at] = (bound - point @ row) / row[at]
        corner[crossed[smaller]] = np.clip(point, low, high)[smaller]
    return best, corner
