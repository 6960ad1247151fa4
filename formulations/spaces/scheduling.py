"""The scheduling block: chosen arms are served by workers in time slots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.checks import check_binary, check_integer, check_integers
from milp_rl.formulations.kernels.description import CompiledOracle, ScheduleOracle, SlotsOracle
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.oracles.count_vectors import (
    ClassCounts,
    maximal_counts_of_rows,
    maximal_counts_where,
    polymatroid_maxima,
)
from milp_rl.formulations.spaces.oracles.visits import Visits, preferred_service
from milp_rl.formulations.spaces.pins import Pins

_MAX_LISTED_SLOTS = 10
_LARGEST_NEED = 10**9
_MAX_LISTED_VISITS = 1000  # vectors of numbers of visits that are tried to list the maximal ones
_LARGEST_CODE = 2.0**62
_MAX_LISTED = 1000  # maximal numbers of arms of each kind; with more, a polymatroid bounds faster


class Scheduling(ActionSpace):
    r"""Each chosen arm is served in time slots by workers; a worker serves one arm per slot.

    Two workers may serve an arm in the same slot, so workers only count by the number
    :math:`W_t` available in slot t. An action is feasible if there is a service

    .. math:: \sum_{t \in T_j} y_{jt} = n_j a_j, \qquad \sum_j y_{jt} \le W_t, \qquad y \ge 0,
              \qquad \sum_j a_j \le b,

    where arm j is available in the slots :math:`T_j` and needs :math:`n_j` worker-slots. It can be
    taken integer, being a flow. By Hall's theorem (Hall, "On representatives of subsets", Journal
    of the London Mathematical Society 10, 1935) there is one if in every set of slots the chosen
    arms that can be served only there need no more than the workers have there.
    Feasibility depends only on the number of chosen arms of each kind (availability and need), so
    ``linear_max`` is exact where the maximal feasible numbers are few (at most 1,000), or every
    need is one; otherwise it is the linear relaxation (with different needs and a budget, the
    smaller of that without the budget and a top-k bound). Beyond 10 slots it is the smaller of a
    top-k bound and a knapsack over all worker-slots.

    With ``durations``, a chosen arm is instead visited once, by one worker for :math:`d_j`
    consecutive slots. With :math:`W_{gt}` the workers of availability g in slot t, and
    :math:`z_{jgt}` whether one of them begins with arm j in slot t, where both are available until
    it ends,

    .. math:: \sum_{gt} z_{jgt} = a_j, \qquad
              \sum_j \sum_{t' = t - d_j + 1}^{t} z_{jgt'} \le W_{gt}, \qquad
              z \in \{0, 1\} .

    To decide that is NP-hard in general; the check is a search and, where that takes long, an
    integer program. ``linear_max`` is exact where the maximal numbers of each kind can be listed;
    otherwise it is that of needs in any slots.

    Parameters
    ----------
    worker_slots
        Which workers are available in which slots, boolean, shape (workers, slots).
    arm_slots
        Which arms are available in which slots, boolean, shape (n_actions, slots).
    needs
        Worker-slots that each arm needs if chosen, at least 1: one integer, or one per arm; 2 if
        neither they nor ``durations`` are given.
    budget
        Largest number of chosen arms; ``None`` for no limit of its own.
    durations
        Consecutive slots that each chosen arm takes of one worker, at least 1: one integer, or one
        per arm; not with ``needs``.
    preferred
        Slots that each arm prefers, boolean, shape (n_actions, slots): of the schedules of an
        action, :meth:`schedule` gives one with the most visits in such slots. They do not matter to
        which actions are feasible.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is out of range.

    Examples
    --------
    >>> import milp_rl as mr
    >>> workers = [[1, 1, 0], [0, 1, 1]]  # the first works in slots 0 and 1, the second in 1 and 2
    >>> space = mr.Scheduling(workers, arm_slots=[[1, 1, 0], [1, 1, 0], [0, 1, 1]], needs=2)
    >>> space.violations([1, 1, 0])
    ['arms [0, 1] need 4 worker-slots in slots [0, 1], where workers have 3: 1 short']
    >>> space.schedule([1, 0, 1])  # (arm, worker, slot)
    [(0, 0, 0), (0, 1, 1), (2, 0, 1), (2, 1, 2)]
    >>> space.linear_max([[3.0, 2.0, 1.0]])
    array([4.])

    Visits of two slots, each by one worker, in the afternoon if possible:

    >>> day = [[1, 1, 1, 1]] * 2
    >>> late = [[0, 0, 1, 1]] * 3
    >>> visits = mr.Scheduling([[1, 1, 1, 1]], day, durations=2, preferred=late[:2])
    >>> visits.decode([0, 1])
    {1: [(0, 2), (0, 3)]}
    >>> mr.Scheduling([[1, 0, 1, 1]], day, durations=2).violations([1, 1])
    ['arms [0, 1] need 4 worker-slots in slots [0, 1, 2, 3], where workers have 3: 1 short']
    >>> mr.Scheduling([[1, 1, 1, 0], [0, 0, 0, 1]], day, durations=2).violations([1, 1])
    ['no workers have 2 consecutive slots for each of the arms [0, 1]']
    """

    def __init__(
        self,
        worker_slots: ArrayLike,
        arm_slots: ArrayLike,
        needs: int | ArrayLike | None = None,
        budget: int | None = None,
        *,
        durations: int | ArrayLike | None = None,
        preferred: ArrayLike | None = None,
    ) -> None:
        self.worker_slots = _slots(worker_slots, "worker_slots")
        self.arm_slots = _slots(arm_slots, "arm_slots")
        if self.worker_slots.shape[1] != self.arm_slots.shape[1]:
            raise ValueError(
                f"worker_slots has {self.worker_slots.shape[1]} slots, arm_slots has"
                f" {self.arm_slots.shape[1]}"
            )
        if needs is not None and durations is not None:
            raise ValueError("give needs or durations, not both")
        self.in_one = durations is not None
        self.needs: NDArray[np.int64] = (
            self._one_per_arm(2 if needs is None else needs, "needs")
            if durations is None
            else self._one_per_arm(durations, "durations")
        )
        self.budget = None if budget is None else check_integer(budget, "budget")
        self.preferred = None if preferred is None else _slots(preferred, "preferred")
        if self.preferred is not None and self.preferred.shape != self.arm_slots.shape:
            raise ValueError(
                f"preferred must have shape {self.arm_slots.shape}, got {self.preferred.shape}"
            )

        self._workers = self.worker_slots.sum(axis=0)
        reachable = (self.arm_slots * self._workers).sum(axis=1)
        possible = self.needs <= reachable
        if self.in_one:
            single = Visits(self.worker_slots, self.arm_slots, self.needs)
            possible = np.array([len(places) > 0 for places in single.places])
        kinds = np.column_stack([self.arm_slots, self.needs])
        classes, class_of = np.unique(kinds[possible], axis=0, return_inverse=True)
        self._class_slots: BoolArray = classes[:, :-1].astype(bool)
        self._class_needs: IntArray = classes[:, -1].astype(np.intp)
        self._class_of = np.full(self.n_actions, -1, dtype=np.intp)
        self._class_of[possible] = class_of.reshape(-1)
        self._class_sizes = np.bincount(class_of.reshape(-1), minlength=len(classes))

    def _one_per_arm(self, values: int | ArrayLike, name: str) -> NDArray[np.int64]:
        if np.ndim(values) == 0:
            given = [check_integer(values, name, 1, _LARGEST_NEED)] * self.n_actions
        else:
            given = check_integers(values, name, 1, _LARGEST_NEED)
        if len(given) != self.n_actions:
            raise ValueError(f"{name} must be one integer or {self.n_actions}, got {len(given)}")
        return np.array(given, dtype=np.int64)

    @property
    def n_actions(self) -> int:
        """Number of arms."""
        return len(self.arm_slots)

    @property
    def exact(self) -> bool:
        """True where the maximal numbers of arms of each kind can be listed, or all needs are 1."""
        if self.in_one:
            return self._class_counts is not None
        return self._hall[0] is not None and (self._unit_needs or self._class_counts is not None)

    @property
    def compiled_oracle(self) -> CompiledOracle | None:
        """The best within the budget; what cannot be served, as :meth:`linear_max` has it."""
        return self._compiled_oracle

    @property
    def down_closed(self) -> bool:
        """Always true."""
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        data: dict[str, Any] = {
            "type": "Scheduling",
            "worker_slots": self.worker_slots.astype(int).tolist(),
            "arm_slots": self.arm_slots.astype(int).tolist(),
            "durations" if self.in_one else "needs": self.needs.tolist(),
            "budget": self.budget,
        }
        if self.preferred is not None:
            data["preferred"] = self.preferred.astype(int).tolist()
        return data

    def limits(self) -> dict[str, ActionSpace]:
        """Return the space for one arm more, and for one worker more in each slot."""
        found: dict[str, ActionSpace] = {}
        if self.budget is not None and self.budget < self.n_actions:
            found["budget"] = self._with(budget=self.budget + 1)
        workers = self.worker_slots.astype(int).tolist()
        for t, alone in enumerate(np.eye(self.worker_slots.shape[1], dtype=int).tolist()):
            found[f"slot {t}"] = self._with(worker_slots=[*workers, alone])
        return found

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write the service as a flow from kinds of arms to slots, or the starts of visits."""
        never = [a for a, k in zip(actions, self._class_of, strict=True) if k < 0]
        if never:
            block.never = pyo.Constraint(expr=pyo.quicksum(never) <= 0)
        if self.budget is not None:
            block.budget = pyo.Constraint(expr=pyo.quicksum(actions) <= self.budget)
        if self.in_one:
            self._constrain_visits(block, actions)
        else:
            self._constrain_flow(block, actions)

    def _constrain_visits(self, block: Any, actions: Sequence[Any]) -> None:
        """Count the visits of each kind that begin in each slot with each group of workers."""
        starts = [(k, g, t) for k, places in enumerate(self._visits.places) for g, t in places]
        block.begun = pyo.Var(starts, domain=pyo.NonNegativeIntegers)
        for k, g, t in starts:
            block.begun[k, g, t].setub(int(self._class_sizes[k]))
        block.visit = pyo.ConstraintList()
        for k, places in enumerate(self._visits.places):
            chosen = pyo.quicksum(a for a, c in zip(actions, self._class_of, strict=True) if c == k)
            block.visit.add(pyo.quicksum(block.begun[k, g, t] for g, t in places) >= chosen)
        block.slot = pyo.ConstraintList()
        for (g, t), workers in np.ndenumerate(self._visits.room):
            under_way = [
                block.begun[k, h, u]
                for k, h, u in starts
                if h == g and u <= t < u + self._class_needs[k]
            ]
            if under_way:
                block.slot.add(pyo.quicksum(under_way) <= int(workers))

    def _constrain_flow(self, block: Any, actions: Sequence[Any]) -> None:
        """Write the flow, which needs no integrality."""
        pairs = [
            (k, int(t))
            for k, slots in enumerate(self._class_slots)
            for t in np.flatnonzero(slots & (self._workers > 0))
        ]
        block.served = pyo.Var(pairs, domain=pyo.NonNegativeReals)
        block.need = pyo.ConstraintList()
        for k, need in enumerate(self._class_needs):
            chosen = pyo.quicksum(a for a, c in zip(actions, self._class_of, strict=True) if c == k)
            served = pyo.quicksum(block.served[j, t] for j, t in pairs if j == k)
            block.need.add(served >= int(need) * chosen)
        block.slot = pyo.ConstraintList()
        for t, workers in enumerate(self._workers):
            served_then = [block.served[k, u] for k, u in pairs if u == t]
            if served_then:
                block.slot.add(pyo.quicksum(served_then) <= int(workers))

    def violations(self, action: ArrayLike) -> list[str]:
        """Check Hall's condition, where it fails a minimum cut says where, or place the visits."""
        a = self.check_action(action)
        found = []
        chosen = np.flatnonzero(a)
        if self.budget is not None and len(chosen) > self.budget:
            found.append(f"{len(chosen)} arms chosen, at most {self.budget} allowed")
        if (self._class_of[chosen] < 0).any() or not self._served(self._counts(a)):
            found.append(self._shortage(chosen))
        return found

    def _shortage(self, chosen: NDArray[np.intp]) -> str:
        """Say what the chosen arms lack."""
        flow, (_, wanting) = nx.minimum_cut(self._graph(chosen).reverse(), "sink", "source")
        if self.in_one and flow == self.needs[chosen].sum():
            most = sorted(set(self.needs[chosen].tolist()))
            return (
                f"no workers have {' or '.join(map(str, most))} consecutive slots for each of the"
                f" arms {chosen.tolist()}"
            )
        # Seen from the sink, the cut nearest the source: the fewest arms that are too many.
        arms = sorted(int(j) for kind, j in wanting - {"source"} if kind == "arm")
        slots = sorted(int(t) for kind, t in wanting - {"source"} if kind == "slot")
        need, have = int(self.needs[arms].sum()), int(self._workers[slots].sum())
        return (
            f"arms {arms} need {need} worker-slots in slots {slots}, where workers have {have}:"
            f" {need - have} short"
        )

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check budget and service of many actions, by their numbers of arms of each kind."""
        found = ~(actions[:, self._class_of < 0] == 1).any(axis=1)
        if self.budget is not None:
            found &= actions.sum(axis=1) <= self.budget
        counts = (actions @ self._indicator).astype(np.intp)
        sizes = counts.max(axis=0, initial=0) + 1
        if np.prod(sizes.astype(np.float64)) < _LARGEST_CODE:  # numbers are told apart faster
            codes = counts @ np.cumprod([1, *sizes])[:-1]
            _, first, which = np.unique(codes, return_index=True, return_inverse=True)
        else:
            _, first, which = np.unique(counts, axis=0, return_index=True, return_inverse=True)
        served = np.array([self._served(row) for row in counts[first]], dtype=bool)
        return np.asarray(found & served[which.reshape(-1)])

    def _graph(self, chosen: NDArray[np.intp]) -> Any:
        """Build the flow network: source -> arms (need) -> their slots -> sink (workers)."""
        graph: Any = nx.DiGraph()
        graph.add_nodes_from(["source", "sink"])
        for t, workers in enumerate(self._workers.tolist()):
            graph.add_edge(("slot", t), "sink", capacity=workers)
        for j in chosen.tolist():
            graph.add_edge("source", ("arm", j), capacity=int(self.needs[j]))
            for t in np.flatnonzero(self.arm_slots[j]).tolist():
                graph.add_edge(("arm", j), ("slot", t))
        return graph

    def schedule(self, action: ArrayLike) -> list[tuple[int, int, int]]:
        """Assign workers and slots to the chosen arms.

        Returns
        -------
        list of (arm, worker, slot)
            Each chosen arm as often as it needs, sorted.

        Raises
        ------
        ValueError
            If the action is not feasible.
        """
        violations = self.violations(action)
        if violations:
            raise ValueError(f"the action is not feasible: {'; '.join(violations)}")
        chosen = np.flatnonzero(self.check_action(action))
        if not len(chosen):
            return []
        if self.in_one:
            wanted = None if self.preferred is None else self.preferred[chosen]
            visits = self._visits.schedule(self._class_of[chosen], wanted)
            return sorted((int(chosen[i]), worker, slot) for i, worker, slot in visits)
        if self.preferred is None:
            _, flow = nx.maximum_flow(self._graph(chosen), "source", "sink")
            amounts = [
                (int(j), t, n) for j in chosen for (_, t), n in sorted(flow["arm", j].items())
            ]
        else:
            amounts = self._preferred_flow(chosen, self.preferred[chosen])
        free = [np.flatnonzero(self.worker_slots[:, t]).tolist() for t in range(len(self._workers))]
        return sorted((j, int(free[t].pop()), t) for j, t, n in amounts for _ in range(n))

    def _preferred_flow(
        self, chosen: NDArray[np.intp], preferred: BoolArray
    ) -> list[tuple[int, int, int]]:
        """Return how often each chosen arm is served in each slot, most often where it prefers."""
        arm, slot = np.nonzero(self.arm_slots[chosen])
        taken = preferred_service(
            self.needs[chosen],
            arm,
            csr_array(np.eye(len(self._workers))[:, slot]),
            self._workers,
            preferred[arm, slot].astype(np.float64),
        )
        return list(zip(chosen[arm].tolist(), slot.tolist(), taken.tolist(), strict=True))

    def decode(self, action: ArrayLike) -> dict[int, list[tuple[int, int]]]:
        """Return worker and slot of each visit to each chosen arm.

        Raises
        ------
        ValueError
            If the action is not feasible.
        """
        visits: dict[int, list[tuple[int, int]]] = {}
        for arm, worker, slot in self.schedule(action):
            visits.setdefault(arm, []).append((worker, slot))
        return visits

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Maximise over the maximal numbers of arms of each kind, or bound by relaxations."""
        return self._maximum(c, pins)[0]

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return an action that attains ``linear_max``, or that of the relaxation."""
        return self._maximum(c, pins, points=True)[1]

    def _maximum(
        self, c: FloatArray, pins: Pins, points: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Return the maxima and, if asked for, points behind them."""
        pins = pins.and_zero(self._class_of < 0, c.shape)
        if self.in_one:
            if self._class_counts is None:
                return self._in_any_slots._maximum(c, pins, points)
            return self._constrained_max(c, pins, points)
        one, zero = pins.one, pins.zero
        rows, limits = self._hall
        if rows is None or limits is None:
            bound = self._relaxation._linear_max(c, pins)
            return bound, self._relaxation._maximizers(c, pins) if points else c
        # The best arms within the budget are the maximum wherever they can be served.
        best = self._best_within_budget(c, one, zero)
        bound = np.where(best, c, 0.0).sum(axis=1)
        x = best.astype(np.float64)
        counts = (best @ self._indicator).astype(np.intp)
        hard = (counts @ rows.T > limits).any(axis=1)
        if one is not None:
            hard |= (one & ~best).any(axis=1)
        if hard.any():
            bound[hard], x[hard] = self._constrained_max(c[hard], pins[hard], points)
        return bound, x

    def _best_within_budget(
        self, c: FloatArray, one: BoolArray | None, zero: BoolArray | None
    ) -> BoolArray:
        """Mark the arms held at one and the best positive ones, at most the budget of each."""
        value = c if one is None else np.where(one, np.inf, c)
        if zero is not None:
            value = np.where(zero, 0.0, value)
        best = value > 0
        if self.budget is not None and self.budget < self.n_actions:
            worst = np.argsort(value, axis=1)[:, : self.n_actions - self.budget]
            np.put_along_axis(best, worst, False, axis=1)
        return best

    def _constrained_max(
        self, c: FloatArray, pins: Pins, points: bool
    ) -> tuple[FloatArray, FloatArray]:
        one, zero = pins.one, pins.zero
        if self._class_counts is not None:
            bound = self._class_counts.maxima(c, one, zero)
            return bound, self._class_counts.maximizers(c, one, zero) if points else c
        rows, limits = self._hall
        assert rows is not None
        assert limits is not None
        counted = self._indicator.astype(bool) @ (rows > 0).T
        if self.budget is not None and self._equal_needs:  # a truncation of the polymatroid
            counted = np.column_stack([counted, np.ones(self.n_actions, dtype=bool)])
            limits = np.append(limits, self.budget * self.needs[0])
        bound, x = polymatroid_maxima(c, self.needs, counted.T, limits, one, zero)
        return np.minimum(bound, self._relaxation._linear_max(c, pins)), x

    def _sample_one(self, rng: np.random.Generator, maximal: bool) -> ActionArray:
        """Add arms in random order while they fit; without ``maximal``, keep a random number."""
        action = np.zeros(self.n_actions, dtype=np.int8)
        counts = np.zeros(len(self._class_sizes), dtype=np.intp)
        taken = []
        for j in rng.permutation(self.n_actions):
            k = self._class_of[j]
            if k < 0:
                continue
            counts[k] += 1
            if self._fits(counts):
                taken.append(j)
            else:
                counts[k] -= 1
        if not maximal:
            taken = taken[: rng.integers(len(taken) + 1)]
        action[taken] = 1
        return action

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the arms that can be added, by kind."""
        a = self.check_action(action)
        if (self._class_of[a == 1] < 0).any():
            return np.array([], dtype=np.intp)
        counts = self._counts(a)
        fits = np.zeros(len(counts) + 1, dtype=bool)  # the last entry is for class -1
        for k in np.unique(self._class_of[(a == 0) & (self._class_of >= 0)]):
            counts[k] += 1
            fits[k] = self._fits(counts)
            counts[k] -= 1
        return np.flatnonzero((a == 0) & fits[self._class_of])

    def _counts(self, action: ActionArray) -> IntArray:
        return self._counts_of(np.flatnonzero((action == 1) & (self._class_of >= 0)))

    def _counts_of(self, arms: NDArray[np.intp]) -> IntArray:
        return np.bincount(self._class_of[arms], minlength=len(self._class_sizes))

    def _fits(self, counts: IntArray) -> bool:
        return (self.budget is None or int(counts.sum()) <= self.budget) and self._served(counts)

    def _served(self, counts: IntArray) -> bool:
        """Whether the workers can serve so many arms of each kind."""
        rows, limits = self._hall
        if rows is not None and limits is not None and not (rows @ counts <= limits).all():
            return False
        if self.in_one:
            return self._visits.placed(tuple(counts.tolist())) is not None
        if rows is not None:
            return True
        representative = [np.flatnonzero(self._class_of == k) for k in range(len(counts))]
        chosen = np.concatenate(
            [r[:n] for r, n in zip(representative, counts, strict=True)], dtype=np.intp
        )
        served = nx.maximum_flow_value(self._graph(chosen), "source", "sink")
        return bool(served == self.needs[chosen].sum())

    @property
    def _equal_needs(self) -> bool:
        return bool((self.needs == self.needs[0]).all())

    @property
    def _unit_needs(self) -> bool:
        return bool((self.needs == 1).all())

    @cached_property
    def _indicator(self) -> FloatArray:
        """Which arm is of which kind, shape (n_actions, kinds)."""
        return np.asarray(self._class_of[:, None] == np.arange(len(self._class_sizes)), dtype=float)

    @cached_property
    def _hall(self) -> tuple[IntArray | None, IntArray | None]:
        """Hall's condition as rows over the kinds; ``None`` with too many slots."""
        n_slots = len(self._workers)
        if n_slots > _MAX_LISTED_SLOTS:
            return None, None
        sets = (np.arange(1, 2**n_slots)[:, None] >> np.arange(n_slots) & 1).astype(bool)
        inside = ~(self._class_slots[None] & ~sets[:, None]).any(axis=2)
        rows = (inside * self._class_needs).astype(np.intp)
        limits = (sets * self._workers).sum(axis=1).astype(np.intp)
        binding = rows @ self._class_sizes > limits
        return rows[binding], limits[binding]

    @cached_property
    def _class_counts(self) -> ClassCounts | None:
        """The exact linear oracle, if it is needed and few numbers have to be listed for it."""
        if self.in_one:
            vectors = maximal_counts_where(self._fits, self._class_sizes, _MAX_LISTED_VISITS)
            return None if vectors is None else ClassCounts(self._class_of, vectors)
        rows, limits = self._hall
        if rows is None or limits is None or self._unit_needs:
            return None
        if self.budget is not None:
            rows = np.vstack([rows, np.ones(len(self._class_sizes), dtype=np.intp)])
            limits = np.append(limits, self.budget)
        vectors = maximal_counts_of_rows(rows, limits, self._class_sizes, _MAX_LISTED)
        return None if vectors is None else ClassCounts(self._class_of, vectors)

    @cached_property
    def _compiled_oracle(self) -> CompiledOracle | None:
        known = self._class_counts
        if self.in_one:
            return None if known is None else known.compiled
        rows, limits = self._hall
        if rows is None or limits is None:
            return None
        n = self.n_actions
        budget = n if self.budget is None else min(self.budget, n)
        own: list[IntArray] = [self._class_needs, self._class_of]
        if known is not None:
            own = [known.compiled.data]
        elif self._equal_needs:  # a truncation of the polymatroid
            rows = np.vstack([rows, np.full(rows.shape[1], self.needs[0])])
            limits = np.append(limits, budget * self.needs[0])
        head = np.array([budget, *rows.shape])
        parts: list[IntArray] = [head, rows.ravel(), limits, *own]
        kind = SlotsOracle if known is None else ScheduleOracle
        return kind(np.concatenate(parts).astype(np.int64))

    @cached_property
    def _visits(self) -> Visits:
        return Visits(self.worker_slots, self._class_slots, self._class_needs)

    @cached_property
    def _in_any_slots(self) -> Scheduling:
        """The same without that visits are in one: a relaxation."""
        return Scheduling(self.worker_slots, self.arm_slots, self.needs, self.budget)

    @cached_property
    def _relaxation(self) -> BudgetTopK:
        """As many arms as allowed, and as many worker-slots as there are."""
        return BudgetTopK(
            self.n_actions,
            self.n_actions if self.budget is None else min(self.budget, self.n_actions),
            costs=self.needs,
            budget=float(self._workers.sum()),
        )


def _slots(values: ArrayLike, name: str) -> BoolArray:
    array = check_binary(values, name, 2)
    if 0 in array.shape:
        raise ValueError(f"{name} must have shape (rows, slots), none zero, got {array.shape}")
    return array
