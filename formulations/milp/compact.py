r"""The network as rows of a linear model, without Pyomo: what is loaded for every new state.

Building an ``OmltBlock`` and compiling it takes tens of milliseconds, longer than the solve, so
the solvers' loop uses this writer instead; the rows are those of OMLT's formulations, but on a
network in which every neuron proven on is replaced by its affine expression and every neuron
proven off by zero. Only unstable neurons get variables: for neuron
:math:`y = \max(0, Px + p)` with bounds :math:`l < 0 < u`

``bigm``
    :math:`y \ge Px + p,\; y \le Px + p - l(1-q),\; y \le uq,\; y \ge 0,\; q \in \{0, 1\}`;
``partition`` (n)
    Tsay, Kronqvist, Thebelt, Misener (NeurIPS 2021, arXiv 2102.04373, equations 13 to 17): the
    terms of :math:`Px` in n groups of similar coefficient, each with a copy :math:`v_k` of its
    own that is zero unless :math:`q = 1`; the two big-M rows with our bounds are kept as well, so
    the relaxation is never weaker than ``bigm``.

With ``one_sided`` the last hidden layer keeps only what maximising a scalar output needs: a
neuron with negative output weight only ``y >= Px + p`` (no binary), one with positive output
weight only the upper rows.

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
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.names import Formulation
from milp_rl.formulations.networks.network import Network


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
        x[: self.network.n_inputs] = hidden = np.asarray(action, dtype=np.float64)
        for layer, (pick, y, q) in zip(self.network.hidden, self.neurons, strict=True):
            pre = layer.weight @ hidden + layer.bias
            hidden = np.maximum(pre, 0.0)
            x[y] = hidden[pick] / self.scale[y]
            x[q[q >= 0]] = pre[pick[q >= 0]] > 0
        for columns, groups, q_column in self.copies:
            x[columns] = groups @ np.nan_to_num(x) * x[q_column] / self.scale[columns]
        return x


class _Writer:
    """Rows and columns as they are collected.

    Expressions are dense rows over "slots": the action columns, then the neuron columns.
    """

    def __init__(self, n_actions: int, lower: FloatArray, upper: FloatArray, capacity: int):
        self.n_slots = n_actions
        self.capacity = capacity
        self.lower = np.concatenate([lower, np.zeros(capacity - n_actions)])
        self.upper = np.concatenate([upper, np.zeros(capacity - n_actions)])
        self.integer = np.zeros(capacity, dtype=bool)
        self.rows: list[FloatArray] = []
        self.row_lower: list[FloatArray] = []
        self.row_upper: list[FloatArray] = []
        self.neurons: list[tuple[IntArray, IntArray, IntArray]] = []
        self.copies: list[tuple[IntArray, FloatArray, int]] = []

    def columns(self, low: FloatArray, high: FloatArray, integer: bool = False) -> IntArray:
        start, end = self.n_slots, self.n_slots + len(low)
        self.lower[start:end], self.upper[start:end] = low, high
        self.integer[start:end] = integer
        self.n_slots = end
        return np.arange(start, end)

    def add(self, rows: FloatArray, low: FloatArray | float, high: FloatArray | float) -> None:
        if len(rows):
            self.rows.append(rows)
            self.row_lower.append(np.broadcast_to(low, len(rows)))
            self.row_upper.append(np.broadcast_to(high, len(rows)))


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
    """Write ``network`` over the set ``base``.

    Parameters
    ----------
    network
        A function of the actions alone (see :meth:`Network.at_state`).
    lower, upper
        Valid pre-activation bounds a hidden layer, shape (1, width) or (width,).
    base
        The compiled set; its first columns are the network's inputs.
    formulation
        ``"bigm"`` or ``"partition"``.
    partitions
        Number of groups for ``"partition"``.
    one_sided
        Keep only what maximising a scalar output needs in the last hidden layer.
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
    writer = _Writer(
        n_actions, base.column_lower[:n_actions], base.column_upper[:n_actions], capacity
    )
    weight: FloatArray | None = None  # of the layer's inputs; the first layer's are the actions
    bias = np.zeros(n_actions)
    for depth, layer in enumerate(network.hidden):
        pre_weight = _composed(layer.weight, weight, capacity)
        pre_bias = layer.weight @ bias + layer.bias
        on = lows[depth] >= 0
        weight, bias = np.where(on[:, None], pre_weight, 0.0), np.where(on, pre_bias, 0.0)
        pick = np.flatnonzero(unstable[depth])
        low, high = lows[depth][pick], highs[depth][pick]
        y = writer.columns(np.zeros(len(pick)), high)
        weight[pick, y] = 1.0
        inner, constant = pre_weight[pick], pre_bias[pick]
        needs_lower = needs_upper = np.ones(len(pick), dtype=bool)
        if one_sided and depth == len(network.hidden) - 1:
            gain = network.output.weight[0, pick]
            needs_lower, needs_upper = gain < 0, gain > 0
        over = -inner[needs_lower]
        over[np.arange(len(over)), y[needs_lower]] = 1.0
        writer.add(over, constant[needs_lower], np.inf)
        q = np.full(len(pick), -1)
        q[needs_upper] = _write_upper(
            writer,
            inner[needs_upper],
            constant[needs_upper],
            low[needs_upper],
            high[needs_upper],
            y[needs_upper],
            partitions if formulation == "partition" else 0,
        )
        writer.neurons.append((pick, y, q))
    output_weight = _composed(network.output.weight, weight, capacity)
    output_bias = network.output.weight @ bias + network.output.bias
    return _assemble(writer, base, network, output_weight, output_bias)


def _composed(outer: FloatArray, inner: FloatArray | None, capacity: int) -> FloatArray:
    """Return the rows of a layer over the slots, given those of its inputs."""
    if inner is not None:
        return np.asarray(outer @ inner)
    rows = np.zeros((len(outer), capacity))
    rows[:, : outer.shape[1]] = outer
    return rows


def check_formulation(formulation: str, partitions: int) -> None:
    """Raise ``ValueError`` if there is no such formulation."""
    if formulation not in ("bigm", "partition"):
        raise ValueError(f"formulation must be 'bigm' or 'partition', got {formulation!r}")
    if partitions < 1:
        raise ValueError(f"partitions must be at least 1, got {partitions}")


def _write_upper(
    writer: _Writer,
    inner: FloatArray,
    constant: FloatArray,
    low: FloatArray,
    high: FloatArray,
    y: IntArray,
    partitions: int,
) -> IntArray:
    """Write the upper side of ``y = max(0, inner @ x + constant)``; return the binaries."""
    each = np.arange(len(y))
    q = writer.columns(np.zeros(len(y)), np.ones(len(y)), integer=True)
    under = -inner
    under[each, y] = 1.0
    under[each, q] = -low
    writer.add(under, -np.inf, constant - low)
    switch = np.zeros_like(inner)
    switch[each, y] = 1.0
    switch[each, q] = -high
    writer.add(switch, -np.inf, 0.0)
    for i in each if partitions else ():
        _write_partition(writer, inner[i], float(constant[i]), int(y[i]), int(q[i]), partitions)
    return q


def _write_partition(
    writer: _Writer, inner: FloatArray, constant: float, y: int, q: int, partitions: int
) -> None:
    used = np.flatnonzero(inner)
    used = used[np.argsort(inner[used], kind="stable")]
    groups = [group for group in np.array_split(used, partitions) if len(group)]
    width = len(inner)
    parts = np.zeros((len(groups), width))
    for k, group in enumerate(groups):
        parts[k, group] = inner[group]
    low = np.minimum(parts * writer.lower, parts * writer.upper).sum(axis=1)
    high = np.maximum(parts * writer.lower, parts * writer.upper).sum(axis=1)
    copies = writer.columns(np.minimum(low, 0.0), np.maximum(high, 0.0))
    writer.copies.append((copies, parts, q))
    each = np.arange(len(groups))
    value = np.zeros(width)  # y = sum of the copies + constant * q
    value[copies] = -1.0
    value[y], value[q] = 1.0, -constant
    writer.add(value[None], 0.0, 0.0)
    rest = parts.sum(axis=0)  # sum of (part - copy) + constant * (1 - q) <= 0
    rest[copies] = -1.0
    rest[q] = -constant
    writer.add(rest[None], -np.inf, -constant)
    above, below = np.zeros((len(groups), width)), np.zeros((len(groups), width))
    above[each, copies] = below[each, copies] = 1.0
    above[:, q], below[:, q] = -high, -low
    writer.add(above, -np.inf, 0.0)  # low * q <= copy <= high * q
    writer.add(below, 0.0, np.inf)
    above, below = parts.copy(), parts.copy()
    above[each, copies] = below[each, copies] = -1.0
    above[:, q], below[:, q] = high, low
    writer.add(above, -np.inf, high)  # low * (1 - q) <= part - copy <= high * (1 - q)
    writer.add(below, low, np.inf)


def _assemble(
    writer: _Writer,
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
