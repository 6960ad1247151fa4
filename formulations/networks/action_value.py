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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray, check_states
from milp_rl.formulations.networks.link import Link
from milp_rl.formulations.networks.network import (
    INPUT,
    Activation,
    Layer,
    Network,
    folded_bias,
    layer_of_own,
)

if TYPE_CHECKING:
    from milp_rl.formulations.kernels.description import NetworkArrays


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

    @cached_property
    def shared(self) -> bool:
        """Whether it is the same at all states."""
        return self.bias.ndim == 1 and all(weight.ndim == 2 for _, weight in self.inputs)

    def rows(self, states: slice | IntArray | BoolArray) -> ActionLayer:
        """Return the layer of some of the states."""
        if self.shared:
            return self
        inputs = tuple((k, w if w.ndim == 2 else w[states]) for k, w in self.inputs)
        return ActionLayer(inputs, self.bias if self.bias.ndim == 1 else self.bias[states])

    def at(self, state: int, depth: int, before: int, kind: Activation) -> Layer:
        """Return the layer of one state; ``before`` is the width of the one before."""
        if self.shared and (depth, kind) in self._known:
            return self._known[depth, kind]
        weights = {k: w if w.ndim == 2 else w[state] for k, w in self.inputs}
        bias = self.bias if self.bias.ndim == 1 else self.bias[state]
        main = weights.pop(depth - 1, None)
        if main is None:
            main = np.zeros((self.width, before))
        layer = layer_of_own(main, bias, kind, tuple(weights.items()))
        if self.shared:
            self._known[depth, kind] = layer
        return layer

    @cached_property
    def centred(self) -> ActionLayer:
        """The layer without its bias."""
        return ActionLayer(self.inputs, np.zeros(self.width))

    @cached_property
    def _known(self) -> dict[tuple[int, Activation], Layer]:
        """The layer, by its place and activation, where it is the same at all states."""
        return {}


@dataclass(frozen=True, eq=False)
class ActionNetworks:
    """Networks in the action alone, one per state: hidden layers with ReLU, a linear output.

    Parameters
    ----------
    layers
        From the first hidden layer to the output; the first takes the action, first of its inputs.
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
        layers, before = [], self.n_actions
        for depth, layer in enumerate(self.layers):
            kind: Activation = "linear" if depth == len(self.layers) - 1 else "relu"
            layers.append(layer.at(state, depth, before, kind))
            before = layer.width
        return Network.of_checked(tuple(layers))

    def rows(self, states: slice | IntArray | BoolArray) -> ActionNetworks:
        """Return the networks of some of the states."""
        count = len(np.arange(self.n_states)[states])
        layers = tuple(layer.rows(states) for layer in self.layers)
        return ActionNetworks(layers, self.n_actions, count)

    def __getitem__(self, state: int) -> ActionNetworks:
        """Return the network of one state, with weights that are shared, there being no other."""
        if self.n_states == 1 and all(w.ndim == 2 for own in self.layers for _, w in own.inputs):
            return self
        layers = tuple(
            layer
            if all(weight.ndim == 2 for _, weight in layer.inputs)
            else ActionLayer(
                tuple((k, w if w.ndim == 2 else w[0]) for k, w in layer.inputs), layer.bias
            )
            for layer in self.rows(slice(state, state + 1)).layers
        )
        return ActionNetworks(layers, self.n_actions, 1)

    @cached_property
    def constants(self) -> FloatArray:
        """The output's constant at each state, shape (states,); 0 without hidden layers.

        Without hidden layers the state goes into the same sum.
        """
        bias = self.layers[-1].bias[..., 0]
        return np.broadcast_to(bias if self.hidden else np.zeros(()), (self.n_states,))

    @cached_property
    def centred(self) -> ActionNetworks:
        """The networks without their output's constants."""
        if not self.hidden:
            return self
        layers = (*self.hidden, self.layers[-1].centred)
        return ActionNetworks(layers, self.n_actions, self.n_states)

    def negated(self) -> ActionNetworks:
        """Return the networks whose outputs are the negatives of these."""
        last = self.layers[-1]
        turned = ActionLayer(tuple((k, -w) for k, w in last.inputs), -last.bias)
        return ActionNetworks((*self.hidden, turned), self.n_actions, self.n_states)

    @cached_property
    def flat(self) -> NetworkArrays:
        """The networks as compiled loops take them."""
        from milp_rl.formulations.kernels.description import network_arrays

        return network_arrays(self)

    @cached_property
    def direct(self) -> dict[int, FloatArray]:
        """The weights of the action in each layer that takes it directly, by depth."""
        return {
            depth: weight
            for depth, layer in enumerate(self.layers)
            for source, weight in layer.inputs
            if source == INPUT
        }

    def values(self, actions: FloatArray, states: IntArray) -> FloatArray:
        """Return the first output of actions at states, shape (actions,).

        Parameters
        ----------
        actions
            Shape (actions, n_actions).
        states
            The state of each.
        """
        return self.values_after(
            {depth: times_transposed(actions, w, states) for depth, w in self.direct.items()},
            states,
        )

    def values_after(self, products: Mapping[int, FloatArray], states: IntArray) -> FloatArray:
        """Return the first output of actions of which the first products are known.

        Parameters
        ----------
        products
            The action's part in each layer of :attr:`direct`, (actions, outputs).
        states
            The state of each action.
        """
        return np.asarray(evaluated(self.layers, products, states)[-1][:, 0])

    def values_and_gradients(
        self, actions: FloatArray, states: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the first output of actions at states, and its gradient by the action.

        Returns
        -------
        tuple of numpy.ndarray
            Shapes (actions,) and (actions, n_actions).
        """
        products = {k: times_transposed(actions, w, states) for k, w in self.direct.items()}
        outputs = evaluated(self.layers, products, states)
        top = len(self.hidden)
        first = np.zeros((len(actions), self.layers[top].width))
        first[:, 0] = 1.0
        slopes = {top: first}
        for depth in range(top, -1, -1):
            own = slopes.pop(depth, None)
            if own is None:
                continue
            if depth < top:
                own = np.where(outputs[depth] > 0, own, 0.0)
            for source, weight in self.layers[depth].inputs:
                passed = times(own, weight, states)
                slopes[source] = slopes[source] + passed if source in slopes else passed
        return outputs[-1][:, 0], slopes.get(INPUT, np.zeros_like(actions))


def evaluated(
    layers: Sequence[ActionLayer], products: Mapping[int, NDArray[Any]], states: IntArray
) -> list[NDArray[Any]]:
    """Return the outputs of every layer of actions of which the first products are known.

    Parameters
    ----------
    layers
        From the first hidden layer to the output, in float64 or float32.
    products
        The action's part in each layer that takes it directly, (actions, outputs).
    states
        The state of each action.
    """
    found: list[NDArray[Any]] = []
    last = len(layers) - 1
    for depth, layer in enumerate(layers):
        bias = layer.bias if layer.bias.ndim == 1 else layer.bias[states]
        y: NDArray[Any] | None = None
        for source, weight in layer.inputs:
            if source == INPUT:
                passed = products[depth]
            else:
                passed = times_transposed(found[source], weight, states)
            if y is not None:
                y += passed
            elif source == INPUT:
                y = passed + bias
            else:
                y = passed
                y += bias
        if y is None:  # a layer that nothing leads to
            rows = len(next(iter(products.values()))) if products else len(states)
            y = np.tile(layer.bias, (rows, 1)) if layer.bias.ndim == 1 else bias
        if depth < last:
            np.maximum(y, 0.0, out=y)
        found.append(y)
    return found


def times_transposed(x: FloatArray, weight: FloatArray, states: IntArray) -> FloatArray:
    """Return ``weight @ x`` of each row, (rows, outputs), by the weight of the row's state."""
    if weight.ndim == 2:
        return np.asarray(x @ weight.T)
    return np.asarray(np.matmul(weight[states], x[..., None])[..., 0])


def times(x: FloatArray, weight: FloatArray, states: IntArray) -> FloatArray:
    """Return ``x @ weight`` of each row, (rows, inputs), by the weight of the row's state."""
    if weight.ndim == 2:
        return np.asarray(x @ weight)
    return np.asarray(np.matmul(x[:, None], weight[states])[:, 0])


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
    binary
        Whether the networks have its values at binary actions alone.
    """

    n_actions: int
    state_dim: int
    link: Link = "identity"
    binary: bool = False

    @property
    def n_inputs(self) -> int:
        """Number of inputs, [action, state]."""
        return self.n_actions + self.state_dim

    @abstractmethod
    def at_states(self, states: FloatArray) -> ActionNetworks:
        """Return the networks in the action alone, for finite states (states, state_dim)."""

    def forward(self, x: ArrayLike) -> FloatArray:
        """Return the values of [action, state], shape (..., n_inputs), with shape (..., 1)."""
        rows = np.asarray(x, dtype=np.float64)
        flat = rows.reshape(-1, self.n_inputs)
        states = check_states(flat[:, self.n_actions :], self.state_dim)
        values = self.values(states, np.ascontiguousarray(flat[:, : self.n_actions]))
        return values.reshape(*rows.shape[:-1], 1)

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
        self.binary = inner.binary

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
                whole = rows.all()
                if whole and source != INPUT and follows[source].all():
                    own = np.ascontiguousarray(weight)
                elif whole and source == INPUT:
                    own = np.ascontiguousarray(weight[:, :n_actions])
                else:
                    own = np.ascontiguousarray(weight[np.ix_(rows, follows[source])])
                if own.shape[1] and (numbers[source] == numbers[depth] - 1 or own.any()):
                    moving.append((numbers[source], own))
                if not follows[source].all():
                    fixed.append((source, weight[rows][:, ~follows[source]]))
            before = numbers[depth] - 1
            if all(number != before for number, _ in moving):  # it came through what is constant
                width = follows[kept[before] if before >= 0 else INPUT].sum()
                moving.insert(0, (before, np.zeros((int(rows.sum()), int(width)))))
            layer = ActionLayer(tuple(moving), network.layers[depth].bias[rows])
            self._layers.append((layer, tuple(fixed)))

    def at_states(self, states: FloatArray) -> ActionNetworks:
        """Return the networks in the action alone, for finite states (states, state_dim)."""
        known: dict[int, FloatArray] = {INPUT: states}
        if self._constant:
            zeros = np.zeros((len(states), self.n_actions))
            before = self.network.pre_activations(np.concatenate([zeros, states], axis=1))
            for depth, z in enumerate(before[:-1]):
                known[depth] = np.maximum(z[:, ~self._follows[depth]], 0.0)
        layers = []
        for layer, fixed in self._layers:
            if fixed:
                bias = np.tile(layer.bias, (len(states), 1))
                for source, weight in fixed:
                    for row, values in zip(bias, known[source], strict=True):
                        row[:] = folded_bias(row, weight, values)
                layer = ActionLayer(layer.inputs, bias)
            layers.append(layer)
        return ActionNetworks(tuple(layers), self.n_actions, len(states))

    def at_state(self, state: ArrayLike) -> Network:
        """Return the network in the action alone at one state, shape (state_dim,)."""
        if self._constant:
            return super().at_state(state)
        return self.network.at_state(state)

    def negated(self) -> ActionValue:
        """Return the action value whose values are the negatives of these."""
        return NetworkValue(self.network.negated(), self.n_actions)


def as_action_value(network: Network | ActionValue, n_actions: int) -> ActionValue:
    """Return a network whose inputs are [action, state] as an action value."""
    return NetworkValue(network, n_actions) if isinstance(network, Network) else network
