r"""Bounds that rule out most of a list of actions before they are evaluated.

The outputs h of the first hidden layer lie in a box for all actions of the list, and over it the
rest of the network is below one affine function,

.. math:: Q(a) \le c^T h(a) + d, \qquad h(a) = \max(0, W a + b),

by the backward relaxation (:mod:`milp_rl.formulations.relaxation`). That costs one product per
action and neuron of the first layer, and over a trained network it is often below the best value
for all actions but a few.
"""

from __future__ import annotations

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.bounds import interval_of_layer
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks
from milp_rl.formulations.networks.network import INPUT
from milp_rl.formulations.relaxation import Lines, Relaxation


def suits_screening(networks: ActionNetworks) -> bool:
    """Whether the action goes into the first of several hidden layers alone, all weights shared."""
    weights = [weight for layer in networks.layers for _, weight in layer.inputs]
    return (
        len(networks.hidden) > 1
        and list(networks.direct) == [0]
        and len(networks.layers[-1].inputs) > 0
        and all(weight.ndim == 2 for weight in weights)
    )


def functions_above(
    networks: ActionNetworks, least: FloatArray, most: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return affine functions of the first layer's outputs that are nowhere below the networks.

    Up to the rounding of float64, as of sums of the sizes in the networks, once per layer.

    Parameters
    ----------
    networks
        Of a batch of states, that suit it.
    least, most
        Range of the products of the actions with the first layer's weights, shape (width,).

    Returns
    -------
    tuple of numpy.ndarray
        Coefficients, shape (states, width), and constants, shape (states,).
    """
    states = np.arange(networks.n_states)
    bias = networks.layers[0].bias
    shape = networks.n_states, bias.shape[-1]
    low, high = (np.broadcast_to(np.maximum(ends + bias, 0.0), shape) for ends in (least, most))
    rest = [
        ActionLayer(tuple((INPUT if k == 0 else k - 1, w) for k, w in own.inputs), own.bias)
        for own in networks.layers[1:]
    ]
    relaxation = Relaxation(ActionNetworks(tuple(rest), shape[1], networks.n_states))
    lows, highs = (np.zeros((networks.n_states, relaxation.neurons)) for _ in range(2))
    for depth, part in enumerate(relaxation.layers):
        found = interval_of_layer(relaxation, states, (low, high), lows, highs, depth)
        lows[:, part], highs[:, part] = found
    top = len(relaxation.layers)
    lines = Lines.over(lows, highs)
    coefficients, constants, _ = relaxation.backward(relaxation.rows(top, states), states, lines)
    return coefficients[:, 0], constants[:, 0] + relaxation.bias(top, states)[..., 0]
