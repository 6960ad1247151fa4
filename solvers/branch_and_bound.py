r"""Native exact argmax: best-first branch and bound, many states at once.

Nodes are bounded by the relaxed network over the actions that agree with them
(:mod:`milp_rl.solvers.node_bounds`); no MILP solver takes part, so that the proof of an optimum
rests on the space's oracle ``linear_max`` and on float64 arithmetic alone. A node is branched on an
action, or on a neuron: the split is a linear constraint on the action, priced by a multiplier into
the oracle. Actions without which a node cannot beat the incumbent are held, which often settles
all of them at the root.

The states of a batch are searched together: each round takes the most promising open nodes of
every state and bounds all their children in a few array operations. Incumbents come from greedy
building and one-swap local search, then from the maximisers of the nodes. Where the oracle is only
a relaxation, what it cannot rule out is decided by ``violations`` once every action is fixed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from milp_rl.formulations.actions.base import ActionArray, ActionSpace, BoolArray
from milp_rl.formulations.bounds import BoundPropagator, InfeasibleSetError
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import (
    ArgmaxProblem,
    ArgmaxResult,
    CertificationError,
    SolveOptions,
    Status,
    certify,
    check_bounds,
    relative_gap,
)
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.node_bounds import NodeBounds
from milp_rl.solvers.nodes import IntArray, Maximum, Nodes

_NODES_A_ROUND = 64
_PASSES = 3  # of tightening and holding actions, in one node
_SLACK = 0.7  # actions are tried again once the slack is less than this part of the last one
_DOUBT = 0.3  # part of the slack that must be due to neurons to branch for their sake
_TIE = 1e-3
_CLEAR = 8.0  # times as promising, a neuron is branched on without trying an action
_USEFUL = 0.01  # part of the slack that both halves of a neuron should gain
_EAGERNESS = 0.5  # to branch on neurons, at first; it doubles or halves with success


@dataclass(frozen=True)
class _Branching:
    """How to divide a node: at an action or a neuron (-1: not), or whichever proves better."""

    action: int
    neuron: int


@dataclass
class _Search:
    """The search of one state: best action, open nodes as (-bound, age, row in the pool)."""

    problem: ArgmaxProblem
    unstable: int
    action: ActionArray | None = None
    value: float = -math.inf
    open: list[tuple[float, int, int, _Branching]] = field(default_factory=list)
    closed_bound: float = -math.inf
    nodes: int = 0
    eagerness: float = _EAGERNESS

    def bound(self) -> float:
        """Nothing left open or closed within the gap is better than this."""
        highest = -self.open[0][0] if self.open else -math.inf
        return max(self.value, self.closed_bound, highest)

    def target(self, options: SolveOptions) -> float:
        """Return the bound at which a node need not be searched."""
        return -math.inf if self.action is None else options.target(self.value)


class BranchAndBoundArgmax:
    """Exact argmax by branch and bound.

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
        self._incumbents = Incumbents(space)
        self._sample = self._incumbents.sample
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
        return self.solve_batch(state[None], options, [start])[0]

    def solve_batch(
        self,
        states: FloatArray,
        options: SolveOptions,
        starts: Sequence[ActionArray | None] | None = None,
    ) -> list[ArgmaxResult]:
        """Solve for several states together.

        Parameters
        ----------
        states
            Shape (batch, state_dim).
        options
            Gaps; a time limit is for the whole batch, a node limit for each state.
        starts
            A feasible action to start from for each state, or ``None`` for it.

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
            if len(self._sample):
                raise CertificationError(
                    f"linear_max of {type(self.space).__name__} says that the set is empty, but"
                    f" {np.flatnonzero(self._sample[0]).tolist()} is feasible"
                ) from error
            empty = _Search(ArgmaxProblem(self.network, self.space), -1)
            return [self._result(empty, options, 0.0, str(error)) for _ in states]
        searches = [
            _Search(ArgmaxProblem(self.network.at_state(state), self.space), int(unstable))
            for state, unstable in zip(states, bounds.unstable, strict=True)
        ]
        for i, search in enumerate(searches):
            check_bounds(search.problem, bounds.at(i), self._sample)
        tree = _Tree(self.network, self.space, states, searches, options, self._incumbents)
        tree.find_incumbents(starts, self._sample)
        tree.expand(Nodes.roots(bounds, self.space.n_actions))
        deadline = begin + (options.time_limit or math.inf)
        while time.perf_counter() < deadline and tree.branch():
            pass
        seconds = (time.perf_counter() - begin) / len(states)
        return [self._result(search, options, seconds) for search in searches]

    def _result(
        self, search: _Search, options: SolveOptions, seconds: float, message: str = ""
    ) -> ArgmaxResult:
        bound, action = search.bound(), search.action
        status: Status
        if action is None:
            status = "no_solution" if search.open else "infeasible"
            return ArgmaxResult(
                None, math.nan, bound, math.inf, status, seconds, self.name, search.nodes
            )
        feasible = self._incumbents.feasible
        if complaints := certify(search.problem, action, bound, self._sample, feasible):
            raise CertificationError(
                f"branch and bound gave a wrong answer: {'; '.join(complaints)}; is `linear_max`"
                f" of {type(self.space).__name__} an upper bound?"
            )
        status = "optimal" if options.closed(search.value, bound) else "feasible"
        if not message:
            message = f"{search.nodes} nodes"
            if status == "feasible":
                message = f"stopped at the limit after {message}"
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
            message,
        )


@dataclass(frozen=True, eq=False)
class _Ways:
    """Ways to divide nodes, each with two children: in rows i and ways + i.

    Parameters
    ----------
    of
        Which node a way divides; the ways of a node follow one another.
    at_neuron
        Whether it is divided at a neuron.
    state, bound
        State and bound of the node.
    """

    of: IntArray
    at_neuron: BoolArray
    state: IntArray
    bound: FloatArray


class _Tree:
    """The search trees of a batch of states; their open nodes lie in one pool of rows."""

    def __init__(
        self,
        network: Network,
        space: ActionSpace,
        states: FloatArray,
        searches: list[_Search],
        options: SolveOptions,
        incumbents: Incumbents,
    ) -> None:
        self.network = network
        self.space = space
        self.states = states
        self.searches = searches
        self.options = options
        self.incumbents = incumbents
        self.bounds = NodeBounds(network, space, states)
        self.targets = np.full(len(states), -np.inf)
        self._ages = itertools.count(0, -1)  # of equal bounds the newest first: the search dives
        self._pool: Nodes | None = None
        self._unused: list[int] = []

    def find_incumbents(
        self, starts: Sequence[ActionArray | None] | None, sample: ActionArray
    ) -> None:
        """Give every search its start, and an action built greedily or, failing that, drawn."""
        built = self.incumbents.build(self.network, self.states)
        if not len(built) and len(sample):
            built = np.repeat(sample[:1], len(self.states), axis=0)
        self._offer(np.arange(len(built)), built)
        for i, start in enumerate(starts or ()):
            if start is not None:
                if violations := self.space.violations(start):
                    raise ValueError(f"the start is not feasible: {'; '.join(violations)}")
                self._offer(np.array([i]), start[None])

    def _offer(self, states: IntArray, actions: ActionArray) -> None:
        """Take feasible actions that are better than the incumbents, and climb from them."""
        if not len(actions):
            return
        values = self._values(states, actions)
        better = np.flatnonzero(values > [self.searches[i].value for i in states])
        if not len(better):
            return
        for i, action in zip(states[better], actions[better], strict=True):
            search = self.searches[i]
            best, value = self.incumbents.climb(search.problem, action)
            if value > search.value:
                search.action, search.value = best.copy(), value
                self.targets[i] = search.target(self.options)

    def _values(self, states: IntArray, actions: ActionArray) -> FloatArray:
        return self.network.forward(np.concatenate([actions, self.states[states]], axis=1))[:, 0]

    def branch(self) -> bool:
        """Divide the most promising open nodes; return whether there were any."""
        taken = self._most_promising()
        if not taken:
            return False
        assert self._pool is not None
        rows = np.array([row for row, _ in taken])
        parents = self._pool[rows]
        self._unused.extend(rows.tolist())
        # Each way to divide a node gives two children; of two ways the better one is kept.
        ways = [
            (i, action, neuron)
            for i, (_, branching) in enumerate(taken)
            for action, neuron in (
                (branching.action, -1),
                (-1, branching.neuron),
            )
            if action >= 0 or neuron >= 0
        ]
        of, action, neuron = (np.array(column) for column in zip(*ways, strict=True))
        children = parents[np.tile(of, 2)]
        for half, held, sign in ((0, children.one, 1), (len(of), children.zero, -1)):
            rows = np.flatnonzero(action >= 0)
            held[half + rows, action[rows]] = True
            rows = np.flatnonzero(neuron >= 0)
            children.split[half + rows, neuron[rows]] = sign
        self.expand(children, _Ways(of, neuron >= 0, parents.state[of], parents.bound[of]))
        return True

    def _most_promising(self) -> list[tuple[int, _Branching]]:
        """Take open nodes off the searches, the highest bounds first."""
        going = [s for s in self.searches if s.open and not self._finished(s)]
        each = max(_NODES_A_ROUND // max(len(going), 1), 2)
        taken: list[tuple[int, _Branching]] = []
        for search in going:
            target = search.target(self.options)
            for _ in range(each):
                if not search.open or -search.open[0][0] <= target:
                    break
                _, _, row, branching = heapq.heappop(search.open)
                taken.append((row, branching))
        return taken

    def _finished(self, search: _Search) -> bool:
        limit = self.options.node_limit
        if limit is not None and search.nodes >= limit:
            return True
        return -search.open[0][0] <= search.target(self.options)

    def expand(self, nodes: Nodes, ways: _Ways | None = None) -> None:
        """Bound nodes, close those that are decided, and open the others."""
        for state, number in zip(*np.unique(nodes.state, return_counts=True), strict=True):
            self.searches[state].nodes += int(number)
        open_ = nodes.bound > self.targets[nodes.state]
        if ways is None and not open_.all():  # roots whose incumbent is as good as their bound
            self._close(nodes.state[~open_], nodes.bound[~open_])
            nodes = nodes[open_]
        final = np.full(len(nodes), -np.inf)
        place = np.arange(len(nodes))
        steps = {} if ways is None or ways.at_neuron.any() else {"steps": 0}
        if ways is not None:
            maximum = self.bounds.maximize(nodes, self.targets[nodes.state], **steps)
            nodes, maximum, place = self._still_open(nodes, maximum, place)
        for again in range(_PASSES):
            if not len(nodes):
                break
            tightened = ways is not None or again  # the roots come with tight bounds
            empty = self.bounds.tighten(nodes) if tightened else np.zeros(len(nodes), dtype=bool)
            maximum = self.bounds.maximize(nodes, self.targets[nodes.state])
            maximum.bound[empty] = -np.inf
            nodes, maximum, place = self._still_open(nodes, maximum, place)
            if not len(nodes):
                break
            slack = nodes.bound - self.targets[nodes.state]
            wanted = slack < _SLACK * nodes.slack
            nodes.slack[wanted] = slack[wanted]
            excluded, much = self.bounds.fix(nodes, maximum, self.targets[nodes.state], wanted)
            self._close(nodes.state, excluded)
            if not much.any():
                break
        if ways is not None:
            final[place] = nodes.bound
            kept = self._choose(ways, final)[place]
            nodes, maximum = nodes[kept], maximum.at(kept)
        if len(nodes):
            self._open(nodes, maximum)

    def _still_open(
        self, nodes: Nodes, maximum: Maximum, place: IntArray
    ) -> tuple[Nodes, Maximum, IntArray]:
        """Close the nodes whose bound does not exceed the target, after trying the maximisers."""
        nodes.bound = np.minimum(nodes.bound, maximum.bound)
        promising = nodes.bound > self.targets[nodes.state]
        self._try(nodes.state[promising], maximum.x[promising])
        above = np.asarray(nodes.bound > self.targets[nodes.state])
        if above.all():
            return nodes, maximum, place
        self._close(nodes.state[~above], nodes.bound[~above])
        return nodes[above], maximum.at(above), place[above]

    def _close(self, states: IntArray, bounds: FloatArray) -> None:
        for i, bound in zip(states, bounds.tolist(), strict=True):
            search = self.searches[i]
            search.closed_bound = max(search.closed_bound, bound)

    def _try(self, states: IntArray, points: FloatArray) -> None:
        """Offer the maximisers that are feasible actions better than the incumbent."""
        actions = np.rint(points).astype(np.int8)
        values = self._values(states, actions)
        better = values > [self.searches[i].value for i in states]
        feasible = [i for i in np.flatnonzero(better) if self.incumbents.feasible(actions[i])]
        self._offer(states[feasible], actions[feasible])

    def _choose(self, ways: _Ways, final: FloatArray) -> BoolArray:
        """Mark the children of the better of two ways to divide a node."""
        kept = np.ones(len(ways.of), dtype=bool)
        if ways.at_neuron.any():
            target = self.targets[ways.state]
            gain = np.maximum(ways.bound - np.maximum(final.reshape(2, -1), target), 0.0)
            useful = gain.min(axis=0) > _USEFUL * (ways.bound - target)
            score = (gain + 1e-12).prod(axis=0)
            for i in np.flatnonzero(ways.at_neuron):
                better = useful[i]
                if i and ways.of[i] == ways.of[i - 1]:  # the way before divides at an action
                    better = score[i] > score[i - 1]
                    kept[i - 1 if better else i] = False
                self.searches[ways.state[i]].eagerness *= 2.0 if better else 0.5
        return np.tile(kept, 2)

    def _open(self, nodes: Nodes, maximum: Maximum) -> None:
        """Choose how to divide each node, and put it into the pool."""
        free = ~(nodes.one | nodes.zero)
        leaf = np.asarray(~free.any(axis=1))
        if leaf.any():
            actions = nodes.one[leaf].astype(np.int8)
            feasible = np.array([self.incumbents.feasible(action) for action in actions])
            self._offer(nodes.state[leaf][feasible], actions[feasible])
        kept = ~leaf
        if not self.space.exact and self.space.down_closed:
            held = nodes.one.astype(np.int8)
            kept &= np.array([self.incumbents.feasible(action) for action in held], dtype=bool)
        if not kept.any():
            return
        nodes, maximum, free = nodes[kept], maximum.at(kept), free[kept]
        undecided = (nodes.low < 0) & (nodes.high > 0) & (nodes.split == 0)
        weight = np.abs(maximum.p)
        doubt = np.where(undecided, weight * np.abs(nodes.h - np.maximum(nodes.z, 0.0)), 0.0)
        influence = self.bounds.influence(nodes, doubt + _TIE * weight)
        # Where no neuron is in doubt, the bound is above the target because of the actions.
        slack = nodes.bound - self.targets[nodes.state]
        fractional = doubt.sum(axis=1) < _DOUBT * slack
        splittable = ~fractional & ((nodes.split != 0).sum(axis=1) < free.sum(axis=1))
        size = np.abs(maximum.coefficients)
        size /= np.maximum(size.max(axis=1, keepdims=True), 1e-300)
        part = np.minimum(nodes.x, 1 - nodes.x) + _TIE * (1 + nodes.x * size)
        score = np.where(free, np.where(fractional[:, None], part, influence), -1.0)
        action, neuron = score.argmax(axis=1), doubt.argmax(axis=1) if doubt.size else None
        rows = self._put(nodes)
        for i, row in enumerate(rows):
            search = self.searches[nodes.state[i]]
            way = _Branching(int(action[i]), -1)
            if neuron is not None and splittable[i]:
                gain = (
                    float(doubt[i, neuron[i]]) * search.eagerness / max(score[i, action[i]], 1e-300)
                )
                if gain > _CLEAR:
                    way = _Branching(-1, int(neuron[i]))
                elif gain > 1:
                    way = _Branching(int(action[i]), int(neuron[i]))
            heapq.heappush(search.open, (-float(nodes.bound[i]), next(self._ages), row, way))

    def _put(self, nodes: Nodes) -> list[int]:
        """Store nodes in unused rows of the pool."""
        missing = len(nodes) - len(self._unused)
        if missing > 0:
            size = 0 if self._pool is None else len(self._pool)
            grown = max(2 * size, size + missing, 4 * _NODES_A_ROUND)
            self._pool = (nodes if self._pool is None else self._pool).resized(grown)
            self._unused.extend(range(size, grown))
        assert self._pool is not None
        rows = self._unused[-len(nodes) :]
        del self._unused[-len(nodes) :]
        self._pool.put(np.array(rows), nodes)
        return rows
