"""What the inputs of a torch module's own ``forward`` are: which is the action, and how wide.

Torch says neither. The names of the parameters tell states from actions, widths are attributes of
the module or, failing that, the one of its layers' sizes that ``forward`` runs with.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.networks.network import NetworkError
from milp_rl.formulations.networks.onnx_graph import Inputs, role_of

if TYPE_CHECKING:
    import torch

_WIDTHS = {
    "state": ("state_dim", "obs_dim", "observation_dim"),
    "action": ("action_dim", "act_dim", "n_actions"),
    "x": ("n_inputs", "in_features", "input_dim"),
}

Role = Literal["action", "state", "x"]


@dataclass(frozen=True)
class TorchInputs:
    """How a module is called.

    Parameters
    ----------
    roles
        Of the arguments of ``forward``, in order: ``"action"`` and ``"state"`` in either order, or
        ``"x"`` for one that has everything.
    widths
        Of each.
    lead
        Axes before the features: ``(2,)`` for batches of any size, ``(1,)`` for batches of one,
        ``()`` for vectors.
    """

    roles: tuple[Role, ...]
    widths: tuple[int, ...]
    lead: tuple[int, ...] = (2,)

    @property
    def width(self) -> int:
        """Number of inputs, all arguments together."""
        return sum(self.widths)

    def arguments(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the arguments of inputs [action, state], or x, on the last axis."""
        import torch

        if self.roles[0] == "state" and len(self.roles) == 2:
            action = self.widths[1]
            return x[..., action:], x[..., :action]
        return torch.split(x, list(self.widths), dim=-1)

    def outputs(self, module: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what the module gives for rows of inputs, each output of shape (rows, values)."""
        import torch

        with torch.no_grad():
            if self.lead == (2,):
                found = tensors(module(*self.arguments(x)))
                return {name: y.reshape(len(x), -1) for name, y in found.items()}
            rows = [tensors(module(*self.arguments(r.reshape(*self.lead, -1)))) for r in x]
            return {name: torch.stack([row[name].reshape(-1) for row in rows]) for name in rows[0]}


def tensors(result: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that a module gave, by name."""
    import torch

    if isinstance(result, Mapping):
        named = {str(key): value for key, value in result.items()}
    elif isinstance(result, tuple | list):
        fields = getattr(result, "_fields", None) or [f"y{i}" for i in range(len(result))]
        named = dict(zip(fields, result, strict=True))
    else:
        named = {"y": result}
    for key, value in named.items():
        if not isinstance(value, torch.Tensor | None):
            raise TypeError(f"its output {key!r} is a {type(value).__name__}, not a tensor")
    return {key: value for key, value in named.items() if value is not None}


def find_inputs(
    module: torch.nn.Module,
    *,
    n_actions: int | None = None,
    state_dim: int | None = None,
    n_inputs: int | None = None,
    inputs: Inputs = None,
) -> TorchInputs:
    """Return how a module in evaluation mode, on the CPU, is called.

    Parameters
    ----------
    module
        The module; it is run on random inputs.
    n_actions, state_dim, n_inputs
        What is known of the widths.
    inputs
        Which of two arguments is which, where their names do not say so.

    Raises
    ------
    NetworkError
        If arguments or widths cannot be told.
    """
    kind = type(module).__name__
    roles = _roles(module, inputs)
    tried: list[str] = []
    works: dict[tuple[int, ...], TorchInputs] = {}
    for candidates in _widths(module, roles, n_actions, state_dim, n_inputs):
        for widths in candidates:
            if widths in works or min(widths, default=0) < 1:
                continue
            lead, message = _lead(module, roles, widths)
            if lead is not None:
                works[widths] = TorchInputs(roles, widths, lead)
            elif message:
                tried.append(f"{_shown(roles, widths)}: {message}")
        if works:
            break
    wide = {widths: found for widths, found in works.items() if min(widths) > 1}
    works = wide or works  # a width of 1 may have been broadcast
    if len(works) == 1:
        return next(iter(works.values()))
    missing = "state_dim=" if n_actions is not None else "n_inputs="
    if len(roles) == 2 and n_actions is None:
        missing = "attributes state_dim and action_dim, or say n_actions= (to_action_value),"
    if works:
        shown = "; ".join(_shown(roles, widths) for widths in works)
        raise NetworkError(f"the {kind} runs with several widths ({shown}); give it {missing}")
    because = f" ({tried[0]})" if tried else ""
    raise NetworkError(
        f"no width of inputs was found that the {kind} runs with{because}; give it {missing}"
        " if it takes one array of float features per sample"
    )


def _roles(module: torch.nn.Module, inputs: Inputs) -> tuple[Role, ...]:
    """Return what the arguments of ``forward`` are."""
    kind = type(module).__name__
    names, needed = _parameters(module)
    if isinstance(inputs, Mapping):
        wrong = [name for name in inputs.values() if name not in names]
        if set(inputs) != {"action", "state"} or wrong:
            raise NetworkError(
                f"inputs must say which parameters of forward are the 'action' and the 'state', of"
                f" {names}; got {dict(inputs)}"
            )
        given = {str(name): role for role, name in inputs.items()}
        used = [name for name in names if name in given]
    else:
        used = [name for name in names if name in needed or role_of(name) == "action"]
        given = {}
        if len(used) == 2 and inputs is not None:
            given = dict(zip(used, inputs, strict=True))
    if len(used) == 1:
        return ("x",)
    if len(used) != 2:
        raise NetworkError(
            f"the forward of {kind} takes {len(used)} arguments ({', '.join(used)}); wrap it in a"
            " module whose forward takes (x), [action, state] side by side, or (state, action)"
        )
    found = [given.get(name) or role_of(name) for name in used]
    if found[0] is None and found[1] is not None:
        found[0] = "action" if found[1] == "state" else "state"
    if found[1] is None and found[0] is not None:
        found[1] = "action" if found[0] == "state" else "state"
    if found == ["action", "state"]:
        return "action", "state"
    if found == ["state", "action"]:
        return "state", "action"
    raise NetworkError(
        f"which argument of {kind}.forward({', '.join(used)}) is the action? Say"
        ' inputs=("action", "state") or inputs=("state", "action")'
    )


def _parameters(module: torch.nn.Module) -> tuple[list[str], list[str]]:
    """Return the names of the positional parameters of ``forward``, and of those it needs."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        method: Any = module.forward
        arguments = method.schema.arguments[1:]
        names = [argument.name for argument in arguments]
        return names, [a.name for a in arguments if not a.has_default_value()]
    parameters = [
        parameter
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    names = [parameter.name for parameter in parameters]
    return names, [p.name for p in parameters if p.default is inspect.Parameter.empty]


def _widths(
    module: torch.nn.Module,
    roles: tuple[Role, ...],
    n_actions: int | None,
    state_dim: int | None,
    n_inputs: int | None,
) -> Iterator[list[tuple[int, ...]]]:
    """Yield candidates for the widths of the arguments, surest first."""
    own = {role: _attribute(module, names) for role, names in _WIDTHS.items()}
    action = n_actions if n_actions is not None else own["action"]
    state = state_dim if state_dim is not None else own["state"]
    if n_inputs is None and state is not None and action is not None:
        n_inputs = state + action
    if state is None and n_inputs is not None and action is not None:
        state = n_inputs - action
    sizes = _sizes(module)
    if roles == ("x",):
        if n_inputs is not None:
            yield [(n_inputs,)]
        elif own["x"] is not None:
            yield [(own["x"],)]
        if state_dim is None:
            yield [(size,) for size in sizes]
            if n_actions is not None:
                yield [(size + n_actions,) for size in sizes]
        return
    if action is None:
        return
    states = [state] if state is not None else []
    if state_dim is None:
        states += [size - action for size in sizes] + sizes
    parts = [{"action": action, "state": width} for width in dict.fromkeys(states)]
    options = [tuple(part[role] for role in roles) for part in parts]
    if state is not None:
        yield options[:1]
    yield options


def _attribute(module: torch.nn.Module, names: Sequence[str]) -> int | None:
    for name in names:
        value = getattr(module, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _sizes(module: torch.nn.Module) -> list[int]:
    """Return the sizes of the last axes of weights and buffers, each once."""
    stored = [*module.parameters(), *module.buffers()]
    return list(dict.fromkeys(int(value.shape[-1]) for value in stored if value.ndim))


def _lead(
    module: torch.nn.Module, roles: tuple[Role, ...], widths: tuple[int, ...]
) -> tuple[tuple[int, ...] | None, str]:
    """Return the axes before the features with which the module runs, or why it does not."""
    import torch

    message = ""
    for lead in ((2,), (1,), ()):
        called = TorchInputs(roles, widths, lead)
        for x in random_rows(sum(widths), 2, module):
            try:
                found = called.outputs(module, x)
                if not found or any(y.numel() == 0 for y in found.values()):
                    continue
                if lead == (2,):
                    rows = TorchInputs(roles, widths, (1,)).outputs(module, x)
                    same = (torch.allclose(y, rows[k], 1e-3, 1e-4) for k, y in found.items())
                    if not all(same):
                        continue
            except Exception as error:  # of the user's own code
                message = message or next(iter(str(error).splitlines()), type(error).__name__)
                continue
            return lead, ""
    return None, message


def random_rows(
    width: int, rows: int, module: torch.nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of inputs in the module's precision, and others of zeros and ones alone.

    Half of the first are of zeros and ones, too. The others are for modules that take nothing
    else, such as those that look a state up in a table.
    """
    import torch

    x: FloatArray = np.random.default_rng(0).normal(size=(rows, width))
    binary = (x > 0).astype(np.float64)
    x[: rows // 2] = binary[: rows // 2]
    kinds = [value.dtype for value in (*module.parameters(), *module.buffers())]
    floating = [kind for kind in kinds if kind.is_floating_point]
    kind = floating[0] if floating else torch.float32
    return torch.from_numpy(x).to(kind), torch.from_numpy(binary).to(kind)


def sampled(
    module: torch.nn.Module, call: TorchInputs, rows: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return rows of inputs that a module takes, (rows, width), and its outputs, (rows, values)."""
    x, binary = random_rows(call.width, rows, module)
    try:
        return x, call.outputs(module, x)
    except Exception:  # of the user's own code
        return binary, call.outputs(module, binary)


def _shown(roles: tuple[Role, ...], widths: tuple[int, ...]) -> str:
    return ", ".join(f"{role} of {width}" for role, width in zip(roles, widths, strict=True))
