r"""A Q-network in the units of its environment around one that works with numbers near one.

.. math:: Q(s, a) = \rho\, q\big((s - \mu) / \sigma, (a - o) / w\big)

with fixed :math:`\mu, \sigma` and :math:`\rho`; o is the value of each action variable that is
nearest to zero, and w the largest distance from it, which leaves binary ones as they are. The
values, targets and temporal differences are in the units of the rewards; learning rates, losses and
gradients do not depend on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from milp_rl.arm_qnetwork import ArmQNetwork
from milp_rl.envs.arms import Arms
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks, NetworkValue
from milp_rl.formulations.networks.action_value import ActionValue as Value
from milp_rl.formulations.networks.conversion import to_action_value
from milp_rl.formulations.networks.network import INPUT
from milp_rl.qnetwork import ActionValue, QNetwork, check_action_value, export_onnx

_LEAST = 1e-30  # unit of the rewards
_ROUNDING = 1e-7  # relative to the largest value; that of float32 is 6e-8


class NormalisedQNetwork(ActionValue):
    """A Q-network whose states are centred, and states, actions and values scaled.

    Until :meth:`normalise` is called it is the network itself.

    Parameters
    ----------
    inner
        The network that is trained.

    Raises
    ------
    ValueError
        If it is not an :class:`~milp_rl.qnetwork.ActionValue`.
    """

    centre: Tensor
    spread: Tensor
    scale: Tensor
    action_origin: Tensor
    action_reach: Tensor

    def __init__(self, inner: ActionValue) -> None:
        super().__init__()
        check_action_value(inner)
        self.inner = inner
        self.state_dim, self.action_dim = inner.state_dim, inner.action_dim
        self.register_buffer("centre", torch.zeros(self.state_dim))
        self.register_buffer("spread", torch.ones(self.state_dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("action_origin", torch.zeros(self.action_dim))
        self.register_buffer("action_reach", torch.ones(self.action_dim))

    @property
    def unit(self) -> float:
        """What one means in values of the inner network, in units of the rewards."""
        return float(self.scale)

    def normalise(
        self,
        states: NDArray[Any],
        rewards: NDArray[Any],
        arms: Arms | None = None,
        bounds: tuple[FloatArray, FloatArray] | None = None,
    ) -> None:
        """Take centres and spreads from observed states, and the unit from observed rewards.

        A feature that is always 0 or 1 is left as it is, a constant one centred. The same feature
        of several arms has one centre and one spread. The unit is the standard deviation of the
        rewards, or their size where all are the same.

        Parameters
        ----------
        states, rewards
            Shapes (samples, state_dim) and (samples,), at least one sample, finite.
        arms
            Which features belong to arms; by default none.
        bounds
            Least and largest values of the action variables, to scale them to at most one; by
            default they are left as they are.

        Raises
        ------
        ValueError
            If a shape is wrong or a number is not finite.
        """
        x = np.asarray(states, dtype=np.float64)
        r = np.asarray(rewards, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.state_dim or r.shape != (len(x),) or not len(x):
            raise ValueError(
                f"states must have shape (samples, {self.state_dim}) and rewards (samples,), got"
                f" {x.shape} and {r.shape}"
            )
        if not (np.isfinite(x).all() and np.isfinite(r).all()):
            raise ValueError("states and rewards must be finite")
        if bounds is not None:
            lower, upper = (np.asarray(bound, dtype=np.float64) for bound in bounds)
            fits = lower.shape == upper.shape == (self.action_dim,)
            if not (fits and np.isfinite(lower).all() and np.isfinite(upper).all()):
                raise ValueError(
                    f"bounds must be two finite arrays of shape ({self.action_dim},), got"
                    f" {lower.tolist()} and {upper.tolist()}"
                )
        features = feature_groups(self.state_dim, arms)
        centre, spread = np.zeros(self.state_dim), np.ones(self.state_dim)
        for group in np.unique(features):
            values = x[:, features == group].ravel()
            if not np.isin(values, (0.0, 1.0)).all():
                own = features == group
                centre[own], spread[own] = values.mean(), float(deviations(values)) or 1.0
        unit = float(deviations(r)) or float(np.abs(r).max())
        if 0 < unit < _LEAST:
            raise ValueError(
                f"the rewards differ by {unit:.2g} (their standard deviation): float32 needs"
                f" {_LEAST:g} at least; give them in larger units"
            )
        self.centre.copy_(torch.from_numpy(centre))
        self.spread.copy_(torch.from_numpy(spread))
        self.scale.fill_(unit if unit > 0 else 1.0)
        if bounds is not None:
            origin = np.clip(0.0, lower, upper)
            reach = np.maximum(upper - origin, origin - lower)
            self.action_origin.copy_(torch.from_numpy(origin))
            self.action_reach.copy_(torch.from_numpy(np.where(reach > 0, reach, 1.0)))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Evaluate batches of states (batch, state_dim) and actions (batch, action_dim)."""
        return self.scale * self.inner.q(*self._normalised(state, action))

    def each(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the values of every critic, shape (critics, batch)."""
        return self.scale * self.inner.each(*self._normalised(state, action))

    def _normalised(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        own = (action - self.action_origin) / self.action_reach
        return (state - self.centre) / self.spread, own

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Return Q(state, action), shape (batch,)."""
        values: Tensor = self(state, action)
        return values

    def shift(self, amount: float) -> None:
        """Add ``amount`` to every value."""
        self.inner.shift(amount / self.unit)

    def action_value(self) -> Value:
        """Return its networks in the action, in float64, with the weights as they are now."""
        inner = to_action_value(self.inner, self.action_dim, state_dim=self.state_dim)
        names = ("centre", "spread", "action_origin", "action_reach")
        centre, spread, origin, reach = (getattr(self, name).double().numpy() for name in names)
        trivial = not (centre.any() or origin.any()) and (spread == 1).all() and (reach == 1).all()
        if trivial and self.unit == 1:
            return inner
        if isinstance(inner, NetworkValue):
            factors = np.concatenate([1 / reach, 1 / spread])
            offsets = np.concatenate([-origin / reach, -centre / spread])
            network = inner.network.affine_of_inputs(factors, offsets)
            bias = self.unit * network.output.bias
            return NetworkValue(network.with_output(self.unit, bias), self.action_dim)
        return _NormalisedValue(inner, centre, spread, origin, reach, self.unit)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Of before 0.2, when actions were left as they are.
        state_dict.setdefault(f"{prefix}action_origin", torch.zeros_like(self.action_origin))
        state_dict.setdefault(f"{prefix}action_reach", torch.ones_like(self.action_reach))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def for_arms(self, n_arms: int) -> NormalisedQNetwork:
        """Return the same network for another number of arms, a copy.

        Raises
        ------
        ValueError
            If its network is not one of arms, not equivariant (see
            :meth:`milp_rl.ArmQNetwork.for_arms`), or normalised for each arm by itself.
        """
        inner = self.inner
        if not isinstance(inner, ArmQNetwork):
            raise ValueError(f"only a network of arms, not {type(inner).__name__}, has for_arms")
        other = NormalisedQNetwork(inner.for_arms(n_arms))
        other.scale.copy_(self.scale)
        by_arm = inner.layout == "arm"
        for name in ("centre", "spread", "action_origin", "action_reach"):
            values: Tensor = getattr(self, name)
            each = inner.arm_actions if name.startswith("action") else inner.arm_features
            own = inner.n_arms * each
            parts = values[:own]
            rows = parts.reshape(-1, each) if by_arm else parts.reshape(each, -1).T
            one = rows[0]
            if not bool((rows == one).all()):
                raise ValueError("features or actions were normalised for each arm by itself")
            tiled = one.repeat(n_arms) if by_arm else one.repeat_interleave(n_arms)
            getattr(other, name).copy_(torch.cat([tiled, values[own:]]))
        return other

    def to_onnx(self, path: str | Path) -> None:
        """Write it, in the units of the environment; see :func:`milp_rl.export_onnx`.

        A :class:`~milp_rl.QNetwork` in it is written as one.
        """
        value = self.action_value()
        if isinstance(self.inner, QNetwork) and isinstance(value, NetworkValue):
            QNetwork.of(value.network, self.action_dim).to_onnx(path)
        else:
            export_onnx(self, path, n_actions=self.action_dim)


class _NormalisedValue(Value):
    """An action value of normalised states and actions, and in another unit."""

    def __init__(
        self,
        inner: Value,
        centre: FloatArray,
        spread: FloatArray,
        origin: FloatArray,
        reach: FloatArray,
        unit: float,
    ) -> None:
        self.inner, self._centre, self._spread, self._unit = inner, centre, spread, unit
        self._origin, self._reach = origin, reach
        self.n_actions, self.state_dim = inner.n_actions, inner.state_dim
        self.binary, self.link = inner.binary, inner.link

    def at_states(self, states: FloatArray) -> ActionNetworks:
        """Return the networks in the action alone, for finite states (states, state_dim)."""
        found = self.inner.at_states((states - self._centre) / self._spread)
        layers = tuple(self._of_actions(layer) for layer in found.layers)
        last = layers[-1]
        inputs = tuple((source, weight * self._unit) for source, weight in last.inputs)
        layers = (*layers[:-1], ActionLayer(inputs, last.bias * self._unit))
        return ActionNetworks(layers, found.n_actions, found.n_states)

    def _of_actions(self, layer: ActionLayer) -> ActionLayer:
        """Return the layer of actions that are not scaled."""
        if not self._origin.any() and (self._reach == 1).all():
            return layer
        bias, inputs = layer.bias, []
        for source, weight in layer.inputs:
            if source == INPUT:
                weight = weight / self._reach
                bias = bias - weight @ self._origin
            inputs.append((source, weight))
        return ActionLayer(tuple(inputs), bias)


def deviations(values: FloatArray) -> FloatArray:
    """Return standard deviations along the first axis, 0 where they are of rounding only."""
    found = values.std(axis=0)
    smallest = np.finfo(np.float32).tiny + _ROUNDING * np.abs(values).max(axis=0)
    return np.where(found > smallest, found, 0.0)


def feature_groups(state_dim: int, arms: Arms | None) -> NDArray[np.intp]:
    """Return a number for each feature of a state, the same for the same feature of all arms."""
    groups = np.arange(state_dim)
    if arms is not None and arms.arm_features:
        own = arms.n_arms * arms.arm_features
        j = np.arange(own)
        groups[:own] = j % arms.arm_features if arms.layout == "arm" else j // arms.n_arms
    return groups
