"""The networks and spaces that a user's model contains, compared with its solution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyomo.environ as pyo

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.embedding import rewrite
from milp_rl.formulations.pyomo import EmbeddedNetwork, input_ranges
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

    def up_to_date(self) -> Embedded:
        """Write networks anew whose numbers and ranges are others than when they were added.

        Raises
        ------
        ValueError
            If an input is not finite, or outside its bounds.
        """
        for block, network in self.networks:
            _, lower, upper = input_ranges(network.inputs, fixed=True)
            if network.changes(lower, upper):
                rewrite(block)
        blocks = [(block, block.milp_rl_network) for block, _ in self.networks]
        return Embedded(blocks, self.spaces)

    def contradictions(self) -> list[str]:
        """Compare the values in the model's variables with every network and space."""
        found = self.network_faults()
        for block, space, actions in self.spaces:
            kind, action = type(space).__name__, values_of(actions)
            found.extend(
                f"the space {kind} on {block.name} contradicts itself: its `constrain` admits"
                f" the action {shown(space, action)}, its `violations` says: {text}"
                for text in violations_of(space, action)
            )
        return found

    def network_faults(self, tolerance: float = TOLERANCE) -> list[str]:
        """Compare the outputs of every network with its forward pass."""
        found: list[str] = []
        for block, network in self.networks:
            name = f"the network on {block.name}"
            inputs, outputs = values_of(network.inputs), values_of(network.outputs)
            found.extend(network_faults(name, network, inputs, outputs, tolerance))
        return found


def network_faults(
    name: str,
    embedded: EmbeddedNetwork,
    inputs: FloatArray,
    outputs: FloatArray,
    tolerance: float = TOLERANCE,
) -> Iterator[str]:
    """Compare an embedded network's outputs with its forward pass.

    Parameters
    ----------
    name
        What messages call it.
    embedded
        The network.
    inputs, outputs
        Values in the solution, shapes (n_inputs,) and (n_outputs,).
    tolerance
        What an output may be off by, as a part of its range.
    """
    true = embedded.network.forward(inputs)
    bounds = embedded.bounds
    spread = (bounds.output_upper - bounds.output_lower)[0]
    allowed = tolerance * spread + _ROUNDING * np.abs(true)
    excess = outputs - true if embedded.one_sided else np.abs(outputs - true)
    for i in np.flatnonzero(~(excess <= allowed)):
        yield (
            f"output {i} of {name} is {outputs[i].item()!r}, the forward pass gives"
            f" {true[i].item()!r}"
        )
    if embedded.space is not None:
        for text in violations_of(embedded.space, inputs[: embedded.space.n_actions]):
            yield (
                f"the inputs of {name} are not in the space that add_network was"
                f" given, though its bounds hold only there ({text}); add the space to the model"
                " with `add_to`"
            )


def values_of(entries: list[Any]) -> FloatArray:
    """Return the values of Pyomo variables, expressions or numbers."""
    return np.array([pyo.value(entry) for entry in entries], dtype=np.float64)


def violations_of(space: ActionSpace, action: FloatArray) -> list[str]:
    """Return what a space says of a vector, be it an action or not."""
    try:
        return space.violations(action)
    except ValueError as error:
        return [str(error)]
