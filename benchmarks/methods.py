"""Methods to solve an argmax, ours and others', each a function of the states and a time limit.

A method returns for every state the value of its action and whether it claims the exact optimum.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import gurobipy as gp
import numpy as np
import pyomo.environ as pyo
import torch
from omlt import OmltBlock
from omlt.neuralnet import ReluBigMFormulation
from problems import Problem
from pyomo.common.log import LoggingIntercept
from pyomo.contrib.appsi.solvers import Highs

import milp_rl as mr
from milp_rl.formulations.milp.linear_model import LinearModel
from milp_rl.formulations.omlt import omlt_definition
from milp_rl.solvers.auto import is_small

BIG_M = 1e5


class Answer(NamedTuple):
    """What a method found for a state.

    Parameters
    ----------
    value
        Of the action.
    exact
        Whether it is claimed to be the optimum.
    way
        The solver that found it, where the method picks one.
    """

    value: float
    exact: bool
    way: str = ""


Solve = Callable[[np.ndarray, float], list[Answer]]


class TooLargeError(Exception):
    """A method that cannot take the problem, and why."""


def ours(problem: Problem, **options: object) -> Solve:
    """A persistent ArgmaxSolver, gap 0, one state after the other."""
    solver = mr.ArgmaxSolver(problem.network, problem.space, **options)
    if not options:  # the default counts the actions once, before the first batch
        solver.solve_batch(problem.states[:1])
    solver.prepare()

    def solve(states: np.ndarray, time_limit: float) -> list[Answer]:
        try:
            results = [solver.solve(state, time_limit=time_limit) for state in states]
        except mr.SolverUnavailableError as error:
            raise TooLargeError(str(error)) from error
        return [Answer(r.value, r.status == "optimal", r.solver) for r in results]

    return solve


def ours_in_batches(problem: Problem, workers: int | None = 1) -> Solve:
    """A persistent ArgmaxSolver with all defaults, all states in one call."""
    solver = mr.ArgmaxSolver(problem.network, problem.space).prepare()

    def solve(states: np.ndarray, time_limit: float) -> list[Answer]:
        limit = time_limit * len(states)
        results = solver.solve_batch(states, time_limit=limit, workers=workers)
        return [Answer(r.value, r.status == "optimal", r.solver) for r in results]

    return solve


def published_style(problem: Problem, gap: float = 0.02) -> Solve:
    """A gurobipy model from scratch for every state, every neuron with M = 1e5."""

    def solve_one(state: np.ndarray, time_limit: float) -> Answer:
        action = published_action(problem, state, gap, time_limit)
        if action is None:
            return Answer(float("nan"), False)
        # With M = 1e5 the solver's tolerances make some of its optima wrong: never "exact".
        return Answer(float(problem.network.forward(np.concatenate([action, state]))[0]), False)

    return lambda states, limit: [solve_one(state, limit) for state in states]


def published_action(
    problem: Problem, state: np.ndarray, gap: float = 0.02, time_limit: float = 1e100
) -> np.ndarray | None:
    """Build the published model for one state and solve it."""
    base, network = problem.space.linear_model, problem.network
    with gp.Model(env=_environment()) as model:
        model.Params.MIPGap = gap
        model.Params.Threads = 1
        model.Params.TimeLimit = time_limit
        x = _add_space(model, base)
        values = [*x.tolist()[: problem.space.n_actions], *state.tolist()]
        for layer in network.hidden:
            width = len(layer.bias)
            z = model.addVars(width, lb=0.0)
            on = model.addVars(width, vtype=gp.GRB.BINARY)
            for i in range(width):
                before = layer.bias[i] + gp.quicksum(
                    w * v for w, v in zip(layer.weight[i].tolist(), values, strict=True)
                )
                model.addConstr(z[i] >= before)
                model.addConstr(z[i] <= before + BIG_M * (1 - on[i]))
                model.addConstr(z[i] <= BIG_M * on[i])
            values = [z[i] for i in range(width)]
        weights = network.output.weight[0].tolist()
        output = gp.quicksum(w * v for w, v in zip(weights, values, strict=True))
        model.setObjective(output + network.output.bias[0], gp.GRB.MAXIMIZE)
        return _optimized(model, x, problem)


@cache
def _environment() -> gp.Env:
    return gp.Env(params={"OutputFlag": 0})


def _add_space(model: gp.Model, base: LinearModel) -> gp.MVar:
    """Add the action set's variables and constraints."""
    kinds = np.where(base.integer, gp.GRB.INTEGER, gp.GRB.CONTINUOUS)
    x = model.addMVar(base.n_columns, lb=base.column_lower, ub=base.column_upper, vtype=kinds)
    for sense, right in (("<", base.row_upper), (">", base.row_lower)):
        rows = np.isfinite(right)
        if rows.any():
            model.addMConstr(base.matrix[rows], x, sense, right[rows])
    return x


def _optimized(model: gp.Model, x: gp.MVar, problem: Problem) -> np.ndarray | None:
    try:
        model.optimize()
    except gp.GurobiError as error:
        raise TooLargeError(f"gurobipy: {error}") from error
    return np.rint(x.X[: problem.space.n_actions]) if model.SolCount else None


def omlt_default(problem: Problem) -> Solve:
    """OMLT's big-M formulation with its own bounds, Pyomo and appsi_highs, built for each state."""
    network, space = problem.network, problem.space

    def solve_one(state: np.ndarray, time_limit: float) -> Answer:
        m = pyo.ConcreteModel()
        m.space = pyo.Block()
        actions = space.add_to(m.space)
        low = np.concatenate([np.zeros(space.n_actions), state])
        high = np.concatenate([np.ones(space.n_actions), state])
        m.network = OmltBlock()
        with LoggingIntercept(module="pyomo.core"):  # OMLT starts its inputs at 0, out of bounds
            m.network.build_formulation(ReluBigMFormulation(omlt_definition(network, low, high)))
        m.link = pyo.Constraint(
            range(network.n_inputs),
            rule=lambda m, i: (
                m.network.inputs[i]
                == (actions[i] if i < len(actions) else float(state[i - len(actions)]))
            ),
        )
        m.objective = pyo.Objective(expr=m.network.outputs[0], sense=pyo.maximize)
        highs = Highs()
        highs.highs_options = {"threads": 1}
        highs.config.time_limit = time_limit
        highs.config.load_solution = False
        result = highs.solve(m)
        if result.best_feasible_objective is None:
            return Answer(float("nan"), False)
        result.solution_loader.load_vars()
        action = [round(pyo.value(a)) for a in actions]
        return Answer(float(network.forward([*action, *state])[0]), False)

    return lambda states, limit: [solve_one(state, limit) for state in states]


def gurobi_machine_learning(problem: Problem) -> Solve:
    """gurobi-machinelearning's add_predictor_constr on the torch network, built for each state."""
    from gurobi_ml import add_predictor_constr

    network, sequential = problem.network, _sequential(problem.network)

    def solve_one(state: np.ndarray, time_limit: float) -> Answer:
        with gp.Model(env=_environment()) as model:
            model.Params.Threads = 1
            model.Params.TimeLimit = time_limit
            model.Params.MIPGap = 0
            x = _add_space(model, problem.space.linear_model)
            fixed = model.addMVar(len(state), lb=state, ub=state)
            y = model.addMVar((1, 1), lb=-gp.GRB.INFINITY)
            inputs = gp.hstack([x[: problem.space.n_actions], fixed]).reshape(1, -1)
            add_predictor_constr(model, sequential, inputs, y)
            model.setObjective(y.sum(), gp.GRB.MAXIMIZE)
            action = _optimized(model, x, problem)
        if action is None:
            return Answer(float("nan"), False)
        return Answer(float(network.forward(np.concatenate([action, state]))[0]), False)

    return lambda states, limit: [solve_one(state, limit) for state in states]


def pyscipopt_machine_learning(problem: Problem) -> Solve:
    """PySCIPOpt-ML's add_predictor_constr on the torch network with SCIP, built for each state."""
    import pyscipopt
    from pyscipopt_ml.add_predictor import add_predictor_constr

    base, network = problem.space.linear_model, problem.network
    sequential = _sequential(network)

    def solve_one(state: np.ndarray, time_limit: float) -> Answer:
        model = pyscipopt.Model()
        model.hideOutput()
        model.setParam("limits/time", time_limit)
        x = [
            model.addVar(lb=low, ub=high, vtype="I" if integer else "C")
            for low, high, integer in zip(
                base.column_lower, base.column_upper, base.integer, strict=True
            )
        ]
        for row in range(base.n_rows):
            entries = slice(*base.matrix.indptr[row : row + 2])
            pairs = zip(base.matrix.indices[entries], base.matrix.data[entries], strict=True)
            total = pyscipopt.quicksum(float(value) * x[i] for i, value in pairs)
            if np.isfinite(base.row_upper[row]):
                model.addCons(total <= float(base.row_upper[row]))
            if np.isfinite(base.row_lower[row]):
                model.addCons(total >= float(base.row_lower[row]))
        fixed = [model.addVar(lb=float(s), ub=float(s)) for s in state]
        y = model.addVar(lb=None, ub=None)
        inputs = np.array([*x[: problem.space.n_actions], *fixed], dtype=object).reshape(1, -1)
        outputs = np.array([[y]], dtype=object)
        add_predictor_constr(model, sequential, inputs, outputs, unique_naming_prefix="q")
        model.setObjective(y, "maximize")
        model.optimize()
        if not model.getNSols():
            return Answer(float("nan"), False)
        action = [round(model.getVal(v)) for v in x[: problem.space.n_actions]]
        return Answer(float(network.forward([*action, *state])[0]), False)

    return lambda states, limit: [solve_one(state, limit) for state in states]


def _sequential(network: mr.Network) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for layer in network.layers:
        linear = torch.nn.Linear(*layer.weight.shape[::-1])
        linear.weight.data = torch.tensor(layer.weight, dtype=torch.float32)
        linear.bias.data = torch.tensor(layer.bias, dtype=torch.float32)
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def all_methods(problem: Problem, full: bool) -> Iterator[tuple[str, Callable[[], Solve]]]:
    """Name and maker of every method; ``full``: each formulation and bound of each MILP solver."""
    yield "default, 32 states together", lambda: ours_in_batches(problem)
    yield "default, one state", lambda: ours(problem)
    yield "branch and bound", lambda: ours(problem, solver="branch_and_bound")
    yield "enumeration", lambda: _listed(problem)
    for solver in ("highs", "gurobi"):
        for formulation in ("bigm", "partition"):
            for bounds in ("linear", "interval", "lp"):
                if full or (formulation, bounds) == ("bigm", "linear"):
                    options = {"solver": solver, "formulation": formulation, "bounds": bounds}
                    yield (
                        f"{solver}, {formulation}, {bounds} bounds",
                        lambda options=options: ours(problem, **options),
                    )
    yield "published style, gap 2%", lambda: published_style(problem)
    yield "published style, gap 0", lambda: published_style(problem, 0.0)
    yield "OMLT default", lambda: omlt_default(problem)
    if importlib.util.find_spec("gurobi_ml"):
        yield "gurobi-machinelearning", lambda: gurobi_machine_learning(problem)
    if importlib.util.find_spec("pyscipopt_ml"):
        yield "PySCIPOpt-ML", lambda: pyscipopt_machine_learning(problem)


def _listed(problem: Problem) -> Solve:
    if not is_small(problem.space):
        raise TooLargeError("more than 30,000 actions")
    return ours(problem, solver="enumeration")


def timed(solve: Solve, states: np.ndarray, seconds: float) -> tuple[float, list[Answer]]:
    """Solve until the time is up; return mean seconds per state and the answers so far."""
    answers: list[Answer] = []
    begin = time.perf_counter()
    for state in states:
        answers += solve(state[None], seconds)
        if time.perf_counter() - begin > seconds:
            break
    return (time.perf_counter() - begin) / len(answers), answers
