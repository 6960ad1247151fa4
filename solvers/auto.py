"""The solver that picks: enumeration, branch and bound, or a MILP, by size and by trying.

Listing a small set once and evaluating all of it takes a time known beforehand. Branch and bound
is faster than that, or than a MILP, on most trained networks and slower on others, and trying is
the only way to tell: it gets about as many nodes as what would come after it takes, so that the
pick costs at most twice the better of both. A box of continuous actions is searched spatially
(:mod:`milp_rl.solvers.box_search`); a space with binary and continuous variables goes to the MILP.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.actions.box import Box
from milp_rl.formulations.network import FloatArray, Network
from milp_rl.solvers.base import ArgmaxResult, SolveOptions
from milp_rl.solvers.box_search import BoxSearchArgmax, branch_and_bound
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.milp import MilpArgmax

_LARGEST_LISTED = 30_000
_DRAWS = 500
_SOLVES_BEFORE_COUNTING = 32
_SECONDS_A_PRODUCT = 5e-11
_SECONDS_A_NODE = 2e-4  # without its products
_SECONDS_TO_START = 1e-3  # and so many nodes take next to no time:
_FIRST_NODES = 4
_NODES_BEFORE_MILP = 2000
_BOXES_BEFORE_MILP = 5000
_TRIED_FIRST = 4  # states of a batch; if none is solved, the others are not tried


class AutoArgmax:
    """Exact argmax by whichever way suits the set, the network and the state.

    The action set is counted before the first batch, or before the 32nd single solve, since that
    can take seconds. Which of several equally good actions is returned depends on the pick.

    Parameters
    ----------
    network
        Scalar output; inputs [action, state].
    space
        The feasible set.
    milp
        What solves the states that branch and bound does not.
    """

    name = "auto"

    def __init__(self, network: Network, space: ActionSpace, milp: MilpArgmax) -> None:
        self.network = network
        self.space = space
        self._milp = milp
        self._search = None if _is_mixed(space) else branch_and_bound(network, space)
        self._listed: EnumerationArgmax | None = None
        self._counted = False
        self._solves = 0

    def update(self, network: Network) -> None:
        """Replace the network; what is known of the space is kept."""
        self.network = network
        for part in (self._milp, self._search, self._listed):
            if part is not None:
                part.update(network)

    def solve(
        self, state: FloatArray, options: SolveOptions, start: ActionArray | None = None
    ) -> ArgmaxResult:
        """Solve for one state."""
        self._solves += 1
        if self._solves >= _SOLVES_BEFORE_COUNTING:
            self._count()
        return self._solve(state[None], options, [start])[0]

    def solve_batch(
        self,
        states: FloatArray,
        options: SolveOptions,
        starts: Sequence[ActionArray | None] | None = None,
    ) -> list[ArgmaxResult]:
        """Solve for several states; see :meth:`BranchAndBoundArgmax.solve_batch`."""
        self._count()
        return self._solve(states, options, starts or [None] * len(states))

    def _count(self) -> None:
        if not self._counted:
            self._counted = True
            if is_small(self.space):
                self._listed = EnumerationArgmax(self.network, self.space, _LARGEST_LISTED)

    def _solve(
        self, states: FloatArray, options: SolveOptions, starts: Sequence[ActionArray | None]
    ) -> list[ArgmaxResult]:
        after: EnumerationArgmax | MilpArgmax = self._milp
        search = self._search
        if search is None:
            why = "the space has continuous variables and is not one Box of them"
            return [
                self._explained(after.solve(state, options, start), why)
                for state, start in zip(states, starts, strict=True)
            ]
        boxes = isinstance(search, BoxSearchArgmax)
        limit = _BOXES_BEFORE_MILP if boxes else _NODES_BEFORE_MILP
        if self._listed is not None:
            after = self._listed
            seconds, node_seconds = self._seconds_to_list(), self._seconds_a_node()
            if seconds < _SECONDS_TO_START + _FIRST_NODES * node_seconds:
                why = f"so few actions are evaluated in about {seconds * 1e3:.1g} ms"
                return [self._explained(after.solve(s, options), why) for s in states]
            limit = int(seconds / node_seconds)
        if options.node_limit is not None and options.node_limit <= limit:
            return search.solve_batch(states, options, starts)
        limited = replace(options, node_limit=limit)
        first = _TRIED_FIRST if len(states) > 2 * _TRIED_FIRST else len(states)
        results = search.solve_batch(states[:first], limited, starts[:first])
        hopeless = first < len(states) and not any(r.status == "optimal" for r in results)
        if not hopeless and first < len(states):
            results += search.solve_batch(states[first:], limited, starts[first:])
        for i, state in enumerate(states):
            if i >= len(results):
                why = f"branch and bound did not solve {first} other states in {limit} nodes"
                results.append(self._explained(after.solve(state, options, starts[i]), why))
            elif results[i].status in ("feasible", "no_solution"):
                tried = results[i]
                if options.time_limit is not None:
                    if tried.seconds * len(states) >= options.time_limit:
                        continue
                    left = options.time_limit - tried.seconds
                    options = replace(options, time_limit=left)
                better = after.solve(state, options, tried.action)
                why = f"branch and bound left a gap of {tried.gap:.2g} after {tried.nodes} nodes"
                results[i] = self._explained(
                    replace(better, seconds=better.seconds + tried.seconds), why
                )
        return results

    def _seconds_to_list(self) -> float:
        """Estimate the time of an enumeration; the same on every machine."""
        assert self._listed is not None
        hidden = sum(len(layer.bias) for layer in self.network.hidden)
        return len(self._listed) * (self._products() + 8 * hidden) * _SECONDS_A_PRODUCT

    def _seconds_a_node(self) -> float:
        """Estimate the time of a node: about ten passes for both bounds of every neuron."""
        hidden = sum(len(layer.bias) for layer in self.network.hidden)
        return _SECONDS_A_NODE + 20 * hidden * self._products() * _SECONDS_A_PRODUCT

    def _products(self) -> int:
        """Multiplications of one evaluation."""
        n = self.space.n_actions
        widths = [n, *(len(layer.bias) for layer in self.network.layers)]
        return sum(a * b for a, b in itertools.pairwise(widths))

    @staticmethod
    def _explained(result: ArgmaxResult, why: str) -> ArgmaxResult:
        return replace(result, message=f"{result.message}; chosen because {why}")


def _is_mixed(space: ActionSpace) -> bool:
    """Whether no native search takes the space."""
    return not space.binary and not (isinstance(space, Box) and space.continuous.all())


def is_small(space: ActionSpace) -> bool:
    """Whether the space has at most 30,000 feasible actions, as far as can be told quickly.

    If none of 500 random maximal actions is drawn twice, there are almost certainly more (with
    30,000 equally likely ones the chance of that is 2%, with fewer it is less), and nothing is
    listed.
    """
    if not space.binary:
        return False
    if 2**space.n_actions <= _LARGEST_LISTED:
        return True
    try:
        drawn = space.sample(np.random.default_rng(0), _DRAWS, maximal=True)
        if len(np.unique(drawn, axis=0)) == _DRAWS:
            return False
        return space.count(_LARGEST_LISTED) <= _LARGEST_LISTED
    except ValueError:  # more than can be counted, or none at all
        return False
