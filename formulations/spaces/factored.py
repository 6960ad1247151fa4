"""The factored block: one level per factor for each decision-maker, valid combinations, caps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.checks import (
    check_flag,
    check_integer,
    check_list,
    check_mapping,
    check_texts,
    shown,
)
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.listing import check_limit
from milp_rl.formulations.spaces.oracles.assignment import assignable
from milp_rl.formulations.spaces.pins import Pins

Combination = tuple[str, ...]

_MOST_COMBINATIONS = 1_000_000
_MOST_CHOICES = 100_000_000
_MOST_PARTIAL = 1_000_000


class FactoredValidity(ActionSpace):
    r"""Each decision-maker takes one valid combination of levels, one level per factor.

    The action variables are one-hot: decision-maker by decision-maker, factor by factor, level by
    level. With :math:`\lambda_{ic}` the choice of combination c by decision-maker i,

    .. math:: \sum_c \lambda_{ic} = 1, \qquad x_{ifl} = \sum_{c: c_f = l} \lambda_{ic},
              \qquad \lambda \ge 0, \qquad \sum_i x_{ifl} \le \mathrm{cap}_{fl},

    which is the convex hull for one decision-maker. ``linear_max`` takes the best combination of
    each; with caps, the best without the capped level plus the largest gains from it, for each
    capped level, which is exact with one capped level and a bound with several.

    Parameters
    ----------
    factors
        Names of the levels of each factor, in order.
    allowed
        The valid combinations, as tuples of level names or as a boolean array of one axis per
        factor; without ``allowed`` and ``forbidden`` all are valid.
    forbidden
        The combinations that are not valid, in the same form; not with ``allowed``.
    n_decision_makers
        How many decide at once (patients, say), at least 1.
    caps
        For factors and levels, how many decision-makers may take that level at most, e.g.
        ``{"modality": {"Home Visit": 3}}``.
    optional
        Whether a decision-maker may also take no combination at all (all zeros).

    Raises
    ------
    ValueError
        If names are unknown or repeated, or no action is feasible.

    Examples
    --------
    >>> import milp_rl as mr
    >>> factors = {"channel": ["call", "visit"], "time": ["day", "night"]}
    >>> space = mr.FactoredValidity(
    ...     factors,
    ...     forbidden=[("visit", "night")],
    ...     n_decision_makers=2,
    ...     caps={"channel": {"visit": 1}},
    ... )
    >>> space.encode([("visit", "day"), ("call", "night")])
    array([0, 1, 1, 0, 1, 0, 0, 1], dtype=int8)
    >>> space.decode([0, 1, 1, 0, 1, 0, 0, 1])
    [('visit', 'day'), ('call', 'night')]
    >>> space.violations(space.encode([("visit", "day"), ("visit", "day")]))
    ["channel 'visit' is used 2 times, at most 1 allowed"]
    >>> space.count()
    8
    """

    def __init__(
        self,
        factors: Mapping[str, Sequence[str]],
        allowed: Iterable[Sequence[str]] | BoolArray | None = None,
        forbidden: Iterable[Sequence[str]] | BoolArray | None = None,
        n_decision_makers: int = 1,
        caps: Mapping[str, Mapping[str, int]] | None = None,
        optional: bool = False,
    ) -> None:
        self.factors = {
            str(name): check_texts(levels, f"the levels of {name!r}")
            for name, levels in check_mapping(factors, "factors").items()
        }
        if not self.factors:
            raise ValueError("at least one factor is needed")
        for name, levels in self.factors.items():
            if not levels or len(set(levels)) < len(levels):
                raise ValueError(f"the levels of {name!r} must be distinct, at least one: {levels}")
        if allowed is not None and forbidden is not None:
            raise ValueError("give allowed or forbidden combinations, not both")
        self.n_decision_makers = check_integer(n_decision_makers, "n_decision_makers", 1)
        self.optional = check_flag(optional, "optional")
        self._sizes = [len(levels) for levels in self.factors.values()]
        if len(self._sizes) > 32 or math.prod(self._sizes) > _MOST_COMBINATIONS:
            raise ValueError(
                f"the factors have more than {_MOST_COMBINATIONS:,} combinations of levels"
            )
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self.valid: BoolArray = np.ones(self._sizes, dtype=bool)
        if allowed is not None:
            self.valid = self._table(allowed, "allowed")
        elif forbidden is not None:
            self.valid = ~self._table(forbidden, "forbidden")
        self.caps = self._checked_caps({} if caps is None else check_mapping(caps, "caps"))

        choices = np.argwhere(self.valid)
        if self.n_decision_makers * max(len(choices), sum(self._sizes)) > _MOST_CHOICES:
            raise ValueError(
                f"{self.n_decision_makers:,} decision-makers of {len(choices):,} combinations are"
                f" more than can be had: at most {_MOST_CHOICES:,} choices in all"
            )
        self._rows = np.zeros((len(choices), self._starts[-1]), dtype=np.int8)
        for f, start in enumerate(self._starts[:-1]):
            self._rows[np.arange(len(choices)), start + choices[:, f]] = 1
        if self.optional:
            self._rows = np.vstack([self._rows, np.zeros(self._starts[-1], dtype=np.int8)])
        if not len(self._rows):
            raise ValueError("no feasible action: no combination is valid")
        if not self._assignable(np.ones((self.n_decision_makers, len(self._rows)), dtype=bool)):
            raise ValueError(
                f"no feasible action: the caps {self.caps} leave no valid combinations for"
                f" {self.n_decision_makers} decision-makers; raise them or set optional=True"
            )

    def _table(self, combinations: Any, name: str) -> BoolArray:
        given = combinations if isinstance(combinations, np.ndarray) else None
        if given is not None and given.dtype == bool:
            if list(given.shape) != self._sizes:
                raise ValueError(f"{name} must have shape {tuple(self._sizes)}, got {given.shape}")
            return given.copy()
        table = np.zeros(self._sizes, dtype=bool)
        for combination in check_list(combinations, name):
            table[self._levels(combination)] = True
        return table

    def _levels(self, combination: Sequence[str]) -> tuple[int, ...]:
        fits = isinstance(combination, Sequence | np.ndarray) and not isinstance(combination, str)
        if not fits or len(combination) != len(self.factors):
            raise ValueError(
                f"a combination has one level for each of {list(self.factors)}, got"
                f" {shown(combination)}"
            )
        found = []
        for (factor, levels), level in zip(self.factors.items(), combination, strict=True):
            if level not in levels:
                raise ValueError(f"{factor!r} has no level {level!r}; it has {levels}")
            found.append(levels.index(level))
        return tuple(found)

    def _checked_caps(self, caps: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        checked: dict[str, dict[str, int]] = {}
        for factor, limits in caps.items():
            if factor not in self.factors:
                raise ValueError(f"caps: no factor {factor!r}; there are {list(self.factors)}")
            for level, cap in check_mapping(limits, f"the caps of {factor!r}").items():
                if level not in self.factors[factor]:
                    raise ValueError(
                        f"caps: {factor!r} has no level {level!r}; it has {self.factors[factor]}"
                    )
                cap = check_integer(cap, f"the cap on {level!r}")
                checked.setdefault(factor, {})[level] = cap
        return checked

    @property
    def n_actions(self) -> int:
        """Decision-makers times levels of all factors."""
        return self.n_decision_makers * int(self._starts[-1])

    @property
    def exact(self) -> bool:
        """True with at most one capped level."""
        return len(self._capped) <= 1

    @property
    def combinations(self) -> list[Combination]:
        """The valid combinations, by level names."""
        names = list(self.factors.values())
        return [
            tuple(names[f][level] for f, level in enumerate(row)) for row in np.argwhere(self.valid)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "type": "FactoredValidity",
            "factors": self.factors,
            "allowed": None if self.valid.all() else [list(c) for c in self.combinations],
            "n_decision_makers": self.n_decision_makers,
            "caps": self.caps,
            "optional": self.optional,
        }

    def encode(self, combinations: Sequence[Sequence[str] | None]) -> ActionArray:
        """Return the action that gives each decision-maker a combination.

        Parameters
        ----------
        combinations
            One per decision-maker; ``None`` for no combination.
        """
        if len(combinations) != self.n_decision_makers:
            raise ValueError(
                f"one combination for each of {self.n_decision_makers} decision-makers is needed,"
                f" got {len(combinations)}"
            )
        action = np.zeros((self.n_decision_makers, self._starts[-1]), dtype=np.int8)
        for i, combination in enumerate(combinations):
            if combination is not None:
                action[i, self._starts[:-1] + np.array(self._levels(combination))] = 1
        return action.reshape(-1)

    def decode(self, action: ArrayLike) -> list[Combination | None]:
        """Return each decision-maker's combination by level names, ``None`` for none.

        Raises
        ------
        ValueError
            If an entry is neither a combination nor empty.
        """
        decoded: list[Combination | None] = []
        for i, row in enumerate(self._split(action)):
            chosen = [
                [level for level, x in zip(levels, row[start:], strict=False) if x]
                for levels, start in zip(self.factors.values(), self._starts, strict=False)
            ]
            if any(len(levels) != 1 for levels in chosen) and row.any():
                raise ValueError(f"decision-maker {i} has no single level per factor: {chosen}")
            decoded.append(tuple(levels[0] for levels in chosen) if row.any() else None)
        return decoded

    def _split(self, action: ArrayLike) -> ActionArray:
        rows: ActionArray = self.check_action(action).reshape(self.n_decision_makers, -1)
        return rows

    def limits(self) -> dict[str, ActionSpace]:
        """Return the space for one decision-maker more at each capped level."""
        return {
            f"cap of {factor} {level}": self._with(
                caps={**self.caps, factor: {**levels, level: cap + 1}}
            )
            for factor, levels in self.caps.items()
            for level, cap in levels.items()
        }

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write the hull of the valid combinations, or one-hot factors if all are valid."""
        width = int(self._starts[-1])
        people = range(self.n_decision_makers)
        block.link = pyo.ConstraintList()
        if self.valid.all():
            if self.optional:
                block.taken = pyo.Var(people, bounds=(0, 1))
            for i, (start, end) in itertools.product(
                people, zip(self._starts[:-1], self._starts[1:], strict=True)
            ):
                levels = pyo.quicksum(actions[i * width + int(j)] for j in range(start, end))
                block.link.add(levels == (block.taken[i] if self.optional else 1))
        else:
            choices = range(len(self._rows))
            block.choice = pyo.Var(people, choices, bounds=(0, 1))
            block.one = pyo.Constraint(
                people, rule=lambda b, i: pyo.quicksum(b.choice[i, c] for c in choices) == 1
            )
            for i, j in itertools.product(people, range(width)):
                using = np.flatnonzero(self._rows[:, j]).tolist()
                chosen = pyo.quicksum(block.choice[i, c] for c in using)
                block.link.add(actions[i * width + j] == chosen)
        block.cap = pyo.ConstraintList()
        for j, cap in self._capped:
            block.cap.add(pyo.quicksum(actions[i * width + j] for i in people) <= cap)

    def violations(self, action: ArrayLike) -> list[str]:
        """Check each decision-maker's levels and combination, and the caps."""
        found = []
        rows = self._split(action)
        for i, row in enumerate(rows):
            if self.optional and not row.any():
                continue
            levels = [
                np.flatnonzero(row[start:end])
                for start, end in zip(self._starts[:-1], self._starts[1:], strict=True)
            ]
            wrong = [
                f"{len(chosen)} levels of {factor!r}"
                for factor, chosen in zip(self.factors, levels, strict=True)
                if len(chosen) != 1
            ]
            if wrong:
                found.append(f"decision-maker {i} has {', '.join(wrong)}; exactly 1 is allowed")
            elif not self.valid[tuple(int(chosen[0]) for chosen in levels)]:
                names = ", ".join(
                    f"{factor} {names[int(chosen[0])]!r}"
                    for (factor, names), chosen in zip(self.factors.items(), levels, strict=True)
                )
                found.append(f"decision-maker {i}: {names} is not a valid combination")
        for j, cap in self._capped:
            used = int(rows[:, j].sum())
            if used > cap:
                found.append(f"{self._level_name(j)} is used {used} times, at most {cap} allowed")
        return found

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check the combinations and the caps of many actions."""
        rows = actions.reshape(len(actions) * self.n_decision_makers, int(self._starts[-1]))
        single = np.ones(len(rows), dtype=bool)
        levels = []
        for start, end in zip(self._starts[:-1], self._starts[1:], strict=True):
            single &= rows[:, start:end].sum(axis=1) == 1
            levels.append(rows[:, start:end].argmax(axis=1))
        single &= self.valid[tuple(levels)]
        if self.optional:
            single |= ~rows.any(axis=1)
        found = single.reshape(len(actions), self.n_decision_makers).all(axis=1)
        return self._within_caps(actions, np.asarray(found))

    def _open(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell whether the decision-maker being decided has a choice left, and by the caps."""
        width = int(self._starts[-1])
        person, columns = divmod(decided - 1, width)
        given = actions[:, person * width : person * width + columns + 1].astype(np.float32)
        choices = np.unique(self._rows[:, : columns + 1], axis=0).astype(np.float32)
        different = given @ (1 - choices.T) + (1 - given) @ choices.T
        return self._within_caps(actions, np.asarray((different == 0).any(axis=1)))

    def _within_caps(self, actions: ActionArray, found: BoolArray) -> BoolArray:
        for j, cap in self._capped:
            found = found & (actions[:, j :: int(self._starts[-1])].sum(axis=1) <= cap)
        return found

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Take each decision-maker's best combination, within one cap at a time."""
        return self._best_choices(self._worth(c, pins))[0]

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the combinations behind ``linear_max``."""
        choice = self._best_choices(self._worth(c, pins))[1]
        return self._rows[choice].reshape(len(choice), self.n_actions).astype(np.float64)

    def _best_choices(self, worth: FloatArray) -> tuple[FloatArray, NDArray[np.intp]]:
        """Return the smallest bound over the caps, (batch,), and the choices behind it."""
        batch = np.arange(len(worth))[:, None]
        people = np.arange(self.n_decision_makers)
        choice = worth.argmax(axis=2)
        best = worth[batch, people, choice]
        bound, chosen = best.sum(axis=1), choice.copy()
        for j, cap in self._capped:
            others = np.where(self._rows[:, j] == 1, -np.inf, worth)
            other = others.argmax(axis=2)
            without = others[batch, people, other]
            forced = np.isneginf(without) & np.isfinite(best)
            spare = cap - forced.sum(axis=1)
            with np.errstate(invalid="ignore"):
                gains = np.where(forced, 0.0, best - without)
            rank = np.argsort(np.argsort(-gains, axis=1, kind="stable"), axis=1)
            taken = forced | (rank < spare[:, None])
            capped = np.where(taken, best, without).sum(axis=1)
            capped[spare < 0] = -np.inf
            smaller = ~np.isneginf(bound) & (capped < bound)
            bound = np.where(smaller, capped, bound)
            chosen[smaller] = np.where(taken, choice, other)[smaller]
        return bound, chosen

    def _worth(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Value every choice of every decision-maker, shape (batch, decision-makers, choices)."""
        one, zero = pins.one, pins.zero
        shape = (len(c), self.n_decision_makers, int(self._starts[-1]))
        worth = c.reshape(shape) @ self._rows.T.astype(float)
        if one is not None:
            worth[(one.reshape(shape) @ (self._rows.T == 0)) > 0] = -np.inf
        if zero is not None:
            worth[(zero.reshape(shape) @ (self._rows.T == 1)) > 0] = -np.inf
        return np.asarray(worth)

    def completable(self, action: ArrayLike) -> bool:
        """Whether some feasible action contains all ones of ``action``."""
        return self._assignable(self._compatible(self._split(action)))

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the levels that can be added so that valid choices within the caps remain."""
        rows = self._split(action)
        compatible = self._compatible(rows)
        if not self._assignable(compatible):
            return np.array([], dtype=np.intp)
        found = []
        width = int(self._starts[-1])
        for i, row in enumerate(rows):
            seen: dict[bytes, bool] = {}
            for j in np.flatnonzero(row == 0):
                narrowed = compatible[i] & (self._rows[:, j] == 1)
                if not narrowed.any():
                    continue
                key = narrowed.tobytes()
                if key not in seen:
                    remaining = compatible.copy()
                    remaining[i] = narrowed
                    seen[key] = self._assignable(remaining)
                if seen[key]:
                    found.append(i * width + int(j))
        return np.array(found, dtype=np.intp)

    def _compatible(self, rows: ActionArray) -> BoolArray:
        """Which choices contain each decision-maker's ones, (decision-makers, choices)."""
        return np.asarray((rows.astype(int) @ (self._rows.T == 0).astype(int)) == 0)

    def _assignable(self, options: BoolArray) -> bool:
        """Whether everybody can take one of their options within the caps."""
        if not options.any(axis=1).all():
            return False
        if not self._capped:
            return True
        columns = [j for j, _ in self._capped]
        return assignable(options, self._rows[:, columns], [cap for _, cap in self._capped])

    def _sample_one(self, rng: np.random.Generator, maximal: bool) -> ActionArray:
        """Let the decision-makers choose in random order, each among what leaves the rest able."""
        options = np.ones((self.n_decision_makers, len(self._rows)), dtype=bool)
        chosen = np.zeros(self.n_decision_makers, dtype=np.intp)
        for i in rng.permutation(self.n_decision_makers):
            for choice in rng.permutation(len(self._rows)):
                if maximal and not self._rows[choice].any():
                    continue
                narrowed = options.copy()
                narrowed[i] = False
                narrowed[i, choice] = True
                if self._assignable(narrowed):
                    break
            else:  # only doing nothing is left
                choice = len(self._rows) - 1
                narrowed = options.copy()
                narrowed[i] = False
                narrowed[i, choice] = True
            options, chosen[i] = narrowed, choice
        return self._rows[chosen].reshape(-1)

    @property
    def counts_quickly(self) -> bool:
        """True without caps, by a closed form."""
        return not self._capped

    def count(self, limit: int = 100_000) -> int:
        """Count the feasible actions, in closed form without caps."""
        if self._capped:
            return super().count(limit)
        return int(len(self._rows) ** self.n_decision_makers)

    def enumerate(self, limit: int = 100_000) -> ActionArray:
        """List every feasible action, decision-maker by decision-maker."""
        if not self._capped:
            check_limit(self.count(), limit)
        columns = [j for j, _ in self._capped]
        profile = self._rows[:, columns].astype(np.intp)
        left = np.array([[cap for _, cap in self._capped]], dtype=np.intp)
        chosen = np.zeros((1, 0), dtype=np.intp)
        for _ in range(self.n_decision_makers):
            rest = left[:, None] - profile
            before, choice = np.nonzero((rest >= 0).all(axis=2))
            if len(before) > max(limit, _MOST_PARTIAL):
                raise ValueError(
                    f"it cannot be listed: more than {_MOST_PARTIAL:,} partial actions are tried"
                )
            left = rest[before, choice]
            chosen = np.column_stack([chosen[before], choice])
        check_limit(len(chosen), limit)
        return self._rows[chosen].reshape(len(chosen), self.n_actions)

    @cached_property
    def _capped(self) -> list[tuple[int, int]]:
        """Column within a decision-maker's part, and cap, of each capped level."""
        found = []
        for f, (factor, levels) in enumerate(self.factors.items()):
            for level, cap in self.caps.get(factor, {}).items():
                if cap < self.n_decision_makers:
                    found.append((int(self._starts[f]) + levels.index(level), cap))
        return found

    def _level_name(self, column: int) -> str:
        f = int(np.searchsorted(self._starts, column, side="right")) - 1
        factor = list(self.factors)[f]
        return f"{factor} {self.factors[factor][column - int(self._starts[f])]!r}"
