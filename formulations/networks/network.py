"""The ReLU network that the formulations, bounds and solvers work on.

A network is a tuple of dense layers, ``y = activation(weight @ x + bias)`` with ReLU or linear
activation, in float64. It is the one ground truth: the value of an action is always the forward
pass of this representation. :func:`milp_rl.formulations.networks.conversion.to_network` makes one
of a torch module, an ONNX file or OMLT's ``NetworkDefinition``, :meth:`Network.from_arrays` of
plain arrays.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import FloatArray, check_vector

Activation = Literal["relu", "linear"]

_LARGEST_RATIO = 1e8


class NetworkError(ValueError):
    """A network that cannot be represented: wrong shapes, NaN or infinite weights, unknown ops."""


class ScalingWarning(UserWarning):
    """A network whose neurons' ranges differ by more than solvers in float64 can tell apart."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One dense layer, ``y = activation(weight @ x + bias)``.

    Parameters
    ----------
    weight
        Shape (outputs, inputs), at least one of each, finite, stored as a float64 copy.
    bias
        Shape (outputs,), finite, stored as a float64 copy.
    activation
        ``"relu"`` or ``"linear"``.

    Raises
    ------
    NetworkError
        If shapes do not fit, an entry is NaN or infinite, or the activation is unknown.
    """

    weight: FloatArray
    bias: FloatArray
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        # A copy, because a network is often made from a model that goes on training in place.
        weight = np.array(self.weight, dtype=np.float64, order="C")
        bias = np.array(self.bias, dtype=np.float64, order="C")
        if weight.ndim != 2 or 0 in weight.shape or bias.shape != (weight.shape[0],):
            raise NetworkError(
                f"a layer needs a weight of shape (outputs, inputs), at least one of each, and a"
                f" bias of shape (outputs,), got {weight.shape} and {bias.shape}"
            )
        for name, values in (("weight", weight), ("bias", bias)):
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                index = tuple(int(i) for i in bad[0])
                raise NetworkError(
                    f"{len(bad)} entries of a layer's {name} are not finite, the first at {index}"
                    f" is {values[index]}; was the training unstable?"
                )
        if self.activation not in ("relu", "linear"):
            raise NetworkError(
                f"unknown activation {self.activation!r}; supported are 'relu' and 'linear'"
            )
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)


@dataclass(frozen=True, eq=False)
class Network:
    """A feed-forward ReLU network: hidden layers with ReLU, a linear output layer.

    Consecutive linear layers are merged; a final ReLU is kept as a layer of its own followed by
    an identity, so that every hidden layer has ReLU and the output layer is linear.

    Parameters
    ----------
    layers
        At least one layer; each layer's input width is the previous one's output width.

    Raises
    ------
    NetworkError
        If there is no layer or widths do not chain.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise NetworkError("a network needs at least one layer")
        for i, (first, second) in enumerate(zip(self.layers, self.layers[1:], strict=False)):
            if second.weight.shape[1] != first.weight.shape[0]:
                raise NetworkError(
                    f"layer {i + 1} takes {second.weight.shape[1]} inputs but layer {i} gives"
                    f" {first.weight.shape[0]}"
                )
        object.__setattr__(self, "layers", _normalize(self.layers))

    @classmethod
    def from_arrays(cls, weights: Sequence[ArrayLike], biases: Sequence[ArrayLike]) -> Network:
        """Build a network with ReLU on all layers but the last.

        Parameters
        ----------
        weights
            One array of shape (outputs, inputs) a layer (torch's layout).
        biases
            One array of shape (outputs,) a layer.
        """
        if len(weights) != len(biases):
            raise NetworkError(f"got {len(weights)} weights but {len(biases)} biases")
        last = len(weights) - 1
        return cls(
            tuple(
                Layer(np.asarray(w), np.asarray(b), "relu" if i < last else "linear")
                for i, (w, b) in enumerate(zip(weights, biases, strict=True))
            )
        )

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return int(self.layers[0].weight.shape[1])

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return int(self.layers[-1].weight.shape[0])

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """The ReLU layers, input side first."""
        return self.layers[:-1]

    @property
    def output(self) -> Layer:
        """The linear output layer."""
        return self.layers[-1]

    def forward(self, x: ArrayLike) -> FloatArray:
        """Evaluate the network in float64.

        Parameters
        ----------
        x
            Inputs, shape (..., n_inputs).

        Returns
        -------
        numpy.ndarray
            Outputs, shape (..., n_outputs).
        """
        y = np.asarray(x, dtype=np.float64)
        if y.shape[-1:] != (self.n_inputs,):
            raise ValueError(f"the network takes {self.n_inputs} inputs, got shape {y.shape}")
        for layer in self.hidden:
            y = np.maximum(y @ layer.weight.T + layer.bias, 0.0)
        return np.asarray(y @ self.output.weight.T + self.output.bias)

    def at_state(self, state: ArrayLike) -> Network:
        """Fix the trailing inputs to ``state`` by folding them into the first bias.

        Parameters
        ----------
        state
            Shape (state_dim,), finite; the network's inputs are [action, state].

        Returns
        -------
        Network
            The network as a function of the action alone, ``n_inputs - state_dim`` inputs.
        """
        s = check_vector(state, "state")
        n_actions = self.n_inputs - len(s)
        if n_actions < 1:
            raise ValueError(
                f"a state of {len(s)} values leaves no action inputs: the network takes"
                f" {self.n_inputs} inputs, [action, state]"
            )
        first = self.layers[0]
        folded = Layer(
            first.weight[:, :n_actions],
            folded_bias(first, s),
            first.activation,
        )
        return Network((folded, *self.layers[1:]))

    def negated(self) -> Network:
        """Return the network whose outputs are the negatives of this one's."""
        return Network((*self.layers[:-1], Layer(-self.output.weight, -self.output.bias, "linear")))


def folded_bias(first: Layer, state: FloatArray) -> FloatArray:
    """Return the bias of a first layer with its trailing inputs fixed to a state.

    Every computation takes it from here: products of whole batches round otherwise, and where
    large states cancel, that is more than what bounds on the network itself allow for.
    """
    weight = first.weight[:, first.weight.shape[1] - len(state) :]
    return np.asarray(first.bias + weight @ np.ascontiguousarray(state))


def warn_if_badly_scaled(network: Network) -> None:
    """Warn if the ranges of hidden neurons, for inputs of size 1, differ by more than 1e8.

    A solver's tolerances are then larger than what some neurons have to say: it takes longer, and
    may end with a gap or a ``CertificationError``.
    """
    reach = np.ones(network.n_inputs)
    reaches = []
    for layer in network.hidden:
        with np.errstate(over="ignore"):
            reach = np.abs(layer.weight) @ reach
        reaches.append(reach[reach > 0])
    positive = np.concatenate([np.ones(0), *reaches])
    if len(positive) and positive.max() > _LARGEST_RATIO * positive.min():
        warnings.warn(
            f"the ranges of the network's neurons differ by a factor of"
            f" {positive.max() / positive.min():.1g} (from {positive.min():.1g} to"
            f" {positive.max():.1g}): solvers may take long and end with a gap; rescale the inputs,"
            " or train with weight decay",
            ScalingWarning,
            stacklevel=3,
        )


def _normalize(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Merge linear layers into their successors and end with a linear layer."""
    merged: list[Layer] = []
    for layer in layers:
        if merged and merged[-1].activation == "linear":
            before = merged.pop()
            with np.errstate(over="ignore", invalid="ignore"):  # Layer refuses what overflows
                weight = layer.weight @ before.weight
                bias = layer.weight @ before.bias + layer.bias
            layer = Layer(weight, bias, layer.activation)
        merged.append(layer)
    if merged[-1].activation == "relu":
        width = merged[-1].weight.shape[0]
        merged.append(Layer(np.eye(width), np.zeros(width), "linear"))
    return tuple(merged)
