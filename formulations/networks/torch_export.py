"""Reading torch modules with a ``forward`` of their own, through ``torch.export`` and ONNX.

A module is exported once: what it computes is kept as an ONNX graph whose constants have the names
of the module's parameters and buffers, and reading it again renews these alone. What was read is
compared with the module every time, so that a change that is not one of weights, a layer or a
number replaced, exports it anew. Torch is imported when a module is given, not before.
"""

from __future__ import annotations

import ast
import copy
import io
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import onnx
from onnx import numpy_helper

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.network import Network, NetworkError
from milp_rl.formulations.networks.onnx_graph import Output
from milp_rl.formulations.networks.torch_inputs import (
    TorchInputs,
    find_inputs,
    random_rows,
    sampled,
    tensors,
)
from milp_rl.formulations.networks.torch_layers import read_layers

if TYPE_CHECKING:
    import torch

Read = TypeVar("Read")

_TOLERANCE = 1e-5
_ALIKE = 1e-12  # by which numbers of a forward differ that are taken for one
_LEAK = 0.01  # slope of leaky_relu where none is given
_ROWS = 32


@dataclass
class _Program:
    """An exported module: how it is called, its graph, and the constants that are weights."""

    call: TorchInputs
    model: onnx.ModelProto
    weights: dict[str, onnx.TensorProto]


_programs: WeakKeyDictionary[Any, dict[Any, _Program]] = WeakKeyDictionary()


def evaluated(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a module as it evaluates: on the CPU, in single or double precision.

    ``torch.compile`` and ``DataParallel`` are taken off, parametrizations and the older hooks of
    weight and spectral norm are replaced by the weights that they give.

    Raises
    ------
    NetworkError
        If it has no weights yet, or quantized ones.
    """
    import torch
    from torch import nn
    from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm

    module = unwrapped(module)
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(value):
            raise NetworkError(f"{name!r} has no shape yet; run the module once on an input first")
        if value.is_meta:
            raise NetworkError(f"{name!r} is on the meta device, without values")
    for name, leaf in module.named_modules():
        if ".quantized" in type(leaf).__module__:
            raise NetworkError(
                f"layer {name!r} is quantized ({type(leaf).__name__}); give the module as it was"
                " before"
            )
    # Older weight norms leave weights that were computed, which deepcopy refuses.
    computed = {
        id(value): value.detach().clone()
        for leaf in module.modules()
        for value in vars(leaf).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    with torch.no_grad():
        own = copy.deepcopy(module, computed).cpu().eval()
        for leaf in own.modules():
            if parametrize.is_parametrized(leaf):
                _fix_parametrized(leaf)
            hooks: list[Any] = list(leaf._forward_pre_hooks.values())
            for hook in hooks:
                if type(hook).__name__ == "WeightNorm":
                    remove_weight_norm(leaf, hook.name)
                elif type(hook).__name__ == "SpectralNorm":
                    remove_spectral_norm(leaf, hook.name)
    kinds = {v.dtype for v in (*own.parameters(), *own.buffers()) if v.dtype.is_floating_point}
    if torch.float64 in kinds:
        return own.double()
    return own if kinds <= {torch.float32} else own.float()


def check_mode(module: torch.nn.Module) -> None:
    """Raise ``NetworkError`` if a layer draws at random or learns from batches: training mode."""
    from torch import nn

    for name, leaf in module.named_modules():
        normalises = isinstance(leaf, nn.modules.batchnorm._NormBase) and leaf.track_running_stats
        drops = isinstance(leaf, nn.modules.dropout._DropoutNd) and leaf.p > 0
        if leaf.training and (normalises or drops or isinstance(leaf, nn.RReLU)):
            raise NetworkError(
                f"layer {name!r} is a {leaf} in training mode; call .eval() on the module first"
            )


def _fix_parametrized(leaf: torch.nn.Module) -> None:
    """Replace parametrizations by what they give, on a copy: torch's own changes the class."""
    from torch import nn
    from torch.nn.utils import parametrize

    assert isinstance(leaf.parametrizations, nn.ModuleDict)
    values = {name: getattr(leaf, name).detach().clone() for name in leaf.parametrizations}
    leaf.__class__ = parametrize.type_before_parametrizations(leaf)
    del leaf.parametrizations
    for name, value in values.items():
        leaf.register_parameter(name, nn.Parameter(value))


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside of ``torch.compile`` and ``DataParallel``."""
    from torch import nn

    while True:
        if hasattr(module, "_orig_mod"):
            module = cast("torch.nn.Module", module._orig_mod)
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            return module


def read_exported(
    module: torch.nn.Module,
    own: torch.nn.Module,
    read: Callable[[onnx.ModelProto], Read],
    values: Callable[[Read, FloatArray, TorchInputs], FloatArray],
    *,
    output: Output = None,
    **known: Any,
) -> Read:
    """Return what is read from a module's graph, after comparing it with the module.

    Parameters
    ----------
    module
        The module, by which its graph is remembered.
    own
        What :func:`evaluated` made of it.
    read
        Reads the graph, whose inputs are "action" and "state" in either order, or "x".
    values
        Evaluates what was read at rows of inputs, [action, state] or x as the module takes it:
        shape (rows, values).
    output
        Which of several outputs is read.
    **known
        Of the inputs, as for :func:`~milp_rl.formulations.networks.torch_inputs.find_inputs`.

    Raises
    ------
    NetworkError
        If the module cannot be called or exported, or what is read does not agree with it.
    """
    programs = _programs.setdefault(module, {})
    key = repr(sorted(known.items(), key=str))
    program = programs.get(key)
    if program is None:
        call = find_inputs(own, **known)
        program = next((other for other in programs.values() if other.call == call), None)
    if program is not None and _renewed(program, own):
        # A copy, as what was read may evaluate the graph later, when the weights are others.
        model = onnx.ModelProto()
        model.CopyFrom(program.model)
        found = read(model)
        if _difference(own, program.call, found, values, output) is None:
            programs[key] = program
            return found
    call = find_inputs(own, **known)
    refused: NetworkError | None = None
    for lead in ((2,), (1,), ()):
        if lead == call.lead or (refused is not None and lead == (1,)):
            try:
                program = _exported(own, replace(call, lead=lead))
                found = read(program.model)
            except NetworkError as error:
                refused = refused or error
                continue
            difference = _difference(own, program.call, found, values, output)
            if difference is not None:
                raise NetworkError(
                    f"the {type(module).__name__} and what was read of it differ by"
                    f" {difference:.2g} of its largest value; does its forward depend on values"
                    " other than through tensors, or draw at random?"
                )
            programs[key] = program
            return found
    assert refused is not None
    raise refused


def export_model(
    module: torch.nn.Module, call: TorchInputs, *, optimize: bool = False
) -> onnx.ModelProto:
    """Return the ONNX graph of a module in evaluation mode.

    Parameters
    ----------
    module
        The module, on the CPU.
    call
        How it is called; the graph's inputs are named by role, the first axis of each "batch".
    optimize
        Whether constants are folded; if not, they have the names of the module's weights.

    Raises
    ------
    NetworkError
        If torch cannot export it.
    """
    import torch

    x = random_rows(call.width, 2, module)[1]
    rows = x if call.lead == (2,) else x[0].reshape(*call.lead, -1)
    arguments = call.arguments(rows)
    with torch.no_grad():
        outputs = list(tensors(module(*arguments)))
    inputs = list(call.roles)
    free = call.lead == (2,)
    with _quiet():
        try:
            if isinstance(module, torch.jit.ScriptModule):
                axes = {name: {0: "batch"} for name in (*inputs, *outputs)} if free else None
                file: Any = io.BytesIO()
                torch.onnx.export(
                    module,
                    arguments,
                    file,
                    dynamo=False,
                    do_constant_folding=False,
                    opset_version=18,
                    dynamic_axes=axes,
                    input_names=inputs,
                    output_names=outputs,
                )
                return onnx.load_from_string(file.getvalue())
            batch = torch.export.Dim("batch") if free else None
            shapes = tuple({0: batch} if free else None for _ in arguments)
            graph = torch.export.export(module, arguments, dynamic_shapes=shapes)
            _make_limits_alike(graph)
            translated: dict[Any, Any] = {torch.ops.aten.softplus.default: _softplus}
            if x.dtype == torch.float64:
                translated[torch.ops.aten.leaky_relu.default] = _leaky_relu
            program = torch.onnx.export(
                graph,
                arguments,
                dynamo=True,
                optimize=optimize,
                verbose=False,
                opset_version=18,
                custom_translation_table=translated,
                input_names=inputs,
                output_names=outputs,
            )
        except Exception as error:  # torch raises many kinds
            raise NetworkError(
                f"torch cannot export the forward of {type(module).__name__}: {_first_line(error)}"
            ) from error
    assert program is not None
    model = program.model_proto
    if x.dtype == torch.float64:
        _keep_digits(model, _numbers_in(graph))
    seen: Counter[str] = Counter()
    names: set[str] = set()
    for node in model.graph.node:
        name = path = _path(node) or node.name
        while not seen[path] or name in names:  # no two have one name, "f_2" may be a path too
            seen[path] += 1
            name = path if seen[path] == 1 else f"{path}_{seen[path]}"
        names.add(name)
        node.name = name
    # The exporter notes the stack of each operation, with the paths of the author's files.
    graph = model.graph
    for entry in (
        graph,
        *graph.node,
        *graph.value_info,
        *graph.initializer,
        *graph.input,
        *graph.output,
    ):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    return model


def _make_limits_alike(graph: torch.export.ExportedProgram) -> None:
    """Make both limits of each clamp floats if one is: the exporter takes no other pair."""
    import torch

    for node in graph.graph.nodes:
        if node.target in (torch.ops.aten.clamp.default, torch.ops.aten.clip.default):
            x, *limits = node.args
            if any(isinstance(limit, float) for limit in limits):
                limits = [float(v) if isinstance(v, int) else v for v in limits]
                node.args = (x, *limits)


def _numbers_in(graph: torch.export.ExportedProgram) -> dict[float, float]:
    """Return the numbers of a module's ``forward`` that float32 rounds, by what it makes of them.

    Raises
    ------
    NetworkError
        If two of them cannot be told apart in float32.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    found: dict[float, float] = {}
    for node in graph.graph.nodes:
        given = tree_leaves((node.args, node.kwargs))
        numbers = [v for v in given if isinstance(v, float) and math.isfinite(v)]
        if node.target in (torch.ops.aten.leaky_relu.default, torch.ops.aten.leaky_relu_.default):
            numbers = numbers or [_LEAK]
            numbers += [1.0 - slope for slope in numbers]
        for number in numbers:
            with np.errstate(over="ignore"):
                rounded = float(np.float32(number))
            if abs(found.setdefault(rounded, number) - number) > _ALIKE * abs(number):
                raise NetworkError(
                    f"torch's export rounds numbers to float32, which cannot tell {number!r} and"
                    f" {found[rounded]!r} of the forward apart: make them weights or buffers"
                )
    return found


def _keep_digits(model: onnx.ModelProto, numbers: Mapping[float, float]) -> None:
    """Put numbers back into a graph of float64, where the exporter has cast them from float32."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in model.graph.node:
        given = {own.name: own for own in node.attribute if node.op_type == "Constant"}
        if "value_float" in given:
            array = np.array(given["value_float"].f, dtype=np.float32)
        elif "value" in given:
            array = numpy_helper.to_array(given["value"].t)
        else:
            continue
        if array.dtype != np.float32 or array.size != 1 or float(array.item()) not in numbers:
            continue
        if all(other.op_type in ("Cast", "CastLike") for other in readers.get(node.output[0], [])):
            exact = np.full(array.shape, numbers[float(array.item())])
            del node.attribute[:]
            tensor = numpy_helper.from_array(exact)
            node.attribute.append(onnx.helper.make_attribute("value", tensor))


def _leaky_relu(x: Any, negative_slope: float = _LEAK) -> Any:
    """Translate by operators whose numbers keep their digits: that of LeakyRelu is a float32."""
    from onnxscript import opset18 as op

    numbers: Any = float(negative_slope), 1.0 - float(negative_slope)
    slope, rest = (op.CastLike(number, x) for number in numbers)
    return op.Add(op.Mul(x, slope), op.Mul(op.Relu(x), rest))


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Translate softplus by the operator of its name: torch's has another branch above 20."""
    from onnxscript import opset18 as op

    if beta == 1:
        return op.Softplus(x)
    return op.Div(op.Softplus(op.Mul(x, float(beta))), float(beta))


def _path(node: onnx.NodeProto) -> str | None:
    """Return the path of the layer that a node belongs to, and the name of its operation."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(entry.value)
            return "/".join([*scopes[-2:-1], scopes[-1]]).lstrip("/")
    return None


def _first_line(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)


def read_plain(module: torch.nn.Module, own: torch.nn.Module) -> Network | None:
    """Return the network of a module that applies known layers one after another, else None.

    Parameters
    ----------
    module
        A module; None is returned if it has been exported before.
    own
        What :func:`evaluated` made of it.
    """
    network = None if module in _programs else read_layers(own)
    if network is None or all(type(leaf).__module__.startswith("torch.") for leaf in own.modules()):
        return network
    # A forward may look at what it is given, and do other things with what stands for a tensor.
    call = TorchInputs(("x",), (network.n_inputs,))
    try:
        same = _difference(own, call, network, _forward, None) is None
    except Exception:  # of the user's own code
        return None
    return network if same else None


def _forward(network: Network, x: FloatArray, _: TorchInputs) -> FloatArray:
    return network.forward(x)


def _exported(own: torch.nn.Module, call: TorchInputs) -> _Program:
    model = export_model(own, call)
    stored = dict(_stored(own))
    weights = {t.name: t for t in model.graph.initializer if t.name in stored}
    for name, value in stored.items():
        if name in weights and not np.array_equal(numpy_helper.to_array(weights[name]), value):
            weights.pop(name)
    return _Program(call, model, weights)


def _renewed(program: _Program, own: torch.nn.Module) -> bool:
    """Put a module's weights into its graph; False if they do not fit."""
    stored = dict(_stored(own))
    for name, tensor in program.weights.items():
        value = stored.get(name)
        if value is None or list(value.shape) != list(tensor.dims):
            return False
        renewed = numpy_helper.from_array(value, name)
        if renewed.data_type != tensor.data_type:
            return False
        tensor.CopyFrom(renewed)
    return True


def _stored(module: torch.nn.Module) -> Iterator[tuple[str, FloatArray]]:
    for name, value in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        values = value.detach().numpy()
        if value.dtype.is_floating_point and not np.isfinite(values).all():
            bad = values[~np.isfinite(values)]
            raise NetworkError(
                f"{len(bad)} entries of {name!r} are not finite, the first is {bad[0]}; was the"
                " training unstable?"
            )
        yield name, values


def _difference(
    own: torch.nn.Module,
    call: TorchInputs,
    found: Read,
    values: Callable[[Read, FloatArray, TorchInputs], FloatArray],
    output: Output,
) -> float | None:
    """Return by how much what was read differs from a module, of its largest value, if it does."""
    import torch

    x, outputs = sampled(own, call, _ROWS)
    expected = _picked(outputs, output)
    given = values(found, x.double().numpy(), call)
    error = _error(given, expected)
    if error > _TOLERANCE and x.dtype is torch.float32:
        # Where large values cancel, single precision may have less than the tolerance.
        try:
            error = _error(
                given, _picked(call.outputs(copy.deepcopy(own).double(), x.double()), output)
            )
        except RuntimeError:  # the forward is one of single precision
            return error
    return error if error > _TOLERANCE else None


def _error(given: FloatArray, expected: FloatArray) -> float:
    """Return the largest difference, relative to the largest value."""
    if given.shape != expected.shape:
        return np.inf
    error, scale = float(np.abs(given - expected).max()), float(np.abs(expected).max())
    return error / scale if error else 0.0


def _picked(outputs: dict[str, torch.Tensor], output: Output) -> FloatArray:
    """Return the output of a module that is read, shape (rows, values)."""
    entry: int | None = None
    if isinstance(output, tuple):
        output, entry = output
    elif isinstance(output, int) and len(outputs) == 1:
        output, entry = 0, output
    y = outputs[output] if isinstance(output, str) else list(outputs.values())[output or 0]
    found: FloatArray = y.double().numpy()
    return found if entry is None else found[:, [entry]]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter says of itself and of packages that are not needed."""
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
