"""The solver that picks: enumeration, branch and bound, or a MILP, by size and by trying.

Listing a small set once and evaluating all of it takes a time known beforehand. Branch and bound
is faster than that, or than a MILP, on most trained networks and slower on others, and trying is
the only way to tell: it gets about as many nodes as what would come after it takes, so that the
pick costs at most twice the better of both; over a network of few neurons it ends sooner, if its
nodes hardly bring the bound down. A :class:`.Box` of continuous and integer actions is searched
spatially (:mod:`milp_rl.solvers.branch_and_bound.spatial`), over a network of many neurons up to
the limit of that search, as a MILP's bound is far off there; another space whose variables are not
binary is listed if it is small, or goes to the MILP. The bound of a result is the best that any
solver has proven.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import LateError, until
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.milp.solver import MilpSolver
from milp_rl.solvers.options import SolveOptions, late
from milp_rl.solvers.protocol import Answer, Argmax, Starts
from milp_rl.solvers.ranked import one_after_another
from milp_rl.solvers.result import ArgmaxResult, relative_gap

LARGEST_LISTED = 30_000
_LEAST_SECONDS = 1e-3  # that a solver gets, however late it is
_LIST_BYTES = 300_000_000  # of the longest list
_DRAWS = 500  # different actions, after which a set is taken for a large one
_DRAWN_AT_ONCE = 25
_SECONDS_PER_PRODUCT = 5e-11  # one multiplication of an evaluation
_SECONDS_PER_NODE = 2e-4  # without its products
_SECONDS_TO_START = 1e-3  # and so many nodes take next to no time:
_FIRST_NODES = 4
_COUNTED_AT_ONCE = 256  # actions at most
LISTED_AT_ONCE = 4096  # of a call's own space at most, if it counts quickly
_SOLVES_BEFORE_COUNTING = 32  # states
_SOLVES_OF_CALLS = 4  # with the space of calls, if it counts quickly
_SHARE_TO_COUNT = 0.25  # of the time there is
_SECONDS_BEFORE_COUNTING = 0.25  # of a state's search
_ALL_NODES = 2**31 - 1  # that the search has room for
_FEW_NEURONS = 64  # with which a MILP solver seldom takes long
_SECONDS_OF_MILP = 60.0  # with so few
_OBJECTIVES_PER_NODE = 100  # that the oracle is asked for
_STALL_SHARE = 8  # of its nodes one in so many, in loops, before it is asked whether it is stalled
_TRIED_FIRST = 4  # states of a batch; if none is solved, the others are not tried


class AutoArgmax(Argmax):
    """Exact argmax by whichever solver suits the set, the network and the state.

    A set that counts quickly is counted at once, that of a call if it is seen to be small or given
    for the fourth time; another one, since that can take long, before the 32nd state, or when the
    search does not solve a state soon. Which of several equally good actions is
    returned depends on the pick.

    Parameters
    ----------
    value
        Q(state, action), or a network of one output whose inputs are [action, state].
    space
        The feasible set.
    incumbents
        What is known of the space.
    milp
        What solves the states that the search does not.
    search
        The native search that is tried first, ``None`` if there is none for the space or value.
    nodes
        That it gets before the MILP's turn.
    """

    name = "auto"

    def __init__(
        self,
        value: ActionValue | Network,
        space: ActionSpace,
        incumbents: Incumbents,
        *,
        milp: Argmax,
        search: Argmax | None,
        nodes: int,
    ) -> None:
        self._milp = milp
        self._search = search
        self._nodes = nodes
        self._listed: EnumerationArgmax | None = None
        self._counted = False
        self._solves = 0
        super().__init__(value, space, incumbents)

    @property
    def milp_solver(self) -> MilpSolver | None:
        """That of the part that solves MILPs."""
        return self._milp.milp_solver

    def prepare(self) -> None:
        """Compile or fetch the loops of the search, unless the set is one that is listed."""
        if self._counts_at_once:
            self._count(math.inf)
        if self._search is not None and self._listed is None:
            self._search.prepare()

    def over(self, space: ActionSpace, incumbents: Incumbents | None = None) -> AutoArgmax:
        """Return a solver of the same kind and value for another space of the same variables."""
        known = incumbents or Incumbents(space)
        return AutoArgmax(
            self.value,
            space,
            known,
            milp=self._milp.over(space, known),
            search=None if self._search is None else self._search.over(space, known),
            nodes=self._nodes,
        )

    def ranked(
        self,
        networks: ActionNetworks,
        options: SolveOptions,
        n: int,
        difference: int = 1,
        pins: Pins | None = None,
    ) -> list[ArgmaxResult]:
        """Return the n best actions: of a list, of one search, or solve by solve.

        The search gets as many nodes as so many solves; what it does not prove is solved for one
        after another.
        """
        begin = time.perf_counter()
        if not self.space.binary or self._search is None or self._counts_at_once:
            self._count(options.deadline(begin))
        if self._listed is not None:
            left = _remaining(options, begin)
            return self._listed.ranked(networks, left, n, difference, pins)
        self.space.require_binary("ranked, being too many to list")
        found: list[ArgmaxResult] = []
        if self._search is not None and difference == 1:
            limit = n * self._nodes if options.node_limit is None else options.node_limit
            limited = replace(_remaining(options, begin), node_limit=limit)
            found = self._search.ranked(networks, limited, n, 1, pins)
            proven = list(itertools.takewhile(lambda result: result.status == "optimal", found))
            if len(proven) == len(found) or late(options.deadline(begin)):
                return found
            found = proven
        left = _remaining(options, begin)
        return one_after_another(self, networks, left, n, difference, pins, found)

    def results(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[ArgmaxResult]:
        """Solve for the networks of one or more states, from feasible starts."""
        begin = time.perf_counter()
        self._solves += networks.n_states
        often = self._solves >= _SOLVES_BEFORE_COUNTING
        endless = bool(self.space.continuous.any())  # which is told in no time
        if often or endless or self._search is None or self._counts_at_once:
            self._count(options.deadline(begin))
        if self._search is None:
            return self._without_search(networks, options, starts, pins)
        if self._listed is not None:
            seconds, little = self._seconds_to_list(networks), self._next_to_no_time(networks)
            if seconds < little:
                why = f"so few actions are evaluated in about {1e3 * seconds:.1g} ms"
                return _explained(self._listed.results(networks, options, starts, pins), why)
            return self._screened(networks, options, starts, pins, begin, little / seconds)
        if not self._counted:
            return self._counted_if_hard(networks, options, starts, pins, begin)
        return self._tried(networks, options, starts, pins, begin)

    def _screened(
        self,
        networks: ActionNetworks,
        options: SolveOptions,
        starts: Starts,
        pins: Pins,
        begin: float,
        share: float,
    ) -> list[ArgmaxResult]:
        """Evaluate the list where bounds leave at most a share of it, try the other states."""
        assert self._listed is not None
        most = int(share * len(self._listed))
        few = self._listed.results_of_few(networks, options, pins, most)
        hard = [i for i, result in enumerate(few) if result is None]
        rows = np.array(hard, dtype=np.intp)
        others = networks if len(hard) == networks.n_states else networks.rows(rows)
        own = [starts[i] for i in hard]
        tried = self._tried(others, options, own, pins[rows], begin) if hard else []
        left = iter(tried)
        why = "bounds leave so few actions of the list to evaluate"
        return [next(left) if result is None else _explained([result], why)[0] for result in few]

    def _without_search(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[ArgmaxResult]:
        """List a small set, give another one to the MILP."""
        if self._listed is not None:
            why = f"the space has few actions, {len(self._listed)}"
            return _explained(self._listed.results(networks, options, starts, pins), why)
        why = f"the space has {self.space.domains} and is not one Box"
        if self.space.binary:
            why = "the space is not small, and the native search does not take trees"
        return _explained(self._milp.results(networks, options, starts, pins), why)

    def _counted_if_hard(
        self,
        networks: ActionNetworks,
        options: SolveOptions,
        starts: Starts,
        pins: Pins,
        begin: float,
    ) -> list[ArgmaxResult]:
        """Try the search for as long as counting the set may take; count it for what is left."""
        assert self._search is not None
        limit = max(int(_SECONDS_BEFORE_COUNTING / self._node_seconds(networks)), _FIRST_NODES)
        limit = min(limit, self._nodes)
        if options.node_limit is not None and options.node_limit <= limit:
            return self._search.results(networks, options, starts, pins)
        tried = self._search.results(networks, replace(options, node_limit=limit), starts, pins)
        spent = (time.perf_counter() - begin) / networks.n_states
        for i, result in enumerate(tried):
            if result.status in ("feasible", "no_solution"):
                left = _left(spent, options, networks.n_states)
                if left is not None:
                    began = time.perf_counter()
                    self._count(left.deadline(began))
                    own = (networks[i], left, [result.action], pins[i : i + 1])
                    again = self._tried(*own, began)[0]
                    tried[i] = _merged(again, result, options)
        return tried

    def _tried(
        self,
        networks: ActionNetworks,
        options: SolveOptions,
        starts: Starts,
        pins: Pins,
        begin: float,
    ) -> list[ArgmaxResult]:
        """Try the search for as long as what comes after it takes, and go on with that."""
        search, after, limit = self._search, self._milp, self._nodes
        assert search is not None
        waited = time.perf_counter() - begin  # for counting
        few = self._listed is None and sum(layer.width for layer in networks.hidden) <= _FEW_NEURONS
        if self._listed is not None:
            after = self._listed
            limit = int(self._seconds_to_list(networks) / self._node_seconds(networks))
        elif not few and not self.space.binary:
            limit = _ALL_NODES  # a MILP solver proves less in the time that they take
            if options.time_limit is not None and networks.n_states > 1:  # each has its own time
                each = range(networks.n_states)
                parts = ((networks[i], options, starts[i : i + 1], pins[i : i + 1]) for i in each)
                return [self._tried(*part, time.perf_counter())[0] for part in parts]
        if options.node_limit is not None and options.node_limit <= limit:
            return search.results(networks, _remaining(options, begin), starts, pins)
        if few:
            limit = min(limit, max(int(_SECONDS_OF_MILP / self._node_seconds(networks)), 1))
        limited = replace(_remaining(options, begin), node_limit=max(limit, 1))
        if few and self.space.compiled_oracle is not None:
            limited = replace(limited, stall_limit=self._nodes // _STALL_SHARE)
        tells = networks.n_states > 2 * _TRIED_FIRST and limit < _ALL_NODES
        first = _TRIED_FIRST if tells else networks.n_states
        results = (
            search.results(networks.rows(slice(first)), limited, starts[:first], pins[:first])
            if limit
            else []
        )
        hopeless = first < networks.n_states and not any(r.status == "optimal" for r in results)
        if not hopeless and first < networks.n_states:
            others = networks.rows(slice(first, None))
            results += search.results(others, limited, starts[first:], pins[first:])
        for i in range(networks.n_states):
            together = first if i < first else networks.n_states - first
            network, held = networks[i], pins[i : i + 1]
            if i >= len(results):
                why = (
                    f"branch and bound did not solve {first} other states in {limit} nodes"
                    if limit
                    else "all are evaluated in less time than a node takes"
                )
                results += _explained(after.results(network, options, [starts[i]], held), why)
            elif results[i].status in ("feasible", "no_solution"):
                tried = results[i]
                left = _left(tried.seconds + waited / together, options, together)
                if left is not None:
                    better = after.results(network, left, [tried.action], held)[0]
                    why = (
                        f"branch and bound left a gap of {tried.gap:.2g} after {tried.nodes} nodes"
                    )
                    merged = _merged(better, tried, options)
                    if merged.status == "feasible" and _unlimited(options):
                        # Beyond its tolerances a MILP solver proves nothing: the search goes on.
                        again = search.results(network, options, [merged.action], held)[0]
                        merged = _merged(again, merged, options)
                    results[i] = _explained([merged], why)[0]
        return results

    def _node_seconds(self, networks: ActionNetworks) -> float:
        return _seconds_per_node(networks) + _OBJECTIVES_PER_NODE * self.space.oracle_seconds

    @property
    def _counts_at_once(self) -> bool:
        quick = self.space.counts_quickly
        known = self.incumbents.like is None or self._solves >= _SOLVES_OF_CALLS
        if quick and known:
            return True
        return self.space.count_bound <= (LISTED_AT_ONCE if quick else _COUNTED_AT_ONCE)

    def _count(self, deadline: float) -> None:
        """Count the set, which can take seconds, and list it if it is small."""
        if self._counted:
            return
        lists = type(self.space).count is ActionSpace.count  # then the list is kept
        small = is_small(self.space, deadline, self._list if lists else self.space.count)
        self._counted = small is not None
        if small and self._listed is None:
            self._list(LARGEST_LISTED)

    def _list(self, limit: int) -> int:
        """List the set; return its size, or raise ``ValueError`` beyond the limit."""
        listed = EnumerationArgmax(self.value, self.space, self.incumbents, limit=limit)
        size = len(listed)  # a LateError if there was no time
        self._listed = listed
        return size

    def _next_to_no_time(self, networks: ActionNetworks) -> float:
        return _SECONDS_TO_START + _FIRST_NODES * self._node_seconds(networks)

    def _solve(
        self, networks: ActionNetworks, options: SolveOptions, starts: Starts, pins: Pins
    ) -> list[Answer]:
        raise NotImplementedError  # the parts certify their own answers

    def _seconds_to_list(self, networks: ActionNetworks) -> float:
        """Estimate the time of an enumeration; the same on every machine."""
        assert self._listed is not None
        hidden = sum(layer.width for layer in networks.hidden)
        return len(self._listed) * (_products(networks) + 8 * hidden) * _SECONDS_PER_PRODUCT


def _seconds_per_node(networks: ActionNetworks) -> float:
    """Estimate the time of a node: about ten passes for both bounds of every neuron."""
    hidden = sum(layer.width for layer in networks.hidden)
    return _SECONDS_PER_NODE + 20 * hidden * _products(networks) * _SECONDS_PER_PRODUCT


def _products(networks: ActionNetworks) -> int:
    """Multiplications of one evaluation."""
    return sum(
        weight.shape[-2] * weight.shape[-1]
        for layer in networks.layers
        for _, weight in layer.inputs
    )


def _merged(better: ArgmaxResult, tried: ArgmaxResult, options: SolveOptions) -> ArgmaxResult:
    """Join what two solvers have proven of one state: the better action, the lower bound."""
    best = tried if better.action is None or tried.value > better.value else better
    if best.action is None:
        bound = min(better.bound, tried.bound)
        return replace(better, bound=bound, seconds=better.seconds + tried.seconds)
    value = best.value
    bound = max(min(better.bound, tried.bound), value)
    allowed = max(options.gap * abs(value), options.absolute_gap, best.tolerance)
    proven = "optimal" in (better.status, tried.status) or bound - value <= allowed
    return replace(
        better,
        action=best.action,
        value=value,
        bound=bound,
        gap=relative_gap(value, bound),
        status="optimal" if proven else "feasible",
        seconds=better.seconds + tried.seconds,
        tolerance=best.tolerance,
    )


def _left(spent: float, options: SolveOptions, n: int) -> SolveOptions | None:
    """Return the options with the time that is left to one of n states, ``None`` if none is.

    Parameters
    ----------
    spent
        Seconds on each of them so far.
    """
    if options.time_limit is None:
        return options
    if spent * n >= options.time_limit:
        return None
    return replace(options, time_limit=options.time_limit - spent)


def _remaining(options: SolveOptions, begin: float) -> SolveOptions:
    """Return the options with what is left of the time limit since ``begin``."""
    if options.time_limit is None:
        return options
    left = options.deadline(begin) - time.perf_counter()
    return replace(options, time_limit=max(left, _LEAST_SECONDS))


def _unlimited(options: SolveOptions) -> bool:
    return options.time_limit is None and options.node_limit is None


def _explained(results: Sequence[ArgmaxResult], why: str) -> list[ArgmaxResult]:
    return [replace(r, message=f"{r.message}; chosen because {why}") for r in results]


def is_small(
    space: ActionSpace, deadline: float = math.inf, count: Callable[[int], int] | None = None
) -> bool | None:
    """Whether the space has at most 30,000 feasible actions, as far as can be told quickly.

    If none of 500 random maximal actions is drawn twice, there are almost certainly more (with
    30,000 equally likely ones the chance of that is 2%, with fewer it is less), and nothing is
    listed. Nor is it where the list would take more than 300 MB. ``None`` if a quarter of the time
    until the deadline passes first.
    """
    limit = min(LARGEST_LISTED, _LIST_BYTES // space.n_actions)
    if space.count_bound <= limit:
        return True
    if not space.binary:
        return False
    begin = time.perf_counter()
    try:
        with until(begin + _SHARE_TO_COUNT * (deadline - begin)):
            if not space.counts_quickly and not (again := _draws_again(space, deadline)):
                return again
            return (count or space.count)(limit) <= limit
    except LateError:
        return None
    except ValueError:  # more than can be counted, or none at all
        return False


def _draws_again(space: ActionSpace, deadline: float) -> bool | None:
    """Whether random maximal actions repeat; ``None`` if the deadline passes first."""
    rng, seen = np.random.default_rng(0), set[bytes]()
    while len(seen) < _DRAWS:
        for action in space.sample(rng, _DRAWN_AT_ONCE, maximal=True):
            if (key := action.tobytes()) in seen:
                return True
            seen.add(key)
        if late(deadline):
            return None
    return False
