r"""Native exact argmax: best-first branch and bound over action bits, many states at once.

A node holds some actions at one and some at zero. Its bound is the backward linear relaxation of
the network (:mod:`milp_rl.formulations.bounds`) over the actions of the space that agree with the
node, maximised by the space's own oracle ``linear_max``; neurons proven on or off in a node stay
so in everything below it. No MILP solver takes part: the proof of an optimum rests on the oracle
and on float64 arithmetic alone.

The states of a batch are searched together: each round takes the most promising open nodes of
every state and bounds all their children in a few array operations. Incumbents come from greedy
building and one-swap local search, then from the nodes themselves. Where the oracle is only a
relaxation, what it cannot rule out is decided by ``violations`` once every action is fixed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.actions.base import ActionArray, ActionSpace, BoolArray
from milp_rl.formulations.actions.greedy import GreedyBuilder
from milp_rl.formulations.bounds import BoundPropagator, InfeasibleSetError, relaxation
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import (
    ArgmaxProblem,
    ArgmaxResult,
    CertificationError,
    SolveOptions,
    Status,
    certify,
    check_bounds,
    draw_sample,
    neighbourhood,
    relative_gap,
)

_NODES_A_ROUND = 8  # of one state
_MARGIN = 1e-9
_TIE = 1e-6


@dataclass(frozen=True, eq=False)
class _Nodes:
    """A batch of nodes, one a row: what is held, bounds of neurons and value, next branching."""

    state: NDArray[np.intp]
    one: BoolArray
    zero: BoolArray
    lower: tuple[FloatArray, ...]
    upper: tuple[FloatArray, ...]
    bound: FloatArray
    branch: NDArray[np.intp]


@dataclass
class _Search:
    """The search of one state: best action, open nodes as (-bound, age, batch, row)."""

    problem: ArgmaxProblem
    unstable: int
    action: ActionArray | None = None
    value: float = -math.inf
    open: list[tuple[float, int, _Nodes, int]] = field(default_factory=list)
    closed_bound: float = -math.inf
    nodes: int = 0

    @property
    def bound(self) -> float:
        """Nothing left open or closed within the gap is better than this."""
        highest = -self.open[0][0] if self.open else -math.inf
        return max(self.value, self.closed_bound, highest)

    def done(self, bound: float, options: SolveOptions) -> bool:
        """Whether a node of this bound need not be searched."""
        if self.action is None:
            return bound == -math.inf
        return options.closed(self.value, bound)


class BranchAndBoundArgmax:
    """Exact argmax by branch and bound over action bits.

    Parameters
    ----------
    network
        Scalar output; inputs [action, state].
    space
        The feasible set.
    """

    name = "branch_and_bound"

    def __init__(self, network: Network, space: ActionSpace) -> None:
        self.network = network
        self.space = space
        self._greedy = GreedyBuilder(space)
        self._sample = draw_sample(space)
        self._propagator: BoundPropagator | None = None

    def update(self, network: Network) -> None:
        """Replace the network; what is known of the space is kept."""
        self.network = network
        if self._propagator is not None:
            self._propagator.update(network)

    def solve(
        self, state: FloatArray, options: SolveOptions, start: ActionArray | None = None
    ) -> ArgmaxResult:
        """Solve for one state; see :meth:`solve_batch`."""
        return self.solve_batch(state[None], options, start)[0]

    def solve_batch(
        self, states: FloatArray, options: SolveOptions, start: ActionArray | None = None
    ) -> list[ArgmaxResult]:
        """Solve for several states together.

        Parameters
        ----------
        states
            Shape (batch, state_dim).
        options
            Gaps; a time limit is for the whole batch.
        start
            A feasible action to start from, in all states.

        Raises
        ------
        CertificationError
            If an answer is contradicted, which says that ``linear_max`` is no upper bound.
        """
        begin = time.perf_counter()
        if not len(states):
            return []
        try:
            if self._propagator is None:
                self._propagator = BoundPropagator(
                    self.network, self.space.n_actions, self.space.linear_max
                )
            bounds = self._propagator.at(states)
        except InfeasibleSetError as error:
            empty = _Search(ArgmaxProblem(self.network, self.space), -1)
            return [self._result(empty, options, 0.0, str(error)) for _ in states]
        searches = [
            _Search(ArgmaxProblem(self.network.at_state(state), self.space), int(unstable))
            for state, unstable in zip(states, bounds.unstable, strict=True)
        ]
        for i, search in enumerate(searches):
            check_bounds(search.problem, bounds.at(i), self._sample)
        self._find_incumbents(searches, states, start)
        nothing = np.zeros((len(states), self.space.n_actions), dtype=bool)
        tree = _Tree(self.network, self.space, states)
        each = np.arange(len(states))
        root = _Nodes(
            each,
            nothing,
            nothing,
            bounds.lower,
            bounds.upper,
            bounds.output_upper[:, 0],
            np.zeros_like(each),
        )
        ages = itertools.count(0, -1)  # of equal bounds the newest first: the search dives
        self._sort_in(searches, tree.bounded(root), options, ages)
        while not options.time_limit or time.perf_counter() - begin < options.time_limit:
            taken = [pair for search in searches for pair in _most_promising(search, options)]
            if not taken:
                break
            self._sort_in(searches, tree.bounded(_branched(taken)), options, ages)
        seconds = (time.perf_counter() - begin) / len(states)
        return [self._result(search, options, seconds) for search in searches]

    def _find_incumbents(
        self, searches: list[_Search], states: FloatArray, start: ActionArray | None
    ) -> None:
        """Give every search a first action: the start, and one built greedily."""

        def values(rows: NDArray[np.intp], actions: ActionArray) -> FloatArray:
            return self.network.forward(np.concatenate([actions, states[rows]], axis=1))[:, 0]

        try:
            built = self._greedy.build(values, len(searches))
        except RuntimeError:  # building gets stuck; the search finds what there is
            built = np.zeros((0, self.space.n_actions), dtype=np.int8)
        for i, search in enumerate(searches):
            if start is not None:
                violations = self.space.violations(start)
                if violations:
                    raise ValueError(f"the start is not feasible: {'; '.join(violations)}")
                self._offer(search, start)
            if len(built):
                self._offer(search, built[i])

    def _offer(self, search: _Search, action: ActionArray) -> None:
        """Climb from a feasible action to one that no flip or swap improves."""
        value = search.problem.value(action)
        if value <= search.value:
            return
        best: ActionArray | None = action
        while best is not None:
            search.action, search.value = best.copy(), search.problem.value(best)
            others = neighbourhood(best)
            values = search.problem.network.forward(others)[:, 0]
            better = np.flatnonzero(values > search.value + _MARGIN * (1 + abs(search.value)))
            ranked = better[np.argsort(-values[better])]
            best = next((others[i] for i in ranked if not self.space.violations(others[i])), None)

    def _sort_in(
        self,
        searches: list[_Search],
        nodes: _Nodes,
        options: SolveOptions,
        ages: Iterator[int],
    ) -> None:
        """Close the nodes that are decided, and open the others."""
        free = np.asarray(~(nodes.one | nodes.zero).all(axis=1))
        for i, (state, bound) in enumerate(zip(nodes.state, nodes.bound.tolist(), strict=True)):
            search = searches[state]
            search.nodes += 1
            if search.done(bound, options):
                search.closed_bound = max(search.closed_bound, bound)
                continue
            action = nodes.one[i].astype(np.int8)
            feasible = not self.space.violations(action)
            if feasible:
                self._offer(search, action)
            if free[i] and (feasible or not self.space.down_closed):
                heapq.heappush(search.open, (-bound, next(ages), nodes, i))

    def _result(
        self, search: _Search, options: SolveOptions, seconds: float, message: str = ""
    ) -> ArgmaxResult:
        bound, action = search.bound, search.action
        status: Status
        if action is None:
            status = "no_solution" if search.open else "infeasible"
            return ArgmaxResult(
                None, math.nan, bound, math.inf, status, seconds, self.name, search.nodes
            )
        if complaints := certify(search.problem, action, bound, self._sample):
            raise CertificationError(
                f"branch and bound gave a wrong answer: {'; '.join(complaints)}; is `linear_max`"
                f" of {type(self.space).__name__} an upper bound?"
            )
        status = "optimal" if options.closed(search.value, bound) else "feasible"
        return ArgmaxResult(
            action,
            search.value,
            bound,
            relative_gap(search.value, bound),
            status,
            seconds,
            self.name,
            search.nodes,
            search.unstable,
            message or f"{search.nodes} nodes",
        )


class _Tree:
    """The bounds of nodes, for one network and batch of states."""

    def __init__(self, network: Network, space: ActionSpace, states: FloatArray) -> None:
        self.network = network
        self.space = space
        self.states = states

    def bounded(self, nodes: _Nodes) -> _Nodes:
        """Tighten the unstable neurons layer by layer, then bound the value."""
        lowers = [a.copy() for a in nodes.lower]
        uppers = [a.copy() for a in nodes.upper]
        empty = np.zeros(len(nodes.state), dtype=bool)
        for depth, layer in enumerate(self.network.hidden):
            low, high = lowers[depth], uppers[depth]
            node, row = np.nonzero((low < 0) & (high > 0))
            if not len(node):
                continue
            both = np.concatenate([layer.weight[row], -layer.weight[row]])
            best, _ = self._backward(nodes, lowers, uppers, np.tile(node, 2), both, depth)
            above, below = best[: len(node)], -best[len(node) :]
            nonempty = np.isfinite(above)
            empty[node[~nonempty]] = True
            node, row = node[nonempty], row[nonempty]
            above, below = above[nonempty] + layer.bias[row], below[nonempty] + layer.bias[row]
            high[node, row] = np.minimum(high[node, row], _widened(above))
            low[node, row] = np.maximum(low[node, row], -_widened(-below))
        each = np.arange(len(nodes.state))
        output = np.repeat(self.network.output.weight, len(each), axis=0)
        depth = len(self.network.hidden)
        best, influence = self._backward(nodes, lowers, uppers, each, output, depth)
        empty |= np.isneginf(best)
        value = _widened(np.where(empty, 0.0, best) + self.network.output.bias[0])
        bound = np.where(empty, -np.inf, np.minimum(nodes.bound, value))
        branch = np.where(nodes.one | nodes.zero, -1.0, influence).argmax(axis=1)
        return _Nodes(
            nodes.state, nodes.one, nodes.zero, tuple(lowers), tuple(uppers), bound, branch
        )

    def _backward(
        self,
        nodes: _Nodes,
        lowers: list[FloatArray],
        uppers: list[FloatArray],
        node: NDArray[np.intp],
        rows: FloatArray,
        depth: int,
    ) -> tuple[FloatArray, FloatArray]:
        """Bound each of ``rows @ (inputs of layer depth)`` from above in its node.

        Also returns how much each action moves the neurons that the relaxation is in doubt about;
        ties are broken by the action's coefficient.
        """
        n = self.space.n_actions
        constant = np.zeros(len(rows))
        doubt = np.zeros_like(rows)
        for d in range(depth - 1, -1, -1):
            layer = self.network.layers[d]
            low, high = lowers[d][node], uppers[d][node]
            upper_slope, intercept, lower_slope = relaxation(low, high)
            positive, negative = np.maximum(rows, 0.0), np.minimum(rows, 0.0)
            unstable = (low < 0) & (high > 0)
            doubt = doubt * (high > 0) + np.abs(rows) * np.where(
                unstable, np.minimum(high, -low), 0.0
            )
            rows = positive * upper_slope + negative * lower_slope
            constant += np.einsum("pj,pj->p", positive, intercept) + rows @ layer.bias
            rows, doubt = rows @ layer.weight, doubt @ np.abs(layer.weight)
        constant += np.einsum("pj,pj->p", rows[:, n:], self.states[nodes.state[node]])
        coefficients = np.ascontiguousarray(rows[:, :n])
        best = self.space.linear_max(coefficients, nodes.one[node], nodes.zero[node])
        return constant + best, doubt[:, :n] + _TIE * np.abs(coefficients)


def _widened(bound: FloatArray) -> FloatArray:
    return np.asarray(bound + _MARGIN * (1.0 + np.abs(bound)))


def _most_promising(search: _Search, options: SolveOptions) -> list[tuple[_Nodes, int]]:
    """Take open nodes off the search, the highest bounds first."""
    taken: list[tuple[_Nodes, int]] = []
    while len(taken) < _NODES_A_ROUND and search.open:
        if search.done(-search.open[0][0], options):
            break
        _, _, nodes, row = heapq.heappop(search.open)
        taken.append((nodes, row))
    return taken


def _branched(parents: list[tuple[_Nodes, int]]) -> _Nodes:
    """Return both children of every node, with the bounds of their parents."""
    one = np.stack([nodes.one[i] for nodes, i in parents] * 2)
    zero = np.stack([nodes.zero[i] for nodes, i in parents] * 2)
    branch = np.array([nodes.branch[i] for nodes, i in parents])
    each = np.arange(len(parents))
    one[each, branch] = True
    zero[len(parents) + each, branch] = True
    depths = range(len(parents[0][0].lower))
    return _Nodes(
        np.array([nodes.state[i] for nodes, i in parents] * 2),
        one,
        zero,
        tuple(np.stack([nodes.lower[d][i] for nodes, i in parents] * 2) for d in depths),
        tuple(np.stack([nodes.upper[d][i] for nodes, i in parents] * 2) for d in depths),
        np.array([nodes.bound[i] for nodes, i in parents] * 2),
        np.tile(branch, 2),
    )
