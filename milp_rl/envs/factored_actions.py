"""Factored actions: one level per factor, of which only some combinations are valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import BoolArray, IntArray
from milp_rl.formulations.spaces.factored import Combination, FactoredValidity


class FactoredActionSpace:
    """Combinations of levels, numbered; the valid ones are numbered without gaps.

    Parameters
    ----------
    factors
        Names of the levels of each factor, in order.
    valid
        Boolean array of one axis per factor, or the valid combinations by level names; by default
        all combinations are valid.

    Attributes
    ----------
    valid
        Boolean array of one axis per factor.
    levels
        The level of each factor in each valid combination, shape (n, factors), in lexicographic
        order: action i is ``levels[i]``.

    Raises
    ------
    ValueError
        If names are unknown or repeated, or nothing is valid.
    """

    def __init__(
        self,
        factors: Mapping[str, Sequence[str]],
        valid: BoolArray | Sequence[Sequence[str]] | None = None,
    ) -> None:
        checked = FactoredValidity(factors, allowed=valid)
        self.factors = checked.factors
        self.valid: BoolArray = checked.valid
        self.levels: IntArray = np.argwhere(self.valid)
        self._number = np.full(self.valid.shape, -1)
        self._number[tuple(self.levels.T)] = np.arange(len(self.levels))

    @classmethod
    def from_data(
        cls, factors: Mapping[str, Sequence[str]], frame: pd.DataFrame
    ) -> FactoredActionSpace:
        """Return the space whose valid combinations are those in a table.

        Parameters
        ----------
        factors
            Names of the levels of each factor.
        frame
            One column per factor, with the names of levels.
        """
        seen = frame[list(factors)].drop_duplicates()
        return cls(factors, [tuple(row) for row in seen.itertuples(index=False)])

    @property
    def n_combinations(self) -> int:
        """Number of combinations, valid or not."""
        return int(self.valid.size)

    @property
    def n_actions(self) -> int:
        """Number of valid combinations."""
        return len(self.levels)

    def encode(self, combinations: Any) -> IntArray:
        """Return the numbers of combinations given by the names of levels.

        Parameters
        ----------
        combinations
            Sequences of names, or a table with one column per factor.

        Raises
        ------
        ValueError
            If a name is unknown or a combination is not valid; says which row.
        """
        if isinstance(combinations, pd.DataFrame):
            columns = [combinations[name].to_numpy() for name in self.factors]
        else:
            rows = [tuple(row) for row in combinations]
            if any(len(row) != len(self.factors) for row in rows):
                raise ValueError(f"a combination has one level for each of {list(self.factors)}")
            columns = [np.array([row[f] for row in rows]) for f in range(len(self.factors))]
        found = []
        for (factor, names), column in zip(self.factors.items(), columns, strict=True):
            positions = pd.Index(names).get_indexer(pd.Index(column))
            if (positions < 0).any():
                row = int(np.argmax(positions < 0))
                raise ValueError(
                    f"row {row}: {factor!r} has no level {str(column[row])!r}: {names}"
                )
            found.append(positions)
        numbers = self._number[tuple(found)]
        if (numbers < 0).any():
            row = int(np.argmax(numbers < 0))
            names_of = ", ".join(str(column[row]) for column in columns)
            raise ValueError(f"row {row}: ({names_of}) is not a valid combination")
        return np.asarray(numbers)

    def decode(self, actions: ArrayLike) -> list[Combination]:
        """Return the names of levels of numbered actions."""
        names = list(self.factors.values())
        return [
            tuple(names[f][level] for f, level in enumerate(row))
            for row in self.levels[self._checked(actions)]
        ]

    def table(self) -> pd.DataFrame:
        """Return the valid combinations, one row per action, one column per factor."""
        return pd.DataFrame(self.decode(range(self.n_actions)), columns=list(self.factors))

    def one_hot(self, actions: ArrayLike) -> NDArray[np.int8]:
        """Return actions as :class:`FactoredValidity` has them, shape (..., levels in all)."""
        return self._one_hot_table()[self._checked(actions)]

    def has_level(self, factor: str, level: str) -> BoolArray:
        """Return which actions have a level, shape (n_actions,).

        Raises
        ------
        ValueError
            If factor or level is unknown.
        """
        if factor not in self.factors or level not in self.factors[factor]:
            raise ValueError(f"no level {level!r} of a factor {factor!r}: {self.factors}")
        position = list(self.factors).index(factor)
        return np.asarray(self.levels[:, position] == self.factors[factor].index(level))

    def block(self, n_decision_makers: int = 1, **options: Any) -> FactoredValidity:
        """Return the constraint block over the one-hot levels; options as it has them."""
        return FactoredValidity(
            self.factors, allowed=self.valid, n_decision_makers=n_decision_makers, **options
        )

    def _one_hot_table(self) -> NDArray[np.int8]:
        parts = [
            np.eye(len(names), dtype=np.int8)[self.levels[:, f]]
            for f, names in enumerate(self.factors.values())
        ]
        return np.concatenate(parts, axis=1)

    def _checked(self, actions: ArrayLike) -> IntArray:
        numbers = np.asarray(actions)
        if not np.issubdtype(numbers.dtype, np.integer) and numbers.size:
            raise ValueError(f"actions are numbers 0..{self.n_actions - 1}, got {numbers.dtype}")
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self.n_actions):
            raise ValueError(f"actions are numbers 0..{self.n_actions - 1}")
        return numbers.astype(np.intp)
