"""The capacity block: chosen arms are assigned to workers of limited capacity."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.checks import check_numbers, check_unit
from milp_rl.formulations.kernels.description import CompiledOracle
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.oracles.bin_packing import (
    TOLERANCE,
    Counts,
    Packer,
    maximal_counts,
    undominated_patterns,
)
from milp_rl.formulations.spaces.oracles.count_vectors import ClassCounts
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import check_time

_MAX_PATTERNS = 500
_SAMPLE_TRIES = 1000


class Capacity(ActionSpace):
    r"""Each chosen arm is assigned to one worker; a worker's arms cost at most its capacity.

    A multiple knapsack: an action is feasible if there is a 0/1 assignment :math:`y_{iw}` with

    .. math:: \sum_w y_{iw} = a_i, \qquad \sum_i c_i y_{iw} \le C_w

    The model chooses how many workers are filled by each packing pattern (Gilmore and Gomory, "A
    linear programming approach to the cutting-stock problem", Operations Research 9, 1961), or,
    where there are too many patterns, how many arms of each cost each worker takes.

    Feasibility depends only on the number of chosen arms of each cost. ``linear_max`` is exact
    where the maximal feasible numbers can be listed (some 20,000 of them; always so in the
    restless bandits of Xu et al., arXiv 2503.01919, with five costs); otherwise it is the smaller
    of the fractional knapsack over what the workers can hold and the sum of as many best
    coefficients as there are arms that may fit. The check is exact too, and takes well under a
    millisecond with few different costs; in general the problem is NP-hard, so that with dozens of
    different costs and many arms per worker the check of an action that nearly fits may not finish.

    Parameters
    ----------
    costs
        Nonnegative cost of each arm, shape (n_actions,). An arm that costs more than every
        capacity is never chosen.
    capacities
        Nonnegative capacity of each worker, shape (workers,), in the unit of the costs. Sums of
        costs may exceed it by 1e-9.

    Raises
    ------
    ValueError
        If there are no arms or workers, or a number is negative, NaN or infinite.

    Examples
    --------
    >>> import milp_rl as mr
    >>> space = mr.Capacity(costs=[3, 2, 2, 1], capacities=[4, 3])
    >>> space.violations([1, 1, 1, 0])
    []
    >>> space.assignment([1, 1, 1, 0])
    {0: [1, 2], 1: [0]}
    >>> space.violations([1, 1, 1, 1])
    ['4 arms of total cost 8 do not fit the workers, whose total capacity is 7: 1 too much']
    >>> space.linear_max([[4.0, 3.0, 2.0, 1.0]])
    array([9.])
    """

    def __init__(self, costs: ArrayLike, capacities: ArrayLike) -> None:
        self.costs = _check_nonnegative(costs, "costs", "arm")
        self.capacities = _check_nonnegative(capacities, "capacities", "worker")
        if self.costs.sum() > self.capacities.max():
            check_unit(self.costs, 10 * TOLERANCE, "costs", "costs and capacities")
        # No more workers than there are arms take one: those of the largest capacities will do.
        largest = np.argsort(-self.capacities, kind="stable")[: len(self.costs)]
        self._workers = np.sort(largest)
        self._rooms = self.capacities[self._workers]
        fits = self.costs <= self.capacities.max() + TOLERANCE
        values, class_of = np.unique(-self.costs[fits], return_inverse=True)
        self._class_costs = (-values).tolist()
        self._class_of = np.full(len(self.costs), -1, dtype=np.intp)
        self._class_of[fits] = class_of
        self._class_sizes = np.bincount(class_of, minlength=len(values)).tolist()

    @property
    def n_actions(self) -> int:
        """Number of arms."""
        return len(self.costs)

    @property
    def exact(self) -> bool:
        """True where the maximal numbers of arms of each cost can be listed."""
        return self._class_counts is not None

    @property
    def compiled_oracle(self) -> CompiledOracle | None:
        """The maximal numbers of arms of each cost, where they can be listed."""
        return None if self._class_counts is None else self._class_counts.compiled

    @property
    def down_closed(self) -> bool:
        """Always true."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "type": "Capacity",
            "costs": self.costs.tolist(),
            "capacities": self.capacities.tolist(),
        }

    def limits(self) -> dict[str, ActionSpace]:
        """Return the space for one unit more of each worker's capacity."""
        more = self.capacities + np.eye(len(self.capacities))
        return {
            f"capacity of worker {w}": self._with(capacities=more[w].tolist())
            for w in range(len(more))
        }

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write the packing constraints, by packing patterns or as an assignment.

        Arms of one cost and workers of one capacity are interchangeable, so there is one integer
        variable for each pattern that fills a worker of each capacity, or, where there are too
        many patterns, for each cost and worker.
        """
        never = [a for a, k in zip(actions, self._class_of, strict=True) if k < 0]
        if never:
            block.never = pyo.Constraint(expr=pyo.quicksum(never) <= 0)
        if not self._class_costs:
            return
        chosen: list[list[Any]] = [[] for _ in self._class_costs]
        for action, k in zip(actions, self._class_of, strict=True):
            if k >= 0:
                chosen[k].append(action)
        patterns = self._patterns
        if patterns is None:
            self._constrain_assignment(block, chosen)
        else:
            self._constrain_patterns(block, chosen, patterns)

    def _constrain_patterns(
        self, block: Any, chosen: list[list[Any]], patterns: list[tuple[int, Counts]]
    ) -> None:
        """Choose a pattern for each worker; an arm may take the place of a costlier one."""
        _, workers = self._worker_groups
        block.pattern = pyo.Var(range(len(patterns)), domain=pyo.NonNegativeIntegers)
        for p, (group, _) in enumerate(patterns):
            block.pattern[p].setub(workers[group])
        block.workers = pyo.ConstraintList()
        for group, number in enumerate(workers):
            own = [block.pattern[p] for p, (g, _) in enumerate(patterns) if g == group]
            if own:
                block.workers.add(pyo.quicksum(own) <= number)
        block.places = pyo.ConstraintList()
        places = np.cumsum([pattern for _, pattern in patterns], axis=1)
        for k in range(len(chosen)):
            block.places.add(
                pyo.quicksum(a for arms in chosen[: k + 1] for a in arms)
                <= pyo.quicksum(int(n) * block.pattern[p] for p, n in enumerate(places[:, k]) if n)
            )

    def _constrain_assignment(self, block: Any, chosen: list[list[Any]]) -> None:
        """Choose how many arms of each cost each worker takes."""
        costs, sizes = self._class_costs, self._class_sizes
        pairs = [
            (k, w)
            for w, capacity in enumerate(self._rooms)
            for k, cost in enumerate(costs)
            if cost <= capacity + TOLERANCE
        ]
        block.assigned = pyo.Var(pairs, domain=pyo.NonNegativeIntegers)
        for k, w in pairs:
            block.assigned[k, w].setub(sizes[k])
        block.capacity = pyo.ConstraintList()
        load = [
            pyo.quicksum(costs[k] * block.assigned[k, v] for k, v in pairs if v == w)
            for w in range(len(self._rooms))
        ]
        for w, most in enumerate(self._packer.loads):
            if any(v == w for _, v in pairs):
                block.capacity.add(load[w] <= most)
        block.served = pyo.ConstraintList()
        for k, arms in enumerate(chosen):
            block.served.add(
                pyo.quicksum(arms) <= pyo.quicksum(block.assigned[j, w] for j, w in pairs if j == k)
            )

    def violations(self, action: ArrayLike) -> list[str]:
        """Pack the chosen arms: best fit decreasing, then an exact search."""
        a = self.check_action(action)
        largest = self.capacities.max()
        found = [
            f"arm {i} costs {self.costs[i]:g}, more than the largest capacity, {largest:g}"
            for i in np.flatnonzero((a == 1) & (self._class_of < 0))
        ]
        counts = self._counts(a)
        if self._packer.pack(counts) is None:
            found.append(self._explain(counts))
        return found

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Pack the numbers of arms of each cost, each once."""
        possible = self._class_of >= 0
        found = ~(actions[:, ~possible] == 1).any(axis=1)
        one_hot = self._class_of[possible, None] == np.arange(len(self._class_costs))
        counts = actions[:, possible].astype(np.intp) @ one_hot.astype(np.intp)
        different, which = np.unique(counts, axis=0, return_inverse=True)
        packs = [self._packer.pack(tuple(row)) is not None for row in different.tolist()]
        return np.asarray(found & np.array(packs, dtype=bool)[which.reshape(-1)])

    def _explain(self, counts: Counts) -> str:
        total = sum(c * n for c, n in zip(self._class_costs, counts, strict=True))
        room = float(self.capacities.sum())
        text = f"{sum(counts)} arms of total cost {total:g} do not fit the workers"
        if total > room + TOLERANCE:
            return f"{text}, whose total capacity is {room:g}: {total - room:g} too much"
        for cost, number, most in zip(
            self._class_costs, np.cumsum(counts), self._packer.most, strict=True
        ):
            if number > most:
                return f"{text}: {number} arms cost {cost:g} or more, at most {most} can be taken"
        parts = ", ".join(
            f"{n} of cost {c:g}" for c, n in zip(self._class_costs, counts, strict=True) if n
        )
        return (
            f"{text} of capacities {', '.join(f'{c:g}' for c in sorted(self._rooms))}:"
            f" no assignment takes {parts}"
        )

    def assignment(self, action: ArrayLike) -> dict[int, list[int]]:
        """Assign the chosen arms to workers.

        Parameters
        ----------
        action
            A feasible action.

        Returns
        -------
        dict
            The arms of each worker, possibly none.

        Raises
        ------
        ValueError
            If the action is not feasible.
        """
        a = self.check_action(action)
        packed = self._packer.pack(self._counts(a))
        if packed is None or (self._class_of[a == 1] < 0).any():
            raise ValueError(f"the action is not feasible: {'; '.join(self.violations(a))}")
        waiting = [
            np.flatnonzero((a == 1) & (self._class_of == k)).tolist()
            for k in range(len(self._class_costs))
        ]
        assigned: dict[int, list[int]] = {w: [] for w in range(len(self.capacities))}
        for w, pattern in zip(self._workers.tolist(), packed, strict=True):
            for arms, number in zip(waiting, pattern, strict=True):
                assigned[w] += [arms.pop() for _ in range(number)]
            assigned[w].sort()
        return assigned

    def decode(self, action: ArrayLike) -> dict[int, int]:
        """Return the worker of each chosen arm; raises ``ValueError`` if they do not fit."""
        worker_of = {arm: w for w, arms in self.assignment(action).items() for arm in arms}
        return dict(sorted(worker_of.items()))

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Maximise over the maximal numbers of arms of each cost, or bound by relaxations."""
        if self._class_counts is not None:
            return self._class_counts.maxima(c, pins.one, pins.zero)
        return self._relaxation._linear_max(c, pins.and_zero(self._class_of < 0, c.shape))

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return an action that attains ``linear_max``, or that of the relaxation."""
        if self._class_counts is not None:
            return self._class_counts.maximizers(c, pins.one, pins.zero)
        return self._relaxation._maximizers(c, pins.and_zero(self._class_of < 0, c.shape))

    def sample(self, rng: np.random.Generator, n: int = 1, *, maximal: bool = False) -> ActionArray:
        """Draw random feasible actions: arms in random order, each to a random worker with room.

        Without ``maximal``, a random number of the arms that found a worker is kept. With it,
        arms that fit after a rearrangement are added; among dozens of different costs, one that
        takes a long search to fit may be missed.
        """
        rows = np.arange(n)
        actions = np.zeros((n, self.n_actions), dtype=np.int8)
        rooms = np.tile(self._rooms + TOLERANCE, (n, 1))
        order = rng.permuted(np.tile(np.arange(self.n_actions), (n, 1)), axis=1)
        for arms in order.T:
            fits = rooms >= self.costs[arms, None]
            worker = np.where(fits, rng.random(fits.shape), -1.0).argmax(axis=1)
            taken = fits[rows, worker]
            rooms[rows, worker] -= np.where(taken, self.costs[arms], 0.0)
            actions[rows, arms] = taken
        if maximal:
            for action in actions:  # arms that fit after a rearrangement
                check_time()
                while len(more := self._additions(action, _SAMPLE_TRIES)):
                    action[rng.choice(more)] = 1
        else:
            kept = rng.integers(0, actions.sum(axis=1) + 1)
            in_order = np.take_along_axis(actions, order, axis=1)
            in_order[np.cumsum(in_order, axis=1) > kept[:, None]] = 0
            np.put_along_axis(actions, order, in_order, axis=1)
        return actions

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the arms that can be added; if one can, so can any that costs less."""
        return self._additions(self.check_action(action))

    def _additions(self, a: ActionArray, tries: int | None = None) -> NDArray[np.intp]:
        if (self._class_of[a == 1] < 0).any():
            return np.array([], dtype=np.intp)
        counts = self._counts(a)
        free = np.flatnonzero((a == 0) & (self._class_of >= 0))
        classes = np.unique(self._class_of[free])  # expensive first

        def too_much(k: int) -> bool:
            larger = list(counts)
            larger[k] += 1
            return self._packer.pack(larger, tries) is None

        first = bisect_left(classes, True, key=lambda k: not too_much(int(k)))
        return free[np.isin(self._class_of[free], classes[first:])]

    def _counts(self, action: ActionArray) -> Counts:
        classes = self._class_of[(action == 1) & (self._class_of >= 0)]
        return tuple(np.bincount(classes, minlength=len(self._class_costs)).tolist())

    @cached_property
    def _packer(self) -> Packer:
        return Packer(self._class_costs, self._class_sizes, self._rooms.tolist())

    @cached_property
    def _worker_groups(self) -> tuple[list[float], list[int]]:
        """The different capacities and the number of workers of each."""
        values, numbers = np.unique(self._rooms, return_counts=True)
        return values.tolist(), numbers.tolist()

    @cached_property
    def _patterns(self) -> list[tuple[int, Counts]] | None:
        """The patterns that fill a worker of each group; ``None`` if they are too many."""
        found: list[tuple[int, Counts]] = []
        for group, capacity in enumerate(self._worker_groups[0]):
            for pattern in undominated_patterns(self._class_costs, self._class_sizes, capacity):
                if any(pattern):
                    found.append((group, pattern))
                if len(found) > _MAX_PATTERNS:
                    return None
        return found

    @cached_property
    def _class_counts(self) -> ClassCounts | None:
        """The exact linear oracle, if the maximal counts can be listed."""
        most = [min(s, m) for s, m in zip(self._class_sizes, self._packer.most, strict=True)]
        vectors = maximal_counts(self._class_costs, most, self._rooms.tolist())
        return None if vectors is None else ClassCounts(self._class_of, vectors)

    @cached_property
    def _relaxation(self) -> BudgetTopK:
        """As many arms, and as much cost, as the workers may hold."""
        most = sum(self._class_sizes)
        counts = list(self._class_sizes)
        for k in range(len(counts)):  # leave out the most expensive arms first
            while counts[k] and not self._packer.may_fit(counts):
                counts[k] -= 1
                most -= 1
        return BudgetTopK(self.n_actions, most, costs=self.costs, budget=self._packer.total_load)


def _check_nonnegative(values: ArrayLike, name: str, of: str) -> FloatArray:
    vector = check_numbers(values, name)
    if not len(vector):
        raise ValueError(f"{name} is empty: at least one {of} is needed")
    bad = np.flatnonzero(vector < 0)
    if len(bad):
        raise ValueError(f"{name}[{bad[0]}] is {vector[bad[0]]:g}; {name} must not be negative")
    return vector
