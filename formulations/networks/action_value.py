r"""What values actions in a state: for each state, a ReLU network in the action alone.

At a fixed state everything that does not depend on the action is a constant. So Q may be any
function of the state, as deep as one likes and with whatever operators, as long as what follows
the action is piecewise linear: :math:`Q(s, a) = N_s(a)` with a network :math:`N_s` whose weights
and biases are functions of the state. An :class:`ActionValue` gives these networks for a batch of
states in one evaluation (:class:`ActionNetworks`); a plain network whose inputs are [action, state]
is the case in which only biases depend on the state (:class:`NetworkValue`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray, check_states
from milp_rl.formulations.networks.link import Link
from milp_rl.formulations.networks.network import INPUT, Layer, Network, folded_bias


@dataclass(frozen=True, eq=False)
class ActionLayer:
    """A layer of the networks of a batch of states.

    Parameters
    ----------
    inputs
        Sources, numbers of earlier hidden layers or ``INPUT`` (the action), and their weights:
        shape (outputs, width) where all states share them, else (states, outputs, width).
    bias
        Shape (outputs,) where all states share it, else (states, outputs).
    """

    inputs: tuple[tuple[int, FloatArray], ...]
    bias: FloatArray

    @property
    def width(self) -> int:
        """Number of outputs."""
        return int(self.bias.shape[-1])


@dataclass(frozen=True, eq=False)
class ActionNetworks:
    """Networks in the action alone, one per state: hidden layers with ReLU, a linear output.

    Parameters
    ----------
    layers
        From the first hidden layer to the output.
    n_actions
        Number of action variables.
    n_states
        Number of states.
    """

    layers: tuple[ActionLayer, ...]
    n_actions: int
    n_states: int

    def __len__(self) -> int:
        return self.n_states

    @property
    def hidden(self) -> tuple[ActionLayer, ...]:
        """The ReLU layers, input side first."""
        return self.layers[:-1]

    @property
    def widest(self) -> int:
        """Width of the widest layer."""
        return max(layer.width for layer in self.layers)

    @classmethod
    def of(cls, network: Network) -> ActionNetworks:
        """Return the batch of one network in the action alone."""
        layers = tuple(
            ActionLayer(network.inputs(depth), layer.bias)
            for depth, layer in enumerate(network.layers)
        )
        return cls(layers, network.n_inputs, 1)

    def at(self, state: int) -> Network:
        """Return the network of one state."""
        layers, widths = [], {INPUT: self.n_actions}
        for depth, layer in enumerate(self.layers):
            weights = {k: w if w.ndim == 2 else w[state] for k, w in layer.inputs}
            bias = layer.bias if layer.bias.ndim == 1 else layer.bias[state]
            main = weights.pop(depth - 1, np.zeros((layer.width, widths[depth - 1])))
            kind = "linear" if depth == len(self.layers) - 1 else "relu"
            layers.append(Layer(main, bias, kind, tuple(weights.items())))
            widths[depth] = layer.width
        return Network(tuple(layers))

    def rows(self, states: slice | IntArray | BoolArray) -> ActionNetworks:
        """Return the networks of some of the states."""
        count = len(np.arange(self.n_states)[states])
        layers = tuple(
            ActionLayer(
                tuple((k, w if w.ndim == 2 else w[states]) for k, w in layer.inputs),
                layer.bias if layer.bias.ndim == 1 else layer.bias[states],
            )
            for layer in self.layers
        )
        return ActionNetworks(layers, self.n_actions, count)

    @cached_property
    def constants(self) -> FloatArray:
        """The output's constant at each state, shape (states,); 0 without hidden layers.

        Without hidden layers the state goes into the same sum.
        """
        bias = self.layers[-1].bias[..., 0]
        return np.broadcast_to(bias if self.hidden else np.zeros(()), (self.n_states,))

    def centred(self) -> ActionNetworks:
        """Return the networks without their output's constants."""
        if not self.hidden:
            return self
        last = self.layers[-1]
        zero = ActionLayer(last.inputs, np.zeros(last.width))
        return ActionNetworks((*self.hidden, zero), self.n_actions, self.n_states)

    def negated(self) -> ActionNetworks:
        """Return the networks whose outputs are the negatives of these."""
        last = self.layers[-1]
        turned = ActionLayer(tuple((k, -w) for k, w in last.inputs), -last.bias)
        return ActionNetworks((*self.hidden, turned), self.n_actions, self.n_states)

    def values(self, actions: FloatArray, states: IntArray) -> FloatArray:
        """Return the first output of actions at states, shape (actions,).

        Parameters
        ----------
        actions
            Shape (actions, n_actions).
        states
            The state of each.
        """
        outputs: dict[int, FloatArray] = {INPUT: actions}
        for depth, layer in enumerate(self.layers):
            bias = layer.bias if layer.bias.ndim == 1 else layer.bias[states]
            y: FloatArray = np.broadcast_to(bias, (len(actions), layer.width))
            for source, weight in layer.inputs:
                y = y + times_transposed(outputs[source], weight, states)
            outputs[depth] = np.maximum(y, 0.0)
        return np.asarray(y[:, 0])


def times_transposed(x: FloatArray, weight: FloatArray, states: IntArray) -> FloatArray:
    """Return ``weight @ x`` of each row, (rows, outputs), by the weight of the row's state."""
    if weight.ndim == 2:
        return np.asarray(x @ weight.T)
    return np.asarray(np.matmul(weight[states], x[..., None])[..., 0])


class ActionValue(ABC):
    """A scalar Q(state, action), piecewise linear in the action.

    Attributes
    ----------
    n_actions
        Number of action variables.
    state_dim
        Number of state features.
    link
        The increasing function that the model behind it applies to the values
        (:mod:`milp_rl.formulations.networks.link`); everything here is without it.
    """

    n_actions: int
    state_dim: int
    link: Link = "identity"

    @abstractmethod
    def at_states(self, states: FloatArray) -> ActionNetworks:
        """Return the networks in the action alone, for finite states (states, state_dim)."""

    def at_state(self, state: ArrayLike) -> Network:
        """Return the network in the action alone at one state, shape (state_dim,)."""
        return self.at_states(check_states(np.asarray(state)[None], self.state_dim)).at(0)

    def values(self, states: FloatArray, actions: FloatArray) -> FloatArray:
        """Return the value of each action in the state of the same row, shape (rows,)."""
        return self.at_states(states).values(actions, np.arange(len(actions)))

    def negated(self) -> ActionValue:
        """Return the action value whose values are the negatives of these."""
        return _Negated(self)


class _Negated(ActionValue):
    def __init__(self, inner: ActionValue) -> None:
        self.inner = inner
        self.n_actions, self.state_dim = inner.n_actions, inner.state_dim

    def at_states(self, states: FloatArray) -> ActionNetworks:
        return self.inner.at_states(states).negated()

    def negated(self) -> ActionValue:
        return self.inner


class NetworkValue(ActionValue):
    """The action value of a network whose inputs are [action, state].

    Neurons that the action does not reach are constants at a state, and are evaluated there.

    Parameters
    ----------
    network
        Of one output.
    n_actions
        Number of leading inputs that are actions.
    """

    def __init__(self, network: Network, n_actions: int) -> None:
        self.network = network
        self.n_actions = n_actions
        self.state_dim = network.n_inputs - n_actions
        self.link = network.link
        # Of each layer: which neurons follow the action, and the weights of what does and does not.
        follows: dict[int, BoolArray] = {INPUT: np.arange(network.n_inputs) < n_actions}
        for depth in range(len(network.hidden)):
            reached = [(w[:, follows[k]] != 0).any(axis=1) for k, w in network.inputs(depth)]
            follows[depth] = np.logical_or.reduce(reached)
        last = len(network.hidden)
        follows[last] = np.ones(network.n_outputs, dtype=bool)
        self._follows = follows
        self._constant = not all(follows[depth].all() for depth in range(last))
        kept = [depth for depth in range(last + 1) if follows[depth].any()]
        numbers = {depth: i for i, depth in enumerate(kept)} | {INPUT: INPUT}
        self._layers = []
        for depth in kept:
            rows, moving, fixed = follows[depth], [], []
            for source, weight in network.inputs(depth):
                own = np.ascontiguousarray(weight[np.ix_(rows, follows[source])])
                if own.shape[1] and (numbers[source] == numbers[depth] - 1 or own.any()):
                    moving.append((numbers[source], own))
                if not follows[source].all():
                    fixed.append((source, np.ascontiguousarray(weight[rows][:, ~follows[source]])))
            self._layers.append((tuple(moving), network.layers[depth].bias[rows], tuple(fixed)))

    def at_states(self, states: FloatArray) -> ActionNetworks:
        """Return the networks in the action alone, for finite states (states, state_dim)."""
        known: dict[int, FloatArray] = {INPUT: states}
        if self._constant:
            zeros = np.zeros((len(states), self.n_actions))
            before = self.network.pre_activations(np.concatenate([zeros, states], axis=1))
            for depth, z in enumerate(before[:-1]):
                known[depth] = np.maximum(z[:, ~self._follows[depth]], 0.0)
        layers = []
        for moving, bias, fixed in self._layers:
            for source, weight in fixed:
                rows = np.zeros((len(states), len(weight)))
                for row, at, values in zip(
                    rows, np.broadcast_to(bias, rows.shape), known[source], strict=True
                ):
                    row[:] = folded_bias(at, weight, values)
                bias = rows
            layers.append(ActionLayer(moving, bias))
        return ActionNetworks(tuple(layers), self.n_actions, len(states))

    def at_state(self, state: ArrayLike) -> Network:
        """Return the network in the action alone at one state, shape (state_dim,)."""
        if self._constant:
            return super().at_state(state)
        return self.network.at_state(state)

    def negated(self) -> ActionValue:
        """Return the action value whose values are the negatives of these."""
        return NetworkValue(self.network.negated(), self.n_actions)
