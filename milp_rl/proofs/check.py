r"""The check of a proof: whether ``Q(a) <= bound`` for all feasible a, in real arithmetic.

It shares no code with the solvers. What it takes for granted: the network's float64 weights (as
read from the model; of a model that is not [action, state] in one network, those that it has at
the state), what the feasible set is (:mod:`.sets`), and :mod:`.arithmetic`. No tolerance is in
it: a leaf is closed if what was computed, rounded upward, is at most the bound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from milp_rl.formulations.arrays import ActionArray, FloatArray, IntArray
from milp_rl.formulations.networks.action_value import ActionValue, NetworkValue
from milp_rl.formulations.networks.conversion import to_action_value
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.proofs.arithmetic import Arithmetic, Exact, Rounded
from milp_rl.proofs.proof import BOUND, EMPTY, VIOLATION, Proof, network_hash, space_text
from milp_rl.proofs.relaxation import Network64, Parts, Ranges
from milp_rl.proofs.rows import Rows
from milp_rl.proofs.sets import rows_of

_TOGETHER = 64  # leaves
_TINIEST = np.array([2.0**-1022])  # of normal numbers; libraries may have the rest of them dropped


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Parameters
    ----------
    verified
        Whether every step holds.
    step
        The first step that fails, empty if none does.
    value, bound
        The claim: an action of at least this value, and that none is above the bound.
    leaves
        Of the proof's tree.
    """

    verified: bool
    step: str
    value: float
    bound: float
    leaves: int

    def __str__(self) -> str:
        if not self.verified:
            return f"REFUSED: {self.step}"
        return (
            f"VERIFIED: no feasible action is better than {self.bound!r}, and the proof's action"
            f" has {self.value!r} at least ({self.leaves} leaves)"
        )


class RefusedError(ValueError):
    """A step of a proof that fails."""


def check(
    network: Any,
    space: ActionSpace,
    state: ArrayLike | None,
    proof: Proof,
    *,
    exact: bool = False,
    inputs: Sequence[str] | Mapping[str, str] | None = None,
    output: int | str | None = None,
) -> Verdict:
    """Check a proof, without any solver.

    Parameters
    ----------
    network, space, state, inputs, output
        What the proof claims to be of, as for :class:`.ArgmaxSolver`.
    proof
        As it came with the answer, or from :meth:`.Proof.load`.
    exact
        Compute with rational numbers instead of float64 with error bounds; it is much slower.

    Examples
    --------
    >>> from dataclasses import replace
    >>> import milp_rl as mr
    >>> from milp_rl.proofs import check
    >>> network = mr.Network.from_arrays([[[-1.0, 1.0, 1.0]], [[1.0]]], [[-1.0], [0.0]])
    >>> space = mr.BudgetTopK(3, 2)
    >>> proof = mr.ArgmaxSolver(network, space).solve([], proof=True).proof
    >>> check(network, space, [], proof, exact=True).verified
    True
    >>> print(check(network, space, [], replace(proof, bound=0.9)))  # doctest: +ELLIPSIS
    REFUSED: leaf 0 is bounded by 1.0..., which is above the proof's 0.9
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows bounds nothing
            value = to_action_value(network, space.n_actions, inputs=inputs, output=output)
            _check(value, space, state, proof, Exact() if exact else Rounded())
    except (ValueError, OverflowError, RecursionError) as error:
        return Verdict(False, str(error), proof.value, proof.bound, 0)
    return Verdict(True, "", proof.value, proof.bound, len(proof.reasons))


def _check(
    value: ActionValue,
    space: ActionSpace,
    state: ArrayLike | None,
    proof: Proof,
    arithmetic: Arithmetic,
) -> None:
    """Check every step; raise at the first one that fails."""
    if not (_TINIEST / 2 > 0).all():
        raise RefusedError("this process rounds the smallest numbers to 0: bounds are not sure")
    if broken := proof.malformed():
        raise RefusedError(broken)
    given = np.array([] if state is None else state, dtype=np.float64)
    network, left = network_at(value, given)
    if proof.network != network_hash(network):
        raise RefusedError("the network is not the proof's: its weights have another hash")
    if space_text(json.loads(proof.space)) != space_text(space.to_dict()):
        raise RefusedError("the feasible set is not the proof's")
    if not np.array_equal(proof.state, given):
        raise RefusedError("the state is not the proof's")
    sign = -1.0 if proof.sense == "minimize" else 1.0
    checker = Checker(network, space, left, sign, arithmetic)
    checker.check_value(proof.action, sign * proof.value)
    checker.check_tree(proof, sign * proof.bound)


def network_at(value: ActionValue, state: FloatArray) -> tuple[Network, FloatArray]:
    """Return the network that a proof is of, and the state that is left to put into it.

    A network of [action, state] itself; of anything else, its network at the state.
    """
    if value.link != "identity":
        raise RefusedError(f"proofs are of the network alone, this one has a {value.link} after it")
    if state.shape != (value.state_dim,) or not np.isfinite(state).all():
        raise RefusedError(f"the state must be {value.state_dim} finite numbers, got {state}")
    if isinstance(value, NetworkValue):
        return value.network, state
    found = value.at_state(state)
    if not isinstance(found, Network):
        raise RefusedError(f"proofs are of ReLU networks, not of a {type(found).__name__}")
    return found, np.zeros(0)


class Checker:
    """The checks of one network, feasible set and state, in one arithmetic."""

    def __init__(
        self,
        network: Network,
        space: ActionSpace,
        state: FloatArray,
        sign: float,
        arithmetic: Arithmetic,
    ) -> None:
        self.space = space
        self.rows = rows_of(space)
        self.network = Network64(network, state, sign, arithmetic, self.rows)
        self._negative = network, state, -sign, arithmetic
        self.whole = Parts(
            self.rows.column_low[None],
            self.rows.column_high[None],
            np.zeros((1, self.network.neurons), dtype=np.int8),
        )
        self.root = self.network.ranges(self.whole)

    def least_value(self, action: ActionArray) -> float:
        """Return a number that the value of an action is proven to reach."""
        point = np.asarray(action, dtype=np.float64)
        negative = Network64(*self._negative, self.rows.of_point(point))
        part = Parts(point[None], point[None], np.zeros((1, negative.neurons), dtype=np.int8))
        ranges = negative.ranges(part)
        slopes = np.where(ranges.high > -ranges.low, 1.0, 0.0)
        return -float(negative.bounds(part, ranges, slopes, 0.0 * slopes)[0])

    def check_value(self, action: ActionArray, value: float) -> None:
        """Check that an action is feasible and its value no lower than is said."""
        action = self.space.check_action(action)
        broken = self.space.violations(action)
        if broken:
            raise RefusedError(f"the proof's action is not feasible: {'; '.join(broken)}")
        least = self.least_value(action)
        if not least >= value:
            raise RefusedError(
                f"the proof's action has a value of {least!r}, lower than its {value!r}"
            )

    def check_tree(self, proof: Proof, bound: float) -> None:
        """Check that the leaves cover the feasible set, and that each is within the bound."""
        parts = leaves_of(proof.splits, self.rows, self.network.neurons)
        wanted = {
            "slopes": (len(parts), self.network.neurons),
            "multipliers": (len(parts), self.network.neurons),
            "duals": (len(parts), len(self.rows.matrix)),
            "reasons": (len(parts),),
        }
        for name, shape in wanted.items():
            if getattr(proof, name).shape != shape:
                raise RefusedError(
                    f"{name} have the shape {getattr(proof, name).shape}, the tree's leaves {shape}"
                )
        if not np.isin(proof.reasons, (BOUND, EMPTY, VIOLATION)).all():
            raise RefusedError("not every leaf has a reason")
        slopes, multipliers, duals = (
            np.asarray(own, dtype=np.float64)
            for own in (proof.slopes, proof.multipliers, proof.duals)
        )
        wrong = ~((slopes >= 0) & (slopes <= 1)).all(axis=1)
        if wrong.any():
            raise RefusedError(f"a slope of leaf {np.argmax(wrong)} is not between 0 and 1")
        fits = np.isfinite(multipliers) & (
            (multipliers == 0) | (np.sign(multipliers) == parts.split)
        )
        if not fits.all():
            leaf = np.argmax(~fits.all(axis=1))
            raise RefusedError(f"a multiplier of leaf {leaf} has not the sign of its split")
        if not np.isfinite(duals).all():
            raise RefusedError("not every dual value is a number")
        for first in range(0, len(parts), _TOGETHER):
            own = slice(first, first + _TOGETHER)
            found = self.leaves(parts.at(own), slopes[own], multipliers[own], duals[own])
            self._check_leaves(first, parts.at(own), *found, proof.reasons[own], bound)

    def _check_leaves(
        self,
        first: int,
        parts: Parts,
        ranges: Ranges,
        bounds: FloatArray,
        reasons: NDArray[np.int8],
        bound: float,
    ) -> None:
        for i, reason in enumerate(reasons.tolist()):
            leaf = f"leaf {first + i}"
            if reason == VIOLATION and not self.violated(parts.low[i], parts.high[i]):
                raise RefusedError(f"{leaf} holds actions that are feasible")
            if reason == EMPTY and not ranges.empty[i]:
                raise RefusedError(f"{leaf} is not seen to be empty")
            if reason == BOUND and not bounds[i] <= bound:
                raise RefusedError(
                    f"{leaf} is bounded by {bounds[i]}, which is above the proof's {bound}"
                )

    def leaves(
        self,
        parts: Parts,
        slopes: FloatArray,
        multipliers: FloatArray,
        duals: FloatArray | None = None,
    ) -> tuple[Ranges, FloatArray]:
        """Return the ranges of the neurons and the bound of every part."""
        ranges = self.network.ranges(parts, self.root)
        return ranges, self.network.bounds(parts, ranges, slopes, multipliers, duals)

    def violated(self, low: FloatArray, high: FloatArray) -> bool:
        """Say whether no action of whole numbers within bounds is feasible, by the space's check.

        A single action is left, or a feasible one would stay so without ones that are not held.
        """
        n, space = self.space.n_actions, self.space
        single = not space.continuous.any() and bool((low[:n] == high[:n]).all())
        if not (single or (space.binary and space.down_closed)):
            return False
        return bool(space.violations(low[:n].astype(space.dtype)))


def leaves_of(splits: IntArray, rows: Rows, neurons: int) -> Parts:
    """Return the leaves of a tree, which cover the feasible set, whatever the numbers are.

    Each division is into two parts of which the one or the other holds every action: a number is
    at least or at most the middle of its bounds, or, if whole, beyond or up to it; a neuron is on
    or off.

    Raises
    ------
    RefusedError
        If the numbers are no tree.
    """
    columns = len(rows.whole)
    found: list[Part] = []
    waiting: list[Part] = [(rows.column_low, rows.column_high, np.zeros(neurons, dtype=np.int8))]
    for number, split in enumerate(splits.tolist()):
        if not waiting:
            raise RefusedError(f"the tree has ended before node {number}")
        low, high, held = waiting.pop()
        if split == -1:
            found.append((low, high, held))
        elif (0 <= split < columns and low[split] < high[split]) or (
            columns <= split < columns + neurons and not held[split - columns]
        ):
            waiting += reversed(halves(low, high, held, split, rows))
        else:
            raise RefusedError(f"node {number} cannot be divided by {split}")
    if waiting:
        raise RefusedError(f"the tree has no {len(waiting)} of its leaves: it does not cover all")
    return Parts(*(np.array(own) for own in zip(*found, strict=True)))


Part = tuple[FloatArray, FloatArray, NDArray[np.int8]]


def halves(
    low: FloatArray, high: FloatArray, held: NDArray[np.int8], split: int, rows: Rows
) -> tuple[Part, Part]:
    """Divide a part; each of its actions is in the one or the other."""
    columns = len(rows.whole)
    if split >= columns:
        on, off = held.copy(), held.copy()
        on[split - columns], off[split - columns] = 1, -1
        return (low, high, on), (low, high, off)
    first, second = low.copy(), high.copy()
    middle = low[split] / 2 + high[split] / 2
    second[split] = np.floor(middle) if rows.whole[split] else middle
    first[split] = second[split] + 1.0 if rows.whole[split] else middle
    return (first, high, held), (low, second, held)
