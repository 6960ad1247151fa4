"""What a result says of itself: the decoded action, JSON, a few lines of text."""

import json
import math

import networkx as nx
import numpy as np
import pytest

import milp_rl as mr
from milp_rl.solvers.result import ArgmaxResult

SPACES = [
    mr.BudgetTopK(5, 2),
    mr.Capacity([2, 3, 2, 4], [4, 3]),
    mr.Scheduling([[1, 1, 0], [0, 1, 1]], [[1, 1, 0], [0, 1, 1], [1, 0, 1]]),
    mr.Routing(nx.relabel_nodes(nx.path_graph(4), dict(enumerate("abcd"))), "a", 4),
    mr.FactoredValidity({"how": ["a", "b"], "who": ["c", "d"]}, n_decision_makers=2),
    mr.Matching(np.ones((2, 2)), left=["x", "y"]),
    mr.Permutation(3, jobs=["x", "y", "z"]),
    mr.Precedence(4, [(0, 1), (2, 3)]),
    mr.SimplePath(nx.DiGraph([(0, 1), (1, 2), (0, 2)]), 0, 2),
    mr.Box([0, 0], [2, 1], binary=[1]),
    mr.BudgetTopK(4, 2) & mr.Capacity([2, 3, 2, 4], [4, 3]),
    mr.Product([mr.BudgetTopK(3, 2), mr.Permutation(2)], names=["calls", "order"]),
]


def linear(n, seed=0):
    weights = np.random.default_rng(seed).normal(size=(1, n))
    return mr.Network.from_arrays([weights], [[0.0]])


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("sense", ["maximize", "minimize"])
def test_the_solution_is_what_the_block_decodes(space, sense):
    solver = mr.ArgmaxSolver(linear(space.n_actions), space, sense=sense)
    for result in (solver.solve([]), *solver.solve_batch(np.zeros((2, 0)))):
        assert result.solution == space.decode(result.action)
        data = json.loads(result.to_json())
        assert data == result.to_dict()
        assert (data["status"], data["value"]) == ("optimal", result.value)
        assert data["action"] == result.action.tolist()
        assert (data["solution"] is None) == (result.solution is None)


def test_members_are_reached_by_name():
    result = mr.argmax(linear(7), [], SPACES[-1])
    assert set(result.solution) == {"calls", "order"}
    assert result.solution["order"] == SPACES[-1].member("order").decode(result.action[3:])
    assert result.to_dict()["solution"] == result.solution
    lines = str(result).splitlines()
    assert lines[-2].split()[:2] == ["solution", "calls"]
    assert lines[-1].split()[0] == "order"


def test_labels_of_any_kind_become_text_in_json():
    graph = nx.DiGraph([((0, 0), (0, 1)), ((0, 1), (1, 1))])
    result = mr.argmax(linear(2), [], mr.SimplePath(graph, (0, 0), (1, 1)))
    assert result.solution == [(0, 0), (0, 1), (1, 1)]
    assert json.loads(result.to_json())["solution"] == [[0, 0], [0, 1], [1, 1]]
    worker_of = mr.argmax(linear(4, 1), [], SPACES[1])
    assert worker_of.solution
    assert worker_of.to_dict()["solution"] == {str(k): v for k, v in worker_of.solution.items()}


@pytest.mark.parametrize("space", [mr.BudgetTopK(5000, 3000), mr.Box([-1] * 3000, [1] * 3000)])
def test_a_printed_result_is_short(space):
    text = str(mr.argmax(linear(space.n_actions), [], space))
    assert len(text) < 1000
    for word in ("optimal", "value", "bound", "gap", "branch_and_bound", "ms", "..."):
        assert word in text


def test_without_an_action_there_is_no_solution():
    empty = mr.BudgetTopK(3, 3, exactly=True) & mr.BudgetTopK(3, 1)
    result = mr.argmax(linear(3), [], empty)
    assert (result.status, result.solution) == ("infeasible", None)
    data = json.loads(result.to_json())
    assert (data["action"], data["value"], data["bound"], data["gap"]) == (None,) * 4
    assert str(result).splitlines()[0].split() == ["status", "infeasible"]
    assert "solution" not in str(result)


def test_a_result_of_ones_own_is_printed_too():
    action = np.array([0, 1, 1], dtype=np.int8)
    result = ArgmaxResult(action, 1.0, math.inf, math.inf, "feasible", 0.1, "own")
    assert result.solution is None
    assert "[1, 2]" in str(result)
