"""The best actions in order: one solve after another, each without the actions found before.

Where a solver lists actions or keeps several of them in one search, it ranks by that instead
(:meth:`.Argmax.ranked`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.kernels.description import CompiledOracle
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.spaces.apart import Apart
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.options import SolveOptions, late
from milp_rl.solvers.protocol import Argmax
from milp_rl.solvers.result import ArgmaxResult, relative_gap


def one_after_another(
    backend: Argmax,
    networks: ActionNetworks,
    options: SolveOptions,
    n: int,
    difference: int,
    pins: Pins | None = None,
    found: Sequence[ArgmaxResult] = (),
) -> list[ArgmaxResult]:
    """Return the n best actions of one state, each differing from all better ones.

    Parameters
    ----------
    backend
        What solves.
    networks
        Of one state.
    options
        Limits: the time limit is for all, the others are for each solve.
    n
        How many.
    difference
        In how many variables an action differs at least from all better ones.
    pins
        Binary actions held at one or zero, a row.
    found
        The first of them.

    Returns
    -------
    list of ArgmaxResult
        Fewer where there are no more; the last one is without action if the time ended first.
    """
    deadline = options.deadline(time.perf_counter())
    results = list(found)
    while len(results) < n:
        if results and late(deadline):
            results.append(ended(backend.name, results[-1].bound))
            break
        solver, left = backend, options
        if results:
            before = [result.action for result in results if result.action is not None]
            space = Apart(backend.space, before, difference)
            solver = backend.over(space, ApartIncumbents(backend.incumbents, space))
        if math.isfinite(deadline):
            left = replace(options, time_limit=max(deadline - time.perf_counter(), 1e-3))
        result = solver.results(networks, left, [None], pins or Pins())[0]
        if result.status == "infeasible":
            break
        results.append(result)
        if result.action is None:
            break
    return in_order(results, options)


def in_order(results: Sequence[ArgmaxResult], options: SolveOptions) -> list[ArgmaxResult]:
    """Sort results by value, as each is the best only within its tolerance or gap.

    The bound of a result is one on all actions but those before it. Sorted, a result gets the
    first bound whose exceptions are all before it.
    """
    values = [-math.inf if r.action is None else r.value for r in results]
    order = sorted(range(len(results)), key=lambda i: -values[i])
    if order == list(range(len(results))):
        return list(results)
    moved, before = [], set[int]()
    for place in order:
        result, i = results[place], 0
        while i in before:
            i += 1
        before.add(place)
        bound = max(results[i].bound, result.value)
        allowed = max(options.gap * abs(result.value), options.absolute_gap, result.tolerance)
        proven = bound - result.value <= allowed
        moved.append(
            replace(
                result,
                bound=bound,
                gap=relative_gap(result.value, bound),
                status="optimal" if proven else "feasible",
            )
        )
    return moved


def ended(name: str, bound: float) -> ArgmaxResult:
    """Return that a limit came before another action was found, or that there is none."""
    message = "stopped at the limit before another action was found"
    return ArgmaxResult(None, math.nan, bound, math.inf, "no_solution", 0.0, name, message=message)


class ApartIncumbents(Incumbents):
    """What is known of a space, of those of its actions that are far enough from some.

    Parameters
    ----------
    known
        What is known of the space.
    space
        Those actions.
    """

    def __init__(self, known: Incumbents, space: Apart) -> None:
        super().__init__(space)
        self._known = known
        self._apart = space

    def feasible(self, action: ActionArray) -> bool:
        """Whether an action, of the space's dtype, is feasible."""
        return self._known.feasible(action) and bool(self._apart.apart(action[None])[0])

    def refusal(self, action: ActionArray) -> str:
        """Check an answer by the space's check and its constraints; empty if it is feasible."""
        return self._known.refusal(action) or "; ".join(self._apart.violations(action))

    def build(
        self,
        networks: ActionNetworks,
        deadline: float = math.inf,
        pins: Pins | None = None,
        loops: CompiledOracle | None = None,
    ) -> list[ActionArray | None]:
        """Return an action for each state: the greedy one if it is far enough, or a known one."""
        built = self._known.build(networks, deadline, pins, loops)
        others = self._best_known(networks, pins or Pins())
        return [
            action if action is not None and self._apart.apart(action[None])[0] else other
            for action, other in zip(built, others, strict=True)
        ]
