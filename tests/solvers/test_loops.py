"""Compiled loops over actions and lists against the paths in numpy, and when they are used."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import milp_rl as mr
from milp_rl.formulations.kernels.description import Loops
from milp_rl.formulations.networks.action_value import NetworkValue
from milp_rl.formulations.spaces import Pins
from milp_rl.solvers.branch_and_bound import tree
from milp_rl.solvers.certify import ArgmaxProblem
from milp_rl.solvers.enumeration import EnumerationArgmax
from milp_rl.solvers.incumbents import Incumbents
from milp_rl.solvers.neighbours import neighbours_above

SPACES = {
    "at most k": mr.BudgetTopK(9, 3),
    "exactly k": mr.BudgetTopK(9, 4, exactly=True),
    "costs": mr.BudgetTopK(9, 5, costs=[1, 2, 3, 1, 2, 3, 1, 2, 3], budget=6),
    "capacity": mr.Capacity([2, 3, 4, 2, 5, 6, 3, 2, 4], [5, 4]),
}


def problems(space, network, held):
    """The problem of a state, without and with compiled loops."""
    networks = NetworkValue(network, 9).at_states(np.array([[0.3, -0.1, 0.5], [0.0, 1.0, 0.2]]))
    one, zero = np.zeros(9, dtype=bool), np.zeros(9, dtype=bool)
    if held:
        one[2], zero[[0, 5]] = True, True
    pins = Pins(one, zero) if held else Pins()
    loops = Loops(space.compiled_oracle, networks.centred.flat, 1)
    plain = ArgmaxProblem(networks.centred.at(1), space, rounding=1e-12, pins=pins)
    return networks.centred, plain, replace(plain, loops=loops)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("hidden", [(8,), (8, 6)])
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", range(3))
def test_building_climbing_and_neighbours_are_those_of_numpy(
    seed, name, hidden, held, random_network
):
    space = SPACES[name]
    network = random_network(np.random.default_rng(seed), 12, hidden)
    networks, plain, compiled = problems(space, network, held)
    known = Incumbents(space)
    pins = plain.pins.checked((2, 9))
    built = known.build(networks, pins=pins)
    for one, other in zip(
        built, known.build(networks, pins=pins, loops=space.compiled_oracle), strict=True
    ):
        np.testing.assert_array_equal(other, one)
    for action in known.sample_within(plain.pins)[:5]:
        limit = plain.value(action)
        rows, values = neighbours_above(plain, action, limit)
        found, again = neighbours_above(compiled, action, limit)
        np.testing.assert_array_equal(found, rows)
        np.testing.assert_allclose(again, values)
        (best, value), (other, same) = (known.climb(p, action) for p in (plain, compiled))
        np.testing.assert_array_equal(other, best)
        assert same == value
        assert plain.pins.allows(best)


def test_building_climbing_and_neighbours_of_more_actions_than_are_valued_together(random_network):
    space = mr.BudgetTopK(300, 4)  # loops value 128 side by side
    network = random_network(np.random.default_rng(0), 303, (7, 5))
    networks = NetworkValue(network, 300).at_states(np.array([[0.3, -0.1, 0.5]])).centred
    loops = Loops(space.compiled_oracle, networks.flat, 0)
    plain = ArgmaxProblem(networks.at(0), space, rounding=1e-12)
    known = Incumbents(space)
    built = known.build(networks, loops=space.compiled_oracle)
    np.testing.assert_array_equal(built, known.build(networks))
    for action in (built[0], known.sample[-1]):
        limit = plain.value(action) - 0.5
        found = neighbours_above(replace(plain, loops=loops), action, limit)
        for one, other in zip(found, neighbours_above(plain, action, limit), strict=True):
            np.testing.assert_allclose(one, other)
        climbed = [known.climb(p, action)[0] for p in (plain, replace(plain, loops=loops))]
        np.testing.assert_array_equal(*climbed)


@pytest.mark.parametrize("name", SPACES)
def test_listed_actions_have_the_values_of_the_network(name, random_network):
    space = SPACES[name]
    network = random_network(np.random.default_rng(4), 12, (8,))
    value = NetworkValue(network, 9)
    networks = value.at_states(np.random.default_rng(5).normal(size=(3, 3)))
    listed = EnumerationArgmax(value, space)
    assert listed._suits_loops(networks)
    actions = space.enumerate().astype(float)
    for i in range(3):
        values, _ = listed._valued_in_loops(networks, i)
        np.testing.assert_allclose(values, networks.centred.at(i).forward(actions)[:, 0])


def test_one_small_argmax_does_not_fetch_the_compiler():
    code = """
import sys, numpy as np, milp_rl as mr
network = mr.QNetwork(2, 40, (16, 16))
assert mr.argmax(network, [0.1, 0.2], mr.BudgetTopK(40, 3)).status == "optimal"
within = mr.ArgmaxSolver(mr.QNetwork(2, 9, (8,)), mr.BudgetTopK(9, 3), time_limit=60.0)
assert within.solve([0.1, 0.2]).solver == "enumeration"
assert "numba" not in sys.modules
solver = mr.ArgmaxSolver(network, mr.BudgetTopK(40, 20), solver="branch_and_bound", node_limit=1)
solver.solve([0.1, 0.2])
assert "numba" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.fixture
def in_loops(monkeypatch):
    """Whether nodes were bounded in compiled loops, each time that a way was chosen."""
    seen: list[bool] = []
    making = tree.bounds_of_nodes

    def watched(*arguments):
        seen.append(arguments[4] is not None)
        return making(*arguments)

    monkeypatch.setattr(tree, "bounds_of_nodes", watched)
    return seen


def test_a_long_search_goes_on_in_compiled_loops(random_network, in_loops):
    network = random_network(np.random.default_rng(0), 26, (16, 16))
    space = mr.BudgetTopK(24, 8)
    states = np.random.default_rng(1).normal(size=(1, 2))
    solver = mr.ArgmaxSolver(network, space, solver="branch_and_bound")
    wanted = solver.solve(states[0])
    assert wanted.nodes > tree._NODES_BEFORE_LOOPS
    in_loops.clear()
    found = mr.argmax(network, states[0], space, solver="branch_and_bound")
    assert in_loops == [False, True]
    assert found.status == wanted.status == "optimal"
    assert found.value == pytest.approx(wanted.value, abs=1e-6)


OTHER_KIND = """
import time
import numpy as np
import torch
import milp_rl as mr

def solve(space, **limit):
    network = mr.QNetwork(4, space.n_actions, (16, 32), generator=torch.Generator().manual_seed(0))
    solver = mr.ArgmaxSolver(network, space, solver="branch_and_bound", **limit)
    begin = time.perf_counter()
    for state in np.random.default_rng(0).normal(size=(4, 4)):
        found = solver.solve(state)
    return found, time.perf_counter() - begin

solve(mr.BudgetTopK(30, 6))
ranking = mr.QNetwork(4, 30, (16, 32), generator=torch.Generator().manual_seed(0))
costs = np.arange(30) % 5 + 2.0
found, seconds = solve(mr.Capacity(costs=costs, capacities=[9.0, 7.0]), time_limit=0.5)
print(seconds, found.bound >= found.value)
priced = mr.BudgetTopK(30, 6, costs=costs, budget=20.0)
solver = mr.ArgmaxSolver(ranking, priced, solver="branch_and_bound", time_limit=0.5)
begin = time.perf_counter()
solver.solve_top(np.zeros(4), 3)
print(time.perf_counter() - begin, True)
"""


@pytest.mark.slow
def test_loops_of_another_kind_of_set_are_not_compiled_within_a_limit(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", OTHER_KIND]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (seconds, holds), (ranked, _) = (line.split() for line in done.stdout.splitlines())
    assert holds == "True"
    assert float(seconds) < 4 * 0.5 + 1.5
    assert float(ranked) < 0.5 + 1.5


@pytest.mark.slow
def test_a_prepared_solver_has_its_loops_within_a_short_limit():
    script = """
import sys, time
import numpy as np, milp_rl as mr
from milp_rl.solvers.options import in_time
from milp_rl.formulations.time_limit import until
spaces = [mr.BudgetTopK(30, 6), mr.Capacity([2, 3, 4, 2, 5, 6, 3, 2, 4] * 4, [5.0, 4.0, 7.0])]
spaces.append(mr.BudgetTopK(30, 6, costs=[1, 2, 3] * 10, budget=12))
for space in spaces:
    network = mr.Network.from_arrays([np.ones((1, space.n_actions))], [np.zeros(1)])
    for solver in ("branch_and_bound", "auto"):
        with until(time.perf_counter() + 1.0):
            before = in_time(space.compiled_oracle) is not None
        mr.ArgmaxSolver(network, space, solver=solver, time_limit=0.5).prepare()
        with until(time.perf_counter() + 1.0):
            print(before, in_time(space.compiled_oracle) is not None)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.split("\n")[:-1] == ["False True", "True True"] * 3


def test_a_search_within_a_limit_goes_on_in_loops_that_are_there(random_network, in_loops):
    network = random_network(np.random.default_rng(0), 26, (16, 16))
    space = mr.BudgetTopK(24, 8)
    state = np.random.default_rng(1).normal(size=2)
    mr.ArgmaxSolver(network, space, solver="branch_and_bound").prepare()
    in_loops.clear()
    mr.argmax(network, state, space, solver="branch_and_bound", time_limit=2.0)
    assert in_loops == [False, True]
    in_loops.clear()
    mr.ArgmaxSolver(network, space, solver="branch_and_bound", time_limit=2.0).solve(state)
    assert in_loops == [True]


@pytest.mark.slow
def test_an_agent_with_a_time_limit_prepares_its_searches():
    script = """
import time
import milp_rl as mr
from milp_rl.envs import make_bandit
from milp_rl.formulations.time_limit import until
from milp_rl.solvers.options import in_time

env = make_bandit("capacity", 40, 10, seed=0)
mr.DQNAgent(env, mr.DQNConfig(time_limit=1.0), seed=0)
with until(time.perf_counter() + 1.0):
    print(in_time(env.unwrapped.action_space_block().compiled_oracle) is not None)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "True\n"


def test_nothing_is_searched_where_there_is_nothing_to_prepare(monkeypatch, random_network):
    def searched(*arguments):
        raise AssertionError("it searches")

    space = mr.Box(np.zeros(9), np.ones(9), matrix=np.ones((1, 9)), right=[3.0], binary=range(9))
    assert space.compiled_oracle is None
    solver = mr.ArgmaxSolver(
        random_network(np.random.default_rng(0), 12, (8,)), space, solver="branch_and_bound"
    )
    monkeypatch.setattr("milp_rl.solvers.branch_and_bound.search.Tree.run", searched)
    assert solver.prepare() is solver
