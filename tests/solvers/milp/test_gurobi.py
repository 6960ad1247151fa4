"""Gurobi's licence: what is too large or missing is said, never replaced silently."""

import builtins

import numpy as np
import pytest
from scipy import sparse

from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.solvers.errors import SolverUnavailableError
from milp_rl.solvers.milp.gurobi import GurobiSolver
from milp_rl.solvers.options import SolveOptions


def knapsack(n: int) -> LinearModel:
    rng = np.random.default_rng(0)
    return LinearModel(
        rng.uniform(1, 2, n),
        3.0,
        sparse.csr_array(np.ones((1, n))),
        np.array([-np.inf]),
        np.array([n / 2 + 0.5]),
        np.zeros(n),
        np.ones(n),
        np.ones(n, dtype=bool),
    )


def test_a_model_beyond_the_pip_licence_names_size_and_limits():
    with pytest.raises(SolverUnavailableError) as error:
        GurobiSolver().solve(knapsack(2001), SolveOptions())
    text = str(error.value)
    assert "2001 variables and 1 constraints" in text
    assert "2000 variables, 2000 linear constraints" in text
    assert "solver='highs'" in text


def test_a_model_within_the_licence_is_solved():
    model = knapsack(10)
    solution = GurobiSolver().solve(model, SolveOptions())
    assert solution.status == "optimal"
    assert solution.bound == pytest.approx(3.0 + np.sort(model.objective)[-5:].sum())


def test_gurobi_that_is_not_installed_is_said(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "gurobipy":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SolverUnavailableError, match=r"pip install milp-rl\[gurobi\]"):
        GurobiSolver()


def test_a_missing_licence_is_said(monkeypatch, tmp_path):
    licence = tmp_path / "gurobi.lic"
    licence.write_text("TYPE=NODE\nVERSION=1\nHOSTNAME=elsewhere\nHOSTID=0\n")
    monkeypatch.setenv("GRB_LICENSE_FILE", str(licence))
    with pytest.raises(SolverUnavailableError, match="no valid licence"):
        GurobiSolver()
