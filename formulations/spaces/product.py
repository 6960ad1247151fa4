"""The product of action spaces over different variables, ``a * b``."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.composite import Composite
from milp_rl.formulations.spaces.listing import check_limit
from milp_rl.formulations.spaces.pins import Pins


class Product(Composite):
    r"""Actions whose parts are feasible for one member each; written ``a * b``.

    .. math:: A = A_1 \times \dots \times A_m, \qquad
              \max_{x \in A} c x = \sum_j \max_{x_j \in A_j} c_j x_j

    The variables of the first member come first. ``linear_max`` is the sum of the members', exact
    if theirs are. Constraints across members are written by intersecting with a space over all
    variables, such as :class:`~milp_rl.formulations.spaces.box.Box` with a matrix: which patients
    to call, and how long, is ``(BudgetTopK(...) * Box(...)) & Box(..., matrix=..., binary=...)``.

    Parameters
    ----------
    members
        One or more spaces.
    names
        Names of the members for :meth:`decode`; ``None`` to call one by its class.

    Raises
    ------
    ValueError
        If there is no member, one is not a space, or names repeat.

    Examples
    --------
    Whom to call, and for how long (in hours, up to 8), at most one person in all:

    >>> import milp_rl as mr
    >>> parts = mr.BudgetTopK(2, 1) * mr.Box([0.0], [8.0])
    >>> parts.continuous
    array([False, False,  True])
    >>> parts.linear_max([[1.0, 2.0, 0.5]])
    array([6.])
    >>> only_if_called = [[-8.0, -8.0, 1.0]]  # hours <= 8 (first + second)
    >>> rows = mr.Box([0, 0, 0], [1, 1, 8], matrix=only_if_called, right=[0], binary=[0, 1])
    >>> space = parts & rows
    >>> space.violations([0, 0, 2.5])
    ['constraint 0: 2.5 exceeds 0 by 2.5']
    >>> space.violations([0, 1, 2.5])
    []

    Members have names, by which an action is read:

    >>> day = mr.Product([mr.BudgetTopK(2, 1), mr.Permutation(2)], names=["calls", "order"])
    >>> day.decode([0, 1, 0, 1, 1, 0])
    {'calls': [1], 'order': [1, 0]}
    >>> day.member("calls")
    BudgetTopK(n_actions=2, k=1, exactly=False)
    """

    def __init__(
        self, members: Iterable[ActionSpace], names: Iterable[str | None] | None = None
    ) -> None:
        super().__init__(members, names)
        ends = np.cumsum([member.n_actions for member in self.members]).tolist()
        self._parts = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]

    @property
    def n_actions(self) -> int:
        """Number of variables of all members."""
        return int(self._parts[-1].stop)

    @property
    def continuous(self) -> BoolArray:
        """Which variables are continuous."""
        return np.concatenate([member.continuous for member in self.members])

    @property
    def lower(self) -> FloatArray:
        """Lower bounds."""
        return np.concatenate([member.lower for member in self.members])

    @property
    def upper(self) -> FloatArray:
        """Upper bounds."""
        return np.concatenate([member.upper for member in self.members])

    @property
    def exact(self) -> bool:
        """True if every member's is."""
        return all(member.exact for member in self.members)

    def parts(self) -> list[tuple[ActionSpace, slice]]:
        """Return the members and their variables."""
        return list(zip(self.members, self._parts, strict=True))

    @property
    def count_bound(self) -> float:
        """The product of the members' bounds."""
        return math.prod(member.count_bound for member in self.members)

    def violations(self, action: ArrayLike) -> list[str]:
        """Collect the members' violations."""
        a = self.check_action(action)
        found = []
        for i, (member, part) in enumerate(self.parts()):
            name = self._given[i] or f"member {i}"
            found += [f"{name}: {text}" for text in member.violations(a[part])]
        return found

    def settled(self, actions: ActionArray) -> tuple[ActionArray, BoolArray]:
        """Settle each part by its member."""
        found, met = np.array(actions), np.ones(len(actions), dtype=bool)
        for member, part in self.parts():
            found[:, part], own = member.settled(found[:, part].astype(member.dtype))
            met &= own
        return found, met

    def met_exactly(self, actions: ActionArray) -> BoolArray:
        """Ask each member about its part."""
        told = [m.met_exactly(actions[:, part].astype(m.dtype)) for m, part in self.parts()]
        return np.asarray(np.logical_and.reduce(told))

    def _open(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell whether the part that is being decided is open."""
        for member, part in zip(self.members, self._parts, strict=True):
            if part.start < decided <= part.stop:
                return member._open(actions[:, part], decided - part.start)
        return np.ones(len(actions), dtype=bool)

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Add up the members' maxima."""
        parts = [member.linear_max(c[:, part], pins[:, part]) for member, part in self.parts()]
        return np.asarray(np.sum(parts, axis=0))

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Join the members' maximisers."""
        parts = [member.maximizers(c[:, part], pins[:, part]) for member, part in self.parts()]
        return np.concatenate(parts, axis=1)

    @property
    def drawn_together(self) -> bool:
        """True if every member's are."""
        return all(member.drawn_together for member in self.members)

    def sample(self, rng: np.random.Generator, n: int = 1, *, maximal: bool = False) -> ActionArray:
        """Draw each part from its member."""
        parts = [member.sample(rng, n, maximal=maximal) for member in self.members]
        return np.concatenate(parts, axis=1).astype(self.dtype)

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the members' extensions, where every member can be completed."""
        self.require_binary("built one by one")
        a = self.check_action(action)
        if not self.completable(a):
            return np.array([], dtype=np.intp)
        found = [
            part.start + member.extensions(a[part])
            for member, part in zip(self.members, self._parts, strict=True)
        ]
        return np.concatenate(found)

    def completable(self, action: ArrayLike) -> bool:
        """Whether every member's part is."""
        a = self.check_action(action)
        pairs = zip(self.members, self._parts, strict=True)
        return all(member.completable(a[part]) for member, part in pairs)

    @property
    def oracle_seconds(self) -> float:
        """Of all members together."""
        return sum(member.oracle_seconds for member in self.members)

    @property
    def counts_quickly(self) -> bool:
        """True if every member does."""
        return all(member.counts_quickly for member in self.members)

    def count(self, limit: int = 100_000) -> int:
        """Multiply the members' counts."""
        return int(np.prod([member.count(limit) for member in self.members], dtype=object))

    def enumerate(self, limit: int = 100_000) -> ActionArray:
        """List every combination of the members' actions."""
        self.require_countable()
        lists = [member.enumerate(limit) for member in self.members]
        check_limit(float(np.prod([float(len(rows)) for rows in lists])), limit)
        rows: ActionArray = np.zeros((1, 0), dtype=self.dtype)
        for own in lists:
            left, right = np.indices((len(rows), len(own))).reshape(2, -1)
            rows = np.concatenate([rows[left], own[right]], axis=1).astype(self.dtype)
        return rows

    def __repr__(self) -> str:
        return self._written(" * ")
