"""Turning what a user has, a torch module, an ONNX file, an estimator, into a `Network`.

Neither torch nor scikit-learn is imported here: where they have not been imported yet, nothing can
be theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.action_value import ActionValue, NetworkValue
from milp_rl.formulations.networks.ensemble import Ensemble, EnsembleValue, merged_network
from milp_rl.formulations.networks.link import linked
from milp_rl.formulations.networks.network import Layer, Network, NetworkError
from milp_rl.formulations.networks.omlt_reader import read_omlt
from milp_rl.formulations.networks.onnx_file import load_model
from milp_rl.formulations.networks.onnx_graph import Inputs, Output
from milp_rl.formulations.networks.onnx_reader import read_onnx
from milp_rl.formulations.networks.onnx_value import onnx_value
from milp_rl.formulations.networks.sklearn_reader import is_sklearn, read_sklearn
from milp_rl.formulations.networks.torch_export import (
    check_mode,
    evaluated,
    read_exported,
    read_plain,
    unwrapped,
)
from milp_rl.formulations.networks.torch_inputs import TorchInputs
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.networks.trees_reader import read_trees
from milp_rl.formulations.networks.trees_value import TreeValue

_EXPECTED = (
    "a Network, an ActionValue, a torch module, an Ensemble, a scikit-learn regressor, an ONNX"
    " model or its path, or an OMLT NetworkDefinition"
)


def to_network(
    source: Any,
    *,
    inputs: Inputs = None,
    output: Output = None,
    n_inputs: int | None = None,
) -> Network | TreeEnsemble:
    """Return the :class:`~milp_rl.formulations.networks.network.Network` that ``source`` describes.

    Parameters
    ----------
    source
        One of:

        - a `Network`, returned as it is;
        - a torch module on any device, piecewise linear in all of its inputs: a ``Sequential`` or
          a module with a ``forward`` of its own, of one argument or of (state, action) in either
          order; also from ``torch.compile``, ``DataParallel`` or ``torch.jit``, with weight or
          spectral norm, in half precision. Dropout and batch normalisation must be in evaluation
          mode. The first conversion of a module with its own ``forward`` takes a second or so,
          later ones of the same module only renew the weights;
        - an ONNX model: its path, its bytes or the loaded model;
        - a fitted scikit-learn regressor: ``MLPRegressor``, a linear model, a ``Pipeline`` of
          scalers and one of these, a ``TransformedTargetRegressor``. Keras models go through ONNX;
        - an :class:`~milp_rl.formulations.networks.ensemble.Ensemble` of these;
        - OMLT's ``NetworkDefinition``;
        - decision trees, random forests and gradient boosting of scikit-learn or in an ONNX model,
          which become a :class:`~milp_rl.formulations.networks.trees.TreeEnsemble` instead;
        - any object with a method ``to_network()`` that returns a `Network`.
    inputs
        Which of two inputs is which, ``("action", "state")`` or ``("state", "action")``, or their
        names ``{"action": name, "state": name}``, where they do not tell. The network's inputs are
        [action, state].
    output
        Of several outputs, the one to keep, by position or name; all if None.
    n_inputs
        Width of the input of a torch module, where it cannot be told.

    Returns
    -------
    Network or TreeEnsemble
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
    if _is_onnx(source):
        source = load_model(source)
    if not isinstance(source, Network | ActionValue):
        trees = read_trees(source, inputs=inputs, output=output)
        if trees is not None:
            return trees
    return read_network(source, inputs=inputs, output=output, n_inputs=n_inputs)


def read_network(
    source: Any,
    *,
    inputs: Inputs = None,
    output: Output = None,
    n_inputs: int | None = None,
) -> Network:
    """Return the network that ``source`` describes; as :func:`to_network`, without trees."""
    if _is_onnx(source):
        return read_onnx(source, inputs=inputs, output=output)
    if _is_torch(source):
        return _torch_network(source, inputs, output, n_inputs)
    if isinstance(source, Ensemble):
        members = [
            read_network(member, inputs=inputs, output=output, n_inputs=n_inputs)
            for member in source.members
        ]
        return merged_network(members, source.reduce)
    network = _simple(source)
    if network is None:
        value = _offered(source, "action_value")
        if value is None and not isinstance(source, ActionValue):
            raise _unknown(source)
        network = getattr(value or source, "network", None)
        if network is None:
            raise NetworkError(
                f"the {type(source).__name__} is a network in the action at each state only; use"
                " it where states are given, or to_action_value"
            )
    return with_output(network, output)


def to_action_value(
    source: Any,
    n_actions: int,
    *,
    inputs: Inputs = None,
    output: Output = None,
    state_dim: int | None = None,
) -> ActionValue:
    """Return what values actions in states as ``source`` does.

    At a fixed state only what follows the action has to be piecewise linear: a torch module or an
    ONNX model may do anything to the state.

    Parameters
    ----------
    source
        As for :func:`to_network`, or an :class:`ActionValue` or an object with a method
        ``action_value()`` that returns one.
    n_actions
        Number of action variables.
    inputs
        Which of two inputs is which, as for :func:`to_network`; of a single input,
        ``("state", "action")`` says that it is [state, action], not [action, state].
    output
        Of several outputs, the one that is the value, by position or name.
    state_dim
        Number of state features, where it cannot be told.

    Raises
    ------
    NetworkError, FileNotFoundError, TypeError
        As for :func:`to_network`.
    ValueError
        If there are fewer inputs than actions, or several outputs.
    """
    value = _action_value(source, n_actions, inputs, output, state_dim)
    if value.n_actions != n_actions:
        raise ValueError(
            f"the {type(source).__name__} values {value.n_actions} actions, not {n_actions}"
        )
    if state_dim is not None and value.state_dim != state_dim:
        raise ValueError(f"state_dim is {state_dim}, but the network leaves {value.state_dim}")
    return value


def with_output(network: Network, output: Output) -> Network:
    """Return the network with one of its outputs alone, or as it is if ``output`` is None."""
    if output is None:
        return network
    if not isinstance(output, int):
        raise NetworkError(f"the outputs have no names; give a position, not {output!r}")
    if not 0 <= output < network.n_outputs:
        raise NetworkError(f"output {output} is not one of the network's {network.n_outputs}")
    last = network.output
    one = slice(output, output + 1)
    skips = tuple((source, weight[one]) for source, weight in last.skips)
    layer = Layer(last.weight[one], last.bias[one], "linear", skips)
    return replace(network, layers=(*network.hidden, layer))


def _action_value(
    source: Any,
    n_actions: int,
    inputs: Inputs,
    output: Output,
    state_dim: int | None,
) -> ActionValue:
    if isinstance(source, ActionValue):
        return source
    if _is_onnx(source):
        source = load_model(source)
    trees = read_trees(source, n_actions=n_actions, inputs=inputs, output=output)
    if trees is not None:
        return TreeValue(trees, n_actions)
    if _is_onnx(source):
        return onnx_value(source, n_actions, inputs=inputs, output=output, state_dim=state_dim)
    if isinstance(source, Ensemble):
        members = [
            to_action_value(m, n_actions, inputs=inputs, output=output, state_dim=state_dim)
            for m in source.members
        ]
        if any(isinstance(member, TreeValue) for member in members):
            raise NetworkError("an ensemble of critics takes networks, no trees")
        plain = [member.network for member in members if isinstance(member, NetworkValue)]
        if len(plain) == len(members):
            return NetworkValue(merged_network(plain, source.reduce), n_actions)
        return EnsembleValue(members, source.reduce)
    offered = _offered(source, "action_value")
    if offered is not None:
        return cast(ActionValue, offered)
    if _is_torch(source):
        return _torch_value(source, n_actions, inputs, output, state_dim)
    network = _simple(source)
    if network is None:
        raise _unknown(source)
    return _network_value(network, n_actions, inputs, output)


def _network_value(
    network: Network, n_actions: int, inputs: Inputs, output: Output
) -> NetworkValue:
    """Return the action value of a network of one input, [action, state] or as ``inputs`` says."""
    network = with_output(network, output)
    if network.n_outputs != 1:
        raise ValueError(
            f"the network must have one output, the Q-value; got {network.n_outputs}: say which"
            " with output="
        )
    if network.n_inputs < n_actions:
        raise ValueError(
            f"the network takes {network.n_inputs} inputs, [action, state], but the space alone has"
            f" {n_actions} actions"
        )
    if _state_first(inputs):
        order = np.roll(np.arange(network.n_inputs), -n_actions)
        network = network.affine_of_inputs(np.eye(network.n_inputs)[order], np.zeros(len(order)))
    return NetworkValue(network, n_actions)


def _simple(source: Any) -> Network | None:
    """Return the network of a source that has nothing to be asked about."""
    if isinstance(source, Network):
        return source
    offered = _offered(source, "to_network")
    if offered is not None:
        return cast(Network, offered)
    if is_sklearn(source):
        return read_sklearn(source)
    if hasattr(source, "layers") and hasattr(source, "scaling_object"):
        return read_omlt(source)
    return None


def _offered(source: Any, method: str) -> Any:
    """Return what an object's own method makes of it; None if it has none.

    A method that is inherited does not describe a class with another ``forward``.
    """
    for kind in type(source).__mro__:
        if method in vars(kind):
            return getattr(source, method)()
        if "forward" in vars(kind):
            return None
    return None


def _torch_network(module: Any, inputs: Inputs, output: Output, n_inputs: int | None) -> Network:
    network = _offered(module, "to_network")
    if network is None:
        own = _evaluated(module)
        network = read_plain(unwrapped(module), own)
        if network is None:

            def read(model: Any) -> Network:
                return read_onnx(model, output=output)

            def values(found: Network, x: FloatArray, _: TorchInputs) -> FloatArray:
                return linked(found.link, found.forward(x))

            return read_exported(
                unwrapped(module),
                own,
                read,
                values,
                output=output,
                inputs=inputs,
                n_inputs=n_inputs,
            )
    network = with_output(network, output)
    if n_inputs not in (None, network.n_inputs):
        raise ValueError(f"n_inputs is {n_inputs}, but the module takes {network.n_inputs} inputs")
    return network


def _torch_value(
    module: Any,
    n_actions: int,
    inputs: Inputs,
    output: Output,
    state_dim: int | None,
) -> ActionValue:
    network = _offered(module, "to_network")
    if network is None:
        own = _evaluated(module)
        network = read_plain(unwrapped(module), own)
    if network is not None:
        return _network_value(network, n_actions, inputs, output)

    def read(model: Any) -> ActionValue:
        one = {value.name for value in model.graph.input} == {"x"}
        order = inputs if one and not isinstance(inputs, Mapping) else None
        return onnx_value(model, n_actions, inputs=order, output=output)

    def values(found: ActionValue, x: FloatArray, call: TorchInputs) -> FloatArray:
        if call.roles == ("x",) and _state_first(inputs):
            x = np.roll(x, n_actions, axis=1)
        return linked(found.link, found.values(x[:, n_actions:], x[:, :n_actions]))[:, None]

    return read_exported(
        unwrapped(module),
        own,
        read,
        values,
        output=output,
        inputs=inputs,
        n_actions=n_actions,
        state_dim=state_dim,
    )


def _state_first(inputs: Inputs) -> bool:
    """Whether a single input is said to be [state, action]."""
    return not isinstance(inputs, Mapping) and inputs is not None and inputs[0] == "state"


def _evaluated(module: Any) -> Any:
    kind = type(module).__name__
    if kind in ("ModuleList", "ModuleDict", "ParameterList", "ParameterDict"):
        raise NetworkError(
            f"a {kind} has no forward; give torch.nn.Sequential(*layers), or the module that"
            " applies them"
        )
    check_mode(module)
    return evaluated(module)


def _is_onnx(source: Any) -> bool:
    return isinstance(source, str | Path | bytes) or type(source).__name__ == "ModelProto"


def _is_torch(source: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)


def _unknown(source: Any) -> TypeError:
    kind = type(source)
    message = f"expected {_EXPECTED}, got {kind.__name__}"
    if kind.__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow"):
        message = (
            "a keras model is read through ONNX: write it with model.export(path, format='onnx')"
            " or tf2onnx, and give the path"
        )
    elif isinstance(source, Mapping):
        message += "; a state_dict has weights alone: load it into its module and give that"
    elif isinstance(source, list | tuple):
        message += "; several critics are an Ensemble"
    elif callable(source):
        message += "; what a function computes cannot be seen from outside"
    return TypeError(message)
