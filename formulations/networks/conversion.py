"""Turning what a user has, a torch module, an ONNX file or an OMLT definition, into a `Network`.

Torch is not imported here: where it has not been imported yet, nothing can be a torch module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.network import Layer, Network, NetworkError
from milp_rl.formulations.networks.omlt_reader import read_omlt
from milp_rl.formulations.networks.onnx_reader import read_onnx

if TYPE_CHECKING:
    import onnx
    import torch
    from omlt.neuralnet import NetworkDefinition

_SUPPORTED = (
    "supported are Linear, ReLU, Flatten of all but the first axis, Identity, Dropout in evaluation"
    " mode, and Sequential of these"
)


def to_network(
    source: Network | torch.nn.Module | NetworkDefinition | onnx.ModelProto | str | Path | bytes,
) -> Network:
    """Return the :class:`~milp_rl.formulations.networks.network.Network` that ``source`` describes.

    Parameters
    ----------
    source
        A `Network` (returned as it is); a :class:`~milp_rl.qnetwork.QNetwork` or a
        ``torch.nn.Sequential``, nested or not, of Linear, ReLU, Flatten, Identity and Dropout
        in evaluation mode, on any device; OMLT's ``NetworkDefinition``; or an ONNX model: its
        path, its bytes or the loaded model.

    Returns
    -------
    Network
        In float64, with the weights as they are now: later training does not change it.

    Raises
    ------
    NetworkError
        If a layer or node is not supported (the message names it), or a weight is NaN or infinite.
    FileNotFoundError
        If a path leads nowhere.
    TypeError
        If ``source`` is none of these.
    """
    if isinstance(source, Network):
        return source
    if isinstance(source, str | Path | bytes) or type(source).__name__ == "ModelProto":
        return read_onnx(cast("str | Path | bytes | onnx.ModelProto", source))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.nn.Module):
        return _from_torch(source)
    if hasattr(source, "layers") and hasattr(source, "scaling_object"):
        return read_omlt(source)
    raise TypeError(
        "expected a Network, a torch module, an OMLT NetworkDefinition, or an ONNX model or its"
        f" path, got {type(source).__name__}"
    )


def _from_torch(module: torch.nn.Module) -> Network:
    from torch import nn

    layers: list[Layer] = []
    relu_first = False
    for name, leaf in _leaves(module, ""):
        if _is(leaf, nn.Linear):
            try:
                weight = _array(leaf.weight)
                bias = np.zeros(len(weight)) if leaf.bias is None else _array(leaf.bias)
                if relu_first and not layers:
                    n = weight.shape[1]
                    layers.append(Layer(np.eye(n), np.zeros(n), "relu"))
                layers.append(Layer(weight, bias, "linear"))
            except NetworkError as error:
                raise NetworkError(f"layer {name!r} (Linear): {error}") from error
        elif _is(leaf, nn.ReLU):
            if layers:
                layers[-1] = Layer(layers[-1].weight, layers[-1].bias, "relu")
            relu_first = True
        elif not (
            _is(leaf, nn.Identity)
            or (_is(leaf, nn.Dropout) and not (leaf.training and leaf.p > 0))
            or (_is(leaf, nn.Flatten) and leaf.start_dim in (1, -1) and leaf.end_dim in (1, -1))
        ):
            mode = " in training mode" if isinstance(leaf, nn.Dropout) and leaf.training else ""
            raise NetworkError(f"layer {name!r} is a {leaf}{mode}; {_SUPPORTED}")
    if not layers:
        raise NetworkError(f"the {type(module).__name__} has no Linear layer")
    return Network(tuple(layers))


def _leaves(module: torch.nn.Module, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the layers in the order in which they are applied, with their paths."""
    from torch import nn

    from milp_rl.qnetwork import QNetwork  # it imports this module

    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    if hooks:
        raise NetworkError(
            f"layer {name!r} ({type(module).__name__}) has forward hooks, which may change what it"
            f" computes; remove them first"
        )
    if _is(module, QNetwork) or _is(module, nn.Sequential):
        for key, child in module._modules.items():  # named_children() leaves out repeated ones
            assert child is not None
            yield from _leaves(child, f"{name}.{key}" if name else key)
    else:
        yield name, module


def _is(module: torch.nn.Module, kind: type[torch.nn.Module]) -> bool:
    """Whether ``module`` computes what ``kind`` does: not so for a subclass with its own forward.

    Parametrized layers pass, as their class is a subclass made by torch.
    """
    return isinstance(module, kind) and type(module).forward is kind.forward


def _array(tensor: torch.Tensor) -> FloatArray:
    return tensor.detach().cpu().double().numpy()
