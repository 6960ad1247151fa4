"""Make a proof of an answer: a tree whose every leaf the checker itself bounds by the target."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from milp_rl.formulations.arrays import ActionArray, FloatArray
from milp_rl.formulations.networks.action_value import ActionNetworks, ActionValue
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.proofs.arithmetic import Rounded
from milp_rl.proofs.binary import BinarySearch
from milp_rl.proofs.check import Checker, network_at
from milp_rl.proofs.proof import Proof, Sense, network_hash, space_text
from milp_rl.proofs.tree import Node, NotProvenError, Search

__all__ = ["NotProvenError", "prove"]


def prove(
    value: ActionValue,
    space: ActionSpace,
    state: FloatArray,
    action: ActionArray,
    target: float,
    *,
    sense: Sense = "maximize",
    deadline: float = math.inf,
) -> Proof:
    """Prove that no feasible action is above the target.

    Parameters
    ----------
    value
        Q, not its negative.
    space, state
        The problem.
    action
        A feasible action, whose value is stated.
    target
        The bound to prove, in the given sense.

    Raises
    ------
    ValueError
        If there are no proofs for the network or the space.
    NotProvenError
        If the deadline ends, or a part within the set is above the target.
    """
    network, left = network_at(value, state)
    sign = -1.0 if sense == "minimize" else 1.0
    checker = Checker(network, space, left, sign, Rounded())
    if space.binary:
        folded = ActionNetworks.of(network.at_state(left) if len(left) else network)
        networks = folded if sign > 0 else folded.negated()
        search: Search | BinarySearch = BinarySearch(checker, networks, sign * target, deadline)
    else:
        search = Search(checker, sign * target, deadline)
    splits, leaves = search.run()
    widths = {"slopes": checker.network.neurons, "multipliers": checker.network.neurons}
    widths["duals"] = len(checker.rows.matrix)
    proof = Proof(
        network=network_hash(network),
        space=space_text(space.to_dict()),
        sense=sense,
        state=np.array(state, dtype=np.float64),
        action=action.astype(space.dtype),
        value=sign * checker.least_value(action),
        bound=sign * search.highest if np.isfinite(search.highest) else target,
        splits=np.array(splits, dtype=np.int32),
        reasons=np.array([leaf.reason for leaf in leaves], dtype=np.int8),
        **{name: _table(leaves, name, width) for name, width in widths.items()},
    )
    checker.check_value(proof.action, sign * proof.value)
    checker.check_tree(proof, sign * proof.bound)
    return proof


def _table(leaves: list[Node], name: str, width: int) -> NDArray[np.float32]:
    """Return what the leaves have of something, zeros where they have none."""
    none = np.zeros(width)
    rows = [none if (own := getattr(leaf, name)) is None else own for leaf in leaves]
    return np.array(rows, dtype=np.float32).reshape(len(rows), width)
