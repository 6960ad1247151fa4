"""A torch module of one's own as the Q-network of a learner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_graph import Inputs
from milp_rl.formulations.networks.torch_export import check_mode, evaluated, unwrapped
from milp_rl.formulations.networks.torch_inputs import find_inputs
from milp_rl.qnetwork import ActionValue, export_onnx


class ModuleValue(ActionValue):
    r"""A module that values actions, and a level that is learnt too: :math:`Q(s, a) = m(s, a) + c`.

    Parameters
    ----------
    module
        Takes (state, action), in either order, or [action, state] side by side, as batches in
        float32 (or float64) on the CPU, and returns one value per row, shape (batch,) or (batch,
        1). It may do anything to the state; what follows the action has to be piecewise linear, the
        last operator included. It is trained itself, not a copy of it. Layers that differ in
        training mode (``BatchNorm``, ``Dropout``) have to be in evaluation mode, and stay so.
    state_dim, action_dim
        Number of state features and of action variables.
    inputs
        Which argument of ``forward`` is which, ``("action", "state")`` or ``("state", "action")``,
        where their names do not tell; of a single argument, its order.

    Raises
    ------
    NetworkError
        If the module cannot be called on such batches, or has several outputs.
    """

    def __init__(
        self, module: nn.Module, state_dim: int, action_dim: int, *, inputs: Inputs = None
    ) -> None:
        super().__init__()
        kind = type(module).__name__
        self.state_dim, self.action_dim = state_dim, action_dim
        self.module = unwrapped(module)
        check_mode(self.module)
        kinds = {(p.dtype, p.device.type) for p in self.module.parameters()}
        if not kinds or not kinds <= {(torch.float32, "cpu"), (torch.float64, "cpu")}:
            found = " and ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise NetworkError(
                f"a learner trains parameters of torch.float32 on the CPU, the {kind} has"
                f" {found or 'none'}; convert it with .float().cpu()"
            )
        own = evaluated(self.module)
        try:
            call = find_inputs(own, n_actions=action_dim, state_dim=state_dim, inputs=inputs)
        except NetworkError as error:
            raise NetworkError(
                f"{error} (of milp_rl.dqn.ModuleValue, here with {state_dim} state features and"
                f" {action_dim} action variables)"
            ) from error
        if call.lead != (2,):
            raise NetworkError(f"the {kind} takes single samples; a learner needs one of batches")
        if call.width != state_dim + action_dim:
            raise NetworkError(
                f"the {kind} takes {call.width} inputs, the environment has {state_dim} state"
                f" features and {action_dim} action variables"
            )
        first: str = "action"
        if call.roles != ("x",):
            first = call.roles[0]
        elif inputs is not None and not isinstance(inputs, Mapping):
            first = inputs[0]
        self._state_first = first == "state"
        self._joined = call.roles == ("x",)
        self.level = nn.Parameter(torch.zeros(1, dtype=next(self.module.parameters()).dtype))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Evaluate batches of both, shapes (batch, state_dim) and (batch, action_dim)."""
        parts = (state, action) if self._state_first else (action, state)
        arguments = (torch.cat(parts, dim=-1),) if self._joined else parts
        values: Tensor = self.module(*arguments)
        return values.reshape(-1) + self.level

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Return Q(state, action), shape (batch,), float32."""
        kind = self.level.dtype
        values: Tensor = self(state.to(kind), action.to(kind))
        return values.float()

    def shift(self, amount: float) -> None:
        """Add ``amount`` to every value."""
        with torch.no_grad():
            self.level.add_(amount)

    def to_onnx(self, path: str | Path) -> None:
        """Write the module and the level; see :func:`~milp_rl.qnetwork.export_onnx`."""
        export_onnx(self, path, n_actions=self.action_dim)
