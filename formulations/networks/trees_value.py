r"""The action value of a tree ensemble, for binary actions.

At binary actions the indicator of a leaf is one ReLU neuron: where the leaf wants the actions of a
set P at one and those of a set N at zero,

.. math:: z_\ell(a) = \max\Bigl(0, \; 1 - |P| + \sum_{i \in P} a_i - \sum_{i \in N} a_i\Bigr),

so that for each state the ensemble is a network with one hidden layer, :math:`b + \sum_\ell v_\ell
z_\ell`, exactly: the neurons are whole numbers. That is the form in which searches, bounds and
checks take it; MILP solvers get the stronger model of :mod:`milp_rl.formulations.milp.trees`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milp_rl.formulations.arrays import BoolArray, FloatArray, IntArray
from milp_rl.formulations.networks.action_value import ActionLayer, ActionNetworks, ActionValue
from milp_rl.formulations.networks.network import INPUT
from milp_rl.formulations.networks.trees import TreeEnsemble
from milp_rl.formulations.networks.trees_leaves import leaves_of


@dataclass(frozen=True, eq=False)
class TreeNetworks(ActionNetworks):
    """Networks that are tree ensembles at binary actions, and the ensembles.

    Parameters
    ----------
    trees
        One per state, of binary actions.
    """

    trees: tuple[TreeEnsemble, ...] = ()

    def rows(self, states: slice | IntArray | BoolArray) -> TreeNetworks:
        """Return the networks of some of the states."""
        kept = np.arange(self.n_states)[states]
        own = super().rows(states)
        trees = tuple(self.trees[i] for i in kept)
        return TreeNetworks(own.layers, own.n_actions, own.n_states, trees)

    def __getitem__(self, state: int) -> TreeNetworks:
        """Return the networks of one state, with weights that are shared, there being no other."""
        own = super().__getitem__(state)
        return TreeNetworks(own.layers, own.n_actions, 1, (self.trees[state],))


class TreeValue(ActionValue):
    """The action value of a tree ensemble whose inputs are [action, state]; actions are binary.

    Parameters
    ----------
    trees
        The ensemble.
    n_actions
        Number of leading inputs that are actions.

    Raises
    ------
    ValueError
        If the ensemble has fewer inputs.
    """

    binary = True

    def __init__(self, trees: TreeEnsemble, n_actions: int) -> None:
        if trees.n_inputs < n_actions:
            raise ValueError(
                f"the trees take {trees.n_inputs} inputs, [action, state], but there are"
                f" {n_actions} actions"
            )
        self.trees = trees
        self.n_actions = n_actions
        self.state_dim = trees.n_inputs - n_actions
        self.link = trees.link

    def trees_at(self, state: FloatArray) -> TreeEnsemble:
        """Return the ensemble in the binary actions alone, at a finite state (state_dim,)."""
        n = self.n_actions
        binary = np.arange(self.trees.n_inputs) < n
        own = self.trees.restricted(
            np.concatenate([np.zeros(n), state]), np.concatenate([np.ones(n), state]), binary
        )
        return own.leading(n)

    def at_states(self, states: FloatArray) -> TreeNetworks:
        """Return the networks in the action alone, for finite states (states, state_dim)."""
        trees = tuple(self.trees_at(state) for state in states)
        parts = [_neurons(own) for own in trees]
        width = max((len(bias) for _, bias, _, _, _ in parts), default=0)
        count, n = len(states), self.n_actions
        weight, bias = np.zeros((count, width, n)), np.zeros((count, width))
        value, linear = np.zeros((count, 1, width)), np.zeros((count, 1, n))
        base = np.zeros((count, 1))
        for i, (own_weight, own_bias, own_value, slope, constant) in enumerate(parts):
            weight[i, : len(own_bias)], bias[i, : len(own_bias)] = own_weight, own_bias
            value[i, 0, : len(own_bias)], linear[i, 0], base[i, 0] = own_value, slope, constant
        if not width:
            return TreeNetworks((ActionLayer(((INPUT, linear),), base),), n, count, trees)
        hidden = ActionLayer(((INPUT, weight),), bias)
        output = ActionLayer(((0, value), (INPUT, linear)), base)
        return TreeNetworks((hidden, output), n, count, trees)

    def values(self, states: FloatArray, actions: FloatArray) -> FloatArray:
        """Return the value of each action in the state of the same row, shape (rows,)."""
        rows = np.concatenate([np.asarray(actions, dtype=np.float64), states], axis=1)
        return np.asarray(self.trees.forward(rows)[:, 0])

    def negated(self) -> TreeValue:
        """Return the action value whose values are the negatives of these."""
        return TreeValue(self.trees.negated(), self.n_actions)


def _neurons(
    trees: TreeEnsemble,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, float]:
    """Return the neurons' weights, biases and values, the linear part and the constant.

    Leaves of one comparison are linear; those of different trees with the same comparisons are
    one neuron.
    """
    leaves = leaves_of(trees)
    # Of a binary action there is one comparison, a <= 0.
    signs, of = np.unique(leaves.sign, axis=0, return_inverse=True)
    value = np.bincount(of.reshape(-1), leaves.value, minlength=len(signs))
    weight = np.zeros((len(signs), trees.n_inputs))
    weight[:, leaves.feature] = -signs
    bias = 1.0 - (signs < 0).sum(axis=1)
    single = np.abs(signs).sum(axis=1) == 1
    slope = value[single] @ weight[single]
    base = leaves.base + float(value[single] @ bias[single])
    return weight[~single], bias[~single], value[~single], slope, base
