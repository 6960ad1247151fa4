r"""The ReLU network that the formulations, bounds and solvers work on.

A network is a tuple of layers in float64 whose input may come from the layer before and from any
earlier one (skips),

.. math:: z_k = b_k + \sum_{j < k} W_{kj} h_j, \qquad h_k = \max(0, z_k), \quad h_0 = x,

with a linear output. It is the one ground truth: the value of an action is always the forward pass
of this representation. :func:`milp_rl.formulations.networks.conversion.to_network` makes one
of a torch module, an ONNX file or OMLT's ``NetworkDefinition``, :meth:`Network.from_arrays` of
plain arrays.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import BoolArray, FloatArray, check_vector
from milp_rl.formulations.networks.link import LINKS, Link

Activation = Literal["relu", "linear"]

INPUT = -1
"""The source of a layer's input that is the network's own; others are numbers of hidden layers."""

_LARGEST_RATIO = 1e8


class NetworkError(ValueError):
    """A network that cannot be represented: wrong shapes, NaN or infinite weights, unknown ops."""


class ScalingWarning(UserWarning):
    """A network whose neurons' ranges differ by more than solvers in float64 can tell apart."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer, ``y = activation(weight @ x + bias)``, with skips ``weight_j @ x_j`` added.

    Parameters
    ----------
    weight
        Of the outputs of the layer before (the network's inputs, for the first), shape (outputs,
        inputs), at least one of each, finite, stored as a float64 copy.
    bias
        Shape (outputs,), finite, stored as a float64 copy.
    activation
        ``"relu"`` or ``"linear"``.
    skips
        Pairs of a source, the number of an earlier layer or ``INPUT``, and its weight, shape
        (outputs, width of the source).

    Raises
    ------
    NetworkError
        If shapes do not fit, an entry is NaN or infinite, or the activation is unknown.
    """

    weight: FloatArray
    bias: FloatArray
    activation: Activation = "relu"
    skips: tuple[tuple[int, FloatArray], ...] = ()

    def __post_init__(self) -> None:
        # A copy, because a network is often made from a model that goes on training in place.
        weight = np.array(self.weight, dtype=np.float64, order="C")
        bias = np.array(self.bias, dtype=np.float64, order="C")
        if weight.ndim != 2 or 0 in weight.shape or bias.shape != (weight.shape[0],):
            raise NetworkError(
                f"a layer needs a weight of shape (outputs, inputs), at least one of each, and a"
                f" bias of shape (outputs,), got {weight.shape} and {bias.shape}"
            )
        skips = tuple(
            (int(source), np.array(own, dtype=np.float64, order="C")) for source, own in self.skips
        )
        for source, own in skips:
            if own.ndim != 2 or len(own) != len(bias):
                raise NetworkError(
                    f"the skip from layer {source} needs a weight of shape ({len(bias)}, width of"
                    f" the source), got {own.shape}"
                )
        for name, values in (
            ("weight", weight),
            ("bias", bias),
            *((f"weight of layer {source}", own) for source, own in skips),
        ):
            finite = np.isfinite(values)
            if not finite.all():
                bad = np.argwhere(~finite)
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
        object.__setattr__(self, "skips", skips)


def layer_of_own(
    weight: FloatArray,
    bias: FloatArray,
    activation: Activation,
    skips: tuple[tuple[int, FloatArray], ...],
) -> Layer:
    """Return the layer of float64 arrays that fit and that nobody changes, without copies.

    Weights are in row-major order all the same: products with others round otherwise.

    Raises
    ------
    NetworkError
        If an entry is NaN or infinite, as those of large states may be.
    """
    if not all(np.isfinite(values).all() for values in (weight, bias, *(w for _, w in skips))):
        return Layer(weight, bias, activation, skips)  # which names the entry
    weight = np.ascontiguousarray(weight)
    skips = tuple((source, np.ascontiguousarray(own)) for source, own in skips)
    layer = object.__new__(Layer)
    for name, value in zip(
        ("weight", "bias", "activation", "skips"), (weight, bias, activation, skips), strict=True
    ):
        object.__setattr__(layer, name, value)
    return layer


@dataclass(frozen=True, eq=False)
class Network:
    r"""A feed-forward ReLU network: hidden layers with ReLU, a linear output layer.

    .. math:: h_0 = x, \qquad h_k = \max\Big(0, b_k + \sum_{j < k} W_{kj} h_j\Big), \qquad
              Q(x) = b_K + \sum_{j < K} W_{Kj} h_j

    Linear layers are merged into those they lead to; a final ReLU is kept as a layer of its own
    followed by an identity, so that every hidden layer has ReLU and the output layer is linear.

    Parameters
    ----------
    layers
        At least one layer; each layer's input width is the previous one's output width, and a
        skip's that of its source, which counts the layers given here from 0.
    link
        The increasing function that the model behind it applies to the outputs
        (:mod:`milp_rl.formulations.networks.link`); everything here is without it.

    Raises
    ------
    NetworkError
        If there is no layer, widths do not fit or the link is unknown.

    Examples
    --------
    >>> import milp_rl as mr
    >>> network = mr.Network.from_arrays([[[1.0, 1.0, 2.0]], [[3.0]]], [[-1.5], [0.5]])
    >>> network.forward([[1, 1, 0.5], [0, 0, 0]])
    array([[5. ],
           [0.5]])
    >>> network.at_state([0.5]).n_inputs
    2
    >>> network.at_state([0.5]).forward([1, 1])
    array([5.])
    """

    layers: tuple[Layer, ...]
    link: Link = "identity"

    def __repr__(self) -> str:
        widths = " -> ".join(str(len(layer.bias)) for layer in self.layers)
        skips = sum(len(layer.skips) for layer in self.layers)
        ends = f", {skips} skips" if skips else ""
        if self.link != "identity":
            ends += f", then {self.link}"
        return f"Network({self.n_inputs} -> {widths}{ends})"

    def __post_init__(self) -> None:
        if self.link not in LINKS:
            raise NetworkError(f"unknown link {self.link!r}; there are {', '.join(LINKS)}")
        if not self.layers:
            raise NetworkError("a network needs at least one layer")
        widths = {INPUT: self.layers[0].weight.shape[1]}
        for i, layer in enumerate(self.layers):
            if layer.weight.shape[1] != widths[i - 1]:
                raise NetworkError(
                    f"layer {i} takes {layer.weight.shape[1]} inputs but layer {i - 1} gives"
                    f" {widths[i - 1]}"
                )
            sources = [source for source, _ in layer.skips]
            if len(set(sources)) < len(sources) or not all(INPUT <= j < i - 1 for j in sources):
                raise NetworkError(
                    f"layer {i} has skips from {sources}; they must come from different layers"
                    f" before layer {i - 1}, or from {INPUT}, the network's input"
                )
            for source, weight in layer.skips:
                if weight.shape[1] != widths[source]:
                    raise NetworkError(
                        f"layer {i} takes {weight.shape[1]} inputs from layer {source}, which gives"
                        f" {widths[source]}"
                    )
            widths[i] = len(layer.bias)
        object.__setattr__(self, "layers", _normalize(self.layers))

    @classmethod
    def of_checked(cls, layers: tuple[Layer, ...]) -> Network:
        """Return the network of layers that are known to fit, the last alone linear."""
        network = object.__new__(cls)
        object.__setattr__(network, "layers", layers)
        object.__setattr__(network, "link", "identity")
        return network

    @classmethod
    def from_arrays(cls, weights: Sequence[ArrayLike], biases: Sequence[ArrayLike]) -> Network:
        """Build a network with ReLU on all layers but the last.

        Parameters
        ----------
        weights
            One array of shape (outputs, inputs) per layer (torch's layout).
        biases
            One array of shape (outputs,) per layer.
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

    @cached_property
    def is_chain(self) -> bool:
        """Whether every layer takes input from the one before alone."""
        return not any(layer.skips for layer in self.layers)

    def inputs(self, depth: int) -> tuple[tuple[int, FloatArray], ...]:
        """Return the sources of a layer's input, numbers of layers or ``INPUT``, and weights."""
        layer = self.layers[depth]
        return ((depth - 1, layer.weight), *layer.skips)

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
        if self.is_chain:
            for layer in self.hidden:
                y = np.maximum(y @ layer.weight.T + layer.bias, 0.0)
            return np.asarray(y @ self.output.weight.T + self.output.bias)
        return self.pre_activations(y)[-1]

    def pre_activations(self, x: FloatArray) -> list[FloatArray]:
        """Evaluate every layer before its ReLU; the last are the outputs.

        Parameters
        ----------
        x
            Inputs, shape (..., n_inputs).

        Returns
        -------
        list of numpy.ndarray
            Shape (..., width) for each layer.
        """
        found: list[FloatArray] = []
        outputs: dict[int, FloatArray] = {INPUT: x}
        for depth, layer in enumerate(self.layers):
            y = outputs[depth - 1] @ layer.weight.T + layer.bias
            for source, weight in layer.skips:
                y = y + outputs[source] @ weight.T
            outputs[depth] = np.maximum(y, 0.0)
            found.append(y)
        return found

    def at_state(self, state: ArrayLike) -> Network:
        """Fix the trailing inputs to ``state`` by folding them into the biases.

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
        kept = np.arange(self.n_inputs) < n_actions
        return self.with_inputs_fixed(kept, s)

    def with_inputs_fixed(self, kept: BoolArray, values: FloatArray) -> Network:
        """Return the network as a function of the inputs that are kept.

        Parameters
        ----------
        kept
            Shape (n_inputs,).
        values
            Of the other inputs, in order.
        """
        layers = []
        for depth, layer in enumerate(self.layers):
            bias, rest = layer.bias, []
            for source, weight in self.inputs(depth):
                if source == INPUT:
                    bias = folded_bias(bias, weight[:, ~kept], values)
                    weight = weight[:, kept]
                rest.append((source, weight))
            layers.append(Layer(rest[0][1], bias, layer.activation, tuple(rest[1:])))
        return Network(tuple(layers), self.link)

    def affine_of_inputs(self, matrix: FloatArray, offset: FloatArray) -> Network:
        """Return the network as a function of ``u`` where its inputs are ``matrix @ u + offset``.

        Parameters
        ----------
        matrix
            Shape (n_inputs, n), or (n_inputs,) for a diagonal one.
        offset
            Shape (n_inputs,).
        """
        layers = []
        for depth, layer in enumerate(self.layers):
            bias, rest = layer.bias, []
            for source, weight in self.inputs(depth):
                if source == INPUT:
                    bias = bias + weight @ offset
                    weight = weight * matrix if matrix.ndim == 1 else weight @ matrix
                rest.append((source, weight))
            layers.append(Layer(rest[0][1], bias, layer.activation, tuple(rest[1:])))
        return Network(tuple(layers), self.link)

    def with_output(self, scale: float, bias: FloatArray) -> Network:
        """Return the network whose last layer is scaled, and has another bias."""
        last = self.output
        skips = tuple((source, scale * weight) for source, weight in last.skips)
        return Network((*self.hidden, Layer(scale * last.weight, bias, "linear", skips)))

    def negated(self) -> Network:
        """Return the network whose outputs are the negatives of this one's, without the link."""
        return self.with_output(-1.0, -self.output.bias)


def folded_bias(bias: FloatArray, weight: FloatArray, values: FloatArray) -> FloatArray:
    """Return the bias of a layer with some of its inputs fixed to values.

    Every computation takes it from here: products of whole batches round otherwise, and where
    large states cancel, that is more than what bounds on the network itself allow for. So do
    products with weights of another layout.
    """
    return np.asarray(bias + np.ascontiguousarray(weight) @ np.ascontiguousarray(values))


def warn_if_badly_scaled(network: Network) -> None:
    """Warn if the ranges of hidden neurons, for inputs of size 1, differ by more than 1e8.

    A solver's tolerances are then larger than what some neurons have to say: it takes longer, and
    may end with a gap or a ``CertificationError``.
    """
    reaches = {INPUT: np.ones(network.n_inputs)}
    for depth in range(len(network.hidden)):
        with np.errstate(over="ignore"):
            parts = [np.abs(weight) @ reaches[source] for source, weight in network.inputs(depth)]
            reaches[depth] = np.sum(parts, axis=0)
    sizes = [reach[reach > 0] for source, reach in reaches.items() if source != INPUT]
    positive = np.concatenate([np.ones(0), *sizes])
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
    if all(layer.activation == "relu" for layer in layers[:-1]):
        if layers[-1].activation == "linear":
            return layers
        width = len(layers[-1].bias)
        return (*layers, Layer(np.eye(width), np.zeros(width), "linear"))
    widths = {INPUT: layers[0].weight.shape[1]}
    numbers = {INPUT: INPUT}  # of the layers that are kept
    linear: dict[int, tuple[dict[int, FloatArray], FloatArray]] = {}  # the others, over these
    merged: list[Layer] = []
    for depth, layer in enumerate(layers):
        weights: dict[int, FloatArray] = {}
        bias = layer.bias
        for source, weight in ((depth - 1, layer.weight), *layer.skips):
            with np.errstate(over="ignore", invalid="ignore"):  # Layer refuses what overflows
                if source in numbers:
                    passed = {numbers[source]: weight}
                else:
                    inner, constant = linear[source]
                    bias = bias + weight @ constant
                    passed = {below: weight @ own for below, own in inner.items()}
                for below, own in passed.items():
                    weights[below] = weights[below] + own if below in weights else own
        if layer.activation == "linear" and depth < len(layers) - 1:
            linear[depth] = weights, bias
            continue
        number = len(merged)
        main = weights.pop(number - 1, np.zeros((len(bias), widths[number - 1])))
        merged.append(Layer(main, bias, layer.activation, tuple(sorted(weights.items()))))
        widths[number], numbers[depth] = len(bias), number
    return _normalize(tuple(merged))
