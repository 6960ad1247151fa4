"""Where to divide a node of branch and bound: at an action, at a neuron, or whichever is best.

A node's excess, its bound minus the target, has two sources: actions that the maximiser takes in
part, and neurons whose relaxed output is above their true one (their doubt). Where the first is
most of it, the action closest to one half is branched on. Otherwise the candidates are the actions
that move the neurons in doubt the most, and the neurons in the most doubt (strong branching): all
get a short bound, the best action and the best neuron a bound with tightened neurons, and the one
whose children are bounded best is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.solvers.branch_and_bound.node_bounds import NodeBounds
from milp_rl.solvers.branch_and_bound.nodes import Maximum, Nodes

_NEURONS_DUE = 0.3  # part of the excess that must be due to neurons to branch for their sake
_TIE_BREAK = 1e-3  # weight of what decides between equal scores
_ACTIONS_TRIED = 2  # of a node
_NEURONS_TRIED = 10
_LEAST_DOUBT = 0.1  # of the largest doubt, from which on a neuron is tried


@dataclass(frozen=True)
class Branching:
    """The candidates to divide a node at, one at least."""

    actions: tuple[int, ...]
    neurons: tuple[int, ...]


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

    def at(self, rows: BoolArray) -> Candidates:
        """Return some of them."""
        return Candidates(*(values[rows] for values in vars(self).values()))


def divide(parents: Nodes, branchings: list[Branching]) -> tuple[Nodes, Candidates]:
    """Return the children of nodes for every candidate."""
    listed = [
        (i, action, neuron)
        for i, branching in enumerate(branchings)
        for action, neuron in (
            *((action, -1) for action in branching.actions),
            *((-1, neuron) for neuron in branching.neurons),
        )
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
    candidates: Candidates, bounds: FloatArray, targets: FloatArray, *, of_each_kind: bool = False
) -> tuple[BoolArray, Candidates]:
    """Choose the best candidate of each node, by the product of what its children gain.

    Parameters
    ----------
    candidates
        Of all nodes.
    bounds
        Of their children, shape (2 * candidates,).
    targets
        Target of each candidate's state.
    of_each_kind
        Choose the best action and the best neuron of each node, where it has both.

    Returns
    -------
    tuple
        Which children to keep, and the candidates that are left.
    """
    excess = candidates.bound - targets
    known = np.isfinite(excess) & (excess > 0)  # without an incumbent there is no target
    gain = candidates.bound - np.maximum(bounds.reshape(2, -1), targets)
    gain = np.maximum(gain, 0.0) / np.where(known, excess, 1.0)
    score = (gain + _TIE_BREAK).prod(axis=0)
    group = 2 * candidates.of + (candidates.at_neuron & of_each_kind)
    order = np.lexsort((-score, group))
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.diff(group[order]) > 0
    kept = np.zeros(len(order), dtype=bool)
    kept[order[first]] = True
    return np.tile(kept, 2), candidates.at(kept)


def branchings(
    nodes: Nodes, maximum: Maximum, bounds: NodeBounds, targets: FloatArray
) -> list[Branching]:
    """Choose the candidates to divide each node at.

    Parameters
    ----------
    nodes
        With a free action each.
    maximum, bounds
        Their relaxed maxima, and what computes these.
    targets
        Target of each node's state.
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
    actions = _largest(score, _ACTIONS_TRIED)
    neurons = _largest(doubt, _NEURONS_TRIED)
    found = []
    for i in range(len(nodes)):
        own = actions[i, score[i, actions[i]] >= 0].tolist()
        if not splittable[i]:
            found.append(Branching(tuple(own[:1]), ()))
            continue
        most = _LEAST_DOUBT * doubt[i, neurons[i, 0]] if neurons.shape[1] else 0.0
        tried = [int(j) for j in neurons[i] if undecided[i, j] and doubt[i, j] > most]
        found.append(Branching(tuple(own), tuple(tried)))
    return found


def _largest(values: FloatArray, n: int) -> IntArray:
    """Return the places of the n largest values of each row, the largest first."""
    n = min(n, values.shape[1])
    if n == values.shape[1]:
        return np.asarray(np.argsort(-values, axis=1, kind="stable"))
    some = np.argpartition(-values, n - 1, axis=1)[:, :n]
    order = np.argsort(-np.take_along_axis(values, some, axis=1), axis=1, kind="stable")
    return np.asarray(np.take_along_axis(some, order, axis=1))
