"""Where to divide a node of branch and bound: at an action, at a neuron, or whichever is better.

A node's excess, its bound minus the target, has two sources: actions that the maximiser takes in
part, and neurons whose relaxed output is above their true one (their doubt). Where the first is
most of it, the action closest to one half is branched on. Otherwise the candidates are the action
that moves the neurons in doubt the most, and the neuron in the most doubt; both are tried
(strong branching with two candidates), unless one is clearly the more promising. How promising
neurons are is learnt during the search of a state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.solvers.branch_and_bound.node_bounds import NodeBounds
from milp_rl.solvers.branch_and_bound.nodes import Maximum, Nodes

_NEURONS_DUE = 0.3  # part of the excess that must be due to neurons to branch for their sake
_TIE_BREAK = 1e-3  # weight of what decides between equal scores
_CLEARLY_BETTER = 8.0  # times as promising, a neuron is branched on without trying an action
_USEFUL_GAIN = 0.01  # part of the excess that both halves of a neuron should gain

NEURON_PREFERENCE = 0.5
"""Weight of a neuron's score against an action's, at first; it doubles or halves with success."""


@dataclass(frozen=True)
class Branching:
    """The candidates to divide a node at: an action, a neuron (-1: none), or both."""

    action: int
    neuron: int


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates to divide nodes at, each with two children: in rows i and len + i.

    Parameters
    ----------
    of
        Which node a candidate divides; the candidates of a node follow one another.
    at_neuron
        Whether it is divided at a neuron.
    state, bound
        State and bound of the node.
    """

    of: IntArray
    at_neuron: BoolArray
    state: IntArray
    bound: FloatArray


def divide(parents: Nodes, branchings: list[Branching]) -> tuple[Nodes, Candidates]:
    """Return the children of nodes for every candidate."""
    listed = [
        (i, action, neuron)
        for i, branching in enumerate(branchings)
        for action, neuron in ((branching.action, -1), (-1, branching.neuron))
        if action >= 0 or neuron >= 0
    ]
    of, action, neuron = (np.array(column) for column in zip(*listed, strict=True))
    children = parents[np.tile(of, 2)]
    for half, held, sign in ((0, children.one, 1), (len(of), children.zero, -1)):
        rows = np.flatnonzero(action >= 0)
        held[half + rows, action[rows]] = True
        rows = np.flatnonzero(neuron >= 0)
        children.split[half + rows, neuron[rows]] = sign
    return children, Candidates(of, neuron >= 0, parents.state[of], parents.bound[of])


def choose(
    candidates: Candidates, bounds: FloatArray, targets: FloatArray
) -> tuple[BoolArray, list[tuple[int, bool]]]:
    """Choose the better candidate of each node, by the product of what its children gain.

    Parameters
    ----------
    candidates
        Two at most for each node, the action first.
    bounds
        Of their children, shape (2 * candidates,).
    targets
        Target of each candidate's state.

    Returns
    -------
    tuple
        Which children to keep, and for each candidate at a neuron its state and whether it paid.
    """
    kept = np.ones(len(candidates.of), dtype=bool)
    paid: list[tuple[int, bool]] = []
    if candidates.at_neuron.any():
        excess = candidates.bound - targets
        known = np.isfinite(excess) & (excess > 0)  # without an incumbent there is no target
        gain = candidates.bound - np.maximum(bounds.reshape(2, -1), targets)
        gain = np.maximum(gain, 0.0) / np.where(known, excess, 1.0)
        useful = known & (gain.min(axis=0) > _USEFUL_GAIN)
        score = (gain + np.finfo(float).eps).prod(axis=0)
        for i in np.flatnonzero(candidates.at_neuron):
            better = bool(useful[i])
            if i and candidates.of[i] == candidates.of[i - 1]:  # the one before is at an action
                better = bool(score[i] > score[i - 1])
                kept[i - 1 if better else i] = False
            paid.append((int(candidates.state[i]), better))
    return np.tile(kept, 2), paid


def branchings(
    nodes: Nodes,
    maximum: Maximum,
    bounds: NodeBounds,
    targets: FloatArray,
    preference: FloatArray,
) -> list[Branching]:
    """Choose the candidates to divide each node at.

    Parameters
    ----------
    nodes
        With a free action each.
    maximum, bounds
        Their relaxed maxima, and what computes these.
    targets, preference
        Target, and weight of neurons, of each node's state.
    """
    free = ~(nodes.one | nodes.zero)
    undecided = (nodes.low < 0) & (nodes.high > 0) & (nodes.split == 0)
    weight = np.abs(maximum.p)
    doubt = np.where(undecided, weight * np.abs(nodes.h - np.maximum(nodes.z, 0.0)), 0.0)
    influence = bounds.influence(nodes, doubt + _TIE_BREAK * weight)
    fractional = doubt.sum(axis=1) < _NEURONS_DUE * (nodes.bound - targets)
    splittable = ~fractional & ((nodes.split != 0).sum(axis=1) < free.sum(axis=1))
    size = np.abs(maximum.coefficients)
    size /= np.maximum(size.max(axis=1, keepdims=True), np.finfo(float).tiny)
    part = np.minimum(nodes.x, 1 - nodes.x) + _TIE_BREAK * (1 + nodes.x * size)
    score = np.where(free, np.where(fractional[:, None], part, influence), -1.0)
    action = score.argmax(axis=1)
    if not doubt.size:
        return [Branching(int(a), -1) for a in action]
    each, neuron = np.arange(len(nodes)), doubt.argmax(axis=1)
    promise = doubt[each, neuron] * preference
    promise /= np.maximum(score[each, action], np.finfo(float).tiny)
    alone = splittable & (promise > _CLEARLY_BETTER)
    both = splittable & (promise > 1)
    return [
        Branching(-1 if alone[i] else int(action[i]), int(neuron[i]) if both[i] else -1)
        for i in range(len(nodes))
    ]
