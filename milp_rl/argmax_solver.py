"""The best feasible action of a Q-network: `argmax`, `argmin` and `ArgmaxSolver`."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import FloatArray, check_vector, unmasked
from milp_rl.formulations.checks import check_integer
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.networks.action_value import ActionValue, NetworkValue
from milp_rl.formulations.networks.conversion import to_action_value
from milp_rl.formulations.networks.link import linked
from milp_rl.formulations.networks.network import NetworkError, warn_if_badly_scaled
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.pins import Pins, pins_of
from milp_rl.formulations.time_limit import until
from milp_rl.solvers.backends import Backends
from milp_rl.solvers.batch import Batch, BatchSolver
from milp_rl.solvers.log import Log, log_of
from milp_rl.solvers.milp.argmax import MilpOptions
from milp_rl.solvers.names import Engine, SolverName
from milp_rl.solvers.options import SolveOptions
from milp_rl.solvers.result import ArgmaxResult, relative_gap

if TYPE_CHECKING:
    from milp_rl.proofs.proof import Proof
    from milp_rl.what_if import WhatIf


_LEAST_SECONDS = 1e-3  # of a time limit that are left to solve


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
        enumeration of up to 30,000 actions or HiGHS. A :class:`Box` whose variables are not all
        binary is divided by a spatial branch and bound of its own, which ``"branch_and_bound"``
        uses for every space of such variables without auxiliary ones; other spaces of them are
        for MILPs and, without continuous variables, enumeration. A result's ``solver`` says which
        it was and its ``message`` why; which of several equally good actions it has depends on
        that.
    engine
        What writes the MILP: ``"compact"``, rows of our own for every state; or ``"pyomo"``, an
        ONNX file read by OMLT, and the space beside it, in a Pyomo model that is made once per
        network and stays loaded (docs/engines.md). It takes networks of dense layers and ReLU in
        [action, state], and is slower; which of several equally good actions it finds depends on
        what was solved before. This and the next four are for MILPs.
    formulation
        ``"bigm"`` or ``"partition"``.
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
        Seconds per solve; the result then says ``"feasible"`` and its bound is still valid. Where
        it is short, see :meth:`prepare`.
    node_limit
        Nodes per solve; the result then says ``"feasible"`` and its bound is still valid.
    threads
        Threads per solve, by a MILP solver and by branch and bound in compiled loops.
    inputs
        Which of the network's two inputs is which, ``("action", "state")`` or ``("state",
        "action")``, where their names do not tell; of a single input, its order, which is
        [action, state] unless said otherwise.
    output
        Of several outputs, the one that is maximised, by position or name.
    state_dim
        Number of state features, where the network does not tell.
    verbose
        Show the lines that a MILP solver writes, how far a search is once a second, and every
        result: true, on standard error; or a function of one line, such as a logger's ``info``;
        false, nowhere, or to the logger ``milp_rl.solvers`` where its level is ``DEBUG``.
        Lines before a result are about a maximisation; those of other processes are not shown.

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
        engine: Engine = "compact",
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
        verbose: bool | Log = False,
    ) -> None:
        if not isinstance(space, ActionSpace):
            raise ValueError(f"space must be an ActionSpace, got {type(space).__name__}")
        if sense not in ("maximize", "minimize"):
            raise ValueError(f"sense must be 'maximize' or 'minimize', got {sense!r}")
        self.space = space
        self.sense = sense
        self.options = SolveOptions(
            gap, absolute_gap, time_limit, threads, node_limit, log_of(verbose)
        )
        self._reading: dict[str, Any] = {
            "inputs": inputs,
            "output": output,
            "state_dim": state_dim,
        }
        value = self._oriented(network)
        self.state_dim = value.state_dim
        if isinstance(value, NetworkValue):
            warn_if_badly_scaled(value.network)
        written = MilpOptions(formulation, partitions, bounds, one_sided, engine)
        with until(self.options.deadline(time.perf_counter())):
            self._batch = BatchSolver(Backends(value, space, solver, written))

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

    def prepare(self) -> Self:
        """Compile or fetch the loops of the search; return the solver.

        It takes seconds, half a minute on a machine where they were not compiled before, and
        nothing where there are none for the set, or it is listed. Without a time limit the first
        search does so by itself, and with one of 5 seconds or more if that is a small part of it.
        Shorter ones do without, which takes several times as long.

        Examples
        --------
        >>> import milp_rl as mr
        >>> network = mr.Network.from_arrays([[[3.0, 2.0, 1.0]]], [[0.0]])
        >>> solver = mr.ArgmaxSolver(network, mr.BudgetTopK(3, 2), time_limit=0.5).prepare()
        >>> solver.solve([]).chosen
        [0, 1]
        """
        with self._batch.in_use() as backends:
            backends.own.prepare()
        return self

    @property
    def value(self) -> ActionValue:
        """What is maximised: Q, or its negative where it is minimised."""
        return self._batch.backend.value

    def solve(
        self,
        state: ArrayLike | None,
        *,
        start: ArrayLike | None = None,
        available: ArrayLike | None = None,
        required: ArrayLike | None = None,
        space: ActionSpace | None = None,
        gap: float | None = None,
        time_limit: float | None = None,
        proof: bool = False,
    ) -> ArgmaxResult:
        """Solve for one state, over the space as it is today.

        Parameters
        ----------
        state
            Shape (state_dim,), finite; ``None`` for a network of the action alone.
        start
            A feasible action to start from, within the masks.
        available
            Mask of the actions that can be chosen today, shape (n_actions,): where it is false, the
            variable is zero. Masks are for binary variables; bounds of others change with
            ``space``.
        required
            Mask of the actions that are promised already, shape (n_actions,): where it is true, the
            variable is one. Where no feasible action is within the masks, the status is
            ``"infeasible"``.
        space
            The feasible set of this call, where its data differ from those of the solver's own
            (capacities, costs, budgets, edges of a graph); over as many variables. The last 32 are
            kept, also for calls with equal ones.
        gap, time_limit
            Override the solver's own for this call.
        proof
            Whether the result is to have a proof, see :meth:`prove`.

        Raises
        ------
        ValueError
            If the state, the start or a mask is not valid, an action is required and not available,
            or the space has another number of variables; or there is no proof of such a problem.
        NotProvenError
            If a proof is not made within the time limit.
        CertificationError
            If the solver's answer is proven wrong and solving more tightly does not mend it.

        Examples
        --------
        >>> import milp_rl as mr
        >>> network = mr.Network.from_arrays([[[3.0, 2.0, 1.0]]], [[0.0]])
        >>> solver = mr.ArgmaxSolver(network, mr.BudgetTopK(3, 2))
        >>> solver.solve([]).chosen
        [0, 1]
        >>> solver.solve([], available=[False, True, True]).chosen
        [1, 2]
        >>> solver.solve([], required=[False, False, True]).chosen
        [0, 2]
        >>> solver.solve([], space=mr.BudgetTopK(3, 1)).chosen
        [0]
        """
        if proof and not (available is None and required is None):
            raise ValueError("a proof is of a whole feasible set: put the masks into the space")
        pins = self._pins(available, required, [space])
        own = self.space if space is None else space
        first = None if start is None else own.check_action(start)
        options = self._limited(gap, time_limit)
        state = self._checked(state)
        batch = Batch(state[None], self._inner(options), [first], pins, [space])
        result = self._reported(self._batch.solve_one(batch), options, space)
        if proof and result.action is not None:
            made = self.prove(state, result, time_limit=options.time_limit)
            result = replace(result, proof=made)
        return result

    __call__ = solve

    def prove(
        self, state: ArrayLike | None, result: ArgmaxResult, *, time_limit: float | None = None
    ) -> Proof:
        """Return a proof of an answer of any solver, for :func:`milp_rl.proofs.check`.

        A search that the check's own bounds guide starts from the answer. The proof is that no
        feasible action is better than the result's bound, or than its value by ``tolerance`` if
        the bound is closer than that; where rounding alone keeps an action's value from being seen
        to be within it, the proof states the bound that it reaches.

        Parameters
        ----------
        state
            The answer's.
        result
            Of :meth:`solve` or :meth:`solve_batch`, without masks.
        time_limit
            Seconds.

        Raises
        ------
        ValueError
            If the result has no action, or there are no proofs of the problem: of networks with a
            link, of trees, of blocks with auxiliary variables without bounds.
        NotProvenError
            If the time ends before, or an action is better than what is to be proven.

        Examples
        --------
        >>> import milp_rl as mr
        >>> from milp_rl.proofs import check
        >>> network = mr.Network.from_arrays([[[3.0, 2.0, 1.0]]], [[0.0]])
        >>> space = mr.BudgetTopK(3, 2)
        >>> solver = mr.ArgmaxSolver(network, space, solver="highs")
        >>> proof = solver.prove([], solver.solve([]))
        >>> check(network, space, [], proof).verified
        True
        """
        from milp_rl.proofs.prove import prove

        if result.action is None:
            raise ValueError(f"there is nothing to prove: the answer is {result.status}")
        value, more = self.value, max(result.tolerance, abs(result.bound - result.value))
        down = self.sense == "minimize"
        return prove(
            value.negated() if down else value,
            self.space if result.space is None else result.space,
            self._checked(state),
            result.action,
            result.value - more if down else result.value + more,
            sense=self.sense,
            deadline=math.inf if time_limit is None else time.perf_counter() + time_limit,
        )

    def solve_batch(
        self,
        states: ArrayLike,
        *,
        starts: Sequence[ArrayLike | None] | None = None,
        available: ArrayLike | None = None,
        required: ArrayLike | None = None,
        space: ActionSpace | Sequence[ActionSpace | None] | None = None,
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
        available, required
            Masks as for :meth:`solve`, for all states or, of shape (batch, n_actions), for each.
        space
            The feasible set of this call, or one for each state, ``None`` for the solver's own.
            States with equal ones are solved together.
        gap, time_limit
            Override the solver's own for this call. Branch and bound takes the time limit for
            32 states together.
        workers
            Threads (MILPs and enumeration) or processes (branch and bound, if it takes long);
            ``None``: one per core.

        Raises
        ------
        ValueError
            If a state, a start, a mask or a space is not valid.
        CertificationError
            If an answer is proven wrong and solving more tightly does not mend it.
        """
        batch = np.asarray(unmasked(states, "states"), dtype=np.float64)
        if batch.ndim != 2:
            raise ValueError(f"states must have shape (batch, {self.state_dim}), got {batch.shape}")
        if starts is not None and len(starts) != len(batch):
            raise ValueError(f"got {len(starts)} starts for {len(batch)} states")
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1 or None, got {workers}")
        checked = np.array([self._checked(s) for s in batch]).reshape(len(batch), self.state_dim)
        nothing = [None] * len(batch)
        given = nothing if space is None else space
        spaces = [given] * len(batch) if isinstance(given, ActionSpace) else list(given)
        if len(spaces) != len(batch):
            raise ValueError(f"got {len(spaces)} spaces for {len(batch)} states")
        pins = self._pins(available, required, spaces, len(batch))
        firsts = [
            None if start is None else (self.space if own is None else own).check_action(start)
            for start, own in zip(nothing if starts is None else starts, spaces, strict=True)
        ]
        options = self._limited(gap, time_limit)
        own_alone = None if space is None else spaces
        asked = Batch(checked, self._inner(options), firsts, pins, own_alone)
        results = self._batch.solve(asked, workers)
        return [
            self._reported(result, options, own)
            for result, own in zip(results, spaces, strict=True)
        ]

    def what_if(
        self,
        state: ArrayLike | None,
        *,
        available: ArrayLike | None = None,
        required: ArrayLike | None = None,
        space: ActionSpace | None = None,
        time_limit: float | None = None,
    ) -> WhatIf:
        """Return the best values with each variable forced, and with each limit one unit larger.

        Parameters
        ----------
        state
            Shape (state_dim,), finite; ``None`` for a network of the action alone.
        available, required, space
            As for :meth:`solve`. What masks hold is not asked about.
        time_limit
            Seconds for everything together: what is not proven then has bounds. Without, each solve
            has the solver's own limit.

        Returns
        -------
        WhatIf
            Tables, and a chart.

        Raises
        ------
        ValueError
            If an argument is not valid, or no action is found: the set is empty, or the time ended.
        CertificationError
            If an answer is proven wrong and solving more tightly does not mend it.
        """
        from milp_rl.what_if import what_if

        return what_if(
            self,
            state,
            available=available,
            required=required,
            space=space,
            time_limit=time_limit,
        )

    def _pins(
        self,
        available: ArrayLike | None,
        required: ArrayLike | None,
        spaces: Sequence[ActionSpace | None],
        n_states: int | None = None,
    ) -> Pins:
        """Check the spaces and masks of a call; return the masks as pins."""
        different = {
            id(space): self.space if space is None else space for space in spaces or [None]
        }
        for space in different.values():
            if not isinstance(space, ActionSpace):
                raise ValueError(f"space must be an ActionSpace, got {type(space).__name__}")
            if space.n_actions != self.space.n_actions:
                raise ValueError(
                    f"the space of the call has {space.n_actions} variables, the solver's own"
                    f" {self.space.n_actions}: only its data may change"
                )
        if available is None and required is None:
            return Pins()
        continuous = np.any([space.continuous for space in different.values()], axis=0)
        integer = np.any([space.integer for space in different.values()], axis=0)
        return pins_of(available, required, continuous, integer, n_states)

    def solve_top(
        self,
        state: ArrayLike | None,
        n: int,
        *,
        min_difference: int = 1,
        available: ArrayLike | None = None,
        required: ArrayLike | None = None,
        space: ActionSpace | None = None,
        gap: float | None = None,
        time_limit: float | None = None,
    ) -> list[ArgmaxResult]:
        """Return the n best actions of one state, in order, each certified, the order proven.

        The first is the best of all feasible actions, each other one the best of those that differ
        from all before it in at least ``min_difference`` variables; its bound is on these.

        Parameters
        ----------
        state
            Shape (state_dim,), finite; ``None`` for a network of the action alone.
        n
            How many, at least 1.
        min_difference
            Variables in which any two of them differ at least. An arm instead of another one is a
            difference in two.
        available, required, space
            As for :meth:`solve`.
        gap, time_limit
            Override the solver's own for this call. The time limit is for all n together.

        Returns
        -------
        list of ArgmaxResult
            Fewer than n if there are no more such actions. If a limit came before another one was
            found, the last result has no action and the status ``"no_solution"``.

        Raises
        ------
        ValueError
            If the state, n, the difference, a mask or the space is not valid, or a variable is
            continuous, or integer and the actions are not listed.
        CertificationError
            If an answer is proven wrong and solving more tightly does not mend it.

        Examples
        --------
        >>> import milp_rl as mr
        >>> network = mr.Network.from_arrays([[[3.0, 1.0, 2.0, 1.0]]], [[0.0]])
        >>> solver = mr.ArgmaxSolver(network, mr.BudgetTopK(4, 2))
        >>> [(result.chosen, result.value) for result in solver.solve_top(None, 3)]
        [([0, 2], 5.0), ([0, 1], 4.0), ([0, 3], 4.0)]
        >>> [result.chosen for result in solver.solve_top(None, 3, min_difference=3)]
        [[0, 2], [1, 3]]
        """
        n = check_integer(n, "n", 1)
        difference = check_integer(min_difference, "min_difference", 1)
        pins = self._pins(available, required, [space])
        options = self._limited(gap, time_limit)
        checked = self._checked(state)
        with self._batch.in_use() as backends:
            backend = backends.over(space)
            networks = backend.value.at_states(checked[None])[0]
            results = backend.ranked(networks, self._inner(options), n, difference, pins)
        return [self._reported(result, options, space) for result in results]

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

    def _reported(
        self, result: ArgmaxResult, asked: SolveOptions, space: ActionSpace | None = None
    ) -> ArgmaxResult:
        """Return the result in the sense and in the units that were asked for, and log it."""
        reported = self._as_asked(result, asked, space)
        if asked.log is not None:
            asked.log(
                f"{reported.status} by {reported.solver}: value {reported.value:.9g}, bound"
                f" {reported.bound:.9g}, {reported.nodes} nodes, {reported.seconds:.3g} s"
                f" ({reported.message})"
            )
        return reported

    def _as_asked(
        self, result: ArgmaxResult, asked: SolveOptions, space: ActionSpace | None
    ) -> ArgmaxResult:
        """Return the result in the sense and in the units that were asked for.

        A link is increasing, but gaps are not the same after it: with one, what is solved for is
        exact, and an answer that a limit left open is judged by its gap after the link.
        """
        sign = -1.0 if self.sense == "minimize" else 1.0
        if self._link == "identity":
            value, bound = sign * result.value, sign * result.bound
            return replace(result, value=value, bound=bound, space=space or self.space)
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
            space=space or self.space,
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

    def _oriented(self, network: Any) -> ActionValue:
        value = to_action_value(network, self.space.n_actions, **self._reading)
        self._link = value.link
        return value.negated() if self.sense == "minimize" else value


def argmax(
    network: Any,
    state: ArrayLike | None,
    space: ActionSpace,
    *,
    start: ArrayLike | None = None,
    available: ArrayLike | None = None,
    required: ArrayLike | None = None,
    **options: Any,
) -> ArgmaxResult:
    """Return a feasible action of highest value, with proof.

    For many states, build an :class:`ArgmaxSolver` once instead.

    Parameters
    ----------
    network, state, space, start, available, required
        As for :class:`ArgmaxSolver` and :meth:`ArgmaxSolver.solve`. The state's size is taken where
        a network does not tell how many state features it has.
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
    return _solved(network, state, space, start, available, required, **options)


def argmin(
    network: Any,
    state: ArrayLike | None,
    space: ActionSpace,
    *,
    start: ArrayLike | None = None,
    available: ArrayLike | None = None,
    required: ArrayLike | None = None,
    **options: Any,
) -> ArgmaxResult:
    """Return a feasible action of lowest value, with proof; see :func:`argmax`."""
    return _solved(network, state, space, start, available, required, sense="minimize", **options)


def _solved(
    network: Any,
    state: ArrayLike | None,
    space: ActionSpace,
    start: ArrayLike | None,
    available: ArrayLike | None,
    required: ArrayLike | None,
    **options: Any,
) -> ArgmaxResult:
    """Set a solver up and solve once, the time limit being for both."""
    begin = time.perf_counter()
    solver = _solver_at(network, state, space, options)
    solver.options = replace(solver.options, once=True)
    limit = solver.options.time_limit
    left = None if limit is None else max(begin + limit - time.perf_counter(), _LEAST_SECONDS)
    return solver.solve(state, start=start, available=available, required=required, time_limit=left)


def _solver_at(
    network: Any, state: ArrayLike | None, space: ActionSpace, options: dict[str, Any]
) -> ArgmaxSolver:
    """Set a solver up, with the state's size if the network tells none, or a wrong one."""
    if state is None or options.get("state_dim") is not None:
        return ArgmaxSolver(network, space, **options)
    of_state = {**options, "state_dim": np.size(state)}
    try:
        solver = ArgmaxSolver(network, space, **options)
    except NetworkError:
        return ArgmaxSolver(network, space, **of_state)
    if solver.state_dim == np.size(state):
        return solver
    try:
        return ArgmaxSolver(network, space, **of_state)
    except ValueError:
        return solver  # solving says what does not fit
