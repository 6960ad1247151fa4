"""The networks and spaces that a user's Pyomo model contains, compared with its solution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyomo.environ as pyo

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.pyomo import EmbeddedNetwork
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.contradictions import shown
from milp_rl.solvers.options import TOLERANCE

_ROUNDING = 1e-11  # of a forward pass in float64, relative to what it gives


@dataclass(frozen=True, eq=False)
class Embedded:
    """What ``add_network`` and ``add_to`` left on a model's active blocks.

    Parameters
    ----------
    networks
        Pairs of a block and the network on it.
    spaces
        Triples of a block, the space on it and its action variables.
    """

    networks: list[tuple[Any, EmbeddedNetwork]]
    spaces: list[tuple[Any, ActionSpace, list[Any]]]

    @staticmethod
    def of(model: Any) -> Embedded:
        """Collect them."""
        found = Embedded([], [])
        for block in model.block_data_objects(active=True):
            network = getattr(block, "milp_rl_network", None)
            if network is not None:
                found.networks.append((block, network))
            space, actions = getattr(block, "milp_rl_space", (None, []))
            if space is not None:
                found.spaces.append((block, space, actions))
        return found

    def require_unchanged(self) -> None:
        """Check that inputs still are what they were when their network was added.

        Raises
        ------
        ValueError
            If one is not: the network's rows hold for the numbers and ranges of that time.
        """
        for block, network in self.networks:
            if changes := network.changes():
                raise ValueError(
                    f"inputs of the network on {block.name} have changed since add_network wrote"
                    f" it: {'; '.join(changes)}; numbers, Params and ranges are folded into its"
                    " rows, so delete the block and add the network again (or let the input be a"
                    " Var whose bounds cover all its values, and fix that)"
                )

    def contradictions(self) -> list[str]:
        """Compare the values in the model's variables with every network and space."""
        found: list[str] = []
        for block, network in self.networks:
            found.extend(_network_contradictions(block.name, network))
        for block, space, actions in self.spaces:
            kind = type(space).__name__
            found.extend(
                f"the space {kind} on {block.name} contradicts itself: its `constrain` admits"
                f" the action {shown(space, _values(actions))}, its `violations` says: {text}"
                for text in _violations(space, actions)
            )
        return found


def _network_contradictions(name: str, embedded: EmbeddedNetwork) -> Iterator[str]:
    inputs = np.array([pyo.value(entry) for entry in embedded.inputs])
    true = embedded.network.forward(inputs)
    claimed = np.array([pyo.value(output) for output in embedded.outputs])
    bounds = embedded.bounds
    spread = (bounds.output_upper - bounds.output_lower)[0]
    allowed = TOLERANCE * spread + _ROUNDING * np.abs(true)
    excess = claimed - true if embedded.one_sided else np.abs(claimed - true)
    for i in np.flatnonzero(~(excess <= allowed)):
        yield (
            f"output {i} of the network on {name} is {claimed[i]!r}, the forward pass gives"
            f" {true[i]!r}"
        )
    if embedded.space is not None:
        actions = embedded.inputs[: embedded.space.n_actions]
        for text in _violations(embedded.space, actions):
            yield (
                f"the inputs of the network on {name} are not in the space that add_network was"
                f" given, though its bounds hold only there ({text}); add the space to the model"
                " with `add_to`"
            )


def _values(actions: list[Any]) -> FloatArray:
    return np.array([pyo.value(action) for action in actions], dtype=np.float64)


def _violations(space: ActionSpace, actions: list[Any]) -> list[str]:
    try:
        return space.violations(_values(actions))
    except ValueError as error:  # not an action at all
        return [str(error)]
