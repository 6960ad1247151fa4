"""The precedence block: actions that are chosen only with those that come before them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray, IntArray
from milp_rl.formulations.checks import check_integer, check_integers, check_list, check_texts
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.oracles.closure import MaximumClosures
from milp_rl.formulations.spaces.pins import Pins

_MOST_ACTIONS = 10_000  # what requires what is kept for all pairs


class Precedence(ActionSpace):
    r"""An action is chosen only with the actions that come before it: a closure problem.

    With (i, j) for "i before j",

    .. math:: x_j \le x_i \quad \text{for every pair } (i, j) .

    Actions that come before each other, around a cycle, are chosen together or not at all.
    ``linear_max`` is exact, also under pins: a minimum cut (Picard, "Maximal closure of a graph and
    applications to combinatorial problems", Management Science 22, 1976).

    Parameters
    ----------
    n_actions
        Number of actions, 1 to 10,000.
    before
        Pairs (i, j) of different actions: j may be chosen only if i is.
    names
        Names of the actions for :meth:`decode`, distinct; ``None`` for their numbers.

    Raises
    ------
    ValueError
        If an action of a pair does not exist, or a pair is of one action.

    Examples
    --------
    >>> import milp_rl as mr
    >>> steps = ["survey", "road", "school", "clinic"]
    >>> space = mr.Precedence(4, [(0, 1), (1, 2), (1, 3)], names=steps)
    >>> space.violations([1, 0, 1, 0])
    ["'school' is chosen without 'road', which comes before it"]
    >>> space.linear_max([[-1.0, -3.0, 2.0, 3.0]])  # only both pay for survey and road
    array([1.])
    >>> space.decode([1, 1, 0, 1])
    ['survey', 'road', 'clinic']
    """

    def __init__(
        self,
        n_actions: int,
        before: Iterable[Sequence[int]],
        *,
        names: Iterable[str] | None = None,
    ) -> None:
        self._n_actions = check_integer(n_actions, "n_actions", 1, _MOST_ACTIONS)
        self.before: list[tuple[int, int]] = []
        for pair in check_list(before, "before"):
            ends = check_integers(pair, "a pair of before", 0, self._n_actions - 1)
            if len(ends) != 2 or ends[0] == ends[1]:
                raise ValueError(f"before has pairs of different actions, got {ends}")
            self.before.append((ends[0], ends[1]))
        self.names = None if names is None else check_texts(names, "names")
        if self.names is not None and not (
            len(set(self.names)) == len(self.names) == self._n_actions
        ):
            raise ValueError(f"names must be {self._n_actions} distinct names, got {self.names}")
        self._pairs: IntArray = np.array(sorted(set(self.before)), dtype=np.intp).reshape(-1, 2)

    @property
    def n_actions(self) -> int:
        """Number of actions."""
        return self._n_actions

    @property
    def exact(self) -> bool:
        """Always true."""
        return True

    @property
    def down_closed(self) -> bool:
        """True without pairs."""
        return not self.before

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "type": "Precedence",
            "n_actions": self.n_actions,
            "before": [list(pair) for pair in self.before],
            "names": self.names,
        }

    def decode(self, action: ArrayLike) -> list[Any]:
        """Return the chosen actions in an order that keeps what comes before before."""
        depth = self._requires.sum(axis=1)  # of an action more than of those before it
        chosen = sorted(np.flatnonzero(self.check_action(action)), key=lambda i: depth[i])
        return [int(i) if self.names is None else self.names[i] for i in chosen]

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write a row for each pair; their relaxation is integral."""
        block.before = pyo.ConstraintList()
        for i, j in self._pairs.tolist():
            block.before.add(actions[j] <= actions[i])

    def violations(self, action: ArrayLike) -> list[str]:
        """Check every pair."""
        a = self.check_action(action)
        name = [f"action {i}" for i in range(self.n_actions)]
        if self.names is not None:
            name = [repr(own) for own in self.names]
        return [
            f"{name[j]} is chosen without {name[i]}, which comes before it"
            for i, j in self._pairs.tolist()
            if a[j] > a[i]
        ]

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check every pair for many actions."""
        first, second = self._pairs.T
        return np.asarray((actions[:, second] <= actions[:, first]).all(axis=1))

    def _open(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell by what the action decided last requires of, or is required by, those before."""
        last = decided - 1
        new = actions[:, last] == 1
        needed, needing = self._requires[last, :last], self._requires[:last, last]
        lacks = (actions[:, :last][:, needed] == 0).any(axis=1)
        lacked = (actions[:, :last][:, needing] == 1).any(axis=1)
        return np.asarray(np.where(new, ~lacks, ~lacked))

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Cut the graph of each objective."""
        chosen, found = self._best(c, pins)
        return np.where(found, np.where(chosen, c, 0.0).sum(axis=1), -np.inf)

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the closures behind ``linear_max``."""
        return self._best(c, pins)[0].astype(np.float64)

    def _best(self, c: FloatArray, pins: Pins) -> tuple[BoolArray, BoolArray]:
        """Choose among what is neither required by a pin at one nor requires one at zero."""
        nothing = np.zeros(c.shape, dtype=bool)
        one = nothing if pins.one is None else self._required_by(pins.one)
        zero = nothing if pins.zero is None else self._requiring(pins.zero)
        free = ~(one | zero)
        chosen = self._closures.closures(np.where(free, c, 0.0))
        return (chosen & free) | one, np.asarray(~(one & zero).any(axis=1))

    def _required_by(self, chosen: BoolArray) -> BoolArray:
        """Return what the chosen actions of each row require, themselves included."""
        return np.asarray(chosen.astype(np.float32) @ self._requires.astype(np.float32) > 0)

    def _requiring(self, left_out: BoolArray) -> BoolArray:
        """Return what requires an action left out, itself included."""
        return np.asarray(left_out.astype(np.float32) @ self._requires.T.astype(np.float32) > 0)

    @cached_property
    def _closures(self) -> MaximumClosures:
        return MaximumClosures(self.n_actions, self._pairs[:, ::-1])

    @cached_property
    def _requires(self) -> BoolArray:
        """Which action (row) requires which, itself included, shape (n_actions, n_actions)."""
        reached = np.eye(self.n_actions, dtype=bool)
        graph: Any = nx.DiGraph(self._pairs.tolist())
        cycles = nx.condensation(graph)
        for c in nx.topological_sort(cycles):
            own = list(cycles.nodes[c]["members"])
            known = [i for j in own for i in graph.predecessors(j)]
            reached[own] = reached[known].any(axis=0)
            reached[np.ix_(own, own)] = True
        return reached

    def completable(self, action: ArrayLike) -> bool:
        """Return true: choosing everything is feasible."""
        self.check_action(action)
        return True

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return whatever is not chosen."""
        return np.flatnonzero(self.check_action(action) == 0)

    def extension_masks(self, actions: ActionArray) -> tuple[BoolArray, BoolArray]:
        """Return what is not chosen, and which actions are closed."""
        return actions == 0, self.feasible(actions)

    def sample(self, rng: np.random.Generator, n: int = 1, *, maximal: bool = False) -> ActionArray:
        """Draw a share of the actions at random and add what comes before them.

        With ``maximal`` everything is chosen: nothing excludes anything.
        """
        if maximal:
            return np.ones((n, self.n_actions), dtype=np.int8)
        drawn = rng.random((n, self.n_actions)) < rng.random((n, 1))
        return self._required_by(drawn).astype(np.int8)
