"""Reading torch modules that apply known layers one after another, without exporting them.

That covers ``Sequential`` and modules whose own ``forward`` only applies their layers in a row.
Torch is imported when a module is given, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.network import Layer, Network, NetworkError

if TYPE_CHECKING:
    import torch


def read_layers(module: torch.nn.Module) -> Network | None:
    """Return the network of a module in evaluation mode, or None if it is not a chain of layers.

    Layers are Linear, ReLU, LeakyReLU, PReLU, ReLU6, Hardtanh, Hardsigmoid, BatchNorm1d, Dropout,
    Identity and Flatten, nested in Sequential as one likes. Each is exact.

    Raises
    ------
    NetworkError
        If widths do not fit, or a weight is not finite.
    """
    leaves = _leaves(module, "")
    if leaves is None:
        return None
    layers: list[Layer] = []
    waiting: list[Any] = []  # activations before the first width is known
    for name, leaf in leaves:
        known = _affine(leaf)
        try:
            if known is not None:
                weight, bias = known
                if waiting:
                    n = weight.shape[1]
                    layers.append(Layer(np.eye(n), np.zeros(n), "linear"))
                    for first in waiting:
                        _activate(layers, first)
                    waiting = []
                layers.append(Layer(weight, bias, "linear"))
            elif not layers:
                if not _activate([Layer(np.ones((1, 1)), np.zeros(1))], leaf):
                    return None
                waiting.append(leaf)
            elif not _activate(layers, leaf):
                return None
        except NetworkError as error:
            raise NetworkError(f"layer {name!r} ({type(leaf).__name__}): {error}") from error
    return Network(tuple(layers)) if layers else None


def _affine(leaf: Any) -> tuple[FloatArray, FloatArray] | None:
    """Return weight and bias of a layer that is an affine function of its inputs, else None."""
    from torch import nn

    if _is(leaf, nn.Linear):
        weight = _array(leaf.weight)
        return weight, np.zeros(len(weight)) if leaf.bias is None else _array(leaf.bias)
    if _is(leaf, nn.BatchNorm1d) and leaf.running_mean is not None:
        scale: FloatArray = 1 / np.sqrt(_array(leaf.running_var) + leaf.eps)
        if leaf.weight is not None:
            scale = scale * _array(leaf.weight)
        shift = -_array(leaf.running_mean) * scale
        return np.diag(scale), shift if leaf.bias is None else shift + _array(leaf.bias)
    return None


def _activate(layers: list[Layer], leaf: Any) -> bool:
    """Append what a layer without width of its own computes; False if it is not known."""
    from torch import nn

    last, n = layers[-1], len(layers[-1].bias)
    if _is(leaf, nn.ReLU):
        layers[-1] = Layer(last.weight, last.bias, "relu", last.skips)
    elif _is(leaf, nn.LeakyReLU) or _is(leaf, nn.PReLU):
        slope = _array(leaf.weight) if isinstance(leaf, nn.PReLU) else leaf.negative_slope
        slopes = np.diag(np.broadcast_to(slope, (n,)))
        layers.append(Layer(np.eye(n), np.zeros(n), "relu"))
        below = ((len(layers) - 2, slopes),)
        layers.append(Layer(np.eye(n) - slopes, np.zeros(n), "linear", below))
    elif _is(leaf, nn.ReLU6) or _is(leaf, nn.Hardtanh):
        layers.extend(clip_layers(np.full(n, leaf.min_val), np.full(n, leaf.max_val)))
    elif _is(leaf, nn.Hardsigmoid):
        layers.append(Layer(np.eye(n) / 6, np.full(n, 0.5), "linear"))
        layers.extend(clip_layers(np.zeros(n), np.ones(n)))
    else:
        flat = _is(leaf, nn.Flatten) and leaf.start_dim in (1, -1) and leaf.end_dim in (1, -1)
        passing = (nn.Identity, nn.Dropout, nn.AlphaDropout)
        return flat or any(_is(leaf, kind) for kind in passing)
    return True


def clip_layers(low: FloatArray, high: FloatArray) -> tuple[Layer, Layer]:
    """Return the layers of ``min(max(x, low), high) = low + relu(x - low) - relu(x - high)``."""
    eye = np.eye(len(low))
    over = Layer(np.concatenate([eye, eye]), -np.concatenate([low, high]), "relu")
    return over, Layer(np.concatenate([eye, -eye], axis=1), low, "linear")


def _leaves(module: torch.nn.Module, name: str) -> list[tuple[str, Any]] | None:
    """Return the layers in the order in which they are applied, with their paths.

    None if the module, or a part of it, does anything else.
    """
    from torch import nn

    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if _is(module, nn.Sequential):
        # named_children() leaves out repeated ones
        children = [(key, child) for key, child in module._modules.items() if child is not None]
    elif type(module).__module__.startswith("torch."):
        return [(name, module)]
    else:
        try:
            graph = _tracer().trace(module)
        except Exception:  # of the user's own code on what only stands for a tensor
            return None
        traced = _traced(module, graph)
        if traced is None:
            return None
        children = traced
    found: list[tuple[str, Any]] = []
    for key, child in children:
        inner = _leaves(child, f"{name}.{key}" if name else key)
        if inner is None:
            return None
        found += inner
    return found


def _traced(module: torch.nn.Module, graph: Any) -> list[tuple[str, torch.nn.Module]] | None:
    """Return the layers that a module's forward applies in a row; None if it does more."""
    import torch
    from torch import nn
    from torch.nn import functional

    relus = (functional.relu, torch.relu, "relu")
    squeezes = [(target, (-1,), True) for target in ("squeeze", torch.squeeze)]
    found: list[tuple[str, torch.nn.Module]] = []
    before, *steps, end = graph.nodes
    for node in steps:
        if node.args[:1] != (before,):
            return None
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
            found.append((node.target, module.get_submodule(node.target)))
        elif node.target in relus and len(node.args) == 1 and set(node.kwargs) <= {"inplace"}:
            found.append((node.name, nn.ReLU()))
        elif (node.target, node.args[1:], node is steps[-1]) not in squeezes:
            return None
        before = node
    return found if end.args == (before,) else None


def _tracer() -> Any:
    from torch import fx

    class Whole(fx.Tracer):
        """Follows a module's own forward, but not those of the layers in it."""

        def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
            return True

    return Whole()


def _is(module: Any, kind: type[torch.nn.Module]) -> bool:
    """Whether ``module`` computes what ``kind`` does: not so for a subclass with its own forward.

    Parametrized layers pass, as their class is a subclass made by torch.
    """
    return isinstance(module, kind) and type(module).forward is kind.forward


def _array(tensor: torch.Tensor) -> FloatArray:
    return tensor.detach().cpu().double().numpy()
