"""Reading OMLT's network definitions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from milp_rl.formulations.networks.network import Layer, Network, NetworkError

if TYPE_CHECKING:
    from omlt.neuralnet import NetworkDefinition


def read_omlt(definition: NetworkDefinition) -> Network:
    """Read OMLT's ``NetworkDefinition`` of dense layers with ReLU or linear activation.

    Scaling objects, which must be affine, are folded into the first and last layer.

    Raises
    ------
    NetworkError
        If the definition has another layer type or activation, branches, or a layer that
        acts on each row of a matrix.
    """
    found = list(definition.layers)
    if not found or type(found[0]).__name__ != "InputLayer":
        raise NetworkError("the OMLT network has no input layer")
    layers: list[Layer] = []
    for i, layer in enumerate(found[1:], start=1):
        kind = type(layer).__name__
        if kind != "DenseLayer" or layer.activation not in ("relu", "linear"):
            raise NetworkError(
                f"layer {i} of the OMLT network is a {kind} with activation"
                f" {layer.activation!r}; supported are DenseLayer with relu or linear"
            )
        if list(definition.predecessors(layer)) != [found[i - 1]]:
            raise NetworkError(
                f"layer {i} of the OMLT network does not follow layer {i - 1} alone; branches"
                f" and several inputs or outputs are not supported"
            )
        weight = np.asarray(layer.weights).T
        if weight.shape[1:] != (int(np.prod(layer.input_size)),):
            raise NetworkError(
                f"layer {i} of the OMLT network has weights of shape {weight.T.shape} for an"
                f" input of size {layer.input_size}; flatten the input to one vector"
            )
        layers.append(Layer(weight, np.asarray(layer.biases), layer.activation))
    scaling = definition.scaling_object
    if scaling is not None:
        keys_in, keys_out = _omlt_keys(found[0].input_indexes), found[-1].output_indexes
        layers.insert(0, _affine_layer(scaling.get_scaled_input_expressions, keys_in))
        layers.append(_affine_layer(scaling.get_unscaled_output_expressions, _omlt_keys(keys_out)))
    return Network(tuple(layers))


def _omlt_keys(indexes: Sequence[tuple[int, ...]]) -> list[Hashable]:
    """Return the keys that OMLT, through Pyomo, uses for these variables."""
    return [index[0] if len(index) == 1 else index for index in indexes]


def _affine_layer(
    transform: Callable[[dict[Hashable, float]], dict[Hashable, float]], keys: list[Hashable]
) -> Layer:
    """Tabulate an affine map between dictionaries over ``keys`` as a linear layer."""
    n = len(keys)
    probe = np.linspace(-2.0, 3.0, n + 2)[1:-1]
    images = []
    for point in (np.zeros(n), *np.eye(n), probe):
        image = transform(dict(zip(keys, point.tolist(), strict=True)))
        images.append([image[key] for key in keys])
    origin, columns, last = np.array(images[0]), np.array(images[1:-1]), np.array(images[-1])
    layer = Layer((columns - origin).T, origin, "linear")
    if not np.allclose(layer.weight @ probe + layer.bias, last, rtol=1e-6, atol=1e-9):
        raise NetworkError("the scaling of the OMLT network is not affine")
    return layer
