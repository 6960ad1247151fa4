"""The budget block: at most, or exactly, k of n actions, optionally within a cost budget."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.checks import (
    LARGEST,
    MOST_VARIABLES,
    check_flag,
    check_integer,
    check_number,
    check_numbers,
    check_unit,
    shown,
)
from milp_rl.formulations.kernels.description import CompiledOracle, KnapsackOracle, TopKOracle
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.listing import check_limit, subsets, subsets_bound
from milp_rl.formulations.spaces.oracles.knapsack import fractional_knapsack, knapsack_fractions
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.spaces.rows import within

_TOLERANCE = 1e-9
_PARTITIONED = 4  # times as many actions as are chosen: to find these first is faster
_MOST_SORTED = 1000  # actions


class BudgetTopK(ActionSpace):
    r"""At most (or exactly) k of n actions, optionally of limited total cost.

    .. math:: \sum_i a_i \le k \;(\text{or} = k), \qquad \sum_i c_i a_i \le b

    Without costs, ``linear_max`` is exact: the sum of the k largest positive coefficients (of the
    k largest, if exactly k). With costs it is the smaller of that and the fractional knapsack
    (Dantzig, "Discrete-variable extremum problems", Operations Research 5, 1957), a bound.

    Parameters
    ----------
    n_actions
        Number of actions, at least 1.
    k
        Largest number of chosen actions, 0 to ``n_actions``.
    exactly
        Require exactly k.
    costs
        Nonnegative cost of each action, shape (n_actions,); with ``budget``.
    budget
        Largest total cost, nonnegative, in the unit of the costs. Sums of costs may exceed it by
        1e-9.

    Raises
    ------
    ValueError
        If a parameter is out of range or no action is feasible.

    Examples
    --------
    >>> import milp_rl as mr
    >>> space = mr.BudgetTopK(n_actions=4, k=2)
    >>> space.count()
    11
    >>> space.linear_max([[1.0, 2.0, 3.0, -4.0]])
    array([5.])
    >>> within_budget = mr.BudgetTopK(4, 2, costs=[1, 1, 2, 3], budget=3)
    >>> within_budget.violations([0, 0, 1, 1])
    ['cost 5 exceeds the budget 3 by 2']
    """

    def __init__(
        self,
        n_actions: int,
        k: int,
        *,
        exactly: bool = False,
        costs: ArrayLike | None = None,
        budget: float | None = None,
    ) -> None:
        n_actions = check_integer(n_actions, "n_actions", 1, MOST_VARIABLES)
        k = check_integer(k, "k", -LARGEST)
        if not 0 <= k <= n_actions:
            raise ValueError(f"k must be between 0 and n_actions = {n_actions}, got {k}")
        if (costs is None) != (budget is None):
            raise ValueError("costs and budget go together: give both or neither")
        self._n_actions = n_actions
        self.k = k
        self.exactly = check_flag(exactly, "exactly")
        self.costs: FloatArray | None = None
        self.budget: float | None = None
        if costs is not None and budget is not None:
            self.costs = check_numbers(costs, "costs")
            self.budget = check_number(budget, "budget")
            if self.costs.shape != (n_actions,) or (self.costs < 0).any():
                raise ValueError(
                    f"costs must be {n_actions} nonnegative numbers, got {shown(costs)}"
                )
            if self.costs.sum() > self.budget:
                check_unit(self.costs, 10 * _TOLERANCE, "costs", "costs and budget")
            if self.budget < 0:
                raise ValueError(f"budget must be a nonnegative number, got {budget}")
            cheapest = float(np.sort(self.costs)[:k].sum())
            if exactly and cheapest > self.budget + _TOLERANCE:
                raise ValueError(
                    f"no feasible action: the {k} cheapest actions cost {cheapest:g},"
                    f" more than the budget of {self.budget:g}"
                )

    @property
    def n_actions(self) -> int:
        """Number of binary action variables."""
        return self._n_actions

    @property
    def exact(self) -> bool:
        """True without costs."""
        return self.costs is None

    @property
    def compiled_oracle(self) -> CompiledOracle | None:
        """The k best, with costs at most the fractional knapsack."""
        data = np.array([self.k, self.exactly], dtype=np.int64)
        if self.costs is None or self.budget is None:
            return TopKOracle(data)
        limit = self.budget + _TOLERANCE  # as `violations` has it
        return KnapsackOracle(data, np.concatenate([[limit], self.costs]))

    @property
    def down_closed(self) -> bool:
        """True unless exactly k are required."""
        return not self.exactly

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        data: dict[str, Any] = {
            "type": "BudgetTopK",
            "n_actions": self.n_actions,
            "k": self.k,
            "exactly": self.exactly,
        }
        if self.costs is not None:
            data |= {"costs": self.costs.tolist(), "budget": self.budget}
        return data

    def limits(self) -> dict[str, ActionSpace]:
        """Return the space for one action more, and for one unit of the budget more."""
        found: dict[str, ActionSpace] = {}
        if self.k < self.n_actions:
            found["k"] = self._with(k=self.k + 1)
        if self.budget is not None:
            found["budget"] = self._with(budget=self.budget + 1)
        return found

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write the cardinality constraint and, with costs, the knapsack."""
        chosen = pyo.quicksum(actions)
        block.cardinality = pyo.Constraint(
            expr=chosen == self.k if self.exactly else chosen <= self.k
        )
        if self.costs is not None:
            cost = pyo.quicksum(float(c) * a for c, a in zip(self.costs, actions, strict=True))
            block.cost = pyo.Constraint(expr=cost <= self.budget)

    def violations(self, action: ArrayLike) -> list[str]:
        """Check cardinality and cost."""
        a = self.check_action(action)
        found = []
        chosen = int(a.sum())
        if chosen > self.k or (self.exactly and chosen != self.k):
            word = "exactly" if self.exactly else "at most"
            found.append(f"{chosen} actions chosen, {word} {self.k} allowed")
        if self.costs is not None and self.budget is not None:
            cost = float(self.costs @ a)
            if cost > self.budget + _TOLERANCE:
                found.append(
                    f"cost {cost:g} exceeds the budget {self.budget:g} by {cost - self.budget:g}"
                )
        return found

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check cardinality and cost of many actions."""
        chosen = actions.sum(axis=1)
        found: BoolArray = chosen == self.k if self.exactly else chosen <= self.k
        return self._affordable(actions, found)

    def _open(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell by counting and cost, which later variables only add to."""
        chosen = actions.sum(axis=1)
        found = chosen <= self.k
        if self.exactly:
            found &= chosen + (self.n_actions - decided) >= self.k
        return self._affordable(actions, found)

    def _affordable(self, actions: ActionArray, found: BoolArray) -> BoolArray:
        if self.costs is not None and self.budget is not None:
            holds, unclear = within(actions, self.costs[None], np.array([self.budget]), _TOLERANCE)
            for i in np.flatnonzero(found & unclear):
                holds[i] = float(self.costs @ actions[i]) <= self.budget + _TOLERANCE
            found &= holds
        return found

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Sum the k best coefficients; with costs, at most the fractional knapsack."""
        one, zero = pins.one, pins.zero
        if one is None and zero is None:
            if self.k == 0:
                bound = np.zeros(len(c))
            else:
                best = np.partition(c, self.n_actions - self.k, axis=1)[:, -self.k :]
                bound = best.sum(axis=1) if self.exactly else np.maximum(best, 0.0).sum(axis=1)
        else:
            bound = self._fixed_top_k(c, one, zero)
        if self.costs is not None and self.budget is not None:
            limit = self.budget + _TOLERANCE  # as `violations` has it
            bound = np.minimum(bound, fractional_knapsack(c, self.costs, limit, one, zero))
        return np.asarray(bound)

    def _fixed_top_k(
        self,
        c: FloatArray,
        one: NDArray[np.bool_] | None,
        zero: NDArray[np.bool_] | None,
    ) -> FloatArray:
        fixed = np.zeros(c.shape, dtype=bool)
        base = np.zeros(len(c))
        left = np.full(len(c), self.k)
        if one is not None:
            fixed |= one
            base = np.where(one, c, 0.0).sum(axis=1)
            left = self.k - one.sum(axis=1)
        if zero is not None:
            fixed |= zero
        free = np.where(fixed, -np.inf, c)
        most = max(self.k, 1)
        if _PARTITIONED * most < self.n_actions:
            free = np.partition(free, self.n_actions - most, axis=1)[:, -most:]
        ranked = -np.sort(-free, axis=1)[:, :most]
        take = np.arange(ranked.shape[1]) < left[:, None]
        gain = ranked if self.exactly else np.maximum(ranked, 0.0)
        bound = base + np.where(take, gain, 0.0).sum(axis=1)
        bound[left < 0] = -np.inf
        if one is not None and zero is not None:
            bound[(one & zero).any(axis=1)] = -np.inf
        return np.asarray(bound)

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Take the best k, or the items of the fractional knapsack where that bound is smaller."""
        one, zero = pins.one, pins.zero
        rank = c if one is None else np.where(one, np.inf, c)
        if zero is not None:
            rank = np.where(zero, -np.inf, rank)
        if self.n_actions > _MOST_SORTED and self.k:
            best = np.argpartition(-rank, self.k - 1, axis=1)[:, : self.k]
        else:
            best = np.argsort(-rank, axis=1)[:, : self.k]
        x = np.zeros_like(c)
        chosen = np.take_along_axis(rank, best, axis=1)
        np.put_along_axis(x, best, chosen > (-np.inf if self.exactly else 0.0), axis=1)
        if self.costs is not None and self.budget is not None:
            fractions, _ = knapsack_fractions(c, self.costs, self.budget, one, zero)
            smaller = (c * fractions).sum(axis=1) < (c * x).sum(axis=1)
            x[smaller] = fractions[smaller]
        return x

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the unchosen actions that still fit count and budget."""
        a = self.check_action(action)
        chosen = int(a.sum())
        if chosen >= self.k:
            return np.array([], dtype=np.intp)
        free = np.flatnonzero(a == 0)
        if self.costs is None or self.budget is None:
            return free
        left = self.budget - float(self.costs @ a) + _TOLERANCE
        fits = self.costs[free] <= left
        if self.exactly:
            fits = np.array(
                [self._cheapest_completion(a, int(i)) <= left for i in free], dtype=np.bool_
            )
        return free[fits]

    def _cheapest_completion(self, action: ActionArray, addition: int) -> float:
        """Return the smallest cost of exactly k actions that contain action and addition."""
        assert self.costs is not None
        others = np.flatnonzero(action == 0)
        others = others[others != addition]
        missing = self.k - int(action.sum()) - 1
        return float(self.costs[addition] + np.sort(self.costs[others])[:missing].sum())

    def extension_masks(self, actions: ActionArray) -> tuple[BoolArray, BoolArray]:
        """Return which actions can be added, and feasibility; without costs by counting."""
        if self.costs is not None:
            return super().extension_masks(actions)
        chosen = actions.sum(axis=1)
        feasible = chosen == self.k if self.exactly else chosen <= self.k
        return (actions == 0) & (chosen < self.k)[:, None], feasible

    def sample(self, rng: np.random.Generator, n: int = 1, *, maximal: bool = False) -> ActionArray:
        """Draw random feasible actions; without costs, the number chosen is uniform on 0..k."""
        if self.costs is not None:
            return super().sample(rng, n, maximal=maximal)
        if self.exactly or maximal:
            sizes = np.full(n, self.k)
        else:
            sizes = rng.integers(0, self.k + 1, size=n)
        ranks = np.argsort(np.argsort(rng.random((n, self.n_actions)), axis=1), axis=1)
        return (ranks < sizes[:, None]).astype(np.int8)

    @property
    def count_bound(self) -> float:
        """The number of sets of a size that is allowed, whatever they cost."""
        return subsets_bound(self.n_actions, *self._sizes)

    @property
    def counts_quickly(self) -> bool:
        """True, without costs by a closed form."""
        return self.costs is None or super().counts_quickly

    def count(self, limit: int = 100_000) -> int:
        """Count the feasible actions, in closed form without costs."""
        if self.costs is not None:
            return super().count(limit)
        return subsets(self.n_actions, *self._sizes)

    @property
    def _sizes(self) -> tuple[int, int]:
        """Sizes of which there are as many sets: to choose k is to leave out the others."""
        same = min(self.k, self.n_actions - self.k)
        return (same, same) if self.exactly else (0, self.k)

    def enumerate(self, limit: int = 100_000) -> ActionArray:
        """List every feasible action, smallest sets first."""
        if self.costs is not None:
            rows = super().enumerate(limit)
            ordered: ActionArray = rows[np.argsort(rows.sum(axis=1), kind="stable")]
            return ordered
        check_limit(subsets(self.n_actions, *self._sizes, limit), limit)
        found = []
        for size in range(self.k if self.exactly else 0, self.k + 1):
            chosen = np.array(list(itertools.combinations(range(self.n_actions), size)), dtype=int)
            rows = np.zeros((len(chosen), self.n_actions), dtype=np.int8)
            np.put_along_axis(rows, chosen.reshape(len(chosen), size), 1, axis=1)
            found.append(rows)
        return np.concatenate(found)
