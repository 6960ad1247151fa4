r"""Several critics as one: the least, the mean or the largest of their values.

The members' hidden layers lie side by side, layer by layer from the input on. The mean is another
output layer on top of them; the largest of two values takes one more neuron,

.. math:: \max(a, b) = b + \max(0, a - b), \qquad \min(a, b) = b - \max(0, b - a),

and that of more is found in rounds, as in a tournament: :math:`m - 1` neurons in
:math:`\lceil \log_2 m \rceil` layers for :math:`m` members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks, ActionValue
from milp_rl.formulations.networks.link import Link
from milp_rl.formulations.networks.network import INPUT, Network, NetworkError

Reduction = Literal["min", "mean", "max"]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Several critics of the same states and actions, solved as one network.

    Parameters
    ----------
    members
        At least one of whatever :func:`milp_rl.to_network` takes, other ensembles included.
    reduce
        ``"min"`` (twin critics, pessimistic ensembles), ``"mean"`` or ``"max"``.

    Raises
    ------
    ValueError
        If there is no member, or ``reduce`` is something else.

    Examples
    --------
    >>> import milp_rl as mr
    >>> critics = [mr.QNetwork(state_dim=4, action_dim=20) for _ in range(2)]
    >>> twin = mr.Ensemble(critics, reduce="min")
    >>> mr.argmax(twin, [0.0, 1.0, 0.5, 0.2], mr.BudgetTopK(n_actions=20, k=5)).status
    'optimal'
    """

    members: Sequence[Any]
    reduce: Reduction = "min"

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))
        if not self.members:
            raise ValueError("an ensemble needs at least one member")
        if self.reduce not in get_args(Reduction):
            raise ValueError(f"reduce must be 'min', 'mean' or 'max', got {self.reduce!r}")


class EnsembleValue(ActionValue):
    """The least, mean or largest value of several action values.

    Parameters
    ----------
    members
        At least one, of the same states and actions.
    reduce
        Which.

    Raises
    ------
    NetworkError
        If the members differ in states or actions, or in what is applied to their outputs.
    """

    def __init__(self, members: Sequence[ActionValue], reduce: Reduction) -> None:
        self.members = tuple(members)
        self.reduce = reduce
        first = members[0]
        self.n_actions, self.state_dim = first.n_actions, first.state_dim
        self.binary = any(member.binary for member in members)
        self.link = _common_link([member.link for member in members], reduce)
        for i, member in enumerate(members):
            if (member.n_actions, member.state_dim) != (self.n_actions, self.state_dim):
                raise NetworkError(
                    f"member {i} of the ensemble takes {member.n_actions} actions and"
                    f" {member.state_dim} state features, member 0 {self.n_actions} and"
                    f" {self.state_dim}"
                )

    def at_states(self, states: FloatArray) -> ActionNetworks:
        """Return the networks in the action alone, for finite states (states, state_dim)."""
        return merged([member.at_states(states) for member in self.members], self.reduce)


def merged_network(members: Sequence[Network], reduce: Reduction) -> Network:
    """Return the network whose outputs are the least, mean or largest of those of the members.

    Parameters
    ----------
    members
        At least one, of the same numbers of inputs and outputs.
    reduce
        Which.

    Raises
    ------
    NetworkError
        If the members differ in inputs or outputs, or in what is applied to their outputs.
    """
    for i, member in enumerate(members):
        sizes = [(network.n_inputs, network.n_outputs) for network in (member, members[0])]
        if sizes[0] != sizes[1]:
            raise NetworkError(
                f"member {i} of the ensemble takes {sizes[0][0]} inputs to {sizes[0][1]} outputs,"
                f" member 0 {sizes[1][0]} to {sizes[1][1]}"
            )
    network = merged([ActionNetworks.of(member) for member in members], reduce).at(0)
    return replace(network, link=_common_link([member.link for member in members], reduce))


def _common_link(links: Sequence[Link], reduce: Reduction) -> Link:
    """Return the function that may be applied after the reduction instead of before."""
    different = set(links)
    if len(different) > 1 or (reduce == "mean" and len(links) > 1 and links[0] != "identity"):
        raise NetworkError(
            f"the members of the ensemble end in {', '.join(sorted(different))}: their {reduce} is"
            " no piecewise linear function of what is before it; leave it out of all members"
        )
    return links[0]


@dataclass(frozen=True)
class _Linear:
    """Values that are linear in the outputs of hidden layers: weights by source, and a bias."""

    weights: dict[int, FloatArray]
    bias: FloatArray

    def plus(self, other: _Linear, factor: float) -> _Linear:
        """Return this plus ``factor`` times the other."""
        weights = dict(self.weights)
        for source, weight in other.weights.items():
            scaled = factor * weight
            weights[source] = weights[source] + scaled if source in weights else scaled
        return _Linear(weights, self.bias + factor * other.bias)

    def layer(self, depth: int) -> ActionLayer:
        """Return the layer of these values, the layer before as its first source."""
        sources = sorted(self.weights, key=lambda source: source != depth - 1)
        return ActionLayer(tuple((source, self.weights[source]) for source in sources), self.bias)


def merged(members: Sequence[ActionNetworks], reduce: Reduction) -> ActionNetworks:
    """Return the networks of the least, mean or largest outputs of the members, state by state.

    Parameters
    ----------
    members
        At least one, of the same states, actions and number of outputs.
    reduce
        Which.
    """
    if len(members) == 1:
        return members[0]
    depth = max(len(member.hidden) for member in members)
    offsets: list[dict[int, int]] = [{INPUT: 0} for _ in members]
    widths = {INPUT: members[0].n_actions}
    layers: list[ActionLayer] = []
    for level in range(depth):
        present = [(i, m.layers[level]) for i, m in enumerate(members) if level < len(m.hidden)]
        widths[level] = 0
        for i, layer in present:
            offsets[i][level] = widths[level]
            widths[level] += layer.width
        parts = [_widened(layer, offsets[i], widths) for i, layer in present]
        layers.append(_joined(parts, widths).layer(level))
    values = [_widened(m.layers[-1], offsets[i], widths) for i, m in enumerate(members)]
    if reduce == "mean":
        share = 1 / len(values)
        mean = _Linear({}, np.zeros(1))
        for value in values:
            mean = mean.plus(value, share)
        values = [mean]
    sign = 1.0 if reduce == "max" else -1.0
    while len(values) > 1:
        level, pairs = len(layers), list(zip(values[::2], values[1::2], strict=False))
        # What a exceeds b by, or falls short of it for the least.
        over = [_Linear({}, np.zeros(1)).plus(a, sign).plus(b, -sign) for a, b in pairs]
        whole = _joined(over, widths)
        layers.append(whole.layer(level))
        widths[level] = whole.bias.shape[-1]
        outputs = members[0].layers[-1].width
        winners = []
        for i, (_, b) in enumerate(pairs):
            chosen = np.zeros((outputs, widths[level]))
            chosen[:, i * outputs : (i + 1) * outputs] = sign * np.eye(outputs)
            winners.append(_Linear(b.weights | {level: chosen}, b.bias))
        values = winners + values[2 * len(pairs) :]
    layers.append(values[0].layer(len(layers)))
    return ActionNetworks(tuple(layers), members[0].n_actions, members[0].n_states)


def _widened(layer: ActionLayer, offsets: dict[int, int], widths: dict[int, int]) -> _Linear:
    """Return a member's layer as values of the sources of all members."""
    weights = {}
    for source, weight in layer.inputs:
        wide = np.zeros((*weight.shape[:-1], widths[source]))
        wide[..., offsets[source] : offsets[source] + weight.shape[-1]] = weight
        weights[source] = wide
    return _Linear(weights, layer.bias)


def _joined(parts: Sequence[_Linear], widths: dict[int, int]) -> _Linear:
    """Return the values of all parts, one after another."""
    weights = {}
    for source in {source for part in parts for source in part.weights}:
        rows = [(part.bias.shape[-1], widths[source]) for part in parts]
        blocks = [p.weights.get(source, np.zeros(r)) for p, r in zip(parts, rows, strict=True)]
        weights[source] = _stacked(blocks, axis=-2)
    return _Linear(weights, _stacked([part.bias for part in parts], axis=-1))


def _stacked(blocks: Sequence[FloatArray], axis: int) -> FloatArray:
    """Join blocks along an axis, for each state where one of them has an axis of states."""
    lead = np.broadcast_shapes(*(block.shape[: block.ndim + axis] for block in blocks))
    whole = [np.broadcast_to(b, (*lead, *b.shape[b.ndim + axis :])) for b in blocks]
    return np.concatenate(whole, axis=axis)
