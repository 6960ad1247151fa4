"""Writing onto blocks of a user's Pyomo model without taking anything away from it.

Pyomo replaces a component when another one of its name is assigned, with no more than a line in a
log: a model that has lost a row has another optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import pyomo.environ as pyo
from pyomo.common.modeling import unique_component_name


def block_for(block: Any, name: str) -> Any:
    """Return where to write: the block itself, or a new one on it.

    A new one, of this name or one like it, where the block is a whole model or has components
    already, so that no name is taken twice, now or later.
    """
    if not isinstance(block, pyo.ConcreteModel) and not len(block.component_map()):
        return block
    own = pyo.Block(concrete=True)
    block.add_component(unique_component_name(block, name), own)
    return own


def block_with(block: Any, space: Any) -> Any:
    """Return the block that has a space's rows: one on which ``add_to`` wrote, or the given one."""
    for own in block.block_data_objects(active=None):
        if getattr(own, "milp_rl_space", (None,))[0] == space:
            return own
    return block


def only_adding(
    constrain: Callable[[Any, Any, Sequence[Any]], None],
) -> Callable[[Any, Any, Sequence[Any]], None]:
    """Let a space's ``constrain`` refuse to replace what is on the block, which is left as it was.

    Raises
    ------
    ValueError
        If it would replace a component.
    """

    @wraps(constrain)
    def checked(space: Any, block: Any, actions: Sequence[Any]) -> None:
        before = dict(block.component_map())
        constrain(space, block, actions)
        if not before:
            return
        after = block.component_map()
        replaced = [name for name, own in before.items() if block.component(name) is not own]
        if not replaced:
            return
        for name in [name for name in after if name not in before or name in replaced]:
            block.del_component(name)
        for name in replaced:
            block.add_component(name, before[name])
        kind, names = type(space).__name__, ", ".join(map(repr, replaced))
        raise ValueError(
            f"{block.name} has a component named {names} already, which the rows of {kind} would"
            " replace: give them an empty block, such as model.space = pyo.Block(), or use add_to"
        )

    return checked
