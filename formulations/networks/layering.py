"""Groups of neurons as layers, by depth, with skips where they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray
from milp_rl.formulations.networks import blocks
from milp_rl.formulations.networks.action_value import ActionLayer
from milp_rl.formulations.networks.blocks import Block
from milp_rl.formulations.networks.network import INPUT
from milp_rl.formulations.networks.repetition import Repetition


@dataclass(frozen=True, eq=False)
class Group:
    """Neurons over sources: other groups by number, or ``INPUT``.

    Parameters
    ----------
    weights
        For each source a block of (states, width of the source, neurons).
    bias
        Shape (states, neurons).
    """

    weights: Mapping[int, Block]
    bias: FloatArray

    @property
    def width(self) -> int:
        """Number of neurons."""
        return int(self.bias.shape[-1])


class Layering:
    """The layers of groups of which the last are the outputs.

    Parameters
    ----------
    work
        Where arrays are computed.
    groups
        Each over those before it.
    width
        Number of inputs.
    prune
        Whether neurons that the outputs do not need are left out.
    """

    def __init__(self, work: Repetition, groups: Sequence[Group], width: int, prune: bool) -> None:
        self._work, self._groups = work, groups
        self._needed, self._sources = work.decide(lambda: _needed(groups, width, prune))
        last = len(groups) - 1
        depths: dict[int, int] = {INPUT: INPUT}
        for number in range(last):
            if self._needed[number].any():
                depths[number] = 1 + max(depths[k] for k in self._sources[number])
        depths[last] = max(depths.values()) + 1
        self._members: dict[int, list[int]] = {}
        for number, depth in depths.items():
            self._members.setdefault(depth, []).append(number)

    def layers(self) -> tuple[ActionLayer, ...]:
        """Return the layers, from the first hidden one to the output."""
        return tuple(self._layer(depth) for depth in range(len(self._members) - 1))

    def _layer(self, depth: int) -> ActionLayer:
        rows, inputs = self._members[depth], []
        for below in range(depth - 1, INPUT - 1, -1):
            found = {
                (number, source): self._groups[number].weights[source]
                for number in rows
                for source in self._members[below]
                if source in self._sources[number] and source in self._groups[number].weights
            }
            if found:
                inputs.append((below, self._weight(found, rows, self._members[below])))
        if not inputs:
            shape = self._ends(rows)[-1], self._ends(self._members[depth - 1])[-1]
            inputs.append((depth - 1, self._work.computed(lambda: np.zeros(shape))))

        def biases(*own: FloatArray) -> FloatArray:
            states = max(map(len, own))
            parts = [
                np.broadcast_to(bias, (states, bias.shape[1]))[:, self._needed[number]]
                for number, bias in zip(rows, own, strict=True)
            ]
            joined = np.concatenate(parts, axis=1)
            return joined[0] if states == 1 else joined

        bias = self._work.computed(biases, *(self._groups[number].bias for number in rows))
        return ActionLayer(tuple(inputs), bias)

    def _ends(self, members: Sequence[int]) -> list[int]:
        """Return where the neurons of groups begin and end in their layer."""
        return [0, *np.cumsum([int(self._needed[number].sum()) for number in members]).tolist()]

    def _weight(
        self, found: Mapping[tuple[int, int], Block], rows: Sequence[int], columns: Sequence[int]
    ) -> FloatArray:
        """Return the weight of one layer of those of another, (states,) outputs, inputs."""
        tops, lefts = self._ends(rows), self._ends(columns)
        whole = len(rows) == len(columns) == 1

        def joined(*own: Block) -> FloatArray:
            parts = [
                blocks.weight(block, self._needed[source], self._needed[number])
                for (number, source), block in zip(found, own, strict=True)
            ]
            states = max(map(len, parts))
            full = parts[0] if whole else np.zeros((states, tops[-1], lefts[-1]))
            if not whole:
                for (number, source), part in zip(found, parts, strict=True):
                    i, j = rows.index(number), columns.index(source)
                    full[:, tops[i] : tops[i + 1], lefts[j] : lefts[j + 1]] = part
            return full[0] if states == 1 else full

        self._work.reserve(tops[-1] * lefts[-1])
        weight: FloatArray = self._work.computed(joined, *found.values())
        self._work.hold(weight.nbytes)
        return weight


def _needed(
    groups: Sequence[Group], width: int, prune: bool
) -> tuple[dict[int, BoolArray], list[list[int]]]:
    """Return which neurons of each group the last needs, and the sources of each."""
    needed = {i: np.zeros(group.width, dtype=bool) for i, group in enumerate(groups)}
    needed[INPUT] = np.ones(width, dtype=bool)
    needed[len(groups) - 1][:] = True
    sources: list[list[int]] = [[] for _ in groups]
    for number in range(len(groups) - 1, -1, -1):
        rows = needed[number]
        for source, weight in groups[number].weights.items():
            if prune:
                used = blocks.used(weight, rows)
            else:
                used = np.full(weight.shape[1], bool(rows.any()))
            if used.any():
                sources[number].append(source)
                needed[source] |= used
        if rows.any() and not sources[number]:
            sources[number].append(INPUT)  # a constant
    return needed, sources
