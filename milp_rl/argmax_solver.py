"""The best feasible action of a Q-network: `argmax`, `argmin` and `ArgmaxSolver`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import FloatArray, check_vector
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.networks.action_value import ActionValue, NetworkValue
from milp_rl.formulations.networks.conversion import to_network
from milp_rl.formulations.networks.network import Network, warn_if_badly_scaled
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.solvers.backends import new_backend
from milp_rl.solvers.batch import BatchSolver
from milp_rl.solvers.milp.argmax import MilpOptions
from milp_rl.solvers.names import SolverName
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import ArgmaxResult


class ArgmaxSolver:
    """Exact ``max Q(state, action)`` over a feasible set, built once and called per state.

    A result depends only on the network, the space, the state, the start and the options, never
    on what was solved before, except for the choice between equally good actions with ``"auto"``
    and in batches.

    Parameters
    ----------
    network
        A torch Q-network (:class:`~milp_rl.qnetwork.QNetwork`, or a ``Sequential`` of Linear,
        ReLU, Flatten and Identity) with inputs [action, state] and one output, an ONNX file, or a
        :class:`~milp_rl.formulations.networks.network.Network`.
    space
        The feasible actions.
    solver
        ``"highs"``, ``"gurobi"``, ``"scip"``, ``"branch_and_bound"`` (native, states of a batch
        together), ``"enumeration"``, or ``"auto"``: enumeration where that takes next to no time,
        otherwise branch and bound, and for a state that it does not solve in as many nodes as pay,
        enumeration of up to 30,000 actions or HiGHS. A :class:`Box` of continuous actions is
        divided by a spatial branch and bound of its own; spaces with both kinds of variables are
        for MILPs only. A result's ``solver`` says which it was and
        its ``message`` why; which of several equally good actions it has depends on that.
    formulation
        ``"bigm"`` or ``"partition"``; this and the next three are for MILPs.
    partitions
        Groups per neuron for ``"partition"``.
    bounds
        ``"interval"``, ``"linear"`` (constraint-aware) or ``"lp"``.
    one_sided
        Drop the constraints of the last hidden layer that maximisation makes redundant.
    sense
        ``"maximize"`` or ``"minimize"``.
    gap, absolute_gap
        Stop when bound and value are this close; 0 is exact, to 1e-6 of the spread of Q over the
        feasible set (``ArgmaxResult.tolerance``).
    time_limit
        Seconds per solve; the result then says ``"feasible"`` and its bound is still valid.
    node_limit
        Nodes per solve; the result then says ``"feasible"`` and its bound is still valid.
    threads
        Threads per solve by a MILP solver.

    Raises
    ------
    ValueError
        If an option is wrong, or network and space do not fit.
    SolverUnavailableError
        If the solver is not installed or has no licence.

    Warns
    -----
    ScalingWarning
        If the neurons' ranges differ by more than 1e8.
    """

    def __init__(
        self,
        network: Any,
        space: ActionSpace,
        *,
        solver: SolverName = "auto",
        formulation: Formulation = "bigm",
        partitions: int = 2,
        bounds: Strength = "linear",
        one_sided: bool = True,
        sense: Literal["maximize", "minimize"] = "maximize",
        gap: float = 0.0,
        absolute_gap: float = 0.0,
        time_limit: float | None = None,
        node_limit: int | None = None,
        threads: int = 1,
    ) -> None:
        if not isinstance(space, ActionSpace):
            raise ValueError(f"space must be an ActionSpace, got {type(space).__name__}")
        if sense not in ("maximize", "minimize"):
            raise ValueError(f"sense must be 'maximize' or 'minimize', got {sense!r}")
        self.space = space
        self.sense = sense
        self.options = SolveOptions(gap, absolute_gap, time_limit, threads, node_limit)
        value = self._oriented(network)
        self.state_dim = value.state_dim
        if isinstance(value, NetworkValue):
            warn_if_badly_scaled(value.network)
        backend = new_backend(
            value,
            space,
            solver,
            MilpOptions(formulation, partitions, bounds, one_sided),
        )
        self._batch = BatchSolver(backend)

    def __copy__(self) -> ArgmaxSolver:
        """Return an independent copy: what one of the two is updated to is not the other's."""
        return copy.deepcopy(self)

    def update(self, network: Any) -> None:
        """Replace the network by one of the same input width, keeping the space loaded.

        Raises
        ------
        ValueError
            If the width differs.
        RuntimeError
            If another thread is solving with this solver.
        """
        value = self._oriented(network)
        if value.state_dim != self.state_dim:
            raise ValueError(
                f"the new network takes {self.space.n_actions + value.state_dim} inputs, the old"
                f" one {self.space.n_actions + self.state_dim}"
            )
        self._batch.update(value)

    @property
    def value(self) -> ActionValue:
        """What is maximised: Q, or its negative where it is minimised."""
        return self._batch.backend.value

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
        return self._turned(self._batch.solve_one(self._checked(state), options, first))

    __call__ = solve

    def solve_batch(
        self,
        states: ArrayLike,
        *,
        starts: Sequence[ArrayLike | None] | None = None,
        gap: float | None = None,
        time_limit: float | None = None,
        workers: int | None = None,
    ) -> list[ArgmaxResult]:
        """Solve for every row of ``states``, in order; the answers do not depend on ``workers``.

        Parameters
        ----------
        states
            Shape (batch, state_dim), finite.
        starts
            For each state a feasible action to start from, or ``None`` for it.
        gap, time_limit
            Override the solver's own for this call. Branch and bound takes the time limit for
            32 states together.
        workers
            Threads (MILPs and enumeration) or processes (branch and bound, if it takes long);
            ``None``: one per core.

        Raises
        ------
        ValueError
            If a state or a start is not valid.
        CertificationError
            If an answer is proven wrong and solving more tightly does not mend it.
        """
        batch = np.asarray(states, dtype=np.float64)
        if batch.ndim != 2:
            raise ValueError(f"states must have shape (batch, {self.state_dim}), got {batch.shape}")
        if starts is not None and len(starts) != len(batch):
            raise ValueError(f"got {len(starts)} starts for {len(batch)} states")
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1 or None, got {workers}")
        checked = np.array([self._checked(s) for s in batch]).reshape(len(batch), self.state_dim)
        firsts = [
            None if start is None else self.space.check_action(start)
            for start in (starts if starts is not None else [None] * len(batch))
        ]
        results = self._batch.solve(checked, self._limited(gap, time_limit), firsts, workers)
        return [self._turned(result) for result in results]

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

    def _oriented(self, network: Any) -> ActionValue:
        n = self.space.n_actions
        if isinstance(network, ActionValue):
            value = network
            if value.n_actions != n:
                raise ValueError(
                    f"the action value is of {value.n_actions} actions, the space of {n}"
                )
        else:
            ir: Network = to_network(network)
            if ir.n_outputs != 1:
                raise ValueError(
                    f"the network must have one output, the Q-value; got {ir.n_outputs}"
                )
            if ir.n_inputs < n:
                raise ValueError(
                    f"the network takes {ir.n_inputs} inputs, [action, state], but the space alone"
                    f" has {n} actions"
                )
            value = NetworkValue(ir, n)
        return value.negated() if self.sense == "minimize" else value


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
