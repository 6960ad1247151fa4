"""The union of action spaces, ``a | b``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, BoolArray, FloatArray
from milp_rl.formulations.milp.linear_model import InfeasibleRowError, LinearModel
from milp_rl.formulations.spaces.base import INTEGRALITY, ActionSpace
from milp_rl.formulations.spaces.composite import Composite, Overlaid
from milp_rl.formulations.spaces.intersection import Intersection
from milp_rl.formulations.spaces.listing import check_limit
from milp_rl.formulations.spaces.pins import Pins
from milp_rl.formulations.spaces.product import Product


class Union(Overlaid):
    r"""The actions that are feasible for one member at least; written ``a | b``.

    .. math:: A = A_1 \cup \dots \cup A_m, \qquad
              \max_{x \in A} c x = \max_j \max_{x \in A_j} c x

    A variable is continuous if it is for some member; where a member has it whole, it is whole in
    that member's actions. ``linear_max`` is the largest of the members', exact if theirs are.

    In a model, each member j has a selector :math:`y_j` and its own part :math:`x_j` of the action,
    which its rows, :math:`F_j x_j + G_j z_j \le d_j`, and bounds allow to be other than zero where
    it is selected (Balas, "Disjunctive programming", Annals of Discrete Mathematics 5, 1979):

    .. math:: x = \sum_j x_j, \quad \sum_j y_j = 1, \quad F_j x_j + G_j z_j \le d_j y_j, \quad
              l_j y_j \le x_j \le u_j y_j, \quad y_j \in \{0, 1\}.

    Its relaxation is the convex hull of the members' relaxations, without a big-M.

    Parameters
    ----------
    members
        One or more spaces over the same number of actions; an empty one adds nothing.
    names
        Names of the members for :meth:`decode`; ``None`` to call one by its class.

    Raises
    ------
    ValueError
        If there is no member, one is not a space, their numbers of actions differ, or names repeat.

    Examples
    --------
    Either two visits of the first three, or one of any:

    >>> import milp_rl as mr
    >>> days = mr.Union(
    ...     [mr.BudgetTopK(4, 2) & mr.Box([0] * 4, [1, 1, 1, 0], binary=range(4)),
    ...      mr.BudgetTopK(4, 1)],
    ...     names=["near", "anywhere"],
    ... )
    >>> days.count()
    8
    >>> days.linear_max([[1.0, 2.0, 0.5, 2.5]]).tolist()
    [3.0]
    >>> days.decode([0, 0, 0, 1])
    {'anywhere': [3]}
    >>> days.violations([1, 0, 0, 1])
    ['near: x[3] = 1 is outside [0, 0] by 1']
    """

    _verb = "unite"

    @property
    def continuous(self) -> BoolArray:
        """Which variables are continuous for some member."""
        return np.asarray(np.any([member.continuous for member in self.members], axis=0))

    @property
    def lower(self) -> FloatArray:
        """The members' smallest lower bounds."""
        return np.asarray(np.min([member.lower for member in self.members], axis=0))

    @property
    def upper(self) -> FloatArray:
        """The members' largest upper bounds."""
        return np.asarray(np.max([member.upper for member in self.members], axis=0))

    @property
    def exact(self) -> bool:
        """True if every member's is."""
        return all(member.exact for member in self.members)

    def constrain(self, block: Any, actions: Sequence[Any]) -> None:
        """Write each member's part of the action, its selector and rows on ``block.member[i]``."""
        models = [own for member in self.members if (own := _compiled(member)) is not None]
        block.member = pyo.Block(range(len(models)))
        for i, (model, whole) in enumerate(models):
            # Where one member has whole numbers and another has not, a part says so by itself.
            alone = whole & self.continuous
            _write_part(block.member[i], model, np.append(alone, model.integer[len(alone) :]))
        parts = [block.member[i] for i in range(len(models))]
        if not parts:
            block.empty = pyo.Constraint(expr=actions[0] >= float(self.upper[0]) + 1.0)
            return
        block.one = pyo.Constraint(expr=pyo.quicksum(part.selected for part in parts) == 1)
        block.joined = pyo.Constraint(
            range(self.n_actions),
            rule=lambda _, j: actions[j] == pyo.quicksum(part.x[j] for part in parts),
        )

    def violations(self, action: ArrayLike) -> list[str]:
        """Return none if a member has none, else those of the member that has fewest."""
        a = self.check_action(action)
        fewest: list[str] = []
        for name, member in zip(self.names, self.members, strict=True):
            own, within = _as_of(member, a[None])
            try:
                found = member.violations(own[0] if within[0] else a)
            except ValueError as error:  # of another domain
                found = [str(error)]
            if not found:
                return []
            if not fewest or len(found) < len(fewest):
                fewest = [f"{name}: {text}" for text in found]
        return fewest

    def feasible(self, actions: ActionArray) -> BoolArray:
        """Check many actions, by one member after another."""
        return self._of_some(actions, lambda member, own: member.feasible(own))

    def _of_some(
        self, actions: ActionArray, accepts: Callable[[ActionSpace, ActionArray], BoolArray]
    ) -> BoolArray:
        """Tell which actions some member accepts."""
        found = np.zeros(len(actions), dtype=bool)
        for member in self.members:
            left = np.flatnonzero(~found)
            own, within = _as_of(member, actions[left])
            found[left[within]] = accepts(member, own[within])
        return found

    def settled(self, actions: ActionArray) -> tuple[ActionArray, BoolArray]:
        """Settle each action by the first member that it is feasible for and that can."""
        if not self.continuous.any():
            return super().settled(actions)
        found, met = np.array(actions), np.zeros(len(actions), dtype=bool)
        for member in self.members:
            left = np.flatnonzero(~met)
            own, within = _as_of(member, found[left])
            own, rows = own[within], left[within]
            fits = member.feasible(own)
            moved, settled = member.settled(own[fits])
            rows = rows[fits][settled]
            found[rows], met[rows] = moved[settled], True
        return found, met

    def met_exactly(self, actions: ActionArray) -> BoolArray:
        """Ask the members that an action is feasible for."""
        if not self.continuous.any():
            return super().met_exactly(actions)

        def accepts(member: ActionSpace, own: ActionArray) -> BoolArray:
            fits = member.feasible(own)
            fits[fits] = member.met_exactly(own[fits])
            return fits

        return self._of_some(actions, accepts)

    def _rounded(self, point: FloatArray) -> ActionArray:
        """Round a solver's point, with what is whole for the member that it is feasible for."""
        if not self.binary:
            for member in self.members:
                own = member._rounded(point)
                near = np.abs(own - point).max() <= INTEGRALITY
                if near and self._of(member, own):
                    return np.asarray(own.astype(self.dtype))
        return super()._rounded(point)

    def _of(self, member: ActionSpace, action: ActionArray) -> bool:
        """Whether an action is feasible for a member."""
        own, within = _as_of(member, action[None])
        return bool(within[0]) and not member.violations(own[0])

    def decode(self, action: ArrayLike) -> dict[str, Any]:
        """Return what the first member for which the action is feasible makes of it, by its name.

        Raises
        ------
        ValueError
            If it is feasible for none.
        """
        a = self.check_action(action)
        for name, member in zip(self.names, self.members, strict=True):
            if self._of(member, a):
                return {name: member.decode(_as_of(member, a[None])[0][0])}
        raise ValueError(f"the action is feasible for no member: {'; '.join(self.violations(a))}")

    def _linear_max(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the largest of the members' maxima."""
        return np.asarray(np.max([member.linear_max(c, pins) for member in self.members], axis=0))

    def _maximizers(self, c: FloatArray, pins: Pins) -> FloatArray:
        """Return the point of the member whose maximum is largest."""
        best = np.argmax([member.linear_max(c, pins) for member in self.members], axis=0)
        x = np.empty_like(c)
        for i, member in enumerate(self.members):
            own = best == i
            if own.any():
                x[own] = member.maximizers(c[own], pins[own])
        return x

    @property
    def drawn_together(self) -> bool:
        """True if every member's are."""
        return all(member.drawn_together for member in self.members)

    def sample(self, rng: np.random.Generator, n: int = 1, *, maximal: bool = False) -> ActionArray:
        """Draw each action from a member that is not empty, all equally likely.

        A maximal one is added to while another member has a larger one.
        """
        drawn: ActionArray = np.zeros((n, self.n_actions), dtype=self.dtype)
        left, members = np.arange(n), list(self.members)
        while len(left):
            if not members:
                raise ValueError("the space has no feasible action to sample")
            pick = rng.integers(len(members), size=len(left))
            empty: list[int] = []
            for i, member in enumerate(members):
                own = left[pick == i]
                try:
                    drawn[own] = member.sample(rng, len(own), maximal=maximal)
                except ValueError:  # nothing feasible to sample
                    empty.append(i)
            left = left[np.isin(pick, empty)]
            members = [member for i, member in enumerate(members) if i not in empty]
        for action in drawn if maximal and self.binary else ():
            while len(additions := self.extensions(action)):
                action[rng.choice(additions)] = 1
        return drawn

    def extensions(self, action: ArrayLike) -> NDArray[np.intp]:
        """Return the additions that a member allows."""
        self.require_binary("built one by one")
        a = self.check_action(action)
        found = [member.extensions(a) for member in self.members]
        return np.unique(np.concatenate(found)).astype(np.intp)

    def extension_masks(self, actions: ActionArray) -> tuple[BoolArray, BoolArray]:
        """Return the additions that a member allows, and what is feasible for one."""
        self.require_binary("built one by one")
        pairs = [member.extension_masks(actions) for member in self.members]
        masks, feasible = (np.any(part, axis=0) for part in zip(*pairs, strict=True))
        return np.asarray(masks), np.asarray(feasible)

    def completable(self, action: ArrayLike) -> bool:
        """Whether a member's action contains it."""
        return any(member.completable(action) for member in self.members)

    @property
    def oracle_seconds(self) -> float:
        """Of all members together."""
        return sum(member.oracle_seconds for member in self.members)

    @property
    def counts_quickly(self) -> bool:
        """True if every member does."""
        return all(member.counts_quickly for member in self.members)

    def enumerate(self, limit: int = 100_000) -> ActionArray:
        """List the members' actions one after another, each action once."""
        self.require_countable()
        rows = np.concatenate([member.enumerate(limit) for member in self.members])
        _, first = np.unique(rows, axis=0, return_index=True)
        check_limit(len(first), limit)
        return np.asarray(rows[np.sort(first)].astype(self.dtype))

    def _open(self, actions: ActionArray, decided: int) -> BoolArray:
        """Tell what is open for a member."""
        if self.down_closed:  # what is open is feasible, for the same member
            return self.feasible(actions)
        found = np.zeros(len(actions), dtype=bool)
        for member in self.members:
            left = np.flatnonzero(~found)
            found[left] = member._open(actions[left], decided)
        return found

    def __repr__(self) -> str:
        return self._written(" | ")


def alternatives(space: ActionSpace, most: int = 64) -> list[ActionSpace]:
    """Return spaces without unions of which a space is the union; itself if it has no union.

    ``(a | b) & c`` is ``a & c`` or ``b & c``; the same of products.

    Parameters
    ----------
    space
        Any.
    most
        If there are more alternatives, the space itself is returned.
    """
    if not isinstance(space, Composite):
        return [space]
    members = [alternatives(member, most) for member in space.members]
    if isinstance(space, Union):
        found = [own for parts in members for own in parts]
    elif isinstance(space, Intersection | Product) and any(len(parts) > 1 for parts in members):
        if np.prod([float(len(parts)) for parts in members]) > most:
            return [space]
        found = [type(space)(parts) for parts in itertools.product(*members)]
    else:
        found = [space]
    return found if len(found) <= most else [space]


def _compiled(member: ActionSpace) -> tuple[LinearModel, BoolArray] | None:
    """Return a member's model and its whole variables; ``None`` if a row of it excludes all."""
    try:
        return member.linear_model, ~member.continuous
    except InfeasibleRowError:
        return None


def _write_part(block: Any, model: LinearModel, whole: BoolArray) -> None:
    """Write a member's columns and rows, all of them zero where it is not selected."""
    block.selected = pyo.Var(domain=pyo.Binary)
    low, high = model.column_lower, model.column_upper
    block.x = pyo.Var(
        range(model.n_columns),
        domain=lambda _, j: pyo.Integers if whole[j] else pyo.Reals,
        bounds=lambda _, j: (
            min(float(low[j]), 0.0) if np.isfinite(low[j]) else None,
            max(float(high[j]), 0.0) if np.isfinite(high[j]) else None,
        ),
    )
    block.row = pyo.ConstraintList()
    for j in range(model.n_columns):
        if low[j] != 0 and np.isfinite(low[j]):
            block.row.add(block.x[j] >= float(low[j]) * block.selected)
        if high[j] != 0 and np.isfinite(high[j]):
            block.row.add(block.x[j] <= float(high[j]) * block.selected)
    matrix = model.matrix
    for i in range(model.n_rows):
        own = slice(matrix.indptr[i], matrix.indptr[i + 1])
        entries = zip(matrix.indices[own].tolist(), matrix.data[own].tolist(), strict=True)
        terms = pyo.quicksum(value * block.x[j] for j, value in entries)
        lower, upper = float(model.row_lower[i]), float(model.row_upper[i])
        if lower == upper:
            block.row.add(terms == upper * block.selected)
            continue
        if np.isfinite(upper):
            block.row.add(terms <= upper * block.selected)
        if np.isfinite(lower):
            block.row.add(terms >= lower * block.selected)


def _as_of(member: ActionSpace, actions: ActionArray) -> tuple[ActionArray, BoolArray]:
    """Return actions in a member's dtype, and which of them are of its domains."""
    x = np.asarray(actions, dtype=np.float64)
    whole = ~member.continuous
    rounded = np.where(whole, np.rint(x), x)
    wrong = whole & (np.abs(rounded - x) > INTEGRALITY)
    wrong |= whole & ~member.integer & (rounded != 0) & (rounded != 1)
    own: ActionArray = rounded.astype(member.dtype)
    return own, np.asarray(~wrong.any(axis=1))
