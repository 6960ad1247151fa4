"""Every solver on small sets of the blocks, against all feasible actions."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.testing import all_actions

PATHS = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5)]
TIMED = nx.Graph()
TIMED.add_weighted_edges_from([(u, v, 1 + (u * v + v) % 4) for u, v in PATHS], "time")
SPACES = {
    "matching": mr.Matching([[1, 1, 0], [1, 1, 1], [0, 1, 1]]),
    "matching of a size": mr.Matching(np.ones((2, 4)), min_pairs=1, max_pairs=1),
    "permutation": mr.Permutation(3),
    "permutation of few places": mr.Permutation(3, [[1, 1, 0], [1, 1, 1], [0, 1, 1]]),
    "permutation within a budget": mr.Permutation(3)
    & mr.BudgetTopK(9, 9, costs=[1, 2, 3, 2, 2, 2, 3, 1, 2], budget=5),
    "visits in one": mr.Scheduling(
        [[1, 1, 1, 0, 1], [0, 1, 1, 1, 1]],
        [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [1, 1, 0, 1, 1]] * 2,
        durations=[1, 2, 3, 2, 2, 2, 2, 2, 1, 3],
    ),
    "routing in time": mr.Routing(TIMED, 0, 12.5, weight="time", service_times=0.75),
    "simple path": mr.SimplePath(nx.DiGraph(PATHS), 0, 5),
    "simple path with cycles": mr.SimplePath(nx.DiGraph([*PATHS, (3, 1), (4, 2), (2, 1)]), 0, 5),
    "simple path of limited length": mr.SimplePath(nx.DiGraph([*PATHS, (2, 1)]), 0, 5)
    & mr.BudgetTopK(len(PATHS) + 1, len(PATHS) + 1, costs=[*range(2, 11), 1], budget=20),
    "precedence": mr.Precedence(8, [(0, 1), (1, 2), (1, 3), (4, 3), (6, 5), (5, 7)]),
    "precedence within a budget": mr.Precedence(7, [(0, 1), (2, 1), (1, 3), (5, 4), (4, 6)])
    & mr.BudgetTopK(7, 3),
}
SOLVERS = ["enumeration", "branch_and_bound", "highs", "gurobi", "scip"]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", SPACES)
def test_the_argmax_is_that_of_all_feasible_actions(name, solver, random_network):
    if solver in ("gurobi", "scip"):
        pytest.importorskip({"gurobi": "gurobipy", "scip": "pyscipopt"}[solver])
    space, rng = SPACES[name], np.random.default_rng(0)
    everything = all_actions(space.n_actions)
    feasible = everything[[not space.violations(action) for action in everything]]
    network = random_network(rng, space.n_actions + 2, (8, 6))
    states = rng.normal(size=(3, 2))
    results = mr.ArgmaxSolver(network, space, solver=solver).solve_batch(states, workers=1)
    for state, result in zip(states, results, strict=True):
        inputs = np.concatenate([feasible, np.tile(state, (len(feasible), 1))], axis=1)
        best = network.forward(inputs).max()
        assert result.status == "optimal", (result, best)
        assert space.violations(result.action) == []
        assert result.value == pytest.approx(best, rel=0, abs=1e-6)
