"""The search trees of a batch of states, expanded side by side.

Each round takes the most promising open nodes of every state and bounds all their children in a few
array operations. Open nodes lie in one pool of rows.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.bounds import Bounds, suits_loops
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import until
from milp_rl.solvers.branch_and_bound.branching import (
    Branching,
    branchings,
    choose,
    divide,
)
from milp_rl.solvers.branch_and_bound.compiled_bounds import bounds_of_nodes
from milp_rl.solvers.branch_and_bound.nodes import Maximum, Nodes
from milp_rl.solvers.certify import ArgmaxProblem
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.log import Progress
from milp_rl.solvers.options import SolveOptions, in_time, late

_NODES_PER_ROUND = 64  # taken off all searches together, so many that array operations pay
_LEAST_ROUNDS = 4  # whose nodes the pool holds, however large they are
_ACTIONS_PER_ROUND = 131_072  # of the nodes of a round together
_POOL_BYTES = 2**28  # of open nodes, above which the search dives
_ACTION_BYTES = 6  # of a node per action: one, zero, x
_NEURON_BYTES = 45  # of a node per neuron: low, high, split, alpha, beta, z, h
_NODES_BEFORE_LOOPS = 256  # of a state, where loops are compiled for long searches alone
_STEPS_TRIED = 1  # of slopes and multipliers, for the candidates of a branching
_STALLED = 0.8  # part of the excess that is left, as the nodes have doubled
_PASSES = 3  # of tightening and probing, in one node
_PROBE_AGAIN = 0.7  # once the excess is less than this part of what it was at the last probing


@dataclass
class Search:
    """The search of one state: incumbent, open nodes as (-bound, age, row in the pool, where).

    Parameters
    ----------
    problem
        What is solved.
    unstable
        Neurons that the root's bounds leave undecided.
    action, value
        The incumbent.
    open
        A heap, the highest bound first.
    pruned
        The highest bound of what was pruned.
    nodes
        Bounded so far.
    asked, excess
        Nodes when the search was last asked whether it is stalled, and its excess then.
    stalled
        Whether it was.
    """

    problem: ArgmaxProblem
    unstable: int
    action: ActionArray | None = None
    value: float = -math.inf
    open: list[tuple[float, int, int, Branching]] = field(default_factory=list)
    pruned: float = -math.inf
    nodes: int = 0
    asked: int = 0
    excess: float = math.inf
    stalled: bool = False

    def bound(self) -> float:
        """Nothing that is open or was pruned is better than this."""
        highest = -self.open[0][0] if self.open else -math.inf
        return max(self.value, self.pruned, highest)

    def ask_whether_stalled(self, target: float, limit: int) -> None:
        """Compare the excess with that of half the nodes; there are to be ``limit`` or more."""
        if not self.open or self.nodes < max(limit // 2, 2 * self.asked):
            return
        before, self.excess = self.excess, -self.open[0][0] - target
        self.asked = self.nodes
        self.stalled = self.nodes >= limit and self.excess > _STALLED * before


class Tree:
    """The search trees of a batch of states.

    Parameters
    ----------
    networks, space
        Of the states, without their constants, and the feasible set.
    searches
        One for each state.
    options
        Gaps and the node limit of each state.
    incumbents
        What is known of the space.
    bounds
        Of the neurons at the states.
    deadline
        When to end; what is being done is then finished at the least expense.
    pins
        Actions held at one or zero, a row per state.
    """

    def __init__(
        self,
        networks: ActionNetworks,
        space: ActionSpace,
        searches: list[Search],
        options: SolveOptions,
        incumbents: Incumbents,
        bounds: Bounds,
        deadline: float = math.inf,
        pins: Pins | None = None,
    ) -> None:
        self.networks = networks
        self.space = space
        self.searches = searches
        self.options = options
        self.incumbents = incumbents
        self.deadline = deadline
        self.pins = pins or Pins()
        loops = searches[0].problem.loops
        self._loops = None if loops is None else loops.oracle
        self.bounds = bounds_of_nodes(
            networks, space, bounds, deadline, self._loops, options.threads
        )
        self.targets = np.full(len(searches), -np.inf)
        self._ages = itertools.count(0, -1)  # of equal bounds the newest first: the search dives
        self._pool: Nodes | None = None
        self._unused: list[int] = []
        n, neurons = space.n_actions, sum(low.shape[1] for low in bounds.lower)
        self._nodes_per_round = max(min(_NODES_PER_ROUND, _ACTIONS_PER_ROUND // n), 2)
        size = _ACTION_BYTES * n + _NEURON_BYTES * neurons
        self._most_rows = max(_POOL_BYTES // size, _LEAST_ROUNDS * _NODES_PER_ROUND)
        self._rounds = 0

    def run(self, bounds: Bounds, starts: Sequence[ActionArray | None]) -> None:
        """Search from the neurons' bounds and the starts until all is decided, or a limit."""
        self.find_incumbents(starts)
        self.expand_roots(Nodes.roots(bounds, self.space.n_actions, self.pins))
        progress = Progress(self.options.log)
        short = self._loops is None and suits_loops(self.networks)
        while not late(self.deadline) and self.branch():
            progress.report(self.describe)
            if short and max(search.nodes for search in self.searches) > _NODES_BEFORE_LOOPS:
                short = False
                self._go_on_in_loops(bounds)

    def _go_on_in_loops(self, bounds: Bounds) -> None:
        """Bound nodes in compiled loops from now on, if there is time for them."""
        with until(self.deadline):
            self._loops = in_time(self.space.compiled_oracle)
        if self._loops is not None:
            own = (self.networks, self.space, bounds, self.deadline, self._loops)
            self.bounds = bounds_of_nodes(*own, self.options.threads)

    def describe(self) -> str:
        """Say how far the searches are."""
        left = [s for i, s in enumerate(self.searches) if s.open and not self._done(i)]
        nodes = sum(search.nodes for search in self.searches)
        text = f"{nodes} nodes, {sum(len(search.open) for search in left)} open"
        if len(self.searches) > 1:
            return f"{len(left)} of {len(self.searches)} states left, {text}"
        search = self.searches[0]
        value, bound = (x + search.problem.offset for x in (search.value, search.bound()))
        return f"{text}, value {value:.9g}, bound {bound:.9g}"

    def find_incumbents(self, starts: Sequence[ActionArray | None]) -> None:
        """Give every search its start, and an action built greedily or, failing that, drawn."""
        built = self.incumbents.build(self.networks, self.deadline, self.pins, self._loops)
        for i, search in enumerate(self.searches):
            sample = search.problem.sample
            if built[i] is None and sample is not None and len(sample):
                built[i] = sample[0]
        found = [(i, action) for i, action in enumerate(built) if action is not None]
        if found:
            self._offer(np.array([i for i, _ in found]), np.array([action for _, action in found]))
        for i, start in enumerate(starts):
            if start is not None:
                self._offer(np.array([i]), start[None])

    def _offer(self, states: IntArray, actions: ActionArray) -> None:
        """Take feasible actions that are better than the incumbents, and climb from them."""
        if not len(actions):
            return
        values = self.bounds.values(actions, states)
        better = np.flatnonzero(values > [self.searches[i].value for i in states])
        for i, action in zip(states[better], actions[better], strict=True):
            search = self.searches[i]
            best, value = self.incumbents.climb(search.problem, action, self.deadline)
            if value > search.value:
                search.action, search.value = best.copy(), value
                self.targets[i] = search.problem.target(value, self.options)

    def branch(self) -> bool:
        """Divide the most promising open nodes; return whether there were any."""
        taken = self._most_promising()
        if not taken:
            return False
        assert self._pool is not None
        rows = np.array([row for row, _ in taken])
        parents = self._pool[rows]
        self._unused.extend(rows.tolist())
        children, candidates = divide(parents, [branching for _, branching in taken])
        maximum = self.bounds.maximize(children, self.targets[children.state], steps=_STEPS_TRIED)
        targets = self.targets[candidates.state]
        kept, candidates = choose(candidates, maximum.bound, targets, of_each_kind=True)
        children, bound = children[kept], maximum.bound[kept]
        self._tighten_tried(children, bound)
        kept, _ = choose(candidates, bound, self.targets[candidates.state])
        children.bound = np.minimum(children.bound, bound)
        children = children[kept]
        self._count(children)
        above = np.asarray(children.bound > self.targets[children.state])
        self._prune(children.state[~above], children.bound[~above])
        nodes = children[above]
        self._open(*self._bound_and_probe(nodes))
        if self.options.stall_limit is not None:
            for i in np.unique(parents.state):
                self.searches[i].ask_whether_stalled(self.targets[i], self.options.stall_limit)
        return True

    def _tighten_tried(self, children: Nodes, bound: FloatArray) -> None:
        """Tighten the neurons of children that are not pruned, and their bounds, in place."""
        if late(self.deadline):
            return
        above = np.flatnonzero(bound > self.targets[children.state])
        some = children[above]
        empty = self.bounds.tighten(some)
        targets = self.targets[some.state]
        again = self.bounds.maximize(some, targets, steps=_STEPS_TRIED).bound
        again[empty] = -np.inf
        bound[above] = np.minimum(bound[above], again)
        children.put(above, some)

    def _most_promising(self) -> list[tuple[int, Branching]]:
        """Take open nodes off the searches, the highest bounds first.

        When the pool is full, the newest: then the search dives, which takes little more memory.
        """
        going = [(i, s) for i, s in enumerate(self.searches) if s.open and not self._done(i)]
        if self._nodes_per_round < _NODES_PER_ROUND:  # many actions: the searches take turns
            most = max(self._nodes_per_round // 2, 1)
            first = self._rounds * most % max(len(going), 1)
            going = (going[first:] + going[:first])[:most]
        self._rounds += 1
        each = max(self._nodes_per_round // max(len(going), 1), 2)
        taken: list[tuple[int, Branching]] = []
        if self._pool is not None and len(self._pool) - len(self._unused) >= self._most_rows:
            for i, _ in going:
                taken += self._newest(i, each)
            return taken
        for i, search in going:
            for _ in range(each):
                if not search.open or -search.open[0][0] <= self.targets[i]:
                    break
                _, _, row, branching = heapq.heappop(search.open)
                taken.append((row, branching))
        return taken

    def _newest(self, i: int, n: int) -> list[tuple[int, Branching]]:
        """Take the newest open nodes off a search, and those that need not be searched."""
        search, target = self.searches[i], self.targets[i]
        left = []
        for entry in search.open:
            if -entry[0] > target:
                left.append(entry)
            else:
                search.pruned = max(search.pruned, -entry[0])
                self._unused.append(entry[2])
        newest = heapq.nsmallest(n, left, key=lambda entry: entry[1])
        rows = {row for _, _, row, _ in newest}
        search.open = [entry for entry in left if entry[2] not in rows]
        heapq.heapify(search.open)
        return [(row, branching) for _, _, row, branching in newest]

    def _done(self, i: int) -> bool:
        """Whether a search is at its node limit, stalled, or its best open bound at the target."""
        search, limit = self.searches[i], self.options.node_limit
        if search.stalled or (limit is not None and search.nodes >= limit):
            return True
        return bool(-search.open[0][0] <= self.targets[i])

    def expand_roots(self, roots: Nodes) -> None:
        """Bound the roots, prune those that are decided, and open the others."""
        self._count(roots)
        open_ = roots.bound > self.targets[roots.state]
        self._prune(roots.state[~open_], roots.bound[~open_])
        roots = roots[open_]
        if len(roots):
            self._open(*self._bound_and_probe(roots))

    def _count(self, nodes: Nodes) -> None:
        for state in nodes.state.tolist():
            self.searches[state].nodes += 1

    def _bound_and_probe(self, nodes: Nodes) -> tuple[Nodes, Maximum]:
        """Bound nodes of tight neurons and probe actions; again where that holds many of them.

        Returns
        -------
        tuple
            The nodes that are not pruned and their relaxed maxima.
        """
        maximum = Maximum.unknown(nodes)
        for again in range(_PASSES):
            if not len(nodes) or (again and late(self.deadline)):
                break
            empty = np.zeros(len(nodes), dtype=bool)
            if again:
                empty = self.bounds.tighten(nodes)
            maximum = self.bounds.maximize(nodes, self.targets[nodes.state])
            maximum.bound[empty] = -np.inf
            nodes, maximum = self._remaining(nodes, maximum)
            if not len(nodes):
                break
            targets = self.targets[nodes.state]
            excess = nodes.bound - targets
            due = excess < _PROBE_AGAIN * nodes.probed
            nodes.probed[due] = excess[due]
            excluded, many = self.bounds.probe(nodes, maximum, targets, due)
            self._prune(nodes.state, excluded)
            if not many.any():
                break
        return nodes, maximum

    def _remaining(self, nodes: Nodes, maximum: Maximum) -> tuple[Nodes, Maximum]:
        """Prune the nodes whose bound does not exceed the target, after trying the maximisers."""
        nodes.bound = np.minimum(nodes.bound, maximum.bound)
        promising = nodes.bound > self.targets[nodes.state]
        self._try(nodes.state[promising], maximum.x[promising])
        above = np.asarray(nodes.bound > self.targets[nodes.state])
        if above.all():
            return nodes, maximum
        self._prune(nodes.state[~above], nodes.bound[~above])
        return nodes[above], maximum.at(above)

    def _prune(self, states: IntArray, bounds: FloatArray) -> None:
        for i, bound in zip(states, bounds.tolist(), strict=True):
            search = self.searches[i]
            search.pruned = max(search.pruned, bound)

    def _try(self, states: IntArray, points: FloatArray) -> None:
        """Offer the maximisers that are feasible actions better than the incumbent."""
        actions = np.rint(points).astype(np.int8)
        values = self.bounds.values(actions, states)
        better = values > [self.searches[i].value for i in states]
        better &= self.pins[states].allows(actions)
        feasible = [i for i in np.flatnonzero(better) if self.incumbents.feasible(actions[i])]
        self._offer(states[feasible], actions[feasible])

    def _open(self, nodes: Nodes, maximum: Maximum) -> None:
        """Decide the nodes with every action fixed, and put the others into the pool."""
        kept = self._undecided(nodes)
        if not kept.any():
            return
        nodes, maximum = nodes[kept], maximum.at(kept)
        chosen = branchings(nodes, maximum, self.bounds, self.targets[nodes.state])
        for i, (row, branching) in enumerate(zip(self._put(nodes), chosen, strict=True)):
            entry = (-float(nodes.bound[i]), next(self._ages), row, branching)
            heapq.heappush(self.searches[nodes.state[i]].open, entry)

    def _undecided(self, nodes: Nodes) -> BoolArray:
        """Mark the nodes with free actions that may be feasible; offer those without any."""
        leaf = np.asarray((nodes.one | nodes.zero).all(axis=1))
        if leaf.any():
            actions = nodes.one[leaf].astype(np.int8)
            feasible = np.array([self.incumbents.feasible(action) for action in actions])
            self._offer(nodes.state[leaf][feasible], actions[feasible])
        kept = ~leaf
        if not self.space.exact and self.space.down_closed:
            held = nodes.one.astype(np.int8)
            kept &= np.array([self.incumbents.feasible(action) for action in held], dtype=bool)
        return kept

    def _put(self, nodes: Nodes) -> list[int]:
        """Store nodes in unused rows of the pool."""
        missing = len(nodes) - len(self._unused)
        if missing > 0:
            size = 0 if self._pool is None else len(self._pool)
            least = max(size + missing, _LEAST_ROUNDS * _NODES_PER_ROUND)
            grown = max(min(2 * size, self._most_rows), least)
            self._pool = (nodes if self._pool is None else self._pool).resized(grown)
            self._unused.extend(range(size, grown))
        assert self._pool is not None
        rows = self._unused[-len(nodes) :]
        del self._unused[-len(nodes) :]
        self._pool.put(np.array(rows), nodes)
        return rows
