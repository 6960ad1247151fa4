r"""A Q-network of arms: as deep in the state as one likes, and small in the action.

Where every action variable belongs to one arm (a machine, a patient, a site) that has features in
the state, all arms share one encoder. It sees the features of its arm, which arm that is, and the
rest of the state, and gives an embedding :math:`h_j(s)`; with :math:`\sigma(x) = x / (1 + e^{-x})`,

.. math:: h_j &= \sigma(W_L \cdots \sigma(W_1\, \sigma(W_0 x_j + e_j + c(s)))), \\
          Q(s, a) &= V(s) + \sum_j a_j\, l(h_j)
                     + w^\top \mathrm{relu}\Big(\sum_j a_j\, U h_j + b(s)\Big).

An arm may also have several action variables; each then has rows of :math:`l` and :math:`U` of its
own. At a given state everything but the action is a number, so that what a solver is given has
``head`` ReLU neurons, however deep the encoder is. Sums over chosen arms are those of deep sets:
Zaheer, Kottur, Ravanbakhsh, Poczos, Salakhutdinov and Smola, "Deep sets", NeurIPS 2017.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.extras import needs
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks
from milp_rl.formulations.networks.action_value import ActionValue as Value
from milp_rl.formulations.networks.network import INPUT
from milp_rl.qnetwork import ActionValue, checked_dimension, new_linear

with needs("learn"):
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import silu

_IDENTITY = 0.1  # size of what tells an arm from others at first; their features are of size one
_LARGEST_EXPONENT = 700.0  # whose exponential float64 holds


class ArmQNetwork(ActionValue):
    """Q(state, action) by an encoder that all arms share and a small head of ReLUs.

    Parameters
    ----------
    n_arms
        Number of arms.
    arm_features
        Features of an arm in the state, at least 0.
    shared_features
        Features in the state that belong to no arm, at least 0.
    arm_actions
        Action variables of an arm, at least 1.
    layout
        How states and actions are put together: ``"arm"``, the features, and the actions, of the
        first arm, of the second and so on; ``"feature"``, the first feature, or action, of all
        arms, then the second. What is shared comes last.
    encoder
        Widths of the encoder's layers, one or more.
    head
        Widths of the layers of ReLUs that follow the action, one or two: the size of the argmax.
    context
        What an arm's encoder sees of the others: ``"mean"``, the mean of their own encodings;
        ``"state"``, everything, by arm.
    identity
        Whether the encoder sees which arm it is: little at first, so that what holds for all arms
        is learnt from all of them. Without, and with ``context="mean"``, the network
        is equivariant: permuted arms have permuted best actions, and :meth:`for_arms` gives the
        same network of another number of arms.
    neighbours
        Which arms are next to which, shape (n_arms, n_arms), non-negative: every layer of the
        encoder but the first then sees the weighted mean of its arm's neighbours too.
    generator
        Source of the initial weights, on the CPU; torch's global one if None.

    Raises
    ------
    ValueError
        If a dimension or the shape of ``neighbours`` is wrong.

    Examples
    --------
    >>> import torch, milp_rl as mr
    >>> network = mr.ArmQNetwork(20, arm_features=2, generator=torch.Generator().manual_seed(0))
    >>> result = mr.argmax(network, torch.rand(40).numpy(), mr.BudgetTopK(20, 4))
    >>> result.status
    'optimal'
    """

    def __init__(
        self,
        n_arms: int,
        arm_features: int = 1,
        shared_features: int = 0,
        *,
        arm_actions: int = 1,
        layout: Literal["arm", "feature"] = "arm",
        encoder: Sequence[int] = (64, 64),
        head: Sequence[int] = (32,),
        context: Literal["mean", "state"] = "mean",
        identity: bool = True,
        neighbours: ArrayLike | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_arms = checked_dimension("n_arms", n_arms, 1)
        self.arm_actions = checked_dimension("arm_actions", arm_actions, 1)
        self.action_dim = self.n_arms * self.arm_actions
        self.arm_features = checked_dimension("arm_features", arm_features, 0)
        self.shared_features = checked_dimension("shared_features", shared_features, 0)
        self.state_dim = self.n_arms * self.arm_features + self.shared_features
        self.encoder = tuple(checked_dimension("encoder", width, 1) for width in encoder)
        self.head = tuple(checked_dimension("head", width, 1) for width in head)
        if not self.encoder or len(self.head) not in (1, 2):
            raise ValueError(
                f"encoder needs one width or more and head one or two, got {self.encoder} and"
                f" {self.head}"
            )
        if layout not in ("arm", "feature") or context not in ("state", "mean"):
            raise ValueError(
                f"layout must be 'arm' or 'feature' and context 'state' or 'mean', got {layout!r}"
                f" and {context!r}"
            )
        self.layout, self.context = layout, context
        first, last, width = self.encoder[0], self.encoder[-1], self.head[0]

        def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
            return new_linear(inputs, outputs, generator, bias=bias)

        if not (self.arm_features or identity):
            raise ValueError("arms of no features need identity=True to be told apart")
        self.own = linear(self.arm_features, first) if self.arm_features else None
        self.arms: nn.Parameter | None = None
        if identity:
            drawn = torch.randn(self.n_arms, first, generator=generator)
            self.arms = nn.Parameter(_IDENTITY * drawn)
        self.others = linear(self.state_dim if context == "state" else first, first, bias=False)
        wide = self.shared_features > 0
        self.shared = linear(self.shared_features, first, bias=False) if wide else None
        pairs = list(zip(self.encoder, self.encoder[1:], strict=False))
        self.deeper = nn.ModuleList(linear(a, b) for a, b in pairs)
        self.messages = nn.ModuleList()
        near = None
        if neighbours is not None:
            near = _checked_neighbours(neighbours, self.n_arms)
            self.messages.extend(linear(a, b, bias=False) for a, b in pairs)
        self.near: Tensor | None
        self.register_buffer("near", near)
        self.pooled = linear(last, last)
        self.value = linear(last, 1)
        self.threshold = linear(last, width)
        self.direct = linear(last, self.arm_actions, bias=False)
        self.sums = linear(last, self.arm_actions * width, bias=False)
        self.second = linear(width, self.head[1]) if len(self.head) == 2 else None
        self.output = linear(self.head[-1], 1, bias=False)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Evaluate batches of states (batch, state_dim) and actions (batch, action_dim)."""
        h = self.encoded(state)
        pooled = silu(self.pooled(h.mean(dim=-2)))
        n, m = self.n_arms, self.arm_actions
        if self.layout == "arm":
            chosen = action.reshape(*action.shape[:-1], n, m)
        else:
            chosen = action.reshape(*action.shape[:-1], m, n).transpose(-1, -2)
        chosen_sums = chosen.transpose(-1, -2) @ h  # (batch, arm_actions, encoder[-1])
        weights = self.sums.weight.reshape(m, self.head[0], -1).transpose(0, 1).flatten(1)
        y = chosen_sums.flatten(-2) @ weights.T
        y = torch.relu(y + self.threshold(pooled))
        if self.second is not None:
            y = torch.relu(self.second(y))
        direct = chosen_sums.flatten(-2) @ self.direct.weight.reshape(-1, 1)
        values: Tensor = (self.value(pooled) + direct + self.output(y)).squeeze(-1)
        return values

    def encoded(self, state: Tensor) -> Tensor:
        """Return the embeddings of the arms, shape (batch, n_arms, encoder[-1])."""
        n, f = self.n_arms, self.arm_features
        own = state.new_zeros(*state.shape[:-1], n, self.encoder[0])
        if self.arms is not None:
            own = own + self.arms
        if self.own is not None:
            features = state[..., : n * f]
            if self.layout == "arm":
                x = features.reshape(*state.shape[:-1], n, f)
            else:
                x = features.reshape(*state.shape[:-1], f, n).transpose(-1, -2)
            own = own + self.own(x)
        others = self.others(state if self.context == "state" else silu(own).mean(dim=-2))
        if self.shared is not None:
            others = others + self.shared(state[..., n * f :])
        h = silu(own + others.unsqueeze(-2))
        for i, layer in enumerate(self.deeper):
            z = layer(h)
            if self.near is not None:
                z = z + self.messages[i](self.near @ h)
            h = silu(z)
        return h

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Return Q(state, action), shape (batch,)."""
        dtype = self.value.weight.dtype
        values: Tensor = self(state.to(dtype), action.to(dtype))
        return values

    def shift(self, amount: float) -> None:
        """Add ``amount`` to every value."""
        with torch.no_grad():
            self.value.bias.add_(amount)

    def action_value(self) -> Value:
        """Return its networks in the action, in float64, with the weights as they are now."""
        return _ArmValue(self)

    def for_arms(self, n_arms: int) -> ArmQNetwork:
        """Return the same network for another number of arms, a copy.

        Raises
        ------
        ValueError
            If it is not equivariant: it knows its arms, their number or their neighbours.
        """
        if self.context != "mean" or self.arms is not None or self.near is not None:
            raise ValueError(
                "only a network with context='mean', identity=False and no neighbours is the same"
                " for any number of arms"
            )
        other = copy.deepcopy(self)
        other.n_arms = checked_dimension("n_arms", n_arms, 1)
        other.action_dim = other.n_arms * other.arm_actions
        other.state_dim = other.n_arms * other.arm_features + other.shared_features
        return other


class _ArmValue(Value):
    """The networks of an :class:`ArmQNetwork` in the action, by numpy, each state by itself."""

    def __init__(self, network: ArmQNetwork) -> None:
        self.n_actions, self.state_dim = network.action_dim, network.state_dim
        self._arms, self._actions = network.n_arms, network.arm_actions
        self._features, self._layout = network.arm_features, network.layout
        self._context = network.context
        self._weights: dict[str, FloatArray] = {
            name: tensor.detach().cpu().double().numpy().copy()
            for name, tensor in network.state_dict(keep_vars=True).items()
        }
        self._depth = len(network.deeper)
        self._head = len(network.head)

    def at_states(self, states: FloatArray) -> ActionNetworks:
        """Return the networks in the action alone, for finite states (states, state_dim)."""
        h = self._encoded(states)
        pooled = _silu(self._linear("pooled", h.mean(axis=1)[:, None]))
        sums = self._by_action(self._linear("sums", h))
        direct = self._by_action(self._linear("direct", h))
        level = self._linear("value", pooled)[:, 0]
        layers = [ActionLayer(((INPUT, sums),), self._linear("threshold", pooled)[:, 0])]
        if self._head == 2:
            w = self._weights
            layers.append(ActionLayer(((0, w["second.weight"]),), w["second.bias"]))
        last = ((self._head - 1, self._weights["output.weight"]), (INPUT, direct))
        layers.append(ActionLayer(last, level))
        return ActionNetworks(tuple(layers), self.n_actions, len(states))

    def _by_action(self, rows: FloatArray) -> FloatArray:
        """Return (states, arms, actions * width) as (states, width, actions of all arms)."""
        states, arms, _ = rows.shape
        split = rows.reshape(states, arms, self._actions, -1)
        order = (0, 3, 1, 2) if self._layout == "arm" else (0, 3, 2, 1)
        return np.ascontiguousarray(split.transpose(order)).reshape(states, -1, self.n_actions)

    def _encoded(self, states: FloatArray) -> FloatArray:
        n, f, w = self._arms, self._features, self._weights
        own = np.zeros((len(states), n, len(w["others.weight"]))) + w.get("arms", 0.0)
        if f:
            features = states[:, : n * f]
            if self._layout == "arm":
                x = features.reshape(len(states), n, f)
            else:
                x = features.reshape(len(states), f, n).swapaxes(1, 2)
            own = own + self._linear("own", np.ascontiguousarray(x))
        seen = states if self._context == "state" else _silu(own).mean(axis=1)
        others = self._linear("others", seen[:, None])
        if "shared.weight" in w:
            others = others + self._linear("shared", np.ascontiguousarray(states[:, None, n * f :]))
        h = _silu(own + others)
        for i in range(self._depth):
            z = self._linear(f"deeper.{i}", h)
            if "near" in w:
                z = z + self._linear(f"messages.{i}", np.matmul(w["near"], h))
            h = _silu(z)
        return h

    def _linear(self, name: str, x: FloatArray) -> FloatArray:
        """Apply a layer to (states, rows, inputs), with a product for each state by itself."""
        y = np.matmul(x, self._weights[f"{name}.weight"].T)
        bias = self._weights.get(f"{name}.bias")
        return np.asarray(y if bias is None else y + bias)


def _silu(x: FloatArray) -> FloatArray:
    return np.asarray(x / (1.0 + np.exp(np.minimum(-x, _LARGEST_EXPONENT))))


def _checked_neighbours(neighbours: ArrayLike, n_arms: int) -> Tensor:
    """Return the weights of neighbours, each row with the sum one or zero."""
    near = np.asarray(neighbours, dtype=np.float32)
    if near.shape != (n_arms, n_arms) or not (np.isfinite(near) & (near >= 0)).all():
        raise ValueError(
            f"neighbours must be finite and not negative, of shape ({n_arms}, {n_arms}); got shape"
            f" {near.shape}"
        )
    return torch.from_numpy(near / np.maximum(near.sum(axis=1, keepdims=True), 1e-12))
