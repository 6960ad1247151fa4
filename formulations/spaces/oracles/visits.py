"""Placing visits: each by one worker in consecutive slots, or slot by slot as is preferred."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray

_REMEMBERED = 100_000
_INFEASIBLE = 2  # as `scipy.optimize.milp` says it
_STEPS = 2000  # visits placed in a search, before an integer program is solved


class _SearchLimitError(RuntimeError):
    """The search took too many steps."""


class NoServiceError(RuntimeError):
    """Nothing serves everybody within the limits."""


class Visits:
    """Where visits of each kind can be, and whether so many of each fit together.

    Workers of equal availability form a group. Visits in a group have enough workers if in every
    slot they are no more than these: intervals that overlap at most w at a time can be given to w
    workers.

    Parameters
    ----------
    worker_slots
        Which workers are available in which slots, shape (workers, slots).
    kind_slots
        Which slots a kind of visits may use, shape (kinds, slots).
    durations
        Consecutive slots that a visit takes, shape (kinds,).
    """

    def __init__(self, worker_slots: BoolArray, kind_slots: BoolArray, durations: IntArray) -> None:
        groups, self.group_of, sizes = np.unique(
            worker_slots, axis=0, return_inverse=True, return_counts=True
        )
        self.group_of = self.group_of.reshape(-1)
        self.room: IntArray = groups * sizes[:, None]
        self.durations = durations
        # Of each kind, the pairs (group, first slot) where a visit can be.
        self.places: list[list[tuple[int, int]]] = [
            [
                (g, t)
                for g, available in enumerate(groups)
                for t in range(len(slots) - int(duration) + 1)
                if (slots & available)[t : t + int(duration)].all()
            ]
            for slots, duration in zip(kind_slots, durations, strict=True)
        ]
        # Kinds with few places first, and long visits.
        self._order = sorted(
            range(len(durations)), key=lambda k: (len(self.places[k]), -int(durations[k]))
        )
        self._known: dict[tuple[int, ...], list[tuple[int, int, int]] | None] = {}

    def placed(self, counts: tuple[int, ...]) -> list[tuple[int, int, int]] | None:
        """Find places for so many visits of each kind.

        A depth-first search, which remembers what was left of the workers' slots where it failed,
        and, where it takes long, an integer program.

        Returns
        -------
        list of (kind, group, first slot) or None
            One for each visit; ``None`` if they do not fit.
        """
        if counts not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            try:
                self._known[counts] = self._search(counts)
            except _SearchLimitError:
                self._known[counts] = self._solved(counts)
        return self._known[counts]

    def _search(self, counts: tuple[int, ...]) -> list[tuple[int, int, int]] | None:
        visits = [k for k in self._order for _ in range(counts[k])]
        needed = np.cumsum([int(self.durations[k]) for k in visits][::-1])[::-1].tolist()
        room = self.room.copy()
        failed: set[tuple[int, int, bytes]] = set()
        found: list[tuple[int, int, int]] = []
        steps = itertools.count(1)

        def place(i: int, first: int) -> bool:
            if i == len(visits):
                return True
            key = (i, first, room.tobytes())
            if needed[i] > room.sum() or key in failed:
                return False
            k = visits[i]
            same = i + 1 < len(visits) and visits[i + 1] == k
            for at in range(first, len(self.places[k])):
                group, start = self.places[k][at]
                slots = room[group, start : start + int(self.durations[k])]
                if (slots > 0).all():
                    if next(steps) > _STEPS:
                        raise _SearchLimitError
                    slots -= 1
                    found.append((k, group, start))
                    if place(i + 1, at if same else 0):  # of one kind in the order of places
                        return True
                    found.pop()
                    slots += 1
            failed.add(key)
            return False

        return found if place(0, 0) else None

    def schedule(self, kinds: IntArray, preferred: BoolArray | None) -> list[tuple[int, int, int]]:
        """Return (visit, worker, slot) for every slot of some visits that fit together.

        Parameters
        ----------
        kinds
            The kind of each visit.
        preferred
            Slots that each visit prefers, shape (visits, slots), as many of which as can be are
            used; ``None`` for any.
        """
        if preferred is None:
            waiting = {k: np.flatnonzero(kinds == k).tolist() for k in set(kinds.tolist())}
            counts = np.bincount(kinds, minlength=len(self.places))
            found = self.placed(tuple(counts.tolist())) or []
            placed = [(waiting[k].pop(0), g, t) for k, g, t in found]
        else:
            placed = self._where_preferred(kinds, preferred)
        until = np.zeros(len(self.group_of), dtype=np.intp)
        plan = []
        for i, g, t in sorted(placed, key=lambda visit: visit[2]):
            worker = int(np.flatnonzero((self.group_of == g) & (until <= t))[0])
            until[worker] = t + self.durations[kinds[i]]
            plan += [(i, worker, slot) for slot in range(t, int(until[worker]))]
        return plan

    def _where_preferred(self, kinds: IntArray, preferred: BoolArray) -> list[tuple[int, int, int]]:
        """Return visit, group and first slot."""
        options = [(i, g, t) for i, k in enumerate(kinds.tolist()) for g, t in self.places[k]]
        spans = [(g, t, int(self.durations[kinds[i]])) for i, g, t in options]
        worth = [
            float(preferred[i, t : t + duration].sum())
            for (i, _, _), (_, t, duration) in zip(options, spans, strict=True)
        ]
        taken = preferred_service(
            np.ones(len(kinds), dtype=np.intp),
            np.array([i for i, _, _ in options], dtype=np.intp),
            self._uses(spans),
            self.room.reshape(-1),
            np.array(worth),
        )
        return [options[row] for row in np.flatnonzero(taken)]

    def _solved(self, counts: tuple[int, ...]) -> list[tuple[int, int, int]] | None:
        """Find places for so many visits of each kind by an integer program."""
        options = [(k, g, t) for k, places in enumerate(self.places) for g, t in places]
        try:
            taken = preferred_service(
                np.array(counts, dtype=np.intp),
                np.array([k for k, _, _ in options], dtype=np.intp),
                self._uses([(g, t, int(self.durations[k])) for k, g, t in options]),
                self.room.reshape(-1),
                np.zeros(len(options)),
            )
        except NoServiceError:
            return None
        return [own for own, times in zip(options, taken, strict=True) for _ in range(times)]

    def _uses(self, visits: Sequence[tuple[int, int, int]]) -> Any:
        """Return which slots of which group visits take, shape (groups * slots, visits).

        Parameters
        ----------
        visits
            Group, first slot and duration of each.
        """
        taken = np.zeros((len(visits), *self.room.shape))
        for row, (g, t, duration) in enumerate(visits):
            taken[row, g, t : t + duration] = 1.0
        return csr_array(taken.reshape(len(visits), self.room.size).T)


def preferred_service(
    amounts: IntArray, arm_of: IntArray, uses: Any, limits: IntArray, worth: FloatArray
) -> IntArray:
    """Choose how often each option is taken so that the total worth is largest.

    Parameters
    ----------
    amounts
        How many options each arm takes, shape (arms,).
    arm_of
        The arm of each option, shape (options,).
    uses
        What an option uses of each resource, shape (resources, options).
    limits
        The amount of each resource.
    worth
        Of each option.

    Returns
    -------
    numpy.ndarray
        Shape (options,).

    Raises
    ------
    NoServiceError
        If there is no such choice.
    """
    options = np.arange(len(arm_of))
    own = csr_array((np.ones(len(options)), (arm_of, options)), shape=(len(amounts), len(options)))
    solved = milp(
        -worth,
        integrality=np.ones(len(options), dtype=np.intp),
        bounds=Bounds(0, amounts[arm_of]),
        constraints=[
            LinearConstraint(own, amounts, amounts),
            LinearConstraint(uses, -np.inf, limits),
        ],
    )
    if solved.status == _INFEASIBLE:
        raise NoServiceError
    if solved.x is None:
        raise RuntimeError(f"the integer program was not solved: {solved.message}")
    return np.rint(solved.x).astype(np.intp)
