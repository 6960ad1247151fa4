"""Exact maximisation of linear objectives over an action space, loaded once."""

from __future__ import annotations

import highspy
import numpy as np
import pyomo.environ as pyo
from numpy.typing import ArrayLike

from milp_rl.formulations.actions.base import ActionArray, ActionSpace
from milp_rl.formulations.highs_model import new_highs, pass_model, run
from milp_rl.formulations.linear_model import compile_pyomo
from milp_rl.formulations.network import check_vector


class LinearArgmax:
    """``argmax coefficients @ action`` over a space, by HiGHS; a call changes costs only.

    Parameters
    ----------
    space
        The feasible set.
    """

    def __init__(self, space: ActionSpace) -> None:
        self.space = space
        block = pyo.ConcreteModel()
        model, _ = compile_pyomo(block, space.add_to(block))
        self._highs = new_highs()
        self._highs.setOptionValue("mip_rel_gap", 0.0)
        self._highs.setOptionValue("mip_abs_gap", 0.0)
        pass_model(self._highs, model)
        self._index = np.arange(space.n_actions, dtype=np.int32)

    def solve(self, coefficients: ArrayLike) -> ActionArray:
        """Return a best feasible action.

        Parameters
        ----------
        coefficients
            Shape (n_actions,), finite.

        Raises
        ------
        RuntimeError
            If the space has no feasible action, or HiGHS fails.
        """
        c = check_vector(coefficients, "coefficients")
        n = self.space.n_actions
        if len(c) != n:
            raise ValueError(f"the space has {n} actions, got {len(c)} coefficients")
        self._highs.clearSolver()  # the answer must not depend on what was solved before
        self._highs.changeColsCost(n, self._index, c)
        status = run(self._highs)
        if status != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError(f"no best action: HiGHS says {status}")
        values = np.array(self._highs.getSolution().col_value[:n])
        action: ActionArray = np.rint(values).astype(np.int8)
        violations = self.space.violations(action)
        if violations:
            raise RuntimeError(f"HiGHS returned an infeasible action: {'; '.join(violations)}")
        return action
