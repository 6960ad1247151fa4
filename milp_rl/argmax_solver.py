"""The best feasible action of a Q-network: `argmax`, `argmin` and `ArgmaxSolver`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.conversion import to_network
from milp_rl.formulations.actions.base import ActionSpace
from milp_rl.formulations.bounds import Strength
from milp_rl.formulations.compact import Formulation
from milp_rl.formulations.network import FloatArray, Network, check_vector
from milp_rl.solvers.base import ArgmaxResult, SolveOptions
from milp_rl.solvers.branch_and_bound import BranchAndBoundArgmax
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.milp import MilpArgmax
from milp_rl.solvers.model import milp_solver

SolverName = Literal["auto", "highs", "gurobi", "branch_and_bound", "enumeration"]

_AUTO_ACTIONS = 30_000
_AUTO_DRAWS = 500


class ArgmaxSolver:
    """Exact ``max Q(state, action)`` over a feasible set, built once and called per state.

    A result depends only on the network, the space, the state, the start and the options, never
    on what was solved before.

    Parameters
    ----------
    network
        A torch Q-network (:class:`~milp_rl.qnetwork.QNetwork`, or a ``Sequential`` of Linear,
        ReLU, Flatten and Identity) with inputs [action, state] and one output, an ONNX file, or a
        :class:`~milp_rl.formulations.network.Network`.
    space
        The feasible actions.
    solver
        ``"highs"``, ``"gurobi"``, ``"branch_and_bound"`` (without a MILP solver, states of a batch
        together), ``"enumeration"``, or ``"auto"``: enumeration for at most 30,000 feasible
        actions, otherwise HiGHS.
    formulation
        ``"bigm"`` or ``"partition"``.
    partitions
        Groups a neuron for ``"partition"``.
    bounds
        ``"interval"``, ``"linear"`` (constraint-aware) or ``"lp"``.
    one_sided
        Drop the constraints of the last hidden layer that maximisation makes redundant.
    sense
        ``"maximize"`` or ``"minimize"``.
    gap, absolute_gap
        Stop when bound and value are this close; 0 is exact (to a relative 1e-6).
    time_limit
        Seconds a solve; the result then says ``"feasible"`` and its bound is still valid.
    threads
        Threads a solve.

    Raises
    ------
    ValueError
        If an option is wrong, or network and space do not fit.
    SolverUnavailableError
        If the solver is not installed or has no licence.
    """

    def __init__(
        self,
        network: Any,
        space: ActionSpace,
        *,
        solver: SolverName = "highs",
        formulation: Formulation = "bigm",
        partitions: int = 2,
        bounds: Strength = "linear",
        one_sided: bool = True,
        sense: Literal["maximize", "minimize"] = "maximize",
        gap: float = 0.0,
        absolute_gap: float = 0.0,
        time_limit: float | None = None,
        threads: int = 1,
    ) -> None:
        if not isinstance(space, ActionSpace):
            raise ValueError(f"space must be an ActionSpace, got {type(space).__name__}")
        if sense not in ("maximize", "minimize"):
            raise ValueError(f"sense must be 'maximize' or 'minimize', got {sense!r}")
        self.space = space
        self.sense = sense
        self.options = SolveOptions(gap, absolute_gap, time_limit, threads)
        ir = self._oriented(network)
        if ir.n_inputs < space.n_actions:
            raise ValueError(
                f"the network takes {ir.n_inputs} inputs, [action, state], but the space alone has"
                f" {space.n_actions} actions"
            )
        self.state_dim = ir.n_inputs - space.n_actions
        self._backend: MilpArgmax | EnumerationArgmax | BranchAndBoundArgmax
        if solver == "auto":
            solver = "enumeration" if _is_small(space) else "highs"
        if solver == "enumeration":
            self._backend = EnumerationArgmax(ir, space)
        elif solver == "branch_and_bound":
            self._backend = BranchAndBoundArgmax(ir, space)
        elif solver in ("highs", "gurobi"):
            self._backend = MilpArgmax(
                ir,
                space,
                milp_solver(solver),
                formulation=formulation,
                partitions=partitions,
                bounds=bounds,
                one_sided=one_sided,
            )
        else:
            raise ValueError(
                "solver must be 'auto', 'highs', 'gurobi', 'branch_and_bound' or 'enumeration',"
                f" got {solver!r}"
            )

    def update(self, network: Any) -> None:
        """Replace the network by one of the same input width, keeping the space loaded."""
        ir = self._oriented(network)
        if ir.n_inputs != self.space.n_actions + self.state_dim:
            raise ValueError(
                f"the new network takes {ir.n_inputs} inputs, the old one"
                f" {self.space.n_actions + self.state_dim}"
            )
        self._backend.update(ir)

    def solve(
        self,
        state: ArrayLike,
        *,
        start: ArrayLike | None = None,
        gap: float | None = None,
        time_limit: float | None = None,
    ) -> ArgmaxResult:
        """Solve for one state.

        Parameters
        ----------
        state
            Shape (state_dim,), finite.
        start
            A feasible action to start from.
        gap, time_limit
            Override the solver's own for this call.

        Raises
        ------
        ValueError
            If the state or the start is not valid.
        CertificationError
            If the solver's answer is proven wrong and solving more tightly does not mend it.
        """
        first = None if start is None else self.space.check_action(start)
        options = self._limited(gap, time_limit)
        return self._turned(self._backend.solve(self._checked(state), options, first))

    __call__ = solve

    def solve_batch(
        self, states: ArrayLike, *, gap: float | None = None, time_limit: float | None = None
    ) -> list[ArgmaxResult]:
        """Solve for every row of ``states``, shape (batch, state_dim), in order.

        Branch and bound searches all of them together, with one time limit.
        """
        batch = np.asarray(states, dtype=np.float64)
        if batch.ndim != 2:
            raise ValueError(f"states must have shape (batch, {self.state_dim}), got {batch.shape}")
        if isinstance(self._backend, BranchAndBoundArgmax):
            checked = np.array([self._checked(s) for s in batch]).reshape(-1, self.state_dim)
            results = self._backend.solve_batch(checked, self._limited(gap, time_limit))
            return [self._turned(result) for result in results]
        return [self.solve(state, gap=gap, time_limit=time_limit) for state in batch]

    def _limited(self, gap: float | None, time_limit: float | None) -> SolveOptions:
        options = self.options
        if gap is not None:
            options = replace(options, gap=gap)
        if time_limit is not None:
            options = replace(options, time_limit=time_limit)
        return options

    def _turned(self, result: ArgmaxResult) -> ArgmaxResult:
        """Return the result in the sense that was asked for."""
        if self.sense == "minimize":
            return replace(result, value=-result.value, bound=-result.bound)
        return result

    def _checked(self, state: ArrayLike) -> FloatArray:
        s = check_vector(state, "state")
        if len(s) != self.state_dim:
            raise ValueError(
                f"the state has {len(s)} values, but network and space leave {self.state_dim}"
                f" ({self.state_dim + self.space.n_actions} inputs - {self.space.n_actions}"
                " actions)"
            )
        return s

    def _oriented(self, network: Any) -> Network:
        ir: Network = to_network(network)
        if ir.n_outputs != 1:
            raise ValueError(f"the network must have one output, the Q-value; got {ir.n_outputs}")
        return ir.negated() if self.sense == "minimize" else ir


def _is_small(space: ActionSpace) -> bool:
    """Whether the space has at most 30,000 feasible actions, as far as can be told quickly.

    If none of 500 random maximal actions is drawn twice, there are almost certainly more (with
    30,000 equally likely ones the chance of that is 2%, with fewer it is less), and nothing is
    listed.
    """
    try:
        drawn = space.sample(np.random.default_rng(0), _AUTO_DRAWS, maximal=True)
        if len(np.unique(drawn, axis=0)) == _AUTO_DRAWS:
            return False
        return space.count(_AUTO_ACTIONS) <= _AUTO_ACTIONS
    except ValueError:  # more than can be counted, or none at all
        return False


def argmax(
    network: Any,
    state: ArrayLike,
    space: ActionSpace,
    *,
    start: ArrayLike | None = None,
    **options: Any,
) -> ArgmaxResult:
    """Return a feasible action of highest value, with proof.

    For many states, build an :class:`ArgmaxSolver` once instead.

    Parameters
    ----------
    network, state, space, start
        As for :class:`ArgmaxSolver` and :meth:`ArgmaxSolver.solve`.
    **options
        Options of :class:`ArgmaxSolver`: ``solver``, ``formulation``, ``bounds``, ``gap``,
        ``time_limit``, ``threads``, ...

    Examples
    --------
    >>> import milp_rl as mr
    >>> q_network = mr.QNetwork(state_dim=4, action_dim=20)
    >>> result = mr.argmax(q_network, [0.0, 1.0, 0.5, 0.2], mr.BudgetTopK(n_actions=20, k=5))
    >>> result.status
    'optimal'
    """
    return ArgmaxSolver(network, space, **options).solve(state, start=start)


def argmin(
    network: Any,
    state: ArrayLike,
    space: ActionSpace,
    *,
    start: ArrayLike | None = None,
    **options: Any,
) -> ArgmaxResult:
    """Return a feasible action of lowest value, with proof; see :func:`argmax`."""
    return ArgmaxSolver(network, space, sense="minimize", **options).solve(state, start=start)
