r"""Exact argmax over binary actions by best-first branch and bound, many states at once.

Nodes are bounded by the relaxed network over the actions that agree with them
(:mod:`milp_rl.solvers.branch_and_bound.node_bounds`), so that the proof of an optimum rests on the
space's oracle ``linear_max`` and on float64 arithmetic, whose rounding is covered. A node is
branched on an action, or on a neuron: the split is a linear constraint on the action, priced by a
multiplier into the oracle. Probing holds the actions without which a node cannot beat the
incumbent, which often settles all of them at the root.

The states of a batch are searched together (:mod:`milp_rl.solvers.branch_and_bound.tree`).
Incumbents come from greedy building and one-swap local search, then from the maximisers of the
nodes. Where the oracle is only a relaxation, what it cannot rule out is decided by ``violations``
once every action is fixed.
"""

from __future__ import annotations

import time

import numpy as np

from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.time_limit import until
from milp_rl.solvers.bounded import BoundedArgmax
from milp_rl.solvers.branch_and_bound.tree import Search, Tree
from milp_rl.solvers.certify import ArgmaxProblem
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.options import SolveOptions, in_time
from milp_rl.solvers.protocol import Answer, Starts
from milp_rl.solvers.result import ArgmaxResult

_TRIED = 8  # networks, until the search of one has used all loops
_NODES_TRIED = 4


class BranchAndBoundArgmax(BoundedArgmax):
    r"""Exact argmax over a space of binary variables.

    .. math:: \max \{ Q(a, s) : a \in A \subseteq \{0, 1\}^n \}

    Parameters
    ----------
    value
        Q(state, action), or a network of one output whose inputs are [action, state].
    space
        The feasible set.
    incumbents
        What is known of the space.

    Raises
    ------
    ValueError
        If a variable of the space is not binary.

    Examples
    --------
    Only the second and third action together raise ``relu(b + c - a - 1)``:

    >>> import milp_rl as mr
    >>> network = mr.Network.from_arrays([[[-1.0, 1.0, 1.0]], [[1.0]]], [[-1.0], [0.0]])
    >>> result = mr.argmax(network, [], mr.BudgetTopK(3, 2), solver="branch_and_bound")
    >>> result.status, result.action, result.value
    ('optimal', array([0, 1, 1], dtype=int8), 1.0)
    """

    name = "branch_and_bound"

    def __init__(
        self, value: ActionValue | Network, space: ActionSpace, incumbents: Incumbents | None = None
    ) -> None:
        space.require_binary("branched on")
        super().__init__(value, space, incumbents)

    def prepare(self) -> None:
        """Compile or fetch the loops of searches: small networks are searched over the set."""
        oracle, n = self.space.compiled_oracle, self.space.n_actions
        for seed in range(0 if oracle is None else _TRIED):
            with until(time.perf_counter()):  # no time to fetch anything
                if in_time(oracle) is not None:
                    return
            rng = np.random.default_rng(seed)
            weights = [rng.standard_normal(shape) for shape in ((4, n), (4, 4), (1, 4))]
            network = Network.from_arrays(weights, [rng.standard_normal(len(w)) for w in weights])
            search = BranchAndBoundArgmax(network, self.space, self.incumbents)
            search.solve(np.zeros((1, 0)), SolveOptions(node_limit=_NODES_TRIED))

    def ranked(
        self,
        networks: ActionNetworks,
        options: SolveOptions,
        n: int,
        difference: int = 1,
        pins: Pins | None = None,
    ) -> list[ArgmaxResult]:
        """Return the n best actions: of one search, or, if they are to differ more, of several."""
        from milp_rl.solvers.branch_and_bound.ranked import RankedSearch

        if difference > 1:
            return super().ranked(networks, options, n, difference, pins)
        return RankedSearch(self, n).best(networks, options, pins or Pins())

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
        pairs = zip(problems, bounds.unstable, strict=True)
        searches = [Search(problem, int(unstable)) for problem, unstable in pairs]
        deadline = options.deadline(begin)
        tree = Tree(
            networks,
            self.space,
            searches,
            options,
            self.incumbents,
            bounds,
            deadline,
            pins,
        )
        tree.run(bounds, starts)
        seconds = (time.perf_counter() - begin) / len(problems)
        return [self._answer(search, options, seconds) for search in searches]

    def _answer(self, search: Search, options: SolveOptions, seconds: float) -> Answer:
        """Return what a search found."""
        problem, bound = search.problem, search.bound()
        if search.action is None:
            status = "no_solution" if search.open else "infeasible"
            return Answer(problem, None, bound, seconds, search.nodes, search.unstable, "", status)  # type: ignore[arg-type]
        message = f"{search.nodes} nodes"
        if not problem.finished(search.value, bound, options):
            why = (
                "given up, as its bound hardly fell," if search.stalled else "stopped at the limit"
            )
            message = f"{why} after {message}"
        return Answer(
            problem, search.action, bound, seconds, search.nodes, search.unstable, message
        )
