"""A network with skips as a chain, for what takes dense layers one after another, as OMLT does.

What a skip takes is carried from layer to layer by neurons of its own: outputs of ReLU layers are
not negative, and an input is not after its lower bound is subtracted, so that ReLU leaves both as
they are. These neurons are proven on, and cost a formulation no binary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milp_rl.formulations.arrays import FloatArray, IntArray
from milp_rl.formulations.networks.network import INPUT, Layer, Network


@dataclass(frozen=True, eq=False)
class Chain:
    """A network without skips that computes what another does over a box.

    Parameters
    ----------
    network
        The chain; each hidden layer has the neurons of the original's first.
    carried
        For each hidden layer, what its further neurons carry: sources, ``INPUT`` or numbers of
        hidden layers, and which of their outputs, one entry per neuron.
    """

    network: Network
    carried: tuple[tuple[IntArray, IntArray], ...]


def chained(network: Network, lower: FloatArray) -> Chain:
    """Return a network as a chain.

    Parameters
    ----------
    network
        Any network.
    lower
        Lower bounds of its inputs, shape (n_inputs,), finite.
    """
    last = len(network.hidden)
    used: dict[int, IntArray] = {}
    until: dict[int, int] = {}  # the last layer that a source is carried to
    for depth in range(last + 1):
        for source, weight in network.layers[depth].skips:
            columns = np.flatnonzero(weight.any(axis=0))
            used[source] = np.union1d(used.get(source, columns), columns)
            until[source] = depth
    layers: list[Layer] = []
    carried: list[tuple[IntArray, IntArray]] = []
    place = {INPUT: np.arange(network.n_inputs)}  # of sources' outputs in the layer before
    for depth, layer in enumerate(network.layers):
        width_before = network.n_inputs if depth == 0 else len(layers[-1].bias)
        rows, bias = np.zeros((len(layer.bias), width_before)), layer.bias
        for source, weight in network.inputs(depth):
            columns = np.arange(weight.shape[1]) if source == depth - 1 else used[source]
            rows[:, place[source][columns]] += weight[:, columns]
            if source == INPUT and depth > 0:
                bias = bias + weight[:, columns] @ lower[columns]
        if depth == last:
            layers.append(Layer(rows, bias, "linear"))
            break
        kept = [source for source, end in until.items() if source < depth < end]
        parts, ends, after = [rows], [bias], {depth: np.arange(len(bias))}
        names: list[tuple[IntArray, IntArray]] = [(np.zeros(0, dtype=int),) * 2]
        total = len(bias)
        for source in kept:
            columns = used[source]
            carry = np.zeros((len(columns), width_before))
            carry[np.arange(len(columns)), place[source][columns]] = 1.0
            moved = depth == 0  # the inputs are carried without their lower bounds from here on
            parts.append(carry)
            ends.append(-lower[columns] if moved else np.zeros(len(columns)))
            where = np.zeros(columns.max(initial=-1) + 1, dtype=int)
            where[columns] = total + np.arange(len(columns))
            after[source] = where
            names.append((np.full(len(columns), source), columns))
            total += len(columns)
        layers.append(Layer(np.concatenate(parts), np.concatenate(ends), "relu"))
        carried.append(tuple(np.concatenate(own) for own in zip(*names, strict=True)))  # type: ignore[arg-type]
        place = after
    return Chain(Network(tuple(layers)), tuple(carried))
