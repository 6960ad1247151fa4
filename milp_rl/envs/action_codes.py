"""Actions of Gymnasium's spaces as vectors of variables, and vectors as actions.

A choice among n is n binary variables of which one is 1: a network can value each by itself, which
it cannot where the number of the choice is a variable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.formulations.spaces.box import Box
from milp_rl.formulations.spaces.budget import BudgetTopK
from milp_rl.formulations.spaces.factored import FactoredValidity
from milp_rl.formulations.spaces.product import Product

_WHOLE = 1e-6  # by which a sum of whole numbers may be off


@dataclass(frozen=True)
class ActionCode:
    """How an environment's actions are vectors.

    Parameters
    ----------
    space
        All vectors that are actions.
    decode
        The action of a vector.
    encode
        The vector of an action.
    natural
        Whether the vector of an action is the action itself.
    choices
        Where the variables are of which exactly one is 1.
    """

    space: ActionSpace
    decode: Callable[[NDArray[Any]], Any]
    encode: Callable[[Any], NDArray[Any]]
    natural: bool = False
    choices: tuple[slice, ...] = ()

    def allowed(self, mask: ArrayLike) -> ActionSpace:
        """Return the actions whose vectors are zero where a mask, shape (n_actions,), is.

        Raises
        ------
        ValueError
            If nothing of a choice is allowed.
        """
        given = np.asarray(mask, dtype=bool)
        if given.all():
            return self.space
        parts: list[ActionSpace] = []
        for part, place in self.space.parts():
            own = given[place]
            if own.all():
                parts.append(part)
            elif isinstance(part, BudgetTopK) and part.exactly:
                names = [str(i) for i in range(len(own))]
                parts.append(FactoredValidity({"choice": names}, allowed=own))
            else:
                box = Box(np.zeros(len(own)), own.astype(float), binary=range(len(own)))
                parts.append(part & box)
        return _product(parts)

    def within(self, block: ActionSpace) -> ActionSpace:
        """Return a set without the vectors that are no actions."""
        if not self.choices or block == self.space:
            return block
        plain = isinstance(block, Box) and block.binary and not len(block.right)
        if plain and not block.lower.any():
            return self.allowed(block.upper)
        sums = np.zeros((len(self.choices), self.space.n_actions))
        for row, place in zip(sums, self.choices, strict=True):
            row[place] = 1.0
        most, least = block.linear_max(sums), -block.linear_max(-sums)
        implied = (most < 1.0 + _WHOLE).all() and (least > 1.0 - _WHOLE).all()
        return block if implied else block & self.space


def action_code(space: gym.Space[Any], n_actions: int | None = None) -> ActionCode:
    """Return the code of an action space.

    Parameters
    ----------
    space
        ``MultiBinary``, ``Discrete``, ``MultiDiscrete``, a bounded ``Box``, or a ``Dict`` or
        ``Tuple`` of these.
    n_actions
        Number of variables of the feasible set, if that is known. Where it is the number of
        entries of a ``Discrete`` or ``MultiDiscrete`` action, these are integer variables.

    Raises
    ------
    ValueError
        If it is another space, or unbounded.
    """
    if isinstance(space, gym.spaces.MultiBinary):
        return _entries(space, BudgetTopK(_size(space), _size(space)))
    if isinstance(space, gym.spaces.Box):
        return _entries(space, _numbers(space))
    if isinstance(space, gym.spaces.Discrete):
        return _discrete(space, n_actions)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return _multi_discrete(space, n_actions)
    if isinstance(space, gym.spaces.Dict):
        names = list(space.spaces)
        codes = [action_code(space[name]) for name in names]
        return _joined(
            codes,
            lambda parts: dict(zip(names, parts, strict=True)),
            lambda action: [action[name] for name in names],
        )
    if isinstance(space, gym.spaces.Tuple):
        return _joined([action_code(part) for part in space.spaces], tuple, list)
    raise ValueError(
        f"actions of {space} have no vectors: known are MultiBinary, Discrete, MultiDiscrete,"
        " bounded Box, and Dict and Tuple of these"
    )


def _size(space: gym.Space[Any]) -> int:
    return int(np.prod(space.shape or (), dtype=int))


def _entries(space: gym.spaces.MultiBinary | gym.spaces.Box, block: ActionSpace) -> ActionCode:
    """Return the code of an array of numbers: its entries."""
    shape, dtype = space.shape, space.dtype

    whole = np.issubdtype(dtype, np.integer)

    def decode(vector: NDArray[Any]) -> NDArray[Any]:
        entries = np.asarray(vector).reshape(shape)
        return (np.rint(entries) if whole else entries).astype(dtype)

    return ActionCode(block, decode, np.ravel, natural=len(shape) == 1)


def _numbers(space: gym.spaces.Box) -> Box:
    if not space.is_bounded():
        raise ValueError(f"actions must be bounded, got {space}: give their feasible set, space=")
    lower, upper = space.low.ravel().astype(float), space.high.ravel().astype(float)
    whole = np.issubdtype(space.dtype, np.integer)
    return Box(lower, upper, integer=range(len(lower)) if whole else ())


def _discrete(space: gym.spaces.Discrete, n_actions: int | None) -> ActionCode:
    n, start = int(space.n), int(space.start)
    if n_actions == 1 < n:
        return ActionCode(
            Box([start], [start + n - 1], integer=[0]),
            lambda vector: round(float(vector[0])),
            lambda action: np.array([int(action)]),
        )

    def decode(vector: NDArray[Any]) -> int:
        return start + int(np.argmax(vector))

    def encode(action: Any) -> ActionArray:
        return _one_hot(np.array([int(action) - start]), [n])

    return ActionCode(BudgetTopK(n, 1, exactly=True), decode, encode, choices=(slice(0, n),))


def _multi_discrete(space: gym.spaces.MultiDiscrete, n_actions: int | None) -> ActionCode:
    sizes = [int(n) for n in space.nvec.ravel()]
    start = space.start.ravel()
    shape, dtype = space.nvec.shape, space.dtype
    if n_actions == len(sizes) < sum(sizes):
        lower = start.astype(float)
        block = Box(lower, lower + sizes - 1.0, integer=range(len(sizes)))
        return ActionCode(
            block,
            lambda vector: np.rint(vector).astype(dtype).reshape(shape),
            np.ravel,
            natural=len(shape) == 1,
        )
    ends = np.cumsum(sizes)[:-1].tolist()

    def decode(vector: NDArray[Any]) -> NDArray[Any]:
        levels = np.array([np.argmax(part) for part in np.split(vector, ends)])
        return (levels + start).astype(dtype).reshape(shape)

    def encode(action: Any) -> ActionArray:
        return _one_hot(np.ravel(action) - start, sizes)

    factors = [BudgetTopK(n, 1, exactly=True) for n in sizes]
    places = tuple(
        slice(int(end) - n, int(end)) for n, end in zip(sizes, [*ends, sum(sizes)], strict=True)
    )
    return ActionCode(_product(factors), decode, encode, choices=places)


def _one_hot(levels: NDArray[Any], sizes: Sequence[int]) -> ActionArray:
    if not ((levels >= 0) & (levels < sizes)).all():
        raise ValueError(f"the choices {levels.tolist()} are not among {list(sizes)}")
    vector: ActionArray = np.zeros(sum(sizes), dtype=np.int8)
    vector[np.cumsum([0, *sizes[:-1]]) + levels] = 1
    return vector


def _joined(
    codes: Sequence[ActionCode],
    together: Callable[[list[Any]], Any],
    apart: Callable[[Any], Sequence[Any]],
) -> ActionCode:
    """Return the code of several actions at once: their vectors, one after the other."""
    if not codes:
        raise ValueError("the action space is empty")
    ends = np.cumsum([code.space.n_actions for code in codes])[:-1]

    def decode(vector: NDArray[Any]) -> Any:
        parts = np.split(np.asarray(vector), ends)
        return together([code.decode(part) for code, part in zip(codes, parts, strict=True)])

    def encode(action: Any) -> NDArray[Any]:
        parts = [code.encode(part) for code, part in zip(codes, apart(action), strict=True)]
        return np.concatenate(parts)

    whole = _product([code.space for code in codes])
    places = [
        slice(start + place.start, start + place.stop)
        for code, start in zip(codes, [0, *ends.tolist()], strict=True)
        for place in code.choices
    ]
    return ActionCode(whole, decode, encode, choices=tuple(places))


def _product(spaces: Sequence[ActionSpace]) -> ActionSpace:
    return spaces[0] if len(spaces) == 1 else Product(spaces)
