"""The ReLU network that the formulations, bounds and solvers work on.

A network is a tuple of dense layers, ``y = activation(weight @ x + bias)`` with ReLU or linear
activation, in float64. It is the one ground truth: the value of an action is always the forward
pass of this representation. It is read from ONNX (:mod:`milp_rl.formulations.onnx_reader`), from
OMLT's ``NetworkDefinition`` or from plain arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Activation = Literal["relu", "linear"]
FloatArray = NDArray[np.float64]


class NetworkError(ValueError):
    """A network that cannot be represented: wrong shapes, NaN or infinite weights, unknown ops."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One dense layer, ``y = activation(weight @ x + bias)``.

    Parameters
    ----------
    weight
        Shape (outputs, inputs), finite, stored as float64.
    bias
        Shape (outputs,), finite, stored as float64.
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
        weight = np.ascontiguousarray(self.weight, dtype=np.float64)
        bias = np.ascontiguousarray(self.bias, dtype=np.float64)
        if weight.ndim != 2 or bias.shape != (weight.shape[0],):
            raise NetworkError(
                f"a layer needs a weight of shape (outputs, inputs) and a bias of shape (outputs,),"
                f" got {weight.shape} and {bias.shape}"
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

    @classmethod
    def from_omlt(cls, definition: Any) -> Network:
        """Read OMLT's ``NetworkDefinition`` of dense layers with ReLU or linear activation.

        Scaling objects are folded into the first and last layer.

        Raises
        ------
        NetworkError
            If the definition has another layer type or activation, or branches.
        """
        layers: list[Layer] = []
        for i, layer in enumerate(definition.layers):
            kind = type(layer).__name__
            if kind == "InputLayer":
                continue
            if kind != "DenseLayer" or layer.activation not in ("relu", "linear"):
                raise NetworkError(
                    f"layer {i} of the OMLT network is a {kind} with activation"
                    f" {layer.activation!r}; supported are DenseLayer with relu or linear"
                )
            if len(list(definition.predecessors(layer))) != 1:
                raise NetworkError(f"layer {i} of the OMLT network has several inputs")
            layers.append(Layer(np.asarray(layer.weights).T, layer.biases, layer.activation))
        scaling = definition.scaling_object
        if scaling is not None:
            n_inputs, n_outputs = layers[0].weight.shape[1], layers[-1].weight.shape[0]
            unit = np.eye(n_inputs)
            zero = np.zeros(n_inputs)
            scaled = [
                scaling.get_scaled_input_expressions(dict(enumerate(x))) for x in (zero, *unit)
            ]
            points = np.array([[s[k] for k in range(n_inputs)] for s in scaled], dtype=float)
            layers.insert(0, Layer((points[1:] - points[0]).T, points[0], "linear"))
            unit = np.eye(n_outputs)
            zero = np.zeros(n_outputs)
            outputs = [
                scaling.get_unscaled_output_expressions(dict(enumerate(x))) for x in (zero, *unit)
            ]
            points = np.array([[s[k] for k in range(n_outputs)] for s in outputs], dtype=float)
            layers.append(Layer((points[1:] - points[0]).T, points[0], "linear"))
        return cls(tuple(layers))

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
            first.bias + first.weight[:, n_actions:] @ s,
            first.activation,
        )
        return Network((folded, *self.layers[1:]))

    def negated(self) -> Network:
        """Return the network whose outputs are the negatives of this one's."""
        return Network((*self.layers[:-1], Layer(-self.output.weight, -self.output.bias, "linear")))


def check_vector(values: ArrayLike, name: str) -> FloatArray:
    """Return ``values`` as a one-dimensional finite float64 array, or raise ``ValueError``."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {vector.shape}")
    bad = np.flatnonzero(~np.isfinite(vector))
    if len(bad):
        raise ValueError(f"{name}[{bad[0]}] is {vector[bad[0]]}; every entry must be finite")
    return vector


def _normalize(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Merge linear layers into their successors and end with a linear layer."""
    merged: list[Layer] = []
    for layer in layers:
        if merged and merged[-1].activation == "linear":
            before = merged.pop()
            layer = Layer(
                layer.weight @ before.weight,
                layer.weight @ before.bias + layer.bias,
                layer.activation,
            )
        merged.append(layer)
    if merged[-1].activation == "relu":
        width = merged[-1].weight.shape[0]
        merged.append(Layer(np.eye(width), np.zeros(width), "linear"))
    return tuple(merged)
