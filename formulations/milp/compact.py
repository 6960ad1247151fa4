r"""The network as rows of a linear model, without Pyomo: what is loaded for every new state.

Building an ``OmltBlock`` and compiling it takes tens of milliseconds, longer than the solve, so
the solvers' loop uses this writer instead; the rows are those of OMLT's formulations, but on a
network in which every neuron proven on is replaced by its affine expression and every neuron
proven off by zero. Only unstable neurons get variables, :math:`y = \max(0, Px + p)` with bounds
:math:`l < 0 < u`: in the rows of :mod:`~milp_rl.formulations.milp.bigm`, and for ``"partition"``
also in those of :mod:`~milp_rl.formulations.milp.partition`, so that this relaxation is never
weaker.

With ``one_sided`` a hidden layer that leads to the output alone keeps only what maximising a scalar
output needs: a neuron with negative output weight only ``y >= Px + p`` (no binary), one with
positive output weight only the upper rows.

The variables :math:`y` and :math:`v_k` are scaled by their ranges and the rows by their largest
coefficient, so that a solver's absolute tolerances are relative to each neuron's range, whatever
the scale of the network's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.milp.bigm import write_upper
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.milp.partition import write_partition
from milp_rl.formulations.milp.writer import RowWriter
from milp_rl.formulations.names import Formulation
from milp_rl.formulations.networks.network import INPUT, Network


@dataclass(frozen=True, eq=False)
class CompactModel:
    """A linear model of a set and a network over it.

    Parameters
    ----------
    model
        The set's columns first (actions leading), then the neurons'. For a scalar network the
        objective is the output.
    output_weight, output_bias
        The outputs as affine functions of the columns, shapes (n_outputs, columns) and
        (n_outputs,).
    network
        What was written.
    neurons
        For each hidden layer: the unstable neurons, their columns and, where they have one,
        their binaries' columns (-1 where not).
    copies
        For ``partition``: columns of a neuron's copies, its groups' rows, its binary's column.
    scale
        What one unit of each column stands for, shape (columns,).
    """

    model: LinearModel
    output_weight: FloatArray
    output_bias: FloatArray
    network: Network
    neurons: tuple[tuple[IntArray, IntArray, IntArray], ...]
    copies: tuple[tuple[IntArray, FloatArray, int], ...]
    scale: FloatArray

    def complete(self, action: ArrayLike) -> FloatArray:
        """Extend an action to all columns by a forward pass.

        Returns
        -------
        numpy.ndarray
            Shape (columns,); NaN for the set's own auxiliary columns, which only a solver can
            fill in.
        """
        x = np.full(self.model.n_columns, np.nan)
        x[: self.network.n_inputs] = chosen = np.asarray(action, dtype=np.float64)
        before = self.network.pre_activations(chosen)
        for pre, (pick, y, q) in zip(before, self.neurons, strict=False):
            x[y] = np.maximum(pre[pick], 0.0) / self.scale[y]
            x[q[q >= 0]] = pre[pick[q >= 0]] > 0
        for columns, groups, q_column in self.copies:
            x[columns] = groups @ np.nan_to_num(x) * x[q_column] / self.scale[columns]
        return x


def compact_model(
    network: Network,
    lower: Sequence[FloatArray],
    upper: Sequence[FloatArray],
    base: LinearModel,
    *,
    formulation: Formulation = "bigm",
    partitions: int = 2,
    one_sided: bool = False,
) -> CompactModel:
    r"""Write ``network`` over the set ``base``.

    Over a feasible set :math:`A`, rows and columns describe

    .. math:: \Big\{(a, h) : a \in A,\; h_0 = a,\;
              h_k = \max\Big(0, b_k + \sum_{j < k} W_{kj} h_j\Big)\Big\},

    each unstable neuron by the formulation's binary and rows.

    Parameters
    ----------
    network
        A function of the actions alone (see :meth:`Network.at_state`).
    lower, upper
        Valid pre-activation bounds per hidden layer, shape (1, width) or (width,).
    base
        The compiled set; its first columns are the network's inputs.
    formulation
        ``"bigm"`` or ``"partition"``.
    partitions
        Number of groups for ``"partition"``.
    one_sided
        Keep only what maximising a scalar output needs in hidden layers that lead to it alone.

    Raises
    ------
    ValueError
        If there is no such formulation, or ``one_sided`` is given with several outputs.

    Examples
    --------
    Of the two neurons of ``relu(a + b - 1) + relu(a - b)``, the first is never on under a budget
    of one: it takes no column. The second adds its output and its binary.

    >>> import numpy as np
    >>> import milp_rl as mr
    >>> from milp_rl.formulations.milp.compact import compact_model
    >>> weights = [[[1.0, 1.0], [1.0, -1.0]], [[1.0, 1.0]]]
    >>> network = mr.Network.from_arrays(weights, [[-1.0, 0.0], [0.0]])
    >>> lower, upper = [np.array([-1.0, -1.0])], [np.array([0.0, 1.0])]
    >>> budget = mr.BudgetTopK(2, 1).linear_model
    >>> written = compact_model(network, lower, upper, budget)
    >>> written.model.n_columns, written.model.n_rows
    (4, 4)
    >>> written.model.integer
    array([ True,  True, False,  True])
    >>> written.complete([1, 0])
    array([1., 0., 1., 1.])
    """
    check_formulation(formulation, partitions)
    if one_sided and network.n_outputs != 1:
        raise ValueError("one_sided needs a network with one output")
    n_actions = network.n_inputs
    lows = [np.reshape(a, -1) for a in lower]
    highs = [np.reshape(a, -1) for a in upper]
    unstable = [(low < 0) & (high > 0) for low, high in zip(lows, highs, strict=True)]
    extra = 2 + (partitions if formulation == "partition" else 0)
    capacity = n_actions + extra * sum(int(mask.sum()) for mask in unstable)
    writer = RowWriter(
        n_actions, base.column_lower[:n_actions], base.column_upper[:n_actions], capacity
    )
    last = _into_output_alone(network)
    known: dict[int, tuple[FloatArray, FloatArray]] = {}  # layers' outputs over the slots
    for depth in range(len(network.hidden)):
        pre_weight, pre_bias = _composed(network, depth, known, capacity)
        on = lows[depth] >= 0
        weight, bias = np.where(on[:, None], pre_weight, 0.0), np.where(on, pre_bias, 0.0)
        known[depth] = weight, bias
        pick = np.flatnonzero(unstable[depth])
        low, high = lows[depth][pick], highs[depth][pick]
        y = writer.columns(np.zeros(len(pick)), high)
        weight[pick, y] = 1.0
        inner, constant = pre_weight[pick], pre_bias[pick]
        needs_lower = needs_upper = np.ones(len(pick), dtype=bool)
        if one_sided and depth in last:
            gain = last[depth][0, pick]
            needs_lower, needs_upper = gain < 0, gain > 0
        over = -inner[needs_lower]
        over[np.arange(len(over)), y[needs_lower]] = 1.0
        writer.add(over, constant[needs_lower], np.inf)
        q = np.full(len(pick), -1)
        kept = np.flatnonzero(needs_upper)
        q[kept] = write_upper(writer, inner[kept], constant[kept], low[kept], high[kept], y[kept])
        for i in kept if formulation == "partition" else ():
            write_partition(writer, inner[i], float(constant[i]), int(y[i]), int(q[i]), partitions)
        writer.neurons.append((pick, y, q))
    output_weight, output_bias = _composed(network, len(network.hidden), known, capacity)
    return _assemble(writer, base, network, output_weight, output_bias)


def _composed(
    network: Network,
    depth: int,
    known: dict[int, tuple[FloatArray, FloatArray]],
    capacity: int,
) -> tuple[FloatArray, FloatArray]:
    """Return a layer's pre-activations over the slots, given the outputs of those before."""
    bias = network.layers[depth].bias
    rows = np.zeros((len(bias), capacity))
    for source, weight in network.inputs(depth):
        if source == INPUT:
            rows[:, : weight.shape[1]] += weight
        else:
            rows += weight @ known[source][0]
            bias = bias + weight @ known[source][1]
    return rows, bias


def _into_output_alone(network: Network) -> dict[int, FloatArray]:
    """Return the output's weights of the hidden layers that lead nowhere else, by layer."""
    others = {k for depth in range(len(network.hidden)) for k, _ in network.inputs(depth)}
    output = network.inputs(len(network.hidden))
    return {k: weight for k, weight in output if k != INPUT and k not in others}


def check_formulation(formulation: str, partitions: int) -> None:
    """Raise ``ValueError`` if there is no such formulation."""
    if formulation not in ("bigm", "partition"):
        raise ValueError(f"formulation must be 'bigm' or 'partition', got {formulation!r}")
    if partitions < 1:
        raise ValueError(f"partitions must be at least 1, got {partitions}")


def _assemble(
    writer: RowWriter,
    base: LinearModel,
    network: Network,
    output_weight: FloatArray,
    output_bias: FloatArray,
) -> CompactModel:
    """Append the collected rows and columns to the set's model."""
    n_slots, n_base, n_actions = writer.n_slots, base.n_columns, network.n_inputs
    column = np.concatenate([np.arange(n_actions), np.arange(n_base, n_base + n_slots - n_actions)])
    n_columns = n_base + n_slots - n_actions
    scale = np.ones(n_slots)
    continuous = np.flatnonzero(~writer.integer[n_actions:n_slots]) + n_actions
    reach = np.maximum(np.abs(writer.lower[continuous]), np.abs(writer.upper[continuous]))
    scale[continuous] = np.where(reach > 0, reach, 1.0)
    rows = np.zeros((0, n_slots))
    row_lower = row_upper = np.zeros(0)
    if writer.rows:
        rows = np.concatenate(writer.rows)[:, :n_slots] * scale
        largest = np.abs(rows).max(axis=1)
        largest[largest == 0] = 1.0
        rows /= largest[:, None]
        row_lower = np.concatenate(writer.row_lower) / largest
        row_upper = np.concatenate(writer.row_upper) / largest
    row_index, slot = np.nonzero(rows)
    starts = np.searchsorted(row_index, np.arange(1, len(rows) + 1)) + base.matrix.indptr[-1]
    matrix = sparse.csr_array(
        (
            np.concatenate([base.matrix.data, rows[row_index, slot]]),
            np.concatenate([base.matrix.indices, column[slot]]),
            np.concatenate([base.matrix.indptr, starts]),
        ),
        shape=(base.n_rows + len(rows), n_columns),
    )
    neurons = slice(n_actions, n_slots)

    def placed(expressions: FloatArray) -> FloatArray:
        wide = np.zeros((len(expressions), n_columns))
        wide[:, column] = expressions[:, :n_slots] * scale
        return wide

    outputs = placed(output_weight)
    scalar = len(outputs) == 1
    model = LinearModel(
        outputs[0] if scalar else np.zeros(n_columns),
        float(output_bias[0]) if scalar else 0.0,
        matrix,
        np.concatenate([base.row_lower, row_lower]),
        np.concatenate([base.row_upper, row_upper]),
        np.concatenate([base.column_lower, writer.lower[neurons] / scale[neurons]]),
        np.concatenate([base.column_upper, writer.upper[neurons] / scale[neurons]]),
        np.concatenate([base.integer, writer.integer[neurons]]),
    )
    return CompactModel(
        model,
        outputs,
        output_bias,
        network,
        tuple((pick, column[y], np.where(q >= 0, column[q], -1)) for pick, y, q in writer.neurons),
        tuple(
            (column[copies], placed(parts), int(column[q])) for copies, parts, q in writer.copies
        ),
        np.concatenate([np.ones(n_base), scale[neurons]]),
    )
