"""Marginal values along greedy builds of decisions, brought up to date instead of recomputed.

An addition changes one flag. Before the first round of messages that changes one row of features;
in the first round, one row of the interventions' and a rank-one term of the variables'. These are
kept for every build and updated; only later rounds are computed anew, and the last one for the
interventions alone. The result is that of :meth:`GraphQNetwork.forward` up to rounding, several
times faster. Arrays are laid out node by node, (nodes, builds, channels), so that every product is
one matrix product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import nn

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.graphq.network import GraphQNetwork

Array = NDArray[np.float32]

_MANY, _FEW = 8, 0.2  # builds, and share of the entries, for which sparse products are faster
_EFFECT = ("intervention", "moves", "variable")
_BACK = ("variable", "moved by", "intervention")
_AMONG = (("variable", "moves", "variable"), ("variable", "moved from", "variable"))


class GreedyMarginals:
    """An ``expand`` of :class:`SequentialBuilder`, relative to stopping, for greedy builds.

    Parameters
    ----------
    network
        The network, on a graph without interactions.
    states
        Shape (builds, state_dim), float32.
    """

    def __init__(self, network: GraphQNetwork, states: Array) -> None:
        self._network = network
        self._matrices: dict[Any, Any] = network.matrices()
        self._effects = self._matrices[_EFFECT]
        if len(states) >= _MANY:
            self._matrices = {name: _sparse(matrix) for name, matrix in self._matrices.items()}
        first = self._layer(0)
        flags = [self._encoded("intervention", np.full((network.action_dim, 1), f)) for f in (0, 1)]
        off, on = (features[:, 0] for features in flags)
        variables = self._encoded("variable", states.T)
        n = len(states)
        self._on_variables = first.among(variables) + first.effect(off[:, None])
        self._on_interventions = first.back(variables) + first.root_i(off)[:, None]
        self._pushes = (on - off) @ first.effect_weight
        self._turns = first.root_i(on) - first.root_i(off)
        self._seen = np.zeros((n, network.action_dim), dtype=np.int8)
        self._later = [self._layer(i) for i in range(1, len(network.convolutions))]
        head: Any = network.heads["addition"]
        self._head = [_affine(head[0]), _affine(head[2])]

    def __call__(
        self, rows: NDArray[np.intp], actions: ActionArray, allowed: BoolArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return zeros, and the marginal values of all additions, shape (batch, action_dim)."""
        of, added = np.nonzero(actions != self._seen[rows])
        if len(of):
            built = rows[of]
            effects = self._effects[:, added]
            self._on_variables[:, built] += effects[:, :, None] * self._pushes[added]
            self._on_interventions[added, built] += self._turns[added]
            self._seen[rows] = actions
        everything = len(rows) == len(self._seen)
        pick = slice(None) if everything else rows
        variables = np.maximum(self._on_variables[:, pick], 0.0)
        interventions = np.maximum(self._on_interventions[:, pick], 0.0)
        for i, layer in enumerate(self._later):
            moved = layer.back(variables) + layer.root_i(interventions)
            if i + 1 < len(self._later):
                variables = np.maximum(layer.among(variables) + layer.effect(interventions), 0.0)
            interventions = np.maximum(moved, 0.0)
        (weight, bias), (last, constant) = self._head
        hidden = np.maximum(_times(interventions, weight) + bias, 0.0)
        marginals = (_times(hidden, last) + constant)[..., 0].T
        return np.zeros(len(rows)), marginals.astype(np.float64)

    def _encoded(self, kind: str, x: NDArray[Any]) -> Array:
        """Encode values of nodes, shape (nodes, builds)."""
        weight, bias = _affine(self._network.encoders[kind])
        embedding = self._network.embeddings[kind].detach().numpy()
        own = embedding @ weight[1:] + bias
        return np.asarray(np.maximum(x[..., None].astype(np.float32) * weight[0] + own[:, None], 0))

    def _layer(self, index: int) -> _Layer:
        convolution: Any = self._network.convolutions[index]
        return _Layer({tuple(k): v for k, v in convolution.convs.items()}, self._matrices)


class _Layer:
    """One round of messages, in numpy; the arrays are views of the network's weights."""

    def __init__(self, convs: dict[Any, Any], matrices: dict[Any, Any]) -> None:
        self._matrices = matrices
        self._passes = {name: _affine(conv.lin_rel) for name, conv in convs.items()}
        roots = {name[2]: conv.lin_root for name, conv in convs.items() if conv.lin_root}
        self._roots = {kind: _affine(root)[0] for kind, root in roots.items()}
        self.effect_weight = self._passes[_EFFECT][0]

    def effect(self, interventions: Array) -> Array:
        """Messages of interventions to variables."""
        return self._message(_EFFECT, interventions)

    def back(self, variables: Array) -> Array:
        """Messages of variables to interventions."""
        return self._message(_BACK, variables)

    def among(self, variables: Array) -> Array:
        """Messages among variables, and each one's own."""
        own: Array = _times(variables, self._roots["variable"])
        for name in _AMONG:
            own = own + self._message(name, variables)
        return own

    def root_i(self, interventions: Array) -> Array:
        """Each intervention's own."""
        return _times(interventions, self._roots["intervention"])

    def _message(self, name: Any, features: Array) -> Array:
        weight, bias = self._passes[name]
        matrix, sent = self._matrices[name], _times(features, weight)
        received = matrix @ sent.reshape(len(sent), -1)
        return np.asarray(received.reshape(-1, *sent.shape[1:]) + bias)


def _sparse(matrix: Array) -> Any:
    """Return a matrix with few entries as a sparse one."""
    return csr_array(matrix) if np.count_nonzero(matrix) < _FEW * matrix.size else matrix


def _affine(linear: Any) -> tuple[Array, Array]:
    """Return a linear layer's weight, shape (inputs, outputs), and bias."""
    assert isinstance(linear, nn.Module)
    weight: Any = linear.weight
    bias: Any = linear.bias
    w = weight.detach().numpy().T
    return w, np.zeros(w.shape[1], dtype=np.float32) if bias is None else bias.detach().numpy()


def _times(features: Array, weight: Array) -> Array:
    flat = features.reshape(-1, features.shape[-1]) @ weight
    return np.asarray(flat.reshape(*features.shape[:-1], weight.shape[1]))
