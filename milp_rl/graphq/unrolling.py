r"""A graph Q-network at fixed states, layer after layer, as ReLU networks in the decision alone.

For binary a and fixed s, Q is a ReLU network in a. With :math:`y = (a, p)`, where the products
:math:`p_{ij} = a_i a_j = \max(0, a_i + a_j - 1)` are the neurons of a first layer:

* Any function of one binary is affine, :math:`\phi(y_j) = \phi(0) + y_j (\phi(1) - \phi(0))`, and
  so are the features before the first round.
* In a round, :math:`h_k' = \max(0, c_k + \sum_j M_{kj} h_j)`. A node that one binary decides, or
  none, needs no neurons, by the same equation; of all others every channel is a neuron. Of the
  variables these are those that two interventions or more reach; of the interventions there are
  none in the first round, but for members of pairs.
* In the last round, with z the pre-activations of the features of intervention i at :math:`a_i = 1`
  and u an upper bound of them, :math:`a_i h_i = \max(0, z - u (1 - a_i))`: a skip from the action.
* As :math:`a_i \max(0, x) = \max(0, a_i x)`, its head takes that as it is:
  :math:`a_i \, g(h_i) = w^\top \max(0, W a_i h_i + v a_i) + r a_i`. Of an intervention that its own
  flag alone decides, g is a constant of the state, and :math:`a_i \, g` linear.

With R rounds these are R + 1 hidden layers, and one more with pairs. With one round and no pairs
all neurons are of variables, at most two for each channel of each.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.bounds import BoundPropagator
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks
from milp_rl.formulations.networks.network import INPUT
from milp_rl.graphq.network import GraphQNetwork

_CONSTANT, _BINARIES = -3, -2  # sources beside the numbers of hidden layers


@dataclass(frozen=True)
class Features:
    """Features of nodes of a kind, affine in the binaries y and in hidden layers.

    Parameters
    ----------
    parts
        For each source its weights, (states or 1, nodes, channels, width of the source); that of
        ``_CONSTANT`` has width 1. All have ``_CONSTANT`` and ``_BINARIES``.
    deciding
        Which binaries a node depends on directly, (nodes, binaries).
    deep
        Whether it depends on neurons of a round, (nodes,).
    """

    parts: dict[int, Tensor]
    deciding: BoolArray
    deep: BoolArray

    @property
    def simple(self) -> BoolArray:
        """Whether one binary at most decides a node, (nodes,)."""
        return np.asarray(~self.deep & (self.deciding.sum(axis=1) <= 1))

    def of(self, nodes: BoolArray) -> Features:
        """Return the features of some of the nodes."""
        index = torch.from_numpy(nodes)
        parts = {source: part[:, index] for source, part in self.parts.items()}
        return Features(parts, self.deciding[nodes], self.deep[nodes])

    def mapped(self, linear: nn.Linear) -> Features:
        """Return a linear layer of the features."""
        parts = {
            source: torch.einsum("dc,zncw->zndw", linear.weight, part)
            for source, part in self.parts.items()
        }
        if linear.bias is not None:
            parts[_CONSTANT] = parts[_CONSTANT] + linear.bias[:, None]
        return replace(self, parts=parts)

    def gathered(self, matrix: Tensor) -> Features:
        """Return ``matrix @ features``, (targets, nodes) the shape of ``matrix``."""
        parts = {
            source: torch.einsum("tn,zncw->ztcw", matrix, part)
            for source, part in self.parts.items()
        }
        edges = matrix.numpy() != 0
        return Features(parts, edges @ self.deciding, edges @ self.deep)

    def summed(self) -> Features:
        """Return the sum over all nodes, as the features of one."""
        parts = {source: part.sum(dim=1, keepdim=True) for source, part in self.parts.items()}
        return Features(
            parts, np.atleast_2d(self.deciding.any(axis=0)), np.array([self.deep.any()])
        )

    def __add__(self, other: Features) -> Features:
        parts = dict(self.parts)
        for source, part in other.parts.items():
            parts[source] = parts[source] + part if source in parts else part
        return Features(parts, self.deciding | other.deciding, self.deep | other.deep)


class Unrolling:
    """The pass of a network over a batch of states that makes the layers, one after another."""

    def __init__(
        self, network: GraphQNetwork, propagator: BoundPropagator, states: FloatArray
    ) -> None:
        self._network = network
        self._propagator = propagator
        self._states = states
        self._n = network.action_dim
        first, second = network.members
        self._binaries = self._n + len(first)
        self._matrices = {
            name: torch.from_numpy(matrix) for name, matrix in network.matrices().items()
        }
        self._layers: list[ActionLayer] = []
        if first:
            both = np.zeros((len(first), self._n))
            both[np.arange(len(first)), first] = both[np.arange(len(first)), second] = 1.0
            self._layers.append(ActionLayer(((INPUT, both),), np.full(len(first), -1.0)))

    def networks(self) -> ActionNetworks:
        """Return the networks in the decision alone."""
        heads: Any = self._network.heads
        *rounds, last_round = self._network.convolutions
        h = self._encoded()
        for convolution in rounds:
            h = self._relu({**h, **self._messages(h, convolution)})
        z = self._messages(h, last_round)
        simple = z["intervention"].simple
        chosen = np.flatnonzero(~simple)  # their features and head are multiplied by their flag
        own = self._own_flag(z["intervention"])
        constants = heads["selected"](torch.relu(z["intervention"].parts[_CONSTANT][..., 0] + own))
        h = {"variable": z["variable"]}
        if len(chosen):
            h["intervention"] = self._gated(z["intervention"].of(~simple), chosen)
        h = self._relu(h)
        for position in (0, 2):
            h["variable"] = h["variable"].mapped(heads["variable"][position])
            if len(chosen):
                mapped = h["intervention"].mapped(heads["selected"][position])
                h["intervention"] = self._bias_times_flag(mapped, chosen)
            if position == 0:
                h = self._relu(h)
        flags = torch.zeros(len(constants), 1, 1, self._binaries, dtype=torch.float64)
        flags[:, 0, 0, : self._n] = constants[..., 0] * torch.from_numpy(simple)
        own_terms = np.zeros((1, self._binaries), dtype=bool)
        own_terms[0, : self._n] = simple
        level = self._network.level.reshape(1, 1, 1, 1)
        terms = Features({_CONSTANT: level, _BINARIES: flags}, own_terms, np.zeros(1, dtype=bool))
        total = reduce(operator.add, [features.summed() for features in h.values()], terms)
        self._layers.append(self._layer([total]))
        return ActionNetworks(tuple(self._layers), self._n, len(self._states))

    def _encoded(self) -> dict[str, Features]:
        """Return the features before the first round: of variables constants, affine in y else."""
        network, n = self._network, self._n
        found = {}
        positions = {"intervention": range(n), "pair": range(n, self._binaries)}
        for kind, embedding in network.embeddings.items():
            nodes = len(embedding)

            def encode(x: Tensor, kind: str = kind, embedding: Tensor = embedding) -> Tensor:
                own = embedding.expand(len(x), -1, -1)
                z: Tensor = network.encoders[kind](torch.cat([x[..., None], own], dim=-1))
                return torch.relu(z)[..., None]

            deciding = np.zeros((nodes, self._binaries), dtype=bool)
            if kind == "variable":
                constant = encode(torch.from_numpy(np.asarray(self._states, dtype=np.float64)))
                weights = constant.new_zeros(1, nodes, constant.shape[2], self._binaries)
            else:
                constant = encode(torch.zeros(1, nodes, dtype=torch.float64))
                change = encode(torch.ones(1, nodes, dtype=torch.float64)) - constant
                at = np.array(positions[kind])
                deciding[np.arange(nodes), at] = True
                weights = change * torch.from_numpy(deciding)[:, None]
            parts = {_CONSTANT: constant, _BINARIES: weights}
            found[kind] = Features(parts, deciding, np.zeros(nodes, dtype=bool))
        return found

    def _messages(self, h: dict[str, Features], convolution: Any) -> dict[str, Features]:
        """Return what nodes receive in a round: the pre-activations of their new features."""
        found: dict[str, Features] = {}
        for name, matrix in self._matrices.items():
            source, _, target = name
            conv = convolution.convs[name]
            received = h[source].gathered(matrix).mapped(conv.lin_rel)
            if conv.lin_root is not None:
                received = received + h[target].mapped(conv.lin_root)
            found[target] = found[target] + received if target in found else received
        return found

    def _relu(self, z: dict[str, Features]) -> dict[str, Features]:
        """Return the features of pre-activations; those of nodes that are not simple: a layer."""
        deep = {kind: ~features.simple for kind, features in z.items()}
        rows = [features.of(deep[kind]) for kind, features in z.items() if deep[kind].any()]
        if rows:
            self._layers.append(self._layer(rows))
        found, begin = {}, 0
        for kind, features in z.items():
            constant, weights = features.parts[_CONSTANT], features.parts[_BINARIES]
            simple = torch.from_numpy(~deep[kind])[:, None, None]
            off = torch.relu(constant) * simple
            parts = {_CONSTANT: off, _BINARIES: (torch.relu(constant + weights) - off) * simple}
            channels, count = constant.shape[2], int(deep[kind].sum())
            if count:
                new = constant.new_zeros(1, len(deep[kind]), channels, self._layers[-1].width)
                neurons = begin + torch.arange(count * channels).reshape(count, channels)
                at = torch.from_numpy(np.flatnonzero(deep[kind]))[:, None]
                new[0, at, torch.arange(channels), neurons] = 1.0
                parts[len(self._layers) - 1] = new
                begin += count * channels
            deciding = features.deciding & ~deep[kind][:, None]
            found[kind] = Features(parts, deciding, deep[kind])
        return found

    def _own_flag(self, features: Features) -> Tensor:
        """Return the weights of the interventions' own flags, (states or 1, nodes, channels)."""
        own = features.parts[_BINARIES][..., : self._n]
        return torch.diagonal(own, dim1=1, dim2=3).transpose(1, 2)

    def _gated(self, z: Features, chosen: IntArray) -> Features:
        """Return pre-activations that are those at a_i = 1 if a_i = 1, and else nonpositive."""
        constant, weights = z.parts[_CONSTANT], z.parts[_BINARIES].clone()
        node, at = torch.arange(len(chosen)), torch.from_numpy(chosen)
        # Indices apart from each other put their axis first.
        constant = constant + weights[:, node, :, at].movedim(0, 1)[..., None]
        weights[:, node, :, at] = 0.0
        selected = replace(z, parts={**z.parts, _CONSTANT: constant, _BINARIES: weights})
        layers = (*self._layers, self._layer([selected]))
        bounds = self._propagator.at(ActionNetworks(layers, self._n, len(self._states)))
        most = torch.from_numpy(np.maximum(bounds.output_upper, 0.0)).reshape(
            len(self._states), *constant.shape[1:3]
        )
        weights = weights.expand(len(most), -1, -1, -1).clone()
        weights[:, node, :, at] = most.movedim(1, 0)
        parts = {**z.parts, _CONSTANT: constant - most[..., None], _BINARIES: weights}
        return replace(z, parts=parts, deciding=_with_own(z.deciding, chosen))

    def _bias_times_flag(self, features: Features, chosen: IntArray) -> Features:
        """Return features whose constants are multiplied by the flag of their intervention."""
        constant, weights = features.parts[_CONSTANT], features.parts[_BINARIES].clone()
        node, at = torch.arange(len(chosen)), torch.from_numpy(chosen)
        weights[:, node, :, at] += constant[..., 0].movedim(0, 1)
        parts = {**features.parts, _CONSTANT: torch.zeros_like(constant), _BINARIES: weights}
        return replace(features, parts=parts, deciding=_with_own(features.deciding, chosen))

    def _layer(self, rows: list[Features]) -> ActionLayer:
        """Return the layer whose outputs are all these features, one after another."""
        bias = _stacked([features.parts[_CONSTANT] for features in rows])[..., 0]
        inputs: list[tuple[int, FloatArray]] = []
        weight = _stacked([features.parts[_BINARIES] for features in rows])
        deciding = np.concatenate([features.deciding for features in rows])
        if deciding[:, : self._n].any() or not self._layers:
            inputs.append((INPUT, np.ascontiguousarray(weight[..., : self._n])))
        if deciding[:, self._n :].any():
            inputs.append((0, np.ascontiguousarray(weight[..., self._n :])))
        for source, layer in enumerate(self._layers):
            if any(source in features.parts for features in rows):
                none = torch.zeros(1, 1, 1, layer.width, dtype=torch.float64)
                parts = [
                    f.parts.get(source, none.expand(*f.parts[_CONSTANT].shape[:3], -1))
                    for f in rows
                ]
                inputs.append((source, _stacked(parts)))
        return ActionLayer(tuple(inputs), bias)


def _with_own(deciding: BoolArray, chosen: IntArray) -> BoolArray:
    """Return what decides nodes, the own flag of each intervention among it."""
    found = deciding.copy()
    found[np.arange(len(chosen)), chosen] = True
    return found


def _stacked(parts: list[Tensor]) -> FloatArray:
    """Return the weights of all features of all nodes: (features, width), or per state."""
    count = max(len(part) for part in parts)
    flat = [part.flatten(1, 2).expand(count, -1, -1) for part in parts]
    stacked = torch.cat(flat, dim=1).numpy()
    return stacked[0] if count == 1 else stacked
