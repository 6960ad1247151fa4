"""The n best actions of one state in one search: a node is pruned at the n-th best value.

Every action that is met is kept until n better ones are known. When no open node is bounded above
the n-th best value, the n kept are the best, and in the order of their values.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from milp_rl.formulations.arrays import ActionArray, IntArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.spaces.apart import Apart
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.branch_and_bound.search import BranchAndBoundArgmax
from milp_rl.solvers.branch_and_bound.tree import Search, Tree
from milp_rl.solvers.certify import ArgmaxProblem
from milp_rl.solvers.neighbours import neighbourhood, neighbours_above
from milp_rl.solvers.options import SolveOptions, late
from milp_rl.solvers.protocol import Answer, Starts
from milp_rl.solvers.ranked import ApartIncumbents, ended
from milp_rl.solvers.result import ArgmaxResult

_EXPANDED = 10  # actions whose neighbours are looked at before the search, the best ones
_MOST_NEIGHBOURS = 2000  # of each, those of the highest values


class RankedTree(Tree):
    """The search tree of one state that keeps the n best actions it meets.

    The value of its incumbent is that of the n-th best.

    Parameters
    ----------
    n
        How many to keep.
    *others, **options
        As of a :class:`.Tree`.
    """

    def __init__(self, n: int, *others: Any, **options: Any) -> None:
        super().__init__(*others, **options)
        self._n = n
        self._met: set[bytes] = set()
        self.kept: list[tuple[float, ActionArray]] = []
        """Values and actions, the best first."""

    def find_incumbents(self, starts: Sequence[ActionArray | None]) -> None:
        """Meet the known actions, the best that is found from them, and its neighbours."""
        super().find_incumbents(starts)
        problem = self.searches[0].problem
        if problem.sample is not None:
            self._offer(np.zeros(len(problem.sample), dtype=int), problem.sample)
        if not self.kept:
            return
        best, _ = self.incumbents.climb(problem, self.kept[0][1], self.deadline)
        self._offer(np.zeros(1, dtype=int), best[None])
        expanded: set[bytes] = set()
        while len(expanded) < _EXPANDED and not late(self.deadline):
            fresh = (action for _, action in self.kept if action.tobytes() not in expanded)
            action = next(fresh, None)
            if action is None:
                break
            expanded.add(action.tobytes())
            value = self.searches[0].value
            rows, values = neighbours_above(problem, action, value, self.deadline)
            rows = rows[np.argsort(-values, kind="stable")[:_MOST_NEIGHBOURS]]
            others = neighbourhood(action, rows)
            others = others[problem.pins.allows(others)]
            others = others[self.space.feasible(others)]
            self._offer(np.zeros(len(others), dtype=int), others)

    def _offer(self, states: IntArray, actions: ActionArray) -> None:
        """Keep feasible actions that have not been met, if they are among the n best."""
        search = self.searches[0]
        for action in actions:
            key = action.tobytes()
            value = search.problem.value(action)
            if key in self._met or value <= search.value:
                continue
            self._met.add(key)
            bisect.insort(self.kept, (value, action.copy()), key=lambda pair: -pair[0])
            del self.kept[self._n :]
            if len(self.kept) == self._n:
                search.value = self.kept[-1][0]
                self.targets[0] = search.problem.target(search.value, self.options)
        search.action = self.kept[0][1] if self.kept else None


class RankedSearch(BranchAndBoundArgmax):
    """The n best actions of one state.

    Parameters
    ----------
    backend
        What solves for one action.
    n
        How many.
    """

    def __init__(self, backend: BranchAndBoundArgmax, n: int) -> None:
        super().__init__(backend.value, backend.space, backend.incumbents)
        self._n = n

    def best(
        self, networks: ActionNetworks, options: SolveOptions, pins: Pins
    ) -> list[ArgmaxResult]:
        """Return the results, each certified for the set without those before it."""
        results: list[ArgmaxResult] = []
        before: list[ActionArray] = []
        for answer in self._solve(networks, options, [None], pins):
            if answer.action is None:
                if answer.status == "no_solution":
                    results.append(ended(self.name, answer.bound + answer.problem.offset))
                break
            rest = Apart(self.space, before, 1)
            known = ApartIncumbents(self.incumbents, rest)
            own = BranchAndBoundArgmax(self.value, rest, known)
            results.append(own._result(answer, options))
            before.append(answer.action)
        return results

    def _search(
        self,
        networks: ActionNetworks,
        problems: list[ArgmaxProblem],
        bounds: Bounds,
        options: SolveOptions,
        starts: Starts,
        pins: Pins,
        begin: float,
    ) -> list[Answer]:
        (problem,) = problems
        search = Search(problem, int(bounds.unstable[0]))
        deadline = options.deadline(begin)
        tree = RankedTree(
            self._n,
            networks,
            self.space,
            [search],
            options,
            self.incumbents,
            bounds,
            deadline,
            pins,
        )
        tree.run(bounds, starts)
        highest = search.bound()  # of what is not kept
        kept = len(tree.kept)
        seconds = (time.perf_counter() - begin) / max(kept, 1)
        message = f"{search.nodes} nodes for {kept} actions"
        if search.open and highest > tree.targets[0]:
            message = f"stopped at the limit after {message}"
        answers = [
            Answer(
                problem,
                action,
                max(value, highest),
                seconds,
                search.nodes,
                search.unstable,
                message,
            )
            for value, action in tree.kept
        ]
        if kept < self._n and search.open:
            answers.append(Answer(problem, None, highest, 0.0))
        return answers
