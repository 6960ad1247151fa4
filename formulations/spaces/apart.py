"""The actions of a space that differ from some actions in several variables: other options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike
from scipy import sparse

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.checks import check_integer
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins

_SHORT = 1e-6  # of the distance, by which a point counts as too near
_STEPS = 4  # of the multiplier of one constraint, at most
_CONVERGED = 1e-9  # of the size of the objective: a bound so near the tangents is the least
_DRAWS = 20  # for each action that is sampled
_EPSILON = float(np.finfo(np.float64).eps)


class Apart(ActionSpace):
    r"""The actions of a space that differ from each of some actions in at least d variables.

    .. math:: A' = \Big\{ x \in A : \sum_{i : a_i = 0} x_i + \sum_{i : a_i = 1} (1 - x_i) \ge d
              \;\text{ for all } a \in \{a_1, \dots, a_m\} \Big\}

    With d = 1 these are no-good cuts. With one of them, written :math:`g x \ge r`, and any
    multiplier :math:`\lambda \ge 0`,

    .. math:: \max_{x \in A'} c x \le \max_{x \in A} (c + \lambda g) x - \lambda r,

    which ``linear_max`` makes small for the constraint that the maximiser without it violates most.

    Parameters
    ----------
    space
        The feasible set, of binary variables.
    actions
        Shape (any, n_actions).
    distance
        In how many variables to differ at least, d, 1 or more.

    Raises
    ------
    ValueError
        If a variable of the space is continuous, or an argument is wrong.

    Examples
    --------
    >>> import milp_rl as mr
    >>> from milp_rl.formulations.spaces.apart import Apart
    >>> others = Apart(mr.BudgetTopK(3, 2), [[1, 1, 0]], distance=2)
    >>> others.violations([1, 0, 0])
    ['it differs from [0, 1] in 1 variables, at least 2 wanted']
    >>> sorted(others.enumerate().tolist())
    [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 0, 1]]
    """

    def __init__(
        self, space: ActionSpace, actions: ArrayLike | Sequence[ArrayLike], distance: int
    ) -> None:
        space.require_binary("told apart by the variables in which they differ")
        self.space = space
        self.distance = check_integer(distance, "distance", 1)
        rows = [space.check_action(action) for action in np.asarray(actions)]
        self.actions: ActionArray = np.reshape(np.array(rows, np.int8), (-1, space.n_actions))
        self._signs = 1.0 - 2.0 * self.actions  # distance: ones + signs @ x
        self._ones = self.actions.sum(axis=1).astype(np.float64)

    @property
    def n_actions(self) -> int:
        """Number of action variables."""
        return self.space.n_actions

    @property
    def lower(self) -> FloatArray:
        """Lower bounds of the space."""
        return self.space.lower

    @property
    def upper(self) -> FloatArray:
        """Upper bounds of the space."""
        return self.space.upper

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "type": "Apart",
            "space": self.space.to_dict(),
            "actions": self.actions.tolist(),
            "distance": self.distance,
        }

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> Self:
        space = ActionSpace.from_dict(parameters["space"])
        return cls(space, parameters["actions"], parameters["distance"])

    def decode(self, action: ArrayLike) -> Any:
        """Return what the space makes of the action."""
        return self.space.decode(action)

    def parts(self) -> list[tuple[ActionSpace, slice]]:
        """Return the blocks of the space."""
        return self.space.parts()

    def distances(self, points: ArrayLike) -> FloatArray:
        """Return the distance of points from each action, shape (points, actions)."""
        return np.asarray(self._ones + np.asarray(points, dtype=np.float64) @ self._signs.T)

    def apart(self, actions: ArrayLike) -> BoolArray:
        """Whether actions, shape (any, n_actions), are far enough from all."""
        return np.asarray((self.distances(actions) > self.distance - 0.5).all(axis=1))

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write the space on ``block.space``, and a row for each action."""
        block.space = pyo.Block()
        self.space.constrain(block.space, actions)

        def row(_: Any, k: int) -> Any:
            terms = (1 - x if a else x for a, x in zip(self.actions[k], actions, strict=True))
            return pyo.quicksum(terms) >= self.distance

        block.apart = pyo.Constraint(range(len(self.actions)), rule=row)

    @cached_property
    def linear_model(self) -> LinearModel:
        """The compiled space with a row for each action."""
        model = self.space.linear_model
        rows = np.zeros((len(self.actions), model.n_columns))
        rows[:, : self.n_actions] = self._signs
        return replace(
            model,
            matrix=sparse.csr_array(sparse.vstack([model.matrix, sparse.csr_array(rows)])),
            row_lower=np.append(model.row_lower, self.distance - self._ones),
            row_upper=np.append(model.row_upper, np.full(len(rows), np.inf)),
        )

    def violations(self, action: ArrayLike) -> list[str]:
        """Collect those of the space, and the actions that are too near."""
        a = self.check_action(action)
        found = self.space.violations(a)
        distances = self.distances(a[None])[0]
        for k in np.flatnonzero(distances < self.distance - 0.5):
            found.append(
                f"it differs from {np.flatnonzero(self.actions[k]).tolist()} in"
                f" {distances[k]:.0f} variables, at least {self.distance} wanted"
            )
        return found

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check many actions at once."""
        found = self.apart(actions)
        found[found] = self.space.feasible(actions[found])
        return found

    def enumerate(self, limit: int = 100_000) -> ActionArray:
        """List the actions of the space that are far enough, in its order."""
        rows = self.space.enumerate(limit)
        return np.asarray(rows[self.apart(rows)])

    @cached_property
    def known_actions(self) -> ActionArray:
        """Those of the space that are far enough."""
        known = self.space.known_actions
        return np.asarray(known[self.apart(known)])

    def _sample_one(self, rng: np.random.Generator, maximal: bool) -> ActionArray:
        """Draw from the space until far enough; after some tries, build step by step."""
        drawn = self.space.sample(rng, _DRAWS, maximal=maximal)
        apart = np.flatnonzero(self.apart(drawn))
        if len(apart):
            return np.asarray(drawn[apart[0]])
        return super()._sample_one(rng, maximal)

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Bound the maximum under the constraint that is violated most."""
        return self._maximum(c, pins)[0]

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return points behind the bounds, far enough from the nearest action where one is met."""
        return self._maximum(c, pins)[1]

    def _maximum(self, c: FloatArray, pins: Pins) -> tuple[FloatArray, FloatArray]:
        """Return the bounds and points behind them."""
        value = np.array(self.space.linear_max(c, pins))
        x = np.array(self.space.maximizers(c, pins))
        if not len(self.actions):
            return value, x
        value[self._held_near(pins, len(c))] = -np.inf
        distances = self.distances(x)
        short = np.isfinite(value) & (distances.min(axis=1) < self.distance - _SHORT)
        rows = np.flatnonzero(short)
        if len(rows):
            nearest = distances[rows].argmin(axis=1)
            value[rows], x[rows] = self._priced(c[rows], pins[rows], value[rows], x[rows], nearest)
        return value, x

    def _held_near(self, pins: Pins, n: int) -> BoolArray:
        """Whether pins agree with an action in so many variables that too few are left to differ.

        Parameters
        ----------
        pins
            Of n objectives.
        """
        agreeing = np.zeros((n, len(self.actions)))
        if pins.one is not None:
            agreeing += pins.one.astype(np.float64) @ self.actions.T
        if pins.zero is not None:
            agreeing += pins.zero.astype(np.float64) @ (1.0 - self.actions.T)
        return np.asarray((self.n_actions - agreeing < self.distance - 0.5).any(axis=1))

    def _priced(
        self, c: FloatArray, pins: Pins, value: FloatArray, x: FloatArray, nearest: Any
    ) -> tuple[FloatArray, FloatArray]:
        r"""Price the constraint of each objective's nearest action into it.

        The bound is convex in :math:`\lambda`: the next one is tried where its tangents on either
        side meet. All are bounds, wherever they are taken.

        Parameters
        ----------
        c, pins, value, x
            Objectives, their pins, bounds without the constraint and points behind them.
        nearest
            Which constraint.
        """
        g, right = self._signs[nearest], self.distance - self._ones[nearest]
        farthest = self.space.linear_max(g, pins)
        end = np.array(self.space.maximizers(g, pins))
        best, point = value.copy(), np.where((farthest >= right - _SHORT)[:, None], end, x)
        # Tangents: of too small a multiplier, and of one that is large enough.
        low = np.array([np.zeros(len(c)), value, (g * x).sum(axis=1) - right])
        high = np.array([np.zeros(len(c)), (c * end).sum(axis=1), np.maximum(farthest - right, 0)])
        size = np.abs(c).sum(axis=1)
        left = np.flatnonzero((farthest >= right - _SHORT) & (low[2] < 0))
        for _ in range(_STEPS):
            (at, below, fall), (other, above, rise) = low[:, left], high[:, left]
            crossing = ((below - fall * at) - (above - rise * other)) / (rise - fall)
            price = np.maximum(crossing, 0.0)
            least = below + fall * (price - at)
            own, r = g[left], right[left]
            # What float64 rounds in the price's part of the sums.
            margin = _EPSILON * self.n_actions * (size[left] + price * (self.n_actions + np.abs(r)))
            priced, held = c[left] + price[:, None] * own, pins[left]
            found = self.space.linear_max(priced, held) - price * r + margin
            best[left] = np.minimum(best[left], found)
            open_ = found > least + _CONVERGED * size[left]
            left, price, found = left[open_], price[open_], found[open_]
            if not len(left):
                break
            tried = self.space.maximizers(priced[open_], held[open_])
            slope = (own[open_] * tried).sum(axis=1) - r[open_]
            far = slope >= -_SHORT
            point[left[far]] = tried[far]
            tangent = np.array([price, found, slope])
            low[:, left[~far]], high[:, left[far]] = tangent[:, ~far], tangent[:, far]
        best[farthest < right - _SHORT] = -np.inf
        return best, point
