"""A start, the solver's own lines, and limits of `solve_model`."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest

import milp_rl as mr
from milp_rl.solvers.milp.solver import MilpSolution
from milp_rl.solvers.models import whole

N = 6
SOLVERS = ["highs", "gurobi", "scip"]


@pytest.fixture(params=SOLVERS)
def solver(request: Any) -> str:
    pytest.importorskip({"gurobi": "gurobipy", "scip": "pyscipopt"}.get(request.param, "highspy"))
    return str(request.param)


@pytest.fixture
def built(random_network: Any) -> Any:
    network = random_network(np.random.default_rng(7), N, (8, 6))
    model = pyo.ConcreteModel()
    model.space, model.q = pyo.Block(), pyo.Block()
    space = mr.BudgetTopK(N, 3)
    actions = space.add_to(model.space)
    value = mr.add_network(model.q, network, actions, space=space)
    model.objective = pyo.Objective(expr=value, sense=pyo.maximize)
    return model, actions, network, space


def test_the_optimum_is_found_from_any_start(built: Any, solver: str) -> None:
    model, actions, network, space = built
    expected = mr.argmax(network, [], space).value
    assert mr.solve_model(model, solver=solver).value == pytest.approx(expected, abs=1e-5)
    held = pyo.ComponentMap([(actions[0], 1.0), (actions[1], 0.0)])
    for start in (True, held, zip(actions, np.ones(N), strict=True), []):
        result = mr.solve_model(model, solver=solver, start=start)
        assert result.status == "optimal"
        assert result.value == pytest.approx(expected, abs=1e-5)


def test_a_start_is_kept_when_the_time_is_up(built: Any, solver: str, monkeypatch: Any) -> None:
    """A solver that finds nothing in its time leaves the completed start."""
    model, actions, network, _ = built
    chosen = [1.0, 0, 0, 1, 0, 0]
    original = whole.WholeSearch._explore

    def stopped(self: Any, part: Any) -> None:
        self.solver = type(
            "Late",
            (),
            {"name": "late", "solve": lambda *_, **__: MilpSolution("no_solution", None, 9.0)},
        )()
        original(self, part)

    monkeypatch.setattr(whole.WholeSearch, "_explore", stopped)
    start = list(zip(actions, chosen, strict=True))
    result = mr.solve_model(model, solver=solver, start=start, time_limit=60)
    assert result.status == "feasible"
    assert [round(a.value) for a in actions] == chosen
    assert result.value == pytest.approx(network.forward(chosen)[0], abs=1e-6)


def test_wrong_starts_are_named(built: Any) -> None:
    model, actions, *_ = built
    other = pyo.ConcreteModel()
    other.z = pyo.Var()
    with pytest.raises(ValueError, match="z, which is no variable of this model"):
        mr.solve_model(model, start=[(other.z, 1.0)])
    with pytest.raises(ValueError, match="no variable of Pyomo"):
        mr.solve_model(model, start=[("z", 1.0)])
    with pytest.raises(ValueError, match="the value nan"):
        mr.solve_model(model, start=[(actions[0], float("nan"))])


def test_the_solvers_lines_go_where_they_are_asked(
    built: Any, solver: str, capfd: Any, caplog: Any
) -> None:
    model, actions, *_ = built
    caplog.set_level(logging.INFO)  # where gurobipy writes its lines too
    lines: list[str] = []
    infeasible = zip(actions, np.ones(N), strict=True)
    mr.solve_model(model, solver=solver, start=infeasible, verbose=lines.append)
    assert len(lines) > 5
    assert all(line.strip() and "\n" not in line for line in lines)
    assert "the start is ignored: its integers cannot be completed to a solution" in lines
    shown = capfd.readouterr()
    assert shown.out == shown.err == ""
    assert not caplog.records
    mr.solve_model(model, solver=solver, verbose=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) > 5
    mr.solve_model(model, solver=solver)
    shown = capfd.readouterr()
    assert shown.out == shown.err == ""

    def full(line: str) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        mr.solve_model(model, solver=solver, verbose=full)
    shown = capfd.readouterr()
    assert shown.out == shown.err == ""
    with pytest.raises(ValueError, match="verbose must be"):
        mr.solve_model(model, verbose="yes")  # type: ignore[arg-type]
