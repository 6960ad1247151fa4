"""Continuous actions as a MILP solver is given them: between 0 and 1, whatever their units.

A solver leaves out what changes the objective by less than its tolerance per unit of a column,
which over a range of 1e7 can be most of Q, and meets a row within the same tolerance, however small
its coefficients are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from milp_rl.formulations.arrays import FloatArray
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.networks.network import Network
from milp_rl.formulations.spaces.base import ActionSpace


class Ranges:
    """Continuous actions in units of their ranges.

    An action is ``lower + width * x`` of the model's columns.

    Parameters
    ----------
    space
        The feasible set.
    """

    def __init__(self, space: ActionSpace) -> None:
        moved = space.continuous & (space.upper > space.lower)
        self._n, self._moved = space.n_actions, bool(moved.any())
        self.lower = np.where(moved, space.lower, 0.0)
        self.width = np.where(moved, space.upper - space.lower, 1.0)

    def network(self, network: Network) -> Network:
        """Return a network of actions as one of columns."""
        return network.affine_of_inputs(self.width, self.lower) if self._moved else network

    def model(self, model: LinearModel) -> LinearModel:
        """Return the compiled space in these units, no row with coefficients below one alone."""
        if not self._moved:
            return model
        rest = model.n_columns - self._n
        lower = np.concatenate([self.lower, np.zeros(rest)])
        width = np.concatenate([self.width, np.ones(rest)])
        matrix, constant = sparse.csr_array(model.matrix * width), model.matrix @ lower
        largest = abs(matrix).max(axis=1).toarray().ravel()
        unit = np.where(largest > 0, np.minimum(largest, 1.0), 1.0)
        return replace(
            model,
            matrix=sparse.csr_array(matrix / unit[:, None]),
            row_lower=(model.row_lower - constant) / unit,
            row_upper=(model.row_upper - constant) / unit,
            column_lower=(model.column_lower - lower) / width,
            column_upper=(model.column_upper - lower) / width,
        )

    def columns(self, action: ArrayLike) -> FloatArray:
        """Return what the columns are at an action."""
        return np.asarray((np.asarray(action, dtype=np.float64) - self.lower) / self.width)

    def action(self, x: FloatArray) -> FloatArray:
        """Return the action of the columns' values."""
        return self.lower + self.width * x[: self._n]
