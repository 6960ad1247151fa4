"""Writing the model of an argmax as an MPS or LP file, for other solvers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import check_vector
from milp_rl.formulations.bounds import BoundPropagator
from milp_rl.formulations.files import write_atomically
from milp_rl.formulations.milp.compact import CompactModel, compact_model
from milp_rl.formulations.milp.highs import new_highs, pass_model
from milp_rl.formulations.names import Formulation, Strength
from milp_rl.formulations.networks.action_value import ActionValue, as_action_value
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace


def export_model(
    network: Network | ActionValue,
    space: ActionSpace,
    state: ArrayLike,
    path: str | Path,
    *,
    formulation: Formulation = "bigm",
    partitions: int = 2,
    bounds: Strength = "linear",
    one_sided: bool = True,
) -> CompactModel:
    r"""Write ``max Q(state, action)`` over the space as a mixed-integer linear program.

    .. math:: \max \Big\{ b_K + \sum_{j < K} W_{Kj} h_j : a \in A,\; h_0 = a,\;
              h_k = \max\Big(0, b_k + \sum_{j < k} W_{kj} h_j\Big) \Big\}

    It is the model that the MILP solvers of this library solve, with the constant of the objective.
    The columns of the action are named ``a0``, ``a1``, ... and come first, those of hidden neurons
    ``y_LAYER_NEURON`` (scaled to their range) and ``q_LAYER_NEURON`` (on or off). An MPS file says
    how to maximise by ``OBJSENSE``.

    Parameters
    ----------
    network
        Q(state, action), or a network of one output whose inputs are [action, state].
    space
        The feasible set.
    state
        Shape (state_dim,), finite.
    path
        Ends in ``.mps`` or ``.lp``; the file appears whole or not at all.
    formulation, partitions, bounds, one_sided
        As in :class:`milp_rl.argmax_solver.ArgmaxSolver`.

    Returns
    -------
    CompactModel
        What was written.

    Raises
    ------
    ValueError
        If the path has another ending, or network, space and state do not fit.
    InfeasibleSetError
        If the space is found to be empty.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import milp_rl as mr
    >>> from milp_rl.solvers.export import export_model
    >>> network = mr.Network.from_arrays([[[-1.0, 1.0, 1.0]], [[1.0]]], [[-1.0], [0.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.lp")
    ...     written = export_model(network, mr.BudgetTopK(3, 2), [], path)
    ...     text = path.read_text()
    >>> [name in text for name in ("a0", "a1", "a2", "y_0_0", "q_0_0")]
    [True, True, True, True, True]
    >>> written.model.n_columns, written.model.n_rows
    (5, 3)
    """
    target = Path(path)
    if target.suffix not in (".mps", ".lp"):
        raise ValueError(f"a model is written as .mps or .lp, not {target.name!r}")
    s = check_vector(state, "state")
    if isinstance(network, Network) and (
        len(s) != network.n_inputs - space.n_actions or network.n_outputs != 1
    ):
        raise ValueError(
            f"the network takes {network.n_inputs} inputs and has {network.n_outputs} outputs; a"
            f" state of {len(s)} values and {space.n_actions} actions do not fit"
        )
    if isinstance(network, ActionValue) and (
        network.binary or network.n_actions != space.n_actions or len(s) != network.state_dim
    ):
        raise ValueError(
            "models of trees are not written"
            if network.binary
            else f"the {type(network).__name__} takes {network.n_actions} actions and"
            f" {network.state_dim} state features; a state of {len(s)} values and"
            f" {space.n_actions} actions do not fit"
        )
    base = space.linear_model
    networks = as_action_value(network, space.n_actions).at_states(s[None])[0]
    propagator = BoundPropagator(
        space.n_actions,
        space.linear_max,
        box=(space.lower, space.upper),
        strength=bounds,
        model=base,
    )
    known = propagator.at(networks)
    compact = compact_model(
        networks.at(0),
        known.lower,
        known.upper,
        base,
        formulation=formulation,
        partitions=partitions,
        one_sided=one_sided,
    )
    highs = new_highs()
    pass_model(highs, compact.model)
    for column, name in _names(compact, base.n_columns).items():
        highs.passColName(column, name)
    with tempfile.TemporaryDirectory() as folder:  # HiGHS chooses the format by the file's ending
        written = Path(folder, f"model{target.suffix}")
        highs.writeModel(str(written))
        write_atomically(target, written.read_bytes())
    return compact


def _names(compact: CompactModel, n_base: int) -> dict[int, str]:
    """Name every column."""
    n_actions = compact.network.n_inputs
    names = {i: f"a{i}" if i < n_actions else f"x{i}" for i in range(n_base)}
    for depth, (neurons, columns, binaries) in enumerate(compact.neurons):
        for neuron, y, q in zip(neurons, columns, binaries, strict=True):
            names[int(y)] = f"y_{depth}_{neuron}"
            if q >= 0:
                names[int(q)] = f"q_{depth}_{neuron}"
    for i in range(n_base, compact.model.n_columns):
        names.setdefault(i, f"v{i}")
    return names
