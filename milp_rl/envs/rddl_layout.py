"""The state of an RDDL domain as a vector, by arm: which numbers belong to which actions.

Where all actions have parameters of the same types, an arm is the objects that they have in common:
of ``eradicate(r1)`` and ``restore(r1)``, the reach r1. Otherwise every ground action is an arm. A
state fluent belongs to an arm as far as the two share objects: ``running(c1)``; of
``elevator-at-floor(e1, ?f)``, all floors. Where they share none, it may be that a non-fluent
assigns the fluent's object to one of the arm's, such as ``SLOT-AT-REACH(s3, r1)``. What belongs to
no arm is shared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milp_rl.envs.arms import Arms
from milp_rl.envs.known_model import StateArray
from milp_rl.envs.rddl_actions import GroundActions, ground_name
from milp_rl.formulations.arrays import FloatArray, IntArray


class StateLayout:
    """The vector of a state, and the state of a vector.

    Parameters
    ----------
    model
        A ``pyRDDLGym.core.compiler.model.RDDLLiftedModel``.
    values
        Initial values of fluents and non-fluents.
    actions
        The ground actions.

    Attributes
    ----------
    arms
        The layout by arm.
    feature_names
        What each number of the vector is; empty for padding, which is always zero.
    low, high
        Its bounds, float32, shape (state_dim,).
    """

    def __init__(self, model: Any, values: Mapping[str, Any], actions: GroundActions) -> None:
        self._model = model
        self._values = values
        self._shapes: dict[str, tuple[int, ...]] = {
            name: tuple(model.object_counts(model.variable_params[name]))
            for name in model.state_fluents
        }
        columns = _Columns(model, self._shapes)
        owners = [
            (tuple(model.variable_params[name]), cell)
            for name in list(actions.variables)[: 1 if actions.by_arm else None]
            for cell in np.ndindex(*actions.shape[name])
            for _ in range(1 if actions.by_arm else actions.variables[name].shape[1])
        ]
        by_arm = [
            [
                column
                for fluent in model.state_fluents
                for cell in self._cells(fluent, types, objects)
                for column in columns.of[fluent, cell]
            ]
            for types, objects in owners
        ]
        width = max(map(len, by_arm))
        used = {column for features in by_arm for column in features}
        shared = [column for column in range(len(columns.names)) if column not in used]
        padded = [features + [-1] * (width - len(features)) for features in by_arm]
        order = [*itertools.chain(*padded), *shared]
        self._order = np.array(order, dtype=np.intp)
        self._columns = columns
        self._place = np.zeros(len(columns.names), dtype=np.intp)
        for place, column in reversed(list(enumerate(order))):
            if column >= 0:
                self._place[column] = place
        self.feature_names = tuple(columns.names[c] if c >= 0 else "" for c in order)
        bounded = np.append(columns.bounded, True)[self._order]
        self.low = np.where(bounded, 0.0, -np.inf).astype(np.float32)
        self.high = np.where(bounded, 1.0, np.inf).astype(np.float32)
        self.arms = Arms(
            len(owners),
            width,
            len(shared),
            arm_actions=len(actions.names) // len(owners),
            neighbours=self._neighbours(owners) if actions.by_arm else None,
            names=self._names(owners) if actions.by_arm else actions.names,
        )

    def vector(self, state: Mapping[str, Any]) -> StateArray:
        """Return the observation of a state: fluents by name, objects by number."""
        flat = np.concatenate(
            [np.ravel(np.asarray(state[name], dtype=np.float64)) for name in self._shapes]
        )
        return self._columns.encoded(flat)[self._order]

    def state(self, vector: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the fluents of an observation, the inverse of :meth:`vector`."""
        flat = self._columns.decoded(np.asarray(vector, dtype=np.float64)[self._place])
        found, start = {}, 0
        for name, shape in self._shapes.items():
            size = int(np.prod(shape, dtype=int))
            values = flat[start : start + size].reshape(shape)
            boolean = self._model.state_ranges[name] == "bool"
            found[name] = values > 0.5 if boolean else values
            start += size
        return found

    def _cells(
        self, fluent: str, types: Sequence[str], objects: tuple[int, ...]
    ) -> Iterator[tuple[int, ...]]:
        """Return the groundings of a fluent that belong to an action of these objects."""
        own = tuple(self._model.variable_params[fluent])
        shape = self._shapes[fluent]
        matched = False
        for fixed in _matches(own, tuple(types)):
            if not fixed:
                continue
            matched = True
            ranges = [
                [objects[fixed[i]]] if i in fixed else range(size) for i, size in enumerate(shape)
            ]
            yield from itertools.product(*ranges)
        if matched or len(own) != 1:
            return
        for place, kind in enumerate(types):
            relation = self._assignment(own[0], kind)
            if relation is not None:
                yield from ((int(i),) for i in np.flatnonzero(relation[:, objects[place]]))
                return

    def _assignment(self, kind: str, to: str) -> NDArray[np.bool_] | None:
        """Return a non-fluent that gives each object of a kind one object of another kind."""
        for name in self._model.non_fluents:
            types = list(self._model.variable_params[name])
            if self._model.variable_ranges[name] != "bool" or sorted(types) != sorted([kind, to]):
                continue
            relation = np.asarray(self._values[name], dtype=bool)
            relation = relation if types == [kind, to] else relation.T
            if (relation.sum(axis=1) == 1).all():
                return relation
        return None

    def _names(self, owners: Sequence[tuple[Sequence[str], tuple[int, ...]]]) -> tuple[str, ...]:
        objects = self._model.type_to_objects
        return tuple(
            ", ".join(objects[kind][i] for kind, i in zip(types, cell, strict=True))
            for types, cell in owners
        )

    def _neighbours(
        self, owners: Sequence[tuple[Sequence[str], tuple[int, ...]]]
    ) -> FloatArray | None:
        """Return which arms a binary relation of non-fluents joins, in either direction."""
        types, objects = tuple(owners[0][0]), [cell for _, cell in owners]
        n = len(owners)
        near = np.zeros((n, n), dtype=bool)
        for name in self._model.non_fluents:
            declared = tuple(self._model.variable_params[name])
            if self._model.variable_ranges[name] == "bool" and declared == (*types, *types):
                relation = np.asarray(self._values[name], dtype=bool)
                ends = [*np.array(objects).T]
                near |= relation[(*(e[:, None] for e in ends), *(e[None] for e in ends))]
        if not near.any():
            return None
        near |= near.T
        np.fill_diagonal(near, val=False)
        return near.astype(np.float64)


class _Columns:
    """The numbers of a state: one per ground fluent, or one per object that it may be."""

    def __init__(self, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.of: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        self.names: list[str] = []
        variables, objects, bounded = [], [], []
        ground = 0
        for name, shape in shapes.items():
            kind = model.state_ranges[name]
            among = model.type_to_objects.get(kind)
            for cell in np.ndindex(*shape):
                own = self.of[name, cell] = []
                shown = ground_name(model, name, cell)
                for k, value in enumerate(among or [""]):
                    own.append(len(self.names))
                    self.names.append(f"{shown} = {value}" if among else shown)
                    variables.append(ground)
                    objects.append(k if among else -1)
                    bounded.append(bool(among) or kind == "bool")
                ground += 1
        self._variables: IntArray = np.array(variables, dtype=np.intp)
        self._objects: IntArray = np.array(objects)
        self.bounded = np.array(bounded, dtype=bool)
        self._ground = ground

    def encoded(self, flat: FloatArray) -> StateArray:
        """Return the columns of the values of ground fluents, and a zero."""
        values = flat[self._variables]
        found = np.where(self._objects < 0, values, values == self._objects)
        return np.append(found, 0.0).astype(np.float32)

    def decoded(self, columns: FloatArray) -> FloatArray:
        """Return the values of ground fluents."""
        values = np.where(self._objects < 0, columns, (columns > 0.5) * self._objects)
        found: FloatArray = np.zeros(self._ground)
        np.add.at(found, self._variables, values)
        return found


def _matches(own: tuple[str, ...], given: tuple[str, ...]) -> Iterator[dict[int, int]]:
    """Return which parameters of a fluent may be which of an action, by type and in order."""
    kinds = [kind for kind in dict.fromkeys(own) if kind in given]
    choices = []
    for kind in kinds:
        ours = [i for i, other in enumerate(own) if other == kind]
        theirs = [i for i, other in enumerate(given) if other == kind]
        size = min(len(ours), len(theirs))
        choices.append(
            [
                dict(zip(a, b, strict=True))
                for a in itertools.combinations(ours, size)
                for b in itertools.combinations(theirs, size)
            ]
        )
    for choice in itertools.product(*choices):
        yield {i: j for part in choice for i, j in part.items()}
