r"""OMLT's big-M and partition formulations on a Pyomo block, with bounds from elsewhere.

OMLT derives the bounds of its neurons by interval arithmetic over the inputs' box. Here each neuron
gets those it is given. They can be changed afterwards, without writing anything anew, as far as
OMLT's rows let them: the bounds of variables, the binaries of neurons proven on or off, and for
big-M the constants :math:`l` and :math:`u`, which OMLT writes as mutable parameters. Those of the
partition formulation are numbers in its rows and stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from omlt import OmltBlock
from omlt.neuralnet import FullSpaceNNFormulation, NetworkDefinition
from omlt.neuralnet.activations import bigm_relu_activation_constraint
from omlt.neuralnet.layer import DenseLayer, InputLayer
from omlt.neuralnet.layers.full_space import full_space_dense_layer
from omlt.neuralnet.layers.partition_based import (
    default_partition_split_func,
    partition_based_dense_relu_layer,
)
from pyomo.common.log import LoggingIntercept

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.bounds import Bounds
from milp_rl.formulations.names import Formulation
from milp_rl.formulations.networks.network import Network


@dataclass(frozen=True, eq=False)
class OmltNetwork:
    """A network of dense ReLU layers that OMLT wrote on a block.

    Parameters
    ----------
    block
        The ``OmltBlock``.
    inputs, outputs
        Variables.
    hidden
        OMLT's blocks of the hidden layers, input side first.
    last
        That of the output layer.
    bounds
        What it was written with.
    partitions
        Groups of each neuron, 0 for big-M.
    maximised
        Weights of the output, shape (neurons,), if only rows were kept that its maximisation needs.
    """

    block: Any
    inputs: list[Any]
    outputs: list[Any]
    hidden: list[Any]
    last: Any
    bounds: Bounds
    partitions: int
    maximised: FloatArray | None

    @classmethod
    def write(
        cls,
        block: Any,
        definition: NetworkDefinition,
        bounds: Bounds,
        *,
        formulation: Formulation = "bigm",
        partitions: int = 2,
        maximised: FloatArray | None = None,
    ) -> OmltNetwork:
        """Write a network as an ``OmltBlock`` named ``omlt`` on a block.

        Parameters
        ----------
        block
            A Pyomo block.
        definition
            Dense layers one after another, with the inputs' box.
        bounds
            Of every neuron, over what the inputs may be; of one state.
        formulation, partitions
            OMLT's big-M or partition formulation.
        maximised
            Weights of the one output, shape (neurons,): rows that its maximisation makes redundant
            are left out for neurons of the last hidden layer that the bounds leave unstable.
        """
        groups = partitions if formulation == "partition" else 0
        writers = _Writers(bounds, groups)
        formulated = FullSpaceNNFormulation(
            definition,
            layer_constraints={DenseLayer: writers.layer},
            activation_constraints={"relu": writers.relu},
        )
        block.omlt = OmltBlock()
        with LoggingIntercept(module="pyomo.core"):  # OMLT starts its inputs at 0, out of bounds
            block.omlt.build_formulation(formulated)
        *hidden, last = writers.blocks
        n, outputs = len(block.omlt.inputs), bounds.output_lower.shape[1]
        written = cls(
            block.omlt,
            [block.omlt.inputs[i] for i in range(n)],
            [block.omlt.outputs[i] for i in range(outputs)],
            hidden,
            last,
            bounds,
            groups,
            maximised,
        )
        if maximised is not None and hidden and not groups:
            written._keep_needed(maximised)
        return written

    def _keep_needed(self, maximised: FloatArray) -> None:
        """Drop rows of the last hidden layer that maximising the output makes redundant."""
        layer, low, high = self.hidden[-1], self.bounds.lower[-1][0], self.bounds.upper[-1][0]
        for i in np.flatnonzero((low < 0) & (high > 0)).tolist():
            if maximised[i] <= 0:
                layer._z_upper_bound_relu[i].deactivate()
                layer._z_upper_bound_zhat_relu[i].deactivate()
                layer.q_relu[i].fix(0)
            else:
                layer._z_lower_bound_zhat_relu[i].deactivate()

    def binary(self, depth: int, i: int) -> tuple[Any, bool]:
        """Return the binary of a hidden neuron, and whether it is one where the neuron is on."""
        if self.partitions:  # OMLT's sig is one where the neuron is off
            return self.hidden[depth].output_node_block[i].sig, False
        return self.hidden[depth].q_relu[i], True

    def fix_proven(self) -> None:
        """Fix the binary of every neuron that the bounds prove on or off."""
        for depth, (low, high) in enumerate(zip(self.bounds.lower, self.bounds.upper, strict=True)):
            for i in np.flatnonzero((low[0] >= 0) | (high[0] <= 0)).tolist():
                binary, on = self.binary(depth, i)
                binary.fix(int((low[0, i] >= 0) == on))

    def free_inputs(self, inputs: range) -> None:
        """Take the bounds off some of the inputs.

        That is right where the neurons' bounds are changed for whatever values they get.
        """
        scaled = self.block.scaled_inputs
        first = next(iter(self.block.layer.values()))
        for i in inputs:
            for variable in (self.inputs[i], scaled[i], first.z[i]):
                _bound(variable, None, None)

    def change_bounds(self, bounds: Bounds) -> None:
        """Set the neurons' bounds to others, of one state, within those it was written with.

        Those of big-M may be any others. Binaries of neurons proven on or off are held by their
        bounds, which a solver that stays loaded takes over as numbers.
        """
        for depth, layer in enumerate(self.hidden):
            low, high = bounds.lower[depth][0].tolist(), bounds.upper[depth][0].tolist()
            for i, (lower, upper) in enumerate(zip(low, high, strict=True)):
                if not self.partitions:
                    layer._big_m_lb_relu[i].set_value(lower)
                    layer._big_m_ub_relu[i].set_value(upper)
                    _bound(layer.zhat[i], lower, upper)
                _bound(layer.z[i], max(lower, 0.0), max(upper, 0.0))
                binary, on = self.binary(depth, i)
                proven = lower >= 0 or upper <= 0
                held = float((lower >= 0) == on)
                _bound(binary, held if proven else 0.0, held if proven else 1.0)
        output = (float(bounds.output_lower[0, 0]), float(bounds.output_upper[0, 0]))
        _bound(self.last.zhat[0], *output)
        _bound(self.last.z[0], *output)
        _bound(self.outputs[0], *output)

    def start_at(self, before: list[FloatArray]) -> None:
        """Give the binaries their values at a point.

        Parameters
        ----------
        before
            Pre-activations of each layer there, shape (neurons,) each.
        """
        for depth, values in enumerate(before[: len(self.hidden)]):
            for i, value in enumerate(values.tolist()):
                binary, on = self.binary(depth, i)
                if not binary.fixed:
                    binary.set_value(int((value > 0) == on))


def _bound(variable: Any, lower: float | None, upper: float | None) -> None:
    variable.setlb(lower)
    variable.setub(upper)


class _Writers:
    """The layer and activation writers handed to OMLT, one call per layer in order."""

    def __init__(self, bounds: Bounds, partitions: int) -> None:
        self._bounds = bounds
        self._partitions = partitions
        self.blocks: list[Any] = []

    def layer(self, net_block: Any, net: Any, layer_block: Any, layer: Any) -> None:
        depth = len(self.blocks)
        self.blocks.append(layer_block)
        if layer.activation == "relu" and self._partitions:
            split: Callable[[Any], Any] = partial(default_partition_split_func, n=self._partitions)
            partition_based_dense_relu_layer(net_block, net, layer_block, layer, split)
            for i, high in enumerate(self._bounds.upper[depth][0].tolist()):
                layer_block.z[i].setub(min(layer_block.z[i].ub, max(0.0, high)))
            return
        full_space_dense_layer(net_block, net, layer_block, layer)
        hidden = layer.activation == "relu"
        low = self._bounds.lower[depth] if hidden else self._bounds.output_lower
        high = self._bounds.upper[depth] if hidden else self._bounds.output_upper
        for i in range(low.shape[1]):
            _bound(layer_block.zhat[i], float(low[0, i]), float(high[0, i]))

    def relu(self, net_block: Any, net: Any, layer_block: Any, layer: Any) -> None:
        if not self._partitions:
            bigm_relu_activation_constraint(net_block, net, layer_block, layer)


def omlt_definition(network: Network, low: FloatArray, high: FloatArray) -> NetworkDefinition:
    """Return OMLT's description of a network whose inputs lie in the box [low, high].

    Parameters
    ----------
    network
        A chain (:func:`milp_rl.formulations.networks.chain.chained`).
    low, high
        Shape (n_inputs,).
    """
    bounds = {i: (float(a), float(b)) for i, (a, b) in enumerate(zip(low, high, strict=True))}
    definition = NetworkDefinition(scaled_input_bounds=bounds)
    before: Any = InputLayer([network.n_inputs])
    definition.add_layer(before)
    for layer in network.layers:
        outputs, n_inputs = layer.weight.shape
        dense = DenseLayer(
            [n_inputs], [outputs], layer.weight.T, layer.bias, activation=layer.activation
        )
        definition.add_layer(dense)
        definition.add_edge(before, dense)
        before = dense
    return definition
