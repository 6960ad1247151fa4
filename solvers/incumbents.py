"""Feasible actions of high value, built greedily and improved by single flips and swaps.

Where variables are not binary, the best of a random sample, moved towards the others of it, and by
single steps of whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.kernels.description import CompiledOracle, Loops
from milp_rl.formulations.networks.action_value import ActionNetworks, times_transposed
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.contradictions import refusal
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.spaces.sequential import SequentialBuilder
from milp_rl.formulations.time_limit import LateError
from milp_rl.solvers.neighbours import (
    looks_at_all,
    neighbourhood,
    neighbours_above,
    on_the_way,
)
from milp_rl.solvers.options import late

if TYPE_CHECKING:
    from milp_rl.solvers.certify import ArgmaxProblem


_REMEMBERED = 100_000
_REMEMBERED_BYTES = 200_000_000
_FIRST_CHECKED = 8  # neighbours, the most promising, that are checked together
_ENTRIES = 4_000_000  # of a layer that are computed at a time
_COMPLETED = 16  # answers for which auxiliary variables of the model are looked for
_CARRIED = 64  # actions known of a like space that are looked at,
_DRAWN = 8  # and so many of either kind that are drawn
_MASKS = 256  # whose samples are kept
_WITHIN = 16  # actions known within a mask, after which no more are made
_MOST_BUILT = 2000  # actions from which on they are not added one by one
_ASCENTS = 20  # steps along the slopes
_MOST_IN_LOOPS = 1000  # actions of which every addition is valued by compiled loops
_DIRECTIONS = 8  # random objectives whose maximisers are tried where there is next to none


class Incumbents:
    """Finds good feasible actions of one space; remembers which actions are feasible.

    Parameters
    ----------
    space
        The feasible set.
    like
        What is known of a space of the same blocks with other data: then the actions of it that are
        feasible here are known, and few are drawn; that checks and constraints of the blocks agree
        has been seen there.
    """

    def __init__(self, space: ActionSpace, like: Incumbents | None = None) -> None:
        self.space = space
        self.like = like if like is not None and _kinds(space) == _kinds(like.space) else None
        self.sample = space.known_actions if self.like is None else self._carried_over(self.like)
        self._greedy = SequentialBuilder(space) if space.binary else None
        most = min(_REMEMBERED, _REMEMBERED_BYTES // (self.sample.itemsize * space.n_actions))
        self._feasible = lru_cache(most)(self._check)
        self._refusal = lru_cache(most)(self._examine)
        self._within = lru_cache(_MASKS)(self._find_within)
        self._examined = 0

    def __reduce__(self) -> tuple[type[Incumbents], tuple[ActionSpace, Incumbents | None]]:
        return Incumbents, (self.space, self.like)

    def _carried_over(self, like: Incumbents) -> ActionArray:
        """Return what is feasible here of the actions known there, and a few that are drawn."""
        rng, known = np.random.default_rng(0), like.sample[:_CARRIED]
        try:
            drawn = [self.space.sample(rng, _DRAWN, maximal=maximal) for maximal in (False, True)]
        except (ValueError, LateError):  # nothing feasible to sample, or no time
            drawn = []
        return np.concatenate([self._settled(known), *drawn])

    def _settled(self, actions: ActionArray) -> ActionArray:
        """Return the feasible ones of some actions, settled."""
        own, met = self.space.settled(actions[self.space.feasible(actions)])
        return own[met]

    def feasible(self, action: ActionArray) -> bool:
        """Whether an action, of the space's dtype, is feasible, without use of tolerances."""
        return self._feasible(action.tobytes())

    def hopeful(self, actions: ActionArray) -> ActionArray:
        """Return those that may be feasible; those that are, where many are checked at once."""
        if type(self.space).feasible is ActionSpace.feasible or not len(actions):
            return actions
        return actions[self.space.feasible(actions)]

    def _check(self, key: bytes) -> bool:
        action: ActionArray = np.frombuffer(key, dtype=self.space.dtype)
        return not self.space.violations(action) and bool(self.space.met_exactly(action[None])[0])

    def sample_within(self, pins: Pins) -> ActionArray:
        """Return known feasible actions within one row of pins, possibly none."""
        if pins.empty:
            return self.sample
        one, zero = (None if mask is None else mask.tobytes() for mask in (pins.one, pins.zero))
        return self._within(one, zero)

    def _find_within(self, one: bytes | None, zero: bytes | None) -> ActionArray:
        """Return what is within of the sample, of it with what is held, and of maximisers."""
        space = self.space
        masks = (None if key is None else np.frombuffer(key, dtype=bool) for key in (one, zero))
        pins = Pins(*masks)
        found = self.sample[pins.allows(self.sample)]
        if len(found) < _WITHIN:
            found = self._feasible_ones(found, pins.imposed_on(self.sample)[:_WITHIN])
        if len(found) < _DIRECTIONS and space.binary:
            directions = np.random.default_rng(0).standard_normal((_DIRECTIONS, space.n_actions))
            points = np.rint(space.maximizers(directions, pins)).astype(np.int8)
            found = self._feasible_ones(found, points[pins.allows(points)])
        return found

    def _feasible_ones(self, known: ActionArray, others: ActionArray) -> ActionArray:
        """Add to known actions the feasible ones of others, each once."""
        _, first = np.unique(others, axis=0, return_index=True)
        others = others[np.sort(first)]
        return np.concatenate([known, self._settled(others)])

    def refusal(self, action: ActionArray) -> str:
        """Check an answer by the space's check and its constraints; empty if it is feasible.

        Raises
        ------
        ContradictionError
            If the two disagree.
        """
        return self._refusal(np.ascontiguousarray(action).tobytes())

    def _examine(self, key: bytes) -> str:
        self._examined += 1
        action: ActionArray = np.frombuffer(key, dtype=self.space.dtype)
        if self.like is not None and "linear_model" not in vars(self.space):
            return "; ".join(self.space.violations(action))  # to compile it takes long
        return refusal(self.space, action, complete=self._examined <= _COMPLETED)

    def build(
        self,
        networks: ActionNetworks,
        deadline: float = math.inf,
        pins: Pins | None = None,
        loops: CompiledOracle | None = None,
    ) -> list[ActionArray | None]:
        """Build an action for each state greedily, ``None`` if building gets stuck.

        From among very many actions, go along the slopes of the values instead.

        With variables that are not binary, where the deadline passes, or where building gets stuck
        under pins, take the best of the sample. Pins have a row per state; ``loops`` is the space's
        oracle where compiled loops are to be used.
        """
        count, held = networks.n_states, pins or Pins()
        if loops is not None and self._builds_in_loops(networks):
            return self._build_in_loops(networks, deadline, held, loops)
        if self._greedy is None:
            return self._best_known(networks, held)
        if self.space.exact and self.space.n_actions > _MOST_BUILT:
            return self._ascended(networks, held)
        try:
            expand = _Additions(networks, deadline).expand
            return list(self._greedy.build(expand, count, pins=held))
        except LateError:
            return self._best_known(networks, held)
        except RuntimeError:
            if held.empty:
                return [None] * count
            if count == 1:
                return self._best_known(networks, held)
            alone = [slice(i, i + 1) for i in range(count)]
            return [self.build(networks.rows(i), deadline, held[i])[0] for i in alone]

    def _ascended(self, networks: ActionNetworks, pins: Pins) -> list[ActionArray | None]:
        """Go from the best known action of each state to the best by the slopes there, and on."""
        found = self._best_known(networks, pins)
        going = [i for i, action in enumerate(found) if action is not None]
        for _ in range(_ASCENTS):
            if not going:
                break
            rows = np.array(going)
            here = np.array([found[i] for i in going], dtype=np.float64)
            values, slopes = networks.values_and_gradients(here, rows)
            points = np.rint(self.space.maximizers(slopes, pins[rows])).astype(np.int8)
            better = networks.values(points.astype(np.float64), rows) > values
            better &= pins[rows].allows(points)
            kept = [place for place in np.flatnonzero(better) if self.feasible(points[place])]
            going = [going[place] for place in kept]
            for i, place in zip(going, kept, strict=True):
                found[i] = points[place]
        return found

    def _builds_in_loops(self, networks: ActionNetworks) -> bool:
        known = self.space.down_closed or self.space.exact
        return known and self.space.n_actions <= _MOST_IN_LOOPS

    def _build_in_loops(
        self, networks: ActionNetworks, deadline: float, pins: Pins, loops: CompiledOracle
    ) -> list[ActionArray | None]:
        from milp_rl.solvers.kernels import build

        held = pins.checked((networks.n_states, self.space.n_actions))
        actions = held.imposed_on(
            np.zeros((networks.n_states, self.space.n_actions), dtype=np.int8)
        )
        found: list[ActionArray | None] = []
        for i, action in enumerate(actions):
            if late(deadline):
                return found + self._best_known(networks.rows(slice(i, None)), held[i:])
            _, zero = held[i].masks(len(action))
            complete = build(networks.flat, i, loops, zero, self.space.down_closed, action)
            known = complete and self.feasible(action)
            found.append(action if known else self._best_known(networks[i], held[i : i + 1])[0])
        return found

    def _best_known(self, networks: ActionNetworks, pins: Pins) -> list[ActionArray | None]:
        """Return the best of the sample for each state, ``None`` if it is empty."""
        if not pins.empty and networks.n_states > 1:
            alone = [slice(i, i + 1) for i in range(networks.n_states)]
            return [self._best_known(networks.rows(i), pins[i])[0] for i in alone]
        sample = self.sample if pins.empty else self.sample_within(pins[0])
        if not len(sample):
            return [None] * networks.n_states
        best: list[int] = []
        size = max(_ENTRIES // (len(sample) * networks.n_actions), 1)
        for i in range(0, networks.n_states, size):
            own = np.arange(i, min(i + size, networks.n_states))
            actions = np.tile(sample, (len(own), 1)).astype(np.float64)
            values = networks.values(actions, np.repeat(own, len(sample)))
            best += values.reshape(len(own), -1).argmax(axis=1).tolist()
        return list(sample[best])

    def climb(
        self, problem: ArgmaxProblem, action: ActionArray, deadline: float = math.inf
    ) -> tuple[ActionArray, float]:
        """Improve a feasible action until no flip and no swap (or no move) does.

        Where there are more than 100,000 swaps, a fixed part of them is tried.

        Parameters
        ----------
        problem
            What is solved.
        action
            Feasible.
        deadline
            When to stop.

        Returns
        -------
        tuple
            The action and its value.
        """
        best, value = action, problem.value(action)
        if problem.loops is not None and looks_at_all(action):
            return self._climb_in_loops(problem, problem.loops, best, value, deadline)
        while not late(deadline):
            limit = value + 2.0 * problem.rounding
            if self._greedy is None:
                points = on_the_way(self.space, best, self.sample, problem.pins)
                values = problem.network.forward(points)[:, 0]
                better = np.flatnonzero(values > limit)
                ranked = better[np.argsort(-values[better], kind="stable")]
                others = iter(points[ranked])
            else:
                better, values = neighbours_above(problem, best, limit, deadline)
                ranked = better[np.argsort(-values, kind="stable")]
                others = self._each_neighbour(best, ranked, deadline)
            found = next((other for other in others if self.feasible(other)), None)
            if found is None:
                break
            best, value = found, problem.value(found)
        return best, value

    def _climb_in_loops(
        self,
        problem: ArgmaxProblem,
        loops: Loops,
        action: ActionArray,
        value: float,
        deadline: float,
    ) -> tuple[ActionArray, float]:
        from milp_rl.solvers.kernels import best_neighbour

        held = problem.pins.masks(len(action))
        margin = 2.0 * problem.rounding
        while not late(deadline):
            other = action.copy()
            moved = best_neighbour(loops.networks, loops.state, loops.oracle, *held, margin, other)
            if not moved or not self.feasible(other):
                break
            found = problem.value(other)
            if found <= value:
                break
            action, value = other, found
        return action, value

    def _each_neighbour(
        self, action: ActionArray, rows: IntArray, deadline: float
    ) -> Iterator[ActionArray]:
        """Yield neighbours, those at least that are feasible, from few to many at a time."""
        largest = max(_ENTRIES // len(action), 1)
        begin, size = 0, min(_FIRST_CHECKED, largest)
        while begin < len(rows) and not late(deadline):
            others = neighbourhood(action, rows[begin : begin + size])
            yield from self.hopeful(others)
            begin, size = begin + size, min(4 * size, largest)


def _kinds(space: ActionSpace) -> tuple[object, ...]:
    """Return the classes of a space and its members, and the domains of its variables."""
    members = [own for own, _ in space.parts() if own is not space]
    domains = space.continuous.tobytes(), space.integer.tobytes()
    return type(space), *domains, *map(_kinds, members)


class _Additions:
    """Values actions and all their additions, by what each adds to the layers that take it."""

    def __init__(self, networks: ActionNetworks, deadline: float) -> None:
        self._networks = networks
        # (states or 1, actions, outputs)
        self._columns = {
            depth: np.ascontiguousarray(weight.transpose(0, 2, 1))
            if weight.ndim == 3
            else np.ascontiguousarray(weight.T)[None]
            for depth, weight in networks.direct.items()
        }
        self._deadline = deadline
        self._most = max(_ENTRIES // networks.widest, 1)

    def expand(
        self, rows: IntArray, actions: ActionArray, allowed: BoolArray
    ) -> tuple[FloatArray, FloatArray]:
        """Value partial actions and their additions, for a :class:`.SequentialBuilder`."""
        chosen = actions.astype(np.float64)
        before = {
            depth: times_transposed(chosen, weight, rows)
            for depth, weight in self._networks.direct.items()
        }
        children = np.full(actions.shape, -np.inf)
        of, additions = np.nonzero(allowed)
        for i in range(0, len(of), self._most):
            if late(self._deadline):
                raise LateError
            own, added = of[i : i + self._most], additions[i : i + self._most]
            products = {
                depth: before[depth][own]
                + (columns[0, added] if len(columns) == 1 else columns[rows[own], added])
                for depth, columns in self._columns.items()
            }
            children[own, added] = self._networks.values_after(products, rows[own])
        return self._networks.values_after(before, rows), children
