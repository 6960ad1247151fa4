"""Q-networks in torch, and their way to ONNX and back.

A Q-network values a whole combinatorial action: its input is [action, state], its output the
scalar Q(state, action). It is a plain ReLU network, so the maximum over a feasible set is a
mixed-integer linear program (Xu, Wilder, Khalil and Tambe, ICLR 2025).
"""

from __future__ import annotations

import itertools
import json
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from milp_rl.extras import needs
from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.files import write_atomically
from milp_rl.formulations.networks.conversion import read_network, to_network
from milp_rl.formulations.networks.link import linked
from milp_rl.formulations.networks.network import Network, NetworkError
from milp_rl.formulations.networks.onnx_file import load_model
from milp_rl.formulations.networks.onnx_graph import Inputs
from milp_rl.formulations.networks.onnx_reader import read_metadata, read_onnx
from milp_rl.formulations.networks.onnx_value import onnx_value
from milp_rl.formulations.networks.torch_export import evaluated, export_model, read_plain
from milp_rl.formulations.networks.torch_inputs import TorchInputs, find_inputs, sampled
from milp_rl.formulations.networks.torch_layers import read_layers

with needs("learn"):
    import torch
    from torch import nn

__all__ = ["QNetwork", "export_onnx", "to_network"]

_PREFIX = "milp_rl."
_TOLERANCE = 1e-5


class ActionValue(nn.Module):
    """A module that values whole actions: what the learners train."""

    state_dim: int
    action_dim: int

    def q(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return Q(state, action), shape (batch,), of batches of both."""
        raise NotImplementedError

    def each(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return the values of every critic in it, shape (critics, batch); by default there is one.

        Each critic is fitted to the targets by itself.
        """
        return self.q(state, action)[None]

    def shift(self, amount: float) -> None:
        """Add ``amount`` to every value."""
        raise NotImplementedError


class QNetwork(ActionValue):
    """A ReLU network for Q(state, action): input [action, state], scalar output.

    Parameters
    ----------
    state_dim
        Number of state features, at least 0.
    action_dim
        Number of binary action variables, at least 1.
    hidden
        Widths of the hidden layers, each at least 1; empty for a linear function.
    generator
        Source of the initial weights, on the CPU; torch's global one if None. The distribution
        is that of ``torch.nn.Linear``, uniform within 1/sqrt(inputs).

    Raises
    ------
    ValueError
        If a dimension is too small.
    TypeError
        If a dimension is not an integer.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (16, 32),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.state_dim = checked_dimension("state_dim", state_dim, 0)
        self.action_dim = checked_dimension("action_dim", action_dim, 1)
        self.hidden = tuple(checked_dimension("hidden", width, 1) for width in hidden)
        widths = (self.action_dim + self.state_dim, *self.hidden, 1)
        modules: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            modules += [new_linear(inputs, outputs, generator), nn.ReLU()]
        self.layers = nn.Sequential(*modules[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate the network on [action, state].

        Parameters
        ----------
        x
            Shape (..., action_dim + state_dim), of the network's dtype.

        Returns
        -------
        torch.Tensor
            Shape (..., 1).
        """
        y: torch.Tensor = self.layers(x)
        return y

    def q(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return Q(state, action).

        Parameters
        ----------
        state
            Shape (..., state_dim).
        action
            Shape (..., action_dim), any dtype; leading axes broadcast against the state's.

        Returns
        -------
        torch.Tensor
            Shape (...,).

        Raises
        ------
        ValueError
            If a last axis has the wrong length.
        """
        for name, part, width in (
            ("action", action, self.action_dim),
            ("state", state, self.state_dim),
        ):
            if part.shape[-1:] != (width,):
                raise ValueError(
                    f"{name} has shape {tuple(part.shape)}, but its last axis must have {width}"
                    f" values ({name}_dim)"
                )
        lead = np.broadcast_shapes(action.shape[:-1], state.shape[:-1])
        dtype = next(self.parameters()).dtype
        x = torch.cat([part.to(dtype).expand(*lead, -1) for part in (action, state)], dim=-1)
        y: torch.Tensor = self(x)
        return y.squeeze(-1)

    def to_network(self) -> Network:
        """Return the network, in float64, with the weights as they are now."""
        network = read_layers(self.layers)
        if network is None:  # a layer was replaced, or has a hook
            network = read_network(self.layers)
        return network

    def shift(self, amount: float) -> None:
        """Add ``amount`` to every value."""
        output = self.layers[-1]
        assert isinstance(output, nn.Linear)
        with torch.no_grad():
            output.bias.add_(amount)

    def to_onnx(self, path: str | Path) -> None:
        """Write the network, with its dimensions as metadata; see :func:`export_onnx`."""
        export_onnx(self, path)

    @classmethod
    def from_onnx(
        cls, path: str | Path, *, state_dim: int | None = None, action_dim: int | None = None
    ) -> QNetwork:
        """Read a network of ReLU layers with scalar output.

        Parameters
        ----------
        path
            ONNX file. What :meth:`to_onnx` wrote comes back with the same weights bit for bit.
        state_dim, action_dim
            Needed (one of them is enough) if the file does not say; otherwise checked.

        Returns
        -------
        QNetwork
            On the CPU, in the dtype of the file's input, in training mode.

        Raises
        ------
        NetworkError
            If the file cannot be read as a network or has several outputs.
        ValueError
            If the dimensions are missing, or contradict the file.
        """
        model = load_model(path)
        network = read_onnx(model)
        if network.n_outputs != 1:
            raise NetworkError(f"a Q-network has one output, {path} has {network.n_outputs}")
        if not network.is_chain or network.link != "identity":
            raise NetworkError(
                f"a Q-network is one chain of ReLU layers, {path} is not; use it as it is, or read"
                " it with to_network or to_action_value"
            )
        metadata = read_metadata(model)
        dims: dict[str, int | None] = {"state_dim": state_dim, "action_dim": action_dim}
        for name, given in dims.items():
            stored = metadata.get(_PREFIX + name)
            if stored is None:
                continue
            if not stored.isdecimal():
                raise NetworkError(f"{path} says {name} is {stored!r}, not a number")
            if given is not None and given != int(stored):
                raise ValueError(f"{name} is {stored} in {path}, but {given} was asked for")
            dims[name] = int(stored)
        state_dim, action_dim = dims["state_dim"], dims["action_dim"]
        if state_dim is None and action_dim is None:
            raise ValueError(f"{path} does not say its dimensions; give state_dim or action_dim")
        if state_dim is None:
            state_dim = network.n_inputs - (action_dim or 0)
        if action_dim is None:
            action_dim = network.n_inputs - state_dim
        if state_dim + action_dim != network.n_inputs:
            raise ValueError(
                f"state_dim {state_dim} and action_dim {action_dim} do not add up to the"
                f" {network.n_inputs} inputs of {path}"
            )
        kind = model.graph.input[0].type.tensor_type.elem_type
        dtype = torch.float64 if kind == onnx.TensorProto.DOUBLE else torch.float32
        return cls.of(network, action_dim, dtype)

    @classmethod
    def of(cls, network: Network, action_dim: int, dtype: torch.dtype = torch.float32) -> QNetwork:
        """Return the Q-network of a chain of ReLU layers on [action, state] with scalar output."""
        widths = [len(layer.bias) for layer in network.hidden]
        sizes = network.n_inputs - action_dim, action_dim, widths
        result = cls(*sizes, generator=torch.Generator()).to(dtype)
        linears = [module for module in result.layers if isinstance(module, nn.Linear)]
        with torch.no_grad():
            for linear, layer in zip(linears, network.layers, strict=True):
                linear.weight.copy_(torch.from_numpy(layer.weight))
                linear.bias.copy_(torch.from_numpy(layer.bias))
        return result


def export_onnx(
    module: nn.Module,
    path: str | Path,
    n_inputs: int | None = None,
    metadata: Mapping[str, str] | None = None,
    *,
    n_actions: int | None = None,
    inputs: Inputs = None,
) -> None:
    """Write a torch network to one ONNX file, after checking it.

    The file must pass ``onnx.checker``, and onnxruntime and what
    :func:`~milp_rl.formulations.networks.conversion.to_action_value` or
    :func:`~milp_rl.formulations.networks.conversion.to_network` reads of it, in float64, must agree
    with torch on random inputs to 1e-5, times the largest output where that is above 1. Otherwise
    ``path`` is left as it was.

    Parameters
    ----------
    module
        A :class:`QNetwork`, or another module that these functions accept, in float32 or float64.
        It is exported as in evaluation mode, and stays as it is.
    path
        Where to write. The graph's inputs are ``state`` and ``action``, in the order in which the
        module's ``forward`` takes them, each of shape (batch, its width); or, if that takes one
        argument, ``x`` of shape (batch, n_inputs). Its output is ``y``, of the module's shape.
    n_inputs
        Checked against the module if given; needed where it cannot be told.
    metadata
        Strings to store in the file's ``metadata_props``. A `QNetwork` adds its dimensions.
    n_actions
        Width of the action, needed for modules that are piecewise linear in the action alone and
        do not have it as attribute ``action_dim``.
    inputs
        Which argument is which, as for :func:`to_network`.

    Raises
    ------
    NetworkError
        If the module has an unsupported layer or dtype, a weight is NaN or infinite, or the
        exported model disagrees with torch.
    ValueError
        If ``n_inputs`` contradicts the module.
    OSError
        If ``path`` cannot be written.
    """
    dtypes = {parameter.dtype for parameter in module.parameters()}
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
        raise NetworkError(
            f"the module's parameters are of {' and '.join(sorted(map(str, dtypes)))}; convert all"
            f" with .float() or .double() first"
        )
    own = evaluated(module)
    network = read_plain(module, own)
    call = find_inputs(
        own,
        n_actions=n_actions,
        inputs=inputs,
        n_inputs=n_inputs if network is None else network.n_inputs,
    )
    if n_inputs not in (None, call.width):
        raise ValueError(f"n_inputs is {n_inputs}, but the module takes {call.width} inputs")
    x, outputs = sampled(own, call, 64)
    if len(outputs) != 1:
        raise NetworkError(f"the module has outputs {', '.join(outputs)}; give it a single one")
    (y,) = outputs.values()
    model = export_model(own, call, optimize=True)
    entries = dict(metadata or {})
    if isinstance(own, QNetwork):
        for name in ("state_dim", "action_dim", "hidden"):
            entries[_PREFIX + name] = json.dumps(getattr(own, name))
    onnx.helper.set_model_props(model, entries)
    data = model.SerializeToString()
    if n_actions is None and len(call.roles) == 2:
        n_actions = call.widths[call.roles.index("action")]
    _check_agreement(data, call, x, y.numpy(), n_actions)
    write_atomically(path, data)


def _check_agreement(
    data: bytes, call: TorchInputs, x: torch.Tensor, y: FloatArray, n_actions: int | None
) -> None:
    """Raise unless onnxruntime and our reader give the outputs ``y`` that torch gives."""
    if n_actions is None:
        network = read_onnx(data)  # runs onnx.checker
        read = linked(network.link, network.forward(x.numpy()))
    else:
        value = onnx_value(data, n_actions)
        inputs = x.double().numpy()
        given = value.values(inputs[:, n_actions:], inputs[:, :n_actions])
        read = linked(value.link, given)[:, None]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    arguments = zip(call.roles, call.arguments(x), strict=True)
    (run,) = session.run(None, {role: part.numpy() for role, part in arguments})
    tolerance = _TOLERANCE * max(1.0, float(np.max(np.abs(y))))
    for name, values in (("onnxruntime", run.reshape(len(y), -1)), ("the reader", read)):
        error = np.abs(values - y)
        if error.shape != y.shape or not (error <= tolerance).all():
            raise NetworkError(
                f"nothing was written: {name} and torch disagree on the exported network by up to"
                f" {np.max(error):.3g}, on outputs of up to {np.max(np.abs(y)):.3g}"
            )


def new_linear(
    inputs: int, outputs: int, generator: torch.Generator | None, *, bias: bool = True
) -> nn.Linear:
    """Return a layer with the initial weights of ``torch.nn.Linear``, drawn with a generator."""
    # Without torch's own initialisation, its global generator is left alone.
    linear = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")
    nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5), generator=generator)
    if bias:
        bound = 1 / math.sqrt(inputs)
        nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
    return linear


def checked_dimension(name: str, value: int, least: int) -> int:
    """Return a whole number of at least ``least``, or raise naming it."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def check_action_value(network: object) -> None:
    """Raise ``ValueError`` for a network that is not an :class:`ActionValue`."""
    if not isinstance(network, ActionValue):
        raise ValueError(
            f"a Q-network must be a milp_rl.qnetwork.ActionValue, got {type(network).__name__}:"
            " wrap a module of your own in milp_rl.dqn.ModuleValue"
        )
