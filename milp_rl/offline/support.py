r"""Where logged decisions are to be trusted: feasible sets cut down to what was usual.

A value learnt from logged decisions is right where there are some. Two cuts keep an argmax there,
each of them one linear row in the action, so that it stays exact:

- the likelihood of a factored behaviour model at most a factor below its mode in the feasible set,
  the threshold of batch-constrained Q-learning (Fujimoto, Conti, Ghavamzadeh and Pineau,
  "Benchmarking batch deep reinforcement learning algorithms", arXiv 1910.01708), for whole actions:

  .. math:: \sum_j u_j(s)\, a_j \ge \max_{a' \in A(s)} \sum_j u_j(s)\, a'_j - \delta ;

- the Hamming distance to an action, such as that mode, of at most d:

  .. math:: \sum_{j: \hat a_j = 0} a_j + \sum_{j: \hat a_j = 1} (1 - a_j) \le d .
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.dqn.cached_argmax import CachedArgmax
from milp_rl.dqn.choosers import ExactChooser
from milp_rl.envs.fixed_set import shown
from milp_rl.envs.state_sets import StateSets
from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box
from milp_rl.offline.additive import BernoulliPolicy

Feasible = ActionSpace | Callable[[Any], ActionSpace]
_REMEMBERED = 50_000
_SLACK = 1e-6  # by which the mode may be below the threshold that it sets


class LoggedSets:
    """The feasible sets of logged decisions.

    Parameters
    ----------
    feasible
        The set of all states, or a function of a state, shape (state_dim,), float32.
    first
        A state, whose set is an example.

    Raises
    ------
    ValueError
        If the function returns something else, or sets over other variables.
    """

    def __init__(self, feasible: Feasible, first: NDArray[Any]) -> None:
        self._feasible = feasible
        self._known: dict[bytes, ActionSpace] = {}
        self._alike: dict[str, ActionSpace] = {}
        self.space = feasible if isinstance(feasible, ActionSpace) else self._asked(first)

    def in_state(self, state: Any) -> ActionSpace:
        """Return the set in a state."""
        if isinstance(self._feasible, ActionSpace):
            return self._feasible
        row = np.asarray(state, dtype=np.float32)
        found = self._known.get(row.tobytes())
        if found is None:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            found = self._known[row.tobytes()] = self._asked(row)
        return found

    def in_states(self, states: NDArray[Any]) -> list[ActionSpace] | None:
        """Return the set in each state, or ``None`` where one set is that of all."""
        if isinstance(self._feasible, ActionSpace):
            return None
        return [self.in_state(state) for state in states]

    def _asked(self, state: NDArray[Any]) -> ActionSpace:
        assert callable(self._feasible)
        found = self._feasible(state)
        if not isinstance(found, ActionSpace):
            raise ValueError(
                f"the feasible set in state {shown(state)} must be an action space, such as"
                f" milp_rl.BudgetTopK, got {type(found).__name__}"
            )
        example = next(iter(self._alike.values()), found)
        if not np.array_equal(found.continuous, example.continuous):
            raise ValueError(
                f"the feasible set in state {shown(state)} has {found.n_actions} variables, that of"
                f" another state {example.n_actions}, or others of them are continuous"
            )
        return self._alike.setdefault(repr(found.to_dict()), found)  # equal sets, one object


class SupportedSets:
    """Feasible sets cut down to what a behaviour model says is usual.

    Parameters
    ----------
    sets
        The feasible sets, of binary actions.
    behaviour
        The behaviour model.
    log_ratio
        Delta: how far the log-likelihood may be below the largest one of a feasible action, at
        least 0. ``None`` for no such limit.
    distance
        Largest Hamming distance to that most likely action, at least 0; ``None`` for no limit.

    Attributes
    ----------
    space
        The uncut set of some state: which variables there are.
    """

    def __init__(
        self,
        sets: StateSets,
        behaviour: BernoulliPolicy,
        *,
        log_ratio: float | None = None,
        distance: int | None = None,
    ) -> None:
        for name, value in (("log_ratio", log_ratio), ("distance", distance)):
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not sets.space.binary:
            raise ValueError(f"behaviour models need binary actions, this is {sets.space}")
        self.behaviour, self.log_ratio, self.distance = behaviour, log_ratio, distance
        self._sets = sets
        self._modes = CachedArgmax(
            behaviour, ExactChooser(behaviour, sets.space), _REMEMBERED, sets
        )
        self._known: dict[bytes, ActionSpace] = {}

    @property
    def space(self) -> ActionSpace:
        """The uncut set of some state."""
        return self._sets.space

    def modes(self, states: NDArray[Any]) -> ActionArray:
        """Return the most likely feasible action in each state, shape (n, n_actions)."""
        return self._modes.actions(np.asarray(states, dtype=np.float32))

    def in_state(self, state: Any) -> ActionSpace:
        """Return the cut set in a state."""
        return self.in_states(np.asarray(state)[None])[0]

    def in_states(self, states: NDArray[Any]) -> list[ActionSpace]:
        """Return the cut set in each state."""
        rows = np.asarray(states, dtype=np.float32)
        keys = [row.tobytes() for row in rows]
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        missing = {key: i for i, key in enumerate(keys) if key not in self._known}
        if missing:
            own = rows[list(missing.values())]
            odds, modes = self.behaviour.log_odds(own.astype(np.float64)), self.modes(own)
            for key, state, odd, mode in zip(missing, own, odds, modes, strict=True):
                self._known[key] = self._cut(self._sets.in_state(state), odd, mode)
        return [self._known[key] for key in keys]

    def _cut(self, space: ActionSpace, odds: FloatArray, mode: ActionArray) -> ActionSpace:
        rows: list[FloatArray] = []
        right: list[float] = []
        if self.log_ratio is not None:
            rows.append(-odds)
            right.append(self.log_ratio + _SLACK - float(odds @ mode))
        if self.distance is not None:
            rows.append(1.0 - 2.0 * mode.astype(np.float64))
            right.append(float(self.distance - mode.sum()))
        return with_rows(space, np.array(rows), right) if rows else space


def with_rows(space: ActionSpace, matrix: ArrayLike, right: Sequence[float]) -> ActionSpace:
    """Return the binary actions of a space that meet ``matrix @ a <= right`` too."""
    n = space.n_actions
    return space & Box(np.zeros(n), np.ones(n), matrix=matrix, right=right, binary=range(n))


def hamming_ball(space: ActionSpace, centre: ArrayLike, distance: int) -> ActionSpace:
    """Return the actions of a binary space at a Hamming distance of at most so many.

    Parameters
    ----------
    space
        Of binary actions.
    centre
        An action, feasible or not, shape (n_actions,).
    distance
        At least 0.

    Examples
    --------
    >>> import milp_rl as mr
    >>> hamming_ball(mr.BudgetTopK(4, 2), [1, 0, 0, 0], 1).enumerate().tolist()
    [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]
    """
    a = np.asarray(space.check_action(centre), dtype=np.float64)
    return with_rows(space, (1.0 - 2.0 * a)[None], [float(distance - a.sum())])


def log_ratios(sets: SupportedSets, states: NDArray[Any], actions: FloatArray) -> FloatArray:
    """Return how far logged actions' log-likelihoods are below the modes', shape (n,)."""
    odds = sets.behaviour.log_odds(np.asarray(states, dtype=np.float64))
    return np.asarray((odds * (sets.modes(states) - actions)).sum(axis=1))
