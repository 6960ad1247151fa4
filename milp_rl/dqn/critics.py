"""Several critics as one Q-network: the least of their values, or the mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from milp_rl.formulations.networks.action_value import ActionValue as Value
from milp_rl.formulations.networks.conversion import to_action_value
from milp_rl.formulations.networks.ensemble import Ensemble
from milp_rl.qnetwork import ActionValue, check_action_value, export_onnx


class Critics(ActionValue):
    r"""The least, or the mean, of the values of several critics.

    The least of two is the target of clipped double Q-learning: Fujimoto, van Hoof and Meger,
    "Addressing function approximation error in actor-critic methods", ICML 2018. Here the argmax
    is of the least too, and exact: :math:`\min(x, y) = y - \mathrm{relu}(y - x)`.

    Parameters
    ----------
    members
        Critics of the same states and actions, one or more, each fitted to the targets by itself.
    reduce
        ``"min"`` or ``"mean"``.

    Raises
    ------
    ValueError
        If there is no member, one is not an :class:`~milp_rl.qnetwork.ActionValue`, or they differ
        in their states or actions.
    """

    def __init__(
        self, members: Sequence[ActionValue], reduce: Literal["min", "mean"] = "min"
    ) -> None:
        super().__init__()
        for member in members:
            check_action_value(member)
        sizes = {(member.state_dim, member.action_dim) for member in members}
        if len(sizes) != 1:
            raise ValueError(
                "critics must be at least one, all of the same numbers of state features and"
                f" actions, got {sorted(sizes) or 'none'}"
            )
        if reduce not in ("min", "mean"):
            raise ValueError(f"reduce must be 'min' or 'mean', got {reduce!r}")
        self.members = nn.ModuleList(members)
        self.reduce = reduce
        ((self.state_dim, self.action_dim),) = sizes

    def each(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the values of every critic, shape (critics, batch)."""
        return torch.stack([member.q(state, action) for member in self.members])  # type: ignore[operator]

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Evaluate batches of states (batch, state_dim) and actions (batch, action_dim)."""
        values = self.each(state, action)
        return values.amin(dim=0) if self.reduce == "min" else values.mean(dim=0)

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Return Q(state, action), shape (batch,)."""
        values: Tensor = self(state, action)
        return values

    def shift(self, amount: float) -> None:
        """Add ``amount`` to every value."""
        for member in self.members:
            member.shift(amount)  # type: ignore[operator]

    def action_value(self) -> Value:
        """Return its networks in the action, in float64, with the weights as they are now."""
        ensemble = Ensemble(tuple(self.members), self.reduce)
        return to_action_value(ensemble, self.action_dim, state_dim=self.state_dim)

    def to_onnx(self, path: str | Path) -> None:
        """Write them as one network; see :func:`milp_rl.export_onnx`."""
        export_onnx(self, path, n_actions=self.action_dim)
