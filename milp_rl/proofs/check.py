r"""The check of a proof: whether ``Q(a) <= bound`` for all feasible a, in real arithmetic.

It shares no code with the solvers. What it takes for granted: the network's float64 weights (as
read from the model; of a model that is not [action, state] in one network, those that it has at
the state), what the feasible set is (:func:`.rows_of`), and :mod:`.arithmetic`. No tolerance is in
it: a leaf is closed if what was computed, rounded upward, is at most the bound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.networks.action_value import ActionValue, NetworkValue
from milp_rl.formulations.networks.conversion import to_action_value
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.proofs.arithmetic import Arithmetic, Exact, Rounded
from milp_rl.proofs.proof import BOUND, EMPTY, VIOLATION, Proof, network_hash, space_text
from milp_rl.proofs.relaxation import Network64, Parts, Ranges
from milp_rl.proofs.rows import Rows, rows_of

_TOGETHER = 64  # leaves


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
    except (ValueError, OverflowError) as error:
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
    given = np.array([] if state is None else state, dtype=np.float64)
    network, left = network_at(value, given)
    if proof.network != network_hash(network):
        raise RefusedError("the network is not the proof's: its weights have another hash")
    if json.loads(proof.space) != json.loads(space_text(space.to_dict())):
        raise RefusedError("the feasible set is not the proof's")
    if not np.array_equal(proof.state, given):
        raise RefusedError("the state is not the proof's")
    if proof.sense not in ("maximize", "minimize"):
        raise RefusedError(f"the sense is {proof.sense!r}")
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
        rows: Rows | None = None,
    ) -> None:
        self.space = space
        rows = rows_of(space) if rows is None else rows
        self.network = Network64(network, state, sign, arithmetic, rows)
        self._negative = Network64(network, state, -sign, arithmetic, rows)
        self.root = self.network.ranges(self._whole())

    def _whole(self) -> Parts:
        none = np.zeros((1, self.space.n_actions), dtype=bool)
        return Parts(none, none, np.zeros((1, self.network.neurons), dtype=np.int8))

    def least_value(self, action: ActionArray) -> float:
        """Return a number that the value of an action is proven to reach."""
        split = np.zeros((1, self._negative.neurons), dtype=np.int8)
        point = Parts(action[None] == 1, action[None] == 0, split)
        ranges = self._negative.ranges(point)
        slopes = np.where(ranges.high > -ranges.low, 1.0, 0.0)
        return -float(self._negative.bounds(point, ranges, slopes, 0.0 * slopes)[0])

    def check_value(self, action: ActionArray, value: float) -> None:
        """Check that an action is feasible and its value no lower than is said."""
        broken = self.space.violations(action)
        if broken:
            raise RefusedError(f"the proof's action is not feasible: {'; '.join(broken)}")
        least = self.least_value(self.space.check_action(action))
        if not least >= value:
            raise RefusedError(
                f"the proof's action has a value of {least!r}, lower than its {value!r}"
            )

    def check_tree(self, proof: Proof, bound: float) -> None:
        """Check that the leaves cover the feasible set, and that each is within the bound."""
        if not np.isfinite(bound):
            raise RefusedError(f"the bound is {bound}")
        parts = leaves_of(proof.splits, self.space.n_actions, self.network.neurons)
        shape = (len(parts), self.network.neurons)
        slopes, multipliers = (
            np.asarray(own, dtype=np.float64) for own in (proof.slopes, proof.multipliers)
        )
        if slopes.shape != shape or multipliers.shape != shape:
            raise RefusedError(
                f"{len(parts)} leaves of {shape[1]} neurons have slopes and multipliers of shapes"
                f" {slopes.shape} and {multipliers.shape}"
            )
        if (
            proof.reasons.shape != shape[:1]
            or not np.isin(proof.reasons, (BOUND, EMPTY, VIOLATION)).all()
        ):
            raise RefusedError("not every leaf has a reason")
        wrong = ~((slopes >= 0) & (slopes <= 1)).all(axis=1)
        if wrong.any():
            raise RefusedError(f"a slope of leaf {np.argmax(wrong)} is not between 0 and 1")
        fits = np.isfinite(multipliers) & (
            (multipliers == 0) | (np.sign(multipliers) == parts.split)
        )
        if not fits.all():
            leaf = np.argmax(~fits.all(axis=1))
            raise RefusedError(f"a multiplier of leaf {leaf} has not the sign of its split")
        for first in range(0, len(parts), _TOGETHER):
            own = slice(first, first + _TOGETHER)
            self._check_leaves(
                first, parts.at(own), slopes[own], multipliers[own], proof.reasons[own], bound
            )

    def _check_leaves(
        self,
        first: int,
        parts: Parts,
        slopes: FloatArray,
        multipliers: FloatArray,
        reasons: np.ndarray[Any, np.dtype[np.int8]],
        bound: float,
    ) -> None:
        ranges, bounds = self.leaves(parts, slopes, multipliers)
        for i, reason in enumerate(reasons.tolist()):
            leaf = f"leaf {first + i}"
            if reason == VIOLATION and not self.violated(parts.one[i], parts.zero[i]):
                raise RefusedError(f"{leaf} holds actions that are feasible")
            if reason == EMPTY and not ranges.empty[i]:
                raise RefusedError(f"{leaf} is not seen to be empty")
            if reason == BOUND and not bounds[i] <= bound:
                raise RefusedError(
                    f"{leaf} is bounded by {bounds[i]}, which is above the proof's {bound}"
                )

    def leaves(
        self, parts: Parts, slopes: FloatArray, multipliers: FloatArray
    ) -> tuple[Ranges, FloatArray]:
        """Return the ranges of the neurons and the bound of every part."""
        ranges = self.network.ranges(parts, self.root)
        return ranges, self.network.bounds(parts, ranges, slopes, multipliers)

    def violated(self, one: np.ndarray[Any, Any], zero: np.ndarray[Any, Any]) -> bool:
        """Say whether no action is feasible that has these ones and zeros, by the space's check.

        All actions are held, or a feasible action would stay so without its other ones.
        """
        if not ((one | zero).all() or self.space.down_closed):
            return False
        return bool(self.space.violations(one.astype(np.int8)))


def leaves_of(splits: np.ndarray[Any, Any], n_actions: int, neurons: int) -> Parts:
    """Return the leaves of a tree, which cover the feasible set, whatever the numbers are.

    Each division is into two parts of which the one or the other holds every action.

    Raises
    ------
    RefusedError
        If the numbers are no tree.
    """
    if splits.ndim != 1 or not np.issubdtype(splits.dtype, np.integer):
        raise RefusedError("the splits are no list of whole numbers")
    found: list[np.ndarray[Any, np.dtype[np.int8]]] = []
    waiting = [np.zeros(n_actions + neurons, dtype=np.int8)]
    for number, split in enumerate(splits.tolist()):
        if not waiting:
            raise RefusedError(f"the tree has ended before node {number}")
        held = waiting.pop()
        if split == -1:
            found.append(held)
            continue
        if not 0 <= split < n_actions + neurons or held[split]:
            raise RefusedError(f"node {number} cannot be divided by {split}")
        first, second = held.copy(), held.copy()
        first[split], second[split] = 1, -1
        waiting += [second, first]
    if waiting:
        raise RefusedError(f"the tree has no {len(waiting)} of its leaves: it does not cover all")
    held = np.array(found)
    own = held[:, :n_actions]
    return Parts(own > 0, own < 0, held[:, n_actions:])
