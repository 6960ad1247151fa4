"""The best feasible action of a Q-network: `argmax`, `argmin` and `ArgmaxSolver`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import FloatArray, check_vector
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.networks.action_value import ActionValue, NetworkValue
from milp_rl.formulations.networks.conversion import to_action_value
from milp_rl.formulations.networks.link import linked
from milp_rl.formulations.networks.network import warn_if_badly_scaled
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.solvers.backends import new_backend
from milp_rl.solvers.batch import BatchSolver
from milp_rl.solvers.milp.argmax import MilpOptions
from milp_rl.solvers.names import SolverName
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import ArgmaxResult, relative_gap


class ArgmaxSolver:
    """Exact ``max Q(state, action)`` over a feasible set, built once and called per state.

    A result depends only on the network, the space, the state, the start and the options, never
    on what was solved before, except for the choice between equally good actions with ``"auto"``
    and in batches.

    Parameters
    ----------
    network
        Q(state, action): a torch module, an ONNX file, a scikit-learn regressor, trees, an
        :class:`~milp_rl.formulations.networks.ensemble.Ensemble` of several, a
        :class:`~milp_rl.formulations.networks.network.Network`, or anything else that
        :func:`~milp_rl.formulations.networks.conversion.to_action_value` takes. It may do anything
        to the state; what follows the action has to be piecewise linear.
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
    inputs
        Which of the network's two inputs is which, ``("action", "state")`` or ``("state",
        "action")``, where their names do not tell; of a single input, its order, which is
        [action, state] unless said otherwise.
    output
        Of several outputs, the one that is maximised, by position or name.
    state_dim
        Number of state features, where the network does not tell.

    Raises
    ------
    ValueError
        If an option is wrong, or network and space do not fit.
    NetworkError
        If what follows the action is not piecewise linear; the message names every such operator.
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
        inputs: Sequence[str] | Mapping[str, str] | None = None,
        output: int | str | None = None,
        state_dim: int | None = None,
    ) -> None:
        if not isinstance(space, ActionSpace):
            raise ValueError(f"space must be an ActionSpace, got {type(space).__name__}")
        if sense not in ("maximize", "minimize"):
            raise ValueError(f"sense must be 'maximize' or 'minimize', got {sense!r}")
        self.space = space
        self.sense = sense
        self.options = SolveOptions(gap, absolute_gap, time_limit, threads, node_limit)
        self._reading: dict[str, Any] = {"inputs": inputs, "output": output}
        value = self._oriented(network, state_dim)
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
        value = self._oriented(network, None)
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
        state: ArrayLike | None,
        *,
        start: ArrayLike | None = None,
        gap: float | None = None,
        time_limit: float | None = None,
    ) -> ArgmaxResult:
        """Solve for one state.

        Parameters
        ----------
        state
            Shape (state_dim,), finite; ``None`` for a network of the action alone.
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
        result = self._batch.solve_one(self._checked(state), self._inner(options), first)
        return self._reported(result, options)

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
        options = self._limited(gap, time_limit)
        results = self._batch.solve(checked, self._inner(options), firsts, workers)
        return [self._reported(result, options) for result in results]

    def _inner(self, options: SolveOptions) -> SolveOptions:
        """Return the options for the values before a link."""
        if self._link == "identity":
            return options
        return replace(options, gap=0.0, absolute_gap=0.0)

    def _limited(self, gap: float | None, time_limit: float | None) -> SolveOptions:
        options = self.options
        if gap is not None:
            options = replace(options, gap=gap)
        if time_limit is not None:
            options = replace(options, time_limit=time_limit)
        return options

    def _reported(self, result: ArgmaxResult, asked: SolveOptions) -> ArgmaxResult:
        """Return the result in the sense and in the units that were asked for.

        A link is increasing, but gaps are not the same after it: with one, what is solved for is
        exact, and an answer that a limit left open is judged by its gap after the link.
        """
        sign = -1.0 if self.sense == "minimize" else 1.0
        if self._link == "identity":
            value, bound = sign * result.value, sign * result.bound
            return replace(result, value=value, bound=bound, space=self.space)
        inner = np.array([result.value, result.bound, result.value + result.tolerance])
        value, bound, other = linked(self._link, sign * inner).tolist()
        difference, tolerance = abs(bound - value), abs(other - value)
        status = result.status
        if status == "feasible" and difference <= max(
            asked.gap * abs(value), asked.absolute_gap, tolerance
        ):
            status = "optimal"
        gap = relative_gap(value, bound) if result.action is not None else math.inf
        return replace(
            result,
            value=value,
            bound=bound,
            gap=gap,
            tolerance=tolerance,
            status=status,
            space=self.space,
        )

    def _checked(self, state: ArrayLike | None) -> FloatArray:
        s = check_vector([] if state is None else state, "state")
        if len(s) != self.state_dim:
            raise ValueError(
                f"the state has {len(s)} values, but network and space leave {self.state_dim}"
                f" ({self.state_dim + self.space.n_actions} inputs - {self.space.n_actions}"
                " actions)"
            )
        return s

    def _oriented(self, network: Any, state_dim: int | None) -> ActionValue:
        value = to_action_value(network, self.space.n_actions, state_dim=state_dim, **self._reading)
        self._link = value.link
        return value.negated() if self.sense == "minimize" else value


def argmax(
    network: Any,
    state: ArrayLike | None,
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
    state: ArrayLike | None,
    space: ActionSpace,
    *,
    start: ArrayLike | None = None,
    **options: Any,
) -> ArgmaxResult:
    """Return a feasible action of lowest value, with proof; see :func:`argmax`."""
    return ArgmaxSolver(network, space, sense="minimize", **options).solve(state, start=start)
