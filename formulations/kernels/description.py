"""What compiled loops are given: networks and oracles as a few flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.action_value import ActionNetworks
from milp_rl.formulations.networks.network import INPUT
from milp_rl.formulations.relaxation import layer_gammas

Integers = NDArray[np.int64]
Signs = NDArray[np.int8]
Singles = NDArray[np.float32]


class TopKOracle(NamedTuple):
    """At most k actions: k, and 1 if exactly k are taken."""

    data: Integers


class KnapsackOracle(NamedTuple):
    """At most k actions within a budget: that of :class:`TopKOracle`, the budget and the costs."""

    data: Integers
    numbers: FloatArray


class ClassCountsOracle(NamedTuple):
    """Numbers of actions of each class, by the decision diagram of the maximal count vectors.

    Number of classes, number of states and of arcs, the class of each level, first state of each
    level and of the last one, class of each action, first arc of each state but the last, and the
    end, then of all arcs the counts, and the states that they lead to
    (:mod:`milp_rl.formulations.spaces.oracles.count_vectors`).
    """

    data: Integers


class ScheduleOracle(NamedTuple):
    """Actions that can be served in slots, by the count vectors of classes that can.

    Budget, number of Hall's rows, number of classes, the rows, their limits, then the data of a
    :class:`ClassCountsOracle`: the best actions within the budget are the maximum where Hall's
    conditions hold of them.
    """

    data: Integers


class SlotsOracle(NamedTuple):
    """Actions that can be served in slots, where a relaxation bounds what cannot.

    As for :class:`ScheduleOracle`, with units needed by an arm of each class and the class of each
    action instead.
    """

    data: Integers


class MatchingOracle(NamedTuple):
    """Pairs of two sides: how many there are of each, the least and the largest number of pairs.

    And of each pair 1 if it is eligible.
    """

    data: Integers


CompiledOracle = (
    TopKOracle | KnapsackOracle | ClassCountsOracle | ScheduleOracle | SlotsOracle | MatchingOracle
)
"""A space's oracle for linear objectives, as compiled loops take it: they are compiled for each."""


class NetworkArrays(NamedTuple):
    """The networks of a batch of states; layers up to the outputs, and (layer, source) pairs.

    Parameters
    ----------
    n_actions
        Number of action variables.
    widths
        Of each layer.
    starts
        Of each layer, its first neuron among those of all; the last is that of the outputs.
    first_pair
        First pair of each layer, and the end.
    source
        The layer that each pair takes, ``INPUT`` for the action.
    offset, stride
        Where a pair's weights begin, row by row, and how far on those of the next state are.
    weights, transposed
        Of all pairs, output by output and input by input.
    bias_offset, bias_stride, biases
        The same of each layer's biases.
    gammas
        Of each layer: what float64 loses of a sum, per unit of its absolute terms.
    """

    n_actions: int
    widths: Integers
    starts: Integers
    first_pair: Integers
    source: Integers
    offset: Integers
    stride: Integers
    weights: FloatArray
    transposed: FloatArray
    bias_offset: Integers
    bias_stride: Integers
    biases: FloatArray
    gammas: FloatArray


@dataclass(frozen=True, eq=False)
class Loops:
    """What compiled loops take for the argmax of a state.

    Parameters
    ----------
    oracle
        Of the space.
    networks
        Of several states.
    state
        Which of them.
    """

    oracle: CompiledOracle
    networks: NetworkArrays
    state: int


def network_arrays(networks: ActionNetworks) -> NetworkArrays:
    """Lay the networks of some states out as flat arrays."""
    widths, first_pair, source, offset, stride = [], [0], [], [], []
    weights: list[FloatArray] = []
    transposed: list[FloatArray] = []
    bias_offset, bias_stride = [], []
    biases: list[FloatArray] = []
    at = bias_at = 0
    for layer in networks.layers:
        widths.append(layer.width)
        for k, weight in layer.inputs:
            source.append(k)
            offset.append(at)
            stride.append(0 if weight.ndim == 2 else weight.shape[1] * weight.shape[2])
            weights.append(weight.ravel())
            transposed.append(weight.swapaxes(-1, -2).ravel())
            at += weight.size
        first_pair.append(len(source))
        bias_offset.append(bias_at)
        bias_stride.append(0 if layer.bias.ndim == 1 else layer.width)
        biases.append(layer.bias.ravel())
        bias_at += layer.bias.size
    assert INPUT < 0

    def whole(numbers: list[int]) -> Integers:
        return np.array(numbers, dtype=np.int64)

    return NetworkArrays(
        networks.n_actions,
        whole(widths),
        whole([0, *np.cumsum(widths[:-1]).tolist()]),
        whole(first_pair),
        whole(source),
        whole(offset),
        whole(stride),
        np.concatenate([np.zeros(0), *weights]),
        np.concatenate([np.zeros(0), *transposed]),
        whole(bias_offset),
        whole(bias_stride),
        np.concatenate(biases),
        np.array(layer_gammas(networks)),
    )
